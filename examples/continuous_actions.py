"""
Pendulum with CA2EDDPG in the place of DDPG, on normalised observations; saved, loaded and evaluated.

python examples/continuous_actions.py
"""

import argparse
import pathlib
import tempfile

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e import CA2EDDPG

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--transitions", type=int, default=30_000)
parser.add_argument("--n-actors", type=int, default=8)
args = parser.parse_args()

env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=1), norm_reward=False)
model = CA2EDDPG(
    "MlpPolicy",
    env,
    gamma=0.98,
    batch_size=128,
    learning_starts=1_000,
    actor_learning_rate=1e-3,
    n_actors=args.n_actors,
)
model.learn(args.transitions)

with tempfile.TemporaryDirectory() as folder:
    model.save(pathlib.Path(folder, "pendulum"))
    env.save(str(pathlib.Path(folder, "vecnormalize.pkl")))
    fresh = VecNormalize.load(str(pathlib.Path(folder, "vecnormalize.pkl")), make_vec_env("Pendulum-v1", seed=1_000))
    fresh.training = False
    model = CA2EDDPG.load(pathlib.Path(folder, "pendulum"), env=fresh)
    mean, deviation = evaluate_policy(model, fresh, n_eval_episodes=20)
print(f"learned: {mean:.1f} ± {deviation:.1f} a game")
