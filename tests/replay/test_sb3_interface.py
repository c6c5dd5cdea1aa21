"""The memory in the place of Stable-Baselines3's own buffers."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ca2e.replay import PrioritizedReplayBuffer
from tests import inside
from tests.toy import RandomWalk

VECTOR = spaces.Box(-10, 10, (3,), np.float32)


def stored(memory: PrioritizedReplayBuffer) -> th.Tensor:
    return th.nonzero(inside.rows(memory).flags & 1).squeeze(1)


def random_steps(n_steps: int, n_envs: int, seed: int = 0):
    """Steps as SB3 gives them to its buffers; actions are unique numbers."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(n_envs, 3)).astype(np.float32)
    for step in range(n_steps):
        next_obs = rng.normal(size=(n_envs, 3)).astype(np.float32)
        done = rng.random(n_envs) < 0.15
        infos = [{"TimeLimit.truncated": bool(d and rng.random() < 0.5)} for d in done]
        action = np.arange(n_envs).reshape(-1, 1) + step * n_envs
        yield obs, next_obs, action, rng.normal(size=n_envs).astype(np.float32), done, infos
        reset_obs = rng.normal(size=(n_envs, 3)).astype(np.float32)
        obs = np.where(done[:, None], reset_obs, next_obs)


@pytest.mark.parametrize("n_steps", [1, 3, 5])
@pytest.mark.parametrize("handle_timeouts", [True, False])
@pytest.mark.parametrize("n_added", [60, 170])
def test_equals_sb3s_n_step_buffer(n_steps, handle_timeouts, n_added):
    kwargs = {"handle_timeout_termination": handle_timeouts, "n_steps": n_steps, "gamma": 0.97}
    spaces_ = (VECTOR, spaces.Discrete(10_000))
    theirs = NStepReplayBuffer(100, *spaces_, "cpu", **kwargs)
    ours = PrioritizedReplayBuffer(100, *spaces_, "cpu", **kwargs)
    for step in random_steps(n_added, 1):
        theirs.add(*step)
        ours.add(*step)
    rows = stored(ours)
    assert len(rows) > 50
    positions = inside.rows(ours).actions[rows, 0].numpy() % 100
    got, expected = ours.samples_at(rows), theirs._get_samples(positions)
    for name in expected._fields:
        value = getattr(got, name)
        assert value.dtype == getattr(expected, name).dtype
        np.testing.assert_allclose(value, getattr(expected, name), rtol=1e-5, atol=1e-6, err_msg=name)
    for name in ("observations", "next_observations", "actions"):
        assert th.equal(getattr(got, name), getattr(expected, name))


def test_environments_are_slots_of_their_own():
    memories = [PrioritizedReplayBuffer(500, VECTOR, spaces.Discrete(10_000), "cpu", n_envs=n) for n in (4, 1, 1, 1, 1)]
    for step in random_steps(40, 4):
        memories[0].add(*step)
        for i, memory in enumerate(memories[1:]):
            memory.add(*(part[i : i + 1] for part in step))
    together = memories[0].samples_at(stored(memories[0]))
    order = together.actions[:, 0].argsort()
    alone = [memory.samples_at(stored(memory)) for memory in memories[1:]]
    for name in ("actions", "rewards", "discounts", "dones", "next_observations", "observations"):
        expected = th.stack([getattr(samples, name) for samples in alone], dim=1).flatten(0, 1)
        assert th.equal(getattr(together, name)[order], expected), name


def test_a_step_that_continues_nothing_cuts_the_stream():
    """As when learn() is called again, and environments are reset in the middle of an episode."""
    memory = PrioritizedReplayBuffer(500, VECTOR, spaces.Discrete(10_000), "cpu", gamma=0.5, n_steps=3)
    first, second = list(random_steps(1, 1, 1)), list(random_steps(1, 1, 2))
    for obs, next_obs, action, _, _, _ in first + second:
        memory.add(obs, next_obs, action, np.ones(1), np.zeros(1, dtype=bool), [{}])
    samples = memory.samples_at(stored(memory))
    assert samples.rewards.tolist() == [[1.0], [1.0]]
    assert samples.discounts.tolist() == [[0.5], [0.5]]
    assert samples.dones.tolist() == [[0.0], [0.0]]
    np.testing.assert_array_equal(samples.next_observations, np.concatenate([first[0][1], second[0][1]]))


