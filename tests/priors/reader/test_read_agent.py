"""Policies that are read are those that were saved."""

import io
import json
import pickle
import zipfile

import cloudpickle
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import sb3_ca2e
from sb3_ca2e.policies import LayerNormCNN
from sb3_ca2e.priors.find import BUNDLED, algorithm_class
from sb3_ca2e.priors.reader.errors import UntrustedAgentError
from sb3_ca2e.priors.reader.model import read_agent
from tests.priors.reader.spaces_env import SpacesEnv

VECTOR = spaces.Box(-10, 10, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "goal": VECTOR, "a": spaces.Discrete(4)})
OBSERVATIONS = {"Mlp": VECTOR, "Cnn": IMAGE, "MultiInput": DICT, "Linear": VECTOR}

DISCRETE = spaces.Discrete(50)
TORQUES = spaces.Box(np.array([-1, -3], np.float32), np.array([2, 3], np.float32))

FREE = {"n_steps": 4}
SMALL_MEMORY = {"buffer_size": 10}
OWN = {"n_actors": 1}
ALGORITHMS = {
    "a2c": (stable_baselines3.A2C, TORQUES, FREE),
    "ppo": (stable_baselines3.PPO, DISCRETE, {**FREE, "batch_size": 2}),
    "trpo": (sb3_contrib.TRPO, TORQUES, {**FREE, "batch_size": 2}),
    "dqn": (stable_baselines3.DQN, DISCRETE, SMALL_MEMORY),
    "qrdqn": (sb3_contrib.QRDQN, DISCRETE, SMALL_MEMORY),
    "td3": (stable_baselines3.TD3, TORQUES, SMALL_MEMORY),
    "ddpg": (stable_baselines3.DDPG, TORQUES, SMALL_MEMORY),
    "sac": (stable_baselines3.SAC, TORQUES, SMALL_MEMORY),
    "tqc": (sb3_contrib.TQC, TORQUES, SMALL_MEMORY),
    "ars": (sb3_contrib.ARS, TORQUES, {}),
    "ca2e_dqn": (sb3_ca2e.CA2EDQN, DISCRETE, OWN),
    "ca2e_ddpg": (sb3_ca2e.CA2EDDPG, TORQUES, OWN),
}


def model_of(algorithm, policy="Mlp", observations=None, actions=None, policy_kwargs=None, **kwargs):
    """An untrained model whose weights are far from those that a new one starts with."""
    model_class, usual_actions, usual = ALGORITHMS[algorithm]
    env = DummyVecEnv([lambda: SpacesEnv(observations or OBSERVATIONS[policy], actions or usual_actions)])
    arguments = {"policy_kwargs": policy_kwargs, "device": "cpu", "seed": 0, **usual, **kwargs}
    model = model_class(f"{policy}Policy", env, **arguments)
    with th.no_grad():
        for parameter in model.policy.parameters():
            inputs = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter += th.randn_like(parameter) / inputs**0.5
    return model


def saved(model, folder):
    model.save(folder / "agent.zip")
    return folder / "agent.zip"


def shapes_in(observations):
    """Images of noise look all the same to a network: black out squares of them."""
    if observations.ndim < 4:
        return observations
    squares = np.random.default_rng(0).random((len(observations), 1, 3, 3)) < 0.5
    return observations * np.kron(squares, np.ones((1, 1, 12, 12))).astype(np.uint8)


def assert_acts_as(policy, model, n=32):
    """Every observation gets the same action, to the last bit; and not one action for all."""
    space = model.observation_space
    space.seed(1)
    drawn = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        observations = {key: shapes_in(np.stack([each[key] for each in drawn])) for key in space}
    else:
        observations = shapes_in(np.stack(drawn))
    actions, _ = policy.predict(observations, deterministic=True)
    expected, _ = model.predict(observations, deterministic=True)
    assert actions.dtype == expected.dtype
    np.testing.assert_array_equal(actions, expected)
    assert len({action.tobytes() for action in expected}) > 1


