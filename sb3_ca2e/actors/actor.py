"""An actor: slots that step their environments, nature or prior (Algorithms 1.1 and 1.2 of the paper)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ca2e.actors.envs import EnvRecipe, Frames, Observations, plain
from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.actors.inference import Acts, Inference
from sb3_ca2e.actors.monitors import SlotMonitor
from sb3_ca2e.actors.normalization import Normalizer
from sb3_ca2e.actors.transport import BlockBuffers, BlockLayout, Board, FlatParameters, Handover, Seconds
from sb3_ca2e.priors.agent import PriorAgent
from sb3_ca2e.replay.block import PRIOR, TERMINATED, TRANSITION, TRUNCATED, ObservationColumn
from sb3_ca2e.replay.n_step import n_step_return
from sb3_ca2e.replay.stacks import stacked

#: Every so many episodes, a nature slot plays one without exploration, to measure the learner.
GREEDY_EVERY = 10
#: Added to absolute TD errors, so that every transition keeps a chance.
PRIORITY_FLOOR = 1e-6
#: Rewards are kept in float32.
LARGEST_REWARD = float(np.finfo(np.float32).max)
# As Python's own numbers, with which it reckons faster.
_TRANSITION, _TERMINATED, _TRUNCATED, _PRIOR = map(int, (TRANSITION, TERMINATED, TRUNCATED, PRIOR))
_NO_AGES = np.zeros(0, dtype=np.int64)


class Behaviour(Acts, Protocol):
    """The hooks of an algorithm that run in the actors; see :class:`~sb3_ca2e.algorithm.CA2EMixin`."""

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: "Steps") -> tuple[th.Tensor, th.Tensor]: ...


@dataclass(frozen=True)
class ActorSpec:
    """
    All that one actor process is started with; plain data and modules, pickled once.

    :param process: index of the process
    :param slots: indices of its slots
    :param n_slots: slots of all processes
    :param seed: seed of the run; each slot derives its own
    :param recipe: how to build the environments
    :param behaviour: the algorithm's hooks
    :param modules: the learner's networks, on the CPU
    :param explorations: one a slot of this process
    :param priors: the prior agent of each slot of this process, or None
    :param n_steps: multi-step length
    :param gamma: discount factor
    :param block_size: transitions in a block
    :param update_interval: transitions that a slot makes between two looks for newer parameters
    :param warmup: transitions of all slots for which nature actors act at random
    :param n_learns: how often the model had learned before; each time sees new episodes
    :param info_keys: entries of ``info`` that reach the learner's callbacks
    :param statistics: those of VecNormalize at the start, as :meth:`Statistics.publish` gives them
    """

    process: int
    slots: list[int]
    n_slots: int
    seed: int
    recipe: EnvRecipe
    behaviour: type[Behaviour]
    modules: dict[str, th.nn.Module]
    explorations: list[Exploration]
    priors: list[PriorAgent | None]
    n_steps: int
    gamma: float
    block_size: int
    update_interval: int
    warmup: int = 0
    n_learns: int = 0
    info_keys: tuple[str, ...] = ()
    statistics: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    @property
    def n_parameters(self) -> int:
        """Numbers that the learner publishes."""
        return FlatParameters(self.modules).size + len(self.statistics)

    @property
    def layout(self) -> BlockLayout:
        """Layout of the blocks that its slots fill."""
        return BlockLayout(self.recipe.columns, self.block_size, *stored_action(self.recipe.action_space))

    def seed_of(self, slot: int) -> int:
        """
        :param slot: index of a slot
        :return: the seed that its environment and exploration are made with
        """
        return int(np.random.SeedSequence([self.seed, slot, self.n_learns]).generate_state(1)[0])


def stored_action(space: spaces.Space) -> tuple[tuple[int, ...], np.dtype]:
    """
    :param space: an action space
    :return: shape and dtype of an action as the learner stores it
    """
    if isinstance(space, spaces.Box):
        return (int(np.prod(space.shape)),), np.dtype(np.float32)
    return (1,), np.dtype(np.int64)


@dataclass
class Steps:
    """
    One slot's block as the networks see it, for :meth:`Behaviour.evaluate`.

    :param frames: for each key ``(lead + n_rows + 1, *frame_shape)``
    :param ages: ``(n_rows + 1,)``
    :param columns: how observations are stacked
    :param normalizer: what the learner normalises with, or None
    :param actions: ``(n_rows + 1, action_dim)``, zero where no step was taken
    :param outputs: ``(n_rows + 1, ...)`` what :meth:`Behaviour.act` returned beside the actions
    """

    frames: Frames
    ages: np.ndarray
    columns: dict[str, ObservationColumn]
    normalizer: Normalizer | None
    actions: th.Tensor
    outputs: th.Tensor

    @cached_property
    def observations(self) -> Any:
        """``(n_rows + 1, ...)`` observations, built only for algorithms that need them."""
        batch = {key: stacked(self.frames[key], self.ages, column) for key, column in self.columns.items()}
        return as_tensors(batch, self.ages, self.columns, self.normalizer)


def as_tensors(
    batch: Frames, ages: np.ndarray, columns: dict[str, ObservationColumn], normalizer: Normalizer | None
) -> Any:
    """
    :param batch: for each key ``(batch, *shape)`` raw observations
    :param ages: ``(batch,)`` frames of the episode that precede each
    :param columns: how they are stacked
    :param normalizer: what the learner normalises with, or None
    :return: what the networks take
    """
    if normalizer is not None:
        batch = normalizer.observations(batch, ages, columns)
    tensors: dict[str, Any] = {key: th.as_tensor(array) for key, array in batch.items()}
    return plain(tensors)


class Slot:
    """
    One environment with a policy on it, writing its steps into the block it fills.

    :param index: index among all slots
    :param env: its environment
    :param exploration: how it explores as a nature slot
    :param prior: its prior agent, None for a nature slot
    :param seed: seed of the environment and of the exploration
    """

    def __init__(self, index: int, env: SlotMonitor, exploration: Exploration, prior: PriorAgent | None, seed: int):
        self.index, self.env, self.exploration, self.prior = index, env, exploration, prior
        self.rng = np.random.default_rng(seed)
        self.state: Any = None
        self.games = 0
        self.greedy = False
        self.age = 0
        self.raw, _ = env.reset(seed=int(self.rng.integers(2**31)))
        self._new_game()

    def choose(self, greedy_action: Any, progress: float, warmup: bool) -> Any:
        """
        :param greedy_action: the learner's own action
        :param progress: share of the training that is done
        :param warmup: learning has not started
        :return: the action of a nature slot, as the learner stores it
        """
        if self.greedy:
            return greedy_action
        if warmup:
            return self.exploration.random(self.rng)
        return self.exploration.explore(greedy_action, progress, self.rng)

    def reset(self, game_over: bool, retired: bool) -> None:
        """
        Begin the next episode.

        :param game_over: the episode was the last of its game (Atari's lives are episodes of one game)
        :param retired: the prior has been beaten; this slot is a nature slot from now on
        """
        self.raw, _ = self.env.reset()
        self.age, self.state = 0, None
        self.exploration.reset()
        if retired and self.prior is not None:
            self.prior, game_over, self.games = None, True, 0
            self.env.prior_retired()
        if game_over:
            self._new_game()

    def _new_game(self) -> None:
        self.games += 1
        self.greedy = self.prior is None and self.games % GREEDY_EVERY == 0


class Actor:
    """
    The slots of one process, stepped together so that one forward pass serves them all.

    :param spec: what to run
    :param board: what the learner publishes
    :param buffers: where blocks are written
    """

    def __init__(self, spec: ActorSpec, board: Board, buffers: BlockBuffers):
        self.spec, self.board, self.buffers = spec, board, buffers
        self.flat = FlatParameters(spec.modules).bind(extra=len(spec.statistics))
        n_statistics = len(spec.statistics)
        self.flat[len(self.flat) - n_statistics :] = spec.statistics
        normalization = spec.recipe.normalization
        self.normalizer = normalization.views(self.flat[-n_statistics:]) if normalization is not None else None
        self.version, self.sequence, self.steps = 0, 0, 0
        self.collecting = -1  # the slot whose environment is being called, to name it when that fails
        self._environments = self._inference = 0.0  # seconds since collecting began
        self.slots: list[Slot] = []
        self.observations = Observations(spec.recipe, len(spec.slots))
        self._policy = Inference(spec.behaviour, spec.modules, len(spec.slots))
        self._batch = None if self.normalizer is not None else self._seen(self.observations.batch, _NO_AGES)
        space = spec.recipe.action_space
        self._box = space if isinstance(space, spaces.Box) else None
        self._span = space.high - space.low if isinstance(space, spaces.Box) else None

    def open(self) -> None:
        """Make the environments."""
        spec = self.spec
        for index, exploration, prior in zip(spec.slots, spec.explorations, spec.priors, strict=True):
            self.collecting = index
            slot = Slot(index, spec.recipe.build(index, prior is not None), exploration, prior, spec.seed_of(index))
            self.observations.reset(len(self.slots), self.observations.frames(slot.raw))
            self.slots.append(slot)
        self.collecting = -1

    @th.inference_mode()
    def collect(self, waited: float = 0.0) -> Handover:
        """
        Fill one block for each slot.

        :param waited: seconds that this actor waited before
        :return: the announcement to send
        """
        started = time.perf_counter()
        self._environments = self._inference = 0.0
        self._refresh()
        buffer = self.buffers.views[self.sequence % len(self.buffers.views)]
        recorders = [self._open(position, views) for position, views in enumerate(buffer)]
        handover = Handover(self.spec.process, self.sequence, version=self.version)
        for t in range(self.spec.block_size):
            if self.board.stopped:
                break
            self._step(t, recorders, handover)
        self._close(recorders)
        handover.n_rows = [recorder.n_rows for recorder in recorders]
        handover.seconds = Seconds(time.perf_counter() - started, waited, self._environments, self._inference)
        self.sequence += 1
        return handover

    def close(self) -> None:
        """Close the environments."""
        for slot in self.slots:
            self.collecting = slot.index
            slot.env.close()

    def _refresh(self) -> None:
        """Look for newer parameters (Algorithm 1.2), only between blocks: a block has one version."""
        every = max(round(self.spec.update_interval / self.spec.block_size), 1)
        if (self.version == 0 or self.sequence % every == 0) and self.board.version != self.version:
            self.version = self.board.read(self.flat)
            self._policy.parameters_changed()

    def _open(self, position: int, views: dict[str, np.ndarray]) -> "Recorder":
        slot = self.slots[position]
        older, newest = self.observations.past(position)
        return Recorder(views, older, newest, slot.age, prior=slot.prior is not None)

    def _step(self, t: int, recorders: Sequence["Recorder"], handover: Handover) -> None:
        """One step of every slot."""
        greedy, outputs = self._act()
        progress = self.board.progress
        warmup = self.steps * self.spec.n_slots < self.spec.warmup
        for position, slot in enumerate(self.slots):
            self.collecting = slot.index
            recorder = recorders[position]
            if slot.prior is None:
                stored = slot.choose(greedy[position], progress, warmup)
                action = self._unscaled(stored)
            else:
                action = self._bounded(self._of_prior(slot.prior, slot, position))
                stored = self._scaled(action)
            started = time.perf_counter()
            raw, reward, terminated, truncated, info = slot.env.step(action)
            self._environments += time.perf_counter() - started
            recorder.step(stored, _finite(reward), terminated, truncated, outputs[position])
            slot.age += 1
            frames = self.observations.frames(raw)
            self.observations.push(position, frames)
            recorder.frame(frames, slot.age)
            if terminated or truncated:
                self._episode_end(t, position, recorder, info, truncated and not terminated, handover)
            elif self.spec.info_keys and (kept := {k: info[k] for k in self.spec.info_keys if k in info}):
                handover.infos[t, position] = kept
        self.collecting = -1
        self.steps += 1

    def _of_prior(self, prior: PriorAgent, slot: Slot, position: int) -> Any:
        """What a prior agent does, as the environment takes it."""
        started = time.perf_counter()
        observation = plain({key: batch[position][None] for key, batch in self.observations.batch.items()})
        action, slot.state = prior.predict(observation, slot.state, np.array([slot.age == 0]))
        self._inference += time.perf_counter() - started
        return action[0]

    def _episode_end(
        self, t: int, position: int, recorder: "Recorder", info: dict, truncated: bool, handover: Handover
    ) -> None:
        slot = self.slots[position]
        recorder.end_episode(self.observations.of(position), slot.age)
        kept = {key: info[key] for key in ("episode", "is_success", *self.spec.info_keys) if key in info}
        handover.infos[t, position] = {**kept, "TimeLimit.truncated": truncated}
        game = info.get("episode")
        if game is not None:
            handover.games[t, position] = float(game["r"]), slot.greedy
        started = time.perf_counter()
        slot.reset(game_over=game is not None, retired=self.board.retired(slot.index))
        self._environments += time.perf_counter() - started
        recorder.prior = slot.prior is not None
        frames = self.observations.frames(slot.raw)
        self.observations.reset(position, frames)
        recorder.frame(frames, slot.age)

    def _close(self, recorders: Sequence["Recorder"]) -> None:
        """Priorities of the blocks, by the parameters that chose the actions (Algorithm 2)."""
        outputs = self._act()[1]
        for position, recorder in enumerate(recorders):
            self._fill_last_outputs(recorder, outputs[position])
            steps = recorder.steps(self.spec.recipe.columns, self.normalizer)
            started = time.perf_counter()
            q_taken, values = self.spec.behaviour.evaluate(self.spec.modules, steps)
            self._inference += time.perf_counter() - started
            rewards = recorder.rewards[: recorder.n_rows]
            if self.normalizer is not None:
                rewards = self.normalizer.rewards(rewards)
            recorder.write_priorities(rewards, q_taken, values, self.spec.n_steps, self.spec.gamma)

    def _act(self) -> tuple[np.ndarray, np.ndarray]:
        """Greedy actions of all slots, and what the algorithm keeps beside them for the priorities."""
        started = time.perf_counter()
        batch = self._batch
        if batch is None:
            batch = self._seen(self.observations.batch, np.array([slot.age for slot in self.slots]))
        results = self._policy(batch, len(self.slots))
        self._inference += time.perf_counter() - started
        return results

    def _seen(self, batch: Frames, ages: np.ndarray) -> Any:
        """What the networks see; without statistics, views that show what is written there later."""
        return as_tensors(batch, ages, self.spec.recipe.columns, self.normalizer)

    def _fill_last_outputs(self, recorder: "Recorder", closing: np.ndarray) -> None:
        """What the networks say about the last observations of episodes, on which no step was taken."""
        if recorder.terminal:
            rows, observations, ages = zip(*recorder.terminal, strict=True)
            batch = {key: np.stack([each[key] for each in observations]) for key in observations[0]}
            outputs = self._policy(self._seen(batch, np.array(ages)), len(rows))[1]
            for row, output in zip(rows, outputs, strict=True):
                recorder.outputs[row] = output
        recorder.outputs[recorder.n_rows] = closing

    def _unscaled(self, stored: Any) -> Any:
        """From an action as the learner stores it to one that the environment takes."""
        if self._box is None:
            return int(stored)
        low = self._box.low
        return low + 0.5 * (stored.reshape(low.shape) + 1.0) * self._span

    def _bounded(self, action: Any) -> Any:
        """An agent trained with wider bounds must not leave the environment's: what is stored is what was done."""
        return action if self._box is None else np.clip(action, self._box.low, self._box.high)

    def _scaled(self, action: Any) -> Any:
        """From an action within the bounds to one as the learner stores it."""
        if self._box is None:
            return action
        low, high = self._box.low, self._box.high
        span = np.where(high > low, high - low, 1)  # what can't be chosen must not become NaN
        return (2.0 * ((action - low) / span) - 1.0).reshape(-1)


class Recorder:
    """
    Writes the rows of one slot's block in place.

    :param views: the block's fields
    :param older: the frames before the first row that its stack reaches back to
    :param newest: the frame of the first row
    :param age: steps since the episode began
    :param prior: the steps are a prior agent's
    """

    def __init__(self, views: dict[str, np.ndarray], older: list[Frames], newest: Frames, age: int, prior: bool):
        self.views, self.lead, self.prior = views, len(older), prior
        self.frames = {key: views[f"frames/{key}"] for key in newest}
        self.actions, self.rewards = views["actions"], views["rewards"]
        self.flags, self.ages = views["flags"], views["ages"]
        self.n_rows = 0
        self.outputs: list[Any] = [None] * len(self.ages)
        self.terminal: list[tuple[int, Frames, int]] = []
        for row, frames in enumerate(older):
            for key, frame in frames.items():
                self.frames[key][row] = frame
        self.frame(newest, age)

    def frame(self, frames: Frames, age: int) -> None:
        """
        The frame of the row that comes next.

        :param frames: it
        :param age: steps since the episode began
        """
        for key, frame in frames.items():
            self.frames[key][self.lead + self.n_rows] = frame
        self.ages[self.n_rows] = min(age, self.lead)

    def step(self, action: Any, reward: float, terminated: bool, truncated: bool, outputs: np.ndarray) -> None:
        """
        A step from the frame that stands there.

        :param action: as the learner stores it
        :param reward: raw reward
        :param terminated: the episode ended here, worth nothing more
        :param truncated: it was cut off here
        :param outputs: what the networks said about the observation
        """
        row = self.n_rows
        self.actions[row] = action
        self.rewards[row] = reward
        ended = _TERMINATED if terminated else _TRUNCATED if truncated else 0
        self.flags[row] = _TRANSITION | ended | (_PRIOR if self.prior else 0)
        self.outputs[row] = outputs
        self.n_rows += 1

    def end_episode(self, observation: Frames, age: int) -> None:
        """
        Keep the frame that stands there as the episode's last.

        :param observation: the whole last observation
        :param age: steps since the episode began
        """
        row = self.n_rows
        self.flags[row], self.rewards[row], self.actions[row] = 0, 0, 0
        self.terminal.append((row, observation, age))
        self.n_rows += 1

    def steps(self, columns: dict[str, ObservationColumn], normalizer: Normalizer | None) -> Steps:
        """
        :param columns: how observations are stacked
        :param normalizer: what the learner normalises with, or None
        :return: the block as the networks see it
        """
        n = self.n_rows
        self.actions[n:] = 0
        return Steps(
            {key: frames[: self.lead + n + 1] for key, frames in self.frames.items()},
            self.ages[: n + 1],
            columns,
            normalizer,
            th.as_tensor(self.actions[: n + 1]) if n < len(self.actions) else _with_zero(self.actions),
            th.as_tensor(np.stack(self.outputs[: n + 1])),
        )

    def write_priorities(
        self, rewards: np.ndarray, q_taken: th.Tensor, values: th.Tensor, n_steps: int, gamma: float
    ) -> None:
        """
        Priorities |R + gamma^k v(s_k) - q(s, a)|, with as many steps as the memory would use now.

        :param rewards: ``(n_rows,)`` as the learner trains on them
        :param q_taken: ``(n_rows + 1,)`` q(s, a)
        :param values: ``(n_rows + 1,)`` the value to bootstrap from
        :param n_steps: multi-step length
        :param gamma: discount factor
        """
        flags = th.as_tensor(self.flags[: self.n_rows])
        rows = th.arange(self.n_rows)
        window = rows[:, None] + th.arange(n_steps)
        within = window.clamp(max=self.n_rows - 1)
        available = (window < self.n_rows) & (flags[within] & int(TRANSITION) > 0)
        ended = flags[within] & int(TERMINATED | TRUNCATED) > 0
        returns, length = n_step_return(th.as_tensor(rewards)[within], ended, available, gamma)
        bootstrapped = flags[(rows + length - 1).clamp(min=0)] & int(TERMINATED) == 0
        targets = returns + bootstrapped * gamma**length * values[rows + length]
        error = (targets - q_taken[:-1]).abs().double() + PRIORITY_FLOOR
        transition = flags & int(TRANSITION) > 0
        self.views["priorities"][: self.n_rows] = th.where(transition, error, 0.0).numpy()


def _finite(reward: Any) -> float:
    """A reward, unless float32, in which it is kept, can't hold it."""
    value = float(reward)
    if not abs(value) <= LARGEST_REWARD:
        raise ValueError(
            f"The environment returned the reward {value}. Rewards must be finite, and learning would be lost from "
            "there on: correct the environment, or let the episode end before its state diverges."
        )
    return value


def _with_zero(actions: np.ndarray) -> th.Tensor:
    return th.as_tensor(np.concatenate([actions, np.zeros_like(actions[:1])]))
