"""Pictures of a run, from files that SB3's own logger wrote."""

import itertools
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from stable_baselines3.common.logger import configure

from sb3_ca2e.common.installing import how_to_install
from sb3_ca2e.plots import PRIOR_COLOURS, RunLog, _spread, actors_picture, learning_curve, run_picture

TIMESTEPS = np.arange(1000, 20_001, 500)
BASELINES = {5: 112.0, 6: 245.0, 7: 245.0}
RETIRED_AT = {5: 12_000, 7: 12_200}
AGENTS = {5: "a2c", 6: "dqn", 7: "ppo"}


@pytest.fixture
def nature_returns():
    return np.linspace(-200, 150, len(TIMESTEPS))


@pytest.fixture
def evaluations():
    means = np.linspace(-150, 250, 10)
    means[7] = 300  # the best is not the last
    return np.arange(2000, 20_001, 2000), means[:, None] + np.array([-30.0, 0.0, 30.0])


@pytest.fixture
def run(tmp_path, nature_returns, evaluations):
    logger = configure(str(tmp_path), ["csv"])
    for timestep, reward in zip(TIMESTEPS, nature_returns, strict=True):
        logger.record("time/total_timesteps", int(timestep))
        logger.record("rollout/ep_rew_mean", reward)
        for slot in range(8):
            is_prior = slot in BASELINES and timestep < RETIRED_AT.get(slot, np.inf)
            logger.record(f"actors/{slot}/kind", "prior" if is_prior else "nature")
            logger.record(f"actors/{slot}/ep_rew_mean", 1000.0 * slot + timestep)
            logger.record(f"actors/{slot}/epsilon", 0.0 if is_prior else 0.1 * (slot + 1))
        for slot, baseline in BASELINES.items():
            logger.record(f"priors/{slot}/baseline", baseline)
            if timestep >= RETIRED_AT.get(slot, np.inf):  # a column that comes late
                logger.record(f"priors/{slot}/retired_at", RETIRED_AT[slot])
        logger.record("replay/prior_fraction", 0.3)
        logger.record("time/fps", timestep // 10)
        logger.record("time/updates_per_second", 7.0)
        logger.dump(int(timestep))
        if timestep % 2000 == 0:  # rows without the columns above, as EvalCallback's
            logger.record("time/total_timesteps", int(timestep))
            logger.record("eval/mean_reward", 1.0)
            logger.dump(int(timestep))
    logger.close()
    timesteps, results = evaluations
    np.savez(tmp_path / "evaluations", timesteps=timesteps, results=results, ep_lengths=results)
    return tmp_path


def test_numbers_logged_are_read_at_their_transitions(run, nature_returns):
    log = RunLog.read(run)
    steps, values = log.series("rollout/ep_rew_mean")
    np.testing.assert_array_equal(steps, TIMESTEPS)
    np.testing.assert_allclose(values, nature_returns)
    steps, values = log.series("priors/5/retired_at")
    assert (steps.min(), set(values)) == (12_000, {12_000.0})
    assert log.last("priors/6/retired_at") is None
    assert log.slots("actors") == list(range(8))
    assert log.slots("priors") == [5, 6, 7]
    assert log.end == 20_000


def test_the_learning_curve_shows_evaluations_baselines_and_retirements(run, nature_returns, evaluations):
    (axes,) = learning_curve(run, AGENTS, title="a title", threshold=200).axes
    timesteps, results = evaluations
    lines = {line.get_label().split(":")[0]: line for line in axes.lines}
    np.testing.assert_allclose(lines["nature actors, last 100 episodes (exploring)"].get_ydata(), nature_returns)
    np.testing.assert_array_equal(lines["evaluation, greedy"].get_xdata(), timesteps)
    np.testing.assert_allclose(lines["evaluation, greedy"].get_ydata(), results.mean(axis=1))
    kept = lines["checkpoint kept"]
    assert (*kept.get_xdata(), *kept.get_ydata()) == (timesteps[7], 300)
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx((results.mean(axis=1) + results.std(axis=1)).max())
    assert axes.get_title() == "a title"

    horizontal = [line for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    assert sorted(line.get_ydata()[0] for line in horizontal) == [112, 200, 245, 245]
    vertical = {
        line.get_xdata()[0]: to_hex(line.get_color()) for line in axes.lines if list(line.get_ydata()) == [0, 1]
    }
    assert vertical == {12_000: PRIOR_COLOURS[0], 12_200: PRIOR_COLOURS[2]}
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"a2c: 112", "dqn: 245", "ppo: 245", "a2c retires at 12,000", "ppo retires at 12,200"}


def test_labels_do_not_cover_each_other(run):
    figure = learning_curve(run, AGENTS)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_one_awful_evaluation_does_not_flatten_the_picture(run, evaluations):
    timesteps, results = evaluations
    results[0] = -50_000
    np.savez(run / "evaluations", timesteps=timesteps, results=results)
    low, high = learning_curve(run).axes[0].get_ylim()
    assert -1000 < low < -200
    assert 300 < high < 500


def test_the_actors_picture_tells_the_slots_apart(run):
    returns, exploration, fraction = actors_picture(run, AGENTS).axes
    labels = {line.get_label(): line for line in returns.lines}
    np.testing.assert_allclose(labels["slot 3: nature"].get_ydata(), 3000 + TIMESTEPS)
    np.testing.assert_array_equal(labels["slot 5: a2c"].get_xdata(), TIMESTEPS[TIMESTEPS < 12_000])
    np.testing.assert_array_equal(labels["slot 5: nature since"].get_xdata(), TIMESTEPS[TIMESTEPS >= 12_000])
    np.testing.assert_array_equal(labels["slot 6: dqn"].get_xdata(), TIMESTEPS)
    shown = {
        value for line in exploration.lines if len(line.get_ydata()) > 2 for value in np.round(line.get_ydata(), 6)
    }
    assert shown == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8}  # slot 6 never explored
    np.testing.assert_allclose(fraction.lines[0].get_ydata(), 0.3)


