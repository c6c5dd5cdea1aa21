"""What every transport does for a learner, whatever stands between it and its actors: the interface ``ActorPool``."""

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch as th

from sb3_ca2e import CA2EDQN, ActorError, BuilderVecEnv
from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.heartbeat import Supervision
from sb3_ca2e.priors.agent import PriorAgent
from sb3_ca2e.replay.block import OBSERVATION, PRIOR, TRANSITION, Block
from sb3_ca2e.transport.in_process import SyncActors
from sb3_ca2e.transport.pool import ActorPool
from sb3_ca2e.transport.shared_memory.pool import AsyncActors
from tests.actors.recording_env import RecordingEnv, make_spec
from tests.chaos.victims import children
from tests.transport.shared_memory.test_pool import BLOCK, Failing

pytestmark = pytest.mark.usefixtures("_patient", "_forkserver")
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
        envs = BuilderVecEnv([RecordingEnv] * 2)
        self.model = CA2EDQN("MlpPolicy", envs, n_actors=2, policy_kwargs={"net_arch": [8]}, device="cpu", **exploring)
        self.model.env.env_fns = [RecordingEnv, env_fn]
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
    it.pool.stop()


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
        world.pool.stop()


@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_environment_that_fails_is_told_by_its_slot(where, transport):
    world = World(transport, lambda: Failing(where))
    try:
        with pytest.raises(ActorError, match=rf"slot 1, .*(?s:.*)the simulator is gone, said in {where}"):
            list(world.collected())
    finally:
        world.pool.stop()


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
