"""
Time that the memory takes for a batch, beside tianshou's and cpprb's sum trees and SB3's replay buffer.

Each side has a process of its own with one thread, and they take turns.

- ``indices``: draw from 1 M priorities and set those of the batch anew, without any data. tianshou's and cpprb's
  trees; cpprb can't leave out a column of its own and the weights.
- ``hopper``: ``sample()`` of 1 M of Hopper's transitions, ours prioritized and with 3-step returns, SB3's uniform and
  with 1-step returns.
- ``pong``: the same of 50,000 of Pong's stacks of four frames, and the bytes of a transition.

Usage::

    python benchmarks/replay.py                        # all rows: a few minutes, 4 GB of memory
    python benchmarks/replay.py --row pong --repeats 9
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

PEERS = ("--no-deps", "numpy==2.4.6", "numba==0.68.1", "llvmlite==0.50.0", "tianshou==2.0.1", "cpprb==11.0.0")
#: transitions held, batch size, peers, batches in a measurement
ROWS: dict[str, dict[str, Any]] = {
    "indices-32": {"held": 1_000_000, "batch": 32, "peers": ("tianshou", "cpprb"), "batches": 5_000},
    "indices-512": {"held": 1_000_000, "batch": 512, "peers": ("tianshou", "cpprb"), "batches": 1_000},
    "hopper": {"held": 1_000_000, "batch": 128, "peers": ("SB3",), "batches": 2_000},
    "pong": {"held": 50_000, "batch": 32, "peers": ("SB3",), "batches": 500},
}
#: of our time in the best peer's, of our bytes in SB3's
TIME_GOAL, BYTES_GOAL = 1.0, 1 / 7
#: of what :func:`side` measures: a batch, and the bytes of a transition if the memory holds any data
Batch = tuple[Callable[[], Any], float | None]


def our_tree(held: int, batch_size: int) -> Batch:
    """
    :param held: priorities in the tree
    :param batch_size: draws in a batch
    :return: what draws a batch and sets its priorities
    """
    import numpy as np
    import torch as th

    from sb3_ca2e.replay.binary_sum_tree import BinarySumTree

    rng, generator = np.random.default_rng(0), th.Generator().manual_seed(0)
    tree, priorities = BinarySumTree(held), th.from_numpy(rng.random(batch_size))
    tree.assign(0, rng.random(held))
    return lambda: tree.update(tree.sample(batch_size, generator), priorities), None


def tree_of_tianshou(held: int, batch_size: int) -> Batch:
    """
    :param held: priorities in the tree
    :param batch_size: draws in a batch
    :return: what draws a batch and sets its priorities, as tianshou's own buffer does it
    """
    import importlib.metadata

    import numpy as np

    # The tree's file alone: whatever else the package imports is not needed.
    sys.path.append(str(importlib.metadata.distribution("tianshou").locate_file("tianshou/data/utils")))
    segtree = importlib.import_module("segtree")
    rng = np.random.default_rng(0)
    tree, priorities = segtree.SegmentTree(held), rng.random(batch_size)
    tree[np.arange(held)] = rng.random(held)

    def batch() -> None:
        tree[tree.get_prefix_sum_idx(np.random.rand(batch_size) * tree.reduce())] = priorities

    return batch, None


def tree_of_cpprb(held: int, batch_size: int) -> Batch:
    """
    :param held: priorities in the tree
    :param batch_size: draws in a batch
    :return: what draws a batch and sets its priorities
    """
    import cpprb
    import numpy as np

    rng = np.random.default_rng(0)
    buffer, priorities = cpprb.PrioritizedReplayBuffer(held, {"reward": {}}), rng.random(batch_size)
    buffer.add(reward=np.zeros(held), priorities=rng.random(held))
    return lambda: buffer.update_priorities(buffer.sample(batch_size)["indexes"], priorities), None


def _spaces(row: str) -> tuple[Any, Any]:
    import numpy as np
    from gymnasium import spaces

    if row == "hopper":
        return spaces.Box(-np.inf, np.inf, (11,), np.float64), spaces.Box(-1.0, 1.0, (3,), np.float32)
    return spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6)


def our_memory(row: str, held: int, batch_size: int) -> Batch:
    """
    :param row: name of the row
    :param held: transitions in the memory
    :param batch_size: transitions in a batch
    :return: what samples a batch, and the bytes of a transition
    """
    import numpy as np

    from sb3_ca2e.replay import Block, PrioritizedReplayBuffer, lead_frames
    from sb3_ca2e.replay.block import OBSERVATION, TERMINATED, TRANSITION

    n_stack, n_slots, n = (4 if row == "pong" else 1), 8, 200
    memory = PrioritizedReplayBuffer(held, *_spaces(row), "cpu", frame_stack=(n_stack, 0), n_slots=n_slots, seed=0)
    lead, rng = lead_frames(memory._columns), np.random.default_rng(0)
    column, flags = memory._columns[OBSERVATION], np.full(n, TRANSITION)
    flags[-1] |= TERMINATED
    for i in range(held // n):
        memory.add_block(
            Block(
                slot=i % n_slots,
                frames={OBSERVATION: np.ones((lead + n + 1, *column.frame_shape), column.dtype)},
                actions=np.zeros((n, memory.action_dim)),
                rewards=rng.random(n, dtype=np.float32),
                flags=flags,
                ages=np.full(n + 1, lead, np.uint8),
                priorities=rng.random(n) + 0.01,
            )
        )
    return lambda: memory.sample(batch_size), memory.nbytes / held


def memory_of_sb3(row: str, held: int, batch_size: int) -> Batch:
    """
    :param row: name of the row
    :param held: transitions in the memory
    :param batch_size: transitions in a batch
    :return: what samples a batch, and the bytes of a transition
    """
    from stable_baselines3.common.buffers import ReplayBuffer

    memory = ReplayBuffer(held, *_spaces(row), "cpu")
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    columns = [getattr(memory, name) for name in names]
    for column in columns:
        column[:] = 1  # pages that were never written are all the same one
    memory.full = True
    return lambda: memory.sample(batch_size), sum(column.nbytes for column in columns) / held


def side(name: str, row: str) -> None:
    """
    Be one side of a row.

    :param name: of the side
    :param row: name of the row
    """
    from turns import serve

    spec = ROWS[row]
    size = spec["held"], spec["batch"]
    if row.startswith("indices"):
        batch, n_bytes = {"sb3_ca2e": our_tree, "tianshou": tree_of_tianshou, "cpprb": tree_of_cpprb}[name](*size)
    else:
        batch, n_bytes = {"sb3_ca2e": our_memory, "SB3": memory_of_sb3}[name](row, *size)
    for _ in range(50):
        batch()

    def microseconds() -> float:
        started = time.perf_counter()
        for _ in range(spec["batches"]):
            batch()
        return (time.perf_counter() - started) / spec["batches"] * 1e6

    serve(microseconds, n_bytes)


def measure(row: str, repeats: int) -> dict[str, Any]:
    """
    :param row: name of the row
    :param repeats: measurements of each side
    :return: microseconds of each side, our share of the best peer's median, bytes of a transition, and goals
    """
    from turns import Side, in_turns, peer_environment

    pythons = {"sb3_ca2e": sys.executable, **dict.fromkeys(ROWS[row]["peers"], sys.executable)}
    if row.startswith("indices"):
        pythons |= dict.fromkeys(ROWS[row]["peers"], str(peer_environment("replay", PEERS)))
    sides = [Side(name, __file__, "--side", name, "--row", row, python=python) for name, python in pythons.items()]
    times = in_turns(sides, repeats)
    for each in sides:
        each.close()
    medians = {name: statistics.median(figures) for name, figures in times.items()}
    best = min(ROWS[row]["peers"], key=lambda name: medians[name])
    result = {"microseconds": times, "best_peer": best, "time_ratio": medians["sb3_ca2e"] / medians[best]}
    result["reached"] = result["time_ratio"] <= TIME_GOAL
    if row == "pong":
        n_bytes = {each.name: each.ready for each in sides}
        result |= {"bytes": n_bytes, "bytes_ratio": n_bytes["sb3_ca2e"] / n_bytes["SB3"]}
        result["reached"] = result["reached"] and result["bytes_ratio"] <= BYTES_GOAL
    return result


def table(row: str, result: dict[str, Any]) -> list[str]:
    """
    :param row: name of the row
    :param result: what :func:`measure` returned
    :return: lines of a table
    """
    from turns import spread

    told = "reached" if result["reached"] else "MISSED"
    lines = []
    for name, figures in result["microseconds"].items():
        n_bytes = f"{result['bytes'][name]:.0f}" if "bytes" in result else ""
        head = f"{row}: {ROWS[row]['held']} held, batch {ROWS[row]['batch']}" if name == "sb3_ca2e" else ""
        ratio = f"{result['time_ratio']:.2f} | **{told}**" if name == "sb3_ca2e" else " | "
        lines.append(f"| {head} | {name} | {spread(figures, 1)} | {n_bytes} | {ratio} |")
    if "bytes" in result:
        lines.append(f"| | | | {result['bytes_ratio']:.3f} of SB3's, at most {BYTES_GOAL:.3f} | | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be given more than once")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each side")
    parser.add_argument("--out", type=pathlib.Path, help="where results go; benchmarks/results if all rows are run")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args.side, args.row[0])
        return

    from provenance import RESULTS, describe, provenance, write_results

    measured_on = provenance()
    lines = ["# Replay memory", "", "Microseconds a batch, medians and in brackets the range; one thread."]
    lines += [f"The ratio is to the best peer's median, {TIME_GOAL} or less is the goal.", ""]
    lines += ["| row | side | microseconds | bytes a transition | ratio | |", "| --- | --- | --- | --- | --- | --- |"]
    results: dict[str, Any] = {}
    for row in args.row or ROWS:
        results[row] = measure(row, args.repeats)
        lines += table(row, results[row])
        print(*table(row, results[row]), sep="\n", flush=True)
    lines += ["", describe(measured_on)]
    folder = args.out or (RESULTS if len(results) == len(ROWS) else pathlib.Path("runs/replay"))
    write_results(folder, "replay", {"rows": results, "measured_on": measured_on}, "\n".join(lines))


if __name__ == "__main__":
    main()
