"""Plots of a run from its log: learning curves and statistics of each actor."""

import csv
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_ca2e.common.installing import needing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVALUATION_COLOUR = "#1f5fa8"
NATURE_COLOUR = "#8c8c8c"
#: Colours of prior agents, reused if there are more agents.
PRIOR_COLOURS = ("#d9730d", "#2f8f4e", "#8a4fbf", "#c0392b", "#a37c1b")


@dataclass
class RunLog:
    """
    Logged data of a run.

    :param columns: numbers in ``progress.csv`` by key, NaN where a row has no value
    :param timesteps: ``(evaluations,)`` transitions at which ``EvalCallback`` evaluated
    :param results: ``(evaluations, episodes)`` returns
    """

    columns: dict[str, np.ndarray]
    timesteps: np.ndarray
    results: np.ndarray

    @classmethod
    def read(cls, folder: str | pathlib.Path) -> "RunLog":
        """
        Read the log of a run.

        :param folder: folder with ``progress.csv`` of SB3's logger (format "csv"), ``evaluations.npz`` of
            ``EvalCallback``, or both
        :return: the log
        :raises FileNotFoundError: if there is neither
        """
        progress, evaluations = pathlib.Path(folder, "progress.csv"), pathlib.Path(folder, "evaluations.npz")
        if not (progress.is_file() or evaluations.is_file()):
            raise FileNotFoundError(
                f"{folder} holds neither progress.csv (written by stable_baselines3.common.logger.configure(folder, "
                '["csv"])) nor evaluations.npz (written by EvalCallback(..., log_path=folder)).'
            )
        columns = _read_numbers(progress) if progress.is_file() else {}
        if not evaluations.is_file():
            return cls(columns, np.empty(0), np.empty((0, 0)))
        with np.load(evaluations) as saved:
            return cls(columns, saved["timesteps"], saved["results"])

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """
        Return a logged series.

        :param key: key of the logger
        :return: transitions and values of the rows that have it; empty if there are none
        """
        if key not in self.columns:
            return np.empty(0), np.empty(0)
        values = self.columns[key]
        there = ~np.isnan(values)
        return self.columns["time/total_timesteps"][there], values[there]

    def last(self, key: str) -> float | None:
        """
        Return the last value of a logged series.

        :param key: key of the logger
        :return: the value, None if there is none
        """
        values = self.series(key)[1]
        return float(values[-1]) if len(values) else None

    def slots(self, group: str) -> list[int]:
        """
        Return the slots that logged in a group.

        :param group: ``"actors"`` or ``"priors"``
        :return: sorted indices of slots
        """
        return sorted({int(key.split("/")[1]) for key in self.columns if key.startswith(f"{group}/")})

    @property
    def end(self) -> float:
        """Number of transitions at the last entry."""
        return float(max(*self.timesteps, *self.columns.get("time/total_timesteps", ()), 1, 1))


