"""Environments that forbid actions: what is taken, stored, learned, saved and predicted."""

import copy
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_ca2e import CA2EDDPG, CA2EDQN, ActorError, CA2ECheckpointCallback, NativeVecEnv
from sb3_ca2e.learner.compiled_update import FlatUpdate
from sb3_ca2e.learner.graphed_updates import FusedUpdates
from sb3_ca2e.replay.n_step import PRIORITY_FLOOR
from tests import inside
from tests.checkpoints.test_checkpoints import assert_same as assert_same_run
from tests.checkpoints.test_checkpoints import checkpoints, resumed
from tests.learner import test_updates as updates
from tests.learner.test_compiled_update import repeated, tensors_of
from tests.toy import RandomWalk, dqn

pytestmark = pytest.mark.usefixtures("_one_server")
N = 6


class Board(gym.Env):
    """
    Allows other actions in each state, often only one; its observation is the mask, the step and whether all is over.

    :param lenient: let forbidden actions pass
    """

    observation_space, action_space = spaces.Box(-np.inf, np.inf, (N + 2,), np.float32), spaces.Discrete(N)

    def __init__(self, lenient: bool = False):
        self.lenient, self.mask = lenient, np.zeros(N, bool)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.over = 0, False
        return self.observation(), self.info()

    def step(self, action):
        if not (self.lenient or self.mask[action]):
            raise ValueError("a forbidden action")
        self.t += 1
        ended = self.np_random.random() < 0.15
        truncated = ended and self.np_random.random() < 0.5
        self.over = bool(ended and not truncated)
        observation = self.observation()
        return observation, float(self.np_random.normal()), self.over, bool(truncated), self.info()

    def observation(self):
        self.mask[:] = self.np_random.random(N) < 0.3  # in place: whoever keeps the mask has to copy it
        self.mask[self.np_random.integers(N)] = True
        return np.array([*self.mask, self.t, self.over], np.float32)

    def info(self):
        return {}


class ByMethod(Board):
    def action_masks(self):
        assert not self.over, "a mask is asked for where the episode has terminated"
        return self.mask


class ByInfo(Board):
    def info(self):
        return {} if self.over else {"action_mask": self.mask.astype(np.int8)}


class Continuous(ByInfo):
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self):
        super().__init__(lenient=True)

    def action_masks(self):
        raise AssertionError


MODES = {
    "sync": {"execution": "sync"},
    "async": {"execution": "async", "n_processes": 2},
    "device": {"execution": "async", "n_processes": 2, "inference": "device"},
}


def learned(env, total=1500, **kwargs):
    return dqn(env, **{"n_actors": 4, "actor_restarts": 0, "gamma": 0.9, **kwargs}).learn(total)


def all_steps(model):
    """Every stored transition."""
    flags = inside.rows(model.replay_buffer).flags
    return model.replay_buffer.samples_at(th.nonzero(flags & 1).squeeze(1))


def in_observations(observations):
    """The masks that observations show; of stacks, those of their newest frames."""
    return observations[:, -(N + 2) : -2] > 0


def assert_masks_belong_to_observations(batch, n_steps=3, gamma=0.9):
    assert batch.action_masks.dtype == th.bool
    assert th.equal(batch.action_masks, in_observations(batch.observations))
    over = batch.dones[:, 0] > 0
    assert th.equal(over, batch.next_observations[:, -1] > 0)
    assert th.equal(batch.next_action_masks[~over], in_observations(batch.next_observations)[~over])
    assert batch.next_action_masks[over].all()
    lengths = th.log(batch.discounts[:, 0]) / np.log(gamma)
    th.testing.assert_close(batch.next_observations[:, -2] - batch.observations[:, -2], lengths, atol=1e-3, rtol=0)
    assert set(lengths.round().int().tolist()) == set(range(1, n_steps + 1))
    assert 0 < over.sum() < (lengths < n_steps - 0.5).sum()  # some ends are truncations
    assert (batch.action_masks.sum(dim=1) == 1).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env", [ByMethod, ByInfo])
def test_no_forbidden_action_is_taken_and_masks_are_those_of_the_observations(env, mode):
    """Warm-up, exploration and greedy episodes."""
    model = learned(env(), **MODES[mode])
    assert model._n_updates > 300
    assert model.replay_buffer.size() == model.num_timesteps >= 1500
    batch = all_steps(model)
    assert_masks_belong_to_observations(batch)
    assert batch.action_masks.gather(1, batch.actions).all()
    assert len(batch.actions.unique()) == N


