"""A reference to a pretrained agent that acts in a prior slot (Algorithm 1.1)."""

import pathlib
import re
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.spaces import Space
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, is_vecenv_wrapped

from sb3_ca2e.common import copying, sums
from sb3_ca2e.envs.identity import EnvIdentity, identity_of_vec
from sb3_ca2e.priors.loaded import LoadedPrior, refuse_recurrent
from sb3_ca2e.priors.preprocessing import Preprocessing, alike
from sb3_ca2e.priors.trained_on import TrainedOn

# The modules that find and read files, a third of the package, are imported only when needed.
if TYPE_CHECKING:
    from sb3_ca2e.priors.find import AgentFiles


class PriorAgent:
    """
    A pretrained policy whose steps feed the memory until the learner has beaten it.

    It acts on raw observations of the learner's environment. What it was trained with (normalisation, stacked frames, a
    time feature) is read from its files or from its model's environment, and applied before its policy.

    :param source: an SB3 or SB3-Contrib model; a path to its zip or to a zoo folder; ``"zoo:ppo"``, which searches for
        an agent of the run's environment in ``$SB3_CA2E_AGENTS``, ``./rl-trained-agents``, ``./logs`` and the agents
        bundled with the package (``"zoo:ppo/LunarLander-v2"`` names another environment); or
        ``"hub:sb3/ppo-CartPole-v1"``, which is downloaded from the Hugging Face hub (``"...@<revision>"`` selects a
        branch, a tag or a commit)
    :param env_id: environment that ``"zoo:"`` searches for; None for that of the run
    :param mean_reward: its average return (raw, whole games); None to measure it in its first ten episodes
    :param trust: whether to use Stable-Baselines3's own loader, which may run code in its files; otherwise they are
        read without executing anything
    :param sha256: SHA-256 of its zip in hexadecimal digits; any other file is refused. None accepts any file
    """

    # Defaults of the class, because neither is saved.
    _read: tuple[BasePolicy, TrainedOn] | None = None
    _loaded: LoadedPrior | None = None

    def __init__(
        self,
        source: "str | pathlib.Path | BaseAlgorithm",
        *,
        env_id: str | None = None,
        mean_reward: float | None = None,
        trust: bool = False,
        sha256: str | None = None,
    ):
        self.source = source
        self.env_id = env_id
        self.mean_reward = mean_reward
        self.trust = trust
        #: SHA-256 of the zip, recorded at the first load of an agent from the hub
        self.sha256 = sha256
        #: commit on the hub, recorded at the first load
        self.revision: str | None = None
        self.name = f"a {type(source).__name__} object" if isinstance(source, BaseAlgorithm) else str(source)
        if sha256 is not None and re.fullmatch("[0-9a-fA-F]{64}", sha256) is None:
            raise ValueError(f"sha256 takes 64 hexadecimal digits, not {sha256!r}.")
        if mean_reward is not None and not isinstance(mean_reward, int | float | np.number):
            raise TypeError(f"mean_reward takes a number, or None to measure it, not {mean_reward!r}.")
        if mean_reward is not None and not np.isfinite(mean_reward):
            raise ValueError(f"mean_reward must be finite, not {mean_reward!r}; leave it out to have it measured.")
        if isinstance(source, BaseAlgorithm):
            refuse_recurrent(self.name, [each.__module__ for each in type(source.policy).__mro__])
        elif source is not None and not isinstance(source, str | pathlib.Path):
            raise TypeError(
                f"A prior agent can be a model object, a path, 'zoo:<algorithm>' or 'hub:<owner>/<name>', not "
                f"{source!r} ({type(source).__name__}); for a bare policy or a class, give its trained model."
            )

    @classmethod
    def of(cls, agent: "str | pathlib.Path | BaseAlgorithm | PriorAgent") -> "PriorAgent":
        """
        Convert an entry of ``prior_agents``.

        :param agent: entry of ``prior_agents``
        :return: the prior agent
        """
        return agent if isinstance(agent, PriorAgent) else cls(agent)

    @property
    def algo(self) -> str:
        """Lower-case name of the algorithm that trained it."""
        if isinstance(self.source, BaseAlgorithm):
            return type(self.source).__name__.lower()
        from sb3_ca2e.priors.find import AgentFiles

        return AgentFiles.algorithm_of(self.source)

    def resolve(
        self, observation_space: Space, action_space: Space, identity: EnvIdentity | None = None
    ) -> "PriorAgent":
        """
        Load the policy and check that it fits the environment.

        :param observation_space: the learner's observation space without normalisation
        :param action_space: the environment's action space
        :param identity: identity of the environment: its id (for ``"zoo:"``), time limit and wrappers; None if unknown
        :return: this agent, ready to :meth:`predict`
        :raises ValueError: if nothing is found, or the agent was trained on something else than this environment
        :raises UntrustedAgentError: if its files can't be read without executing code
        """
        identity = identity or EnvIdentity()
        if self._read is None:
            self._read = self._load(observation_space, action_space, identity.env_id)
            self._read[0].set_training_mode(False)
        policy, trained_on = self._read
        try:
            preprocessing = Preprocessing(trained_on, policy.observation_space, observation_space, identity)
        except ValueError as error:
            raise ValueError(f"The prior agent {self.name} {error}") from error
        if not alike(policy.action_space, action_space):
            raise ValueError(
                f"The prior agent {self.name} was trained on actions {policy.action_space}, this environment's are "
                f"{action_space}. Give an agent of an environment with these actions, or wrap this one to have its own."
            )
        deterministic = not is_image_space(observation_space)  # as the RL Zoo plays Atari
        self._loaded = LoadedPrior(self.name, policy, preprocessing, action_space, deterministic)
        return self

    def check(self, observation_space: Space, action_space: Space, identity: EnvIdentity | None = None) -> None:
        """
        Raise the errors of :meth:`resolve` that can be found without network access; this agent does not change.

        :param observation_space: the learner's observation space without normalisation
        :param action_space: the environment's action space
        :param identity: identity of the environment
        """
        from sb3_ca2e.priors.find import HUB, repository_and_revision

        if str(self.source).startswith(HUB):
            repository_and_revision(str(self.source))
            return
        tried = object.__new__(PriorAgent)
        tried.__dict__.update(self.__dict__)
        tried.resolve(observation_space, action_space, identity)

    def _load(self, observation_space: Space, action_space: Space, env_id: str | None) -> tuple[BasePolicy, TrainedOn]:
        if isinstance(self.source, BaseAlgorithm):
            # Copy by pickling: a policy just trained holds results of its last pass, which deepcopy() refuses.
            policy: BasePolicy = copying.copy(self.source.policy)
            return policy.to(th.device("cpu")), TrainedOn.of_model(self.source)
        if self.source is None:
            raise ValueError(
                f"{self.name} was given to the model as an object and is not saved with it; "
                "set model.prior_agents to the agents again before learn()."
            )
        from sb3_ca2e.priors.loading import load_policy, load_trained_on

        files = self._files(str(self.source), env_id)
        trained_on = load_trained_on(files, self.trust)
        policy = load_policy(files, self.trust, observation_space, action_space)
        if self.mean_reward is None:
            self.mean_reward = files.recorded_reward
        return policy, trained_on

    def _files(self, source: str, env_id: str | None) -> "AgentFiles":
        """Find the agent's files; for an agent of the hub, those of the commit loaded first."""
        from sb3_ca2e.priors.find import HUB, download, find_agent

        if not source.startswith(HUB):
            files = find_agent(source, self.env_id or env_id)
            if self.sha256 is not None:
                self._check_hash(files.model)
            return files
        files, revision = download(source, self.revision)
        self.sha256 = self._check_hash(files.model)
        self.revision = revision
        return files

    def _check_hash(self, model: pathlib.Path) -> str:
        """Refuse a file with another hash than the given or recorded one, before reading its content."""
        found = sums.sha256(model)
        if self.sha256 is not None and found != self.sha256.lower():
            raise ValueError(
                f"{model} has the SHA-256 {found}, but {self.name} requires {self.sha256}, which was given or used "
                "before. Find out why it changed; if the file is right, pass a new PriorAgent with its SHA-256 or none."
            )
        return found

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool | None = None,
    ) -> tuple[np.ndarray, Any]:
        """
        Choose actions as SB3's ``predict`` does.

        :param observation: ``(batch, *shape)`` raw observations of the learner's environment
        :param state: state returned by the step before; None at the first
        :param episode_start: ``(batch,)`` whether an episode begins
        :param deterministic: None for the RL Zoo's choice: deterministic unless observations are images
        :return: ``(batch, ...)`` environment actions and the new state
        """
        return self.for_actor().predict(observation, state, episode_start, deterministic)

    def evaluate(self, env: gym.Env | VecEnv, n_episodes: int = 10) -> tuple[float, float]:
        """
        Measure its average return.

        :param env: the learner's environment without normalisation
        :param n_episodes: number of episodes to play
        :return: mean and standard deviation of the returns
        :raises ValueError: if the environment is normalised
        """
        live = BaseAlgorithm._wrap_env(env, verbose=0)
        if is_vecenv_wrapped(live, VecNormalize):
            raise ValueError(
                "A prior agent plays on raw observations and does its own normalisation; evaluate it on the "
                "environment inside VecNormalize."
            )
        self.resolve(live.observation_space, live.action_space, identity_of_vec(live))
        player: Any = self.for_actor()
        undecided: Any = None  # the agent decides whether it acts deterministically
        returns, _ = evaluate_policy(player, live, n_episodes, undecided, return_episode_rewards=True, warn=False)
        return float(np.mean(returns)), float(np.std(returns))

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the policy: it is loaded again from the source. The weights of a model object are not saved."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_read", "_loaded")}
        return {**kept, "source": None} if isinstance(self.source, BaseAlgorithm) else kept

    def for_actor(self) -> LoadedPrior:
        """
        Return what acts in a slot.

        :return: the loaded agent, which is pickled with its policy
        :raises RuntimeError: if :meth:`resolve` has not loaded it
        """
        if self._loaded is None:
            raise RuntimeError(f"The prior agent {self.name} is not loaded; resolve() it first.")
        return self._loaded

    def __repr__(self) -> str:
        return f"PriorAgent({self.name!r}, mean_reward={self.mean_reward})"


#: Types of entries of ``prior_agents``.
PriorSource = str | pathlib.Path | BaseAlgorithm | PriorAgent
