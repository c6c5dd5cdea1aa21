"""The rows, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from chaos import kills


@dataclass(frozen=True)
class Row:
    """
    :param cause: what is made to happen
    :param full: makes it happen as often as a long run would see it, and returns figures
    :param small: the same for the tests
    """

    cause: str
    full: Callable[[], str]
    small: Callable[[], str]


ROWS = {
    "F1": Row(
        "actors killed at random times",
        partial(kills.at_random_times, n_kills=1000, n_transitions=1_000_000),
        partial(kills.at_random_times, n_kills=20, n_transitions=2000, slack=10.0, compared=False),
    ),
}
