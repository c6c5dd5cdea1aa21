"""Networks in the learner's process beside the same in the actors: equal blocks, and nobody waits for the dead."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_ca2e import CA2EDDPG, CA2EDQN, ActorError, ActorWarning, BuilderVecEnv, PriorAgent
from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.inference import TRACE_AFTER
from sb3_ca2e.envs.recipe import recipe_from
from sb3_ca2e.transport.in_process import SyncActors
from sb3_ca2e.transport.shared_memory.inference_layout import read_text, write_text
from sb3_ca2e.transport.shared_memory.inference_server import InferenceServer, pays, seconds_of_passes
from sb3_ca2e.transport.shared_memory.pool import AsyncActors
from tests.actors.recording_env import RecordingEnv, make_spec
from tests.marked_processes import open_files
from tests.toy import RandomWalk, ddpg, dqn

CPU = th.device("cpu")
N_SLOTS = 3
SMALL = {"net_arch": [16]}


class Continuous(RandomWalk):
    def __init__(self):
        super().__init__(continuous=True)


class Watched(RandomWalk):
    """Tells its process."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "pid": os.getpid()}


def learner(algorithm, env, policy="MlpPolicy", **kwargs):
    policy_kwargs = {**SMALL, **kwargs.pop("policy_kwargs", {})}
    # Epsilon must not depend on when the actors hear of progress, and greedy actions must be among those taken.
    constant = {"exploration_initial_eps": 0.3, "exploration_final_eps": 0.3} if algorithm is CA2EDQN else {}
    options = {"policy_kwargs": policy_kwargs, "device": "cpu", "seed": 0, "n_actors": N_SLOTS, **constant}
    return algorithm(policy, env, **options, **kwargs)


def vector():
    return learner(CA2EDQN, BuilderVecEnv([RandomWalk] * N_SLOTS))


def images():
    env = VecFrameStack(BuilderVecEnv([lambda: RecordingEnv(image=True)] * N_SLOTS), 4)
    small = {"features_extractor_kwargs": {"features_dim": 16}, "net_arch": []}
    return learner(CA2EDQN, env, "CnnPolicy", policy_kwargs=small)


def continuous():
    return learner(CA2EDDPG, BuilderVecEnv([Continuous] * N_SLOTS))


def normalized():
    env = VecNormalize(BuilderVecEnv([Continuous] * N_SLOTS))
    for _ in range(20):
        env.reset()
    return learner(CA2EDDPG, env)


def prior_for(model) -> PriorAgent:
    """Of random weights, which react to what they see."""
    algorithm, env = (DQN, RandomWalk()) if isinstance(model, CA2EDQN) else (DDPG, Continuous())
    recipe = recipe_from(model.env)
    prior = PriorAgent(algorithm("MlpPolicy", env, device="cpu", seed=1, policy_kwargs={**SMALL}, buffer_size=1))
    return prior.resolve(env.observation_space, env.action_space, recipe.identity).for_actor()


def copied(blocks) -> list[dict[str, np.ndarray]]:
    return [
        {
            name: np.copy(value)
            for name, value in {**block.frames, **vars(block)}.items()
            if name not in ("slot", "frames")
        }
        for block in blocks
    ]


@pytest.mark.parametrize(
    ("make", "with_prior"),
    [(vector, False), (vector, True), (images, False), (continuous, False), (normalized, True)],
)
def test_blocks_equal_those_of_actors_that_have_the_networks(make, with_prior):
    model = make()
    block_size = TRACE_AFTER // 2 + 3  # traced in the second block
    priors = [None, prior_for(model) if with_prior else None, None]
    spec = make_spec(model, block_size=block_size, update_interval=block_size, priors=priors)
    parameters = FlatParameters(model.published_modules())
    inference = InferenceServer([spec], parameters, CPU)
    assert inference.layout.rates_observations == isinstance(model, CA2EDDPG)
    pools = SyncActors(spec), AsyncActors(inference.specs, inference=inference)
    blocks = [], []
    try:
        for kept, pool in zip(blocks, pools, strict=True):
            kept += copied(pool.collect()[1])
        while not pools[1]._ready:  # its second block is full, and it may not begin the third
            pools[1]._receive(None)
        for kept, pool in zip(blocks, pools, strict=True):
            if kept is blocks[0]:
                kept += copied(pool.collect()[1])
        with th.no_grad():
            for tensor in parameters._tensors:
                tensor.mul_(-1.1)
        assert inference.refresh()
        assert not inference.refresh()
        pools[0].publish(np.concatenate([parameters.get(), spec.statistics]))
        pools[1].publish(spec.statistics)
        blocks[1].extend(copied(pools[1].collect()[1]))
        for _ in range(2):
            for kept, pool in zip(blocks, pools, strict=True):
                handover, views = pool.collect()
                assert handover.version == 1
                kept += copied(views)
    finally:
        for pool in pools:
            pool.stop()
    assert len(blocks[0]) == len(blocks[1]) == 4 * N_SLOTS
    for ours, theirs in zip(*reversed(blocks), strict=True):
        priorities = ours.pop("priorities"), theirs.pop("priorities")
        np.testing.assert_allclose(*priorities, rtol=1e-4, atol=1e-5)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


