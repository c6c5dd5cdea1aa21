"""Agents found by their names in folders like the RL Zoo's."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import stable_baselines3 as sb3
from sb3_contrib import QRDQN

from sb3_ca2e import CA2EDQN, PriorAgent
from sb3_ca2e.priors.find import BUNDLED, AgentFiles, candidates, find_agent, known_names, search_path


@pytest.fixture
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty zoo folder, and a working directory without one."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("SB3_CA2E_AGENTS", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def put(folder: pathlib.Path, algorithm: str, env_id: str, run: int = 1, normalized=False, reward=None) -> pathlib.Path:
    """Files as the RL Zoo lays them; what is in them plays no part here."""
    path = folder / algorithm / f"{env_id}_{run}"
    (path / env_id).mkdir(parents=True)
    (path / f"{env_id}.zip").touch()
    (path / env_id / "config.yml").touch()
    if normalized:
        (path / env_id / "vecnormalize.pkl").touch()
    if reward is not None:
        (path / env_id / "results.json").write_text(json.dumps({"mean_reward": reward}))
    return path


def test_an_agent_of_the_environment_is_found_with_all_its_files(folder):
    path = put(folder, "ppo", "Pendulum-v1", normalized=True, reward=-170.5)
    files = find_agent("zoo:ppo", "Pendulum-v1")
    normalization = path / "Pendulum-v1" / "vecnormalize.pkl"
    assert files == AgentFiles("ppo", path / "Pendulum-v1.zip", path / "Pendulum-v1", "Pendulum-v1")
    assert (files.normalization, files.recorded_reward) == (normalization, -170.5)
    assert files.config == path / "Pendulum-v1" / "config.yml"
    assert not files.bundled
    assert find_agent(path, None) == files
    assert find_agent(str(path / "Pendulum-v1.zip"), None) == files


def test_an_agent_without_extra_files(folder):
    path = put(folder, "dqn", "Acrobot-v1")
    files = find_agent("zoo:dqn", "Acrobot-v1")
    assert files == AgentFiles("dqn", path / "Acrobot-v1.zip", path / "Acrobot-v1", "Acrobot-v1")
    assert (files.normalization, files.recorded_reward) == (None, None)


def test_the_newest_run_and_the_newest_version_win(folder):
    put(folder, "dqn", "Lander-v1", 3)
    for run in (2, 10):
        put(folder, "dqn", "Lander-v2", run)
    put(folder, "dqn", "Lander-v4")  # of a later version than asked for
    assert find_agent("zoo:dqn", "Lander-v3").model.parent.name == "Lander-v2_10"
    assert find_agent("zoo:dqn/Lander-v1", "Lander-v3").model.parent.name == "Lander-v1_3"


@pytest.mark.parametrize(
    ("env_id", "trained_on"),
    [
        ("LunarLander-v3", ["LunarLander-v3", "LunarLander-v2", "LunarLander-v1", "LunarLander-v0"]),
        ("LunarLanderContinuous-v3", ["LunarLanderContinuous-v2"]),
        ("Hopper-v4", ["Hopper-v3", "Hopper-v2"]),
        ("Walker2d-v5", ["Walker2d-v3", "Walker2d-v2"]),
        ("CartPole-v1", ["CartPole-v1"]),
        ("ALE/Pong-v5", ["ALE/Pong-v5", "PongNoFrameskip-v4"]),
        ("PongNoFrameskip-v4", ["PongNoFrameskip-v4", "ALE/Pong-v5"]),
        ("MyEnv", ["MyEnv"]),
    ],
)
def test_environments_are_known_by_the_names_that_agents_were_trained_on(env_id, trained_on, folder):
    assert [name for name in known_names(env_id) if name in trained_on] == trained_on
    for name in trained_on:
        path = put(folder, "td3", name.replace("/", "-"))  # as the zoo writes names with a slash
        assert find_agent("zoo:td3", env_id).model.parent == path
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("env_id", "other"),
    [("Hopper-v4", "Hopper-v5"), ("ALE/Pong-v5", "ALE-Breakout-v5"), ("ALE/Pong-v5", "Pong-ramNoFrameskip-v4")],
)
def test_environments_are_not_known_by_other_names(env_id, other, folder):
    put(folder, "td3", other)
    assert candidates(env_id) == []


def test_candidates_come_in_the_order_in_which_names_find_them(folder):
    local = pathlib.Path("logs")
    expected = [
        put(folder, "ppo", "Lander-v3", 10),
        put(folder, "ppo", "Lander-v3", 9),
        put(folder, "a2c", "Lander-v1"),
        put(local, "dqn", "Lander-v3"),
        put(local, "a2c", "Lander-v3"),
    ]
    put(folder, "ppo", "Lander-v3", 11).joinpath("Lander-v3.zip").unlink()  # a run that is not done yet
    found = candidates("Lander-v3")
    assert {files.model.parent for files in found} == set(expected)
    assert [files.model.parent for files in found if files.algorithm == "ppo"] == expected[:2]
    assert [files.model.parent for files in found if files.algorithm == "a2c"] == [expected[2], expected[4]]
    for algorithm in ("ppo", "a2c", "dqn"):
        first = next(files for files in found if files.algorithm == algorithm)
        assert find_agent(f"zoo:{algorithm}", "Lander-v3") == first
    assert [files.env_id for files in found if files.algorithm == "a2c"] == ["Lander-v1", "Lander-v3"]


def test_the_bundled_agents_are_candidates(folder):
    assert {files.algorithm for files in candidates("LunarLander-v3")} == {"a2c", "dqn", "ppo"}
    assert candidates("Nowhere-v3") == []


def test_a_folder_cloned_from_the_hub_keeps_its_settings_beside_the_zip(tmp_path):
    clone = tmp_path / "tqc-Lander-v2"
    (clone / "tqc-Lander-v2").mkdir(parents=True)  # what was in the zip, which the hub shows unpacked
    (clone / "tqc-Lander-v2" / "data").touch()
    for name in ("tqc-Lander-v2.zip", "config.yml", "vec_normalize.pkl"):
        (clone / name).touch()
    files = find_agent(clone, None)
    assert files == find_agent(clone / "tqc-Lander-v2.zip", None)
    assert (files.algorithm, files.env_id, files.settings) == ("tqc", "Lander-v2", clone)
    assert files.normalization == clone / "vec_normalize.pkl"


def test_a_recorded_reward_that_is_none_is_named(folder):
    path = put(folder, "ppo", "Lander-v2") / "Lander-v2" / "results.json"
    path.write_text('{"reward": 3}')
    with pytest.raises(ValueError, match=r"results\.json has no mean reward.*mean_reward"):
        find_agent("zoo:ppo", "Lander-v2").recorded_reward  # noqa: B018


def test_names_that_begin_alike_are_told_apart(folder):
    put(folder, "dqn", "Lander-v2")
    put(folder, "dqn", "LanderContinuous-v2")
    assert find_agent("zoo:dqn", "Lander-v2").model.name == "Lander-v2.zip"
    with pytest.raises(ValueError, match="No dqn agent for Land-v2"):
        find_agent("zoo:dqn", "Land-v2")


def test_the_users_folders_come_before_the_packages_own(folder):
    assert find_agent("zoo:dqn", "CartPole-v1").bundled
    local = put(pathlib.Path("rl-trained-agents"), "dqn", "CartPole-v1")
    assert find_agent("zoo:dqn", "CartPole-v1").model.parent == local
    own = put(folder, "dqn", "CartPole-v1")
    files = find_agent("zoo:dqn", "CartPole-v1")
    assert files.model.parent == own
    assert not files.bundled
    assert search_path() == [folder, pathlib.Path("rl-trained-agents"), pathlib.Path("logs"), BUNDLED]


def test_what_is_not_found_is_told_with_where_it_was_sought(folder):
    with pytest.raises(ValueError, match=r"No ppo agent for Nowhere-v1 or Nowhere-v0 in .*zoo.*SB3_CA2E_AGENTS"):
        find_agent("zoo:ppo", "Nowhere-v1")
    with pytest.raises(ValueError, match=r"names no algorithm whose agents can be priors; use one of: .*dqn"):
        find_agent("zoo:dqnn", "CartPole-v1")
    with pytest.raises(ValueError, match="'zoo:dqn/<environment id>'"):
        find_agent("zoo:dqn", None)
    with pytest.raises(ValueError, match=r"There is no agent at .*missing"):
        find_agent(folder / "missing.zip", None)
    (folder / "empty").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"There is no agent at .*empty: expected .*<environment>\.zip"):
        find_agent(folder / "empty", None)


def test_the_converted_format_is_refused_with_the_way_back(folder):
    run = put(folder, "dqn", "CartPole-v1")
    converted = run.parent / "CartPole-v1_2"
    converted.mkdir()
    (converted / "agent.safetensors").touch()
    for source in (converted, converted / "agent.safetensors", "zoo:dqn"):  # the newest run, so no older one instead
        with pytest.raises(ValueError, match=r"CartPole-v1_2 holds .* give the zip that it was converted from"):
            find_agent(source, "CartPole-v1")
    (run / "agent.safetensors").touch()
    assert find_agent(run, None).model.name == "CartPole-v1.zip"


@pytest.mark.parametrize(
    ("path", "algorithm"),
    [
        ("dqn_cartpole.zip", "dqn"),
        ("my-ppo-model.zip", "ppo"),
        ("PPO.zip", "ppo"),
        ("a2c/Pong-v4_1/Pong-v4.zip", "a2c"),
        ("qrdqn/run_1/best_model.zip", "qrdqn"),
        ("dqn/old/sac_run/best_model.zip", "sac"),
        ("ca2e_dqn/CartPole-v1_1/CartPole-v1.zip", "ca2e_dqn"),
        ("ca2e_ddpg.zip", "ca2e_ddpg"),
        ("zoo:td3", "td3"),
        ("zoo:ars/Swimmer-v3", "ars"),
    ],
)
def test_the_algorithm_is_read_from_the_path(path, algorithm, folder):
    assert AgentFiles.algorithm_of(path) == algorithm


@pytest.mark.parametrize(
    ("algorithm", "misnamed"),
    [(sb3.PPO, "dqn"), (sb3.DQN, "ppo"), (sb3.DQN, "qrdqn"), (QRDQN, "dqn"), (CA2EDQN, "ppo"), (sb3.DQN, "ca2e_ddpg")],
)
def test_an_agent_in_a_folder_of_another_algorithm_is_refused_before_training(algorithm, misnamed, folder):
    small = {"policy_kwargs": {"net_arch": [4]}, "device": "cpu"}
    own = algorithm.__name__.lower().replace("ca2e", "ca2e_")
    paths = {name: folder / name / "CartPole-v1_1" / "CartPole-v1.zip" for name in (own, misnamed)}
    for path in paths.values():
        path.parent.mkdir(parents=True)
        algorithm("MlpPolicy", "CartPole-v1", **small).save(path)

    def model(path):
        return CA2EDQN("MlpPolicy", "CartPole-v1", n_actors=2, prior_agents=[PriorAgent(path, trust=True)], **small)

    for source in (paths[misnamed], str(paths[misnamed].parent), f"zoo:{misnamed}"):
        with pytest.raises(ValueError, match=rf"named as an agent of {misnamed}, .* one of .*{own}.*Name one") as error:
            model(source)
        assert str(paths[misnamed]) in str(error.value)
    spaces = model(paths[own]).observation_space, model(paths[own]).action_space
    PriorAgent(paths[own], trust=True).resolve(*spaces)


class OwnPolicy(sb3.dqn.MlpPolicy):
    """Of no algorithm's module."""


