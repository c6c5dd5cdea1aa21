"""Turns the actors' blocks into committed transitions, ticks for SB3's callbacks, statistics and retirements."""

import contextlib
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecCheckNan

from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.actors.flat_parameters import Fetched, FlatParameters
from sb3_ca2e.actors.handover import Handover, Seconds
from sb3_ca2e.actors.observations import PRIOR_FAILURES
from sb3_ca2e.actors.orders import Settings
from sb3_ca2e.actors.snapshot import ActorsState
from sb3_ca2e.common.cpus import cpu_count
from sb3_ca2e.errors import ActorWarning
from sb3_ca2e.learner.bottleneck import Shares, advice
from sb3_ca2e.learner.callback_steps import CallbackSteps, Tick
from sb3_ca2e.learner.slot_stats import SlotStats
from sb3_ca2e.learner.statistics import Statistics
from sb3_ca2e.priors.retirement import Retirement
from sb3_ca2e.replay.block import PRIOR, TRANSITION, Block
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer
from sb3_ca2e.transport.in_process import SyncActors
from sb3_ca2e.transport.pool import ActorPool
from sb3_ca2e.transport.shared_memory.inference_server import InferenceServer

_NOTHING = np.zeros(0, dtype=np.float32)


class Collector:
    """
    The learner's side of the actors.

    :param pool: actors
    :param memory: memory to which transitions are committed
    :param n_envs: number of transitions in a tick
    :param explorations: exploration of each slot
    :param retirement: retirement rule of prior agents
    :param prior_of: by prior slot, the index of its prior agent, retired or not
    :param parameters: parameters of the published networks
    :param statistics: statistics of the user's ``VecNormalize``, or None
    :param inference: server that runs the actors' networks on the learner's device; None if actors run them
    :param nan_checks: the user's wrappers that may make an error of what is not finite
    """

    def __init__(
        self,
        pool: ActorPool,
        memory: PrioritizedReplayBuffer,
        n_envs: int,
        explorations: list[Exploration],
        retirement: Retirement,
        prior_of: dict[int, int],
        parameters: FlatParameters,
        statistics: Statistics | None = None,
        inference: InferenceServer | None = None,
        nan_checks: Sequence[VecCheckNan] = (),
    ):
        self.pool, self.memory, self.n_envs = pool, memory, n_envs
        self.explorations, self.retirement, self.prior_of = explorations, retirement, prior_of
        self._parameters, self._statistics, self._inference = parameters, statistics, inference
        self._nan_checks, self._raises_on_nan = nan_checks, any(each.raise_exception for each in nan_checks)
        self.stats = [SlotStats() for _ in explorations]
        for slot, index in prior_of.items():
            self.stats[slot].kind = "nature" if retirement.retired(index) else "prior"
        self._ticks = CallbackSteps(n_envs)
        #: removes and returns the next tick; None if there are too few transitions
        self.tick: Callable[[], Tick | None] = self._ticks.pop
        self._fetched = Fetched(parameters, every=pool.n_processes)
        self._newest = _NOTHING  # newest parameters copied from the learner's device
        self._shown: np.ndarray | None = None
        self.just_retired: list[int] = []
        #: contexts that last as long as the actors
        self.meanwhile = contextlib.ExitStack()
        #: seconds spent since the first blocks were stored: these wait for environments and compilation
        self.learner_wait = self.learner_updates = 0.0
        self._actors = np.zeros(len(Seconds._fields))
        self._started: float | None = None

    @property
    def n_ready(self) -> int:
        """Number of committed transitions that wait for a tick."""
        return len(self._ticks)

    def use(self, memory: PrioritizedReplayBuffer) -> None:
        """
        Commit to another memory from now on.

        :param memory: the memory
        """
        self.memory.end_streams()  # it may come back
        self.memory = memory
        memory.end_streams()

    def publish_from(self, networks: dict[str, th.nn.Module]) -> None:
        """
        Publish the parameters of other networks from now on.

        :param networks: networks of the same kinds as the first
        """
        self._parameters.follow(networks)

    def collect(
        self,
        at_most: int,
        timestep: int,
        progress: float,
        wait: bool = True,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """
        Commit the next blocks.

        :param at_most: number of transitions to commit; the rest of the blocks is dropped
        :param timestep: number of transitions committed so far
        :param progress: fraction of the training that is done, 0 to 1
        :param wait: whether to wait for blocks
        :param waiting: context to enter while waiting, when nothing is half done
        """
        self._publish()
        self._order_settings()
        self.pool.set_progress(progress)
        asked = time.perf_counter()
        with waiting():
            collected = self.pool.collect(wait)
        came = time.perf_counter()
        if self._started is not None:
            self.learner_wait += came - asked
        if collected is not None:
            self._commit(*collected, at_most, timestep)
            self._started = self._started or time.perf_counter()

    def _commit(self, handover: Handover, blocks: list[Block], at_most: int, timestep: int) -> None:
        n_slots = len(blocks)
        shares = [(at_most + n_slots - 1 - position) // n_slots for position in range(n_slots)]
        blocks = [block.first(share) for block, share in zip(blocks, shares, strict=True)]
        for block in blocks:
            if handover.begins:
                self._end_stream(block.slot)
            if len(block.flags):
                self.memory.add_block(block)
                if self._statistics is not None:
                    self._statistics.update(block)
        self._ticks.extend(handover, blocks)
        self._count(handover, blocks, timestep)

    def _end_stream(self, slot: int) -> None:
        """Separate the next data of a slot from its last."""
        self.memory.end_stream(slot)
        if self._statistics is not None:
            self._statistics.end_stream(slot)

    def _publish(self) -> None:
        """Publish newer parameters if they have changed: copying networks takes both sides time."""
        changed = self._inference is not None and self._inference.refresh()
        if self._inference is None and (newer := self._fetched.newer()) is not None:
            self._newest = newer
        published = self._newest
        if self._statistics is not None:
            published = np.concatenate([published, self._statistics.publish()])
        if published is self._shown and not changed:
            return
        # Compare as integers, so that NaN equals NaN.
        if changed or self._shown is None or not np.array_equal(published.view(np.int32), self._shown.view(np.int32)):
            self.pool.publish(published)
        self._shown = published

    def _order_settings(self) -> None:
        """Tell actors what a callback has changed in the user's wrappers."""
        raises_on_nan = any(each.raise_exception for each in self._nan_checks)
        if raises_on_nan != self._raises_on_nan:
            self.pool.order(Settings(raises_on_nan=raises_on_nan))
            self._raises_on_nan = raises_on_nan

    def _count(self, handover: Handover, blocks: list[Block], timestep: int) -> None:
        self._actors += handover.seconds
        collecting, waited, *_ = handover.seconds
        for block in blocks:
            n = len(block)
            stats = self.stats[block.slot]
            stats.transitions += n
            stats.seconds += collecting + waited
            stats.fps = stats.transitions / max(stats.seconds, 1e-9)
            stats.param_age = self.pool.version - handover.version
            if n:
                last = block.flags[block.flags & TRANSITION > 0][-1]
                stats.kind = "prior" if last & PRIOR else "nature"
        for position, (n_refused, reason) in handover.refused.items():
            self._refused(blocks[position].slot, n_refused, reason)
        for position, reason in handover.broken.items():
            self._prior_broken(blocks[position].slot, reason, timestep)
        for (t, position), game in handover.games.items():
            block = blocks[position]
            if t < len(block):
                was_prior = bool(block.flags[np.flatnonzero(block.flags & TRANSITION)[t]] & PRIOR)
                self._game_over(block.slot, was_prior, *game, timestep)

    def _refused(self, slot: int, n_refused: int, reason: str) -> None:
        if not self.stats[slot].refused:
            message = f"Slot {slot}: {reason}\nSuch steps are left out and counted; the next episode begins."
            warnings.warn(message, ActorWarning, stacklevel=2)
        self.stats[slot].refused += n_refused

    def _game_over(self, slot: int, was_prior: bool, game_return: float, greedy: bool, timestep: int) -> None:
        self.stats[slot].episodes += 1
        self.stats[slot].returns.append(game_return)
        if was_prior:
            self.retirement.prior_episode(self.prior_of[slot], game_return)
        elif greedy:
            for index in self.retirement.greedy_episode(game_return, timestep):
                self._retired(next(slot for slot, prior in self.prior_of.items() if prior == index), index)

    def _prior_broken(self, slot: int, reason: str, timestep: int) -> None:
        message = f"The prior agent of slot {slot} is retired: it failed {PRIOR_FAILURES} times in a row. {reason}"
        warnings.warn(message, ActorWarning, stacklevel=2)
        self.retirement.retire(self.prior_of[slot], timestep)
        self._retired(slot, self.prior_of[slot])

    def _retired(self, slot: int, index: int) -> None:
        self.pool.retire(slot)
        self.stats[slot].returns.clear()
        self.just_retired.append(index)

    def actor_stats(self, progress: float) -> list[dict[str, Any]]:
        """
        Return statistics of the slots.

        :param progress: fraction of the training that is done, 0 to 1
        :return: one plain dictionary for each slot
        """
        rows = []
        for slot, stats in enumerate(self.stats):
            prior = self.retirement.prior(self.prior_of[slot]) if slot in self.prior_of else None
            rows.append(
                {
                    "slot": slot,
                    "kind": stats.kind,
                    "epsilon": self.explorations[slot].rate(progress) if stats.kind == "nature" else 0.0,
                    "ep_rew_mean": stats.ep_rew_mean,
                    "episodes": stats.episodes,
                    "transitions": stats.transitions,
                    "baseline": prior["baseline"] if prior else None,
                    "retired_at": prior["retired_at"] if prior else None,
                    "restarts": self.pool.restarts.get(slot, 0),
                    "refused": stats.refused,
                    "fps": stats.fps,
                    "param_age": stats.param_age,
                }
            )
        return rows

    def shares(self) -> Shares:
        """
        Compute how learner and actors have spent their time since the first blocks were stored.

        :return: fractions of time
        """
        learning = time.perf_counter() - self._started if self._started is not None else 0.0
        seconds = Seconds(*self._actors.tolist())
        learner_wait = _share(self.learner_wait, learning)
        actor_wait = _share(seconds.waiting, seconds.waiting + seconds.collecting)
        return Shares(
            learner_wait,
            actor_wait if self.pool.n_processes else 1.0 - learner_wait,  # in one process, one side always waits
            _share(seconds.environments, seconds.collecting),
            _share(seconds.inference, seconds.collecting),
            _share(self.learner_updates, learning - self.learner_wait),
        )

    def advice(self) -> str:
        """
        Describe what bounds the run, and what to change.

        :return: one line
        """
        other_inference = "actor" if self._inference is not None else None
        if self._inference is None and self.pool.n_processes and self._parameters.device.type != "cpu":
            other_inference = "device"
        return advice(self.shares(), len(self.stats), self.pool.n_processes, cpu_count(), other_inference)

    def log(self, logger: Logger, progress: float) -> None:
        """
        Log statistics of the actors. Per-slot keys are excluded from the printed table, which they would flood.

        :param logger: SB3's logger
        :param progress: fraction of the training that is done, 0 to 1
        """
        for row in self.actor_stats(progress):
            for key in ("kind", "epsilon", "ep_rew_mean", "fps", "param_age"):
                if row[key] is not None:
                    logger.record(f"actors/{row['slot']}/{key}", row[key], exclude="stdout")
            if row["refused"]:
                logger.record(f"actors/{row['slot']}/refused", row["refused"])
        for slot, index in self.prior_of.items():
            prior = self.retirement.prior(index)
            own = float(np.mean(prior["returns"])) if prior["returns"] else None
            values = {"ep_rew_mean": own, **{key: prior[key] for key in ("baseline", "learner_reward", "retired_at")}}
            for key, value in values.items():
                if value is not None:
                    logger.record(f"priors/{slot}/{key}", value)
        shares = self.shares()
        logger.record("time/learner_wait", shares.learner_wait)
        logger.record("time/actor_wait", shares.actor_wait)
        logger.record("time/bottleneck", shares.bottleneck)
        logger.record("replay/size", self.memory.size())
        logger.record("replay/prior_fraction", self.memory.prior_fraction)
        if self.memory.n_refused_priorities:
            logger.record("replay/refused_priorities", self.memory.n_refused_priorities)

    def state(self) -> dict[str, Any]:
        """
        Return the state that a checkpoint needs.

        :return: the state, for :meth:`restore`
        """
        return {
            "ticks": self._ticks.state(),
            "stats": self.stats,
            "streams": self._statistics.state() if self._statistics is not None else None,
            "shown": self._shown,
            "version": self.pool.version,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """
        Continue with transitions that are in the memory but not yet ticked, and with the statistics of slots.

        :param state: result of :meth:`state` in a run with the same memory
        """
        self._ticks.restore(state["ticks"])
        if len(state["stats"]) == len(self.stats):
            self.stats = state["stats"]
        if self._statistics is not None and state["streams"] is not None:
            self._statistics.restore(state["streams"])

    def restore_actors(self, state: dict[str, Any], actors: ActorsState) -> None:
        """
        Let the slots continue their episodes, in this process.

        :param state: result of :meth:`state`
        :param actors: state of the slots
        """
        assert isinstance(self.pool, SyncActors)
        self._shown = state["shown"]
        self.pool.restore(actors, state["version"], state["shown"])
        for slot, index in self.prior_of.items():
            if self.retirement.retired(index):
                self.pool.retire(slot)  # takes effect after the current episode

    def cut_streams(self) -> None:
        """Cut off unfinished episodes in the memory."""
        self.memory.end_streams()
        if self._statistics is not None:
            self._statistics.end_streams()

    def stop(self, keep_server: bool = False) -> None:
        """
        Stop the actors and cut off unfinished episodes in the memory.

        :param keep_server: whether the server that they are forked from may wait for the next ``learn()``
        """
        self.meanwhile.close()
        self.pool.stop(keep_server)
        self.cut_streams()


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole > 0 else 0.0
