"""Traced passes against the modules themselves."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ca2e import CA2EDDPG, CA2EDQN
from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.inference import TRACE_AFTER, Inference
from sb3_ca2e.policies import CA2EDDPGPolicy, CA2EDQNCnnPolicy, CA2EDQNMultiInputPolicy, CA2EDQNPolicy

N_SLOTS = 4
VECTOR, IMAGE = spaces.Box(-5, 5, (7,)), spaces.Box(0, 255, (4, 36, 36), np.uint8)
MIXED = spaces.Dict({"vector": VECTOR, "image": IMAGE, "kind": spaces.Discrete(3)})


def actions(n: int = 3) -> spaces.Discrete:
    return spaces.Discrete(n)


def networks(policy_class, observation_space, action_space=None):
    policy = policy_class(observation_space, action_space or actions(), lambda _: 1e-3)
    policy.set_training_mode(False)
    name = "actor" if isinstance(policy, CA2EDDPGPolicy) else "q_net"
    return {name: getattr(policy, name)}


def observed(space, batch_size: int = N_SLOTS):
    if isinstance(space, spaces.Dict):
        return {key: observed(part, batch_size) for key, part in space.items()}
    return th.as_tensor(np.stack([space.sample() for _ in range(batch_size)]))


def warm(inference, space):
    """Have as many batches pass as it takes to be traced."""
    with th.inference_mode():
        for _ in range(TRACE_AFTER):
            inference(observed(space), N_SLOTS)


def assert_as_modules(inference, core, modules, space, batch_size=N_SLOTS):
    observations = observed(space, batch_size)
    with th.inference_mode():
        expected = core.act(modules, observations)
        given = inference(observations, batch_size)
    for ours, theirs in zip(given, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize(
    ("core", "policy_class", "space", "action_space"),
    [
        (CA2EDQN, CA2EDQNPolicy, VECTOR, None),
        (CA2EDQN, CA2EDQNPolicy, spaces.Discrete(5), None),
        (CA2EDQN, CA2EDQNPolicy, spaces.MultiDiscrete([3, 4]), None),
        (CA2EDQN, CA2EDQNCnnPolicy, IMAGE, None),
        (CA2EDQN, CA2EDQNMultiInputPolicy, MIXED, None),
        (CA2EDDPG, CA2EDDPGPolicy, VECTOR, spaces.Box(-1, 1, (2,))),
    ],
)
def test_traced_networks_give_what_the_modules_give_with_parameters_read_in_place(
    core, policy_class, space, action_space
):
    space.seed(0)
    modules = networks(policy_class, space, action_space)
    flat = FlatParameters(modules).bind()
    inference = Inference(core, modules, N_SLOTS)
    warm(inference, space)
    assert inference.traced
    for change in range(3):
        assert_as_modules(inference, core, modules, space)
        assert_as_modules(inference, core, modules, space, batch_size=2)
        flat += 0.1 * np.random.default_rng(change).standard_normal(flat.shape).astype(np.float32)
        inference.parameters_changed()
    assert inference.traced


class Deciding(th.nn.Module):
    """Decides by what it sees, which a trace can't."""

    def __init__(self):
        super().__init__()
        self.layer = th.nn.Linear(7, 3)

    def forward(self, observations):
        values = self.layer(observations)
        return values if observations.sum() > 0 else -values


class Caching(th.nn.Module):
    """Counts its passes in Python."""

    def __init__(self):
        super().__init__()
        self.layer, self.passes = th.nn.Linear(7, 3), 0

    def forward(self, observations):
        self.passes += 1
        return self.layer(observations) + float(self.passes % 2)


class Noisy(th.nn.Module):
    """Draws random numbers."""

    def forward(self, observations):
        return th.rand(len(observations), 3)


@pytest.mark.parametrize("module", [Deciding, Caching, Noisy])
def test_networks_that_a_trace_would_change_stay_as_they_are(module):
    VECTOR.seed(0)
    modules = {"q_net": module()}
    alone = copy.deepcopy(modules)
    inference = Inference(CA2EDQN, modules, N_SLOTS)
    th.manual_seed(0)
    given = []
    with th.inference_mode():
        batches = [observed(VECTOR) for _ in range(TRACE_AFTER + 20)]
        given = [inference(batch, N_SLOTS)[1].copy() for batch in batches]
        th.manual_seed(0)
        expected = [CA2EDQN.act(alone, batch)[1].numpy() for batch in batches]
    assert not inference.traced
    different = [i for i, pair in enumerate(zip(given, expected, strict=True)) if not np.array_equal(*pair)]
    assert different == []


def test_a_trace_that_newer_parameters_prove_wrong_is_given_up():
    class Switching(th.nn.Module):
        """Another function from one parameter value on, by a number that tracing takes for a constant."""

        def __init__(self):
            super().__init__()
            self.layer = th.nn.Linear(7, 3)

        def forward(self, observations):
            return self.layer(observations) * self.layer.bias.detach().numpy()[0].item()

    VECTOR.seed(0)
    modules = {"q_net": Switching()}
    flat = FlatParameters(modules).bind()
    inference = Inference(CA2EDQN, modules, N_SLOTS)
    warm(inference, VECTOR)
    flat += 1.0
    inference.parameters_changed()
    for _ in range(3):
        assert_as_modules(inference, CA2EDQN, modules, VECTOR)
    assert not inference.traced
