"""A pretrained agent that acts in a prior slot (Algorithm 1.1)."""

import io
import pathlib
import pickle
import warnings
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_ca2e.priors.reader import RECURRENT, saved_attributes
from sb3_ca2e.priors.zoo import AgentFiles, algorithm_class, algorithms_with, find_agent


class PriorAgent:
    """
    A policy trained earlier, whose steps feed the memory until the learner has beaten it.

    :param source: an SB3 or SB3-Contrib model; a path to its zip or to a zoo folder; or ``"zoo:ppo"``, which
        looks for an agent of the run's environment in ``$SB3_CA2E_AGENTS``, ``./rl-trained-agents``, ``./logs`` and
        among those that come with the package (``"zoo:ppo/LunarLander-v2"`` names another environment)
    :param env_id: environment that ``"zoo:"`` looks for; None for the run's own
    :param mean_reward: its average return (raw, whole games), if known; else measured from its first ten episodes
    :param trust: the file may run code: SB3's zips contain pickles. Needed for all but model objects and the
        package's own agents
    """

    def __init__(
        self,
        source: "str | pathlib.Path | BaseAlgorithm",
        *,
        env_id: str | None = None,
        mean_reward: float | None = None,
        trust: bool = False,
    ):
        self.source = source
        self.env_id = env_id
        self.mean_reward = mean_reward
        self.trust = trust
        self.name = f"a {type(source).__name__} object" if isinstance(source, BaseAlgorithm) else str(source)
        self._policy: BasePolicy | None = None
        self._normalize: VecNormalize | None = None
        self._deterministic = True
        if isinstance(source, BaseAlgorithm):
            self._normalize = source.get_vec_normalize_env()
        elif source is not None and not isinstance(source, str | pathlib.Path):
            raise TypeError(
                f"A prior agent can be a model object, a path or 'zoo:<algorithm>', not {source!r} "
                f"({type(source).__name__}); for a bare policy, wrap it in its model."
            )
        if isinstance(source, BaseAlgorithm):
            _refuse_recurrent(self.name, [each.__module__ for each in type(source.policy).__mro__])

    @classmethod
    def of(cls, agent: "str | pathlib.Path | BaseAlgorithm | PriorAgent") -> "PriorAgent":
        """
        :param agent: what a user may put into ``prior_agents``
        :return: it, as a prior agent
        """
        return agent if isinstance(agent, PriorAgent) else cls(agent)

    @property
    def algo(self) -> str:
        """Name of the algorithm that trained it, in lower case."""
        if isinstance(self.source, BaseAlgorithm):
            return type(self.source).__name__.lower()
        return AgentFiles.algorithm_of(self.source)

    def resolve(self, observation_space: spaces.Space, action_space: spaces.Space, env_id: str | None) -> "PriorAgent":
        """
        Load the policy, and check that it fits.

        :param observation_space: the learner's observation space, not normalised
        :param action_space: the environment's action space
        :param env_id: the environment's id, for ``"zoo:"``
        :return: itself, ready to :meth:`predict`
        :raises ValueError: if nothing is found, or the spaces differ
        :raises PermissionError: if the file needs ``trust=True``
        """
        if self._policy is None:
            self._policy = self._load(observation_space, action_space, env_id)
            self._policy.set_training_mode(False)
            self._deterministic = not is_image_space(observation_space)  # as rl_zoo3 plays Atari
        self._check("observations", self._policy.observation_space, observation_space)
        self._check("actions", self._policy.action_space, action_space)
        return self

    def _load(self, observation_space: spaces.Space, action_space: spaces.Space, env_id: str | None) -> BasePolicy:
        if isinstance(self.source, BaseAlgorithm):
            return deepcopy(self.source.policy).to(th.device("cpu"))
        if self.source is None:
            raise ValueError(
                f"{self.name} was given to the model as an object and is not saved with it; "
                "set model.prior_agents to the agents again before learn()."
            )
        files = find_agent(self.source, self.env_id or env_id)
        if not (files.bundled or self.trust):
            raise PermissionError(
                f"{files.model} holds pickles, which can run code when they are loaded. "
                f"If you trust where it comes from, say PriorAgent({str(self.source)!r}, trust=True)."
            )
        placeholders = {"learning_rate": 0.0, "lr_schedule": _zero, "clip_range": _zero, "exploration_schedule": _zero}
        custom_objects: dict[str, Any] = {**placeholders, "delta_std_schedule": _zero, "buffer_size": 1}
        live = {"observation_space": observation_space, "action_space": action_space}
        saved = saved_attributes(files.model)
        policy_module = saved["policy_class"]["__module__"]
        _refuse_recurrent(str(files.model), [policy_module])
        _refuse_misnamed(files, policy_module)
        custom_objects |= {name: live[name] for name in _spaces_of_old_gym(saved)}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "You are probably loading a DQN model saved with SB3 < 2.4.0")
                model = algorithm_class(files.algorithm).load(files.model, device="cpu", custom_objects=custom_objects)
        except (RuntimeError, AttributeError) as error:  # weights of another shape, networks for other actions
            raise ValueError(
                f"{files.model} does not fit this environment's spaces {observation_space} and {action_space}: {error}"
            ) from error
        if files.normalization is not None:
            self._normalize = load_vec_normalize(files.normalization)
        if self.mean_reward is None:
            self.mean_reward = files.recorded_reward
        return model.policy

    def _check(self, what: str, own: spaces.Space, live: spaces.Space) -> None:
        same_kind = type(own) is type(live) and own.shape == live.shape
        if not same_kind or (isinstance(own, spaces.Discrete) and own.n != getattr(live, "n", None)):
            raise ValueError(
                f"The prior agent {self.name} was trained on {what} {own}, this environment's are {live}. "
                "Give an agent of an environment with these spaces, or wrap the environment so that they agree."
            )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool | None = None,
    ) -> tuple[np.ndarray, Any]:
        """
        Act as SB3's ``predict`` does.

        :param observation: ``(batch, *shape)`` raw observations of the learner's environment
        :param state: state of a recurrent policy
        :param episode_start: ``(batch,)`` whether an episode begins
        :param deterministic: None for what the RL Zoo plays: deterministic, except from images
        :return: ``(batch, ...)`` environment actions, and the new state
        """
        assert self._policy is not None, "resolve() the agent first"
        if self._normalize is not None:
            observation = self._normalize.normalize_obs(observation)
        chosen = self._deterministic if deterministic is None else deterministic
        return self._policy.predict(observation, state, episode_start, deterministic=chosen)

    def evaluate(self, env: gym.Env | VecEnv, n_episodes: int = 10) -> tuple[float, float]:
        """
        Measure its average return.

        :param env: the learner's environment, not normalised
        :param n_episodes: episodes to play
        :return: mean and standard deviation of the returns
        """
        live = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
        spec = env.spec if isinstance(env, gym.Env) else None
        self.resolve(live.observation_space, live.action_space, spec.id if spec else None)
        player: Any = _Stochastic(self)
        returns, _ = evaluate_policy(player, live, n_episodes, return_episode_rewards=True, warn=False)
        return float(np.mean(returns)), float(np.std(returns))

    def __getstate__(self) -> dict[str, Any]:
        """Saved as a reference: a model object's weights are not the learner's to keep."""
        kept = {**self.__dict__, "_policy": None, "_normalize": None}
        return {**kept, "source": None} if isinstance(self.source, BaseAlgorithm) else kept

    def for_actor(self) -> "PriorAgent":
        """
        :return: a copy that carries its policy when pickled, for an actor process
        """
        return _ActorPrior(self)

    def __repr__(self) -> str:
        return f"PriorAgent({self.name!r}, mean_reward={self.mean_reward})"


