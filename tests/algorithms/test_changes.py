"""What a callback changes of exploration, networks and memory reaches the actors, as it reaches SB3's loop."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import LinearSchedule

from sb3_ca2e import CA2EDDPG, CA2EDQN
from tests import inside
from tests.toy import RandomWalk, ddpg, dqn

pytestmark = pytest.mark.usefixtures("_one_server")
#: Actors that hand over each step, so that SB3's loop is repeated step by step.
STEP_BY_STEP = {"execution": "sync", "n_actors": 1, "local_buffer_size": 1}
TWO_PROCESSES = {"execution": "async", "n_actors": 2, "n_processes": 2, "local_buffer_size": 10}
MAKERS = {sb3.DQN: dqn, CA2EDQN: dqn, sb3.DDPG: ddpg, CA2EDDPG: ddpg}
OURS = {sb3.DQN: CA2EDQN, sb3.DDPG: CA2EDDPG}


class At(BaseCallback):
    """
    :param step: number of a callback step
    :param change: function of the model, called then
    """

    def __init__(self, step, change):
        super().__init__()
        self.step, self.change = step, change

    def _on_step(self):
        if self.n_calls == self.step:
            self.change(self.model)
        return True


def make(algorithm, **kwargs):
    """A model that acts and does not learn, with few different settings."""
    walk = RandomWalk(continuous=algorithm in (sb3.DDPG, CA2EDDPG))
    if algorithm in (sb3.DDPG, CA2EDDPG):
        kwargs = {"action_noise": NormalActionNoise(np.zeros(2), 0.3 * np.ones(2)), **kwargs}
    else:
        kwargs = {"exploration_initial_eps": 1.0, "exploration_final_eps": 1.0, **kwargs}
    return MAKERS[algorithm](walk, algorithm, **{"learning_starts": 0, "gradient_steps": 0, "n_steps": 1, **kwargs})


def departures(model, network):
    """For each transition, whether its action is another than the network's."""
    memory = model.replay_buffer
    observations = th.tensor(memory.observations[: memory.pos, 0])
    actions = th.tensor(memory.actions[: memory.pos, 0])
    with th.no_grad():
        if isinstance(model, sb3.DQN):
            return (network(observations).argmax(1) != actions.flatten()).numpy()
        return ((network(observations) - actions).abs() > 1e-4).any(1).numpy()


def acting(model):
    return model.policy.q_net if isinstance(model, sb3.DQN) else model.policy.actor


def behaviour(algorithm, change, between, after, n, **kwargs):
    """Whether actions departed from the first network and from the last one, before a change and well after it."""
    model = make(algorithm, **kwargs)
    first = copy.deepcopy(acting(model))
    if between:
        model.learn(100)
        change(model)
        model.learn(n - 100, reset_num_timesteps=False)
    else:
        model.learn(n, At(100, change))
    of_both = np.array([departures(model, network) for network in (first, acting(model))])
    return of_both[:, :99].any(1).tolist(), of_both[:, after:].any(1).tolist()


def setting(**values):
    def change(model):
        for name, value in values.items():
            assert hasattr(model, name), name
            setattr(model, name, value)

    return change


def another_network(model):
    """Of the same kind, with other parameters."""
    th.manual_seed(7)
    new = copy.deepcopy(acting(model))
    for parameter in new.parameters():
        parameter.data.normal_(std=2.0)
    return new


def replace_network(model):
    setattr(model.policy, "q_net" if isinstance(model, sb3.DQN) else "actor", another_network(model))


def replace_alias(model):
    setattr(model, "q_net" if isinstance(model, sb3.DQN) else "actor", another_network(model))


def replace_policy(model):
    new = copy.deepcopy(model.policy)
    for parameter in new.parameters():
        parameter.data.normal_(std=2.0)
    model.policy = new


def replace_parameters(model):
    for new, layer in zip(another_network(model).modules(), acting(model).modules(), strict=True):
        for name, parameter in new._parameters.items():
            setattr(layer, name, parameter)


def no_epsilon_in_place(model):
    model.exploration_schedule.start = model.exploration_schedule.end = 0.0


def no_sigma_in_place(model):
    model.action_noise._sigma *= 0.0