POLICIES = [(algorithm, policy) for algorithm in ALGORITHMS for policy in ("Mlp", "Cnn", "MultiInput")]


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(algorithm, policy) for algorithm, policy in POLICIES if algorithm != "ars"] + [("ars", "Mlp"), ("ars", "Linear")],
)
def test_every_policy_of_every_algorithm_acts_as_its_model(tmp_path, algorithm, policy):
    model = model_of(algorithm, policy)

    agent = read_agent(saved(model, tmp_path), algorithm)

    assert type(agent) is type(model.policy)
    assert agent.observation_space == model.observation_space
    assert agent.action_space == model.action_space
    assert not agent.training
    assert_acts_as(agent, model)
    assert_acts_as(cloudpickle.loads(cloudpickle.dumps(agent)), model)


@pytest.mark.parametrize(
    ("algorithm", "policy", "policy_kwargs", "kwargs"),
    [
        ("ppo", "Mlp", {"net_arch": {"pi": [8], "vf": [16, 4]}, "activation_fn": nn.ELU, "ortho_init": False}, {}),
        ("ppo", "Mlp", {"net_arch": {"pi": [], "vf": []}}, {"actions": spaces.MultiDiscrete([3, 4])}),
        ("ppo", "Mlp", {"optimizer_class": th.optim.SGD}, {"actions": spaces.MultiBinary(3)}),
        ("a2c", "Mlp", {"log_std_init": -1.5, "squash_output": True, "full_std": False}, {"use_sde": True}),
        ("a2c", "Cnn", {"share_features_extractor": False, "features_extractor_kwargs": {"features_dim": 8}}, {}),
        ("a2c", "Mlp", None, {"observations": spaces.Discrete(7)}),
        ("a2c", "Mlp", None, {"observations": spaces.MultiDiscrete([3, 5])}),
        ("a2c", "Mlp", None, {"observations": spaces.MultiBinary([2, 3])}),
        ("dqn", "Cnn", {"normalize_images": False, "net_arch": [16]}, {}),
        ("dqn", "Mlp", {"optimizer_kwargs": {"eps": 1e-5}, "net_arch": [7, 9, 11]}, {}),
        ("qrdqn", "Mlp", {"n_quantiles": 13}, {}),
        ("sac", "Mlp", {"net_arch": {"pi": [8], "qf": [16]}, "clip_mean": 1.0, "n_critics": 1}, {"use_sde": True}),
        ("tqc", "Mlp", {"n_quantiles": 5, "n_critics": 3, "activation_fn": nn.Tanh}, {}),
        ("td3", "Cnn", {"share_features_extractor": True}, {}),
        ("ars", "Linear", {"with_bias": True, "squash_output": True}, {}),
        ("ca2e_dqn", "Cnn", {"features_extractor_class": LayerNormCNN, "net_arch": [12]}, {}),
    ],
)
def test_what_the_model_says_of_its_network_is_followed(tmp_path, algorithm, policy, policy_kwargs, kwargs):
    model = model_of(algorithm, policy, policy_kwargs=policy_kwargs, **kwargs)

    agent = read_agent(saved(model, tmp_path), algorithm)

    assert_acts_as(agent, model)


