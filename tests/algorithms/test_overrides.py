"""Methods that a user overrides: what SB3's ``learn`` calls is called here too, or refused by name."""

import functools
import types

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.td3.policies import Actor, ContinuousCritic, TD3Policy

from sb3_ca2e import CA2EDDPG, CA2EDQN
from sb3_ca2e.policies import CA2EDDPGPolicy, CA2EDQNPolicy
from tests.toy import RandomWalk


class Board(gym.Env):
    """Only actions whose number is marked in the observation are allowed."""

    observation_space, action_space = spaces.Box(0, 1, (4,), np.float32), spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.mask = 0, np.array([1, 0, 0, 1], np.float32)
        return self.mask, {}

    def step(self, action):
        self.t += 1
        return self.mask, float(self.mask[action]), False, self.t >= 10, {}


def masked(q_values, obs):
    return q_values - 1e9 * (1 - obs)


def would_like_action_1(model):
    last = [layer for layer in model.q_net.q_net if isinstance(layer, th.nn.Linear)][-1]
    with th.no_grad():
        last.bias.copy_(th.tensor([0.0, 9.0, 0.0, 0.0]))
    return model


def greedy(algorithm, policy, **kwargs):
    """A model that does not explore and learns nothing."""
    own = {"n_actors": 2, "n_steps": 1, "device": "cpu"} if algorithm is CA2EDQN else {"device": "cpu"}
    never = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}
    model = algorithm(policy, Board(), learning_starts=0, learning_rate=0.0, seed=0, **never, **own, **kwargs)
    return would_like_action_1(model)


def taken(model, n=200):
    model.learn(n)
    return np.unique(model.replay_buffer.sample(300).actions.numpy()).tolist()


# Policies.


def test_masks_in_a_policy_are_refused_with_the_way_to_have_them():
    class Masked(DQNPolicy):
        def _predict(self, obs, deterministic=True):
            return masked(self.q_net(obs), obs).argmax(dim=1)

    assert taken(greedy(sb3.DQN, Masked)) == [0]
    with pytest.raises(ValueError, match=r"calls Masked\._predict, .* action_masks\(\), or put action_mask into its"):
        greedy(CA2EDQN, Masked)


def passing(name, parent):
    """A subclass that overrides a method without changing anything."""

    def method(self, *args, **kwargs):
        return getattr(super(own, self), name)(*args, **kwargs)

    own = type("Own", (parent,), {name: method})
    return own


ACTING = ("predict", "_predict", "set_training_mode", "obs_to_tensor", "is_vectorized_observation")
SCALING = ("scale_action", "unscale_action")


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        *((name, parent) for name in ACTING for parent in (DQNPolicy, CA2EDQNPolicy)),
        *((name, parent) for name in (*ACTING[:4], *SCALING) for parent in (TD3Policy, CA2EDDPGPolicy)),
    ],
)
def test_what_sb3_calls_on_a_policy_is_refused_by_name(name, parent):
    discrete = issubclass(parent, DQNPolicy)
    env = RandomWalk(continuous=not discrete)
    called = []

    class Own(passing(name, parent)):
        def __getattribute__(self, attribute):
            if attribute == name:
                called.append(attribute)
            return super().__getattribute__(attribute)

    kwargs = {"learning_starts": 10, "buffer_size": 100, "device": "cpu"}
    half = {"exploration_final_eps": 0.5} if discrete else {}
    (sb3.DQN if discrete else sb3.DDPG)(Own, env, **kwargs, **half, seed=0).learn(40)
    assert called  # this is why
    with pytest.raises(ValueError, match=rf"calls Own\.{name}, but CA2ED.* would leave it out.* into .* instead"):
        (CA2EDQN if discrete else CA2EDDPG)(passing(name, parent), env, device="cpu")


def test_a_property_is_refused_too():
    class Own(TD3Policy):
        squash_output = property(lambda self: False)

    with pytest.raises(ValueError, match=r"Own\.squash_output"):
        CA2EDDPG(Own, "Pendulum-v1")


MAKERS = {
    QNetwork: (DQNPolicy, "make_q_net", "net_args"),
    Actor: (TD3Policy, "make_actor", "actor_kwargs"),
    ContinuousCritic: (TD3Policy, "make_critic", "critic_kwargs"),
}


def with_network(network, parent):
    """A model whose policy has a network of a user's class."""
    policy, method, arguments = MAKERS[parent]
    makes = {method: lambda self, features_extractor=None: made(self, network, getattr(self, arguments))}
    own = type("Policy", (policy,), makes)
    return CA2EDQN(own, "CartPole-v1") if policy is DQNPolicy else CA2EDDPG(own, "Pendulum-v1")


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("_predict", QNetwork),
        ("set_training_mode", QNetwork),
        ("set_training_mode", Actor),
        ("q1_forward", ContinuousCritic),
    ],
)
def test_what_sb3_calls_on_a_network_is_refused_by_name(name, parent):
    with pytest.raises(ValueError, match=rf"calls Own\.{name}, but"):
        with_network(passing(name, parent), parent)


@pytest.mark.parametrize(("name", "parent"), [("_predict", Actor), ("extract_features", QNetwork), ("forward", Actor)])
def test_what_sb3_does_not_call_or_actors_call_too_is_taken(name, parent):
    with_network(passing(name, parent), parent)


def made(policy, network, kwargs):
    return network(**policy._update_features_extractor(kwargs, None))


