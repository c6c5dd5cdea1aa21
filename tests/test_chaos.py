"""Small sizes of what ``make chaos`` does: each row asserts what must be seen, and returns the figures that it saw."""

import pytest

from chaos.rows import ROWS

SMALL = [pytest.param(row.small, id=name) for name, row in ROWS.items()]
REST = [pytest.param(row.rest, id=f"{name}-rest", marks=pytest.mark.extended) for name, row in ROWS.items() if row.rest]


@pytest.mark.parametrize("run", SMALL + REST)
def test_chaos(run):
    figures = run()
    assert figures
    print(figures)
