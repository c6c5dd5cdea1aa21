"""Calls of the user's environments, as curricula make them, and how they are noticed."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_ca2e.envs.order_log import LoggedOrder

#: Methods that change nothing, and are called often: copies of an environment need not repeat them.
_ONLY_LOOK = {"render", "action_masks", "get_wrapper_attr", "has_wrapper_attr"}


class Callee(Protocol):
    """An environment, or something that stands for one, on which calls are made."""

    def env_method(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """
        Call a method as ``DummyVecEnv.env_method`` does.

        :param method: name of the method
        :param args: its arguments
        :param kwargs: its keyword arguments
        """

    def set_attr(self, name: str, value: Any) -> None:
        """
        Set an attribute as ``DummyVecEnv.set_attr`` does.

        :param name: name of the attribute
        :param value: its value
        """


@dataclass(frozen=True)
class EnvCall(LoggedOrder):
    """
    A call of ``VecEnv.env_method``.

    :param method: name of the method
    :param args: its arguments
    :param kwargs: its keyword arguments
    :param indices: indices of the user's environments, from 0, in the order of the calls
    """

    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    indices: tuple[int, ...]

    def __str__(self) -> str:
        return f"env_method({self.method!r}, ...)"

    def carry_out(self, env: Callee) -> None:
        """
        Make the call.

        :param env: the environment
        """
        env.env_method(self.method, self.args, self.kwargs)

    def depends_on(self, older: Any) -> bool:
        return True  # a method may read what earlier calls have done

    def without_values(self) -> Self:
        return replace(self, args=(), kwargs={})


@dataclass(frozen=True)
class SetAttribute(LoggedOrder):
    """
    A call of ``VecEnv.set_attr``.

    :param name: name of the attribute
    :param value: its value
    :param indices: indices of the user's environments, from 0
    """

    name: str
    value: Any
    indices: tuple[int, ...]

    def __str__(self) -> str:
        return f"set_attr({self.name!r}, ...)"

    def carry_out(self, env: Callee) -> None:
        """
        Make the call.

        :param env: the environment
        """
        env.set_attr(self.name, self.value)

    def replaces(self, older: Any) -> bool:
        return isinstance(older, SetAttribute) and older.name == self.name and set(older.indices) <= set(self.indices)

    def depends_on(self, older: Any) -> bool:
        return isinstance(older, EnvCall)  # which may have read the earlier value

    def without_values(self) -> Self:
        return replace(self, value=None)


Call = EnvCall | SetAttribute


#: Called before a call of environments is made; may refuse it by an exception. What it returns is called afterwards,
#: unless the call raised an exception.
Prepare = Callable[[Call], Callable[[], object]]


def for_env(calls: Iterable[Call], env_index: int) -> list[Call]:
    """
    Select the calls of one environment.

    :param calls: calls
    :param env_index: index of the environment
    :return: its calls in their order, as often as they were made
    """
    return [call for call in calls for _ in range(call.indices.count(env_index))]


class Heard:
    """
    Methods of a ``VecEnv`` that notice the calls of its environments.

    :param venv: vectorized environment without wrappers
    :param prepare: notices calls
    :param env_method: its own method
    :param set_attr: its own method
    """

    def __init__(self, venv: VecEnv, prepare: Prepare, env_method: Callable[..., Any], set_attr: Callable[..., Any]):
        self._venv, self._prepare, self._env_method, self._set_attr = venv, prepare, env_method, set_attr

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """
        Call a method of environments.

        :param method_name: name of the method
        :param args: its arguments
        :param indices: indices of the environments, None for all
        :param kwargs: its keyword arguments
        :return: what it returned, for each environment
        """
        chosen = self._chosen(indices)
        only_looks = method_name in _ONLY_LOOK
        done = None if only_looks else self._prepare(EnvCall(method_name, args, kwargs, chosen))
        results: list[Any] = self._env_method(method_name, *args, indices=chosen, **kwargs)
        if done is not None:
            done()
        return results

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute of environments.

        :param attr_name: name of the attribute
        :param value: its value
        :param indices: indices of the environments, None for all
        """
        chosen = self._chosen(indices)
        done = self._prepare(SetAttribute(attr_name, value, chosen))
        self._set_attr(attr_name, value, indices=chosen)
        done()

    def _chosen(self, indices: VecEnvIndices) -> tuple[int, ...]:
        """Return indices from 0, which may be counted from the end or be an iterator."""
        everyone = range(self._venv.num_envs)
        return tuple(everyone[index] for index in self._venv._get_indices(indices))


@contextlib.contextmanager
def overheard(venv: VecEnv, prepare: Prepare) -> Iterator[None]:
    """
    Notice calls of environments while the context lasts, on whatever wrapper they are made.

    :param venv: vectorized environment, with or without wrappers
    :param prepare: notices calls
    """
    base: Any = venv.unwrapped  # all wrappers pass them on to it
    before = {name: vars(base)[name] for name in ("env_method", "set_attr") if name in vars(base)}
    heard = Heard(base, prepare, base.env_method, base.set_attr)
    base.env_method, base.set_attr = heard.env_method, heard.set_attr
    try:
        yield
    finally:
        del base.env_method, base.set_attr
        vars(base).update(before)