def test_the_picture_of_a_run_adds_baselines_evaluations_and_throughput(run, evaluations):
    elsewhere = evaluations[0] + 1, evaluations[1] + 1
    for told, shown in ((None, evaluations), (elsewhere, elsewhere)):
        returns, _, fraction, throughput = run_picture(run, AGENTS, evaluations=told).axes
        labels = {line.get_label(): line for line in returns.lines}
        np.testing.assert_array_equal(labels["evaluation, greedy"].get_xdata(), shown[0])
        np.testing.assert_allclose(labels["evaluation, greedy"].get_ydata(), shown[1].mean(axis=1))
    heights = {label: line.get_ydata()[0] for label, line in labels.items() if "own mean" in label}
    assert heights == {f"{AGENTS[slot]}'s own mean: {mean:.0f}": mean for slot, mean in BASELINES.items()}
    np.testing.assert_allclose(fraction.lines[0].get_ydata(), 0.3)
    transitions, updates = throughput.lines[:2]
    np.testing.assert_array_equal(transitions.get_ydata(), TIMESTEPS // 10)
    np.testing.assert_allclose(updates.get_ydata(), 7.0)


def test_half_the_files_will_do(run, nature_returns):
    (run / "progress.csv").unlink()
    assert len(learning_curve(run).axes[0].lines[1].get_ydata()) == 10
    (run / "evaluations.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither progress\.csv .* nor evaluations\.npz"):
        learning_curve(run)


def test_a_missing_matplotlib_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape(how_to_install("plots"))):
        learning_curve(run)


@given(st.lists(st.floats(-100, 100), max_size=8).map(sorted), st.floats(0.1, 30))
def test_labels_are_pushed_apart_and_no_further(places, gap):
    spread = _spread(places, gap)
    distances = np.diff(spread)
    assert (distances >= gap * (1 - 1e-6)).all()
    assert np.mean(spread) == pytest.approx(np.mean(places), abs=1e-6) if places else spread == []
    if (np.diff(places) >= gap).all():
        assert spread == pytest.approx(places)
