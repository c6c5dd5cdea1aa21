"""The differential test: its parts, and some of its cases."""

import inspect
import json
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common import atari_wrappers, vec_env

from tests import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"

#: One case of each kind of environment, of observations, of actions, and of wrappers.
CASES = (
    "CartPole-v1",
    "Pendulum-v1",
    "Taxi-v4",
    "Blackjack-v1",
    "LunarLanderContinuous-v3",
    "Hopper-v5",
    "ALE/Pong-v5",
    "AtariWrapper, ALE/Breakout-v5",
    "NormalizeObservation, CartPole-v1",
    "StickyAction, CartPole-v1",
    "VecFrameStack, Pendulum-v1",
    "VecNormalize, CartPole-v1",
    "VecExtractDictObs, CartPole-v1 timed",
)
MODES = ("sync", "async", "async-unseeded")
VERDICTS = ("equal", "alike", "refused", "not installed", "wrong")

#: Runs one side of all cases in a process that has not learned before.
SIDE = """
import pathlib, sys, warnings
from differential.cases import cases
from differential.{module} import {function}

warnings.simplefilter("ignore")
for index, name in enumerate({names!r}):
    (folder := pathlib.Path(sys.argv[1]) / str(index)).mkdir(exist_ok=True)
    {function}(cases()[name], folder, {modes!r})
"""


