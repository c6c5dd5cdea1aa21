"""Helpers shared by all other packages."""
