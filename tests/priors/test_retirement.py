"""The rule by which prior agents retire, against the design's words put into a plain loop."""

import copy
import math
import pickle
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sb3_ca2e.priors.retirement import Retirement, student_t


def lower_end(greedy, own, confidence):
    """The lower end of Student's interval of a mean; the spread is at least that of the prior's games."""
    spread = max(statistics.stdev(greedy), statistics.stdev(own) if len(own) > 1 else 0.0)
    return statistics.fmean(greedy) - student_t(confidence, len(greedy) - 1) * spread / math.sqrt(len(greedy))


def plain_rule(events, baselines, alpha, patience, confidence) -> dict[int, int | None]:
    """
    When each prior retires, worked out at every event from the whole history.

    :param events: ``("greedy", return)`` or ``(prior, return)``
    :param baselines: given, or None
    :return: number of the event at which each prior retires, or None
    """
    retired: dict[int, int | None] = dict.fromkeys(range(len(baselines)))
    for now in range(1, len(events) + 1):
        greedy = [(i, value) for i, (who, value) in enumerate(events[:now]) if who == "greedy"]
        # the last ten, looked at after every one from the fifth on
        looks = [
            (greedy[k - 1][0], [value for _, value in greedy[max(k - 10, 0) : k]]) for k in range(5, len(greedy) + 1)
        ]
        for prior, known in enumerate(baselines):
            own = [(i, value) for i, (who, value) in enumerate(events[:now]) if who == prior]
            known_since, baseline = -1, known
            if known is None:
                if len(own) < 10:
                    continue
                known_since, baseline = own[9][0], np.mean([value for _, value in own[:10]])
            bar = baseline + (alpha - 1) * abs(baseline)
            verdicts = [
                lower_end(last, [value for j, value in own if j < i][-20:], confidence) >= bar
                for i, last in looks
                if i > known_since
            ]
            in_a_row = len(verdicts) >= patience and all(verdicts[-patience:])
            if in_a_row and retired[prior] is None:
                retired[prior] = now
    return retired


def replay(events, baselines, alpha, patience, confidence=0.9, interrupted_at=None) -> dict[int, int | None]:
    retirement = Retirement(alpha, patience, confidence)
    for prior, baseline in enumerate(baselines):
        retirement.add_prior(prior)
        retirement.set_baseline(prior, baseline)
    for i, (who, value) in enumerate(events):
        if i == interrupted_at:  # saved and loaded
            retirement = Retirement(alpha, patience, confidence, pickle.loads(pickle.dumps(retirement.state)))
            for prior, baseline in enumerate(baselines):
                retirement.add_prior(prior)
                retirement.set_baseline(prior, baseline)
        if who == "greedy":
            before = {prior for prior in range(len(baselines)) if retirement.retired(prior)}
            now_retired = retirement.greedy_episode(value, timestep=i + 1)
            assert {prior for prior in range(len(baselines)) if retirement.retired(prior)} == before | set(now_retired)
            assert not before & set(now_retired)
        else:
            retirement.prior_episode(who, value)
    return {prior: retirement.prior(prior)["retired_at"] for prior in range(len(baselines))}


returns = st.integers(-3, 3).map(float)  # few values, so that r meets a baseline exactly


@given(data=st.data())
def test_priors_retire_as_the_rule_says(data):
    baselines = data.draw(st.lists(st.none() | returns, min_size=1, max_size=3))
    who = st.sampled_from(["greedy", "greedy", "greedy", *range(len(baselines))])
    level = data.draw(st.sampled_from([-1.0, 0.0, 1.0]))
    events = data.draw(st.lists(st.tuples(who, returns.map(lambda value: value + level)), min_size=0, max_size=90))
    alpha, patience = data.draw(st.sampled_from([0.5, 1.0, 2.0])), data.draw(st.integers(1, 3))
    confidence = data.draw(st.sampled_from([0.5, 0.8, 0.9, 0.95]))
    expected = plain_rule(events, baselines, alpha, patience, confidence)
    assert replay(events, baselines, alpha, patience, confidence) == expected
    interrupted_at = data.draw(st.integers(0, len(events)))
    assert replay(events, baselines, alpha, patience, confidence, interrupted_at) == expected


