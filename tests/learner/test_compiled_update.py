"""A compiled update does what the eager one does, and stands aside where it would not."""

import copy
import functools
import os
import pickle
import subprocess
import sys
import threading
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ca2e import CA2EDQN
from sb3_ca2e.actors.spec import for_actors
from sb3_ca2e.learner.compiled_update import FlatUpdate
from sb3_ca2e.learner.compiler import _helpers_ended
from sb3_ca2e.learner.cuda_graph import CudaGraph
from sb3_ca2e.learner.update import _COMPILING, Learner
from sb3_ca2e.replay.n_step import PRIORITY_FLOOR
from tests import inside
from tests.learner.test_updates import make_ddpg, make_dqn
from tests.marked_processes import processes_marked
from tests.toy import RandomWalk, dqn


def tensors_of(model):
    _, optimizers = model.trained_networks()
    states = [state[key] for o in optimizers.values() for state in o.state.values() for key in sorted(state)]
    return [*(parameter.detach() for parameter in model.policy.parameters()), *states]


@pytest.mark.parametrize("make", [make_dqn, make_ddpg])
def test_compiled_updates_agree_with_eager_ones(make):
    eager, compiled = make(sgd=False), make(sgd=False, compile=True)
    for model in (eager, compiled):
        model.train(3, 64)  # the last of which the compiler takes for a model
    assert inside.learner(compiled).compiled, inside.learner(compiled).obstacle
    for _ in range(3):
        for model in (eager, compiled):
            model.train(5, 64)
        th.testing.assert_close(tensors_of(compiled), tensors_of(eager), rtol=1e-5, atol=1e-5)
        assert compiled.logger.name_to_value == pytest.approx(eager.logger.name_to_value, rel=1e-4, abs=1e-5)
    # What was compiled holds for one batch size and one set of settings.
    for model in (eager, compiled):
        model.train(2, 32)
        model.train(2, 64)
    th.testing.assert_close(tensors_of(compiled), tensors_of(eager), rtol=1e-5, atol=1e-5)
    for model in (eager, compiled):
        model.max_grad_norm = model.critic_l2 = 1e-3
        model.train(2, 64)
    th.testing.assert_close(tensors_of(compiled), tensors_of(eager), rtol=1e-5, atol=1e-5)


def test_a_compiled_model_goes_on_from_other_parameters_and_at_another_rate():
    eager, compiled = make_dqn(sgd=False), make_dqn(sgd=False, compile=True)
    compiled.train(3, 64)
    assert inside.learner(compiled).compiled, inside.learner(compiled).obstacle
    eager.train(10, 64)
    compiled.set_parameters(copy.deepcopy(eager.get_parameters()))  # torch shares what it loads
    compiled.replay_buffer = copy.deepcopy(eager.replay_buffer)
    for model in (eager, compiled):
        model.learning_rate = 1e-2
        model._setup_lr_schedule()
        model.train(5, 64)
    th.testing.assert_close(tensors_of(compiled), tensors_of(eager), rtol=1e-5, atol=1e-5)


def test_what_a_user_puts_in_the_place_of_a_network_or_an_optimiser_is_trained():
    model = make_dqn(sgd=False, compile=True)
    model.train(3, 64)
    assert inside.learner(model).compiled, inside.learner(model).obstacle
    old, old_optimizer = model.q_net, model.policy.optimizer
    model.policy.q_net = model.q_net = copy.deepcopy(old)
    model.policy.optimizer = th.optim.SGD(model.q_net.parameters(), lr=0.1)
    before = [copy.deepcopy(list(network.parameters())) for network in (old, model.q_net)]
    with pytest.warns(UserWarning, match="compile=True, but updates stay eager: the optimizer is SGD"):
        model.train(1, 64)
    assert all(th.equal(was, now) for was, now in zip(before[0], old.parameters(), strict=True))
    assert not any(th.equal(was, now) for was, now in zip(before[1], model.q_net.parameters(), strict=True))
    assert {int(state["step"]) for state in old_optimizer.state.values()} == {3}


def group(model):
    return model.policy.optimizer.param_groups[0]