class _ActorPrior(PriorAgent):
    """A resolved prior agent on its way to an actor."""

    def __init__(self, agent: PriorAgent):
        self.__dict__.update(agent.__dict__, source=None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__


class _Stochastic:
    """Lets the agent decide on determinism, where ``evaluate_policy`` would."""

    def __init__(self, agent: PriorAgent):
        self.agent = agent

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        return self.agent.predict(observation, state, episode_start)


def _zero(_: float) -> float:
    return 0.0


def _refuse_recurrent(name: str, modules: list[str]) -> None:
    """A prior's transitions are learned from one by one: what it remembered when it acted is not in them."""
    if any(module.startswith(RECURRENT) for module in modules):
        raise ValueError(
            f"{name} has a recurrent policy, which can't be a prior agent. Give an agent without memory, e.g. of PPO "
            "or DQN, where needed trained on stacked frames."
        )


def _refuse_misnamed(files: AgentFiles, policy_module: str) -> None:
    """The algorithm is told by the path alone; a file in a wrong folder would fail far from its cause."""
    algorithms = algorithms_with(policy_module)
    if algorithms and files.algorithm not in algorithms:
        raise ValueError(
            f"{files.model} is named as an agent of {files.algorithm}, but its policy is one of "
            f"{' or '.join(algorithms)} ({policy_module}). Name one of its folders, or the file, after the algorithm "
            "that trained it."
        )


def _spaces_of_old_gym(saved: dict[str, Any]) -> list[str]:
    """Names of the spaces in a model's zip that were pickled before gymnasium, which can't be read any more."""
    names = ("observation_space", "action_space")
    return [name for name in names if not saved[name][":type:"].startswith("<class 'gymnasium.")]


class _GymUnpickler(pickle.Unpickler):
    """Reads pickles of the time when gymnasium was called gym."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "gym" or module.startswith("gym."):
            module = "gymnasium" + module[len("gym") :]
        return super().find_class(module, name)


def load_vec_normalize(path: pathlib.Path) -> VecNormalize:
    """
    Load saved normalisation statistics, also those written with the old ``gym``.

    :param path: the ``vecnormalize.pkl``; it is trusted
    :return: the statistics, frozen
    """
    normalize: VecNormalize = _GymUnpickler(io.BytesIO(path.read_bytes())).load()
    normalize.training = False
    # SB3 pickles only what has been given an environment: it drops these without asking whether they are there.
    normalize.class_attributes, normalize.returns = {}, np.zeros(0)
    return normalize
