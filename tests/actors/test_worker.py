"""Blocks of an actor against what its environments recorded, and against a plain computation."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3 import DDPG, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_ca2e import CA2EDDPG, CA2EDQN, PriorAgent
from sb3_ca2e.actors.slot import GREEDY_EVERY
from sb3_ca2e.replay.block import OBSERVATION, PRIOR, TERMINATED, TRANSITION, TRUNCATED
from sb3_ca2e.replay.n_step import PRIORITY_FLOOR
from tests.actors.recording_env import LocalActor, RecordingEnv, Step, make_spec

BOUNDS = spaces.Box(np.array([-1, 0], np.float32), np.array([3, 0.5], np.float32))
SLOTS = 3


def vector_dqn(**kwargs) -> CA2EDQN:
    return CA2EDQN("MlpPolicy", RecordingEnv(), n_actors=SLOTS, seed=0, policy_kwargs={"net_arch": [16]}, **kwargs)


def stacked_dqn(**kwargs) -> CA2EDQN:
    env = VecFrameStack(DummyVecEnv([lambda: RecordingEnv(image=True)]), 3)
    small = {"features_extractor_kwargs": {"features_dim": 16}}
    return CA2EDQN("CnnPolicy", env, n_actors=SLOTS, seed=0, policy_kwargs=small, **kwargs)


def vector_ddpg(n_critics: int = 1, **kwargs) -> CA2EDDPG:
    env, small = RecordingEnv(action_space=BOUNDS), {"net_arch": [16], "n_critics": n_critics}
    return CA2EDDPG("MlpPolicy", env, n_actors=SLOTS, seed=0, policy_kwargs=small, **kwargs)


def normalized(algorithm, wrap):
    def make(**kwargs):
        continuous = {"action_space": BOUNDS} if algorithm is CA2EDDPG else {}
        env = wrap(DummyVecEnv([lambda: RecordingEnv(**continuous)]))
        return algorithm("MlpPolicy", env, n_actors=SLOTS, seed=0, policy_kwargs={"net_arch": [16]}, **kwargs)

    return make


def changed(model) -> None:
    """Change the model's parameters and statistics, as an update would."""
    if (normalize := model.get_vec_normalize_env()) is not None:
        rng = np.random.default_rng(int(normalize.obs_rms.count))
        normalize.obs_rms.update(rng.normal(0.2, 0.5, (5, *normalize.obs_rms.mean.shape)))
        normalize.ret_rms.update(rng.normal(0, 2, 5))
    with th.no_grad():
        for module in model.published_modules().values():
            for parameter in module.parameters():
                parameter += 0.3 * th.randn_like(parameter)