@pytest.mark.parametrize(
    ("baseline", "alpha", "threshold"),
    [(100, 1, 100), (100, 0.9, 90), (100, 1.1, 110), (-20, 1, -20), (-20, 0.9, -22), (-20, 1.1, -18), (0, 0.5, 0)],
)
def test_alpha_asks_for_more_or_less_whatever_the_sign_of_the_rewards(baseline, alpha, threshold):
    for reward, beaten in ((threshold + 0.01, True), (threshold - 0.01, False)):
        assert (replay([("greedy", reward)] * 5, [baseline], alpha, 1)[0] is not None) == beaten


def test_patience_counts_looks_in_a_row():
    good, bad = [("greedy", 1.0)], [("greedy", -100.0)]
    assert replay(good * 6, [0.0], 1.0, 3) == {0: None}
    assert replay(good * 7, [0.0], 1.0, 3) == {0: 7}
    # one bad game keeps the mean of ten below for ten looks
    assert replay(good * 6 + bad + good * 11, [0.0], 1.0, 3) == {0: None}
    assert replay(good * 6 + bad + good * 12, [0.0], 1.0, 3) == {0: 19}


def test_a_tie_with_a_perfect_prior_counts_as_reached():
    events = [(0, 500.0)] * 12 + [("greedy", 500.0)] * 7
    assert replay(events, [None], 1.0, 3) == {0: 19}


def test_alike_games_do_not_beat_a_prior_whose_games_differ():
    """A few lucky games would have a spread of zero."""
    differ = [(0, value) for value in (-100.0, 300.0) * 6]
    lucky = [("greedy", 110.0)] * 7
    assert replay(lucky, [100.0], 1.0, 3) == {0: 7}
    assert replay(differ + lucky, [100.0], 1.0, 3) == {0: None}


@pytest.mark.parametrize("below", [0.2, 0.5, 1.0])
def test_a_learner_that_stays_below_the_bar_seldom_retires_a_prior(below):
    """Forty greedy games each of 1,000 learners whose returns are as far apart as the prior's."""
    rng = np.random.default_rng(0)
    of_prior = [(0, value) for value in rng.standard_normal(20)]
    runs = [[("greedy", value - below) for value in rng.standard_normal(40)] for _ in range(1000)]
    retired = [replay(of_prior + run, [0.0], 1.0, 3)[0] is not None for run in runs]
    assert np.mean(retired) < {0.2: 0.15, 0.5: 0.02, 1.0: 0.001}[below]


def test_quantiles_are_those_of_students_distribution():
    for confidence in (0.5, 0.6, 0.8, 0.9, 0.95, 0.975):
        for degrees in range(4, 20):
            assert student_t(confidence, degrees) == pytest.approx(stats.t.ppf(confidence, degrees), rel=0.02, abs=1e-9)


def test_a_measured_baseline_is_the_mean_of_the_first_ten_games():
    retirement = Retirement(1.0, 3, 0.9)
    retirement.add_prior(0)
    for value in range(9):
        retirement.prior_episode(0, value)
    assert retirement.prior(0)["baseline"] is None
    for value in range(9, 40):
        retirement.prior_episode(0, value)
    assert retirement.prior(0)["baseline"] == 4.5


def test_a_given_baseline_stays():
    retirement = Retirement(1.0, 3, 0.9)
    retirement.add_prior(0)
    retirement.set_baseline(0, 7)
    for _ in range(20):
        retirement.prior_episode(0, 1.0)
    retirement.set_baseline(0, None)
    assert retirement.prior(0)["baseline"] == 7


def test_what_is_known_of_a_prior_is_plain_data():
    retirement = Retirement(1.0, 1, 0.9)
    retirement.add_prior(0)
    retirement.set_baseline(0, np.float64(-5))
    for i in range(25):
        retirement.greedy_episode(float(i), i)
    state = copy.deepcopy(retirement.state)
    assert state["priors"][0]["retired_at"] == 4
    assert state["priors"][0]["learner_reward"] == pytest.approx(2.0)  # of the look at which it retired
    assert retirement.learner_reward == pytest.approx(19.5)
    types = {type(value) for value in (*state["priors"][0].values(), *state["greedy_returns"])}
    assert types <= {int, float, list, type(None)}
