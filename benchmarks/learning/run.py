"""
Run what has no curve yet, some cells at a time, each in a process of its own.

It can be stopped at any time and goes on where it was; only cells under way are begun anew::

    python benchmarks/learn.py run                                   # all arms, but neither controls nor ablation
    python benchmarks/learn.py run --arm ca2e --arm ca2e-priors --task Pendulum-v1 --seed 101
    python benchmarks/learn.py run --controls
    python benchmarks/learn.py run --ablation
    python benchmarks/learn.py run --jobs 1                          # for figures of time: alone on the machine
    python benchmarks/learn.py run --jobs 1 --threads 2              # with all cores, where networks are large
    python benchmarks/learn.py run --transitions 2000 --out /tmp/trial --seed 101  # whether everything runs
"""

import argparse
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from learning.experiment import CURVES, REPOSITORY, Cell, experiment


@dataclass
class Running:
    """
    A cell under way.

    :param cell: which
    :param process: that runs it
    :param log: what it prints
    :param started: when, by ``time.perf_counter``
    """

    cell: Cell
    process: subprocess.Popen[bytes]
    log: pathlib.Path
    started: float

    @classmethod
    def start(cls, cell: Cell, n_processes: int | None, jobs: int, threads: int) -> "Running":
        """
        :param cell: what to run
        :param n_processes: actor processes of our side
        :param jobs: how many cells run at a time
        :param threads: of PyTorch, in the process that learns
        :return: it, under way
        """
        named = {"task": cell.task.env_id, "arm": cell.arm.name, "seed": cell.seed}
        named |= {"transitions": cell.task.transitions, "folder": str(cell.folder.absolute())}
        command = [sys.executable, str(REPOSITORY / "benchmarks" / "learn.py"), "cell", json.dumps(named)]
        command += ["--jobs", str(jobs), "--threads", str(threads), "--parent", str(os.getpid())]
        if n_processes is not None:
            command += ["--n-processes", str(n_processes)]
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
        log = REPOSITORY / "runs" / "learning" / f"{cell}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=REPOSITORY)
        return cls(cell, process, log, time.perf_counter())

    def done(self) -> bool:
        """
        Tell how it ended, which it has.

        :return: whether the cell has a curve now
        """
        success = self.process.wait() == 0 and self.cell.curve.exists()
        seconds = time.perf_counter() - self.started
        print(f"{'done' if success else 'FAILED'}  {self.cell}  {seconds:.0f} s", flush=True)
        if not success:
            print("\n".join(self.log.read_text(errors="replace").splitlines()[-15:]), flush=True)
        return success


def wait_for_any(running: list[Running]) -> Running:
    """
    :param running: cells under way
    :return: one that has ended
    """
    files = {os.pidfd_open(each.process.pid): each for each in running}
    try:
        ready, _, _ = select.select(files, [], [])
        return files[ready[0]]
    finally:
        for file in files:
            os.close(file)


def run_all(cells: list[Cell], jobs: int, n_processes: int | None, threads: int) -> list[Cell]:
    """
    :param cells: what is to be there in the end
    :param jobs: cells at a time
    :param n_processes: actor processes of our side
    :param threads: of PyTorch, in a process that learns
    :return: cells that failed
    """
    todo = [cell for cell in cells if not cell.curve.exists()]
    print(f"{len(cells) - len(todo)} of {len(cells)} cells are done", flush=True)
    running: list[Running] = []
    failed = []
    try:
        while todo or running:
            while todo and len(running) < jobs:
                running.append(Running.start(todo.pop(0), n_processes, jobs, threads))
            ended = wait_for_any(running)
            running.remove(ended)
            if not ended.done():
                failed.append(ended.cell)
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.wait()
    return failed


def main() -> None:
    whole = experiment()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", choices=list(whole.tasks), help="may be repeated; all without it")
    parser.add_argument("--arm", action="append", choices=list(whole.all_arms), help="may be repeated")
    parser.add_argument("--controls", action="store_true", help="arms with hyperparameters of the other side")
    parser.add_argument("--ablation", action="store_true", help="the ablation's arms")
    parser.add_argument("--seed", action="append", type=int, help="may be repeated; the task's without it")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's, of both sides; of 64, 64 more only cost")
    parser.add_argument("--n-processes", type=int, help="actor processes; 1 with more than one job")
    parser.add_argument("--transitions", type=int, help="another budget than the tasks', for trials")
    parser.add_argument("--out", type=pathlib.Path, default=CURVES, help="folder for the curves")
    args = parser.parse_args()
    if not pathlib.Path(os.environ.get("SB3_CA2E_AGENTS", "")).is_dir() or "SB3_CA2E_AGENTS" not in os.environ:
        parser.error("SB3_CA2E_AGENTS must name a clone of rl-trained-agents, where the zoo's prior agents are.")
    if args.transitions is not None and args.out == CURVES:
        parser.error("--transitions needs --out: another budget's curves would stand among the task's.")
    arms = list(args.arm or [])
    arms += [*whole.controls] if args.controls else []
    arms += [*whole.ablation] if args.ablation else []
    n_processes = 1 if args.n_processes is None and args.jobs > 1 else args.n_processes
    cells = whole.cells(args.task, arms, args.seed, args.transitions, args.out)
    untrained = {str(source) for cell in cells for source in whole.missing_priors(cell.task, cell.arm)}
    if untrained:
        parser.error(f"{', '.join(sorted(untrained))} are missing: run python benchmarks/learn.py train_priors first.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: cells under way end too
    try:
        failed = run_all(cells, args.jobs, n_processes, args.threads)
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on with what has no curve yet.")
    if failed:
        sys.exit(f"{len(failed)} cells failed: {', '.join(map(str, failed))}")


if __name__ == "__main__":
    main()