def test_added_steps_get_the_largest_priority():
    memory = PrioritizedReplayBuffer(500, VECTOR, spaces.Discrete(10_000), "cpu", alpha=0.5)
    steps = list(random_steps(20, 1))
    for step in steps[:10]:
        memory.add(*step)
    samples = memory.sample(1)
    memory.update_priorities(samples.indices, samples.generations, th.tensor([16.0]))
    for step in steps[10:]:
        memory.add(*step)
    leaves = inside.rows(memory).priorities[stored(memory)]
    assert sorted(leaves.tolist()) == [1.0] * 9 + [4.0] * 11


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (spaces.Box(-1, 1, (2, 2), np.float32), th.float32),
        (spaces.Box(-1, 1, (2,), np.float64), th.float32),
        (spaces.Discrete(5), th.int64),
        (spaces.MultiDiscrete([3, 4]), th.int64),
        (spaces.MultiBinary(3), th.int8),
    ],
)
def test_action_spaces(space, dtype):
    memory = PrioritizedReplayBuffer(50, VECTOR, space, "cpu", n_envs=2)
    actions = np.stack([space.sample(), space.sample()])
    memory.add(np.zeros((2, 3)), np.ones((2, 3)), actions, np.zeros(2), np.zeros(2, dtype=bool), [{}, {}])
    samples = memory.samples_at(stored(memory))
    assert samples.actions.dtype == dtype
    np.testing.assert_array_equal(samples.actions, actions.reshape(2, -1).astype(np.dtype(str(dtype)[6:])))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(7),
        spaces.MultiBinary(3),
        spaces.Box(-1, 1, (2,), np.float64),
        spaces.Dict({"camera": spaces.Box(0, 255, (1, 4, 4), np.uint8), "place": spaces.Discrete(3)}),
    ],
)
def test_observation_spaces(space):
    memory = PrioritizedReplayBuffer(50, space, spaces.Discrete(2), "cpu", n_steps=1)
    is_dict = isinstance(space, spaces.Dict)

    def batched(sample):
        return {key: np.asarray(value)[None] for key, value in sample.items()} if is_dict else np.asarray(sample)[None]

    space.seed(0)
    first, second = batched(space.sample()), batched(space.sample())
    memory.add(first, second, np.zeros(1), np.zeros(1), np.ones(1, dtype=bool), [{}])
    samples = memory.sample(1)
    for got, expected in ((samples.observations, first), (samples.next_observations, second)):
        for key in expected if is_dict else [None]:
            tensor, array = (got[key], expected[key]) if is_dict else (got, expected)
            shape = memory.obs_shape[key] if is_dict else memory.obs_shape
            np.testing.assert_array_equal(tensor, array.reshape(1, *shape), strict=True)


@pytest.mark.parametrize("is_dict", [False, True])
def test_statistics_are_applied_at_sampling(is_dict):
    """To rewards before they are summed; and those of now, not of when a step was made."""
    env = DummyVecEnv([lambda: SimpleMultiObsEnv(random_start=False)]) if is_dict else make_vec_env("Pendulum-v1", 1)
    env = VecNormalize(env, clip_reward=2.0, norm_obs_keys=["vec"] if is_dict else None)
    memory = PrioritizedReplayBuffer(500, env.observation_space, env.action_space, "cpu", n_steps=3, gamma=0.5)
    obs, rewards = env.reset(), []
    obs = env.get_original_obs()
    env.action_space.seed(0)
    for _ in range(50):
        action = np.array([env.action_space.sample()])
        _, _, done, infos = env.step(action)
        memory.add(obs, env.get_original_obs(), action, env.get_original_reward(), done, infos)
        rewards.append(env.get_original_reward()[0])
        obs = env.get_original_obs()
        if done[0]:
            break
    rows = stored(memory)[:1]
    raw, normalized = memory.samples_at(rows), memory.samples_at(rows, env)
    single = env.normalize_reward(np.array(rewards[:3], dtype=np.float32))
    assert normalized.rewards.item() == pytest.approx(single @ np.array([1, 0.5, 0.25]), rel=1e-6)
    assert normalized.rewards.dtype == th.float32
    assert normalized.rewards.item() != raw.rewards.item()
    for name in ("observations", "next_observations"):
        before, after = getattr(raw, name), getattr(normalized, name)
        if is_dict:
            expected = env.normalize_obs({key: tensor.numpy() for key, tensor in before.items()})
            assert all(th.equal(after[key], th.from_numpy(expected[key])) for key in expected)
        else:
            assert th.equal(after, th.from_numpy(env.normalize_obs(before.numpy())))


def test_stacked_memories_refuse_single_steps():
    memory = PrioritizedReplayBuffer(
        50, spaces.Box(0, 255, (4, 8, 8), np.uint8), spaces.Discrete(2), frame_stack=(4, 0)
    )
    obs = np.zeros((1, 4, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="add_block"):
        memory.add(obs, obs, np.zeros(1), np.zeros(1), np.zeros(1), [{}])


def test_dqn(tmp_path):
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "replay_buffer_kwargs": {"n_steps": 3, "gamma": 0.99}}
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=100, buffer_size=400, seed=0, device="cpu", **kwargs)
    model.learn(1000)
    assert model._n_updates > 200
    assert 300 < model.replay_buffer.size() <= 400
    model.save_replay_buffer(tmp_path / "memory")
    expected = model.replay_buffer.sample(20)
    model.load_replay_buffer(tmp_path / "memory")
    assert all(
        th.equal(a, b) for a, b in zip(model.replay_buffer.sample(20).tensors(), expected.tensors(), strict=True)
    )
    model.learn(100, reset_num_timesteps=False)


