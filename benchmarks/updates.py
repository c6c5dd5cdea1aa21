"""
Updates a second of one learner, sampling and priorities included, beside those of SB3 and SBX.

Each side has a process of its own, and they take turns. Memories hold 10,000 transitions, ours prioritized and
sampled for 3-step returns, theirs uniform and for 1-step returns. "products" makes an update's matrix products and
nothing else: only the rest of an update is a better implementation's to win.

Usage::

    python benchmarks/updates.py                        # all rows: some minutes
    python benchmarks/updates.py --row ddpg --repeats 9
"""

import argparse
import itertools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent
SBX = ("torch==2.13.0", "sbx-rl==0.28.0", "gymnasium[mujoco]==1.4.0")
N_STORED = 10_000
#: Layers of the zoo's DDPG.
LARGE: dict[str, Any] = {
    "env": "Hopper-v5",
    "batch": 256,
    "threads": 1,
    "goals": {"SB3": None, "products": None},
    "updates": 200,
    "net_arch": [400, 300],
}
#: Updates that are not compiled, with what we take by default, and with SB3's networks, targets, draws and returns.
EAGER: dict[str, Any] = {"threads": 1, "goals": {"SB3": 0.85}, "updates": 1000, "settings": {"compile": False}}
AS_SB3: dict[str, Any] = {
    **EAGER,
    "goals": {"SB3": 1.0},
    "net_arch": [64, 64],
    "settings": {"compile": False, "n_steps": 1, "replay_buffer_kwargs": {"alpha": 0.0}},
}
#: environment, batch size, threads, goals by peer (None only compares), updates in a measurement. With ``net_arch``,
#: layers of the zoo's or of SB3, and on our side too the networks and the target of SB3's update; ``settings`` of ours.
ROWS: dict[str, dict[str, Any]] = {
    "ddpg": {"env": "Hopper-v5", "batch": 128, "threads": 1, "goals": {"SB3": 3.5, "SBX": 1.2}, "updates": 1000},
    "dqn": {"env": "CartPole-v1", "batch": 64, "threads": 1, "goals": {"SB3": 3.5, "SBX": 1.2}, "updates": 1000},
    "dqn-256": {
        "env": "CartPole-v1",
        "batch": 128,
        "threads": 1,
        "goals": {"SB3": None},
        "updates": 1000,
        "net_arch": [256, 256],
    },
    "ddpg-eager": {"env": "Hopper-v5", "batch": 128, **EAGER},
    "dqn-eager": {"env": "CartPole-v1", "batch": 64, **EAGER},
    "ddpg-eager-as-sb3": {
        "env": "Hopper-v5",
        "batch": 128,
        **AS_SB3,
        "settings": {**AS_SB3["settings"], "critic_l2": 0.0},
    },
    "dqn-eager-as-sb3": {"env": "CartPole-v1", "batch": 64, **AS_SB3},
    "ddpg-400-300": LARGE,
    "ddpg-400-300-2": {**LARGE, "threads": 2},
    "dqn-cnn": {"env": "PongNoFrameskip-v4", "batch": 32, "threads": 2, "goals": {"SB3": 1.3}, "updates": 40},
}


def environment(row: str) -> Any:
    """
    :param row: name of the row
    :return: its environment
    """
    if row != "dqn-cnn":
        return ROWS[row]["env"]
    import ale_py
    import gymnasium as gym
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gym.register_envs(ale_py)
    return VecFrameStack(make_atari_env(ROWS[row]["env"], n_envs=1, seed=0), 4)


def algorithm_of_sb3(row: str) -> Any:
    """
    :param row: name of the row
    :return: SB3's class
    """
    import stable_baselines3

    return stable_baselines3.DDPG if row.startswith("ddpg") else stable_baselines3.DQN


def ours(row: str) -> Callable[[], Any]:
    """
    :param row: name of the row
    :return: what makes an update
    """
    from sb3_ca2e import CA2EDDPG, CA2EDQN

    theirs = algorithm_of_sb3(row)
    algorithm: Any = CA2EDQN if theirs.__name__ == "DQN" else CA2EDDPG
    policy: Any = "CnnPolicy" if row == "dqn-cnn" else "MlpPolicy"
    settings: dict[str, Any] = {"gradient_steps": 0, "compile": True, "buffer_size": N_STORED, "device": "cpu"}
    if "net_arch" in ROWS[row]:
        policy = theirs.policy_aliases[policy]
        settings["policy_kwargs"] = {"net_arch": ROWS[row]["net_arch"]}
        if algorithm is CA2EDQN:
            settings["double_q"] = False
    settings |= ROWS[row].get("settings", {})
    model = algorithm(policy, environment(row), n_actors=2, execution="sync", seed=0, **settings)
    model.learn(N_STORED)
    batch = ROWS[row]["batch"]
    model.train(1, batch)
    if settings["compile"] and not model._learner.compiled:
        raise RuntimeError(f"The update was not compiled: {model._learner.obstacle}")
    return lambda: model.train(1, batch)


def of_sb3(row: str) -> Callable[[], Any]:
    """
    :param row: name of the row
    :return: what makes an update
    """
    policy = "CnnPolicy" if row == "dqn-cnn" else "MlpPolicy"
    return _train(algorithm_of_sb3(row), policy, row, {"device": "cpu"})


