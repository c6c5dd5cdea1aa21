"""Actor processes that are killed."""

import collections
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import CA2EDQN, ActorWarning
from tests.chaos import HANGS
from tests.chaos.ledger import Ledger, audit
from tests.chaos.victims import actors, send


def learner(n_transitions: int, env=Ledger, algorithm=CA2EDQN, **changes) -> CA2EDQN:
    """A learner cheap enough to be bound by its actors, and a memory that keeps everything."""
    settings = {
        "n_steps": 1,
        "n_actors": 4,
        "n_processes": 2,
        "local_buffer_size": 10,
        "buffer_size": n_transitions,
        "learning_starts": 100,
        "train_freq": 40,
        "policy_kwargs": {"net_arch": [8]},
        "actor_restarts": 10**6,
        "info_keys": ("born",),
        "compile": False,
        "device": "cpu",
        "seed": 0,
    }
    return algorithm(env=env, **{"policy": "MlpPolicy", **settings, **changes})


class Beside(threading.Thread):
    """
    What is done beside a run: a context in which it is; leaving it raises what has gone wrong there.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stopped = threading.Event()
        self.error: BaseException | None = None

    def work(self) -> None:
        """What is done, until it is done or :attr:`stopped` is set."""
        raise NotImplementedError

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopped.set()
        self.join()
        if self.error is not None:
            raise self.error


class Killer(Beside):
    """
    Kills random actors of this process at random times, on average one every ``interval`` seconds.

    :param n_kills: how many
    :param interval: seconds
    :param victims: finds those that may be killed
    """

    def __init__(self, n_kills: int, interval: float, victims: Callable[[int], list[int]] = actors):
        super().__init__()
        self.n_kills, self.interval, self.victims = n_kills, interval, victims
        self.times: list[float] = []

    def work(self) -> None:
        rng, killed = random.Random(0), collections.deque[int](maxlen=100)
        while len(self.times) < self.n_kills and not self.stopped.wait(rng.uniform(0, 2 * self.interval)):
            # On a busy machine one that was killed takes its time to end.
            victims = [pid for pid in self.victims(os.getpid()) if pid not in killed]
            if victims and send(victim := rng.choice(victims), signal.SIGKILL):
                self.times.append(time.monotonic())
                killed.append(victim)


class Until(BaseCallback):
    """
    Ends a run that has seen enough, and remembers when environments were made.

    :param killer: who has to be done, with each kill noticed, a thousand transitions ago
    :param n_transitions: that have to be made
    :param seconds: that have to pass
    """

    def __init__(self, killer: Killer | None = None, n_transitions: int = 0, seconds: float = 0.0):
        super().__init__()
        self.killer, self.n_transitions, self.seconds = killer, n_transitions, seconds
        self.born: list[float] = []
        self.first = 0.0
        self.last = 0

    def _on_step(self) -> bool:
        self.first = self.first or time.monotonic()
        self.born += [info["born"] for info in self.locals["infos"] if "born" in info]
        if self.killer is not None and not self.noticed(self.killer):
            self.last = self.num_timesteps
        enough = self.num_timesteps >= max(self.n_transitions, self.last + 1000)
        return not enough or time.monotonic() - self.first < self.seconds

    def noticed(self, killer: Killer) -> bool:
        """Whether it has killed all that it is to kill, and each kill was noticed, or never will be."""
        if killer.is_alive():
            return False
        restarts = [row["restarts"] for row in self.model.actor_stats]
        hangs = not killer.times or time.monotonic() - killer.times[-1] > HANGS
        return hangs or 2 * sum(restarts) >= len(restarts) * len(killer.times)


def at_random_times(n_kills: int, n_transitions: int, within: float = 2.0, compared: bool = True) -> str:
    """F1: no hang, nothing committed is lost, duplicated or torn, and actors are back soon."""
    most = max(20 * n_transitions, 10_000 * n_kills)
    model = learner(most)
    killer = Killer(n_kills, interval=0.15)
    until = Until(killer, n_transitions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ActorWarning)
        with killer:
            model.learn(most, until)
    lives = audit(model)
    restarts = [row["restarts"] for row in model.actor_stats]
    n_slots = len(restarts)
    assert sum(restarts) * 2 == n_slots * n_kills, "every kill is a restart of the two slots of a process"
    back = restart_times(killer.times, until.born)
    p95 = float(np.quantile(back, 0.95))
    assert p95 < within, f"restarts take {p95:.2f} s"
    said = f"{n_kills} kills, {model.num_timesteps} transitions of {lives} lives intact, restart p95 {p95:.2f} s"
    return said + (f", {throughput()}" if compared else "")


def restart_times(kills: list[float], born: list[float]) -> list[float]:
    """Seconds from each kill to the next environment that was made, of those that handed over steps."""
    times = np.sort(born)
    positions = np.searchsorted(times, kills)
    return [float(times[at] - kill) for at, kill in zip(positions, kills, strict=True) if at < len(times)]


def throughput(seconds: float = 60.0) -> str:
    """Transitions a second with a kill a second, and without; in turns, as machines have moods."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(2):
        for killing in (False, True):
            model = learner(10_000_000, buffer_size=100_000)
            killer = Killer(10**6 if killing else 0, interval=1.0)
            until = Until(seconds=seconds / 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ActorWarning)
                with killer:
                    model.learn(10_000_000, until)
            rates[killing].append(model.num_timesteps / (time.monotonic() - until.first))
    free, killed = (sum(rates[each]) / 2 for each in (False, True))
    assert killed >= 0.8 * free, f"{killed:.0f} transitions/s with a kill a second, {free:.0f} without"
    return f"{killed:.0f} transitions/s with a kill a second, {free:.0f} without ({killed / free:.0%})"
