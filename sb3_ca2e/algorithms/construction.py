"""Construction of a CA2E learner: its arguments, its environment and its memory."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ca2e.algorithms.arguments import PARAMETERS, CA2EArguments, describe_constructor, names_taken
from sb3_ca2e.algorithms.checks import (
    as_list,
    check,
    check_env_type,
    check_kind,
    check_masks,
    check_memory,
    check_observations,
    check_space,
    check_train_freq,
)
from sb3_ca2e.algorithms.hooks import Hooks
from sb3_ca2e.algorithms.overrides import refuse_overrides
from sb3_ca2e.checkpoints.saving import Saving
from sb3_ca2e.common.misspelt import refuse_misspelt
from sb3_ca2e.envs.copies.modules import modules_of, refuse_lost_modules
from sb3_ca2e.envs.model_env import as_env, forget_asked, made
from sb3_ca2e.envs.recipe import identity_from, recipe_from, unwrapped
from sb3_ca2e.learner.interrupts import Interrupts
from sb3_ca2e.learner.update import Learner
from sb3_ca2e.priors.agent import PriorAgent, PriorSource
from sb3_ca2e.priors.retirement import Retirement
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer, PrioritizedReplaySamples

if TYPE_CHECKING:
    from sb3_ca2e.checkpoints.resumption import Resumption
    from sb3_ca2e.learner.collector import Collector

#: Number of slots if neither the user nor the environment sets one; the paper's.
DEFAULT_ACTORS = 8


class Construction(Hooks, Saving):
    """The part of :class:`~sb3_ca2e.algorithms.base.CA2EMixin` that comes before ``learn``."""

    #: names of the attributes that :meth:`check_changes` reads
    checked: ClassVar[tuple[str, ...]] = ("train_freq", "replay_buffer", "use_sde")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            parameters = inspect.signature(cls.__init__).parameters.values()
            own = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
            cls.own_arguments |= own - PARAMETERS.keys()
            describe_constructor(cls)

    def __init__(self, policy: Any, env: Any, *, _init_setup_model: bool = True, **given: Any):
        """
        Construct the model.

        :param policy: a policy, as SB3 takes it
        :param env: an id, an environment, a function that makes one, or a ``VecEnv``
        :param _init_setup_model: build the networks and the memory
        :param given: arguments of SB3's algorithm, and :class:`~sb3_ca2e.algorithms.arguments.CA2EArguments`
        :raises TypeError: if an argument is none of these
        """
        refuse_misspelt(type(self).__name__, given, names_taken(type(self), Construction))
        added: CA2EArguments = {name: given.pop(name, each.default) for name, each in PARAMETERS.items()}  # type: ignore[assignment]
        env = as_env(made(env, given.get("verbose", 0)))
        check_kind(env, type(self))
        given["policy_kwargs"] = _copied(given.get("policy_kwargs"))  # SB3's algorithms and policies write into it
        super().__init__(policy, env, **given, _init_setup_model=False)  # type: ignore[call-arg]
        self._keep(added)
        if _init_setup_model:
            self._setup_model()

    def _keep(self, added: CA2EArguments) -> None:
        """Set the arguments as attributes, unchanged: ``load`` sets them by name."""
        agents = as_list("prior_agents", added["prior_agents"], "agents, one a slot", PriorSource)
        self._check_prior_agents([PriorAgent.of(agent) for agent in agents])
        self.prior_agents = [PriorAgent.of(each) if isinstance(each, BaseAlgorithm) else each for each in agents]
        self.n_actors = added["n_actors"]
        self.n_processes = added["n_processes"]
        self.execution = added["execution"]
        self.prior_alpha = added["prior_alpha"]
        self.prior_confidence, self.prior_patience = added["prior_confidence"], added["prior_patience"]
        self.local_buffer_size = added["local_buffer_size"]
        self.actor_update_interval = added["actor_update_interval"]
        self.rate_limit = added["rate_limit"]
        self.info_keys = tuple(as_list("info_keys", added["info_keys"], "names", str))
        self.inference = added["inference"]
        self.compile = added["compile"]
        self.actor_restarts = added["actor_restarts"]
        self.actor_timeout = added["actor_timeout"]
        self.retirement_state: dict[str, Any] | None = None
        self._last_actor_stats: list[dict[str, Any]] = []
        self._learns_until = self._n_updates_at_start = 0
        self._n_learns = 0  # saved, so that each learn() has new episodes with the same seed
        self._collector: Collector | None = None
        self._due: list[Callable[[], None]] = []
        self._resumption: Resumption | None = None
        self._interrupts = Interrupts()
        self._last_batch: tuple[PrioritizedReplaySamples, th.Tensor] | None = None
        self._learner: Learner | None = None

    def _check_prior_agents(self, agents: list[PriorAgent]) -> None:
        """Refuse prior agents that ``learn`` could not load, as far as this is known without a network connection."""
        if agents and self.env is not None:
            identity = identity_from(self.env)
            for agent in agents:
                agent.check(self.observation_space, self.action_space, identity)

    def _setup_model(self) -> None:
        self._convert_train_freq()
        check(self)
        self._set_up_exploration()
        if self.env is not None:
            self._check_env(self.env)
        if self.replay_buffer is None:
            self.replay_buffer = self._make_memory()
        # SB3 warns of n_steps > 1 with a custom buffer class, but ours supports it.
        n_steps, self.n_steps = self.n_steps, 1
        n_learns = self._n_learns
        self.policy_kwargs = _copied(self.policy_kwargs)  # load() may have set it
        try:
            super()._setup_model()
        finally:
            self.n_steps = n_steps
        refuse_overrides(self)
        self._n_learns = n_learns  # SB3 sets the seed again, but a loaded model continues
        if self.execution == "async":
            parts = [self, self.action_noise, self.action_space, *self.policy.modules()]
            refuse_lost_modules(modules_of(map(type, parts)), "the model")
        if self.env is not None and n_learns > 0:
            forget_asked(self.env)

    def check_changes(self) -> None:
        """
        Check attributes that may have been changed since construction, before and while the model learns.

        :raises TypeError: if an attribute has the wrong type
        :raises ValueError: if the model can't learn with it
        """
        check_train_freq(self.train_freq)
        check_memory(self.replay_buffer)
        if self.use_sde:
            raise ValueError(f"use_sde was set, but {type(self).__name__} has no state-dependent exploration.")

    def actor_settings(self) -> dict[str, Any]:
        """
        Return what actors are told again if it changes.

        :return: arguments of :class:`~sb3_ca2e.actors.orders.Settings`, and in place of the explorations what they
            depend on
        """
        return {
            "explorations": self._exploration_settings(),
            "gamma": self.gamma_in_use,
            "n_steps": self.replay_buffer.n_steps,
            "warmup": self.learning_starts,
        }

    @property
    def gamma_in_use(self) -> float:
        """Discount factor of one step. As in SB3, that of the memory if returns have several steps."""
        return self.gamma if self.replay_buffer.n_steps == 1 else self.replay_buffer.gamma

    # Slots.

    @property
    def n_slots(self) -> int:
        """Number of slots, priors included."""
        if self.n_actors is not None:
            return self.n_actors
        return self.n_envs if self.n_envs > 1 else DEFAULT_ACTORS

    def _prior_slots(self) -> dict[int, int]:
        """Map slots to prior agents, which take the last ones: those explore least once they become nature slots."""
        first = self.n_slots - len(self.prior_agents)
        return {first + index: index for index in range(len(self.prior_agents))}

    def _nature_slots(self) -> list[int]:
        """Return the slots without a prior agent, or with a retired one."""
        retirement = self._retirement()
        with_prior = {slot for slot, index in self._prior_slots().items() if not retirement.retired(index)}
        return [slot for slot in range(self.n_slots) if slot not in with_prior]

    def _set_up_exploration(self) -> None:
        """Refuse arguments of the exploration that do not fit."""
        self.explorations()

    def _exploration_settings(self) -> Any:
        """Return what :meth:`explorations` depends on and a callback may change: actors get others if it differs."""
        return cloudpickle.dumps(self.action_noise) if self.action_noise is not None else None

    def _nature_slots_changed(self) -> None:
        """React to a prior slot that has become a nature slot."""

    def _retirement(self) -> Retirement:
        retirement = Retirement(self.prior_alpha, self.prior_patience, self.prior_confidence, self.retirement_state)
        for index in range(len(self.prior_agents)):
            retirement.add_prior(index)
        return retirement

    # The environment.

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        wrapped = OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        check_space(wrapped.action_space)
        check_observations(wrapped.observation_space)
        return wrapped

    def _check_env(self, env: VecEnv) -> None:
        """Refuse environments that actors can't rebuild or step."""
        recipe = recipe_from(env, own=self._steps_own(env), here=self.execution == "sync")
        check_masks(type(self), recipe.action_masks)
        if env.render_mode == "human" and self.n_slots > 1:
            raise ValueError(
                f"render_mode='human' would open a window for each of the {self.n_slots} slots. Give n_actors=1, or "
                "make the environment without it and watch the model in another one."
            )

    def _steps_own(self, env: VecEnv) -> bool:
        """Tell whether slots step the user's own environments: in one process, with one slot for each."""
        here = self.execution == "sync" and self.n_slots == env.num_envs
        return here and isinstance(unwrapped(env)[0], DummyVecEnv)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """
        Replace the environment; see :meth:`stable_baselines3.common.base_class.BaseAlgorithm.set_env`.

        :param env: anything the constructor takes, with the same spaces and number of environments
        :param force_reset: whether to reset it before learning
        :raises ValueError: if actors can't step it, or its spaces differ; the model keeps the present one
        """
        check_env_type(env := as_env(made(env, self.verbose)))
        env = self._wrap_env(env, self.verbose)
        if env.num_envs == self.n_envs:  # else SB3 refuses it
            check_for_correct_spaces(env, self.observation_space, self.action_space)
            self._check_env(env)
        super().set_env(env, force_reset)

    # The memory, and what is random.

    def _make_memory(self) -> PrioritizedReplayBuffer:
        """Create the memory, which allocates nothing before the first transitions."""
        memory_class = self.replay_buffer_class or PrioritizedReplayBuffer
        assert issubclass(memory_class, PrioritizedReplayBuffer)
        self.replay_buffer_class = memory_class
        recipe = recipe_from(self.env, copies=False) if self.env is not None else None
        return memory_class(
            self.buffer_size,
            self.observation_space,
            self.action_space,
            device=self.device,
            n_envs=self.n_envs,
            optimize_memory_usage=self.optimize_memory_usage,
            n_steps=self.n_steps,
            gamma=self.gamma,
            columns=recipe.stored_columns if recipe is not None else None,
            normalize_frames=recipe is not None and recipe.normalizes_frames,
            seed=self.seed,
            **{"n_slots": self.n_slots, **self.replay_buffer_kwargs},
        )

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed all random generators, including those of the actors and the memory.

        :param seed: the seed; None changes nothing
        """
        super().set_random_seed(seed)
        if seed is not None:
            self.seed = seed  # each actor derives its own from it
            self._n_learns = 0
            self.replay_buffer.set_random_seed(seed)


def _copied(value: Any) -> Any:
    """Copy a dictionary and those in it; everything else is kept."""
    return {key: _copied(each) for key, each in value.items()} if isinstance(value, dict) else value
