"""From the user's environment to those of the actors."""

import itertools
import pickle
from typing import ClassVar

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_ca2e import CA2EDQN, BuilderVecEnv
from sb3_ca2e.actors.observations import Observations
from sb3_ca2e.envs.recipe import recipe_from
from sb3_ca2e.replay.block import OBSERVATION, plain
from sb3_ca2e.transport.shared_memory.pool import AsyncActors
from tests.actors.recording_env import RecordingEnv, make_spec

pytestmark = pytest.mark.usefixtures("_forkserver")

gym.register_envs(ale_py)


def model_of(env, policy="MlpPolicy", **kwargs) -> CA2EDQN:
    features = {"CnnPolicy": {"features_dim": 8}, "MultiInputPolicy": {"cnn_output_dim": 8}}.get(policy, {})
    small = {"net_arch": [8], "features_extractor_kwargs": features}
    return CA2EDQN(policy, env, n_actors=3, buffer_size=100, policy_kwargs=small, **kwargs)


def atari(game: str, n_envs: int = 1) -> VecEnv:
    # the whole observation kept small; what is compared are the chains of wrappers
    return make_atari_env(f"{game}NoFrameskip-v4", n_envs)


def monitored(tmp_path) -> gym.Env:
    return Monitor(gym.make("CartPole-v1"), str(tmp_path / "log"))


def in_workers(make, **kwargs) -> VecEnv:
    return make(vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "forkserver"}, **kwargs)


class Spaces(RecordingEnv):
    """
    Random observations of any space, the same after the same seed.

    :param space: the observation space
    """

    def __init__(self, space: spaces.Space):
        super().__init__(lengths=(5, 3, 4))
        self.observation_space = space

    def _frame(self, t: int):
        self.observation_space.seed(int(np.random.default_rng([self.seed, len(self.episodes), t]).integers(2**31)))
        return self.observation_space.sample()


IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
IMAGE_FIRST = spaces.Box(0, 255, (3, 36, 40), np.uint8)
VECTOR = spaces.Box(-2, 2, (3, 2), np.float64)
STACKABLE = spaces.Dict({"camera": IMAGE, "vector": spaces.Box(-1, 1, (5,))})
DICT = spaces.Dict({**STACKABLE.spaces, "discrete": spaces.Discrete(4), "binary": spaces.MultiBinary(3)})


def of_space(space: spaces.Space, n_envs: int = 2) -> VecEnv:
    return DummyVecEnv([lambda: Spaces(space)] * n_envs)


CHAINS = {
    "id": (lambda _: "CartPole-v1", "MlpPolicy", 120),
    "env": (lambda _: gym.make("CartPole-v1"), "MlpPolicy", 120),
    "env with an open monitor file": (monitored, "MlpPolicy", 120),
    "callable": (lambda _: lambda: gym.make("CartPole-v1"), "MlpPolicy", 120),
    "make_vec_env": (lambda _: make_vec_env("CartPole-v1", 3), "MlpPolicy", 120),
    "monitor_dir": (lambda path: make_vec_env("CartPole-v1", 2, monitor_dir=str(path)), "MlpPolicy", 120),
    "builders": (lambda _: BuilderVecEnv([RecordingEnv, lambda: RecordingEnv(lengths=(2, 3))]), "MlpPolicy", 20),
    "stacked vectors": (lambda _: VecFrameStack(make_vec_env("CartPole-v1", 2), 3), "MlpPolicy", 120),
    "image": (lambda _: RecordingEnv(image=True), "CnnPolicy", 20),
    "pong": (lambda _: atari("Pong"), "CnnPolicy", 20),
    "pong, stacked, then turned": (lambda _: VecFrameStack(atari("Pong", 2), 4), "CnnPolicy", 20),
    "pong, turned, then stacked": (lambda _: VecFrameStack(VecTransposeImage(atari("Pong")), 4), "CnnPolicy", 20),
    "lives, stacked, then turned": (lambda _: VecFrameStack(atari("Breakout"), 3), "CnnPolicy", 150),
    "lives, turned, then stacked": (lambda _: VecFrameStack(VecTransposeImage(atari("Breakout")), 3), "CnnPolicy", 150),
    "workers": (lambda _: in_workers(make_vec_env, env_id="CartPole-v1", n_envs=2), "MlpPolicy", 120),
    "workers, monitor_dir": (
        lambda path: in_workers(make_vec_env, env_id="CartPole-v1", monitor_dir=str(path)),
        "MlpPolicy",
        120,
    ),
    "workers, pong": (
        lambda _: VecFrameStack(in_workers(make_atari_env, env_id="ale_py:PongNoFrameskip-v4"), 4),
        "CnnPolicy",
        10,
    ),
    "workers, no wrapper": (lambda _: SubprocVecEnv([RecordingEnv], start_method="forkserver"), "MlpPolicy", 20),
    "vec monitor": (lambda path: VecMonitor(of_space(VECTOR), str(path / "all")), "MlpPolicy", 20),
    "checked": (lambda _: VecCheckNan(make_vec_env("CartPole-v1", 2)), "MlpPolicy", 120),
    "vector of float64": (lambda _: of_space(VECTOR), "MlpPolicy", 20),
    "discrete": (lambda _: of_space(spaces.Discrete(5)), "MlpPolicy", 20),
    "multi-discrete": (lambda _: of_space(spaces.MultiDiscrete([3, 2, 7])), "MlpPolicy", 20),
    "multi-binary": (lambda _: of_space(spaces.MultiBinary(4)), "MlpPolicy", 20),
    "image, channels first": (lambda _: VecFrameStack(of_space(IMAGE_FIRST), 2), "CnnPolicy", 20),
    "dict": (lambda _: of_space(DICT), "MultiInputPolicy", 20),
    "dict in workers": (
        lambda _: SubprocVecEnv([lambda: Spaces(DICT)] * 2, start_method="forkserver"),
        "MultiInputPolicy",
        20,
    ),
    "dict of no images": (
        lambda _: of_space(spaces.Dict({"a": spaces.Discrete(3), "b": VECTOR})),
        "MultiInputPolicy",
        20,
    ),
    "dict, stacked, then turned": (lambda _: VecFrameStack(of_space(STACKABLE), 3), "MultiInputPolicy", 20),
    "dict, turned, then stacked": (
        lambda _: VecFrameStack(VecTransposeImage(of_space(STACKABLE)), 3),
        "MultiInputPolicy",
        20,
    ),
}


