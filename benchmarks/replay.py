"""
Time that the memory takes for a batch, beside tianshou's and cpprb's sum trees and SB3's replay buffer.

Each side has a process of its own with one thread, and they take turns.

- ``indices``: draw from 1 M priorities and set those of the batch anew, without any data. tianshou's and cpprb's
  trees; cpprb can't leave out a column of its own and the weights.
- ``hopper``: ``sample()`` of 1 M of Hopper's transitions, ours prioritized and with 3-step returns, SB3's uniform and
  with 1-step returns.
- ``pong``: the same of 50,000 of Pong's stacks of four frames, and our bytes in SB3's.

Usage::

    python benchmarks/replay.py                        # all rows: a few minutes, 4 GB of memory
    python benchmarks/replay.py --row pong --repeats 9
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

from rows import Row, Side, argument_parser, run
from turns import Answer, peer_environment

PEERS = ("--no-deps", "numpy==2.4.6", "numba==0.68.1", "llvmlite==0.50.0", "tianshou==2.0.1", "cpprb==11.0.0")
#: name of what Pong's row notes beside the time, of which at most a seventh is asked
SHARE_OF_BYTES = "share of SB3's bytes"
#: What a side measures: a batch, and what there is to note.
Batch = tuple[Callable[[], Any], dict[str, Any]]


def our_tree(held: int, batch_size: int) -> Batch:
    """
    :param held: priorities in the tree
    :param batch_size: draws in a batch
    :return: what draws a batch and sets its priorities
    """
    import numpy as np
    import torch as th

    from sb3_ca2e.replay.host_rows import BinarySumTree

    rng, generator = np.random.default_rng(0), th.Generator().manual_seed(0)
    tree, priorities = BinarySumTree(held), th.from_numpy(rng.random(batch_size))
    tree.assign(0, rng.random(held))
    return lambda: tree.update(tree.sample(batch_size, generator), priorities), {}


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

    return batch, {}


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
    return lambda: buffer.update_priorities(buffer.sample(batch_size)["indexes"], priorities), {}


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
    :return: what samples a batch, and for images our bytes in SB3's
    """
    from stable_baselines3.common.buffers import ReplayBuffer

    from sb3_ca2e.replay import PrioritizedReplayBuffer

    n_stack, n_slots = (4 if row == "pong" else 1), 8
    memory = PrioritizedReplayBuffer(held, *_spaces(row), "cpu", frame_stack=(n_stack, 0), n_slots=n_slots, seed=0)
    fill(memory, held, n_slots)
    note = {}
    if row == "pong":
        note[SHARE_OF_BYTES] = memory.nbytes / held / fill_of_sb3(ReplayBuffer(1, *_spaces(row), "cpu"))
    return lambda: memory.sample(batch_size), note


def fill(memory: Any, held: int, n_slots: int) -> None:
    """
    Store episodes of 200 steps whose observations are all ones.

    :param memory: a memory of ours
    :param held: transitions to store
    :param n_slots: slots that they come from
    """
    import numpy as np

    from sb3_ca2e.replay import Block, lead_frames
    from sb3_ca2e.replay.block import OBSERVATION, TERMINATED, TRANSITION

    n, rng = min(200, held), np.random.default_rng(0)
    lead, column, flags = lead_frames(memory._columns), memory._columns[OBSERVATION], np.full(n, TRANSITION)
    flags[-1] |= TERMINATED
    actions = np.zeros((n, memory.action_dim))
    for i in range(held // n):
        memory.add_block(
            Block(
                slot=i % n_slots,
                frames={OBSERVATION: np.ones((lead + n + 1, *column.frame_shape), column.dtype)},
                actions=actions,
                rewards=rng.random(n, dtype=np.float32),
                flags=flags,
                ages=np.full(n + 1, lead, np.uint8),
                priorities=rng.random(n) + 0.01,
            )
        )


def memory_of_sb3(row: str, held: int, batch_size: int) -> Batch:
    """
    :param row: name of the row
    :param held: transitions in the memory
    :param batch_size: transitions in a batch
    :return: what samples a batch
    """
    from stable_baselines3.common.buffers import ReplayBuffer

    memory = ReplayBuffer(held, *_spaces(row), "cpu")
    fill_of_sb3(memory)
    return lambda: memory.sample(batch_size), {}


def fill_of_sb3(memory: Any) -> int:
    """
    :param memory: a memory of SB3's, to be filled with ones: pages that were never written are all the same one
    :return: its bytes
    """
    names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    columns = [getattr(memory, name) for name in names]
    for column in columns:
        column[:] = 1
    memory.full = True
    return sum(column.nbytes for column in columns)


def timed(make: Callable[[], Batch]) -> Side:
    """
    :param make: what makes a side
    :return: the side, which measures microseconds a batch
    """

    def side(row: str, n: int) -> Callable[[], Answer]:
        batch, note = make()
        for _ in range(50):
            batch()

        def microseconds() -> Answer:
            started = time.perf_counter()
            for _ in range(n):
                batch()
            return (time.perf_counter() - started) / n * 1e6, note

        return microseconds

    return side


def indices(held: int, batch_size: int, n: int) -> Row:
    """
    :param held: priorities in the tree
    :param batch_size: draws in a batch
    :param n: batches in a measurement
    :return: the row
    """
    makers = {"sb3_ca2e": our_tree, "tianshou": tree_of_tianshou, "cpprb": tree_of_cpprb}
    peers = ("tianshou", "cpprb")
    return Row(
        f"indices of {held}, batch {batch_size}",
        "us",
        {name: timed(functools.partial(maker, held, batch_size)) for name, maker in makers.items()},
        dict.fromkeys(peers, 1.0),
        n,
        at_most=True,
        pythons=dict.fromkeys(peers, functools.partial(peer_environment, "replay", PEERS)),
    )


def samples(row: str, held: int, batch_size: int, n: int, **goals: float) -> Row:
    """
    :param row: its name
    :param held: transitions in the memory
    :param batch_size: transitions in a batch
    :param n: batches in a measurement
    :param goals: of numbers that are noted
    :return: the row
    """
    makers = {"sb3_ca2e": our_memory, "SB3": memory_of_sb3}
    return Row(
        f"sample() of {row}, {held} held, batch {batch_size}",
        "us",
        {name: timed(functools.partial(maker, row, held, batch_size)) for name, maker in makers.items()},
        {"SB3": 1.0, **goals},
        n,
        at_most=True,
    )


def all_rows(held: int) -> dict[str, Row]:
    """
    :param held: transitions in the memories, images excepted
    :return: rows by name
    """
    return {
        "indices-32": indices(held, 32, 5_000),
        "indices-512": indices(held, 512, 1_000),
        "hopper": samples("hopper", held, 128, 2_000),
        "pong": samples("pong", held // 20, 32, 500, **{SHARE_OF_BYTES: 1 / 7}),
    }


def main() -> None:
    held = argparse.ArgumentParser(add_help=False)
    held.add_argument("--held", type=int, default=1_000_000, help="transitions in the memories; of images a twentieth")
    n_held = held.parse_known_args()[0].held
    rows = all_rows(n_held)
    args = argument_parser(__doc__, rows, held).parse_args()
    run(__file__, rows, args, ["--held", str(n_held)])


if __name__ == "__main__":
    main()
