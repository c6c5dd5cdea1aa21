"""Monitor files of the actors: one a slot, beside the user's own, which are never written to."""

import itertools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3.common import monitor
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import VecMonitor


class SlotWriter(ResultsWriter):
    """
    Writes ``actor_<slot>.monitor.csv`` in the folder of the user's monitor file, behind what earlier runs left there.

    :param filename: the user's monitor file
    :param header: first line of a new file
    :param extra_keys: columns beside return, length and time
    :param slot: the slot
    :param prior: a prior agent plays: ``actor_<slot>_prior.monitor.csv``
    """

    def __init__(self, filename: str, header: dict[str, Any], extra_keys: tuple[str, ...], slot: int, prior: bool):
        self._arguments = filename, header, extra_keys, slot
        path = self._path(prior)
        header = _header(path) or header
        super().__init__(str(path), header, extra_keys, override_existing=not path.exists())
        #: what the times in the file count from
        self.t_start = float(header["t_start"])

    def _path(self, prior: bool) -> pathlib.Path:
        """A file that does not exist, or that has these columns."""
        filename, _, extra_keys, slot = self._arguments
        file = pathlib.Path(os.path.realpath(filename if filename.endswith(Monitor.EXT) else _with_ending(filename)))
        own = file.name.removesuffix(Monitor.EXT)
        prefix = "" if own.rstrip(".").isdigit() else own  # make_vec_env numbers its environments
        for again in itertools.count(1):
            name = f"{prefix}actor_{slot}{'_prior' * prior}{f'_{again}' if again > 1 else ''}.{Monitor.EXT}"
            if not (path := file.with_name(name)).exists() or _columns(path) == ["r", "l", "t", *extra_keys]:
                return path
        raise AssertionError  # pragma: no cover - the loop above has no other end

    def of_nature_slot(self) -> "SlotWriter":
        """
        :return: a writer for the same slot after its prior agent's retirement
        """
        self.close()
        return SlotWriter(*self._arguments, prior=False)


def _with_ending(filename: str) -> str:
    return os.path.join(filename, Monitor.EXT) if os.path.isdir(filename) else f"{filename}.{Monitor.EXT}"


def _header(path: pathlib.Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with path.open() as file:
        header: dict[str, Any] = json.loads(file.readline().removeprefix("#"))
    return header


def _columns(path: pathlib.Path) -> list[str]:
    with path.open() as file:
        file.readline()
        return file.readline().strip().split(",")


def file_of(wrapper: Monitor | VecMonitor) -> str | None:
    """
    :param wrapper: a monitor
    :return: the file that it writes, None if it writes none
    """
    return wrapper.results_writer.file_handler.name if wrapper.results_writer is not None else None


def monitored(
    make: Callable[[], gym.Env], slot: int, prior: bool, filename: str | None, info_keywords: tuple[str, ...]
) -> gym.Env:
    """
    Make the environment of a slot, with a ``Monitor`` on it: its own where it has one.

    :param make: makes the environment
    :param slot: the slot
    :param prior: a prior agent plays
    :param filename: the user's monitor file, where the environment itself names none
    :param info_keywords: entries of ``info`` to put down with each episode, beside those of its own ``Monitor``
    :return: the environment
    """

    def writer(own: str, header: dict[str, Any], extra_keys: tuple[str, ...], override_existing: bool) -> SlotWriter:
        return SlotWriter(own, header, _united(extra_keys, info_keywords), slot, prior)

    # What is made here would open, and so empty, the file that belongs to the environment in the user's process.
    users_writer = monitor.ResultsWriter
    monitor.ResultsWriter = writer  # type: ignore[assignment, misc]
    try:
        env = make()
        found = unwrap_wrapper(env, Monitor)
        if not isinstance(found, Monitor):
            env = found = Monitor(env, filename, info_keywords=info_keywords)
        found.info_keywords = _united(found.info_keywords, info_keywords)
        if filename is not None and found.results_writer is None:
            keys = (*found.reset_keywords, *found.info_keywords)
            found.results_writer = Monitor(found.env, filename, info_keywords=keys).results_writer
    finally:
        monitor.ResultsWriter = users_writer  # type: ignore[misc]
    _continue_times(found)
    return env


def prior_retired(env: gym.Env) -> None:
    """
    From now on the learner plays: what it does goes to another file.

    :param env: environment of the slot
    """
    found = unwrap_wrapper(env, Monitor)
    if isinstance(found, Monitor) and isinstance(found.results_writer, SlotWriter):
        found.results_writer = found.results_writer.of_nature_slot()
        _continue_times(found)


def _continue_times(found: Monitor) -> None:
    if isinstance(found.results_writer, SlotWriter):
        found.t_start = found.results_writer.t_start


def _united(keys: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return (*keys, *(key for key in more if key not in keys))
