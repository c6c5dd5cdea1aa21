"""
Everything that can go wrong in a long run, made to happen: ``make chaos``.

Each row is a function that makes it happen, asserts what must be seen, and returns one line of figures. The full size
is what ``make chaos`` runs, and it bounds times. ``test_chaos.py`` runs small ones, which ask what happens and in
which order: there a bound only tells what hangs from what is slow.
"""

#: Seconds after which what has not happened never will, on however busy a machine.
HANGS = 100.0