NO_NOISE = NormalActionNoise(np.zeros(2), np.zeros(2))
QUIET = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}
CASES = {
    "schedule": (sb3.DQN, setting(exploration_schedule=lambda progress: 0.0), {}),
    "schedule up": (sb3.DQN, setting(exploration_schedule=LinearSchedule(1.0, 1.0, 0.1)), QUIET),
    "schedule in place": (sb3.DQN, no_epsilon_in_place, {}),
    "rate": (sb3.DQN, setting(exploration_rate=0.0), {}),
    "final epsilon": (sb3.DQN, setting(exploration_final_eps=0.0, exploration_initial_eps=0.0), {}),
    "warm-up begins": (sb3.DQN, setting(learning_starts=10_000), QUIET),
    "warm-up ends": (sb3.DQN, setting(learning_starts=0), {**QUIET, "learning_starts": 10_000}),
    "policy": (sb3.DQN, replace_policy, QUIET),
    "network": (sb3.DQN, replace_network, QUIET),
    "network of updates": (sb3.DQN, replace_alias, QUIET),
    "parameters": (sb3.DQN, replace_parameters, QUIET),
    "noise": (sb3.DDPG, setting(action_noise=NO_NOISE), {}),
    "noise up": (sb3.DDPG, setting(action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2))),
                 {"action_noise": NO_NOISE}),
    "vectorized noise": (sb3.DDPG, setting(action_noise=VectorizedActionNoise(NO_NOISE, 1)), {}),
    "no noise": (sb3.DDPG, setting(action_noise=None), {}),
    "noise in place": (sb3.DDPG, no_sigma_in_place, {}),
    "random actions": (sb3.DDPG, setting(learning_starts=10_000), {"action_noise": NO_NOISE}),
    "policy of DDPG": (sb3.DDPG, replace_policy, {"action_noise": NO_NOISE}),
    "actor": (sb3.DDPG, replace_network, {"action_noise": NO_NOISE}),
    "actor of updates": (sb3.DDPG, replace_alias, {"action_noise": NO_NOISE}),
}  # fmt: skip


@pytest.mark.parametrize("between", [False, True], ids=["callback", "between"])
@pytest.mark.parametrize("name", CASES)
def test_actors_follow_what_sb3s_loop_follows(name, between):
    algorithm, change, kwargs = CASES[name]
    theirs = behaviour(algorithm, change, between, 101, 300, **copy.deepcopy(kwargs))
    ours = behaviour(OURS[algorithm], change, between, 101, 300, **STEP_BY_STEP, **copy.deepcopy(kwargs))
    assert ours == theirs


@pytest.mark.parametrize("name", ["schedule", "warm-up begins", "network", "noise", "noise in place"])
def test_actor_processes_follow_too(name):
    algorithm, change, kwargs = CASES[name]
    theirs = behaviour(algorithm, change, False, 101, 300, **copy.deepcopy(kwargs))
    ours = behaviour(OURS[algorithm], change, False, 300, 600, **TWO_PROCESSES, **copy.deepcopy(kwargs))
    assert ours == theirs


class Walking(OrnsteinUhlenbeckActionNoise):
    """Counts its calls and resets: what it does next depends on its state."""

    def __init__(self):
        super().__init__(np.zeros(2), np.ones(2))
        self.bias = 0.0

    def __call__(self):
        self.noise_prev = self.noise_prev + 0.001
        return self.noise_prev + self.bias


def test_a_noise_that_is_changed_in_place_keeps_its_state():
    """A walk of 0.001 a step in each episode, shifted by 0.5 from a step on."""
    walk = RandomWalk(continuous=True, end_probability=0.0)

    def noises(algorithm, **ours):
        model = ddpg(
            walk, algorithm, learning_starts=0, gradient_steps=0, n_steps=1, action_noise=Walking(), seed=None, **ours
        )
        for parameter in model.actor.parameters():
            parameter.data.zero_()
        model.learn(200, At(100, lambda model: setattr(model.action_noise, "bias", 0.5)))
        return model.replay_buffer.actions[:200].reshape(200, 2)

    theirs = noises(sb3.DDPG)
    np.testing.assert_allclose(theirs[[0, 99, 100, 199], 0], [0.001, 0.1, 0.601, 0.7], atol=1e-6)
    np.testing.assert_allclose(noises(CA2EDDPG, **STEP_BY_STEP), theirs, atol=1e-6)


