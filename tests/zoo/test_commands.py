"""The RL Zoo's commands on CA2E's algorithms, beside the zoo's own algorithm."""

import csv
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e import CA2EDDPG, CA2EDQN
from tests.zoo.zoo_commands import zoo

pytestmark = pytest.mark.timeout(900)  # some of zoo_commands.HANGS
TIMESTEPS = 800
#: What seaborn draws the first two curves in.
FIRST_COLOURS = np.array([[76, 114, 176], [221, 132, 82]])


@dataclass(frozen=True)
class Case:
    """An algorithm of ours, the zoo's own to compare it with, and what both are trained on."""

    algo: str
    of_the_zoo: str
    model_class: type
    env_id: str
    params: tuple[str, ...]
    n_envs: int = 1

    @property
    def n_slots(self) -> int:
        return 8 if self.n_envs == 1 else self.n_envs


CARTPOLE = Case("ca2e_dqn", "dqn", CA2EDQN, "CartPole-v1", ("learning_starts:300", "train_freq:4", "gradient_steps:1"))
PENDULUM = Case(
    "ca2e_ddpg", "ddpg", CA2EDDPG, "Pendulum-v1", ("learning_starts:300", "normalize:True", "n_envs:2"), n_envs=2
)


@dataclass(frozen=True)
class Trained:
    """A folder in which both algorithms have been trained once."""

    case: Case
    folder: pathlib.Path
    #: what each run had left, before other tests played with it
    files: dict[str, set[pathlib.Path]] = field(default_factory=dict)

    def command(self, name: str, *options: str, algo: str | None = None, **environment: str) -> str:
        shared = ("--algo", algo or self.case.algo, "--env", self.case.env_id, "-f", "logs")
        return zoo(name, *shared, *options, cwd=self.folder, **environment)

    def run(self, algo: str, number: int = 1) -> pathlib.Path:
        return self.folder / "logs" / algo / f"{self.case.env_id}_{number}"

    @property
    def model(self) -> pathlib.Path:
        return self.run(self.case.algo) / f"{self.case.env_id}.zip"


@pytest.fixture(
    scope="module", params=[CARTPOLE, pytest.param(PENDULUM, marks=pytest.mark.extended)], ids=lambda case: case.algo
)
def trained(request, tmp_path_factory) -> Trained:
    trained = Trained(request.param, tmp_path_factory.mktemp(request.param.algo))
    often = ("--eval-freq", "400", "--save-freq", "400", "--eval-episodes", "2", "--save-replay-buffer")
    for algo in (trained.case.of_the_zoo, trained.case.algo):
        options = (*often, "-n", str(TIMESTEPS), "--seed", "1", "-params", *trained.case.params)
        trained.command("train", *options, algo=algo)
        run = trained.run(algo)
        trained.files[algo] = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
    return trained


def test_a_run_leaves_what_the_zoos_own_leaves(trained):
    case = trained.case
    own, of_the_zoo = (trained.run(algo) for algo in (case.algo, case.of_the_zoo))
    files = trained.files[case.algo]
    actors = {pathlib.Path(f"actor_{slot}.monitor.csv") for slot in range(case.n_slots)}
    assert files - actors == trained.files[case.of_the_zoo]
    assert actors <= files

    settings = [yaml.unsafe_load((run / case.env_id / "args.yml").read_text()) for run in (own, of_the_zoo)]
    assert {name for name in settings[0] if settings[0][name] != settings[1][name]} == {"algo"}
    played = load_results(str(own))  # what the zoo plots from
    assert 0 < played["l"].sum() <= TIMESTEPS + case.n_slots * 2 * 50  # a slot may be two blocks ahead at the end


def test_evaluations_come_as_often_as_for_the_zoos_own(trained):
    own, of_the_zoo = (
        np.load(trained.run(algo) / "evaluations.npz") for algo in (trained.case.algo, trained.case.of_the_zoo)
    )
    np.testing.assert_array_equal(own["timesteps"], of_the_zoo["timesteps"])
    assert own["results"].shape == of_the_zoo["results"].shape == (2, 2)


def test_enjoy_plays_the_trained_model(trained):
    # 500 steps are the longest episode.
    printed = trained.command("enjoy", "--no-render", "-n", "520", "--exp-id", "1")
    returns = [float(found) for found in re.findall(r"Episode Reward: (\S+)", printed)]
    assert returns

    env = make_vec_env(trained.case.env_id, seed=0)
    if (statistics := trained.model.with_suffix("") / "vecnormalize.pkl").exists():
        env = VecNormalize.load(str(statistics), env)
        env.training = env.norm_reward = False
    model = trained.case.model_class.load(trained.model)
    expected, _ = evaluate_policy(model, env, n_eval_episodes=len(returns), return_episode_rewards=True, warn=False)
    # As printed: the zoo adds in single precision.
    assert returns == pytest.approx(expected, rel=1e-5, abs=0.006)