@pytest.mark.parametrize(("eps", "mode"), [(0.0, "sync"), (0.0, "device"), (1.0, "sync")])
def test_greedy_actions_and_explored_ones_are_among_the_allowed(eps, mode):
    """The network would take the first action always; every allowed one is explored equally often."""
    kwargs = {"exploration_initial_eps": eps, "exploration_final_eps": eps, "learning_starts": 0, "gradient_steps": 0}
    model = dqn(ByMethod(), **kwargs, **MODES[mode])
    with th.no_grad():
        model.q_net.q_net[-1].weight.zero_()
        model.q_net.q_net[-1].bias.copy_(-th.arange(float(N)))
    model.learn(6000)
    batch = all_steps(model)
    masks, actions = batch.action_masks.numpy(), batch.actions[:, 0].numpy()
    if eps == 0.0:
        np.testing.assert_array_equal(actions, masks.argmax(axis=1))
        return
    explored = actions != masks.argmax(axis=1)
    for n_allowed in (2, 3):
        of_these = masks.sum(axis=1) == n_allowed
        taken = (masks.cumsum(axis=1) - 1)[np.arange(len(masks)), actions][of_these & explored]
        assert (np.bincount(taken)[1:] > 100).all()
        share = (of_these & explored).sum() / of_these.sum()
        assert share == pytest.approx(1 - 1 / n_allowed, abs=0.05)
        counts = np.bincount(taken)[1:]
        assert counts.max() / counts.min() < 1.25


def stacked(make):
    return VecFrameStack(VecNormalize(DummyVecEnv([make, make]), gamma=0.9), 3)


@pytest.mark.parametrize("mode", ["sync", "device"])
def test_stacks_and_normalised_observations_have_the_masks_of_their_newest_frames(mode):
    """Masks are neither stacked nor normalised, and no network sees them."""
    model = learned(stacked(ByMethod), **MODES[mode])
    assert model.replay_buffer.observations.shape[2:] == (3 * (N + 2),)
    batch = all_steps(model)
    assert_masks_belong_to_observations(batch)
    normalised = model.replay_buffer.samples_at(batch.indices, model.get_vec_normalize_env())
    assert th.equal(normalised.next_action_masks, batch.next_action_masks)
    assert not th.equal(normalised.observations, batch.observations)
    assert normalised.observations.shape == batch.observations.shape
    assert batch.action_masks.gather(1, batch.actions).all()


class WithDict(ByInfo):
    """Shows the mask in the observation too, as PettingZoo does."""

    observation_space = spaces.Dict({"observation": Board.observation_space, "action_mask": spaces.MultiBinary(N)})

    def observation(self):
        observation = super().observation()
        return {"observation": observation, "action_mask": self.mask.astype(np.int8)}


@pytest.mark.parametrize("mode", ["sync", "device"])
def test_masks_lie_beside_the_keys_of_dictionaries(mode):
    kwargs = {"n_actors": 4, "learning_starts": 100, "local_buffer_size": 20, "seed": 0, "device": "cpu"}
    model = CA2EDQN("MultiInputPolicy", WithDict(), **kwargs, **MODES[mode]).learn(800)
    batch = all_steps(model)
    assert batch.observations.keys() == WithDict.observation_space.spaces.keys()
    assert th.equal(batch.action_masks, in_observations(batch.observations["observation"]))
    assert th.equal(batch.action_masks, batch.observations["action_mask"] > 0)
    assert batch.action_masks.gather(1, batch.actions).all()
    observations, masks = {key: value.numpy() for key, value in batch.observations.items()}, batch.action_masks.numpy()
    actions, _ = model.predict(observations, action_masks=masks)
    assert masks[np.arange(len(masks)), actions].all()


def best_allowed(chooser, values, masks):
    """For each row, the value of the allowed action that the chooser rates highest, one action after the other."""
    found = []
    for ratings, row, mask in zip(chooser.tolist(), values, masks.tolist(), strict=True):
        best = max((action for action in range(N) if mask[action]), key=ratings.__getitem__)
        found.append(row[best])
    return th.stack(found)


def lenient():
    return ByMethod(lenient=True)


