"""Actors (Algorithms 1.1, 1.2 and 2): slots that step environments and write blocks with initial priorities."""
