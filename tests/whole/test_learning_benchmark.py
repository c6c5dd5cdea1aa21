"""The learning benchmark: its statistics beside brute force, its verdicts on curves of known ends, and its runner."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from stable_baselines3 import DQN

from sb3_ca2e import make_atari_env
from tests import REPOSITORY
from tests.chaos.victims import children
from tests.marked_processes import await_ends
from tests.user_script import of_ours

pytest.importorskip("rliable")
pytestmark = pytest.mark.timeout(1800)  # some processes, each of which may take 250 s
BENCHMARKS = REPOSITORY / "benchmarks"
RANDOM, BEST = 20.0, 520.0


@pytest.fixture(scope="module", autouse=True)
def _importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture
def folder(tmp_path):
    """Where curves are written by :func:`curve`; a score of 1 is a return of 520."""
    from learning.experiment import experiment

    made = {"half": 260.0, "half2": 270.0, "half3": 265.0}
    told = {
        env_id: {"random": RANDOM, "priors": {"zoo:ppo": BEST, "zoo:a2c": 400.0}, "made": made}
        for env_id in experiment().tasks
    }
    (tmp_path / "references.json").write_text(json.dumps(told))
    return tmp_path


def curve(folder, cell, scores, final, retired_at=(), jobs=2, updates=1000, seconds=100.0):
    """A run whose evaluations have given scores, two episodes around each."""
    rows = []
    for i, score in enumerate(scores):
        share = i / (len(scores) - 1)
        told = {"transitions": 100_000 * share, "seconds": seconds * share, "updates": int(updates * share)}
        returns = RANDOM + score * (BEST - RANDOM)
        rows += [{**told, "prior_share": 0.3, "final": 0, "episode": e, "return": returns + e * 10 - 5} for e in (0, 1)]
    rows.append({**rows[-1], "final": 1, "episode": 0, "return": RANDOM + final * (BEST - RANDOM)})
    file = folder / f"{cell}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(file, index=False)
    actors = [{"retired_at": at} for at in retired_at]
    file.with_suffix(".json").write_text(json.dumps({"actors": actors, "jobs": jobs, "priors": []}))


def every_resample(scores, of):
    """All equally likely bootstrap samples of ``(seeds,)`` scores of two tasks, drawn task by task."""
    draws = list(itertools.product(range(len(scores[0])), repeat=len(scores[0])))
    return [of(scores[0][list(a)], scores[1][list(b)]) for a in draws for b in draws]


def interquartile_mean(*scores):
    flat = np.sort(np.concatenate(scores))
    cut = len(flat) // 4
    return flat[cut : len(flat) - cut].mean()


TWO_TASKS = [np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.3, 1.4])]


def test_the_interval_is_that_of_all_resamples():
    from learning.scores import interval

    told = interval(TWO_TASKS)
    assert told.point == pytest.approx(interquartile_mean(*TWO_TASKS))
    low, high = np.percentile(every_resample(TWO_TASKS, interquartile_mean), [2.5, 97.5])
    assert told.low == pytest.approx(low, abs=0.04)
    assert told.high == pytest.approx(high, abs=0.04)


def test_figures_are_the_same_each_time_and_leave_random_numbers_alone():
    from learning.scores import interval

    np.random.seed(7)
    expected = np.random.rand(3)
    np.random.seed(7)
    assert interval(TWO_TASKS) == interval(TWO_TASKS)
    np.testing.assert_array_equal(np.random.rand(3), expected)


def test_improvement_is_the_share_of_pairs_that_are_won():
    from learning.scores import improvement

    ours, theirs = [np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.5, 2.0])], [np.array([2.0, 0.0, 5.0]), np.ones(3)]
    won = [
        np.mean([(x > y) + (x == y) / 2 for x, y in itertools.product(a, b)]) for a, b in zip(ours, theirs, strict=True)
    ]
    told = improvement(ours, theirs)
    assert told.point == pytest.approx(np.mean(won))
    assert 0 <= told.low < told.point < told.high <= 1
    # More seeds on one task than on the other: as many are compared as both have.
    assert improvement([ours[0], ours[1][:2]], theirs).point == pytest.approx(
        np.mean(
            [np.mean([(x > y) + (x == y) / 2 for x in a[:2] for y in b]) for a, b in zip(ours, theirs, strict=True)]
        )
    )


def test_the_band_of_a_mean_curve_is_that_of_all_resamples():
    from learning.scores import mean_curve

    scores = np.random.default_rng(0).normal(size=(4, 3))
    mean, low, high = mean_curve(scores)
    draws = np.array(list(itertools.product(range(4), repeat=4)))
    expected = np.percentile(scores[draws].mean(axis=1), [2.5, 97.5], axis=0)
    np.testing.assert_allclose(mean, scores.mean(axis=0))
    np.testing.assert_allclose([low, high], expected, atol=0.1)


def test_curves_are_read_as_they_were_written(folder):
    from learning.experiment import experiment
    from learning.scores import Results

    whole = experiment()
    task, arm = whole.tasks["Hopper-v5"], whole.arms["ca2e"]
    curve(folder, "Hopper-v5/ca2e/101", [0.0, 0.5, 1.0, 0.8, 1.0], final=1.1)
    curve(folder, "Hopper-v5/ca2e/103", [0.0, 0.1, 0.2, 0.3, 0.4], final=0.4)
    curves = Results(folder).curves(task, arm)
    assert curves.seeds == (101, 103)
    np.testing.assert_allclose(curves.scores, [[0.0, 0.5, 1.0, 0.8, 1.0], [0.0, 0.1, 0.2, 0.3, 0.4]], atol=1e-12)
    np.testing.assert_allclose(curves.final, [1.1, 0.4])
    np.testing.assert_allclose(curves.final_returns, [570.0, 220.0])
    np.testing.assert_allclose(curves.area, [0.25 * (0.25 + 0.75 + 0.9 + 0.9), 0.2])
    assert curves.reached(curves.transitions) == np.inf  # the median of a seed that has and one that has not
    curve(folder, "Hopper-v5/ca2e/102", [0.0, 0.0, 0.0, 0.95, 0.4], final=0.4, seconds=40.0)
    curves = Results(folder).curves(task, arm)
    assert curves.reached(curves.transitions) == 75_000
    assert curves.reached(curves.seconds) == 50.0
    assert Results(folder).curves(task, whole.arms["ppo"]) is None


def ran(folder, env_id, **arms):
    """All curves of a task, every seed the same but for a little."""
    from learning.experiment import experiment

    for name, (scores, final, *actors) in arms.items():
        for i, seed in enumerate(experiment().tasks[env_id].seeds):
            curve(folder, f"{env_id}/{name.replace('_', '-')}/{seed}", scores, final + i / 100, *actors)


FAST, SLOW, NEVER = [0.0, 0.95, 1.0, 1.0, 1.0], [0.0, 0.5, 0.95, 1.0, 1.0], [0.0, 0.1, 0.2, 0.2, 0.3]


def seen(folder, env_id):
    from learning.scores import Results
    from learning.verdicts import sooner_and_higher

    return sooner_and_higher(Results(folder).all_curves[env_id])[1]


@pytest.mark.parametrize(
    ("ours", "best", "verdict"),
    [
        ((FAST, 1.0), (SLOW, 1.0), True),
        ((FAST, 1.0), (SLOW, 1.1), False),  # ends lower
        ((SLOW, 1.0), (SLOW, 0.9), False),  # no sooner
        ((FAST, 1.0), (NEVER, 0.3), True),
        ((NEVER, 1.0), (NEVER, 0.3), False),  # never is not half of never
    ],
)
def test_sooner_and_higher(folder, ours, best, verdict):
    ran(folder, "Pendulum-v1", ca2e_priors=ours, off_policy=best, a2c=(NEVER, 0.2))
    assert seen(folder, "Pendulum-v1") is (None if verdict else False)  # PPO may still be better
    ran(folder, "Pendulum-v1", ppo=(NEVER, 0.2))
    assert seen(folder, "Pendulum-v1") is verdict


def test_verdicts_are_open_until_they_can_not_change():
    from learning.verdicts import in_tasks

    def verdict(*reached):
        return in_tasks("", {str(i): ("", each) for i, each in enumerate(reached)}, at_least=3).reached

    assert verdict(True, True, True, None) is True
    assert verdict(True, True, False, None) is None
    assert verdict(True, None, False, False) is False


def test_bad_priors_and_teachers(folder):
    from learning.scores import Results
    from learning.verdicts import bad_priors, beats_teachers

    ran(folder, "Pendulum-v1", ca2e=(SLOW, 1.0), ca2e_bad_priors=(SLOW, 0.91), ca2e_teachers=(SLOW, 0.6, (1, 2, 3)))
    ran(folder, "Hopper-v5", ca2e=(SLOW, 1.0), ca2e_bad_priors=(SLOW, 0.89), ca2e_teachers=(SLOW, 0.6, (1, None, 3)))
    ran(folder, "Reacher-v5", ca2e_teachers=(SLOW, 0.5, (1, 2, 3)))  # 270 to 280; the best teacher has 270
    results = Results(folder)
    found = results.all_curves
    assert bad_priors(found["Pendulum-v1"]) == ("final 0.92, without priors 1.01; 3 seeds", True)
    assert bad_priors(found["Hopper-v5"])[1] is False
    assert bad_priors(found["Reacher-v5"]) == ("not run", None)
    text, reached = beats_teachers("Pendulum-v1", found["Pendulum-v1"], results)
    assert text.startswith("9 of 9 retired, final return − best prior 55.00 [")
    assert reached is True
    assert beats_teachers("Hopper-v5", found["Hopper-v5"], results)[1] is False
    assert beats_teachers("Reacher-v5", found["Reacher-v5"], results)[1] is False


def test_nothing_is_settled_before_all_seeds_have_run(folder):
    from learning.scores import Results
    from learning.verdicts import bad_priors, settled

    def seen():
        arms = Results(folder).all_curves["Pendulum-v1"]
        return settled(bad_priors(arms), "Pendulum-v1", arms, "ca2e", "ca2e-bad-priors")

    ran(folder, "Pendulum-v1", ca2e=(SLOW, 1.0))
    for seed in (101, 102):
        curve(folder, f"Pendulum-v1/ca2e-bad-priors/{seed}", SLOW, 1.0)
    text, reached = seen()
    assert text.endswith("so far yes")
    assert reached is None
    curve(folder, "Pendulum-v1/ca2e-bad-priors/103", SLOW, 1.0)
    assert seen()[1] is True


def test_time_counts_for_the_same_work_alone_on_the_machine(folder):
    from learning.scores import Results
    from learning.verdicts import half_the_time

    def told(jobs=1, updates=1000, seconds=50.0):
        curve(folder, "Hopper-v5/off-policy/101", SLOW, 1.0, jobs=jobs)
        curve(folder, "Hopper-v5/ca2e-zoo-settings/101", SLOW, 1.0, jobs=jobs, updates=updates, seconds=seconds)
        return half_the_time(Results(folder).all_curves["Hopper-v5"], budget)

    budget = 100_000
    assert told() == ("50 s, SB3 100 s", True)
    assert told(seconds=51.0) == ("51 s, SB3 100 s", False)
    assert told(jobs=2)[1] is None
    assert told(updates=900)[1] is None
    budget = 200_000
    assert told() == ("50 s, SB3 100 s, 100,000 transitions", True)


def against_the_clock(folder, arm, returns, device="cuda"):
    """A run of ten minutes on Pong, two games around each of the returns."""
    seconds = np.linspace(0.0, 600.0, len(returns))
    told = {"transitions": 1000, "updates": 100, "prior_share": 0.0, "final": 0}
    rows = [
        {**told, "seconds": s, "episode": i, "return": r + i - 0.5}
        for s, r in zip(seconds, returns, strict=True)
        for i in (0, 1)
    ]
    file = folder / "PongNoFrameskip-v4" / device / arm / "101.csv"
    file.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(file, index=False)
    file.with_suffix(".json").write_text(json.dumps({"measured_on": {"device": "a device"}}))


@pytest.mark.parametrize(
    ("bare", "priors", "told", "reached"),
    [
        ([-21, 0, 19, 20, 20, 20], [-21, 19, 20, 20, 20, 20], "ca2e: 4.0 minutes; ca2e-priors: 2.0 minutes", True),
        ([-21, 0, 19, 20, 20, 20], [-21, 0, 18, 20, 20, 20], "ca2e: 4.0 minutes; ca2e-priors: 6.0 minutes", False),
        ([-21, 0, 18, 18, 18, 18], [-21, 19, 20, 20, 20, 20], "ca2e: never; ca2e-priors: 2.0 minutes", False),
    ],
)
def test_pong_is_timed_on_a_gpu(tmp_path, bare, priors, told, reached):
    from learning.clock import PONG, in_time, runs, table

    against_the_clock(tmp_path, "ca2e", bare, device="cpu")
    assert in_time(tmp_path) == ("not run to its end", None)
    against_the_clock(tmp_path, "ca2e", bare)
    assert in_time(tmp_path) == ("not all arms were run", None)
    against_the_clock(tmp_path, "ca2e-priors", priors)
    assert in_time(tmp_path) == (told, reached)
    lines = list(table(runs(PONG, "cuda", tmp_path), 19.0))
    assert lines[2].startswith("| ca2e-priors | 10.0 | 1,000 | 100 | 20.0 | 20.0 |")
    assert lines[4].startswith("| off-policy | missing |")


def learn(*arguments, **kwargs):
    """``python benchmarks/learn.py ...`` under way."""
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "SB3_CA2E_AGENTS": "."}
    command = [sys.executable, str(BENCHMARKS / "learn.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)


@pytest.mark.extended
def test_tables_and_figures_tell_what_is_missing(folder):
    ran(folder, "Hopper-v5", ca2e_priors=(FAST, 1.0), off_policy=(SLOW, 0.9), uniform=(SLOW, 0.9))
    both = [learn(command, "--curves", folder, *more) for command, *more in [["report"], ["figures", "--out", folder]]]
    for each in both:
        output = each.communicate()[0]
        assert each.returncode == 0, output
    report = (folder / "report.md").read_text()
    assert "| off-policy | 3 of 3 | 0.91 [0.90, 0.92] | 475.0 | 0.74 | 50,000 | 50 | 1,000 | 100 |" in report
    assert "| a2c | missing | | | | | | | |" in report
    assert "| off-policy | 1 | 0.91 [0.90, 0.92] | 1.01 [1.00, 1.02] | 1.00 [1.00, 1.00] |" in report
    drawn = {f"learning_{family}_{against}.png" for family in ("dqn", "ddpg") for against in ("transitions", "seconds")}
    assert {file.name for file in folder.glob("*.png")} == drawn | {"learning_ablation.png"}


def test_the_readme_has_the_table_of_the_committed_curves():
    from learning.report import MARK, summary
    from learning.scores import Results
    from provenance import END_MARK

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"{MARK}\n{summary(Results())}{END_MARK}" in text


@pytest.fixture
def trial(tmp_path):
    """Arguments of a trial of two arms."""
    pytest.importorskip("rl_zoo3")
    arms = ["--arm", "ca2e-bad-priors", "--arm", "off-policy"]
    return ["run", "--task", "CartPole-v1", *arms, "--seed", "101", "--out", tmp_path]


@pytest.mark.extended
def test_a_run_leaves_curves_and_does_not_run_again(trial, tmp_path):
    arguments = [*trial, "--transitions", "1600"]
    process = learn(*arguments)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    curves = {file.parent.name: pd.read_csv(file) for file in tmp_path.glob("CartPole-v1/*/101.csv")}
    assert curves.keys() == {"ca2e-bad-priors", "off-policy"}
    for rows in curves.values():
        on_the_way, final = rows[rows.final == 0], rows[rows.final == 1]
        assert on_the_way.transitions.unique().tolist() == list(range(0, 1601, 80))
        assert (on_the_way.groupby("transitions").size() == 10).all()
        assert (len(final), final.transitions.iloc[0]) == (50, 1600)
        assert on_the_way.seconds.is_monotonic_increasing
    ours, theirs = curves["ca2e-bad-priors"], curves["off-policy"]
    assert ours.updates.max() == theirs.updates.max() > 0
    # Of eight slots, two or, once the learner has beaten the untrained prior, one
    assert 0.125 <= ours.prior_share.iloc[-1] <= 0.25
    assert (theirs.prior_share == 0).all()
    log = pd.read_csv(tmp_path / "CartPole-v1" / "ca2e-bad-priors" / "101" / "progress.csv")
    assert log["time/total_timesteps"].iloc[-1] == 1600
    told = json.loads((tmp_path / "CartPole-v1" / "ca2e-bad-priors" / "101.json").read_text())
    assert told["priors"] == ["untrained", "half"]
    *nature, untrained, half = told["actors"]
    assert {actor["kind"] for actor in nature} == {"nature"}
    assert untrained["kind"] == "prior" or untrained["retired_at"] is not None
    assert half["kind"] == "prior"

    again = learn(*arguments)
    assert "2 of 2 cells are done" in again.communicate()[0]
    assert again.returncode == 0


@pytest.mark.extended
def test_runs_against_the_clock_end_in_time_and_are_reported(folder):
    pytest.importorskip("ale_py")
    pytest.importorskip("rl_zoo3")
    games = {"PongNoFrameskip-v4": ("pong", -21, 21), "BreakoutNoFrameskip-v4": ("breakout", 0, 864)}
    arguments = ["games", "--arm", "ca2e", "--minutes", "0.02", "--games", "1", "--evaluations", "1"]
    # An untrained policy may go on with a rally for minutes, and PyTorch's threads wait for each other at each step.
    arguments += ["--frames", "200", "--device", "cpu", "--out", folder]
    for process in [learn(*arguments, "--task", env_id) for env_id in games]:
        output = process.communicate()[0]
        assert process.returncode == 0, output
    again = learn(*arguments, "--task", "PongNoFrameskip-v4")
    assert of_ours(again.communicate()[0]) == ""
    for each in [learn("report", "--curves", folder), learn("figures", "--curves", folder, "--out", folder)]:
        output = each.communicate()[0]
        assert each.returncode == 0, output
    report = (folder / "report.md").read_text()
    for env_id, (figure, lowest, highest) in games.items():
        rows = pd.read_csv(folder / env_id / "cpu" / "ca2e" / "101.csv")
        assert rows.seconds.iloc[-1] >= 1.2
        assert rows.seconds.is_monotonic_increasing
        assert rows["return"].between(lowest, highest).all()
        assert rows.transitions.iloc[0] == 0 < rows.transitions.iloc[-1]
        assert f"## {env_id} against the clock" in report
        assert (folder / f"learning_{figure}_cpu.png").exists()


@pytest.mark.extended
def test_mistakes_are_told_before_any_game(tmp_path):
    pytest.importorskip("ale_py")
    without = learn("games", "--arm", "ca2e-priors", "--agents", tmp_path, "--out", tmp_path)
    assert "ca2e-priors needs --agents" in without.communicate()[0]
    assert "--minutes must be above 0" in learn("games", "--minutes", "0").communicate()[0]
    assert "--evaluations must be at least 1" in learn("games", "--evaluations", "0").communicate()[0]


def descendants(pid: int) -> list[int]:
    """All processes that descend from one."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.extended
