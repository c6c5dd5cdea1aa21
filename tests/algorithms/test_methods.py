"""The methods and arguments of SB3's models: the same steps with SB3's own DQN and DDPG, and what must be equal."""

import csv
import pathlib
import pickle
import re

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, LogEveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from sb3_ca2e import CA2EDDPG, CA2EDQN, PrioritizedReplayBuffer
from sb3_ca2e.replay.block import OBSERVATION, TRANSITION
from tests import inside
from tests.toy import RandomWalk, ddpg, dqn

PAIRS = [pytest.param(dqn, CA2EDQN, sb3.DQN, id="DQN"), pytest.param(ddpg, CA2EDDPG, sb3.DDPG, id="DDPG")]


def walk(make, n_envs: int = 1):
    return make_vec_env(RandomWalk, n_envs, env_kwargs={"continuous": make is ddpg})


def outcome(call):
    """What a call returned, or its exception without the names of the classes."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error).replace("CA2E", "")


def observations(n: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


# The memory.


def leaves(memory: PrioritizedReplayBuffer) -> list[float]:
    """The priorities of all transitions, to the power of alpha."""
    rows = inside.rows(memory)
    return rows.priorities[th.nonzero(rows.flags & int(TRANSITION)).flatten()].tolist()


@pytest.mark.parametrize("make", [dqn, ddpg])
@pytest.mark.parametrize("n_actors", [1, 3, 7])
def test_a_loaded_memory_keeps_its_priorities_with_any_number_of_actors(make, n_actors, tmp_path):
    model = make(walk(make)).learn(200)
    model.save_replay_buffer(tmp_path / "memory")
    other = make(walk(make), n_actors=n_actors, learning_starts=0, seed=1)
    other.load_replay_buffer(tmp_path / "memory")
    saved, memory = model.replay_buffer, other.replay_buffer
    assert memory.size() == saved.size() == 200
    assert len(set(leaves(saved))) > 50
    assert leaves(memory) == leaves(saved)
    assert memory.max_priority == saved.max_priority
    before = memory.sample(50), saved.sample(50)
    assert all(th.equal(a, b) for a, b in zip(*(batch.tensors() for batch in before), strict=True))
    other.learn(100)
    assert memory.size() == 300
    assert other._n_updates >= 24
    assert all(np.isfinite(leaves(memory)))


def test_a_saved_memory_is_a_file_as_sb3s(tmp_path):
    def run(algorithm):
        folder = tmp_path / algorithm.__name__
        folder.mkdir()
        model = dqn(walk(dqn), algorithm).learn(60)
        model.save_replay_buffer(folder / "plain")
        model.save_replay_buffer(str(folder / "named.pkl"))
        with (folder / "open.bin").open("wb") as file:
            model.save_replay_buffer(file)
        with (folder / "open.bin").open("rb") as file:
            model.load_replay_buffer(file)
        missing = outcome(lambda: model.load_replay_buffer("missing.pkl"))
        return sorted(path.name for path in folder.iterdir()), missing

    assert run(CA2EDQN) == run(sb3.DQN)


def test_a_loaded_memory_forms_returns_as_the_model_says(tmp_path):
    model = dqn(walk(dqn), n_steps=5, gamma=0.9).learn(100)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    loaded = CA2EDQN.load(tmp_path / "model", n_steps=1, gamma=0.5)
    loaded.load_replay_buffer(tmp_path / "memory")
    assert set(loaded.replay_buffer.sample(100).discounts.flatten().tolist()) == {0.5}


def test_a_memory_that_was_pickled_whole_is_loaded_too(tmp_path):
    model = dqn(walk(dqn)).learn(100)
    (tmp_path / "memory.pkl").write_bytes(pickle.dumps(model.replay_buffer))
    other = dqn(walk(dqn))
    other.load_replay_buffer(tmp_path / "memory")
    assert leaves(other.replay_buffer) == leaves(model.replay_buffer)


def test_episodes_under_way_when_a_memory_was_saved_are_cut_as_in_a_copy_of_it(tmp_path):
    class Saves(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 50:
                self.model.save_replay_buffer(tmp_path / "memory")
                self.copy = pickle.loads(pickle.dumps(self.model.replay_buffer))
                self.flags = inside.rows(self.model.replay_buffer).flags.clone()
            return True

    saves = Saves()
    dqn(walk(dqn)).learn(100, saves)
    other = dqn(walk(dqn))
    other.load_replay_buffer(tmp_path / "memory")
    flags = inside.rows(other.replay_buffer).flags
    assert th.equal(flags, inside.rows(saves.copy).flags)
    assert not th.equal(flags, saves.flags)


@pytest.mark.parametrize(("make", "algorithm"), [(dqn, sb3.DQN), (ddpg, sb3.DDPG)])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_memory_of_sb3s_learner_is_taken_over(make, algorithm, n_steps, tmp_path):
    oracle = make(walk(make), algorithm, n_steps=n_steps).learn(60)
    oracle.save_replay_buffer(tmp_path / "memory")
    model = make(walk(make), learning_starts=0)
    model.load_replay_buffer(tmp_path / "memory")
    theirs, ours = oracle.replay_buffer, model.replay_buffer
    assert type(theirs) is (NStepReplayBuffer if n_steps > 1 else ReplayBuffer)
    for name in ("observations", "next_observations", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name)[:60], strict=True)
    for name in ("dones", "timeouts"):  # learn() has left the newest step in the middle of an episode, or at its end
        np.testing.assert_array_equal(getattr(ours, name)[:-1], getattr(theirs, name)[:59], strict=True)
    model.learn(60)
    assert ours.size() == 120
    assert model._n_updates >= 14


def test_the_stacks_of_sb3s_learner_are_taken_over(tmp_path):
    def stacks():
        return VecFrameStack(DummyVecEnv([RandomWalk] * 2), 4)

    oracle = dqn(stacks(), sb3.DQN).learn(200)
    oracle.save_replay_buffer(tmp_path / "memory")
    model = dqn(stacks())
    model.load_replay_buffer(tmp_path / "memory")
    assert inside.rows(model.replay_buffer).frames[OBSERVATION].shape[1:] == (3,)
    theirs, ours = oracle.replay_buffer, model.replay_buffer
    for name in ("observations", "next_observations", "rewards"):
        got, expected = getattr(ours, name), getattr(theirs, name)[:100]
        # Blocks of one environment come after those of the other.
        rows = [array.reshape(200, -1)[np.lexsort(array.reshape(200, -1).T)] for array in (got, expected)]
        np.testing.assert_array_equal(*rows, err_msg=name)
    model.learn(100)
    assert model.replay_buffer is ours
    assert ours.size() >= 300


def test_another_kind_of_memory_is_refused(tmp_path):
    (tmp_path / "memory.pkl").write_bytes(pickle.dumps({"observations": 3}))
    model = dqn(walk(dqn)).learn(60)
    kept = model.replay_buffer
    message = r"(?s)CA2EDQN can't load.*memory\. The buffer is a dict.*PrioritizedReplayBuffer"
    with pytest.raises(TypeError, match=message):
        model.load_replay_buffer(tmp_path / "memory")
    other = sb3.DQN("MlpPolicy", "CartPole-v1", device="cpu").learn(60)
    other.save_replay_buffer(tmp_path / "other")
    with pytest.raises(ValueError, match=r"other\. The buffer has observations of Box"):
        model.load_replay_buffer(tmp_path / "other")
    assert model.replay_buffer is kept


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer will be truncated")
@pytest.mark.parametrize("loads", [False, True])
def test_optimize_memory_usage_does_no_harm(loads, tmp_path):
    model = dqn(walk(dqn), optimize_memory_usage=not loads).learn(60)
    if loads:
        model.save_replay_buffer(tmp_path / "memory")
        model = dqn(walk(dqn), optimize_memory_usage=True)
        model.load_replay_buffer(tmp_path / "memory")
    model.learn(60)  # SB3 now marks the newest step in `dones`
    assert model.replay_buffer.size() == 120


def test_a_memory_of_other_actions_is_refused(tmp_path):
    other = CA2EDQN("MlpPolicy", "CartPole-v1", n_actors=1, execution="sync", device="cpu").learn(60)
    other.save_replay_buffer(tmp_path / "memory")
    model = dqn(walk(dqn))
    with pytest.raises(ValueError, match=r"memory holds actions of Discrete\(2\).*Discrete\(3\)"):
        model.load_replay_buffer(tmp_path / "memory")


# Environments.


class Constant(gym.Wrapper):
    """Every step is worth the same, so that transitions tell where they come from."""

    def __init__(self, env: gym.Env, reward: float):
        super().__init__(env)
        self.reward = reward

    def step(self, action):
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, self.reward, terminated, truncated, info


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_another_environment_takes_over(make, ours, theirs):
    def run(algorithm):
        env = Constant(RandomWalk(make is ddpg), 1.0)
        model = make(env, algorithm).learn(60)
        model.set_env(Constant(RandomWalk(make is ddpg), 5.0))
        model.learn(40, reset_num_timesteps=False)
        memory = model.replay_buffer
        stored = inside.rows(memory).rewards if algorithm is ours else th.from_numpy(memory.rewards[: memory.pos])
        return model.num_timesteps, *[int((stored == value).sum()) for value in (1.0, 5.0)]

    assert run(ours) == run(theirs)


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_environments_that_do_not_fit_are_refused_as_by_sb3(make, ours, theirs):
    def run(algorithm):
        model = make(walk(make), algorithm)
        other = gym.make("MountainCarContinuous-v0" if make is ddpg else "MountainCar-v0")
        wrong_actions = RandomWalk(make is dqn)
        return [outcome(lambda env=env: model.set_env(env)) for env in (walk(make, 2), other, wrong_actions)]

    results = run(ours)
    assert results == run(theirs)
    assert all(isinstance(each, tuple) for each in results)


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_the_users_environment_can_be_used_after_learning(make, ours, theirs):
    def run(algorithm):
        env = walk(make, 2)
        model = make(env, algorithm).learn(60)
        mine = model.get_env()
        assert mine is env
        assert model.get_vec_normalize_env() is None
        obs, seen = mine.reset(), []
        for _ in range(20):
            actions, state = model.predict(obs, deterministic=True)
            obs, rewards, dones, infos = mine.step(actions)
            parts = (actions, obs, rewards, dones)
            seen.append((*[(part.dtype, part.shape) for part in parts], state, type(infos[0])))
        single, _ = model.predict(obs[0], deterministic=True)
        perturb, _ = model.predict(obs, deterministic=False)
        return seen, type(single), np.shape(single), single.dtype, perturb.shape, mine.env_is_wrapped(gym.Wrapper)

    assert run(ours) == run(theirs)


def test_a_model_without_an_environment_has_none(tmp_path):
    def run(algorithm):
        dqn(walk(dqn), algorithm).save(tmp_path / "model")
        model = algorithm.load(tmp_path / "model")
        actions, state = model.predict(observations(), deterministic=True)
        return model.get_env(), model.get_vec_normalize_env(), actions.shape, state

    assert run(CA2EDQN) == run(sb3.DQN) == (None, None, (20,), None)


# Parameters.


def partial(model, *names):
    parameters = model.get_parameters()
    return {name: parameters[name] for name in names}


def wrongly(model, change):
    parameters = model.get_parameters()
    change(parameters["policy"])
    return parameters


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_parameters_are_got_and_set_as_with_sb3(make, ours, theirs, tmp_path):
    def run(algorithm):
        # With SB3's own policy, so that the networks are the same.
        policy_kwargs = {"net_arch": [8]}
        policy = (sb3.dqn if make is dqn else sb3.td3).MlpPolicy
        env = walk(make)
        kwargs = {"policy_kwargs": policy_kwargs, "buffer_size": 1000, "device": "cpu"}
        model, other = (algorithm(policy, env, seed=seed, **kwargs) for seed in (0, 1))
        shapes = {
            name: {key: value.shape for key, value in module.items()}
            for name, module in partial(model, "policy").items()
        }
        first = next(iter(model.get_parameters()["policy"]))
        outcomes = [
            outcome(lambda: other.set_parameters(partial(model, "policy"))),
            outcome(lambda: other.set_parameters(partial(model, "policy"), exact_match=False)),
            outcome(lambda: other.set_parameters({**model.get_parameters(), "nobody": {}})),
            outcome(lambda: other.set_parameters(wrongly(model, lambda policy: policy.pop(first)))),
            outcome(lambda: other.set_parameters(wrongly(model, lambda policy: policy.pop(first)), exact_match=False)),
            outcome(lambda: other.set_parameters(wrongly(model, lambda policy: policy.update(more=th.zeros(1))))),
            outcome(lambda: other.set_parameters(model.get_parameters())),
        ]
        same = np.array_equal(*(each.predict(observations(), deterministic=True)[0] for each in (model, other)))
        model.learn(120)
        model.save(tmp_path / "model")
        other.set_parameters(tmp_path / "model")
        again = np.array_equal(*(each.predict(observations(), deterministic=True)[0] for each in (model, other)))
        return sorted(model.get_parameters()), shapes, outcomes, same, again

    results = run(ours)
    assert results == run(theirs)
    assert [each is None for each in results[2]] == [False, True, False, False, True, False, True]
    assert results[3:] == (True, True)


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
@pytest.mark.parametrize("images", [False, True])
def test_a_policy_is_saved_alone(make, ours, theirs, images, tmp_path):
    def run(algorithm):
        env = DummyVecEnv([lambda: Pictures(make is ddpg)]) if images else walk(make)
        small = {"features_extractor_kwargs": {"features_dim": 8}} if images else {}
        policy = "CnnPolicy" if images else "MlpPolicy"
        model = algorithm(policy, env, buffer_size=100, policy_kwargs=small, seed=0, device="cpu")
        model.policy.save(tmp_path / "policy.pth")
        loaded = type(model.policy).load(tmp_path / "policy.pth", device="cpu")
        model.observation_space.seed(0)
        obs = np.stack([model.observation_space.sample() for _ in range(5)])
        expected, _ = model.predict(obs, deterministic=True)
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
        return type(loaded) is type(model.policy), expected.shape, expected.dtype

    assert run(ours) == run(theirs)


class Pictures(gym.Env):
    """Images to be turned around."""

    def __init__(self, continuous: bool):
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        self.action_space = RandomWalk(continuous).action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


# Constructor arguments.


def logged(model, folder: pathlib.Path, n_timesteps: int, every: int) -> list[dict[str, str]]:
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(n_timesteps, LogEveryNTimesteps(every), log_interval=None)
    model.logger.close()
    with (folder / "progress.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_learning_rates_follow_their_schedule(make, ours, theirs, tmp_path):
    def run(algorithm):
        model = make(walk(make), algorithm, learning_rate=lambda remaining: 1e-3 * remaining**2)
        rows = logged(model, tmp_path / algorithm.__name__, 200, 40)
        optimizer = model.policy.optimizer if make is dqn else model.critic.optimizer
        return [row["train/learning_rate"] for row in rows], optimizer.param_groups[0]["lr"]

    results = run(ours)
    assert results == run(theirs)
    rates = [float(rate) for rate in results[0] if rate]
    assert len(rates) >= 3
    assert rates == sorted(rates, reverse=True)


def extractor_class():
    """A class that no other process can import."""

    class Doubled(BaseFeaturesExtractor):
        def __init__(self, observation_space, features_dim=6):
            super().__init__(observation_space, features_dim)
            self.linear = th.nn.Linear(observation_space.shape[0], features_dim)

        def forward(self, observations):
            return th.tanh(self.linear(2 * observations))

    return Doubled


class Remembering(BaseFeaturesExtractor):
    """Keeps what it computed last, as is done to look at it."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 6)
        self.linear, self.last = th.nn.Linear(observation_space.shape[0], 6), None

    def forward(self, observations):
        self.last = self.linear(observations)
        return self.last


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.extended)])
@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_networks_may_keep_what_they_computed(make, ours, theirs, compiled):
    for algorithm in (theirs, ours):
        own = {"compile": compiled} if algorithm is ours else {}
        model = make(walk(make), algorithm, policy_kwargs={"features_extractor_class": Remembering}, **own)
        for _ in range(2):
            model.learn(60, reset_num_timesteps=False)
        kept = [layer.last for layer in model.policy.modules() if isinstance(layer, Remembering)]
        assert {type(each) for each in kept} == {th.Tensor}
        for each in kept:
            assert np.isfinite(each.detach().numpy()).all()
    assert inside.learner(model).compiled == compiled


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
@pytest.mark.parametrize(
    ("optimizer", "arguments", "execution"),
    [(th.optim.RMSprop, {"alpha": 0.9}, "async"), (th.optim.SGD, {"momentum": 0.5}, "sync")],
)
def test_policies_are_made_as_asked(make, ours, theirs, optimizer, arguments, execution, tmp_path):
    def run(algorithm):
        policy_kwargs = {
            "features_extractor_class": extractor_class(),
            "features_extractor_kwargs": {"features_dim": 5},
            "net_arch": [7, 6],
            "activation_fn": th.nn.Tanh,
            "optimizer_class": optimizer,
            "optimizer_kwargs": arguments,
        }
        own = {"execution": execution, "n_processes": 2} if algorithm is ours else {}
        model = make(walk(make), algorithm, policy_kwargs=policy_kwargs, **own)
        model.learn(120)
        model.save(tmp_path / "model")
        loaded = algorithm.load(tmp_path / "model")
        for each in (model, loaded):
            kinds = [type(layer).__name__ for layer in each.policy.modules()]
            network = each.q_net if make is dqn else each.actor
            optimizers = [each.policy.optimizer] if make is dqn else [each.actor.optimizer, each.critic.optimizer]
            found = [(type(each), {name: each.defaults[name] for name in arguments}) for each in optimizers]
        np.testing.assert_array_equal(
            *(each.predict(observations(), deterministic=True)[0] for each in (model, loaded))
        )
        weights = [tuple(value.shape) for value in network.parameters() if value.dim() == 2]
        return found, weights, kinds.count("Tanh"), kinds.count("Doubled")

    assert run(ours) == run(theirs)


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_the_window_of_statistics_is_where_sb3_has_it(make, ours, theirs):
    """SB3's DDPG does not take it."""

    def run(algorithm):
        def learn():
            model = make(walk(make), algorithm, stats_window_size=3).learn(100)
            return len(model.ep_info_buffer), model.ep_info_buffer.maxlen, model.ep_success_buffer.maxlen

        return outcome(learn)

    if make is dqn:
        assert run(ours) == run(theirs) == (3, 3, 3)
    else:
        assert run(ours)[0] is run(theirs)[0] is TypeError


