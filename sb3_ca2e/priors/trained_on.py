"""
The preprocessing between the environment and an agent's policy when it was trained.

Models saved by earlier versions name this module.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_ca2e.envs.identity import identity_of_vec
from sb3_ca2e.priors.reader.statistics import Moments, NormalizationStatistics
from sb3_ca2e.replay.normalization import observation_statistics

#: SB3-Contrib's time feature wrapper, including its former names in the RL Zoo.
TIME_FEATURE = (
    "sb3_contrib.common.wrappers.TimeFeatureWrapper",
    "sb3_contrib.common.wrappers.time_feature.TimeFeatureWrapper",
    "rl_zoo3.wrappers.TimeFeatureWrapper",
    "utils.wrappers.TimeFeatureWrapper",
)
FRAME_STACK = (
    "stable_baselines3.common.vec_env.VecFrameStack",
    "stable_baselines3.common.vec_env.vec_frame_stack.VecFrameStack",
)
#: Episode length for a time feature if the environment has no limit: the wrapper's default.
DEFAULT_TIME_LIMIT = 1000


@dataclass(frozen=True)
class TrainedOn:
    """
    The preprocessing between the environment and an agent's policy when it was trained.

    :param env_id: id of the environment, if known
    :param statistics: statistics of its ``VecNormalize``, or None
    :param n_stack: number of frames in an observation
    :param of_frames: whether the statistics are those of single frames, which are stacked afterwards, as in the RL Zoo
    :param time_limit: episode length for its ``TimeFeatureWrapper`` if the environment has no limit; None without the
        wrapper
    :param wrappers: names of other wrappers, which the learner's environment must have too
    """

    env_id: str | None = None
    statistics: NormalizationStatistics | None = None
    n_stack: int = 1
    of_frames: bool = True
    time_limit: int | None = None
    wrappers: tuple[str, ...] = ()

    @classmethod
    def from_config(
        cls, config: dict[str, Any], env_id: str | None = None, statistics: NormalizationStatistics | None = None
    ) -> "TrainedOn":
        """
        Interpret the RL Zoo's ``config.yml``.

        :param config: hyperparameters in ``config.yml``
        :param env_id: environment that it was trained on
        :param statistics: statistics in its ``vecnormalize.pkl``, unused if the configuration has no normalisation
        :return: the preprocessing
        :raises ValueError: if the configuration can't be interpreted, or statistics are missing
        """
        if not config.get("normalize"):
            statistics = None
        elif statistics is None:
            raise ValueError("it says that observations are normalised, but there is no vecnormalize.pkl beside it")
        n_stack, time_limit, of_frames, wrappers = config.get("frame_stack") or 1, None, True, []
        for name, arguments in _wrappers_in(config, "env_wrapper") + _wrappers_in(config, "vec_env_wrapper"):
            if name in TIME_FEATURE and arguments.keys() <= {"max_steps"}:
                time_limit = _count(arguments.get("max_steps", DEFAULT_TIME_LIMIT), "max_steps")
            elif name in FRAME_STACK and arguments.keys() == {"n_stack"} and n_stack == 1:
                n_stack, of_frames = arguments["n_stack"], False  # the zoo normalises after these
            else:
                wrappers.append(name)
        return cls(env_id, statistics, _count(n_stack, "frame_stack"), of_frames, time_limit, tuple(wrappers))

    @classmethod
    def of_model(cls, model: BaseAlgorithm) -> "TrainedOn":
        """
        Derive the preprocessing from a model's environment.

        :param model: model with or without an environment
        :return: the preprocessing
        """
        env: Any = model.get_env()
        if env is None:
            return cls()
        identity = identity_of_vec(env)
        statistics, n_stack, of_frames = None, 1, False
        layer: VecEnv = env
        while hasattr(layer, "venv"):
            if isinstance(layer, VecFrameStack):
                n_stack *= layer.stacked_obs.n_stack
            elif isinstance(layer, VecNormalize):
                statistics, of_frames = frozen(layer), n_stack > 1
            layer = layer.venv
        timed = "TimeFeatureWrapper" in identity.wrappers
        time_limit = (identity.max_episode_steps or DEFAULT_TIME_LIMIT) if timed else None
        return cls(identity.env_id, statistics, n_stack, of_frames, time_limit)

    def describe(self) -> list[str]:
        """
        Describe the preprocessing in words.

        :return: its steps
        """
        steps = {
            "zeros for contact forces": self.old_ant,
            "time feature": self.time_limit is not None,
            "VecNormalize": self.statistics is not None,
            f"{self.n_stack} frames": self.n_stack > 1,
        }
        return [step for step, taken in steps.items() if taken]

    @property
    def old_ant(self) -> bool:
        """Whether it was trained with zeros for contact forces."""
        return re.fullmatch(r"Ant-v[0-3]", self.env_id or "") is not None


def frozen(normalize: VecNormalize) -> NormalizationStatistics:
    """
    Copy the current statistics of a ``VecNormalize``.

    :param normalize: wrapper, which may be updated later
    :return: a copy of its statistics
    """
    observations = {
        key: Moments(np.array(rms.mean, dtype=np.float64), np.array(rms.var, dtype=np.float64))
        for key, rms in observation_statistics(normalize).items()
    }
    return NormalizationStatistics(observations, float(normalize.clip_obs), float(normalize.epsilon))


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"it says {name}: {value!r}, which should be a whole number of at least 1")
    return value


def _wrappers_in(config: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """Return names and arguments of wrappers: a name, ``{name: arguments}``, or a list of these."""
    entries = config.get(key) or []
    found = []
    for entry in entries if isinstance(entries, list) else [entries]:
        named = list(entry.items()) if isinstance(entry, dict) else [(entry, {})]
        name, arguments = named[0] if len(named) == 1 else (None, {})
        if not isinstance(name, str) or not isinstance(arguments or {}, dict):
            raise ValueError(f"it says {key}: {entry!r}, which should be a name or {{name: arguments}}")
        found.append((name, dict(arguments or {})))
    return found
