"""Native vector environments: one call steps many environments; each actor process makes its own."""
