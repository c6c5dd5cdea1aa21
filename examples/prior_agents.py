"""
LunarLander with three agents of the package as priors: what each slot does, and what has been learned.

Needs the extra ``box2d``: python examples/prior_agents.py
"""

import argparse

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ca2e import CA2EDQN

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--env", default="LunarLander-v3")
parser.add_argument("--priors", nargs="*", default=["zoo:ppo", "zoo:dqn", "zoo:a2c"])
parser.add_argument("--transitions", type=int, default=100_000)
args = parser.parse_args()

model = CA2EDQN(
    "MlpPolicy",
    args.env,
    learning_rate=7e-4,
    batch_size=64,
    train_freq=2,
    target_update_interval=500,
    exploration_final_eps=0.05,
    prior_agents=args.priors,
    verbose=1,  # ends with a line that says what bounds the run
)
model.learn(args.transitions, log_interval=100)

for row in model.actor_stats:
    reward = "no game over yet" if row["ep_rew_mean"] is None else f"{row['ep_rew_mean']:7.1f} a game"
    since = f", retired at {row['retired_at']:,}" if row["retired_at"] is not None else ""
    print(f"slot {row['slot']}: {row['kind']:6}  {row['transitions']:7,} transitions  {reward}{since}")
mean, deviation = evaluate_policy(model, make_vec_env(args.env, seed=1_000), n_eval_episodes=20)
print(f"learned: {mean:.1f} ± {deviation:.1f} a game")
