"""
Finds what a copy of an environment lacks, and carries it over.

Environments that pickle their constructor arguments (gymnasium's ``EzPickle``) come back as newly made: a gravity that
was set later, or what a subclass added, is lost. So a copy is compared with the original, as deep as Python can look,
and differences are carried over.
"""

import contextlib
import enum
import functools
import pathlib
import pickle
import types
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.monitor import Monitor

from sb3_ca2e.envs.copies.generators import GENERATORS, ids_of_generators, random_numbers_kept, renew
from sb3_ca2e.envs.copies.handles import released_handle
from sb3_ca2e.envs.copies.inspection import (
    CONTAINERS,
    PLAIN,
    attributes_of,
    held_by,
    is_mujoco,
    is_plain,
    is_swigs,
    is_table,
    keys_of,
    leaves_of,
    numbers_of_mujoco,
    shows,
)
from sb3_ca2e.envs.copies.sharing import Alias, Shared, View, lost_storages, lost_views

#: Step from an object to one that it holds: kind and name of an attribute, or kind and key of an item.
Step = tuple[str, Any]
Path = tuple[Step, ...]

#: Types for which it makes no difference whether two values are the same object.
_WITHOUT_IDENTITY = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, pathlib.PurePath, enum.Enum, np.generic),
    *(np.dtype, tuple, frozenset, type, types.CodeType, types.FunctionType, types.MethodType, types.ModuleType),
    *(types.BuiltinFunctionType, spaces.Space, *GENERATORS),
)
_ANY_CONTAINER = (list, tuple, dict, set, frozenset, deque)
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
_NOT_COMPARED = (*GENERATORS, types.ModuleType, types.BuiltinFunctionType)
#: Attributes of a ``Monitor`` that describe the current episode, or its file.
_OF_AN_EPISODE = {"rewards", "needs_reset", "episode_returns", "episode_lengths", "episode_times", "total_steps"}
_OF_A_RUN = {*_OF_AN_EPISODE, "results_writer", "t_start", "current_reset_info"}
_OF_A_WRAPPER = {"env", "_action_space", "_observation_space", "_metadata", "_cached_spec", "_saved_kwargs"}
#: Attributes of a ``Monitor`` and an ``EpisodicLifeEnv``; those without any others are made anew in copies.
OF_A_MONITOR = {*_OF_A_WRAPPER, *_OF_A_RUN, "allow_early_resets", "info_keywords", "reset_keywords"}
OF_LIVES = {*_OF_A_WRAPPER, "lives", "was_real_done"}


class _Missing:
    """Stands for a missing value."""


@dataclass(frozen=True)
class Change:
    """
    An attribute or item that a copy lacks.

    :param path: where it belongs, starting at the environment
    :param value: the original's value
    """

    path: Path
    value: Any

    @property
    def name(self) -> str:
        """The path as Python code, without wrappers."""
        steps = [step for step in self.path if step != ("attribute", "env")]
        text = "".join(f".{name}" if kind == "attribute" else f"[{name!r}]" for kind, name in steps)
        return text.removeprefix(".")

    def make(self, env: Any) -> None:
        """
        Apply the change to a copy.

        :param env: copy, changed in place
        :raises Exception: if the object refuses the change
        """
        *path, (kind, name) = self.path
        owner, value = _at(env, path), self.value
        present = _next(owner, (kind, name))
        if isinstance(value, Alias):
            value = _at(env, value.path)
        elif isinstance(value, View | Shared):
            value = value.made()
        elif isinstance(present, np.ndarray) and present.flags.writeable and _alike(present, value):
            present[...] = value  # other objects may share the memory, as in MuJoCo
            return
        if kind == "item":
            owner[name] = value
        elif is_mujoco(owner):
            setattr(owner, name, value)
        else:  # bypass the class's own __setattr__
            object.__setattr__(owner, name, value)


#: Context that makes a copy of an environment with some changes; changes that can't be applied are left out.
CopyWith = Callable[[list[Change]], contextlib.AbstractContextManager[gym.Env]]


