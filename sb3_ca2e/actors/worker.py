"""The actor: steps the environments of its slots, nature or prior (Algorithms 1.1 and 1.2 of the paper)."""

import copy
import dataclasses
import time
import traceback
from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.actors.actions import ActionScale
from sb3_ca2e.actors.exploration import samples_of
from sb3_ca2e.actors.explorer import Explorer
from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.handover import Handover, Seconds
from sb3_ca2e.actors.heartbeat import Phase
from sb3_ca2e.actors.inference import TRACE_AFTER, Inference, as_tensors
from sb3_ca2e.actors.local_buffer import LocalBuffer
from sb3_ca2e.actors.observations import (
    PRIOR_FAILURES,
    InvalidSteps,
    Observations,
    allowed_actions,
    finite_reward,
    not_finite,
    unsound_action,
)
from sb3_ca2e.actors.orders import Call, calls_of, settings_of
from sb3_ca2e.actors.port import Networks, Port
from sb3_ca2e.actors.slot import Playing, Slot
from sb3_ca2e.actors.spec import WorkerSpec
from sb3_ca2e.envs.copies.generators import ProcessGenerators
from sb3_ca2e.envs.slot_monitor import SlotMonitor
from sb3_ca2e.envs.vector_slots import VecEnvSlot
from sb3_ca2e.errors import NotFiniteError, UnrecoverableError
from sb3_ca2e.priors.loaded import LoadedPrior
from sb3_ca2e.replay.block import Frames, plain

_NO_AGES = np.zeros(0, dtype=np.int64)


