"""Updates that draw and write priorities on the device, many in one launch, are as many ordinary ones."""

import contextlib

import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ca2e import CA2EDQN
from sb3_ca2e.learner.compiled_update import FlatUpdate
from sb3_ca2e.learner.graphed_updates import AT_ONCE, FusedUpdates, launches
from sb3_ca2e.replay import PrioritizedReplayBuffer
from sb3_ca2e.replay.n_step import PRIORITY_FLOOR
from tests import inside
from tests.learner.test_compiled_update import repeated, tensors_of
from tests.learner.test_updates import make_ddpg, make_dqn
from tests.toy import RandomWalk

BATCH_SIZE = 64


def assert_same(model, ordinary):
    """Networks and optimisers, priorities, and the random numbers that come next."""
    th.testing.assert_close(tensors_of(model), tensors_of(ordinary), rtol=1e-5, atol=1e-5)
    memory, expected = model.replay_buffer, ordinary.replay_buffer
    th.testing.assert_close(leaves_of(memory), leaves_of(expected), rtol=1e-5, atol=1e-5)
    assert inside.rows(memory).priorities.total.item() == pytest.approx(leaves_of(memory).sum().item(), rel=1e-9)
    assert th.equal(memory._generator.get_state(), expected._generator.get_state())


def leaves_of(memory):
    tree = inside.rows(memory).priorities
    return tree[: len(tree)].clone()


def refused(run):
    """A driver that can't record what it has been shown, which has been run by then."""
    run()
    raise RuntimeError("operation not permitted when stream is capturing\nand more lines")


@pytest.mark.usefixtures("_tensors_alone")
@pytest.mark.parametrize("make", [make_dqn, make_ddpg])
@pytest.mark.parametrize("record", [None, repeated, refused])
def test_fused_updates_are_as_many_ordinary_ones(make, record):
    ordinary, model = make(sgd=False), make(sgd=False)
    for each in (ordinary, model):
        each.train(1, BATCH_SIZE)
    flat = FlatUpdate(model.update, *model.trained_networks(), [], PRIORITY_FLOOR)
    assert flat.update_state()
    graph, expected_memory = flat.trace(inside.last_batch(model)[0]), ordinary.replay_buffer

    def update(batch):
        return graph(*flat.state, *flat.inputs(batch))

    fused = FusedUpdates(model.replay_buffer, BATCH_SIZE, update, flat.state, record)
    before = leaves_of(model.replay_buffer)
    warned = pytest.warns(UserWarning, match="can't be recorded.*: operation not permitted when stream is capturing$")
    with warned if record is refused else contextlib.nullcontext():
        for beta, n_updates in ((0.5, 4), (0.9, 4), (0.7, 2)):
            model.replay_buffer.beta = expected_memory.beta = beta
            batch, td_errors = fused(n_updates)
            for _ in range(n_updates):
                expected = expected_memory.sample(BATCH_SIZE)
                updated = inside.learner(ordinary).update(expected)
                expected_memory.update_priorities(expected.indices, expected.generations, updated.priorities)
            th.testing.assert_close(batch.tensors(), expected.tensors(), rtol=1e-5, atol=1e-5)
            th.testing.assert_close(td_errors, updated.td_errors, rtol=1e-5, atol=1e-5)
            assert_same(model, ordinary)
    assert (leaves_of(model.replay_buffer) != before).sum() > BATCH_SIZE
    rows = model.replay_buffer.device_storage
    assert rows.written.tolist() == rows.tally.tolist()


@pytest.mark.usefixtures("_tensors_alone")
def test_train_makes_as_many_updates_at_once_as_it_can():
    ordinary, model = make_dqn(sgd=False), make_dqn(sgd=False, compile=True)

    def train(n_updates, batch_size=BATCH_SIZE):
        for each in (ordinary, model):
            each.train(n_updates, batch_size)
        assert model._n_updates == ordinary._n_updates
        assert model.logger.name_to_value == pytest.approx(ordinary.logger.name_to_value, rel=1e-4, abs=1e-5)
        assert_same(model, ordinary)

    train(1)
    assert inside.learner(model).compiled, inside.learner(model).obstacle
    train(21)
    train(3)
    fused = inside.fused(model)
    assert set(fused._runs) == {16, 4, 2, 1}
    train(2, 32)  # what was compiled holds for one batch size
    train(2)
    assert inside.fused(model) is fused
    for each in (ordinary, model):
        each.replay_buffer.n_steps = 1
    train(2)
    assert inside.fused(model) is not fused
    fused = inside.fused(model)
    for each in (ordinary, model):
        each.replay_buffer.device = "cpu"  # moves the memory, to other tensors
    train(2)
    assert inside.fused(model) is not fused


@pytest.mark.parametrize("n_updates", [0, 1, 3, 16, 45])
def test_launches_are_as_few_as_can_be(n_updates):
    numbers = list(launches(n_updates))
    assert sum(numbers) == n_updates
    assert set(numbers) <= set(AT_ONCE)
    assert len(numbers) == n_updates // 16 + (n_updates % 16).bit_count()


@pytest.mark.usefixtures("_tensors_alone")
def test_who_draws_in_another_way_is_asked():
    class Uniform(PrioritizedReplayBuffer):
        def sample(self, batch_size, env=None):
            return super().sample(batch_size, env)

    def storage_of(memory_class):
        return make_dqn(sgd=False, replay_buffer_class=memory_class).replay_buffer.device_storage

    assert storage_of(PrioritizedReplayBuffer) is not None
    assert storage_of(Uniform) is None


def test_a_memory_on_the_cpu_is_compiled_code():
    assert make_dqn(sgd=False).replay_buffer.device_storage is None


@pytest.mark.usefixtures("_tensors_alone")
def test_normalized_batches_come_through_the_cpu():
    env = VecNormalize(DummyVecEnv([RandomWalk]))
    settings = {
        "n_actors": 2,
        "execution": "sync",
        "gradient_steps": 0,
        "max_grad_norm": 1e9,
        "seed": 0,
        "device": "cpu",
    }
    model = CA2EDQN("MlpPolicy", env, compile=True, **settings)
    model.learn(300)
    model.train(1, BATCH_SIZE)
    assert inside.learner(model).compiled, inside.learner(model).obstacle
    model.train(1, BATCH_SIZE)
    drawn = inside.last_batch(model)[0].indices
    expected = model.replay_buffer.samples_at(drawn, env).observations
    th.testing.assert_close(inside.last_batch(model)[0].observations, expected)
    assert not th.equal(expected, model.replay_buffer.samples_at(drawn).observations)
