"""The wrappers of gymnasium and SB3, each with its arguments and two environments that it fits."""

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

VECTORS = ("CartPole-v1", "Pendulum-v1")
BOUNDED = ("MountainCar-v0", "Pendulum-v1")
CONTINUOUS = ("MountainCarContinuous-v0", "Pendulum-v1")
IMAGES = ("ALE/Pong-v5", "CarRacing-v3")
GAMES = ("ALE/Pong-v5", "ALE/Breakout-v5")
RENDERED = ("CartPole-v1 rendered", "Pendulum-v1 rendered")
TIMED = ("CartPole-v1 timed", "Pendulum-v1 timed")

#: Number of seeded pairs.
PAIRS = 60

#: What ``gymnasium.wrappers`` exports and no program of one environment uses.
NO_WRAPPERS = {"vector": "a module of wrappers of gymnasium's vector environments, which SB3 does not take"}

#: What ``stable_baselines3.common.vec_env`` exports and wraps nothing.
NO_VEC_WRAPPERS = {
    **dict.fromkeys(("VecEnv", "VecEnvWrapper"), "abstract"),
    **dict.fromkeys(("DummyVecEnv", "CloudpickleWrapper", "StackedObservations"), "a part of every program"),
    **dict.fromkeys(
        ("is_vecenv_wrapped", "sync_envs_normalization", "unwrap_vec_normalize", "unwrap_vec_wrapper"), "a function"
    ),
}


@dataclass(frozen=True)
class Wrapped:
    """
    A wrapper with its arguments.

    :param make: wraps an environment, or a vectorized environment
    :param on: names of the two environments that it fits
    :param vec: whether it wraps a vectorized environment
    """

    make: Callable[[Any], Any]
    on: tuple[str, str] = VECTORS
    vec: bool = False


def doubled(value: Any) -> Any:
    """
    Double a value, in its dtype.

    :param value: an observation, an action or a reward
    :return: twice the value
    """
    return value * 2


def _gymnasium(name: str, *args: Any, **kwargs: Any) -> Callable[[gym.Env], gym.Env]:
    # Found when called: some need packages that are not installed.
    return lambda env: getattr(gym.wrappers, name)(env, *args, **kwargs)


def _transform_observation(env: gym.Env) -> gym.Env:
    return gym.wrappers.TransformObservation(env, doubled, spaces.Box(-np.inf, np.inf, env.observation_space.shape))


def _transform_action(env: gym.Env) -> gym.Env:
    return gym.wrappers.TransformAction(env, doubled, spaces.Box(-0.5, 0.5, env.action_space.shape))


def _reshape(env: gym.Env) -> gym.Env:
    return gym.wrappers.ReshapeObservation(env, (2, 2) if env.observation_space.shape == (4,) else (3, 1))


def _array_conversion(env: gym.Env) -> gym.Env:
    return gym.wrappers.ArrayConversion(env, env_xp=np, target_xp=np)


def _record_video(env: gym.Env) -> gym.Env:
    return gym.wrappers.RecordVideo(env, tempfile.mkdtemp(), episode_trigger=_first)


def _first(episode: int) -> bool:
    return episode == 0


GYMNASIUM = {
    "AtariPreprocessing": Wrapped(_gymnasium("AtariPreprocessing"), GAMES),
    "DelayObservation": Wrapped(_gymnasium("DelayObservation", delay=2)),
    "DtypeObservation": Wrapped(_gymnasium("DtypeObservation", np.float64)),
    "DiscretizeObservation": Wrapped(_gymnasium("DiscretizeObservation", bins=5), BOUNDED),
    "FilterObservation": Wrapped(_gymnasium("FilterObservation", ["obs"]), TIMED),
    "FlattenObservation": Wrapped(_gymnasium("FlattenObservation"), TIMED),
    "FrameStackObservation": Wrapped(_gymnasium("FrameStackObservation", 3)),
    "GrayscaleObservation": Wrapped(_gymnasium("GrayscaleObservation", keep_dim=True), IMAGES),
    "TransformObservation": Wrapped(_transform_observation),
    "MaxAndSkipObservation": Wrapped(_gymnasium("MaxAndSkipObservation"), IMAGES),
    "NormalizeObservation": Wrapped(_gymnasium("NormalizeObservation")),
    "AddRenderObservation": Wrapped(_gymnasium("AddRenderObservation"), RENDERED),
    "ResizeObservation": Wrapped(_gymnasium("ResizeObservation", (48, 48)), IMAGES),
    "ReshapeObservation": Wrapped(_reshape),
    "RescaleObservation": Wrapped(_gymnasium("RescaleObservation", -1, 1), BOUNDED),
    "TimeAwareObservation": Wrapped(_gymnasium("TimeAwareObservation")),
    "ClipAction": Wrapped(_gymnasium("ClipAction"), CONTINUOUS),
    "DiscretizeAction": Wrapped(_gymnasium("DiscretizeAction", bins=5), CONTINUOUS),
    "TransformAction": Wrapped(_transform_action, CONTINUOUS),
    "RescaleAction": Wrapped(_gymnasium("RescaleAction", -0.5, 0.5), CONTINUOUS),
    "StickyAction": Wrapped(_gymnasium("StickyAction", 0.25)),
    "RepeatAction": Wrapped(_gymnasium("RepeatAction", 2)),
    "ClipReward": Wrapped(_gymnasium("ClipReward", -0.5, 0.5)),
    "TransformReward": Wrapped(_gymnasium("TransformReward", doubled)),
    "NormalizeReward": Wrapped(_gymnasium("NormalizeReward")),
    "TimeLimit": Wrapped(_gymnasium("TimeLimit", 13)),
    "Autoreset": Wrapped(_gymnasium("Autoreset")),
    "PassiveEnvChecker": Wrapped(_gymnasium("PassiveEnvChecker")),
    "OrderEnforcing": Wrapped(_gymnasium("OrderEnforcing")),
    "RecordEpisodeStatistics": Wrapped(_gymnasium("RecordEpisodeStatistics")),
    "AddWhiteNoise": Wrapped(_gymnasium("AddWhiteNoise", 0.3), RENDERED),
    "ObstructView": Wrapped(_gymnasium("ObstructView", 0.3, 8), RENDERED),
    "RenderCollection": Wrapped(_gymnasium("RenderCollection"), RENDERED),
    "RecordVideo": Wrapped(_record_video, RENDERED),
    "HumanRendering": Wrapped(_gymnasium("HumanRendering"), RENDERED),
    "ArrayConversion": Wrapped(_array_conversion),
    "JaxToNumpy": Wrapped(_gymnasium("JaxToNumpy")),
    "JaxToTorch": Wrapped(_gymnasium("JaxToTorch")),
    "NumpyToTorch": Wrapped(_gymnasium("NumpyToTorch")),
}


