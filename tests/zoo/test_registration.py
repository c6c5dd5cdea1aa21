"""CA2E's algorithms in the RL Zoo, whose own ones stay as they are."""

import pathlib
import re
import subprocess
import sys
import textwrap

import pytest
import yaml
from stable_baselines3.common.env_util import make_vec_env

import sb3_ca2e
from sb3_ca2e import PriorAgent
from sb3_ca2e.common.installing import how_to_install
from tests import REPOSITORY
from tests.priors.local_hub import LocalHub
from tests.user_script import of_ours
from tests.zoo.zoo_commands import run, script, zoo

pytestmark = pytest.mark.timeout(900)  # some of zoo_commands.HANGS
SHIPPED = pathlib.Path(sb3_ca2e.__file__).parent / "hyperparams"

MANAGERS = """
import argparse, json
from rl_zoo3.exp_manager import ExperimentManager
import sb3_ca2e.zoo

class Own(ExperimentManager):
    pass

sb3_ca2e.zoo.register()
sb3_ca2e.zoo.register()

def describe(manager):
    return [manager.config, manager.vec_env_class.__name__]

def make(algo, kind=ExperimentManager, **options):
    return describe(kind(argparse.Namespace(), algo, "CartPole-v1", "logs", **options))

print(json.dumps({
    "ca2e_dqn": make("ca2e_dqn"),
    "ca2e_ddpg": make("ca2e_ddpg", Own),
    "given": make("ca2e_dqn", config="own.yml", vec_env_type="subproc"),
    "dqn": make("dqn"),
    "ppo": make("ppo", vec_env_type="subproc"),
    "hook": ExperimentManager.default_vec_env_cls,
}))
"""


def test_what_the_zoo_finds_for_each_algorithm(tmp_path):
    found = script(MANAGERS, cwd=tmp_path)
    assert found["ca2e_dqn"] == [str(SHIPPED / "ca2e_dqn.yml"), "BuilderVecEnv"]
    assert found["ca2e_ddpg"] == [str(SHIPPED / "ca2e_ddpg.yml"), "BuilderVecEnv"]
    assert found["given"] == ["own.yml", "SubprocVecEnv"]
    assert pathlib.Path(found["dqn"][0]).parts[-3:] == ("rl_zoo3", "hyperparams", "dqn.yml")
    assert (found["dqn"][1], found["ppo"][1], found["hook"]) == ("DummyVecEnv", "SubprocVecEnv", None)


