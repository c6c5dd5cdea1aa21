"""The rows, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from chaos import failures, kills


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
    "F2": Row(
        "actors and servers killed at chosen points",
        partial(failures.at_chosen_points, times=20),
        partial(failures.at_chosen_points, times=2, slack=10.0),
    ),
    "F3": Row("environments that raise", failures.environment_raises, partial(failures.environment_raises, slack=10.0)),
    "F4": Row(
        "environments that hang",
        partial(failures.environment_hangs, timeout=10.0),
        partial(failures.environment_hangs, timeout=1.0, slack=10.0),
    ),
    "F5": Row("processes that end", failures.process_ends, failures.process_ends),
    "F15": Row(
        "actors stopped and continued",
        partial(failures.stopped_and_continued, times=3, seconds=60.0, timeouts=(10.0, 100.0)),
        partial(failures.stopped_and_continued, times=1, seconds=6.0, timeouts=(1.0, 100.0), slack=10.0),
    ),
}
