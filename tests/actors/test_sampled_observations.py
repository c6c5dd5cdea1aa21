"""Sampled observations of every kind of space: byte for byte those of SB3's own wrappers on the same environments."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecTransposeImage

from sb3_ca2e import CA2EDQN, NativeVecEnv, PriorAgent
from sb3_ca2e.actors.spec import WorkerSpec
from sb3_ca2e.actors.worker import Worker
from sb3_ca2e.replay.block import TRANSITION
from sb3_ca2e.transport.shared_memory.pool import AsyncActors
from tests import inside
from tests.actors.recording_env import LocalActor, make_spec

N_SLOTS = 3
N_ROUNDS = 12
BLOCK_SIZE = 10


class Reel(gym.Env):
    """
    What it shows follows from its number, the episode, the step and the action alone. A reward tells the step.

    :param space: the observation space
    :param number: tells it from the others
    """

    lengths = (1, 7, 2, 13, 3, 5)

    def __init__(self, space: spaces.Space, number: int):
        self.observation_space, self.action_space = space, spaces.Discrete(3)
        self.number, self.episode, self.t = number, -1, 0
        self.actions: list[int] = []

    def _observation(self, action: int) -> Any:
        seed = np.random.SeedSequence([self.number, self.episode, self.t, action]).generate_state(1)[0]
        self.observation_space.seed(int(seed) % 2**31)
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return self._observation(0), {}

    def step(self, action):
        self.t += 1
        self.actions.append(int(action))
        over = self.t == self.lengths[self.episode % len(self.lengths)]
        terminated = over and self.episode % 2 == 0
        reward = 1000 * self.number + len(self.actions) - 1
        return self._observation(int(action)), float(reward), terminated, over and not terminated, {}


class LooseReel(Reel):
    """Returns the values of its space in other types, as hand-written environments do and SB3 takes."""

    def _observation(self, action: int) -> Any:
        sampled = super()._observation(action)
        return {key: loosened(value) for key, value in sampled.items()} if isinstance(sampled, dict) else sampled


def loosened(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype == np.uint8:
        return array.astype(np.int64)
    return array.astype(np.float64).tolist() if array.dtype == np.int32 else array.tolist()


def reels(space: spaces.Space, kind: type[Reel] = Reel) -> VecEnv:
    return DummyVecEnv([lambda number=number: kind(space, number) for number in range(N_SLOTS)])


def native(space: spaces.Space) -> VecEnv:
    return NativeVecEnv(lambda n_envs, seed: reels(space), N_SLOTS)


def box(*shape: int, dtype: Any = np.float32, low: float = -2, high: float = 2) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


LAST = spaces.Box(0, 255, (36, 40, 3), np.uint8)
FIRST = spaces.Box(0, 255, (3, 36, 40), np.uint8)
VECTORS = spaces.Dict({"flat": box(5), "grid": box(2, 3, dtype=np.float64), "counts": box(4, dtype=np.int32, high=90)})
PICTURES = spaces.Dict({"camera": LAST, "flat": box(5), "grid": box(2, 3)})
EVERYTHING = spaces.Dict(
    {
        **PICTURES.spaces,
        "discrete": spaces.Discrete(6),
        "multi": spaces.MultiDiscrete([4, 2, 5]),
        "binary": spaces.MultiBinary(7),
    }
)
GOALS = spaces.Dict({"observation": box(4), "achieved_goal": box(2), "desired_goal": box(2)})

CHAINS = {
    "float32": (lambda: reels(box(4)), "MlpPolicy"),
    "float64": (lambda: reels(box(2, 3, dtype=np.float64)), "MlpPolicy"),
    "int64": (lambda: reels(box(3, dtype=np.int64, low=-9, high=2**40)), "MlpPolicy"),
    "int16": (lambda: reels(box(3, dtype=np.int16, low=-300, high=300)), "MlpPolicy"),
    "uint8 that is no image": (lambda: reels(box(12, dtype=np.uint8, low=0, high=255)), "MlpPolicy"),
    "stacked vectors": (lambda: VecFrameStack(reels(box(4)), 4), "MlpPolicy"),
    "stacked grids": (lambda: VecFrameStack(reels(box(2, 3, dtype=np.float64)), 3), "MlpPolicy"),
    "grids stacked on each other": (lambda: VecFrameStack(reels(box(2, 3)), 3, "first"), "MlpPolicy"),
    "stacked integers": (lambda: VecFrameStack(reels(box(3, dtype=np.int64, high=99)), 2), "MlpPolicy"),
    "channels last": (lambda: reels(LAST), "CnnPolicy"),
    "channels first": (lambda: reels(FIRST), "CnnPolicy"),
    "stacked, channels last": (lambda: VecFrameStack(reels(LAST), 4), "CnnPolicy"),
    "turned, then stacked": (lambda: VecFrameStack(VecTransposeImage(reels(LAST)), 4), "CnnPolicy"),
    "stacked, channels first": (lambda: VecFrameStack(reels(FIRST), 2), "CnnPolicy"),
    "images on each other": (lambda: VecFrameStack(reels(LAST), 2, "first"), "CnnPolicy"),
    "images beside each other": (lambda: VecFrameStack(reels(FIRST), 2, "last"), "CnnPolicy"),
    "discrete": (lambda: reels(spaces.Discrete(11)), "MlpPolicy"),
    "multi-discrete": (lambda: reels(spaces.MultiDiscrete([3, 2, 7])), "MlpPolicy"),
    "multi-binary": (lambda: reels(spaces.MultiBinary(9)), "MlpPolicy"),
    "multi-binary of two axes": (lambda: reels(spaces.MultiBinary([2, 3])), "MlpPolicy"),
    "dict of everything": (lambda: reels(EVERYTHING), "MultiInputPolicy"),
    "dict in other types": (lambda: reels(EVERYTHING, LooseReel), "MultiInputPolicy"),
    "dict of vectors in other types": (lambda: reels(VECTORS, LooseReel), "MultiInputPolicy"),
    "dict of vectors": (lambda: reels(VECTORS), "MultiInputPolicy"),
    "dict of goals": (lambda: reels(GOALS), "MultiInputPolicy"),
    "dict of one": (lambda: reels(spaces.Dict({"observation": box(4)})), "MultiInputPolicy"),
    "stacked dict of vectors": (lambda: VecFrameStack(reels(VECTORS), 3), "MultiInputPolicy"),
    "stacked dict of goals": (lambda: VecFrameStack(reels(GOALS), 2), "MultiInputPolicy"),
    "stacked dict": (lambda: VecFrameStack(reels(PICTURES), 3), "MultiInputPolicy"),
    "turned dict, then stacked": (lambda: VecFrameStack(VecTransposeImage(reels(PICTURES)), 3), "MultiInputPolicy"),
    "dict in orders": (
        lambda: VecFrameStack(reels(PICTURES), 3, {"camera": "last", "flat": "first", "grid": "first"}),
        "MultiInputPolicy",
    ),
    "dict in other orders": (
        lambda: VecFrameStack(reels(PICTURES), 2, {"camera": "first", "flat": None, "grid": "last"}),
        "MultiInputPolicy",
    ),
    "native": (lambda: native(box(4)), "MlpPolicy"),
    "native, stacked, channels last": (lambda: VecFrameStack(native(LAST), 4), "CnnPolicy"),
    "native dict of everything": (lambda: native(EVERYTHING), "MultiInputPolicy"),
    "native, stacked dict": (lambda: VecFrameStack(native(PICTURES), 3), "MultiInputPolicy"),
    "turned dict, then in orders": (
        lambda: VecFrameStack(
            VecTransposeImage(reels(PICTURES)), 2, {"camera": "last", "flat": "last", "grid": "first"}
        ),
        "MultiInputPolicy",
    ),
}


def as_dict(observations: Any) -> dict[str, Any]:
    return observations if isinstance(observations, dict) else {"": observations}


def part(observations: Any, slot: int) -> dict[str, np.ndarray]:
    return {key: np.array(values[slot]) for key, values in as_dict(observations).items()}


class Oracle:
    """
    What SB3's wrappers return around the same environments for the same actions.

    :param venv: the user's environment, as SB3 wraps it
    :param actions: ``(steps, slots)``
    """

    def __init__(self, venv: VecEnv, actions: np.ndarray):
        self.before: list[list[dict]] = [[] for _ in range(N_SLOTS)]
        self.after: list[list[dict]] = [[] for _ in range(N_SLOTS)]
        self.dones: list[list[bool]] = [[] for _ in range(N_SLOTS)]
        observations = venv.reset()
        for step in actions:
            for slot in range(N_SLOTS):
                self.before[slot].append(part(observations, slot))
            observations, rewards, dones, infos = venv.step(step)
            for slot in range(N_SLOTS):
                assert rewards[slot] == 1000 * slot + len(self.after[slot])
                terminal = as_dict(infos[slot]["terminal_observation"]) if dones[slot] else part(observations, slot)
                # Terminal observations come as the environment returned them; SB3's memory casts them.
                dtypes = {key: values.dtype for key, values in as_dict(observations).items()}
                self.after[slot].append({key: np.array(value, dtypes[key]) for key, value in terminal.items()})
                self.dones[slot].append(bool(dones[slot]))

    def last(self, slot: int, t: int, n_steps: int, n_made: int) -> int:
        """The last step of the return that begins with a step, when so many steps have been made."""
        for later in range(t, min(t + n_steps, n_made)):
            if self.dones[slot][later]:
                return later
        return later


def learner(algorithm: type, env: VecEnv, policy: str, **kwargs: Any) -> Any:
    features = {"CnnPolicy": {"features_dim": 8}, "MultiInputPolicy": {"cnn_output_dim": 8}}.get(policy, {})
    small = {"net_arch": [8], "features_extractor_kwargs": features}
    return algorithm(policy, env, policy_kwargs=small, seed=0, device="cpu", **kwargs)


def check_memory(memory: Any, oracle: Oracle, n_made: int) -> None:
    """All that is held now: what was written first in this round, what was written last, and what is left of older."""
    rows = th.nonzero(inside.rows(memory).flags & int(TRANSITION)).squeeze(1)
    steps = inside.rows(memory).rewards[rows].long()
    assert len(rows) == memory.size() > 0
    samples = memory.samples_at(rows)
    got, following = as_dict(samples.observations), as_dict(samples.next_observations)
    newest = 0
    for i, (slot, t) in enumerate(zip((steps // 1000).tolist(), (steps % 1000).tolist(), strict=True)):
        assert samples.prior[i] == (slot == N_SLOTS - 1)
        last = oracle.last(slot, t, memory.n_steps, n_made)
        newest = max(newest, t)
        for tensors, expected in ((got, oracle.before[slot][t]), (following, oracle.after[slot][last])):
            assert tensors.keys() == expected.keys()
            for key, array in expected.items():
                sampled = tensors[key][i].numpy()
                assert sampled.dtype == array.dtype
                assert sampled.size == array.size
                assert sampled.tobytes() == array.tobytes(), (key, slot, t)
    assert newest == n_made - 1


def environments(actor: Worker) -> list[gym.Env]:
    """Those of an actor's slots."""
    if actor._together is not None:
        return actor._together.venv.unwrapped.envs
    return [slot.env for slot in actor.slots]