def assert_same(ours, theirs) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, part in theirs.items():
            assert_same(ours[key], part)
    else:
        assert ours.dtype == np.asarray(theirs).dtype
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("chain", CHAINS)
def test_slots_see_byte_for_byte_what_the_users_chain_returns(chain, tmp_path):
    make, policy, n_steps = CHAINS[chain]
    venv = model_of(make(tmp_path), policy).get_env()
    recipe = recipe_from(venv)
    n_envs = venv.num_envs
    observations = Observations(recipe, n_envs)
    venv.seed(7)
    expected = venv.reset()
    envs = [recipe.build(slot) for slot in range(n_envs)]
    for slot, env in enumerate(envs):
        observations.reset(slot, env.reset(seed=7 + slot)[0])
    rng, n_ends, monitored_already = np.random.default_rng(0), 0, venv.env_is_wrapped(Monitor)[0]
    for t in itertools.count():
        assert_same(plain(observations.batch), expected)
        if t >= n_steps:
            break
        actions = rng.integers(venv.action_space.n, size=n_envs)
        expected, rewards, dones, infos = venv.step(actions)
        for slot, env in enumerate(envs):
            raw, reward, terminated, truncated, info = env.step(actions[slot])
            observations.push(slot, raw)
            assert (np.float32(reward), terminated or truncated) == (np.float32(rewards[slot]), dones[slot])
            if dones[slot]:
                n_ends += 1
                assert (truncated and not terminated) == infos[slot]["TimeLimit.truncated"]
                assert_same(plain(observations.of(slot)), infos[slot]["terminal_observation"])
                theirs = infos[slot].get("episode")
                if theirs is not None or monitored_already:
                    assert (info.get("episode") is None) == (theirs is None)
                    assert theirs is None or [info["episode"][k] for k in "rl"] == pytest.approx(
                        [theirs[k] for k in "rl"], abs=1e-5
                    )
                observations.reset(slot, env.reset()[0])
    assert n_ends > 1 or "pong" in chain
    for env in envs:
        env.close()
    venv.close()


