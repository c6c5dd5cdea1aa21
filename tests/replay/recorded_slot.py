"""A slot that makes up a stream of steps, and remembers all of it in plain lists."""

from dataclasses import dataclass, field

import numpy as np

from sb3_ca2e.replay import Block, ObservationColumn, lead_frames
from sb3_ca2e.replay.block import PRIOR, TERMINATED, TRANSITION, TRUNCATED

Frames = dict[str, np.ndarray]


@dataclass
class Step:
    """A step as the environment made it; observations with their stacks."""

    id: int
    observation: Frames
    next_observation: Frames
    reward: float
    terminated: bool
    truncated: bool
    prior: bool
    priority: float


@dataclass
class RecordedSlot:
    """
    Random episodes, handed over in blocks. The action of a step is its id, unique among all slots.

    :param slot: the slot
    :param columns: what its frames and observations are made of
    :param rng: random numbers
    :param end_probability: of a step
    """

    slot: int
    columns: dict[str, ObservationColumn]
    rng: np.random.Generator
    end_probability: float = 0.2
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._forget_frames()
        self.reset()

    def _forget_frames(self) -> None:
        nothing = {key: np.zeros(column.frame_shape, column.dtype) for key, column in self.columns.items()}
        self.lead_frames = [nothing] * lead_frames(self.columns)

    def reset(self) -> None:
        """Start an episode."""
        self.episode = [self._frame()]

    def _frame(self) -> Frames:
        # never zero, so that a zero frame in a stack is one that was put there
        return {
            key: self.rng.integers(1, 250, column.frame_shape).astype(column.dtype)
            for key, column in self.columns.items()
        }

    def _observation(self) -> Frames:
        """As VecFrameStack makes it: zeros before the episode's start, the newest frame last."""
        observation = {}
        for key, column in self.columns.items():
            frames = [frame[key] for frame in self.episode]
            stack = [np.zeros(column.frame_shape, column.dtype)] * column.n_stack + frames
            whole = column.n_stack > 1
            observation[key] = np.concatenate(stack[-column.n_stack :], axis=column.axis) if whole else frames[-1]
        return observation

    def _age(self) -> int:
        return min(len(self.episode) - 1, lead_frames(self.columns))

    def block(self, n_steps: int, next_id: int) -> Block:
        """Make steps, record them, and hand them over."""
        frames, rows, ages = list(self.lead_frames), [], []
        for step_id in range(next_id, next_id + n_steps):
            observation, frame, age = self._observation(), self.episode[-1], self._age()
            ends = self.rng.random() < self.end_probability
            terminated = bool(ends and self.rng.random() < 0.5)
            self.episode.append(self._frame())
            # Small whole rewards with gamma 0.5 make returns that float32 holds exactly.
            reward, priority = float(self.rng.integers(-8, 8)), float(self.rng.random() + 0.1)
            prior = bool(self.rng.random() < 0.3)
            self.steps.append(
                Step(
                    step_id,
                    observation,
                    self._observation(),
                    reward,
                    terminated,
                    ends and not terminated,
                    prior,
                    priority,
                )
            )
            flags = TRANSITION | (TERMINATED if terminated else TRUNCATED if ends else 0) | (PRIOR if prior else 0)
            frames.append(frame)
            ages.append(age)
            rows.append((step_id, reward, flags, priority))
            if ends:
                frames.append(self.episode[-1])
                ages.append(self._age())
                rows.append((0, 0.0, 0, 0.0))
                self.reset()
        self.lead_frames = frames[len(frames) - lead_frames(self.columns) :]
        frames.append(self.episode[-1])
        actions, rewards, flags, priorities = zip(*rows, strict=True)
        return Block(
            slot=self.slot,
            frames={key: np.stack([frame[key] for frame in frames]) for key in self.columns},
            actions=np.array(actions, dtype=np.int64).reshape(-1, 1),
            rewards=np.array(rewards, dtype=np.float32),
            flags=np.array(flags, dtype=np.uint8),
            ages=np.array([*ages, self._age()], dtype=np.uint8),
            priorities=np.array(priorities),
        )

    def cut(self, restart: bool) -> None:
        """The stream ends: its last step counts as truncated. The episode may go on in the next stream."""
        if self.steps and not self.steps[-1].terminated:
            self.steps[-1].truncated = True
        if restart:
            self._forget_frames()
            self.reset()

    def multi_step(self, index: int, n_steps: int, gamma: float) -> tuple[float, float, bool, Frames]:
        """Return, discount, done and next observation of the steps from one on, straight from the definition."""
        total, discount = 0.0, 1.0
        for step in self.steps[index : index + n_steps]:
            total += discount * step.reward
            discount *= gamma
            if step.terminated or step.truncated:
                break
        return total, discount, step.terminated, step.next_observation
