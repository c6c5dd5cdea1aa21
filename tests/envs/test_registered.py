"""The ids that a user has registered, in an actor's process."""

import subprocess
import sys

import ale_py
import cloudpickle
import gymnasium as gym

from sb3_ca2e.envs.model_env import as_env
from sb3_ca2e.envs.recipe import recipe_from

gym.register_envs(ale_py)

BUILD = "import sys, cloudpickle; print(type(cloudpickle.load(sys.stdin.buffer).build(0).unwrapped).__name__)"


def test_a_package_that_registers_its_ids_when_imported_does_so_without_warnings():
    env = as_env(lambda: gym.make("ALE/Pong-v5"))
    recipe = recipe_from(env)
    env.close()
    built = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", BUILD],
        input=cloudpickle.dumps(recipe),
        capture_output=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr.decode()
    assert built.stdout.decode().strip() == "AtariEnv"