def _read_numbers(path: pathlib.Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() if rows else ()
    return {name: np.array([_number(row[name]) for row in rows]) for name in names}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:  # a string, such as the kind of an actor
        return float("nan")


def learning_curve(
    folder: str | pathlib.Path, agents: Mapping[int, str] | None = None, title: str = "", threshold: float | None = None
) -> "Figure":
    """
    Plot evaluations and the nature actors' returns over transitions, with each prior's baseline and retirement.

    :param folder: folder of the run; see :meth:`RunLog.read`
    :param agents: names of the prior agents by slot
    :param title: title of the figure
    :param threshold: return at which the environment counts as solved
    :return: the figure; save it with its ``savefig``
    :raises ImportError: if matplotlib is not installed
    """
    log = RunLog.read(folder)
    figure = _new_figure(5.4)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="transitions of all actors", ylabel="return")
    _transitions_axis(axes, log.end)

    steps, returns = log.series("rollout/ep_rew_mean")
    axes.plot(steps, returns, color=NATURE_COLOUR, lw=1.3, label="nature actors, last 100 episodes (exploring)")
    shown = [returns]
    if len(log.timesteps):
        mean, std = log.results.mean(axis=1), log.results.std(axis=1)
        label = f"evaluation, greedy: mean ± std of {log.results.shape[1]} episodes"
        axes.fill_between(log.timesteps, mean - std, mean + std, color=EVALUATION_COLOUR, alpha=0.15, lw=0)
        axes.plot(log.timesteps, mean, color=EVALUATION_COLOUR, lw=2, marker="o", ms=3.5, label=label)
        best = int(mean.argmax())
        kept = f"checkpoint kept: {mean[best]:.0f} at {log.timesteps[best]:,}"
        axes.plot(
            log.timesteps[best], mean[best], "*", ms=15, color=EVALUATION_COLOUR, mec="white", label=kept, zorder=5
        )
        shown += [mean, (mean + std)[-1:]]
    if threshold is not None:
        axes.axhline(threshold, color="black", lw=0.8, ls=(0, (1, 3)), label=f"solved: {threshold:g}")
        shown.append(np.array([threshold]))

    baselines = _logged_of_priors(log, agents, "baseline")
    heights = [baseline for baseline, _, _ in baselines]
    for i, (baseline, colour, _) in enumerate(baselines):
        offset, n_equal = heights[:i].count(baseline), heights.count(baseline)  # alternate dashes of equal ones
        axes.axhline(baseline, color=colour, lw=1.4, ls=(5 * offset, (5, 5 * max(n_equal - 1, 1))))
    _fit_returns(axes, np.concatenate([*shown, heights]))
    _label_right(axes, [(baseline, f"{name}: {baseline:.0f}", colour) for baseline, colour, name in baselines])
    _mark_retirements(axes, log, agents, text_at="bottom")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def run_picture(
    folder: str | pathlib.Path,
    agents: Mapping[int, str] | None = None,
    title: str = "",
    evaluations: tuple[np.ndarray, np.ndarray] | None = None,
) -> "Figure":
    """
    Plot a whole run: returns with baselines, retirements and evaluations; exploration; the fraction of prior data
    stored and sampled; and throughput.

    :param folder: folder of the run with a ``progress.csv``; see :meth:`RunLog.read`
    :param agents: names of the prior agents by slot
    :param title: title of the figure
    :param evaluations: ``(evaluations,)`` transitions and ``(evaluations, episodes)`` returns, for a folder without
        ``evaluations.npz``
    :return: the figure; save it with its ``savefig``
    :raises ImportError: if matplotlib is not installed
    """
    log = RunLog.read(folder)
    if evaluations is not None:
        log.timesteps, log.results = evaluations
    figure = _actors(log, agents, title, 10.4, [4, 2, 2, 2])
    returns, _, fraction, throughput = figure.axes
    fraction.set_xlabel("")
    if len(log.timesteps):
        mean = log.results.mean(axis=1)
        returns.plot(log.timesteps, mean, color=EVALUATION_COLOUR, lw=2, marker="o", ms=3.5, label="evaluation, greedy")
    for baseline, colour, name in _logged_of_priors(log, agents, "baseline"):
        returns.axhline(baseline, color=colour, lw=1.2, ls="--", label=f"{name}'s own mean: {baseline:.0f}")
    returns.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5, frameon=False)

    _transitions_axis(throughput, log.end)
    throughput.set(ylabel="a second", xlabel="transitions of all actors")
    throughput.plot(*log.series("time/fps"), color=EVALUATION_COLOUR, lw=2.0, label="transitions, since the start")
    throughput.plot(*log.series("time/updates_per_second"), color=NATURE_COLOUR, lw=2.0, label="updates")
    throughput.set_ylim(bottom=0)
    _mark_retirements(throughput, log, agents, text_at=None)
    throughput.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5, frameon=False)
    return figure


def actors_picture(folder: str | pathlib.Path, agents: Mapping[int, str] | None = None, title: str = "") -> "Figure":
    """
    Plot what each actor did: its returns, its exploration, and the fraction of prior data in the memory.

    :param folder: folder of the run with a ``progress.csv``; see :meth:`RunLog.read`
    :param agents: names of the prior agents by slot
    :param title: title of the figure
    :return: the figure; save it with its ``savefig``
    :raises ImportError: if matplotlib is not installed
    """
    return _actors(RunLog.read(folder), agents, title, 8.4, [3, 2, 2])


def _actors(
    log: RunLog, agents: Mapping[int, str] | None, title: str, height: float, ratios: Sequence[int]
) -> "Figure":
    """Create the figure of :func:`actors_picture`, with room for more axes below."""
    figure = _new_figure(height)
    returns, exploration, fraction, *_ = figure.subplots(len(ratios), height_ratios=ratios, sharex=True)
    returns.set(title=title, ylabel="return, last 100 games")
    exploration.set(ylabel="exploration")
    fraction.set(ylabel="share of priors", xlabel="transitions of all actors", ylim=(-0.03, 1.03))
    for axes in (returns, exploration, fraction):
        _transitions_axis(axes, log.end)

    priors = {slot: (colour, name) for slot, colour, name in _priors(log, agents)}
    nature = [slot for slot in log.slots("actors") if slot not in priors]
    for slot in nature:
        style: dict[str, Any] = {"color": str(0.2 + 0.55 * nature.index(slot) / max(len(nature) - 1, 1)), "lw": 1.1}
        returns.plot(*log.series(f"actors/{slot}/ep_rew_mean"), label=f"slot {slot}: nature", **style)
        exploration.plot(*log.series(f"actors/{slot}/epsilon"), **style)
    for slot, (colour, name) in priors.items():
        retired_at = log.last(f"priors/{slot}/retired_at")
        end = float("inf") if retired_at is None else retired_at
        steps, values = log.series(f"actors/{slot}/ep_rew_mean")
        returns.plot(steps[steps < end], values[steps < end], color=colour, lw=2.2, label=f"slot {slot}: {name}")
        label = f"slot {slot}: nature since" if retired_at is not None else None
        returns.plot(steps[steps >= end], values[steps >= end], color=colour, lw=1.1, label=label)
        steps, values = log.series(f"actors/{slot}/epsilon")
        exploration.plot(steps[steps >= end], values[steps >= end], color=colour, lw=1.1)

    fraction.plot(*log.series("replay/prior_fraction"), color=EVALUATION_COLOUR, lw=2.0, label="of the memory")
    sampled = log.series("replay/sampled_prior_fraction")
    fraction.plot(*sampled, ".", ms=4, alpha=0.6, color=NATURE_COLOUR, label="of a sampled batch")
    for axes in (returns, exploration, fraction):
        _mark_retirements(axes, log, agents, text_at="top" if axes is exploration else None)
    returns.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5, frameon=False)
    fraction.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5, frameon=False)
    return figure


