"""
What the replay memory takes.

1. Bytes a transition of Pong's stacks of four frames, once 100,000 are stored (collected by the actors, at random).
2. What a CNN model with ``buffer_size=1_000_000`` adds to the process over one with ``buffer_size=1`` (VmSize), when
   it is constructed and when it is loaded: the memory is to be reserved on first use.

Usage: ``python benchmarks/memory.py [--transitions 100000] [--out benchmarks/results]`` (Linux)
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import ale_py  # noqa: F401 - registers the environments
import numpy as np
import torch as th
from provenance import RESULTS, describe, provenance, write_results
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_ca2e import CA2EDQN

ENV_ID = "PongNoFrameskip-v4"
BYTES_GOAL, VM_GOAL = 7_600, 0.5 * 2**30
SIZES = (1, 1_000_000)


def make_env(n_envs: int = 8) -> VecEnv:
    """
    :param n_envs: number of environments
    :return: Pong as SB3 and the paper preprocess it
    """
    return VecFrameStack(make_atari_env(ENV_ID, n_envs=n_envs, seed=0), n_stack=4)


def status(field: str) -> int:
    """
    :param field: a field of ``/proc/self/status``, such as VmSize
    :return: bytes
    """
    text = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return 1024 * int(match[1])


def stored(n_transitions: int) -> dict[str, Any]:
    """
    :param n_transitions: transitions to store
    :return: bytes that the memory takes, and what they would be with whole stacks
    """
    model = CA2EDQN(
        "CnnPolicy",
        make_env(),
        buffer_size=n_transitions,
        learning_starts=n_transitions,  # until then, actions are drawn at random
        gradient_steps=0,
        policy_kwargs={"net_arch": []},
        seed=0,
    )
    before = status("VmRSS")
    model.learn(n_transitions)
    memory = model.replay_buffer
    stacks = 2 * int(np.prod(memory.observation_space.shape or ()))
    return {
        "transitions": memory.size(),
        "bytes_a_transition": memory.nbytes / memory.size(),
        "resident_bytes_a_transition": (status("VmRSS") - before) / memory.size(),
        "bytes_of_two_stacks": stacks,
    }


def reserve(what: str, buffer_size: int, file: str) -> None:
    """
    Print by how much constructing or loading lets this process grow. Run in a process of its own.

    :param what: "construct" or "load"
    :param buffer_size: of the model to construct
    :param file: zip to load
    """
    env = make_env(1)
    before = status("VmSize")
    if what == "construct":
        model = CA2EDQN("CnnPolicy", env, buffer_size=buffer_size, device="cpu", seed=0)
        grown = status("VmSize") - before
        model.save(file)
    else:
        model = CA2EDQN.load(file, env=env, device="cpu")
        grown = status("VmSize") - before
        model.predict(model.observation_space.sample())
    print(f"grown {grown}")


def reserved(what: str, buffer_size: int, file: pathlib.Path) -> int:
    """
    :param what: "construct" or "load"
    :param buffer_size: of the model
    :param file: zip to write or to load
    :return: bytes by which VmSize grew
    """
    command = [sys.executable, __file__, "--reserve", what, str(buffer_size), str(file)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(output.split("grown ")[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=100_000)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--reserve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    th.set_num_threads(1)
    if args.reserve is not None:
        reserve(args.reserve[0], int(args.reserve[1]), args.reserve[2])
        return

    grown: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for what in ("construct", "load"):
            small, large = (reserved(what, size, pathlib.Path(folder, f"{size}.zip")) for size in SIZES)
            grown[what] = large - small
    pong = stored(args.transitions)
    checks = {
        "bytes_a_transition": pong["bytes_a_transition"] <= BYTES_GOAL,
        **{what: n_bytes < VM_GOAL for what, n_bytes in grown.items()},
    }
    results = {"pong": pong, "grown": grown, "reached": checks, "measured_on": provenance()}
    told = {name: "reached" if reached else "MISSED" for name, reached in checks.items()}
    lines = [
        "# Memory",
        "",
        "| | bytes | goal | |",
        "| --- | --- | --- | --- |",
        f"| a transition of {ENV_ID}, {pong['transitions']} stored | {pong['bytes_a_transition']:.0f} "
        f"| at most {BYTES_GOAL} | **{told['bytes_a_transition']}** |",
    ]
    for what, n_bytes in grown.items():
        goal = f"below {VM_GOAL / 2**20:.0f} MiB"
        lines.append(
            f"| VmSize: {what} with buffer_size={SIZES[1]}, more than with 1 | {n_bytes} | {goal} | **{told[what]}** |"
        )
    lines += [
        "",
        f"The process grew by {pong['resident_bytes_a_transition']:.0f} bytes a transition while they were collected; "
        f"two stacks of four frames take {pong['bytes_of_two_stacks']} bytes.",
        "",
        describe(results["measured_on"]),
    ]
    write_results(args.out, "memory", results, "\n".join(lines))


if __name__ == "__main__":
    main()
