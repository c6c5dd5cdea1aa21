"""Algorithms: one file each, what they supply, and what they share."""
