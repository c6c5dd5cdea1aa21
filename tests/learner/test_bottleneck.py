"""What bounds a run: of synthetic figures, and of runs with a slow environment, a slow network, a slow learner."""

import csv
import importlib
import time
from typing import ClassVar

import pytest
import torch as th
from gymnasium.wrappers import TransformReward
from stable_baselines3.common.logger import configure

from sb3_ca2e import CA2EDQN
from sb3_ca2e.actors.handover import Seconds
from sb3_ca2e.actors.heartbeat import Phase
from sb3_ca2e.learner.bottleneck import Shares, advice
from sb3_ca2e.policies import CA2EDQNPolicy, LayerNormQNetwork
from tests import inside
from tests.toy import RandomWalk, dqn


def shares(**given) -> Shares:
    return Shares(
        **{"learner_wait": 0.0, "actor_wait": 0.0, "environments": 0.0, "inference": 0.0, "updates": 0.0} | given
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"learner_wait": 0.6, "environments": 0.7, "inference": 0.2}, "environment"),
        ({"learner_wait": 0.6, "environments": 0.2, "inference": 0.7}, "inference"),
        ({"learner_wait": 0.6, "environments": 0.2, "inference": 0.1}, "transport"),
        ({"learner_wait": 0.1, "actor_wait": 0.6, "environments": 0.9, "updates": 0.8}, "learner"),
        ({"learner_wait": 0.1, "actor_wait": 0.6, "environments": 0.9, "updates": 0.2}, "transport"),
        ({"learner_wait": 0.7, "actor_wait": 0.6, "environments": 0.9, "updates": 1.0}, "environment"),
    ],
)
def test_the_side_that_waits_less_bounds_the_run(given, expected):
    assert shares(**given).bottleneck == expected


@pytest.mark.parametrize(
    ("given", "n_processes", "expected"),
    [
        ({"learner_wait": 0.6, "environments": 1.0}, 2, "n_processes=4 for 4 cores"),
        ({"learner_wait": 0.6, "environments": 1.0}, 4, "n_processes=8"),
        ({"learner_wait": 0.6, "environments": 1.0}, 0, "execution='async'"),
        ({"learner_wait": 0.6, "inference": 1.0}, 4, "n_actors=16"),
        ({"learner_wait": 0.6}, 4, "n_actors=16"),
        ({"actor_wait": 0.6, "updates": 1.0}, 4, "train_freq"),
        ({"actor_wait": 0.6}, 4, "callbacks"),
    ],
)
def test_says_who_waited_and_what_to_change(given, n_processes, expected):
    line = advice(shares(**given), n_actors=8, n_processes=n_processes, n_cores=4)
    assert line.startswith(f"{shares(**given).bottleneck}-bound: ")
    assert f"learner waited {given.get('learner_wait', 0):.0%}" in line
    assert f"actors {given.get('actor_wait', 0):.0%}" in line
    assert expected in line


@pytest.mark.parametrize(
    ("given", "other_inference", "named"),
    [
        ({"learner_wait": 0.6, "inference": 1.0}, "device", True),
        ({"learner_wait": 0.6, "inference": 1.0}, "actor", True),
        ({"learner_wait": 0.6, "inference": 1.0}, None, False),
        ({"learner_wait": 0.6, "environments": 1.0}, "device", False),
        ({"actor_wait": 0.6, "updates": 1.0}, "actor", True),  # whose thread the updates share
        ({"actor_wait": 0.6, "updates": 1.0}, "device", False),
    ],
)
def test_says_where_else_networks_could_run(given, other_inference, named):
    line = advice(shares(**given), n_actors=8, n_processes=4, n_cores=4, other_inference=other_inference)
    assert (f"inference={other_inference!r}" in line) == named


@pytest.fixture(scope="module", autouse=True)
def _kernels():
    """Compiled before any time is measured, which on a new machine takes longer than all the runs."""
    importlib.import_module("sb3_ca2e.replay.kernels")


class Slow:
    """
    Takes three times as long as its process has done all else since it was made or called, on any machine.

    :param seconds: that it takes at least
    """

    def __init__(self, seconds: float):
        self.seconds, self.ended = seconds, time.perf_counter()

    def __call__(self, reward=None):
        time.sleep(max(self.seconds, 3 * (time.perf_counter() - self.ended)))
        self.ended = time.perf_counter()
        return reward


