"""Starts the actors of a model."""

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.heartbeat import Supervision
from sb3_ca2e.actors.spec import WorkerSpec, for_actors
from sb3_ca2e.algorithms.construction import Construction
from sb3_ca2e.common.cpus import cpu_count
from sb3_ca2e.envs.model_env import nan_checks
from sb3_ca2e.envs.recipe import EnvRecipe
from sb3_ca2e.learner.collector import Collector
from sb3_ca2e.learner.statistics import Statistics
from sb3_ca2e.priors.loaded import LoadedPrior
from sb3_ca2e.priors.retirement import Retirement
from sb3_ca2e.transport.in_process import SyncActors
from sb3_ca2e.transport.pool import ActorPool
from sb3_ca2e.transport.shared_memory.inference_server import InferenceServer, pays
from sb3_ca2e.transport.shared_memory.pool import AsyncActors

#: Share of a slot's steps in a run that it explores before it measures the learner, at the latest.
GREEDY_SHARE = 0.05


def build_collector(
    model: Construction,
    recipe: EnvRecipe,
    priors: Sequence[LoadedPrior | None],
    prior_of: dict[int, int],
    retirement: Retirement,
    n_learns: int,
    asked: Sequence[dict[str, Any]],
) -> Callable[[], Collector]:
    """
    Prepare the actors of a model.

    :param model: the learner; its arguments say how many actors there are and what they do
    :param recipe: how to build its environments
    :param priors: the prior agent of each slot, None in a nature slot
    :param prior_of: index of each prior slot's agent, retired ones included
    :param retirement: decides when prior agents retire
    :param n_learns: number of earlier calls of ``learn``
    :param asked: arguments of the first ``reset`` of each slot
    :return: function that starts the actors; signals must be deferred while it runs
    """
    statistics = None
    if recipe.normalization is not None:
        normalize = model.get_vec_normalize_env()
        assert normalize is not None
        statistics = Statistics(normalize, recipe.normalization, recipe.columns)
    explorations = model.explorations()
    for exploration in explorations:
        exploration.reset()  # as SB3 does with its action noise
    specs = _specs(model, recipe, priors, explorations, statistics, n_learns, asked)
    parameters, on_device = FlatParameters(model.published_modules()), None
    if _infers_on_device(model, specs):
        on_device = InferenceServer(specs, parameters, model.device)
        specs = on_device.specs

    def start() -> Collector:
        assert model.env is not None
        sync = model.execution == "sync"
        pool: ActorPool = SyncActors(specs[0]) if sync else AsyncActors(specs, model.rate_limit, on_device)
        return Collector(
            pool,
            model.replay_buffer,
            model.env.num_envs,
            explorations,
            retirement,
            prior_of,
            parameters,
            statistics,
            on_device,
            nan_checks(model.env) if model.env is not None else [],
        )

    return start


def _specs(
    model: Construction,
    recipe: EnvRecipe,
    priors: Sequence[LoadedPrior | None],
    explorations: list[Exploration],
    statistics: Statistics | None,
    n_learns: int,
    asked: Sequence[dict[str, Any]],
) -> list[WorkerSpec]:
    """Return what each process runs."""
    n_processes = min(model.n_processes or cpu_count(), model.n_slots) if model.execution == "async" else 1
    modules = {name: for_actors(module) for name, module in model.published_modules().items()}
    seed = model.seed if model.seed is not None else secrets.randbits(31)
    # Of long games, a run would hold too few without exploration; a resumed run goes on as before.
    of_run = model._learns_until / model.n_slots
    greedy_after = math.ceil(GREEDY_SHARE * of_run) if any(prior is not None for prior in priors) else None
    specs = []
    for process in range(n_processes):
        slots = list(range(process, model.n_slots, n_processes))  # deals the prior slots out evenly
        specs.append(
            WorkerSpec(
                process=process,
                slots=slots,
                n_slots=model.n_slots,
                seed=seed,
                recipe=recipe,
                core=type(model),
                modules=modules,
                explorations=[explorations[slot] for slot in slots],
                priors=[priors[slot] for slot in slots],
                n_steps=model.replay_buffer.n_steps,
                gamma=model.gamma_in_use,
                block_size=model.local_buffer_size,
                update_interval=model.actor_update_interval,
                greedy_after=greedy_after,
                warmup=model.learning_starts,
                begun=model.num_timesteps,
                n_learns=n_learns,
                info_keys=model.info_keys,
                statistics=statistics.publish() if statistics is not None else np.zeros(0, dtype=np.float32),
                supervision=Supervision(model.actor_restarts, model.actor_timeout),
                asked=[asked[slot] for slot in slots],
            )
        )
    return specs


def _infers_on_device(model: Construction, specs: list[WorkerSpec]) -> bool:
    """Decide where networks run: with one process, a second one would gain nothing."""
    if model.execution == "sync" or model.inference == "actor":
        return False
    return model.inference == "device" or pays(specs, model.device)
