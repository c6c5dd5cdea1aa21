"""
Run what has no curve yet, some cells at a time, each in a process of its own.

It can be stopped at any time and goes on where it was; only cells under way are begun anew::

    python benchmarks/learn.py run                                   # everything that is no ablation
    python benchmarks/learn.py run --arm ca2e --arm ca2e-priors --task Pendulum-v1 --seed 101
    python benchmarks/learn.py run --ablation
    python benchmarks/learn.py run --jobs 1                          # for figures of time: alone on the machine
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from learning.experiment import REPOSITORY, Cell, experiment

LOGS = REPOSITORY / "runs" / "learning"


def run_cell(cell: Cell, n_processes: int | None) -> bool:
    """
    :param cell: what to run
    :param n_processes: actor processes of our side
    :return: whether it has a curve now
    """
    named = {"task": cell.task.env_id, "arm": cell.arm.name, "seed": cell.seed}
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "learn.py"), "cell", json.dumps(named)]
    if n_processes is not None:
        command += ["--n-processes", str(n_processes)]
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    log = LOGS / f"{cell}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("w") as file:
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=REPOSITORY, check=False
        ).returncode
    done = code == 0 and cell.curve.exists()
    print(f"{'done' if done else 'FAILED'}  {cell}  {time.perf_counter() - started:.0f} s", flush=True)
    if not done:
        print("\n".join(log.read_text().splitlines()[-15:]), flush=True)
    return done


def run_all(cells: list[Cell], jobs: int, n_processes: int | None) -> list[Cell]:
    """
    :param cells: what is to be there in the end
    :param jobs: cells at a time
    :param n_processes: actor processes of our side
    :return: cells that failed
    """
    todo = [cell for cell in cells if not cell.curve.exists()]
    print(f"{len(cells) - len(todo)} of {len(cells)} cells are done", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            done = list(pool.map(lambda cell: run_cell(cell, n_processes), todo))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C reaches the cells under way by itself
            raise
    return [cell for cell, success in zip(todo, done, strict=True) if not success]


def main() -> None:
    whole = experiment()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", choices=list(whole.tasks), help="may be repeated; all without it")
    parser.add_argument("--arm", action="append", help="may be repeated; all that are no ablation without it")
    parser.add_argument("--ablation", action="store_true", help="the ablation's arms")
    parser.add_argument("--seed", action="append", type=int, help="may be repeated; the task's without it")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--n-processes", type=int, help="actor processes; 1 with more than one job")
    args = parser.parse_args()
    if not pathlib.Path(os.environ.get("SB3_CA2E_AGENTS", "")).is_dir() or "SB3_CA2E_AGENTS" not in os.environ:
        parser.error("SB3_CA2E_AGENTS must name a clone of rl-trained-agents, where the zoo's prior agents are.")
    arms = list(whole.ablation) if args.ablation else args.arm
    n_processes = 1 if args.n_processes is None and args.jobs > 1 else args.n_processes
    failed = run_all(whole.cells(args.task, arms, args.seed), args.jobs, n_processes)
    if failed:
        sys.exit(f"{len(failed)} cells failed: {', '.join(map(str, failed))}")


if __name__ == "__main__":
    main()
