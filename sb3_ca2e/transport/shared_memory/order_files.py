"""
The log of orders in memory that the learner and its actors share.

Only the learner writes it. It appends orders to one of two files. When most of that file has been replaced, the learner
writes what is left to the other file and continues there (a seqlock: a reader that was overtaken reads again). However
the learner ends, one file is whole.
"""

import os
import struct
from collections.abc import Callable

import cloudpickle
import numpy as np

from sb3_ca2e.actors.orders import Numbered, Order
from sb3_ca2e.envs.copies.modules import modules_in, refuse_lost_modules
from sb3_ca2e.envs.order_log import Entry, OrderLog
from sb3_ca2e.transport.shared_memory.memory import shared_file

#: Number of an order and size of its pickle, which follows.
_HEAD = struct.Struct("<QQ")
#: Least size of a file, in bytes, at which the learner looks for replaced orders.
_LEAST = 1 << 16


class OrderWords:
    """
    What the learner tells about the files in its control block.

    :param memory: ``(SIZE,)`` uint8, shared
    """

    SIZE = 64

    def __init__(self, memory: np.ndarray):
        words = memory.view(np.int64)
        #: number of the newest order, and of times that the learner has changed files
        self.newest, self.generation = words[0:1], words[1:2]
        #: of each file, the generation that it holds (-1 while it is written), and its length in bytes
        self.holds, self.length = words[2:4], words[4:6]


class OrderFiles:
    """
    The learner's side.

    :param words: its part of the control block
    """

    def __init__(self, words: OrderWords):
        self._words, self._log = words, OrderLog(self._pickled)
        self._look_at = _LEAST
        self._importable: set[str] = set()
        self.fds: list[int] = []
        try:
            for _ in range(2):
                self.fds.append(shared_file(0, "orders"))
        except BaseException:
            self.close()
            raise

    def prepare(self, order: Order) -> Callable[[], None]:
        """
        Check and pickle an order.

        :param order: the order
        :return: function that sends it
        :raises ValueError: if it can't be pickled
        :raises RuntimeError: if there are too many
        """
        add = self._log.prepare(order)
        return lambda: self._write(add())

    def _pickled(self, order: Order) -> bytes:
        pickled: bytes = cloudpickle.dumps(order)
        if unknown := modules_in(pickled) - self._importable:
            refuse_lost_modules(unknown, "its pickle")
            self._importable |= unknown
        return pickled

    def close(self) -> None:
        """Close the files; actors may continue to read them."""
        while self.fds:
            os.close(self.fds.pop())

    def _write(self, entry: Entry[bytes]) -> None:
        words, half = self._words, int(self._words.generation[0]) % 2
        record, end = _record(entry), int(words.length[half])
        if end + len(record) > self._look_at:
            self._write_anew()
        else:
            words.length[half] = _write_all(self.fds[half], record, end)
        words.newest[0] = entry.number

    def _write_anew(self) -> None:
        """Continue in the other file, without the replaced orders."""
        words, generation = self._words, int(self._words.generation[0]) + 1
        half, before = generation % 2, (generation - 1) % 2
        end = 0
        for entry in self._log.entries:
            end = _write_all(self.fds[half], _record(entry), end)
        words.length[half] = end
        words.holds[half] = generation
        words.generation[0] = generation
        words.holds[before] = -1
        os.truncate(self.fds[before], 0)
        self._look_at = max(_LEAST, 2 * end)


class OrderReader:
    """
    An actor's side.

    :param words: the learner's part of the control block
    :param fds: the two files
    """

    def __init__(self, words: OrderWords, fds: tuple[int, int]):
        self._words, self._fds = words, fds
        self._generation = self._end = 0
        self._pickled: list[tuple[int, bytes]] = []

    @property
    def newest(self) -> int:
        """Number of the newest order; 0 before the first."""
        return int(self._words.newest[0])

    def since(self, number: int) -> list[Numbered]:
        """
        Return orders.

        :param number: number of an order; 0 for all
        :return: those after it, newly unpickled
        """
        self._read()
        return [(each, cloudpickle.loads(pickled)) for each, pickled in self._pickled if each > number]

    def _read(self) -> None:
        """Read what has been written since the last time, or the other file from its start."""
        while True:
            generation = int(self._words.generation[0])
            half = generation % 2
            begin = self._end if generation == self._generation else 0
            end = int(self._words.length[half])
            data = _read_all(self._fds[half], begin, end)
            if self._words.holds[half] == generation and len(data) == end - begin:
                break
        if generation != self._generation:
            self._pickled = []
        self._generation, self._end = generation, end
        position = 0
        while position < len(data):
            number, size = _HEAD.unpack_from(data, position)
            position += _HEAD.size + size
            self._pickled.append((number, data[position - size : position]))


def _record(entry: Entry[bytes]) -> bytes:
    return _HEAD.pack(entry.number, len(entry.pickled)) + entry.pickled


def _write_all(fd: int, data: bytes, begin: int) -> int:
    """Write to a file and return the position after it."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, begin)
        rest, begin = rest[written:], begin + written
    return begin


def _read_all(fd: int, begin: int, end: int) -> bytes:
    parts = []
    while begin < end and (part := os.pread(fd, end - begin, begin)):
        parts.append(part)
        begin += len(part)
    return b"".join(parts)
