"""A prior agent sees what it was trained on: the same actions as through SB3's and the RL Zoo's own wrappers."""

from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_ca2e import PriorAgent
from sb3_ca2e.envs.identity import EnvIdentity, identity_of_vec
from tests.priors.zoo_folders import (
    DICTIONARY,
    IMAGES,
    SPACES,
    TIME_FEATURE,
    TIME_LIMIT,
    VECTORS,
    Drift,
    as_the_zoo_writes,
    drifts,
    learn_statistics,
    model_on,
    save_in_zoo,
)

FRAME_STACK = "stable_baselines3.common.vec_env.VecFrameStack"
N_ENVS, N_STEPS = 3, 60


def plain(env: gym.Env) -> gym.Env:
    return env


#: What stands between the environment and the agent, and how its config.yml says so.
PIPELINES: dict[str, tuple[str, Callable, Callable, dict[str, Any]]] = {
    "nothing": ("vectors", plain, lambda venv: venv, {}),
    "time": ("vectors", TimeFeatureWrapper, lambda venv: venv, {"env_wrapper": TIME_FEATURE}),
    "statistics": ("vectors", plain, VecNormalize, {"normalize": True}),
    "stack": ("vectors", plain, lambda venv: VecFrameStack(venv, 3), {"frame_stack": 3}),
    "time, statistics": (
        "vectors",
        TimeFeatureWrapper,
        lambda venv: VecNormalize(venv, clip_obs=2.0),
        {"env_wrapper": [{TIME_FEATURE: {}}], "normalize": "dict(norm_obs=True, norm_reward=False)"},
    ),
    "statistics, stack": (
        "vectors",
        plain,
        lambda venv: VecFrameStack(VecNormalize(venv), 3),
        {"normalize": True, "frame_stack": 3},
    ),
    "stack, statistics": (
        "vectors",
        plain,
        lambda venv: VecNormalize(VecFrameStack(venv, 2)),
        {"normalize": True, "vec_env_wrapper": {FRAME_STACK: {"n_stack": 2}}},
    ),
    "time, statistics, stack": (
        "vectors",
        TimeFeatureWrapper,
        lambda venv: VecFrameStack(VecNormalize(venv), 4),
        {"env_wrapper": TIME_FEATURE, "normalize": True, "frame_stack": 4},
    ),
    "time, statistics, stack of dictionaries": (
        "dictionaries",
        TimeFeatureWrapper,
        lambda venv: VecFrameStack(VecNormalize(venv), 2),
        {"env_wrapper": TIME_FEATURE, "normalize": True, "frame_stack": 2},
    ),
    "statistics of one key": (
        "dictionaries",
        plain,
        lambda venv: VecNormalize(venv, norm_obs_keys=["goal"]),
        {"normalize": True},
    ),
    "stack of images": (
        "images",
        plain,
        lambda venv: VecTransposeImage(VecFrameStack(venv, 4)),
        {"frame_stack": 4, "normalize": False},
    ),
    "statistics of rewards alone": (
        "vectors",
        plain,
        lambda venv: VecNormalize(venv, norm_obs=False),
        {"normalize": "dict(norm_obs=False)"},
    ),
}


def transposed(venv: VecEnv) -> VecEnv:
    """As SB3 hands images to any learner."""
    return VecTransposeImage(venv) if venv.observation_space.dtype == np.uint8 else venv


def resolved(agent: PriorAgent, venv: VecEnv) -> PriorAgent:
    return agent.resolve(venv.observation_space, venv.action_space, identity_of_vec(venv))


