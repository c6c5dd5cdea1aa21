"""Pickled copies of a user's environments, from which actors make their own."""

import contextlib
import copyreg
import dataclasses
import functools
import importlib
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from sb3_ca2e.envs.copies.comparison import OF_A_MONITOR, OF_LIVES, Change, changes_between, random_numbers_kept
from sb3_ca2e.envs.copies.display import of_display
from sb3_ca2e.envs.copies.modules import modules_in, refuse_lost_modules
from sb3_ca2e.envs.identity import EnvIdentity, identity_of
from sb3_ca2e.envs.slot_monitor import file_of, no_files, without_file

if "__mp_main__" in sys.modules:  # the user's script, in a process that multiprocessing has spawned
    cloudpickle.register_pickle_by_value(sys.modules["__mp_main__"])


@dataclass(frozen=True)
class Builder:
    """
    A pickled environment, or function that makes one.

    :param pickled: it, and what its copies are given
    :param kept: what is not pickled as it is loaded in the same process; None for other processes
    """

    pickled: bytes
    kept: tuple[Any, ...] | None = None


def loaded(builder: Builder) -> Any:
    """
    :param builder: of :func:`env_builder` or :func:`function_builder`
    :return: a copy of the environment, or of the function that makes it
    """
    if builder.kept is None:
        return _changed(*cloudpickle.loads(builder.pickled))
    return _changed(*copying.loads(builder.pickled, builder.kept))


def _changed(made: Any, changes: Iterable[Change]) -> Any:
    for change in changes:
        change.make(made)
    return made


def function_builder(build: Callable[..., Any], which: str, here: bool) -> Builder:
    """
    :param build: makes an environment, or several
    :param which: what it is called in a message
    :param here: it is to be loaded in this process
    :return: it, for :func:`loaded`
    :raises ValueError: if it can't be pickled, or not found elsewhere, with the way out
    """
    try:
        builder = dumps((build, ()), here)
    except Exception as error:  # whatever a user's own objects raise that can't be pickled; here and below it is told
        raise ValueError(
            f"Actors need the function {which}, and it can't be pickled ({type(error).__name__}: {error}). Let that "
            "function make what it needs instead of holding it."
        ) from error
    if not here:
        refuse_lost_modules(modules_in(builder.pickled), f"the function {which}")
    return builder


def env_builder(env: gym.Env, here: bool) -> Builder:
    """
    :param env: an environment
    :param here: copies are to be loaded in this process
    :return: for :func:`loaded`: what becomes a copy that is as the environment is
    :raises ValueError: naming what can't be copied, and the way out
    """
    try:
        builder = dumps((env, ()), here)
    except Exception as error:
        raise ValueError(
            f"Actors need copies of {env}, and it can't be pickled ({type(error).__name__}: {error}). "
            f"{_PASS_A_FUNCTION}, or give BuilderVecEnv from sb3_ca2e a list of such functions.{_SYNC}"
        ) from error
    if not here:
        refuse_lost_modules(modules_in(builder.pickled), f"{env}")
    changes = _lacking(env, [])
    if not changes:
        return builder
    for change in _lacking(env, changes):
        raise ValueError(_not_carried_over(env, change, "it comes out as another"))
    return dumps((env, changes), here)


def _lacking(env: gym.Env, given: list[Change]) -> list[Change]:
    """What copies of an environment lack still, that have been given something."""

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
    """What is pickled of an environment can't be loaded again."""


@contextlib.contextmanager
def _copied(env: gym.Env, changes: Sequence[Change], more: Sequence[Change] = ()) -> Iterator[gym.Env]:
    """A copy in this process, for a while, that is given changes, and of others those that it can be given."""
    with patches.classes_kept(patches.kinds_of([env])), _loaded(env, changes, more) as copied:
        yield copied


@contextlib.contextmanager
def _loaded(env: gym.Env, changes: Sequence[Change], more: Sequence[Change]) -> Iterator[gym.Env]:
    try:
        with no_files(), random_numbers_kept():
            try:
                copied = loaded(dumps((env, [*changes, *more]), here=True))
            except Exception:
                if not more:
                    raise
                more = [each for each in more if _refused(env, each) is None]
                copied = loaded(dumps((env, [*changes, *more]), here=True))
    except Exception as error:
        raise _NotLoadedError(
            f"Actors step copies of {env}, and what is pickled of it can't be loaded again{_raised_in(error)}. "
            f"{_WITHOUT_ATTRIBUTES if isinstance(error, RecursionError) else ''}{_PASS_A_FUNCTION}.{_SYNC}"
        ) from error
    try:
        yield copied
    finally:
        if isinstance(env.unwrapped, EzPickle):  # it was made; of others, what close() closes is the original's too
            with contextlib.suppress(Exception):
                copied.close()


