"""The mixin that turns an off-policy algorithm of SB3 into a CA2E learner (Algorithm 3 of the paper)."""

import contextlib
import itertools
import time
import warnings
from typing import TYPE_CHECKING, Any, Self

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn, TrainFreq
from stable_baselines3.common.vec_env import VecEnv

from sb3_ca2e.algorithms.checks import as_list, check_learn, check_masks
from sb3_ca2e.algorithms.construction import Construction
from sb3_ca2e.algorithms.overrides import refuse_overrides
from sb3_ca2e.envs.calls import overheard
from sb3_ca2e.envs.model_env import asked_of_first_reset, first_resets, not_reset, release
from sb3_ca2e.envs.recipe import recipe_from
from sb3_ca2e.learner.graphed_updates import launches
from sb3_ca2e.learner.interrupts import DeferredSignals, Interrupts
from sb3_ca2e.learner.update import Learner, tiny_numbers_are_zero
from sb3_ca2e.priors.agent import PriorAgent, PriorSource
from sb3_ca2e.priors.loaded import LoadedPrior
from sb3_ca2e.transport.shared_memory.parking import discard_parked, discarded_on_error

if TYPE_CHECKING:
    from sb3_ca2e.algorithms.changes import Changes
    from sb3_ca2e.learner.callback_steps import Tick

#: Least number of remaining updates for which ``compile="auto"`` compiles.
WORTH_COMPILING = 20_000