def test_a_policy_of_the_users_own_is_no_ground_to_refuse(folder):
    path = folder / "dqn" / "CartPole-v1_1" / "CartPole-v1.zip"
    path.parent.mkdir(parents=True)
    model = sb3.DQN(OwnPolicy, "CartPole-v1", policy_kwargs={"net_arch": [4]}, buffer_size=1, device="cpu")
    model.save(path)
    agent = PriorAgent(path, trust=True).resolve(model.observation_space, model.action_space)
    observations = np.zeros((1, 4), np.float32)
    assert agent.predict(observations)[0] == model.predict(observations, deterministic=True)[0]


@pytest.mark.parametrize("path", ["/x/model.zip", "/x/larson.zip", "zoo:alphazero"])
def test_a_path_that_tells_no_algorithm_is_refused(path):
    with pytest.raises(ValueError, match=r"which algorithm the agent was trained with.*ppo"):
        AgentFiles.algorithm_of(path)


def test_a_zip_beside_another_agents_folder_takes_nothing_from_it(folder):
    path = put(folder, "ppo", "Pendulum-v1", normalized=True, reward=-170.5)
    other = folder / "ppo" / "Pendulum-v1_1" / "somebody_elses.zip"
    other.touch()
    stray = folder / "ppo" / "stray.zip"
    stray.touch()
    shutil.copytree(path / "Pendulum-v1", folder / "ppo" / "Pendulum-v1")
    assert find_agent(stray, None) == AgentFiles("ppo", stray)
    # Within a run's folder, as best_model.zip is, they belong together
    assert find_agent(other, None).recorded_reward == -170.5
