"""The examples run, however shortly."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def run(folder: pathlib.Path, *arguments: str, **kwargs) -> str:
    """What Python prints, started in a folder; a warning is an error."""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    # gymnasium's Box2D types warn on Python 3.11 and newer, and an error there ends the interpreter.
    command = [sys.executable, "-W", "error", "-W", "ignore:builtin type:DeprecationWarning", *arguments]
    ran = subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, **kwargs)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def on_one_core() -> None:
    """So that there is one actor process, whose slots are in step."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.extended
def test_prior_agents(tmp_path):
    arguments = ["--env", "CartPole-v1", "--priors", "zoo:ppo", "zoo:dqn", "--transitions", "800"]
    lines = run(tmp_path, str(EXAMPLES / "prior_agents.py"), *arguments, preexec_fn=on_one_core).splitlines()
    slots = [line for line in lines if line.startswith("slot ")]
    assert [line.split()[2] for line in slots] == ["nature"] * 6 + ["prior"] * 2
    assert all("100 transitions" in line for line in slots)
    assert lines[-1].startswith("learned: ")


@pytest.mark.extended
def test_continuous_actions(tmp_path):
    arguments = ["--transitions", "1100", "--n-actors", "3"]
    output = run(tmp_path, str(EXAMPLES / "continuous_actions.py"), *arguments)
    assert -200 * 16.3 < float(output.split()[1]) < 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.extended
def test_interrupted(tmp_path):
    arguments = ["--every", "200", "--folder", str(tmp_path / "run")]
    script = str(EXAMPLES / "interrupted.py")
    assert run(tmp_path, script, "--transitions", "450", *arguments) == "done after 452 transitions\n"
    assert {path.name for path in (tmp_path / "run").glob("*_steps")} == {"rl_model_200_steps", "rl_model_400_steps"}
    again = run(tmp_path, script, "--transitions", "800", *arguments)
    assert again == "goes on from 400 transitions\ndone after 800 transitions\n"


@pytest.mark.extended
def test_notebook(tmp_path):
    """Its cells, one after the other in one namespace, as a kernel runs them: none is needed for that."""
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    script = "\n\n".join(sources)
    assert script.count("TRANSITIONS = 30_000") == 1
    script = script.replace("TRANSITIONS = 30_000", "TRANSITIONS = 800")
    (tmp_path / "notebook.py").write_text(script + "\nprint(len(model.actor_stats), model.num_timesteps)\n")
    assert run(tmp_path, "notebook.py").splitlines()[-1] == "8 800"
    assert (tmp_path / "runs" / "first_steps" / "progress.csv").is_file()


@pytest.mark.parametrize("name", ["README.md", "docs/examples.md"])
def test_examples_are_told_of(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert all(path.name in text for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb"))
