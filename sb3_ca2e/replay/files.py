"""Files that hold a memory: a series of pickles, so that neither side needs a second copy of it in RAM."""

import io
import pickle
from typing import Any, BinaryIO, Protocol

from sb3_ca2e.replay.memory import PrioritizedReplayBuffer
from sb3_ca2e.replay.storage import SegmentStorage


class Writes(Protocol):
    """An object that bytes can be written to."""

    def write(self, data: bytes, /) -> object: ...


def write_memory(memory: PrioritizedReplayBuffer, file: Writes) -> None:
    """
    Write a memory, a segment at a time.

    :param memory: the memory
    :param file: the file to write to
    """
    storage = memory._storage
    state = {**memory.__getstate__(), "_storage": None}
    description = storage.description() if storage is not None else None
    pickle.dump((type(memory), state, description), file, pickle.HIGHEST_PROTOCOL)
    if storage is not None:
        for chunk in storage.chunks():
            pickle.dump(chunk, file, pickle.HIGHEST_PROTOCOL)


def read_memory(file: BinaryIO | io.BufferedIOBase) -> Any:
    """
    Read what :func:`write_memory` wrote. The slots' streams can continue; to cut them, call
    :meth:`PrioritizedReplayBuffer.end_streams`.

    :param file: the file to read
    :return: the memory, or the first pickled object of another file
    """
    first = pickle.load(file)
    if not (isinstance(first, tuple) and len(first) == 3):  # a memory that pickle itself wrote, for instance
        return first
    memory_class, state, description = first
    memory: PrioritizedReplayBuffer = memory_class.__new__(memory_class)
    memory.__setstate__(state)
    if description is not None:
        storage = SegmentStorage.described(description)
        for _ in storage.segments:
            storage.rows.restore(*pickle.load(file))
        memory._storage = storage
        memory.device = memory.device  # moves the memory there if it fits
    return memory
