"""One update against a plain re-computation from the paper's formulas, and target networks against SB3's."""

import copy

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_ca2e import CA2EDDPG, CA2EDQN
from tests import inside
from tests.toy import RandomWalk, ddpg

ALPHA = 0.6


def filled(model):
    """Let a model collect a memory, and draw its target networks apart from its online networks."""
    model.learn(600)
    generator = th.Generator().manual_seed(1)
    for name in ("q_net_target", "critic_target", "actor_target"):
        for parameter in getattr(model, name, th.nn.Module()).parameters():
            parameter.data += 0.3 * th.randn(parameter.shape, generator=generator)
    return model


def make_dqn(sgd=True, **kwargs):
    policy_kwargs = {"optimizer_class": th.optim.SGD} if sgd else {}
    kwargs = {"learning_rate": 1.0 if sgd else 1e-3, **kwargs}
    return filled(
        CA2EDQN(
            "MlpPolicy",
            RandomWalk(),
            gradient_steps=0,
            max_grad_norm=1e9,
            n_actors=4,
            execution="sync",
            policy_kwargs=policy_kwargs,
            seed=0,
            device="cpu",
            **kwargs,
        )
    )


def make_ddpg(sgd=True, **kwargs):
    policy_kwargs = {"optimizer_class": th.optim.SGD} if sgd else {}
    rates = {"learning_rate": 0.5, "actor_learning_rate": 0.25} if sgd else {}
    return filled(
        CA2EDDPG(
            "MlpPolicy",
            RandomWalk(continuous=True),
            gradient_steps=0,
            n_actors=4,
            execution="sync",
            policy_kwargs=policy_kwargs,
            seed=0,
            device="cpu",
            **rates,
            **kwargs,
        )
    )


def optimizer_of(model, network, rate):
    """A plain optimiser of the model's kind, all of torch's other settings at their defaults."""
    return model.policy.optimizer_class(network.parameters(), lr=rate)


def target_of(batch, next_q_values, mutation, gamma):
    """y = sum_{k<n} gamma^k r_{t+k+1} + gamma^n q(s_{t+n}, .; theta^-), without the second term after a termination."""
    discounts = gamma if mutation == "one-step discount" else batch.discounts
    alive = 1.0 if mutation == "dones ignored" else 1.0 - batch.dones
    target = batch.rewards + alive * discounts * next_q_values
    return target if mutation == "gradient through the target" else target.detach()


def square(error):
    return error**2


def smooth_l1(error):
    return 0.5 * error**2 if abs(float(error.detach())) < 1.0 else abs(error) - 0.5


def weighted(batch, errors, mutation, loss=square):
    weights = th.ones_like(batch.weights) if mutation == "weights ignored" else batch.weights
    return sum(weights[i, 0] * loss(errors[i, 0]) for i in range(len(errors))) / len(errors)


def gradients(network):
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in network.parameters()]


def dqn_reference(model, batch, mutation=None, double_q=True, loss=smooth_l1):
    """What one update must lead to: CA2E-DQN of the paper, written with nothing but forward passes and autograd."""
    online, target = copy.deepcopy(model.q_net), copy.deepcopy(model.q_net_target)
    optimizer = optimizer_of(model, online, model.lr_schedule(1.0))
    next_values, choices = target(batch.next_observations), online(batch.next_observations)
    chooser = choices if double_q and mutation != "double-Q off" else next_values
    next_q_values = th.stack([row[chosen] for row, chosen in zip(next_values, chooser.argmax(1), strict=True)])[:, None]
    y = target_of(batch, next_q_values, mutation, model.gamma)
    q_values = online(batch.observations)
    errors = y - th.stack([row[int(a)] for row, a in zip(q_values, batch.actions, strict=True)])[:, None]
    loss = weighted(batch, errors, mutation, square if mutation == "squared loss" else loss)
    loss.backward()
    optimizer.step()
    return {
        "loss": loss.detach(),
        "td_errors": errors.detach().flatten(),
        "online": [parameter.detach() for parameter in online.parameters()],
        "target gradients": gradients(target),
    }


