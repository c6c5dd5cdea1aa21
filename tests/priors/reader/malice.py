"""Make files that mean harm, and have a process of its own read them."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ca2e.priors.find import BUNDLED
from tests.priors.agents_clone import AGENTS
from tests.priors.reader.attacks import Attack
from tests.priors.reader.fuzz import fuzzed
from tests.priors.reader.spaces_env import SpacesEnv

WORKER = pathlib.Path(__file__).with_name("malice_worker.py")
#: A title, what the file is read as, and where it is
Manifest = list[tuple[str, str, pathlib.Path]]


def save_honest_files(folder: pathlib.Path) -> None:
    """
    Save small agents, statistics and a configuration.

    :param folder: where to
    """
    vector = spaces.Box(-1, 1, (3,), np.float32)

    def env(action_space):
        return DummyVecEnv([lambda: SpacesEnv(vector, action_space)])

    small = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu"}
    DQN("MlpPolicy", env(spaces.Discrete(2)), buffer_size=1, **small).save(folder / "dqn.zip")
    PPO("MlpPolicy", env(vector), n_steps=2, batch_size=2, use_sde=True, **small).save(folder / "ppo.zip")
    SAC("MlpPolicy", env(vector), buffer_size=1, **small).save(folder / "sac.zip")
    normalize = VecNormalize(env(spaces.Discrete(2)))
    normalize.reset()
    normalize.save(str(folder / "vecnormalize.pkl"))
    (folder / "config.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - policy\n    - MlpPolicy\n  - - n_timesteps\n    - 1e5\n"
    )


def canary_of(path: pathlib.Path) -> pathlib.Path:
    """
    :param path: an attack
    :return: what it makes when it is executed; the name would do for a module
    """
    return path.with_name(f"canary_of_{path.stem}.made")


def write_attacks(attacks: list[Attack], folder: pathlib.Path) -> Manifest:
    """
    :param attacks: files to write
    :param folder: where to; it is made
    :return: what has been written
    """
    folder.mkdir()
    manifest = [(attack.name, attack.kind, folder / f"attack{index}") for index, attack in enumerate(attacks)]
    for attack, (_, _, path) in zip(attacks, manifest, strict=True):
        attack.write(path, canary_of(path))
    return manifest


def write_damaged_files(honest: pathlib.Path, folder: pathlib.Path, n: int) -> Manifest:
    """
    :param honest: what :func:`save_honest_files` has saved; agents of the package, and of the RL Zoo if there are any,
        are damaged too
    :param folder: where to write; it is made, with a file ``canary.made`` if something executes one of them
    :param n: how many to write
    :return: what has been written
    """
    folder.mkdir()
    agents = [*sorted(honest.glob("*.zip")), *sorted(BUNDLED.glob("ppo/*/*.zip"))]
    agents += [AGENTS / path for path in ("ars/Hopper-v3_1/Hopper-v3.zip", "trpo/Acrobot-v1_1/Acrobot-v1.zip")]
    statistics = [honest / "vecnormalize.pkl", AGENTS / "ars/Hopper-v3_1/Hopper-v3/vecnormalize.pkl"]
    found = [path for path in agents if path.is_file()], [path for path in statistics if path.is_file()]
    manifest = []
    for title, kind, data in fuzzed(*found, honest / "config.yml", n, folder / "canary.made"):
        path = folder / f"file{len(manifest)}"
        path.write_bytes(data)
        manifest.append((title, kind, path))
    return manifest


def work(manifest: Manifest, mode: str, folder: pathlib.Path) -> list[dict[str, Any]]:
    """
    :param manifest: files to read
    :param mode: ``inert``, as the package does, or ``trusting``, as SB3, pickle and YAML do
    :param folder: where the manifest may be written
    :return: what ``malice_worker.py`` tells of each file, when inert
    """
    (folder / "manifest.json").write_text(json.dumps([[title, kind, str(path)] for title, kind, path in manifest]))
    command = [sys.executable, str(WORKER), str(folder / "manifest.json"), mode]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout) if mode == "inert" else []
    return results
