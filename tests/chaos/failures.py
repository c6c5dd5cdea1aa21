"""Actor processes that end, hang or stand still, by themselves or at chosen points."""

import contextlib
import os
import pathlib
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import CA2EDQN, ActorError, ActorWarning, BuilderVecEnv
from tests.chaos import HANGS, faulty
from tests.chaos.faulty import Faulty, Sabotaged
from tests.chaos.kills import Beside, learner
from tests.chaos.ledger import Ledger, audit
from tests.chaos.victims import actors, send, servers

MANY = 10_000_000
#: What is told of a process that was silent for longer than it may, be it that it hangs or that its machine is busy.
SILENT = ("gave no sign of life for", "was silent for too long, then continued", "did not start an actor within")
#: What is told of an end where the server that could say more was too busy to say it in time.
UNTOLD = "exit status unknown"
#: Where actors are killed, or what is.
POINTS = ("block_write", "server", "announcement", "parameter_read", "start")
#: Methods of environments that raise.
PLACES = ("step", "__init__", "reset", "close")
#: How processes end, and what is told of it.
ENDS = {faulty.exits: "ended with exit status 3", faulty.crashes: "SIGSEGV", faulty.is_killed: "SIGKILL"}


@contextlib.contextmanager
def told() -> Iterator[list[tuple[float, str]]]:
    """The warnings of actors, and when each was given; others stay what they are."""
    heard: list[tuple[float, str]] = []

    def hear(message, category, *rest, **others):
        assert category is ActorWarning, message
        heard.append((time.monotonic(), str(message)))

    with warnings.catch_warnings():
        warnings.simplefilter("always", ActorWarning)
        warnings.showwarning = hear
        yield heard


class Watch(BaseCallback):
    """
    Ends a run when it has seen enough, and measures how long it stood still meanwhile, once it was under way.

    :param count: what has been seen so far
    :param enough: how much more is to be seen
    :param under_way: after how many transitions it is
    """

    def __init__(self, count: Callable[[], int], enough: int = 1, under_way: int = 500):
        super().__init__()
        self.count, self.enough, self.under_way = count, enough, under_way
        self.longest = 0.0
        self.last: float | None = None
        self.before = 0

    def _on_step(self) -> bool:
        now = time.monotonic()
        if self.last is not None:
            self.longest = max(self.longest, now - self.last)
        elif self.num_timesteps < self.under_way:
            return True
        else:
            self.before = self.count()
        self.last = now
        return self.count() - self.before < self.enough


class Replaced(BaseCallback):
    """
    Ends a run when an actor has failed, and an environment that was made after that has handed over steps.

    :param heard: the warnings of actors so far
    """

    def __init__(self, heard: list[tuple[float, str]]):
        super().__init__()
        self.heard = heard

    def _on_step(self) -> bool:
        born = [info["born"] for info in self.locals["infos"] if "born" in info]
        return not any(self.heard and time > self.heard[0][0] for time in born)


def half_of(builder, **changes):
    """A learner with two processes, of which the second one has only environments of ``builder``."""
    return learner(100_000, env=BuilderVecEnv([Ledger, builder]), **changes)


def faulty_env(*arguments) -> Callable[[], Faulty]:
    return partial(Faulty, *arguments, spared=os.getpid())


def at_chosen_points(points: Sequence[str] = POINTS, times: int = 20, within: float = 0.1) -> str:
    """F2: the learner goes on, and nothing is torn."""
    stalls = {}
    for point in points:
        if point == "server":
            stalls[point] = servers_killed(times)
            continue
        name = f"killed_in_a_{point}".replace("a_announcement", "an_announcement").replace("in_a_start", "at_start")
        model = half_of(partial(Sabotaged, getattr(faulty, name), spared=os.getpid()))
        with told() as heard:
            watch = Watch(lambda heard=heard: len(heard), times)
            model.learn(MANY, watch)
        audit(model)
        stalls[point.replace("_", " ")] = watch.longest
    for point, stall in stalls.items():
        assert stall < within, f"the learner stood still for {stall:.3f} s: {point}"
    return ", ".join(f"{point} {1000 * stall:.0f} ms" for point, stall in stalls.items())


def servers_killed(times: int) -> float:
    """The longest stall while servers are killed, each as soon as it has started an actor."""
    model = learner(100_000, learning_starts=MANY)
    killed: set[int] = set()

    def failures() -> int:
        for server in servers(os.getpid()):
            if server not in killed and (not killed or len(heard) == len(killed)):
                send(server, signal.SIGKILL)
                killed.add(server)
        return len(heard)

    with told() as heard:
        watch = Watch(failures, times)
        model.learn(MANY, watch)
    assert all("server" in message for _, message in heard), heard
    return watch.longest


