"""Saving and loading of models and memories."""

import functools
import io
import pathlib
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path

from sb3_ca2e.checkpoints.checkpoint import MEMORY, MODEL, NORMALIZE, RUN, checkpoints_in, newest_whole
from sb3_ca2e.checkpoints.resumption import Resumption, Snapshot, random_states
from sb3_ca2e.common.files import destination, replacing
from sb3_ca2e.common.misspelt import refuse_unknown
from sb3_ca2e.common.sums import zip_with_sums
from sb3_ca2e.envs.model_env import as_env, made
from sb3_ca2e.priors.reader.attributes import saved_attributes
from sb3_ca2e.replay.files import read_memory, write_memory
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer

if TYPE_CHECKING:
    from sb3_ca2e.actors.snapshot import ActorsState
    from sb3_ca2e.learner.collector import Collector

#: Attributes that are not saved.
_OF_THIS_PROCESS = (
    "_changes",
    "_collector",
    "_due",
    "_interrupts",
    "_ladder",
    "_mean_epsilon",
    "_last_batch",
    "_learner",
    "_resumption",
)


class Saving(OffPolicyAlgorithm):
    """The part of :class:`~sb3_ca2e.algorithms.base.CA2EMixin` that saves and loads."""

    replay_buffer: PrioritizedReplayBuffer
    execution: str
    if TYPE_CHECKING:

        @property
        def n_slots(self) -> int: ...

        def _make_memory(self) -> PrioritizedReplayBuffer: ...

    _collector: "Collector | None"
    #: pending actions of :meth:`between_rounds`
    _due: list[Callable[[], None]]
    #: state to restore when a resumed model learns
    _resumption: Resumption | None
    #: keyword arguments that the algorithm has and no other of this package
    own_arguments: ClassVar[frozenset[str]] = frozenset()
    #: values that attributes had before they existed, for models that were saved then
    before_saved: ClassVar[dict[str, Any]] = {}

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model as SB3 does; see :meth:`stable_baselines3.common.base_class.BaseAlgorithm.save`.

        The file is written atomically: to a temporary file, which is flushed to disk and renamed, so that an existing
        file stays intact if anything fails. It contains SHA-256 sums of its content.

        :param path: path of the zip, or an open file
        :param exclude: attributes to leave out
        :param include: attributes to save that are excluded by default
        """

        def write(file: Any) -> None:
            with zip_with_sums(file, "sb3_ca2e model 1") as archive:
                super(Saving, self).save(archive, exclude, include)

        self._write(path, "zip", write)

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the memory atomically, as :meth:`save` does.

        :param path: path of the file, or an open file
        """
        self._write(path, "pkl", functools.partial(write_memory, self.replay_buffer))

    @staticmethod
    def _write(path: str | pathlib.Path | io.BufferedIOBase, suffix: str, write: Callable[[Any], object]) -> None:
        if not isinstance(path, str | pathlib.Path):
            write(open_path(path, "w"))
            return
        with replacing(destination(path, suffix)) as file:
            write(file)

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

        :param path: zip written by :meth:`save`, or an open file
        :param env: environment to learn in, or its id; None to predict only
        :param device: device of the model
        :param custom_objects: objects that replace saved ones
        :param print_system_info: whether to print system information of the saving machine and of this one
        :param force_reset: whether to reset the environment before learning
        :param kwargs: attributes to change
        :return: the model
        :raises ValueError: if the file is not a complete model, or a model of another algorithm
        :raises TypeError: if ``kwargs`` contains an unknown attribute
        """
        if isinstance(path, str | pathlib.Path) and checkpoints_in(pathlib.Path(path)):
            raise ValueError(
                f"{path} has checkpoints: resume from them with {cls.__name__}.resume({str(path)!r}, env)."
            )
        saved = saved_attributes(path)
        refuse_unknown(cls, kwargs, saved)
        if "prior_agents" not in saved or (cls.own_arguments and cls.own_arguments.isdisjoint(saved)):
            raise ValueError(
                f"{path} is no {cls.__name__}, but a model of another algorithm, with a policy from "
                f"{saved['policy_class']['__module__']}. Load it with the class that saved it; to learn from it, "
                "pass it to a new model in prior_agents."
            )
        kwargs = {name: value for name, value in cls.before_saved.items() if name not in saved} | kwargs
        return super().load(path, as_env(made(env)), device, custom_objects, print_system_info, force_reset, **kwargs)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a memory saved by :meth:`save_replay_buffer`, with any number of actors.

        A ``ReplayBuffer`` or ``DictReplayBuffer`` saved by SB3's own algorithms is converted: its transitions are added
        to a new memory, see :meth:`PrioritizedReplayBuffer.add_from`.

        :param path: path of the file, or an open file
        :param truncate_last_traj: unused; episodes that were unfinished when saved count as truncated
        :raises TypeError: if it is another kind of memory
        :raises ValueError: if it was filled in another environment
        """
        file = open_path(path, "r", suffix="pkl")
        try:
            loaded = read_memory(file)
        finally:
            if file is not path:
                file.close()
        self._take_memory(loaded, path)
        self.replay_buffer.end_streams()  # the actors that made the transitions are gone
        self.replay_buffer.device = self.device

    def _take_memory(self, loaded: Any, path: Any) -> None:
        if not isinstance(loaded, PrioritizedReplayBuffer):
            loaded = self._taken_over(loaded, path)
        if loaded.action_space != self.action_space:
            raise ValueError(
                f"The memory in {path} holds actions of {loaded.action_space}, and this model acts in "
                f"{self.action_space}: load one that was filled in the same environment."
            )
        # It stores single steps, so this model's settings determine the returns.
        loaded.n_steps, loaded.gamma = self.n_steps, self.gamma
        loaded.optimize_memory_usage = self.optimize_memory_usage
        self.replay_buffer = loaded

    def _taken_over(self, buffer: Any, path: Any) -> PrioritizedReplayBuffer:
        """Create a memory of this model from a buffer of SB3."""
        memory = self._make_memory()
        try:
            memory.add_from(buffer)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{type(self).__name__} can't load the memory in {path}. {error} It loads the "
                "PrioritizedReplayBuffer that its own save_replay_buffer writes."
            ) from error
        return memory

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_OF_THIS_PROCESS]

    # Checkpoints.

    @classmethod
    def resume(
        cls,
        folder: str | pathlib.Path,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        **kwargs: Any,
    ) -> Self:
        """
        Load the newest undamaged checkpoint of a :class:`~sb3_ca2e.CA2ECheckpointCallback`; damaged ones are skipped
        with a warning.

        ``learn(total_timesteps - model.num_timesteps, reset_num_timesteps=False)`` continues the run. Like
        :meth:`load`, this unpickles: only load checkpoints that you trust.

        :param folder: folder of checkpoints, or one checkpoint
        :param env: environment to learn in, wrapped as before
        :param device: device of the model
        :param custom_objects: objects that replace saved ones
        :param print_system_info: whether to print system information of the saving machine and of this one
        :param kwargs: attributes to change; slots begin new episodes then
        :return: the model
        :raises FileNotFoundError: if there is no checkpoint
        :raises DamagedError: if all are damaged
        """
        checkpoint = newest_whole(pathlib.Path(folder))
        model = cls.load(checkpoint.folder / MODEL, env, device, custom_objects, print_system_info, **kwargs)
        snapshot, normalize, memory = (checkpoint.read(name) for name in (RUN, NORMALIZE, MEMORY))
        if memory is not None:
            model._take_memory(memory, checkpoint.folder)
            memory.device = model.device
        model._resumption = Resumption(snapshot, memory, normalize, changed=bool(kwargs))
        if model.get_env() is not None:
            model._resumption.set_statistics(model.get_vec_normalize_env())
        return model

    def _slots_going_on(self) -> "ActorsState | None":
        """Return the state of slots of a resumed run that continue their episodes."""
        if self._resumption is None:
            return None
        return self._resumption.slots(self.execution, self.n_slots, self.replay_buffer)

    def _put_back(self) -> None:
        """Restore a resumed run."""
        if self._resumption is not None:
            assert self._collector is not None
            self._resumption.put_back(self._collector, self._slots_going_on(), self.action_space)
            self._resumption = None

    def _begin_resumed(self, reset_num_timesteps: bool) -> None:
        """Prepare a model, resumed or not, for learning."""
        self._due.clear()
        if self._resumption is None:
            return
        self._resumption.set_statistics(self._vec_normalize_env)
        if reset_num_timesteps:
            warnings.warn(
                "learn() counts from zero, though the model was resumed: pass reset_num_timesteps=False to continue.",
                stacklevel=2,
            )
            self.replay_buffer.end_streams()
            self._resumption = None

    def between_rounds(self, action: Callable[[], None]) -> None:
        """
        Call a function once the pending updates are made, or when ``learn`` ends.

        :param action: function without arguments, called once
        """
        self._due.append(action)

    def _do_what_is_due(self) -> None:
        due, self._due = self._due, []
        for action in due:
            action()

    def snapshot(self) -> Snapshot:
        """
        Return the state that a checkpoint saves besides the model and the memory.

        :return: the state; pickle it before the run continues
        """
        collector = self._collector
        if collector is None:
            return Snapshot(random_states(self.action_space), None, None)
        return Snapshot(random_states(self.action_space), collector.state(), collector.pool.state())
