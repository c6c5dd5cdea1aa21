import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sb3_ca2e.replay.sum_tree import LEAVES_PER_NODE, SumTree, _children_at, _raised_by_shares


def tree_of(values) -> SumTree:
    tree = SumTree(len(values))
    tree.assign(0, np.asarray(values, dtype=np.float64))
    return tree


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


@pytest.mark.parametrize("capacity", [1, LEAVES_PER_NODE, LEAVES_PER_NODE + 1, 20_000])
def test_leaves_are_drawn_in_proportion(capacity):
    rng = np.random.default_rng(capacity)
    values = rng.random(capacity) ** 3 * (rng.random(capacity) < 0.7)
    values[-1] = 1.0
    draws = tree_of(values).sample(200_000, generator()).numpy()
    counts = np.bincount(draws, minlength=capacity)
    assert len(counts) == capacity
    assert not counts[values == 0].any()
    # Leaves share bins so that every bin is expected often enough for the test.
    bins = np.arange(capacity) % 50
    observed, shares = np.bincount(bins, counts), np.bincount(bins, values)
    expected = shares[shares > 0] / shares.sum() * len(draws)
    if len(expected) > 1:
        assert stats.chisquare(observed[shares > 0], expected).pvalue > 1e-3


def test_draws_are_independent():
    """Stratified draws would have a smaller variance than the binomial one."""
    tree = tree_of(np.ones(1000))
    counts = [int((tree.sample(100, generator(seed)) < 500).sum()) for seed in range(300)]
    assert np.var(counts) == pytest.approx(25, rel=0.3)


def test_sums_stay_exact_under_updates():
    rng = np.random.default_rng(0)
    tree, leaves = SumTree(3000), np.zeros(3000)
    for _ in range(1000):  # 100 leaves each time, over twelve orders of magnitude
        indices = rng.choice(3000, 100, replace=False)
        values = 10 ** rng.uniform(-9, 3, 100)
        tree.update(th.from_numpy(indices), th.from_numpy(values))
        leaves[indices] = values
    np.testing.assert_array_equal(tree[:3000].numpy(), leaves)
    assert float(tree.total) == pytest.approx(leaves.sum(), rel=1e-14)
    tree.assign(0, np.zeros(3000))
    assert float(tree.total) == 0.0  # what a tree corrected by differences would not come back to


@given(
    shares=st.lists(st.just(0.0) | st.floats(0, 1e300) | st.floats(0, 1e-300), min_size=1, max_size=40).filter(any),
    position=st.floats(0, 1) | st.just(1.0),
)
def test_never_a_zero_leaf(shares, position):
    shares = th.tensor(shares, dtype=th.float64)
    sums = shares.cumsum(0)
    for value in (position * sums[-1], sums[-1] * 2, sums[th.randint(len(sums), ())]):
        child = int(_children_at(sums, value.view(1)))
        assert shares[child] > 0
        assert value >= sums[-1] or value < sums[child]
        assert child == 0 or value >= sums[child - 1]


@given(
    shares=st.lists(st.sampled_from([0.0, 0.0, 1e-9, 1.0]), min_size=1, max_size=40).filter(any),
    position=st.floats(0, 1),
    data=st.data(),
)
def test_never_a_zero_leaf_after_a_parallel_scan(shares, position, data):
    errors = st.lists(st.floats(-1e-15, 1e-15), min_size=len(shares), max_size=len(shares))
    shares = th.tensor(shares, dtype=th.float64)
    sums = _raised_by_shares(shares.cumsum(0) * (1 + th.tensor(data.draw(errors), dtype=th.float64)), shares)
    child = int(_children_at(sums, (position * sums[-1]).view(1)))
    assert shares[child] > 0
    np.testing.assert_allclose(sums, shares.cumsum(0), rtol=1e-14)


def test_rounding_between_nodes_and_leaves():
    """A node's sum and the cumulative sum of its leaves round differently; no draw may fall between them."""
    values = np.zeros(10 * LEAVES_PER_NODE)
    values[::3] = np.random.default_rng(0).random(len(values[::3])) * 1e-3
    values[5] = 1e12
    tree = tree_of(values)
    tree.nodes *= 1 + 1e-12
    assert (tree[tree.sample(50_000, generator())] > 0).all()


def test_largest_of_equal_indices_counts():
    tree = tree_of(np.full(300, 7.0))
    tree.update(th.tensor([2, 290, 2, 290]), th.tensor([3.0, 5.0, 1.0, 6.0], dtype=th.float64))
    assert tree[th.tensor([2, 290])].tolist() == [3.0, 6.0]
    assert float(tree.total) == 298 * 7 + 9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-9])
def test_poison_is_refused(bad):
    tree = tree_of(np.ones(10))
    values = np.array([2.0, bad, 2.0])
    with pytest.raises(ValueError, match="finite and not negative"):
        tree.update(th.tensor([0, 1, 2]), th.from_numpy(values))
    with pytest.raises(ValueError, match="finite and not negative"):
        tree.assign(3, values)
    assert tree[:10].tolist() == [1.0] * 10
    assert float(tree.total) == 10.0


def test_nothing_to_write():
    tree = tree_of(np.ones(10))
    tree.assign(3, np.zeros(0))
    tree.update(th.zeros(0, dtype=th.int64), th.zeros(0, dtype=th.float64))
    assert float(tree.total) == 10.0
    assert len(tree) == 10


def test_a_generator_repeats_its_draws():
    tree = tree_of(np.random.default_rng(0).random(1000))
    assert th.equal(tree.sample(50, generator(3)), tree.sample(50, generator(3)))
    assert not th.equal(tree.sample(50, generator(3)), tree.sample(50, generator(4)))
