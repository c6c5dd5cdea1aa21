"""Agents as safetensors and JSON."""

import dataclasses
import json
import os
import pathlib
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e import CA2EDQN, PriorAgent
from sb3_ca2e.priors.converted import ABOUT, MODEL, read_agent
from sb3_ca2e.priors.find import BUNDLED as BUNDLED_FOLDER
from sb3_ca2e.priors.find import AgentFiles, find_agent
from sb3_ca2e.priors.loading import load_trained_on
from sb3_ca2e.priors.reader.model import read_agent as read_zip
from sb3_ca2e.zoo.convert import convert
from tests.priors.agents_clone import AGENTS, needs_agents
from tests.zoo.zoo_commands import run, zoo

BUNDLED = sorted(BUNDLED_FOLDER.glob("*/*/*.zip"))


def observations_of(space, n):
    if isinstance(space, spaces.Dict):
        return {key: observations_of(each, n) for key, each in space.items()}
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":  # bounds that never occur say little
        return np.random.default_rng(0).normal(size=(n, *space.shape)).astype(space.dtype)
    space.seed(0)
    return np.stack([space.sample() for _ in range(n)])


def acts_alike(converted, original, n=50):
    observations = observations_of(original.observation_space, n)
    ours, _ = converted.predict(observations, deterministic=True)
    expected, _ = original.predict(observations, deterministic=True)
    np.testing.assert_array_equal(ours, expected)
    assert (converted.observation_space, converted.action_space) == (original.observation_space, original.action_space)


def check_round_trip(model: pathlib.Path, folder: pathlib.Path):
    files = find_agent(model, None)
    convert(str(model), folder=folder)
    policy, trained_on = read_agent(folder)
    acts_alike(policy, read_zip(model).policy)
    expected = load_trained_on(files, trust=False)
    assert trained_on.describe() == expected.describe()
    assert dataclasses.replace(trained_on, statistics=None) == dataclasses.replace(expected, statistics=None)
    if expected.statistics is not None and expected.statistics.norm_obs:
        observations = np.random.default_rng(1).normal(size=(9, *policy.observation_space.shape))
        ours, theirs = (each.statistics.normalize_obs(observations) for each in (trained_on, expected))
        np.testing.assert_array_equal(ours, theirs)
    found = find_agent(folder, None)
    assert (found.algorithm, found.env_id) == (files.algorithm, files.env_id)
    assert found.recorded_reward == files.recorded_reward


@pytest.mark.parametrize("model", BUNDLED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_bundled_agent_acts_as_before(model, tmp_path):
    check_round_trip(model, tmp_path / "converted")


@needs_agents
@pytest.mark.parametrize("algorithm", ["a2c", "ars", "ddpg", "dqn", "ppo", "qrdqn", "sac", "tqc", "trpo"])
def test_agents_of_the_zoo_act_as_before(algorithm, tmp_path):
    models = sorted((AGENTS / algorithm).glob("*/*.zip"))
    assert models
    for model in models:
        check_round_trip(model, tmp_path / model.stem)


class Everything(gym.Env):
    """
    An environment whose steps mean nothing.

    :param observation_space: its observations
    :param action_space: its actions
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, True, False, {}


VECTORS = spaces.Box(-1, np.array([1, 2, np.inf], dtype=np.float32))
IMAGES = spaces.Box(0, 255, (1, 36, 36), np.uint8)


def small() -> dict:
    """Anew for each model: SB3 writes into it."""
    return {"net_arch": [8], "activation_fn": th.nn.Tanh}


@pytest.mark.parametrize(
    ("model_class", "policy", "observations", "actions", "options"),
    [
        (PPO, "MultiInputPolicy", spaces.Dict({"b": VECTORS, "a": IMAGES}), spaces.MultiDiscrete([3, 2]), {}),
        (A2C, "CnnPolicy", IMAGES, spaces.MultiBinary(4), {"policy_kwargs": small()}),
        (PPO, "MlpPolicy", spaces.MultiDiscrete([3, 5]), spaces.Box(-2, 3, (2,)), {"use_sde": True}),
        (SAC, "MlpPolicy", VECTORS, spaces.Box(-2, 3, (2,)), {"use_sde": True, "policy_kwargs": small()}),
        (CA2EDQN, "CnnPolicy", IMAGES, spaces.Discrete(3, start=0), {}),
    ],
    ids=["dictionaries", "images", "numbers", "sde", "ca2e"],
)
def test_spaces_and_policies_of_all_kinds(model_class, policy, observations, actions, options, tmp_path):
    model = model_class(policy, Everything(observations, actions), device="cpu", **options)
    folder = tmp_path / ("ca2e_dqn" if model_class is CA2EDQN else model_class.__name__.lower())
    folder.mkdir()
    model.save(folder / "model.zip")
    convert(str(folder / "model.zip"), folder=folder / "converted")
    policy, _ = read_agent(folder / "converted")
    acts_alike(policy, model.policy)
    assert isinstance(policy, type(model.policy))


def trained_with_normalization(folder: pathlib.Path) -> pathlib.Path:
    """An agent in the zoo's layout, with statistics of its observations and rewards."""
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=2, seed=0))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, policy_kwargs=small(), seed=0).learn(64)
    run = folder / "ppo" / "CartPole-v1_1"
    (run / "CartPole-v1").mkdir(parents=True)
    model.save(run / "CartPole-v1.zip")
    env.save(str(run / "CartPole-v1" / "vecnormalize.pkl"))
    (run / "CartPole-v1" / "config.yml").write_text("normalize: true\n")
    return run


