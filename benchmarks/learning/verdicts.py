"""What was to be seen, what was, and whether that is enough."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from learning.clock import GAMES, PONG, WITHIN, in_time
from learning.experiment import experiment
from learning.scores import THRESHOLD, Curves, Results, interval

BASELINES = ("off-policy", "a2c", "ppo")
PRIORS, BARE, BAD, TEACHERS, CONTROL = "ca2e-priors", "ca2e", "ca2e-bad-priors", "ca2e-teachers", "ca2e-zoo-settings"
#: Curves of runs that had the machine to themselves, in the folder of the others.
TIMED = "timed"

#: What was seen of a task, and whether it is enough; None where it has not all been run.
Seen = tuple[str, bool | None]


@dataclass(frozen=True)
class Verdict:
    """
    A line of the table.

    :param goal: what was to be seen
    :param seen: what was
    :param reached: whether that is enough; None where too little has been run to say so
    """

    goal: str
    seen: str
    reached: bool | None

    def __str__(self) -> str:
        word = {True: "reached", False: "**MISSED**", None: "open"}[self.reached]
        return f"| {self.goal} | {self.seen} | {word} |"


def in_tasks(goal: str, told: Mapping[str, Seen], at_least: int) -> Verdict:
    """
    :param goal: for a number of tasks
    :param told: by task
    :param at_least: how many tasks must reach it
    :return: the verdict, open as long as tasks that have not run could decide
    """
    signs = {True: "yes", False: "NO", None: "open"}
    n_reached = sum(reached is True for _, reached in told.values())
    n_open = sum(reached is None for _, reached in told.values())
    whole = f"{n_reached} of {len(told)} tasks"
    seen = "<br>".join([whole, *(f"{env_id}: {text}: {signs[reached]}" for env_id, (text, reached) in told.items())])
    reached = True if n_reached >= at_least else False if n_reached + n_open < at_least else None
    return Verdict(goal, seen, reached)


def best_baselines(arms: Mapping[str, Curves]) -> tuple[str, str]:
    """
    :param arms: of a task, with a baseline among them
    :return: the baseline that reaches the threshold soonest, and the one that ends highest
    """
    there = {name: arms[name] for name in BASELINES if name in arms}
    soonest = min(there, key=lambda name: there[name].reached(there[name].transitions))
    return soonest, max(there, key=lambda name: there[name].score)


def sooner_and_higher(arms: Mapping[str, Curves]) -> Seen:
    """
    Does CA2E with priors need at most half of the transitions of the best baseline, and end no lower?

    :param arms: of a task
    :return: open while a baseline is missing, unless it is missed already
    """
    there = {name: arms[name] for name in BASELINES if name in arms}
    missing = [name for name in (PRIORS, *BASELINES) if name not in arms]
    if PRIORS not in arms or not there:
        return f"{', '.join(missing)} not run", None
    ours, (soonest, highest) = arms[PRIORS], best_baselines(arms)
    n_ours, n_theirs = ours.reached(ours.transitions), there[soonest].reached(there[soonest].transitions)
    final, theirs = ours.score, there[highest].score
    good = math.isfinite(n_ours) and n_ours <= n_theirs / 2 and final >= theirs
    text = (
        f"{THRESHOLD} after {count(n_ours)}, {soonest} {count(n_theirs)}; final {final:.3f}, {highest} {theirs:.3f}; "
    )
    text += f"{n_seeds(ours, *there.values())} seeds"
    if missing:
        return f"{text} ({', '.join(missing)} not run)", None if good else False
    return text, good


def bad_priors(arms: Mapping[str, Curves]) -> Seen:
    """
    Do bad priors cost at most 0.1?

    :param arms: of a task
    :return: what they cost
    """
    if BAD not in arms or BARE not in arms:
        return "not run", None
    bad, bare = arms[BAD].score, arms[BARE].score
    return f"final {bad:.2f}, without priors {bare:.2f}; {n_seeds(arms[BAD], arms[BARE])} seeds", bad >= bare - 0.1


def beats_teachers(env_id: str, arms: Mapping[str, Curves], results: Results) -> Seen:
    """
    Is every prior retired, and does the learner end above the best of them?

    :param env_id: a task
    :param arms: of it
    :param results: with the returns of the priors
    :return: how many have retired, and how far it ends above
    """
    if TEACHERS not in arms:
        return "not run", None
    curves = arms[TEACHERS]
    made = results.references[env_id]["made"]
    names = experiment().made_priors["teachers"]
    if any(name not in made for name in names):
        return "returns of the priors not measured", None
    actors = [actor for told in curves.told for actor in told["actors"]]
    retired = sum(actor["retired_at"] is not None for actor in actors)
    of = len(names) * len(curves.seeds)
    above = interval([curves.final_returns], np.mean, subtract=max(made[name] for name in names))
    return f"{retired} of {of} retired, final return − best prior {above}", retired == of and above.low > 0


def half_the_time(arms: Mapping[str, Curves], budget: int) -> Seen:
    """
    Alone on the machine, does CA2E take at most half of the time of SB3's off-policy algorithm for the same transitions
    and updates? Both have the zoo's hyperparameters and SB3's networks.

    :param arms: timed runs of a task
    :param budget: transitions of the task; timed runs may have had fewer
    :return: the seconds
    """
    if CONTROL not in arms or "off-policy" not in arms:
        return "not run", None
    ours, theirs = arms[CONTROL], arms["off-policy"]
    if any(told["jobs"] != 1 for each in (ours, theirs) for told in each.told):
        return "were not alone on the machine", None
    work = [(int(each.transitions[-1]), float(np.median(each.updates[:, -1]))) for each in (ours, theirs)]
    if not np.allclose(work[0], work[1], rtol=0.02):
        return f"transitions and updates differ: {work[0]}, {work[1]}", None
    seconds, baseline = (float(np.median(each.seconds[:, -1])) for each in (ours, theirs))
    text = f"{seconds:.0f} s, SB3 {baseline:.0f} s"
    return text if work[0][0] >= budget else f"{text}, {work[0][0]:,} transitions", seconds <= baseline / 2


def settled(seen: Seen, env_id: str, arms: Mapping[str, Curves], *names: str) -> Seen:
    """
    Nothing is reached or missed before all seeds have run.

    :param seen: of those that have
    :param env_id: a task
    :param arms: of it
    :param names: of the arms that are compared
    :return: it, open if seeds of them are missing
    """
    text, reached = seen
    n_whole = len(experiment().tasks[env_id].seeds)
    if reached is None or all(len(arms[name].seeds) == n_whole for name in names if name in arms):
        return seen
    return f"{text}; so far {'yes' if reached else 'NO'}", None


def verdicts(results: Results) -> list[Verdict]:
    """
    :param results: what was measured
    :return: the table
    """
    whole, found = experiment(), results.all_curves
    timed = Results(results.folder / TIMED, results.references).all_curves
    lines = []
    for family in ("dqn", "ddpg"):
        env_ids = [env_id for env_id, task in whole.tasks.items() if task.off_policy == family]
        name = family.upper()
        goal = f"{name} tasks: CA2E with priors reaches {THRESHOLD} in ≤ 1/2 of the transitions of the best baseline, "
        goal += "and its final IQM is ≥ the best baseline's, on ≥ 3 of 4 tasks"
        told = {}
        for env_id in env_ids:
            arms = found[env_id]
            told[env_id] = settled(sooner_and_higher(arms), env_id, arms, PRIORS, *BASELINES)
        lines.append(in_tasks(goal, told, 3))
        goal = f"{name} tasks: ≤ 1/2 of the seconds of SB3's {name} for the same transitions and updates, alone on the "
        told = {env_id: half_the_time(timed[env_id], whole.tasks[env_id].transitions) for env_id in env_ids}
        lines.append(in_tasks(goal + "machine", told, 4))
    told = {env_id: settled(bad_priors(arms), env_id, arms, BAD, BARE) for env_id, arms in found.items()}
    lines.append(in_tasks("Bad priors: final IQM ≥ IQM without priors − 0.1, on all tasks", told, len(told)))
    told = {
        env_id: settled(beats_teachers(env_id, arms, results), env_id, arms, TEACHERS) for env_id, arms in found.items()
    }
    goal = "Teachers trained half-way from random to solved: all retire, and the 95 % interval of (final return − best "
    lines.append(in_tasks(goal + "prior) is above 0, on ≥ 3 tasks", told, 3))
    goal = f"Pong on a GPU: ≥ {GAMES[PONG]:g} in < {WITHIN[BARE]:g} minutes without priors, "
    goal += f"in < {WITHIN[PRIORS]:g} with them"
    return [*lines, Verdict(goal, *in_time(results.folder))]


def n_seeds(*curves: Curves) -> str:
    """
    :param curves: of arms that are compared
    :return: how many seeds of them have run
    """
    numbers = sorted({len(each.seeds) for each in curves})
    return " to ".join(map(str, numbers[:1] + numbers[1:][-1:]))


def count(transitions: float) -> str:
    """
    :param transitions: a number of them, or infinity
    :return: for people
    """
    return f"{transitions:,.0f}" if math.isfinite(transitions) else "never"
