"""Random actions come from a ``sample`` that the user has overridden, as with SB3."""

import functools
import pathlib
import threading

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise

from sb3_ca2e import CA2EDDPG, CA2EDQN, ActorError, CA2ECheckpointCallback
from sb3_ca2e.actors.exploration import epsilon_ladder, noise_ladder

pytestmark = pytest.mark.usefixtures("_one_server")


class Allowed(spaces.Discrete):
    """Draws only actions that are allowed."""

    allowed = (0, 3)

    def sample(self, mask=None, probability=None):
        return np.int64(self.np_random.choice(self.allowed))


class Corners(spaces.Box):
    """Draws only the bounds, and the middle."""

    def sample(self, mask=None):
        return self.np_random.choice(np.stack([self.low, self.high, (self.low + self.high) / 2])).astype(np.float32)


class Board(gym.Env):
    """Ten steps, any actions."""

    observation_space = spaces.Box(0, 1, (4,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self._observation(), 0.0, False, self.t >= 10, {}

    def _observation(self):
        return np.zeros(4, np.float32)


def box():
    return Corners(np.array([-1, 0], np.float32), np.array([1, 10], np.float32))


def learned(algorithm, env, n=300, **kwargs):
    ours = issubclass(algorithm, CA2EDQN | CA2EDDPG)
    own = {"n_actors": 2, "n_processes": 2, "n_steps": 1} if ours else {"buffer_size": 1000}
    return algorithm("MlpPolicy", env, **{"learning_starts": 1000, "seed": 0, "device": "cpu", **own, **kwargs}).learn(
        n
    )


def taken(model):
    held = model.replay_buffer.actions[: model.replay_buffer.pos]
    return np.unique(held.reshape(-1, held.shape[-1]), axis=0).tolist()


@pytest.mark.parametrize("execution", ["sync", "async"])
@pytest.mark.parametrize(("ours", "theirs", "space"), [(CA2EDQN, sb3.DQN, Allowed(4)), (CA2EDDPG, sb3.DDPG, box())])
def test_actions_before_learning_starts_are_sampled(ours, theirs, space, execution):
    """All of them, also in games that would be played without exploration."""
    model = learned(ours, Board(space), execution=execution)
    assert taken(model) == taken(learned(theirs, Board(space)))


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_actions_of_epsilon_are_sampled(execution):
    def run(algorithm, **kwargs):
        always = {"exploration_initial_eps": 1.0, "exploration_final_eps": 1.0}
        model = algorithm("MlpPolicy", Board(Allowed(4)), learning_starts=0, seed=0, device="cpu", **always, **kwargs)
        model.q_net.q_net[-1].bias.data[0] += 100.0  # what is not random is an allowed action
        return taken(model.learn(300))

    assert run(CA2EDQN, n_actors=2, execution=execution) == run(sb3.DQN, buffer_size=1000) == [[0], [3]]


def test_noise_is_added_to_sampled_actions_as_by_sb3():
    noise = NormalActionNoise(np.full(2, 0.25), np.zeros(2))
    model = learned(CA2EDDPG, Board(box()), action_noise=noise, execution="sync")
    theirs = taken(learned(sb3.DDPG, Board(box()), action_noise=noise))
    assert len(theirs) == 3  # the bounds and the middle, each with 0.25 added
    np.testing.assert_allclose(taken(model), theirs, atol=1e-6)


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_a_method_of_the_object_counts_too(execution):
    env = Board(spaces.Discrete(4))
    env.action_space.sample = lambda: np.int64(2)
    assert taken(learned(CA2EDQN, env, execution=execution)) == [[2]]
    model = CA2EDQN("MlpPolicy", functools.partial(Board, spaces.Discrete(4)), n_actors=2, execution=execution, seed=0)
    model.learning_starts = 1000
    model.action_space.sample = lambda: np.int64(1)
    assert taken(model.learn(100)) == [[1]]


class Moving(Board):
    """Only one action is allowed at a time, and the environment says which."""

    def _observation(self):
        self.action_space.allowed = [self.t % 4]
        return super()._observation()

    def step(self, action):
        allowed = self.action_space.allowed
        observation, _, *rest = super().step(action)
        return observation, float(action in allowed), *rest


@pytest.mark.parametrize(
    "kwargs", [{"execution": "sync"}, {"execution": "async"}, {"execution": "sync", "n_actors": 1}]
)
@pytest.mark.parametrize("make", [lambda: Moving(Allowed(4)), lambda: functools.partial(Moving, Allowed(4))])
def test_sample_sees_what_its_environment_sets(make, kwargs):
    theirs = learned(sb3.DQN, Moving(Allowed(4)))
    assert theirs.replay_buffer.rewards[:300].min() == 1.0
    assert learned(CA2EDQN, make(), **kwargs).replay_buffer.rewards.min() == 1.0


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_slots_draw_different_actions_which_the_seed_repeats(execution):
    def run(seed):
        env = Board(Allowed(1000))
        env.action_space.allowed = range(1000)
        model = learned(CA2EDQN, env, 100, execution=execution, seed=seed, local_buffer_size=50)
        return sorted(model.replay_buffer.actions.flatten().tolist())

    first = run(0)
    assert len(set(first)) > 80  # else both slots have drawn the same fifty
    if execution == "sync":  # with processes, which blocks come first depends on their speed
        assert first == run(0) != run(1)


def test_another_space_draws_as_ever():
    """A subclass that leaves sample() as it is has no part in it."""

    class Named(spaces.Discrete):
        def __repr__(self):
            return "Named"

    assert all(each.samples is None for each in epsilon_ladder(2, 4, None, 0.1, 0.5, Named(4)))
    assert all(each.samples is None for each in noise_ladder(2, spaces.Box(-1, 1, (2,)), None))
    plain, named = (learned(CA2EDQN, Board(kind(4)), execution="sync") for kind in (spaces.Discrete, Named))
    np.testing.assert_array_equal(plain.replay_buffer.actions, named.replay_buffer.actions)


@pytest.mark.parametrize(
    ("ours", "kind", "returned"),
    [
        (CA2EDQN, spaces.Discrete(4), np.int64(4)),
        (CA2EDQN, spaces.Discrete(4), -1),
        (CA2EDQN, spaces.Discrete(4), 0.5),
        (CA2EDQN, spaces.Discrete(4), np.array([1])),
        (CA2EDDPG, spaces.Box(-1, 1, (2,)), np.array([0.0, 1.5])),
        (CA2EDDPG, spaces.Box(-1, 1, (2,)), np.array([0.0, np.nan])),
        (CA2EDDPG, spaces.Box(-1, 1, (2,)), np.zeros(3)),
    ],
)
def test_what_is_no_action_is_refused(ours, kind, returned):
    kind.sample = lambda: returned
    with pytest.raises(ActorError, match=r"(Discrete|Box)\.sample\(\) returned .*, which is no action of"):
        learned(ours, Board(kind), execution="sync")


@pytest.mark.parametrize("execution", ["sync", "async"])
@pytest.mark.parametrize(("ours", "space"), [(CA2EDQN, Allowed(4)), (CA2EDDPG, box())])
def test_what_cannot_be_copied_is_refused_at_construction(ours, space, execution):
    space = type(space)(4) if ours is CA2EDQN else box()

    def make():
        space.lock = threading.Lock()
        return Board(space)

    with pytest.raises(ValueError, match=r"to call (Allowed|Corners)\.sample, but it can't be pickled \(TypeError: .*"):
        ours("MlpPolicy", make() if execution == "sync" else make, n_actors=1, execution="sync")


def test_a_resumed_run_goes_on_with_the_same_samples(tmp_path: pathlib.Path):
    def model():
        env = Board(Allowed(1000))
        env.action_space.allowed = range(1000)
        settings = {"learning_starts": 10_000, "n_steps": 1, "local_buffer_size": 10, "seed": 0, "device": "cpu"}
        return CA2EDQN("MlpPolicy", env, n_actors=2, execution="sync", **settings)

    whole = model().learn(400)
    first = model()
    first.learn(200, CA2ECheckpointCallback(200, tmp_path, save_replay_buffer=True))
    resumed = CA2EDQN.resume(tmp_path, model().get_env())
    resumed.learn(200, reset_num_timesteps=False)
    np.testing.assert_array_equal(resumed.replay_buffer.actions, whole.replay_buffer.actions)
