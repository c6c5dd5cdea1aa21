"""What the learner makes of its actors' blocks, in whole runs that are repeatable."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import BuilderVecEnv, PriorAgent
from sb3_ca2e.actors.slot import GREEDY_EVERY
from sb3_ca2e.priors.retirement import OWN_EPISODES, WINDOW
from sb3_ca2e.replay.block import OBSERVATION, TRANSITION
from tests import inside
from tests.toy import RandomWalk, dqn


class Numbered(gym.Env):
    """
    The n-th episode has three steps, and a return of n.

    :param offset: added to n
    """

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, offset: int = 0):
        self.episode, self.t = offset, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(2, self.t / 3, np.float32), self.episode / 3, self.t == 3, False, {}


def held(model) -> th.Tensor:
    """Rows of the transitions in the memory, in the order in which they came."""
    rows = inside.rows(model.replay_buffer)
    found = th.nonzero(rows.flags & int(TRANSITION)).flatten()
    return found[rows.inserted_at[found].argsort(stable=True)]


def test_actors_explore_less_as_training_goes_on():
    epsilon = {"exploration_initial_eps": 1.0, "exploration_final_eps": 0.0, "exploration_fraction": 0.5}
    model = dqn(RandomWalk, learning_starts=0, gradient_steps=0, n_actors=2, local_buffer_size=10, **epsilon)
    model.learn(800)
    rows, columns = held(model), inside.rows(model.replay_buffer)
    with th.no_grad():
        greedy = model.q_net(columns.frames[OBSERVATION][rows]).argmax(dim=1)
    departed = (columns.actions[rows, 0] != greedy).numpy()
    assert not departed[400:].any()
    # Of three actions, a random one is the greedy one every third time.
    early, late = departed[:200].mean(), departed[200:400].mean()
    assert early == pytest.approx(0.75 * 2 / 3, abs=0.12)
    assert late == pytest.approx(0.25 * 2 / 3, abs=0.12)


def prior(**kwargs) -> PriorAgent:
    return PriorAgent(DQN("MlpPolicy", Numbered(), buffer_size=1), **kwargs)


def greedy_games(n_games: int) -> list[int]:
    """Numbers of a slot's games without exploration: each tenth, and after a twentieth of its steps at the latest."""
    numbers, explored = [], 0
    for number in range(1, n_games + 1):
        if number % GREEDY_EVERY == 0 or explored >= 0.05 * 3 * n_games:
            numbers.append(number)
            explored = 0
        else:
            explored += 3
    return numbers


def test_only_greedy_games_measure_the_learner_and_each_priors_own_games_measure_it():
    offsets, n_games = (0, 100, 1000, 2000), 5 * GREEDY_EVERY + 3
    env = BuilderVecEnv([partial(Numbered, offset) for offset in offsets])
    model = dqn(env, n_actors=4, local_buffer_size=15, gradient_steps=0, prior_agents=[prior(), prior()])
    model.learn(4 * 3 * n_games)
    assert [row["episodes"] for row in model.actor_stats] == [n_games] * 4
    assert [row["epsilon"] > 0.0 for row in model.actor_stats] == [True, True, False, False]
    # Slots step together: games of a number end one after the other.
    returns = [number + of for number in greedy_games(n_games) for of in offsets[:2]]
    assert len(returns) > WINDOW
    assert model.retirement_state["greedy_returns"] == pytest.approx(returns[-WINDOW:])
    for of_prior, offset in zip(model.retirement_state["priors"], offsets[2:], strict=True):
        assert of_prior["returns"] == pytest.approx(offset + np.arange(n_games - OWN_EPISODES, n_games) + 1.0)
        assert of_prior["baseline"] == pytest.approx(offset + 5.5)  # of its first ten games


class KindsAtFirst(BaseCallback):
    """What slots are before they have done anything."""

    def _on_training_start(self):
        self.seen = [row["kind"] for row in self.model.actor_stats]

    def _on_step(self):
        return True


def test_a_slots_mean_return_is_of_the_games_since_its_prior_was_beaten():
    model = dqn(
        Numbered,
        n_actors=3,
        local_buffer_size=15,
        gradient_steps=0,
        prior_agents=[prior(mean_reward=-1e9)],
        prior_patience=1,
        train_freq=1,
    )
    kinds = KindsAtFirst()
    model.learn(3 * 3 * 105, kinds)
    assert kinds.seen == ["nature", "nature", "prior"]
    first, second, beaten = model.actor_stats
    assert (first["ep_rew_mean"], second["ep_rew_mean"]) == pytest.approx((55.5, 55.5))  # the last hundred games
    # Beaten by the fifth greedy game, the third of the first slot, which is in the fourth round of blocks.
    third = greedy_games(105)[2]
    assert 3 * 15 < 3 * third <= 4 * 15
    assert beaten["retired_at"] == 3 * 3 * 15
    assert beaten["ep_rew_mean"] == pytest.approx(np.mean(range(third, 106)))
    assert beaten["kind"] == "nature"  # as of the last step of a block that begins with the prior's
    model.learn(3, kinds)
    assert kinds.seen == ["nature"] * 3


@pytest.mark.parametrize(
    ("total", "transitions", "episodes"), [(30, [10, 10, 10], [3, 3, 3]), (34, [12, 11, 11], [4, 3, 3])]
)
def test_what_was_made_beyond_the_end_of_a_run_is_dropped_last_steps_first(total, transitions, episodes):
    model = dqn(Numbered, n_actors=3, local_buffer_size=15, train_freq=1).learn(total)
    assert model.replay_buffer.size() == model.num_timesteps == total
    assert [row["transitions"] for row in model.actor_stats] == transitions
    assert [row["episodes"] for row in model.actor_stats] == episodes


class Ages(BaseCallback):
    """How old the parameters of each block were, in versions."""

    def __init__(self):
        super().__init__()
        self.seen: list[int] = []

    def _on_rollout_end(self):
        self.seen += {row["param_age"] for row in self.model.actor_stats}

    def _on_step(self):
        return True


def test_the_age_of_parameters_is_told_in_versions():
    ages, rates = Ages(), {"train_freq": 20, "learning_starts": 0}
    dqn(Numbered, n_actors=2, local_buffer_size=10, actor_update_interval=30, **rates).learn(160, ages)
    assert ages.seen == [0, 1, 2, 0, 1, 2, 0, 1]


class Waiting(BaseCallback):
    """What the learner waited before its first transitions, and what its shares say of the time since, at the end."""

    def _on_step(self):
        collector = inside.collector(self.model)
        if self.n_calls == 1:
            self.at_first = collector.learner_wait
        self.waited, self.updated, self.shares = collector.learner_wait, collector.learner_updates, collector.shares()
        return True


def test_waiting_counts_from_the_first_blocks_on_and_updates_are_a_share_of_the_rest():
    waiting = Waiting()
    dqn(Numbered, train_freq=10).learn(300, waiting)
    assert waiting.at_first == 0.0
    assert min(waiting.waited, waiting.updated) > 0.0
    learning = waiting.waited / waiting.shares.learner_wait
    assert waiting.shares.updates == pytest.approx(waiting.updated / (learning - waiting.waited))
