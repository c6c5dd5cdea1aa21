"""The benchmarks run, however shortly, and what they conclude from figures is right."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"

SCRIPT = """
import itertools
import sys

sys.path.insert(0, {folder!r})
from rows import Row, argument_parser, run


def side(*figures, **note):
    numbers = itertools.cycle(figures)
    return lambda row, n: lambda: (next(numbers) * n, note) if note else next(numbers) * n


ROWS = {{
    "faster": Row("speed", "steps/s", {{"ours": side(5, 70, 6), "peer": side(2)}}, {{"peer": 3.0, "": 25.0}}, n=8),
    "slower": Row(
        "time",
        "s",
        {{"ours": side(4, bottleneck="learner-bound", busy=70.0), "peer": side(1), "other": side(8)}},
        {{"peer": 1.0, "other": 1.0, "busy": 80.0, "told nowhere": 1.0}},
        n=8,
        at_most=True,
    ),
}}
run(__file__, ROWS, argument_parser(None, ROWS).parse_args())
"""


def run_script(script: pathlib.Path, *arguments: str, **kwargs) -> subprocess.CompletedProcess:
    """Run a benchmark as its user does, with one thread."""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environ, text=True, capture_output=True, **kwargs)


def results(folder: pathlib.Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())["rows"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What sides of known figures led to."""
    tmp_path = tmp_path_factory.mktemp("made_up")
    script = tmp_path / "made_up.py"
    script.write_text(SCRIPT.format(folder=str(BENCHMARKS)))
    ran = run_script(script, "--shorten", "2", "--repeats", "3", "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    return tmp_path


def test_a_ratio_is_that_of_medians_and_a_goal_is_reached_or_missed(measured):
    rows = results(measured, "made_up")
    faster, slower = rows["faster"], rows["slower"]
    assert faster["figures"] == {"ours": [20, 280, 24], "peer": [8, 8, 8]}
    assert faster["ratios"] == {"peer": 3.0, "": 24}
    assert faster["reached"] == {"peer": True, "": False}
    assert slower["ratios"] == {"peer": 4.0, "other": 0.5, "busy": 70.0}
    assert slower["reached"] == {"peer": False, "other": True, "busy": True}


def test_a_table_tells_what_was_missed_and_where_the_time_goes(measured):
    lines = (measured / "made_up.md").read_text().splitlines()
    assert "| speed | ours | 24.00 (20.00 to 280.00) steps/s |  | >= 25 MISSED |" in lines
    assert "|  | peer | 8.00 (8.00 to 8.00) steps/s | 3.00 | >= 3 |" in lines
    assert "|  | told nowhere | not measured |  |  |" in lines
    assert [line for line in lines if "-bound" in line] == ["slower: learner-bound"]


def test_the_summary_has_a_line_for_each_goal(measured, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from run import summary

    assert summary("made_up", results(measured, "made_up")) == [
        "| made_up: faster | 24 steps/s | peer: 8 | 3.00 | >= 3 | reached |",
        "| made_up: faster | 24 steps/s |  |  | >= 25 | **MISSED** |",
        "| made_up: slower | 16 s | peer: 4 | 4.00 | <= 1 | **MISSED** |",
        "| made_up: slower | 16 s | other: 32 | 0.50 | <= 1 | reached |",
        "| made_up: slower | 70 | busy |  | <= 80 | reached |",
        "| made_up: slower | not measured | told nowhere |  | <= 1 |  |",
    ]


def test_the_summary_takes_what_all_scripts_have_written(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from run import ON_CPU, summary

    for script in ON_CPU:
        rows = results(BENCHMARKS / "results", script.name)
        told = [line.split(" | ") for line in summary(script.name, rows)]
        asked = [(f"| {script.name}: {name}", goal) for name, row in rows.items() for goal in row["goals"].values()]
        assert [(line[0], line[4] == "none") for line in told] == [(name, goal is None) for name, goal in asked]


@pytest.mark.parametrize(
    ("script", "arguments", "rows"),
    [
        ("replay", ["--row", "pong", "--held", "4000"], {"pong"}),
        ("acting", ["--row", "start"], {"start"}),
        ("gpu", ["--row", "update-32", "--held", "400", "--device", "cpu"], {"update-32"}),
    ],
)
@pytest.mark.extended
def test_a_benchmark_runs(tmp_path, script, arguments, rows):
    ran = run_script(
        BENCHMARKS / f"{script}.py", *arguments, "--shorten", "4000", "--repeats", "1", "--out", str(tmp_path)
    )
    assert ran.returncode == 0, ran.stderr
    found = results(tmp_path, script)
    assert found.keys() == rows
    for row in found.values():
        assert all(figure > 0 for figures in row["figures"].values() for figure in figures)


@pytest.mark.parametrize(
    ("script", "row", "side", "arguments"),
    [
        ("end_to_end", "ddpg-hopper", "SB3 x1", ["--shorten", "50"]),
        pytest.param(
            *("gpu", "pong", "sb3_ca2e", ["--shorten", "2000", "--held", "5000", "--device", "cpu"]),
            marks=pytest.mark.extended,
        ),
        ("updates", "ddpg-400-300", "products", []),
    ],
)
def test_a_side_of_a_whole_run_measures(script, row, side, arguments):
    command = ["--row", row, "--side", side, *arguments]
    ran = run_script(BENCHMARKS / f"{script}.py", *command, input="\n")
    assert ran.returncode == 0, ran.stderr
    ready, answer = (json.loads(line[2:]) for line in ran.stdout.splitlines() if line.startswith("> "))
    assert ready == (np.__version__ if script == "updates" else None)
    rate, note = answer if isinstance(answer, list) else (answer, {"bottleneck": "-bound"})
    assert rate > 0
    assert "-bound" in note["bottleneck"]


def test_without_a_gpu_nothing_is_measured_and_nothing_fails(tmp_path):
    import torch as th

    if th.cuda.is_available():
        pytest.skip("there is a GPU")
    ran = run_script(BENCHMARKS / "run.py", "--gpu", "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert "not measured: no CUDA device" in ran.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.extended
def test_what_an_update_is_made_of_is_printed():
    ran = run_script(BENCHMARKS / "kernels.py", "--row", "update-dqn", "--held", "400", "--device", "cpu", "--top", "5")
    assert ran.returncode == 0, ran.stderr
    calls = [line.split("|")[2] for line in ran.stdout.splitlines() if line.startswith("|")][2:]
    assert len(calls) == 5
    assert all(float(each) > 0 for each in calls)


def test_the_readme_has_the_tables_of_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import readme
    from provenance import END_MARK

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for mark, table in ((readme.TASKS_MARK, readme.tasks()), (readme.SPEED_MARK, readme.speed())):
        assert f"{mark}\n{table}{END_MARK}" in text, "make figures"


def test_only_what_is_between_the_marks_is_written(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from provenance import END_MARK, write_between

    file = tmp_path / "words.md"
    file.write_text(f"above\n<!-- a -->\nold\n{END_MARK}\nbelow\n<!-- b -->\nkept\n{END_MARK}\n")
    write_between(file, "<!-- a -->", "new\n")
    assert file.read_text() == f"above\n<!-- a -->\nnew\n{END_MARK}\nbelow\n<!-- b -->\nkept\n{END_MARK}\n"
    with pytest.raises(ValueError, match="needs a line <!-- c -->"):
        write_between(file, "<!-- c -->", "new\n")