def test_an_agent_that_draws_its_actions_can_do_so(tmp_path):
    model = model_of("sac", use_sde=True)

    policy = read_agent(saved(model, tmp_path))

    observations = np.zeros((1, 5), np.float32)
    drawn = [policy.predict(observations, deterministic=False)[0] for _ in range(2)]
    policy.reset_noise()
    drawn.append(policy.predict(observations, deterministic=False)[0])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*/*/*.zip")), ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_the_agents_of_the_package_act_as_their_models(path):
    algorithm = path.parts[-3]

    agent = read_agent(path, algorithm)

    assert_acts_as(agent, algorithm_class(algorithm).load(path, device="cpu"))


def test_the_random_numbers_of_the_run_are_left_alone(tmp_path):
    path = saved(model_of("sac", use_sde=True), tmp_path)
    states = th.get_rng_state(), np.random.get_state()[1].tolist()

    read_agent(path)

    assert th.equal(th.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


def edited_weights(path, edit):
    """Change the state dictionary in a saved model."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = edit(th.load(io.BytesIO(members["policy.pth"])))
    th.save(weights, buffer := io.BytesIO())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | {"policy.pth": buffer.getvalue()}).items():
            archive.writestr(name, data)
    return path


def test_images_of_agents_saved_before_sb3_1_7_have_one_name_for_their_extractor(tmp_path):
    model = model_of("ppo", "Cnn")
    path = edited_weights(
        saved(model, tmp_path),
        lambda weights: {name: each for name, each in weights.items() if name[:3] not in ("pi_", "vf_")},
    )

    assert_acts_as(read_agent(path), model)


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (lambda weights: weights | {"action_net.bias": weights["action_net.bias"] * float("nan")}, "action_net.bias"),
        (lambda weights: weights | {"action_net.bias": weights["action_net.bias"] / 0}, "action_net.bias"),
        (lambda weights: weights | {"action_net.bias": weights["action_net.bias"][:-1]}, "action_net.bias"),
        (lambda weights: weights | {"action_net.bias": weights["action_net.bias"].long()}, "action_net.bias"),
        (lambda weights: weights | {"more": th.zeros(1)}, "more"),
        (lambda weights: {name: each for name, each in weights.items() if name != "value_net.bias"}, "value_net.bias"),
        (lambda weights: weights | {"policy": weights["value_net.bias"].expand(1000)}, "policy"),
    ],
    ids=["not a number", "infinite", "another shape", "integers", "left over", "missing", "repeated"],
)
def test_weights_that_do_not_fit_exactly_are_refused(tmp_path, edit, names):
    path = edited_weights(saved(model_of("ppo"), tmp_path), edit)

    with pytest.raises(UntrustedAgentError, match=names):
        read_agent(path)


def test_views_of_a_storage_are_read_as_torch_reads_them(tmp_path):
    model = model_of("dqn")

    def transposed(weights):
        large = th.zeros(300, 5 + 300)
        layer = weights["q_net.q_net.0.weight"]
        view = large[3 : 3 + layer.shape[1], 7 : 7 + layer.shape[0]].t()
        view.copy_(layer)
        return weights | {"q_net.q_net.0.weight": view}

    path = edited_weights(saved(model, tmp_path), transposed)

    assert_acts_as(read_agent(path), model)


def test_the_format_of_torch_before_1_6_is_read(tmp_path):
    model = model_of("sac")
    path = saved(model, tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in [name for name in members if name.endswith(".pth")]:
        value = th.load(io.BytesIO(members[name]))
        th.save(value, buffer := io.BytesIO(), _use_new_zipfile_serialization=False)
        members[name] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)

    assert_acts_as(read_agent(path), model)


class OwnExtractor(stable_baselines3.common.torch_layers.FlattenExtractor):
    """A class that only its author's program knows."""


@pytest.mark.parametrize(
    ("algorithm", "policy_kwargs", "name"),
    [
        ("dqn", {"features_extractor_class": OwnExtractor}, "OwnExtractor"),
        ("ppo", {"activation_fn": nn.Softmax}, "torch.nn.modules.activation.Softmax"),
    ],
)
def test_unknown_classes_are_named(tmp_path, algorithm, policy_kwargs, name):
    path = saved(model_of(algorithm, policy_kwargs=policy_kwargs), tmp_path)

    with pytest.raises(UntrustedAgentError, match=r"policy_kwargs names .*" + name) as refusal:
        read_agent(path, algorithm)

    assert str(path) in str(refusal.value)
    assert "trust=True" in str(refusal.value)
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


def test_a_policy_of_another_algorithm_is_refused(tmp_path):
    path = saved(model_of("dqn"), tmp_path)

    with pytest.raises(UntrustedAgentError, match=r"an agent of ppo, but its policy is one of dqn"):
        read_agent(path, "ppo")


def test_recurrent_policies_are_named(tmp_path):
    env = DummyVecEnv([lambda: SpacesEnv(VECTOR, DISCRETE)])
    model = sb3_contrib.RecurrentPPO("MlpLstmPolicy", env, device="cpu", n_steps=4, batch_size=2)

    with pytest.raises(UntrustedAgentError, match=r"sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy"):
        read_agent(saved(model, tmp_path))


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_agent(tmp_path / "none.zip")


def test_a_link_to_an_agent_is_followed(tmp_path):
    path = saved(model_of("dqn"), tmp_path)
    (tmp_path / "link.zip").symlink_to(path)

    assert read_agent(tmp_path / "link.zip").action_space == DISCRETE


def test_attributes_that_are_not_needed_may_be_anything(tmp_path):
    """Learning rates and schedules of old agents are pickled functions; they are not even decoded."""
    model = model_of("ppo")
    model.learning_rate = lambda progress: 1e-3 * progress
    path = saved(model, tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert ":serialized:" in json.loads(archive.read("data"))["learning_rate"]

    assert_acts_as(read_agent(path), model)