def of_sbx(row: str) -> Callable[[], Any]:
    """
    :param row: name of the row
    :return: what makes an update
    """
    import sbx

    return _train(sbx.DDPG if row.startswith("ddpg") else sbx.DQN, "MlpPolicy", row, {})


def _train(algorithm: Any, policy: str, row: str, settings: dict[str, Any]) -> Callable[[], Any]:
    if policy == "MlpPolicy":
        settings = {**settings, "policy_kwargs": {"net_arch": ROWS[row].get("net_arch", [64, 64])}}
    model = algorithm(policy, environment(row), buffer_size=N_STORED, learning_starts=N_STORED, seed=0, **settings)
    model.learn(N_STORED)
    batch = ROWS[row]["batch"]
    if algorithm.__module__.startswith("sbx"):
        return lambda: model.train(gradient_steps=1, batch_size=batch)
    return lambda: model.train(1, batch)


def products(row: str) -> Callable[[], Any]:
    """
    :param row: of DDPG, with ``net_arch``
    :return: what makes the matrix products that an update can't do without, in float32
    """
    import gymnasium as gym
    import torch as th

    env, batch, layers = gym.make(environment(row)), ROWS[row]["batch"], ROWS[row]["net_arch"]
    (n_seen,), (n_actions,) = env.observation_space.shape or (), env.action_space.shape or ()
    shapes: list[tuple[int, int, int]] = []
    # The actor sees s, and s' for the target. The critic sees a and the actor's action in s, and that of s'.
    # Gradients go through the actor once and through the critic twice, but to its weights once.
    for sizes, n_passes, n_backward in (
        ((n_seen, *layers, n_actions), 2, 1),
        ((n_seen + n_actions, *layers, 1), 3, 2),
    ):
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            into_actions = n_backward - 1 if layer == 0 else n_backward  # nobody needs the observations' gradient
            shapes += n_passes * [(batch, n_in, n_out)] + into_actions * [(batch, n_out, n_in)] + [(n_in, batch, n_out)]
    factors = [(th.randn(rows, inner), th.randn(inner, columns)) for rows, inner, columns in shapes]
    results = [th.empty(rows, columns) for rows, _, columns in shapes]

    def update() -> None:
        for (left, right), result in zip(factors, results, strict=True):
            th.mm(left, right, out=result)

    return update


SIDES = {"sb3_ca2e": ours, "SB3": of_sb3, "SBX": of_sbx, "products": products}


def side(name: str, row: str) -> None:
    """
    Be one side of a row.

    :param name: of the side
    :param row: name of the row
    """
    import numpy as np
    from turns import serve

    update, n = SIDES[name](row), ROWS[row]["updates"]
    for _ in range(max(n // 10, 3)):
        update()

    def rate() -> float:
        started = time.perf_counter()
        for _ in range(n):
            update()
        return n / (time.perf_counter() - started)

    serve(rate, np.__version__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be given more than once")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each side")
    parser.add_argument("--out", type=pathlib.Path, help="where results go; benchmarks/results if all rows are run")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args.side, args.row[0])
        return

    from provenance import RESULTS, describe, provenance, write_results
    from turns import Side, in_turns, peer_environment, spread

    measured_on = provenance()
    results: dict[str, Any] = {}
    lines = ["# Updates a second", "", "Sampling and priorities included; medians, in brackets the range.", ""]
    lines += ["| row | side | updates a second | ratio | goal |", "| --- | --- | --- | --- | --- |"]
    for row in args.row or ROWS:
        spec = ROWS[row]
        pythons = dict.fromkeys(["sb3_ca2e", *spec["goals"]], sys.executable)
        if "SBX" in pythons:
            pythons["SBX"] = str(peer_environment("sbx", SBX))
        sides = [
            Side(name, __file__, "--side", name, "--row", row, python=python, threads=spec["threads"])
            for name, python in pythons.items()
        ]
        rates = in_turns(sides, args.repeats)
        for each in sides:
            each.close()
        what = f"{row}: {spec['env']}, batch {spec['batch']}, {spec['threads']} threads"
        lines.append(f"| {what} | sb3_ca2e | {spread(rates['sb3_ca2e'])} | | |")
        ratios = {}
        for peer, goal in spec["goals"].items():
            asked = f">= {goal}" if goal else "none"
            ratios[peer] = statistics.median(rates["sb3_ca2e"]) / statistics.median(rates[peer])
            lines.append(f"| | {peer} | {spread(rates[peer])} | {ratios[peer]:.2f} | {asked} |")
        reached = {peer: ratios[peer] >= goal for peer, goal in spec["goals"].items() if goal}
        told = {"ratios": ratios, "goals": spec["goals"], "reached": reached}
        results[row] = {"unit": "updates/s", "figures": rates, **told}
        print(*lines[-len(rates) :], sep="\n", flush=True)
    lines += ["", describe(measured_on)]
    whole = len(results) == len(ROWS)
    folder = args.out or (RESULTS if whole else pathlib.Path("runs/updates"))
    write_results(folder, "updates", {"rows": results, "measured_on": measured_on}, "\n".join(lines))


if __name__ == "__main__":
    main()
