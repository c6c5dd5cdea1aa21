"""Actors in processes of their own, which share memory with the learner."""
