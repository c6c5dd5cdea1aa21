"""
What an accelerator makes of it: updates beside SB3's on the same device, and a whole run on Pong.

Needs a device that PyTorch knows, but neither a network nor a display. Without one it says so and ends well; with
``--device cpu`` the same lines run on the CPU, to see that they do.

- ``update-32``, ``update-512``: DQN's update of Pong's CNN from 1 M transitions held on the device, eight updates a
  call of ``train()``, one CUDA graph; sampling, returns, stacking of frames and new priorities included.
- ``update-ddpg``, ``update-dqn``: the same of small networks, as ``updates.py`` has them on the CPU.
- ``pong``: DQN from 64 slots of the native environment, an update of a batch of 256 for eight transitions; and how busy
  the device is meanwhile, as ``nvidia-smi`` tells it.

Usage::

    python benchmarks/gpu.py                         # all rows: some ten minutes
    python benchmarks/gpu.py --row update-32 --quick
    python benchmarks/gpu.py --device cpu --held 2000 --shorten 2000 --repeats 1
"""

import argparse
import functools
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from replay import fill, fill_of_sb3
from rows import Row, argument_parser, run
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecTransposeImage
from steady import SecondHalf
from turns import Answer

from sb3_ca2e import CA2EDDPG, CA2EDQN, make_atari_env

BUSY = "GPU busy, %"
#: Updates of one call of ``train()``, which need no word from the host between them.
AT_ONCE = 8
#: SB3 holds two stacks a transition: fewer of them, which makes no difference to its updates.
HELD_BY_SB3 = 50_000
#: Slots and batch size of the whole run; on the CPU less, as it is only to be seen to run.
OF_RUN, OF_RUN_ON_CPU = (64, 256), (8, 32)
#: Rows whose networks see no images.
SMALL = ("update-ddpg", "update-dqn")


