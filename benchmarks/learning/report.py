"""
Write the tables of the learning benchmark from the committed curves: ``benchmarks/results/learning/README.md``::

    python benchmarks/learn.py report
"""

import json
import statistics
from typing import Any

import numpy as np
from provenance import write_json

from learning.experiment import CURVES, Cell, experiment
from learning.references import references
from learning.scores import THRESHOLD, Curves, all_curves, best_prior, improvement, interval

BASELINES = ("off-policy", "a2c", "ppo")
PRIORS, BARE, BAD, TEACHERS = "ca2e-priors", "ca2e", "ca2e-bad-priors", "ca2e-teachers"


def median_reached(curves: Curves, of: np.ndarray) -> float:
    """
    :param curves: of an arm
    :param of: transitions or seconds
    :return: median over seeds of what it took to the threshold; infinity if most have not
    """
    return statistics.median(curves.first_reached(of))


def transitions_of(curves: Curves) -> np.ndarray:
    """
    :param curves: of an arm
    :return: ``(seeds, evaluations)``
    """
    return np.broadcast_to(curves.transitions, curves.scores.shape)


def verdicts(env_id: str, arms: dict[str, Curves]) -> dict[str, Any]:
    """
    :param env_id: a task
    :param arms: what has run of it
    :return: what the goals say of it; None where an arm is missing
    """
    told: dict[str, Any] = dict.fromkeys(("transitions", "final", "bad_priors", "teachers"))
    baselines = [arms[name] for name in BASELINES if name in arms]
    if PRIORS in arms and baselines:
        ours = arms[PRIORS]
        best = min(median_reached(each, transitions_of(each)) for each in baselines)
        told["transitions"] = median_reached(ours, transitions_of(ours)) <= best / 2
        told["final"] = interval(ours.final[:, None]).point >= max(interval(b.final[:, None]).point for b in baselines)
    if BAD in arms and BARE in arms:
        bad, bare = (interval(arms[name].final[:, None]).point for name in (BAD, BARE))
        told["bad_priors"] = bad >= bare - 0.1
    if TEACHERS in arms:
        told["teachers"] = beats_teachers(env_id, arms[TEACHERS])[0]
    return told


def beats_teachers(env_id: str, curves: Curves) -> tuple[bool, str]:
    """
    :param env_id: a task
    :param curves: of the arm with teachers
    :return: whether every prior is retired and the learner ends above the best of them, and the figures
    """
    whole = experiment()
    names = whole.made_priors["teachers"]
    best = max(references()[env_id]["made"][name] for name in names)
    retired = 0
    for seed in curves.seeds:
        told = json.loads(Cell(whole.tasks[env_id], whole.arms[TEACHERS], seed).curve.with_suffix(".json").read_text())
        retired += sum(actor["retired_at"] is not None for actor in told["actors"])
    above = interval(curves.final_returns[:, None] - best, of=np.mean)
    of = len(names) * len(curves.seeds)
    return retired == of and above.low > 0, f"{retired} of {of} retired; final return − best prior: {above}"


def arm_line(name: str, curves: Curves, n_seeds: int) -> str:
    """
    :param name: of the arm
    :param curves: of it
    :param n_seeds: that it should have
    :return: a line of a task's table
    """
    transitions, seconds = (median_reached(curves, of) for of in (transitions_of(curves), curves.seconds))
    cells = [
        name,
        f"{len(curves.seeds)} of {n_seeds}",
        str(interval(curves.final[:, None])),
        f"{curves.final_returns.mean():.1f}",
        f"{curves.area.mean():.2f}",
        "never" if np.isinf(transitions) else f"{transitions:,.0f}",
        "never" if np.isinf(seconds) else f"{seconds:.0f}",
        f"{np.median(curves.seconds[:, -1]):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| arm | seeds | final IQM | final return | area | transitions to 0.9 | seconds to 0.9 | seconds in all |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def main() -> None:
    whole, found = experiment(), all_curves()
    lines = [
        "# Learning",
        "",
        "Scores: 0 is a random policy, 1 the best of the task's fixed priors. Final: mean of",
        f"{whole.final_episodes} episodes of the final model; IQM and 95 % intervals by bootstrap over seeds. To",
        f"{THRESHOLD}: median over seeds of the first evaluation that reaches it. A cell that has not run is missing.",
        "Seconds were measured with two runs at a time on two cores unless a table says otherwise.",
        "",
    ]
    told = {}
    for env_id, task in whole.tasks.items():
        arms = found.get(env_id, {})
        told[env_id] = verdicts(env_id, arms)
        entry = references()[env_id]
        made = "".join(f", {name} {mean:g}" for name, mean in entry["made"].items())
        lines += [f"## {env_id}: {task.transitions:,} transitions", ""]
        lines += [f"Random policy {entry['random']:g}, best prior {best_prior(env_id):g}{made}.", "", HEAD]
        lines += [arm_line(name, each, len(task.seeds)) for name, each in arms.items()]
        lines += [f"| {name} | missing |  |  |  |  |  |  |" for name in whole.arms if name not in arms]
        if TEACHERS in arms:
            lines += ["", f"Teachers: {beats_teachers(env_id, arms[TEACHERS])[1]}."]
        verdict = {True: "reached", False: "MISSED", None: "not run"}
        lines += [
            "",
            "Goals: " + ", ".join(f"{name} {verdict[value]}" for name, value in told[env_id].items()) + ".",
            "",
        ]
    both = [env_id for env_id, arms in found.items() if PRIORS in arms and "off-policy" in arms]
    if both:
        ours, theirs = ([found[env_id][name].final for env_id in both] for name in (PRIORS, "off-policy"))
        lines += [
            f"Probability that CA2E with priors ends above SB3's off-policy algorithm: {improvement(ours, theirs)}."
        ]
    text = "\n".join(lines) + "\n"
    (CURVES / "README.md").write_text(text, encoding="utf-8")
    write_json(CURVES / "verdicts.json", told)
    print(text)


if __name__ == "__main__":
    main()