class CA2EMixin(Construction):
    """
    Asynchronous actors, prioritized multi-step memory and prior agents for an off-policy algorithm of SB3.

    SB3's own ``learn`` drives it: ``collect_rollouts`` takes transitions from the actors instead of stepping the
    environment, and ``train`` adds importance weights and new priorities. An algorithm implements the six
    :class:`~sb3_ca2e.algorithms.hooks.Hooks`.

    :param env: an id, an environment, a function that makes one, or a ``VecEnv``
    :param train_freq: steps of each environment between updates, or ``(steps, "step")``; not in episodes
    :param replay_buffer_class: a subclass of :class:`~sb3_ca2e.PrioritizedReplayBuffer`; None for that itself
    :param replay_buffer_kwargs: further arguments of the replay buffer, such as ``alpha`` and ``beta``
    :param n_steps: steps of a multi-step return
    """

    #: follows what callbacks change; None outside ``learn``
    _changes: "Changes | None" = None

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Train as SB3 does; see :meth:`stable_baselines3.common.off_policy_algorithm.OffPolicyAlgorithm.learn`.

        Actor processes start here and have ended when this returns, raises or is interrupted; the process from which
        they are forked may wait a minute for another call. In the main thread, SIGINT and SIGTERM stop training
        between two transitions; SIGTERM then ends the process, unless you handle it yourself.

        :param total_timesteps: number of transitions of all slots together
        :param callback: called once for every ``n_envs`` transitions
        :param log_interval: number of episodes between two logs
        :param tb_log_name: name of the run for TensorBoard; None for the algorithm's name
        :param reset_num_timesteps: whether to count from zero and start a new curve
        :param progress_bar: whether to show a progress bar
        :return: the model
        :raises TypeError: if ``total_timesteps`` is not a number, or ``callback`` not a callback
        :raises ValueError: if ``log_interval`` is not a number of episodes
        :raises RuntimeError: if a callback calls it
        :raises ActorError: if an actor fails too often; the model can still be used and saved
        :raises KeyboardInterrupt: if it is interrupted; the model can still be used and saved
        """
        total_timesteps = check_learn(total_timesteps, callback, log_interval)
        if self._collector is not None:
            raise RuntimeError("learn() is running: a callback can't call it again.")
        self.check_changes()
        refuse_overrides(self)
        as_list("prior_agents", self.prior_agents, "agents, one a slot", PriorSource)  # the user may have set them
        tb_log_name = tb_log_name or type(self).__name__
        with discarded_on_error(), Interrupts() as self._interrupts:
            try:
                try:
                    super().learn(
                        total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
                    )
                    self._do_what_is_due()
                    if self.verbose >= 1 and self._collector is not None:
                        print(self._collector.advice())
                    self._stop_actors(keep_server=True)
                    return self
                finally:
                    self._stop_actors()
            finally:  # a signal handler of the user's may have raised just before
                self._stop_actors()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self.replay_buffer.optimize_memory_usage = self.optimize_memory_usage  # with which SB3 writes into `dones`
        noise, self.action_noise = self.action_noise, None  # SB3 would vectorize it, but each slot has a copy
        normalize = self._vec_normalize_env
        training = normalize is not None and normalize.training
        assert self.env is not None
        asked = asked_of_first_reset(self.env, self.n_slots)
        try:
            if normalize is not None:
                normalize.training = False  # SB3 resets the user's environment, but stores nothing of it
            with not_reset(self.env) if self._steps_own(self.env) else contextlib.nullcontext():
                set_up = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        finally:
            self.action_noise = noise
            if normalize is not None:
                normalize.training = training
        self._learns_until, self._n_updates_at_start = set_up[0], self._n_updates
        self._begin_resumed(reset_num_timesteps)
        self._start_actors(asked)
        return set_up

    def _start_actors(self, asked: list[dict[str, Any]]) -> None:
        assert self.env is not None
        if self.execution == "async":
            # Before functions are pickled, whose classes may know of the environments that exist.
            release(self.env)
        own = self._steps_own(self.env)
        begun = first_resets(self.env, asked) if own else ()
        recipe = recipe_from(self.env, own=own, here=self.execution == "sync", begun=begun)
        self.replay_buffer.check_layout(recipe.stored_columns, recipe.normalizes_frames)
        check_masks(type(self), recipe.action_masks)
        if recipe.action_masks.source is not None and self.verbose >= 1 and self._n_learns == 0:
            print(f"Forbidden actions are left out, according to {recipe.action_masks}")
        retirement = self._retirement()
        self.retirement_state = retirement.state
        going_on = self._slots_going_on()
        prior_of = self._prior_slots()
        priors: list[LoadedPrior | None] = [None] * self.n_slots
        for slot, index in prior_of.items():
            if not retirement.retired(index) or (going_on is not None and going_on.priors[slot]):
                agent = PriorAgent.of(self.prior_agents[index])
                agent.resolve(self.observation_space, self.action_space, recipe.identity)
                if agent.revision is not None:
                    self.prior_agents[index] = agent  # it holds the commit and the hash, also in the saved model
                retirement.set_baseline(index, agent.mean_reward)
                priors[slot] = agent.for_actor()
        self.policy.set_training_mode(False)
        # Half of the package: programs that only load a model and predict need not import it.
        from sb3_ca2e.algorithms.changes import Changes
        from sb3_ca2e.algorithms.start import build_collector

        start = build_collector(self, recipe, priors, prior_of, retirement, self._n_learns, asked)
        self._n_learns += going_on is None
        with DeferredSignals():
            self._collector = start()
            if not recipe.own or going_on is not None:  # else their slots step the environments that are called
                self._collector.meanwhile.enter_context(overheard(self.env, self._collector.pool.prepare))
            self._changes = Changes(self, self._collector, recipe)
        self.replay_buffer.import_kernels()  # while actors start

    def _stop_actors(self, keep_server: bool = False) -> None:
        if self._collector is not None:
            with DeferredSignals() as undisturbed:
                collector, self._collector, self._changes = self._collector, None, None
                self._last_actor_stats = collector.actor_stats(1.0 - self._current_progress_remaining)
                collector.stop(keep_server)
                if undisturbed.came:
                    discard_parked()

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """
        Take transitions from the actors, as many as SB3 would collect between two updates.

        Without a rate limit, take all that are ready and do not wait.

        :param env: unused, as are ``replay_buffer``, ``action_noise`` and ``learning_starts``
        :param callback: called once for every ``n_envs`` transitions
        :param train_freq: how often ``n_envs`` transitions are taken
        :param replay_buffer: unused
        :param action_noise: unused
        :param learning_starts: unused
        :param log_interval: number of episodes between two logs
        :return: numbers of transitions and episodes
        """
        assert self._collector is not None
        assert self._changes is not None
        callback.on_rollout_start()
        self._put_back()
        self._do_what_is_due()
        num_collected_steps = num_collected_episodes = 0
        frequency, n_envs = train_freq.frequency, env.num_envs
        to_come = -(-(self._learns_until - self.num_timesteps) // (frequency * n_envs)) * frequency  # as SB3's loop
        if not self.rate_limit:
            frequency = max(frequency, self.n_slots * self.local_buffer_size // n_envs)
        while num_collected_steps < frequency:
            tick = self._collector.tick() or self._collect_tick((to_come - num_collected_steps) * n_envs)
            if tick is None:
                break
            rewards, dones, infos, actor_ids, actor_kinds, n_episodes = tick
            num_collected_steps += 1
            self.num_timesteps += n_envs
            callback.update_locals(locals())
            with self._interrupts.immediate():
                proceed = callback.on_step()
            if not proceed:
                return RolloutReturn(num_collected_steps * n_envs, num_collected_episodes, continue_training=False)
            if any(infos):
                nature = [i for i, kind in enumerate(actor_kinds) if kind == "nature"]
                self._update_info_buffer([infos[i] for i in nature], dones[nature])
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            for _ in range(n_episodes):
                num_collected_episodes += 1
                self._episode_num += 1
                if log_interval is not None and self._episode_num % log_interval == 0:
                    self.dump_logs()
        callback.on_rollout_end()
        self._changes.check()
        return RolloutReturn(num_collected_steps * n_envs or 1, num_collected_episodes, continue_training=True)

    def _collect_tick(self, to_come: int) -> "Tick | None":
        """Collect ``n_envs`` of the transitions to come; None if there are none and the rate is not limited."""
        assert self._collector is not None
        assert self._changes is not None
        collector = self._collector
        learning = self.num_timesteps > self.learning_starts and self.gradient_steps != 0
        while (ready := collector.n_ready) < collector.n_envs:
            at_most = to_come - ready
            if at_most <= 0:
                return None
            progress = self.num_timesteps / self._total_timesteps
            wait = self.rate_limit or not learning
            self._changes.follow()
            collector.collect(at_most, self.num_timesteps, progress, wait, self._interrupts.immediate)
            if collector.just_retired:
                collector.just_retired.clear()
                self._nature_slots_changed()
            if collector.n_ready == ready and not wait:  # otherwise all steps of the blocks were refused
                return None
        return collector.tick()

    @tiny_numbers_are_zero()
    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Update the networks from the memory.

        :param gradient_steps: number of updates
        :param batch_size: number of transitions in each batch
        """
        started = time.perf_counter()
        if not self.policy.training:  # setting it visits every layer, which may take as long as an update
            self.policy.set_training_mode(True)
        names, _ = self._get_torch_save_params()
        self._update_learning_rate([recursive_getattr(self, name) for name in names if name.endswith("optimizer")])
        memory = self.replay_buffer
        memory.gamma = self.gamma_in_use
        beta = self.replay_buffer_kwargs.get("beta", 0.4)
        memory.beta = beta + (1.0 - beta) * (1.0 - max(self._current_progress_remaining, 0.0))
        learner = self._current_learner()
        fused = learner.fused(memory, batch_size) if self._vec_normalize_env is None else None
        for n_updates in itertools.repeat(1, gradient_steps) if fused is None else launches(gradient_steps):
            self._interrupts.check()
            if fused is not None:  # the same in one launch on the device
                batch, td_errors = fused(n_updates)
                self._n_updates += n_updates
                continue
            batch = memory.sample(batch_size, env=self._vec_normalize_env)
            self._n_updates += 1
            td_errors, priorities = learner.update(batch)
            memory.update_priorities(batch.indices, batch.generations, priorities)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if gradient_steps > 0:
            if self.device.type == "cpu":  # reading them would wait for another device
                self._record_updates()
            self._last_batch = batch, td_errors
            if self.compilable and self._compile_now(gradient_steps):
                learner.compile(batch, wait=self.execution == "sync", tell=self._tell_eager)
        if self._collector is not None:
            self._collector.learner_updates += time.perf_counter() - started

    def _current_learner(self) -> Learner:
        """Return the learner of the current networks and optimizers, which a user may have replaced or changed."""
        modules, optimizers = self.trained_networks()
        before = self._learner
        if before is not None and before.learns(modules, optimizers):
            return before
        self._record_updates()
        self._learner = Learner(self.update, modules, optimizers, self._values_of_update_settings)
        self._learner.n_skipped = before.n_skipped if before is not None else 0
        return self._learner

    def _values_of_update_settings(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.update_settings)

    def _tell_eager(self, obstacle: str) -> None:
        """Tell why updates that should be compiled stay eager."""
        if self.compile is True:
            warnings.warn(f"compile=True, but updates stay eager: {obstacle}.", stacklevel=2)
        elif self.verbose >= 1:
            print(f"Updates stay eager: {obstacle}.")

    def _compile_now(self, gradient_steps: int) -> bool:
        """Decide whether to compile, which takes about ten seconds that a short run does not repay."""
        if self.compile != "auto":
            return bool(self.compile)
        assert isinstance(self.train_freq, TrainFreq)
        to_come = self._total_timesteps - self.num_timesteps
        updates = to_come * gradient_steps / (self.train_freq.frequency * self.n_envs)
        # In one process, results would depend on when the compiler finishes.
        return updates >= WORTH_COMPILING and self.execution == "async"

    # Logs.

    @property
    def actor_stats(self) -> list[dict[str, Any]]:
        """What each slot does now or, outside ``learn``, did last: one plain dictionary per slot."""
        if self._collector is None:
            return self._last_actor_stats
        return self._collector.actor_stats(1.0 - self._current_progress_remaining)

    def _record_updates(self) -> None:
        """Record the metrics of the updates since the last call."""
        if self._learner is not None:
            for name, mean in self._learner.take_metrics().items():
                self.logger.record(f"train/{name}", mean)
            if self._learner.n_skipped:
                self.logger.record("train/skipped_updates", self._learner.n_skipped)

    def _record_batch(self) -> None:
        """Record statistics of the last batch: its sources, ages and TD errors."""
        batch, td_errors = self._last_batch or (None, None)
        if batch is None or td_errors is None:
            return
        self.logger.record("replay/sampled_prior_fraction", batch.prior.float().mean().item())
        self.logger.record("replay/sample_age", batch.ages.float().mean().item())
        self.logger.record("replay/samples_per_insert", self._n_updates * len(td_errors) / max(self.num_timesteps, 1))
        for name, which in (("prior", batch.prior), ("nature", ~batch.prior)):
            if which.any():
                self.logger.record(f"replay/td_error_{name}", td_errors.abs()[which].mean().item())

    def dump_logs(self) -> None:
        """Write the logs: SB3's, and those of actors, prior agents and memory."""
        self._record_updates()
        # With short episodes, this is called every few transitions, often without any output format.
        if self._collector is not None and self.logger.output_formats:
            self._collector.log(self.logger, 1.0 - self._current_progress_remaining)
            self._record_batch()
            elapsed = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
            self.logger.record("time/updates_per_second", (self._n_updates - self._n_updates_at_start) / elapsed)
        super().dump_logs()