def _new_figure(height: float) -> "Figure":
    """Create a figure without pyplot, which would need a display and change the user's figures."""
    with needing("plots", "Pictures need matplotlib"):
        from matplotlib.figure import Figure
    return Figure(figsize=(9.5, height), dpi=120, layout="constrained")


def _transitions_axis(axes: "Axes", end: float) -> None:
    axes.set_xlim(0, end)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _fit_returns(axes: "Axes", values: np.ndarray) -> None:
    """Set the limits so that a few very low early evaluations are cut off instead of flattening the rest."""
    if not len(values):
        return
    high = values.max()
    usual = np.percentile(values, 15)
    low = max(values.min(), usual - 0.3 * (high - usual))
    margin = 0.08 * max(high - low, 1.0)
    axes.set_ylim(low - margin, high + margin)


def _priors(log: RunLog, agents: Mapping[int, str] | None) -> list[tuple[int, str, str]]:
    """Return slot, colour and name of each prior agent."""
    slots = log.slots("priors")
    names = {slot: (agents or {}).get(slot, f"prior of slot {slot}") for slot in slots}
    return [(slot, PRIOR_COLOURS[i % len(PRIOR_COLOURS)], names[slot]) for i, slot in enumerate(slots)]


def _logged_of_priors(log: RunLog, agents: Mapping[int, str] | None, key: str) -> list[tuple[float, str, str]]:
    """Return the last value, colour and name of each prior agent that has logged a key."""
    last = [(log.last(f"priors/{slot}/{key}"), colour, name) for slot, colour, name in _priors(log, agents)]
    return [(value, colour, name) for value, colour, name in last if value is not None]


def _mark_retirements(axes: "Axes", log: RunLog, agents: Mapping[int, str] | None, text_at: str | None) -> None:
    """Draw a vertical line where a prior retired, with its name on the left; close names are spread."""
    marks = sorted(_logged_of_priors(log, agents, "retired_at"))
    for at, colour, _ in marks:
        axes.axvline(at, color=colour, lw=1.2, ls=":")
    if text_at is None:
        return
    left, right = axes.get_xlim()
    width = 0.025 * (right - left)  # width of a line of text
    places = _spread([at - width / 2 for at, _, _ in marks], width)
    for place, (at, colour, name) in zip(places, marks, strict=True):
        text = f"{name} retires at {at:,.0f}"
        axes.text(
            place, {"bottom": 0.03, "top": 0.97}[text_at], text, color=colour, fontsize=8.5,
            rotation=90, ha="center", va=text_at, transform=axes.get_xaxis_transform(),
            bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5},
        )  # fmt: skip


def _label_right(axes: "Axes", labels: Sequence[tuple[float, str, str]]) -> None:
    """Write labels at their heights beside the right edge, spread where they would overlap."""
    low, high = axes.get_ylim()
    ordered = sorted(labels)
    heights = _spread([height for height, _, _ in ordered], 0.042 * (high - low))
    for height, (_, text, colour) in zip(heights, ordered, strict=True):
        axes.text(1.01, height, text, color=colour, fontsize=9, va="center", transform=axes.get_yaxis_transform())


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """
    Spread ascending positions to a least distance, moving each as little as needed.

    :param places: ascending positions
    :param gap: least distance
    :return: new positions
    """
    groups = [[place] for place in places]
    while True:
        spots = [[np.mean(group) + gap * (i - (len(group) - 1) / 2) for i in range(len(group))] for group in groups]
        near = next((i for i, (a, b) in enumerate(pairwise(spots)) if b[0] - a[-1] < gap * (1 - 1e-9)), None)
        if near is None:
            return [float(spot) for group in spots for spot in group]
        groups[near : near + 2] = [groups[near] + groups[near + 1]]