@pytest.mark.parametrize("order", ["stacked, then turned", "turned, then stacked"])
def test_frames_of_several_channels_are_stacked_by_their_channels(order):
    class Colours(RecordingEnv):
        def __init__(self):
            super().__init__(image=True, lengths=(9,))
            self.observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)

        def _frame(self, t: int) -> np.ndarray:
            return np.random.default_rng([self.seed, len(self.episodes), t]).integers(0, 256, (36, 40, 3), np.uint8)

    base = DummyVecEnv([Colours])
    venv = VecTransposeImage(VecFrameStack(base, 2)) if order[0] == "s" else VecFrameStack(VecTransposeImage(base), 2)
    recipe = recipe_from(venv)
    observations = Observations(recipe, 1)
    env = recipe.build(0)
    venv.seed(3)
    observations.reset(0, env.reset(seed=3)[0])
    assert np.array_equal(venv.reset(), observations.batch[OBSERVATION])
    for _ in range(3):
        raw, *_ = env.step(0)
        observations.push(0, raw)
    for _ in range(3):
        expected, *_ = venv.step([0])
    assert np.array_equal(expected, observations.batch[OBSERVATION])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_observations_are_checked_at_once_where_the_recipe_came_from_another_process(dtype):
    env = of_space(spaces.Box(-np.inf, np.inf, (3,), dtype))
    recipe = pickle.loads(pickle.dumps(recipe_from(env)))
    stack = Observations(recipe, 1)._stacks[OBSERVATION]
    assert stack.accepts(np.array([0, -1, np.finfo(dtype).max], dtype))
    for wrong in ([0, 0, np.nan], [0, np.inf, -np.inf], [0, 0]):
        assert not stack.accepts(np.array(wrong, dtype))
    assert not stack.accepts(np.zeros(3, np.float16))


def test_images_are_stored_alike_whichever_way_their_channels_came():
    last, first = VecTransposeImage(of_space(IMAGE)), of_space(IMAGE_FIRST)
    assert recipe_from(last).columns == recipe_from(first).columns
    stacked = [VecTransposeImage(VecFrameStack(of_space(IMAGE), 2)), VecFrameStack(first, 2)]
    assert recipe_from(stacked[0]).columns == recipe_from(stacked[1]).columns != recipe_from(first).columns


class NotPicklable(RecordingEnv):
    def __init__(self):
        super().__init__()
        self.log = (line for line in [])


@pytest.mark.parametrize(
    ("env", "culprit", "way_out"),
    [
        (lambda: VecExtractDictObs(of_space(DICT), "camera"), "VecExtractDictObs", "gymnasium wrapper inside each env"),
        (lambda: VecNormalize(VecNormalize(make_vec_env("CartPole-v1"))), "two VecNormalize", "keep one"),
        (
            lambda: VecNormalize(VecTransposeImage(of_space(IMAGE))),
            r"VecNormalize normalises images \(<observation>\)",
            "norm_obs=False",
        ),
        (lambda: VecFrameStack(VecFrameStack(make_vec_env("CartPole-v1"), 2), 2), "two VecFrameStack", "keep one"),
        (lambda: VecFrameStack(make_vec_env("CartPole-v1"), 257), "VecFrameStack of 257 frames", "at most 256"),
        (NotPicklable, "NotPicklable", "Pass a function that makes the environment"),
    ],
)
def test_what_actors_cannot_rebuild_is_refused_at_construction(env, culprit, way_out):
    made = env()
    with pytest.raises(ValueError, match=f"(?s){culprit}.*{way_out}"):
        CA2EDQN("MultiInputPolicy" if isinstance(made.observation_space, spaces.Dict) else "MlpPolicy", made)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([VECTOR]),
        spaces.Dict({"inner": spaces.Dict({"a": VECTOR})}),
        spaces.Dict({"a": spaces.Tuple([VECTOR])}),
    ],
)
def test_observations_that_sb3_does_not_support_are_refused_in_its_words(space):
    def refusal(algorithm):
        with pytest.raises(NotImplementedError) as caught:
            algorithm("MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy", Spaces(space))
        return str(caught.value)

    assert refusal(CA2EDQN) == refusal(DQN)


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_worker_cannot_pickle_is_refused_and_the_worker_lives_on(wrapped):
    venv = SubprocVecEnv([lambda: Monitor(NotPicklable()) if wrapped else NotPicklable()], start_method="forkserver")
    try:
        with pytest.raises(ValueError, match=r"(?s)environment 0 of the SubprocVecEnv.*generator.*BuilderVecEnv"):
            model_of(venv)
        assert venv.reset().shape == (1, 4)
        assert len(venv.step([0])) == 4
    finally:
        venv.close()


def test_environments_of_workers_are_copied_with_classes_that_exist_only_here():
    made = with_closure()
    venv = SubprocVecEnv([made, lambda: Monitor(made())], start_method="forkserver")
    try:
        venv.reset()
        recipe = recipe_from(venv)
        assert [recipe.build(slot).unwrapped.lengths for slot in range(3)] == [(5,)] * 3
    finally:
        venv.close()