def lines_and_keys(printed: str) -> tuple[list[str], list[str]]:
    """The lines outside of tables, and what stands in tables."""
    printed = printed.replace("CA2E", "")
    table = [line for line in printed.splitlines() if re.match(r"[|-]", line)]
    return [line for line in printed.splitlines() if line not in table], re.findall(r"\| +(\w+/?) +\|", printed)


@pytest.mark.filterwarnings("ignore:Path .* exists, will overwrite it")
@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_as_much_is_printed_as_by_sb3(verbose, tmp_path, capsys):
    def run(algorithm):
        model = dqn(RandomWalk(), algorithm, verbose=verbose, tensorboard_log=str(tmp_path / "runs"))
        model.learn(100, log_interval=4, tb_log_name=algorithm.__name__)
        model.save_replay_buffer(tmp_path / "memory.pkl")
        model.load_replay_buffer(tmp_path / "memory.pkl")
        return lines_and_keys(capsys.readouterr().out)

    (our_lines, our_keys), (their_lines, their_keys) = run(CA2EDQN), run(sb3.DQN)
    advice = [line for line in our_lines if "-bound: " in line]
    assert [line for line in our_lines if line not in advice] == their_lines
    assert len(advice) == (verbose > 0)
    assert set(their_keys) <= set(our_keys)
    assert (verbose == 0) == (our_keys == [] == our_lines)


