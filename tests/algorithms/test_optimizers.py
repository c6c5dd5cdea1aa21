"""Optimisers of the user's own choice: set up and stepped as with SB3, and compiled only if they can be."""

import copy

import gymnasium as gym
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import CA2EDDPG, CA2EDQN
from tests import inside
from tests.toy import RandomWalk


class SignDescent(th.optim.Optimizer):
    """An optimiser that PyTorch does not have."""

    def __init__(self, params, lr=1e-3, decay=0.0):
        super().__init__(params, {"lr": lr, "decay": decay})

    @th.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.sub_(group["lr"] * parameter.grad.sign())


#: Policy arguments by name: those that SB3 takes, and all implementations of Adam.
ASKED = {
    "nothing": {},
    "foreach": {"optimizer_kwargs": {"foreach": True}},
    "no foreach": {"optimizer_kwargs": {"foreach": False}},
    "fused": {"optimizer_kwargs": {"fused": True}},
    "not fused": {"optimizer_kwargs": {"fused": False}},
    "differentiable": {"optimizer_kwargs": {"differentiable": False}},
    "weight_decay": {"optimizer_kwargs": {"weight_decay": 1e-3, "eps": 1e-5}},
    "betas": {"optimizer_kwargs": {"betas": (0.5, 0.9), "foreach": True}},
    "AdamW": {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"foreach": True}},
    "amsgrad": {"optimizer_kwargs": {"amsgrad": True}},
    "maximize": {"optimizer_kwargs": {"maximize": True}},
    "rmsprop": {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.9}},
    "sgd": {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9, "foreach": True}},
    "NAdam": {"optimizer_class": th.optim.NAdam},
    "own": {"optimizer_class": SignDescent, "optimizer_kwargs": {"decay": 0.1}},
    "elu": {"activation_fn": th.nn.ELU},
    "empty net": {"net_arch": []},
}
#: Adam computes the same whichever implementation computes it; SB3 can't run this one on a CPU.
WITHOUT_SB3 = {"capturable": {"optimizer_kwargs": {"capturable": True}}}
ALGORITHMS = [pytest.param(CA2EDQN, sb3.DQN, id="DQN"), pytest.param(CA2EDDPG, sb3.DDPG, id="DDPG")]


def make(algorithm, policy_kwargs, **kwargs):
    env = RandomWalk(continuous=issubclass(algorithm, sb3.DDPG))
    ours = issubclass(algorithm, CA2EDQN | CA2EDDPG)
    own = {"n_actors": 2, "execution": "sync", "local_buffer_size": 10, "n_steps": 1} if ours else {"buffer_size": 1000}
    settings = {"learning_starts": 20, "seed": 0, "device": "cpu", "policy_kwargs": policy_kwargs, **own, **kwargs}
    return algorithm("MlpPolicy", env, **settings)


def optimizers_of(model) -> dict[str, th.optim.Optimizer]:
    if isinstance(model, sb3.DQN):
        return {"q_net": model.policy.optimizer}
    return {"actor": model.actor.optimizer, "critic": model.critic.optimizer}


@pytest.mark.parametrize(("ours", "theirs"), ALGORITHMS)
@pytest.mark.parametrize("name", ASKED)
def test_optimisers_are_taken_as_by_sb3(name, ours, theirs):
    asked = copy.deepcopy(ASKED[name])
    for algorithm in (ours, theirs, ours):
        model = make(algorithm, asked).learn(40)
        assert model._n_updates > 0
        for optimizer in optimizers_of(model).values():
            assert type(optimizer) is asked.get("optimizer_class", th.optim.Adam)
            for key, value in asked.get("optimizer_kwargs", {}).items():
                assert optimizer.defaults[key] == optimizer.param_groups[0][key] == value
        if algorithm is theirs is sb3.DDPG:
            assert asked.pop("n_critics") == 1  # SB3's DDPG writes into it
        assert asked == ASKED[name]


@pytest.mark.parametrize(("ours", "theirs"), ALGORITHMS)
@pytest.mark.parametrize("name", ["foreach", "sgd", "own"])
def test_optimisers_are_taken_beside_actor_processes(name, ours, theirs, tmp_path):
    asked = copy.deepcopy(ASKED[name])
    model = make(ours, asked, execution="async", n_processes=2).learn(100)
    assert model._n_updates > 0
    assert asked == ASKED[name]
    model.save(tmp_path / "model")
    for theirs_too in (ours, theirs):
        loaded = theirs_too.load(tmp_path / "model")
        assert type(optimizers_of(loaded).popitem()[1]) is asked.get("optimizer_class", th.optim.Adam)


