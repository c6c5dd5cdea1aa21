"""Agents of the Hugging Face hub, from a server that speaks its protocol."""

import hashlib
import io
import os
import pathlib
import pickle
import subprocess
import sys

import gymnasium as gym
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.utils import close_session
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e import CA2EDQN, PriorAgent
from sb3_ca2e.envs.identity import EnvIdentity
from sb3_ca2e.priors.find import BUNDLED
from tests.priors.local_hub import LocalHub

NAME = "sb3/ppo-CartPole-v1"
ZIP = "ppo-CartPole-v1.zip"
BUNDLED_PPO = BUNDLED / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = LocalHub()
    constants = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in constants.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    close_session()
    yield server
    close_session()
    server.close()


@pytest.fixture(scope="module")
def other_model() -> bytes:
    file = io.BytesIO()
    PPO("MlpPolicy", "CartPole-v1", seed=1, device="cpu").save(file)
    return file.getvalue()


def files_of(model: pathlib.Path = BUNDLED_PPO, **others: bytes) -> dict[str, bytes]:
    """What the RL Zoo uploads of an agent."""
    listed = {"config.yml": b"n_envs: 8\npolicy: MlpPolicy\n", "results.json": b'{"mean_reward": 432.1}'}
    more = {"README.md": b"---\ntags: []\n---", "replay.mp4": b"x" * 1000, "train_eval_metrics.zip": b"curves"}
    return {ZIP: model.read_bytes(), **listed, **more, f"{ZIP[:-4]}/data": b"{}", **others}


def resolved(agent: PriorAgent) -> PriorAgent:
    env = CA2EDQN("MlpPolicy", "CartPole-v1", device="cpu").get_env()
    return agent.resolve(env.observation_space, env.action_space, EnvIdentity("CartPole-v1"))


def actions_of(agent: PriorAgent) -> np.ndarray:
    return agent.predict(np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32))[0]


def test_an_agent_is_downloaded_with_its_settings_and_nothing_else(hub):
    commit = hub.commit(NAME, files_of())
    agent = resolved(PriorAgent(f"hub:{NAME}"))
    assert sorted(hub.downloads) == ["config.yml", ZIP, "results.json"]
    assert (agent.algo, agent.mean_reward, agent.revision) == ("ppo", 432.1, commit)
    assert agent.sha256 == hashlib.sha256(BUNDLED_PPO.read_bytes()).hexdigest()
    np.testing.assert_array_equal(actions_of(agent), actions_of(resolved(PriorAgent(BUNDLED_PPO))))


def test_statistics_of_the_hub_are_applied(hub, tmp_path):
    venv = VecNormalize(make_vec_env("CartPole-v1", seed=0), norm_reward=False)
    model = PPO("MlpPolicy", venv, device="cpu", seed=0, n_steps=64, batch_size=64).learn(64)
    model.save(tmp_path / ZIP)
    venv.save(str(tmp_path / "vec_normalize.pkl"))  # its name on the hub
    statistics = (tmp_path / "vec_normalize.pkl").read_bytes()
    hub.commit(NAME, files_of(tmp_path / ZIP, **{"vec_normalize.pkl": statistics, "config.yml": b"normalize: true"}))
    agent = resolved(PriorAgent(f"hub:{NAME}"))
    observations = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    expected, _ = model.predict(venv.normalize_obs(observations), deterministic=True)
    np.testing.assert_array_equal(agent.predict(observations)[0], expected)
    assert (model.predict(observations, deterministic=True)[0] != expected).any()


def test_what_is_in_the_cache_is_not_downloaded_again(hub):
    commit = hub.commit(NAME, files_of())
    first = resolved(PriorAgent(f"hub:{NAME}"))
    hub.requests.clear()
    again = resolved(PriorAgent(f"hub:{NAME}"))
    assert hub.downloads == []
    assert hub.requests  # whether the branch has moved on
    assert (again.revision, again.sha256) == (first.revision, first.sha256)
    hub.requests.clear()
    resolved(PriorAgent(f"hub:{NAME}@{commit}"))
    assert hub.requests == []  # a commit does not move


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, other_model):
    older = hub.commit(NAME, files_of(), branch="v1")
    newer = hub.commit(NAME, files_of(**{ZIP: other_model}))
    found = {revision: resolved(PriorAgent(f"hub:{NAME}{revision}")) for revision in ("", "@main", "@v1", f"@{older}")}
    assert {revision: agent.revision for revision, agent in found.items()} == {
        "": newer,
        "@main": newer,
        "@v1": older,
        f"@{older}": older,
    }
    assert found[""].sha256 != found["@v1"].sha256 == found[f"@{older}"].sha256


