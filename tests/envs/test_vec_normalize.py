"""The user's VecNormalize: its statistics are those of the stored raw data, and everyone applies the same."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_ca2e import CA2EDDPG, CA2EDQN, ActorWarning, PriorAgent
from sb3_ca2e.envs.normalization import Normalization
from sb3_ca2e.envs.recipe import recipe_from
from sb3_ca2e.learner.statistics import Statistics
from sb3_ca2e.replay.block import OBSERVATION, TERMINATED, TRANSITION, TRUNCATED, Block, ObservationColumn, plain
from sb3_ca2e.replay.normalization import normalize_observations
from tests import inside
from tests.toy import RandomWalk

#: The count with which SB3's running statistics begin, of zero mean and unit variance.
INITIAL_COUNT = 1e-4


class Rooms(gym.ObservationWrapper):
    """A random walk seen as a dictionary: vectors to normalise and to leave, an image and a room's number."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = spaces.Dict(
            {
                "far": spaces.Box(-np.inf, np.inf, (2,), np.float64),
                "near": spaces.Box(-np.inf, np.inf, (3,), np.float32),
                "camera": spaces.Box(0, 255, (36, 36, 1), np.uint8),
                "room": spaces.Discrete(4),
            }
        )

    def observation(self, observation):
        rng = self.np_random
        return {
            "far": rng.normal(300, 20, 2),
            "near": observation * 3 + 1,
            "camera": rng.integers(0, 256, (36, 36, 1), dtype=np.uint8),
            "room": int(rng.integers(4)),
        }


def walks(wrapper=lambda env: env, continuous: bool = False) -> VecEnv:
    return DummyVecEnv([lambda: Monitor(wrapper(RandomWalk(continuous)))] * 2)


ENVS = {
    "vectors": lambda: VecNormalize(walks(), gamma=0.9),
    "continuous actions": lambda: VecNormalize(walks(continuous=True)),
    "stacks": lambda: VecNormalize(VecFrameStack(walks(), 3)),
    "frames": lambda: VecFrameStack(VecNormalize(walks(), clip_obs=1.0, clip_reward=0.5), 3),
    "dictionaries": lambda: VecNormalize(walks(Rooms), norm_obs_keys=["far", "near"]),
    "frames of dictionaries": lambda: VecFrameStack(VecNormalize(walks(boxes), norm_obs_keys=["near"]), 2),
    "stacks of dictionaries": lambda: VecNormalize(VecFrameStack(walks(boxes), 2), norm_obs_keys=["far"]),
    "rewards alone": lambda: VecNormalize(walks(), norm_obs=False),
    "observations alone": lambda: VecNormalize(walks(), norm_reward=False),
}


def boxes(env: gym.Env) -> gym.Env:
    """Rooms without their numbers, which have no frames to stack."""
    rooms = Rooms(env)
    return gym.wrappers.FilterObservation(rooms, ["far", "near", "camera"])


def model_on(env: VecEnv, **kwargs):
    ours = {"execution": "sync", "n_actors": 3, "local_buffer_size": 10, "learning_starts": 60, "seed": 0}
    small = {"net_arch": [8]}
    if isinstance(env.observation_space, spaces.Dict):
        small["features_extractor_kwargs"] = {"cnn_output_dim": 4}
        kwargs["policy_kwargs"] = small
    kwargs = {"policy_kwargs": small, "train_freq": 10, "batch_size": 8, **ours, **kwargs}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    algorithm = CA2EDDPG if isinstance(env.action_space, spaces.Box) else CA2EDQN
    return algorithm(policy, env, replay_buffer_kwargs={"segment_length": 32}, device="cpu", **kwargs)


def stack_above(model) -> int:
    """Frames that are stacked after they are normalised, 0 where VecNormalize sees whole observations."""
    env = model.env
    while not isinstance(env, VecNormalize | VecFrameStack):
        env = env.venv
    return env.stacked_obs.n_stack if isinstance(env, VecFrameStack) else 0


