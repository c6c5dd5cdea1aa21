import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_ca2e.replay.n_step import n_step_return

STEP = st.tuples(st.integers(-8, 8), st.booleans(), st.booleans())


@given(st.lists(st.lists(STEP, min_size=4, max_size=4), min_size=1, max_size=5), st.sampled_from([0.5, 0.99, 1.0]))
def test_return_is_the_sum_of_its_definition(windows, gamma):
    for window in windows:
        window[0] = (*window[0][:2], True)
    rewards, ended, available = (th.tensor(part) for part in np.moveaxis(np.array(windows), 2, 0))
    returns, n_used = n_step_return(rewards.float(), ended.bool(), available.bool(), gamma)
    for i, window in enumerate(windows):
        total, k = 0.0, 0
        for reward, end, known in window:
            if not known:
                break
            total, k = total + gamma**k * reward, k + 1
            if end:
                break
        assert n_used[i] == k
        assert returns[i].item() == pytest.approx(total, abs=1e-5)
