"""What runs on a GPU, beside the same on the CPU. Where there is no GPU, what can be tested without is elsewhere."""

import copy

import numpy as np
import pytest
import torch as th

from sb3_ca2e import CA2EDQN, PriorAgent, make_atari_env
from sb3_ca2e.actors.flat_parameters import Fetched, FlatParameters
from tests import inside
from tests.algorithms.test_action_masks import make_masked
from tests.learner.test_compiled_update import tensors_of
from tests.learner.test_updates import make_ddpg, make_dqn
from tests.replay.recorded_slot import RecordedSlot
from tests.replay.test_kernels import filled_memory
from tests.replay.test_streams import columns_of
from tests.toy import ddpg, dqn

pytestmark = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")

CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # sums in another order, of some updates


def on_cpu(tensors):
    return [tensor.cpu() for tensor in tensors]


@pytest.mark.usefixtures("_tensors_alone")
@pytest.mark.parametrize("n_stack", [1, 4])
@pytest.mark.parametrize("which", range(7))
def test_a_memory_on_the_device_draws_and_stores_what_one_on_the_cpu_does(which, n_stack):
    columns = columns_of(n_stack)[which]
    ours = filled_memory(columns, which, 0.1)
    theirs = copy.deepcopy(ours)
    theirs.device = "cuda"
    assert theirs.device_storage is not None
    slots = [RecordedSlot(7, columns, np.random.default_rng(0), 0.1) for _ in range(2)]
    for i in range(8):
        for memory, slot in zip((ours, theirs), slots, strict=True):
            memory.add_block(slot.block(30, 30 * i))  # older segments are freed
        expected, samples = ours.sample(64), theirs.sample(64)
        assert samples.rewards.is_cuda
        for got, like in zip(on_cpu(samples.tensors()), expected.tensors(), strict=True):
            th.testing.assert_close(got, like, rtol=1e-6, atol=0.0)
        priorities = th.rand(64, dtype=th.float64) + 0.1
        ours.update_priorities(expected.indices, expected.generations, priorities)
        theirs.update_priorities(samples.indices, samples.generations, priorities.cuda())
    tree = inside.rows(theirs).priorities
    th.testing.assert_close(tree.total, tree[:].sum(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("make", [make_dqn, make_ddpg, make_masked])
def test_recorded_updates_agree_with_eager_ones_on_the_cpu(make):
    eager, recorded = make(sgd=False), make(sgd=False, compile=True)
    recorded.policy.to("cuda")
    recorded.device = th.device("cuda", 0)
    recorded.replay_buffer.device = "cuda"
    for model in (eager, recorded):
        for n_updates in (1, 5, 21):
            model.train(n_updates, 64)
    assert inside.learner(recorded).compiled, inside.learner(recorded).obstacle
    assert set(inside.fused(recorded)._runs) == {16, 4, 1}
    th.testing.assert_close(on_cpu(tensors_of(recorded)), tensors_of(eager), **CLOSE)


def test_parameters_are_shown_when_they_have_come():
    network = th.nn.Linear(1000, 1000, device="cuda")
    parameters = FlatParameters({"network": network})
    fetched = Fetched(parameters, every=3)
    np.testing.assert_array_equal(fetched.newer(), parameters.get())
    for value in (1.0, 2.0):
        with th.no_grad():
            for parameter in network.parameters():
                parameter.fill_(value)
        asked = 1
        while (newer := fetched.newer()) is None:
            asked += 1
        assert asked > 1
        np.testing.assert_array_equal(newer, np.full(parameters.size, value, np.float32))


@pytest.mark.parametrize("make", [dqn, ddpg])
@pytest.mark.parametrize("storage_device", ["auto", "cpu"])
@pytest.mark.parametrize("inference", ["actor", "device"])
def test_learning_on_the_device(make, storage_device, inference, tmp_path):
    kwargs = {"execution": "async", "n_processes": 2, "compile": True, "inference": inference, "device": "cuda"}
    model = make(**kwargs, replay_buffer_kwargs={"storage_device": storage_device}, learning_starts=100)
    model.learn(600)
    learner = inside.learner(model)
    inside.compiler(model).join()
    assert learner.obstacle is None
    model.learn(600, reset_num_timesteps=False)
    assert (inside.fused(model) is not None) == (storage_device == "auto")
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    assert model.replay_buffer.size() == model.num_timesteps == 1200
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    loaded = type(model).load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "memory")
    observation = model.get_env().reset()
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )
    assert inside.rows(loaded.replay_buffer).device.type == ("cuda" if storage_device == "auto" else "cpu")
    loaded.learn(200, reset_num_timesteps=False)
    assert loaded.num_timesteps == 1400


def test_pong_with_a_prior_agent_on_the_device():
    env = make_atari_env("PongNoFrameskip-v4", n_envs=4, seed=0, native=True)
    prior = PriorAgent(CA2EDQN("CnnPolicy", env, seed=1, buffer_size=1, device="cpu"), mean_reward=21.0)
    kwargs = {"n_processes": 2, "learning_starts": 400, "buffer_size": 2000, "compile": True, "inference": "device"}
    model = CA2EDQN("CnnPolicy", env, prior_agents=[prior], seed=0, device="cuda", train_freq=1, **kwargs)
    model.learn(800)
    inside.compiler(model).join()
    model.learn(800, reset_num_timesteps=False)
    assert inside.learner(model).obstacle is None
    assert inside.fused(model) is not None
    assert 0.2 <= model.replay_buffer.prior_fraction <= 0.3
    env.close()
