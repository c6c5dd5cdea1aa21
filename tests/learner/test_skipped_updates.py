"""Updates whose loss or gradient is not finite change nothing, and are counted."""

import numpy as np
import pytest
import torch as th

from sb3_ca2e.learner.update import MOST_SKIPPED, Learner
from tests import inside
from tests.learner.test_compiled_update import tensors_of
from tests.learner.test_updates import make_ddpg, make_dqn


def numbers(model):
    return [tensor.clone() for tensor in tensors_of(model)]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("make", [make_dqn, make_ddpg])
def test_an_update_without_a_finite_loss_changes_nothing(make, compiled):
    model = make(sgd=False, compile=compiled)
    memory = model.replay_buffer
    model.train(3, 64)
    assert inside.learner(model).compiled == compiled, inside.learner(model).obstacle
    model.train(2, 64)
    rewards = inside.rows(memory).rewards
    kept, before, leaves = rewards.clone(), numbers(model), inside.rows(memory).priorities[:].clone()
    rewards.fill_(float("nan"))
    model.train(5, 64)
    assert all(map(th.equal, numbers(model), before))
    assert model.logger.name_to_value["train/skipped_updates"] == 5
    assert memory.n_refused_priorities == 5 * 64
    assert th.equal(inside.rows(memory).priorities[:], leaves)
    rewards.copy_(kept)
    model.train(2, 64)
    assert not all(map(th.equal, numbers(model), before))
    assert all(tensor.isfinite().all() for tensor in numbers(model))
    assert all(np.isfinite(value) for value in model.logger.name_to_value.values())
    before = numbers(model)
    rewards.fill_(float("inf"))
    model.train(MOST_SKIPPED - 1, 64)
    with pytest.raises(FloatingPointError, match=f"last {MOST_SKIPPED} updates were skipped.*learning_rate"):
        model.train(1, 64)
    assert all(map(th.equal, numbers(model), before))
    rewards.copy_(kept)
    model.train(1, 64)
    assert not all(map(th.equal, numbers(model), before))


def test_a_gradient_that_is_not_finite_is_noticed_where_the_loss_is():
    network = th.nn.Linear(2, 1)

    def update(networks, batch):
        def loss(module):
            return (0.0 * module(th.ones(3, 2))).abs().sqrt().sum(), ()  # whose derivative at zero is infinite

        value, _ = networks.optimize("network", loss)
        networks.polyak_update("target", "network", 0.5)
        return th.zeros(3), {"loss": value}

    modules = {"network": network, "target": th.nn.Linear(2, 1)}
    before = [parameter.clone() for module in modules.values() for parameter in module.parameters()]
    learner = Learner(update, modules, {"network": th.optim.SGD(network.parameters(), lr=0.1)})
    learner.update(None)
    after = [parameter for module in modules.values() for parameter in module.parameters()]
    assert all(map(th.equal, after, before))
    assert learner.take_metrics() == {}
    assert learner.n_skipped == 1
