"""Small sizes of what ``make chaos`` does."""

import pytest

from chaos.rows import ROWS


@pytest.mark.parametrize("name", ROWS)
def test_chaos(name):
    print(ROWS[name].small())
