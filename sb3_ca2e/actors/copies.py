"""Pickled copies of a user's environments, from which actors make their own."""

import contextlib
import dataclasses
import importlib
import io
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_ca2e.actors.identity import EnvIdentity, identity_of, identity_of_vec
from sb3_ca2e.actors.monitors import file_of
from sb3_ca2e.native.vec_env import Build, NativeVecEnv

#: Vectorized environments that actors can copy.
Base = DummyVecEnv | SubprocVecEnv | NativeVecEnv


def copies_of(base: Base) -> tuple[tuple[bytes, ...], EnvIdentity]:
    """
    :param base: a vectorized environment without its wrappers
    :return: copies of all environments, or the functions that make them, and what the first says of itself
    :raises ValueError: naming what can't be pickled, and the way out
    """
    if isinstance(base, NativeVecEnv):
        return (_function(base.build),), identity_of_vec(base)
    if isinstance(base, SubprocVecEnv):
        builders, identities = zip(*(_fetched(base, index) for index in range(base.num_envs)), strict=True)
        return builders, identities[0]
    made = getattr(base, "env_fns", base.envs)
    return tuple(_builder(*each) for each in zip(base.envs, made, strict=True)), identity_of(base.envs[0])


def _function(build: Build) -> bytes:
    try:
        return dumps(build)
    except Exception as error:  # whatever a user's own objects raise that can't be pickled; here and below it is told
        raise ValueError(
            f"Actors need the function given to NativeVecEnv, and it can't be pickled ({type(error).__name__}: "
            f"{error}). Let that function make what it needs instead of holding it."
        ) from error


def _builder(env: gym.Env, made: gym.Env | Callable[[], gym.Env]) -> bytes:
    try:
        return dumps(made)
    except Exception as error:
        what, way_out = ("it", "Pass a function that makes the environment instead, e.g. lambda: MyEnv(...)")
        if made is not env:
            what, way_out = ("the function that makes it", "Let that function make what it needs instead of holding it")
        raise ValueError(_no_copies(f"copies of {env}, and {what}", error, way_out)) from error


def _no_copies(of_what: str, error: Exception | str, way_out: str) -> str:
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return (
        f"Actors need {of_what} can't be pickled ({reason}). {way_out}, or give BuilderVecEnv from sb3_ca2e a list of "
        "such functions."
    )


def _fetched(base: SubprocVecEnv, index: int) -> tuple[bytes, EnvIdentity]:
    """A copy of the environment of a worker process, and what it says of itself."""
    base.env_is_wrapped(_Ask(), index)  # type: ignore[arg-type]
    copied = base.env_method("__enter__", indices=index)[0]  # gymnasium's returns the environment itself
    if isinstance(copied, str):
        name = f"copies of environment {index} of the SubprocVecEnv, and it"
        way_out = "Pass a function that makes the environment instead: CA2E runs it in processes of its own"
        raise ValueError(_no_copies(name, copied, way_out))
    builder, identity = copied
    return builder, identity


class _Ask:
    """
    Prepares a worker of a ``SubprocVecEnv`` when it arrives there.

    What a worker sends is pickled without cloudpickle, and what can't be pickled so ends it: an environment
    whose class comes from a script or a function, or a ``Monitor`` with its open file. This lets it send the
    copy that actors need in the place of the environment, or else the reason.
    """

    wanted = False

    def __reduce__(self) -> Any:
        return _prepare_worker, ()


def _prepare_worker() -> type[Monitor]:
    kinds: list[type] = [gym.Env]
    for kind in kinds:  # which grows meanwhile
        ForkingPickler.register(kind, _sent)
        kinds.extend(kind.__subclasses__())
    _Ask.wanted = True
    return Monitor  # what the worker is to look for among its wrappers; nobody reads its answer


def _sent(env: gym.Env) -> Any:
    """How a prepared worker pickles environments: a copy for actors the first time, as ever afterwards."""
    if not _Ask.wanted:
        return env.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    _Ask.wanted = False
    try:
        return tuple, ((dumps(env), identity_of(env)),)
    except Exception as error:
        return str, (f"{type(error).__name__}: {error}",)


def registered() -> tuple[bytes, ...]:
    """
    :return: the ids that functions may hand to ``gym.make``, but that an actor would not know
    """
    pickled = []
    for spec in gym.registry.values():
        entry = spec.entry_point
        module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
        if not module.startswith("gymnasium."):
            with contextlib.suppress(Exception):
                if isinstance(entry, str) and module.startswith("__main__"):
                    creator: Any = load_env_creator(entry)
                    spec = dataclasses.replace(spec, entry_point=creator)  # an actor's main module is another
                pickled.append(dumps(spec))
    return tuple(pickled)


def register(pickled: tuple[bytes, ...]) -> None:
    """
    Make ids known that another process knows.

    :param pickled: what :func:`registered` returned there
    """
    for each in pickled:
        with contextlib.suppress(Exception):  # where it matters, gym.make will say that the id is unknown
            spec = cloudpickle.loads(each)
            if spec.id not in gym.registry and isinstance(spec.entry_point, str):
                # Whoever registers ids when imported would warn that they are there if it came later.
                importlib.import_module(spec.entry_point.partition(":")[0].partition(".")[0])
            gym.registry.setdefault(spec.id, spec)


class _EnvPickler(cloudpickle.Pickler):
    """Makes the wrappers anew that hold an episode under way, or, as ``Monitor`` may, an open file."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Monitor):
            return Monitor, (
                obj.env,
                file_of(obj),
                obj.allow_early_resets,
                obj.reset_keywords,
                tuple(obj.info_keywords),
            )
        if type(obj) is EpisodicLifeEnv:
            return EpisodicLifeEnv, (obj.env,)
        return super().reducer_override(obj)


def dumps(env: Any) -> bytes:
    """
    :param env: an environment, or a function that makes one
    :return: it, pickled
    """
    buffer = io.BytesIO()
    _EnvPickler(buffer).dump(env)
    return buffer.getvalue()