@pytest.mark.parametrize("mode", ["sync", "device"])
@pytest.mark.parametrize("n_stack", [1, 3])
def test_priorities_of_actors_bootstrap_from_allowed_actions(mode, n_stack):
    env = VecFrameStack(DummyVecEnv([lenient]), n_stack)
    prior = DQN("MlpPolicy", env, seed=3, buffer_size=1, device="cpu")  # takes forbidden actions
    kwargs = {"n_steps": 1, "gradient_steps": 0, "replay_buffer_kwargs": {"alpha": 1.0}, "prior_agents": [prior]}
    model = learned(env, **MODES[mode], **kwargs)
    batch = all_steps(model)
    forbidden = ~batch.action_masks.gather(1, batch.actions)[:, 0]
    assert (forbidden <= batch.prior).all()
    assert 50 < forbidden.sum() < batch.prior.sum()
    with th.no_grad():
        q_values = model.q_net(batch.observations).gather(1, batch.actions)[:, 0]
        after = model.q_net(batch.next_observations)
    values = best_allowed(after, after, batch.next_action_masks)
    expected = batch.rewards + batch.discounts * (1 - batch.dones) * values[:, None] - q_values[:, None]
    got = inside.rows(model.replay_buffer).priorities[batch.indices]
    th.testing.assert_close(got, expected[:, 0].abs().double() + 1e-6, rtol=1e-4, atol=1e-5)
    unmasked = batch.rewards + batch.discounts * (1 - batch.dones) * after.max(1, keepdim=True).values
    assert not th.allclose((unmasked - q_values[:, None])[:, 0].abs().double(), got, atol=1e-2)


def make_masked(sgd=True, **kwargs):
    optimizer = {"optimizer_class": th.optim.SGD} if sgd else {}
    kwargs = {"learning_rate": 1.0 if sgd else 1e-3, "gradient_steps": 0, "max_grad_norm": 1e9, **kwargs}
    return updates.filled(dqn(ByMethod(), policy_kwargs=optimizer, **kwargs))


@pytest.mark.parametrize("double_q", [True, False])
def test_targets_bootstrap_from_allowed_actions(double_q):
    model = make_masked(double_q=double_q)
    batch = updates.next_batch(model, 64)
    online, target = copy.deepcopy(model.q_net), copy.deepcopy(model.q_net_target)
    with th.no_grad():
        values = target(batch.next_observations)
        chooser = online(batch.next_observations) if double_q else values
        next_values = best_allowed(chooser, values, batch.next_action_masks)[:, None]
        assert not th.equal(next_values, values.gather(1, chooser.argmax(1, keepdim=True)))
    y = updates.target_of(batch, next_values, None, model.gamma)
    errors = y - online(batch.observations).gather(1, batch.actions)
    updates.weighted(batch, errors, None, updates.smooth_l1).backward()
    th.optim.SGD(online.parameters(), lr=1.0).step()
    _, result = updates.updated(model, 64)
    th.testing.assert_close(result["td_errors"], errors.detach().flatten(), rtol=1e-4, atol=2e-5)
    th.testing.assert_close(result["online"], [p.detach() for p in online.parameters()], rtol=1e-4, atol=2e-5)


