"""
SB3's own tests of ``DQN`` and ``DDPG``, with ``CA2EDQN`` and ``CA2EDDPG`` in their place.

The tests come from the source distribution of the installed version, which pip downloads. A test that fails must be
listed in :data:`DIFFERENCES` with its reason, and one that is listed must fail; otherwise the exit status is 1.

Usage::

    python benchmarks/sb3_tests.py                      # both executions: some ten minutes
    python benchmarks/sb3_tests.py --execution sync     # one of them
    python benchmarks/sb3_tests.py -k save_load         # some tests, nothing is written
"""

import argparse
import fnmatch
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from typing import Any

from provenance import RESULTS, describe, provenance, write_results

#: Tests that fail on purpose: pattern of their names, and why.
DIFFERENCES = {
    "test_callbacks.py::test_callbacks*": "callbacks find no `new_obs` in `self.locals`",
    "test_callbacks.py::test_eval_success_logging": "`HerReplayBuffer` is refused",
    "test_her.py::*": "`HerReplayBuffer` is refused",
    **dict.fromkeys(
        (f"test_spaces.py::test_action_spaces?{each}?" for each in ("CartPole-v1-DDPG", "env2-DQN", "Pendulum-v1-DQN")),
        "an unsupported action space raises `ValueError`, not `AssertionError`",
    ),
    "test_n_step_replay.py::test_run*": "the buffer of `n_steps > 1` is no `NStepReplayBuffer`",
    "test_save_load.py::test_save_load_replay_buffer*": "a buffer does not take a device that the machine lacks",
}

#: With actor processes, tests that may fail, depending on how fast they are.
MAY_FAIL = {
    "test_logger.py::test_fps_logger?DQN?": "actors start in `learn()`, so that a run of 100 transitions is slow",
    "test_dict_env.py::test_consistency*": "a seed does not make a run repeatable bit for bit",
}


def tests_of_sb3(folder: pathlib.Path) -> pathlib.Path:
    """
    Download the tests of the installed version of SB3.

    :param folder: where to
    :return: folder of the tests
    """
    version = importlib.metadata.version("stable_baselines3")
    wanted = f"stable-baselines3=={version}"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (tests,) = folder.glob("*/tests")
    # Where the tests are, pytest must find the installed package and not the one beside them.
    return tests.rename(folder / "tests")


def run(tests: pathlib.Path, execution: str, keyword: str | None) -> list[dict[str, Any]]:
    """
    Run the tests.

    :param tests: folder of the tests
    :param execution: ``execution`` of our models
    :param keyword: ``-k`` of pytest, or None
    :return: for each test its name, outcome and, if it failed, the last line of the error
    """
    report = tests.parent / f"{execution}.json"
    here = pathlib.Path(__file__).resolve().parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]),
        "SB3_TESTS_EXECUTION": execution,
        "SB3_TESTS_REPORT": str(report),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "sb3_tests_plugin", "-p", "no:cacheprovider", "--tb=line"]
    command += [
        "--rootdir",
        str(tests),
        *(["-k", keyword] if keyword else []),
        *map(str, sorted(tests.glob("test_*.py"))),
    ]
    subprocess.run(command, cwd=tests.parent, env=environment, check=False)
    results: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))
    return results


def reason_of(name: str, known: dict[str, str]) -> str | None:
    """
    :param name: name of a test
    :param known: reasons by pattern
    :return: why it fails with our classes, or None
    """
    return next((reason for pattern, reason in known.items() if fnmatch.fnmatchcase(name, pattern)), None)


def table(results: dict[str, list[dict[str, Any]]], measured_on: dict[str, Any]) -> str:
    """
    :param results: results of the tests by execution
    :param measured_on: where they ran
    :return: the results as Markdown
    """
    lines = ["# SB3's own tests of DQN and DDPG, with our classes", "", describe(measured_on), ""]
    lines += ["| execution | tests | passed | skipped | documented differences | failed |", "|---|---|---|---|---|---|"]
    for execution, tests in results.items():
        count = Counter(test["verdict"] for test in tests)
        lines.append(
            f'| `"{execution}"` | {len(tests)} | {count["passed"]} | {count["skipped"]} | {count["difference"]} | '
            f"{count['failed']} |"
        )
    lines += ["", "| documented difference | tests |", "|---|---|"]
    reasons = Counter(test["reason"] for tests in results.values() for test in tests if test["verdict"] == "difference")
    lines += [f"| {reason} | {n} |" for reason, n in sorted(reasons.items())]
    return "\n".join(lines)


def main() -> int:
    """
    :return: exit status
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--execution", choices=("sync", "async"), action="append")
    parser.add_argument("-k", dest="keyword", help="which tests, as pytest takes it")
    parser.add_argument("--folder", type=pathlib.Path, default=RESULTS, help="where results are written")
    arguments = parser.parse_args()
    executions = arguments.execution or ["sync", "async"]
    with tempfile.TemporaryDirectory() as folder:
        tests = tests_of_sb3(pathlib.Path(folder))
        results = {execution: run(tests, execution, arguments.keyword) for execution in executions}
    unexpected = []
    for execution, outcomes in results.items():
        for test in outcomes:
            always, outcome = reason_of(test["name"], DIFFERENCES), test.pop("outcome")
            test["reason"] = always or (reason_of(test["name"], MAY_FAIL) if execution == "async" else None)
            test["verdict"] = "difference" if outcome == "failed" and test["reason"] else outcome
            if test["verdict"] == "failed" or (outcome == "passed" and always):
                unexpected.append(f"{execution}: {test['name']} {outcome}; {test.get('error', 'listed as different')}")
    measured_on = provenance()
    text = table(results, measured_on)
    if arguments.keyword or arguments.execution:
        print(text)
    else:
        write_results(arguments.folder, "sb3_tests", {"measured_on": measured_on, "results": results}, text)
    print("\n".join(unexpected))
    return bool(unexpected)


if __name__ == "__main__":
    sys.exit(main())