@pytest.fixture(scope="module", autouse=True)
def _importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Verdicts of the cases whose packages are installed, by name."""
    from differential.cases import cases

    names = [name for name in CASES if cases()[name].environment.missing is None]
    folder = tmp_path_factory.mktemp("cases")
    path = os.pathsep.join([str(BENCHMARKS), str(REPOSITORY)])
    environ = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy"}
    for module, function in (("ours", "run"), ("theirs", "judge")):
        script = SIDE.format(module=module, function=function, names=names, modes=MODES)
        command = [sys.executable, "-c", script, str(folder)]
        ran = subprocess.run(command, env=environ, text=True, capture_output=True)
        assert ran.returncode == 0, ran.stderr
    return {name: json.loads((folder / f"{index}/verdicts.json").read_text()) for index, name in enumerate(names)}


@pytest.mark.extended
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_a_program_is_the_same_or_refused(verdicts, name):
    if name not in verdicts:
        pytest.skip(f"{name} needs a package that is not installed")
    assert verdicts[name].keys() == set(MODES)
    assert all(verdict in ("equal", "refused") for verdict, _ in verdicts[name].values()), verdicts[name]


# The table of cases.


def test_the_committed_table_has_all_cases_and_nothing_wrong():
    from differential.cases import cases

    told = json.loads((BENCHMARKS / "results" / "fidelity.json").read_text(encoding="utf-8"))["cases"]
    assert [each["name"] for each in told] == list(cases())
    assert {verdict for each in told for verdict, _ in each["verdicts"].values()} <= {*VERDICTS} - {"wrong"}


def test_each_wrapper_that_gymnasium_and_sb3_export_is_tried():
    from differential.wrappers import ALL, GYMNASIUM, NO_VEC_WRAPPERS, NO_WRAPPERS

    assert GYMNASIUM.keys() | NO_WRAPPERS.keys() == set(gym.wrappers.__all__)
    vectorized = {name for name, wrapped in ALL.items() if wrapped.vec}
    assert vectorized | NO_VEC_WRAPPERS.keys() == set(vec_env.__all__)
    of_atari = {name: kind for name, kind in vars(atari_wrappers).items() if inspect.isclass(kind)}
    assert {name for name, kind in of_atari.items() if issubclass(kind, gym.Wrapper)} <= ALL.keys()


def test_the_cases_are_those_that_were_asked_for():
    from differential.cases import cases
    from differential.environments import ENVIRONMENTS
    from differential.wrappers import ALL, PAIRS, pairs

    made = cases()
    of_kind = {kind: [case for case in made.values() if case.kind == kind] for kind in ("wrapper", "pair")}
    assert len(of_kind["wrapper"]) == 2 * len(ALL)
    assert len(of_kind["pair"]) == PAIRS == len({*pairs()})
    packages = {each.package for each in ENVIRONMENTS.values()} - {None, "ale_py"}
    assert len(packages) >= 10
    assert sum(each.package == "ale_py" for each in ENVIRONMENTS.values()) == 10
    points = {spec.entry_point for spec in gym.registry.values() if str(spec.entry_point).startswith("gymnasium.")}
    assert {gym.spec(each.id).entry_point for each in ENVIRONMENTS.values() if each.package is None} == points


# What is compared.


def records(rewards, ends=()):
    """A tape whose observations count up."""
    first = {"seed": 7, "observation": np.zeros(2, np.float32), "info": {}, "shown": {}}
    made = [first]
    for t, reward in enumerate(rewards):
        observation = np.array([t + 1, reward], np.float32)
        step = {"action": np.int64(t % 2), "action_digest": str(t % 2), "observation": observation, "reward": reward}
        made.append({**step, "terminated": t in ends, "truncated": False, "info": {"a": "1"}, "shown": {"a": "1"}})
        if t in ends:
            made.append({**first, "seed": None})
    return made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("observation", np.array([2.0, 3.0], np.float64)),
        ("observation", np.array([2.0, -3.0], np.float32)),
        ("observation", [2.0, 3.0]),
        ("reward", np.float64(3.0)),
        ("reward", 3),
        ("terminated", 0),
        ("truncated", True),
        ("info", {"a": "2"}),
        ("info", {}),
        ("action_digest", "0"),
    ],
)
def test_a_difference_in_type_or_value_is_found(name, value):
    from differential.compare import differing, first_difference

    ours, theirs = ([records([5.0, 3.0, 1.0]), records([2.0])] for _ in range(2))
    assert first_difference(ours, theirs) is None
    theirs[0][2][name] = value
    found = "info['a']" if name == "info" else name
    assert f"slot 0, record 2, {found}: " in first_difference(ours, theirs)
    assert differing(ours, theirs) == {found}
    assert first_difference(ours, theirs, {found}) is None


def test_negative_zero_and_nan_are_compared_by_their_bytes():
    from differential.tape import digest

    assert digest(np.array([0.0])) != digest(np.array([-0.0]))
    assert digest({"a": np.array([np.nan])}) == digest({"a": np.array([np.nan])})
    assert digest({"a": (1, None)}) != digest({"a": [1, None]})


def memory(rewards, order=None):
    """Arrays of a buffer whose episodes end where a reward is 9, in another order of rows."""
    rewards = np.array(rewards, np.float32)
    observations, dones = np.cumsum(rewards)[:, None], (rewards == 9).astype(np.float32)
    rows = np.arange(len(rewards)) if order is None else np.array(order)
    both = {"a": observations[rows], "b": -observations[rows]}
    ends = {"rewards": rewards[rows], "dones": dones[rows], "timeouts": np.zeros_like(dones[rows])}
    return {"observations": both, "next_observations": {"a": observations[rows] + 1}, **ends}


def test_rows_of_a_memory_are_found_in_any_order_of_blocks(monkeypatch):
    from differential import compare

    def any_action(row, slot, step):
        return True

    monkeypatch.setattr(compare, "BLOCK", 2)
    slots = [memory([1, 9, 3, 4]), memory([6, 7, 8, 9])]

    def held():
        mine = [memory([1, 9, 3, 4]), memory([6, 7, 8, 9])]
        whole = {name: np.concatenate([each[name] for each in mine]) for name in ("rewards", "dones", "timeouts")}
        for name in ("observations", "next_observations"):
            whole[name] = {key: np.concatenate([each[name][key] for each in mine]) for key in mine[0][name]}
        order = [4, 5, 0, 1, 6, 7, 2, 3]
        return {
            name: {key: values[order] for key, values in part.items()} if isinstance(part, dict) else part[order]
            for name, part in whole.items()
        }

    assert compare.stored_difference(held(), slots, any_action) == [[2, 3, 6, 7], [0, 1, 4, 5]]
    (wrong := held())["next_observations"]["a"][6] += 1
    assert "rows 6 to 7 are the next block of no slot" in compare.stored_difference(wrong, slots, any_action)
    wrong = held()
    wrong["rewards"] = wrong["rewards"].astype(float)
    assert "float64" in compare.stored_difference(wrong, slots, any_action)
    (cut := held())["dones"][7] = 1  # where learn() returned
    assert isinstance(compare.stored_difference(cut, slots, any_action), list)
    (wrong := held())["dones"][3] = 0
    assert "slot 0: dones" in compare.stored_difference(wrong, slots, any_action)


def test_slots_that_saw_the_same_are_told_apart_by_their_actions():
    from differential.compare import BLOCK, stored_difference

    slots = [memory([0] * BLOCK), memory([0] * BLOCK)]
    held = {name: np.concatenate([each[name] for each in slots]) for name in ("rewards", "dones", "timeouts")}
    for name in ("observations", "next_observations"):
        held[name] = {key: np.concatenate([each[name][key] for each in slots]) for key in slots[0][name]}
    first, second = list(range(BLOCK)), list(range(BLOCK, 2 * BLOCK))
    assert stored_difference(held, slots, lambda row, slot, step: (row < BLOCK) == (slot == 1)) == [second, first]
    assert stored_difference(held, slots, lambda row, slot, step: (row < BLOCK) == (slot == 0)) == [first, second]


def test_without_a_seed_what_is_equal_and_not_with_sb3_is_found():
    from differential.compare import unseeded_difference

    sb3 = [[["a"], ["b"]], [["c"], ["d"]], [["e"], ["f"]]]
    assert unseeded_difference(sb3, sb3) is None
    equal_slots = [[[name, "x", "y"], [name, "x"]] for name in "abc"]  # one slot made fewer steps
    assert "the slots saw the same" in unseeded_difference(equal_slots, sb3)
    assert unseeded_difference(equal_slots, equal_slots) is None
    assert "two learn()s of a model" in unseeded_difference([sb3[0], sb3[0], sb3[2]], sb3)
    assert "two models" in unseeded_difference([sb3[0], sb3[1], sb3[0]], sb3)


@pytest.mark.parametrize(
    ("found", "verdict", "n_runs"),
    [(["same", "equal"], "equal", 2), (["same", "same", "wrong"], "wrong", 3), (["same"] * 9, "wrong", 4)],
)
def test_what_is_equal_without_a_seed_is_wrong_only_if_it_is_so_each_time(found, verdict, n_runs, monkeypatch):
    import fidelity
    from differential.cases import cases

    folders = []

    def run(case, folder, modes, patience):
        folders.append(folder)
        return {mode: (found[len(folders) - 1], "two learn()s of a model saw the same") for mode in modes}

    monkeypatch.setattr(fidelity, "_run_and_compare", run)
    assert fidelity.tried(cases()["CartPole-v1"], ["sync-unseeded"])["sync-unseeded"][0] == verdict
    assert len(set(folders)) == n_runs  # each run has a folder of its own


def test_two_samples_differ_only_if_their_distributions_do():
    from differential.compare import p_value

    def tapes(mean, seed):
        rewards = np.random.default_rng(seed).normal(mean, 1.0, 400)
        return [records(rewards.tolist(), ends=range(1, 399, 2))]

    assert p_value(tapes(0.0, 0), tapes(0.0, 1))[0] > 1e-6
    p, what = p_value(tapes(0.0, 0), tapes(1.0, 1))
    assert p < 1e-6
    assert what == "return, 200 episodes"


# Wrong programs are found.


class Shifting(gym.Env):
    """Returns rewards that its class says, plus what no seed determines."""

    observation_space, action_space = spaces.Box(-9, 9, (1,)), spaces.Discrete(2)
    reward, noise, of_info = 1.0, 0.0, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action):
        number = np.random.default_rng().random()
        return self._observation(), self.reward + self.noise * number, False, False, {"a": self.of_info * number}

    def _observation(self):
        return self.np_random.uniform(-1, 1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("changed", "always", "first", "then"),
    [
        ({}, {}, "equal", "equal"),
        ({"reward": 2.0}, {}, "differs", "wrong"),
        ({}, {"noise": 1.0}, "differs", "random"),
        ({}, {"of_info": 1.0}, "differs", "equal"),
        ({"reward": 2.0}, {"of_info": 1.0}, "differs", "wrong"),
    ],
)
def test_what_sb3_repeats_must_be_equal(tmp_path, monkeypatch, changed, always, first, then):
    from differential import cases, ours, theirs
    from differential.environments import Environment

    monkeypatch.setitem(gym.registry, "Shifting-v0", gym.envs.registration.EnvSpec("Shifting-v0", Shifting))
    case = cases.Case("environment", "shifting", Environment("Shifting-v0"))
    monkeypatch.setattr(cases, "cases", lambda: {case.name: case})
    for name, value in always.items():
        monkeypatch.setattr(Shifting, name, value)
    ours.run(case, tmp_path, ["sync"])
    for name, value in changed.items():  # SB3's program gets another one
        monkeypatch.setattr(Shifting, name, value)
    assert theirs.judge(case, tmp_path, ["sync"])["sync"][0] == first
    if first == "differs":
        assert theirs.judge(case, tmp_path, ["sync"], other=True)["sync"][0] == then


@pytest.mark.parametrize(
    ("where", "kind", "message", "found"),
    [
        ("sb3_ca2e", "ValueError", "Observations start at 1.", "refused"),
        ("sb3_ca2e", "ActorError", "Slot 0:\nsb3_ca2e.errors.UnrecoverableError: No number.", "refused"),
        ("sb3_ca2e", "ActorError", "Slot 0:\nKeyError: 3", "wrong"),
        ("sb3_ca2e", "KeyError", "3", "wrong"),
        ("gymnasium", "ValueError", "3", "wrong"),
    ],
)
def test_a_refusal_is_a_sentence_of_ours(where, kind, message, found):
    from differential.theirs import judged

    error = {"where": where, "type": kind, "message": message}
    assert judged(error, None)[0] == found
    assert judged(error, {**error, "type": "AssertionError"})[0] == "refused"
    assert judged(error, {**error, "type": "DependencyNotInstalled"})[0] == "not installed"


@pytest.mark.parametrize(("patience", "what"), [(120.0, "ended with 1: "), (0.0, "had not ended after 0 s")])
def test_a_crash_and_a_hang_are_wrong_and_the_other_modes_go_on(patience, what):
    from differential.cases import Case
    from differential.environments import Environment
    from fidelity import tried

    verdicts = tried(Case("environment", "not in the table", Environment("CartPole-v1")), ["sync", "async"], patience)
    assert verdicts.keys() == {"sync", "async"}
    assert all(verdict == "wrong" and what in reason for verdict, reason in verdicts.values())
