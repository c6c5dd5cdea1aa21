"""Pickled copies of the user's environments, from which actors make their own."""

import contextlib
import copyreg
import dataclasses
import functools
import importlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.utils import EzPickle
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_ca2e.common import copying
from sb3_ca2e.envs.copies import patches
from sb3_ca2e.envs.copies.comparison import OF_A_MONITOR, OF_LIVES, Change, changes_between
from sb3_ca2e.envs.copies.generators import random_numbers_kept
from sb3_ca2e.envs.copies.handles import ReleasedError, name_of, released_handle
from sb3_ca2e.envs.copies.inspection import of_display
from sb3_ca2e.envs.copies.modules import modules_in, refuse_lost_modules
from sb3_ca2e.envs.identity import EnvIdentity, identity_of
from sb3_ca2e.envs.slot_monitor import code_that_raised, file_of, no_files, without_file

if "__mp_main__" in sys.modules:  # the user's script, in a process that multiprocessing has spawned
    cloudpickle.register_pickle_by_value(sys.modules["__mp_main__"])


#: Most comparisons of a copy with the original.
_ROUNDS = 4


@dataclass(frozen=True)
class Builder:
    """
    A pickled environment, or a pickled function that makes one.

    :param pickled: the pickle, with the changes to apply to copies
    :param kept: objects shared with copies in the same process; None for other processes
    """

    pickled: bytes
    kept: tuple[Any, ...] | None = None


def loaded(builder: Builder) -> Any:
    """
    Load a copy from a builder.

    :param builder: result of :func:`env_builder` or :func:`function_builder`
    :return: a copy of the environment, or of the function that makes it
    """
    kept = builder.kept
    return _changed(*(cloudpickle.loads(builder.pickled) if kept is None else copying.loads(builder.pickled, kept)))


def _changed(made: Any, changes: Sequence[Change]) -> Any:
    for change in changes:
        change.make(made)
    return made


def function_builder(build: Callable[..., Any], which: str, here: bool) -> Builder:
    """
    Pickle a function that makes an environment.

    :param build: function that makes one or more environments
    :param which: description of the function, for messages
    :param here: whether it is loaded in this process
    :return: a builder for :func:`loaded`
    :raises ValueError: if it can't be pickled, or its modules can't be imported elsewhere; the message names the remedy
    """
    try:
        builder = dumps((build, ()), here)
    except Exception as error:  # the user's objects may raise anything; reported here and below
        raise ValueError(
            f"Actors need the function {which}, which can't be pickled ({type(error).__name__}: {error}). Let the "
            "function create what it needs instead of holding it."
        ) from error
    if not here:
        refuse_lost_modules(modules_in(builder.pickled), f"the function {which}")
    return builder


def env_builder(env: gym.Env, here: bool) -> Builder:
    """
    Pickle an environment so that its copies equal it.

    :param env: an environment
    :param here: whether copies are loaded in this process
    :return: a builder for :func:`loaded`
    :raises ValueError: if something can't be copied; the message names it and the remedy
    """
    try:
        builder = dumps((env, ()), here)
    except ReleasedError as error:
        what = f"its {name} (a {error.kind})" if (name := name_of(error.owner, env)) else f"a {error.kind}"
        raise ValueError(
            f"Actors need copies of {env}, but {what} can't be copied: {error}, so that the end of a copy would "
            f"break your environment. {_PASS_A_FUNCTION}, or give BuilderVecEnv from sb3_ca2e a list of such functions."
            f"{_SYNC}"
        ) from error
    except Exception as error:
        raise ValueError(
            f"Actors need copies of {env}, which can't be pickled ({type(error).__name__}: {error}). "
            f"{_PASS_A_FUNCTION}, or give BuilderVecEnv from sb3_ca2e a list of such functions.{_SYNC}"
        ) from error
    if not here:
        refuse_lost_modules(modules_in(builder.pickled), f"{env}")
    changes: list[Change] = []
    for left in reversed(range(_ROUNDS)):
        more = _lacking(env, changes)
        for change in more:
            # What a constructor draws may have been the same by chance before.
            if left == 0 or change.path in [each.path for each in changes]:
                raise ValueError(_not_carried_over(env, change, "the copy has another value"))
        if not more:
            break
        changes += more
    if changes:
        builder = dumps((env, changes), here)
    if not here and cloudpickle.cloudpickle.__name__.encode() in builder.pickled:
        _try(env, builder)  # what is pickled by value loads otherwise than in this process
    return builder


def _try(env: gym.Env, builder: Builder) -> None:
    """Load what actors will load, and refuse the environment if that fails."""
    try:
        with _temporary(env, lambda: _changed(*copying.loads_of_others(builder.pickled))):
            pass
    except Exception as error:
        raise ValueError(_not_loaded(env, error)) from error