class Worker:
    """
    The slots of one process, stepped together so that one forward pass serves them all.

    :param spec: what to run
    :param port: the learner's messages, and memory for blocks
    :param remote: networks in another process; None uses those of the spec
    :param alone: whether the process is the actor's own and not the learner's
    """

    def __init__(self, spec: WorkerSpec, port: Port, remote: Networks | None = None, alone: bool = False):
        self.spec, self.port = spec, port
        self.flat = FlatParameters(spec.modules).bind(extra=len(spec.statistics))
        n_statistics = len(spec.statistics)
        self.flat[len(self.flat) - n_statistics :] = spec.statistics
        normalization = spec.recipe.normalization
        self.normalizer = normalization.views(self.flat[-n_statistics:]) if normalization is not None else None
        self.version, self.sequence, self.steps = 0, 0, 0
        self._settings_seen = 0
        #: for each slot the number of the newest order whose calls it has repeated, and calls to repeat from a snapshot
        self.calls_seen, self.calls_due = [0] * len(spec.slots), [list[Call]() for _ in spec.slots]
        self.pulse = port.pulse
        self._environments = self._inference = 0.0  # seconds since collecting began
        self.slots: list[Slot] = []
        self.observations = Observations(spec.recipe, len(spec.slots))
        self._remote = remote
        self._generators = ProcessGenerators(alone)
        # A replacement joins a long run: trace at once, nobody waits for its first block.
        trace_after = TRACE_AFTER if spec.life == 0 else 1
        self._policy = remote or Inference(spec.core, spec.modules, len(spec.slots), trace_after)
        self._batch = None if self.normalizer is not None else self._seen(self.observations.batch, _NO_AGES)
        masks = self.observations.action_masks
        self._masks = None if masks is None else th.from_numpy(masks)  # follows later changes
        self._scale = ActionScale(spec.recipe.action_space)
        self._local_buffer = LocalBuffer(self.observations, spec.layout, len(spec.slots))
        self._invalid_steps = InvalidSteps(len(spec.slots))
        self._broken: dict[int, str] = {}
        self._current: tuple[np.ndarray, np.ndarray] | None = None  # network results for the current observations

    @property
    def collecting(self) -> int:
        """Slot whose environment is being called, named if that fails; -1 for none."""
        return self.pulse.slot

    @collecting.setter
    def collecting(self, slot: int) -> None:
        self.pulse.beat(slot)

    def open(self) -> None:
        """Create the environments."""
        spec = self.spec
        retired = map(self.port.retired, spec.slots)
        priors = [None if gone else prior for prior, gone in zip(spec.priors, retired, strict=True)]
        with_prior = [prior is not None for prior in priors]
        self._together = spec.recipe.build_together(spec.slots, with_prior, spec.seed_of(spec.slots[0]))
        seats = self._together.seats if self._together is not None else [None] * len(spec.slots)
        self._obey_together()
        asked = spec.asked if spec.asked and spec.life == 0 else [{"seed": None}] * len(spec.slots)
        who = zip(spec.slots, seats, spec.explorations, priors, asked, strict=True)
        for index, seat, exploration, prior, at_first in who:
            self.collecting = index
            seed = spec.seed_of(index)
            env = seat or spec.recipe.build(index, prior is not None, seed, self._generators)
            self._obey(len(self.slots), env)
            self.slots.append(Slot(index, env, exploration, prior, seed, at_first, spec))
            self._generators.note()
            self._show_first(len(self.slots) - 1)
        self.collecting = -1
        for slot in self.slots:
            if (samples := samples_of(slot.exploration)) is not None:
                samples.begin(slot.env, int(slot.rng.integers(2**31)))
        rngs = [slot.rng for slot in self.slots]
        self._explorer = Explorer(spec.explorations, rngs, spec.block_size, self.observations.action_masks)
        self.show_who_explores()

    def show_who_explores(self) -> None:
        """Switch exploration off in slots that measure the learner's policy or have a prior agent."""
        for position, slot in enumerate(self.slots):
            self._explorer.set_greedy(position, slot.greedy or slot.prior is not None)
        self._tell_who_plays()

    def collect(self, waited: float = 0.0) -> Handover:
        """
        Fill one block for each slot.

        :param waited: seconds that this actor has waited before
        :return: the announcement to send
        """
        started = time.perf_counter()
        self.pulse.enter(Phase.COLLECTING)
        self.pulse.late = False
        self._environments = self._inference = 0.0
        self._refresh()
        if self.port.newest_order != self._settings_seen:
            self._take_settings()
            self._obey_together()
        with_prior = [slot.prior is not None for slot in self.slots]
        self._local_buffer.begin(self.port.views(self.sequence), self._ages(), with_prior)
        handover = Handover(self.spec.process, self.sequence, version=self.version, begins=self.sequence == 0)
        n_random = -((self.spec.begun - self.spec.warmup) // self.spec.n_slots) - self.steps
        self._explorer.begin_block(self.port.progress, n_random)
        for t in range(self.spec.block_size):
            if self.port.stopped:
                break
            self._step(t, handover)
        self.steps += self._local_buffer.n_steps
        handover.n_rows = self._close()
        handover.refused, self._invalid_steps.of_block = self._invalid_steps.of_block, {}
        handover.broken, self._broken = self._broken, {}
        self.collecting = -1
        handover.late = self.pulse.late
        handover.seconds = Seconds(time.perf_counter() - started, waited, self._environments, self._inference)
        self.sequence += 1
        return handover

    def close(self) -> None:
        """Close the environments."""
        for slot in self.slots:
            self.collecting = slot.index
            slot.env.close()

    def _refresh(self) -> None:
        """Read newer parameters (Algorithm 1.2), only between blocks: a block has one version."""
        every = max(round(self.spec.update_interval / self.spec.block_size), 1)
        if (self.version == 0 or self.sequence % every == 0) and self.port.version != self.version:
            self.version, self._current = self.port.read(self.flat), None
            self._policy.parameters_changed()

    def _take_settings(self) -> None:
        """Use the learner's newer settings, only between blocks: a block has one exploration and one gamma."""
        orders = self.port.orders(self._settings_seen)
        self._settings_seen = orders[-1][0]
        changes = settings_of(orders)
        if (raises := changes.pop("raises_on_nan", None)) is not None:
            changes["recipe"] = dataclasses.replace(self.spec.recipe, raises_on_nan=raises)
        if (of_all := changes.get("explorations")) is not None:
            changes["explorations"] = [of_all[slot.index] for slot in self.slots]
            self._explorer.explore(changes["explorations"])
            for slot, exploration in zip(self.slots, changes["explorations"], strict=True):
                slot.exploration = exploration
        self.spec = dataclasses.replace(self.spec, **changes)

    def _obey(self, position: int, env: SlotMonitor | VecEnvSlot) -> None:
        """Repeat in a slot, before its next episode, what the user has called since its last one."""
        if self.port.newest_order == self.calls_seen[position] and not self.calls_due[position]:
            return
        if isinstance(env, SlotMonitor) and not env.owned:
            return  # the user's environment, which was called itself
        calls, self.calls_seen[position] = self.due_in(position)
        self.calls_due[position] = []
        for call in calls:
            try:
                call.carry_out(env)
            except Exception as error:
                error.add_note(f"It was raised by {call}, which the model's own environment has executed before.")
                raise

    def due_in(self, position: int) -> tuple[list[Call], int]:
        """
        Return what a slot has to repeat before its next episode.

        :param position: position of the slot in this process
        :return: calls of its environment, and the number of the newest of all orders that were looked through
        """
        seen = self.calls_seen[position]
        orders = self.port.orders(seen) if self.port.newest_order != seen else []
        calls = calls_of(orders, self.spec.recipe.env_of(self.spec.slots[position]))
        return self.calls_due[position] + calls, orders[-1][0] if orders else seen

    def _obey_together(self) -> None:
        """Do the same in all slots of a native vector environment, which resets itself at the end of an episode."""
        for position, seat in enumerate(self._together.seats if self._together is not None else []):
            self.collecting = self.spec.slots[position]
            self._obey(position, seat)

    def _ages(self) -> list[int]:
        return [slot.age for slot in self.slots]

    def _step(self, t: int, handover: Handover) -> None:
        """Step every slot once."""
        greedy, outputs = self._act()
        self._current = None
        stored = self._explorer.actions(t, greedy)
        actions = self._scale.unscaled(stored)
        unsound = self._let_priors_act(stored, actions)
        for position in not_finite(stored):
            unsound[position] = unsound_action(self.slots[position].prior)
            stored[position] = 0.0  # the environment gets the middle of its bounds; the step is refused
            actions[position] = self._scale.unscaled(stored[position : position + 1])[0]
        if self._together is not None:
            started = time.perf_counter()
            self._together.step(actions)
            self._environments += time.perf_counter() - started
        rewards, info_keys, masks = [], self.spec.info_keys, self.observations.action_masks
        for position, (slot, action) in enumerate(zip(self.slots, actions, strict=True)):
            self.collecting = slot.index
            started = time.perf_counter()
            raw, reward, terminated, truncated, info = slot.env.step(action)
            self._environments += time.perf_counter() - started
            try:
                if position in unsound:
                    raise NotFiniteError(unsound[position])
                rewards.append(finite_reward(reward))
                self.observations.push(position, raw)
            except NotFiniteError as error:
                del rewards[position:]
                rewards.append(0.0)
                self._refuse(position, info, error, of_action=position in unsound)
                continue
            self._invalid_steps.accepted(position)
            slot.age += 1
            if masks is not None:  # nothing is bootstrapped from a terminal observation
                masks[position] = terminated or allowed_actions(slot.action_masks, slot.env, info)
            made = t - self._local_buffer.n_refused[position]
            if terminated or truncated:
                self._episode_end(made, position, info, bool(terminated), handover)
            elif info_keys and (kept := {key: info[key] for key in info_keys if key in info}):
                handover.infos[made, position] = copy.deepcopy(kept)  # environments may modify it later, as with SB3
        self.collecting = -1
        self._local_buffer.step(stored, outputs, rewards, self._ages())
        self._tell_who_plays()

    def _let_priors_act(self, stored: np.ndarray, actions: list[Any]) -> dict[int, str]:
        """Write the actions of prior agents; if one fails, the learner's action stays and the step is refused."""
        failed = {}
        for position, slot in enumerate(self.slots):
            if slot.prior is not None:
                try:
                    actions[position] = self._scale.bounded(self._of_prior(slot.prior, slot, position))
                except Exception:  # a prior's policy may raise anything; the learner warns
                    failed[position] = f"The prior agent {slot.prior.name} failed:\n{traceback.format_exc()}"
                else:
                    stored[position] = self._scale.scaled(actions[position])
        return failed

    def _refuse(self, position: int, info: dict, error: NotFiniteError, of_action: bool) -> None:
        """
        Leave a step out.

        The episode is cut off before it: the environment may be in an invalid state.
        """
        if self.spec.recipe.raises_on_nan:
            raise UnrecoverableError(f"{error} VecCheckNan was given raise_exception=True.") from error
        self._invalid_steps.refused(position, error)
        self._local_buffer.refuse(position)
        had_prior = self.slots[position].prior is not None
        gives_up = of_action and had_prior and self._invalid_steps.in_a_row[position] >= PRIOR_FAILURES
        if gives_up:
            self._broken[position] = str(error)
        self._next_episode(position, game_over="episode" in info, prior_broken=gives_up)

    def _show_first(self, position: int) -> None:
        """Take the first observation of an episode; if it is refused, reset again."""
        slot = self.slots[position]
        while True:
            try:
                self.observations.reset(position, slot.raw)
                if self.observations.action_masks is not None:
                    self.observations.action_masks[position] = slot.mask
                return
            except NotFiniteError as error:
                self._invalid_steps.refused(position, error)
                self._obey(position, slot.env)
                slot.begin()

    def _tell_who_plays(self) -> None:
        """
        Announce to prior agents in the learner's process that they act at the next pass, on the current observations.
        """
        if self._remote is not None and any(slot.prior is not None for slot in self.slots):
            playing = [Playing.of(slot.prior is not None, slot.age) for slot in self.slots]
            self._remote.expect(playing, self.observations.batch)

    def _of_prior(self, prior: LoadedPrior, slot: Slot, position: int) -> Any:
        """Return the action of a prior agent, as the environment takes it."""
        if self._remote is not None:
            return self._remote.prior_action(position)
        started = time.perf_counter()
        observation = plain({key: batch[position][None] for key, batch in self.observations.batch.items()})
        action, slot.state = prior.predict(observation, slot.state, np.array([slot.age == 0]))
        self._inference += time.perf_counter() - started
        return action[0]

    def _episode_end(self, t: int, position: int, info: dict, terminated: bool, handover: Handover) -> None:
        slot = self.slots[position]
        if self._masks is None:
            allowed_actions(slot.action_masks, slot.env, info)  # refuses masks that appear late
        self._local_buffer.end_episode(position, terminated, slot.age)
        kept = {key: info[key] for key in ("episode", "is_success", *self.spec.info_keys) if key in info}
        handover.infos[t, position] = {**copy.deepcopy(kept), "TimeLimit.truncated": not terminated}
        game = info.get("episode")
        if game is not None:
            handover.games[t, position] = float(game["r"]), slot.greedy
        self._next_episode(position, game_over=game is not None)

    def _next_episode(self, position: int, game_over: bool, prior_broken: bool = False) -> None:
        slot, had_prior = self.slots[position], self.slots[position].prior is not None
        started = time.perf_counter()
        self.pulse.enter(Phase.RESETTING)
        self._obey(position, slot.env)
        slot.reset(game_over, retired=prior_broken or self.port.retired(slot.index))
        self._show_first(position)
        if self._explorer.samples_next:
            slot.greedy = False
        self.pulse.enter(Phase.COLLECTING)
        self._environments += time.perf_counter() - started
        self._explorer.set_greedy(position, slot.greedy or slot.prior is not None)
        if had_prior and slot.prior is None:
            self._local_buffer.prior_retired(position)

    @th.inference_mode()
    def _close(self) -> list[int]:
        """
        Write the blocks with their priorities, using the parameters that chose the actions (Algorithm 2).

        :return: number of rows of each block
        """
        self._current = self._act()
        last_outputs = self._current[1]
        blocks = self._local_buffer.close(last_outputs, self._end_outputs(last_outputs))
        started = time.perf_counter()
        steps = blocks.steps(self.spec.recipe.columns, self.normalizer)
        q_taken, values = self._policy.evaluate(steps)
        self._inference += time.perf_counter() - started
        rewards = blocks.rewards if self.normalizer is None else self.normalizer.rewards(blocks.rewards)
        blocks.write_priorities(rewards, q_taken.numpy(), values.numpy(), self.spec.n_steps, self.spec.gamma)
        return list(map(int, blocks.n_rows))

    @th.inference_mode()
    def _act(self) -> tuple[np.ndarray, np.ndarray]:
        """Return greedy actions of all slots, and the outputs that the algorithm keeps for the priorities."""
        if self._current is not None:
            return self._current
        started = time.perf_counter()
        batch = self._batch
        if batch is None:
            batch = self._seen(self.observations.batch, np.array(self._ages()))
        results = self._policy(batch, len(self.slots), self._masks)
        self._inference += time.perf_counter() - started
        return results

    def _seen(self, batch: Frames, ages: np.ndarray) -> Any:
        """Return network input; without statistics it is a view that follows later changes."""
        return as_tensors(batch, ages, self.spec.recipe.columns, self.normalizer)

    def _end_outputs(self, like: np.ndarray) -> np.ndarray:
        """Return network outputs for the last observations of episodes, on which no step was taken."""
        endings = self._local_buffer.endings
        if not endings:
            return like[:0]
        started = time.perf_counter()
        batch = {key: np.stack([each.observation[key] for each in endings]) for key in endings[0].observation}
        ages = np.array([each.age for each in endings])
        # Outputs do not depend on masks.
        any_action = None if self._masks is None else self._masks.new_ones((len(endings), self._masks.shape[1]))
        outputs = self._policy(self._seen(batch, ages), len(endings), any_action)[1]
        self._inference += time.perf_counter() - started
        return outputs