class Run:
    """Many blocks of one actor, and the networks of every version."""

    def __init__(self, model, n_blocks: int = 6, progress: float = 0.0, **spec: Any):
        th.manual_seed(0)
        self.model = model
        self.actor = LocalActor(make_spec(model, **spec))
        self.actor.port.progress = progress
        self.networks: list[Any] = [None]
        self.normalizations: list[Any] = [None]
        self.versions, self.blocks = [], []
        for i in range(n_blocks):
            if i % 2 == 0:
                changed(model)
                self.networks.append(copy.deepcopy(model.published_modules()))
                self.normalizations.append(copy.deepcopy(model.get_vec_normalize_env()))
                self.actor.publish(model)
            version, blocks = self.actor.collect()
            self.versions.append(version)
            self.blocks.append(blocks)

    def stream(self, slot: int) -> list[tuple[int, int]]:
        """(episode, step) of every transition that the environment of a slot made."""
        episodes = self.actor.episodes(slot)
        return [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode.steps))]

    def step(self, slot: int, e: int, t: int) -> Step:
        return self.actor.episodes(slot)[e].steps[t]

    def frames(self, slot: int, e: int, t: int) -> list[np.ndarray | None]:
        """Those of the observation after ``t`` steps of an episode, None before its first."""
        n_stack = self.actor.spec.recipe.columns[OBSERVATION].n_stack
        episode = self.actor.episodes(slot)[e]
        frames = [episode.frame(i) if i >= 0 else None for i in range(t - n_stack + 1, t + 1)]
        is_image = self.model.observation_space.dtype == np.uint8
        return [frame.transpose(2, 0, 1) if is_image and frame is not None else frame for frame in frames]

    def observation(self, slot: int, e: int, t: int) -> np.ndarray:
        """As the environment and its frame stack return it, from the recorded frames alone."""
        return stack(self.frames(slot, e, t))

    def seen(self, slot: int, e: int, t: int, version: int) -> np.ndarray:
        """As the learner's networks see it."""
        normalize = self.normalizations[version]
        if normalize is None:
            return self.observation(slot, e, t)
        if isinstance(self.model.env, VecFrameStack):
            return stack([f if f is None else normalize.normalize_obs(f) for f in self.frames(slot, e, t)])
        return normalize.normalize_obs(self.observation(slot, e, t))

    def reward(self, step: Step, version: int) -> float:
        """As the learner trains on it."""
        normalize = self.normalizations[version]
        return step.reward if normalize is None else float(normalize.normalize_reward(np.array([step.reward]))[0])

    def per_block(self, slot: int):
        """For each block of a slot its index and its (episode, step) pairs."""
        stream, size = self.stream(slot), self.actor.spec.block_size
        for i, blocks in enumerate(self.blocks):
            yield i, blocks[slot], stream[i * size : (i + 1) * size]


def stack(frames: list[np.ndarray | None]) -> np.ndarray:
    return np.concatenate([np.zeros_like(frames[-1]) if frame is None else frame for frame in frames])


def stored(model, action: Any) -> np.ndarray:
    """An environment's action as the learner stores it."""
    if isinstance(model.action_space, spaces.Box):
        return model.policy.scale_action(np.asarray(action))
    return np.array([action])


MODELS = {"DQN": vector_dqn, "DQN on stacked images": stacked_dqn, "DDPG": vector_ddpg}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_blocks_hold_exactly_the_recorded_stream(make):
    run = Run(make(), n_blocks=8)
    for slot in range(SLOTS):
        assert len(run.stream(slot)) == 8 * 10
        for _, block, transitions in run.per_block(slot):
            assert block.slot == slot
            expected = []  # (episode, steps since its start, the step or None at its end)
            for e, t in transitions:
                step = run.step(slot, e, t)
                expected.append((e, t, step))
                if step.terminated or step.truncated:
                    expected.append((e, t + 1, None))
            assert len(block.flags) == len(expected)
            closing = transitions[-1][0], transitions[-1][1] + 1
            if expected[-1][2] is None:
                closing = closing[0] + 1, 0
            check_frames(run, slot, block, [*[row[:2] for row in expected], closing])
            for row, (_, _, step) in enumerate(expected):
                if step is None:
                    assert block.flags[row] == 0
                    assert block.priorities[row] == 0
                    continue
                ended = step.terminated * TERMINATED | step.truncated * TRUNCATED
                assert block.flags[row] == TRANSITION | ended
                assert block.rewards[row] == np.float32(step.reward)
                assert block.priorities[row] > 0
                np.testing.assert_allclose(block.actions[row], stored(run.model, step.action), atol=1e-6)


def check_frames(run: Run, slot: int, block, positions: list[tuple[int, int]]) -> None:
    """Every row's whole observation, rebuilt from the block as the memory would."""
    frames = block.frames[OBSERVATION]
    lead = len(frames) - len(positions)
    assert lead == (2 if run.model.observation_space.dtype == np.uint8 else 0)
    for row, (e, t) in enumerate(positions):
        assert block.ages[row] == min(t, lead)
        parts = [frames[lead + row - back] if back <= block.ages[row] else None for back in range(lead, -1, -1)]
        assert np.array_equal(stack(parts), run.observation(slot, e, t))


