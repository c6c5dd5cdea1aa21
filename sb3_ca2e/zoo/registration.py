"""Registers CA2E's algorithms in the RL Zoo, and patches what rl_zoo3 2.9 wrongly assumes until it is fixed there."""

import functools
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ca2e.algorithms.ddpg import CA2EDDPG
from sb3_ca2e.algorithms.dqn import CA2EDQN
from sb3_ca2e.common.installing import needing
from sb3_ca2e.envs.builder_vec_env import BuilderVecEnv
from sb3_ca2e.zoo.hyperparams import FOLDER, parse_value

#: CA2E's algorithms by their names in the zoo.
ALGORITHMS: dict[str, type[CA2EDQN] | type[CA2EDDPG]] = {"ca2e_dqn": CA2EDQN, "ca2e_ddpg": CA2EDDPG}


@functools.cache
def register() -> None:
    """
    Register ``ca2e_dqn`` and ``ca2e_ddpg`` in the RL Zoo of this process: as algorithms and for hyperparameter search,
    with the package's own hyperparameters unless a ``conf_file`` is given.

    The zoo's own algorithms are unchanged. May be called before or after the zoo is imported, and more than once.

    :raises ImportError: if rl_zoo3 is not installed
    """
    with needing("zoo", "The RL Zoo is not installed"):
        from rl_zoo3.exp_manager import ExperimentManager
        from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
        from rl_zoo3.utils import ALGOS

        from sb3_ca2e.zoo.search import CONVERTERS, SAMPLERS
    ALGOS.update(ALGORITHMS)
    HYPERPARAMS_SAMPLER.update(SAMPLERS)
    HYPERPARAMS_CONVERTER.update(CONVERTERS)
    ExperimentManager.__init__ = _with_own_defaults(ExperimentManager.__init__)  # type: ignore[method-assign]
    schedules = _with_the_actors_rate(ExperimentManager._preprocess_schedules)
    ExperimentManager._preprocess_schedules = staticmethod(schedules)  # type: ignore[method-assign]


def _with_own_defaults(init: Callable[..., None]) -> Callable[..., None]:
    """
    Set defaults for which the zoo has no registry: the file of hyperparameters, and environments that actors can copy.

    ``ExperimentManager.default_vec_env_cls`` could set the latter, but it overrides ``--vec-env`` for all algorithms,
    and also for the workers of ``enjoy``.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        own = bound.arguments["algo"] in ALGORITHMS
        if own and not bound.arguments.get("config"):
            bound.arguments["config"] = str(FOLDER / f"{bound.arguments['algo']}.yml")
        init(*bound.args, **bound.kwargs)
        if own and self.vec_env_class is DummyVecEnv:
            self.vec_env_class = BuilderVecEnv

    return initialise


def _with_the_actors_rate(preprocess: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Parse the actor's learning rate: the zoo recognises schedules by the argument's name."""

    @functools.wraps(preprocess)
    def preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        if "actor_learning_rate" in hyperparams:
            hyperparams["actor_learning_rate"] = parse_value(hyperparams["actor_learning_rate"])
        return preprocess(hyperparams)

    return preprocess_schedules


@needing("zoo", "A part of the RL Zoo is not installed")
def patch() -> None:
    """
    Patch the zoo's scripts; call it before they are imported.

    :raises ImportError: if something that they import is missing
    """
    _metadata_of_model_cards()
    _files_missing_on_the_hub()
    _benchmark_outside_of_a_clone()


def _metadata_of_model_cards() -> None:
    """Restore a function that push_to_hub imports: sb3-team-hf-integration 3.2 renamed it and changed its result."""
    upload: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(upload, "generate_metadata"):
        upload.generate_metadata = lambda *about: upload._generate_metadata(*about).to_dict()


def _files_missing_on_the_hub() -> None:
    """Raise the error of requests that load_from_hub expects for a missing file; huggingface_hub raises another one."""
    import huggingface_sb3
    from huggingface_hub.errors import EntryNotFoundError
    from requests.exceptions import HTTPError

    download = huggingface_sb3.load_from_hub

    def load_from_hub(repo_id: str, filename: str) -> str:
        try:
            path: str = download(repo_id, filename)
        except EntryNotFoundError as error:
            raise HTTPError(str(error)) from error
        return path

    if not issubclass(EntryNotFoundError, HTTPError):
        huggingface_sb3.load_from_hub = load_from_hub


def _benchmark_outside_of_a_clone() -> None:
    """Run agents with this package's command: the benchmark calls a script that is only in the zoo's repository."""
    call = subprocess.call

    def call_own(command: Any, *args: Any, **kwargs: Any) -> int:
        if command[:2] == ["python", "enjoy.py"]:
            command = [sys.executable, "-m", "sb3_ca2e.zoo", "enjoy", *command[2:]]
        return call(command, *args, **kwargs)

    subprocess.call = call_own  # type: ignore[assignment]
