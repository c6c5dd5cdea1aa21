"""What actor processes may do before others have done as much, and what one does in the place of another."""

import os
import pathlib
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch as th

from sb3_ca2e import ActorWarning
from sb3_ca2e.actors.exploration import EpsilonGreedy
from sb3_ca2e.actors.heartbeat import Supervision
from sb3_ca2e.replay.block import OBSERVATION, TRANSITION, Block
from sb3_ca2e.transport.in_process import SyncActors
from sb3_ca2e.transport.shared_memory.block_buffers import BUFFERS
from sb3_ca2e.transport.shared_memory.pool import AsyncActors
from sb3_ca2e.transport.shared_memory.restarts import IN_VAIN
from tests.actors.recording_env import RecordingEnv
from tests.transport.shared_memory.test_pool import BLOCK, Watched, run_until_it_fails, specs_of


def pool_with_a_late_one(gate: pathlib.Path, **kwargs) -> AsyncActors:
    """Two processes, of which the second makes its environment once a file has been opened to be written."""
    os.mkfifo(gate)

    def made_late() -> RecordingEnv:
        gate.open().close()  # waits for a writer
        return RecordingEnv()

    return AsyncActors(specs_of([RecordingEnv, made_late], 2), **kwargs)


@pytest.mark.parametrize("rate_limit", [False, True])
def test_only_with_a_rate_limit_is_an_environment_waited_for_that_is_still_made(rate_limit, tmp_path):
    pool = pool_with_a_late_one(gate := tmp_path / "gate", rate_limit=rate_limit)
    try:
        for n in range(BUFFERS if rate_limit else 3 * BUFFERS):
            handover, _ = pool.collect()
            assert (handover.process, handover.sequence) == (0, n)
            # The blocks handed out before are the actor's again; these are not yet.
            assert pool._board.credit(0) == BUFFERS + (0 if rate_limit else n)
        if rate_limit:
            assert pool.collect(wait=False) is None
    finally:
        gate.open("w").close()
        pool.stop()


def test_an_actor_that_was_not_waited_for_goes_on_where_the_others_are(tmp_path):
    pool, made = pool_with_a_late_one(gate := tmp_path / "gate"), [0, 0]
    try:
        pool._looked = float("inf")  # however slow the machine is, nobody else is found to stand still
        pool._set_lag(pool._processes[1].life, True)
        while made[0] < 10:
            made[pool.collect()[0].process] += 1
        gate.open("w").close()
        while made[1] == 0:
            made[pool.collect()[0].process] += 1
        ahead = made[0] - made[1]
        for _ in range(20):
            made[pool.collect()[0].process] += 1
            assert abs(made[0] - made[1] - ahead) <= BUFFERS + 1
    finally:
        pool.stop()


class Dying(RecordingEnv):
    """
    Its process is killed at one of its steps, the first time.

    :param died: a file that is left then
    :param at: number of the step, from 0
    """

    def __init__(self, died: pathlib.Path, at: int):
        super().__init__()
        self.died, self.left = died, at

    def step(self, action):
        self.left -= 1
        if self.left < 0 and not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def test_an_actor_in_the_place_of_another_acts_at_random_only_for_what_is_left_of_the_warm_up(tmp_path):
    (spec,) = specs_of([lambda: Dying(tmp_path / "died", BLOCK), RecordingEnv], 1)
    always_greedy = EpsilonGreedy(3, initial=0.0, final=0.0, fraction=0.0)
    spec = replace(spec, warmup=3 * 2 * BLOCK, explorations=[always_greedy] * 2)
    pool = AsyncActors([spec])

    def shares(n_blocks: int) -> list[float]:
        """How many of the actions are the network's, of the next blocks of an actor."""
        found = []
        for sequence in range(n_blocks):
            handover, blocks = pool.collect()
            assert (handover.sequence, handover.begins) == (sequence, sequence == 0)
            found.append(np.mean([of_network(spec.modules["q_net"], block) for block in blocks]))
        return found

    try:
        with pytest.warns(ActorWarning, match="was killed by SIGKILL in a step of slot 0"):
            await_its_end(pool)  # and nothing of it has been asked for
        *random, third, fourth = [*shares(1), *shares(4)]
        assert max(random) < 1.0
        assert (third, fourth) == (1.0, 1.0)
    finally:
        pool.stop()


def test_an_actor_that_starts_when_others_are_through_the_warm_up_has_none(tmp_path):
    specs = specs_of([RecordingEnv, lambda: Dying(tmp_path / "died", 0)], 2)
    always_greedy = EpsilonGreedy(3, initial=0.0, final=0.0, fraction=0.0)
    pool = AsyncActors([replace(spec, warmup=2 * 2 * BLOCK, explorations=[always_greedy]) for spec in specs])
    try:
        with pytest.warns(ActorWarning, match="was killed by SIGKILL in a step of slot 1"):
            await_its_end(pool, 1)
        pool._processes[1].due = float("inf")
        greedy = [of_network(specs[0].modules["q_net"], pool.collect()[1][0]).mean() for _ in range(4)]
        assert [share == 1.0 for share in greedy] == [False, False, True, True]
        pool._processes[1].due = 0.0
        blocks: list[Block] = []
        while not blocks or blocks[0].slot == 0:
            _, blocks = pool.collect()
        assert of_network(specs[1].modules["q_net"], blocks[0]).all()
    finally:
        pool.stop()