def test_a_runner_that_ends_takes_its_cells_along(trial, tmp_path, how, process_mark):
    process = learn(*trial, "--transitions", "100000")
    progress = tmp_path / "CartPole-v1" / "ca2e-bad-priors" / "101" / "progress.csv"
    while not (progress.exists() and progress.stat().st_size > 0):  # by then its actors are there
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    assert len(descendants(process.pid)) >= 4  # two cells, a server and an actor
    process.send_signal(how)
    output = process.communicate()[0]
    await_ends(process_mark)  # compilers too, that cells had started
    if how == signal.SIGTERM:
        assert "goes on with what has no curve yet" in output
    assert not list(tmp_path.glob("**/101.csv"))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Hopper-v5"])
def test_a_control_has_the_networks_of_the_other_side(env_id, tmp_path):
    pytest.importorskip("rl_zoo3")
    from learning.cell import set_up
    from learning.experiment import experiment

    task = experiment().tasks[env_id]

    def made(algorithm, settings_of=None):
        model, _ = set_up(algorithm, task, {}, 0, tmp_path, settings_of).setup_experiment()
        model.env.close()
        return model

    theirs, as_theirs = made(task.off_policy), made(task.ours, task.off_policy)
    assert str(as_theirs.policy) == str(theirs.policy)
    assert as_theirs.batch_size == theirs.batch_size
    assert not getattr(as_theirs, "double_q", False)
    assert str(made(task.off_policy, task.ours).policy) == str(made(task.ours).policy)