def values_of(model, modules, observation: np.ndarray, action: np.ndarray) -> tuple[float, float]:
    """q(s, a), and the value of s: max_a q(s, a), or the smallest of the critics' q(s, pi(s))."""
    with th.no_grad():
        batch = th.as_tensor(observation[None])
        if isinstance(model, CA2EDQN):
            q_values = modules["q_net"](batch)[0]
            return q_values[int(action[0])].item(), q_values.max().item()
        q_value = modules["critic"](batch, th.as_tensor(action[None], dtype=th.float32))[0]
        return q_value.item(), min(each.item() for each in modules["critic"](batch, modules["actor"](batch)))


NORMALIZED = {
    "normalized DQN": normalized(CA2EDQN, VecNormalize),
    "normalized frames": normalized(CA2EDQN, lambda env: VecFrameStack(VecNormalize(env, clip_obs=1.5), 3)),
    "normalized stacks": normalized(CA2EDQN, lambda env: VecNormalize(VecFrameStack(env, 3), epsilon=0.3)),
    "normalized DDPG": normalized(CA2EDDPG, lambda env: VecNormalize(env, clip_reward=0.3)),
    "normalized frames, DDPG": normalized(CA2EDDPG, lambda env: VecFrameStack(VecNormalize(env), 3)),
}


@pytest.mark.parametrize(
    ("make", "n_steps"),
    [
        *[pytest.param(make, n, id=f"{name}, {n} steps") for name, make in MODELS.items() for n in (1, 3)],
        *[pytest.param(make, 3, id=name) for name, make in NORMALIZED.items()],
        pytest.param(partial(vector_ddpg, n_critics=2), 3, id="DDPG, two critics"),
    ],
)
def test_priorities_equal_a_direct_computation(make, n_steps):
    run = Run(make(n_steps=n_steps, gamma=0.9), n_blocks=4)
    endings = set()
    for slot in range(SLOTS):
        for i, block, transitions in run.per_block(slot):
            version = run.versions[i]
            modules = run.networks[version]
            priorities = block.priorities[block.flags & TRANSITION > 0]
            for index, (e, t) in enumerate(transitions):
                action = stored(run.model, run.step(slot, e, t).action)
                q_taken, _ = values_of(run.model, modules, run.seen(slot, e, t, version), action)
                target, discount, length, step = 0.0, 1.0, 0, None
                for e_k, t_k in transitions[index : index + n_steps]:
                    step = run.step(slot, e_k, t_k)
                    target += discount * run.reward(step, version)
                    discount *= 0.9
                    length += 1
                    if step.terminated or step.truncated:
                        break
                if not step.terminated:  # a truncated episode and the end of the block are bootstrapped from
                    last = run.seen(slot, e, t + length, version)
                    target += discount * values_of(run.model, modules, last, action)[1]
                assert priorities[index] == pytest.approx(abs(target - q_taken) + PRIORITY_FLOOR, rel=1e-3, abs=1e-5)
                endings.add((step.terminated, step.truncated, length))
    assert endings == {
        (*end, k) for end in [(False, False), (True, False), (False, True)] for k in range(1, n_steps + 1)
    }


def argmax(modules, observation: np.ndarray) -> int:
    with th.no_grad():
        return int(modules["q_net"](th.as_tensor(observation[None])).argmax())


def actions_of(run: Run, slot: int) -> list[tuple[int, int, int]]:
    """For each step its game, counted from 1, the action, and what the block's network would have done."""
    rows = []
    for i, _, transitions in run.per_block(slot):
        for e, t in transitions:
            best = argmax(run.networks[run.versions[i]], run.observation(slot, e, t))
            rows.append((e + 1, int(run.step(slot, e, t).action), best))
    return rows


def test_every_tenth_game_is_greedy_and_the_others_explore():
    run = Run(vector_dqn(exploration_initial_eps=1.0, exploration_final_eps=1.0), n_blocks=40)
    for slot in range(SLOTS):
        rows = actions_of(run, slot)
        assert max(game for game, *_ in rows) > 3 * GREEDY_EVERY
        greedy = [action == best for game, action, best in rows if game % GREEDY_EVERY == 0]
        others = [action == best for game, action, best in rows if game % GREEDY_EVERY]
        assert all(greedy)
        assert np.mean(others) < 0.55  # by chance a third


