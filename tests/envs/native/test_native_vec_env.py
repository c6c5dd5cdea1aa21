"""Any vector environment in the actors, made by a function of the user's."""

import csv

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_ca2e import CA2EDQN, ActorError, NativeVecEnv
from sb3_ca2e.replay.block import OBSERVATION
from tests import inside
from tests.actors.recording_env import LocalActor, make_spec
from tests.toy import RandomWalk

pytestmark = pytest.mark.usefixtures("_patient", "_one_server")


def cart_poles(n_envs: int, seed: int | None) -> VecEnv:
    venv = DummyVecEnv([lambda: gym.make("CartPole-v1")] * n_envs)
    venv.seed(seed)
    return venv


def small(env: VecEnv, **kwargs) -> CA2EDQN:
    return CA2EDQN("MlpPolicy", env, learning_starts=40, batch_size=8, buffer_size=1000, device="cpu", seed=0, **kwargs)


class Episodes(BaseCallback):
    """What is told of episodes, beside their rewards added up."""

    def __init__(self):
        super().__init__()
        self.told, self.summed, self._of_slot = [], [], {}

    def _on_step(self):
        ticked = (self.locals[name] for name in ("actor_ids", "rewards", "dones", "infos"))
        for slot, reward, done, info in zip(*ticked, strict=True):
            total, length = self._of_slot.get(slot, (0, 0))
            self._of_slot[slot] = total + reward, length + 1
            assert done == ("episode" in info)
            if done:
                self.told.append((info["episode"]["r"], info["episode"]["l"]))
                self.summed.append(self._of_slot.pop(slot))
        return True


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_learns_and_counts_episodes(execution):
    episodes = Episodes()
    model = small(NativeVecEnv(cart_poles, 5, seed=1), execution=execution, n_processes=2, local_buffer_size=20)
    model.learn(500, episodes)
    assert model._n_updates > 0
    assert len(episodes.told) > 5
    assert episodes.told == episodes.summed


def test_every_process_makes_those_of_its_slots_with_a_seed_of_its_own(tmp_path):
    def recorded(n_envs: int, seed: int | None) -> VecEnv:
        (tmp_path / str(seed)).write_text(str(n_envs))
        return cart_poles(n_envs, seed)

    env = NativeVecEnv(recorded, 5)
    assert [file.name for file in tmp_path.iterdir()] == ["None"]
    small(env, n_processes=2, local_buffer_size=10).learn(100)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made.pop("None") == "5"
    assert sorted(made.values()) == ["2", "3"]


def test_slots_see_different_episodes_and_learn_begins_new_ones():
    def first_frames(model: CA2EDQN, **changes) -> list[bytes]:
        actor = LocalActor(make_spec(model, **changes))
        blocks = actor.collect()[1]
        actor.actor.close()
        return [block.frames[OBSERVATION][0].tobytes() for block in blocks]

    model = small(NativeVecEnv(cart_poles, 4))
    first = first_frames(model)
    assert len(set(first)) == 4
    assert first_frames(model) == first
    assert not set(first_frames(model, n_learns=1)) & set(first)
    assert not set(first_frames(model, seed=2)) & set(first)


def test_sync_runs_are_repeatable():
    def rewards() -> np.ndarray:
        model = small(NativeVecEnv(cart_poles, 3), execution="sync")
        model.learn(300)
        return np.array([row["ep_rew_mean"] for row in model.actor_stats])

    np.testing.assert_array_equal(rewards(), rewards())


def test_wrappers_around_it(tmp_path):
    """Statistics are the user's, episodes are put down for each slot, and stacks are stored frame by frame."""
    env = VecNormalize(VecFrameStack(VecMonitor(NativeVecEnv(cart_poles, 2), str(tmp_path / "run")), 3))
    before = env.obs_rms.count
    model = small(env, n_processes=2, local_buffer_size=20)
    model.learn(400)
    assert env.obs_rms.count > before + 300
    assert inside.rows(model.replay_buffer).observation_columns[OBSERVATION].frame_shape == (4,)
    for slot in range(2):
        with (tmp_path / f"run.actor_{slot}.monitor.csv").open() as file:
            header, *rows = file
        assert '"env_id": "CartPole-v1"' in header
        returns = [float(row["r"]) for row in csv.DictReader(rows)]
        committed = model.actor_stats[slot]["episodes"]
        assert len(returns) >= committed > 0  # an actor may have been ahead
        assert np.mean(returns[:committed]) == pytest.approx(model.actor_stats[slot]["ep_rew_mean"])
    env.close()


def test_a_monitor_inside_counts():
    def monitored(n_envs: int, seed: int | None) -> VecEnv:
        return DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * n_envs)

    assert isinstance(NativeVecEnv(monitored).venv, DummyVecEnv)
    assert isinstance(NativeVecEnv(cart_poles).venv, VecMonitor)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda n_envs, seed: RandomWalk(), TypeError, "returned a RandomWalk"),
        (lambda n_envs, seed: cart_poles(3, seed), ValueError, "made 3 environments where it was asked for 2"),
        (lambda n_envs, seed: VecNormalize(cart_poles(n_envs, seed)), ValueError, "around the NativeVecEnv instead"),
    ],
)
def test_functions_that_make_something_else_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        NativeVecEnv(build, 2)


def test_a_function_that_can_not_be_pickled_is_refused(tmp_path):
    with (tmp_path / "file").open("w") as file:

        def build(n_envs: int, seed: int | None) -> VecEnv:
            file.write("")
            return cart_poles(n_envs, seed)

        with pytest.raises(ValueError, match=r"function given to NativeVecEnv.*can't be pickled"):
            small(NativeVecEnv(build))


def test_a_failure_names_the_slots_that_step_together():
    class Broken(DummyVecEnv):
        def step_wait(self):
            raise RuntimeError("the simulator is gone")

    env = NativeVecEnv(lambda n_envs, seed: Broken([lambda: gym.make("CartPole-v1")] * n_envs), 4)
    with pytest.raises(ActorError, match=r"slots \[[013, 2]*\].*\n(.*\n)*.*the simulator is gone"):
        small(env, n_processes=2, actor_restarts=0).learn(100)