def ddpg_reference(model, batch, mutation=None, critic_l2=None):
    """The same for CA2E-DDPG: critic with L2 penalty, actor, and the soft copies of both."""
    actor, critic = copy.deepcopy(model.actor), copy.deepcopy(model.critic)
    actor_target, critic_target = copy.deepcopy(model.actor_target), copy.deepcopy(model.critic_target)
    critic_optimizer = optimizer_of(model, critic, model.learning_rate)
    actor_optimizer = optimizer_of(model, actor, model.actor_learning_rate)

    next_q_values = critic_target(batch.next_observations, actor_target(batch.next_observations))[0]
    errors = target_of(batch, next_q_values, mutation, model.gamma) - critic(batch.observations, batch.actions)[0]
    critic_loss = weighted(batch, errors, mutation)
    squares = [(layer.weight**2).sum() for layer in critic.modules() if isinstance(layer, th.nn.Linear)]
    penalty = 0.0 if mutation == "no L2 penalty" else model.critic_l2 * 0.5 * sum(squares)
    (critic_loss + penalty).backward()
    critic_optimizer.step()
    critic_optimizer.zero_grad()
    target_gradients = [*gradients(critic_target), *gradients(actor_target)]

    actor_loss = -critic(batch.observations, actor(batch.observations))[0].mean()
    actor_loss.backward()
    actor_optimizer.step()

    tau = model.tau
    pairs = [(actor, actor_target), (critic, critic_target)]
    return {
        "loss": critic_loss.detach(),
        "td_errors": errors.detach().flatten(),
        "online": [parameter.detach() for network, _ in pairs for parameter in network.parameters()],
        "targets": [
            tau * new.detach() + (1 - tau) * old.detach()
            for network, target in pairs
            for new, old in zip(network.parameters(), target.parameters(), strict=True)
        ],
        "target gradients": target_gradients,
    }


def updated(model, batch_size):
    """What one update of the model led to, in the same terms."""
    model.train(1, batch_size)
    logged = model.logger.name_to_value
    memory_batch, td_errors = inside.last_batch(model)
    if isinstance(model, CA2EDQN):
        return memory_batch, {
            "loss": th.tensor(logged["train/loss"]),
            "td_errors": td_errors,
            "online": [parameter.detach() for parameter in model.q_net.parameters()],
            "target gradients": gradients(model.q_net_target),
        }
    networks, targets = (model.actor, model.critic), (model.actor_target, model.critic_target)
    return memory_batch, {
        "loss": th.tensor(logged["train/critic_loss"]),
        "td_errors": td_errors,
        "online": [parameter.detach() for network in networks for parameter in network.parameters()],
        "targets": [parameter.detach() for network in targets for parameter in network.parameters()],
        "target gradients": [*gradients(model.critic_target), *gradients(model.actor_target)],
    }


def assert_same(result, expected, rtol=1e-4, atol=2e-5):
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        if name == "target gradients":
            assert [g is None for g in result[name]] == [g is None for g in value], "gradient through the target"
        else:
            th.testing.assert_close(result[name], value, rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def next_batch(model, batch_size):
    """The batch that the model's next update will draw; its training is over, so beta has been annealed to 1."""
    memory = copy.deepcopy(model.replay_buffer)
    memory.beta = 1.0
    return memory.sample(batch_size)


def assert_varied(batch, n_steps, gamma):
    """The batch shows every case that a wrong formula could hide in."""
    assert 0 < batch.dones.sum() < len(batch.dones)
    lengths = set(np.rint(np.log(batch.discounts.flatten().numpy()) / np.log(gamma)).astype(int))
    assert lengths == set(range(1, n_steps + 1))
    assert batch.weights.min() < 0.9


@pytest.mark.parametrize(("make", "reference"), [(make_dqn, dqn_reference), (make_ddpg, ddpg_reference)])
@pytest.mark.parametrize("sgd", [True, False])
def test_an_update_is_the_papers(make, reference, sgd):
    model = make(sgd)
    for repetition in range(2):
        batch = next_batch(model, 64)
        assert_varied(batch, model.n_steps, model.gamma)
        expected = reference(model, batch)
        drawn, result = updated(model, 64)
        assert th.equal(drawn.indices, batch.indices)
        if sgd or repetition == 0:  # the reference starts its optimiser anew
            assert_same(result, expected)


@pytest.mark.parametrize(
    ("make", "reference", "mutation"),
    [
        *[(make_dqn, dqn_reference, m) for m in ("double-Q off", "one-step discount", "weights ignored")],
        *[(make_dqn, dqn_reference, m) for m in ("gradient through the target", "dones ignored", "squared loss")],
        *[(make_ddpg, ddpg_reference, m) for m in ("one-step discount", "weights ignored", "no L2 penalty")],
        *[(make_ddpg, ddpg_reference, m) for m in ("gradient through the target", "dones ignored")],
    ],
)
def test_the_comparison_notices_a_wrong_formula(make, reference, mutation):
    model = make()
    expected = reference(model, next_batch(model, 64), mutation)
    _, result = updated(model, 64)
    with pytest.raises(AssertionError):
        assert_same(result, expected, rtol=1e-3, atol=1e-3)


def test_without_double_q_the_target_network_chooses():
    model = make_dqn(double_q=False)
    expected = dqn_reference(model, next_batch(model, 64), double_q=False)
    assert_same(updated(model, 64)[1], expected)


@pytest.mark.parametrize(("name", "loss"), [("huber", smooth_l1), ("squared", square)])
def test_the_loss_can_be_chosen(name, loss):
    model = make_dqn(loss=name)
    batch = next_batch(model, 64)
    expected = dqn_reference(model, batch, loss=loss)
    sizes = expected["td_errors"].abs()
    assert sizes.min() < 0.5, "the two losses would not differ"
    assert sizes.max() > 1.0
    assert_same(updated(model, 64)[1], expected)


def test_gradients_are_clipped():
    model = make_dqn()
    model.max_grad_norm = 0.01
    before = th.nn.utils.parameters_to_vector(model.q_net.parameters()).detach()
    model.train(1, 64)
    after = th.nn.utils.parameters_to_vector(model.q_net.parameters()).detach()
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)  # a step of the learning rate 1.0


