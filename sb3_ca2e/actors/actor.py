"""An actor: slots that step their environments, nature or prior (Algorithms 1.1 and 1.2 of the paper)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ca2e.actors.envs import EnvRecipe
from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.actors.inference import Acts, Inference
from sb3_ca2e.actors.monitors import SlotMonitor
from sb3_ca2e.actors.observations import Frames, Observations, plain
from sb3_ca2e.actors.recorder import Recorder, Steps, as_tensors, write_priorities
from sb3_ca2e.actors.transport import BlockBuffers, BlockLayout, Board, FlatParameters, Handover, Seconds
from sb3_ca2e.priors.agent import PriorAgent

#: Every so many episodes, a nature slot plays one without exploration, to measure the learner.
GREEDY_EVERY = 10
#: Rewards are kept in float32.
LARGEST_REWARD = float(np.finfo(np.float32).max)
_NO_AGES = np.zeros(0, dtype=np.int64)


class Behaviour(Acts, Protocol):
    """The hooks of an algorithm that run in the actors; see :class:`~sb3_ca2e.algorithm.CA2EMixin`."""

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: Steps) -> tuple[th.Tensor, th.Tensor]: ...


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

    def _open(self, position: int, views: dict[str, np.ndarray]) -> Recorder:
        slot = self.slots[position]
        older, newest = self.observations.past(position)
        return Recorder(views, older, newest, slot.age, prior=slot.prior is not None)

    def _step(self, t: int, recorders: Sequence[Recorder], handover: Handover) -> None:
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
        self, t: int, position: int, recorder: Recorder, info: dict, truncated: bool, handover: Handover
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

    def _close(self, recorders: Sequence[Recorder]) -> None:
        """Priorities of the blocks, by the parameters that chose the actions (Algorithm 2)."""
        outputs = self._act()[1]
        rewards, q_taken, values = [], [], []
        for position, recorder in enumerate(recorders):
            self._fill_last_outputs(recorder, outputs[position])
            steps = recorder.steps(self.spec.recipe.columns, self.normalizer)
            started = time.perf_counter()
            rated = self.spec.behaviour.evaluate(self.spec.modules, steps)
            self._inference += time.perf_counter() - started
            q_taken.append(rated[0])
            values.append(rated[1])
            raw = recorder.rewards[: recorder.n_rows]
            rewards.append(raw if self.normalizer is None else self.normalizer.rewards(raw))
        write_priorities(recorders, rewards, q_taken, values, self.spec.n_steps, self.spec.gamma)

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

    def _fill_last_outputs(self, recorder: Recorder, closing: np.ndarray) -> None:
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


def _finite(reward: Any) -> float:
    """A reward, unless float32, in which it is kept, can't hold it."""
    value = float(reward)
    if not abs(value) <= LARGEST_REWARD:
        raise ValueError(
            f"The environment returned the reward {value}. Rewards must be finite, and learning would be lost from "
            "there on: correct the environment, or let the episode end before its state diverges."
        )
    return value
