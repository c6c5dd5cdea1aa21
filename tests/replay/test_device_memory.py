"""What runs where the memory is on a GPU, here without one: nothing waits for the device, and what is sent ahead."""

import pickle

import numpy as np
import pytest
import torch as th
from gymnasium.spaces import Box, Discrete

from sb3_ca2e.learner.graphed_updates import FusedUpdates
from sb3_ca2e.replay import PrioritizedReplayBuffer
from sb3_ca2e.replay.block import observation_columns
from sb3_ca2e.replay.prefetch import Prefetch
from tests import inside
from tests.replay.recorded_slot import RecordedSlot
from tests.replay.test_kernels import filled_memory
from tests.replay.test_streams import columns_of


@pytest.mark.usefixtures("_tensors_alone")
@pytest.mark.parametrize("n_stack", [1, 4])
def test_nothing_waits_for_the_device(n_stack):
    """Tensors of the meta device have no numbers: whoever asks for one, as to wait for a GPU is, fails."""
    columns = columns_of(n_stack)[1]
    memory = filled_memory(columns, 0, 0.1)
    expected = memory.sample(16)
    inside.storage(memory).to("meta")
    memory._device = th.device("meta")
    with pytest.raises(RuntimeError, match="meta"):
        inside.rows(memory).rewards.sum().item()
    for i in range(3):
        batch = memory.sample(16)
        for got, like in zip(batch.tensors(), expected.tensors(), strict=True):
            assert (got.shape, got.dtype, got.device.type) == (like.shape, like.dtype, "meta")
        memory.update_priorities(batch.indices, batch.generations, th.ones(16, device="meta"))
        block = RecordedSlot(1, columns, np.random.default_rng(i)).block(200, 0)  # older segments are freed
        inside.storage(memory).commit(block, block.priorities)
    fused = FusedUpdates(memory, 16, lambda batch: (batch.weights, batch.weights.flatten().double()), [])
    for got, like in zip(fused(2)[0].tensors(), expected.tensors(), strict=True):
        assert (got.shape, got.dtype, got.device.type) == (like.shape, like.dtype, "meta")


@pytest.mark.usefixtures("_tensors_alone")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_priorities_that_are_no_numbers_are_left_out_and_counted_with_the_next_block(bad):
    columns = columns_of(1)[0]
    memory = filled_memory(columns, 0, 0.1)
    rows = th.unique(memory.sample(64).indices)[:3]
    before = inside.rows(memory).priorities[rows].clone()
    memory.update_priorities(rows, inside.rows(memory).generations_of(rows), th.tensor([4.0, bad, 9.0]))
    after = inside.rows(memory).priorities[rows]
    np.testing.assert_allclose(after, [4.0**memory.alpha, before[1], 9.0**memory.alpha], rtol=1e-14)
    assert inside.rows(memory).priorities.total.isfinite()
    slot = RecordedSlot(5, columns, np.random.default_rng(0))
    memory.add_block(slot.block(3, 0))
    assert memory.n_refused_priorities == 1
    memory.update_priorities(rows, inside.rows(memory).generations_of(rows), th.tensor([bad, bad, 1.0]))
    assert pickle.loads(pickle.dumps(memory)).n_refused_priorities == 1
    memory.add_block(slot.block(3, 3))
    assert memory.n_refused_priorities == 3
    memory.add_block(slot.block(3, 6))
    assert memory.n_refused_priorities == 3
    assert memory.sample(4).weights.isfinite().all()


@pytest.mark.usefixtures("_tensors_alone")
def test_what_a_device_has_not_reported_yet_is_known_once_the_memory_has_moved():
    memory = filled_memory(columns_of(1)[0], 0, 0.1)
    batch = memory.sample(2)
    memory.update_priorities(batch.indices, batch.generations, th.tensor([77.0, np.nan]))
    assert memory.n_refused_priorities == 0
    memory.device = "cpu"
    assert memory.n_refused_priorities == 1
    memory.add_block(RecordedSlot(5, columns_of(1)[0], np.random.default_rng(0)).block(3, 0))
    assert (memory.max_priority, memory.n_refused_priorities) == (77.0, 1)


@pytest.mark.usefixtures("_tensors_alone")
def test_the_largest_priority_is_known_with_the_next_block():
    columns = columns_of(1)[0]
    memory = filled_memory(columns, 0, 0.1)
    batch = memory.sample(2)
    memory.update_priorities(batch.indices, batch.generations, th.tensor([77.0, 3.0]))
    memory.add_block(RecordedSlot(5, columns, np.random.default_rng(0)).block(3, 0))
    assert memory.max_priority == 77.0


def test_one_batch_is_kept_ahead():
    memory = filled_memory(columns_of(4)[1], 0, 0.1)
    drawn = []

    def draw():
        drawn.append(memory.sample(8))
        return drawn[-1]

    prefetch = Prefetch(th.device("cpu"))
    prefetch.prepare()
    assert not drawn  # it does not know yet what will be asked for
    assert prefetch.take(8, draw) == drawn[0]
    prefetch.prepare()
    prefetch.prepare()
    assert len(drawn) == 2
    assert prefetch.take(8, draw) == drawn[1]
    assert len(drawn) == 2
    prefetch.prepare()
    assert prefetch.take(9, draw) == drawn[3]  # the third was made for another question
    prefetch.prepare()
    prefetch.forget()
    prefetch.prepare()
    assert prefetch.take(9, draw) == drawn[5]
    assert len(drawn) == 6


@pytest.mark.parametrize("capacity", [100, 5000])
def test_whether_a_memory_fits_on_a_device_is_asked_of_its_size(capacity, monkeypatch):
    """An estimate that was a hundredth of it put memories on GPUs that could not hold them."""
    asked = []
    monkeypatch.setattr(PrioritizedReplayBuffer, "_place", lambda self, nbytes: asked.append(nbytes) or self.device)
    memory = PrioritizedReplayBuffer(
        capacity, Box(0, 255, (1, 20, 20), np.uint8), Discrete(2), device="cpu", n_envs=2, storage_device="auto"
    )
    columns = observation_columns(memory.observation_space)
    memory.add_block(RecordedSlot(0, columns, np.random.default_rng(0)).block(10, 0))
    assert asked == [pytest.approx(memory.nbytes, rel=0.1)]
