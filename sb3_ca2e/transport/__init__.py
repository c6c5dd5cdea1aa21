"""Transports between the learner and its actors, one file or folder for each."""
