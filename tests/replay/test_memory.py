"""Sampling law, weights, priorities, reserved memory and saving of the replay memory."""

import copy
import mmap
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats

from sb3_ca2e.replay import Block, PrioritizedReplayBuffer, observation_columns
from sb3_ca2e.replay.block import OBSERVATION, TERMINATED, TRANSITION
from tests import inside
from tests.replay.recorded_slot import RecordedSlot

SPACE = spaces.Box(0, 255, (3,), np.float32)


def make_memory(buffer_size=1000, **kwargs) -> PrioritizedReplayBuffer:
    return PrioritizedReplayBuffer(buffer_size, SPACE, spaces.Discrete(2**40), "cpu", **{"seed": 0, **kwargs})


def make_slot(slot=0, end_probability=0.1) -> RecordedSlot:
    return RecordedSlot(slot, observation_columns(SPACE), np.random.default_rng(slot), end_probability)


def plain_block(n: int, slot=0, priority=1.0) -> Block:
    """Steps in the middle of an episode."""
    return Block(
        slot=slot,
        frames={OBSERVATION: np.zeros((n + 1, 3), np.float32)},
        actions=np.zeros((n, 1), np.int64),
        rewards=np.zeros(n, np.float32),
        flags=np.full(n, TRANSITION),
        ages=np.zeros(n + 1, np.uint8),
        priorities=np.full(n, priority),
    )


def test_transitions_are_drawn_in_proportion_to_their_priorities():
    memory, slot = make_memory(alpha=0.6), make_slot()
    memory.add_block(slot.block(100, 0))
    updated = memory.sample(40)
    memory.update_priorities(updated.indices, updated.generations, th.full((40,), 5.0))
    for step_id in updated.actions[:, 0]:
        slot.steps[step_id].priority = 5.0
    expected = np.array([step.priority for step in slot.steps]) ** 0.6
    n_draws = 200_000
    counts = np.bincount(memory.sample(n_draws).actions[:, 0], minlength=100)
    assert stats.chisquare(counts, expected / expected.sum() * n_draws).pvalue > 1e-3


def test_with_maximum_priority_what_an_actor_computed_does_not_count():
    memory = make_memory(maximum_priority=True, alpha=1.0)
    memory.add_block(plain_block(3, priority=50.0))
    rows = th.unique(memory.sample(64).indices)
    assert inside.rows(memory).priorities[rows].tolist() == [1.0, 1.0, 1.0]
    memory.update_priorities(rows, inside.rows(memory).generations_of(rows), th.tensor([7.0, 0.5, 0.5]))
    memory.add_block(plain_block(2, slot=1, priority=0.1))
    assert np.sort(inside.rows(memory).priorities[:])[-5:].tolist() == [0.5, 0.5, 7.0, 7.0, 7.0]


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights(beta):
    memory, slot = make_memory(alpha=0.7), make_slot()
    memory.add_block(slot.block(100, 0))
    memory.beta = beta
    samples = memory.sample(64)
    shares = np.array([step.priority for step in slot.steps]) ** 0.7
    weights = (100 * (shares / shares.sum())[samples.actions[:, 0]]) ** -beta
    np.testing.assert_allclose(samples.weights[:, 0], weights / weights.max(), rtol=1e-6)
    assert samples.weights.dtype == th.float32


def test_uniform_if_alpha_is_zero():
    memory, slot = make_memory(alpha=0.0), make_slot(end_probability=0.5)
    memory.add_block(slot.block(50, 0))
    samples = memory.sample(100_000)  # rows of last frames must not count as transitions of priority 0^0 = 1
    assert stats.chisquare(np.bincount(samples.actions[:, 0], minlength=50)).pvalue > 1e-3
    assert (samples.weights == 1).all()


