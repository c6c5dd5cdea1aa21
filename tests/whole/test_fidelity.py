"""The differential test: its parts, and some of its cases."""

import subprocess
import sys

import pytest

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
    import json

    from differential.cases import cases

    names = [name for name in CASES if cases()[name].environment.missing is None]
    folder = tmp_path_factory.mktemp("cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{BENCHMARKS}:{REPOSITORY}")
        patch.setenv("OMP_NUM_THREADS", "1")
        for module, function in (("ours", "run"), ("theirs", "judge")):
            script = SIDE.format(module=module, function=function, names=names, modes=MODES)
            ran = subprocess.run([sys.executable, "-c", script, str(folder)], text=True, capture_output=True)
            assert ran.returncode == 0, ran.stderr
    return {name: json.loads((folder / f"{index}/verdicts.json").read_text()) for index, name in enumerate(names)}


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
def test_a_program_is_the_same_or_refused(verdicts, name):
    if name not in verdicts:
        pytest.skip(f"{name} needs a package that is not installed")
    assert verdicts[name].keys() == set(MODES)
    assert all(verdict in ("equal", "refused") for verdict, _ in verdicts[name].values()), verdicts[name]