class SilentOnce(RecordingEnv):
    """
    Its first step takes very long, the first time.

    :param was_silent: a file that is left then
    :param seconds: that it takes
    """

    def __init__(self, was_silent: pathlib.Path, seconds: float):
        super().__init__()
        self.was_silent, self.seconds = was_silent, seconds

    def step(self, action):
        if not self.was_silent.exists():
            self.was_silent.touch()
            time.sleep(self.seconds)
        return super().step(action)


def test_what_an_actor_did_that_was_silent_for_too_long_is_dropped_though_nobody_saw_it(tmp_path):
    limit, silent = 0.5, tmp_path / "silent"
    supervision = Supervision(restarts=10**6, timeout=limit)  # on a busy machine each may be silent for as long
    pool = AsyncActors(specs_of([lambda: SilentOnce(silent, 2 * limit)], 1, supervision=supervision))
    try:
        pool._looked = float("inf")  # the learner's process stands still meanwhile
        with pytest.warns(ActorWarning, match="was silent for too long, then continued; its block is discarded"):
            handover, _ = pool.collect()
        assert (handover.begins, handover.late) == (True, False)
        assert pool.restarts[0] >= 1
    finally:
        pool.stop()


class RaisesAfter(RecordingEnv):
    """Raises at a step after some."""

    def __init__(self, n_steps: int):
        super().__init__()
        self.left = n_steps

    def step(self, action):
        self.left -= 1
        if self.left < 0:
            raise ConnectionResetError("the simulator is gone")
        return super().step(action)


def test_an_actor_that_hands_something_over_each_time_may_fail_more_often_in_a_row():
    n_lives, supervision = IN_VAIN + 3, Supervision(restarts=IN_VAIN + 2, timeout=60.0)
    pool, n_blocks = AsyncActors(specs_of([lambda: RaisesAfter(BLOCK)], 1, supervision=supervision)), 0
    try:
        for life in range(n_lives - 1):
            with pytest.warns(ActorWarning, match=f"It is replaced \\(replacement {life + 1}\\)"):
                await_its_end(pool)
            n_blocks += pool.collect()[0].begins  # which starts another one
        error = run_until_it_fails(pool)
    finally:
        pool.stop()
    assert n_blocks == n_lives - 1
    assert f"This was failure {n_lives} within 10 minutes (actor_restarts={n_lives - 1})" in str(error)


def test_an_actor_that_raises_again_and_again_before_it_has_done_anything_is_given_up_early():
    pool = AsyncActors(specs_of([lambda: RaisesAfter(0)], 1, supervision=Supervision(restarts=10, timeout=60.0)))
    try:
        with pytest.warns(ActorWarning, match="the simulator is gone"):
            error = run_until_it_fails(pool)
        assert pool.restarts == {0: IN_VAIN}
    finally:
        pool.stop()
    assert f"This was failure {IN_VAIN + 1} in a row, with nothing handed over in between" in str(error)


class OtherShapes(RecordingEnv):
    def step(self, action):
        frame, *rest = super().step(action)
        return frame[1:], *rest


def test_an_actor_that_would_only_fail_again_is_not_replaced():
    pool = AsyncActors(specs_of([OtherShapes], 1, supervision=Supervision(restarts=10, timeout=60.0)))
    try:
        error = run_until_it_fails(pool)
        assert pool.restarts == {}
    finally:
        pool.stop()
    assert "Restarting it would not help." in str(error)
    assert "shape (3,)" in str(error)


def test_environments_in_this_process_are_closed_too(tmp_path):
    closed = [tmp_path / str(slot) for slot in range(2)]
    (spec,) = specs_of([partial(Watched, file) for file in closed], 1)
    pool = SyncActors(spec)
    pool.collect()
    assert not any(file.exists() for file in closed)
    pool.stop()
    assert all(file.exists() for file in closed)


def await_its_end(pool: AsyncActors, process: int = 0) -> None:
    while pool._processes[process].life is not None:
        pool._receive(1.0)


def of_network(q_net: th.nn.Module, block: Block) -> np.ndarray:
    """Which actions of a block are the network's."""
    rows = np.flatnonzero(block.flags & TRANSITION)
    with th.no_grad():
        best = q_net(th.from_numpy(block.frames[OBSERVATION][rows])).argmax(dim=1).numpy()
    taken: np.ndarray = block.actions[rows, 0] == best
    return taken
