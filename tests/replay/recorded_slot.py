"""A slot that makes up a stream of steps, and remembers all of it in plain lists."""

from dataclasses import dataclass, field

import numpy as np

from sb3_ca2e.replay.block import OBSERVATION, PRIOR, TERMINATED, TRANSITION, TRUNCATED, Block


@dataclass
class Step:
    """A step as the environment made it; observations with their stacks."""

    id: int
    observation: np.ndarray
    next_observation: np.ndarray
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
    :param frame_shape: shape of a frame
    :param dtype: its dtype
    :param n_stack: frames in an observation, 1 for none
    :param axis: axis of their concatenation
    :param rng: random numbers
    :param end_probability: of a step
    """

    slot: int
    frame_shape: tuple[int, ...]
    dtype: type
    n_stack: int
    axis: int
    rng: np.random.Generator
    end_probability: float = 0.2
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lead_frames = [np.zeros(self.frame_shape, self.dtype)] * (self.n_stack - 1)
        self.reset()

    def reset(self) -> None:
        """Start an episode."""
        self.episode = [self._frame()]

    def _frame(self) -> np.ndarray:
        # never zero, so that a zero frame in a stack is one that was put there
        return self.rng.integers(1, 250, self.frame_shape).astype(self.dtype)

    def _observation(self) -> np.ndarray:
        """As VecFrameStack makes it: zeros before the episode's start, the newest frame last."""
        if self.n_stack == 1:
            return self.episode[-1]
        stack = [np.zeros(self.frame_shape, self.dtype)] * self.n_stack + self.episode
        return np.concatenate(stack[-self.n_stack :], axis=self.axis)

    def _age(self) -> int:
        return min(len(self.episode) - 1, self.n_stack - 1)

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
        self.lead_frames = frames[len(frames) - self.n_stack + 1 :]
        actions, rewards, flags, priorities = zip(*rows, strict=True)
        return Block(
            slot=self.slot,
            frames={OBSERVATION: np.stack([*frames, self.episode[-1]])},
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
            self.lead_frames = [np.zeros(self.frame_shape, self.dtype)] * (self.n_stack - 1)
            self.reset()

    def multi_step(self, index: int, n_steps: int, gamma: float) -> tuple[float, float, bool, np.ndarray]:
        """Return, discount, done and next observation of the steps from one on, straight from the definition."""
        total, discount = 0.0, 1.0
        for step in self.steps[index : index + n_steps]:
            total += discount * step.reward
            discount *= gamma
            if step.terminated or step.truncated:
                break
        return total, discount, step.terminated, step.next_observation