def _atari(name: str, **kwargs: Any) -> Callable[[gym.Env], gym.Env]:
    def make(env: gym.Env) -> gym.Env:
        from stable_baselines3.common import atari_wrappers

        wrapped: gym.Env = getattr(atari_wrappers, name)(env, **kwargs)
        return wrapped

    return make


def _monitor(env: gym.Env) -> gym.Env:
    from stable_baselines3.common.monitor import Monitor

    return Monitor(env)


def _time_feature(env: gym.Env) -> gym.Env:
    from sb3_contrib.common.wrappers import TimeFeatureWrapper

    wrapped: gym.Env = TimeFeatureWrapper(env)
    return wrapped


def _vec(name: str, **kwargs: Any) -> Callable[[Any], Any]:
    def make(venv: Any) -> Any:
        from stable_baselines3.common import vec_env

        return getattr(vec_env, name)(venv, **kwargs)

    return make


def _never(step: int) -> bool:
    return False


SB3 = {
    "AtariWrapper": Wrapped(_atari("AtariWrapper"), GAMES),
    "ClipRewardEnv": Wrapped(_atari("ClipRewardEnv")),
    "EpisodicLifeEnv": Wrapped(_atari("EpisodicLifeEnv"), GAMES),
    "FireResetEnv": Wrapped(_atari("FireResetEnv"), GAMES),
    "MaxAndSkipEnv": Wrapped(_atari("MaxAndSkipEnv"), GAMES),
    "NoopResetEnv": Wrapped(_atari("NoopResetEnv"), GAMES),
    "StickyActionEnv": Wrapped(_atari("StickyActionEnv", action_repeat_probability=0.25), GAMES),
    "WarpFrame": Wrapped(_atari("WarpFrame"), IMAGES),
    "Monitor": Wrapped(_monitor),
    "TimeFeatureWrapper": Wrapped(_time_feature),
    "VecCheckNan": Wrapped(_vec("VecCheckNan", raise_exception=True), vec=True),
    "VecExtractDictObs": Wrapped(_vec("VecExtractDictObs", key="obs"), TIMED, vec=True),
    "VecFrameStack": Wrapped(_vec("VecFrameStack", n_stack=4), vec=True),
    "VecMonitor": Wrapped(_vec("VecMonitor"), vec=True),
    "VecNormalize": Wrapped(_vec("VecNormalize"), vec=True),
    "VecTransposeImage": Wrapped(_vec("VecTransposeImage"), IMAGES, vec=True),
    "VecVideoRecorder": Wrapped(
        _vec("VecVideoRecorder", video_folder=tempfile.gettempdir(), record_video_trigger=_never), RENDERED, vec=True
    ),
    # Takes the place of DummyVecEnv
    "SubprocVecEnv": Wrapped(lambda venv: venv, vec=True),
}

ALL = GYMNASIUM | SB3


def pairs() -> list[tuple[str, str, str]]:
    """
    Draw pairs of wrappers that fit the same environment.

    :return: names of the outer wrapper, the inner wrapper and the environment, the same at each call
    """
    rng, drawn = random.Random(0), dict[tuple[str, str, str], None]()
    absent = {"JaxToNumpy", "JaxToTorch", "HumanRendering"}
    names = [name for name in ALL if name not in absent]
    while len(drawn) < PAIRS:
        outer, inner = rng.sample(names, 2)
        both = [each for each in ALL[outer].on if each in ALL[inner].on]
        if both and (ALL[outer].vec or not ALL[inner].vec):
            drawn[outer, inner, rng.choice(both)] = None
    return list(drawn)
