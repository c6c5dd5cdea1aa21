"""Actor processes that end, hang or stand still, by themselves or at chosen points."""

import contextlib
import os
import pathlib
import random
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

from stable_baselines3.common.callbacks import BaseCallback

from chaos import faulty
from chaos.faulty import Faulty, Sabotaged
from chaos.kills import learner
from chaos.ledger import Ledger, audit
from chaos.victims import actors, send, servers
from sb3_ca2e import CA2EDQN, ActorError, ActorWarning, BuilderVecEnv

MANY = 10_000_000


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


def half_of(builder, **changes):
    """A learner with two processes, of which the second one has only environments of ``builder``."""
    return learner(100_000, env=BuilderVecEnv([Ledger, builder]), **changes)


def faulty_env(*arguments) -> Callable[[], Faulty]:
    return partial(Faulty, *arguments, spared=os.getpid())


def at_chosen_points(times: int, slack: float = 1.0) -> str:
    """F2: the learner goes on, and nothing is torn."""
    stalls = {}
    for point in ("block_write", "announcement", "parameter_read", "start"):
        name = f"killed_in_a_{point}".replace("a_announcement", "an_announcement").replace("in_a_start", "at_start")
        model = half_of(partial(Sabotaged, getattr(faulty, name), spared=os.getpid()))
        with told() as heard:
            watch = Watch(lambda heard=heard: len(heard), times)
            model.learn(MANY, watch)
        audit(model)
        stalls[point.replace("_", " ")] = watch.longest
    stalls["server"] = servers_killed(times)
    for point, stall in stalls.items():
        assert stall < 0.1 * slack, f"the learner stood still for {stall:.3f} s: {point}"
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


def environment_raises(slack: float = 1.0) -> str:
    """F3: once, the run goes on; always, an error with the child's traceback."""
    longest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for where in ("__init__", "reset", "step", "close"):
            once = pathlib.Path(folder) / where
            model = half_of(faulty_env(faulty.raises, where, once))
            with told() as heard:
                model.learn(3000)
            assert once.exists()
            audit(model)
            if where != "close":  # which happens when nobody cares any more
                assert len(heard) == 1, heard
                assert f"in {where}" in heard[0][1], heard
            started = time.monotonic()
            model = half_of(faulty_env(faulty.raises, where), actor_restarts=10)
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
    assert longest < 30.0 * slack
    return f"once: the run went on; always: an error after at most {longest:.1f} s"


def failing(model: CA2EDQN) -> str:
    """The message of the error that ends learning."""
    try:
        model.learn(MANY)
    except ActorError as error:
        return str(error)
    raise AssertionError("no ActorError")


def environment_hangs(timeout: float, slack: float = 1.0) -> str:
    """F4: found soon after ``actor_timeout``."""
    late = []
    with tempfile.TemporaryDirectory() as folder:
        for fault in (faulty.sleeps, faulty.holds_the_gil):
            once = pathlib.Path(folder) / fault.__name__
            model = half_of(faulty_env(fault, "step", once), actor_timeout=timeout)
            with told() as heard:
                model.learn(MANY, Watch(lambda heard=heard: len(heard), under_way=0))
            ((found, message),) = heard
            assert "gave no sign of life" in message, message
            assert "in a step of slot" in message, message
            late.append(found - float(once.read_text()) - timeout)
    assert max(late) < 1.0 * slack, f"found {max(late):.1f} s after actor_timeout"
    return f"found {late[0]:.2f} s (asleep) and {late[1]:.2f} s (holding the GIL) after {timeout:.0f} s"


def process_ends() -> str:
    """F5: as F1, and the message says how."""
    said = {faulty.exits: "ended with exit status 3", faulty.crashes: "SIGSEGV", faulty.is_killed: "SIGKILL"}
    with tempfile.TemporaryDirectory() as folder:
        for fault, how in said.items():
            once = pathlib.Path(folder) / fault.__name__
            model = half_of(faulty_env(fault, "step", once))
            with told() as heard:
                model.learn(5000)
            ((_, message),) = heard
            assert how in message, message
            assert "in a step of slot" in message, message
            audit(model)
            model = half_of(faulty_env(fault, "step"), actor_restarts=3)
            with told() as heard:
                error = failing(model)
            assert len(heard) == 3
            assert how in error, error
            assert "seed 0" in error, error
            audit(model)
    return f"named {', '.join(said.values())}"


class Dated(Ledger):
    """Says when each step was made, and is slow enough to be stopped in the middle of one."""

    def step(self, action):
        time.sleep(0.001)
        *rest, info = super().step(action)
        return *rest, {**info, "made": time.monotonic()}


class Ages(Watch):
    """The age of the oldest step that was committed."""

    oldest = 0.0

    def _on_step(self) -> bool:
        now = time.monotonic()
        self.oldest = max([self.oldest, *(now - info["made"] for info in self.locals["infos"] if "made" in info)])
        return super()._on_step()


def stopped_and_continued(times: dict[float, int], seconds: float, slack: float = 1.0) -> str:
    """F15: nothing older than the bound is committed, the rest keep training; how often, for each bound."""
    lines = []
    for timeout, n_times in times.items():
        model = learner(
            3_000_000, env=Dated, actor_timeout=timeout, info_keys=("made",), learning_starts=MANY, train_freq=100
        )
        made: list[int] = []
        done = threading.Event()

        def stop_and_continue(n_times=n_times, model=model, made=made, done=done) -> None:
            while model.num_timesteps < 1000:
                done.wait(0.05)
            for _ in range(n_times):
                victim = random.choice(actors(os.getpid()))
                send(victim, signal.SIGSTOP)
                done.wait(seconds / 2)
                before = model.num_timesteps
                done.wait(seconds / 2)
                made.append(model.num_timesteps - before)
                send(victim, signal.SIGCONT)
                done.wait(seconds / 30)  # in which it may hand over what it had begun
            done.set()

        ages = Ages(done.is_set)
        thread = threading.Thread(target=stop_and_continue, daemon=True)
        with told() as heard:
            thread.start()
            try:
                model.learn(MANY, ages)
            finally:
                done.set()
                thread.join()
        assert ages.oldest < timeout + 1.0 * slack, f"a step of {ages.oldest:.1f} s ago was committed"
        assert min(made) > 0, "the rest stood still"
        assert len(heard) == (n_times if timeout < seconds else 0), heard
        audit(model)
        lines.append(f"actor_timeout={timeout:g}: oldest step {ages.oldest:.1f} s, {min(made)} made meanwhile")
    return "; ".join(lines)