def test_games_report_whether_they_were_greedy():
    model = vector_dqn(exploration_initial_eps=1.0)
    actor = LocalActor(make_spec(model, block_size=400))
    actor.publish(model)
    handover = actor.actor.collect()
    for position in range(SLOTS):
        games = [game for (_, slot), game in sorted(handover.games.items()) if slot == position]
        assert [greedy for _, greedy in games] == [(i + 1) % GREEDY_EVERY == 0 for i in range(len(games))]
        recorded = [sum(step.reward for step in each.steps) for each in actor.episodes(position)]
        assert [r for r, _ in games] == pytest.approx(recorded[: len(games)], abs=1e-5)


@pytest.mark.parametrize("greedy_after", [1, 9, 40, None])
def test_long_games_are_measured_more_often_and_none_without_priors(greedy_after):
    model = vector_dqn(exploration_initial_eps=1.0)
    actor = LocalActor(make_spec(model, block_size=400, greedy_after=greedy_after))
    actor.publish(model)
    games = actor.actor.collect().games
    for position in range(SLOTS):
        expected, explored = [], 0
        told = [greedy for (_, slot), (_, greedy) in sorted(games.items()) if slot == position]
        for number, episode in enumerate(actor.episodes(position)[: len(told)], start=1):
            due = greedy_after is not None and (number % GREEDY_EVERY == 0 or explored >= greedy_after)
            expected.append(due)
            explored = 0 if due else explored + len(episode.steps)
        assert told == expected
        assert any(told) == (greedy_after is not None)


def test_warm_up_is_uniformly_random_and_then_over():
    warmup = 40 * 10 * SLOTS
    run = Run(vector_dqn(exploration_initial_eps=0.0, exploration_final_eps=0.0), n_blocks=45, warmup=warmup)
    before, after = [], []
    for slot in range(SLOTS):
        rows = actions_of(run, slot)
        before += [action for game, action, _ in rows[:400] if game % GREEDY_EVERY]
        after += [action == best for _, action, best in rows[400:]]
    assert stats.chisquare(np.bincount(before, minlength=3)).pvalue > 1e-3
    assert all(after)
    assert len(after) == 50 * SLOTS


def test_epsilon_follows_the_progress_of_the_training():
    run = Run(
        vector_dqn(exploration_initial_eps=1.0, exploration_final_eps=0.0, exploration_fraction=0.5), progress=0.5
    )
    assert all(action == best for slot in range(SLOTS) for _, action, best in actions_of(run, slot))


def test_slots_and_seeds_differ_and_repeat():
    def actions(seed: int) -> list[np.ndarray]:
        return [block.actions for blocks in Run(vector_dqn(), n_blocks=3, seed=seed).blocks for block in blocks]

    one, again, other = actions(1), actions(1), actions(2)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    run = Run(vector_dqn(), n_blocks=1)
    assert len({run.actor.actor.slots[slot].env.unwrapped.seed for slot in range(SLOTS)}) == SLOTS


def test_parameters_change_only_between_blocks_and_as_often_as_asked():
    model = vector_dqn()
    actor = LocalActor(make_spec(model, block_size=10, update_interval=30))
    seen = []
    for _ in range(9):
        changed(model)
        actor.publish(model)
        seen.append(actor.collect()[0])
    assert seen == [1, 1, 1, 4, 4, 4, 7, 7, 7]


def run_prior(model, prior_model) -> Run:
    prior = PriorAgent(prior_model).resolve(model.observation_space, model.action_space)
    return Run(model, n_blocks=8, priors=[None, None, prior.for_actor()])


def small(algorithm, env, policy="MlpPolicy"):
    return algorithm(policy, env, seed=3, policy_kwargs={"net_arch": [16]}, device="cpu")


@pytest.mark.parametrize("algorithm", [DQN, PPO])
def test_prior_slots_act_as_the_model_predicts(algorithm):
    model = vector_dqn()
    prior = small(algorithm, RecordingEnv())
    with th.no_grad():
        for parameter in prior.policy.parameters():
            parameter += 0.5 * th.randn_like(parameter)
    check_prior(run_prior(model, prior), prior)