def changes_between(env: gym.Env, copy_with: CopyWith) -> list[Change]:
    """
    Find what copies of an environment lack.

    :param env: the original
    :param copy_with: makes copies with some changes
    :return: changes to apply to copies, without those that the copies' own ``reset`` makes
    """
    with copy_with([]) as copied:
        changes = [Change(path, value) for path, value in _differences(env, copied)]
        lacking = {each for each, change in enumerate(changes) if _at(copied, change.path) is _Missing}
        if not lacking:
            return _not_set_by_reset(env, changes, lacking, copied, copy_with) if changes else []
    with copy_with([changes[each] for each in sorted(lacking)]) as copied:  # its reset may need these
        return _not_set_by_reset(env, changes, lacking, copied, copy_with)


def _not_set_by_reset(
    env: gym.Env, changes: list[Change], lacking: set[int], copied: gym.Env, copy_with: CopyWith
) -> list[Change]:
    before = [_before(change, _at(copied, change.path)) for change in changes]
    try:
        _reset(env, copied)
    except Exception:  # it may need the changes
        with copy_with(changes) as other:
            _reset(env, other)
        return changes
    after = [_at(copied, change.path) for change in changes]
    kept = {each for each, (was, now) in enumerate(zip(before, after, strict=True)) if was(now)}
    plain = {each: now for each, now in enumerate(after) if is_plain(changes[each].value)}
    changed = plain.keys() - kept
    kept |= changed & lacking
    if plain:
        with contextlib.suppress(Exception), copy_with([changes[each] for each in plain]) as other:
            other_values = {each: _still(_at(other, changes[each].path)) for each in plain}
            _reset(env, other)
            depends = {each for each, now in plain.items() if not same(now, _at(other, changes[each].path))}
            # Keep values on whose former value reset depends, such as a count of episodes.
            kept |= changed & depends
            # What reset sets, whatever it was before, may have been the same before by chance.
            for each in plain.keys() - changed - lacking - depends:
                if not same(changes[each].value, plain[each]) and same(changes[each].value, other_values[each]):
                    kept.discard(each)
    return [change for each, change in enumerate(changes) if each in kept]


def _reset(env: gym.Env, copied: gym.Env) -> None:
    """Reset a copy; all copies draw the same numbers, and the user's random generators are restored."""
    renew(copied, 0, kept=ids_of_generators(env))
    with random_numbers_kept():
        copied.reset()


def _before(change: Change, held: Any) -> Callable[[Any], bool]:
    """Return a test of whether a copy's attribute is still as it is now."""
    if isinstance(change.value, Alias | View | Shared):
        return lambda now: now is held
    was = _still(held)
    return lambda now: _unchanged(was, now)


def _differences(env: Any, copied: Any) -> Iterator[tuple[Path, Any]]:
    """Find paths where the copy is known to differ, with the original's values."""
    seen: dict[int, tuple[Path, Any, Any]] = {}  # keeps the objects alive, so that their ids stay unique
    waiting: list[tuple[Path, Any, Any]] = [((), env, copied)]
    while waiting:
        path, ours, theirs = waiting.pop()
        if not isinstance(ours, _WITHOUT_IDENTITY):
            if id(ours) in seen:
                before, _, twin = seen[id(ours)]
                if twin is not theirs:
                    yield path, Alias(before)
                continue
            seen[id(ours)] = path, ours, theirs
        differs = _differs(ours, theirs)
        if differs:
            yield path, ours
        elif differs is None:
            waiting += [((*path, step), *pair) for step, *pair in reversed(_parts(ours, theirs))]
    yield from lost_views([each for each in seen.values() if isinstance(each[1], np.ndarray)])
    yield from lost_storages([each for each in seen.values() if isinstance(each[1], np.ndarray | th.Tensor)])


