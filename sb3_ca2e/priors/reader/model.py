"""Rebuilds the policy in a model's zip from its data, without executing anything in it."""

import binascii
import json
import pathlib
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_ca2e.common.sums import SUMS
from sb3_ca2e.priors.reader.archive import MAX_ARCHIVE, MIB, Archive, open_plain
from sb3_ca2e.priors.reader.building import build_policy
from sb3_ca2e.priors.reader.errors import Unreadable, refusing
from sb3_ca2e.priors.reader.pickle_values import Symbol
from sb3_ca2e.priors.reader.pickles import decode
from sb3_ca2e.priors.reader.policies import (
    CLASS_SYMBOLS,
    KWARGS_SYMBOLS,
    Family,
    family_of,
    policy_arguments,
)
from sb3_ca2e.priors.reader.spaces import SYMBOLS as SPACE_SYMBOLS
from sb3_ca2e.priors.reader.spaces import space_of
from sb3_ca2e.priors.reader.tensors import open_state_dict
from sb3_ca2e.priors.reader.torch_files import open_torch_file

MAX_MEMBERS = 64
MAX_DATA = 16 * MIB

#: Most values in ``data``, counted by their separators: many empty lists are small in a file but large in memory
MAX_VALUES = 500_000

_OPTIMIZERS = ("policy.", "actor.", "critic.", "ent_coef_")

#: Torch files beside the policy's weights. They are not used, but the names in them are checked.
_UNUSED = {"pytorch_variables.pth", "tensors.pth", *(f"{name}optimizer.pth" for name in _OPTIMIZERS)}

_MEMBERS = _UNUSED | {"data", "policy.pth", "_stable_baselines3_version", "system_info.txt", SUMS}


@dataclass(frozen=True)
class SavedAgent:
    """
    The parts of a model's zip that an acting agent needs.

    :param policy: policy on the CPU in evaluation mode
    :param observation_space: saved observation space
    :param action_space: saved action space
    """

    policy: BasePolicy
    observation_space: spaces.Space
    action_space: spaces.Space


def read_agent(model: pathlib.Path, algorithm: str | None = None) -> SavedAgent:
    """
    Rebuild the policy of a saved model without executing anything in the file.

    :param model: zip written by SB3's ``save``
    :param algorithm: name of the algorithm that it must belong to, as in the RL Zoo; None for any
    :return: the policy and its spaces
    :raises UntrustedAgentError: if it can't be read this way; the message names the offending content
    :raises OSError: if the file can't be opened
    :raises ImportError: if SB3-Contrib is needed and missing
    """
    with refusing(model), open_plain(model, MAX_ARCHIVE) as file:
        archive = Archive(file, "the archive", MAX_MEMBERS, _MEMBERS.__contains__)
        attributes = _attributes_in(archive.read("data", MAX_DATA))
        policy_class, family, arguments = _network_of(attributes, algorithm)
        observation_space, action_space = (
            space_of(_decoded(attributes, name, SPACE_SYMBOLS)) for name in ("observation_space", "action_space")
        )
        for name in archive.names:
            if name in _UNUSED:
                open_torch_file(archive.window(name), name)
        arguments |= {"observation_space": observation_space, "action_space": action_space}
        weights = open_state_dict(archive.window("policy.pth"), "policy.pth")
        policy = build_policy(policy_class, family, arguments, weights)
    return SavedAgent(policy, observation_space, action_space)


def _attributes_in(data: bytes) -> dict[str, Any]:
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise Unreadable(f"its data has over {MAX_VALUES} values")
    try:
        attributes = json.loads(data, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"its data is not JSON ({str(error)[:200]})") from error
    if not isinstance(attributes, dict):
        raise Unreadable("its data is not a JSON object")
    return attributes


def _network_of(attributes: dict[str, Any], algorithm: str | None) -> tuple[Symbol, Family, dict[str, Any]]:
    """Return class and family of the policy, and the arguments that describe its network."""
    policy_class = _decoded(attributes, "policy_class", CLASS_SYMBOLS)
    family = family_of(policy_class, algorithm)
    arguments = policy_arguments(_decoded(attributes, "policy_kwargs", KWARGS_SYMBOLS), family)
    if family.sde_of_model:
        arguments["use_sde"] = attributes.get("use_sde") is True
    return policy_class, family, arguments


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(entries := dict(pairs)) != len(pairs):
        raise ValueError("a key appears twice")
    return entries


def _decoded(attributes: dict[str, Any], name: str, known: frozenset[Symbol]) -> Any:
    """Decode an attribute: SB3 stores plain data as JSON, and anything else as a pickle in it."""
    if name not in attributes:
        raise Unreadable(f"its data has no {name}, so it is not a Stable-Baselines3 model")
    value = attributes[name]
    if not isinstance(value, dict) or ":serialized:" not in value:
        return value
    return decode(binascii.a2b_base64(value[":serialized:"], strict_mode=True), known, name).value
