"""
What a callback, or the user between two calls of ``learn``, changes of a model has SB3's effect, or none where SB3's
has none. SB3's own DQN and DDPG do the same beside ours, and say which it is.
"""

import copy
import csv
import math

import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.td3.policies import TD3Policy

from sb3_ca2e import CA2EDDPG, CA2EDQN
from tests import inside
from tests.toy import RandomWalk

#: By algorithm of SB3: ours.
ALGORITHMS = {sb3.DQN: CA2EDQN, sb3.DDPG: CA2EDDPG}
#: Steps of a run. DQN updates its target every 40 steps, three times after a change at step 100.
STEPS = 240


def networks(model):
    """The network that is trained, and its target."""
    return (model.q_net, model.q_net_target) if isinstance(model, sb3.DQN) else (model.critic, model.critic_target)


def optimizer(model):
    return model.policy.optimizer if isinstance(model, sb3.DQN) else model.critic.optimizer


def copies(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def moved(network, before):
    """For each parameter, whether it has changed."""
    return [not th.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]


def followed(network, target, before):
    """What part of the way to its network a target has gone."""
    way = [new.detach() - old for new, old in zip(network.parameters(), before, strict=True)]
    gone = [new.detach() - old for new, old in zip(target.parameters(), before, strict=True)]
    parts = th.cat([part.flatten() for part in gone]) / th.cat([part.flatten() for part in way])
    return float(parts.nan_to_num(0.0).median())


def observed(algorithm):
    """A class of models that note what each round of updates does."""

    class Observed(algorithm):
        def train(self, gradient_steps, batch_size=100):
            network, target = networks(self)
            before, dqn = copies(network), isinstance(self, sb3.DQN)
            target_before = self.target_before if dqn and self.rounds else copies(target)
            way_gone = followed(network, target, target_before) if dqn else None
            super().train(gradient_steps, batch_size)
            logged = self.logger.name_to_value
            error = logged["train/loss"] if dqn else math.sqrt(logged["train/critic_loss"])  # Huber, or squared
            rate = optimizer(self).param_groups[0]["lr"]
            way = th.stack([(n - o).square().sum() for n, o in zip(network.parameters(), before, strict=True)]).sum()
            self.followed.append(way_gone if dqn else followed(network, target, target_before))
            if algorithm in ALGORITHMS.values():
                self.compiled.append(inside.learner(self).compiled)
            self.rounds.append(
                {
                    "timesteps": self.num_timesteps,
                    "updates": self._n_updates,
                    "batch size": batch_size,
                    "rate": rate,
                    "moved": moved(network, before),
                    "far": isinstance(optimizer(self), th.optim.SGD) and bool(way.sqrt() > 2e-2 * rate),
                    "large error": error > 50.0,
                }
            )
            self.target_before = copies(target)

    Observed.__name__ = algorithm.__name__
    return Observed


def model_of(algorithm, **kwargs):
    """SB3's model or ours, with SB3's networks, losses and exploration."""
    dqn = algorithm in (sb3.DQN, CA2EDQN)
    ours = {"execution": "sync", "n_actors": 2, "local_buffer_size": 10, "replay_buffer_kwargs": {"alpha": 0.0}}
    ours = ours if algorithm in ALGORITHMS.values() else {}
    if algorithm is CA2EDQN:
        ours |= {"double_q": False}
    if algorithm is CA2EDDPG:
        ours |= {"critic_l2": 0.0}
    rates = {"exploration_initial_eps": 1.0, "exploration_final_eps": 0.05} if dqn else {}
    common = {"learning_starts": 50, "batch_size": 32, "train_freq": 4, "n_steps": 1, "buffer_size": 2000}
    if dqn:
        common |= {"target_update_interval": 40}
    model = observed(algorithm)(
        DQNPolicy if dqn else TD3Policy,
        RandomWalk(continuous=not dqn),
        **{**common, **rates, **ours, **kwargs},
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
    )
    model.rounds, model.followed, model.compiled = [], [], []
    return model


class Changing(BaseCallback):
    """
    :param changes: functions of the model, by the number of timesteps after which they are called
    """

    def __init__(self, changes):
        super().__init__()
        self.changes = dict(changes)
        self.rates = []

    def _on_step(self):
        for when in [when for when in self.changes if self.n_calls >= when]:
            self.changes.pop(when)(self.model)
        self.rates.append(getattr(self.model, "exploration_rate", 0.0))
        return True


def told(algorithm, change, between, **kwargs):
    """What a model did that was changed by a callback, or between two calls of ``learn``."""
    model = model_of(algorithm, **kwargs)
    callback = Changing({} if between else {100: change})
    model.learn(100 if between else STEPS, callback)
    if between:
        model.rounds.append("between")
        change(model)
        model.learn(STEPS - 100, callback, reset_num_timesteps=False)
    return {"rounds": model.rounds, "followed": model.followed, "rates": callback.rates, "end": model.num_timesteps}


def setting(**values):
    def change(model):
        for name, value in values.items():
            assert hasattr(model, name), name
            setattr(model, name, value)

    return change


def large_targets(**values):
    """Let the targets' values be 100, so that the loss tells how they are discounted."""

    def change(model):
        setting(**values)(model)
        last = list(networks(model)[1].parameters())[-1]
        last.data.fill_(100.0)
        model.tau = 0.0

    return change


def counting_from(number):
    def change(model):
        model.num_timesteps = number

    return change


def frozen(model):
    for parameter in list(networks(model)[0].parameters())[:2]:
        parameter.requires_grad = False


def a_rate_in_the_optimizer(model):
    optimizer(model).param_groups[0]["lr"] = 0.5


def another_optimizer(model):
    new = th.optim.SGD(networks(model)[0].parameters(), lr=1.0)
    (model.policy if isinstance(model, sb3.DQN) else model.critic).optimizer = new


def short_steps(model):
    """Of an optimizer that shows it; Adam divides by the norm."""
    another_optimizer(model)
    model.lr_schedule, model.max_grad_norm = lambda progress: 1.0, 1e-2


def other_target(model):
    """A copy of the network itself."""
    network, target = networks(model)
    new = copy.deepcopy(target)
    new.load_state_dict(network.state_dict())
    name = "q_net_target" if isinstance(model, sb3.DQN) else "critic_target"
    setattr(model, name, new)
    model.target_before = copies(new)


def other_network(model):
    """Which SB3 uses in updates, but does not train: the optimizer has the earlier one."""
    name = "q_net" if isinstance(model, sb3.DQN) else "critic"
    setattr(model, name, copy.deepcopy(getattr(model, name)))


#: Changes of both algorithms.
CHANGES = {
    "train_freq": setting(train_freq=TrainFreq(11, TrainFrequencyUnit.STEP)),
    "gradient_steps": setting(gradient_steps=3),
    "as many updates as steps": setting(gradient_steps=-1),
    "no updates": setting(gradient_steps=0),
    "batch_size": setting(batch_size=7),
    "learning_starts": setting(learning_starts=200),
    "lr_schedule": setting(lr_schedule=lambda progress: 1e-2 * progress),
    "learning_rate": setting(learning_rate=1e-2),
    "rate in the optimizer": a_rate_in_the_optimizer,
    "tau": setting(tau=0.25),
    "gamma": large_targets(gamma=0.1),
    "the same gamma": large_targets(),
    "num_timesteps": counting_from(180),
    "num_timesteps back": counting_from(20),
    "_total_timesteps": setting(_total_timesteps=150),
    "_n_updates": setting(_n_updates=1000),
    "n_envs": setting(n_envs=3),
    "n_steps": large_targets(n_steps=3),
    "buffer_size": setting(buffer_size=1),
    "requires_grad": frozen,
    "optimizer": another_optimizer,
    "target": other_target,
    "network": other_network,
}
#: Of DQN only.
CHANGES_OF_DQN = {
    "target_update_interval": setting(target_update_interval=12),
    "_n_calls": setting(_n_calls=1003),
    "max_grad_norm": short_steps,
    "exploration_schedule": setting(exploration_schedule=lambda progress: progress / 2),
    "exploration_rate": setting(exploration_rate=0.3),
    "exploration_final_eps": setting(exploration_final_eps=0.5),
    "exploration_initial_eps": setting(exploration_initial_eps=0.5),
    "exploration_fraction": setting(exploration_fraction=1.0),
}
CASES = [(algorithm, name) for algorithm in ALGORITHMS for name in CHANGES] + [(sb3.DQN, n) for n in CHANGES_OF_DQN]


@pytest.mark.parametrize("between", [False, True], ids=["callback", "between"])
@pytest.mark.parametrize(("algorithm", "name"), CASES, ids=[f"{a.__name__}-{name}" for a, name in CASES])
def test_a_change_has_the_effect_that_it_has_in_sb3(algorithm, name, between):
    change = {**CHANGES, **CHANGES_OF_DQN}[name]
    theirs = told(algorithm, change, between)
    ours = told(ALGORITHMS[algorithm], change, between)
    assert ours["end"] == theirs["end"]
    assert ours["rounds"] == theirs["rounds"]
    assert ours["followed"] == pytest.approx(theirs["followed"], abs=0.01)
    if between:  # SB3 makes its first step at the rate that the earlier learn() ended with, but a block is ahead
        del ours["rates"][100], theirs["rates"][100]
    assert ours["rates"] == pytest.approx(theirs["rates"])


@pytest.mark.extended
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.filterwarnings("ignore:compile=True, but updates stay eager")
def test_changes_have_the_same_effect_on_compiled_updates(algorithm):
    """One change after the other; from tau on, updates are eager."""
    names = ["lr_schedule", "requires_grad", "gamma", "tau", "batch_size"]
    names += ["max_grad_norm"] if algorithm is sb3.DQN else []
    changes = {100 + 60 * index: {**CHANGES, **CHANGES_OF_DQN}[name] for index, name in enumerate(names)}

    def run(algorithm, **kwargs):
        model = model_of(algorithm, **kwargs)
        model.learn(100 + 60 * len(names), Changing(changes))
        return model

    theirs, ours = run(algorithm), run(ALGORITHMS[algorithm], compile=True)
    assert True in ours.compiled
    assert ours.rounds == theirs.rounds
    assert ours.followed == pytest.approx(theirs.followed, abs=0.01)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, *ALGORITHMS.values()])
def test_sb3_may_mark_the_newest_step(algorithm):
    """Which it does at the start of learn() with ``optimize_memory_usage``."""
    model = model_of(algorithm)
    model.learn(60)
    model.optimize_memory_usage = True
    with pytest.warns(UserWarning, match="The last trajectory in the replay buffer will be truncated"):
        model.learn(60)
    assert model.num_timesteps == 60


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, *ALGORITHMS.values()])
def test_another_logger_gets_what_is_logged_next(algorithm, tmp_path):
    model = model_of(algorithm)
    logger = configure(str(tmp_path), ["csv"])
    model.learn(300, Changing({200: lambda model: model.set_logger(logger)}), log_interval=1)
    logger.close()
    with (tmp_path / "progress.csv").open() as file:
        first = next(csv.DictReader(file))
    assert 200 <= int(first["time/total_timesteps"]) < 250
