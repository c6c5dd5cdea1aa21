"""What earlier commits have saved is loaded as it was. ``write.py`` wrote it, at the commit before its folder's own."""

import pathlib
import pickle

import numpy as np
import pytest

from sb3_ca2e import CA2EDQN
from sb3_ca2e.checkpoints.checkpoint import RUN, newest_whole
from tests.checkpoints.saved.write import ARRAYS, END, MIDDLE, contents

FORMATS = sorted(each for each in pathlib.Path(__file__).parent.iterdir() if each.name.startswith("format_"))
pytestmark = pytest.mark.parametrize("folder", FORMATS, ids=lambda each: each.name)


def saved_in(folder):
    with np.load(folder / "contents.npz") as arrays:
        return dict(arrays)


def assert_holds(buffer, wanted):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(buffer, name), wanted[name], name)


def test_a_model_and_its_memory(folder):
    wanted = saved_in(folder)
    model = CA2EDQN.load(folder / "model", "CartPole-v1", device="cpu")
    model.load_replay_buffer(folder / "memory")
    found = contents(model)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, name)
    assert model.loss == "squared"  # all that there was
    (agent,) = model.prior_agents
    assert (agent.source, agent.mean_reward) == ("hub:sb3/ppo-CartPole-v1", 500.0)
    assert agent.revision == "0123456789abcdef0123456789abcdef01234567"
    assert len(agent.sha256) == 64
    model.prior_agents = []
    model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == END + 60
    assert model.replay_buffer.size() == END + 60


def test_a_pickled_memory(folder):
    with (folder / "pickled_memory.pkl").open("rb") as file:
        buffer = pickle.load(file)
    assert_holds(buffer, saved_in(folder))
    assert buffer.sample(32).observations.shape == (32, 4)


def test_a_checkpoint_whose_slots_go_on_with_their_episodes(folder):
    model = CA2EDQN.resume(folder / "checkpoints", "CartPole-v1", device="cpu")
    assert model.num_timesteps == MIDDLE
    (under_way,) = newest_whole(folder / "checkpoints").read(RUN).actors.observations.values()

    def acted_on():
        return [bool((model.replay_buffer.observations[:, 0] == each).all(axis=1).any()) for each in under_way]

    assert acted_on() == [False] * 3
    model.learn(END - MIDDLE, reset_num_timesteps=False)
    assert model.num_timesteps == END
    assert acted_on() == [True] * 3
    assert sum(row["transitions"] for row in model.actor_stats) == END
    assert model.actor_stats[-1]["kind"] == "prior"
