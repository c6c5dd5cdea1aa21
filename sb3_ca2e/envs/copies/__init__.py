"""Copies of environments: faithful and fresh, or refused by name."""
