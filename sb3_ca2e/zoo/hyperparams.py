"""Read the hyperparameters that the package ships in the RL Zoo's format."""

import ast
from importlib import resources
from typing import Any

import yaml
from stable_baselines3.common.utils import LinearSchedule

#: Folder of the files, one for each algorithm.
FOLDER = resources.files("sb3_ca2e") / "hyperparams"


def load_hyperparams(algo: str, env_id: str) -> dict[str, Any]:
    """
    Hyperparameters for an environment, from ``hyperparams/<algo>.yml``.

    ``n_timesteps`` and ``n_envs`` are always there and are no arguments of the algorithm; what else is there is named
    as in the file. Strings that stand for values in the zoo are replaced by them: ``"dict(net_arch=[64])"`` by the
    dictionary, ``"lin_0.001"`` by a schedule that falls to zero.

    :param algo: ``"ca2e_dqn"`` or ``"ca2e_ddpg"``
    :param env_id: id of the environment; ``"atari"`` for any game of it, ``"default"`` for what has no entry
    :return: a dictionary of the caller's own
    :raises ValueError: if there are none, naming those that there are
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
    The value that an entry stands for. Nothing in it is executed.

    :param value: an entry as YAML gives it
    :return: a dictionary for ``"dict(...)"``, a schedule for ``"lin_<initial value>"``, anything else as it is
    :raises ValueError: if a ``"dict(...)"`` holds more than literals
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
        raise ValueError(f"{value!r} is no dict(...) of literals: {error}") from error


def _literal(node: ast.expr) -> Any:
    """``ast.literal_eval`` that knows ``dict(name=value)`` too."""
    is_dict = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"
    if not is_dict:
        return ast.literal_eval(node)
    assert isinstance(node, ast.Call)
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("only dict(name=value, ...) is understood")
    return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
