"""Small sizes of what ``make chaos`` does: each row asserts what must be seen, and returns the figures that it saw."""

import pytest

from tests.chaos.rows import ROWS

#: Rows of which even the small part takes long.
LONG = {"F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F10", "F13", "F15", "F16", "F17"}
SMALL = [pytest.param(row.small, id=name, marks=[pytest.mark.extended] * (name in LONG)) for name, row in ROWS.items()]
REST = [pytest.param(row.rest, id=f"{name}-rest", marks=pytest.mark.extended) for name, row in ROWS.items() if row.rest]


@pytest.mark.parametrize("run", SMALL + REST)
def test_chaos(run):
    figures = run()
    assert figures
    print(figures)