def _differs(ours: Any, theirs: Any, within: frozenset[int] = frozenset()) -> bool | None:
    """
    Whether two values are known to differ as a whole; None if it depends on what they hold. ``within`` has the
    functions under comparison, which may hold themselves.
    """
    if ours is theirs or shows(ours) or shows(theirs):
        return False
    if isinstance(ours, _NOT_COMPARED):
        return theirs is _Missing or _named(ours) != _named(theirs)
    if type(ours) is not type(theirs):
        return None if _made_anew(type(ours), type(theirs)) else not _opaque(ours)
    if isinstance(ours, type):  # not identical, though pickled by name or reused in this process
        return True
    if isinstance(ours, _FUNCTIONS):
        if id(ours) in within:
            return False
        differ = bool(_differs(_made_of(ours), _made_of(theirs), within | {id(ours)}))
        return None if not differ and isinstance(ours, types.MethodType) else differ
    if is_plain(ours):
        return not same(ours, theirs)
    if not isinstance(ours, _ANY_CONTAINER):
        has_parts = (attributes_of(ours) and not is_table(ours)) or is_mujoco(ours)
        return None if has_parts else not _opaque(ours) and _unequal(ours, theirs)
    if isinstance(ours, set | frozenset):
        return _hashed_otherwise(ours, theirs)
    if len(ours) != len(theirs) or keys_of(ours) != keys_of(theirs):
        return _hashed_otherwise(ours.keys(), theirs.keys()) if isinstance(ours, dict) else not _opaque(ours)
    # The items of a tuple can't be set.
    return True if isinstance(ours, tuple) and any(map(_differs, ours, theirs, repeat(within))) else None


def _made_anew(kind: type, other: type) -> bool:
    """
    Whether a class comes from the same code as another: a function that makes a class makes a new one at each call.
    Copies share the classes of the original, unless they made their own.
    """
    is_local = "<locals>" in kind.__qualname__
    return is_local and (kind.__module__, kind.__qualname__) == (other.__module__, other.__qualname__)


def _hashed_otherwise(ours: Any, theirs: Any) -> bool:
    """Whether sets, or keys, are known to differ; objects that compare by identity can't be compared."""
    if len(ours) != len(theirs):
        return True
    kinds: set[Any] = {type(each) for each in ours if not isinstance(each, _WITHOUT_IDENTITY)}
    by_identity = any(each.__eq__ is object.__eq__ for each in kinds)
    return not by_identity and not _opaque(list(ours)) and set(ours) != set(theirs)


def _named(value: Any) -> Any:
    """Return the name of a built-in function or of a module."""
    return getattr(value, "__qualname__", getattr(value, "__name__", None))


def _unequal(ours: Any, theirs: Any) -> bool:
    """Whether objects of C types, such as dates or tables, compare as unequal; most don't support comparison."""
    kind: Any = type(ours)
    with contextlib.suppress(Exception):
        if is_table(ours):
            return not ours.equals(theirs)
        return kind.__eq__ is not object.__eq__ and not bool(ours == theirs)
    return False


def _made_of(function: Any) -> tuple[Any, ...]:
    """Return what determines a function's behaviour, as far as it can be compared."""
    if isinstance(function, functools.partial):
        return function.func, function.args, function.keywords
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        return (function,)
    return function.__code__, tuple(held_by(function))


def _parts(ours: Any, theirs: Any) -> list[tuple[Step, Any, Any]]:
    """Pair up what two objects of the same type hold."""
    if isinstance(ours, types.MethodType):
        return [(("attribute", "__self__"), ours.__self__, theirs.__self__)]
    items = [(("item", key), ours[key], theirs[key]) for key in keys_of(ours)]
    if is_mujoco(ours):
        names = numbers_of_mujoco(ours)
        return [(("attribute", name), getattr(ours, name), getattr(theirs, name)) for name in names]
    own, other = attributes_of(ours), attributes_of(theirs)
    if "env" in own:  # first, so that paths name the inner environment as owner and not its wrapper
        own = {"env": own["env"], **own}
    if type(ours) is EpisodicLifeEnv and own.keys() <= OF_LIVES:
        own = {"env": own["env"]}
    elif isinstance(ours, Monitor):
        own = {name: value for name, value in own.items() if name not in _OF_A_RUN}
    if _chooses_what_is_pickled(type(ours)):
        with contextlib.suppress(Exception):  # otherwise compare everything
            own = {name: value for name, value in own.items() if name in {*ours.__getstate__(), *_OF_A_WRAPPER}}
    own.pop(released_handle(ours) or "", None)  # a copy that has made its own keeps it
    return items + [(("attribute", name), value, other.get(name, _Missing)) for name, value in own.items()]


