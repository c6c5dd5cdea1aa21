"""
Prior agents against the figures published with them.

Each agent of a clone of rl-trained-agents whose README tells a measured reward plays ten episodes through
``PriorAgent`` on the learner's raw environment, seeded 0, under every id that the README names. Nothing stands between
the two but what the agent's own files say. The mean is to lie within two standard errors of the README's.

Usage: ``SB3_CA2E_AGENTS=<folder> python benchmarks/zoo_agents.py [--jobs 2] [--only ppo/Hopper] [--out ...]``
"""

import argparse
import multiprocessing
import os
import pathlib
import re
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch as th
from provenance import RESULTS, describe, provenance, write_results
from stable_baselines3.common.env_util import make_vec_env

from sb3_ca2e import PriorAgent
from sb3_ca2e.priors.find import find_agent
from sb3_ca2e.priors.loading import load_trained_on

N_EPISODES, SEED = 10, 0
#: The README gives one decimal, and one figure for two ids where they differ by less than a point.
ROUNDING, SAME_FOR_BOTH = 0.05, 1.0

#: Why a mean lies further off than two standard errors: by algorithm and environment.
EXPLANATIONS: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Row:
    """
    A figure of the README.

    :param algorithm: of the agent
    :param trained_on: environment that it was trained on
    :param env_id: environment that it was measured on
    :param mean: measured reward
    :param std: its standard deviation over episodes
    :param rounding: how far the mean may be off for being rounded
    """

    algorithm: str
    trained_on: str
    env_id: str
    mean: float
    std: float
    rounding: float = ROUNDING

    @property
    def name(self) -> str:
        """As ``--only`` looks for it."""
        return f"{self.algorithm}/{self.env_id}"


def rows_of(readme: str) -> list[Row]:
    """
    :param readme: the README of the agents' folder
    :return: a row for each agent and id
    """
    rows = []
    for line in readme.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 8 or "±" not in cells[5]:
            continue
        algorithm, trained_on, ids, measured = cells[0], cells[1], cells[2].split(", "), cells[5]
        figures = [(float(mean), float(std)) for mean, std in re.findall(r"(-?[\d.]+) ± ([\d.]+)", measured)]
        rounding = ROUNDING if len(figures) == len(ids) else SAME_FOR_BOTH
        for env_id, (mean, std) in zip(ids, figures * len(ids) if len(figures) < len(ids) else figures, strict=False):
            rows.append(Row(algorithm, trained_on, env_id, mean, std, rounding))
    return rows


def measure(row: Row, agents: pathlib.Path) -> dict[str, Any]:
    """
    :param row: what to measure again
    :param agents: the agents' folder
    :return: the row with what was measured
    """
    th.set_num_threads(1)
    started = time.perf_counter()
    folder = agents / row.algorithm / f"{row.trained_on}_1"
    agent = PriorAgent(folder)
    mean, std = agent.evaluate(make_vec_env(row.env_id, seed=SEED), N_EPISODES)
    error = row.std / np.sqrt(N_EPISODES)
    off = abs(mean - row.mean)
    return {
        **asdict(row),
        "preprocessing": load_trained_on(find_agent(folder, None), trust=False).describe(),
        "our_mean": mean,
        "our_std": std,
        "standard_errors": off / error if error > 0 else None,
        "within": bool(off <= 2 * error + row.rounding),
        "explanation": EXPLANATIONS.get((row.algorithm, row.env_id), ""),
        "seconds": time.perf_counter() - started,
    }


def measure_all(rows: list[Row], agents: pathlib.Path, jobs: int) -> list[dict[str, Any]]:
    """
    :param rows: what to measure again
    :param agents: the agents' folder
    :param jobs: processes
    :return: the results, in the order of the rows
    """
    context = multiprocessing.get_context("spawn")
    done: dict[Row, dict[str, Any]] = {}
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(measure, row, agents): row for row in rows}
        for future in as_completed(futures):
            row, result = futures[future], future.result()
            done[row] = result
            told = f"{result['our_mean']:9.1f} ± {result['our_std']:.1f}   README {row.mean:9.1f} ± {row.std:.1f}"
            mark = "" if result["within"] else "   further off than two standard errors"
            print(f"[{len(done)}/{len(rows)}] {row.name:36} {told}{mark}", flush=True)
    return [done[row] for row in rows]


def report(results: list[dict[str, Any]]) -> list[str]:
    """
    :param results: of all rows
    :return: lines of Markdown
    """
    agents = {(result["algorithm"], result["trained_on"]) for result in results}
    exceptions = [result for result in results if not result["within"]]
    lines = [
        "# Agents of the RL Zoo as prior agents",
        "",
        f"{len(agents)} agents, {len(results)} pairs of agent and environment: mean ± standard deviation of "
        f"{N_EPISODES} episodes through `PriorAgent` (`trust=False`) on the raw environment, seed {SEED},",
        "deterministic actions. The README is that of the agents' folder, measured in the same way with",
        f"Stable-Baselines3's own loader and wrappers. {len(results) - len(exceptions)} of {len(results)} means lie",
        "within two of its standard errors.",
        "",
        "| algo | trained on | played on | done by the prior agent | README | here | within 2 SE | explanation |",
        "| --- | --- | --- | --- | ---: | ---: | --- | --- |",
    ]
    for result in results:
        own = f"{result['mean']:.1f} ± {result['std']:.1f}"
        ours = f"{result['our_mean']:.1f} ± {result['our_std']:.1f}"
        steps = " + ".join(result["preprocessing"]) or "nothing"
        cells = [result["algorithm"], result["trained_on"], result["env_id"], steps, own, ours]
        lines.append(f"| {' | '.join(cells)} | {'yes' if result['within'] else 'NO'} | {result['explanation']} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", default="", help="regular expression for <algorithm>/<environment>")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    folder = os.environ.get("SB3_CA2E_AGENTS")
    if not folder or not (pathlib.Path(folder) / "README.md").is_file():
        raise SystemExit("Set SB3_CA2E_AGENTS to a folder of the RL Zoo's agents with a README of measured rewards.")
    agents = pathlib.Path(folder)
    rows = rows_of((agents / "README.md").read_text(encoding="utf-8"))
    chosen = [row for row in rows if re.search(args.only, row.name)]
    results = measure_all(chosen, agents, args.jobs)
    lines = report(results)
    if len(chosen) < len(rows):
        print("\n".join(lines))
        return
    measured_on = provenance()
    write_results(
        args.out,
        "zoo_agents",
        {"rows": results, "measured_on": measured_on},
        "\n".join([*lines, "", describe(measured_on)]),
    )


if __name__ == "__main__":
    main()