def test_the_command_and_a_run_with_the_converted_agent(tmp_path):
    run_folder = trained_with_normalization(tmp_path / "zoo")
    environment = {"SB3_CA2E_AGENTS": str(tmp_path / "zoo")}
    assert zoo("convert", "zoo:ppo", "--env", "CartPole-v1", cwd=tmp_path, **environment) == "ppo-CartPole-v1\n"
    folder = tmp_path / "ppo-CartPole-v1"
    assert {each.name for each in folder.iterdir()} == {ABOUT, MODEL}
    assert "statistics.observations.mean" in load_file(folder / MODEL)
    json.loads((folder / ABOUT).read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity

    env = gym.make("CartPole-v1")
    reached = [PriorAgent(source).evaluate(seeded(env), 5) for source in (folder, run_folder)]
    assert reached[0] == reached[1]
    model = CA2EDQN("MlpPolicy", "CartPole-v1", n_actors=2, execution="sync", prior_agents=[folder], seed=0).learn(300)
    assert [stats["kind"] for stats in model.actor_stats] == ["nature", "prior"]


def seeded(env):
    vec_env = make_vec_env(lambda: env)
    vec_env.seed(0)
    return vec_env


@pytest.fixture
def converted(tmp_path) -> pathlib.Path:
    return convert(str(BUNDLED[0]), folder=tmp_path / AgentFiles.algorithm_of(BUNDLED[0]))


def test_an_agent_is_not_overwritten(converted):
    with pytest.raises(FileExistsError, match="holds an agent already"):
        convert(str(BUNDLED[1]), folder=converted)
    with pytest.raises(ValueError, match="converted already"):
        convert(str(converted), folder=converted / "again")


def changed(converted, **entries):
    about = json.loads((converted / ABOUT).read_text())
    for name, value in entries.items():
        about[name] = {**about[name], **value} if name in ("policy_kwargs", "trained_on") else value
    (converted / ABOUT).write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: changed(folder, format="other"), "its format is 'other'"),
        (lambda folder: changed(folder, policy_class="os.system"), "os.system, none of SB3"),
        (lambda folder: changed(folder, policy_kwargs={"net_arch": [2**30]}), "net_arch"),
        (lambda folder: changed(folder, policy_kwargs={"activation_fn": "os.system"}), "activation_fn"),
        (lambda folder: changed(folder, observation_space={"type": "Discrete", "n": 2**40}), "larger than the weights"),
        (lambda folder: changed(folder, observation_space={"type": "Text"}), "KeyError"),
        (lambda folder: changed(folder, trained_on={"env_id": 3}), "its names are none"),
        (lambda folder: changed(folder, trained_on={"n_stack": "4"}), "positive whole numbers"),
        (lambda folder: changed(folder, trained_on={"statistics": {}}), "KeyError: 'clip_obs'"),
        (lambda folder: changed(folder, trained_on={"more": 1}), "more"),
        (lambda folder: (folder / ABOUT).write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / ABOUT).write_text("[" * 10**5), "RecursionError"),
        (lambda folder: (folder / ABOUT).write_text(" " * 2**21), "over 1048576"),
        (lambda folder: (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:-1]), "SafetensorError"),
        (lambda folder: os.truncate(folder / MODEL, 2**30), "over 536870912"),
        (lambda folder: save_file({"policy.x": th.zeros(1)}, folder / MODEL), "KeyError"),
        (lambda folder: save_file(with_nan(load_file(folder / MODEL)), folder / MODEL), "not finite"),
    ],
)
def test_a_damaged_agent_is_refused(converted, damage, said):
    damage(converted)
    with pytest.raises(ValueError, match="no whole agent as 'sb3-ca2e convert' writes it") as refused:
        load_trained_on(find_agent(converted, None), trust=False)
    assert said in str(refused.value)


def with_nan(tensors):
    return {name: th.full_like(each, np.nan) if name.startswith("policy.") else each for name, each in tensors.items()}


def test_what_can_not_be_read_without_trust_is_not_converted(tmp_path):
    done = run(sys.executable, "-m", "sb3_ca2e.zoo", "convert", __file__, cwd=tmp_path)
    assert done.returncode == 1
    assert "sb3-ca2e convert: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
