"""Who has one environment only, a robot for instance, learns with it."""

import gc

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_ca2e import CA2EDQN, BuilderVecEnv
from tests.toy import RandomWalk, dqn

pytestmark = pytest.mark.usefixtures("_one_server")


class Robot(gym.Env):
    """There is one robot: whoever has it holds a file, as others would a port."""

    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def __init__(self, place):
        self.line = open(place, "x")  # noqa: SIM115
        self.place = place
        self.n_steps = 0
        self.itself = self  # no count of references frees it

    def reset(self, *, seed=None, options=None):
        assert self.place.exists()
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        self.n_steps += 1
        return np.full(1, self.t / 10, np.float32), 1.0, False, self.t >= 10, {}

    def close(self):
        if not self.line.closed:
            self.line.close()
            self.place.unlink()


@pytest.fixture
def place(tmp_path):
    return tmp_path / "robot"


def test_in_one_process_it_is_stepped_itself(place):
    robot = Robot(place)
    model = dqn(robot, n_actors=1)
    model.learn(100)
    assert robot.n_steps == 100
    assert not robot.line.closed
    model.learn(100, reset_num_timesteps=False)
    assert robot.n_steps == 200
    env = model.get_env()
    env.reset()
    env.step([0])
    assert robot.n_steps == 201
    robot.close()


def test_it_is_reset_as_often_as_by_sb3():
    class Counting(RandomWalk):
        n_resets = 0

        def reset(self, **kwargs):
            self.n_resets += 1
            return super().reset(**kwargs)

        def step(self, action):
            *step, _, _, info = super().step(action)
            return *step, False, self.n_resets < 3, info

    counts = []
    for algorithm, own in [(DQN, {"buffer_size": 100}), (CA2EDQN, {"execution": "sync", "n_actors": 1})]:
        env = Counting()
        model = algorithm("MlpPolicy", env, learning_starts=500, train_freq=1, device="cpu", **own)
        model.learn(50).learn(50, reset_num_timesteps=False)
        counts.append(env.n_resets)
    assert counts[0] == counts[1] - 1 == 3  # CA2E begins an episode in each learn()


def test_so_are_several_and_their_wrappers_do_what_they_do():
    robots = [Monitor(RandomWalk()) for _ in range(3)]
    before = [robot.unwrapped for robot in robots]
    env = VecFrameStack(VecNormalize(DummyVecEnv([lambda each=each: each for each in robots])), 2)
    model = CA2EDQN("MlpPolicy", env, execution="sync", learning_starts=20, device="cpu", seed=0)
    assert model.n_slots == 3
    model.learn(150)
    assert [robot.unwrapped for robot in robots] == before
    assert [robot.total_steps > 0 for robot in robots] == [True] * 3
    assert model.replay_buffer.sample(10).observations.shape == (10, 6)


def test_the_users_own_generators_go_on():
    env = RandomWalk()
    model = dqn(env, n_actors=1, seed=None)
    env.reset(seed=4)
    generator = env.np_random
    state = str(generator.bit_generator.state)
    model.learn(60)
    assert env.np_random is generator
    assert str(generator.bit_generator.state) != state


def test_a_run_with_ones_own_environment_is_repeatable_by_a_seed():
    def parameters():
        model = dqn(RandomWalk(), n_actors=1, seed=3).learn(200)
        return [each.detach().numpy() for each in model.policy.parameters()]

    for first, second in zip(parameters(), parameters(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("execution", ["sync", "async"])
@pytest.mark.parametrize("listed", [False, True], ids=["function", "BuilderVecEnv"])
def test_a_function_is_called_when_no_other_robot_is_there(execution, listed, place):
    def make():
        return Robot(place)

    model = dqn(BuilderVecEnv([make]) if listed else make, n_actors=1, execution=execution)
    model.learn(100)
    env = model.get_env()
    env.reset()
    assert env.step([0])[1].tolist() == [1.0]
    assert place.exists()
    model.learn(100)
    model.learn(100, reset_num_timesteps=False)
    assert model.num_timesteps == 200
    env.close()
    assert not place.exists()


def test_a_robot_that_is_freed_without_close_is_released(place):
    class Forgetful(Robot):
        def close(self):
            pass

        def __del__(self):
            super().close()

    gc.disable()
    try:
        model = dqn(lambda: Forgetful(place), n_actors=1, execution="async")
        assert model.learn(60).num_timesteps == 60  # the actor could open it
    finally:
        gc.enable()


def test_a_callback_that_asks_for_the_environment_gets_one():
    class Asks(BaseCallback):
        def _on_training_end(self):
            self.answers = self.training_env.get_attr("end_probability")

        def _on_step(self):
            return True

    asks = Asks()
    dqn(lambda: RandomWalk(end_probability=0.3), execution="async").learn(60, asks)
    assert asks.answers == [0.3]


def test_a_callback_that_asks_for_the_only_robot_is_told_who_has_it(place):
    class Asks(BaseCallback):
        def _on_step(self):
            self.training_env.get_attr("n_steps")

    model = dqn(lambda: Robot(place), n_actors=1, execution="async")
    with pytest.raises(RuntimeError, match=r"was closed while actors step theirs.*FileExistsError.*after learn\(\)"):
        model.learn(60, Asks())
    env = model.learn(60).get_env()
    assert env.get_attr("n_steps") == [0]
    env.close()


def test_an_object_that_cant_be_copied_is_refused_with_both_ways_out(place):
    robot = Robot(place)
    with pytest.raises(ValueError, match=r"can't be pickled .*function.* execution='sync' and as many actors as there"):
        dqn(robot, n_actors=1, execution="async")
    with pytest.raises(ValueError, match=r"can't be pickled"):
        dqn(robot, n_actors=2, execution="sync")
    robot.close()
