"""What is compiled for a memory on the CPU, beside the tensors that do the same on any device."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch as th

from sb3_ca2e.replay import kernels
from sb3_ca2e.replay.host_rows import BinarySumTree
from sb3_ca2e.replay.rows import Rows, Terms
from sb3_ca2e.replay.sum_tree import SumTree
from tests import inside
from tests.replay import test_sum_tree
from tests.replay.recorded_slot import RecordedSlot
from tests.replay.test_streams import columns_of, long_streams, make_memory, stored_rows
from tests.replay.test_sum_tree import (  # noqa: F401 - the same tests again, of the tree that the fixture below puts in
    test_a_generator_repeats_its_draws,
    test_draws_are_independent,
    test_largest_of_equal_indices_counts,
    test_leaves_are_drawn_in_proportion,
    test_nothing_to_write,
    test_poison_is_refused,
    test_rounding_between_nodes_and_leaves,
    test_sums_stay_exact_under_updates,
)


@pytest.fixture(autouse=True)
def _binary_sum_trees(monkeypatch):
    monkeypatch.setattr(test_sum_tree, "SumTree", BinarySumTree)


def filled_memory(columns, seed: int, end_probability: float):
    """Three slots' streams, some cut, many times as long as the memory, with priorities written back."""
    rng = np.random.default_rng(seed)
    memory = make_memory(columns, 300, segment_length=int(rng.integers(5, 40)))
    slots = [RecordedSlot(slot, columns, rng, end_probability) for slot in range(3)]
    for i in range(60):
        slot = slots[rng.integers(3)]
        memory.add_block(slot.block(int(rng.integers(1, 30)), i))
        if rng.random() < 0.1:
            memory.end_stream(slot.slot)
            slot.cut(restart=bool(rng.integers(2)))
        samples = memory.sample(8)
        memory.update_priorities(samples.indices, samples.generations, th.from_numpy(rng.random(8) + 0.01))
    return memory


@pytest.mark.parametrize("n_stack", [1, 2, 4])
@pytest.mark.parametrize("which", range(7))
def test_batches_equal_those_of_tensors(which, n_stack):
    end_probability = [0.0, 0.05, 0.4][which % 3]
    memory = filled_memory(columns_of(n_stack)[which], 7 * n_stack + which, end_probability)
    indices, compiled = stored_rows(memory), inside.rows(memory)
    tensors = compiled.on("cpu", Rows)
    for n_steps in range(1, 6):
        for normalize in (None, lambda rewards: (np.clip(rewards / 3.7, -1.5, 1.5)).astype(np.float32)):
            terms = Terms(n_steps, 0.97, 0.4, normalize)
            observed, got = compiled.multi_steps(indices, terms)
            expected_rows, expected = tensors.multi_steps(indices, terms)
            assert th.equal(observed, expected_rows)
            assert set(got) == set(expected)
            for name, value in expected.items():
                assert got[name].dtype == value.dtype
                # PyTorch adds four and more rewards in another order, and has a power function of its own.
                atol, rtol = 1e-5 * (name == "rewards" and n_steps > 3), 2e-7 * (name == "weights")
                np.testing.assert_allclose(got[name], value, rtol=rtol, atol=atol, err_msg=name)
    observations = compiled.observations(observed)
    for key, expected in tensors.observations(observed).items():
        assert th.equal(observations[key], expected)


