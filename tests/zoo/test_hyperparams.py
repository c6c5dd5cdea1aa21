"""The shipped hyperparameters, as arguments."""

import inspect
import json
import pathlib

import pytest
import yaml
from stable_baselines3.common.utils import FloatSchedule

import sb3_ca2e
from sb3_ca2e import CA2EDDPG, CA2EDQN
from sb3_ca2e.zoo.hyperparams import load_hyperparams, parse_value
from tests.zoo.zoo_commands import script

ALGORITHMS = {"ca2e_dqn": CA2EDQN, "ca2e_ddpg": CA2EDDPG}
# What the zoo makes other things of than arguments
OF_THE_ZOO = {"n_timesteps", "n_envs", "noise_type", "noise_std", "env_wrapper", "frame_stack"}
# An environment that each of the entries for many is for
ONE_OF = {
    ("ca2e_dqn", "atari"): "PongNoFrameskip-v4",
    ("ca2e_dqn", "default"): "FrozenLake-v1",
    ("ca2e_ddpg", "default"): "Pusher-v5",
}
MUJOCO = ("Hopper", "Reacher", "HalfCheetah", "Walker2d", "Swimmer", "Ant", "Humanoid")
FILES = pathlib.Path(sb3_ca2e.__file__).parent / "hyperparams"
SHIPPED = [
    (algo, env_id, entry)
    for algo in ALGORITHMS
    for env_id, entry in yaml.safe_load((FILES / f"{algo}.yml").read_text()).items()
]


@pytest.mark.parametrize(("algo", "env_id", "entry"), SHIPPED, ids=[f"{algo}-{env_id}" for algo, env_id, _ in SHIPPED])
def test_each_entry_is_what_python_would_make_of_it(algo, env_id, entry):
    loaded = load_hyperparams(algo, env_id)
    for name, value in entry.items():
        expected = eval(value) if isinstance(value, str) and value.startswith("dict(") else value
        if not (isinstance(value, str) and value.startswith("lin_")):
            assert loaded[name] == expected
    assert isinstance(loaded["n_timesteps"], int)
    assert loaded.keys() == entry.keys() | {"n_envs"}
    assert loaded.keys() - OF_THE_ZOO <= inspect.signature(ALGORITHMS[algo].__init__).parameters.keys()


READ_BY_THE_ZOO = """
import argparse, json
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.utils import FloatSchedule
from sb3_ca2e.zoo import register

register()
entries = []
for algo, env_id in json.loads({entries!r}):
    manager = ExperimentManager(argparse.Namespace(), algo, env_id, "logs")
    hyperparams, wrapper, _, _ = manager._preprocess_hyperparams(manager.read_hyperparameters()[0])
    for name in ("learning_rate", "actor_learning_rate"):
        if rate := hyperparams.pop(name, None):
            hyperparams[name] = [FloatSchedule(rate)(remaining) for remaining in (1.0, 0.5, 0.0)]
    entries.append([manager.n_timesteps, manager.n_envs, manager.frame_stack, wrapper is not None, hyperparams])
print(json.dumps(entries))
"""


def test_the_zoo_reads_the_same(tmp_path):
    ids = [(algo, ONE_OF.get((algo, env_id), env_id)) for algo, env_id, _ in SHIPPED]
    read = script(READ_BY_THE_ZOO.format(entries=json.dumps(ids)), cwd=tmp_path)
    for (algo, env_id, _), (*of_run, arguments) in zip(SHIPPED, read, strict=True):
        loaded = load_hyperparams(algo, env_id)
        wrapped = loaded.pop("env_wrapper", None) is not None
        assert of_run == [loaded.pop("n_timesteps"), loaded.pop("n_envs"), loaded.pop("frame_stack", None), wrapped]
        for name in {"learning_rate", "actor_learning_rate"} & loaded.keys():
            rate = FloatSchedule(loaded[name])
            loaded[name] = pytest.approx([rate(remaining) for remaining in (1.0, 0.5, 0.0)])
        assert arguments == loaded, env_id


def test_the_environments_that_are_promised_are_there():
    shipped = {(algo, env_id) for algo, env_id, _ in SHIPPED}
    dqn = {"default", "atari", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3"}
    ddpg = {"Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3", "BipedalWalker-v3"}
    ddpg |= {"default", *(f"{name}-v{version}" for name in MUJOCO for version in (4, 5))}
    assert shipped == {("ca2e_dqn", env_id) for env_id in dqn} | {("ca2e_ddpg", env_id) for env_id in ddpg}


def test_the_dictionary_is_the_callers_own():
    load_hyperparams("ca2e_dqn", "CartPole-v1").clear()
    assert load_hyperparams("ca2e_dqn", "CartPole-v1")


def test_nested_values():
    text = "dict(net_arch=dict(pi=[64], qf=[32, 32]), optimizer_kwargs={'eps': 1e-5}, log_std_init=-2, name='x')"
    assert parse_value(text) == eval(text)


def test_a_schedule_falls_to_zero():
    schedule = parse_value("lin_0.004")
    assert [schedule(remaining) for remaining in (1.0, 0.25, 0.0)] == pytest.approx([0.004, 0.001, 0.0])


def test_other_values_are_left_alone():
    for value in (3, 0.5, True, None, [1, 2], "MlpPolicy", "auto"):
        assert parse_value(value) is value


@pytest.mark.parametrize(
    "text",
    [
        "dict(a=__import__('pathlib').Path('executed').touch())",
        "dict(a=[open('executed', 'w')])",
        "dict({'a': 1})",
        "dict(**{'a': 1})",
        "dict(activation_fn=nn.ReLU)",
        "dict(a=1) if open('executed', 'w') else 0",
        "dict(a=",
    ],
)
def test_code_is_refused_and_not_executed(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is not a dict"):
        parse_value(text)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="'ca2e_td3', only for: ca2e_ddpg, ca2e_dqn"):
        load_hyperparams("ca2e_td3", "CartPole-v1")
    with pytest.raises(ValueError, match=r"'Pong', only for: .*CartPole-v1"):
        load_hyperparams("ca2e_dqn", "Pong")