@pytest.mark.parametrize("ours", [CA2EDQN, CA2EDDPG])
def test_nested_arguments_are_not_written_into(ours, tmp_path):
    """SB3's policies write into the arguments of a features extractor that does not scale images."""
    asked = {
        "normalize_images": False,
        "features_extractor_class": sb3.common.torch_layers.CombinedExtractor,
        "features_extractor_kwargs": {"cnn_output_dim": 8},
        "net_arch": {"pi": [4], "qf": [4]} if ours is CA2EDDPG else [4],
        "n_critics": 1,
    }
    if ours is CA2EDQN:
        del asked["n_critics"]
    before = copy.deepcopy(asked)

    env = RandomWalk(continuous=ours is CA2EDDPG)
    env = gym.wrappers.TransformObservation(
        env, lambda observation: {"a": observation}, gym.spaces.Dict({"a": env.observation_space})
    )
    model = ours("MultiInputPolicy", env, policy_kwargs=asked, n_actors=2, execution="sync", device="cpu").learn(150)
    assert asked == before
    assert model.policy.features_extractor_kwargs == {"cnn_output_dim": 8, "normalized_image": True}
    model.save(tmp_path / "model")
    asked = copy.deepcopy(model.policy_kwargs)  # load() takes no other
    before = copy.deepcopy(asked)
    ours.load(tmp_path / "model", policy_kwargs=asked)
    assert asked == before


@pytest.mark.parametrize("ours", [CA2EDQN, CA2EDDPG])
@pytest.mark.parametrize("name", [*ASKED, *WITHOUT_SB3])
def test_updates_make_the_steps_of_the_optimiser(name, ours):
    """Each step equals that of a new optimiser of the same kind, given the same gradients from the start."""
    asked = (ASKED | WITHOUT_SB3)[name]
    model = make(ours, asked, gradient_steps=0, compile=False).learn(60)
    optimizer_class = asked.get("optimizer_class", th.optim.Adam)
    same = {"fused": True} if optimizer_class is th.optim.Adam and "foreach" not in str(asked) else {}
    followed = {}
    for network, optimizer in optimizers_of(model).items():
        copies = [parameter.detach().clone().requires_grad_() for parameter in optimizer.param_groups[0]["params"]]
        rate = model.actor_learning_rate if network == "actor" else model.learning_rate
        kwargs = {**same, **asked.get("optimizer_kwargs", {})}
        if "differentiable" in kwargs:
            del kwargs["fused"]
        followed[network] = optimizer, copies, optimizer_class(copies, lr=rate, **kwargs)

        def follow(optimizer, args, kwargs, network=network):
            _, copies, other = followed[network]
            for copied, parameter in zip(copies, optimizer.param_groups[0]["params"], strict=True):
                copied.grad = None if parameter.grad is None else parameter.grad.clone()
            other.step()

        optimizer.register_step_pre_hook(follow)
    model.train(8, 16)
    for optimizer, copies, _ in followed.values():
        th.testing.assert_close(optimizer.param_groups[0]["params"], copies, rtol=0, atol=0)


@pytest.mark.parametrize("ours", [CA2EDQN, CA2EDDPG])
@pytest.mark.parametrize("name", ["foreach", "capturable"])
def test_whatever_the_implementation_compiled_updates_agree(name, ours):
    asked = (ASKED | WITHOUT_SB3)[name]
    eager, compiled = (make(ours, asked, gradient_steps=0, compile=each).learn(60) for each in (False, True))
    for model in (eager, compiled):
        model.train(2, 16)
    assert inside.learner(compiled).compiled, inside.learner(compiled).obstacle
    for model in (eager, compiled):
        model.train(3, 16)
        model.train(2, 8)  # what is compiled holds for one batch size
        model.train(3, 16)
    th.testing.assert_close(list(compiled.policy.parameters()), list(eager.policy.parameters()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ours", [CA2EDQN, CA2EDDPG])
@pytest.mark.parametrize("name", ["rmsprop", "own", "amsgrad"])
def test_other_optimisers_stay_eager_and_that_is_told_once(name, ours):
    model = make(ours, ASKED[name], compile=True)
    with pytest.warns(UserWarning, match="compile=True, but updates stay eager: the optimizer ") as told:
        model.learn(100)
    assert len([each for each in told if "stay eager" in str(each.message)]) == 1
    model.learn(100, reset_num_timesteps=False)  # a second warning would be an error
    assert not inside.learner(model).compiled


class Stop(BaseCallback):
    def _on_step(self):
        return self.num_timesteps < 200


@pytest.mark.parametrize("verbose", [0, 1])
def test_with_auto_it_is_printed_once(verbose, capsys):
    model = make(CA2EDQN, ASKED["sgd"], execution="async", n_processes=1, verbose=verbose)
    model.learn(100_000, Stop())
    assert capsys.readouterr().out.count("Updates stay eager: the optimizer is SGD, not Adam or AdamW") == verbose
