"""What reaches an environment's ``step``, as from SB3, and what is stored though the environment changes it later."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import CA2EDDPG, CA2EDQN

pytestmark = pytest.mark.usefixtures("_one_server")


class InPlace(gym.Env):
    """
    Writes into the action that it was given, and into the observation and the info that it has returned.

    :param action_space: anything
    """

    observation_space = spaces.Box(-99, 99, (2,), np.float32)

    def __init__(self, action_space: spaces.Space):
        self.action_space = action_space
        self.observation = np.zeros(2, np.float32)
        self.steps = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation[:] = 0
        self.steps.clear()
        return self.observation, {}

    def step(self, action):
        kind = type(action).__name__, str(action.dtype), action.shape, action.flags.writeable
        self.steps.append(len(self.steps))
        self.observation[:] = len(self.steps), np.sum(action)
        if isinstance(action, np.ndarray):
            action *= 10
        return self.observation, 0.0, False, len(self.steps) >= 10, {"kind": kind, "steps": self.steps}


class Infos(BaseCallback):
    """Keeps the infos."""

    def _on_training_start(self):
        self.infos = []

    def _on_step(self):
        self.infos += self.locals["infos"]
        return True


def learned(algorithm, action_space, **kwargs):
    infos = Infos()
    own = {} if algorithm in (DDPG, DQN) else {"n_actors": 2, "n_steps": 1, "info_keys": ("kind", "steps"), **kwargs}
    model = algorithm("MlpPolicy", InPlace(action_space), learning_starts=20, seed=0, device="cpu", **own)
    return model.learn(100, infos), infos.infos


CASES = [
    pytest.param(DQN, CA2EDQN, spaces.Discrete(3), id="discrete"),
    pytest.param(DDPG, CA2EDDPG, spaces.Box(-1, 1, (1,), np.float32), id="scaled"),
    pytest.param(DDPG, CA2EDDPG, spaces.Box(-2, 4, (2,), np.float32), id="wide"),
]


@pytest.mark.parametrize("execution", ["sync", "async"])
@pytest.mark.parametrize(("theirs", "ours", "space"), CASES)
def test_actions_are_of_the_same_kind_as_sb3s(theirs, ours, space, execution):
    expected = {info["kind"] for info in learned(theirs, space)[1]}
    assert {info["kind"] for info in learned(ours, space, execution=execution)[1]} == expected


@pytest.mark.parametrize("execution", ["sync", "async"])
@pytest.mark.parametrize(("theirs", "ours", "space"), CASES)
def test_what_an_environment_changes_afterwards_is_stored_as_it_was(theirs, ours, space, execution):
    model, infos = learned(ours, space, execution=execution)
    batch = model.replay_buffer.sample(200)
    actions, after = batch.actions.numpy(), batch.next_observations.numpy()
    if isinstance(space, spaces.Box):
        actions = space.low + (actions + 1) / 2 * (space.high - space.low)
    np.testing.assert_allclose(after[:, 1], actions.sum(axis=1), atol=1e-5)
    np.testing.assert_array_equal(after[:, 0], batch.observations.numpy()[:, 0] + 1)
    lengths = [len(info["steps"]) for info in infos]
    assert set(lengths) == set(range(1, 11))


@pytest.mark.parametrize("algorithm", [DQN, CA2EDQN])
def test_discrete_actions_that_do_not_start_at_zero_are_refused(algorithm):
    with pytest.raises((ValueError, RuntimeError), match=r"start|out of bounds"):
        algorithm("MlpPolicy", InPlace(spaces.Discrete(3, start=1)), learning_starts=10, device="cpu").learn(100)


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 3], start=[0, 1])])
@pytest.mark.parametrize("in_dict", [False, True])
def test_observations_that_do_not_start_at_zero_are_refused(space, in_dict):
    env = InPlace(spaces.Discrete(2))
    env.observation_space = spaces.Dict(part=space) if in_dict else space
    policy = "MultiInputPolicy" if in_dict else "MlpPolicy"
    with pytest.raises(ValueError, match="subtract it"):
        CA2EDQN(policy, env)


def test_an_environment_may_train_networks_of_its_own():
    class Curious(InPlace):
        def step(self, action):
            layer = th.nn.Linear(2, 1)
            layer(th.ones(2)).sum().backward()
            return super().step(action)

    own = {"n_actors": 2, "execution": "sync", "learning_starts": 20, "device": "cpu"}
    assert CA2EDQN("MlpPolicy", Curious(spaces.Discrete(2)), **own).learn(40).num_timesteps == 40
