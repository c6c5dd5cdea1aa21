"""Checkpoints on a full disk, of processes that are killed while they save, and damaged."""

import itertools
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import CA2EDQN, CA2ECheckpointCallback
from sb3_ca2e.replay.block import TRANSITION
from tests import inside
from tests.chaos.traces import join_others


def learner(**kwargs: Any) -> CA2EDQN:
    """
    :param kwargs: arguments to change
    :return: a small learner whose runs are repeatable
    """
    common: dict[str, Any] = {"execution": "sync", "n_actors": 2, "local_buffer_size": 20, "learning_starts": 50}
    return CA2EDQN(
        "MlpPolicy", "CartPole-v1", seed=0, device="cpu", policy_kwargs={"net_arch": [32]}, **{**common, **kwargs}
    )


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """
    :param folder: a folder
    :return: all bytes of all files below it
    """
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


class Between(BaseCallback):
    """
    Does something between two rounds, just before or after a checkpoint: place it there among the callbacks.

    :param every: calls from one time to the next
    :param action: what to do
    """

    model: CA2EDQN

    def __init__(self, every: int, action: Callable[[], None]):
        super().__init__()
        self.every, self.action = every, action

    def _on_step(self) -> bool:
        if self.n_calls % self.every == 0:
            self.model.between_rounds(self.action)
        return True


