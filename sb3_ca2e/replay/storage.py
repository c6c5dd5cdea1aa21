"""First-in, first-out storage in segments of rows, each owned by one slot and freed as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch as th

from sb3_ca2e.replay.block import ENDED, PRIOR, TERMINATED, TRANSITION, TRUNCATED, Block, ObservationColumn, lead_frames
from sb3_ca2e.replay.rows import Rows

#: Data rows of a segment. A lead and a tail come on top, so that stacks never span two segments.
SEGMENT_LENGTH = 256


def rows_on(device: th.device | str) -> type[Rows]:
    """
    Choose the backend for a device.

    :param device: PyTorch device of the memory
    :return: the class of the memory's rows
    """
    if th.device(device).type != "cpu":
        return Rows
    # Processes without a replay memory, such as actors, never import numba.
    from sb3_ca2e.replay.host_rows import HostRows

    return HostRows


@dataclass
class Segment:
    """
    What the CPU knows of a segment in use.

    :param slot: the slot that owns it
    :param start: its first data row
    :param fill: number of rows written from there; one more than there are data rows if the tail holds the last
        frame of an episode
    :param last_flags: flags of the last row written
    :param cut: whether the slot's stream ended here
    :param n_transitions: number of transitions
    :param n_prior: number of transitions that a prior agent made
    """

    slot: int
    start: int
    fill: int = 0
    last_flags: int = 0
    cut: bool = False
    n_transitions: int = 0
    n_prior: int = 0


class SegmentStorage:
    """
    Stores the newest transitions of all slots.

    A segment consists of the ``lead`` frames that its first stacks need, ``segment_length`` data rows, and
    a tail row for the frame after them. An episode's last frame takes a row, so with very short episodes the
    storage holds fewer than ``buffer_size`` transitions.

    :param buffer_size: largest number of transitions
    :param columns: how observations are stored
    :param action_dim: number of elements of an action
    :param action_dtype: dtype of actions
    :param segment_length: number of data rows of a segment
    :param n_slots: expected number of slots; with more, each gets less room
    :param device: PyTorch device
    """

    def __init__(
        self,
        buffer_size: int,
        columns: dict[str, ObservationColumn],
        action_dim: int,
        action_dtype: np.dtype,
        segment_length: int = SEGMENT_LENGTH,
        n_slots: int = 16,
        device: th.device | str = "cpu",
    ):
        self.buffer_size = buffer_size
        # A longer segment would have to be freed before it is full, leaving nothing.
        self.segment_length = segment_length = min(segment_length, buffer_size)
        self.lead = lead_frames(columns)
        self.segment_rows = self.lead + segment_length + 1
        # Every slot keeps a segment open, in addition to the full ones.
        n_segments = -(-buffer_size // segment_length) + n_slots
        self._row_arguments = (n_segments * self.segment_rows, columns, action_dim, action_dtype)
        self.rows = rows_on(device).empty(self.segment_rows, self._row_arguments, device)
        #: segments in use, oldest first
        self.segments: dict[int, Segment] = {}
        self._unused = list(range(n_segments))[::-1]
        #: the segment that each slot last wrote to
        self._newest: dict[int, int] = {}
        self.size = 0
        self.n_prior = 0
        self.n_committed = 0
        #: largest priority written, as far as the device has reported it
        self.largest = 0.0
        #: number of invalid priorities that were not written, as far as the device has reported it
        self.n_refused = 0

    def to(self, device: th.device | str) -> None:
        """
        Move the rows to a device.

        :param device: PyTorch device
        """
        before, self.rows = self.rows, self.rows.on(device, rows_on(device))
        self._note(*before.look_at_written())

    def reprioritize(self, rows: th.Tensor, generations: th.Tensor, priorities: th.Tensor, alpha: float) -> None:
        """Set priorities of sampled rows, see :meth:`Rows.reprioritize`."""
        self._note(*self.rows.reprioritize(rows, generations, priorities, alpha))

    def look_at_written(self) -> None:
        """Update the tally of priorities with what the device has reported so far, without waiting for it."""
        self._note(*self.rows.look_at_written())

    def _note(self, largest: float, n_refused: int) -> None:
        self.largest = max(self.largest, largest)
        self.n_refused += n_refused

    def commit(self, block: Block, priorities: np.ndarray) -> None:
        """
        Append the rows of a block to its slot's stream, and free the oldest segments if there are too many transitions.

        :param block: the rows
        :param priorities: ``(n_rows,)`` float64 to sample rows in proportion to, zero for rows without a transition
        """
        self._check(block)
        row, n_rows = 0, len(block.flags)
        n_committed = self.n_committed + len(block)
        while row < n_rows:
            segment_id = self._newest.get(block.slot)
            if segment_id is None or not self._takes(self.segments[segment_id], block, row):
                segment_id = self._open(block, row)
            segment = self.segments[segment_id]
            if segment.fill == self.segment_length:
                # The episode ended with the last data row, so its last frame is already in the tail.
                segment.fill, segment.last_flags = segment.fill + 1, 0
                row += 1
                continue
            n_written = min(self.segment_length - segment.fill, n_rows - row)
            self._write(segment, block, slice(row, row + n_written), priorities, n_committed)
            row += n_written
            while self.size > self.buffer_size:
                self._free_oldest()
        self.n_committed = n_committed
        self.rows.n_committed.fill_(n_committed)

    def _check(self, block: Block) -> None:
        """Refuse a block of the wrong shape before any of it is written."""
        n_rows = len(block.flags)
        frames = {
            f"frames[{key!r}]": (block.frames[key], (self.lead + n_rows + 1, *column.frame_shape))
            for key, column in self.rows.observation_columns.items()
        }
        actions = {"actions": (block.actions, (n_rows, self.rows.actions.shape[1]))}
        others = {"rewards": (block.rewards, (n_rows,)), "ages": (block.ages, (n_rows + 1,))}
        for name, (array, shape) in {**frames, **actions, **others}.items():
            if array.shape != shape:
                raise ValueError(
                    f"A block of {n_rows} rows from slot {block.slot} has {name} of shape {array.shape}, "
                    f"expected {shape}. The slot and the memory must have the same spaces and frame stack."
                )

    def _takes(self, segment: Segment, block: Block, row: int) -> bool:
        """Return whether a segment, the last one of the slot, can take a row of a block."""
        if segment.cut and block.ages[row] > 0:
            return False  # the row's stack needs frames that the segment lacks
        is_transition = bool(block.flags[row] & TRANSITION)
        return segment.fill < self.segment_length or (segment.fill == self.segment_length and not is_transition)

    def _open(self, block: Block, row: int) -> int:
        """Open a segment with the lead frames of a row of a block."""
        if not self._unused:
            self._free_oldest()
        segment_id = self._unused.pop()
        start = segment_id * self.segment_rows + self.lead
        lead = {f"frames.{key}": block.frames[key][row : row + self.lead] for key in self.rows.frames}
        self.rows.write(start - self.lead, lead)
        previous = self._newest.get(block.slot)
        # A tail that holds an episode's last frame ends the chain of steps, even without a flag that marks an end.
        if previous is not None and self.segments[previous].fill <= self.segment_length:
            self._link(self.segments[previous], start)
        self.segments[segment_id] = Segment(block.slot, start)
        self._newest[block.slot] = segment_id
        return segment_id

    def _link(self, segment: Segment, successor: int) -> None:
        """Set the row of the step after the last data row of a segment."""
        self.rows.successors[segment.start + self.segment_length - 1] = successor

    def _write(self, segment: Segment, block: Block, part: slice, priorities: np.ndarray, n_committed: int) -> None:
        """Write a part of a block after the rows of a segment, and provisionally the frame that follows it."""
        flags = block.flags[part]
        seen = slice(self.lead + part.start, self.lead + part.stop + 1)
        columns = {
            "ages": block.ages[part.start : part.stop + 1],
            "actions": block.actions[part],
            "rewards": block.rewards[part],
            "inserted_at": np.full(len(flags), n_committed),
            "flags": flags,
        }
        frames = {f"frames.{key}": block.frames[key][seen] for key in self.rows.frames}
        first = segment.start + segment.fill
        self.rows.write(first, frames | columns)
        self.rows.priorities.assign(first, priorities[part])
        n_transitions = int(np.count_nonzero(flags & TRANSITION))
        n_prior = int(np.count_nonzero((flags & TRANSITION > 0) & (flags & PRIOR > 0)))
        segment.fill += len(flags)
        segment.last_flags = int(flags[-1])
        segment.cut = False
        segment.n_transitions += n_transitions
        segment.n_prior += n_prior
        self.size += n_transitions
        self.n_prior += n_prior

    def _free_oldest(self) -> None:
        """
        Free the oldest segment: clear its flags and priorities, and the link to the segment after it.

        No segment links to it, because the slot's older segments have been freed before.
        """
        segment_id = next(iter(self.segments))
        segment = self.segments.pop(segment_id)
        first = segment.start - self.lead
        self.rows.priorities.assign(first, np.zeros(self.segment_rows))
        self.rows.flags[first : first + self.segment_rows] = 0
        self.rows.generations[segment_id] += 1
        self._link(segment, self.rows.sentinel)
        if self._newest[segment.slot] == segment_id:
            del self._newest[segment.slot]
        self.size -= segment.n_transitions
        self.n_prior -= segment.n_prior
        self._unused.append(segment_id)

    def end_stream(self, slot: int) -> None:
        """
        End a slot's stream. Its last transition counts as truncated unless an episode ended with it.

        :param slot: the slot, which may have written nothing
        """
        segment_id = self._newest.get(slot)
        if segment_id is None:
            return
        segment = self.segments[segment_id]
        segment.cut = True
        if not segment.last_flags & TRANSITION:
            return
        if not segment.last_flags & ENDED:
            self.rows.flags[segment.start + segment.fill - 1] |= int(TRUNCATED)
        # The provisional frame after the last transition stays, because values are bootstrapped from it.
        segment.fill, segment.last_flags = segment.fill + 1, 0

    def end_streams(self) -> None:
        """End the streams of all slots."""
        for slot in self._newest:
            self.end_stream(slot)

    # Reading everything. The time needed is proportional to the number of transitions.

    def in_order(self) -> np.ndarray:
        """
        List the stored transitions.

        :return: ``(size,)`` int64 rows, in the order in which they were stored
        """
        starts = np.array([segment.start for segment in self.segments.values()], np.int64)
        rows = (starts[:, None] + np.arange(self.segment_length)).ravel()
        rows = rows[self.rows.look_up("flags", rows) & TRANSITION > 0]
        # Rows of the same block have the same number, and their segments were opened in order.
        order = self.rows.look_up("inserted_at", rows).argsort(kind="stable")
        return np.asarray(rows[order])

    def ends(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Look up where episodes end. As in returns, an episode that breaks off or whose stream ended counts as truncated.

        :param rows: ``(n,)`` int64 rows of transitions
        :return: ``(n,)`` bool, whether the episode terminated with that step; ``(n,)`` bool, whether it was truncated
        """
        flags = self.rows.look_up("flags", rows)
        under_way = [
            segment.start + segment.fill - 1
            for segment in (self.segments[newest] for newest in self._newest.values())
            if segment.last_flags & TRANSITION
        ]
        goes_on = self.rows.look_up("flags", self.rows.look_up("successors", rows)) & TRANSITION > 0
        goes_on |= np.isin(rows, under_way)
        terminated = flags & TERMINATED > 0
        return terminated, ~terminated & ((flags & TRUNCATED > 0) | ~goes_on)

    # Saving: only segments in use, because unused ones may never have been touched.

    def description(self) -> dict[str, Any]:
        """
        Describe the storage for a file.

        :return: everything but the rows
        """
        state = {**self.__dict__, "generations": self.rows.generations.cpu()}
        del state["rows"]
        return state

    def chunks(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """
        Read the segments in use.

        :return: for each segment, the arguments of :meth:`Rows.restore`
        """
        for segment in self.segments.values():
            start = segment.start - self.lead
            yield start, self.rows.read(start, start + self.segment_rows)

    @classmethod
    def described(cls, description: dict[str, Any]) -> Self:
        """
        Create a storage from its description.

        :param description: what :meth:`description` returned
        :return: a storage on the CPU, whose rows have yet to be written
        """
        storage = cls.__new__(cls)
        storage.__dict__.update(description)
        storage.rows = rows_on("cpu").empty(storage.segment_rows, storage._row_arguments, "cpu")
        storage.rows.generations.copy_(storage.__dict__.pop("generations"))
        storage.rows.n_committed.fill_(storage.n_committed)
        return storage

    def __getstate__(self) -> dict[str, Any]:
        return {**self.description(), "chunks": dict(self.chunks())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        chunks = state.pop("chunks")
        self.__dict__.update(vars(self.described(state)))
        for start, columns in chunks.items():
            self.rows.restore(start, columns)
