"""Environments that fail in every way, once or each time."""

import ctypes
import os
import pathlib
import random
import signal
import time

from sb3_ca2e.actors.local_buffer import Blocks
from sb3_ca2e.transport.shared_memory.control_block import ControlBlock
from sb3_ca2e.transport.shared_memory.pipe_messages import MessageWriter
from tests.chaos.ledger import Ledger


def raises() -> None:
    raise ConnectionResetError("the simulator is gone")


def exits() -> None:
    os._exit(3)


def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def is_killed() -> None:
    """As the kernel does it when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps() -> None:
    time.sleep(10**6)


def holds_the_gil() -> None:
    ctypes.PyDLL(None).sleep(10**6)


class Faulty(Ledger):
    """
    A :class:`Ledger` that fails, but not in the learner's own process.

    :param fault: what happens
    :param where: in which method; ``"step"`` some hundred steps after its construction
    :param once: a file that is made when it happens, after which it does not happen again; None for each time
    :param spared: the learner's process
    """

    def __init__(self, fault, where: str, once: pathlib.Path | None = None, *, spared: int):
        super().__init__()
        self.fault, self.where, self.once, self.spared = fault, where, once, spared
        self.left = random.randrange(20, 200)
        self.check("__init__")

    def check(self, where: str) -> None:
        again = self.once is None or not self.once.exists()
        if where == self.where and again and os.getpid() != self.spared:
            if self.once is not None:
                written = self.once.with_suffix(".written")
                written.write_text(str(time.monotonic()))
                written.rename(self.once)  # which is there as a whole, even if this process is killed here
            self.fault()

    def reset(self, **kwargs):
        self.check("reset")
        return super().reset(**kwargs)

    def step(self, action):
        self.left -= 1
        if self.left <= 0:
            self.check("step")
        return super().step(action)

    def close(self):
        self.check("close")


class Troubled(Ledger):
    """
    A :class:`Ledger` that fails now and then in one of the ways above, but not in the learner's own process.

    :param chance: that a step does
    :param spared: the learner's process
    """

    WAYS = (raises, exits, crashes, is_killed, sleeps, holds_the_gil)
    chance_of_its_own = random.SystemRandom()  # actors seed the others

    def __init__(self, chance: float, *, spared: int):
        super().__init__()
        self.chance, self.spared = chance, spared

    def step(self, action):
        if self.chance_of_its_own.random() < self.chance and os.getpid() != self.spared:
            self.chance_of_its_own.choice(self.WAYS)()
        return super().step(action)


def killed_in_a_block_write() -> None:
    """Half of the priorities are there, and nothing has been announced."""
    original = Blocks.write_priorities

    def killed(self, *arguments):
        if random.random() < 0.1:
            for view in self._views:
                view["priorities"][::2] = float("nan")
            is_killed()
        original(self, *arguments)

    Blocks.write_priorities = killed


def killed_in_an_announcement() -> None:
    original = MessageWriter.send

    def killed(self, message):
        if random.random() < 0.1:
            os.write(self._fd, b"\x40\0\0\0\0\0\0\0half")
            is_killed()
        original(self, message)

    MessageWriter.send = killed


def killed_in_a_parameter_read() -> None:
    original = ControlBlock.read

    def killed(self, out):
        if random.random() < 0.2:
            out[: len(out) // 2] = self._parameters[self.version % 2][: len(out) // 2]
            is_killed()
        return original(self, out)

    ControlBlock.read = killed


def killed_at_start() -> None:
    if random.random() < 0.5:
        is_killed()
    killed_in_a_block_write()  # later


class Sabotaged(Ledger):
    """
    Prepares the actor process in which it is made for its end.

    :param sabotage: one of the functions above, called once a process
    :param spared: the learner's process
    """

    done_in = 0

    def __init__(self, sabotage, *, spared: int):
        super().__init__()
        if os.getpid() not in (spared, Sabotaged.done_in):
            Sabotaged.done_in = os.getpid()
            random.seed(os.getpid())
            sabotage()