def test_curves_of_another_budget_must_go_elsewhere():
    process = learn("run", "--task", "CartPole-v1", "--arm", "ca2e", "--transitions", "100")
    assert "--transitions needs --out" in process.communicate()[0]
    assert process.returncode == 2


@pytest.mark.usefixtures("_forkserver")
@pytest.mark.extended
def test_who_asks_for_an_evaluation_does_not_wait_for_it():
    from learning.curve import Kept
    from learning.evaluator import Evaluator

    env = make_atari_env("BreakoutNoFrameskip-v4", native=True)
    model = DQN("CnnPolicy", env, buffer_size=1, device="cpu")
    evaluator = Evaluator(model, "BreakoutNoFrameskip-v4", games=1, frames=2000)
    os.kill(evaluator._process.pid, signal.SIGSTOP)
    for transitions in (1, 2):  # more than a pipe holds
        evaluator.ask(Kept({"transitions": transitions}, model.policy.state_dict(), None))
    assert evaluator.answered() is None
    assert evaluator.waited_for == 2
    os.kill(evaluator._process.pid, signal.SIGCONT)
    for _ in range(2):
        assert 0 <= evaluator.answered(wait=True) <= 864
    assert [row["transitions"] for row in evaluator.rows] == [1, 2]
    os.kill(evaluator._process.pid, signal.SIGKILL)
    evaluator.ask(Kept({"transitions": 3}, model.policy.state_dict(), None))
    with pytest.raises(RuntimeError, match="process that evaluates has ended, with exit code -9"):
        evaluator.answered(wait=True)
    evaluator.close()
    env.close()