class Spaces(gym.Env):
    """
    Never steps: memories are filled by hand.

    :param observation_space: of Pong's frames, or of Hopper or CartPole
    :param action_space: of the same
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space


def environment(row: str) -> VecEnv:
    """
    :param row: name of the row
    :return: what its models are made with
    """
    unbounded = functools.partial(spaces.Box, -np.inf, np.inf, dtype=np.float32)
    made = {
        "update-ddpg": (unbounded(shape=(11,)), spaces.Box(-1.0, 1.0, (3,), np.float32)),
        "update-dqn": (unbounded(shape=(4,)), spaces.Discrete(2)),
    }
    images = spaces.Box(0, 255, (84, 84, 1), np.uint8), spaces.Discrete(6)
    env = DummyVecEnv([functools.partial(Spaces, *made.get(row, images))])
    return env if row in made else VecTransposeImage(VecFrameStack(env, 4))


def rate_of_updates(model: Any, batch_size: int, n: int) -> Callable[[], Answer]:
    """
    :param model: of ours or of SB3, whose memory is filled
    :param batch_size: transitions in an update
    :param n: updates in a measurement
    :return: what measures updates a second
    """
    model.set_logger(configure(None, []))
    for _ in range(3):  # what is compiled or captured is done here
        model.train(AT_ONCE, batch_size)

    def measure() -> Answer:
        finish(model.device)
        started = time.perf_counter()
        for _ in range(max(n // AT_ONCE, 1)):
            model.train(AT_ONCE, batch_size)
        finish(model.device)
        return max(n // AT_ONCE, 1) * AT_ONCE / (time.perf_counter() - started)

    return measure


def finish(device: th.device) -> None:
    """
    :param device: that is to finish what it was told
    """
    if device.type == "cuda":
        th.cuda.synchronize(device)


def ours(row: str, n: int, batch_size: int, held: int, device: str) -> Callable[[], Answer]:
    """
    :param row: name of the row
    :param n: updates of a measurement
    :param batch_size: transitions in an update
    :param held: transitions in the memory
    :param device: of networks and memory
    :return: what measures updates a second
    """
    algorithm: Any = CA2EDDPG if row == "update-ddpg" else CA2EDQN
    settings: dict[str, Any] = {"buffer_size": held, "device": device, "batch_size": batch_size, "seed": 0}
    settings |= {"n_actors": 8, "execution": "sync", "compile": device != "cpu"}
    model = algorithm(
        "MlpPolicy" if row in ("update-ddpg", "update-dqn") else "CnnPolicy", environment(row), **settings
    )
    fill(model.replay_buffer, held, n_slots=8)
    measure = rate_of_updates(model, batch_size, n)
    if device != "cpu" and not model._learner.compiled:
        print(f"{row}: updates run eagerly: {model._learner.obstacle}", flush=True)
    elif device != "cpu" and model._learner.fused(model.replay_buffer, batch_size) is None:
        print(f"{row}: batches are not drawn in the graph: the memory is elsewhere", flush=True)
    return measure


def of_sb3(row: str, n: int, batch_size: int, held: int, device: str) -> Callable[[], Answer]:
    """
    :param row: name of the row
    :param n: updates of a measurement
    :param batch_size: transitions in an update
    :param held: transitions in the memory, in the host's
    :param device: of the networks
    :return: what measures updates a second
    """
    algorithm: Any = DDPG if row == "update-ddpg" else DQN
    policy_kwargs = {"policy_kwargs": {"net_arch": [64, 64]}} if row in SMALL else {}
    settings = {"buffer_size": min(held, HELD_BY_SB3), "device": device, "seed": 0, **policy_kwargs}
    model = algorithm("MlpPolicy" if row in SMALL else "CnnPolicy", environment(row), **settings)
    fill_of_sb3(model.replay_buffer)
    return rate_of_updates(model, batch_size, n)


class Busy(BaseCallback):
    """
    How busy the device is in the second half of a run.

    :param n: transitions of the run
    :param device: to look at
    """

    def __init__(self, n: int, device: th.device):
        super().__init__()
        self.n, self.device = n, device
        self._sampler: subprocess.Popen[str] | None = None
        #: percent, None where it can't be told
        self.share: float | None = None

    def _on_training_start(self) -> None:
        self.middle = self.num_timesteps + self.n // 2

    def _on_step(self) -> bool:
        if self._sampler is None and self.num_timesteps > self.middle and self.device.type == "cuda":
            uuid = f"GPU-{th.cuda.get_device_properties(self.device).uuid}"
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100", f"--id={uuid}"]
            self._sampler = subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, text=True)
        return True

    def _on_training_end(self) -> None:
        if self._sampler is not None:
            self._sampler.terminate()
            samples = [float(line) for line in self._sampler.communicate()[0].split() if line.isdigit()]
            self.share = sum(samples) / len(samples) if samples else None
            self._sampler = None


def whole_run(row: str, n: int, n_slots: int, batch_size: int, held: int, device: str) -> Callable[[], Answer]:
    """
    :param row: name of the row
    :param n: transitions of a measurement
    :param n_slots: environments, a multiple of the eight transitions for which there is an update
    :param batch_size: transitions in an update
    :param held: transitions that the memory can hold
    :param device: of networks and memory
    :return: what measures transitions a second
    """
    env = make_atari_env("PongNoFrameskip-v4", n_envs=n_slots, seed=0, native=True)
    model: Any = CA2EDQN(
        "CnnPolicy",
        env,
        buffer_size=held,
        learning_starts=min(10_000, n // 4),
        batch_size=batch_size,
        train_freq=1,
        gradient_steps=n_slots // 8,
        exploration_initial_eps=0.1,
        exploration_final_eps=0.1,
        compile=device != "cpu",
        device=device,
        seed=0,
    )
    if device != "cpu":
        while not model._learner.compiled and model._learner.obstacle is None:
            model.learn(n // 4, reset_num_timesteps=False)

    def measure() -> Answer:
        steady, busy = SecondHalf(n), Busy(n, model.device)
        model.learn(n, callback=[steady, busy], reset_num_timesteps=False)
        note: dict[str, Any] = {"bottleneck": steady.bottleneck}
        return steady.rate, note if busy.share is None else {**note, BUSY: busy.share}

    return measure


def all_rows(device: str, held: int) -> dict[str, Row]:
    """
    :param device: of networks and memories
    :param held: transitions in a memory
    :return: rows by name
    """

    def updates(what: str, batch_size: int, n: int, goals: dict[str, float | None]) -> Row:
        sides = {"sb3_ca2e": ours, "SB3": of_sb3}
        made = {
            name: functools.partial(sides[name], batch_size=batch_size, held=held, device=device)
            for name in ("sb3_ca2e", *filter(None, goals))
        }
        return Row(f"{what}, batch {batch_size}, {held} held", "updates/s", made, goals, n, threads=cores)

    n_slots, batch_size = OF_RUN_ON_CPU if device == "cpu" else OF_RUN
    # Beside others, as tests run, the threads of a side would wait for each other.
    cores = dict.fromkeys(("sb3_ca2e", "SB3"), 1 if device == "cpu" else os.cpu_count() or 1)
    return {
        "update-32": updates("DQN, CNN", 32, 4_000, {"": 5_000.0, "SB3": 10.0}),
        "update-512": updates("DQN, CNN", 512, 4_000, {"": 1_500.0}),
        "update-ddpg": updates("DDPG, 2 x 64", 128, 4_000, {"SB3": None}),
        "update-dqn": updates("DQN, 2 x 64", 64, 4_000, {"SB3": None}),
        "pong": Row(
            f"DQN, Pong, CNN, {n_slots} slots, native environment, an update of {batch_size} for 8 transitions",
            "transitions/s",
            {
                "sb3_ca2e": functools.partial(
                    whole_run, n_slots=n_slots, batch_size=batch_size, held=held, device=device
                )
            },
            {"": 16_000.0, BUSY: 80.0},
            400_000,
            threads=cores,
        ),
    }


def main() -> None:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--device", default="cuda", help="of PyTorch")
    own.add_argument("--held", type=int, default=1_000_000, help="transitions in a memory")
    known = own.parse_known_args()[0]
    rows = all_rows(known.device, known.held)
    args = argument_parser(__doc__, rows, own).parse_args()
    if known.device.startswith("cuda") and not th.cuda.is_available():
        print("not measured: no CUDA device")
        return
    run(__file__, rows, args, ["--device", known.device, "--held", str(known.held)])


if __name__ == "__main__":
    main()
