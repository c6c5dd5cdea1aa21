"""The learner's loop: ratio of updates, repeatable runs, retirement in a real run, and refused arguments."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ca2e import CA2EDDPG, CA2EDQN, PriorAgent
from tests.toy import RandomWalk, dqn

WINDOW = 10_000


class CheapDQN(CA2EDQN):
    """Counts its updates and learns nothing."""

    def update(self, networks, batch):
        return th.zeros(len(batch.indices)), {}


class CountUpdates(BaseCallback):
    """Transitions in the memory, transitions ticked and updates done, at every tick."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def _on_step(self):
        self.counts.append((self.model.replay_buffer.size(), self.num_timesteps, self.model._n_updates))
        return True


@pytest.mark.parametrize(
    ("n_envs", "train_freq", "gradient_steps", "asked"),
    [(1, 4, 1, 1 / 4), (1, 1, 1, 1.0), (8, 1, 2, 2 / 8), (8, 4, -1, 1.0)],
)
def test_updates_per_transition_are_as_asked(n_envs, train_freq, gradient_steps, asked):
    learning_starts, n_actors, block = 500, 4, 50
    model = CheapDQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs),
        train_freq=train_freq,
        gradient_steps=gradient_steps,
        learning_starts=learning_starts,
        batch_size=4,
        n_actors=n_actors,
        n_processes=2,
        local_buffer_size=block,
        seed=0,
    )
    counter = CountUpdates()
    model.learn(learning_starts + WINDOW + 1000, counter)
    committed, ticked, updates = np.array(counter.counts).T
    bound = max(0.05 * asked * WINDOW, 2 * n_actors * block * asked)
    for made in (committed, ticked):
        starts = np.flatnonzero(ticked > learning_starts)
        ends = np.searchsorted(made, made[starts] + WINDOW)
        within = ends < len(made)
        assert within.sum() > 100
        realised = updates[ends[within]] - updates[starts[within]]
        expected = asked * (made[ends[within]] - made[starts[within]])
        assert np.abs(realised - expected).max() <= bound
    assert updates[ticked <= learning_starts].max() == 0


def test_no_gradient_steps_only_collects():
    model = CA2EDQN("MlpPolicy", "CartPole-v1", gradient_steps=0, learning_starts=50, execution="sync", seed=0)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(700)
    assert model._n_updates == 0
    assert model.replay_buffer.size() == model.num_timesteps == 700
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())


class WatchBeta(BaseCallback):
    """The exponent of the weights when transitions are collected: that of the updates before."""

    def __init__(self):
        super().__init__()
        self.seen: list[float] = []

    def _on_rollout_start(self):
        self.seen.append(self.model.replay_buffer.beta)

    def _on_step(self):
        return True


@pytest.mark.parametrize(("kwargs", "first"), [({}, 0.4), ({"beta": 0.7}, 0.7)])
def test_weights_correct_all_of_the_bias_in_the_end(kwargs, first):
    watcher = WatchBeta()
    model = dqn(RandomWalk, learning_starts=0, train_freq=10, batch_size=4, replay_buffer_kwargs=kwargs)
    model.learn(100, watcher)
    assert [*watcher.seen, model.replay_buffer.beta] == pytest.approx(np.linspace(first, 1.0, 11))


@pytest.mark.parametrize("train_freq", [(1, "episode"), (4, "episode")])
def test_training_by_episodes_is_refused(train_freq):
    with pytest.raises(ValueError, match=r"train_freq.*many actors.*Give a number of steps"):
        CA2EDQN("MlpPolicy", "CartPole-v1", train_freq=train_freq)


def run(algorithm, env, seed, **kwargs):
    """What a run leads to: its parameters, its transitions in an order that its seed decides, and its counters."""
    model = algorithm("MlpPolicy", env, seed=seed, execution="sync", n_actors=4, learning_starts=200, **kwargs)
    model.learn(1500)
    batch = model.replay_buffer.sample(1500)._asdict()
    transitions = {name: value for name, value in batch.items() if value is not None}
    tensors = {**model.policy.state_dict(), **transitions}
    return tensors, (model.num_timesteps, model._n_updates, model._episode_num, model.replay_buffer.size())


@pytest.mark.parametrize(
    ("algorithm", "env", "kwargs"),
    [
        (CA2EDQN, "CartPole-v1", {"prior_agents": ["zoo:dqn", "zoo:ppo"], "target_update_interval": 300}),
        (CA2EDDPG, "Pendulum-v1", {"train_freq": 4}),
    ],
)
def test_a_synchronous_run_is_repeatable(algorithm, env, kwargs):
    first, second, other = (run(algorithm, env, seed, **kwargs) for seed in (3, 3, 4))
    assert first[0].keys() == second[0].keys()
    for name, tensor in first[0].items():
        assert th.equal(tensor, second[0][name]), name
    assert first[1] == second[1]
    assert first[1][0] == other[1][0] == 1500
    differing = [name for name, tensor in first[0].items() if not th.equal(tensor, other[0][name])]
    assert {"observations", "actions", "weights"} <= set(differing)
    assert any("weight" in name for name in differing if "." in name)


class Rewards(BaseCallback):
    """Those of all transitions, which tell episodes apart."""

    def _on_training_start(self):
        self.seen = []

    def _on_step(self):
        self.seen += self.locals["rewards"].tolist()
        return True