def _chooses_what_is_pickled(kind: Any) -> bool:
    """Whether a class excludes attributes such as locks and caches from pickling, and can do without them."""
    others: list[Any] = [object.__getstate__, EzPickle.__getstate__]
    return kind.__getstate__ not in others


def _opaque(value: Any) -> bool:
    """Whether Python can't look into a value, or into something that it holds, so that it can't be compared."""
    leaves = leaves_of(value, lambda each: isinstance(each, _ANY_CONTAINER))
    others = (each for each in leaves if not isinstance(each, (*PLAIN, *_FUNCTIONS, *_NOT_COMPARED)))
    return any(is_swigs(each) or shows(each) for each in others)


def _alike(ours: Any, theirs: Any) -> bool:
    """Whether two arrays have the same type, dtype and shape."""
    return type(ours) is type(theirs) and (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)


def same(ours: Any, theirs: Any) -> bool:
    """
    Compare plain data.

    :param ours: plain data
    :param theirs: anything
    :return: whether both are equal and of the same type; NaN equals NaN
    """
    if type(ours) in CONTAINERS:
        with contextlib.suppress(Exception):  # fast for large tables; values with other pickles may still be equal
            if pickle.dumps(ours) == pickle.dumps(theirs):
                return True
    waiting, seen = [(ours, theirs)], set()
    while waiting:
        one, other = waiting.pop()
        if type(one) is not type(other):
            return False
        if type(one) not in CONTAINERS or isinstance(one, set | frozenset):
            if not _same_datum(one, other):
                return False
        elif (id(one), id(other)) not in seen:
            seen.add((id(one), id(other)))
            keys = keys_of(one)
            if keys != keys_of(other):
                return False
            waiting += [(one[key], other[key]) for key in keys]
    return True


def _same_datum(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, th.Tensor):
        ours, theirs = ours.detach().cpu().numpy(), theirs.detach().cpu().numpy()
    if isinstance(ours, np.ndarray):
        if ours.dtype.hasobject or not _alike(ours, theirs):
            return _alike(ours, theirs) and not _differs(ours.ravel().tolist(), theirs.ravel().tolist())
        return bool(ours.tobytes() == theirs.tobytes())
    return bool(ours == theirs) or bool(ours != ours and theirs != theirs)


def _still(value: Any) -> Any:
    """Copy a value that may be changed in place later."""
    if isinstance(value, np.ndarray):
        return value.copy()
    return type(value)(value) if type(value) in (list, dict, set, deque) else value


def _unchanged(before: Any, after: Any) -> bool:
    if is_plain(before):
        return same(before, after)
    if isinstance(before, set | frozenset):  # the order may differ
        return {id(each) for each in before} == {id(each) for each in after}
    if type(before) in CONTAINERS and type(before) is type(after):
        return len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True))
    return before is after


def _at(value: Any, path: Any) -> Any:
    for step in path:
        value = _next(value, step)
    return value


def _next(value: Any, step: Step) -> Any:
    kind, name = step
    if kind == "item":
        try:
            return value[name]
        except (LookupError, TypeError):
            return _Missing
    if isinstance(value, types.MethodType):
        return value.__self__
    held = attributes_of(value)
    if name in held:
        return held[name]
    return getattr(value, name, _Missing) if is_mujoco(value) else _Missing
