"""The rows, by name."""

import pathlib
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.chaos import HANGS, checkpoints, endings, endurance, failures, kills, limits


@dataclass(frozen=True)
class Row:
    """
    :param cause: what is made to happen
    :param full: makes it happen as often as a long run would see it, and returns figures
    :param small: the same for the tests
    :param rest: what the tests do of it when they may take longer
    """

    cause: str
    full: Callable[[], str]
    small: Callable[[], str]
    rest: Callable[[], str] | None = None


def in_folder(function: Callable[[pathlib.Path, int], str], n: int) -> Callable[[], str]:
    """Have it do in an empty folder what it does there."""

    def run() -> str:
        with tempfile.TemporaryDirectory() as folder:
            return function(pathlib.Path(folder), n)

    return run


def split(function: Callable[..., str], each: Collection[Any], n: int, **rest: Any) -> list[Callable[[], str]]:
    """The first ``n`` of what a function is to do, and the others; ``rest`` are its other arguments."""
    parts = list(each)[:n], list(each)[n:]
    return [partial(function, part, **rest) for part in parts]


ROWS = {
    "F1": Row(
        "actors killed at random times",
        partial(kills.at_random_times, n_kills=1000, n_transitions=1_000_000),
        partial(kills.at_random_times, n_kills=20, n_transitions=2000, within=HANGS, compared=False),
    ),
    "F2": Row(
        "actors and servers killed at chosen points",
        failures.at_chosen_points,
        *split(failures.at_chosen_points, failures.POINTS, 2, times=2, within=HANGS),
    ),
    "F3": Row(
        "environments that raise",
        failures.environment_raises,
        *split(failures.environment_raises, failures.PLACES, 1, within=HANGS),
    ),
    "F4": Row(
        "environments that hang",
        partial(failures.environment_hangs, timeout=10.0),
        partial(failures.environment_hangs, timeout=3.0, within=HANGS),
    ),
    "F5": Row("processes that end", failures.process_ends, *split(failures.process_ends, failures.ENDS, 1)),
    "F6": Row(
        "learners that raise", endings.learner_raises, *split(endings.learner_raises, endings.MISHAPS, 2, within=HANGS)
    ),
    "F7": Row(
        "learners killed at random times",
        partial(endings.learner_is_killed, times=50),
        partial(endings.learner_is_killed, times=2, within=HANGS),
    ),
    "F8": Row(
        "learners interrupted at random times, once or twice",
        partial(endings.learner_is_interrupted, times=range(50)),
        *split(endings.learner_is_interrupted, range(len(endings.INTERRUPTIONS)), 2, within=HANGS),
    ),
    "F9": Row("a disk full while saving", in_folder(checkpoints.full_disk, 20), in_folder(checkpoints.full_disk, 20)),
    "F10": Row(
        "processes killed while saving",
        in_folder(checkpoints.killed_while_saving, 100),
        in_folder(checkpoints.killed_while_saving, 2),
    ),
    "F11": Row("damaged checkpoints", in_folder(checkpoints.damaged, 1000), in_folder(checkpoints.damaged, 60)),
    "F12": Row("runs resumed", in_folder(checkpoints.resumed, 20_000), in_folder(checkpoints.resumed, 600)),
    "F13": Row(
        "numbers that are not finite",
        partial(limits.invalid_numbers, n_transitions=8000),
        partial(limits.invalid_numbers, n_transitions=1000, places=limits.PLACES[:2]),
        partial(limits.invalid_numbers, n_transitions=1000, places=limits.PLACES[2:]),
    ),
    "F14": Row(
        "wrong shapes, dtypes and spaces", limits.misfits, *split(limits.misfits, limits.MISFITS, 2, within=HANGS)
    ),
    "F15": Row(
        "actors stopped and continued",
        partial(failures.stopped_and_continued, times={10.0: 2, 100.0: 1}, seconds=60.0),
        partial(failures.stopped_and_continued, times={3.0: 1}, seconds=4.0, within=HANGS),
        partial(failures.stopped_and_continued, times={100.0: 1}, seconds=4.0, within=HANGS),
    ),
    "F16": Row(
        "many actors, many runs",
        partial(endurance.many_actors_and_runs, n_actors=64, n_cycles=200, mib=5.0),
        partial(endurance.many_actors_and_runs, n_actors=4, n_cycles=3, mib=50.0),
    ),
    "F17": Row(
        "a long run with faults of all kinds",
        partial(endurance.soak, seconds=1800.0, chance=3e-5, interval=10.0, mib_an_hour=5.0),
        partial(endurance.soak, seconds=4.0, chance=1e-3, interval=2.0, mib_an_hour=float("inf"), timeout=5.0),
    ),
    "F18": Row(
        "systems that grant too little",
        limits.refused_at_start,
        *split(limits.refused_at_start, limits.STARTS, 1, within=HANGS),
    ),
}
