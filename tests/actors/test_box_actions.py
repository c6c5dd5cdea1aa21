"""Box actions of any finite bounds: what the environment gets and what is stored, with SB3's DDPG as the oracle."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import DDPG, PPO
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)

from sb3_ca2e import CA2EDDPG, PriorAgent, PrioritizedReplayBuffer
from sb3_ca2e.actors.slot import GREEDY_EVERY
from sb3_ca2e.replay.block import PRIOR, TRANSITION
from tests.actors.recording_env import LocalActor, RecordingEnv, make_spec

SLOTS = 3


def box(low: Any, high: Any, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


BOXES = {
    "symmetric": box([-2.0], [2.0]),
    "scaled": box([-1, -1], [1, 1]),
    "scaled, float64": box([-1], [1], np.float64),
    "asymmetric": box([-1, 0.25, 3], [3, 0.5, 100]),
    "float64": box([-1e-3, -7.1], [1e3, -0.3], np.float64),
    "two axes": box([[-1, -2, -3], [0, 0, 0]], [[1, 2, 3], [5, 0.1, 7]]),
    "two axes of float64": box([[-1.7], [0.3]], [[1.1], [5.9]], np.float64),
    "no axis": box(-3.0, 1.0),
    "float16": box([-2, 0], [2, 4], np.float16),
    "integers": box([-5, 0], [20, 3], np.int64),
    "bytes": box([0, 10], [255, 20], np.uint8),
    "nothing to choose": box([-1, 4, -2], [1, 4, 5]),
    "wide": box([-1e30], [2e30]),
}


def learner(space: spaces.Box, **kwargs: Any) -> CA2EDDPG:
    env = RecordingEnv(action_space=space)
    return CA2EDDPG("MlpPolicy", env, n_actors=SLOTS, seed=0, device="cpu", policy_kwargs={"net_arch": [16]}, **kwargs)


class Run:
    """
    Blocks of one actor, and what its environments were told to do.

    :param model: the learner
    :param n_steps: of each slot
    :param spec: fields of the actor's specification
    """

    def __init__(self, model: CA2EDDPG, n_steps: int = 150, **spec: Any):
        self.model = model
        # Outputs near the bounds as well as in the middle
        with th.no_grad():
            for parameter in model.actor.parameters():
                parameter.mul_(3)
        self.actor = LocalActor(make_spec(model, block_size=n_steps, **spec))
        self.actor.publish(model)
        _, self.blocks = self.actor.collect()

    def stored(self, slot: int) -> np.ndarray:
        """``(n_steps, action_dim)`` the actions in the block of a slot."""
        block = self.blocks[slot]
        return block.actions[block.flags & TRANSITION > 0]

    def executed(self, slot: int) -> list[np.ndarray]:
        """The actions that reached its environment."""
        return [step.action for episode in self.actor.episodes(slot) for step in episode.steps]

    def greedy(self, slot: int) -> np.ndarray:
        """``(n_steps,)`` whether an episode was played without exploration."""
        episodes = enumerate(self.actor.episodes(slot), start=1)
        return np.array([number % GREEDY_EVERY == 0 for number, episode in episodes for _ in episode.steps])

    def observations(self, slot: int) -> np.ndarray:
        """``(n_steps, 4)`` those that the actions were chosen in."""
        return np.array([e.frame(t) for e in self.actor.episodes(slot) for t in range(len(e.steps))])


def check_unscaled(run: Run, slot: int) -> None:
    """The environment got what SB3 makes of the stored action, to the last bit."""
    space = run.model.action_space
    executed, stored = run.executed(slot), run.stored(slot)
    assert len(executed) == len(stored) == 150
    assert stored.dtype == np.float32
    assert np.abs(stored).max() <= 1
    for action, scaled in zip(executed, stored, strict=True):
        expected = run.model.policy.unscale_action(scaled.reshape(space.shape))
        assert np.shape(action) == space.shape
        np.testing.assert_array_equal(action, expected)
        assert action.dtype == expected.dtype


@pytest.mark.parametrize("name", BOXES)
def test_the_environment_gets_what_sb3_makes_of_the_stored_action(name):
    run = Run(learner(BOXES[name]))
    for slot in range(SLOTS):
        check_unscaled(run, slot)
    assert len(np.unique(run.stored(SLOTS - 1), axis=0)) > 100


@pytest.mark.parametrize("name", BOXES)
def test_random_actions_are_uniform_in_every_direction(name):
    run = Run(learner(BOXES[name]), warmup=10**6)
    for slot in range(SLOTS):
        check_unscaled(run, slot)
    drawn = np.concatenate([run.stored(slot)[~run.greedy(slot)] for slot in range(SLOTS)])
    assert all(stats.kstest(dimension, stats.uniform(-1, 2).cdf).pvalue > 1e-4 for dimension in drawn.T)
    if drawn.shape[1] > 1:
        correlations = np.corrcoef(drawn.T)[np.triu_indices(drawn.shape[1], 1)]
        assert np.abs(correlations).max() < 0.3


def noises(shape: tuple[int, ...]) -> dict[str, ActionNoise]:
    """Whose values are known, another in each direction; and one that SB3 would broadcast."""
    drift = np.linspace(-0.4, 0.9, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return {
        "normal": NormalActionNoise(drift, np.zeros(shape)),
        "for all directions": NormalActionNoise(np.full(1, 0.3), np.zeros(1)),
        "vectorized": VectorizedActionNoise(NormalActionNoise(drift, np.zeros(shape)), 2),
        "process": OrnsteinUhlenbeckActionNoise(drift, np.zeros(shape), initial_noise=-drift),
    }


@pytest.mark.parametrize("name", ["asymmetric", "float64", "two axes"])
@pytest.mark.parametrize("kind", ["normal", "for all directions", "vectorized", "process"])
def test_noise_is_added_as_by_sb3(name, kind):
    space = BOXES[name]
    noise = noises(space.shape)[kind]
    model = learner(space, action_noise=noise)
    oracle = DDPG("MlpPolicy", RecordingEnv(action_space=space), policy_kwargs={"net_arch": [16]}, device="cpu")
    oracle.policy = model.policy
    run = Run(model)
    for slot in range(SLOTS):
        check_unscaled(run, slot)
        mine = noises(space.shape)[kind]
        mine = mine.base_noise if isinstance(mine, VectorizedActionNoise) else mine
        t = 0
        for episode in range(GREEDY_EVERY - 1):
            mine.reset()
            for _ in run.actor.episodes(slot)[episode].steps:
                oracle._last_obs = run.observations(slot)[t : t + 1]
                executed, stored = oracle._sample_action(0, mine)
                np.testing.assert_allclose(run.stored(slot)[t], stored.reshape(-1), atol=2e-6)
                np.testing.assert_allclose(run.executed(slot)[t], executed[0], rtol=1e-5, atol=1e-4)
                t += 1
        assert t > 40


def prior_run(space: spaces.Box, algorithm: type, own: spaces.Box | None = None) -> tuple[Run, Any]:
    model = learner(space)
    env = RecordingEnv(action_space=space if own is None else own)
    prior = algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [16]}, seed=3, device="cpu")
    with th.no_grad():
        for parameter in prior.policy.parameters():
            parameter += th.randn_like(parameter)
    agent = PriorAgent(prior).resolve(model.observation_space, model.action_space).for_actor()
    return Run(model, priors=[None, None, agent]), prior


@pytest.mark.parametrize("name", [name for name in BOXES if name not in ("no axis", "wide")])
@pytest.mark.parametrize("algorithm", [DDPG, PPO])
def test_prior_actions_are_executed_and_stored_as_by_sb3(name, algorithm):
    """PPO's own actions know no bounds: SB3 clips them."""
    space = BOXES[name]
    run, prior = prior_run(space, algorithm)
    expected, _ = prior.predict(run.observations(2), deterministic=True)
    np.testing.assert_allclose(np.array(run.executed(2)), expected, rtol=1e-4, atol=1e-4)
    stored = run.stored(2)
    assert ((run.blocks[2].flags & PRIOR > 0) == (run.blocks[2].flags & TRANSITION > 0)).all()
    free = (space.high > space.low).reshape(-1)
    with np.errstate(invalid="ignore"):  # where there is nothing to choose
        scaled = prior.policy.scale_action(np.array(run.executed(2), np.float64)).reshape(len(stored), -1)
    np.testing.assert_allclose(stored[:, free], scaled[:, free], atol=1e-5)
    assert np.isfinite(stored).all()
    assert np.abs(stored).max() <= 1
    if algorithm is PPO:
        assert (np.abs(stored[:, free]) == 1).any()


