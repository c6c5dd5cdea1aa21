"""Finds the files of a pretrained agent in the RL Zoo's folder layout, or on the Hugging Face hub."""

import contextlib
import difflib
import importlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from sb3_ca2e.common.installing import needing

#: Algorithms whose agents can be priors, and the packages of their classes.
ALGORITHMS = {
    **dict.fromkeys(("a2c", "ddpg", "dqn", "ppo", "sac", "td3"), "stable_baselines3"),
    **dict.fromkeys(("ars", "qrdqn", "tqc", "trpo"), "sb3_contrib"),
    "ca2e_dqn": "sb3_ca2e",
    "ca2e_ddpg": "sb3_ca2e",
}

#: Folder of the bundled agents.
BUNDLED = pathlib.Path(__file__).parent / "agents"

#: File names of VecNormalize statistics, in the zoo's folders and on the Hugging Face hub.
STATISTICS = ("vecnormalize.pkl", "vec_normalize.pkl")

#: File that `sb3-ca2e convert` wrote, a command of earlier versions.
CONVERTED = "agent.safetensors"

#: Names of the files beside a model that are used.
SETTINGS = ("config.yml", "results.json", *STATISTICS)
#: Prefix of sources on the Hugging Face hub.
HUB = "hub:"
#: Learning curves that the RL Zoo uploads there beside a model.
CURVES = "train_eval_metrics.zip"


