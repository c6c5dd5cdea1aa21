"""
Questions of actors to networks in the learner's process, and its answers, in memory that both map.

As with blocks, no lock is shared and every byte has one writer. An actor writes its observations, then the number of
its question, and rings; the learner's process writes what its networks say, then the same number, and rings back. An
actor that dies while it writes has asked nothing.
"""

import contextlib
import enum
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ca2e.actors.recorder import Steps
from sb3_ca2e.actors.transport import Field, map_file, size_of, views_of
from sb3_ca2e.replay.block import OBSERVATION

#: Bytes that tell how a prior agent failed.
_REPORT = 4000
_FLOAT = np.dtype(np.float32)
_WORD = np.dtype(np.int64)


class Question(enum.IntEnum):
    """What an actor process asks."""

    #: for the actions of all its slots
    ACT = 0
    #: what the networks say about some other observations, at most one a slot
    OTHERS = 1
    #: what the steps of its blocks are worth
    RATE = 2


class Playing(enum.IntEnum):
    """Who plays in a slot."""

    NATURE = 0
    PRIOR = 1
    #: a prior agent, at the start of an episode
    PRIOR_STARTS = 2

    @classmethod
    def of(cls, prior: bool, age: int) -> "Playing":
        """
        :param prior: a prior agent does
        :param age: steps since the episode began
        :return: who plays
        """
        return cls.NATURE if not prior else cls.PRIOR if age > 0 else cls.PRIOR_STARTS


class Part(NamedTuple):
    """
    One of the arrays that are exchanged.

    :param shape: of a row
    :param dtype: its dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class ExchangeLayout:
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


class LearnerGone(Exception):
    """The learner has ended, or wants its actors to end: there will be no answer."""


class PriorFailed(Exception):
    """A prior agent raised an exception in the learner's process; the message is its traceback."""


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


class Bell:
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


class RemoteInference:
    """
    What the networks say about observations, asked in the learner's process. In the place of
    :class:`~sb3_ca2e.actors.inference.Inference`.

    :param layout: of the exchange
    :param process: index of this process
    :param fd: the exchange
    :param bell: to ring when a question has been written
    :param replies: reading end of a pipe through which a byte comes with each answer
    """

    def __init__(self, layout: ExchangeLayout, process: int, fd: int, bell: int, replies: int):
        self._layout, self._process = layout, process
        self._bell, self._replies = Bell(bell), replies
        self._views = layout.views(fd)
        self._rows = layout.rows(process)
        self._question = self._views["asked"][process]
        self._number = int(self._question[0])  # where a process goes on that ended before

    def expect(self, playing: Sequence[Playing], observations: dict[str, np.ndarray]) -> None:
        """
        Have prior agents act when next the actions of all slots are asked for, and only then: they remember.

        :param playing: who plays, a value a slot
        :param observations: for each key ``(n_slots, ...)`` of the environments
        """
        self._views["playing"][self._rows] = playing
        for key in self._layout.raw:
            self._views[f"raw/{key}"][self._rows] = observations[key]

    def prior_action(self, position: int) -> np.ndarray:
        """
        :param position: of a slot, among those of this process
        :return: what its prior agent does on the observation expected last
        :raises PriorFailed: if that raised an exception
        """
        failure = read_text(self._views["prior_failures"][self._rows][position])
        if failure:
            raise PriorFailed(failure)
        action: np.ndarray = self._views["prior_actions"][self._rows][position].copy()
        return action

    def parameters_changed(self) -> None:
        """Of no matter here: whoever answers knows."""

    def __call__(self, observations: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """
        :param observations: ``(batch_size, ...)`` a tensor, or a dictionary of them
        :param batch_size: number of observations; as many as slots are theirs
        :return: greedy actions, and what the algorithm keeps beside them for the priorities
        """
        n_slots = self._rows.stop - self._rows.start
        if batch_size == n_slots:
            result = self._act(observations, 0, n_slots, Question.ACT)
            self._views["playing"][self._rows] = Playing.NATURE
            return result
        starts = range(0, batch_size, n_slots)
        parts = [self._act(observations, i, min(n_slots, batch_size - i), Question.OTHERS) for i in starts]
        actions, outputs = zip(*parts, strict=True)
        return np.concatenate(actions), np.concatenate(outputs)

    def _act(self, observations: Any, first: int, n: int, question: Question) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(self._rows.start, self._rows.start + n)
        for key, tensor in by_key(observations).items():
            self._views[f"observations/{key}"][rows] = tensor[first : first + n].numpy()
        self._ask(question, n)
        # The next answer comes to the same place.
        return self._views["actions"][rows].copy(), self._views["outputs"][rows].copy()

    def evaluate(self, steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        :param steps: consecutive steps
        :return: ``(rows,)`` q(s, a) and ``(rows,)`` the value of s
        """
        n = len(steps.outputs)
        rows = self._layout.rated(self._process, n)
        self._views["rated/actions"][rows] = steps.actions.numpy()
        self._views["rated/outputs"][rows] = steps.outputs.numpy()
        if self._layout.rates_observations:
            for key, tensor in by_key(steps.observations).items():
                self._views[f"rated/observations/{key}"][rows] = tensor.numpy()
        self._ask(Question.RATE, n)
        q_taken, values = (self._views[f"rated/{name}"][rows].copy() for name in ("q_taken", "values"))
        return th.from_numpy(q_taken), th.from_numpy(values)

    def _ask(self, question: Question, size: int) -> None:
        self._number += 1
        self._question[:] = self._number, question, size
        with contextlib.suppress(BrokenPipeError):  # the replies' pipe is closed as well
            self._bell.ring(self._process)
        while self._views["answered"][self._process] != self._number:
            if not os.read(self._replies, 64):
                raise LearnerGone


def by_key(observations: Any) -> dict[str, th.Tensor]:
    """
    :param observations: a tensor, or a dictionary of them
    :return: by the keys of the columns in which observations are stored
    """
    return observations if isinstance(observations, dict) else {OBSERVATION: observations}