@pytest.mark.parametrize("algorithm", [DDPG, PPO])
def test_a_prior_of_wider_bounds_stays_within_the_environments(algorithm):
    """What is stored is what was done."""
    space = box([-1, 0], [3, 0.5])
    run, prior = prior_run(space, algorithm, own=box([-9, -9], [9, 9]))
    wished, _ = prior.predict(run.observations(2), deterministic=True)
    assert ((wished < space.low) | (wished > space.high)).any()
    executed = np.array(run.executed(2))
    np.testing.assert_allclose(executed, np.clip(wished, space.low, space.high), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run.stored(2), run.model.policy.scale_action(executed), atol=1e-5)


@pytest.mark.parametrize("name", ["nothing to choose", "two axes", "float64", "bytes", "integers", "no axis"])
def test_learning_stores_what_the_critic_is_trained_on(name):
    model = learner(BOXES[name], execution="sync", learning_starts=60, buffer_size=1000).learn(300)
    actions = model.replay_buffer.sample(200).actions
    assert actions.dtype == th.float32
    assert actions.abs().max() <= 1
    assert all((values.frac() != 0).any() for values in actions.T)
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())
    action, _ = model.predict(np.zeros(4, np.float32))
    assert action.shape == model.action_space.shape
    assert np.isfinite(action).all()


def test_the_memory_of_sb3s_ddpg_keeps_scaled_actions_of_integers_too():
    env = RecordingEnv(action_space=BOXES["bytes"])
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "learning_starts": 50, "buffer_size": 100}
    model = DDPG("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, device="cpu", **kwargs).learn(60)
    actions = model.replay_buffer.sample(100).actions
    assert actions.dtype == th.float32
    assert len(actions.unique()) > 50


def test_a_noise_of_another_shape_is_refused():
    for noise in (NormalActionNoise(np.zeros(2), np.ones(2)), NormalActionNoise(np.zeros((2, 3)), np.ones((2, 3)))):
        with pytest.raises(ValueError, match=r"action_noise gives values of shape \(2.*expected \(3,\)"):
            learner(BOXES["asymmetric"], action_noise=noise)


def test_bounds_that_are_too_far_apart_are_refused():
    """Their difference is infinite in float32, and so would be every action."""
    largest = np.finfo(np.float32).max
    with pytest.raises(ValueError, match="need finite bounds"):
        learner(box([-largest], [largest]))