def models_on(chain: str) -> tuple[CA2EDQN, DQN, WorkerSpec]:
    """A learner with a small memory, a prior agent for its last slot, and what its actor is started with."""
    make, policy = CHAINS[chain]
    model = learner(
        CA2EDQN,
        make(),
        policy,
        n_actors=N_SLOTS,
        n_steps=3,
        buffer_size=60,
        replay_buffer_kwargs={"segment_length": 8},
        exploration_initial_eps=0.5,
    )
    prior = learner(DQN, make(), policy, buffer_size=1)
    agent = PriorAgent(prior).resolve(model.observation_space, model.action_space).for_actor()
    return model, prior, make_spec(model, block_size=BLOCK_SIZE, priors=[None] * (N_SLOTS - 1) + [agent])


@pytest.mark.parametrize("chain", CHAINS)
def test_sampled_observations_are_what_the_users_chain_returns(chain):
    model, prior, spec = models_on(chain)
    actor = LocalActor(spec)
    actor.publish(model)
    rounds = [actor.collect()[1] for _ in range(N_ROUNDS)]
    actions = np.array([env.unwrapped.actions for env in environments(actor.actor)]).T
    assert len(actions) == N_ROUNDS * BLOCK_SIZE
    oracle = Oracle(model.get_env(), actions)
    memory = model.replay_buffer
    for i, blocks in enumerate(rounds):
        for block in blocks:
            memory.add_block(block)
        check_memory(memory, oracle, (i + 1) * BLOCK_SIZE)
    assert inside.storage(memory).n_committed > memory.capacity
    # The prior agent saw the same observations as SB3's wrappers would have given it.
    seen = oracle.before[N_SLOTS - 1]
    batch = {key: np.stack([each[key] for each in seen]) for key in seen[0]}
    expected, _ = prior.predict(batch.get("", batch), deterministic=True)
    np.testing.assert_array_equal(actions[:, N_SLOTS - 1], expected)


def test_observations_arrive_whole_from_another_process():
    model, _, spec = models_on("dict in orders")
    memory, actions = model.replay_buffer, [[] for _ in range(N_SLOTS)]
    pool = AsyncActors([spec])
    try:
        for _ in range(N_ROUNDS):
            _, blocks = pool.collect()
            for block in blocks:
                memory.add_block(block)
                actions[block.slot].extend(block.actions[block.flags & TRANSITION > 0, 0])
    finally:
        pool.stop()
    check_memory(memory, Oracle(model.get_env(), np.array(actions).T), N_ROUNDS * BLOCK_SIZE)