@pytest.mark.parametrize("algorithm", [CA2EDQN, DQN])
def test_learning_again_sees_new_episodes_and_is_repeatable(algorithm, tmp_path):
    def rewards(seed):
        model, watcher, seen = dqn(RandomWalk(), algorithm, seed=seed), Rewards(), []
        for reset in (True, True, False):
            model.learn(60, watcher, reset_num_timesteps=reset)
            seen.append(watcher.seen)
        if algorithm is CA2EDQN:  # SB3's begins again with the episodes of its seed
            model.save(tmp_path / "model")
            model = CA2EDQN.load(tmp_path / "model", env=RandomWalk())
            model.learn(60, watcher)
            seen.append(watcher.seen)
        model.set_random_seed(seed)
        model.learn(60, watcher)
        return seen, watcher.seen

    (seen, anew), (others, _) = rewards(3), rewards(30)
    assert rewards(3) == (seen, anew)
    assert anew == seen[0]
    every = [reward for rewards_of_learn in (*seen, *others) for reward in rewards_of_learn]
    assert len(set(every)) == len(every) == 2 * 60 * len(seen)


class WatchKinds(BaseCallback):
    """Kind of each slot at each of its transitions, and where its episodes ended."""

    def __init__(self):
        super().__init__()
        self.steps: dict[int, list[tuple[str, bool]]] = {}

    def _on_step(self):
        ticked = zip(self.locals["actor_ids"], self.locals["actor_kinds"], self.locals["dones"], strict=True)
        for slot, kind, done in ticked:
            self.steps.setdefault(int(slot), []).append((kind, bool(done)))
        return True


@pytest.mark.extended
def test_a_beaten_prior_becomes_a_nature_actor(tmp_path):
    expert = DQN("MlpPolicy", "CartPole-v1", seed=0)
    watcher = WatchKinds()
    model = CA2EDQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 4),
        prior_agents=[PriorAgent(expert, mean_reward=-1e9), PriorAgent(expert, mean_reward=1e9)],
        prior_patience=2,
        n_actors=4,
        n_processes=2,
        gradient_steps=0,
        seed=0,
    )
    rate_before = model.exploration_rate
    model.learn(24_000, watcher)
    beaten, unbeaten = model.actor_stats[2], model.actor_stats[3]
    retired_at = beaten["retired_at"]
    assert retired_at is not None
    assert beaten["kind"] == "nature"
    assert beaten["baseline"] == -1e9
    assert (unbeaten["kind"], unbeaten["retired_at"], unbeaten["baseline"]) == ("prior", None, 1e9)
    assert [row["kind"] for row in model.actor_stats[:2]] == ["nature", "nature"]
    # patience looks, one after each 5 greedy episodes, the first at 20; every 10th episode of a slot is greedy
    greedy = [sum(done for _, done in watcher.steps[slot]) // 10 for slot in (0, 1)]
    assert sum(greedy) >= 25
    kinds = [kind for kind, _ in watcher.steps[2]]
    first_nature = kinds.index("nature")
    assert set(kinds[:first_nature]) == {"prior"}
    assert set(kinds[first_nature:]) == {"nature"}
    assert watcher.steps[2][first_nature - 1][1], "the prior was replaced in the middle of an episode"
    assert {kind for kind, _ in watcher.steps[3]} == {"prior"}
    assert {kind for slot in (0, 1) for kind, _ in watcher.steps[slot]} == {"nature"}
    # nature slots explore with 1.0, 0.73, 0.47 and 0.2, the last prior's slot not yet
    assert rate_before != model.exploration_rate
    assert model.exploration_schedule(1.0) == pytest.approx(np.mean(np.linspace(1.0, 0.2, 4)[:3]))

    model.save(tmp_path / "model")
    loaded = CA2EDQN.load(tmp_path / "model", env=make_vec_env("CartPole-v1", 4))
    loaded.prior_agents = [expert, expert]
    loaded.local_buffer_size = 10
    watcher = WatchKinds()
    loaded.learn(400, watcher, reset_num_timesteps=False)
    assert [{kind for kind, _ in watcher.steps[slot]} for slot in (2, 3)] == [{"nature"}, {"prior"}]
    assert [row["retired_at"] for row in loaded.actor_stats] == [None, None, retired_at, None]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_actors": 2, "prior_agents": ["zoo:dqn", "zoo:ppo"]}, ValueError, "set n_actors >= 3"),
        ({"prior_agents": ["zoo:dqn"] * 8}, ValueError, "no nature slot of n_actors=8"),
        ({"prior_agents": "zoo:dqn"}, TypeError, r"write \['zoo:dqn'\]"),
        ({"n_actors": 3, "exploration_initial_eps": [0.5, 0.6]}, ValueError, "2 values for 3 slots"),
        ({"n_actors": 3, "exploration_final_eps": [0.1] * 4}, ValueError, "exploration_final_eps has 4 values"),
        ({"exploration_initial_eps": 1.5}, ValueError, "is not a probability"),
        ({"execution": "threads"}, ValueError, "'async' or 'sync', not 'threads'"),
        ({"replay_buffer_class": ReplayBuffer}, ValueError, "ReplayBuffer can't store blocks"),
        ({"n_actors": 0}, ValueError, "n_actors must be a whole number"),
        ({"n_processes": 0}, ValueError, "n_processes must be a whole number"),
        ({"local_buffer_size": 2.5}, ValueError, "local_buffer_size must be a whole number"),
        ({"prior_patience": 0}, ValueError, "prior_patience must be a whole number"),
        ({"n_steps": 0}, ValueError, "n_steps must be a whole number"),
    ],
)
def test_mistaken_arguments_are_refused_at_construction(arguments, error, message):
    with pytest.raises(error, match=message):
        CA2EDQN("MlpPolicy", "CartPole-v1", **arguments)


def test_one_prior_as_an_object_is_no_list():
    with pytest.raises(TypeError, match="a list of agents"):
        CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=DQN("MlpPolicy", "CartPole-v1", buffer_size=1))