def stored_rows(model) -> dict[int, th.Tensor]:
    """Every row that holds an observation, for each slot in the order in which they were made."""
    rows: dict[int, list[int]] = {}
    for segment in inside.storage(model.replay_buffer).segments.values():
        rows.setdefault(segment.slot, []).extend(range(segment.start, segment.start + segment.fill))
    return {slot: th.tensor(each) for slot, each in rows.items()}


def moments(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of data, with SB3's beginning."""
    data, n = data.astype(np.float64), len(data) + INITIAL_COUNT
    mean = data.sum(axis=0) / n
    return mean, (INITIAL_COUNT + (data**2).sum(axis=0)) / n - mean**2


def discounted_returns(model, gamma: float) -> np.ndarray:
    """The running return of each slot after each of its steps, as SB3's VecNormalize keeps it for an environment."""
    memory, returns = inside.rows(model.replay_buffer), []
    for rows in stored_rows(model).values():
        value = 0.0
        for reward, flags in zip(memory.rewards[rows].tolist(), memory.flags[rows].tolist(), strict=True):
            if flags & int(TRANSITION):
                value = gamma * value + reward
                returns.append(value)
            if not flags & int(TRANSITION) or flags & int(TERMINATED | TRUNCATED):
                value = 0.0
    return np.array(returns)


def observations_of(model, rows: th.Tensor) -> dict[str, np.ndarray]:
    return {key: tensor.numpy() for key, tensor in inside.rows(model.replay_buffer).observations(rows).items()}


def check_statistics(model) -> None:
    """Those of the user's object against a direct computation from all stored rows."""
    normalize, memory = model.get_vec_normalize_env(), model.replay_buffer
    rows = th.cat(list(stored_rows(model).values()))
    returns = discounted_returns(model, normalize.gamma)
    assert len(returns) == memory.size()
    assert normalize.ret_rms.count == pytest.approx(len(returns) + INITIAL_COUNT)
    np.testing.assert_allclose((normalize.ret_rms.mean, normalize.ret_rms.var), moments(returns), rtol=1e-6)
    if not normalize.norm_obs:
        return
    of_frames = stack_above(model) > 0
    statistics = normalize.obs_rms if isinstance(normalize.obs_rms, dict) else {OBSERVATION: normalize.obs_rms}
    for key, rms in statistics.items():
        data = inside.rows(memory).frames[key][rows].numpy() if of_frames else observations_of(model, rows)[key]
        mean, variance = moments(data)
        assert rms.count == pytest.approx(len(rows) + INITIAL_COUNT)
        np.testing.assert_allclose(rms.mean, mean, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(rms.var, variance, rtol=1e-6)


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_statistics_are_those_of_the_stored_rows(make):
    model = model_on(make()).learn(300)
    ends = (inside.rows(model.replay_buffer).flags & int(TERMINATED | TRUNCATED) > 0).sum()
    assert ends > 20
    assert model.replay_buffer.size() == 300
    check_statistics(model)


def test_statistics_of_actor_processes_are_those_of_the_stored_rows():
    model = model_on(ENVS["stacks"](), execution="async", n_processes=2).learn(500)
    check_statistics(model)


def test_prior_actors_count_too_and_their_agents_normalise_themselves():
    """An agent with statistics of its own gets raw observations, whatever the learner's VecNormalize says."""
    prior_env = VecNormalize(walks())
    prior_env.obs_rms.mean[:], prior_env.obs_rms.var[:] = (0.5, -0.5, 1.0), (4.0, 0.1, 1.0)
    policy_kwargs = {"net_arch": [32]}
    agent = sb3.DQN("MlpPolicy", prior_env, buffer_size=1, seed=3, policy_kwargs=policy_kwargs, device="cpu")
    frozen = copy.deepcopy(prior_env)
    model = model_on(VecNormalize(walks()), prior_agents=[PriorAgent(agent, mean_reward=1e9)]).learn(300)
    check_statistics(model)
    memory = model.replay_buffer
    rows = stored_rows(model)[2]
    rows = rows[inside.rows(memory).flags[rows].bitwise_and(int(TRANSITION)) > 0]
    assert len(rows) >= 90
    raw = observations_of(model, rows)[OBSERVATION]
    expected, _ = agent.predict(frozen.normalize_obs(raw), deterministic=True)
    as_learner, _ = agent.predict(model.get_vec_normalize_env().normalize_obs(raw), deterministic=True)
    np.testing.assert_array_equal(inside.rows(memory).actions[rows, 0], expected)
    assert (expected != as_learner).any()


def test_a_prior_of_dictionaries_normalises_them_itself():
    venv = walks(Rooms)
    prior_env = VecNormalize(venv, norm_obs_keys=["far", "near"])
    prior_env.obs_rms["far"].mean[:], prior_env.obs_rms["near"].var[:] = 300, 9
    small = {"net_arch": [16], "features_extractor_kwargs": {"cnn_output_dim": 4}}
    agent = sb3.DQN("MultiInputPolicy", prior_env, buffer_size=1, seed=3, policy_kwargs=small, device="cpu")
    live = VecTransposeImage(venv)  # as the learner sees it
    live.observation_space.seed(0)
    raw = {key: np.stack([space.sample() for _ in range(50)]) for key, space in live.observation_space.items()}
    raw["far"] = np.random.default_rng(0).normal(300, 20, (50, 2))
    expected, _ = agent.predict(prior_env.normalize_obs(raw), deterministic=True)
    prior = PriorAgent(agent).resolve(live.observation_space, live.action_space)
    np.testing.assert_array_equal(prior.predict(raw)[0], expected)
    assert (agent.predict(raw, deterministic=True)[0] != expected).any()


def test_statistics_stay_from_where_they_are_not_to_be_trained_any_more():
    env = VecNormalize(DummyVecEnv([Counting]))
    column = ObservationColumn((1,), np.dtype(np.float64))
    statistics = Statistics(env, Normalization.of(env, of_frames=False), {OBSERVATION: column})
    statistics.update(counted(0, True, True))
    counts = [env.obs_rms.count, env.ret_rms.count]
    env.training = False
    statistics.update(counted(2, True, True))
    statistics.end_streams()
    assert [env.obs_rms.count, env.ret_rms.count] == counts


class Counting(gym.Env):
    """Observations count up from 0 and rewards from 1, over resets too; no episode ends."""

    observation_space, action_space = spaces.Box(-np.inf, np.inf, (1,), np.float64), spaces.Discrete(2)
    n = -1

    def reset(self, *, seed=None, options=None):
        self.n += 1
        return np.full(1, self.n, np.float64), {}

    def step(self, action):
        observation, info = self.reset()
        return observation, float(self.n), False, False, info


def counted(first: int, *made: bool) -> Block:
    """Consecutive rows of :class:`Counting`; False for an observation on which no step was made."""
    numbers = np.arange(first, first + len(made) + 1, dtype=np.float64)
    return Block(
        slot=1,
        frames={OBSERVATION: numbers[:, None]},
        actions=np.zeros((len(made), 1), np.int64),
        rewards=np.where(made, numbers[1:], 0.0).astype(np.float32),
        flags=np.where(made, TRANSITION, 0).astype(np.uint8),
        ages=np.zeros(len(numbers), np.uint8),
        priorities=np.ones(len(made)),
    )


GAPS = {
    "a refused step": [counted(0, True, True, True, False, True, True)],
    "a refused step alone in its block": [counted(0, True, True, True), counted(3, False), counted(4, True, True)],
    "blocks of one step": [counted(n, n != 3) for n in range(6)],
    "a refused step that ends a block": [counted(0, True, True, True, False), counted(4, True, True)],
    "a refused step and a cut stream": [
        counted(0, True, True, True, False),
        Statistics.end_stream,
        counted(4, True, True),
    ],
    "a cut stream": [counted(0, True, True, True), Statistics.end_stream, counted(4, True, True)],
}


@pytest.mark.parametrize("parts", GAPS.values(), ids=GAPS)
def test_an_episode_that_breaks_off_ends_its_return_as_a_reset_does_in_sb3(parts):
    ours, theirs = (VecNormalize(DummyVecEnv([Counting]), gamma=0.9) for _ in range(2))
    theirs.reset()
    for end in (3, 6):
        while theirs.venv.envs[0].n < end:
            theirs.step(np.zeros(1, np.int64))
        if end == 3:
            theirs.reset()
    column = ObservationColumn((1,), np.dtype(np.float64))
    statistics = Statistics(ours, Normalization.of(ours, of_frames=False), {OBSERVATION: column})
    for part in parts:
        if isinstance(part, Block):
            statistics.update(part)
        else:
            part(statistics, 1)
    statistics.end_streams()
    for name in ("obs_rms", "ret_rms"):
        found, expected = getattr(ours, name), getattr(theirs, name)
        assert found.count == pytest.approx(expected.count)
        np.testing.assert_allclose((found.mean, found.var), (expected.mean, expected.var), rtol=1e-12)


class SometimesNan(RandomWalk):
    """Its first and every seventh reward is not a number."""

    n_steps = 0

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.n_steps += 1
        return observation, float("nan") if self.n_steps % 7 == 1 else reward, *rest


@pytest.mark.parametrize("local_buffer_size", [1, 10])
def test_refused_steps_leave_the_statistics_finite(local_buffer_size):
    env = VecNormalize(DummyVecEnv([SometimesNan]))
    model = model_on(env, local_buffer_size=local_buffer_size)
    with pytest.warns(ActorWarning, match="left out"):
        model.learn(300)
    check_statistics(model)


CHANGES = {"norm_obs": False, "norm_reward": False, "clip_obs": 0.25, "clip_reward": 0.1, "epsilon": 3.0}


def normalized_by_sb3(model, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By SB3's own method, frame by frame where frames are stacked afterwards."""
    env, columns = model.get_vec_normalize_env(), recipe_from(model.env).columns
    if (n_frames := stack_above(model)) == 0:
        whole = env.normalize_obs(plain(raw))
        return whole if isinstance(whole, dict) else {OBSERVATION: whole}
    frames = {key: np.split(array, n_frames, columns[key].batch_axis) for key, array in raw.items()}
    each = [env.normalize_obs(plain({key: parts[i] for key, parts in frames.items()})) for i in range(n_frames)]
    each = [part if isinstance(part, dict) else {OBSERVATION: part} for part in each]
    return {key: np.concatenate([part[key] for part in each], columns[key].batch_axis) for key in raw}


@pytest.mark.parametrize(("name", "value"), [*CHANGES.items(), ("norm_obs_keys", ["near"])])
@pytest.mark.parametrize("which", ["vectors", "frames", "dictionaries", "frames of dictionaries"])
def test_actors_and_samples_follow_the_settings_of_the_users_object(which, name, value):
    """Against SB3's own methods, which read the settings at each call."""
    env = ENVS[which]()
    if name == "norm_obs_keys" and not isinstance(env.observation_space, spaces.Dict):
        pytest.skip("there are no keys")
    model = model_on(env).learn(100)
    normalize, memory, recipe = model.get_vec_normalize_env(), model.replay_buffer, recipe_from(model.env)
    raw, rewards = observations_of(model, th.arange(20)), inside.rows(memory).rewards[:20].numpy()
    frames_are_known = np.full(20, 9)

    def by_actors() -> dict[str, np.ndarray]:
        normalizer = recipe.normalization.views(recipe.normalization.publish(normalize))
        observations = normalizer.observations(raw, frames_are_known, recipe.columns)
        return {**observations, "rewards": normalizer.rewards(rewards)}

    def by_samples() -> dict[str, np.ndarray]:
        of_frames = recipe.normalizes_frames
        return normalize_observations(raw, frames_are_known, recipe.columns, normalize, of_frames)

    before = by_actors()
    setattr(normalize, name, value)
    expected = {**normalized_by_sb3(model, raw), "rewards": normalize.normalize_reward(rewards)}
    after = by_actors()
    for key, array in after.items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-4, atol=1e-5)
    for key, array in by_samples().items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-6)
        assert array.dtype == after[key].dtype == before[key].dtype
    changes = {key for key in before if not np.array_equal(before[key], after[key])}
    assert changes or (which, name) == ("frames of dictionaries", "norm_obs_keys")
    model.learn(60)  # the same goes for what is shown to the networks
    assert model.replay_buffer.size() == 160


def test_learning_again_goes_on_from_where_the_statistics_were():
    model = model_on(VecNormalize(walks())).learn(100)
    model.learn(140, reset_num_timesteps=False)
    model.learn(60)
    assert model.replay_buffer.size() == 300
    check_statistics(model)


def test_statistics_that_are_not_to_be_trained_stay():
    env = VecNormalize(walks(), training=False)
    env.obs_rms.update(np.random.default_rng(0).normal(3, 2, (10, 3)))
    env.ret_rms.update(np.arange(9.0))
    before = copy.deepcopy((env.obs_rms, env.ret_rms))
    model_on(env).learn(120)
    for after, rms in zip((env.obs_rms, env.ret_rms), before, strict=True):
        assert rms.count == after.count
        np.testing.assert_array_equal(rms.mean, after.mean)
        np.testing.assert_array_equal(rms.var, after.var)
    assert not env.training


def normalized_by_hand(model, rows: th.Tensor) -> dict[str, np.ndarray]:
    """Observations of rows as the user's wrappers would have returned them."""
    normalize, n_stack = model.get_vec_normalize_env(), stack_above(model)
    raw = observations_of(model, rows)
    is_dict = isinstance(model.observation_space, spaces.Dict)
    if not n_stack:
        whole = normalize.normalize_obs(raw if is_dict else raw[OBSERVATION])
        return whole if is_dict else {OBSERVATION: whole}
    ages = inside.rows(model.replay_buffer).ages[rows].numpy()
    frames = {key: np.split(each, n_stack, axis=-1 if each.ndim == 2 else 1) for key, each in raw.items()}
    parts = []
    for i in range(n_stack):
        part = {key: each[i] for key, each in frames.items()}
        part = normalize.normalize_obs(part) if is_dict else {OBSERVATION: normalize.normalize_obs(*part.values())}
        unborn = ages < n_stack - 1 - i
        assert unborn.any() == (i < n_stack - 1)
        for each in part.values():
            each[unborn] = 0
        parts.append(part)
    return {key: np.concatenate([part[key] for part in parts], axis=1) for key in raw}


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_batches_are_normalised_as_the_users_object_does(make):
    model = model_on(make(), n_steps=3, gamma=0.9).learn(200)
    normalize, memory, storage = model.get_vec_normalize_env(), model.replay_buffer, inside.rows(model.replay_buffer)
    rows = th.nonzero(storage.flags & int(TRANSITION)).flatten()
    raw, batch = memory.samples_at(rows), memory.samples_at(rows, normalize)
    expected = normalized_by_hand(model, rows)
    is_dict = isinstance(batch.observations, dict)
    for key, tensor in (batch.observations if is_dict else {OBSERVATION: batch.observations}).items():
        assert tensor.dtype == th.from_numpy(expected[key]).dtype
        np.testing.assert_array_equal(tensor.reshape(expected[key].shape), expected[key], err_msg=key)
    position = {row: i for i, row in enumerate(rows.tolist())}
    for i, row in enumerate(rows.tolist()):
        target, discount, following = 0.0, 1.0, row
        for _ in range(3):
            target += discount * float(normalize.normalize_reward(storage.rewards[following].numpy()))
            discount *= 0.9
            if storage.flags[following] & int(TERMINATED | TRUNCATED):
                break
            following = int(storage.successors[following])
            if following not in position:
                break
        assert batch.rewards[i].item() == pytest.approx(target, rel=1e-4, abs=1e-5)
    assert th.equal(batch.rewards, raw.rewards) == (not normalize.norm_reward)


def test_evaluation_uses_the_statistics_of_that_moment(tmp_path):
    class SyncedEval(EvalCallback):
        def _on_step(self):
            result = super()._on_step()
            if self.n_calls % self.eval_freq == 0:
                mine, evaluated = self.model.get_vec_normalize_env(), self.eval_env
                np.testing.assert_array_equal(evaluated.obs_rms.mean, mine.obs_rms.mean)
                assert evaluated.ret_rms.var == mine.ret_rms.var
                counts.append(evaluated.obs_rms.count)
            return result

    counts: list[float] = []
    evaluation = VecNormalize(walks(), training=False, norm_reward=False)
    model_on(VecNormalize(walks())).learn(200, SyncedEval(evaluation, eval_freq=40, n_eval_episodes=1, verbose=0))
    assert len(counts) == 2
    assert INITIAL_COUNT < counts[0] < counts[1]


@pytest.mark.parametrize("name", ["vectors", "frames", "continuous actions", "dictionaries"])
def test_a_saved_pair_predicts_the_same(name, tmp_path):
    model = model_on(ENVS[name]()).learn(140)
    model.save(tmp_path / "model")
    model.get_vec_normalize_env().save(tmp_path / "statistics.pkl")

    def rebuilt():
        env = ENVS[name]()
        normalize = env.venv if isinstance(env, VecFrameStack) else env
        loaded = VecNormalize.load(tmp_path / "statistics.pkl", normalize.venv)
        return VecFrameStack(loaded, 3) if isinstance(env, VecFrameStack) else loaded

    loaded = type(model).load(tmp_path / "model", env=rebuilt())
    trajectories = []
    for each in (model, loaded):
        env, actions = each.get_env(), []
        each.get_vec_normalize_env().training = False
        env.seed(5)
        obs = env.reset()
        for _ in range(30):
            action, _ = each.predict(obs, deterministic=True)
            obs, *_ = env.step(action)
            actions.append(np.copy(action))
        trajectories.append(np.array(actions))
    np.testing.assert_array_equal(*trajectories)
    loaded.get_vec_normalize_env().training = True
    count = loaded.get_vec_normalize_env().ret_rms.count
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.get_vec_normalize_env().ret_rms.count == pytest.approx(count + 60)


# Environments that stack or normalise otherwise than the memory's.


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(("first", "then"), [("stacks", "frames"), ("frames", "stacks")])
def test_a_memory_of_raw_frames_follows_a_change_of_the_wrappers_order(first, then, saved, tmp_path):
    model = model_on(ENVS[first]()).learn(100)
    if saved:
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "memory")
        model = type(model).load(tmp_path / "model", env=ENVS[then]())
        model.load_replay_buffer(tmp_path / "memory")
    else:
        model.set_env(ENVS[then]())
    model.learn(100, reset_num_timesteps=False)
    normalize, memory, storage = model.get_vec_normalize_env(), model.replay_buffer, inside.rows(model.replay_buffer)
    rows = th.nonzero(storage.flags & int(TRANSITION)).flatten()
    assert len(rows) == 200
    expected = normalized_by_hand(model, rows)[OBSERVATION]
    np.testing.assert_array_equal(memory.samples_at(rows, normalize).observations, expected)


