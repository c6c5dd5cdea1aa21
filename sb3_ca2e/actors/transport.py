"""
How blocks reach the learner and parameters reach the actors, in memory that both map.

No lock is ever shared: every byte has one writer. A block counts once the message that announces it
has arrived whole, so an actor that dies while it writes leaves nothing behind.
"""

import errno
import os
import pickle
import select
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ca2e.actors.supervision import Pulse
from sb3_ca2e.replay.block import Block, ObservationColumn, lead_frames

#: Handovers that an actor may have under way: it fills one while the learner reads the other.
BUFFERS = 2


def shared_file(n_bytes: int, name: str) -> int:
    """
    Memory that processes can share and that vanishes with the last of them, however they end.

    :param n_bytes: its size; reserved now, so that a lack of memory is an error here and no SIGBUS later
    :param name: shown in /proc, for debugging
    :return: a file descriptor
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(f"sb3_ca2e-{name}")
    else:  # pragma: no cover - an unlinked file does the same where memfd is missing
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        # The kernel would rather kill this process than refuse what no machine of this size can hold.
        if n_bytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        os.truncate(fd, n_bytes)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, max(n_bytes, 1))
    except OSError as error:
        os.close(fd)
        raise MemoryError(
            f"Could not reserve {n_bytes / 2**20:.1f} MiB of shared memory for the actors ({error.strerror}); "
            "lower n_actors or local_buffer_size, or free memory."
        ) from error
    return fd


#: Name, shape and dtype of an array in shared memory.
Field = tuple[str, tuple[int, ...], np.dtype]


def size_of(fields: Iterable[Field]) -> int:
    """
    :param fields: arrays to lay one behind the other
    :return: bytes that they take
    """
    return sum(_padded(int(np.prod(shape)) * dtype.itemsize) for _, shape, dtype in fields)


def views_of(memory: np.ndarray, fields: Iterable[Field]) -> dict[str, np.ndarray]:
    """
    :param memory: ``(n_bytes,)`` uint8
    :param fields: arrays that lie one behind the other in it
    :return: they, all views of ``memory``
    """
    arrays, offset = {}, 0
    for name, shape, dtype in fields:
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        arrays[name] = memory[offset : offset + n_bytes].view(dtype).reshape(shape)
        offset += _padded(n_bytes)
    return arrays


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // 8) * 8


@dataclass(frozen=True)
class BlockLayout:
    """
    Where the fields of one slot's block lie.

    :param columns: the observation columns
    :param n_steps: transitions in a block; as many rows again are kept free for the ends of episodes
    :param action_shape: shape of a stored action
    :param action_dtype: its dtype
    """

    columns: dict[str, ObservationColumn]
    n_steps: int
    action_shape: tuple[int, ...]
    action_dtype: np.dtype

    @property
    def lead(self) -> int:
        """Frames before the first row."""
        return lead_frames(self.columns)

    def _fields(self) -> Iterator[Field]:
        rows = 2 * self.n_steps
        yield "priorities", (rows,), np.dtype(np.float64)
        yield "actions", (rows, *self.action_shape), self.action_dtype
        yield "rewards", (rows,), np.dtype(np.float32)
        yield "flags", (rows,), np.dtype(np.uint8)
        yield "ages", (rows + 1,), np.dtype(np.uint8)
        for key, column in self.columns.items():
            yield f"frames/{key}", (self.lead + rows + 1, *column.frame_shape), column.dtype

    @property
    def n_bytes(self) -> int:
        """Size of one block."""
        return size_of(self._fields())

    def views(self, memory: np.ndarray) -> dict[str, np.ndarray]:
        """
        :param memory: ``(n_bytes,)`` uint8
        :return: an array for each field, all views of ``memory``
        """
        return views_of(memory, self._fields())

    def block(self, slot: int, views: dict[str, np.ndarray], n_rows: int) -> Block:
        """
        :param slot: the slot
        :param views: the fields, as :meth:`views` gave them
        :param n_rows: rows written
        :return: the block, a view as well
        """
        frames = {key: views[f"frames/{key}"][: self.lead + n_rows + 1] for key in self.columns}
        return Block(
            slot,
            frames,
            views["actions"][:n_rows],
            views["rewards"][:n_rows],
            views["flags"][:n_rows],
            views["ages"][: n_rows + 1],
            views["priorities"][:n_rows],
        )


class BlockBuffers:
    """
    The block buffers of one actor process, and its signs of life.

    :param layout: layout of a block
    :param slots: the slots of the process
    :param fd: shared file to map; None for memory of this process
    """

    def __init__(self, layout: BlockLayout, slots: list[int], fd: int | None = None):
        self.layout, self.slots = layout, slots
        memory = map_file(fd) if fd is not None else np.zeros(self.size(layout, len(slots)), dtype=np.uint8)
        self.pulse = Pulse(memory)
        parts = memory[Pulse.SIZE :].reshape(BUFFERS, len(slots), layout.n_bytes)
        self.views = [[layout.views(part) for part in buffer] for buffer in parts]

    @staticmethod
    def size(layout: BlockLayout, n_slots: int) -> int:
        """
        :param layout: layout of a block
        :param n_slots: slots of the process
        :return: bytes that its buffers take
        """
        return Pulse.SIZE + BUFFERS * n_slots * layout.n_bytes

    def blocks(self, sequence: int, n_rows: list[int]) -> list[Block]:
        """
        :param sequence: number of the handover
        :param n_rows: rows written, a number a slot
        :return: its blocks
        """
        buffer = self.views[sequence % BUFFERS]
        return [self.layout.block(*each) for each in zip(self.slots, buffer, n_rows, strict=True)]


def map_file(fd: int) -> np.ndarray:
    """
    :param fd: a file of :func:`shared_file`
    :return: its bytes, shared
    :raises MemoryError: if there is no room for them
    """
    with os.fdopen(os.dup(fd), "r+b") as file:  # the mapping outlives it
        try:
            return np.memmap(file, dtype=np.uint8, mode="r+").view(np.ndarray)
        except OSError as error:
            size = os.fstat(fd).st_size / 2**20
            raise MemoryError(
                f"Could not map {size:.1f} MiB of shared memory for the actors ({error.strerror}); raise the limit on "
                "this process's memory (`ulimit -v`), or lower n_actors or local_buffer_size."
            ) from error


class Board:
    """
    Everything that the learner tells the actors. Only the learner writes it; actors look at it when it suits them.

    Parameters stand in two buffers under sequence numbers (a seqlock): a reader that was overtaken reads again.

    :param n_slots: number of slots
    :param n_parameters: float32 numbers to publish
    :param fd: shared file to map; None for memory of this process
    """

    _STOP, _VERSION = range(2)
    _HEADER = 64

    def __init__(self, n_slots: int, n_parameters: int, fd: int | None = None):
        memory = map_file(fd) if fd is not None else np.zeros(self.size(n_slots, n_parameters), dtype=np.uint8)
        words = memory[: self._HEADER].view(np.int64)
        self._words, self._sequence = words[:2], words[2:4]
        self._progress = memory[32:40].view(np.float64)
        end = self._HEADER + 16 * n_slots
        self._nature, self._credit = memory[self._HEADER : end].view(np.int64).reshape(2, n_slots)
        self._parameters = memory[end : end + 8 * n_parameters].view(np.float32).reshape(2, n_parameters)

    @classmethod
    def size(cls, n_slots: int, n_parameters: int) -> int:
        """
        :param n_slots: number of slots
        :param n_parameters: float32 numbers to publish
        :return: bytes that the board takes
        """
        return cls._HEADER + 16 * n_slots + 8 * n_parameters

    # The learner's side.

    def publish(self, parameters: np.ndarray) -> None:
        """
        Show newer parameters.

        :param parameters: ``(n_parameters,)`` float32
        """
        version = int(self._words[self._VERSION]) + 1
        half = version % 2
        self._sequence[half] = -version  # being written
        self._parameters[half] = parameters
        self._sequence[half] = version
        self._words[self._VERSION] = version

    def republish(self, version: int, parameters: np.ndarray) -> None:
        """
        Show what another board showed.

        :param version: its version
        :param parameters: ``(n_parameters,)`` float32
        """
        self._words[self._VERSION] = version - 1
        self.publish(parameters)

    def set_progress(self, progress: float) -> None:
        """
        :param progress: share of the training that is done, 0 to 1
        """
        self._progress[0] = progress

    def grant(self, process: int, n_handovers: int) -> None:
        """
        :param process: index of an actor process
        :param n_handovers: handovers that it may have begun since the start
        """
        self._credit[process] = n_handovers

    def retire(self, slot: int) -> None:
        """
        :param slot: prior slot that is to become a nature slot at its next episode
        """
        self._nature[slot] = 1

    def stop(self) -> None:
        """Ask the actors to end."""
        self._words[self._STOP] = 1

    # The actors' side.

    @property
    def version(self) -> int:
        """Number of the newest parameters; 0 before the first."""
        return int(self._words[self._VERSION])

    def read(self, out: np.ndarray) -> int:
        """
        Copy the newest parameters.

        :param out: ``(n_parameters,)`` float32, written
        :return: their version
        """
        while True:
            version = self.version
            half = version % 2
            if self._sequence[half] == version:
                out[...] = self._parameters[half]
                if self._sequence[half] == version:
                    return version

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return float(self._progress[0])

    def credit(self, process: int) -> int:
        """
        :param process: index of an actor process
        :return: handovers that it may have begun
        """
        return int(self._credit[process])

    @property
    def stopped(self) -> bool:
        """The actors are to end."""
        return bool(self._words[self._STOP])

    def retired(self, slot: int) -> bool:
        """
        :param slot: a slot
        :return: whether its prior is to be replaced
        """
        return bool(self._nature[slot])


class FlatParameters:
    """
    The floating-point parameters and buffers of some modules as one vector.

    :param modules: the modules
    """

    def __init__(self, modules: dict[str, th.nn.Module]):
        tensors = [tensor for module in modules.values() for tensor in (*module.parameters(), *module.buffers())]
        self._tensors = list({id(tensor): tensor for tensor in tensors if tensor.is_floating_point()}.values())
        self.size = sum(tensor.numel() for tensor in self._tensors)

    @property
    def device(self) -> th.device:
        """Where the first of them is; the CPU if there are none."""
        return self._tensors[0].device if self._tensors else th.device("cpu")

    def get(self) -> np.ndarray:
        """
        :return: ``(size,)`` float32
        """
        return th.cat([tensor.detach().reshape(-1).float() for tensor in self._tensors]).cpu().numpy()

    def copy_from(self, others: "FlatParameters") -> None:
        """
        Take over the parameters of other copies of the modules, without asking their device for a number.

        :param others: they
        """
        with th.no_grad():
            th._foreach_copy_(self._tensors, others._tensors)

    def equal(self, others: "FlatParameters") -> bool:
        """
        :param others: of other copies of the modules, on the same device
        :return: whether all are the same; NaN is no other than before
        """
        pairs = zip(self._tensors, others._tensors, strict=True)
        return all(th.equal(*(each.detach().float().view(th.int32) for each in pair)) for pair in pairs)

    def bind(self, extra: int = 0) -> np.ndarray:
        """
        Lay the modules' tensors into one vector, so that writing it changes them all.

        :param extra: numbers to have room for behind them
        :return: ``(size + extra,)`` float32, shared with the modules
        """
        flat = th.zeros(self.size + extra)
        offset = 0
        for tensor in self._tensors:
            part = flat[offset : offset + tensor.numel()].view(tensor.shape)
            tensor.data = part.copy_(tensor.detach())
            offset += tensor.numel()
        return flat.numpy()


class Seconds(NamedTuple):
    """
    How an actor spent its time.

    :param collecting: filling blocks
    :param waiting: for the learner, before
    :param environments: of collecting, in steps and resets
    :param inference: of collecting, in networks and prior agents
    """

    collecting: float = 0.0
    waiting: float = 0.0
    environments: float = 0.0
    inference: float = 0.0


@dataclass
class Handover:
    """
    What an actor announces when it has filled a block for each of its slots.

    :param process: index of the actor process
    :param sequence: number of the handover in that process, from 0
    :param n_rows: rows written, a number a slot
    :param version: version of the parameters that chose the actions and priorities
    :param infos: what environments reported, by (step, position of the slot)
    :param games: for each game that ended: its return, and whether a nature slot played it without exploration
    :param seconds: how the actor spent its time
    :param refused: by position of the slot, how much of what it gave was not finite, and why the last was refused
    :param broken: by position of the slot, why its prior agent was given up
    :param begins: the first of its actor: episodes begin anew, those before were cut off
    :param late: the actor was silent for too long meanwhile
    :param error: traceback, if the actor failed: then all else is empty
    :param failed_slot: slot whose environment failed, -1 if none did
    :param hopeless: another actor would fail too
    """

    process: int
    sequence: int = 0
    n_rows: list[int] = field(default_factory=list)
    version: int = 0
    infos: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    games: dict[tuple[int, int], tuple[float, bool]] = field(default_factory=dict)
    seconds: Seconds = field(default_factory=Seconds)
    refused: dict[int, tuple[int, str]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    begins: bool = False
    late: bool = False
    error: str | None = None
    failed_slot: int = -1
    hopeless: bool = False


class MessageWriter:
    """
    Sends whole messages through a pipe.

    :param fd: writing end
    """

    def __init__(self, fd: int):
        self._fd = fd

    def send(self, message: Handover) -> None:
        """
        :param message: what to send
        """
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        data = struct.pack("<Q", len(data)) + data
        while data:
            data = data[os.write(self._fd, data) :]


class MessageReader:
    """
    Receives whole messages from a pipe without ever waiting for the rest of one.

    :param fd: reading end
    """

    def __init__(self, fd: int):
        self._fd = fd
        os.set_blocking(fd, False)
        self._received = bytearray()

    def receive(self) -> tuple[list[Handover], bool]:
        """
        :return: the messages that have arrived, and whether the writer is gone
        """
        closed = False
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                closed = True
                break
            self._received += data
        messages = []
        while len(self._received) >= 8:
            (size,) = struct.unpack_from("<Q", self._received)
            if len(self._received) < 8 + size:
                break
            messages.append(pickle.loads(self._received[8 : 8 + size]))
            del self._received[: 8 + size]
        return messages, closed


def wait_readable(fd: int) -> bytes:
    """
    Sleep until something comes through a pipe.

    :param fd: reading end
    :return: what came; empty if the other end was closed
    """
    select.select([fd], [], [])
    return os.read(fd, 1 << 16)