@pytest.mark.parametrize("algorithm", [DDPG, SAC, PPO])
def test_continuous_prior_slots_act_as_the_model_predicts(algorithm):
    prior = small(algorithm, RecordingEnv(action_space=BOUNDS))
    check_prior(run_prior(vector_ddpg(), prior), prior)


def check_prior(run: Run, prior) -> None:
    actions = set()
    for slot in range(SLOTS):
        for _, block, transitions in run.per_block(slot):
            flags = block.flags[block.flags & TRANSITION > 0]
            assert ((flags & PRIOR > 0) == (slot == 2)).all()
            rows = block.actions[block.flags & TRANSITION > 0]
            for row, (e, t) in enumerate(transitions if slot == 2 else []):
                taken = run.step(slot, e, t).action
                expected, _ = prior.predict(run.observation(slot, e, t), deterministic=True)
                np.testing.assert_allclose(taken, expected, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(rows[row], stored(run.model, expected), rtol=1e-4, atol=1e-5)
                actions.add(np.asarray(taken).tobytes())
    assert len(actions) > 1


def test_a_retired_prior_makes_way_at_the_end_of_its_episode():
    model, prior = vector_dqn(exploration_initial_eps=1.0), small(DQN, RecordingEnv())
    agent = PriorAgent(prior).resolve(model.observation_space, model.action_space)
    actor = LocalActor(make_spec(model, block_size=5, priors=[None, None, agent.for_actor()]))
    actor.publish(model)
    # Episodes of 1, 7, 2, 13, ... steps: the first block ends in the second episode, which has 3 steps to go
    _, first = actor.collect()
    actor.port.retire(2)
    _, second = actor.collect()
    prior_flags = [b[2].flags[b[2].flags & TRANSITION > 0] & PRIOR > 0 for b in (first, second)]
    assert prior_flags[0].tolist() == [True] * 5
    assert prior_flags[1].tolist() == [True] * 3 + [False] * 2


def test_the_slot_of_a_retired_prior_counts_its_games_anew():
    model, prior = CA2EDQN("MlpPolicy", RecordingEnv(lengths=(2,)), n_actors=1), small(DQN, RecordingEnv())
    agent = PriorAgent(prior).resolve(model.observation_space, model.action_space)
    actor = LocalActor(make_spec(model, block_size=8, priors=[agent.for_actor()]))
    greedy = []
    for _ in range(7):
        games = actor.actor.collect().games
        greedy += [games[key][1] for key in sorted(games)]
        actor.port.retire(0)
    # Four games, and the one that was under way when it was beaten, are the prior's.
    assert greedy == [False] * 5 + [n % GREEDY_EVERY == 0 for n in range(1, 24)]


def test_only_the_infos_asked_for_are_handed_over():
    class Informed(RecordingEnv):
        def step(self, action):
            *rest, info = super().step(action)
            return *rest, {**info, "wanted": len(self.episodes), "unwanted": object()}

    model = CA2EDQN("MlpPolicy", Informed(lengths=(4,)), n_actors=1, policy_kwargs={"net_arch": [8]})
    handover = LocalActor(make_spec(model, block_size=8, info_keys=("wanted",))).actor.collect()
    assert [handover.infos[t, 0]["wanted"] for t in range(8)] == [1] * 4 + [2] * 4
    assert {key for info in handover.infos.values() for key in info} == {"wanted", "episode", "TimeLimit.truncated"}
    assert [handover.infos[t, 0]["TimeLimit.truncated"] for t in (3, 7)] == [False, True]


def test_an_actor_that_takes_the_place_of_another_is_at_full_speed_from_its_second_block():
    model = vector_dqn()
    first, another = (LocalActor(make_spec(model, life=life)) for life in (0, 1))
    for actor in (first, another):
        actor.publish(model)
        actor.collect()
    assert not first.actor._policy.traced
    assert another.actor._policy.traced
    another.collect()
    assert another.actor._policy.traced
