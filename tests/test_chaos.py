"""Small sizes of what ``make chaos`` does: each row asserts what must be seen, and returns the figures that it saw."""

import pytest

from chaos.rows import ROWS


@pytest.mark.parametrize("name", ROWS)
def test_chaos(name):
    figures = ROWS[name].small()
    assert figures
    print(figures)