def documented_script() -> str:
    """The lines that the documentation promises to be enough."""
    text = (REPOSITORY / "docs" / "zoo.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    return code


@pytest.mark.extended
def test_a_script_of_ones_own_with_environments_in_processes(tmp_path):
    (tmp_path / "own.py").write_text("if __name__ == '__main__':\n" + textwrap.indent(documented_script(), "    "))
    options = ("--algo", "ca2e_dqn", "--env", "CartPole-v1", "-n", "400", "--eval-freq", "-1", "--vec-env", "subproc")
    params = ("n_envs:2", "learning_starts:100", "train_freq:4", "gradient_steps:1")
    done = run(sys.executable, "own.py", *options, "-params", *params, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "logs" / "ca2e_dqn" / "CartPole-v1_1"
    assert (folder / "CartPole-v1.zip").exists()
    assert {path.name for path in folder.glob("actor_*")} == {f"actor_{slot}.monitor.csv" for slot in range(2)}


@pytest.mark.extended
def test_an_atari_game_with_the_papers_settings(tmp_path):
    options = ("--algo", "ca2e_dqn", "--env", "PongNoFrameskip-v4", "-n", "300", "--eval-freq", "-1", "--seed", "0")
    zoo("train", *options, "-params", "learning_starts:200", "buffer_size:1000", "n_actors:2", cwd=tmp_path)
    shared = ("--algo", "ca2e_dqn", "--env", "PongNoFrameskip-v4", "-f", "logs")
    assert "Stacking 4 frames" in zoo("enjoy", *shared, "--no-render", "-n", "20", cwd=tmp_path)


CARTPOLE = ("--algo", "ca2e_dqn", "--env", "CartPole-v1")


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> pathlib.Path:
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("run")
    zoo("train", *CARTPOLE, "-n", "200", "--eval-freq", "100", "-params", "learning_starts:100", cwd=folder)
    return folder / "logs"


@pytest.mark.extended
def test_the_benchmark_measures_our_agents(logs, tmp_path):
    zoo("benchmark", "--log-dir", logs, "--no-hub", "-n", "300", "--num-threads", "1", cwd=tmp_path)
    assert re.search(r"\|ca2e_dqn\|CartPole-v1\| *\d", (tmp_path / "benchmark.md").read_text())


SEARCH = """
import copy, json
import numpy as np
import optuna
from sb3_ca2e import CA2EDDPG, CA2EDQN
from sb3_ca2e.zoo.search import CONVERTERS, SAMPLERS

optuna.logging.set_verbosity(optuna.logging.ERROR)
made = {"ca2e_dqn": (CA2EDQN, "CartPole-v1"), "ca2e_ddpg": (CA2EDDPG, "Pendulum-v1")}
pairs = []
for algo, (model_class, env_id) in made.items():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(20):
        trial = study.ask()
        extra = {"using_her_replay_buffer": False, "her_kwargs": {"beta": 0.5}}
        sampled = SAMPLERS[algo](trial, 1, 1, extra)
        if number < 5:
            model_class("MlpPolicy", env_id, device="cpu", **copy.deepcopy(sampled))  # they write into it
        noise = sampled.pop("action_noise", None)
        sampled["noise"] = None if noise is None else [type(noise).__name__, float(noise._sigma[0])]
        pairs.append([algo, sampled, CONVERTERS[algo](trial.params)])
print(json.dumps(pairs))
"""


def test_what_a_search_tries_is_what_is_read_back_from_it(tmp_path):
    """``--trial-id`` trains with what the trial was trained with."""
    kinds = {"normal": "NormalActionNoise", "ornstein-uhlenbeck": "OrnsteinUhlenbeckActionNoise"}
    noises = set()
    for algo, sampled, converted in script(SEARCH, cwd=tmp_path):
        assert sampled["replay_buffer_kwargs"] == {"beta": 0.5, **converted.pop("replay_buffer_kwargs")}
        assert 0 <= sampled.pop("replay_buffer_kwargs")["alpha"] <= 1
        noise = [kinds[converted.pop("noise_type")], converted.pop("noise_std")] if "noise_type" in converted else None
        assert sampled.pop("noise") == noise
        assert sampled == converted
        assert 1 <= sampled["n_steps"] <= 10
        noises.add((algo, noise and noise[0]))
    assert noises == {("ca2e_dqn", None), ("ca2e_ddpg", None), *(("ca2e_ddpg", kind) for kind in kinds.values())}


WITHOUT_THE_ZOO = """
import sys
sys.modules.update(rl_zoo3=None, optuna=None, huggingface_hub=None, safetensors=None, sb3_contrib=None)
from sb3_ca2e.zoo.cli import main
sys.argv[0] = "sb3-ca2e"
main()
"""


def without_the_zoo(*arguments, cwd) -> "subprocess.CompletedProcess[str]":
    return run(sys.executable, "-c", WITHOUT_THE_ZOO, *arguments, cwd=cwd)


@pytest.mark.parametrize("command", ["train", "plot_train", "record_video"])
def test_without_rl_zoo3_its_commands_say_how_to_install_it(command, tmp_path):
    done = without_the_zoo(command, cwd=tmp_path)
    assert done.returncode == 1
    said = rf"sb3-ca2e {command}: The RL Zoo is not installed \(.*\): {re.escape(how_to_install('zoo'))}\n"
    assert re.fullmatch(said, of_ours(done.stderr))


def test_without_rl_zoo3_and_what_comes_with_it_our_own_commands_work(tmp_path):
    done = without_the_zoo("priors", "--env", "LunarLander-v3", cwd=tmp_path)
    assert (done.returncode, of_ours(done.stderr)) == (0, "")
    assert "zoo:ppo" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_package_does_not_import_the_zoo(tmp_path):
    heavy = {"rl_zoo3", "optuna", "huggingface_hub", "seaborn"}
    code = "import json, sys, sb3_ca2e, sb3_ca2e.zoo; print(json.dumps(sorted(sys.modules)))"
    assert heavy.isdisjoint(script(code, cwd=tmp_path))


@pytest.mark.extended
def test_help_and_a_misspelt_command(tmp_path):
    printed = zoo("--help", cwd=tmp_path)
    for command in ("train", "enjoy", "plot_train", "plot_from_file", "all_plots", "record_video", "benchmark"):
        assert re.search(rf"^  {command} ", printed, re.M)
    assert zoo(cwd=tmp_path) == printed
    done = run(sys.executable, "-m", "sb3_ca2e.zoo", "trian", cwd=tmp_path)
    assert done.returncode == 1
    assert of_ours(done.stderr).startswith("sb3-ca2e has no command 'trian'. Did you mean 'train'?")


@pytest.fixture
def hub(tmp_path):
    hub = LocalHub()
    hub.environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "huggingface"),
        "HF_TOKEN": "hf_of_somebody",
        "TRUST_REMOTE_CODE": "True",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    yield hub
    hub.close()


def seeded_cartpole():
    env = make_vec_env("CartPole-v1", seed=0)
    env.seed(0)
    return env


@pytest.mark.extended
def test_an_agent_goes_to_the_hub_and_comes_back(logs, hub, tmp_path):
    to_hub = ("-f", logs, "-orga", "somebody", "--no-render", "--repo-name", "ca2e_dqn-CartPole-v1")
    zoo("push_to_hub", *CARTPOLE, *to_hub, cwd=tmp_path, **hub.environment)
    zoo("load_from_hub", *CARTPOLE, "-f", "downloaded", "-orga", "somebody", cwd=tmp_path, **hub.environment)

    played = [
        PriorAgent(folder / "ca2e_dqn" / "CartPole-v1_1").evaluate(seeded_cartpole(), 3)
        for folder in (logs, tmp_path / "downloaded")
    ]
    assert played[0] == played[1]
    card = hub.files("somebody/ca2e_dqn-CartPole-v1")["README.md"].decode()
    assert "**CA2EDQN** Agent playing **CartPole-v1**" in card
    assert yaml.safe_load(card.split("---")[1])["model-index"][0]["name"] == "CA2EDQN"