def test_each_run_has_its_folder(tmp_path):
    def run(algorithm):
        folder = tmp_path / algorithm.__name__
        model = dqn(walk(dqn), algorithm, tensorboard_log=str(folder))
        seen = []
        for name, reset in ((None, True), (None, True), (None, False), ("mine", True), ("mine", False)):
            model.learn(20, reset_num_timesteps=reset, **({} if name is None else {"tb_log_name": name}))
            seen.append(pathlib.Path(model.logger.dir).name)
        files = sorted((path.parent.name.replace("CA2E", ""), path.name[:6]) for path in folder.rglob("events*"))
        return [name.replace("CA2E", "") for name in seen], files

    ours = run(CA2EDQN)
    assert ours == run(sb3.DQN)
    assert ours[0] == ["DQN_1", "DQN_2", "DQN_2", "mine_1", "mine_1"]


def test_a_logger_of_the_users_own(tmp_path, capsys):
    def run(algorithm):
        logger = configure(str(tmp_path / algorithm.__name__), ["stdout", "csv", "json", "log"])
        model = dqn(walk(dqn), algorithm)
        model.set_logger(logger)
        for _ in range(2):
            model.learn(60, log_interval=2)
        assert model.logger is logger
        assert isinstance(logger, Logger)
        logger.close()
        rows = (tmp_path / algorithm.__name__ / "progress.csv").read_text().splitlines()
        files = sorted(path.name for path in (tmp_path / algorithm.__name__).iterdir())
        return files, set(rows[0].split(",")), set(lines_and_keys(capsys.readouterr().out)[1])

    (our_files, our_columns, our_keys), (their_files, their_columns, their_keys) = run(CA2EDQN), run(sb3.DQN)
    assert our_files == their_files == ["log.txt", "progress.csv", "progress.json"]
    assert their_columns <= our_columns
    assert their_keys <= our_keys
    # The printed table stays readable: what each slot does is for files alone.
    assert not any("actors/" in key for key in our_keys)


