"""How a CA2E learner and its memory are saved and loaded."""

import inspect
import io
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_ca2e.actors.envs import as_env
from sb3_ca2e.priors.reader import saved_attributes
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer


class Saving(OffPolicyAlgorithm):
    """The part of :class:`~sb3_ca2e.algorithm.CA2EMixin` that has to do with files."""

    replay_buffer: PrioritizedReplayBuffer
    #: keeps the arguments that all algorithms of this package share
    _set_ca2e_arguments: ClassVar[Callable[..., None]]

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """
        Load a model; see :meth:`stable_baselines3.common.base_class.BaseAlgorithm.load`.

        :param path: the zip that :meth:`save` left, or an open file
        :param env: the environment to learn on, None to predict only
        :param device: where the model runs
        :param custom_objects: objects to take in the place of saved ones
        :param print_system_info: print those of the machine that saved it and of this one
        :param force_reset: reset the environment before learning
        :param kwargs: attributes to change
        :return: the model
        :raises ValueError: if the file is no whole model, or a model of another algorithm
        """
        saved = saved_attributes(path)
        shared = inspect.signature(cls._set_ca2e_arguments).parameters
        own = {p.name for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY} - shared.keys()
        if "prior_agents" not in saved or (own and own.isdisjoint(saved)):
            raise ValueError(
                f"{path} is no {cls.__name__} but a model of another algorithm, with a policy from "
                f"{saved['policy_class']['__module__']}. Load it with the class that saved it; to learn from what it "
                "can do, pass it to a new model in prior_agents."
            )
        return super().load(path, as_env(env), device, custom_objects, print_system_info, force_reset, **kwargs)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a memory that :meth:`save_replay_buffer` saved, of any number of actors.

        :param path: the file, or an open one
        :param truncate_last_traj: unused; episodes that were under way when it was saved count as truncated
        :raises TypeError: if it is another kind of memory
        """
        before = self.replay_buffer
        super().load_replay_buffer(path, truncate_last_traj)
        loaded: ReplayBuffer = self.replay_buffer
        if not isinstance(loaded, PrioritizedReplayBuffer):
            self.replay_buffer = before
            raise TypeError(
                f"The memory in {path} is a {type(loaded).__name__}; {type(self).__name__} needs a "
                "PrioritizedReplayBuffer, as its own save_replay_buffer leaves."
            )
        # It holds single steps, so that returns are formed as this model says.
        loaded.n_steps, loaded.gamma = self.n_steps, self.gamma

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_collector", "_interrupts", "_last_batch", "_learner"]