def _lacking(env: gym.Env, given: list[Change]) -> list[Change]:
    """Return what copies of an environment still lack after some changes."""

    def copy_with(more: list[Change]) -> contextlib.AbstractContextManager[gym.Env]:
        return _copied(env, given, more)

    try:
        return changes_between(env, copy_with)
    except _NotLoadedError as error:
        for change in given:
            if (refused := _refused(env, change)) is not None:
                reason = f"{type(refused).__name__}: {refused}"
                raise ValueError(_not_carried_over(env, change, reason)) from refused
        raise ValueError(str(error)) from error.__cause__
    except Exception as error:
        raise ValueError(f"Actors step copies of {env}, and reset() of a copy fails{_raised_in(error)}.") from error


class _NotLoadedError(ValueError):
    """The pickle of an environment can't be loaded."""


@contextlib.contextmanager
def _copied(env: gym.Env, changes: Sequence[Change], more: Sequence[Change] = ()) -> Iterator[gym.Env]:
    """
    Make a temporary copy in this process, with required changes, and with those of the others that can be applied.
    """
    with _temporary(env, lambda: _loaded(env, changes, more)) as copied:
        yield copied


@contextlib.contextmanager
def _temporary(env: gym.Env, load: Callable[[], gym.Env]) -> Iterator[gym.Env]:
    with patches.classes_kept(patches.kinds_of([env])):
        with no_files(), random_numbers_kept():
            copied = load()
        try:
            yield copied
        finally:
            if isinstance(env.unwrapped, EzPickle):  # of other copies, close() may affect the original
                with contextlib.suppress(Exception):
                    copied.close()


def _loaded(env: gym.Env, changes: Sequence[Change], more: Sequence[Change]) -> gym.Env:
    try:
        try:
            copied: gym.Env = loaded(dumps((env, [*changes, *more]), here=True))
        except Exception:
            if not more:
                raise
            more = [each for each in more if _refused(env, each) is None]
            copied = loaded(dumps((env, [*changes, *more]), here=True))
        return copied
    except Exception as error:
        raise _NotLoadedError(_not_loaded(env, error)) from error


def _not_loaded(env: gym.Env, error: Exception) -> str:
    return (
        f"Actors step copies of {env}, and its pickle can't be loaded again{_raised_in(error)}. "
        f"{_WITHOUT_ATTRIBUTES if isinstance(error, RecursionError) else ''}{_PASS_A_FUNCTION}.{_SYNC}"
    )


def _refused(env: gym.Env, change: Change) -> BaseException | None:
    """Return what is raised when a change is applied to a copy, None if nothing."""
    try:
        with _copied(env, [change]):
            return None
    except _NotLoadedError as error:
        return error.__cause__


def _not_carried_over(env: gym.Env, change: Change, reason: str) -> str:
    return (
        f"Actors step copies of {env}, and copies come without its {change.name}, which can't be copied "
        f"({reason}). Set it in a function that makes the environment, and pass that.{_SYNC}"
    )


_PASS_A_FUNCTION = "Pass a function that makes the environment instead, e.g. lambda: MyEnv(...)"
_WITHOUT_ATTRIBUTES = "While it is loaded it has no attributes yet; its __getattr__ must raise AttributeError then. "
#: The remedy for users who have only one environment.
_SYNC = " With execution='sync' and as many actors as there are environments, none is copied."


def _raised_in(error: Exception) -> str:
    """Describe an exception and the method that raised it."""
    return f" ({type(error).__name__}: {error}, in {code_that_raised(error).co_qualname})"


def fetched(base: SubprocVecEnv, index: int) -> tuple[Builder, EnvIdentity, tuple[bytes, ...]]:
    """
    Fetch a copy of an environment from a worker of a ``SubprocVecEnv``.

    :param base: vectorized environment
    :param index: index of the environment
    :return: a builder for another process, the identity, and changes to its classes
    :raises ValueError: if something can't be copied; the message names it and the remedy
    """
    base.env_is_wrapped(_Ask(), index)  # type: ignore[arg-type]
    # gym.Env.__enter__ returns the environment itself.
    copied: tuple[Builder, EnvIdentity, tuple[bytes, ...]] | str = base.env_method("__enter__", indices=index)[0]
    if isinstance(copied, str):
        reason = copied.replace(_SYNC, "")  # not possible: these environments are in other processes
        told = f"About environment {index} of the SubprocVecEnv: {reason} CA2E runs it in processes of its own."
        raise ValueError(told)
    return copied


class _Ask:
    """
    Prepares a worker of a ``SubprocVecEnv`` when it is unpickled there.

    Workers pickle their answers without cloudpickle, and end if that fails: for an environment whose class comes from a
    script or a function, or a ``Monitor`` with its open file. Once prepared, the worker sends the copy that actors need
    instead of the environment, or else the reason why there is none.
    """

    wanted = False

    def __reduce__(self) -> Any:
        return _prepare_worker, ()


