"""Learners that raise, are killed or are interrupted, and what they leave."""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import CA2EDQN
from tests.chaos import HANGS, faulty
from tests.chaos.failures import MANY, faulty_env, half_of
from tests.chaos.kills import learner
from tests.chaos.ledger import audit
from tests.chaos.traces import mapped
from tests.chaos.victims import actors, children, servers
from tests.marked_processes import MARK, processes_marked

#: What victims learn on.
KINDS = ("healthy", "hanging")
#: In what a learner, its actors or an interpreter say if something is wrong; libraries may find fault with a machine.
OURS = re.compile("sb3_ca2e|chaos|Traceback|Fatal|Error|Exception|Warning|terminate called")


class Mishap:
    """
    :param error: what is raised when it happens
    """

    def __init__(self, error: Exception):
        self.error, self.time = error, 0.0

    def happen(self) -> None:
        self.time = time.monotonic()
        raise self.error


class Raising(CA2EDQN):
    """Has a mishap in its fifth update, if it is to have one."""

    mishap: Mishap | None = None

    def update(self, networks, batch):
        if self.mishap is not None and self._n_updates == 5:
            self.mishap.happen()
        return super().update(networks, batch)


class RaisingCallback(BaseCallback):
    """
    :param mishap: happens after some hundred transitions
    """

    def __init__(self, mishap: Mishap):
        super().__init__()
        self.mishap = mishap

    def _on_step(self) -> bool:
        if self.num_timesteps > 500:
            self.mishap.happen()
        return True