def test_a_saved_model_goes_on_with_the_commit_that_it_began_with(hub, other_model, tmp_path):
    commit = hub.commit(NAME, files_of())
    arguments = {"execution": "sync", "n_actors": 3, "local_buffer_size": 20, "learning_starts": 1000, "device": "cpu"}
    model = CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=[f"hub:{NAME}", "zoo:ppo"], **arguments).learn(60)
    model.save(tmp_path / "model.zip")
    hub.commit(NAME, files_of(**{ZIP: other_model}))
    resumed = CA2EDQN.load(tmp_path / "model.zip", env=gym.make("CartPole-v1"))
    agent, other = resumed.prior_agents
    assert (agent.source, agent.revision, other) == (f"hub:{NAME}", commit, "zoo:ppo")
    assert agent.sha256 == hashlib.sha256(BUNDLED_PPO.read_bytes()).hexdigest()
    resumed.learn(60, reset_num_timesteps=False)
    assert resumed.prior_agents[0].revision == commit
    np.testing.assert_array_equal(actions_of(resolved(agent)), actions_of(resolved(PriorAgent(BUNDLED_PPO))))


def test_a_commit_that_has_changed_is_refused(hub, other_model, tmp_path, monkeypatch):
    commit = hub.commit(NAME, files_of())
    agent = resolved(PriorAgent(f"hub:{NAME}"))
    hub.commits[NAME, commit][ZIP] = other_model
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "another cache"))
    restored = pickle.loads(pickle.dumps(agent))
    with pytest.raises(ValueError, match=rf"{ZIP} has the SHA-256 [0-9a-f]+, but hub:.* requires {agent.sha256}"):
        resolved(restored)
    with pytest.raises(ValueError, match=r"requires 12341234[0-9a-f]*, which was given or used before"):
        resolved(PriorAgent(f"hub:{NAME}", sha256="1234" * 16))
    with pytest.raises(ValueError, match="sha256 takes 64 hexadecimal digits, not '1234'"):
        PriorAgent(f"hub:{NAME}", sha256="1234")


@pytest.mark.parametrize(
    ("zips", "message"),
    [
        ([], r"has no zip at its top, where ppo-CartPole-v1\.zip or one model's zip is expected"),
        (["a.zip", "b.zip"], r"has a\.zip, b\.zip at its top, where ppo-CartPole-v1\.zip or"),
    ],
)
def test_a_repository_without_its_model_is_refused(hub, zips, message):
    hub.commit(NAME, {"config.yml": b"n_envs: 8", "train_eval_metrics.zip": b"", **dict.fromkeys(zips, b"")})
    with pytest.raises(ValueError, match=f"{NAME} {message}"):
        resolved(PriorAgent(f"hub:{NAME}"))


def test_the_only_zip_is_the_model(hub):
    hub.commit(NAME, {"my agent.zip": BUNDLED_PPO.read_bytes()})
    assert actions_of(resolved(PriorAgent(f"hub:{NAME}"))).shape == (200,)


def test_what_the_hub_does_not_have_is_named(hub):
    hub.commit(NAME, files_of())
    with pytest.raises(ValueError, match=r"There is no revision 'main' of nobody/ppo-Nothing on the hub"):
        resolved(PriorAgent("hub:nobody/ppo-Nothing"))
    with pytest.raises(ValueError, match=rf"There is no revision 'v7' of {NAME} on the hub"):
        resolved(PriorAgent(f"hub:{NAME}@v7"))


@pytest.mark.parametrize("source", ["hub:ppo-CartPole-v1", "hub:", "hub:sb3/ppo-CartPole-v1@"])
def test_a_source_that_names_no_repository_is_refused(hub, source):
    with pytest.raises(ValueError, match=rf"'{source}' names no agent of the hub; write 'hub:<owner>/<name>'"):
        resolved(PriorAgent(source))
    assert hub.requests == []


def failing(hub: LocalHub, monkeypatch) -> None:
    hub.failing = True


def offline(hub: LocalHub, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    close_session()


def gone(hub: LocalHub, monkeypatch) -> None:
    hub.close()
    close_session()


@pytest.mark.parametrize(
    ("trouble", "reason"), [(failing, "500 Internal Server Error"), (offline, "HF_HUB_OFFLINE"), (gone, "Connect")]
)
def test_without_the_hub_only_the_cache_has_agents(trouble, reason, hub, monkeypatch):
    commit = hub.commit(NAME, files_of())
    resolved(PriorAgent(f"hub:{NAME}"))
    trouble(hub, monkeypatch)
    cached = resolved(PriorAgent(f"hub:{NAME}"))
    assert cached.revision == commit
    np.testing.assert_array_equal(actions_of(cached), actions_of(resolved(PriorAgent(BUNDLED_PPO))))
    with pytest.raises(ConnectionError, match=rf"sb3/dqn-Other can't be downloaded and is not in .*cache.*{reason}"):
        resolved(PriorAgent("hub:sb3/dqn-Other"))


def test_the_environment_says_which_hub_and_where_it_is_kept(hub, tmp_path):
    """In a process of its own: huggingface_hub reads its variables once."""
    hub.commit(NAME, files_of())
    script = (
        "from sb3_ca2e import PriorAgent\n"
        f"print(PriorAgent('hub:{NAME}').evaluate(__import__('gymnasium').make('CartPole-v1'), 1))"
    )
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    variables |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    for extra in ({}, {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        command, env = [sys.executable, "-c", script], {**variables, **extra}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "(500.0, 0.0)"), done.stderr
    assert (tmp_path / "home" / "hub" / "models--sb3--ppo-CartPole-v1").is_dir()