def _refused(env: gym.Env, change: Change) -> BaseException | None:
    """What is raised if a copy is given something, None if it can be."""
    try:
        with _copied(env, [change]):
            return None
    except _NotLoadedError as error:
        return error.__cause__


def _not_carried_over(env: gym.Env, change: Change, reason: str) -> str:
    return (
        f"Actors step copies of {env}, and copies come without its {change.name}, which can't be carried over "
        f"({reason}). Set it in a function that makes the environment, and pass that.{_SYNC}"
    )


_PASS_A_FUNCTION = "Pass a function that makes the environment instead, e.g. lambda: MyEnv(...)"
_WITHOUT_ATTRIBUTES = "While it is loaded it has no attributes yet, and must raise AttributeError. "
#: The other way out, of those who have one environment only.
_SYNC = " With execution='sync' and as many actors as there are environments, none is copied."


def _raised_in(error: Exception) -> str:
    """What was raised, and in which method of which class, if it was one."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    told = f"{type(error).__name__}: {error}"
    where = f", in {traceback.tb_frame.f_code.co_qualname}" if traceback is not None else ""
    return f" ({told}{where})"


def fetched(base: SubprocVecEnv, index: int) -> tuple[Builder, EnvIdentity, tuple[bytes, ...]]:
    """
    :param base: whose environments are in worker processes
    :param index: of one of them
    :return: a copy of it, for another process, what it says of itself, and changes to its classes there
    :raises ValueError: naming what can't be copied, and the way out
    """
    base.env_is_wrapped(_Ask(), index)  # type: ignore[arg-type]
    copied = base.env_method("__enter__", indices=index)[0]  # gymnasium's returns the environment itself
    if isinstance(copied, str):
        reason = copied.replace(_SYNC, "")  # which it is not for: they are in other processes
        told = f"About environment {index} of the SubprocVecEnv: {reason} CA2E runs it in processes of its own."
        raise ValueError(told)
    builder, identity, changed = copied
    return builder, identity, changed


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
        return tuple, ((env_builder(env, here=False), identity_of(env), patches.patches_of(patches.kinds_of([env]))),)
    except ValueError as error:
        return str, (str(error),)


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
                pickled.append(dumps(spec).pickled)
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


class _MakesAnew:
    """Makes anew what holds an episode under way, and what has an open file or a window."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Monitor and vars(obj).keys() <= OF_A_MONITOR:
            return Monitor, (
                obj.env,
                file_of(obj),
                obj.allow_early_resets,
                obj.reset_keywords,
                tuple(obj.info_keywords),
            )
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
            return _with_cache, (obj.__wrapped__, obj.cache_parameters())  # cloudpickle would name it
        rest: Any = super()
        return rest.reducer_override(obj)


class _EnvPickler(_MakesAnew, cloudpickle.Pickler):
    """For another process."""


class _EnvPicklerHere(_MakesAnew, copying.Pickler):
    """For this process."""


def _with_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _maker(kind: type) -> type | None:
    """The class whose constructor's arguments ``EzPickle`` keeps; a subclass may be made with others."""
    own: Any = kind
    if own.__getstate__ is EzPickle.__getstate__ and own.__setstate__ is EzPickle.__setstate__:
        for each in kind.__mro__:
            code = getattr(vars(each).get("__init__"), "__code__", None)
            if code is not None and EzPickle.__name__ in code.co_names:
                return each
    return None


def _made_by(maker: Any, kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As ``EzPickle`` does it, but in place, so that what it holds knows it; what a subclass adds is carried over."""
    env: Any = kind.__new__(kind)
    maker.__init__(env, *args, **kwargs)
    return env


def _pickled_as_any(kind: type) -> bool:
    own = ("__reduce_ex__", "__reduce__", "__getstate__")
    return all(getattr(kind, name) is getattr(object, name) for name in own)


def dumps(env: Any, here: bool = False) -> Builder:
    """
    :param env: an environment, or a function that makes one
    :param here: it is to be loaded in this process
    :return: it, pickled
    """
    buffer = io.BytesIO()
    if not here:
        _EnvPickler(buffer).dump(env)
        return Builder(buffer.getvalue())
    pickler = _EnvPicklerHere(buffer)
    pickler.dump(env)
    return Builder(buffer.getvalue(), tuple(pickler.kept))
