"""Monitor files of the actors, one for each slot, beside the user's files, which actors never write."""

import contextlib
import itertools
import json
import os
import pathlib
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common import monitor
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import VecMonitor

from sb3_ca2e.errors import UnrecoverableError

#: Names of entries of an episode.
Keys = tuple[str, ...]


class SlotWriter(ResultsWriter):
    """
    Writes ``actor_<slot>.monitor.csv`` beside the user's monitor file, appending to the file of earlier runs.

    :param filename: the user's monitor file
    :param env_id: the environment's id, for a new file
    :param extra_keys: columns in addition to return, length and time
    :param slot: index of the slot
    :param prior: whether a prior agent plays: the file is ``actor_<slot>_prior.monitor.csv`` then
    """

    def __init__(self, filename: str, env_id: str, extra_keys: Keys, slot: int, prior: bool):
        self._arguments = filename, env_id, extra_keys, slot
        path = self._path(prior)
        header = _header(path) or {"t_start": time.time(), "env_id": env_id}
        super().__init__(str(path), header, extra_keys, override_existing=not path.exists())
        self._t_start = float(header["t_start"])

    def _path(self, prior: bool) -> pathlib.Path:
        """Return a path that does not exist yet, or whose file has the same columns."""
        filename, _, extra_keys, slot = self._arguments
        file = pathlib.Path(os.path.realpath(filename if filename.endswith(Monitor.EXT) else _with_ending(filename)))
        own = file.name.removesuffix(Monitor.EXT)
        prefix = "" if own.rstrip(".").isdigit() else own  # make_vec_env numbers its environments
        endings = itertools.chain([""], (f"_{again}" for again in itertools.count(2)))
        paths = (file.with_name(f"{prefix}actor_{slot}{'_prior' * prior}{each}.{Monitor.EXT}") for each in endings)
        return next(path for path in paths if not path.exists() or _columns(path) == ["r", "l", "t", *extra_keys])

    def write_row(self, epinfo: dict[str, Any]) -> None:
        """
        Write an episode, with its time relative to the file's start.

        :param epinfo: episode as ``Monitor`` describes it
        """
        super().write_row({**epinfo, "t": round(time.time() - self._t_start, 6)})

    def of_nature_slot(self) -> "SlotWriter":
        """
        Close this writer and open one for the same slot without its prior agent.

        :return: the new writer
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
    Return the path of a monitor's file.

    :param wrapper: a monitor
    :return: the path, or None if it writes no file
    """
    return wrapper.results_writer.file_handler.name if wrapper.results_writer is not None else None


class EpisodeFiles:
    """
    Logs the episodes of a slot.

    :param filenames: the user's monitor files, beside which the slot's files are written
    :param env_id: the environment's id, for new files
    :param known: entries of an episode in addition to return, length and time
    :param info_keywords: entries of ``info`` to log with each episode
    :param slot: index of the slot
    :param prior: whether a prior agent plays
    """

    def __init__(self, filenames: Sequence[str], env_id: str, known: Keys, info_keywords: Keys, slot: int, prior: bool):
        self._added = tuple(key for key in info_keywords if key not in known)
        self._writers = [SlotWriter(file, env_id, known + self._added, slot, prior) for file in filenames]

    def write(self, info: dict[str, Any]) -> None:
        """
        Log the episode that ended with a step, if one did.

        :param info: ``info`` of the step; its ``episode`` receives the added entries
        """
        if (episode := info.get("episode")) is not None:
            episode.update({key: info[key] for key in self._added})
            for writer in self._writers:
                writer.write_row(episode)

    def prior_retired(self) -> None:
        """Log to another file from now on: the learner plays."""
        self._writers = [writer.of_nature_slot() for writer in self._writers]

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers:
            writer.close()


