"""A prioritized replay memory with multi-step returns, usable as a Stable-Baselines3 replay buffer."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.common.transfers import moved
from sb3_ca2e.replay.block import (
    ACTION_MASK,
    TRANSITION,
    Block,
    ObservationColumn,
    described,
    observation_columns,
    plain,
)
from sb3_ca2e.replay.face import PublicFace
from sb3_ca2e.replay.normalization import normalize_observations
from sb3_ca2e.replay.prefetch import Prefetch
from sb3_ca2e.replay.rows import Rows, Terms
from sb3_ca2e.replay.samples import PrioritizedReplaySamples
from sb3_ca2e.replay.steps import Observations, StepBlocks
from sb3_ca2e.replay.storage import SEGMENT_LENGTH, SegmentStorage, rows_on


class PrioritizedReplayBuffer(PublicFace):
    """
    Proportional prioritized replay (https://arxiv.org/abs/1511.05952) of the single steps of many slots.

    Multi-step returns and frame stacks are formed when a batch is sampled. Memory is reserved when the
    first transition is added.

    :param buffer_size: largest number of transitions, of all slots together
    :param observation_space: Observation space
    :param action_space: Action space
    :param device: PyTorch device of the samples
    :param n_envs: Number of parallel environments that :meth:`add` is called for
    :param optimize_memory_usage: Makes :attr:`dones` writable, for SB3; each observation is stored once in any case
    :param handle_timeout_termination: Bootstrap from the last observation of episodes that ended by a time limit,
        according to the infos given to :meth:`add`
    :param n_steps: number of steps in a return
    :param gamma: discount factor of one step
    :param alpha: P(i) is proportional to priority^alpha
    :param beta: exponent of the importance-sampling weights; assign the attribute to anneal it
    :param maximum_priority: give new transitions the largest priority seen instead of the one that their actor computed
    :param storage_device: PyTorch device of the memory; with ``"auto"``, the device of the samples if the memory fits
    :param frame_stack: number of frames in an observation, and the axis (not counting the batch axis) along
        which they are concatenated
    :param columns: how observations are stored, if ``frame_stack`` can't express it: raw data with another dtype
        than the (normalised) observation space, or a different stacking axis per key
    :param normalize_frames: a ``VecNormalize`` given to :meth:`sample` has statistics of single frames, not of stacks
    :param seed: seed of the draws; ``None`` takes one from PyTorch's global generator
    :param segment_length: number of rows that are allocated and freed together; ``None`` means 256, or an eighth of a
        small buffer
    :param n_slots: expected number of slots; with more, each gets less room
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        n_steps: int = 3,
        gamma: float = 0.99,
        alpha: float = 0.6,
        beta: float = 0.4,
        maximum_priority: bool = False,
        storage_device: th.device | str = "auto",
        frame_stack: tuple[int, int] = (1, 0),
        columns: dict[str, ObservationColumn] | None = None,
        normalize_frames: bool = False,
        seed: int | None = None,
        segment_length: int | None = None,
        n_slots: int = 16,
    ):
        self._storage: SegmentStorage | None = None
        self.storage_device = storage_device
        # ReplayBuffer's own constructor would allocate arrays.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.capacity = buffer_size
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps = n_steps
        self.gamma = gamma
        self.alpha = alpha
        self.beta = beta
        self.maximum_priority = maximum_priority
        self.frame_stack = frame_stack
        self.segment_length = segment_length or min(SEGMENT_LENGTH, max(1, buffer_size // 8))
        self.n_slots = n_slots
        #: largest priority seen, given to transitions without a priority
        self.max_priority = 1.0
        self.normalize_frames = normalize_frames
        self._columns = columns or observation_columns(observation_space, *frame_stack)
        self._steps = StepBlocks(self._columns, n_envs, self.action_dim, handle_timeout_termination)
        # Random numbers come from the CPU, so that a seed draws the same transitions on every device.
        self._generator = th.Generator()
        self._generator.manual_seed(int(th.randint(2**62, (1,))) if seed is None else seed)

    @property
    def device(self) -> th.device:
        """Device of the samples. Assigning it moves the memory too if ``storage_device`` is ``"auto"``."""
        return self._device

    @device.setter
    def device(self, device: th.device | str) -> None:
        # With its index, as tensors report it: "cuda" does not equal "cuda:0".
        self._device = th.empty(0, device=get_device(device)).device
        self._prefetch = Prefetch(self._device) if self._device.type == "cuda" else None
        if self._storage is not None:
            self._storage.to(self._place(self._storage.rows.nbytes))

    def _place(self, nbytes: int) -> th.device:
        """Choose the device of a memory of that size."""
        if self.storage_device != "auto":
            return get_device(self.storage_device)
        is_there = self._storage is not None and self._storage.rows.device == self._device
        # Other parts of a GPU's memory are left to networks, activations and other programs. MPS lacks float64.
        if self._device.type == "cuda" and (is_there or nbytes < 0.8 * th.cuda.mem_get_info(self._device)[0]):
            return self._device
        return th.device("cpu")

    def _new_storage(self) -> SegmentStorage:
        layout = (self._columns, self.action_dim, self.action_dtype, self.segment_length)
        n_slots = max(self.n_slots, self.n_envs)
        # The size of one segment gives the size of all.
        length = min(self.segment_length, self.capacity)
        n_segments = -(-self.capacity // length) + n_slots
        device = self._place(n_segments * SegmentStorage(length, *layout, n_slots=0).rows.nbytes)
        return SegmentStorage(self.capacity, *layout, n_slots, device)

    def set_random_seed(self, seed: int) -> None:
        """
        Seed the random numbers of the draws.

        :param seed: seed of all following draws
        """
        self._generator.manual_seed(seed)

    @property
    def nbytes(self) -> int:
        """Number of bytes reserved; 0 before the first transition."""
        return 0 if self._storage is None else self._storage.rows.nbytes

    @property
    def prior_fraction(self) -> float:
        """Fraction of the stored transitions that prior agents made."""
        return 0.0 if self._storage is None else self._storage.n_prior / max(self._storage.size, 1)

    @property
    def n_refused_priorities(self) -> int:
        """Number of invalid priorities that were not stored; on a GPU, as far as it has reported them."""
        return 0 if self._storage is None else self._storage.n_refused

    def reset(self) -> None:
        """Delete all transitions and free their memory."""
        self._storage = None
        if self._prefetch is not None:
            self._prefetch.forget()
        self._steps.forget()

    def check_layout(self, columns: dict[str, ObservationColumn], normalize_frames: bool) -> None:
        """
        Check that observations of an environment fit the stored ones, and prepare for them; an empty memory takes any.

        Frames are stored raw, so ``normalize_frames`` may differ from before; the new value applies.

        :param columns: how the environment's observations are stored
        :param normalize_frames: as in the constructor
        :raises ValueError: if the memory stores observations in another way
        """
        if columns != self._columns and self.size() == 0:
            self._storage, self._columns = None, columns
            self._steps = StepBlocks(columns, self.n_envs, self.action_dim, self.handle_timeout_termination)
        elif columns != self._columns:
            raise ValueError(
                f"The memory's {self.size()} transitions hold {described(self._columns)}, the environment returns "
                f"{described(columns)}. Stack frames and mask actions as when the transitions were collected, or "
                "delete them first with model.replay_buffer.reset()."
            )
        self.normalize_frames = normalize_frames

    def import_kernels(self) -> None:
        """
        Import what the first block needs. This takes about a second, and longer if numba has no cache yet.

        Call this only while no other thread runs, because numba changes the process's warning filters.
        """
        rows_on(self._place(0))

    def add_block(self, block: Block) -> None:
        """
        Append a block to its slot's stream.

        :param block: the rows, with raw priorities. A priority that is NaN, infinite or negative is counted and
            replaced by the largest one seen so far
        """
        priorities = np.zeros(len(block.flags))
        is_transition = (block.flags & TRANSITION).astype(bool)
        raw = block.priorities[is_transition]
        sound = (raw >= 0.0) & (raw < np.inf)
        if len(raw) > 0:
            own = sound & (not self.maximum_priority)
            self.max_priority = max(self.max_priority, float(raw.max(initial=0.0, where=own)))
            priorities[is_transition] = np.where(own, raw, self.max_priority) ** self.alpha
        if self._storage is None:
            self._storage = self._new_storage()
        self._storage.look_at_written()
        self._storage.n_refused += len(raw) - int(np.count_nonzero(sound))
        self.max_priority = max(self.max_priority, self._storage.largest)
        self._storage.commit(block, priorities)

    def end_stream(self, slot: int) -> None:
        """
        End a slot's stream: the slot's next block does not continue its last one.

        :param slot: the slot
        """
        if self._storage is not None:
            self._storage.end_stream(slot)

    def end_streams(self) -> None:
        """End the streams of all slots."""
        self._steps.forget()
        if self._storage is not None:
            self._storage.end_streams()

    def add(
        self,
        obs: Observations,
        next_obs: Observations,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Append one step of every environment, with the largest priority seen so far.

        :param obs: ``(n_envs, *obs_shape)``
        :param next_obs: the observations after the step; an episode's last observation where ``done``
        :param action: ``(n_envs, action_dim)``
        :param reward: ``(n_envs,)``
        :param done: ``(n_envs,)``
        :param infos: the environments' infos, of which ``TimeLimit.truncated`` is read
        """
        if self.frame_stack[0] > 1:
            raise ValueError(
                f"add() stores whole observations, but this memory stores single frames "
                f"(frame_stack={self.frame_stack}). Leave frame_stack at (1, 0), or use add_block()."
            )
        self._refuse_without_masks("add()")
        for block, continues in self._steps.blocks(obs, next_obs, action, reward, done, infos):
            self._append(block, continues)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> PrioritizedReplaySamples:  # type: ignore[override]
        """
        Draw transitions with probabilities proportional to priority^alpha.

        :param batch_size: Number of transitions, drawn independently
        :param env: Normalizes observations and the rewards of single steps
        :return: the samples
        """
        if self.size() == 0:
            raise ValueError("Cannot sample from an empty memory. Add transitions first (see `learning_starts`).")
        storage = self._storage
        assert storage is not None

        def draw() -> PrioritizedReplaySamples:
            return self._formed(storage.rows.priorities.sample(batch_size, self._generator), env)

        if self._prefetch is None or storage.rows.device == self._device:
            return draw().to(self._device)
        return self._prefetch.take((batch_size, id(env), self.n_steps, self.gamma, storage), draw)

    @property
    def device_storage(self) -> Rows | None:
        """The rows, if a CUDA graph can record sampling from them: on the samples' device, by operations on tensors."""
        rows = None if self._storage is None else self._storage.rows
        if rows is None or not rows.recordable or rows.device != self._device or self.size() == 0:
            return None
        own = PrioritizedReplayBuffer.sample, PrioritizedReplayBuffer.update_priorities
        return rows if (type(self).sample, type(self).update_priorities) == own else None

    def draw_uniforms(self, n_batches: int, batch_size: int) -> th.Tensor:
        """
        Send what a device needs to draw batches: the random numbers that :meth:`sample` would use, and beta.

        :param n_batches: number of batches
        :param batch_size: number of transitions in each batch
        :return: ``(n_batches * batch_size + 1,)`` float64, possibly still being copied to the device
        """
        numbers = th.empty(n_batches * batch_size + 1, dtype=th.float64)
        numbers[:-1].uniform_(generator=self._generator)
        numbers[-1] = self.beta
        return moved(numbers, self._device)

    def sample_from_uniforms(self, draws: th.Tensor, beta: th.Tensor) -> PrioritizedReplaySamples:
        """
        Return what :meth:`sample` does for given random numbers. A CUDA graph can record this.

        :param draws: ``(batch,)`` float64 from 0 to 1, on the device
        :param beta: float64 scalar, on the device
        :return: the samples
        """
        assert self._storage is not None
        return self._formed(self._storage.rows.priorities.find(draws), beta=beta)

    def samples_at(self, indices: th.Tensor, env: VecNormalize | None = None) -> PrioritizedReplaySamples:
        """
        Return the samples of given transitions.

        :param indices: ``(batch,)`` int64, as in the samples' field ``indices``
        :param env: as in :meth:`sample`
        :return: the samples
        """
        return self._formed(indices, env).to(self._device)

    def _formed(
        self, indices: th.Tensor, env: VecNormalize | None = None, beta: float | th.Tensor | None = None
    ) -> PrioritizedReplaySamples:
        """Form samples on the device of the memory."""
        assert self._storage is not None
        rows, normalize = self._storage.rows, None if env is None else env.normalize_reward
        terms = Terms(self.n_steps, self.gamma, self.beta if beta is None else beta, normalize)
        observed, fields = rows.multi_steps(indices, terms)
        tensors = rows.observations(observed)
        masks = tensors.pop(ACTION_MASK, None)
        if env is not None:
            ages = rows.ages.take(observed).cpu().numpy()
            arrays = {key: tensor.cpu().numpy() for key, tensor in tensors.items()}
            arrays = normalize_observations(arrays, ages, self._columns, env, self.normalize_frames)
            tensors = {key: th.from_numpy(array) for key, array in arrays.items()}
        # As in SB3, a Discrete observation has an axis of its own.
        tensors = {key: tensor if tensor.dim() > 1 else tensor.unsqueeze(1) for key, tensor in tensors.items()}
        half = indices.shape[0]
        if masks is not None:
            fields |= {"action_masks": masks[:half], "next_action_masks": masks[half:]}
        return PrioritizedReplaySamples(
            observations=plain({key: tensor[:half] for key, tensor in tensors.items()}),
            actions=rows.take(rows.actions, indices),
            next_observations=plain({key: tensor[half:] for key, tensor in tensors.items()}),
            indices=indices,
            **fields,
        )

    def update_priorities(self, indices: th.Tensor, generations: th.Tensor, priorities: th.Tensor) -> None:
        """
        Set the priorities of sampled transitions. Transitions that have been overwritten since are skipped. A priority
        that is NaN, infinite or negative is counted, and the transition keeps its old one.

        :param indices: ``(batch,)`` as in the samples
        :param generations: ``(batch,)`` as in the samples
        :param priorities: ``(batch,)`` absolute temporal-difference errors plus a small constant
        """
        assert self._storage is not None
        if not indices.shape[0] == generations.shape[0] == priorities.numel():
            raise ValueError(
                f"update_priorities() got {len(indices)} indices, {len(generations)} generations and "
                f"{priorities.numel()} priorities. Pass one of each per transition."
            )
        if self._prefetch is not None:
            self._prefetch.prepare()
        device = self._storage.rows.device
        priorities = priorities.detach().to(device, th.float64).flatten()
        self._storage.reprioritize(indices.to(device), generations.to(device), priorities, self.alpha)
        self.max_priority = max(self.max_priority, self._storage.largest)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_generator"] = self._generator.get_state()
        del state["_prefetch"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"capacity": state["buffer_size"], **state})
        self._generator = th.Generator()
        self._generator.set_state(state["_generator"])
        self.device = state["_device"]
        # The slots that made the transitions no longer exist.
        self.end_streams()
