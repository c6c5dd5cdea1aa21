"""Memory layout of the exchange of observations and actions between actors and the learner's process."""

import enum
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sb3_ca2e.common.packed_arrays import Field, size_of, views_of
from sb3_ca2e.transport.shared_memory.memory import map_file

#: Bytes reserved for the traceback of a prior agent.
_REPORT = 4000


_FLOAT = np.dtype(np.float32)


_WORD = np.dtype(np.int64)


class Request(enum.IntEnum):
    """Kind of a request of an actor process."""

    #: actions of all its slots
    ACT = 0
    #: network outputs for other observations, at most one for each slot
    OTHERS = 1
    #: values of the steps of its blocks
    RATE = 2


class Part(NamedTuple):
    """
    One exchanged array.

    :param shape: shape of a row
    :param dtype: dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class InferenceLayout:
    """
    Memory layout of requests and replies of all actor processes. Each slot has a row; the rows of a process are
    adjacent.

    :param n_slots: number of slots of each process
    :param rated_rows: rows of a slot that can be evaluated at once
    :param observations: network input by key
    :param actions: greedy actions
    :param outputs: outputs that the algorithm keeps for the priorities
    :param stored_actions: stored actions
    :param prior_actions: actions of the environment
    :param raw: observations for prior agents by key, if they differ from the network input
    :param rates_observations: whether evaluating steps needs observations, not only the stored outputs
    :param action_masks: which actions an observation allows; None without action masks
    """

    n_slots: tuple[int, ...]
    rated_rows: int
    observations: dict[str, Part]
    actions: Part
    outputs: Part
    stored_actions: Part
    prior_actions: Part
    raw: dict[str, Part] = field(default_factory=dict)
    rates_observations: bool = False
    action_masks: Part | None = None

    def rows(self, process: int) -> slice:
        """
        Return the rows of a process.

        :param process: index of an actor process
        :return: the rows of its slots
        """
        start = sum(self.n_slots[:process])
        return slice(start, start + self.n_slots[process])

    def rated(self, process: int, n_rows: int | None = None) -> slice:
        """
        Return the rows in which a process has steps evaluated.

        :param process: index of an actor process
        :param n_rows: number of rows, None for all
        :return: the first of these rows
        """
        rows = self.rows(process)
        start = rows.start * self.rated_rows
        return slice(start, rows.stop * self.rated_rows if n_rows is None else start + n_rows)

    def _fields(self) -> Iterator[Field]:
        n_processes, n = len(self.n_slots), sum(self.n_slots)

        def of(name: str, rows: int, part: Part) -> Field:
            return name, (rows, *part.shape), part.dtype

        # The actors' side: number, kind and size of each process's request; then its data.
        yield "asked", (n_processes, 3), _WORD
        yield "playing", (n,), np.dtype(np.uint8)
        yield from (of(f"observations/{key}", n, part) for key, part in self.observations.items())
        yield from (of(f"raw/{key}", n, part) for key, part in self.raw.items())
        rated = n * self.rated_rows
        yield of("rated/actions", rated, self.stored_actions)
        yield of("rated/outputs", rated, self.outputs)
        if self.rates_observations:
            yield from (of(f"rated/observations/{key}", rated, part) for key, part in self.observations.items())
        if self.action_masks is not None:
            yield of("action_masks", n, self.action_masks)
            yield of("rated/action_masks", rated, self.action_masks)
        # The learner's side: number of each process's request that was answered last; then the replies.
        yield "answered", (n_processes,), _WORD
        yield of("actions", n, self.actions)
        yield of("outputs", n, self.outputs)
        yield of("prior_actions", n, self.prior_actions)
        yield of("prior_failures", n, Part((_REPORT,), np.dtype(np.uint8)))
        yield "rated/q_taken", (rated,), _FLOAT
        yield "rated/values", (rated,), _FLOAT

    @property
    def n_bytes(self) -> int:
        """Size of the memory, in bytes."""
        return size_of(self._fields())

    def views(self, fd: int) -> dict[str, np.ndarray]:
        """
        Map the memory.

        :param fd: shared file to map
        :return: its arrays by name
        """
        return views_of(map_file(fd), self._fields())


def write_text(text: str, out: np.ndarray) -> None:
    """
    Write a text to memory.

    :param text: text; only the end of a long text is written
    :param out: ``(n_bytes,)`` uint8, overwritten
    """
    data = text.encode()[1 - len(out) :]
    out[: len(data)] = np.frombuffer(data, np.uint8)
    out[len(data)] = 0


def read_text(written: np.ndarray) -> str:
    """
    Read a text from memory.

    :param written: memory that :func:`write_text` has written
    :return: the text
    """
    return written.tobytes().split(b"\0", 1)[0].decode(errors="replace") if written[0] else ""


class Doorbell:
    """
    A pipe through which all actors announce requests; writing a few bytes is atomic.

    :param fd: write end
    """

    _MESSAGE = struct.Struct("=i")
    #: rung by the learner itself to stop the server
    STOP = -1

    def __init__(self, fd: int):
        self.fd = fd

    def ring(self, process: int) -> None:
        """
        Announce a request.

        :param process: index of the actor process
        """
        os.write(self.fd, self._MESSAGE.pack(process))

    @classmethod
    def rung(cls, fd: int) -> list[int]:
        """
        Wait for requests.

        :param fd: read end
        :return: processes that have requests
        """
        data = os.read(fd, 1024 * cls._MESSAGE.size)
        return [process for (process,) in cls._MESSAGE.iter_unpack(data)] or [cls.STOP]