def test_the_environment_at_fault_is_named():
    class Fine(RecordingEnv):
        pass

    with pytest.raises(ValueError, match=r"copies of.*NotPicklable"):
        model_of(DummyVecEnv([Fine, NotPicklable]))


def test_a_function_makes_environments_that_do_not_pickle():
    recipe = recipe_from(model_of(NotPicklable).get_env())
    env = recipe.build(0)
    assert isinstance(env.unwrapped, NotPicklable)
    assert env.unwrapped is not recipe.build(0).unwrapped


def test_each_slot_has_an_environment_of_its_own_in_turn():
    recipe = recipe_from(DummyVecEnv([lambda: RecordingEnv(lengths=(1,)), lambda: RecordingEnv(lengths=(2,))]))
    assert [recipe.build(slot).unwrapped.lengths for slot in range(4)] == [(1,), (2,), (1,), (2,)]


class OldReset(gym.Env):
    """Its ``reset`` takes no options, which ``check_env`` accepts. Each episode has one step."""

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)
    given: ClassVar[list[list[str]]] = []

    def reset(self, **kwargs):
        self.given.append(list(kwargs))
        return self._reset(**kwargs)

    def _reset(self, seed=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}


@pytest.mark.parametrize("make", [OldReset, lambda: make_vec_env(OldReset)], ids=["object", "VecEnv"])
def test_reset_is_given_what_sb3_gives_it(make):
    given = {}
    ours = {"execution": "sync", "n_actors": 1, "local_buffer_size": 1}
    for algorithm, kwargs in [(DQN, {}), (CA2EDQN, ours)]:
        model = algorithm("MlpPolicy", make(), learning_starts=100, **kwargs)
        OldReset.given.clear()
        model.learn(4)
        given[algorithm] = OldReset.given[-5:]
    assert given[CA2EDQN] == given[DQN] == [["seed"], [], [], [], []]


def test_copies_of_an_environment_in_use_begin_anew():
    env = RecordingEnv(lengths=(9,))
    venv = DummyVecEnv([lambda: Monitor(env, allow_early_resets=False)])
    venv.reset()
    venv.step([0])
    copied = recipe_from(venv).build(0)
    copied.reset(seed=0)
    rewards = []
    for _ in range(9):
        _, reward, *_, info = copied.step(0)
        rewards.append(reward)
    assert info["episode"]["l"] == 9
    assert info["episode"]["r"] == pytest.approx(sum(rewards), abs=1e-5)


@pytest.mark.parametrize("game", ["Breakout", "MsPacman"])  # which begins without a step
def test_copies_of_an_atari_game_in_use_begin_anew(game):
    venv, untouched = atari(game), atari(game)
    venv.seed(0)
    venv.reset()
    rng = np.random.default_rng(0)
    while not venv.step(rng.integers(4, size=1))[2].any():
        pass  # now a life is lost, and the game goes on
    used, fresh = recipe_from(venv).build(0), recipe_from(untouched).build(0)
    assert np.array_equal(used.reset(seed=5)[0], fresh.reset(seed=5)[0])
    for action in rng.integers(4, size=30):
        one, other = used.step(action), fresh.step(action)
        assert np.array_equal(one[0], other[0])
        assert one[1:4] == other[1:4]


class OnlyHere(RecordingEnv):
    """Its class is in this module, which is no part of any package."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None, lengths=(9,)):
        super().__init__(lengths=lengths)


gym.register("SB3CA2EOnlyHere-v0", entry_point=OnlyHere, max_episode_steps=4)


def with_closure():
    length = 5

    class Local(RecordingEnv):
        def __init__(self):
            super().__init__(lengths=(length,))

    return lambda: Local()


@pytest.mark.parametrize(
    ("env", "lengths"),
    [
        (lambda: "SB3CA2EOnlyHere-v0", [4, 4, 4]),
        (
            lambda: BuilderVecEnv(
                [with_closure(), lambda: OnlyHere(lengths=(3,)), lambda: gym.make("SB3CA2EOnlyHere-v0")]
            ),
            [5, 3, 4],
        ),
    ],
    ids=["registered id", "functions"],
)
def test_environments_of_the_users_process_work_in_actor_processes(env, lengths):
    pool = AsyncActors([make_spec(model_of(env()), block_size=8)])
    try:
        handover, _ = pool.collect()
    finally:
        pool.stop()
    first_ends = {}
    for (_, slot), info in sorted(handover.infos.items()):
        first_ends.setdefault(slot, info["episode"]["l"])
    assert [first_ends[slot] for slot in range(3)] == lengths
