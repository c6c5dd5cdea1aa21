"""First in, first out: segments of rows, each owned by one slot and freed as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch as th

from sb3_ca2e.replay.block import ENDED, PRIOR, TERMINATED, TRANSITION, TRUNCATED, Block, ObservationColumn, lead_frames
from sb3_ca2e.replay.rows import Rows

#: Data rows of a segment. Its lead and tail are the price of never reading a frame across segments.
SEGMENT_LENGTH = 256


def rows_on(device: th.device | str) -> type[Rows]:
    """
    Choose the backend of a memory.

    :param device: torch device
    :return: the class of its rows
    """
    if th.device(device).type != "cpu":
        return Rows
    # Processes without a replay memory, an actor's for instance, never import numba.
    from sb3_ca2e.replay.host_rows import HostRows

    return HostRows


@dataclass
class Segment:
    """
    What is known of a segment in use without asking the device.

    :param slot: the slot that owns it
    :param start: its first data row
    :param fill: rows written from there; one more than there are data rows if the tail holds the last
        frame of an episode
    :param last_flags: flags of the last row written
    :param cut: what comes next continues nothing
    :param n_transitions: rows that are transitions
    :param n_prior: those of them that a prior agent made
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
    Holds the newest transitions of all slots.

    A segment is made of the ``lead`` frames that its first stacks need, ``segment_length`` data rows, and
    a tail row for the frame that comes after them. An episode's last frame takes a row, so that very
    short episodes leave room for fewer than ``buffer_size`` transitions.

    :param buffer_size: number of transitions that is never exceeded
    :param columns: how observations are stored
    :param action_dim: elements of an action
    :param action_dtype: their dtype
    :param segment_length: data rows of a segment
    :param n_slots: expected number of slots; more are served with less room for each
    :param device: torch device
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
        # A longer one would have to be freed before it is full, with all that there is.
        self.segment_length = segment_length = min(segment_length, buffer_size)
        self.lead = lead_frames(columns)
        self.segment_rows = self.lead + segment_length + 1
        # Every slot keeps a segment open, on top of those that are full.
        n_segments = -(-buffer_size // segment_length) + n_slots
        self._row_arguments = (n_segments * self.segment_rows, columns, action_dim, action_dtype)
        self.rows = rows_on(device).empty(self.segment_rows, *self._row_arguments, device)
        #: segments in use, oldest first
        self.segments: dict[int, Segment] = {}
        self._unused = list(range(n_segments))[::-1]
        #: the segment that each slot wrote to last
        self._newest: dict[int, int] = {}
        self.size = 0
        self.n_prior = 0
        self.n_committed = 0
        #: largest priority written, as far as is known
        self.largest = 0.0
        #: priorities that were not written as they were no finite numbers, as far as is known
        self.n_refused = 0

    def to(self, device: th.device | str) -> None:
        """
        Move everything.

        :param device: torch device
        """
        before, self.rows = self.rows, self.rows.on(device, rows_on(device))
        self._note(*before.look_at_written())

    def generations_of(self, rows: th.Tensor) -> th.Tensor:
        """
        Look up how often the segments of rows have been freed.

        :param rows: ``(batch,)`` int64
        :return: ``(batch,)`` int64
        """
        return self.rows.generations_of(rows)

    def reprioritize(self, rows: th.Tensor, generations: th.Tensor, priorities: th.Tensor, alpha: float) -> None:
        """See :meth:`Rows.reprioritize`; the tally is kept here."""
        self._note(*self.rows.reprioritize(rows, generations, priorities, alpha))

    def look_at_written(self) -> None:
        """Look at the tally of the priorities written, as far as the device has come: nothing waits for it."""
        self._note(*self.rows.look_at_written())

    def _note(self, largest: float, n_refused: int) -> None:
        self.largest = max(self.largest, largest)
        self.n_refused += n_refused

    def commit(self, block: Block, priorities: np.ndarray) -> None:
        """
        Append the rows of a block to its slot's stream, and free the oldest segments where there are too many.

        :param block: the rows
        :param priorities: ``(n_rows,)`` float64 that rows are sampled in proportion to, zero unless transitions
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
                # The episode ended with the last data row: its last frame is in the tail already.
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
        """Refuse a block that does not fit before anything of it is written."""
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
                    f"expected {shape}. The slot and the memory must be made for the same spaces and frame stack."
                )

    def _takes(self, segment: Segment, block: Block, row: int) -> bool:
        """Whether a row of a block can go into the segment that its slot wrote to last."""
        if segment.cut and block.ages[row] > 0:
            return False  # its stack reaches back to frames that are not there
        is_transition = bool(block.flags[row] & TRANSITION)
        return segment.fill < self.segment_length or (segment.fill == self.segment_length and not is_transition)

    def _open(self, block: Block, row: int) -> int:
        """Begin a segment with the lead frames of a row of a block."""
        if not self._unused:
            self._free_oldest()
        segment_id = self._unused.pop()
        start = segment_id * self.segment_rows + self.lead
        lead = {f"frames.{key}": block.frames[key][row : row + self.lead] for key in self.rows.frames}
        self.rows.write(start - self.lead, lead)
        previous = self._newest.get(block.slot)
        # A tail that is a row of its own ends what came before it, also where no flag of an end says so.
        if previous is not None and self.segments[previous].fill <= self.segment_length:
            self._link(self.segments[previous], start)
        self.segments[segment_id] = Segment(block.slot, start)
        self._newest[block.slot] = segment_id
        return segment_id

    def _link(self, segment: Segment, successor: int) -> None:
        """Set the row of the step that follows the last data row of a segment."""
        self.rows.successors[segment.start + self.segment_length - 1] = successor

    def _write(self, segment: Segment, block: Block, part: slice, priorities: np.ndarray, n_committed: int) -> None:
        """Write a part of a block behind what a segment holds, and provisionally the frame that comes next."""
        flags = block.flags[part]
        seen = slice(self.lead + part.start, self.lead + part.stop + 1)
        columns = {
            "ages": block.ages[part.start : part.stop + 1],
            "actions": block.actions[part],
            "rewards": block.rewards[part],
            "inserted_at": np.full(len(flags), n_committed),
            "flags": flags,
            "priorities": priorities[part],
        }
        frames = {f"frames.{key}": block.frames[key][seen] for key in self.rows.frames}
        self.rows.write(segment.start + segment.fill, frames | columns)
        is_transition = flags & TRANSITION > 0
        n_transitions = int(np.count_nonzero(is_transition))
        n_prior = int(np.count_nonzero(is_transition & (flags & PRIOR > 0)))
        segment.fill += len(flags)
        segment.last_flags = int(flags[-1])
        segment.cut = False
        segment.n_transitions += n_transitions
        segment.n_prior += n_prior
        self.size += n_transitions
        self.n_prior += n_prior

    def _free_oldest(self) -> None:
        """
        Forget the oldest segment: its rows are no transitions any more, and nothing leads out of it.

        Nothing leads into it, as its slot's older segments have been freed before.
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
        Cut a slot's stream: its last transition, unless an episode ended with it, counts as truncated.

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
        # The frame after the last transition was provisional; it stays, as values are bootstrapped from it.
        segment.fill, segment.last_flags = segment.fill + 1, 0

    def end_streams(self) -> None:
        """Cut the streams of all slots."""
        for slot in self._newest:
            self.end_stream(slot)

    # Reading everything, which takes a time in proportion to it.

    def in_order(self) -> np.ndarray:
        """
        List the transitions held.

        :return: ``(size,)`` int64 rows, in the order in which they were committed
        """
        starts = np.array([segment.start for segment in self.segments.values()], np.int64)
        rows = (starts[:, None] + np.arange(self.segment_length)).ravel()
        rows = rows[self.rows.look_up("flags", rows) & TRANSITION > 0]
        # Rows of the same block have the same number, and their segments were opened one after the other.
        order = self.rows.look_up("inserted_at", rows).argsort(kind="stable")
        return np.asarray(rows[order])

    def ends(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Look up where episodes end. One that breaks off, or whose stream was cut, counts as truncated, as in returns.

        :param rows: ``(n,)`` int64 of transitions
        :return: ``(n,)`` bool, terminated with that step; ``(n,)`` bool, truncated with it
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

    # Saving: only segments in use, as the rest of the memory may never have been touched.

    def description(self) -> dict[str, Any]:
        """
        :return: everything but the rows
        """
        state = {**self.__dict__, "generations": self.rows.generations.cpu()}
        del state["rows"]
        return state

    def chunks(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """
        :return: the segments in use: a first row, and what ``rows.write`` puts back from there
        """
        for segment in self.segments.values():
            start = segment.start - self.lead
            yield start, self.rows.read(start, start + self.segment_rows)

    @classmethod
    def described(cls, description: dict[str, Any]) -> Self:
        """
        :param description: what :meth:`description` gave
        :return: a storage on the CPU, whose rows are to be written
        """
        storage = cls.__new__(cls)
        storage.__dict__.update(description)
        storage.rows = rows_on("cpu").empty(storage.segment_rows, *storage._row_arguments, "cpu")
        storage.rows.generations.copy_(storage.__dict__.pop("generations"))
        storage.rows.n_committed.fill_(storage.n_committed)
        return storage

    def __getstate__(self) -> dict[str, Any]:
        return {**self.description(), "chunks": dict(self.chunks())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        chunks = state.pop("chunks")
        self.__dict__.update(vars(self.described(state)))
        for start, columns in chunks.items():
            self.rows.write(start, columns)