def environment_raises(places: Sequence[str] = PLACES, within: float = 30.0) -> str:
    """F3: once, the run goes on; always, an error with the child's traceback."""
    longest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for where in places:
            once = pathlib.Path(folder) / where
            model = half_of(faulty_env(faulty.raises, where, once))
            with told() as heard:
                if where != "close":
                    model.learn(MANY, Replaced(heard))
                while not once.exists():  # an actor without a share of the machine is killed before it closes anything
                    model.learn(3000, reset_num_timesteps=False)
            assert once.exists()
            audit(model)
            if where != "close":  # which happens when nobody cares any more
                assert len(heard) == 1, heard
                assert f"in {where}" in heard[0][1], heard
            started = time.monotonic()
            model = half_of(faulty_env(faulty.raises, where), actor_restarts=5)
            with told():
                if where == "close":
                    model.learn(3000)
                else:
                    error = failing(model)
                    assert "ConnectionResetError: the simulator is gone" in error, error
                    assert f"in {where}" in error, error
                    assert "seed 0" in error, error
            audit(model)
            longest = max(longest, time.monotonic() - started)
    assert longest < within
    return f"once: the run went on; always: an error after at most {longest:.1f} s"


def failing(model: CA2EDQN) -> str:
    """The message of the error that ends learning."""
    try:
        model.learn(MANY)
    except ActorError as error:
        return str(error)
    raise AssertionError("no ActorError")


def environment_hangs(timeout: float, within: float = 1.0) -> str:
    """F4: found soon after ``actor_timeout``; so may be others, if they get no share of the machine for that long."""
    late = []
    with tempfile.TemporaryDirectory() as folder:
        for fault in (faulty.sleeps, faulty.holds_the_gil):
            once = pathlib.Path(folder) / fault.__name__
            model = half_of(faulty_env(fault, "step", once), actor_timeout=timeout)
            with told() as heard:
                model.learn(MANY, Watch(lambda heard=heard, once=once: len(since(heard, once)), under_way=0))
            assert all(any(words in message for words in SILENT) for _, message in heard), heard
            (found, message), *_ = since(heard, once)
            assert "gave no sign of life" in message, message
            assert "in a step of slot" in message, message
            late.append(found - float(once.read_text()) - timeout)
    assert max(late) < within, f"found {max(late):.1f} s after actor_timeout"
    return f"found {late[0]:.2f} s (asleep) and {late[1]:.2f} s (holding the GIL) after {timeout:.0f} s"


def since(heard: list[tuple[float, str]], once: pathlib.Path) -> list[tuple[float, str]]:
    """What was heard of the second process since its environment failed."""
    failed = float(once.read_text()) if heard and once.exists() else float("inf")
    return [(at, message) for at, message in heard if at > failed and "Actor process 1 " in message]


def process_ends(faults: Sequence[Callable[[], None]] = tuple(ENDS)) -> str:
    """F5: as F1, and the message says how."""
    with tempfile.TemporaryDirectory() as folder:
        for fault in faults:
            how, once = ENDS[fault], pathlib.Path(folder) / fault.__name__
            model = half_of(faulty_env(fault, "step", once))
            with told() as heard:
                model.learn(MANY, Replaced(heard))
            ((_, message),) = heard
            assert "in a step of slot" in message, message
            audit(model)
            model = half_of(faulty_env(fault, "step"), actor_restarts=3)
            with told() as heard:
                error = failing(model)
            assert len(heard) == 3
            ends = [message, *(each for _, each in heard), error]
            assert all(how in each or UNTOLD in each for each in ends), ends
            assert any(how in each for each in ends), ends
            assert "seed 0" in error, error
            audit(model)
    return f"named {', '.join(ENDS[fault] for fault in faults)}"


class Dated(Ledger):
    """Says where and when each step was made, and is slow enough to be stopped in the middle of one."""

    def step(self, action):
        time.sleep(0.001)
        *rest, info = super().step(action)
        return *rest, {**info, "made": (os.getpid(), time.monotonic())}


