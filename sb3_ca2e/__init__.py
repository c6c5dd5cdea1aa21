"""Compound Asynchronous Exploration and Exploitation for Stable-Baselines3."""

from sb3_ca2e.algorithms.ddpg import CA2EDDPG
from sb3_ca2e.algorithms.dqn import CA2EDQN
from sb3_ca2e.checkpoints.callback import CA2ECheckpointCallback
from sb3_ca2e.envs.builder_vec_env import BuilderVecEnv
from sb3_ca2e.envs.native.atari import make_atari_env
from sb3_ca2e.envs.native.envpool import make_envpool_env
from sb3_ca2e.envs.native.vec_env import NativeVecEnv
from sb3_ca2e.errors import ActorError, ActorWarning, DamagedError
from sb3_ca2e.priors.agent import PriorAgent
from sb3_ca2e.priors.reader.errors import UntrustedAgentError
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer

__version__ = "0.1.0"
__all__ = [
    "CA2EDDPG",
    "CA2EDQN",
    "ActorError",
    "ActorWarning",
    "BuilderVecEnv",
    "CA2ECheckpointCallback",
    "DamagedError",
    "NativeVecEnv",
    "PriorAgent",
    "PrioritizedReplayBuffer",
    "UntrustedAgentError",
    "make_atari_env",
    "make_envpool_env",
]
