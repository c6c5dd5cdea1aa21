"""Find the files of a pretrained agent in the RL Zoo's folder layout."""

import contextlib
import importlib
import json
import os
import pathlib
import re
from dataclasses import dataclass

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

#: Algorithms whose agents can be priors, and where their classes are.
ALGORITHMS = {
    **dict.fromkeys(("a2c", "ddpg", "dqn", "ppo", "sac", "td3"), "stable_baselines3"),
    **dict.fromkeys(("ars", "qrdqn", "tqc", "trpo"), "sb3_contrib"),
    "ca2e_dqn": "sb3_ca2e",
    "ca2e_ddpg": "sb3_ca2e",
}

#: Agents that come with the package.
BUNDLED = pathlib.Path(__file__).parent / "agents"


@dataclass(frozen=True)
class AgentFiles:
    """
    The files of one agent.

    :param algorithm: name of the algorithm, as the zoo's folders are called
    :param model: the zip
    :param normalization: the ``vecnormalize.pkl``, if there is one
    :param recorded_reward: mean reward recorded beside it, if there is one
    """

    algorithm: str
    model: pathlib.Path
    normalization: pathlib.Path | None = None
    recorded_reward: float | None = None

    @property
    def bundled(self) -> bool:
        """Whether it came with the package."""
        return self.model.resolve().is_relative_to(BUNDLED.resolve())

    @staticmethod
    def algorithm_of(source: str | pathlib.Path) -> str:
        """
        :param source: a path, or ``"zoo:<algorithm>"``
        :return: the algorithm that its name tells
        :raises ValueError: if it tells none
        """
        if str(source).startswith("zoo:"):
            names = [str(source)[len("zoo:") :].split("/")[0]]
        else:
            names = [part.lower() for part in reversed(pathlib.Path(source).absolute().parts)]
        for name in names:
            if found := re.search(rf"(?<![a-z0-9])({'|'.join(ALGORITHMS)})(?![a-z0-9])", name):
                return found[1]
        raise ValueError(
            f"Can't tell from {str(source)!r} which algorithm the agent was trained with; "
            f"name one of its folders after it, as the RL Zoo does, one of: {', '.join(sorted(ALGORITHMS))}."
        )


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """
    :param name: the algorithm's name in the zoo
    :return: its class
    :raises ImportError: if SB3-Contrib is needed and missing
    """
    package = ALGORITHMS[name]
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"A {name} agent needs sb3-contrib: pip install sb3-contrib") from error
    own = {"ca2e_dqn": "CA2EDQN", "ca2e_ddpg": "CA2EDDPG"}
    found: type[BaseAlgorithm] = getattr(module, own.get(name, name.upper()))
    return found


def algorithms_with(policy_module: str) -> list[str]:
    """
    :param policy_module: module of a policy's class
    :return: names of the algorithms that have such policies; none for a policy of the user's own
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
    :return: the folders that ``"zoo:"`` looks into, in order
    """
    own = os.environ.get("SB3_CA2E_AGENTS")
    folders = [pathlib.Path(own)] if own else []
    return [*folders, pathlib.Path("rl-trained-agents"), pathlib.Path("logs"), BUNDLED]


def find_agent(source: str | pathlib.Path, env_id: str | None) -> AgentFiles:
    """
    Find an agent's files.

    :param source: a path to a zip or to a zoo folder, or ``"zoo:<algorithm>[/<environment>]"``
    :param env_id: environment of the run
    :return: the files
    :raises ValueError: naming where it was looked for
    """
    if not str(source).startswith("zoo:"):
        return _in_folder(pathlib.Path(source).expanduser())
    algorithm, _, named = str(source)[len("zoo:") :].partition("/")
    wanted = named or env_id
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"{source!r} names no algorithm whose agents can be priors; use one of: {', '.join(sorted(ALGORITHMS))}."
        )
    if wanted is None:
        raise ValueError(f"The environment has no id to look for; say which: 'zoo:{algorithm}/<environment id>'.")
    names = [wanted] if named else earlier_versions(wanted)
    for folder in search_path():
        for name in names:
            runs = sorted((folder / algorithm).glob(f"{name}_*"), key=_run_number)
            if runs:
                return _in_folder(runs[-1])
    looked = ", ".join(str(folder / algorithm) for folder in search_path())
    raise ValueError(
        f"No {algorithm} agent for {' or '.join(names)} in {looked}. Set SB3_CA2E_AGENTS to a clone of "
        "rl-trained-agents, or give the path of a zip."
    )


def earlier_versions(env_id: str) -> list[str]:
    """
    :param env_id: an environment id, e.g. ``LunarLander-v3``
    :return: it and its earlier versions, newest first: agents keep the id they were trained on
    """
    match = re.fullmatch(r"(.+)-v(\d+)", env_id)
    if match is None:
        return [env_id]
    return [f"{match[1]}-v{version}" for version in range(int(match[2]), -1, -1)]


def _run_number(folder: pathlib.Path) -> int:
    number = folder.name.rpartition("_")[2]
    return int(number) if number.isdigit() else -1


def _in_folder(path: pathlib.Path) -> AgentFiles:
    """The files of a zip or of a zoo folder, ``<ENV>_<run>/<ENV>.zip`` with ``<ENV>_<run>/<ENV>/config.yml``."""
    model = path
    if path.is_dir():
        best = [path / f"{path.name.rpartition('_')[0]}.zip", path / "best_model.zip"]
        model = next((zip_ for zip_ in best if zip_.is_file()), path)
    if not model.is_file():
        expected = f"{path}/<environment>.zip" if path.is_dir() else "a file"
        raise ValueError(
            f"There is no agent at {path}: expected {expected}. Give the path of a zip that model.save() has left, or "
            "of a folder of the RL Zoo."
        )
    settings = model.with_suffix("")
    if not settings.is_dir():
        settings = model.parent / model.parent.name.rpartition("_")[0]  # best_model.zip in <ENV>_<run>
    normalization, results = settings / "vecnormalize.pkl", settings / "results.json"
    recorded = json.loads(results.read_text())["mean_reward"] if results.is_file() else None
    return AgentFiles(
        AgentFiles.algorithm_of(model), model, normalization if normalization.is_file() else None, recorded
    )