def test_a_vectorized_noise_gives_each_slot_its_own():
    noise = VectorizedActionNoise(NO_NOISE, 2)
    noise.noises[1]._mu = 0.5 * np.ones(2)

    def noises(algorithm, **ours):
        env = make_vec_env(lambda: RandomWalk(continuous=True), 2)
        model = ddpg(env, algorithm, learning_starts=0, gradient_steps=0, n_steps=1, action_noise=noise, **ours)
        for parameter in model.actor.parameters():
            parameter.data.zero_()
        model.learn(100)
        return np.unique(model.replay_buffer.actions[: model.replay_buffer.pos], return_counts=True)

    ours, theirs = noises(CA2EDDPG, n_actors=2, execution="sync"), noises(sb3.DDPG)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], atol=20)  # some games of a slot have no noise


def test_another_schedule_holds_for_all_nature_slots_and_outlasts_retirements():
    model = dqn(RandomWalk(), n_actors=4, prior_agents=[sb3.DQN("MlpPolicy", RandomWalk(), buffer_size=1)])
    called = []

    def schedule(progress):  # which neither pickles nor stays the same
        called.append(progress)
        return 0.25

    rates = []

    class Stats(BaseCallback):
        def _on_step(self):
            rates.append([row["epsilon"] for row in self.model.actor_stats if row["kind"] == "nature"])
            if self.n_calls == 100:
                self.model.exploration_schedule = schedule
            return True

    model.learn(400, Stats())
    assert len(rates[0]) == 3
    assert rates[0] == pytest.approx(np.linspace(1.0, 0.2, 4)[:3], abs=0.03)
    assert rates[-1] == [0.25] * 3
    assert len(called) == 301
    model._nature_slots_changed()
    assert model.exploration_schedule is schedule


@pytest.mark.parametrize("algorithm", [sb3.DQN, CA2EDQN])
def test_a_loaded_model_has_its_arguments_schedule(algorithm, tmp_path):
    model = make(algorithm, exploration_initial_eps=0.75, exploration_final_eps=0.25)
    model.exploration_schedule = lambda progress: 0.0
    model.exploration_final_eps = 0.5
    model.learn(50)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", exploration_initial_eps=1.0)
    assert (loaded.exploration_schedule(1.0), loaded.exploration_schedule(0.0)) == (1.0, 0.5)


@pytest.mark.parametrize("algorithm", [sb3.DDPG, CA2EDDPG])
def test_no_noise_stays_none_when_it_is_loaded(algorithm, tmp_path):
    model = make(algorithm)
    model.action_noise = None
    model.learn(50)
    model.save(tmp_path / "model")
    ours = STEP_BY_STEP if algorithm is CA2EDDPG else {}
    loaded = algorithm.load(tmp_path / "model", env=RandomWalk(continuous=True), **ours)
    loaded.learn(50, reset_num_timesteps=False)
    assert not departures(loaded, loaded.actor)[:50].any()


# The memory, and the priorities of actors.


def test_transitions_go_to_the_memory_that_the_model_has():
    def sizes(algorithm, **ours):
        model = make(algorithm, train_freq=1, **ours)
        first = model.replay_buffer
        model.learn(300, At(100, lambda model: setattr(model, "replay_buffer", copy.deepcopy(first))))
        return first.pos, model.replay_buffer.pos

    # SB3 calls back before it stores the step
    assert sizes(sb3.DQN) == (100, 299)
    assert sizes(CA2EDQN, **STEP_BY_STEP) == (100, 300)


def test_settings_of_an_empty_memory_stay():
    model = make(CA2EDQN, n_steps=3)
    memory = model.replay_buffer
    memory.alpha, model.gamma = 0.25, 0.5
    model.learn(60)
    assert model.replay_buffer is memory
    assert (memory.alpha, memory.gamma) == (0.25, 0.99)  # as in SB3, where the buffer has the gamma of construction


