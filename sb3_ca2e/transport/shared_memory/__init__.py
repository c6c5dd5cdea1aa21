"""Actors in their own processes, which share memory with the learner."""