def test_never_a_zero_leaf():
    """Also where rounding has made a value as large as the sum, or larger."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        leaves = 10.0 ** rng.integers(-9, 9, rng.integers(1, 40))
        leaves *= rng.random(len(leaves)) < 0.5
        leaves[rng.integers(len(leaves))] = 1.0
        tree, ends = BinarySumTree(len(leaves)), np.cumsum(leaves)
        tree.assign(0, leaves)
        inside = rng.random(50) * ends[-1]
        found = kernels.find(tree.sums, np.concatenate([inside, ends, np.nextafter(ends, 0), [0.0, 3 * ends[-1]]]))
        assert (leaves[found] > 0).all()
        # As exact as the sums are rounded
        rounding = 1e-14 * ends[-1]
        assert (inside < ends[found[:50]] + rounding).all()
        assert (inside >= (ends - leaves)[found[:50]] - rounding).all()


@pytest.mark.parametrize("capacity", [1, 2, 127, 1000, 50_000])
def test_a_seed_draws_the_same_from_both_trees(capacity):
    rng = np.random.default_rng(capacity)
    leaves = rng.random(capacity) ** 4 * (rng.random(capacity) < 0.7) + (np.arange(capacity) == capacity // 2)
    trees = SumTree(capacity), BinarySumTree(capacity)
    for tree in trees:
        tree.assign(0, leaves)
    for _ in range(3):
        draws = [tree.sample(20_000, th.Generator().manual_seed(5)) for tree in trees]
        assert th.equal(*draws)
        indices = draws[0][:100].unique()
        for tree in trees:
            tree.update(indices, th.linspace(0.1, 3.0, len(indices), dtype=th.float64))


def test_priorities_equal_those_of_tensors():
    """With rows drawn twice, and rows overwritten since."""
    memory = filled_memory(columns_of(1)[0], 0, 0.1)
    old = memory.sample(100)
    for i in range(6):
        memory.add_block(RecordedSlot(0, columns_of(1)[0], np.random.default_rng(i)).block(40, 1000 + 40 * i))
    new = memory.sample(100)
    both = copy.deepcopy(inside.storage(memory)), copy.deepcopy(inside.storage(memory))
    both[1].rows = both[1].rows.on("cpu", Rows)
    priorities = th.rand(200, dtype=th.float64) * 10
    batch = th.cat([old.indices, new.indices]), th.cat([old.generations, new.generations]), priorities
    for storage in both:
        storage.reprioritize(*batch, 0.6)
        storage.look_at_written()
        assert storage.largest == priorities.max().item()
    got, expected = (storage.rows.priorities for storage in both)
    np.testing.assert_allclose(got[: len(got)], expected[: len(got)], rtol=1e-14)
    summed = BinarySumTree(len(got))
    summed.assign(0, expected[: len(got)].numpy())
    np.testing.assert_allclose(got.nodes, summed.nodes, rtol=1e-13)
    overwritten = inside.rows(memory).generations_of(old.indices) != old.generations
    assert 0 < overwritten.sum() < 100


@pytest.mark.parametrize("seed", range(14))
def test_long_streams_without_the_kernels(seed, monkeypatch):
    """What runs on other devices, here on the CPU."""
    monkeypatch.setattr("sb3_ca2e.replay.storage.rows_on", lambda device: Rows)
    streams = long_streams(seed)
    assert inside.rows(streams.memory).recordable
    assert streams.n_committed > 2 * streams.memory.buffer_size


def test_a_memory_that_was_moved_reads_what_it_holds():
    memory = filled_memory(columns_of(4)[1], 0, 0.1)
    rows = stored_rows(memory)
    before = memory.samples_at(rows)
    inside.storage(memory).to("cpu")
    slot = RecordedSlot(9, columns_of(4)[1], np.random.default_rng(0))
    memory.add_block(slot.block(3, 5000))
    held = th.isin(rows, stored_rows(memory))
    after = memory.samples_at(rows[held])
    for name in ("observations", "next_observations", "actions", "rewards"):
        assert th.equal(getattr(before, name)[held], getattr(after, name))
    assert set(range(5000, 5003)) <= set(memory.samples_at(stored_rows(memory)).actions[:, 0].tolist())


@pytest.mark.parametrize("row", [-1, 10**6, 2**62])
def test_rows_that_do_not_exist_are_refused(row):
    memory = filled_memory(columns_of(1)[0], 0, 0.1)
    rows = th.tensor([0, row])
    before = inside.rows(memory).priorities[:].clone()
    with pytest.raises(IndexError, match="row that the memory does not have"):
        memory.samples_at(rows)
    with pytest.raises(IndexError, match="row that the memory does not have"):
        memory.update_priorities(rows, th.zeros(2, dtype=th.int64), th.ones(2))
    with pytest.raises(IndexError, match="leaf that the sum tree does not have"):
        inside.rows(memory).priorities.update(rows, th.ones(2, dtype=th.float64))
    with pytest.raises(ValueError, match="2 indices, 2 generations and 3 priorities"):
        memory.update_priorities(rows, th.zeros(2, dtype=th.int64), th.ones(3))
    assert th.equal(inside.rows(memory).priorities[:], before)


def test_numba_is_imported_by_who_has_a_memory():
    modules = "sb3_ca2e, sb3_ca2e.actors.worker, sb3_ca2e.transport.shared_memory.fork_server"
    script = f"import sys, {modules}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_compiles_where_nothing_can_be_cached():
    """Such as a container that is read-only, or a user without a home."""
    script = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
from sb3_ca2e.replay import kernels
import numpy as np
sums = np.array([0.0, 0.0, 1.0, 2.0])
kernels.sum_up(sums, 0, 2)
print(sums[1], kernels.find(sums, np.array([0.5, 1.5])))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "3.0 [0 1]\n"
