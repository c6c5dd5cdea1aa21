"""Atomic saving of models, memories and checkpoints, and resuming of runs."""
