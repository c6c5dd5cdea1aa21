"""The demo, run as a user runs it."""

import io
import itertools
import json
import os
import pathlib
import pty
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from rich.console import Console

from sb3_ca2e import CA2EDQN
from sb3_ca2e.demo import actors_table, bundled_agents, parse_arguments
from sb3_ca2e.plots import EVALUATION_COLOUR, PRIOR_COLOURS
from sb3_ca2e.priors.find import AgentFiles, find_agent
from tests.user_script import of_ours

COMMAND = [sys.executable, "-m", "sb3_ca2e.demo", "--env", "CartPole-v1", "--seed", "1", "--n-processes", "1"]
EVALUATION = r"^ *([\d,]+)  evaluation +(\S+) ± +(\S+?)(  best so far, kept)?\r?$"


def played(model, seed, n_episodes):
    """The returns of greedy episodes, one fresh environment each, in one batch: another would be rounded otherwise."""
    envs = [gym.make("CartPole-v1") for _ in range(n_episodes)]
    observations = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    returns, over = np.zeros(n_episodes), np.zeros(n_episodes, dtype=bool)
    while not over.all():
        actions, _ = model.predict(observations, deterministic=True)
        for i in np.flatnonzero(~over):
            observations[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += reward
            over[i] = terminated or truncated
    return returns.tolist()


def pixels_of(path, colour):
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.round(np.array(to_rgb(colour)) * 255)
    return int((np.abs(image - wanted).max(axis=2) <= 3).sum())


@pytest.mark.extended
def test_a_run_leaves_what_it_says(tmp_path):
    out = tmp_path / "run"
    command = [*COMMAND, "--timesteps", "3000", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, of_ours(done.stderr)) == (0, "")
    assert "\x1b" not in done.stdout, "no escape sequences where there is no terminal"
    assert "\r" not in done.stdout

    # Evaluations, and which of them were the best so far
    printed = re.findall(EVALUATION, done.stdout, re.M)
    with np.load(out / "evaluations.npz") as evaluations:
        means = evaluations["results"].mean(axis=1)
        assert [int(timestep.replace(",", "")) for timestep, *_ in printed] == evaluations["timesteps"].tolist()
    assert [float(mean) for _, mean, *_ in printed] == pytest.approx(means, abs=0.051)
    assert [bool(kept) for *_, kept in printed] == [mean == means[: i + 1].max() for i, mean in enumerate(means)]

    # What the actors did
    table = done.stdout.rpartition("Actors after")[2].split("\n\n")
    kinds = re.findall(r"^ +(\d) +(nature|prior dqn|prior ppo) ", "\n".join(table), re.M)
    assert [int(slot) for slot, _ in kinds] == list(range(8))
    assert [kind for _, kind in kinds][6:] == ["prior dqn", "prior ppo"]
    assert "100%" in done.stdout

    # The best checkpoint is the one evaluated, on seeds of its own
    results = json.loads((out / "results.json").read_text())
    best = results["best_checkpoint"]
    assert f"{best['mean']:.1f} ± {best['std']:.1f}" in done.stdout
    assert sorted(best["returns"]) == sorted(played(CA2EDQN.load(out / "best_model.zip"), best["seed"], 20))
    assert np.mean(best["returns"]) == pytest.approx(best["mean"])
    assert results["random_policy"]["mean"] < 40
    assert sum(row["transitions"] for row in results["actors"]) == results["timesteps"] >= 3000

    # The files named are the files there
    named = {pathlib.Path(line.split("  ")[0]) for line in done.stdout.splitlines() if line.startswith(str(out))}
    assert named | {out / "evaluations.npz"} == set(out.iterdir())
    for name in ("learning_curve.png", "actors.png"):
        Image.open(out / name).verify()
    assert pixels_of(out / "learning_curve.png", EVALUATION_COLOUR) > 300
    for colour in PRIOR_COLOURS[:2]:
        assert pixels_of(out / "learning_curve.png", colour) > 300

    # The command that it proposes is one
    proposed = done.stdout.rstrip().splitlines()[-1].split()
    assert parse_arguments(proposed[3:]).no_priors
    assert (parse_arguments(proposed[3:]).seed, parse_arguments(proposed[3:]).timesteps) == (1, 3000)


@pytest.mark.extended
def test_in_a_terminal_ctrl_c_ends_the_training_and_shows_what_was_learned(tmp_path):
    command = [*COMMAND, "--timesteps", "20000", "--out", str(tmp_path / "run")]
    # Not pty.fork(), since this process may have threads: a small program makes its input its terminal and goes on as
    # the demo
    take_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    terminal, its_end = pty.openpty()
    demo = subprocess.Popen(
        [sys.executable, "-c", take_terminal, *command],
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(its_end)
    shown, pressed = b"", False
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
            if not pressed and b"best so far" in shown:
                os.write(terminal, b"\x03")
                pressed = True
    except OSError:  # Linux: the other end is closed
        pass
    os.close(terminal)
    text = shown.decode()
    assert demo.wait() == 0, text
    assert "Interrupted after" in text
    assert "Traceback" not in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") > 0, "the cursor is shown again"
    assert "\x1b[1A" in text, "the table is drawn over the last one"
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["interrupted"]
    assert results["timesteps"] < 20_000
    Image.open(tmp_path / "run" / "learning_curve.png").verify()
    CA2EDQN.load(tmp_path / "run" / "best_model.zip")


def test_the_table_fits_a_narrow_terminal():
    row = {"epsilon": 0.25, "ep_rew_mean": -1234.5, "episodes": 1234, "fps": 1234.5, "retired_at": None}
    stats = [{**row, "slot": slot, "kind": "nature", "baseline": None} for slot in range(5)]
    stats += [{**row, "slot": slot, "kind": "prior", "baseline": -1234.5} for slot in (5, 6)]
    stats += [{**row, "slot": 7, "kind": "nature", "baseline": -1234.5, "retired_at": 100_000}]
    file = io.StringIO()
    Console(file=file, width=80).print(actors_table(stats, {5: "a2c", 6: "dqn", 7: "ppo"}, "Actors"))
    assert "…" not in file.getvalue()
    last = file.getvalue().rstrip().splitlines()[-1]
    assert last.split() == ["7", "nature,", "was", "ppo", "0.25", "-1234.5", "1,234", "1,234", "-1234.5", "100,000"]


@pytest.mark.parametrize(
    ("env_id", "algorithms"), [("LunarLander-v3", ["a2c", "dqn", "ppo"]), ("CartPole-v1", ["dqn", "ppo"])]
)
def test_the_priors_are_those_that_come_with_the_package(env_id, algorithms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SB3_CA2E_AGENTS", raising=False)
    agents = bundled_agents(env_id)
    assert [AgentFiles.algorithm_of(agent) for agent in agents] == algorithms
    assert [find_agent(agent, env_id) for agent in agents] == [find_agent(f"zoo:{a}", env_id) for a in algorithms]


def test_an_unknown_environment_is_answered_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--env", "Pong"])
    assert "CartPole-v1, MountainCar-v0, LunarLander-v3" in capsys.readouterr().err


def test_each_run_has_its_own_seed_and_folder():
    seeds = [parse_arguments([]).seed for _ in range(3)]
    assert all(a != b for a, b in itertools.combinations(seeds, 2))
    assert parse_arguments([]).out.match("runs/demo-*")