def two_processes(**changes):
    model = learner(CA2EDQN, BuilderVecEnv([Watched] * 2))
    changes = {"explorations": model.explorations()[:1], "priors": [None], "info_keys": ("pid",), **changes}
    return model, [make_spec(model, process=process, slots=[process], **changes) for process in range(2)]


def collect_until_restarted(pool) -> None:
    while pool.restarts != {1: 1}:
        pool.collect()


@pytest.mark.usefixtures("_patient")
def test_a_killed_actor_holds_up_neither_the_learner_nor_the_others():
    model, specs = two_processes()
    inference = InferenceServer(specs, FlatParameters(model.published_modules()), CPU)
    pool = AsyncActors(inference.specs, rate_limit=False, inference=inference)
    try:
        pids = {}
        while len(pids) < 2:
            handover, _ = pool.collect()
            pids[handover.process] = next(iter(handover.infos.values()))["pid"]
        os.kill(pids[1], signal.SIGKILL)
        killed = r"Actor process 1 \(slots \[1\], life 0, seed 1\) was killed by SIGKILL"
        with pytest.warns(ActorWarning, match=killed):
            collect_until_restarted(pool)
        while (handover := pool.collect()[0]).process == 0 or not handover.begins:  # the one in its place asks on
            pass
        assert next(iter(handover.infos.values()))["pid"] not in pids.values()
    finally:
        pool.stop()


ASKED, ANSWERING = threading.Event(), threading.Event()


class SlowDQN(CA2EDQN):
    """Networks that take as long as the test likes."""

    @staticmethod
    def act(modules, observations):
        if observations.any():
            ASKED.set()
            ANSWERING.wait()
        return CA2EDQN.act(modules, observations)


@pytest.mark.extended
def test_stopping_ends_actors_that_wait_for_an_answer_and_leaves_nothing_behind():
    model, specs = two_processes(core=SlowDQN)
    before = open_files(), set(threading.enumerate())
    for _ in range(2):
        ASKED.clear()
        ANSWERING.clear()
        inference = InferenceServer(specs, FlatParameters(model.published_modules()), CPU)
        pool = AsyncActors(inference.specs, inference=inference)
        ASKED.wait()
        stopper = threading.Thread(target=pool.stop)
        stopper.start()
        ANSWERING.set()
        stopper.join()
        pool.stop()
        del pool, inference
        assert not open_files() - before[0]
        assert not set(threading.enumerate()) - before[1]


class FailingDQN(CA2EDQN):
    """Networks that fail as soon as they see something."""

    @staticmethod
    def act(modules, observations):
        if observations.any():
            raise RuntimeError("out of memory, say")
        return CA2EDQN.act(modules, observations)


def test_networks_that_fail_end_the_run_with_their_traceback():
    model = FailingDQN("MlpPolicy", BuilderVecEnv([RandomWalk] * 2), n_processes=2, device="cpu", inference="device")
    with pytest.raises(ActorError, match=r"(?s)Inference on cpu failed:.*Traceback.*out of memory, say"):
        model.learn(100_000)


@pytest.mark.parametrize("text", ["", "ab", "x" * 9, "äöü" * 5])
def test_texts_come_back_or_their_ends(text):
    written = np.full(10, 255, np.uint8)
    write_text(text, written)
    read = read_text(written)
    assert len(read) >= min(len(text), 4)
    assert text.endswith(read.lstrip("\ufffd"))


@pytest.mark.parametrize("make", [dqn, ddpg])
def test_learns_with_prior_agents_in_two_processes(make):
    prior = (DQN if make is dqn else DDPG)("MlpPolicy", "CartPole-v1" if make is dqn else "Pendulum-v1", device="cpu")
    options = {"execution": "async", "n_processes": 2, "inference": "device", "train_freq": 20}
    model = make(**options, prior_agents=[prior])
    online = FlatParameters(model.published_modules())
    before = online.get()
    model.learn(600)
    assert model.num_timesteps == model.replay_buffer.size() == 600
    assert 0 < model.replay_buffer.prior_fraction < 1
    assert not np.array_equal(before, online.get())


def test_it_takes_a_device_of_another_kind_to_pay():
    _, specs = two_processes()
    assert not pays(specs, CPU)
    started = time.perf_counter()
    own, on_device = seconds_of_passes(specs, CPU)
    assert min(own, on_device) > 0
    assert own + on_device < time.perf_counter() - started


def test_other_values_are_refused():
    with pytest.raises(ValueError, match="inference must be 'actor', 'device' or 'auto', not 'gpu'"):
        dqn(inference="gpu")
