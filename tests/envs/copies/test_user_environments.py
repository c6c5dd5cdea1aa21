"""Environments that exist only in the user's own process: in a notebook's cells, in a script and in its modules."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from tests import REPOSITORY
from tests.user_script import of_ours

#: Executes cells one after the other in ``__main__``, which has no file, as IPython's kernel does.
KERNEL = """
import json, sys
for number, cell in enumerate(json.load(sys.stdin)):
    exec(compile(cell, f"<cell {number}>", "exec"), globals())
"""

#: Episodes of ``LENGTH`` steps, or of as many as asked for.
ROOM = """
    import gymnasium as gym
    import numpy as np

    LENGTH = 3

    def place_of(t):
        return np.array([t / 10], dtype=np.float32)

    class Room(gym.Env):
        metadata = {"render_modes": ["rgb_array"]}
        observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def __init__(self, length=None, render_mode=None):
            self.length = length or LENGTH

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return place_of(0), {}

        def step(self, action):
            self.t += 1
            return place_of(self.t), 1.0, self.t == self.length, False, {}
"""

#: Prints the lengths of the first episodes of the slots, one an environment, however seldom some get a core.
LEARN = """
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
    from sb3_ca2e import BuilderVecEnv, CA2EDQN
    from sb3_ca2e.transport.shared_memory import actor_process as life

    life.STALLED = 1000.0

    class FirstLengths(BaseCallback):
        def _on_training_start(self):
            self.lengths = {}

        def _on_step(self):
            for slot, info in zip(self.locals["actor_ids"].tolist(), self.locals["infos"]):
                if "episode" in info:
                    self.lengths.setdefault(slot, int(info["episode"]["l"]))
            return True

    def learn(env, n):
        lengths = FirstLengths()
        arguments = {"n_actors": n, "n_processes": 2, "local_buffer_size": 10, "policy_kwargs": {"net_arch": [4]}}
        model = CA2EDQN("MlpPolicy", env, learning_starts=10**6, seed=0, **arguments).learn(60 * n, lengths)
        print([lengths.lengths[slot] for slot in range(n)])
        model.get_env().close()
"""

REGISTER = """
    gym.register("Named-v0", entry_point="__main__:Room")
    gym.register("Given-v0", entry_point=Room, kwargs={"length": 4})
    gym.register("Function-v0", entry_point=lambda **kwargs: Room(5))
    gym.register("Limited-v0", entry_point="__main__:Room", max_episode_steps=2)
"""

LOCAL = """
    def local(length):
        class Closed(Room):
            def __init__(self):
                super().__init__(length)

        return lambda: Closed()
"""


#: Every way to hand them over, with the lengths of episodes that show which environment arrived.
WAYS = """
    learn(SubprocVecEnv([local(5), lambda: gym.make("Named-v0")], start_method="fork"), 2)
    learn("Limited-v0", 2)
    made = [lambda id=id: gym.make(id) for id in ("Named-v0", "Given-v0", "Function-v0", "Limited-v0")]
    learn(DummyVecEnv([*made, local(7), lambda: Room(8)]), 6)
    learn(BuilderVecEnv([*made, local(7), lambda: Room(8)]), 6)
"""

ARRIVED = ["[5, 3]", "[2, 2]", "[3, 4, 5, 2, 7, 8]", "[3, 4, 5, 2, 7, 8]"]


def run(command: list[str], cwd: pathlib.Path, **kwargs) -> list[str]:
    """The lines that a process prints, which must have nothing to complain of."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", *command]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, **kwargs)
    assert of_ours(done.stderr) == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.extended
def test_environments_of_a_notebook_work_in_actor_processes(tmp_path):
    cells = [textwrap.dedent(each) for each in (ROOM, LEARN, REGISTER, LOCAL, WAYS)]
    assert run(["-c", KERNEL], tmp_path, input=json.dumps(cells)) == ARRIVED


REGISTERED_WHEN_IMPORTED = """
    gym.register("Room-v0", entry_point="rooms:Room")
    gym.register("Limited-v0", entry_point="rooms:Room", max_episode_steps=2)
"""

SCRIPT = """
    import gymnasium as gym
    import rooms

    made = [lambda id=id: gym.make(id) for id in ("Room-v0", "Limited-v0", "rooms:Room-v0")]
    learn(BuilderVecEnv([*made, lambda: rooms.Room(5)]), 4)
"""


def test_environments_of_modules_beside_a_script_work_in_actor_processes(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "rooms.py").write_text(textwrap.dedent(ROOM) + textwrap.dedent(REGISTERED_WHEN_IMPORTED))
    (folder / "script.py").write_text(textwrap.dedent(LEARN) + textwrap.dedent(SCRIPT))
    assert run([str(folder / "script.py")], tmp_path) == ["[3, 2, 3, 5]"]
