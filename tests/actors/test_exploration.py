"""One exploration setting a slot."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

from sb3_ca2e.actors.exploration import EpsilonGreedy, epsilon_ladder, noise_ladder, per_slot
from sb3_ca2e.actors.explorer import Explorer

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
    with pytest.raises(ValueError, match=r"exploration_initial_eps=.* is not a probability"):
        per_slot("exploration_initial_eps", value, 2)


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.9), (0.1, 0.7), (0.2, 0.5), (0.4, 0.1), (0.7, 0.1), (1.0, 0.1)])
def test_epsilon_is_annealed_linearly_and_stays(progress, rate):
    assert EpsilonGreedy(2, 0.9, 0.1, 0.4).rate(progress) == pytest.approx(rate)


def test_no_annealing_is_the_final_epsilon_at_once():
    assert EpsilonGreedy(2, 0.9, 0.1, 0.0).rate(0.0) == pytest.approx(0.1)


def test_random_actions_come_as_often_as_epsilon_says():
    rng = np.random.default_rng(0)
    exploration, n = EpsilonGreedy(4, 0.6, 0.2, 1.0), 20_000
    noise = exploration.draw_noise(n, 0.5, rng)  # epsilon 0.4
    actions = exploration.perturb(np.full(n, 3), noise)
    expected = np.array([0.1, 0.1, 0.1, 0.7])
    counts = np.bincount(actions, minlength=4)
    assert np.abs(counts - n * expected).max() < 5 * np.sqrt(n * 0.25)


def test_gaussian_ladder():
    ladder = noise_ladder(8, BOX, None)
    assert [each.sigma for each in ladder] == pytest.approx(np.linspace(0.05, 0.4, 8))
    rng = np.random.default_rng(0)
    deviations = ladder[3].perturb(np.zeros((5000, 3), np.float32), ladder[3].draw_noise(5000, 0.0, rng))
    assert deviations.std() == pytest.approx(ladder[3].sigma, rel=0.05)
    assert deviations.mean() == pytest.approx(0, abs=0.01)


def test_noisy_and_random_actions_stay_in_bounds():
    rng = np.random.default_rng(0)
    for exploration in (*noise_ladder(2, BOX, None), *noise_ladder(2, BOX, NormalActionNoise(np.zeros(3), np.ones(3)))):
        noisy = exploration.perturb(np.ones((200, 3), np.float32), exploration.draw_noise(200, 0.0, rng))
        uniform = exploration.random(2000, rng)
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
    assert len(np.unique(one.draw_noise(5, 0.0, rng))) == 15
    assert np.abs(one.noise.noise_prev).min() > 0
    assert not other.noise.noise_prev.any()
    assert not given.noise_prev.any()
    other.draw_noise(1, 0.0, rng)
    one.reset()
    assert not one.noise.noise_prev.any()
    assert np.abs(other.noise.noise_prev).min() > 0


class Counted(NormalActionNoise):
    """Zero until an episode has begun anew, then the number of steps since."""

    def __init__(self, counts: list[int]):
        super().__init__(np.zeros(3), np.ones(3))
        self.counts = counts

    def __call__(self) -> np.ndarray:
        self.counts.append(self.counts[-1] + 1)
        return np.full(3, 0.1 * self.counts[-1])

    def reset(self) -> None:
        self.counts.append(0)


def ladders() -> dict[str, list]:
    return {"epsilon": epsilon_ladder(4, 5, 0.5, 0.5, 1.0), "noise": noise_ladder(4, BOX, None)}


@pytest.mark.parametrize("kind", ["epsilon", "noise"])
def test_slots_draw_the_same_in_whatever_company_and_whatever_they_do(kind):
    def actions(slots: list[int], greedy_slot: int) -> dict[int, np.ndarray]:
        explorer = Explorer([ladders()[kind][slot] for slot in slots], [np.random.default_rng(s) for s in slots], 10)
        policy = np.zeros((len(slots), 3), np.float32) if kind == "noise" else np.zeros(len(slots), np.int64)
        taken = []
        for block in range(3):
            explorer.begin_block(0.5, 15 - 10 * block)
            for t in range(10):
                if greedy_slot in slots and t == 5:
                    explorer.set_greedy(slots.index(greedy_slot), block == 1)
                taken.append(explorer.actions(t, policy).copy())
        return {slot: np.array(taken)[:, position] for position, slot in enumerate(slots)}

    together, apart = actions([0, 1, 2, 3], 2), {**actions([0, 2], -1), **actions([3, 1], -1)}
    for slot in (0, 1, 3):
        np.testing.assert_array_equal(together[slot], apart[slot])
    assert not together[2][15:25].any()
    np.testing.assert_array_equal(np.delete(together[2], range(15, 25), 0), np.delete(apart[2], range(15, 25), 0))
    assert len({together[slot].tobytes() for slot in together}) == 4


def test_a_noise_of_the_users_own_is_asked_once_for_each_step_that_explores():
    counts = [[0], [0]]
    settings = noise_ladder(2, BOX, NormalActionNoise(np.zeros(3), np.ones(3)))
    for each, counted in zip(settings, counts, strict=True):
        each.noise = Counted(counted)
    explorer = Explorer(settings, [np.random.default_rng(slot) for slot in range(2)], 4)
    explorer.begin_block(0.0, 2)
    policy, noises = np.full((2, 3), 0.5, np.float32), []
    for t in range(4):
        explorer.set_greedy(1, t == 3)
        noises.append(explorer.actions(t, policy)[:, 0] - 0.5)
    assert counts == [[0, 1, 2], [0, 1]]
    np.testing.assert_allclose(noises[2:], [[0.1, 0.1], [0.2, 0.0]], atol=1e-6)
    settings[0].reset()
    explorer.begin_block(0.0, 0)
    np.testing.assert_allclose(explorer.actions(0, policy)[:, 0], [0.6, 0.5], atol=1e-6)


def test_forbidden_actions_are_replaced_by_allowed_ones_drawn_uniformly():
    masks = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]], bool)
    explorer = Explorer(epsilon_ladder(3, 5, 1.0, 1.0, 1.0), [np.random.default_rng(s) for s in range(3)], 100, masks)
    plain = Explorer(epsilon_ladder(3, 5, 1.0, 1.0, 1.0), [np.random.default_rng(s) for s in range(3)], 100)
    greedy, counts = np.array([2, 3, 0]), np.zeros((3, 5), int)
    for block in range(40):
        for each in (explorer, plain):
            each.begin_block(0.0, 2000 - 100 * block)  # at random, then by epsilon
        for t in range(100):
            actions = explorer.actions(t, greedy)
            counts[range(3), actions] += 1
            if block == 0:  # what is allowed stays as it was drawn
                drawn = plain.actions(t, greedy)
                assert actions[2] == drawn[2]
                assert actions[0] == drawn[0] or not masks[0, drawn[0]]
    assert (counts[~masks] == 0).all()
    assert counts[1, 3] == 4000
    np.testing.assert_allclose(counts[0, masks[0]], 4000 / 3, rtol=0.08)
    np.testing.assert_allclose(counts[2], 4000 / 5, rtol=0.12)
    explorer.set_greedy(0, True)
    assert explorer.actions(0, greedy)[0] == 2
