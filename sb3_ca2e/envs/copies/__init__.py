"""Copies of environments: faithful, with fresh random generators, or refused with the reason."""