@pytest.mark.extended
def test_record_video(trained):
    trained.command("record_video", "-n", "20", "--exp-id", "1")
    (video,) = (trained.run(trained.case.algo) / "videos").glob("*.mp4")
    assert f"{trained.case.algo}-{trained.case.env_id}" in video.name
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == pytest.approx(20, abs=1)


@pytest.mark.extended
def test_a_run_is_continued_with_its_memory_a_prior_agent_and_a_progress_bar(trained):
    case = trained.case
    options = ("-i", str(trained.model), "-n", "300", "--eval-freq", "-1", "--save-replay-buffer", "-P")
    before = set((trained.folder / "logs" / case.algo).glob(f"{case.env_id}_*"))
    prior = f"prior_agents:['zoo:{case.of_the_zoo}/{case.env_id}']"
    trained.command("train", *options, "-params", *case.params, prior)
    (run,) = set((trained.folder / "logs" / case.algo).glob(f"{case.env_id}_*")) - before

    model = case.model_class.load(run / f"{case.env_id}.zip")
    assert model.num_timesteps == 300
    assert model.prior_agents == [f"zoo:{case.of_the_zoo}/{case.env_id}"]
    assert [stats["kind"] for stats in model.actor_stats].count("prior") == 1
    assert list(run.glob("actor_*_prior.monitor.csv"))
    model.load_replay_buffer(run / "replay_buffer.pkl")
    assert model.replay_buffer.size() == TIMESTEPS + 300


@pytest.mark.parametrize("trained", [CARTPOLE], indirect=True, ids=["ca2e_dqn"])
@pytest.mark.extended
def test_plot_train_draws_the_returns_of_the_actors(trained):
    options = ("-a", trained.case.algo, "-e", trained.case.env_id, "-f", "logs", "-w", "2")
    zoo("plot_train", *options, cwd=trained.folder, MPLBACKEND="module://tests.zoo.saving_backend")
    image = np.asarray(Image.open(trained.folder / "figure_1.png").convert("RGB")).reshape(-1, 3)
    assert (np.abs(image.astype(int) - FIRST_COLOURS[0]).max(axis=1) < 10).sum() > 50


@pytest.mark.parametrize("trained", [CARTPOLE], indirect=True, ids=["ca2e_dqn"])
@pytest.mark.extended
def test_all_plots_and_plot_from_file(trained, tmp_path):
    algorithms = (trained.case.algo, trained.case.of_the_zoo)
    for number in (1, 2):  # plot_from_file wants more than one run
        for algo in algorithms:
            shutil.copytree(trained.run(algo), tmp_path / "logs" / algo / f"{trained.case.env_id}_{number}")
    options = ("-a", *algorithms, "-e", trained.case.env_id, "-f", "logs", "--no-display", "-o", "compared")
    printed = zoo("all_plots", *options, cwd=tmp_path)
    last = [np.load(trained.run(algo) / "evaluations.npz")["results"][-1].mean() for algo in algorithms]
    assert re.search(rf"CartPole-v1 *\| *{last[0]:.0f} \+/- 0 *\| *{last[1]:.0f} \+/- 0 *\|", printed)
    zoo("plot_from_file", "-i", "compared.pkl", cwd=tmp_path, MPLBACKEND="module://tests.zoo.saving_backend")
    curves = np.asarray(Image.open(tmp_path / "figure_1.png").convert("RGB")).reshape(-1, 3)
    assert all((np.abs(curves.astype(int) - colour).max(axis=1) < 10).sum() > 50 for colour in FIRST_COLOURS)


@pytest.mark.extended
def test_optimize(trained):
    options = ("-optimize", "--n-trials", "2", "-n", "300", "--n-evaluations", "1", "--eval-episodes", "1")
    trained.command("train", *options, "--no-optim-plots", "-params", *trained.case.params)
    folder = trained.run(trained.case.algo).parent
    (report,) = folder.glob(f"report_{trained.case.env_id}_2-trials-300-*.csv")
    assert report.with_suffix(".pkl").exists()
    with report.open() as file:
        trials = list(csv.DictReader(file))
    assert [trial["state"] for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert {"params_n_steps", "params_alpha", "params_learning_rate"} <= trials[0].keys()


@pytest.mark.extended
def test_an_interrupted_run_is_saved(tmp_path):
    arguments = ("train", "--algo", "ca2e_dqn", "--env", "CartPole-v1", "-n", "1000000", "--eval-freq", "-1")
    arguments += ("-params", "compile:False")
    command = [sys.executable, "-u", "-m", "sb3_ca2e.zoo", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert any("total_timesteps" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the actors get it too
        printed = process.stdout.read()
    assert process.returncode == 0
    assert printed.endswith("Saving to logs/ca2e_dqn/CartPole-v1_1\n")
    model = CA2EDQN.load(tmp_path / "logs" / "ca2e_dqn" / "CartPole-v1_1" / "CartPole-v1.zip")
    assert 0 < model.num_timesteps < 1_000_000
