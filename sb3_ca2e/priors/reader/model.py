"""Rebuilds the policy in a model's zip from its data, without executing anything in it."""

import binascii
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import ConstantSchedule
from torch.overrides import TorchFunctionMode

from sb3_ca2e.common.sums import SUMS
from sb3_ca2e.priors.reader import policies
from sb3_ca2e.priors.reader.archive import MAX_ARCHIVE, MIB, Archive, open_plain
from sb3_ca2e.priors.reader.errors import Unreadable, refusing
from sb3_ca2e.priors.reader.pickles import Symbol, decode
from sb3_ca2e.priors.reader.spaces import SYMBOLS, space_of
from sb3_ca2e.priors.reader.torch_files import SavedTensor, open_state_dict, open_torch_file

MAX_MEMBERS = 64
MAX_DATA = 16 * MIB

#: Most values in ``data``, counted by their separators: many empty lists are small in a file but large in memory
MAX_VALUES = 500_000

#: Elements that a policy may create for each one in its file: our networks first create SB3's, then replace them.
_SPARE = 3

_OPTIMIZERS = ("policy.", "actor.", "critic.", "ent_coef_")

#: Torch files beside the policy's weights. They are not used, but the names in them are checked.
_UNUSED = {"pytorch_variables.pth", "tensors.pth", *(f"{name}optimizer.pth" for name in _OPTIMIZERS)}

_MEMBERS = _UNUSED | {"data", "policy.pth", "_stable_baselines3_version", "system_info.txt", SUMS}


def read_agent(model: pathlib.Path, algorithm: str | None = None) -> BasePolicy:
    """
    Rebuild the policy of a saved model without executing anything in the file.

    :param model: zip written by SB3's ``save``
    :param algorithm: name of the algorithm that it must belong to, as in the RL Zoo; None for any
    :return: the policy with its saved spaces, on the CPU, in evaluation mode
    :raises UntrustedAgentError: if it can't be read this way; the message names the offending content
    :raises OSError: if the file can't be opened
    :raises ImportError: if SB3-Contrib is needed and missing
    """
    with refusing(model), open_plain(model, MAX_ARCHIVE) as file:
        archive = Archive(file, "the archive", MAX_MEMBERS, _MEMBERS.__contains__)
        attributes = _attributes_in(archive.read("data", MAX_DATA))
        policy_class, family, arguments = _network_of(attributes, algorithm)
        for name in ("observation_space", "action_space"):
            arguments[name] = space_of(_decoded(attributes, name, SYMBOLS))
        for name in archive.names:
            if name in _UNUSED:
                open_torch_file(archive.window(name), name)
        weights = open_state_dict(archive.window("policy.pth"), "policy.pth")
        return _built(policy_class, family, arguments, weights)


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


def _network_of(attributes: dict[str, Any], algorithm: str | None) -> tuple[Symbol, policies.Family, dict[str, Any]]:
    """Return class and family of the policy, and the arguments that describe its network."""
    policy_class = _decoded(attributes, "policy_class", policies.CLASS_SYMBOLS)
    family = policies.family_of(policy_class, algorithm)
    arguments = policies.policy_arguments(_decoded(attributes, "policy_kwargs", policies.KWARGS_SYMBOLS), family)
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


def _built(
    policy_class: Symbol, family: policies.Family, arguments: Mapping[str, Any], saved: dict[str, SavedTensor]
) -> BasePolicy:
    """
    Build a policy with saved weights, within the memory that these take.

    :param policy_class: known policy class
    :param family: family of the class
    :param arguments: spaces and network arguments from the file
    :param saved: tensors in the file
    :return: the policy with these weights, on the CPU, in evaluation mode
    :raises Unreadable: if the tensors are not exactly those of such a policy, or not finite
    :raises ImportError: if SB3-Contrib is needed and missing
    """
    saved = {family.renamed.get(name, name): tensor for name, tensor in saved.items()}
    constructor = policies.import_policy(policy_class)
    with th.random.fork_rng(devices=[]):  # reading a file must not change the run's random numbers
        with _Budget(_SPARE * sum(storage.n_entries for storage in {tensor.storage for tensor in saved.values()})):
            policy = constructor(**arguments, **_for_learning(family))
        # Only tensors that fit are read
        weights = {name: tensor.read() for name, tensor in _fitting(policy, saved).items()}
        if infinite := [name for name, tensor in weights.items() if not th.isfinite(tensor).all()]:
            raise Unreadable(f"its policy.pth has numbers that are not finite in {', '.join(infinite[:8])}")
        policy.load_state_dict(weights, strict=True)
        if arguments.get("use_sde"):
            policy.reset_noise()  # type: ignore[operator]
    policy.set_training_mode(False)
    return policy


def _fitting(policy: BasePolicy, saved: dict[str, SavedTensor]) -> dict[str, SavedTensor]:
    """
    Match the tensors in a file to a policy's tensors.

    :param policy: policy as the file describes it
    :param saved: tensors in the file
    :return: a tensor for each one of the policy, with the same shape
    :raises Unreadable: if one is missing, left over, or has another shape
    """
    wanted: dict[str, th.Tensor] = policy.state_dict(keep_vars=True)
    # SB3 before 1.7 saved a shared features extractor under one of the three names that it has now
    by_identity = {id(tensor): saved[name] for name, tensor in wanted.items() if name in saved}
    missing = [name for name, tensor in wanted.items() if id(tensor) not in by_identity]
    left_over = [name[:80] for name in saved if name not in wanted]
    if missing or left_over:
        raise Unreadable(
            "its policy.pth does not have the weights of its policy "
            f"(missing: {', '.join(missing[:8]) or 'none'}; left over: {', '.join(left_over[:8]) or 'none'})"
        )
    fitting = {name: saved.get(name, by_identity[id(tensor)]) for name, tensor in wanted.items()}
    for name, tensor in fitting.items():
        shape, is_float = tuple(wanted[name].shape), wanted[name].is_floating_point()
        if tensor.shape != shape or tensor.storage.dtype.is_floating_point != is_float:
            raise Unreadable(f"{name} is {tensor.shape} in its policy.pth, but {shape} in its policy")
    return fitting


class _Budget(TorchFunctionMode):
    """
    Refuses larger tensors than a file can fill: the network's size in the file is only a claim.

    :param n_entries: total number of elements that may be created
    """

    def __init__(self, n_entries: int):
        super().__init__()
        self._left = n_entries

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count elements before torch creates them."""
        kwargs = kwargs or {}
        if func in (th.empty, th.ones, th.zeros, th.full, th.randn, th.rand):
            size = args[0] if args and isinstance(args[0], tuple | list) else args or kwargs.get("size", ())
            self._left -= math.prod(each for each in size if isinstance(each, int))
            if self._left < 0:
                raise Unreadable("its policy is larger than the weights in its policy.pth")
        return func(*args, **kwargs)


def _for_learning(family: policies.Family) -> dict[str, Any]:
    """Return arguments that a policy requires though it only acts."""
    if not family.learns:
        return {}
    return {"lr_schedule": ConstantSchedule(0.0), "optimizer_class": _NoOptimizer, **family.for_learning}


class _NoOptimizer:
    """Replaces a policy's optimizer: a prior agent never learns, and importing torch's takes a second."""

    def __init__(self, parameters: Iterable[th.nn.Parameter], lr: float, **kwargs: Any):
        pass
