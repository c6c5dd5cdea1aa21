"""A vectorized environment that keeps the functions that made its environments."""

import gc
import operator
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from sb3_ca2e.envs.calls import EnvCall, Heard
from sb3_ca2e.envs.copies import patches
from sb3_ca2e.envs.copies.inspection import held_by
from sb3_ca2e.envs.identity import identity_of, layers_of
from sb3_ca2e.envs.journal import Journal
from sb3_ca2e.envs.slot_monitor import appending

#: Method by which environments say which actions they allow, as in SB3-Contrib.
ACTION_MASKS = "action_masks"
#: Most objects to search for an environment that a function holds.
MOST_OBJECTS = 100_000


class BuilderVecEnv(DummyVecEnv):
    """
    A ``DummyVecEnv`` that keeps the functions that made its environments, so that actors can make more.

    Its own environments can be released; they are made again when needed.

    :param env_fns: functions that each return a new environment. If one returns an environment that it holds
        (``lambda: env``), actors step copies of it, as they do if you pass the environment itself
    :raises TypeError: if ``env_fns`` is not a list of at least one function
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]]):
        if not isinstance(env_fns, list | tuple) or not env_fns or not all(map(callable, env_fns)):
            raise TypeError(f"BuilderVecEnv takes a list of functions that each make an environment, not {env_fns!r}.")
        self._made: list[gym.Env] | None = None
        #: whether the environments are closed and not yet made again
        self.released = False
        #: calls that environments made again have to repeat
        self.journal = Journal()
        self.env_fns = env_fns
        held = _envs_held_by(env_fns)  # before any call, as a function may also keep what it makes
        super().__init__(env_fns)
        #: identity of the first environment
        self.identity = identity_of(self.envs[0])
        #: classes of the environments
        self.kinds = patches.kinds_of(self.envs)
        inside = {id(layer) for env in self.envs for layer in layers_of(env)}
        self._holding = any(id(env) in inside for env in held)
        self._as_made = tuple(self.envs)
        #: whether the environments say which actions they allow, as in SB3-Contrib
        self.has_action_masks = self.has_attr(ACTION_MASKS)

    @property
    def envs(self) -> list[gym.Env]:
        """
        The environments, made if there are none.

        :raises RuntimeError: if a function fails that has made an environment before
        """
        if self._made is None:
            with appending():
                self._made = [self._made_again(make) for make in self.env_fns]
            self._as_made, self.released = tuple(self._made), False
            try:
                self._repeat_calls()
            except Exception:
                self.release()
                raise
            for env in self._made:
                env.reset()  # the state in which learn() began
        return self._made

    @envs.setter
    def envs(self, made: list[gym.Env]) -> None:
        self._made = made

    @property
    def makes_new(self) -> bool:
        """Whether actors get what the functions make: each call makes a new environment, and none has been replaced."""
        replaced = self._made is not None and any(map(operator.is_not, self._made, self._as_made))
        return not self._holding and not replaced

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """
        Call a method of environments, also of those that are made later.

        :param method_name: name of the method
        :param args: its arguments
        :param indices: indices of the environments, None for all
        :param kwargs: its keyword arguments
        :return: what it returned, for each environment
        """
        return self._heard().env_method(method_name, *args, indices=indices, **kwargs)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute of environments, also of those that are made later.

        :param attr_name: name of the attribute
        :param value: its value
        :param indices: indices of the environments, None for all
        """
        self._heard().set_attr(attr_name, value, indices)

    def _heard(self) -> Heard:
        return Heard(self, self.journal.prepare, super().env_method, super().set_attr)

    def _repeat_calls(self) -> None:
        """Repeat in environments that were made again what was called on those before."""
        for call in self.journal.calls():
            if isinstance(call, EnvCall):
                super().env_method(call.method, *call.args, indices=call.indices, **call.kwargs)
            else:
                super().set_attr(call.name, call.value, call.indices)

    def release(self) -> None:
        """Close and drop the environments, so that a single device, such as a robot, can be opened elsewhere."""
        if not self.makes_new:
            return
        self.close()
        inside = [weakref.ref(env.unwrapped) for env in self._made or []]
        self._made, self._as_made, self.released = None, (), True
        if any(each() is not None for each in inside):
            gc.collect()  # part of a reference cycle

    def close(self) -> None:
        """Close the environments, if there are any."""
        for env in self._made or []:
            env.close()

    def _made_again(self, make: Callable[[], gym.Env]) -> gym.Env:
        try:
            return _patch_env(make())
        except Exception as error:
            raise RuntimeError(
                "The model's own environment was closed while actors step theirs, and it can't be made again now "
                f"({type(error).__name__}: {error}). If it needs a device that exists only once, use it after learn() "
                "or learn with execution='sync' and as many actors as there are environments."
            ) from error


def _envs_held_by(functions: Iterable[Any]) -> list[gym.Env]:
    """Return environments reachable from functions, such as that of ``lambda: env``."""
    found: list[gym.Env] = []
    waiting, seen = list(functions), set[int]()
    while waiting and len(seen) < MOST_OBJECTS:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            if isinstance(each, gym.Env):
                found += layers_of(each)
            else:
                waiting += _held(each)
    return found


def _held(value: Any) -> Iterable[Any]:
    """Return the objects that an object holds; for a function, also the globals that it names."""
    if isinstance(value, types.ModuleType) or _is_of_a_library(value):
        return []
    if isinstance(value, type):
        return list(vars(value).values())
    if isinstance(value, types.FunctionType):
        return [*held_by(value), *value.__dict__.values(), *_globals_of(value)]
    return gc.get_referents(value)


def _is_of_a_library(value: Any) -> bool:
    module = value.__module__ if isinstance(value, type | types.FunctionType) else None
    name = (module or "").partition(".")[0]
    return name in sys.stdlib_module_names or name in patches.LIBRARIES


def _globals_of(function: types.FunctionType) -> list[Any]:
    codes = [function.__code__]
    for code in codes:  # grows during the loop
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    names = {name for code in codes for name in code.co_names}
    held = [function.__globals__[name] for name in names if name in function.__globals__]
    modules = [vars(each) for each in held if isinstance(each, types.ModuleType)]
    return [*held, *(module[name] for module in modules for name in names if name in module)]