def assert_same_actions_along_episodes(agent, venv: VecEnv, model, oracle: VecEnv, n_steps: int = N_STEPS) -> None:
    """The agent on its environments, and beside it the model behind its own wrappers on the same ones."""
    observations, seen = venv.reset(), oracle.reset()
    starts, state = np.ones(venv.num_envs, dtype=bool), None
    taken, endings = [], 0
    for _ in range(n_steps):
        expected, _ = model.predict(seen, deterministic=True)
        actions, state = agent.predict(observations, state, starts, deterministic=True)
        np.testing.assert_array_equal(actions, expected)
        taken.append(actions)
        observations, _, starts, _ = venv.step(actions)
        seen, _, ended, _ = oracle.step(expected)
        np.testing.assert_array_equal(starts, ended)
        endings += int(starts.sum())
    assert len(np.unique(taken)) > 1
    assert endings > 0 or n_steps < N_STEPS


def oracle_of(space: str, wrapper: Callable, vec_wrapper: Callable, n_envs: int = 1) -> VecEnv:
    oracle = vec_wrapper(drifts(space, n_envs, wrapper=wrapper))
    if isinstance(oracle, VecNormalize) or isinstance(getattr(oracle, "venv", None), VecNormalize):
        learn_statistics(oracle)
        oracle.seed(0)
    return oracle


@pytest.mark.parametrize("source", ["folder", "trusted folder", "model"])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_actions_are_those_of_the_zoos_own_pipeline(pipeline, source, tmp_path):
    space, wrapper, vec_wrapper, config = PIPELINES[pipeline]
    oracle = oracle_of(space, wrapper, vec_wrapper, N_ENVS)
    model = model_on(oracle)
    if source == "model":
        agent = PriorAgent(model)
    else:
        run = save_in_zoo(tmp_path, model, "Drift-v0", as_the_zoo_writes(config))
        agent = PriorAgent(run, trust=source == "trusted folder")
    venv = transposed(drifts(space, N_ENVS))
    resolved(agent, venv)
    in_actor = cloudpickle.loads(cloudpickle.dumps(agent.for_actor()))
    assert_same_actions_along_episodes(in_actor, venv, model, oracle)


@pytest.mark.parametrize("pipeline", ["stack", "statistics, stack", "time, statistics, stack", "stack of images"])
def test_a_stack_that_the_learner_has_too_is_not_made_twice(pipeline, tmp_path):
    space, wrapper, vec_wrapper, config = PIPELINES[pipeline]
    oracle = oracle_of(space, wrapper, vec_wrapper, N_ENVS)
    model = model_on(oracle)
    agent = PriorAgent(save_in_zoo(tmp_path, model, "Drift-v0", config))
    venv = transposed(VecFrameStack(drifts(space, N_ENVS), config["frame_stack"]))
    assert_same_actions_along_episodes(resolved(agent, venv), venv, model, oracle)


def test_stacks_that_agree_are_taken_as_they_come(tmp_path):
    """So that an agent may be asked for any observation, and not only along episodes."""
    oracle = VecFrameStack(drifts("vectors"), 3)
    model = model_on(oracle)
    agent = resolved(PriorAgent(save_in_zoo(tmp_path, model, "Drift-v0", {"frame_stack": 3})), oracle)
    observations = np.random.default_rng(0).normal(5, 3, size=(64, 9))
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(agent.predict(observations)[0], expected)
    assert len(np.unique(expected)) > 1


def test_a_time_feature_that_the_learner_has_too_is_not_added_twice(tmp_path):
    oracle = drifts("vectors", N_ENVS, wrapper=TimeFeatureWrapper)
    model = model_on(oracle)
    agent = PriorAgent(save_in_zoo(tmp_path, model, "Drift-v0", {"env_wrapper": TIME_FEATURE}))
    venv = drifts("vectors", N_ENVS, wrapper=TimeFeatureWrapper)
    assert_same_actions_along_episodes(resolved(agent, venv), venv, model, oracle)