def replace_a_layer(model):
    model.q_net.q_net[0] = copy.deepcopy(model.q_net.q_net[0]).requires_grad_(False)


def scale(network, index):
    def change(model):
        parameter = list(getattr(model, network).parameters())[index]
        parameter.data = parameter.data * 0.5

    return change


def frozen(n_layers):
    """The first layers, if any, and no others."""

    def change(model):
        for index, layer in enumerate(model.q_net.q_net):
            layer.requires_grad_(index >= n_layers)
        model.policy.optimizer.zero_grad()

    return change


#: What a user may change between two updates, one thing after the other, and whether what follows is compiled.
CHANGES = {
    "decay": (True, lambda model: group(model).update(weight_decay=0.1)),
    "epsilon": (True, lambda model: group(model).update(eps=1e-2)),
    "betas": (True, lambda model: group(model).update(betas=(0.0, 0.5))),
    "decoupled": (True, lambda model: group(model).update(weight_decay=0.1, decoupled_weight_decay=True)),
    "maximize": (False, lambda model: group(model).update(maximize=True)),
    "last parameter": (True, scale("q_net", -1)),
    "a target's parameter": (True, scale("q_net_target", -2)),
    "frozen": (True, frozen(1)),
    "frozen and trained again": (False, frozen(2), frozen(0)),
    "layer": (False, replace_a_layer),
    "hook": (False, lambda model: model.q_net.q_net[0].register_forward_hook(lambda *_: None)),
}


@pytest.mark.extended
@pytest.mark.parametrize(("compiles", "changes"), [(first, rest) for first, *rest in CHANGES.values()], ids=CHANGES)
@pytest.mark.filterwarnings("ignore:compile=True, but updates stay eager")
def test_what_is_changed_after_compiling_has_its_effect(compiles, changes):
    eager, compiled = make_dqn(sgd=False), make_dqn(sgd=False, compile=True)
    for model in (eager, compiled):
        model.train(3, 64)
    assert inside.learner(compiled).compiled, inside.learner(compiled).obstacle
    for change in changes:
        for model in (eager, compiled):
            change(model)
            model.train(2, 64)
            model.train(3, 64)
        th.testing.assert_close(tensors_of(compiled), tensors_of(eager), rtol=1e-4, atol=1e-5)
    assert inside.learner(compiled).compiled == compiles, inside.learner(compiled).obstacle


@pytest.mark.extended
def test_an_actor_gets_no_more_than_its_networks():
    model = make_ddpg(sgd=False, compile=True)
    size = len(pickle.dumps(for_actors(model.critic)))
    model.train(1, 64)
    assert inside.learner(model).compiled, inside.learner(model).obstacle
    assert len(pickle.dumps(for_actors(model.critic))) == pytest.approx(size, rel=0.01)


