"""Build a known policy with given weights, and within the memory that these take."""

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

#: Numbers that a policy may make for each one in its file: our networks make SB3's first, and replace them.
_SPARE = 3


def build_policy(
    policy_class: Symbol, family: Family, arguments: Mapping[str, Any], saved: dict[str, SavedTensor]
) -> BasePolicy:
    """
    :param policy_class: a known class
    :param family: its family
    :param arguments: spaces, and what the file says of the network
    :param saved: the tensors in the file
    :return: the policy with these weights, on the CPU, in evaluation mode
    :raises Unreadable: if they are not exactly those of such a policy, or not finite
    :raises ImportError: if SB3-Contrib is needed and missing
    """
    saved = {family.renamed.get(name, name): tensor for name, tensor in saved.items()}
    constructor = import_policy(policy_class)
    with th.random.fork_rng(devices=[]):  # reading a file shall not change what the run draws
        with _Budget(_SPARE * sum(storage.n_entries for storage in {tensor.storage for tensor in saved.values()})):
            policy = constructor(**arguments, **_for_learning(family))
        # Only what fits is read
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
    :param policy: a policy as the file describes it
    :param saved: the tensors in the file
    :return: one for each tensor of the policy, of its shape
    :raises Unreadable: if one is missing or left over, or has another shape
    """
    wanted: dict[str, th.Tensor] = policy.state_dict(keep_vars=True)
    # SB3 before 1.7 saved a shared features extractor under one of the three names that it has now
    by_identity = {id(tensor): saved[name] for name, tensor in wanted.items() if name in saved}
    missing = [name for name, tensor in wanted.items() if id(tensor) not in by_identity]
    left_over = [name[:80] for name in saved if name not in wanted]
    if missing or left_over:
        raise Unreadable(
            "its policy.pth has not the weights of its policy "
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
    Stop whatever makes larger tensors than a file can fill: what it says of its network's size is only a claim.

    :param n_entries: numbers that may be made in all
    """

    def __init__(self, n_entries: int):
        super().__init__()
        self._left = n_entries

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count what torch is asked to make, before it does."""
        kwargs = kwargs or {}
        if func in (th.empty, th.ones, th.zeros, th.full, th.randn, th.rand):
            size = args[0] if args and isinstance(args[0], tuple | list) else args or kwargs.get("size", ())
            self._left -= math.prod(each for each in size if isinstance(each, int))
            if self._left < 0:
                raise Unreadable("its policy is larger than the weights in its policy.pth")
        return func(*args, **kwargs)


def _for_learning(family: Family) -> dict[str, Any]:
    """Arguments that a policy asks for although it will only act."""
    if not family.learns:
        return {}
    return {"lr_schedule": _no_learning, "optimizer_class": _NoOptimizer, **family.for_learning}


class _NoOptimizer:
    """Stands where a policy's optimiser would: a prior agent never learns, and torch's take a second to import."""

    def __init__(self, parameters: Iterable[th.nn.Parameter], lr: float, **kwargs: Any):
        pass


def _no_learning(_: float) -> float:
    return 0.0
