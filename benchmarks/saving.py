"""
Saving and loading: seconds a GB of file and how far the process grows, beside SB3.

"memory" is ours with 1 M of Pong's transitions and SB3's with 100,000 (of which each holds its frames eight times);
"policy" a network of 2 GB. Hashes and the way to the disk are included. Our seconds a GB are to be at most 1.5 times
SB3's; saving adds at most 20 % to resident memory, and loading grows no higher than SB3's does.

Usage::

    python benchmarks/saving.py                  # all rows: some minutes, 16 GB of memory, 8 GB of disk
    python benchmarks/saving.py --row policy-load
"""

import functools
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any

from rows import Row, Side, argument_parser, run
from turns import Answer

GB = 1e9
SECONDS_GOAL, GROWTH_GOAL = 1.5, 0.2
#: Hidden layers whose two networks take 2 GB.
LARGE = [15_800, 15_800]
#: Noted beside seconds a GB: what the process grew by, as a share of what it was, or of the file.
GROWTH, OF_FILE = "growth while saving", "growth while loading, of the file"


def model_with_memory(ours: bool) -> tuple[Any, str]:
    """
    :param ours: not SB3's
    :return: a model with a full memory, and what it is called in methods' names
    """
    from replay import fill, fill_of_sb3
    from stable_baselines3 import DQN

    from sb3_ca2e import CA2EDQN, make_atari_env

    env = make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=0)
    algorithm: Any = CA2EDQN if ours else DQN
    model = algorithm("CnnPolicy", env, buffer_size=1_000_000 if ours else 100_000, device="cpu")
    if ours:
        fill(model.replay_buffer, 1_000_000, model.n_slots)
    else:
        fill_of_sb3(model.replay_buffer)
    return model, "_replay_buffer"


def large_model(ours: bool) -> tuple[Any, str]:
    """
    :param ours: not SB3's
    :return: a model with large networks, and what it is called in methods' names
    """
    from stable_baselines3 import DQN

    from sb3_ca2e import CA2EDQN

    algorithm: Any = CA2EDQN if ours else DQN
    policy: Any = DQN.policy_aliases["MlpPolicy"]
    model = algorithm(policy, "CartPole-v1", buffer_size=1, device="cpu", policy_kwargs={"net_arch": LARGE})
    return model, ""


def memory_in_use(field: str) -> int:
    """
    :param field: of ``/proc/self/status``
    :return: bytes
    """
    match = re.search(rf"^{field}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text(), re.M)
    assert match is not None
    return 1024 * int(match[1])


def watched(action: Callable[[], object]) -> tuple[float, int, int]:
    """
    :param action: to be done
    :return: seconds, bytes resident before, and bytes by which the process grew meanwhile
    """
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before, started = memory_in_use("VmRSS"), time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    return seconds, before, memory_in_use("VmHWM") - before


def saves(make: Callable[[bool], tuple[Any, str]], ours: bool, row: str, n: int) -> Callable[[], Answer]:
    """
    :param make: a model
    :param ours: not SB3's
    :param row: its name
    :param n: unused
    :return: what measures seconds a GB of one save, and the growth
    """
    model, what = make(ours)

    def measure() -> Answer:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, f"file.{'pkl' if what else 'zip'}")
            seconds, before, growth = watched(lambda: getattr(model, f"save{what}")(path))
            if not ours:
                os.sync()
            return seconds / path.stat().st_size * GB, {GROWTH: growth / before}

    return measure


def loads(make: Callable[[bool], tuple[Any, str]], ours: bool, row: str, n: int) -> Callable[[], Answer]:
    """
    :param make: a model
    :param ours: not SB3's
    :param row: its name
    :param n: unused
    :return: what measures seconds a GB of one load, and the growth
    """
    folder = tempfile.TemporaryDirectory()
    model, what = make(ours)
    path = pathlib.Path(folder.name, f"file.{'pkl' if what else 'zip'}")
    getattr(model, f"save{what}")(path)
    algorithm, size = type(model), path.stat().st_size
    if what:
        model.replay_buffer = type(model)("CnnPolicy", model.get_env(), buffer_size=1, device="cpu").replay_buffer
    else:
        del model

    def measure() -> Answer:
        _ = folder  # is removed with this function
        if what:
            action = functools.partial(model.load_replay_buffer, path)
        else:
            action = functools.partial(algorithm.load, path, device="cpu")
        seconds, _before, growth = watched(action)
        return seconds / size * GB, {OF_FILE: growth / size}

    return measure


def row(what: str, make: Callable[[bool], tuple[Any, str]], measures: Callable[..., Any], **goals: float | None) -> Row:
    """
    :param what: as printed
    :param make: a model
    :param measures: saving or loading
    :param goals: of what our side notes
    :return: the row
    """
    sides: dict[str, Side] = {
        "sb3_ca2e": functools.partial(measures, make, True),
        "SB3": functools.partial(measures, make, False),
    }
    return Row(what, "s/GB", sides, {"SB3": SECONDS_GOAL, **goals}, at_most=True)


ROWS = {
    "memory-save": row("saving a memory", model_with_memory, saves, **{GROWTH: GROWTH_GOAL}),
    "memory-load": row("loading a memory", model_with_memory, loads, **{OF_FILE: None}),
    "policy-save": row("saving a policy of 2 GB", large_model, saves, **{GROWTH: GROWTH_GOAL}),
    "policy-load": row("loading a policy of 2 GB", large_model, loads, **{OF_FILE: None}),
}

if __name__ == "__main__":
    run(__file__, ROWS, argument_parser(__doc__, ROWS).parse_args())
