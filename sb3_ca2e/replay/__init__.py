"""The replay memory: prioritized, multi-step, with each frame stored once."""

from sb3_ca2e.replay.block import Block, ObservationColumn, lead_frames, observation_columns
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer
from sb3_ca2e.replay.samples import PrioritizedReplaySamples

__all__ = [
    "Block",
    "ObservationColumn",
    "PrioritizedReplayBuffer",
    "PrioritizedReplaySamples",
    "lead_frames",
    "observation_columns",
]
