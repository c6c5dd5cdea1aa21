"""Builds a known policy with given weights, within the memory that these take."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch.overrides import TorchFunctionMode

from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickle_values import Symbol
from sb3_ca2e.priors.reader.policies import Family, import_policy
from sb3_ca2e.priors.reader.tensors import SavedTensor

#: Elements that a policy may create for each one in its file: our networks first create SB3's, then replace them.
_SPARE = 3


def build_policy(
    policy_class: Symbol, family: Family, arguments: Mapping[str, Any], saved: dict[str, SavedTensor]
) -> BasePolicy:
    """
    Build a policy with saved weights.

    :param policy_class: known policy class
    :param family: family of the class
    :param arguments: spaces and network arguments from the file
    :param saved: tensors in the file
    :return: the policy with these weights, on the CPU, in evaluation mode
    :raises Unreadable: if the tensors are not exactly those of such a policy, or not finite
    :raises ImportError: if SB3-Contrib is needed and missing
    """
    saved = {family.renamed.get(name, name): tensor for name, tensor in saved.items()}
    constructor = import_policy(policy_class)
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


def _for_learning(family: Family) -> dict[str, Any]:
    """Return arguments that a policy requires though it only acts."""
    if not family.learns:
        return {}
    return {"lr_schedule": _no_learning, "optimizer_class": _NoOptimizer, **family.for_learning}


class _NoOptimizer:
    """Replaces a policy's optimizer: a prior agent never learns, and importing torch's takes a second."""

    def __init__(self, parameters: Iterable[th.nn.Parameter], lr: float, **kwargs: Any):
        pass


def _no_learning(_: float) -> float:
    return 0.0