def test_compiled_updates_use_masks_too():
    eager, compiled = make_masked(sgd=False), make_masked(sgd=False, compile=True)
    for model in (eager, compiled):
        model.train(3, 64)
    assert inside.learner(compiled).compiled, inside.learner(compiled).obstacle
    for model in (eager, compiled):
        model.train(10, 64)
    th.testing.assert_close(tensors_of(compiled), tensors_of(eager), rtol=1e-5, atol=1e-5)
    # What was compiled with masks is not used without them.
    for model in (eager, compiled):
        model.replay_buffer.reset()
        model.set_env(Board(lenient=True))
        model.learn(600, reset_num_timesteps=False)
        assert not model.replay_buffer.masked
        model.train(5, 64)
    th.testing.assert_close(tensors_of(compiled), tensors_of(eager), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_tensors_alone")
def test_updates_that_draw_on_the_device_use_masks_too():
    ordinary, model = make_masked(sgd=False), make_masked(sgd=False)
    for each in (ordinary, model):
        each.train(1, 64)
    flat = FlatUpdate(model.update, *model.trained_networks(), [], PRIORITY_FLOOR)
    assert flat.update_state()
    graph = flat.trace(inside.last_batch(model)[0])

    def update(batch):
        return graph(*flat.state, *flat.inputs(batch))

    batch, _ = FusedUpdates(model.replay_buffer, 64, update, flat.state, repeated)(4)
    for _ in range(4):
        expected = ordinary.replay_buffer.sample(64)
        updated = inside.learner(ordinary).update(expected)
        ordinary.replay_buffer.update_priorities(expected.indices, expected.generations, updated.priorities)
    assert th.equal(batch.next_action_masks, expected.next_action_masks)
    th.testing.assert_close(tensors_of(model), tensors_of(ordinary), rtol=1e-5, atol=1e-5)


def test_a_saved_model_and_its_memory_go_on_with_masks(tmp_path):
    model = learned(ByInfo())
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    again = CA2EDQN.load(tmp_path / "model", ByInfo(), device="cpu")
    again.load_replay_buffer(tmp_path / "memory")
    before, after = all_steps(model), all_steps(again)
    assert th.equal(before.action_masks, after.action_masks)
    assert th.equal(before.next_action_masks, after.next_action_masks)
    again.learn(500, reset_num_timesteps=False)
    assert again.replay_buffer.size() == 2000
    assert_masks_belong_to_observations(all_steps(again))


@pytest.mark.parametrize("env", [ByMethod, ByInfo])
def test_a_resumed_run_is_the_uninterrupted_one(env, tmp_path):
    model = dqn(env())
    model.learn(1000, CA2ECheckpointCallback(330, tmp_path, save_replay_buffer=True))
    for name in checkpoints(tmp_path)[:2]:
        assert_same_run(resumed(CA2EDQN, tmp_path / name, env(), 1000), model)


def test_predict_chooses_among_allowed_actions():
    model = dqn(ByMethod())
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(40, N + 2)).astype(np.float32)
    masks = rng.random((40, N)) < 0.4
    masks[np.arange(40), rng.integers(N, size=40)] = True
    with th.no_grad():
        q_values = model.q_net(th.as_tensor(observations))
    expected = [max(np.flatnonzero(mask), key=row.__getitem__) for mask, row in zip(masks, q_values, strict=True)]
    np.testing.assert_array_equal(model.predict(observations, action_masks=masks, deterministic=True)[0], expected)
    for observation, mask, action in zip(observations, masks, expected, strict=True):
        got, state = model.predict(observation, None, None, True, mask.astype(np.int8))
        assert (got, got.shape, state) == (action, (), None)
    unmasked, _ = DQN.predict(model, observations, deterministic=True)
    np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], unmasked)
    np.testing.assert_array_equal(model.predict(observations, None, None, True, np.ones_like(masks))[0], unmasked)
    model.exploration_rate = 1.0
    drawn = np.array([model.predict(observations, action_masks=masks)[0] for _ in range(200)])
    for of_row, mask in zip(drawn.T, masks, strict=True):
        assert set(of_row) == set(np.flatnonzero(mask))
    single = [model.predict(observations[0], action_masks=masks[0])[0] for _ in range(50)]
    assert {np.shape(action) for action in single} == {()}
    assert set(map(int, single)) <= set(np.flatnonzero(masks[0]))


def test_predict_refuses_masks_that_do_not_fit():
    model = dqn(ByMethod())
    observations = np.zeros((3, N + 2), np.float32)
    for masks in (np.ones((2, N)), np.ones(3 * N), np.ones((N, 3)), np.ones((3, N + 1))):
        with pytest.raises(ValueError, match=rf"shape {re.escape(str(masks.shape))}, expected \(3, 6\)"):
            model.predict(observations, action_masks=masks)
    with pytest.raises(ValueError, match="allows no action"):
        model.predict(observations, action_masks=np.eye(3, N) * [[1], [1], [0]])


@pytest.mark.parametrize(
    "masks",
    [
        np.where(np.eye(N, dtype=bool), 0.0, -np.inf),  # to add to values, as for a softmax
        np.where(np.eye(N, dtype=bool), 1.0, np.nan),
        np.eye(N) / 2,
        np.eye(N, dtype=int) * 2,
        np.where(np.eye(N, dtype=bool), "yes", ""),
        np.eye(N).astype(object),
    ],
    ids=["logits", "nan", "shares", "counts", "words", "objects"],
)
def test_predict_refuses_masks_that_are_not_booleans(masks):
    model = dqn(ByMethod())
    observations = np.zeros((N, N + 2), np.float32)
    expected = r"expected booleans \(or 0 and 1\), one for each action, True where it is allowed"
    with pytest.raises(ValueError, match=expected):
        model.predict(observations, action_masks=masks, deterministic=True)
    with pytest.raises(ValueError, match=expected):
        model.predict(observations[0], action_masks=masks[0], deterministic=True)
    for same in (np.eye(N), np.eye(N, dtype=bool).tolist(), th.eye(N, dtype=th.bool)):
        actions, _ = model.predict(observations, action_masks=same, deterministic=True)
        np.testing.assert_array_equal(actions, np.arange(N))


