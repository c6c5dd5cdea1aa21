"""Nothing is left behind: no process, no shared memory, no warning, no reserved gigabyte."""

import os
import signal
import subprocess

import ale_py
import gymnasium as gym
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_ca2e import CA2EDQN
from sb3_ca2e.transport.shared_memory.parking import discard_parked
from tests.marked_processes import open_files, processes_marked, shared_memory
from tests.user_script import environment, of_ours, script


class RaiseAt(BaseCallback):
    """Raise in the middle of training."""

    def __init__(self, timestep: int, error: type[BaseException]):
        super().__init__()
        self.timestep, self.error = timestep, error

    def _on_step(self):
        if self.num_timesteps >= self.timestep:
            raise self.error("from the callback")
        return True


def test_nothing_is_left_when_learn_ends(process_mark):
    model = CA2EDQN("MlpPolicy", "CartPole-v1", n_actors=3, n_processes=2, learning_starts=50, seed=0)
    model.learn(60)  # opens what libraries open on first use
    discard_parked()
    files, shared = open_files(), shared_memory()
    seen = []

    class Look(RaiseAt):
        def _on_step(self):
            if self.num_timesteps >= self.timestep:
                seen.append(len(processes_marked(process_mark)))
            return super()._on_step() if 3 in seen[-1:] else True

    for error in (RuntimeError, KeyboardInterrupt, None):
        if error is None:
            model.learn(60)
            (server,) = processes_marked(process_mark)
            assert "sb3_ca2e.transport.shared_memory.fork_server" in server
            discard_parked()
        else:
            with pytest.raises(error, match="from the callback"):
                model.learn(10_000, Look(20, error))
        assert processes_marked(process_mark) == []
        assert open_files() <= files
        assert shared_memory() <= shared
    assert max(seen) == 3, "two actors and their server were running"


UNGUARDED = """
    import gymnasium as gym
    import numpy as np
    from sb3_ca2e import CA2EDQN

    class Corridor(gym.Env):
        observation_space = gym.spaces.Box(0, 5, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place = 0
            return self.observation(), {}

        def observation(self):
            return np.array([self.place], dtype=np.float32)

        def step(self, action):
            self.place = max(self.place + (1 if action else -1), 0)
            return self.observation(), -1.0, self.place == 5, False, {}

    model = CA2EDQN("MlpPolicy", Corridor(), n_actors=4, n_processes=2, learning_starts=100, seed=0)
    model.learn(400)
    model.save("model")
    print(model.num_timesteps, model.replay_buffer.size())
"""


def test_an_unguarded_script_works(tmp_path):
    shared = shared_memory()
    command = script(UNGUARDED, tmp_path)
    done = subprocess.run(command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True)
    assert of_ours(done.stderr) == ""
    assert (done.returncode, done.stdout) == (0, "400 400\n")
    assert {path.name for path in tmp_path.iterdir()} == {"model.zip", "script.py", "tmp"}
    # SB3 makes a folder for its logger, and PyTorch one for what it compiles
    assert [path for path in (tmp_path / "tmp").iterdir() if "ca2e" in path.name] == []
    assert shared_memory() <= shared


INTERRUPTED = """
    import sys
    from sb3_ca2e import CA2EDQN
    from stable_baselines3.common.callbacks import BaseCallback

    class Announce(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 500:
                print("learning", flush=True)
            return True

    own = {"n_actors": 4, "n_processes": 2, "compile": len(sys.argv) > 1}
    model = CA2EDQN("MlpPolicy", "CartPole-v1", learning_starts=100, seed=0, **own)
    try:
        model.learn(100_000_000, Announce())
    except KeyboardInterrupt:
        print("interrupted")
    observation = model.get_env().reset()
    before = model.predict(observation, deterministic=True)[0]
    model.save("model")
    after = CA2EDQN.load("model").predict(observation, deterministic=True)[0]
    n_transitions = model.num_timesteps
    model.learn(200, reset_num_timesteps=False)
    print(bool((before == after).all()), n_transitions >= 500, model.num_timesteps - n_transitions)
"""


@pytest.mark.extended
@pytest.mark.parametrize("compiling", [False, True])
def test_ctrl_c_leaves_a_usable_model(compiling, tmp_path, process_mark):
    command = script(INTERRUPTED, tmp_path, *["compiling"] * compiling)
    process = subprocess.Popen(
        command,
        env=environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout.readline() == "learning\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the whole foreground group
        out, err = process.communicate()
    assert of_ours(err) == ""
    assert (process.returncode, out) == (0, "interrupted\nTrue True 200\n")
    assert processes_marked(process_mark) == []


MEMORY = """
    import warnings
    import ale_py
    import gymnasium as gym
    from sb3_ca2e import CA2EDQN
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    def vm_size():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmSize")) / 2**20

    gym.register_envs(ale_py)
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=2), 4)
    models = []
    def grown(make):
        before = vm_size()
        models.append(make())
        print(vm_size() - before)

    make = lambda buffer_size: CA2EDQN("CnnPolicy", env, buffer_size=buffer_size, device="cpu")
    make(1).save("small")
    CA2EDQN.load("small")  # what is imported on first use
    grown(lambda: make(1))
    grown(lambda: make(1_000_000))
    models[-1].save("large")
    grown(lambda: CA2EDQN.load("small"))
    grown(lambda: CA2EDQN.load("large"))
    grown(lambda: CA2EDQN.load("large", env=env))
    observation = env.reset()
    models[-1].predict(observation)
    grown(lambda: models[-1].predict(observation))
    warnings.simplefilter("ignore")  # SB3's that the memory is short
    grown(lambda: DQN("CnnPolicy", env, buffer_size=50_000, device="cpu"))
"""


def test_a_large_memory_reserves_nothing_before_it_is_used(tmp_path):
    command = script(MEMORY, tmp_path)
    done = subprocess.run(command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    small, large, loaded_small, loaded, loaded_with_env, predicted, sb3s = map(float, done.stdout.split())
    assert large - small < 0.5
    assert loaded - loaded_small < 0.5
    assert loaded_with_env - loaded_small < 0.5
    assert predicted < 0.5
    assert sb3s > 1.0, "the measure does not see what SB3's buffer reserves"


def test_pong_is_learned_from_in_processes():
    gym.register_envs(ale_py)
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=2, seed=0), 4)
    model = CA2EDQN(
        "CnnPolicy", env, n_actors=4, n_processes=2, learning_starts=300, train_freq=25, buffer_size=10_000, seed=0
    )
    model.learn(600)
    assert model.num_timesteps == model.replay_buffer.size() == 600
    assert model._n_updates == 6
    batch = model.replay_buffer.sample(16)
    assert batch.observations.shape == (16, 4, 84, 84)
    assert batch.observations.float().std() > 1
    assert model.replay_buffer.nbytes < 10_000 * 7_600 * 1.6