@pytest.mark.parametrize("execution", ["sync", "async"])
@pytest.mark.parametrize("where", ["network", "extractor"])
def test_what_forward_computes_is_computed_in_the_actors(where, execution):
    """In the network, where masks can be, and in a features extractor; all classes are those of a function."""

    class MaskedNetwork(QNetwork):
        def forward(self, obs):
            return masked(super().forward(obs), obs)

    class Reversed(sb3.common.torch_layers.FlattenExtractor):
        def forward(self, observations):
            return super().forward(observations) * 0 + 1 if where == "extractor" else observations

    class Policy(DQNPolicy):
        def make_q_net(self):
            return made(self, MaskedNetwork, self.net_args) if where == "network" else super().make_q_net()

    kwargs = {"policy_kwargs": {"features_extractor_class": Reversed}}
    expected = taken(greedy(sb3.DQN, Policy, **kwargs))
    assert expected == ([0] if where == "network" else [1])
    assert taken(greedy(CA2EDQN, Policy, execution=execution, **kwargs)) == expected


@pytest.mark.parametrize("algorithm", [sb3.DQN, CA2EDQN])
def test_forward_of_a_policy_is_not_called_by_either(algorithm):
    class Never(DQNPolicy):
        def forward(self, obs, deterministic=True):
            raise AssertionError

    assert taken(greedy(algorithm, Never)) == [1]


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_train_of_a_layer_is_the_way_to_stay_in_training(execution):
    """Which set_training_mode() is told to be: noise that a layer adds while acting too, as with SB3."""

    class Always(th.nn.Dropout):
        def train(self, mode=True):
            return super().train(True)

    class Policy(DQNPolicy):
        def make_q_net(self):
            network = super().make_q_net()
            network.q_net.append(Always(0.5))
            return network

    expected = taken(greedy(sb3.DQN, Policy))
    assert len(expected) > 1  # though 1 has the greatest value
    assert taken(greedy(CA2EDQN, Policy, execution=execution)) == expected


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_forward_replaced_on_a_network_is_called(execution):
    def run(algorithm, **kwargs):
        model = greedy(algorithm, "MlpPolicy", **kwargs)
        forward = model.q_net.forward
        model.q_net.forward = lambda obs: masked(forward(obs), obs)
        return taken(model)

    assert run(CA2EDQN, execution=execution) == run(sb3.DQN) == [0]


def test_methods_replaced_later_are_refused_when_learning_starts(monkeypatch):
    model = CA2EDQN("MlpPolicy", "CartPole-v1", n_actors=2, execution="sync")
    before = model.policy._predict
    model.policy._predict = lambda obs, deterministic=True: before(obs, deterministic)
    with pytest.raises(ValueError, match=r"CA2EDQNPolicy\._predict"):
        model.learn(10)
    del model.policy._predict
    model.q_net._predict = types.MethodType(lambda self, obs, deterministic=True: self(obs).argmax(1), model.q_net)
    with pytest.raises(ValueError, match=r"LayerNormQNetwork\._predict"):
        model.learn(10)
    del model.q_net._predict
    model._sample_action = functools.partial(model._sample_action)
    with pytest.raises(ValueError, match=r"CA2EDQN\._sample_action"):
        model.learn(10)
    del model._sample_action
    wrapped = functools.wraps(DQNPolicy._predict)(lambda *args, **kwargs: None)
    with monkeypatch.context() as patch:
        patch.setattr(DQNPolicy, "_predict", wrapped)  # for all policies of the process
        with pytest.raises(ValueError, match=r"CA2EDQNPolicy\._predict"):
            model.learn(10)
    assert model.learn(10).num_timesteps >= 10


def test_a_loaded_policy_is_refused_too(tmp_path):
    class Own(DQNPolicy):
        pass

    CA2EDQN(Own, "CartPole-v1").save(tmp_path / "model")
    Own.predict = passing("predict", DQNPolicy).predict
    with pytest.raises(ValueError, match=r"calls Own\.predict"):
        CA2EDQN.load(tmp_path / "model", custom_objects={"policy_class": Own})


# Models.


@pytest.mark.parametrize("parent", [CA2EDQN, CA2EDDPG])
@pytest.mark.parametrize("name", ["predict", "_sample_action", "_store_transition"])
def test_what_sb3_calls_on_a_model_is_refused_by_name(name, parent):
    env = "CartPole-v1" if parent is CA2EDQN else "Pendulum-v1"
    with pytest.raises(ValueError, match=rf"calls Own\.{name}, but Own would leave it out"):
        passing(name, parent)("MlpPolicy", env)


@pytest.mark.parametrize(("ours", "theirs"), [(CA2EDQN, sb3.DQN), (CA2EDDPG, sb3.DDPG)])
def test_other_methods_of_a_model_are_called_as_by_sb3(ours, theirs):
    """``learn`` calls them, as often as SB3's."""

    def calls(algorithm, **kwargs):
        counts = dict.fromkeys(("collect_rollouts", "train", "_on_step"), 0)

        def counted(name):
            def method(self, *args, **kwargs):
                counts[name] += 1
                return getattr(super(own, self), name)(*args, **kwargs)

            return method

        own = type("Own", (algorithm,), {name: counted(name) for name in counts})
        env = RandomWalk(continuous=issubclass(algorithm, sb3.DDPG))
        own("MlpPolicy", env, learning_starts=20, train_freq=2, device="cpu", **kwargs).learn(60)
        return counts

    assert calls(ours, n_actors=2, execution="sync") == calls(theirs, buffer_size=100)
