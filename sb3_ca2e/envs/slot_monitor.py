"""Monitor files of the actors: one a slot, beside the user's own, which are never written to."""

import contextlib
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common import monitor
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import VecMonitor

from sb3_ca2e.errors import UnrecoverableError


class SlotWriter(ResultsWriter):
    """
    Writes ``actor_<slot>.monitor.csv`` in the folder of the user's monitor file, behind what earlier runs left there.

    :param filename: the user's monitor file
    :param env_id: the environment's id, for a new file
    :param extra_keys: columns beside return, length and time
    :param slot: the slot
    :param prior: a prior agent plays: ``actor_<slot>_prior.monitor.csv``
    """

    def __init__(self, filename: str, env_id: str, extra_keys: tuple[str, ...], slot: int, prior: bool):
        self._arguments = filename, env_id, extra_keys, slot
        path = self._path(prior)
        header = _header(path) or {"t_start": time.time(), "env_id": env_id}
        super().__init__(str(path), header, extra_keys, override_existing=not path.exists())
        self._t_start = float(header["t_start"])

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

    def write_row(self, epinfo: dict[str, Any]) -> None:
        """
        Put an episode down, its time counted from the file's beginning.

        :param epinfo: as ``Monitor`` puts it together
        """
        super().write_row({**epinfo, "t": round(time.time() - self._t_start, 6)})

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


class EpisodeFiles:
    """
    Puts the episodes of a slot down.

    :param filenames: the user's monitor files, beside which the slot's are
    :param env_id: the environment's id, for new files
    :param known: entries of episodes beside return, length and time
    :param info_keywords: entries of ``info`` to put down with them
    :param slot: the slot
    :param prior: a prior agent plays
    """

    def __init__(
        self,
        filenames: Sequence[str],
        env_id: str,
        known: tuple[str, ...],
        info_keywords: tuple[str, ...],
        slot: int,
        prior: bool,
    ):
        self._added = tuple(key for key in info_keywords if key not in known)
        self._writers = [SlotWriter(file, env_id, known + self._added, slot, prior) for file in filenames]

    def write(self, info: dict[str, Any]) -> None:
        """
        :param info: of a step; if an episode ended with it, that is put down, and gets the added entries
        """
        if (episode := info.get("episode")) is not None:
            episode.update({key: info[key] for key in self._added})
            for writer in self._writers:
                writer.write_row(episode)

    def prior_retired(self) -> None:
        """From now on the learner plays: what it does goes to another file."""
        self._writers = [writer.of_nature_slot() for writer in self._writers]

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers:
            writer.close()


class SlotMonitor(gym.Wrapper):
    """
    The environment of a slot, whose episodes a ``Monitor`` inside counts, its own where it has one.

    Episodes are put down here, outside of all wrappers: a ``VecMonitor`` may name entries of ``info`` that the
    ``Monitor`` inside does not see.

    :param make: makes the environment
    :param slot: the slot
    :param prior: a prior agent plays
    :param filename: monitor file of a ``VecMonitor``, beside that of the environment's own ``Monitor``
    :param info_keywords: entries of ``info`` to put down with each episode, beside those of its own ``Monitor``
    :param owned: it is a copy; else it is the user's, who closes it, and whose monitor files it writes as ever
    """

    def __init__(
        self,
        make: Callable[[], gym.Env],
        slot: int,
        prior: bool,
        filename: str | None = None,
        info_keywords: tuple[str, ...] = (),
        owned: bool = True,
    ):
        with no_files():
            env = make()
        inner = unwrap_wrapper(env, Monitor)
        if not isinstance(inner, Monitor):
            env = inner = Monitor(env)
        super().__init__(env)
        self.owned, own = owned, None
        if owned:
            own = inner.results_writer.filename if isinstance(inner.results_writer, _Unwritten) else None
            inner.results_writer = None
        known = (*inner.reset_keywords, *inner.info_keywords)
        env_id = str(inner.env.spec.id if inner.env.spec is not None else None)
        files = [file for file in (own, filename) if file is not None]
        self._files = EpisodeFiles(files, env_id, known, info_keywords, slot, prior)

    def reset(self, **kwargs: Any) -> Any:
        """
        Pass on what is given and no more: an environment need not know of ``options``.

        :param kwargs: for the environment
        :return: first observation and info
        """
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        """
        :param action: the action
        :return: what the environment returned, with the added entries in ``info["episode"]``
        :raises UnrecoverableError: if that is not what gymnasium's environments return
        """
        try:
            result = self.env.step(action)
        except (TypeError, ValueError) as error:
            if _raised_by_monitor(error):
                raise UnrecoverableError(
                    "The environment's step() returned something else than (observation, reward, terminated, "
                    f"truncated, info) with a number for the reward: {error}. Correct the environment."
                ) from error
            raise
        if not isinstance(result[-1], dict):
            raise UnrecoverableError(
                f"The environment's step() returned the info {result[-1]!r}, which must be a dictionary. Correct the "
                "environment."
            )
        self._files.write(result[-1])
        return result

    def prior_retired(self) -> None:
        """From now on the learner plays: what it does goes to another file."""
        self._files.prior_retired()

    def close(self) -> None:
        """Close the files, and the environment unless it is the user's."""
        if self.owned:
            super().close()
        self._files.close()


def _raised_by_monitor(error: Exception) -> bool:
    """Whether it was the ``Monitor`` that could not use what the environment inside returned."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code is Monitor.step.__code__


@contextlib.contextmanager
def appending() -> Iterator[None]:
    """Let each ``Monitor`` made here go on in the file that one before it wrote."""

    def writer(*args: Any, **kwargs: Any) -> ResultsWriter:
        return ResultsWriter(*args, **{**kwargs, "override_existing": False})

    with _writer(writer):
        yield


class _Unwritten:
    """Takes the place of a monitor file's writer, to keep the file's name."""

    def __init__(self, filename: str, **_: Any):
        self.filename = filename

    def write_row(self, epinfo: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def without_file(inner: Monitor) -> dict[str, Any]:
    """
    :param inner: a monitor of a class of the user's own, whose file is open
    :return: its attributes, with the file's name in the place of the file
    """
    return {**vars(inner), "results_writer": _Unwritten(str(file_of(inner)))}


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    """Let each ``Monitor`` made here open no file: it would empty that of the environment in the user's process."""
    with _writer(_Unwritten):
        yield


@contextlib.contextmanager
def _writer(writer: Callable[..., Any]) -> Iterator[None]:
    before = monitor.ResultsWriter
    monitor.ResultsWriter = writer  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        monitor.ResultsWriter = before  # type: ignore[misc]
