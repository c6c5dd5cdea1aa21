"""A memory in a file is never held twice; test_streams.py sees that it comes back as it was."""

import tracemalloc

import numpy as np
import pytest
from gymnasium import spaces

from sb3_ca2e import PrioritizedReplayBuffer
from sb3_ca2e.replay.files import read_memory, write_memory

MIB = 2**20


class Discarding:
    """Takes what is written, and keeps count only."""

    size = 0

    def write(self, data):
        self.size += memoryview(data).nbytes


def peak(action):
    """What an action returned, and the bytes that it had reserved at most."""
    tracemalloc.start()
    try:
        result = action()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def images():
    """A memory of 40 MiB."""
    space = spaces.Box(0, 255, (64, 64, 1), np.uint8)
    memory = PrioritizedReplayBuffer(10_000, space, spaces.Discrete(2), device="cpu", n_slots=2, seed=0)
    rng = np.random.default_rng(0)
    observation = rng.integers(0, 255, (1, *space.shape), np.uint8)
    for _ in range(10_000):
        memory.add(observation, observation, np.zeros((1, 1)), np.ones(1), np.zeros(1), [{}])
    return memory


def test_writing_and_reading_take_no_second_copy(images, tmp_path):
    sink = Discarding()
    _, written = peak(lambda: write_memory(images, sink))
    assert sink.size > 40 * MIB
    assert written < 4 * MIB
    with (tmp_path / "memory").open("wb") as file:
        write_memory(images, file)
    with (tmp_path / "memory").open("rb") as file:
        memory, read = peak(lambda: read_memory(file))
    assert memory.size() == images.size() == 10_000
    assert read < images.nbytes + 8 * MIB