def test_evaluation_of_sb3_contrib_plays_with_masks(tmp_path):
    maskable = pytest.importorskip("sb3_contrib.common.maskable.evaluation")
    callbacks = pytest.importorskip("sb3_contrib.common.maskable.callbacks")
    env = make_vec_env(ByMethod, 2)
    callback = callbacks.MaskableEvalCallback(env, eval_freq=300, n_eval_episodes=5, log_path=tmp_path, verbose=0)
    model = dqn(ByMethod())
    model.learn(1000, callback)
    assert len(callback.evaluations_results) == 3
    returns, _ = maskable.evaluate_policy(model, env, 10, return_episode_rewards=True)
    assert len(returns) == 10


def test_wrappers_and_vectorised_environments_give_masks():
    wrappers = pytest.importorskip("sb3_contrib.common.wrappers")

    def wrapped():
        return wrappers.ActionMasker(gym.wrappers.TimeLimit(Board(), 30), lambda env: env.unwrapped.mask)

    for env in (wrapped(), wrapped, DummyVecEnv([wrapped] * 2)):
        model = learned(env, 600, execution="sync")
        batch = all_steps(model)
        assert th.equal(batch.action_masks, in_observations(batch.observations))


@pytest.mark.usefixtures("_forkserver")
def test_environments_in_workers_give_masks():
    env = SubprocVecEnv([ByMethod, ByMethod], start_method="forkserver")
    try:
        batch = all_steps(learned(env, 600, **MODES["async"]))
    finally:
        env.close()
    assert th.equal(batch.action_masks, in_observations(batch.observations))


def test_native_vector_environments_give_masks_in_their_infos():
    model = learned(NativeVecEnv(lambda n, seed: DummyVecEnv([ByInfo] * n)), **MODES["async"])
    batch = all_steps(model)
    assert_masks_belong_to_observations(batch)
    assert batch.action_masks.gather(1, batch.actions).all()
    with pytest.raises(ValueError, match=r"NativeVecEnv have a method action_masks\(\).*info\['action_mask'\]"):
        dqn(NativeVecEnv(lambda n, seed: DummyVecEnv([ByMethod] * n)))


def test_taxis_masks_are_used_and_told_once(capsys):
    model = learned("Taxi-v4", 1000, verbose=1)
    model.learn(100, reset_num_timesteps=False)
    told = "Forbidden actions are left out, according to info['action_mask']"
    assert capsys.readouterr().out.count(told) == 1
    batch, taxi = all_steps(model), gym.make("Taxi-v4").unwrapped
    expected = [taxi.action_mask(int(state)) for state in batch.observations[:, 0]]
    np.testing.assert_array_equal(batch.action_masks.numpy(), np.array(expected) > 0)
    assert batch.action_masks.gather(1, batch.actions).all()


def test_nothing_is_stored_without_masks():
    model, like = learned(Board(lenient=True)), learned(ByMethod())
    batch = all_steps(model)
    assert (batch.action_masks, batch.next_action_masks) == (None, None)
    assert set(batch.actions.flatten().tolist()) == set(range(N))
    assert not batch.actions.eq(in_observations(batch.observations).int().argmax(1, keepdim=True)).all()
    n_rows = len(inside.rows(model.replay_buffer).flags)
    assert like.replay_buffer.nbytes - model.replay_buffer.nbytes == N * n_rows


def test_algorithms_of_box_actions_know_no_masks():
    model = CA2EDDPG("MlpPolicy", Continuous(), execution="sync", n_actors=2, local_buffer_size=20, seed=0).learn(300)
    assert not model.replay_buffer.masked


class Forgetful(ByInfo):
    def info(self):
        return super().info() if self.t < 3 else {}


class Late(ByInfo):
    def __init__(self):
        super().__init__(lenient=True)

    def info(self):
        return super().info() if self.t > 0 else {}


