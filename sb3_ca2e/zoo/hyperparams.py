"""Reads the bundled hyperparameters in the RL Zoo's format."""

import ast
from importlib import resources
from typing import Any

import yaml
from stable_baselines3.common.utils import LinearSchedule

#: Folder of the files, one for each algorithm.
FOLDER = resources.files("sb3_ca2e") / "hyperparams"


def load_hyperparams(algo: str, env_id: str) -> dict[str, Any]:
    """
    Load the hyperparameters of an environment from ``hyperparams/<algo>.yml``.

    ``n_timesteps`` and ``n_envs`` are always included and are not arguments of the algorithm; all other names are those
    of the file. Strings that represent values in the zoo are converted: ``"dict(net_arch=[64])"`` to the dictionary,
    ``"lin_0.001"`` to a schedule that falls linearly to zero.

    :param algo: ``"ca2e_dqn"`` or ``"ca2e_ddpg"``
    :param env_id: id of the environment; ``"atari"`` for any Atari game, ``"default"`` for others without an entry
    :return: a new dictionary
    :raises ValueError: if there are none; the message lists those that exist
    """
    file = FOLDER / f"{algo}.yml"
    if not file.is_file():
        known = sorted(each.name.removesuffix(".yml") for each in FOLDER.iterdir() if each.name.endswith(".yml"))
        raise ValueError(f"There are no hyperparameters for {algo!r}, only for: {', '.join(known)}.")
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    if env_id not in entries:
        raise ValueError(f"{algo}.yml has no hyperparameters for {env_id!r}, only for: {', '.join(entries)}.")
    hyperparams = {name: parse_value(value) for name, value in entries[env_id].items()}
    return {**hyperparams, "n_timesteps": int(hyperparams["n_timesteps"]), "n_envs": hyperparams.get("n_envs", 1)}


def parse_value(value: Any) -> Any:
    """
    Convert an entry to the value that it represents, without executing anything.

    :param value: entry as YAML gives it
    :return: a dictionary for ``"dict(...)"``, a schedule for ``"lin_<initial value>"``, anything else unchanged
    :raises ValueError: if a ``"dict(...)"`` contains more than literals
    """
    if not isinstance(value, str):
        return value
    if value.startswith("lin_"):
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    if not value.strip().startswith("dict("):
        return value
    try:
        return _literal(ast.parse(value.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{value!r} is not a dict(...) of literals: {error}") from error


def _literal(node: ast.expr) -> Any:
    """``ast.literal_eval`` that also supports ``dict(name=value)``."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"):
        return ast.literal_eval(node)
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("only dict(name=value, ...) is understood")
    return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