def _prepare_worker() -> type[Monitor]:
    kinds: list[type] = [gym.Env]
    for kind in kinds:  # grows during the loop
        ForkingPickler.register(kind, _sent)
        kinds.extend(kind.__subclasses__())
    _Ask.wanted = True
    return Monitor  # the wrapper class that the worker then looks for; the answer is not used


def _sent(env: gym.Env) -> Any:
    """Pickle an environment in a prepared worker: a copy for actors the first time, as usual afterwards."""
    if not _Ask.wanted:
        return env.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    _Ask.wanted = False
    try:
        return tuple, ((env_builder(env, here=False), identity_of(env), patches.patches_of(patches.kinds_of([env]))),)
    except ValueError as error:
        return str, (str(error),)


def registered() -> tuple[bytes, ...]:
    """
    Pickle the specs of registered ids that actors would not know.

    :return: pickled specs
    """
    pickled = []
    for spec in gym.registry.values():
        entry = spec.entry_point
        module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
        if not module.startswith("gymnasium."):
            with contextlib.suppress(Exception):
                if isinstance(entry, str) and module.startswith("__main__"):
                    creator: Any = load_env_creator(entry)
                    spec = dataclasses.replace(spec, entry_point=creator)  # actors have another __main__
                pickled.append(dumps(spec).pickled)
    return tuple(pickled)


def register(pickled: tuple[bytes, ...]) -> None:
    """
    Register ids of another process.

    :param pickled: result of :func:`registered` there
    """
    for each in pickled:
        with contextlib.suppress(Exception):  # if the id is needed, gym.make reports it as unknown
            spec = cloudpickle.loads(each)
            if spec.id not in gym.registry and isinstance(spec.entry_point, str):
                # Import first: modules that register ids warn if these exist already.
                importlib.import_module(spec.entry_point.partition(":")[0].partition(".")[0])
            gym.registry.setdefault(spec.id, spec)


class _MakesAnew:
    """Makes anew what holds a running episode, an open file or a window."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Monitor and vars(obj).keys() <= OF_A_MONITOR:
            keywords = obj.reset_keywords, tuple(obj.info_keywords)
            return Monitor, (obj.env, file_of(obj), obj.allow_early_resets, *keywords)
        if isinstance(obj, Monitor) and obj.results_writer is not None and _pickled_as_any(type(obj)):
            return copyreg.__newobj__, (type(obj),), without_file(obj)  # type: ignore[attr-defined]
        if type(obj) is EpisodicLifeEnv and vars(obj).keys() <= OF_LIVES:
            return EpisodicLifeEnv, (obj.env,)
        if (shown := of_display(obj)) is not None:
            return shown
        if isinstance(obj, EzPickle) and (maker := _maker(type(obj))) is not None:
            made_with: Any = obj
            return _made_by, (maker, type(obj), made_with._ezpickle_args, made_with._ezpickle_kwargs)
        if isinstance(obj, functools._lru_cache_wrapper) and obj.__module__ == "__main__":
            return _with_cache, (obj.__wrapped__, obj.cache_parameters())  # cloudpickle would pickle it by name
        if _pickled_as_any(type(obj)) and (handle := released_handle(obj)) is not None:
            raise ReleasedError(obj, handle)
        rest: Any = super()
        return rest.reducer_override(obj)


class _EnvPickler(_MakesAnew, cloudpickle.Pickler):
    """Pickles for another process."""


class _EnvPicklerHere(_MakesAnew, copying.Pickler):
    """Pickles for this process."""


def _with_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _maker(kind: type) -> type | None:
    """Return the class whose constructor arguments ``EzPickle`` keeps; a subclass may take other arguments."""
    own: Any = kind
    if own.__getstate__ is EzPickle.__getstate__ and own.__setstate__ is EzPickle.__setstate__:
        for each in kind.__mro__:
            code = getattr(vars(each).get("__init__"), "__code__", None)
            if code is not None and EzPickle.__name__ in code.co_names:
                return each
    return None


def _made_by(maker: Any, kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """
    Make an environment as ``EzPickle`` does, but in place, so that parts that refer to it stay valid; attributes that a
    subclass adds are carried over.
    """
    env: Any = kind.__new__(kind)
    maker.__init__(env, *args, **kwargs)
    return env


def _pickled_as_any(kind: type) -> bool:
    own = ("__reduce_ex__", "__reduce__", "__getstate__")
    return all(getattr(kind, name) is getattr(object, name) for name in own)


def dumps(env: Any, here: bool = False) -> Builder:
    """
    Pickle an environment.

    :param env: environment, or a function that makes one
    :param here: whether it is loaded in this process
    :return: the builder
    """
    buffer = io.BytesIO()
    pickler = _EnvPicklerHere(buffer) if here else _EnvPickler(buffer)
    pickler.dump(env)
    return Builder(buffer.getvalue(), tuple(pickler.kept) if isinstance(pickler, _EnvPicklerHere) else None)
