"""
Does this commit learn the very same as an earlier one? Rows in ``"sync"``, three seeds each, compared bit by bit.

Each commit is checked out into a temporary folder and learns in a process of its own. What is compared: all
parameters, the optimisers' state, the episodes' returns and a batch of the memory with its weights.

Usage::

    python benchmarks/bit_equal.py f76e80d
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from earlier import checked_out
from provenance import RESULTS, describe, provenance, write_results

SEEDS = (0, 1, 2)
ROWS = {
    "DQN, CartPole-v1, a prior": "CA2EDQN('MlpPolicy', 'CartPole-v1', prior_agents=['zoo:ppo'], **common)",
    "DQN, LunarLander-v3": "CA2EDQN('MlpPolicy', 'LunarLander-v3', **common)",
    "DDPG, Pendulum-v1, VecNormalize": "CA2EDDPG('MlpPolicy', VecNormalize(make_vec_env('Pendulum-v1', 2)), **common)",
}
LEARN = """
import hashlib, json, sys
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from sb3_ca2e import CA2EDDPG, CA2EDQN

th.set_num_threads(1)
common = dict(n_actors=4, execution="sync", learning_starts=200, seed=int(sys.argv[2]), device="cpu")
model = eval(sys.argv[1]).learn(int(sys.argv[3]))
digest = hashlib.sha256()
_, tensors = model._get_torch_save_params()
modules = [model.policy.state_dict(), *[each.state_dict() for each in model.trained_networks()[1].values()]]
batch = model.replay_buffer.sample(256)
returns = [episode["r"] for episode in model.ep_info_buffer]
def add(value):
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            add(value[key])
    elif isinstance(value, (list, tuple)):
        for each in value:
            add(each)
    else:
        digest.update(value.detach().cpu().numpy().tobytes() if isinstance(value, th.Tensor) else repr(value).encode())
add(modules)
add(returns)
add([batch.observations, batch.actions, batch.next_observations, batch.rewards, batch.dones, batch.weights])
print(json.dumps({"sha256": digest.hexdigest(), "episodes": len(returns), "mean return": sum(returns) / len(returns)}))
"""


def learn(folder: pathlib.Path, row: str, seed: int, transitions: int) -> dict[str, str | float]:
    """
    :param folder: of a commit
    :param row: name of it
    :param seed: of the run
    :param transitions: to learn from
    :return: digest of what came out, number of episodes and their mean return
    """
    command = [sys.executable, "-c", LEARN, ROWS[row], str(seed), str(transitions)]
    environ = {**os.environ, "PYTHONPATH": str(folder), "SB3_CA2E_AGENTS": ""}
    done = subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True, text=True)
    found: dict[str, str | float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier one")
    parser.add_argument("--transitions", type=int, default=4000, help="of each run")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="where results go")
    args = parser.parse_args()

    measured_on, results = provenance(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {commit: pathlib.Path(temporary, commit) for commit in (args.commit, "HEAD")}
        earlier, now = [checked_out(commit, folder) for commit, folder in folders.items()]
        lines = [f"# Bit by bit: {now} beside {earlier}", "", f'{args.transitions} transitions in `"sync"`.', ""]
        lines += ["| row | seed | episodes | mean return | the same |", "| --- | --- | --- | --- | --- |"]
        for row in ROWS:
            for seed in SEEDS:
                before, after = (learn(folder, row, seed, args.transitions) for folder in folders.values())
                results[f"{row}, seed {seed}"] = {earlier: before, now: after}
                same = "yes" if before == after else "**no**"
                lines.append(f"| {row} | {seed} | {after['episodes']} | {after['mean return']:.1f} | {same} |")
                print(lines[-1], flush=True)
    lines += ["", describe(measured_on)]
    write_results(args.out, f"bit_equal_to_{earlier}", {"rows": results, "measured_on": measured_on}, "\n".join(lines))
    sys.exit("**no**" in "\n".join(lines))


if __name__ == "__main__":
    main()
