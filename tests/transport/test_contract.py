"""What every transport does for a learner, whatever stands between it and its actors: the interface ``ActorPool``."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch as th

from sb3_ca2e import CA2EDQN, ActorError, BuilderVecEnv
from sb3_ca2e.actors.exploration import EpsilonGreedy
from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.heartbeat import Supervision
from sb3_ca2e.actors.orders import EnvCall, SetAttribute, Settings
from sb3_ca2e.envs import order_log
from sb3_ca2e.priors.agent import PriorAgent
from sb3_ca2e.replay.block import OBSERVATION, PRIOR, TRANSITION, Block
from sb3_ca2e.transport.in_process import SyncActors
from sb3_ca2e.transport.pool import ActorPool
from sb3_ca2e.transport.shared_memory.pool import AsyncActors
from tests.actors.levels_env import LevelsEnv, shown
from tests.actors.recording_env import RecordingEnv, make_spec
from tests.chaos.victims import children
from tests.transport.shared_memory.test_pool import BLOCK, Failing

pytestmark = pytest.mark.usefixtures("_patient", "_forkserver", "_one_server")
#: From what one process of all slots is to do to a pool. A further transport is one more line.
TRANSPORTS = {"in process": SyncActors, "shared memory": lambda spec: AsyncActors([spec])}


class World:
    """
    A learner without a memory, and actors.

    :param transport: name of one
    :param env_fn: makes the environment of the last slot
    :param prior: a prior agent plays in the last slot
    """

    def __init__(self, transport: str, env_fn=RecordingEnv, prior: PriorAgent | None = None):
        exploring = {"exploration_initial_eps": 1.0, "exploration_final_eps": 0.0, "exploration_fraction": 1.0}
        other_fn = LevelsEnv if env_fn is LevelsEnv else RecordingEnv
        envs = BuilderVecEnv([other_fn] * 2)
        self.model = CA2EDQN("MlpPolicy", envs, n_actors=2, policy_kwargs={"net_arch": [8]}, device="cpu", **exploring)
        self.model.env.env_fns = [other_fn, env_fn]
        spec = make_spec(self.model, block_size=BLOCK, priors=[None, prior], update_interval=BLOCK)
        self.pool: ActorPool = TRANSPORTS[transport](replace(spec, supervision=Supervision(restarts=0, timeout=60.0)))

    def publish(self) -> None:
        self.pool.publish(FlatParameters(self.model.published_modules()).get())

    def collected(self, at_most: int = 50) -> Iterator[tuple[int, list[Block]]]:
        """Versions and blocks, for as long as they are asked for."""
        for _ in range(at_most):
            handover, blocks = self.pool.collect()
            yield handover.version, blocks


@pytest.fixture(params=TRANSPORTS)
def transport(request) -> str:
    return request.param


@pytest.fixture
def world(transport):
    it = World(transport)
    yield it
    it.pool.stop(keep_server=True)


def made(block: Block) -> np.ndarray:
    """Which rows are transitions."""
    return block.flags & TRANSITION > 0


def test_each_handover_has_a_block_of_each_slot(world):
    for _, blocks in world.collected(3):
        assert [block.slot for block in blocks] == [0, 1]
        assert [int(made(block).sum()) for block in blocks] == [BLOCK] * 2
        assert all((block.priorities[made(block)] > 0).all() for block in blocks)


def test_published_parameters_reach_the_actors_under_their_number(world):
    assert world.pool.version == 0
    world.publish()
    with th.no_grad():
        for parameter in world.model.policy.parameters():
            parameter.mul_(2.0)
    world.publish()
    assert world.pool.version == 2
    assert any(version == 2 for version, _ in world.collected())


def test_actors_explore_as_the_progress_says(world):
    """With random actions only at first, and with none at the end."""

    def greedy(blocks: list[Block]) -> list[bool]:
        shares = []
        for block in blocks:
            observations = block.frames[OBSERVATION][-len(block.flags) - 1 : -1][made(block)]
            expected, _ = world.model.predict(observations, deterministic=True)
            shares.append((block.actions[made(block)].ravel() == expected).all())
        return shares

    world.publish()
    assert not any(all(greedy(blocks)) for _, blocks in world.collected(5))
    world.pool.set_progress(1.0)
    assert any(all(greedy(blocks)) for _, blocks in world.collected())


def test_the_prior_of_a_slot_plays_until_it_is_retired(transport):
    agent = CA2EDQN("MlpPolicy", RecordingEnv(), policy_kwargs={"net_arch": [8]}, device="cpu")
    prior = PriorAgent(agent).resolve(agent.observation_space, agent.action_space).for_actor()
    world = World(transport, prior=prior)
    try:
        collected = world.collected()

        def by_prior() -> list[bool]:
            return [bool((block.flags[made(block)] & PRIOR > 0).all()) for block in next(collected)[1]]

        assert by_prior() == [False, True]
        world.pool.retire(1)
        assert any(by_prior() == [False, False] for _ in range(49))
    finally:
        world.pool.stop(keep_server=True)


@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_environment_that_fails_is_told_by_its_slot(where, transport):
    world = World(transport, lambda: Failing(where))
    try:
        with pytest.raises(ActorError, match=rf"slot 1, .*(?s:.*)the simulator is gone, said in {where}"):
            list(world.collected())
    finally:
        world.pool.stop()


@pytest.fixture
def levels(transport):
    it = World(transport, LevelsEnv)
    yield it
    it.pool.stop(keep_server=True)


def until_shown(world: World, *expected: tuple[float, float]) -> None:
    """Wait until each slot shows its observation, as all do from then on."""
    for _, blocks in world.collected():
        if [shown(block) for block in blocks] == [[each] for each in expected]:
            return
    raise AssertionError("they were never shown")


def test_calls_reach_the_slots_of_their_environments_before_their_next_episodes_in_order_and_once(levels):
    assert [shown(block) for block in next(levels.collected())[1]] == [[(1, 0)]] * 2
    for order in (
        EnvCall("add", (1,), {}, (0, 1)),
        SetAttribute("level", 3.0, (0,)),
        EnvCall("add", (), {"number": 2}, (1, 0, 1)),
        SetAttribute("level", 5.0, (0, 1)),
    ):
        levels.pool.order(order)
    ages = [set(), set()]  # at which the new values were first seen
    for _, blocks in levels.collected():
        for block in blocks:
            sums = block.frames[OBSERVATION][-len(block.flags) - 1 : -1][made(block), 1]
            ages[block.slot] |= {int(block.ages[:-1][made(block)][t]) for t in np.flatnonzero(sums)[:1]}
        if [shown(block) for block in blocks] == [[(5, 8)], [(5, 10)]]:
            break
    # They may have begun a block in the middle of an episode too
    assert all(each and min(each) == 0 for each in ages)
    for _, blocks in levels.collected(3):
        assert [shown(block) for block in blocks] == [[(5, 8)], [(5, 10)]]
    levels.pool.order(EnvCall("set_level", (7,), {}, (1,)))
    until_shown(levels, (5, 8), (7, 10))


def test_a_value_replaces_an_earlier_one_unless_a_method_may_have_read_that(levels):
    for level in range(200):
        levels.pool.order(SetAttribute("level", float(level), (0, 1)))
        levels.pool.order(SetAttribute("level", float(level), (1,)))
    for level in (2.0, 3.0):
        levels.pool.order(SetAttribute("level", level, (0, 1)))
        levels.pool.order(SetAttribute("level", level + 10, (0,)))
        levels.pool.order(EnvCall("add", (1,), {}, (0, 1)))
    until_shown(levels, (13, 2 * 12 + 13), (3, 2 * 2 + 3))


def test_orders_that_can_not_be_kept_are_refused_and_change_nothing(levels, monkeypatch):
    monkeypatch.setattr(order_log, "MOST_CALLS", 3)
    lock, both = threading.Lock(), (0, 1)
    orders = EnvCall("add", (lock,), {}, both), SetAttribute("level", lock, both), Settings(explorations=(lock, lock))
    for order in orders:
        for give in (levels.pool.order, levels.pool.prepare):
            with pytest.raises(ValueError, match=r"(?s)Actors repeat .*\(TypeError: .*Pass plain values"):
                give(order)
    levels.pool.order(SetAttribute("level", 4.0, both))
    number = [1.0]
    send = levels.pool.prepare(EnvCall("add", (), {"number": number}, both))
    number[0] = "a list, and not a number: what is sent is what was prepared"
    for each in (1, 2):
        levels.pool.order(EnvCall("add", (each,), {}, both))
    for order in (EnvCall("add", (1,), {}, (0,)), SetAttribute("level", 6.0, (0,))):
        with pytest.raises(RuntimeError, match=r"one call too many: actors have 3 .*Set an attribute"):
            levels.pool.order(order)
    levels.pool.order(Settings(gamma=0.5))
    until_shown(levels, (4, 2 * 4 + 8), (4, 2 * 4 + 8))
    send()
    with pytest.raises(
        ActorError, match=r"(?s)slot 0, .*TypeError: can't multiply.*raised by env_method\('add', \.\.\.\)"
    ):
        list(levels.collected())


def greedy_shares(world: World, at_most: int = 50) -> Iterator[list[float]]:
    """How large a share of the actions of each slot the learner's policy would have chosen."""
    for _, blocks in world.collected(at_most):
        shares = []
        for block in blocks:
            observations = block.frames[OBSERVATION][-len(block.flags) - 1 : -1][made(block)]
            expected, _ = world.model.predict(observations, deterministic=True)
            shares.append(float((block.actions[made(block)].ravel() == expected).mean()))
        yield shares