@pytest.mark.parametrize("device", ["cpu", "auto", th.device("cpu"), "cuda"])
def test_a_model_is_loaded_to_a_device(device, tmp_path):
    def run(algorithm):
        dqn(walk(dqn), algorithm).learn(60).save(tmp_path / "model")
        model = algorithm.load(tmp_path / "model", env=walk(dqn), device=device)
        model.learn(20, reset_num_timesteps=False)
        samples = model.replay_buffer.sample(4)
        where = [model.device, model.policy.device, model.replay_buffer.device, samples.observations.device]
        return [each.type for each in where], model.predict(observations(), deterministic=True)[0].dtype

    assert run(CA2EDQN) == run(sb3.DQN)


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_a_random_seed_set_later_repeats_a_run(make, ours, theirs):
    def run(algorithm, seed):
        model = make(walk(make), algorithm, seed=None)
        model.set_parameters(start[algorithm].get_parameters())
        model.set_random_seed(seed)
        model.learn(150)
        return th.cat([value.flatten() for value in model.policy.state_dict().values()])

    start = {algorithm: make(walk(make), algorithm) for algorithm in (ours, theirs)}
    for algorithm in (ours, theirs):
        first, second, other = (run(algorithm, seed) for seed in (3, 3, 4))
        assert th.equal(first, second)
        assert not th.equal(first, other)


