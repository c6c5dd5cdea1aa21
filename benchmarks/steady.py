"""How fast a model learns once everything has started, what bounds it, and how much of the CPUs each side takes."""

import os
import pathlib
import time
from typing import Any, NamedTuple

from stable_baselines3.common.callbacks import BaseCallback
from turns import Answer


class Cpu(NamedTuple):
    """
    Seconds of CPU time so far.

    :param learner: of this process
    :param actors: of its descendants that are alive
    """

    learner: float
    actors: float

    @classmethod
    def now(cls) -> "Cpu":
        """
        :return: until now
        """
        parents, seconds = {}, {}
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                _, _, line = path.read_text().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
            fields, pid = line.split(), int(path.parent.name)
            parents[pid] = int(fields[1])
            seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        def descends(pid: int) -> bool:
            return parents.get(pid) == os.getpid() or (pid in parents and descends(parents[pid]))

        return cls(time.process_time(), sum(own for pid, own in seconds.items() if descends(pid)))


class SecondHalf(BaseCallback):
    """
    Transitions a second when processes have started, networks are traced, and all slots are heard of.

    :param n: transitions of the run
    """

    def __init__(self, n: int):
        super().__init__()
        self.n = n
        self.first = self.last = (0, 0.0)
        self.bottleneck: str | None = None
        self.cpu: Cpu | None = None

    def _on_training_start(self) -> None:
        self.middle = self.num_timesteps + self.n // 2

    def _on_step(self) -> bool:
        self.last = self.num_timesteps, time.perf_counter()
        if self.num_timesteps <= self.middle:
            self.first = self.last
        elif self.cpu is None:
            self.cpu = Cpu.now()
        return True

    def _on_training_end(self) -> None:
        collector = getattr(self.model, "_collector", None)  # of our models, while they learn
        if collector is not None and self.cpu is not None:
            n = self.last[0] - self.first[0]
            learner, actors = ((now - then) / n for now, then in zip(Cpu.now(), self.cpu, strict=True))
            cpu = f"CPU time a transition: learner {1e6 * learner:.0f} us, actors {1e6 * actors:.0f} us."
            self.bottleneck = f"{collector.advice()} {cpu}"

    @property
    def rate(self) -> float:
        """Transitions a second."""
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


def steady_rate(model: Any, n: int) -> Answer:
    """
    :param model: goes on learning
    :param n: number of transitions
    :return: transitions a second of the second half, and what bounds our models
    """
    steady = SecondHalf(n)
    model.learn(n, callback=steady, reset_num_timesteps=False)
    return (steady.rate, {"bottleneck": steady.bottleneck}) if steady.bottleneck else steady.rate
