"""
A run that may be stopped at any time: start it again, and it goes on from its newest whole checkpoint.

python examples/interrupted.py    # Ctrl-C, then the same again
"""

import argparse
import pathlib

from sb3_ca2e import CA2EDQN, CA2ECheckpointCallback

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--transitions", type=int, default=100_000, help="of all parts of the run together")
parser.add_argument("--every", type=int, default=5_000, help="transitions between two checkpoints")
parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/interrupted"))
args = parser.parse_args()

if any(args.folder.glob("*_steps")):
    model = CA2EDQN.resume(args.folder, "CartPole-v1")
    print(f"goes on from {model.num_timesteps:,} transitions")
else:
    model = CA2EDQN("MlpPolicy", "CartPole-v1", learning_rate=1e-3, prior_agents=["zoo:ppo"])
callback = CA2ECheckpointCallback(args.every, args.folder, save_replay_buffer=True, keep_last=2)
try:
    model.learn(args.transitions - model.num_timesteps, callback, reset_num_timesteps=False)
    print(f"done after {model.num_timesteps:,} transitions")
except KeyboardInterrupt:
    print(f"stopped after {model.num_timesteps:,} transitions; start it again to go on")