class SlotMonitor(gym.Wrapper):
    """
    The environment of a slot, with a ``Monitor`` inside, added if it has none.

    Episodes are logged here, outside all wrappers: a ``VecMonitor`` may name entries of ``info`` that the inner
    ``Monitor`` does not see.

    :param make: function that makes the environment
    :param slot: index of the slot
    :param prior: whether a prior agent plays
    :param filename: file of a ``VecMonitor``, in addition to that of the environment's own ``Monitor``
    :param info_keywords: entries of ``info`` to log, in addition to those of the environment's own ``Monitor``
    :param owned: True for a copy; False for the user's environment, which the user closes and whose ``Monitor`` keeps
        writing its own file
    :param begun: result of a reset that the user's environment has had just before; None to reset it
    """

    def __init__(
        self,
        make: Callable[[], gym.Env],
        slot: int,
        prior: bool,
        filename: str | None = None,
        info_keywords: Keys = (),
        owned: bool = True,
        begun: Any = None,
    ):
        with no_files():
            env = make()
        inner = unwrap_wrapper(env, Monitor)
        self._adds_monitor = not isinstance(inner, Monitor)
        if not isinstance(inner, Monitor):
            env = inner = Monitor(env)
        super().__init__(env)
        if begun is not None:  # as the monitor's own reset does
            inner.rewards, inner.needs_reset = [], False
        self.owned, self._begun, own = owned, begun, None
        if owned:
            own = inner.results_writer.filename if isinstance(inner.results_writer, _Unwritten) else None
            inner.results_writer = None
        known = (*inner.reset_keywords, *inner.info_keywords)
        env_id = str(inner.env.spec.id if inner.env.spec is not None else None)
        files = [file for file in (own, filename) if file is not None]
        self._files = EpisodeFiles(files, env_id, known, info_keywords, slot, prior)

    @property
    def _of_user(self) -> gym.Env:
        """The environment as the user wrapped it."""
        return self.env.env if self._adds_monitor else self.env  # type: ignore[attr-defined]

    def env_method(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """
        Call a method as ``DummyVecEnv.env_method`` does.

        :param method: name of the method
        :param args: its arguments
        :param kwargs: its keyword arguments
        """
        self._of_user.get_wrapper_attr(method)(*args, **kwargs)

    def set_attr(self, name: str, value: Any) -> None:
        """
        Set an attribute as ``DummyVecEnv.set_attr`` does.

        :param name: name of the attribute
        :param value: its value
        """
        setattr(self._of_user, name, value)

    def reset(self, **kwargs: Any) -> Any:
        """
        Reset the environment, passing only the given arguments: it need not accept ``options``.

        :param kwargs: arguments for the environment
        :return: first observation and info
        """
        begun, self._begun = self._begun, None
        return self.env.reset(**kwargs) if begun is None else begun

    def step(self, action: Any) -> Any:
        """
        Step the environment and log a finished episode.

        :param action: the action
        :return: the environment's result, with the added entries in ``info["episode"]``
        :raises UnrecoverableError: if the result is not what gymnasium environments return
        """
        try:
            result = self.env.step(action)
        except (TypeError, ValueError) as error:
            if code_that_raised(error) is Monitor.step.__code__:  # because of what the inner environment returned
                raise UnrecoverableError(
                    "The environment's step() did not return (observation, reward, terminated, "
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
        """Log to another file from now on: the learner plays."""
        self._files.prior_retired()

    def close(self) -> None:
        """Close the files, and the environment unless it is the user's."""
        if self.owned:
            super().close()
        self._files.close()


def code_that_raised(error: Exception) -> types.CodeType:
    """
    Return the code of the function that raised an error.

    :param error: error that has been caught
    :return: the innermost code of its traceback
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code


@contextlib.contextmanager
def appending() -> Iterator[None]:
    """Let each ``Monitor`` that is made in this context append to the file of an earlier one."""

    def writer(*args: Any, **kwargs: Any) -> ResultsWriter:
        return ResultsWriter(*args, **{**kwargs, "override_existing": False})

    with _writer(writer):
        yield


class _Unwritten:
    """Stands for a monitor's writer and keeps only the file's name."""

    def __init__(self, filename: str, **_: Any):
        self.filename = filename

    def write_row(self, epinfo: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def without_file(inner: Monitor) -> dict[str, Any]:
    """
    Return a monitor's attributes without its open file.

    :param inner: monitor of a user-defined class, with an open file
    :return: its attributes, with the file's name instead of the file
    """
    return {**vars(inner), "results_writer": _Unwritten(str(file_of(inner)))}


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    """Let monitors that are made in this context open no file: it would truncate that of the user's environment."""
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