#: What is raised, and whether in an update or in a callback.
MISHAPS = (
    (th.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
    (KeyError("a key"), False),
    (RuntimeError("a mistake"), True),
)


def learner_raises(mishaps: Sequence[tuple[Exception, bool]] = MISHAPS, within: float = 5.0) -> str:
    """F6: the original exception, soon, and no process is left; the model can be used, and learns on."""
    longest = 0.0
    for error, in_update in mishaps:
        model, mishap = learner(100_000, algorithm=Raising), Mishap(error)
        model.mishap = mishap if in_update else None
        raised = what_ends(model, None if in_update else RaisingCallback(mishap))
        longest = max(longest, time.monotonic() - mishap.time)
        assert raised is error, repr(raised)
        assert servers(os.getpid()) == []
        audit(model)
        assert model.predict(np.zeros(4, dtype=np.float32))[0].shape == ()
        n_timesteps, model.mishap = model.num_timesteps, None
        model.learn(400, reset_num_timesteps=False)
        assert model.num_timesteps == n_timesteps + 400
    assert longest < within, f"learn() ended {longest:.1f} s after it"
    return f"the original exception left learn() at most {longest:.2f} s later, and no process was left"


def what_ends(model: CA2EDQN, callback: BaseCallback | None) -> Exception | None:
    """What ``learn`` raises."""
    try:
        model.learn(MANY, callback)
    except Exception as error:
        return error
    return None


def be_ended(kind: str, handling: str) -> None:
    """
    A learner that somebody ends. It says when it begins, when ``learn`` has ended, and whether it is of use then.

    :param kind: one of :data:`KINDS`
    :param handling: "handled" if it raises an exception of its own at SIGTERM
    """
    th.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without
    if handling == "handled":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    # One that hangs does so in a step, after a while, and never ends by itself.
    model = learner(100_000) if kind == "healthy" else half_of(faulty_env(faulty.sleeps, "step"))
    ended = 0.0
    try:
        try:
            print("ready", flush=True)
            model.learn(MANY)
        finally:
            ended = time.monotonic()
            ignore_signals()
    except (KeyboardInterrupt, SystemExit):
        ignore_signals()  # the second one may have come when the first one had been obeyed
    print(ended or time.monotonic(), flush=True)
    assert children(os.getpid()) == []
    observations = np.stack([model.observation_space.sample() for _ in range(16)])
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        loaded = CA2EDQN.load(f"{folder}/model")
    before, after = (each.predict(observations, deterministic=True)[0] for each in (model, loaded))
    assert (before == after).all()
    model.learn(400, reset_num_timesteps=False)
    print("usable", flush=True)


def ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Victim:
    """
    :func:`be_ended` in a process of its own, and in a process group of its own.

    All its processes write to one pipe, which ends when the last of them does.
    """

    def __init__(self, kind: str, handling: str = ""):
        self.mark = uuid.uuid4().hex
        code = "import sys; from tests.chaos.endings import be_ended; be_ended(*sys.argv[1:])"
        path = os.pathsep.join(entry or str(pathlib.Path.cwd()) for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, kind, handling],
            env={**os.environ, "PYTHONPATH": path, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said == "ready\n", said + self.process.communicate()[1]

    def send(self, number: signal.Signals) -> None:
        """To all of its process group, as terminals do."""
        os.killpg(self.process.pid, number)

    def shared_memory(self) -> set[str]:
        """Names of what it and its children share, where it has any that outlive them."""
        pid = self.process.pid
        names = {name for each in (pid, *servers(pid), *actors(pid)) for name, _ in mapped(each)}
        return {name for name in names if os.path.exists(name)}

    def end(self) -> tuple[str, list[str]]:
        """What it and its children say before all are gone, and what is wrong; nothing else is left of them."""
        try:
            out, err = self.process.communicate(timeout=HANGS)
        finally:
            self.process.kill()
        assert processes_marked(self.mark) == []
        return out, [line for line in err.splitlines() if OURS.search(line)]


def learner_is_killed(times: int, within: float = 3.0) -> str:
    """F7: its actors are gone soon, and nothing is left in shared memory."""
    rng, longest = random.Random(0), 0.0
    for each in range(times):
        victim = Victim(KINDS[each % 2])
        time.sleep(rng.uniform(0.0, 4.0))  # actors are starting, or run
        shared, killed = victim.shared_memory(), time.monotonic()
        victim.send(signal.SIGKILL)
        assert victim.end() == ("", [])
        longest = max(longest, time.monotonic() - killed)
        assert not any(map(os.path.exists, shared)), shared
    assert longest < within, f"actors were there for {longest:.1f} s"
    return f"{times} kills, the last process gone after at most {longest:.2f} s"


#: What is sent, and how SIGTERM is handled.
INTERRUPTIONS = (
    ([signal.SIGINT], ""),
    ([signal.SIGTERM], ""),
    ([signal.SIGINT, signal.SIGINT], ""),
    ([signal.SIGTERM, signal.SIGTERM], ""),
    ([signal.SIGTERM, signal.SIGTERM], "handled"),
    ([signal.SIGINT, signal.SIGTERM], "handled"),
)


def learner_is_interrupted(times: Sequence[int], within: float = 5.0) -> str:
    """F8: ``learn`` ends soon and says nothing, and then the model is of use, or the process has ended by SIGTERM."""
    rng, longest = random.Random(0), 0.0
    for each in times:
        numbers, handling = INTERRUPTIONS[each % len(INTERRUPTIONS)]
        victim = Victim("healthy", handling)
        time.sleep(rng.uniform(0.0, 4.0))
        sent = time.monotonic()
        for number in numbers:
            victim.send(number)
            time.sleep(rng.choice((0.0, rng.uniform(0.0, 0.2))))  # in the clean-up, if it is the first of two
        out, err = victim.end()
        ended, status = time.monotonic(), victim.process.returncode
        if signal.SIGTERM in numbers and not handling:
            assert (status, out, err) == (-signal.SIGTERM, "", [])
        else:
            first, *rest = out.splitlines()
            assert (status, rest, err) == (0, ["usable"], []), (status, out, err)
            ended = float(first)
        longest = max(longest, ended - sent)
    assert longest < within, f"learn() ended {longest:.1f} s after the signal"
    return f"{len(times)} times, learn() ended at most {longest:.2f} s later"
