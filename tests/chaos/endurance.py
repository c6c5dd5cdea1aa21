"""Many actors, many runs, and a long one."""

import collections
import gc
import os
import pathlib
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import ActorWarning
from tests import inside
from tests.chaos.failures import MANY, UNTOLD
from tests.chaos.faulty import Troubled
from tests.chaos.kills import Killer, learner
from tests.chaos.ledger import audit
from tests.chaos.traces import join_others, mapped, opened
from tests.chaos.victims import actors, servers

MIB = 2**20
#: What warnings of actors name that fail in the ways in which these do.
EXPLAINED = {
    "exceptions": "the simulator is gone",
    "exits": "exit status 3",
    "crashes": "SIGSEGV",
    "kills": "SIGKILL",
    "hangs": "gave no sign of life",
    "silences that ended": "was silent for too long, then continued",
    "servers that started nothing": "did not start an actor within",
    "ends of which the server could not tell any more": UNTOLD,
}


def status(pid: int, name: str) -> int:
    """A number of /proc/<pid>/status."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def resident() -> float:
    """MiB of this process, but for the files that it has mapped, of which the system holds what it likes."""
    return sum(status(os.getpid(), name) for name in ("RssAnon", "RssShmem")) / 1024


class Threads(BaseCallback):
    """Counts the threads of each actor once all slots have handed over steps, and ends the run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()
        self.counts: list[int] = []

    def _on_step(self) -> bool:
        self.seen.update(self.locals["actor_ids"])
        if len(self.seen) == self.model.n_slots:
            self.counts = [status(pid, "Threads") for pid in actors(os.getpid())]
        return not self.counts


def many_actors_and_runs(n_actors: int, n_cycles: int, mib: float) -> str:
    """F16: few threads an actor; descriptors, segments and resident memory stay as they are."""
    join_others()
    model, threads = learner(100_000, n_actors=n_actors, n_processes=n_actors), Threads()
    model.learn(MANY, threads)
    assert len(threads.counts) == n_actors
    assert max(threads.counts) <= 4, threads.counts
    assert actors(os.getpid()) == []
    assert len(servers(os.getpid())) <= 1  # which waits for the next run
    del model, threads.model
    before: collections.Counter[str] | None = None
    shared, sizes = mapped(os.getpid()), []
    for cycle in range(n_cycles):
        model = learner(2000)
        model.learn(400)
        model.env.close()
        del model
        gc.collect()
        left = opened(os.getpid())
        if cycle >= n_cycles // 4:  # what libraries open and reserve on first use
            before = before or left
            assert left <= before, f"more descriptors: {left - before}"
            assert mapped(os.getpid()) <= shared, mapped(os.getpid()) - shared
            sizes.append(resident())
    third = max(len(sizes) // 3, 1)
    grown = float(np.mean(sizes[-third:]) - np.mean(sizes[:third]))
    assert grown < mib, f"grown by {grown:.1f} MiB"
    said = (
        f"{n_actors} actors of at most {max(threads.counts)} threads; {n_cycles} cycles, no descriptor or segment left"
    )
    return f"{said}, resident memory {grown:+.1f} MiB over {len(sizes)} of them"


class Sizes(BaseCallback):
    """
    Takes the size of this process every now and then, once the memory is full, and ends a run after some time.

    :param seconds: of the whole run, or more if there are few sizes, or failures, by then
    :param interval: seconds between two sizes
    :param n_failures: how often actors have failed
    """

    def __init__(self, seconds: float, interval: float, n_failures: Callable[[], int]):
        super().__init__()
        self.seconds, self.interval, self.n_failures = seconds, interval, n_failures
        self.begun = self.looked = time.monotonic()
        self.sizes: list[tuple[float, float]] = []

    def _on_step(self) -> bool:
        now, memory = time.monotonic(), self.model.replay_buffer
        was_full = inside.storage(memory) is not None and inside.storage(memory).n_committed >= memory.capacity
        if now - self.looked >= self.interval and was_full:
            self.looked = now
            self.sizes.append((now, resident()))
        return now - self.begun < self.seconds or min(len(self.sizes), self.n_failures()) < 9

    def slope(self) -> float:
        """MiB an hour, over the last two thirds."""
        times, sizes = np.array(self.sizes[len(self.sizes) // 3 :]).T
        return float(np.polyfit((times - times[0]) / 3600.0, sizes, 1)[0])


def soak(seconds: float, chance: float, interval: float, mib_an_hour: float, timeout: float = 2.0) -> str:
    """F17: faults of all kinds at random times; memory does not grow, and every warning is explained."""
    env = partial(Troubled, chance, spared=os.getpid())
    model = learner(5_000, env=env, actor_timeout=timeout)
    told: collections.Counter[str] = collections.Counter()
    unexplained = []

    def hear(message, category, *rest, **others) -> None:
        how = [name for name, words in EXPLAINED.items() if words in str(message)]
        if category is ActorWarning and how:
            told[how[0]] += 1
        else:
            unexplained.append(str(message))

    killers = [Killer(10**6, interval), Killer(10**6, 5.0 * interval, servers)]
    sizes = Sizes(seconds, seconds / 200, told.total)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = hear
        with killers[0], killers[1]:
            model.learn(MANY * 100, sizes)
    assert unexplained == []
    assert sum(told.values()) > 0
    audit(model)
    slope = sizes.slope()
    assert slope < mib_an_hour, f"resident memory grew by {slope:.1f} MiB an hour"
    causes = ", ".join(f"{n} {how}" for how, n in told.most_common())
    return f"{model.num_timesteps} transitions, {causes}; resident memory {slope:+.1f} MiB/h"