class Short(ByMethod):
    def action_masks(self):
        return self.mask[1:]


class Words(ByMethod):
    def action_masks(self):
        return ["yes"] * N


class Shares(ByMethod):
    def action_masks(self):
        return self.mask / self.mask.sum() / 2


class Stuck(ByMethod):
    def action_masks(self):
        return self.mask & (self.t < 3)


class NoMethod(Board):
    action_masks = np.ones(N)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Forgetful, r"an info without 'action_mask', which an earlier one had. Return it with each reset"),
        (Late, r"returned info\['action_mask'\], but its first reset\(\) did not"),
        (Short, r"from the environment's method action_masks\(\) is array\(.*expected an array of 6 booleans"),
        (Words, r"expected an array of 6 booleans"),
        (Shares, r"expected an array of 6 booleans"),
        (Stuck, r"allows no action. Let the episode terminate"),
        (NoMethod, r"action_masks is array\(.*\), but must be a method"),
    ],
)
def test_masks_that_are_wrong_or_missing_are_refused(env, message, mode):
    with pytest.raises(ActorError, match=re.compile(rf"slot \d.*{message}", re.DOTALL)):
        learned(env(), **MODES[mode])


@pytest.mark.parametrize("env", [ByInfo, ByMethod])
@pytest.mark.parametrize("monitored", [True, False])
def test_masks_of_the_users_own_environment(env, monitored):
    """Actors step it, and it is reset once, as with SB3."""
    resets, ends = [], []

    class Counting(env):
        def reset(self, **kwargs):
            resets.append(kwargs)
            return super().reset(**kwargs)

        def step(self, action):
            result = super().step(action)
            ends.extend([{}] * (result[2] or result[3]))
            return result

    own = Counting() if monitored else DummyVecEnv([Counting])
    model = dqn(own, n_actors=1, seed=7)
    model.learn(1)
    assert resets == [{"seed": 7}, *ends]
    assert_masks_belong_to_observations(all_steps(model.learn(800)), gamma=0.99)


class OldDQN(CA2EDQN):
    @staticmethod
    def act(modules, observations):
        return CA2EDQN.act(modules, observations)


def test_algorithms_that_do_not_take_masks_are_refused_where_there_are_any():
    with pytest.raises(TypeError, match=r"action_masks\(\), but OldDQN.act does not take them: give it a third"):
        dqn(ByMethod(), OldDQN, execution="sync")
    model = dqn(ByInfo(), OldDQN, execution="sync")
    with pytest.raises(TypeError, match=r"info\['action_mask'\], but OldDQN.act does not take them"):
        model.learn(200)
    dqn(RandomWalk(), OldDQN, execution="sync").learn(200)


def test_transitions_without_masks_are_refused_beside_those_with_masks():
    model = learned(ByMethod(), 300)
    buffer = ReplayBuffer(100, model.observation_space, model.action_space)
    step = np.zeros((1, N + 2), np.float32), np.zeros((1, N + 2), np.float32), np.zeros((1, 1)), np.zeros(1)
    buffer.add(*step, np.zeros(1), [{}])
    with pytest.raises(ValueError, match=r"add_from\(\) takes transitions without action masks"):
        model.replay_buffer.add_from(buffer)
    with pytest.raises(ValueError, match=r"add\(\) takes transitions without action masks"):
        model.replay_buffer.add(*step, np.zeros(1), [{}])
    assert model.replay_buffer.size() == 300
    for env, other in ((ByMethod, Board), (Board, ByMethod)):
        model = learned(env(lenient=True), 300)
        model.set_env(other(lenient=True))
        with pytest.raises(ValueError, match=r"action masks: frames \(6,\) of bool.*or delete them first with"):
            model.learn(100)
        model.replay_buffer.reset()
        model.learn(100)
        assert model.replay_buffer.masked == (other is ByMethod)


def test_a_memory_that_a_callback_puts_in_stores_masks_too():
    model = dqn(ByMethod(), execution="sync", n_actors=2, learning_starts=1000)
    other = copy.deepcopy(model.replay_buffer)

    def replace(found: dict, _: dict) -> bool:
        found["self"].replay_buffer = other
        return True

    model.learn(200, replace)
    batch = other.sample(50)
    assert batch.action_masks is not None
    assert np.array_equal(batch.action_masks.numpy(), batch.observations[:, :N].numpy().astype(bool))