class Wide(RandomWalk):
    """Looks from outside as a random walk in stacks of two."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (6,), np.float32)

    def _observation(self):
        return self.np_random.normal(size=6).astype(np.float32)


def test_a_memory_of_other_stacks_is_refused_before_training_until_it_is_empty(tmp_path):
    def stacks():
        return VecFrameStack(walks(), 2)

    model = model_on(stacks()).learn(100)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    before = copy.deepcopy(model.policy.state_dict())
    loaded = type(model).load(tmp_path / "model", env=DummyVecEnv([lambda: Monitor(Wide())] * 2))
    loaded.load_replay_buffer(tmp_path / "memory")
    model.set_env(DummyVecEnv([lambda: Monitor(Wide())] * 2))
    message = (
        r"memory's 100 transitions hold stacks of 2 along axis 0, frames \(3,\) of float32, the environment returns "
        r"frames \(6,\) of float32\. Stack frames and mask actions as.*replay_buffer\.reset\(\)"
    )
    for each in (model, loaded):
        with pytest.raises(ValueError, match=message):
            each.learn(100, reset_num_timesteps=False)
        assert (each.num_timesteps, each.replay_buffer.size()) == (100, 100)
        assert all(th.equal(value, before[name]) for name, value in each.policy.state_dict().items())
    model.set_env(stacks())
    assert model.learn(100, reset_num_timesteps=False).replay_buffer.size() == 200
    loaded.replay_buffer.reset()
    assert loaded.learn(100, reset_num_timesteps=False).replay_buffer.size() == 100
    sampled = loaded.replay_buffer.sample(50).observations
    assert (sampled != 0).all(), "a stack of two begins with zeros"