@pytest.mark.parametrize("task", ["LunarLander-v3", "Pendulum-v1"])
def test_the_last_step_from_sb3_to_ours_is_what_we_ship(task):
    from learning import steps

    last = list(steps.STEPS[steps.TASKS[task]["algorithm"]])[-1]
    model = steps.model_of(task, last, seed=0, transitions=100)
    shipped = type(model)("MlpPolicy", task, device="cpu")
    names = ("n_slots", "n_steps", "local_buffer_size", "actor_update_interval", "execution", "replay_buffer_kwargs")
    own = ("double_q", "loss", "exploration_initial_eps") if task == "LunarLander-v3" else ("critic_l2", "action_noise")
    for name in (*names, *own):
        assert getattr(model, name) == getattr(shipped, name), name
    assert type(model.policy) is type(shipped.policy)


def test_a_step_keeps_the_changes_of_those_before_it():
    from learning import steps

    names = steps.names_of("LunarLander-v3")
    before = steps.settings_of("LunarLander-v3", names[0])
    assert before == {}
    for name in list(steps.STEPS["dqn"])[1:]:
        now = steps.settings_of("LunarLander-v3", name)
        assert now == {**before, **steps.STEPS["dqn"][name]}
        assert now != before
        before = now
    for name, changes in steps.TRIALS["dqn"].items():
        assert steps.settings_of("LunarLander-v3", name) == {**before, **changes}


def test_runs_of_steps_are_kept_and_told(tmp_path, monkeypatch):
    from learning import steps

    monkeypatch.setattr(steps, "RUNS", tmp_path / "steps.jsonl")
    monkeypatch.setattr(steps, "N_EVALUATIONS", 2)
    monkeypatch.setattr(steps, "N_EPISODES", 1)
    for step in ("sb3", "alike"):
        steps.run("Acrobot-v1", step, 0, 40)
    first, second = steps.done()
    assert (first["step"], second["step"], len(first["returns"])) == ("sb3", "alike", 3)
    text = "\n".join(steps.table(40))
    low, high = -498.63, -75.61  # of references.json
    areas = [(np.trapezoid(each["returns"]) / 2 - low) / (high - low) for each in (first, second)]
    assert f"| sb3 | 1 | {areas[0]:.2f} [" in text
    assert f"{areas[1] - areas[0]:.2f} [" in text.splitlines()[-2]