class Ages(BaseCallback):
    """
    Keeps the age of the oldest step that was committed, and who made the newest ones.

    :param going_on: whether the run is to go on
    """

    def __init__(self, going_on: Callable[[], bool]):
        super().__init__()
        self.going_on, self.oldest = going_on, 0.0
        #: by slot, the process that made its newest step; by process, when its newest step was committed
        self.makers: dict[int, int] = {}
        self.committed: dict[int, float] = {}

    def _on_step(self) -> bool:
        now = time.monotonic()
        for slot, info in zip(self.locals["actor_ids"].tolist(), self.locals["infos"], strict=True):
            self.makers[slot], made = info["made"]
            self.committed[self.makers[slot]] = now
            self.oldest = max(self.oldest, now - made)
        return self.going_on()


class Stopper(Beside):
    """
    Stops actors that are at work, one after the other, and continues each when the rest have gone on without it.

    :param model: whose actors they are
    :param n_times: how often
    :param seconds: for which each stands still, or longer
    :param given_up: whether that is longer than an actor may be silent
    """

    def __init__(self, model: CA2EDQN, n_times: int, seconds: float, given_up: bool):
        super().__init__()
        self.model, self.n_times, self.seconds, self.given_up = model, n_times, seconds, given_up
        self.rng, self.ages = random.Random(0), Ages(self.is_alive)
        #: the slots of those that were stopped, and how much the rest made meanwhile
        self.victims: list[list[int]] = []
        self.made: list[int] = []

    def work(self) -> None:
        for _ in range(self.n_times):
            victim = self.until(self.stop_one)
            try:
                self.go_on_without(victim)
            finally:
                continued = time.monotonic()
                send(victim, signal.SIGCONT)
            self.made_since(self.model.num_timesteps)  # in which it may hand over what it had begun
            if self.given_up:
                assert self.ages.committed[victim] < continued, "a step of an actor that was given up was committed"
            else:
                self.until(lambda victim=victim, continued=continued: self.ages.committed[victim] > continued)

    def go_on_without(self, victim: int) -> None:
        """Wait until the rest have, and the victim has been given up if it is to be."""
        self.victims.append([slot for slot, pid in sorted(self.ages.makers.copy().items()) if pid == victim])
        self.stopped.wait(self.seconds / 2)
        before = self.model.num_timesteps
        self.stopped.wait(self.seconds / 2)
        self.until(lambda: victim not in actors(os.getpid()) or not self.given_up)
        self.made.append(self.made_since(before))

    def made_since(self, before: int) -> int:
        """Wait for a thousand transitions more, and say how many they are by then."""
        self.until(lambda: self.model.num_timesteps > before + 1000)
        return self.model.num_timesteps - before

    def stop_one(self) -> int | None:
        """One of those that have handed over steps; None if there is none, or it has just ended."""
        at_work = sorted({*self.ages.makers.copy().values()} & {*actors(os.getpid())})
        victim = self.rng.choice(at_work) if at_work and self.model.num_timesteps >= 1000 else None
        return victim if victim is not None and send(victim, signal.SIGSTOP) else None

    def until(self, seen: Callable[[], Any]) -> Any:
        """Wait for what is to be seen."""
        deadline = time.monotonic() + HANGS
        while not (found := seen()):
            assert not self.stopped.wait(0.02), "the run has ended"
            assert time.monotonic() < deadline, "the rest stood still, or what was stopped did not go on"
        return found


def stopped_and_continued(times: dict[float, int], seconds: float, within: float = 1.0) -> str:
    """F15: nothing older than the bound is committed, the rest keep training; how often, for each bound."""
    lines = []
    for timeout, n_times in times.items():
        model = learner(
            3_000_000, env=Dated, actor_timeout=timeout, info_keys=("made",), learning_starts=MANY, train_freq=100
        )
        stopper = Stopper(model, n_times, seconds, given_up=timeout < seconds)
        with told() as heard, stopper:
            model.learn(MANY, stopper.ages)
        ages, made = stopper.ages, stopper.made
        assert ages.oldest < timeout + within, f"a step of {ages.oldest:.1f} s ago was committed"
        assert min(made) > 0, "the rest stood still"
        messages = [message for _, message in heard]
        for slots in stopper.victims if timeout < seconds else ():
            assert any(SILENT[0] in message and f"(slots {slots}, " in message for message in messages), messages
        # On a busy machine others may be silent for as long, but not for longer than what was only stopped.
        assert all(any(words in message for words in SILENT) for message in messages), messages
        assert messages == [] or timeout < seconds, messages
        audit(model)
        lines.append(f"actor_timeout={timeout:g}: oldest step {ages.oldest:.1f} s, {min(made)} made meanwhile")
    return "; ".join(lines)
