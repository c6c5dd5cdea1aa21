"""
SB3's side of a case, and the comparison: ``python -m differential.theirs CASE FOLDER MODE ...``, a process of its own.

The actions are those that our side took. A mode is ``equal`` if each slot saw what SB3's program sees with the same
seed, byte for byte, and the memory holds what SB3's ``ReplayBuffer`` holds after it was shown the same.
"""

import json
import pathlib
import pickle
import random
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from differential import tape
from differential.cases import BLOCK, SEED, SLOTS, UNSEEDED, Case, Making, cases
from differential.compare import (
    differing,
    first_difference,
    p_value,
    stored_difference,
    unseeded_difference,
)
from differential.ours import contents, learns
from differential.programs import arguments, told, vectorized
from differential.recorder import Playback

#: Less likely results of a two-sample test are a difference.
LEAST_P = 1e-6


class _Prescribed:
    """The part of SB3's algorithms that chooses actions, replaced: they are given."""

    given: list[Any]

    def _sample_action(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        action = self.given.pop(0)
        return action, action


class PrescribedDQN(_Prescribed, DQN):
    """SB3's DQN with given actions."""


class PrescribedDDPG(_Prescribed, DDPG):
    """SB3's DDPG with given actions."""


def program(env: Any, seed: int | None, given: list[Any] | None) -> Any:
    """
    Construct SB3's model.

    :param env: the vectorized environment
    :param seed: seed of the model
    :param given: actions of all environments for each step, as environments get them; None for those of SB3
    :return: the model
    """
    continuous = isinstance(env.action_space, spaces.Box)
    kinds = (DDPG if continuous else DQN) if given is None else (PrescribedDDPG if continuous else PrescribedDQN)
    model: Any = kinds(env=env, seed=seed, **arguments(env.observation_space, env.action_space))
    model.given = given
    return model


def replay(
    case: Case, folder: pathlib.Path, ours: list[list[Any]], groups: list[list[int]], other: bool, short: bool
) -> Any:
    """
    Let SB3's programs take the actions of our slots.

    :param case: the case
    :param folder: where tapes are kept
    :param ours: tape of each slot
    :param groups: slots whose environments are in one program
    :param other: whether to seed everything but the environments otherwise
    :param short: whether episodes have few steps
    :return: tape of each slot
    """
    theirs = []
    for group in groups:
        (to := folder / f"{group[0]}{'-other' * other}").mkdir()
        env = vectorized(case, [Making(case.name, str(to), short=short)] * len(group))
        steps = [tape.steps(ours[slot]) for slot in group]
        n = min(map(len, steps))
        given = [np.stack([each[t]["action"] for each in steps]) for t in range(n)]
        model = program(env, SEED + group[0], given)
        if other:
            random.seed(SEED + 99)
            np.random.seed(SEED + 99)
            th.manual_seed(SEED + 99)
        model.learn(n * len(group))
        env.close()
        theirs += sorted(tape.tapes(to), key=lambda records: records[0]["seed"])
    return theirs


def by_slot(folder: pathlib.Path) -> list[list[Any]]:
    """
    Read our tapes.

    :param folder: where they are kept
    :return: tape of each slot
    :raises ValueError: if there is not one for each slot, with its seed
    """
    read = sorted(tape.tapes(folder), key=lambda records: records[0]["seed"] or -1)
    if (seeds := [records[0]["seed"] for records in read]) != [SEED + slot for slot in range(SLOTS)]:
        raise ValueError(f"{len(seeds)} slots began with the seeds {seeds}")
    return read


def stored_as_seen(case: Case, ours: list[list[Any]], held: dict[str, Any]) -> str | None:
    """
    Compare a memory with SB3's buffer that was shown what the slots saw.

    :param case: the case
    :param ours: tape of each slot
    :param held: contents of our memory
    :return: the first difference, or None
    """
    made, buffers = case.make(""), []
    for records in ours:
        env = Playback(records, made.observation_space, made.action_space)
        given = [np.stack([step["action"]]) for step in tape.steps(records)]
        # SB3 stores raw observations too, but normalizes the last one of an episode and back, which rounds and clips it
        venv = case.wrap(DummyVecEnv([lambda env=env: env]), without="VecNormalize")  # type: ignore[misc]
        model = program(venv, None, given)
        model.learn(len(given))
        buffers.append(contents(model.replay_buffer, len(tape.steps(records))))
    actions, stepped = held["actions"], [tape.steps(records) for records in ours]
    box = made.action_space if isinstance(made.action_space, spaces.Box) else None
    asked = actions[:, 0] if box is None else model.policy.unscale_action(actions.reshape(-1, *box.shape))

    def acted_so(row: int, slot: int, at: int) -> bool:
        return bool(tape.digest(asked[row]) == stepped[slot][at]["action_digest"])

    rows = stored_difference(held, buffers, acted_so)
    if isinstance(rows, str):
        return rows
    for slot, mine in enumerate(rows):
        for at, (row, step) in enumerate(zip(mine, stepped[slot], strict=False)):
            if not acted_so(row, slot, at):
                return f"slot {slot}, step {at}: the action {step['action']!r}, stored as {actions[row]!r}"
    return None


def seeded_verdict(case: Case, mode: str, folder: pathlib.Path, held: dict[str, Any], other: bool) -> tuple[str, str]:
    """
    Compare a mode with seeds.

    :param case: the case
    :param mode: the way of passing the environment
    :param folder: the case's folder
    :param held: contents of our memory
    :param other: whether to seed everything but the environments otherwise
    :return: verdict and its reason
    """
    ours = by_slot(folder / mode)
    if (difference := stored_as_seen(case, ours, held)) is not None:
        return "wrong", f"stored: {difference}"
    together = mode == "sync" and not case.in_processes
    groups = [list(range(SLOTS))] if together else [[slot] for slot in range(SLOTS)]
    (to := folder / f"{mode}-sb3").mkdir(exist_ok=True)
    theirs = replay(case, to, ours, groups, other, short=False)
    if (difference := first_difference(ours, theirs)) is None:
        return "equal", ""
    return "differs", difference


def repeated(folder: pathlib.Path, mode: str) -> tuple[str, str]:
    """
    Judge a mode that differs from SB3's program, by what two runs of that program have in common.

    :param folder: the case's folder
    :param mode: the mode
    :return: verdict and its reason: ``equal`` but for entries of ``info`` in which the two differ, ``random`` if they
        differ in more, or ``wrong``
    """
    one, other = ([], [])  # type: tuple[list[Any], list[Any]]
    for path in sorted((folder / f"{mode}-sb3").iterdir()):
        (other if path.name.endswith("-other") else one).extend(
            sorted(tape.tapes(path), key=lambda records: records[0]["seed"])
        )
    varying = differing(one, other)
    if any(not name.startswith("info") for name in varying):
        return "random", ", ".join(sorted(varying))
    if (difference := first_difference(by_slot(folder / mode), one, varying)) is not None:
        return "wrong", difference
    return "equal", f"but for {', '.join(sorted(varying))}, which SB3 does not repeat"


def unseeded_verdict(case: Case, mode: str, folder: pathlib.Path, seen: list[Any]) -> tuple[str, str]:
    """
    Compare a mode without seeds.

    :param case: the case
    :param mode: the way of passing the environment
    :param folder: the case's folder
    :param seen: what our slots saw in each ``learn``
    :return: verdict and its reason; ``same`` if only SB3's differ in something, which may be by chance
    """

    def model(to: pathlib.Path) -> Any:
        env = vectorized(case, [Making(case.name, str(to), prescribed=True)] * SLOTS)
        return program(env, None, None)

    path = folder / "sb3-unseeded.pickle"
    if not path.exists():
        (to := folder / "sb3-unseeded").mkdir()
        path.write_bytes(pickle.dumps(learns(to, model)))
    difference = unseeded_difference(seen, pickle.loads(path.read_bytes()))
    if difference is None:
        return "equal", ""
    return ("same" if difference.endswith("saw the same") else "wrong"), difference


def distribution_verdict(case: Case, mode: str, folder: pathlib.Path) -> tuple[str, str]:
    """
    Compare first observations and returns of 200 episodes by a two-sample test.

    :param case: the case
    :param mode: the way of passing the environment
    :param folder: the case's folder
    :return: verdict and its reason
    """
    ours = by_slot(folder / f"{mode}:distribution")
    (to := folder / f"{mode}-distribution-sb3").mkdir()
    theirs = replay(case, to, ours, [[slot] for slot in range(SLOTS)], False, short=True)
    p, what = p_value(ours, theirs)
    return ("wrong" if p < LEAST_P else "alike"), f"{what}: p = {p:.1g}"


def accepted(case: Case, folder: pathlib.Path) -> dict[str, Any] | None:
    """
    Let SB3 learn for some steps.

    :param case: the case
    :param folder: the case's folder
    :return: why it does not, or None
    """
    try:
        (to := folder / "accepted").mkdir(exist_ok=True)
        program(vectorized(case, [Making(case.name, str(to))]), SEED, None).learn(2 * BLOCK)
    except Exception as error:
        return told(error)
    return None


def judged(error: dict[str, Any], refused: dict[str, Any] | None) -> tuple[str, str]:
    """
    Judge an exception of our side.

    :param error: what :func:`told` says of it
    :param refused: the same of SB3's exception, if it raised one
    :return: verdict and its reason
    """
    if refused is not None and refused["type"] in ("DependencyNotInstalled", "ModuleNotFoundError"):
        return "not installed", refused["message"]
    if refused is not None:
        return "refused", f"SB3 too: {refused['type']}: {refused['message']}"
    ours = error["where"] == "sb3_ca2e" and error["type"] in ("ValueError", "TypeError", "NotImplementedError")
    if ours or "sb3_ca2e.errors.UnrecoverableError: " in error["message"]:
        return "refused", error["message"].rpartition("UnrecoverableError: ")[2].strip()
    return "wrong", f"{error['type']} from {error['where']}: {error['message'][-600:]}"


def verdict(case: Case, mode: str, folder: pathlib.Path, other: bool) -> tuple[str, str]:
    """
    Judge a mode.

    :param case: the case
    :param mode: the mode
    :param folder: the case's folder
    :param other: whether SB3's program is run a second time, with other seeds for everything but the environments
    :return: verdict and its reason
    """
    result = pickle.loads((folder / f"{mode}.pickle").read_bytes())
    if "error" in result:
        return judged(result["error"], accepted(case, folder))
    name, _, what = mode.partition(":")
    try:
        if what:
            return distribution_verdict(case, name, folder)
        if mode in UNSEEDED:
            return unseeded_verdict(case, mode, folder, result["contents"]["learns"])
        return seeded_verdict(case, mode, folder, result["contents"], other)
    except Exception as error:
        reason = told(error)
        return "wrong", f"comparing: {reason['type']}: {reason['message']}\n{reason['traceback'][-1500:]}"


def judge(case: Case, folder: pathlib.Path, modes: Iterable[str], other: bool = False) -> dict[str, tuple[str, str]]:
    """
    Judge modes that our side has run.

    :param case: the case
    :param folder: where what came of them is kept
    :param modes: the modes
    :param other: run SB3's program with other seeds for everything but the environments too, and judge differences by
        what it repeats
    :return: verdict and reason of each
    """
    verdicts = {mode: verdict(case, mode, folder, other) for mode in modes}
    for mode, (found, _) in verdicts.items():
        if other and found == "differs":
            verdicts[mode] = repeated(folder, mode)
    (folder / "verdicts.json").write_text(json.dumps(verdicts))
    return verdicts


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asked = [mode for mode in sys.argv[3:] if mode != "--other"]
    judge(cases()[sys.argv[1]], pathlib.Path(sys.argv[2]), asked, "--other" in sys.argv)
