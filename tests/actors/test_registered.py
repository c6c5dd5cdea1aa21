"""The ids that a user has registered, in an actor's process."""

import subprocess
import sys

import ale_py
import cloudpickle
import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env

from sb3_ca2e.actors.envs import as_env, recipe_from

gym.register_envs(ale_py)

BUILD = "import sys, cloudpickle; print(cloudpickle.load(sys.stdin.buffer).build(0).unwrapped)"


def test_a_package_that_registers_its_ids_when_imported_does_so_without_warnings():
    for env in (make_vec_env("ALE/Pong-v5"), as_env(lambda: gym.make("ALE/Pong-v5"))):
        recipe = recipe_from(env)
        env.close()
        built = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", BUILD],
            input=cloudpickle.dumps(recipe),
            capture_output=True,
            check=False,
        )
        assert built.returncode == 0, built.stderr.decode()
        assert built.stdout.decode().strip() == "<AtariEnv instance>"