def test_a_random_seed_set_later_repeats_the_batches():
    model, batches = dqn(walk(dqn)).learn(60), []
    for seed in (3, 3, 4):
        model.set_random_seed(seed)
        batches.append(model.replay_buffer.sample(20).indices.tolist())
    assert batches[0] == batches[1] != batches[2]


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_arguments_are_changed_at_load(make, ours, theirs, tmp_path):
    def run(algorithm):
        make(walk(make), algorithm).save(tmp_path / "model")
        objects = {"learning_rate": 3e-4}
        model = algorithm.load(tmp_path / "model", env=walk(make, 3), custom_objects=objects, gamma=0.5, batch_size=7)
        foreign = outcome(lambda: algorithm.load(tmp_path / "model", policy_kwargs={"net_arch": [3]}))
        wrong = outcome(lambda: algorithm.load(tmp_path / "model", env=gym.make("CartPole-v1")))
        missing = outcome(lambda: algorithm.load(tmp_path / "missing"))[0]
        settings = (model.learning_rate, model.gamma, model.batch_size, model.n_envs, model.seed, model.verbose)
        return settings, foreign[0], wrong, missing

    assert run(ours) == run(theirs)


# The memory in SB3's own algorithm.


def test_without_alpha_the_memory_is_sb3s(tmp_path):
    """Uniform draws, all weights one."""
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "replay_buffer_kwargs": {"alpha": 0.0, "n_steps": 1}}
    model = dqn(walk(dqn), sb3.DQN, **kwargs).learn(200)
    oracle = dqn(walk(dqn), sb3.DQN).learn(200)
    memory = model.replay_buffer
    drawn = memory.sample(1)
    memory.update_priorities(drawn.indices, drawn.generations, th.tensor([100.0]))
    samples = memory.sample(20_000)
    assert set(samples.weights.flatten().tolist()) == {1.0}
    counts = th.bincount(samples.indices)
    counts = counts[counts > 0]
    assert len(counts) == 200
    # A count is binomial, of mean 100 and deviation 10.
    assert counts.min() > 50
    assert counts.max() < 150
    assert set(samples.discounts.flatten().tolist()) == {np.float32(0.99)}
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        ours, theirs = getattr(samples, name), getattr(oracle.replay_buffer.sample(8), name)
        assert (ours.dtype, ours.shape[1:]) == (theirs.dtype, theirs.shape[1:])


def test_stacks_in_sb3s_own_algorithm():
    kwargs = {"replay_buffer_class": PrioritizedReplayBuffer, "replay_buffer_kwargs": {"n_steps": 3}}
    model = dqn(VecFrameStack(walk(dqn, 2), 2), sb3.DQN, **kwargs).learn(100)
    assert model.replay_buffer.sample(4).observations.shape == (4, 6)