@pytest.mark.parametrize(("make", "reference"), [(make_dqn, dqn_reference), (make_ddpg, ddpg_reference)])
def test_the_priorities_of_a_batch_are_its_new_td_errors(make, reference):
    model = make()
    batch = next_batch(model, 64)
    leaves = inside.rows(model.replay_buffer).priorities
    expected: dict[int, float] = {}
    for row, error in zip(batch.indices.tolist(), reference(model, batch)["td_errors"].tolist(), strict=True):
        expected[row] = max(expected.get(row, 0.0), (abs(error) + 1e-6) ** ALPHA)
    others = {}
    for row in next_batch(model, 2000).indices.tolist():
        if row not in expected:
            others[row] = leaves[th.tensor([row])].item()
    model.train(1, 64)
    for row, priority in {**expected, **others}.items():
        assert leaves[th.tensor([row])].item() == pytest.approx(priority, rel=1e-3)


def test_more_critics_give_the_smallest_target():
    model = make_ddpg()
    model.policy_kwargs["n_critics"] = 2
    model._setup_model()
    filled(model)
    batch = next_batch(model, 32)
    with th.no_grad():
        next_actions = model.actor_target(batch.next_observations)
        smallest = th.minimum(*model.critic_target(batch.next_observations, next_actions))
        errors = target_of(batch, smallest, None, model.gamma) - model.critic(batch.observations, batch.actions)[0]
    _, result = updated(model, 32)
    th.testing.assert_close(result["td_errors"], errors.flatten(), rtol=1e-4, atol=1e-5)


class Normed(BaseFeaturesExtractor):
    """Keeps statistics of observations: with BatchNorm, and a mean of its own."""

    def __init__(self, space):
        super().__init__(space, space.shape[0])
        self.norm = th.nn.BatchNorm1d(space.shape[0])
        self.register_buffer("mean", th.zeros(space.shape[0]))

    def forward(self, observations):
        if self.training:
            self.mean.lerp_(observations.mean(dim=0), 0.1)
        return self.norm(observations) - self.mean


@pytest.mark.parametrize("algorithm", [CA2EDDPG, DDPG])
def test_targets_have_the_statistics_of_their_networks_as_in_sb3(algorithm):
    policy_kwargs = {"features_extractor_class": Normed, "net_arch": [8]}
    model = ddpg(RandomWalk(continuous=True), algorithm, policy_kwargs=policy_kwargs, learning_starts=50).learn(120)
    running = 0
    for name in ("actor", "critic"):
        online, target = (dict(getattr(model, each).named_buffers()) for each in (name, f"{name}_target"))
        for key in [key for key in online if "running" in key]:
            th.testing.assert_close(target[key], online[key], rtol=0, atol=0)
            assert (online[key] != key.endswith("var")).any()
            running += 1
        if algorithm is CA2EDDPG:  # where SB3 leaves the rest as it was in the beginning
            th.testing.assert_close(target["features_extractor.mean"], online["features_extractor.mean"])
            assert online["features_extractor.mean"].any()
    assert running == 4