def test_priorities_for_overwritten_rows_are_dropped():
    memory = make_memory(buffer_size=40, segment_length=10)
    memory.add_block(plain_block(40))
    old = memory.sample(200)
    memory.add_block(plain_block(20))
    before = inside.rows(memory).priorities[old.indices]
    overwritten = inside.rows(memory).generations_of(old.indices) != old.generations
    assert overwritten.any()
    assert not overwritten.all()
    memory.update_priorities(old.indices, old.generations, th.full((200,), 9.0))
    after = inside.rows(memory).priorities[old.indices]
    assert th.equal(after[overwritten], before[overwritten])
    assert th.allclose(after[~overwritten], th.tensor(9.0**0.6, dtype=th.float64))
    assert inside.rows(memory).priorities[-1:] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_bad_priorities_are_refused_and_counted(bad):
    """A row keeps the one that it has; a new one gets the largest."""
    memory = make_memory()
    memory.add_block(plain_block(20, priority=2.0))
    rows = th.unique(memory.sample(64).indices)[:3]
    memory.update_priorities(rows, inside.rows(memory).generations_of(rows), th.tensor([5.0, bad, 1.0]))
    priorities = inside.rows(memory).priorities
    np.testing.assert_allclose(priorities[rows], np.array([5.0, 2.0, 1.0]) ** 0.6, rtol=1e-14)
    assert (memory.max_priority, memory.n_refused_priorities) == (5.0, 1)
    memory.add_block(plain_block(4, slot=5, priority=bad))
    assert (memory.max_priority, memory.n_refused_priorities) == (5.0, 5)
    leaves = np.sort(priorities[:])
    np.testing.assert_allclose(leaves[-24:], np.sort([1.0, *[2.0] * 18, *[5.0] * 5]) ** 0.6, rtol=1e-14)
    assert leaves[-25] == 0.0
    np.testing.assert_allclose(priorities.total, leaves.sum(), rtol=1e-14)


@pytest.mark.parametrize("name", ["frames", "actions", "rewards", "ages"])
def test_a_block_that_does_not_fit_changes_nothing(name):
    memory = make_memory()
    memory.add_block(plain_block(20))
    before = pickle.dumps(inside.storage(memory))
    block = plain_block(5, slot=3)
    setattr(block, name, {OBSERVATION: np.zeros((6, 4))} if name == "frames" else getattr(block, name)[1:])
    with pytest.raises(ValueError, match=rf"5 rows from slot 3 has {name}.*expected \("):
        memory.add_block(block)
    assert pickle.dumps(inside.storage(memory)) == before


def test_ages_count_what_came_since():
    memory = make_memory(buffer_size=100)
    for slot in (0, 1, 0):
        memory.add_block(plain_block(20, slot))
    samples = memory.sample(500)
    assert set(samples.ages.tolist()) == {0, 20, 40}


def test_an_empty_memory_says_so():
    memory = make_memory()
    with pytest.raises(ValueError, match="learning_starts"):
        memory.sample(3)
    assert (memory.size(), memory.nbytes, memory.prior_fraction) == (0, 0, 0.0)
    memory.end_streams()
    memory.end_stream(3)


def test_the_newest_transitions_are_kept():
    memory, slot = make_memory(buffer_size=100, segment_length=10), make_slot(end_probability=0.0)
    for i in range(60):
        memory.add_block(slot.block(7, 7 * i))
        assert min(7 * (i + 1), 90) < memory.size() + 1
        assert memory.size() <= 100
        newest = 7 * (i + 1)
        assert set(memory.sample(5000).actions[:, 0].tolist()) == set(range(newest - memory.size(), newest))
        assert (memory.pos, memory.full) == (memory.size() % 100, memory.size() == 100)


@pytest.mark.parametrize("n_slots", [1, 30])
def test_more_slots_than_expected(n_slots):
    """Fewer slots than segments' worth of memory are promised their full share; more are still served."""
    memory = make_memory(buffer_size=600, segment_length=20, n_slots=n_slots)
    for i in range(100):
        for slot in range(30):
            memory.add_block(plain_block(1 + i % 3, slot))
            assert memory.size() <= 600
    assert memory.size() >= (560 if n_slots == 30 else 200)


def test_a_cut_costs_a_segment_at_most():
    """A stream that goes on in the middle of an episode needs lead frames of its own, once."""
    space = spaces.Box(0, 255, (12,), np.float32)
    memory = PrioritizedReplayBuffer(1000, space, spaces.Discrete(9), frame_stack=(4, 0))
    slot = RecordedSlot(0, observation_columns(space, 4), np.random.default_rng(0), 0.0)
    for restart in (True, False):
        for _ in range(10):
            memory.add_block(slot.block(5, 0))
        memory.end_stream(0)
        slot.cut(restart)
    for _ in range(10):
        memory.add_block(slot.block(5, 0))
    assert len(inside.storage(memory).segments) == 2


def test_a_last_frame_in_the_tail_takes_no_data_row():
    memory = make_memory(buffer_size=100, segment_length=10)
    episode = plain_block(10)
    episode.flags[-1] |= TERMINATED
    last_frame = plain_block(1)
    last_frame.flags[:] = 0
    for _ in range(20):
        memory.add_block(episode)
        memory.add_block(last_frame)
    assert memory.size() == 100
    assert len(inside.storage(memory).segments) == 10