def reached(shares: Iterator[list[float]], done: Callable[[list[float]], bool]) -> bool:
    return any(done(each) for each in shares)


def test_settings_hold_from_the_next_block_on_and_are_combined(world):
    world.publish()
    random, greedy = (EpsilonGreedy(3, rate, rate, 1.0) for rate in (1.0, 0.0))
    world.pool.order(Settings(explorations=(greedy, greedy)))
    assert reached(greedy_shares(world), lambda shares: shares == [1.0, 1.0])
    assert all(shares == [1.0, 1.0] for shares in greedy_shares(world, 3))
    world.pool.order(Settings(warmup=10**9))
    assert reached(greedy_shares(world), lambda shares: max(shares) < 1.0)
    world.pool.order(Settings(warmup=0))
    assert reached(greedy_shares(world), lambda shares: shares == [1.0, 1.0])
    world.pool.order(Settings(explorations=(greedy, random)))
    assert reached(greedy_shares(world), lambda shares: shares[0] == 1.0 and shares[1] < 1.0)
    world.pool.order(Settings(gamma=0.0))
    assert any(max(map(partial(error_without_future, world), blocks)) < 1e-4 for _, blocks in world.collected())


def error_without_future(world: World, block: Block) -> float:
    """How far the priorities are from those of rewards alone, which gamma 0 gives."""
    observations = th.as_tensor(block.frames[OBSERVATION][-len(block.flags) - 1 : -1])
    with th.no_grad():
        values = world.model.q_net(observations).gather(1, th.as_tensor(block.actions).long())[:, 0]
    expected = np.abs(block.rewards - values.numpy())
    return float(np.abs(block.priorities - expected)[made(block)].max())


def test_it_is_told_what_there_is(world, transport):
    assert world.pool.n_processes == (0 if transport == "in process" else 1)
    assert world.pool.restarts == {}
    next(world.collected())
    state = world.pool.state()
    assert state is None or len(state.slots) == 2


def test_it_may_be_stopped_twice_and_before_anything_was_collected(transport):
    before = children(os.getpid())
    pool = World(transport).pool
    pool.stop()
    pool.stop()
    assert set(children(os.getpid())) <= set(before)
