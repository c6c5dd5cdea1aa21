"""Compound Asynchronous Exploration and Exploitation for Stable-Baselines3."""

from sb3_ca2e.actors.builder_vec_env import BuilderVecEnv
from sb3_ca2e.actors.supervision import ActorError, ActorWarning
from sb3_ca2e.checkpoints import CA2ECheckpointCallback
from sb3_ca2e.ddpg import CA2EDDPG
from sb3_ca2e.dqn import CA2EDQN
from sb3_ca2e.native.atari import make_atari_env
from sb3_ca2e.native.envpool import make_envpool_env
from sb3_ca2e.native.vec_env import NativeVecEnv
from sb3_ca2e.priors.agent import PriorAgent
from sb3_ca2e.priors.reader.errors import UntrustedAgentError
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer
from sb3_ca2e.sums import DamagedError

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
