"""One exploration setting a slot."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

from sb3_ca2e.actors.exploration import EpsilonGreedy, epsilon_ladder, noise_ladder, per_slot

BOX = spaces.Box(-2, 2, (3,), np.float32)


def test_epsilon_ladder_by_default_is_even_over_all_slots():
    ladder = epsilon_ladder(5, 3, None, 0.1, 0.5)
    assert [each.initial for each in ladder] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert [each.final for each in ladder] == [0.1] * 5
    assert epsilon_ladder(1, 3, None, 0.1, 0.5)[0].initial == 1.0


def test_epsilon_ladder_of_numbers_and_lists():
    ladder = epsilon_ladder(3, 2, 0.7, [0.3, 0.2, 0.1], 0.5)
    assert [(each.initial, each.final) for each in ladder] == [(0.7, 0.3), (0.7, 0.2), (0.7, 0.1)]


@pytest.mark.parametrize("values", [[0.1, 0.2], [], [0.1] * 4, [[0.1, 0.2, 0.3]]])
def test_a_list_of_another_length_is_refused(values):
    with pytest.raises(ValueError, match=r"exploration_final_eps has .* for 3 slots; pass one number or one for each"):
        epsilon_ladder(3, 2, None, values, 0.5)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), [0.5, 2.0]])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match=r"exploration_initial_eps=.* is no probability"):
        per_slot("exploration_initial_eps", value, 2)


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.9), (0.1, 0.7), (0.2, 0.5), (0.4, 0.1), (0.7, 0.1), (1.0, 0.1)])
def test_epsilon_is_annealed_linearly_and_stays(progress, rate):
    assert EpsilonGreedy(2, 0.9, 0.1, 0.4).rate(progress) == pytest.approx(rate)


def test_no_annealing_is_the_final_epsilon_at_once():
    assert EpsilonGreedy(2, 0.9, 0.1, 0.0).rate(0.0) == pytest.approx(0.1)


def test_random_actions_come_as_often_as_epsilon_says():
    rng = np.random.default_rng(0)
    exploration, n = EpsilonGreedy(4, 0.6, 0.2, 1.0), 20_000
    actions = np.array([exploration.explore(3, 0.5, rng) for _ in range(n)])  # epsilon 0.4
    expected = np.array([0.1, 0.1, 0.1, 0.7])
    counts = np.bincount(actions, minlength=4)
    assert np.abs(counts - n * expected).max() < 5 * np.sqrt(n * 0.25)


def test_gaussian_ladder():
    ladder = noise_ladder(8, BOX, None)
    assert [each.sigma for each in ladder] == pytest.approx(np.linspace(0.05, 0.4, 8))
    rng = np.random.default_rng(0)
    deviations = np.array([ladder[3].explore(np.zeros(3, np.float32), 0.0, rng) for _ in range(5000)])
    assert deviations.std() == pytest.approx(ladder[3].sigma, rel=0.05)
    assert deviations.mean() == pytest.approx(0, abs=0.01)


def test_noisy_and_random_actions_stay_in_bounds():
    rng = np.random.default_rng(0)
    for exploration in (*noise_ladder(2, BOX, None), *noise_ladder(2, BOX, NormalActionNoise(np.zeros(3), np.ones(3)))):
        noisy = np.array([exploration.explore(np.ones(3, np.float32), 0.0, rng) for _ in range(200)])
        uniform = np.array([exploration.random(rng) for _ in range(2000)])
        for actions in (noisy, uniform):
            assert actions.dtype == np.float32
            assert np.abs(actions).max() <= 1
        assert noisy.min() < 1
        assert np.quantile(uniform, [0.25, 0.5, 0.75]) == pytest.approx([-0.5, 0, 0.5], abs=0.05)


def test_each_slot_has_a_noise_of_its_own():
    given = OrnsteinUhlenbeckActionNoise(np.zeros(3), 0.1 * np.ones(3), theta=0.5)
    one, other = noise_ladder(2, BOX, given)
    rng = np.random.default_rng(0)
    assert one.rate(0.0) == pytest.approx(0.1)
    for _ in range(5):
        one.explore(np.zeros(3), 0.0, rng)
    assert np.abs(one.noise.noise_prev).min() > 0
    assert not other.noise.noise_prev.any()
    assert not given.noise_prev.any()
    other.explore(np.zeros(3), 0.0, rng)
    one.reset()
    assert not one.noise.noise_prev.any()
    assert np.abs(other.noise.noise_prev).min() > 0
