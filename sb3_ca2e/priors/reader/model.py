"""Rebuild the policy in a model's zip from its data, executing nothing in it."""

import base64
import json
import pathlib
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_ca2e.priors.reader.archive import MIB, Archive, open_archive
from sb3_ca2e.priors.reader.building import build_policy
from sb3_ca2e.priors.reader.errors import Unreadable, refusing
from sb3_ca2e.priors.reader.pickles import Symbol, decode
from sb3_ca2e.priors.reader.policies import (
    CLASS_SYMBOLS,
    KWARGS_SYMBOLS,
    Family,
    family_of,
    policy_arguments,
)
from sb3_ca2e.priors.reader.spaces import SYMBOLS as SPACE_SYMBOLS
from sb3_ca2e.priors.reader.spaces import space_of
from sb3_ca2e.priors.reader.tensors import read_state_dict
from sb3_ca2e.priors.reader.torch_files import read_torch_file

MAX_MEMBERS = 64
MAX_DATA = 16 * MIB

#: Values in ``data``, counted by what separates them: a list of many empty ones is large in memory only
MAX_VALUES = 500_000

#: Files of torch beside the policy's weights. Nothing in them is used, but what they name is looked at.
_UNUSED = (
    "pytorch_variables",
    "tensors",
    *(f"{each}optimizer" for each in ("policy.", "actor.", "critic.", "ent_coef_")),
)
_UNUSED_FILES = frozenset(f"{name}.pth" for name in _UNUSED)

_MEMBERS = _UNUSED_FILES | {"data", "policy.pth", "_stable_baselines3_version", "system_info.txt"}


@dataclass(frozen=True)
class SavedAgent:
    """
    What a model's zip holds of an agent that acts.

    :param policy: its policy, on the CPU, in evaluation mode
    :param observation_space: the space that it was trained on, as saved
    :param action_space: the actions that it was trained to take, as saved
    """

    policy: BasePolicy
    observation_space: spaces.Space
    action_space: spaces.Space


@dataclass(frozen=True)
class _Recipe:
    """What ``data`` says of the policy."""

    policy_class: Symbol
    family: Family
    arguments: dict[str, Any]
    observation_space: spaces.Space
    action_space: spaces.Space


def read_agent(
    model: pathlib.Path,
    algorithm: str | None = None,
    observation_space: spaces.Space | None = None,
    action_space: spaces.Space | None = None,
) -> SavedAgent:
    """
    Rebuild the policy of a saved model. Nothing in the file is executed, whoever wrote it.

    :param model: a zip that SB3's ``save`` left
    :param algorithm: name of the algorithm that it must be of, as in the RL Zoo; None for any
    :param observation_space: the policy's, in place of the saved one, e.g. for bounds of today's environment
    :param action_space: the policy's, in place of the saved one
    :return: the policy and the saved spaces
    :raises UntrustedAgentError: if it can't be read so, naming what is in the way
    :raises ValueError: if the spaces given have other shapes or numbers of actions than the saved ones
    :raises OSError: if the file can't be opened
    :raises ImportError: if SB3-Contrib is needed and missing
    """
    with refusing(model), open_archive(model, MAX_MEMBERS, _MEMBERS.__contains__) as archive:
        recipe = _recipe_of(archive.read("data", MAX_DATA), algorithm)
        weights = read_state_dict(archive.read("policy.pth"), "policy.pth")
        _inspect_unused(archive)
    live_observations = _live(recipe.observation_space, observation_space, "observations", model)
    live_actions = _live(recipe.action_space, action_space, "actions", model)
    with refusing(model):
        arguments = {"observation_space": live_observations, "action_space": live_actions, **recipe.arguments}
        policy = build_policy(recipe.policy_class, recipe.family, arguments, weights)
    return SavedAgent(policy, recipe.observation_space, recipe.action_space)


def _inspect_unused(archive: Archive) -> None:
    for name in _UNUSED_FILES.intersection(archive.names):
        read_torch_file(archive.read(name), name)


def _live(saved: spaces.Space, live: spaces.Space | None, what: str, model: pathlib.Path) -> spaces.Space:
    if live is None:
        return saved
    same = type(live) is type(saved) and live.shape == saved.shape
    if not same or (isinstance(saved, spaces.Discrete) and saved.n != getattr(live, "n", None)):
        raise ValueError(f"The agent in {model} was trained on {what} {saved}, which {live} can't stand for.")
    return live


def _recipe_of(data: bytes, algorithm: str | None) -> _Recipe:
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise Unreadable(f"its data has over {MAX_VALUES} values")
    try:
        attributes = json.loads(data, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"its data is no JSON ({str(error)[:200]})") from error
    if not isinstance(attributes, dict):
        raise Unreadable("its data is no JSON object")
    policy_class = _decoded(attributes, "policy_class", CLASS_SYMBOLS)
    family = family_of(policy_class, algorithm)
    arguments = policy_arguments(_decoded(attributes, "policy_kwargs", KWARGS_SYMBOLS), family)
    if family.sde_of_model:
        arguments["use_sde"] = attributes.get("use_sde") is True
    return _Recipe(
        policy_class,
        family,
        arguments,
        space_of(_decoded(attributes, "observation_space", SPACE_SYMBOLS)),
        space_of(_decoded(attributes, "action_space", SPACE_SYMBOLS)),
    )


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(entries := dict(pairs)) != len(pairs):
        raise ValueError("a key stands there twice")
    return entries


def _decoded(attributes: dict[str, Any], name: str, known: frozenset[Symbol]) -> Any:
    """An attribute of the model: SB3 writes plain data as JSON, and anything else as a pickle in it."""
    if name not in attributes:
        raise Unreadable(f"its data has no {name}, so it is no Stable-Baselines3 model")
    value = attributes[name]
    if not isinstance(value, dict) or ":serialized:" not in value:
        return value
    return decode(base64.b64decode(value[":serialized:"], validate=True), known, name)