@pytest.mark.parametrize("between", [False, True], ids=["callback", "between"])
@pytest.mark.parametrize(("n_steps", "discount"), [(1, 0.0), (3, 0.5**3)])
def test_actors_compute_priorities_with_the_gamma_of_the_updates(n_steps, discount, between):
    ours = {**STEP_BY_STEP, "local_buffer_size": 5, "replay_buffer_kwargs": {"alpha": 1.0}}
    model = make(CA2EDQN, n_steps=n_steps, gamma=0.5, **ours)
    if between:
        model.gamma = 0.0
    model.learn(100, At(20, setting(gamma=0.0)))
    memory = model.replay_buffer
    first_of_blocks = th.tensor(inside.storage(memory).in_order()[40:95:5])
    sample = memory.samples_at(first_of_blocks)
    with th.no_grad():
        q_values = model.q_net(sample.observations).gather(1, sample.actions)
        values = model.q_net(sample.next_observations).max(1, keepdim=True).values
    expected = (sample.rewards + discount * values - q_values).abs().flatten()
    whole = ((sample.dones == 0) & (sample.discounts == 0.5**n_steps)).flatten()
    assert whole.sum() >= 3
    priorities = inside.rows(memory).priorities[:][first_of_blocks].float()
    th.testing.assert_close(priorities[whole], expected[whole], rtol=1e-4, atol=1e-4)


# Refusals.


def sb3s_buffer(model):
    model.replay_buffer = sb3.DQN("MlpPolicy", RandomWalk(), buffer_size=9).replay_buffer


def another_layer(model):
    layers = model.policy.q_net.q_net
    layers[-1] = th.nn.Sequential(layers[-1])


EPISODES, NO_STEPS = TrainFreq(1, TrainFrequencyUnit.EPISODE), TrainFreq(0, TrainFrequencyUnit.STEP)
LARGE_NOISE = NormalActionNoise(np.zeros(3), np.ones(3))
#: What can be changed between two calls of learn(), but not in a callback.
REFUSED = {
    "env": (CA2EDQN, lambda model: setattr(model, "env", make_vec_env(RandomWalk, 1)), "env was replaced while learn"),
    "set_env": (CA2EDQN, lambda model: model.set_env(RandomWalk()), "env was replaced while learn"),
    "space": (CA2EDQN, setting(action_space=gym.spaces.Discrete(3)), "action_space was replaced while learn"),
    "layers": (CA2EDQN, another_layer, "A network among q_net was replaced by one with other layers while learn"),
}
REFUSED_ALWAYS = {
    "number": (CA2EDQN, setting(train_freq=8), "train_freq of a model is a TrainFreq, not 8: set it to TrainFreq"),
    "episodes": (CA2EDQN, setting(train_freq=EPISODES), r"train_freq=\(1, 'episode'\) is not supported"),
    "no steps": (CA2EDQN, setting(train_freq=NO_STEPS), "train_freq must be a whole number of at least 1, not 0"),
    "no memory": (CA2EDQN, sb3s_buffer, "replay_buffer was set to a ReplayBuffer, but actors fill a Prioritized"),
    "sde": (CA2EDDPG, setting(use_sde=True), "use_sde was set, but CA2EDDPG has no state-dependent exploration"),
    "delay": (CA2EDDPG, setting(policy_delay=2), "policy_delay=2 and target_noise_clip=0.0 belong to TD3"),
    "clip": (CA2EDDPG, setting(target_noise_clip=0.5), "target_noise_clip=0.5 belong to TD3"),
    "noise": (CA2EDDPG, setting(action_noise=0.5), "action_noise takes an ActionNoise of SB3"),
    "shape": (CA2EDDPG, setting(action_noise=LARGE_NOISE), r"action_noise gives values of shape \(3,\), expected"),
}


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_ALWAYS])
def test_what_actors_cannot_follow_is_refused_in_a_callback(name):
    algorithm, change, message = {**REFUSED, **REFUSED_ALWAYS}[name]
    model = make(algorithm)
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        model.learn(300, At(100, change))
    assert model.num_timesteps < 250


@pytest.mark.parametrize("name", REFUSED_ALWAYS)
def test_what_the_constructor_would_refuse_is_refused_by_learn(name):
    algorithm, change, message = REFUSED_ALWAYS[name]
    model = make(algorithm)
    change(model)
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        model.learn(300)
    assert model.num_timesteps == 0