class Seeing(gym.Env):
    """Images, numbers of a kind, or both and a vector, at random."""

    images = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    kinds: ClassVar = {
        "image": images,
        "number": spaces.Discrete(4),
        "numbers": spaces.MultiDiscrete([2, 3]),
        "dict": spaces.Dict({"image": images, "number": spaces.Discrete(4), "vector": spaces.Box(-1, 1, (3,))}),
    }

    def __init__(self, kind):
        self.observation_space, self.action_space = self.kinds[kind], spaces.Discrete(3)
        self.observation_space.seed(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(self.np_random.normal()), self.np_random.random() < 0.1, False, {}


def repeated(run):
    """What a CUDA graph does, without the device that would do it."""
    outputs = [output.clone() for output in run()]

    def replay():
        for output, new in zip(outputs, run(), strict=True):
            output.copy_(new)
        return outputs

    return replay


@pytest.mark.parametrize(
    ("kind", "policy"),
    [("image", "CnnPolicy"), ("number", "MlpPolicy"), ("numbers", "MlpPolicy"), ("dict", "MultiInputPolicy")],
)
def test_what_is_recorded_agrees_with_eager_updates_whatever_is_observed(kind, policy):
    def make():
        settings = {"gradient_steps": 0, "buffer_size": 200, "seed": 0, "device": "cpu"}
        model = CA2EDQN(policy, Seeing(kind), n_actors=2, execution="sync", **settings)
        model.learn(100)
        model.train(1, 8)
        return model

    check_recorded(make(), make())


@pytest.mark.parametrize("optimizer", [th.optim.Adam, th.optim.AdamW])
def test_weights_decay_as_the_optimiser_says(optimizer):
    def make():
        policy_kwargs = {"net_arch": [8], "optimizer_class": optimizer, "optimizer_kwargs": {"weight_decay": 0.5}}
        model = dqn(RandomWalk, gradient_steps=0, learning_rate=1e-2, policy_kwargs=policy_kwargs).learn(100)
        model.train(1, 8)
        return model

    check_recorded(make(), make())


def check_recorded(eager, recorded):
    """What is recorded of a model's updates does what those of another do, which is the same so far."""
    modules, optimizers = recorded.trained_networks()
    flat = FlatUpdate(recorded.update, modules, optimizers, ["loss"], PRIORITY_FLOOR)
    assert flat.update_state()
    batch = recorded.replay_buffer.sample(8)
    replayed = CudaGraph(functools.partial(flat.trace(batch), *flat.state), flat.state, repeated)
    for _ in range(2):
        updated = inside.learner(eager).update(batch)
        priorities = replayed(*flat.inputs(batch))[1]
        th.testing.assert_close(tensors_of(recorded), tensors_of(eager), rtol=1e-5, atol=1e-5)
        th.testing.assert_close(priorities, updated.priorities.double(), rtol=1e-5, atol=1e-5)
        batch = eager.replay_buffer.sample(8)


class WithNorm(th.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layers = th.nn.Sequential(th.nn.Linear(4, 4), layer)


@pytest.mark.parametrize(
    ("module", "optimizer", "obstacle"),
    [
        (WithNorm(th.nn.BatchNorm1d(4)), th.optim.Adam, "buffers"),
        (WithNorm(th.nn.Dropout(0.1)), th.optim.Adam, "dropout"),
        (WithNorm(th.nn.ReLU()), th.optim.RMSprop, "RMSprop"),
        (WithNorm(th.nn.ReLU()), lambda parameters: th.optim.Adam(parameters, amsgrad=True), "amsgrad"),
        (WithNorm(th.nn.ReLU()), th.optim.Adam, None),
    ],
)
def test_what_would_compute_something_else_stays_eager(module, optimizer, obstacle):
    found = Learner(lambda networks, batch: None, {"net": module}, {"net": optimizer(module.parameters())}).obstacle
    assert (found is None) if obstacle is None else obstacle in found


def test_what_cannot_be_traced_is_learned_eagerly():
    class Asking(CA2EDQN):
        def update(self, networks, batch):
            if networks("q_net")(batch.observations).mean() > 1e9:  # depends on values
                raise AssertionError
            return super().update(networks, batch)

    model = Asking("MlpPolicy", RandomWalk(), n_actors=2, execution="sync", compile=True, seed=0, device="cpu")
    with pytest.warns(UserWarning, match="compile=True, but updates stay eager: .*") as told:
        model.learn(300)
    assert model._n_updates > 1
    assert len([each for each in told if "updates stay eager" in str(each.message)]) == 1
    assert not inside.learner(model).compiled
    assert inside.learner(model).obstacle


def test_compile_is_refused_where_it_says_nothing():
    with pytest.raises(ValueError, match="compile must be True, False or 'auto', not 'yes'"):
        CA2EDQN("MlpPolicy", "CartPole-v1", compile="yes")


@pytest.mark.extended
def test_an_asynchronous_run_goes_over_to_compiled_updates():
    model = CA2EDQN(
        "MlpPolicy", RandomWalk(), n_actors=2, n_processes=1, compile=True, learning_starts=50, device="cpu"
    )
    model.learn(400)
    inside.learner(model).compile(inside.last_batch(model)[0], wait=True)
    assert inside.learner(model).compiled
    before = copy.deepcopy(list(model.q_net.parameters()))
    model.learn(400)
    after = list(model.q_net.parameters())
    assert not any(th.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(parameter.isfinite().all() for parameter in after)


def test_one_model_of_a_process_is_compiled_after_the_other():
    first, second = make_dqn(sgd=False, compile=True), make_dqn(sgd=False, compile=True)
    with _COMPILING:  # as by a third
        for model in (first, second):
            model.execution = "async"
            model.train(3, 64)
            assert inside.compiler(model) is None
    threads = [
        threading.Thread(target=inside.learner(model).compile, args=(inside.last_batch(model)[0], True))
        for model in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside.learner(first).compiled
    assert inside.learner(second).compiled
    assert th.nn.Module.__call__ is th.nn.Module._wrapped_call_impl, "a tracer's patch was left"


@pytest.mark.extended
def test_the_process_stays_as_it_is_while_threads_of_ours_work(tmp_path):
    """
    Tracers patch ``nn.Module`` for all threads, ``catch_warnings`` changes the filters of all, anomaly detection is on
    for all. In a process of its own: PyTorch and numba do much of that once only. Under ``-W error``.
    """
    script = """
import sys, threading, warnings
import torch as th
from torch.fx import Tracer
from sb3_ca2e import CA2EDQN
from tests import inside
from tests.toy import RandomWalk

def noted(owner, name, calls):
    original = getattr(owner, name)

    def noting(*arguments, **named):
        by = sys._getframe(1).f_code.co_qualname
        if by != "get_exec_path":  # of Python itself: subprocess looks for openssl, for microseconds
            calls.append((threading.current_thread().name, by, *map(type, arguments[:1])))
        return original(*arguments, **named)

    setattr(owner, name, noting)

traced, touched = [], []
noted(Tracer, "trace", traced)
noted(warnings.catch_warnings, "__enter__", touched)
for name in ("filterwarnings", "simplefilter"):
    noted(warnings, name, touched)
settings = {"n_actors": 2, "n_processes": 1, "learning_starts": 50, "seed": 0, "device": "cpu"}
model = CA2EDQN("MlpPolicy", RandomWalk(), compile=True, inference="device", **settings)
warnings.resetwarnings()
warnings.simplefilter("error")
filters = list(warnings.filters)
model.learn(400)
compiler = inside.compiler(model)
beside = set()
while compiler.is_alive():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warnings.warn("an actor was killed, say")
        beside.add((len(told), th.is_anomaly_enabled()))
    compiler.join(0.001)
assert beside == {(1, False)}, beside
assert warnings.filters == filters
assert inside.learner(model).compiled, inside.learner(model).obstacle
assert {thread for thread, *_ in touched} == {"MainThread"}, touched
assert {thread for thread, *_ in traced} == {"MainThread", "compile"}, traced
assert all(tracer.call_module is not Tracer.call_module for thread, _, tracer in traced if thread == "compile"), traced
"""
    path = os.pathsep.join(each for each in sys.path if each)
    environment = {**os.environ, "PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # with nothing in it
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@pytest.mark.extended
def test_what_an_earlier_process_compiled_is_used_again(tmp_path):
    script = """
from torch._dynamo.utils import counters
from tests import inside
from tests.learner.test_updates import make_dqn
model = make_dqn(sgd=False, compile=True)
model.train(3, 64)
assert inside.learner(model).compiled, inside.learner(model).obstacle
print(counters["inductor"]["fxgraph_cache_hit"])
"""
    path = os.pathsep.join(each for each in sys.path if each)
    environment = {**os.environ, "PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # with nothing in it
    command = [sys.executable, "-c", script]
    first, again = (
        subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout.strip()
        for _ in range(2)
    )
    assert (first, again) == ("0", "1")


@pytest.mark.extended
def test_helpers_of_the_compiler_end_unless_somebody_has_them(process_mark):
    from torch._inductor.async_compile import AsyncCompile, shutdown_compile_workers

    with _helpers_ended():
        AsyncCompile.process_pool().submit(os.getpid).result()
        assert processes_marked(process_mark)
    assert not processes_marked(process_mark)
    pool = AsyncCompile.process_pool()
    with _helpers_ended():
        AsyncCompile.process_pool().submit(os.getpid).result()
    assert AsyncCompile.process_pool() is pool
    assert processes_marked(process_mark)
    shutdown_compile_workers()