def pair(algorithm):
    """SB3's learner with its own n-step memory, and with ours: after the same random steps, and no update."""
    ours = {"replay_buffer_class": PrioritizedReplayBuffer, "replay_buffer_kwargs": {"n_steps": 3, "gamma": 0.9}}
    common = {"learning_starts": 10**6, "buffer_size": 100, "gamma": 0.9, "seed": 0, "device": "cpu", "train_freq": 1}
    models = []
    for kwargs in ({"n_steps": 3}, ours):
        env, policy_kwargs = RandomWalk(continuous=algorithm is DDPG), {"net_arch": [8]}
        models.append(algorithm("MlpPolicy", env, policy_kwargs=policy_kwargs, **common, **kwargs).learn(170))
    return models


def made(model) -> tuple[np.ndarray, th.Tensor]:
    """Positions in SB3's memory and rows in ours of the steps that both hold, in the order in which they were made."""
    rows = stored(model.replay_buffer)
    rows = rows[inside.rows(model.replay_buffer).inserted_at[rows].argsort()]
    return np.arange(170 - len(rows), 170) % 100, rows


@pytest.mark.parametrize("algorithm", [DQN, DDPG])
def test_sb3s_learner_gets_the_returns_of_its_own_n_step_memory(algorithm):
    oracle, model = pair(algorithm)
    positions, rows = made(model)
    assert len(rows) > 80
    expected, got = oracle.replay_buffer._get_samples(positions), model.replay_buffer.samples_at(rows)
    assert 0 < expected.dones.sum() < len(rows)
    assert len(expected.discounts.unique()) == 3
    for name in expected._fields:
        value = getattr(got, name)
        assert value.dtype == getattr(expected, name).dtype
        np.testing.assert_allclose(value, getattr(expected, name), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("algorithm", [DQN, DDPG])
def test_sb3s_learner_learns_the_same_from_the_same_steps(algorithm):
    oracle, model = pair(algorithm)
    positions, rows = made(model)
    memory, theirs = model.replay_buffer, oracle.replay_buffer
    generations = inside.rows(memory).generations_of(rows)
    model.set_parameters(oracle.get_parameters())
    name = "actor.mu.0.weight" if algorithm is DDPG else "q_net.q_net.0.weight"
    before = model.policy.state_dict()[name].clone()
    # Steps in turn, each the only one with a priority in ours, the only one that theirs gives.
    for i in range(0, len(rows), 8):
        memory.update_priorities(rows, generations, th.arange(len(rows)) == i)
        theirs.sample = lambda batch_size, env=None, i=i: theirs._get_samples(np.full(batch_size, positions[i]), env)
        for each in (oracle, model):
            th.manual_seed(i)
            each.train(gradient_steps=2, batch_size=4)
    after, expected = model.policy.state_dict(), oracle.policy.state_dict()
    assert not th.equal(after[name], before)
    for name, value in expected.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_sb3s_learner_draws_uniformly_and_weighs_nothing():
    """It writes no priorities back, and has no use for weights."""
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "learning_starts": 50, "buffer_size": 300}
    model = DQN("MlpPolicy", RandomWalk(), policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **kwargs).learn(200)
    assert model._n_updates > 20
    samples = model.replay_buffer.sample(20_000)
    assert set(samples.weights.flatten().tolist()) == {1.0}
    counts = th.bincount(samples.indices)[stored(model.replay_buffer)]
    assert counts.sum() == 20_000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_sb3s_learner_on_dictionaries():
    """For which SB3 has no n-step memory of its own."""
    env = DummyVecEnv([lambda: SimpleMultiObsEnv(random_start=False)] * 2)
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "learning_starts": 40, "buffer_size": 300}
    small = {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}}
    model = DQN("MultiInputPolicy", env, policy_kwargs=small, seed=0, device="cpu", **kwargs).learn(120)
    assert model._n_updates == 10
    samples = model.replay_buffer.sample(50)
    assert {key: tensor.dtype for key, tensor in samples.observations.items()} == {"img": th.uint8, "vec": th.float64}
    assert set(samples.discounts.flatten().tolist()) <= {np.float32(0.99**n) for n in (1, 2, 3)}


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer will be truncated")
def test_optimize_memory_usage_does_no_harm():
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "optimize_memory_usage": True}
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=50, buffer_size=400, device="cpu", **kwargs)
    model.learn(100)
    model.learn(100)  # SB3 now marks the newest step in `dones`
    assert model.replay_buffer.size() == 200


def test_ddpg_of_several_environments():
    env = VecNormalize(make_vec_env("Pendulum-v1", 3))
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "replay_buffer_kwargs": {"n_steps": 2}}
    model = DDPG("MlpPolicy", env, learning_starts=60, buffer_size=1000, device="cpu", **kwargs)
    model.learn(150)
    assert model.replay_buffer.size() == 150
    assert model.replay_buffer.sample(10, env).observations.shape == (10, 3)


def test_images_stay_bytes():
    class Images(gym.Env):
        observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 1.0, False, bool(self.np_random.random() < 0.1), {}

    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "buffer_size": 200, "learning_starts": 20}
    model = DQN("CnnPolicy", Images(), device="cpu", **kwargs)
    model.learn(30)
    assert model.replay_buffer.sample(4).observations.dtype == th.uint8
