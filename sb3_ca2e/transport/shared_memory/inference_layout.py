"""Where actors and the learner's process exchange observations and actions."""

import enum
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ca2e.common.packed_arrays import Field, size_of, views_of
from sb3_ca2e.replay.block import OBSERVATION
from sb3_ca2e.transport.shared_memory.memory import map_file

#: Bytes that tell how a prior agent failed.
_REPORT = 4000


_FLOAT = np.dtype(np.float32)


_WORD = np.dtype(np.int64)


class Request(enum.IntEnum):
    """What an actor process asks."""

    #: for the actions of all its slots
    ACT = 0
    #: what the networks say about some other observations, at most one a slot
    OTHERS = 1
    #: what the steps of its blocks are worth
    RATE = 2


class Part(NamedTuple):
    """
    One of the arrays that are exchanged.

    :param shape: of a row
    :param dtype: its dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class InferenceLayout:
    """
    Where questions and answers of all actor processes lie. A slot has a row; those of a process follow each other.

    :param n_slots: slots of each process
    :param rated_rows: rows of a slot that can be rated at once
    :param observations: what the networks see, by key
    :param actions: greedy actions
    :param outputs: what the algorithm keeps beside them for the priorities
    :param stored_actions: actions as the learner stores them
    :param prior_actions: actions as environments take them
    :param raw: what prior agents see, by key, where it is not what the networks see
    :param rates_observations: observations are needed to rate steps, not only what was kept
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

    def rows(self, process: int) -> slice:
        """
        :param process: index of an actor process
        :return: the rows of its slots
        """
        start = sum(self.n_slots[:process])
        return slice(start, start + self.n_slots[process])

    def rated(self, process: int, n_rows: int | None = None) -> slice:
        """
        :param process: index of an actor process
        :param n_rows: how many, None for all
        :return: the first of the rows in which it has steps rated
        """
        rows = self.rows(process)
        start = rows.start * self.rated_rows
        return slice(start, rows.stop * self.rated_rows if n_rows is None else start + n_rows)

    def _fields(self) -> Iterator[Field]:
        n_processes, n = len(self.n_slots), sum(self.n_slots)

        def of(name: str, rows: int, part: Part) -> Field:
            return name, (rows, *part.shape), part.dtype

        # The actors' side: of each process number, kind and size of its question; what it is about.
        yield "asked", (n_processes, 3), _WORD
        yield "playing", (n,), np.dtype(np.uint8)
        yield from (of(f"observations/{key}", n, part) for key, part in self.observations.items())
        yield from (of(f"raw/{key}", n, part) for key, part in self.raw.items())
        rated = n * self.rated_rows
        yield of("rated/actions", rated, self.stored_actions)
        yield of("rated/outputs", rated, self.outputs)
        if self.rates_observations:
            yield from (of(f"rated/observations/{key}", rated, part) for key, part in self.observations.items())
        # The learner's side: of each process the number of the question that was answered; the answers.
        yield "answered", (n_processes,), _WORD
        yield of("actions", n, self.actions)
        yield of("outputs", n, self.outputs)
        yield of("prior_actions", n, self.prior_actions)
        yield of("prior_failures", n, Part((_REPORT,), np.dtype(np.uint8)))
        yield "rated/q_taken", (rated,), _FLOAT
        yield "rated/values", (rated,), _FLOAT

    @property
    def n_bytes(self) -> int:
        """Size of the memory."""
        return size_of(self._fields())

    def views(self, fd: int) -> dict[str, np.ndarray]:
        """
        :param fd: shared file to map
        :return: its arrays, by name
        """
        return views_of(map_file(fd), self._fields())


def write_text(text: str, out: np.ndarray) -> None:
    """
    :param text: what to write; of a long one, the end
    :param out: ``(n_bytes,)`` uint8, written
    """
    data = text.encode()[1 - len(out) :]
    out[: len(data)] = np.frombuffer(data, np.uint8)
    out[len(data)] = 0


def read_text(written: np.ndarray) -> str:
    """
    :param written: by :func:`write_text`
    :return: the text
    """
    return written.tobytes().split(b"\0", 1)[0].decode(errors="replace") if written[0] else ""


class Doorbell:
    """
    Says which process asks; all actors ring the same. Writing so few bytes to a pipe is atomic.

    :param fd: writing end
    """

    _MESSAGE = struct.Struct("=i")
    #: rung by the learner itself to end the answering
    STOP = -1

    def __init__(self, fd: int):
        self.fd = fd

    def ring(self, process: int) -> None:
        """
        :param process: index of the actor process that asks
        """
        os.write(self.fd, self._MESSAGE.pack(process))

    @classmethod
    def rung(cls, fd: int) -> list[int]:
        """
        Sleep until somebody asks.

        :param fd: reading end
        :return: who has asked since
        """
        data = os.read(fd, 1024 * cls._MESSAGE.size)
        return [process for (process,) in cls._MESSAGE.iter_unpack(data)] or [cls.STOP]


def by_key(observations: Any) -> dict[str, th.Tensor]:
    """
    :param observations: a tensor, or a dictionary of them
    :return: by the keys of the columns in which observations are stored
    """
    return observations if isinstance(observations, dict) else {OBSERVATION: observations}
