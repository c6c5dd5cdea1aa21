"""Native vector environments: many environments behind one step, of which every actor makes its own."""