class SlowQNetwork(LayerNormQNetwork):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.slow = Slow(0.01)

    def forward(self, obs):
        self.slow()
        return super().forward(obs)


class SlowPolicy(CA2EDQNPolicy):
    def make_q_net(self):
        return SlowQNetwork(**self._update_features_extractor(self.net_args, features_extractor=None))


class TimedQNetwork(LayerNormQNetwork):
    """Keeps the seconds of each call."""

    seconds: ClassVar[list[float]] = []

    def forward(self, obs):
        started = time.perf_counter()
        time.sleep(0.001)
        values = super().forward(obs)
        self.seconds.append(time.perf_counter() - started)
        return values


class TimedPolicy(CA2EDQNPolicy):
    def make_q_net(self):
        return TimedQNetwork(**self._update_features_extractor(self.net_args, features_extractor=None))


class SlowLearner(CA2EDQN):
    """Updates only while all actors wait for it."""

    def _setup_learn(self, *args, **kwargs):
        self.slow = Slow(0.01)
        return super()._setup_learn(*args, **kwargs)

    def update(self, networks, batch):
        for life in getattr(self._collector.pool, "_lives", []):
            while life.buffers.pulse.phase is not Phase.WAITING:
                time.sleep(0.001)
        self.slow()
        return super().update(networks, batch)


def slow_env():
    return TransformReward(RandomWalk(), Slow(0.005))


#: Each process has one slot, so that whatever is slow is so once a step.
ONE = {"n_actors": 1, "verbose": 1}
TWO = {"n_actors": 2, "n_processes": 2, "execution": "async", "verbose": 1}
#: A learner that does as good as nothing, and one that does something for each transition.
IDLE, BUSY = {"learning_starts": 10**6}, {"learning_starts": 0, "train_freq": 1, "local_buffer_size": 5}


@pytest.mark.parametrize(
    ("make", "n", "bound_by"),
    [
        (lambda: dqn(slow_env, **ONE), 150, "environment"),
        (lambda: dqn(slow_env, **TWO, **IDLE), 300, "environment"),
        (lambda: dqn(RandomWalk, SlowLearner, **ONE), 300, "learner"),
        (lambda: dqn(RandomWalk, SlowLearner, **TWO, **BUSY), 150, "learner"),
    ],
)
@pytest.mark.usefixtures("_patient")
def test_slow_environments_and_slow_learners_are_named(make, n, bound_by, capsys):
    make().learn(n)
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(f"{bound_by}-bound: ")


def test_slow_networks_are_named(capsys):
    model = CA2EDQN(SlowPolicy, RandomWalk, n_actors=1, execution="sync", gradient_steps=0, verbose=1, seed=0)
    model.learn(70)  # not so long that networks are traced
    assert capsys.readouterr().out.splitlines()[-1].startswith("inference-bound: ")


def test_all_that_networks_take_is_inference():
    taken = []
    model = CA2EDQN(
        TimedPolicy, RandomWalk, n_actors=3, execution="sync", local_buffer_size=20, gradient_steps=0, seed=0
    )
    TimedQNetwork.seconds.clear()
    model.learn(60, lambda *_: taken.append(inside.collector(model)._actors.tolist()) is None)  # one block of each slot
    seconds = Seconds(*taken[-1])
    assert sum(TimedQNetwork.seconds) <= seconds.inference <= seconds.collecting


def test_a_quiet_model_prints_nothing(capsys):
    dqn(RandomWalk).learn(100)
    assert capsys.readouterr().out == ""


def test_logs_name_the_bottleneck(tmp_path):
    model = dqn(slow_env, n_actors=1)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(150, log_interval=1)
    model.logger.close()
    with (tmp_path / "progress.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert last["time/bottleneck"] == "environment"


def test_a_failed_run_prints_no_advice(capsys):
    class Failing(CA2EDQN):
        def update(self, networks, batch):
            raise th.OutOfMemoryError("no room")

    with pytest.raises(th.OutOfMemoryError):
        dqn(RandomWalk, Failing, verbose=1).learn(300)
    assert "-bound" not in capsys.readouterr().out
