"""SB3's replay buffer interface beyond ``add`` and ``sample``: its arrays, and conversion from and to SB3's buffers."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.replay.block import ACTION_MASK, Block, ObservationColumn, plain
from sb3_ca2e.replay.samples import PrioritizedReplaySamples
from sb3_ca2e.replay.sb3_buffers import blocks_of, check_readable, check_writable
from sb3_ca2e.replay.stacks import by_key
from sb3_ca2e.replay.storage import SegmentStorage

#: Size in bytes of the largest array that is copied.
LARGEST_COPY = 2**30
#: Number of transitions that are copied at once.
CHUNK = 4096


class PublicFace(ReplayBuffer):
    """
    The attributes of SB3's ``ReplayBuffer``, for a memory with another layout.

    Arrays are read-only copies of the stored transitions in SB3's format: raw, with complete frame stacks, and with
    ``Box`` actions scaled to [-1, 1]. Each access makes a copy, so access an array once and keep it. An array larger
    than 1 GiB raises ``AttributeError``.

    Transitions are in the order in which they were added, ``n_envs`` per row. The newest transitions are left out until
    they fill a row. Columns correspond to environments only if :meth:`add` added all transitions and none has been
    freed, because actors hand over many steps at once.

    There are ``pos`` rows, or ``buffer_size`` rows and ``pos == 0`` if the memory is ``full``. The newest row is
    ``pos - 1``. SB3's buffer overwrites its oldest row. This memory frees many of the oldest transitions at once and
    moves the others up: ``pos`` then decreases and ``full`` becomes False.
    """

    _storage: SegmentStorage | None
    _columns: dict[str, ObservationColumn]
    #: largest number of transitions; ``buffer_size`` counts rows of ``n_envs`` transitions, as in SB3
    capacity: int
    max_priority: float

    @abstractmethod
    def add_block(self, block: Block) -> None:
        """See :meth:`PrioritizedReplayBuffer.add_block`."""

    @abstractmethod
    def end_stream(self, slot: int) -> None:
        """See :meth:`PrioritizedReplayBuffer.end_stream`."""

    @abstractmethod
    def samples_at(self, indices: th.Tensor, env: VecNormalize | None = None) -> PrioritizedReplaySamples:
        """See :meth:`PrioritizedReplayBuffer.samples_at`."""

    def size(self) -> int:
        """
        Count the stored transitions. SB3's buffer counts rows of ``n_envs`` transitions instead.

        :return: number of transitions
        """
        return 0 if self._storage is None else self._storage.size

    @property
    def n_rows(self) -> int:
        """Number of rows in each array."""
        return 0 if self._storage is None else self._storage.size // self.n_envs

    @property
    def pos(self) -> int:
        """Row of the next transitions; 0 if the memory is full."""
        return self.n_rows % self.buffer_size

    @pos.setter
    def pos(self, value: int) -> None:
        _refuse_to_set("pos", self.pos, value)

    @property
    def full(self) -> bool:
        """Whether all ``buffer_size`` rows are in use. The next transition frees many of the oldest ones."""
        return self.n_rows == self.buffer_size

    @full.setter
    def full(self, value: bool) -> None:
        _refuse_to_set("full", self.full, value)

    # Arrays.

    @property
    def observations(self) -> Any:  # type: ignore[override]
        """``(rows, n_envs, *obs_shape)`` with the observation space's dtype; one array per key of a ``Dict``."""
        return self._observation_arrays("observations", 0)

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """The observations after the steps; at the end of an episode, its last observation."""
        return self._observation_arrays("next_observations", 1)

    @property
    def actions(self) -> np.ndarray:  # type: ignore[override]
        """``(rows, n_envs, action_dim)`` with the action space's dtype, float32 for a ``Box``."""
        return self._column("actions", self.action_dtype, self.action_dim)

    @property
    def rewards(self) -> np.ndarray:  # type: ignore[override]
        """``(rows, n_envs)`` float32, rewards of single steps."""
        return self._column("rewards", np.dtype(np.float32))

    @property
    def dones(self) -> np.ndarray:  # type: ignore[override]
        """
        ``(rows, n_envs)`` float32, 1 where an episode ended with that step.

        With ``optimize_memory_usage``, SB3 marks the newest step in this array, so the copy is writable. The memory
        itself does not need the mark, see :meth:`add`.
        """
        terminated, truncated = self._ends("dones")
        return _frozen((terminated | truncated).astype(np.float32), but_for_sb3=self.optimize_memory_usage)

    @property
    def timeouts(self) -> np.ndarray:  # type: ignore[override]
        """
        ``(rows, n_envs)`` float32, 1 where the episode ended without terminating: by a time limit, because the next
        step was invalid, because ``learn`` returned, or because the memory was saved.
        """
        return _frozen(self._ends("timeouts")[1].astype(np.float32))

    @property
    def action_dtype(self) -> np.dtype:
        """The dtype of stored actions; float32 for any ``Box``, whose actions are scaled to [-1, 1]."""
        return np.dtype(np.float32 if isinstance(self.action_space, spaces.Box) else self.action_space.dtype)

    def _rows_held(self) -> np.ndarray:
        """``(rows, n_envs)`` int64, the storage's rows of what the arrays show."""
        held = np.empty(0, np.int64) if self._storage is None else self._storage.in_order()
        return held[: self.n_rows * self.n_envs].reshape(-1, self.n_envs)

    def _column(self, name: str, dtype: np.dtype, *shape: int) -> np.ndarray:
        self._refuse_large(name, math.prod(shape) * dtype.itemsize)
        rows = self._rows_held()
        if self._storage is None:
            return _frozen(np.empty((*rows.shape, *shape), dtype))
        return _frozen(self._storage.rows.look_up(name, rows))

    def _ends(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        self._refuse_large(name, 4)
        rows = self._rows_held()
        if self._storage is None:
            return np.zeros(rows.shape, bool), np.zeros(rows.shape, bool)
        terminated, truncated = self._storage.ends(rows.ravel())
        return terminated.reshape(rows.shape), truncated.reshape(rows.shape)

    def _spaces(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return SB3's shape and dtype of observations for each key."""
        parts = by_key(getattr(self.observation_space, "spaces", self.observation_space))
        return {key: (shape, np.dtype(parts[key].dtype)) for key, shape in by_key(self.obs_shape).items()}

    def _observation_arrays(self, name: str, later: int) -> Any:
        """
        Copy observations.

        :param name: name of the attribute
        :param later: 1 for the observations after the steps, otherwise 0
        :return: an array or a dict of arrays
        """
        self._refuse_large(name, sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._spaces().values()))
        rows = self._rows_held()
        arrays = {key: np.empty((rows.size, *shape), dtype) for key, (shape, dtype) in self._spaces().items()}
        for start in range(0, rows.size, CHUNK):
            for key, values in self._raw(rows.ravel()[start : start + CHUNK] + later).items():
                arrays[key][start : start + CHUNK] = values
        shaped = {key: _frozen(array.reshape(*rows.shape, *array.shape[1:])) for key, array in arrays.items()}
        return plain(shaped)

    def _raw(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read ``(n, *obs_shape)`` observations of the storage's rows in SB3's format, for each key."""
        assert self._storage is not None
        tensors = self._storage.rows.observations(th.from_numpy(rows).to(self._storage.rows.device))
        return {
            key: tensors[key].cpu().numpy().reshape(len(rows), *shape).astype(dtype, copy=False)
            for key, (shape, dtype) in self._spaces().items()
        }

    def _refuse_large(self, name: str, nbytes: int) -> None:
        """Refuse an array with that many bytes per transition if it is too large."""
        total = self.n_rows * self.n_envs * nbytes
        if total > LARGEST_COPY:
            raise AttributeError(
                f"{name} of {self.n_rows * self.n_envs} transitions would be a copy of {total / 2**30:.1f} GiB, and at "
                f"most {LARGEST_COPY / 2**30:.1f} GiB are copied. Use sample(), or _get_samples() for some of the rows."
            )

    # Samples of rows, and other buffers.

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> PrioritizedReplaySamples:
        """
        Return the samples that begin in given rows of the arrays, each in a random column as in SB3.

        The time needed is proportional to the number of stored transitions; :meth:`samples_at` is fast.

        :param batch_inds: ``(batch,)`` integers from 0 to ``n_rows - 1``
        :param env: as in :meth:`sample`
        :return: the samples
        :raises IndexError: if a row does not exist
        """
        rows, inds = self._rows_held(), np.asarray(batch_inds)
        if not np.issubdtype(inds.dtype, np.integer) or inds.ndim != 1:
            raise IndexError(f"_get_samples() expects a 1-d array of integers, got {inds.dtype}, {inds.shape}.")
        if len(outside := inds[(inds < 0) | (inds >= len(rows))]) > 0 or self._storage is None:
            raise IndexError(
                f"_get_samples() got rows {outside[:3]}, but the memory holds {len(rows)} rows, counted from 0."
            )
        columns = np.random.randint(0, high=self.n_envs, size=len(inds))
        return self.samples_at(th.from_numpy(rows[inds, columns]).to(self._storage.rows.device), env)

    def add_from(self, buffer: ReplayBuffer) -> int:
        """
        Append the transitions of an SB3 buffer, with the largest priority seen so far.

        Each of its environments becomes a slot. The slot's newest step counts as truncated unless an episode ended with
        it. If not all transitions fit, the newest are kept. ``model.load_replay_buffer`` does the same with a file.

        :param buffer: ``ReplayBuffer``, ``DictReplayBuffer`` or ``NStepReplayBuffer``
        :return: number of transitions appended
        :raises TypeError: if the buffer has another class
        :raises ValueError: if its spaces differ, if its observations can't be stored as frames, or if this memory
            stores action masks; nothing is appended then
        """
        check_readable(buffer, self.observation_space, self.action_space)
        self._refuse_without_masks("add_from()")
        for _ in blocks_of(buffer, self._columns, self.capacity):
            pass  # refuses observations before anything is appended
        n_taken = 0
        for block, continues in blocks_of(buffer, self._columns, self.capacity):
            self._append(block, continues)
            n_taken += len(block)
        for slot in range(buffer.n_envs):
            self.end_stream(slot)
        return n_taken

    @property
    def masked(self) -> bool:
        """Whether the memory stores which actions each observation allows."""
        return ACTION_MASK in self._columns

    def _refuse_without_masks(self, method: str) -> None:
        """Refuse transitions without masks: if all actions counted as allowed, targets would use forbidden ones."""
        if self.masked:
            raise ValueError(
                f"{method} takes transitions without action masks, but this memory stores which actions each "
                "observation allows, as its environment gives action masks. Leave the masks out of the environment, or "
                "let actors collect the transitions."
            )

    def _append(self, block: Block, continues: bool) -> None:
        """
        Append a block, with the largest priority seen so far.

        :param block: a block whose transitions all have priority 1
        :param continues: whether it continues the slot's last block
        """
        if not continues:
            self.end_stream(block.slot)
        block.priorities *= self.max_priority
        self.add_block(block)

    def add_to(self, buffer: ReplayBuffer) -> int:
        """
        Append the stored transitions to an SB3 buffer with its ``add``, in the order in which they were stored.

        They are single steps without priorities and action masks. With ``n_envs > 1``, the buffer's columns do not
        correspond to environments, and the oldest transitions are left out if they do not fill a row.

        :param buffer: ``ReplayBuffer`` or ``DictReplayBuffer``
        :return: number of transitions written, the newest that fit
        :raises TypeError: if the buffer has another class
        :raises ValueError: if its spaces differ, or if it can't represent the transitions
        """
        check_writable(buffer, self.observation_space, self.action_space)
        storage = self._storage
        if storage is None:
            return 0
        n_rows = min(storage.size // buffer.n_envs, buffer.buffer_size)
        rows = storage.in_order()[storage.size - n_rows * buffer.n_envs :].reshape(n_rows, buffer.n_envs)
        if not buffer.handle_timeout_termination and storage.ends(rows.ravel())[1].any():
            raise ValueError(
                "The memory holds truncated episodes, which a buffer with handle_timeout_termination=False would treat "
                "as terminated. Create the buffer with handle_timeout_termination=True."
            )
        for arguments in self._arguments(storage, rows):
            buffer.add(*arguments)
        return int(rows.size)

    def _arguments(self, storage: SegmentStorage, rows: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """Yield the arguments of SB3's ``add`` for each row of an ``(n, n_envs)`` array of the storage's rows."""
        n_envs = rows.shape[1]

        def shaped(raw: dict[str, np.ndarray], i: int) -> Any:
            return plain({key: values[i * n_envs : (i + 1) * n_envs] for key, values in raw.items()})

        for start in range(0, len(rows), chunk := max(CHUNK // n_envs, 1)):
            part = rows[start : start + chunk]
            before, after = self._raw(part.ravel()), self._raw(part.ravel() + 1)
            actions, rewards = (storage.rows.look_up(name, part) for name in ("actions", "rewards"))
            terminated, truncated = (ends.reshape(part.shape) for ends in storage.ends(part.ravel()))
            for i in range(len(part)):
                infos = [{"TimeLimit.truncated": bool(each)} for each in truncated[i]]
                dones = terminated[i] | truncated[i]
                yield shaped(before, i), shaped(after, i), actions[i], rewards[i], dones, infos


def _frozen(copy: np.ndarray, but_for_sb3: bool = False) -> np.ndarray:
    """Make a copy read-only, so that nobody writes to it instead of the memory."""
    copy.setflags(write=but_for_sb3)
    return copy


def _refuse_to_set(name: str, now: object, value: object) -> None:
    """Refuse any other value. SB3's constructor and ``reset`` assign the current one."""
    if value != now:
        raise AttributeError(f"{name} follows from the stored transitions. To delete them, call reset().")
