"""
Everything that can go wrong in a long run, made to happen: ``make chaos``.

Each row is a function that makes it happen, asserts what must be seen, and returns one line of figures. The full size
is what ``make chaos`` runs; tests/test_chaos.py runs small ones, with bounds on times ten times as wide.
"""