@pytest.mark.parametrize("arguments", [{}, {"max_steps": 40}])
@pytest.mark.parametrize("limited", [True, False])
def test_time_runs_to_the_environments_limit_or_else_to_the_wrappers(limited, arguments, tmp_path):
    def made(wrapper: Callable) -> VecEnv:
        venv = DummyVecEnv([lambda: wrapper(gym.make("Driftvectors-v0") if limited else Monitor(Drift()))])
        venv.seed(0)
        return venv

    oracle = made(lambda env: TimeFeatureWrapper(env, **arguments))
    model = model_on(oracle)
    agent = PriorAgent(save_in_zoo(tmp_path, model, "Drift-v0", {"env_wrapper": [{TIME_FEATURE: arguments}]}))
    venv = made(plain)
    assert identity_of_vec(venv).max_episode_steps == (TIME_LIMIT if limited else None)
    assert_same_actions_along_episodes(resolved(agent, venv), venv, model, oracle)


def test_the_configuration_says_whether_statistics_are_used(tmp_path):
    oracle = oracle_of("vectors", plain, VecNormalize)
    model = model_on(oracle)
    run = save_in_zoo(tmp_path, model, "Drift-v0", {"normalize": False})  # though its vecnormalize.pkl lies there
    raw = drifts("vectors")
    assert_same_actions_along_episodes(resolved(PriorAgent(run), raw), raw, model, drifts("vectors"))
    (run / "Drift-v0" / "config.yml").unlink()
    raw.seed(0)
    assert_same_actions_along_episodes(resolved(PriorAgent(run), raw), raw, model, oracle)


def test_a_model_that_learns_on_does_not_change_what_its_prior_agent_sees():
    oracle = oracle_of("vectors", plain, VecNormalize)
    agent = resolved(PriorAgent(model_on(oracle)), drifts("vectors"))
    observations = np.random.default_rng(0).normal(5, 3, size=(64, 3))
    before, _ = agent.predict(observations)
    oracle.obs_rms.mean += 5
    oracle.obs_rms.var *= 100
    np.testing.assert_array_equal(agent.predict(observations)[0], before)


class HalfSeen(gym.ObservationWrapper):
    """Hides the last number of an observation."""

    def observation(self, observation):
        return np.append(observation[:-1], 0.0)


def test_wrappers_that_the_learner_lacks_are_named(tmp_path):
    wrappers = ["somebody.wrappers.HalfSeen", {TIME_FEATURE: {}}]
    model = model_on(drifts("vectors", wrapper=lambda env: TimeFeatureWrapper(HalfSeen(env))))
    run = save_in_zoo(tmp_path, model, "Drift-v0", {"env_wrapper": wrappers})
    with pytest.raises(ValueError, match=r"Drift-v0_1 was trained with somebody\.wrappers\.HalfSeen, which this env"):
        resolved(PriorAgent(run), drifts("vectors"))
    with_it = drifts("vectors", wrapper=HalfSeen)
    oracle = drifts("vectors", wrapper=lambda env: TimeFeatureWrapper(HalfSeen(env)))
    assert_same_actions_along_episodes(resolved(PriorAgent(run), with_it), with_it, model, oracle)


@pytest.mark.parametrize("arguments", [{"test_mode": True}, {"max_steps": 5, "test_mode": False}])
def test_a_time_feature_with_other_arguments_is_named(arguments, tmp_path):
    model = model_on(drifts("vectors", wrapper=TimeFeatureWrapper))
    run = save_in_zoo(tmp_path, model, "Drift-v0", {"env_wrapper": {TIME_FEATURE: arguments}})
    with pytest.raises(ValueError, match=r"was trained with sb3_contrib\.common\.wrappers\.TimeFeatureWrapper"):
        resolved(PriorAgent(run), drifts("vectors"))


