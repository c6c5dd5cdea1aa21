"""Actors are shown networks when they have changed, whoever changed them."""

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from tests import inside
from tests.toy import RandomWalk, dqn


class ChangesParameters(BaseCallback):
    """Writes to the network in the middle of a run, and notes the versions that actors are shown."""

    def __init__(self, at: int):
        super().__init__()
        self.at, self.versions = at, []

    def _on_step(self):
        if self.num_timesteps == self.at:
            with th.no_grad():
                next(self.model.q_net.parameters()).add_(1.0)
        self.versions.append(inside.collector(self.model).pool.version)
        return True


def test_parameters_that_a_callback_changes_are_published_and_unchanged_ones_are_not():
    model, callback = dqn(RandomWalk, gradient_steps=0), ChangesParameters(at=130)
    model.learn(400, callback)
    assert sorted(set(callback.versions)) == [1, 2]
    assert callback.versions[129] == 1
    assert callback.versions[-1] == 2


def test_every_group_of_updates_is_published():
    model, callback = dqn(RandomWalk, learning_starts=0, train_freq=4), ChangesParameters(at=-1)
    model.learn(400, callback)
    handovers = 400 / (3 * 20)
    assert callback.versions[-1] >= int(handovers)
