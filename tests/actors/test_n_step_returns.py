"""Returns of consecutive rows against those of windows, of which the memory's tests know."""

import numpy as np
import pytest
import torch as th

from sb3_ca2e.actors.local_buffer import n_step_returns
from sb3_ca2e.replay.block import TERMINATED, TRANSITION, TRUNCATED
from sb3_ca2e.replay.n_step import n_step_return


@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("seed", range(5))
def test_returns_of_consecutive_rows_are_those_of_their_windows(n_steps, seed):
    rng = np.random.default_rng(seed)
    kinds = [0, TRANSITION, TRANSITION | TERMINATED, TRANSITION | TRUNCATED]
    flags = np.append(rng.choice(kinds, 30, p=[0.1, 0.7, 0.1, 0.1]), 0).astype(np.uint8)
    rewards = rng.normal(size=31).astype(np.float32)
    windows = th.arange(31)[:, None] + th.arange(n_steps)
    known, done = th.as_tensor(flags), th.as_tensor(np.pad(rewards, (0, n_steps)))
    padded = th.cat([known, th.zeros(n_steps, dtype=th.uint8)])[windows]
    expected, lengths = n_step_return(done[windows], padded & 6 > 0, padded & 1 > 0, 0.9)
    returns, length = n_step_returns(rewards, flags, n_steps, 0.9)
    is_transition = flags & TRANSITION > 0
    np.testing.assert_allclose(returns[is_transition], expected.numpy()[is_transition], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(length[is_transition], lengths.numpy()[is_transition])
    assert (length[~is_transition] == 1).all()