def test_nothing_leads_on_from_the_step_before_a_refused_one_where_a_segment_ends():
    memory = make_memory(buffer_size=100, segment_length=10, n_steps=3)
    broken_off = plain_block(11)
    broken_off.flags[-1] = 0  # the frame on which the refused step was made, in the tail
    for block in (broken_off, plain_block(3)):
        memory.add_block(block)
    rows = th.nonzero(inside.rows(memory).flags & int(TRANSITION)).flatten()
    lengths = np.log(memory.samples_at(rows).discounts.flatten().numpy()) / np.log(memory.gamma)
    assert lengths.tolist() == pytest.approx([3] * 8 + [2, 1] + [3, 2, 1], rel=1e-3)


def test_a_seed_repeats_the_draws():
    memories = [make_memory(seed=seed) for seed in (1, 1, 2)]
    th.manual_seed(3)
    memories.append(make_memory(seed=None))
    th.manual_seed(3)
    memories.append(make_memory(seed=None))
    for memory in memories:
        memory.add_block(plain_block(200))
    draws = [memory.sample(20).indices.tolist() for memory in memories]
    assert draws[0] == draws[1] != draws[2]
    assert draws[3] == draws[4]


@pytest.mark.parametrize("copies", [lambda memory: pickle.loads(pickle.dumps(memory)), copy.deepcopy])
def test_a_saved_memory_goes_on_as_before(copies):
    memory, slot = make_memory(buffer_size=200, segment_length=16), make_slot()
    memory.add_block(slot.block(300, 0))
    samples = memory.sample(10)
    memory.update_priorities(samples.indices, samples.generations, th.rand(10) + 1)
    restored = copies(memory)
    assert restored.size() == memory.size()
    assert restored.max_priority == memory.max_priority > 1
    for _ in range(3):
        for expected, got in zip(memory.sample(50).tensors(), restored.sample(50).tensors(), strict=True):
            assert th.equal(expected, got)
    # A copy shares nothing, and what it is given does not continue the old streams.
    restored.add_block(make_slot().block(10, 1000))
    last = restored.samples_at(th.nonzero(inside.rows(restored).actions[:, 0] == 299)[0])
    assert last.discounts.item() == pytest.approx(0.99)
    assert not (inside.rows(memory).actions >= 1000).any()


def test_only_what_is_in_use_is_saved():
    memory = make_memory(buffer_size=1_000_000)
    assert len(pickle.dumps(memory)) < 10_000
    memory.add_block(plain_block(1))
    assert len(pickle.dumps(memory)) < 100_000
    assert memory.nbytes > 30_000_000


def in_memory(array: np.ndarray) -> int:
    """Bytes of an array that have a place in memory, whatever else this process has and does."""
    first, last = array.ctypes.data // mmap.PAGESIZE, (array.ctypes.data + array.nbytes - 1) // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(8 * first)
        pages = np.frombuffer(file.read(8 * (last + 1 - first)), np.uint64)
    return int(np.count_nonzero(pages >> np.uint64(62))) * mmap.PAGESIZE  # resident or swapped


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="reads Linux's account of a process")
def test_images_take_memory_when_they_come():
    images = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    memory = PrioritizedReplayBuffer(100_000, images, spaces.Discrete(6), frame_stack=(4, 0))
    assert memory.nbytes == 0
    block = Block(
        slot=0,
        frames={OBSERVATION: np.ones((54, 1, 84, 84), np.uint8)},
        actions=np.zeros((50, 1), np.int64),
        rewards=np.zeros(50, np.float32),
        flags=np.full(50, TRANSITION),
        ages=np.full(51, 3, np.uint8),
        priorities=np.ones(50),
    )
    memory.add_block(block)
    frames = inside.rows(memory).frames[OBSERVATION].numpy()
    assert frames.nbytes > 700e6
    assert 54 * 84 * 84 <= in_memory(frames) < 50e6
    held = memory.buffer_size - memory.segment_length  # at worst, when a segment has just been freed
    assert memory.nbytes / held < 7600
    memory.reset()
    assert memory.size() == memory.nbytes == memory.pos == 0


def test_storage_device():
    memory = make_memory(storage_device="cpu")
    memory.add_block(plain_block(10))
    memory.device = "cpu"
    assert memory.device == th.device("cpu")
    assert memory.sample(2).observations.device == th.device("cpu")