@dataclass(frozen=True)
class AgentFiles:
    """
    The files of one agent.

    :param algorithm: name of the algorithm, as in the zoo's folders
    :param model: the zip
    :param settings: folder of its ``config.yml``, ``vecnormalize.pkl`` and ``results.json``, or None
    :param env_id: environment that it was trained on according to its names, or None
    """

    algorithm: str
    model: pathlib.Path
    settings: pathlib.Path | None = None
    env_id: str | None = None

    @property
    def bundled(self) -> bool:
        """Whether it is bundled with the package."""
        return self.model.resolve().is_relative_to(BUNDLED.resolve())

    @property
    def config(self) -> pathlib.Path | None:
        """File of the hyperparameters that it was trained with, including wrappers and frame stack."""
        return self._setting("config.yml")

    @property
    def normalization(self) -> pathlib.Path | None:
        """File of the statistics of its ``VecNormalize``."""
        return next((path for name in STATISTICS if (path := self._setting(name)) is not None), None)

    @property
    def recorded_reward(self) -> float | None:
        """Mean reward recorded beside it."""
        results = self._setting("results.json")
        if results is None:
            return None
        try:
            return float(json.loads(results.read_text(encoding="utf-8"))["mean_reward"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{results} has no mean reward ({error!r}); expected JSON like {{"mean_reward": 200.0}}. Correct it, '
                "or delete it: the reward is measured then."
            ) from error

    def _setting(self, name: str) -> pathlib.Path | None:
        path = self.settings / name if self.settings is not None else None
        return path if path is not None and path.is_file() else None

    @staticmethod
    def algorithm_of(source: str | pathlib.Path) -> str:
        """
        Derive the algorithm from a name.

        :param source: a path, ``"zoo:<algorithm>"`` or ``"hub:<owner>/<name>"``
        :return: name of the algorithm
        :raises ValueError: if the name contains no algorithm
        """
        kind, _, rest = str(source).partition(":")
        if kind == "zoo":
            names = [rest.split("/")[0]]
        elif kind == "hub":
            names = [rest.partition("@")[0].lower()]
        else:
            names = [part.lower() for part in reversed(pathlib.Path(source).absolute().parts)]
        for name in names:
            if found := re.search(rf"(?<![a-z0-9])({'|'.join(ALGORITHMS)})(?![a-z0-9])", name):
                return found[1]
        named = {"zoo": "write 'zoo:ppo'", "hub": "download it, and name its folder after it"}
        way_out = named.get(kind, "name one of its folders after it, as the RL Zoo does, or pass the loaded model")
        raise ValueError(
            f"Can't tell from {str(source)!r} which algorithm the agent was trained with; {way_out}. "
            f"Algorithms: {', '.join(sorted(ALGORITHMS))}."
        )


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """
    Import the class of an algorithm.

    :param name: name of the algorithm in the zoo
    :return: its class
    :raises ImportError: if SB3-Contrib is needed and missing
    """
    with needing("zoo", f"A {name} agent needs sb3-contrib"):
        module = importlib.import_module(ALGORITHMS[name])
    found: type[BaseAlgorithm] = getattr(module, name.replace("_", "").upper())
    return found


def algorithms_with(policy_module: str) -> list[str]:
    """
    Find the algorithms that use the policies of a module.

    :param policy_module: module of a policy class
    :return: names of the algorithms; none for a user-defined policy
    """
    found = []
    for name in ALGORITHMS:
        with contextlib.suppress(ImportError):
            policies = algorithm_class(name).policy_aliases.values()
            own = {policy.__module__ for policy in policies}
            inherited = {base.__module__ for policy in policies for base in policy.__mro__} - {BasePolicy.__module__}
            if policy_module in own | inherited:
                found.append(name)
    return found


def search_path() -> list[pathlib.Path]:
    """
    Return the folders that ``"zoo:"`` searches.

    :return: folders in their order
    """
    own = os.environ.get("SB3_CA2E_AGENTS")
    folders = [pathlib.Path(own)] if own else []
    return [*folders, pathlib.Path("rl-trained-agents"), pathlib.Path("logs"), BUNDLED]


def candidates(env_id: str) -> list[AgentFiles]:
    """
    Find all agents on the search path whose names match an environment.

    :param env_id: id of the environment
    :return: agents of the environment and of its other ids, the one that ``"zoo:<algorithm>"`` takes first: by folder,
        then by id, newest run first
    """
    return list(_agents_of(known_names(env_id)))


def find_agent(source: str | pathlib.Path, env_id: str | None) -> AgentFiles:
    """
    Find an agent's files.

    :param source: a path to a zip or to a zoo folder, or ``"zoo:<algorithm>[/<environment>]"``
    :param env_id: environment of the run
    :return: the files
    :raises ValueError: if there is none; the message names the folders searched
    """
    if not str(source).startswith("zoo:"):
        return _at(pathlib.Path(source).expanduser())
    algorithm, _, named = str(source)[len("zoo:") :].partition("/")
    if algorithm not in ALGORITHMS:
        nearest = difflib.get_close_matches(algorithm, ALGORITHMS, n=1)
        hint = f" Did you mean 'zoo:{nearest[0]}'?" if nearest else ""
        all_names = ", ".join(sorted(ALGORITHMS))
        raise ValueError(f"{source!r} names no algorithm whose agents can be priors; use one of: {all_names}.{hint}")
    wanted = named or env_id
    if wanted is None:
        raise ValueError(f"The environment has no id to look for; say which: 'zoo:{algorithm}/<environment id>'.")
    names = [named] if named else known_names(wanted)
    found = next(_agents_of(names, [algorithm]), None)
    if found is not None:
        return found
    looked = ", ".join(str(folder / algorithm) for folder in search_path())
    others = ", ".join(dict.fromkeys(f"'zoo:{each.algorithm}'" for each in _agents_of(names)))
    raise ValueError(
        f"No {algorithm} agent for {' or '.join(names)} in {looked}. "
        + (f"There are agents of this environment: {others}. " if others else "")
        + "Set SB3_CA2E_AGENTS to a clone of rl-trained-agents, or give the path of a zip."
    )


def known_names(env_id: str) -> list[str]:
    """
    List the ids under which agents for an environment may be stored: agents keep the id that they were trained on.

    :param env_id: environment id, e.g. ``LunarLander-v3``, ``Hopper-v5`` or ``ALE/Pong-v5``
    :return: the id and its earlier versions, newest first; for an Atari game also the id of the other kind, as only the
        place of the frame skip differs
    """
    if match := re.fullmatch(r"ALE/(\w+)-v5", env_id):
        return [env_id, *_versions(f"{match[1]}NoFrameskip", 4)]
    if match := re.fullmatch(r"(\w+NoFrameskip)-v(\d+)", env_id):
        return [*_versions(match[1], int(match[2])), f"ALE/{match[1].removesuffix('NoFrameskip')}-v5"]
    if match := re.fullmatch(r"(.+)-v(\d+)", env_id):
        return _versions(match[1], int(match[2]))
    return [env_id]


def _versions(name: str, newest: int) -> list[str]:
    return [f"{name}-v{version}" for version in range(newest, -1, -1)]


def _agents_of(names: list[str], algorithms: list[str] | None = None) -> Iterator[AgentFiles]:
    """Iterate over agents on the search path; runs without a model yet are skipped."""
    for folder in search_path():
        for name in names:
            for algorithm in algorithms or ALGORITHMS:
                for run in _runs(folder / algorithm, name.replace("/", "-")):
                    model = _model_in(run)
                    if model is not None:
                        yield _files(algorithm, model)


def _runs(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """List the folders ``<name>_<run>``, newest first."""
    runs = (run for run in folder.glob("*") if run.is_dir() and _env_of(run) == name)
    return sorted(runs, key=_run_number, reverse=True)


def _env_of(run: pathlib.Path) -> str:
    return run.name.rpartition("_")[0]


def _run_number(run: pathlib.Path) -> int:
    number = run.name.rpartition("_")[2]
    return int(number) if number.isdigit() else -1


def _model_in(folder: pathlib.Path) -> pathlib.Path | None:
    """Find the zip in a run's folder, or in a clone from the Hugging Face hub."""
    names = (f"{_env_of(folder)}.zip", "best_model.zip", f"{folder.name}.zip")
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None and (folder / CONVERTED).is_file():
        raise ValueError(
            f"{folder} holds an agent in the format of 'sb3-ca2e convert', which is no longer supported: give the zip "
            "that it was converted from, which is read without executing anything in it."
        )
    return found


def _at(path: pathlib.Path) -> AgentFiles:
    """Find the files of a zip or of a folder."""
    if path.is_dir() or path.name == CONVERTED:
        model = _model_in(path if path.is_dir() else path.parent)
    else:  # with or without suffix, as in SB3
        model = next((each for each in (path, path.with_name(f"{path.name}.zip")) if each.is_file()), None)
    if model is None:
        expected = f"{path}/<environment>.zip" if path.is_dir() else "a file"
        hint = f" Did you mean 'zoo:{path}'?" if str(path) in ALGORITHMS else ""
        raise ValueError(
            f"There is no agent at {path}: expected {expected}. Give the path of a zip written by model.save(), or "
            f"of a folder of the RL Zoo.{hint}"
        )
    return _files(AgentFiles.algorithm_of(model), model)


def _files(algorithm: str, model: pathlib.Path) -> AgentFiles:
    """
    Collect the files that belong to a zip: those in ``<ENV>/`` beside ``<ENV>.zip`` or, in a run's folder
    ``<ENV>_<run>``, beside any zip; otherwise those that the Hugging Face hub stores beside it.
    """
    env_id = _env_of(model.parent)
    for settings in (model.with_suffix(""), *([model.parent / env_id] if env_id else [])):
        if any((settings / name).is_file() for name in SETTINGS):
            return AgentFiles(algorithm, model, settings, settings.name)
    return beside(algorithm, model)


def beside(algorithm: str, model: pathlib.Path) -> AgentFiles:
    """
    Collect a zip and the settings beside it.

    :param algorithm: name of the algorithm
    :param model: zip as stored on the Hugging Face hub, ``<algorithm>-<environment>.zip``
    :return: the files
    """
    name = model.stem.removeprefix(f"{algorithm}-")
    settings = model.parent if (model.parent / "config.yml").is_file() else None
    return AgentFiles(algorithm, model, settings, name if name != model.stem else None)


def download(source: str, commit: str | None = None) -> tuple[AgentFiles, str]:
    """
    Download an agent's files from the Hugging Face hub, or take them from the local cache.

    Only the model and its settings are downloaded. A branch or a tag stands for its newest commit; in offline mode
    (``HF_HUB_OFFLINE=1``), or if the hub can't be reached, for the newest one in the cache.

    :param source: ``"hub:<owner>/<name>[@<branch, tag or commit>]"``
    :param commit: commit used before, which overrides the source's revision
    :return: the files and their commit
    :raises ImportError: if huggingface_hub is missing
    :raises ValueError: if the repository or revision does not exist, or has no model
    :raises ConnectionError: if the hub can't be reached or fails, and the agent is not in the cache
    """
    repository, revision = repository_and_revision(source)
    algorithm = AgentFiles.algorithm_of(source)
    snapshot = _snapshot(repository, commit or revision)
    return beside(algorithm, _model_of(snapshot, repository)), snapshot.name


def repository_and_revision(source: str) -> tuple[str, str]:
    """
    Parse a source on the hub.

    :param source: ``"hub:<owner>/<name>[@<branch, tag or commit>]"``
    :return: the repository, and the branch, tag or commit
    :raises ValueError: if the source does not have this form
    """
    match = re.fullmatch(rf"{HUB}([\w.-]+/[\w.-]+)(?:@(\S+))?", source)
    if match is None:
        raise ValueError(f"{source!r} names no agent of the hub; write 'hub:<owner>/<name>' or '...@<revision>'.")
    return match[1], match[2] or "main"


def _snapshot(repository: str, revision: str) -> pathlib.Path:
    """Return the folder in the hub's cache that holds a commit's files, named after the commit."""
    with needing("hub", f"{HUB}{repository} needs huggingface_hub"):
        from huggingface_hub import errors, snapshot_download
    wanted = f"revision {revision!r} of {repository}"
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=["*.zip", *SETTINGS], ignore_patterns=[CURVES, "*/*"]
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ValueError(
            f"There is no {wanted} on the hub, or it is private ({_first_line(error)}). Correct the name, or log in "
            "with `hf auth login`."
        ) from error
    except Exception as error:  # the library may raise many kinds of network errors
        raise ConnectionError(
            f"{wanted} can't be downloaded and is not in the hub's cache ({type(error).__name__}: "
            f"{_first_line(error)}). Load it once while the hub can be reached (see HF_HUB_OFFLINE, HF_ENDPOINT and "
            "HF_HOME), or give the path of a zip."
        ) from error
    return pathlib.Path(folder)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _model_of(snapshot: pathlib.Path, repository: str) -> pathlib.Path:
    """Find the zip named after the repository, as the RL Zoo names it, or the only zip."""
    zips = sorted(path for path in snapshot.glob("*.zip") if path.name != CURVES)
    named = [path for path in zips if path.stem == repository.partition("/")[2]]
    found = named or zips
    if len(found) != 1:
        listed = ", ".join(path.name for path in zips) or "no zip"
        raise ValueError(
            f"{repository} has {listed} at its top, where {repository.partition('/')[2]}.zip or one model's zip is "
            "expected. Download the right file, and give its path."
        )
    return found[0]