def test_wrappers_that_belong_to_environments_are_no_obstacle(tmp_path):
    config = {"env_wrapper": ["stable_baselines3.common.atari_wrappers.AtariWrapper"], "frame_stack": 4}
    oracle = oracle_of("images", plain, PIPELINES["stack of images"][2])
    run = save_in_zoo(tmp_path, model_on(oracle), "Drift-v0", config)
    venv = transposed(drifts("images"))
    assert resolved(PriorAgent(run), venv).predict(venv.reset())[0].shape == (1,)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"normalize": True}, r"config\.yml can't be followed: .*normalised, but there is no vecnormalize\.pkl"),
        ({"frame_stack": "4"}, r"frame_stack: '4', which should be a whole number of at least 1"),
        ({"frame_stack": -1}, r"frame_stack: -1, which should be"),
        ({"env_wrapper": [{"one": {}, "other": {}}]}, r"env_wrapper: \{.*, which should be a name or \{name: arg"),
        ({"env_wrapper": [[1]]}, r"env_wrapper: \[1\], which should be a name"),
        ({"env_wrapper": {TIME_FEATURE: {"max_steps": 0}}}, r"max_steps: 0, which should be"),
        ({"frame_stack": 2, "vec_env_wrapper": {FRAME_STACK: {"n_stack": 2}}}, r"trained with .*VecFrameStack, which"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(config, message, tmp_path):
    run = save_in_zoo(tmp_path, model_on(drifts("vectors")), "Drift-v0", config)
    with pytest.raises(ValueError, match=message):
        resolved(PriorAgent(run), drifts("vectors"))


@pytest.mark.parametrize(
    ("pipeline", "live", "message"),
    [
        ("nothing", spaces.Box(-1, 1, (4,)), r"observations Box\(.*\(3,\), float64\), this .* are Box\(.*\(4,\), flo"),
        ("time", spaces.Box(-1, 1, (5,)), r"\(4,\), float64\) \(time feature\), this .* are Box\(.*\(5,\), float32"),
        ("stack", spaces.Box(-1, 1, (6,)), r"\(9,\), float64\) \(3 frames\), this .* are Box\(.*\(6,\), float32"),
        ("statistics, stack", spaces.Box(-1, 1, (4,)), r"\(VecNormalize, 3 frames\), this .*\(4,\), float32"),
        ("nothing", spaces.Discrete(3), r"observations Box\(.*\), this environment's are Discrete\(3\)"),
        ("nothing", DICTIONARY, r"observations Box\(.*\), this environment's are Dict\('goal'"),
        ("statistics of one key", spaces.Dict({"goal": VECTORS}), r"observations Dict\(.*are Dict\('goal'"),
        ("stack of images", IMAGES, r"\(4, 36, 36\), uint8\) \(4 frames\), this .*\(36, 36, 1\), uint8"),
        ("stack of images", spaces.Box(0, 1, (4, 36, 36)), r"uint8\) \(4 frames\), this .*\(4, 36, 36\), float32"),
    ],
)
def test_observations_that_differ_are_refused_showing_both(pipeline, live, message, tmp_path):
    space, wrapper, vec_wrapper, config = PIPELINES[pipeline]
    model = model_on(oracle_of(space, wrapper, vec_wrapper))
    run = save_in_zoo(tmp_path, model, "Drift-v0", config)
    for agent in (PriorAgent(run), PriorAgent(run, trust=True), PriorAgent(model)):
        with pytest.raises(ValueError, match=f"The prior agent .* was trained on .*{message}"):
            agent.resolve(live, spaces.Discrete(5))


def test_statistics_of_other_observations_are_refused(tmp_path):
    run = save_in_zoo(tmp_path, model_on(oracle_of("vectors", plain, VecNormalize)), "Drift-v0", {"normalize": True})
    other = oracle_of("vectors", TimeFeatureWrapper, VecNormalize)
    other.save(str(run / "Drift-v0" / "vecnormalize.pkl"))
    with pytest.raises(
        ValueError, match=r"trained on observations .*\(VecNormalize\), this environment's .*statistics"
    ):
        resolved(PriorAgent(run), drifts("vectors"))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_an_environment_without_an_id_will_do(space, tmp_path):
    venv = transposed(DummyVecEnv([lambda: Drift(space)]))
    model = model_on(venv)
    agent = PriorAgent(save_in_zoo(tmp_path, model, "Drift-v0", {}))
    assert identity_of_vec(venv) == EnvIdentity()
    observations = venv.reset()
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(resolved(agent, venv).predict(observations, deterministic=True)[0], expected)