class AddsOne:
    """Instead of learning, add one to every online parameter, so that targets tell when they were copied."""

    def train(self, gradient_steps, batch_size=100):
        for parameter in self.q_net.parameters():
            parameter.data += 1.0


class CountingDQN(AddsOne, DQN):
    pass


class CountingCA2EDQN(AddsOne, CA2EDQN):
    pass


class TargetWatcher(BaseCallback):
    def __init__(self):
        super().__init__()
        self.changes = [(0, 0.0)]

    def _on_training_start(self):
        for network in (self.model.q_net, self.model.q_net_target):
            for parameter in network.parameters():
                parameter.data[...] = 0.0

    def _on_step(self):
        value = next(self.model.q_net_target.parameters()).flatten()[0].item()
        if value != self.changes[-1][1]:
            self.changes.append((self.num_timesteps, value))
        return True


def test_a_layer_or_a_parameter_that_a_user_replaces_is_followed():
    model = make_ddpg(tau=1.0)
    model.train(1, 64)
    first, second, *_ = (layer for layer in model.critic_target.modules() if isinstance(layer, th.nn.Linear))
    second.weight = th.nn.Parameter(th.zeros_like(second.weight))
    network = next(layer for layer in model.critic_target.modules() if first in layer.children())
    name = next(name for name, child in network.named_children() if child is first)
    setattr(network, name, th.nn.Linear(first.in_features, first.out_features))
    model.train(1, 64)
    for followed, following in zip(model.critic.parameters(), model.critic_target.parameters(), strict=True):
        assert th.equal(followed, following)


class Scaled(th.nn.Linear):
    """A layer times a parameter that none of its modules has."""

    scale = th.nn.Parameter(th.ones(()))

    def forward(self, features):
        return super().forward(features) * self.scale


class ScaledDQNPolicy(DQNPolicy):
    """Its optimiser has that parameter too."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        for net in (self.q_net, self.q_net_target):
            net.q_net.append(Scaled(3, 3))
        self.optimizer = th.optim.Adam([*self.q_net.parameters(), Scaled.scale], lr=lr_schedule(1))


@pytest.mark.parametrize("algorithm", [DQN, CA2EDQN])
def test_an_optimiser_trains_what_no_module_has_as_in_sb3(algorithm, monkeypatch):
    monkeypatch.setattr(Scaled, "scale", th.nn.Parameter(th.ones(())))
    model = algorithm(ScaledDQNPolicy, RandomWalk(), learning_starts=100, seed=0, device="cpu")
    if algorithm is CA2EDQN:
        model.execution = "sync"
    model.learn(200)
    assert Scaled.scale.item() != 1.0


@pytest.mark.parametrize("already", [False, True])
def test_numbers_below_the_normal_ones_are_zero_while_learning_and_then_as_before(already):
    seen = []

    class Notices(CA2EDQN):
        def update(self, networks, batch):
            seen.append(th.full((), 1e-39) * 1.0)
            return super().update(networks, batch)

    model = Notices("MlpPolicy", RandomWalk(), execution="sync", gradient_steps=0, seed=0, device="cpu")
    model.learn(200)
    th.set_flush_denormal(already)
    try:
        model.train(1, 64)
        after = th.full((), 1e-39) * 1.0
    finally:
        th.set_flush_denormal(False)
    assert (seen[0].item() == 0.0, after.item() == 0.0) == (True, already)


@pytest.mark.parametrize(("n_envs", "tau"), [(1, 1.0), (1, 0.5), (8, 1.0), (8, 0.25)])
def test_the_target_follows_after_as_many_transitions_as_in_sb3(n_envs, tau):
    def changes(algorithm, **kwargs):
        watcher = TargetWatcher()
        env = make_vec_env("CartPole-v1", n_envs)
        arguments = {"tau": tau, "train_freq": 2, "learning_starts": 30, "target_update_interval": 100, "seed": 0}
        algorithm("MlpPolicy", env, **arguments, device="cpu", **kwargs).learn(600, watcher)
        return watcher.changes

    expected = changes(CountingDQN, buffer_size=1000)
    assert len(expected) > 4
    assert changes(CountingCA2EDQN, execution="sync", n_actors=3) == expected
