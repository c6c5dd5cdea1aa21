"""The list of agents that can be prior agents."""

import json
import pathlib
import re
import shutil
import sys
import zipfile

import pytest

from sb3_ca2e.priors.find import BUNDLED
from sb3_ca2e.zoo.list_priors import published_rewards
from tests.priors.agents_clone import AGENTS, needs_agents, readme_rewards
from tests.zoo.zoo_commands import run, zoo

pytestmark = pytest.mark.timeout(600)  # two of zoo_commands.HANGS


@pytest.fixture
def no_agents(monkeypatch):
    monkeypatch.delenv("SB3_CA2E_AGENTS", raising=False)


def listed(*options, cwd, **environment):
    return json.loads(zoo("priors", *options, "--json", cwd=cwd, **environment))


@needs_agents
def test_published_rewards_are_those_of_the_zoo():
    assert published_rewards() == {agent: rewards.published for agent, rewards in readme_rewards().items()}
    assert len(published_rewards()) == 70


@needs_agents
def test_agents_of_the_zoo_and_what_they_reach(tmp_path):
    agents = listed("--env", "Acrobot-v1", "--evaluate", "10", cwd=tmp_path, SB3_CA2E_AGENTS=str(AGENTS))
    table = readme_rewards()
    assert {each["algorithm"] for each in agents} == {a for a, env_id in table if env_id == "Acrobot-v1"}
    for each in agents:
        rewards = table[each["algorithm"], each["trained_on"]]
        assert each["published_reward"] == list(rewards.published)
        assert each["measured_reward"] == pytest.approx(rewards.measured, abs=0.06)  # as rounded there
        assert each["source"] == f"zoo:{each['algorithm']}"
        assert (each["loads_without_trust"], each["problem"], each["recorded_reward"]) == (True, None, None)
    preprocessing = {each["algorithm"]: each["preprocessing"] for each in agents}
    assert preprocessing["ppo"] == ["VecNormalize"]
    assert preprocessing["dqn"] == []


def test_agents_of_the_package(no_agents, tmp_path):
    agents = listed("--env", "CartPole-v1", "--evaluate", "2", cwd=tmp_path)
    assert {each["source"] for each in agents} >= {"zoo:dqn", "zoo:ppo"}
    for each in agents:
        folder = pathlib.Path(each["path"]).with_suffix("")
        assert folder.is_relative_to(BUNDLED)
        recorded = json.loads((folder / "results.json").read_text())["mean_reward"]
        assert each["recorded_reward"] == recorded == 500.0
        assert each["measured_reward"] == [500.0, 0.0]
        assert each["published_reward"] is None


@pytest.fixture
def strangers(tmp_path) -> pathlib.Path:
    """Agents for CartPole-v1: an old run and a new one, one of other spaces, and one that is no agent."""
    for run_number, source in ((1, "ppo"), (3, "ppo")):
        bundled = BUNDLED / source / "CartPole-v1_1"
        shutil.copytree(bundled, tmp_path / "logs" / "ppo" / f"CartPole-v1_{run_number}")
    for algorithm, env_id in (("a2c", "LunarLander-v3"), ("dqn", "CartPole-v1")):
        target = tmp_path / "logs" / algorithm / "CartPole-v1_1"
        target.mkdir(parents=True)
        shutil.copy(BUNDLED / algorithm / f"{env_id}_1" / f"{env_id}.zip", target / "CartPole-v1.zip")
    with zipfile.ZipFile(tmp_path / "logs" / "dqn" / "CartPole-v1_1" / "CartPole-v1.zip", "w") as archive:
        archive.writestr("data", "no JSON")
    return tmp_path


@pytest.mark.extended
def test_what_can_not_be_a_prior_agent_says_why(no_agents, strangers):
    agents = listed("--env", "CartPole-v1", cwd=strangers)
    found = {(each["algorithm"], each["path"]): each for each in agents}
    a2c, dqn, newest, older = (
        found[algorithm, f"logs/{algorithm}/CartPole-v1_{number}/CartPole-v1.zip"]
        for algorithm, number in (("a2c", 1), ("dqn", 1), ("ppo", 3), ("ppo", 1))
    )
    assert (newest["source"], newest["problem"]) == ("zoo:ppo", None)
    assert (older["source"], older["problem"]) == (older["path"], None)
    assert a2c["loads_without_trust"]
    assert "was trained on observations Box([ -2.5" in a2c["problem"]
    assert "this environment's are Box([-4.8" in a2c["problem"]
    assert not dqn["loads_without_trust"]
    assert "logs/dqn/CartPole-v1_1/CartPole-v1.zip can't be read without executing" in dqn["problem"]

    printed = zoo("priors", "--env", "CartPole-v1", cwd=strangers)
    assert re.search(r"^zoo:a2c .* no \[1\]$", printed, re.M)
    assert re.search(r"^zoo:dqn .* needs trust \[2\]$", printed, re.M)
    assert re.search(r"^zoo:ppo .* 500\.0 .* yes$", printed, re.M)
    assert f"\n[1] {a2c['problem']}\n[2] {dqn['problem']}\n" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--env", "LunarLander-v9"), "Did you mean 'LunarLander-v3'"),
        (("--env", "CartPole-v1", "--evaluate", "-1"), "--evaluate takes a number of episodes, not -1"),
        ((), "--env"),
    ],
)
def test_mistakes(options, said, tmp_path):
    done = run(sys.executable, "-m", "sb3_ca2e.zoo", "priors", *options, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.extended
def test_an_environment_without_agents(no_agents, tmp_path):
    assert listed("--env", "Blackjack-v1", cwd=tmp_path) == []
    assert "No agents for Blackjack-v1 in rl-trained-agents, logs" in zoo(
        "priors", "--env", "Blackjack-v1", cwd=tmp_path
    )