def full_disk(folder: pathlib.Path, n: int) -> str:
    """
    Save where files may not grow beyond given sizes: ``n`` from none to one byte less than the largest has. Every
    other checkpoint may be saved. Those before must be as they were, and training must go on with a warning.

    :param folder: an empty folder
    :param n: number of sizes
    :return: figures
    """
    shares = itertools.chain.from_iterable((None, share) for share in np.linspace(0, 1, n))
    kept: list[dict[str, bytes]] = []
    wrong = []

    def fill() -> None:
        kept.append(contents(folder))
        if (share := next(shares)) is not None:
            limit = int(share * (max(map(len, kept[-1].values())) - 1))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # Python ignores SIGXFSZ

    def free() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        is_saved = contents(folder) != kept[-1]
        if is_saved == (len(kept) % 2 == 0):
            wrong.append(f"attempt {len(kept)} {'left something' if is_saved else 'saved nothing'}")

    checkpoint = CA2ECheckpointCallback(10, folder, save_replay_buffer=True)
    join_others()  # which may not write either, meanwhile
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        try:
            model = learner().learn(20 * n, [Between(10, fill), checkpoint, Between(10, free)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert wrong == []
    assert len(kept) == 2 * n
    told = [str(each.message) for each in warned]
    assert len(told) == n
    assert all("No checkpoint was saved after" in each and "File too large" in each for each in told), told
    assert model.num_timesteps == 20 * n
    assert CA2EDQN.resume(folder).num_timesteps == 20 * n - 8  # the last attempt failed
    return f"{n} sizes: the checkpoints before are whole, and training went on"


#: Goes on from what is there, says where, and then saves as often as it can, telling when it begins and ends.
_TRAINING = """
import pathlib, sys
import torch as th
from tests.chaos.checkpoints import Between, learner
from sb3_ca2e import CA2ECheckpointCallback, CA2EDQN

th.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
begun = any(folder.glob("rl_model_*"))
model = CA2EDQN.resume(folder, "CartPole-v1", device="cpu") if begun else learner()

def say(what):
    return Between(4, lambda: print(what, model.num_timesteps, flush=True))

print("from", model.num_timesteps, flush=True)
checkpoint = CA2ECheckpointCallback(4, folder, save_replay_buffer=True, keep_last=2)
model.learn(10**6, [say("begins"), checkpoint, say("ends")], reset_num_timesteps=False)
"""


class ActorProcess(NamedTuple):
    """
    What a killed process had said.

    :param start: timesteps from which it went on
    :param saved: timesteps at the last checkpoint that it knew to be saved
    :param begun: timesteps at the last checkpoint that it began
    :param saving: it was in the middle of it
    """

    start: int
    saved: int
    begun: int
    saving: bool


def run_and_kill(folder: pathlib.Path, rng: random.Random) -> ActorProcess:
    """
    Start a process that goes on from the checkpoints in a folder, and kill it while it saves another.

    :param folder: of the checkpoints
    :param rng: decides on the moment
    :return: what it had said
    """
    command = [sys.executable, "-W", "error", "-c", _TRAINING, str(folder)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        said = iter(process.stdout)
        start = _timesteps(next(said, ""), "from")
        began = time.monotonic()
        lines = []
        for _ in range(2 * rng.randrange(1, 4)):
            lines.append(next(said, ""))
            began, took = time.monotonic(), time.monotonic() - began
        lines.append(next(said, ""))
        time.sleep(rng.random() * took)  # saving takes about as long again
        process.kill()
        lines += said
    whole = [line for line in lines if line.endswith("\n")]
    begun = max(_timesteps(line, "begins") for line in whole if line.startswith("begins"))
    saved = max((_timesteps(line, "ends") for line in whole if line.startswith("ends")), default=start)
    return ActorProcess(start, saved, begun, saving=whole[-1].startswith("begins"))


def _timesteps(line: str, word: str) -> int:
    assert line.startswith(f"{word} "), f"the process ended, or said {line!r}, when {word!r} was to come"
    return int(line.split()[1])


def killed_while_saving(folder: pathlib.Path, n: int) -> str:
    """
    Kill a process while it saves, and let the next go on from what is there: the last checkpoint that is known to be
    saved, or the one that was under way if it was done.

    :param folder: an empty folder
    :param n: kills while it saves; some will come too late
    :return: figures
    """
    rng = random.Random(0)
    lives: list[ActorProcess] = []
    while sum(life.saving for life in lives) < n:
        lives.append(run_and_kill(folder, rng))
        if len(lives) > 1:
            assert lives[-1].start in (lives[-2].saved, lives[-2].begun), lives[-2:]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", UserWarning
        )  # as in the processes: what a kill leaves behind is no damaged checkpoint
        assert CA2EDQN.resume(folder).num_timesteps in (lives[-1].saved, lives[-1].begun)
    return f"{len(lives)} kills, {n} of them while saving, {len(lives)} resumed"


class AtCheckpoint(BaseCallback):
    """
    Keeps what the model was when a checkpoint was taken.

    :param save_freq: calls until then
    """

    model: CA2EDQN

    def __init__(self, save_freq: int):
        super().__init__()
        self.save_freq = save_freq
        self.seen: dict[str, bytes] = {}

    def _on_step(self) -> bool:
        if self.n_calls == self.save_freq:
            self.model.between_rounds(self._look)
        return True

    def _look(self) -> None:
        self.seen = learned(self.model)


def learned(model: CA2EDQN) -> dict[str, bytes]:
    """
    :param model: a model
    :return: all that its learning has led to, byte by byte
    """
    names = ("num_timesteps", "_n_updates", "_episode_num", "_n_learns", "retirement_state")
    found = {name: repr(getattr(model, name)).encode() for name in names}
    for name, tensor in model.policy.state_dict().items():
        found[f"policy.{name}"] = tensor.numpy().tobytes()
    for number, state in enumerate(model.policy.optimizer.state.values()):
        found |= {f"optimizer.{number}.{key}": value.numpy().tobytes() for key, value in state.items()}
    rows = inside.rows(model.replay_buffer)
    held = rows.flags & int(TRANSITION) > 0
    columns = {name: getattr(rows, name) for name in ("actions", "rewards", "flags")}
    columns |= {"priorities": rows.priorities[: len(held)], **rows.frames}
    return found | {f"memory.{name}": column[held].numpy().tobytes() for name, column in columns.items()}


def resumed(folder: pathlib.Path, n_transitions: int) -> str:
    """
    Resume one checkpoint twice in one process, where both runs must be the one that was not interrupted, and one of
    actor processes, which must be what was saved.

    :param folder: an empty folder
    :param n_transitions: of the whole runs
    :return: figures
    """
    half = n_transitions // 2
    whole = learner().learn(n_transitions, CA2ECheckpointCallback(half, folder / "sync", save_replay_buffer=True))
    for _ in range(2):
        again = CA2EDQN.resume(folder / "sync" / f"rl_model_{half}_steps", "CartPole-v1", device="cpu")
        again.learn(n_transitions - half, reset_num_timesteps=False)
        assert learned(again) == learned(whole)
    seen = AtCheckpoint(half)
    model = learner(execution="async", n_processes=2)
    model.learn(half + 100, [CA2ECheckpointCallback(half, folder / "async", save_replay_buffer=True), seen])
    (saved,) = (folder / "async").iterdir()
    assert learned(CA2EDQN.resume(saved, "CartPole-v1", device="cpu")) == seen.seen
    return f"{n_transitions} transitions: two resumed runs are the uninterrupted one; asynchronous: all is kept"


def damage(folder: pathlib.Path, rng: random.Random) -> str:
    """
    Damage one file of a checkpoint: a bit, or its end.

    :param folder: the checkpoint
    :param rng: decides on the place
    :return: what was done
    """
    path = rng.choice(sorted(folder.iterdir()))
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    if rng.random() < 0.3:
        del content[place:]
        how = f"{path.name} cut off at {place}"
    else:
        bit = rng.randrange(8)
        content[place] ^= 1 << bit
        how = f"bit {bit} of byte {place} of {path.name} flipped"
    path.write_bytes(content)
    return how


def damaged(folder: pathlib.Path, n: int) -> str:
    """
    Damage the newest of two checkpoints, and resume: it must be named, and the one before be taken.

    :param folder: an empty folder
    :param n: how often
    :return: figures
    """
    checkpoints, whole = folder / "checkpoints", folder / "whole"
    learner().learn(200, CA2ECheckpointCallback(100, checkpoints, save_replay_buffer=True))
    newer = checkpoints / "rl_model_200_steps"
    newer.rename(whole)
    rng, wrong = random.Random(0), []
    for _ in range(n):
        shutil.copytree(whole, newer)
        how = damage(newer, rng)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", UserWarning)
            try:
                timesteps = CA2EDQN.resume(checkpoints).num_timesteps
            except Exception as error:
                wrong.append(f"{how}: {type(error).__name__}: {error}")
                continue
            finally:
                shutil.rmtree(newer)
        told = [str(each.message) for each in warned]
        if timesteps != 100 or len(told) != 1 or f"{newer} is skipped" not in told[0]:
            wrong.append(f"{how}: {timesteps} timesteps were resumed, and it was told: {told}")
    assert wrong == []
    return f"{n} damaged checkpoints, none accepted, the one before resumed each time"
