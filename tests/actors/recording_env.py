"""Environments that remember everything that happened to them, and actors on them in this process."""

import sys
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.heartbeat import Supervision
from sb3_ca2e.actors.spec import WorkerSpec
from sb3_ca2e.actors.worker import Worker
from sb3_ca2e.envs.recipe import recipe_from
from sb3_ca2e.learner.statistics import Statistics
from sb3_ca2e.replay.block import Block
from sb3_ca2e.transport.in_process import InProcessPort


@dataclass
class Step:
    """One step, and the frame that it led to."""

    action: Any
    reward: float
    terminated: bool
    truncated: bool
    frame: np.ndarray


@dataclass
class Episode:
    """An episode from its first frame on."""

    first: np.ndarray
    steps: list[Step] = field(default_factory=list)

    def frame(self, t: int) -> np.ndarray:
        """The frame after ``t`` steps."""
        return self.steps[t - 1].frame if t else self.first


class RecordingEnv(gym.Env):
    """
    Episodes of varied lengths, terminated and truncated, whose frames tell seed, episode and step.

    :param image: frames are images of 36 by 36, channels last, instead of vectors of 4
    :param action_space: three actions unless another is given
    :param lengths: of the episodes, in turn; every second one is truncated
    """

    def __init__(self, image: bool = False, action_space: spaces.Space | None = None, lengths=(1, 7, 2, 13, 3, 5)):
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8) if image else spaces.Box(-1, 1, (4,))
        self.action_space = action_space or spaces.Discrete(3)
        self.lengths = lengths
        self.seed = 0
        self.episodes: list[Episode] = []

    def _frame(self, t: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, len(self.episodes), t])
        if self.observation_space.dtype == np.uint8:
            return rng.integers(1, 256, (36, 36, 1), dtype=np.uint8)
        return rng.uniform(-1, 1, 4).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = self.seed if seed is None else seed
        self.episodes.append(Episode(self._frame(0)))
        return self.episodes[-1].first, {}

    def step(self, action):
        episode, index = self.episodes[-1], len(self.episodes) - 1
        t = len(episode.steps) + 1
        over = t == self.lengths[index % len(self.lengths)]
        reward = float(np.float32(np.sin(self.seed + 31 * index + 7 * t)))
        step = Step(np.copy(action), reward, over and index % 2 == 0, over and index % 2 == 1, self._frame(t))
        episode.steps.append(step)
        return step.frame, reward, step.terminated, step.truncated, {}


def published_statistics(model: BaseAlgorithm) -> np.ndarray:
    """Those of the model's ``VecNormalize``, none without one."""
    recipe = recipe_from(model.env)
    if recipe.normalization is None:
        return np.zeros(0, dtype=np.float32)
    return Statistics(model.get_vec_normalize_env(), recipe.normalization, recipe.columns).publish()


def make_spec(model: BaseAlgorithm, **changes: Any) -> WorkerSpec:
    """What the only actor of ``model`` would be started with; ``changes`` are fields of :class:`WorkerSpec`."""
    n_slots = model.n_slots
    fields: dict[str, Any] = {
        "process": 0,
        "slots": list(range(n_slots)),
        "n_slots": n_slots,
        "seed": 1,
        "recipe": recipe_from(model.env),
        "core": type(model),
        "modules": {name: module.train(False) for name, module in model.published_modules().items()},
        "explorations": model.explorations(),
        "priors": [None] * n_slots,
        "n_steps": model.n_steps,
        "gamma": model.gamma,
        "block_size": 10,
        "update_interval": 10,
        "supervision": Supervision(restarts=10, timeout=60.0),
        "greedy_after": sys.maxsize,  # only every tenth game
        "statistics": published_statistics(model),
    }
    fields |= changes
    asked = [{"seed": 1000 * fields["seed"] + slot} for slot in fields["slots"]]
    return WorkerSpec(**{"asked": asked, **fields})


class LocalActor:
    """
    An actor in this process.

    :param spec: what to run
    """

    def __init__(self, spec: WorkerSpec):
        self.spec = spec
        self.port = InProcessPort(spec.layout, spec.slots)
        self.actor = Worker(spec, self.port)
        self.actor.open()
        #: the parameters of every version that was published
        self.published: list[np.ndarray | None] = [None]

    def publish(self, model: BaseAlgorithm) -> None:
        """Show the model's present parameters and statistics."""
        self.published.append(FlatParameters(model.published_modules()).get())
        parameters = np.concatenate([self.published[-1], published_statistics(model)])
        self.port.show(parameters, self.port.version + 1)

    def collect(self) -> tuple[int, list[Block]]:
        """The version and copies of the next blocks, one a slot."""
        handover = self.actor.collect()
        blocks = self.port.blocks(handover.n_rows)
        return handover.version, [_copied(block) for block in blocks]

    def episodes(self, position: int) -> list[Episode]:
        """What the environment of a slot recorded."""
        return self.actor.slots[position].env.unwrapped.episodes


def _copied(block: Block) -> Block:
    arrays = {name: np.copy(getattr(block, name)) for name in ("actions", "rewards", "flags", "ages", "priorities")}
    return Block(block.slot, {key: np.copy(frames) for key, frames in block.frames.items()}, **arrays)
