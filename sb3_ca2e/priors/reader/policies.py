"""The policies that can be rebuilt from a file: their classes and arguments."""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import nn

from sb3_ca2e.common.installing import needing
from sb3_ca2e.policies import LayerNormCNN
from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickles import Symbol, describe

_COMMON = ("net_arch", "activation_fn", "normalize_images", "features_extractor_class", "features_extractor_kwargs")
#: Policies for images and dictionaries, which have the same names in most of SB3's modules.
_OTHERS = ("CnnPolicy", "MultiInputPolicy")

_SOFT_ACTOR = ("use_sde", "log_std_init", "use_expln", "clip_mean", "n_critics", "share_features_extractor")
_STOCHASTIC_ACTOR = ("log_std_init", "full_std", "use_expln", "squash_output", "share_features_extractor")


@dataclass(frozen=True)
class Family:
    """
    Policies that are built alike.

    :param algorithms: names of the algorithms that use them
    :param classes: names of the classes by module
    :param fields: entries of ``policy_kwargs`` that are used
    :param sde_of_model: whether ``use_sde`` is an attribute of the model instead of an entry of ``policy_kwargs``
    :param for_learning: arguments that save work needed only for learning
    :param learns: whether they take a learning rate and an optimizer
    :param renamed: old names of tensors and their current names
    """

    algorithms: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    fields: tuple[str, ...]
    sde_of_model: bool = False
    learns: bool = True
    for_learning: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)


FAMILIES = (
    Family(
        ("a2c", "ppo", "trpo"),
        {BasePolicy.__module__: ("ActorCriticPolicy", "ActorCriticCnnPolicy", "MultiInputActorCriticPolicy")},
        _COMMON + _STOCHASTIC_ACTOR,
        sde_of_model=True,
        for_learning={"ortho_init": False},
    ),
    Family(
        ("dqn", "ca2e_dqn"),
        {
            "stable_baselines3.dqn.policies": ("DQNPolicy", *_OTHERS),
            "sb3_ca2e.policies": ("CA2EDQNPolicy", "CA2EDQNCnnPolicy", "CA2EDQNMultiInputPolicy"),
        },
        _COMMON,
    ),
    Family(("qrdqn",), {"sb3_contrib.qrdqn.policies": ("QRDQNPolicy", *_OTHERS)}, (*_COMMON, "n_quantiles")),
    Family(
        ("td3", "ddpg", "ca2e_ddpg"),
        {
            "stable_baselines3.td3.policies": ("TD3Policy", *_OTHERS),
            "sb3_ca2e.policies": ("CA2EDDPGPolicy", "CA2EDDPGCnnPolicy", "CA2EDDPGMultiInputPolicy"),
        },
        (*_COMMON, "n_critics", "share_features_extractor"),
    ),
    Family(("sac",), {"stable_baselines3.sac.policies": ("SACPolicy", *_OTHERS)}, _COMMON + _SOFT_ACTOR),
    Family(("tqc",), {"sb3_contrib.tqc.policies": ("TQCPolicy", *_OTHERS)}, (*_COMMON, *_SOFT_ACTOR, "n_quantiles")),
    Family(
        ("ars",),
        {"sb3_contrib.ars.policies": ("ARSPolicy",)},
        ("net_arch", "activation_fn", "with_bias", "squash_output"),
        learns=False,
    ),
    Family(
        ("ars",),
        {"sb3_contrib.ars.policies": ("ARSLinearPolicy",)},
        ("with_bias", "squash_output"),
        learns=False,
        renamed={f"action_net.{name}": f"action_net.0.{name}" for name in ("weight", "bias")},  # before 1.7
    ),
)

_FAMILY_OF = {
    Symbol(module, name): family for family in FAMILIES for module, names in family.classes.items() for name in names
}

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Tanh, nn.ELU, nn.SELU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Mish, nn.Sigmoid)
ACTIVATIONS: dict[Symbol, type[nn.Module]] = {
    Symbol("torch.nn.modules.activation", each.__name__): each for each in (*_ACTIVATIONS, nn.Softplus, nn.Hardtanh)
}

EXTRACTORS: dict[Symbol, type[nn.Module]] = {
    Symbol(each.__module__, each.__name__): each
    for each in (FlattenExtractor, NatureCNN, CombinedExtractor, LayerNormCNN)
}

#: Entries of ``policy_kwargs`` that only matter for learning, or on the machine of training
_IGNORED = frozenset(("optimizer_class", "optimizer_kwargs", "ortho_init", "device"))

#: What these entries name
_UNUSED = {
    *(Symbol(f"torch.optim.{name.lower()}", name) for name in ("Adam", "AdamW", "RMSprop", "SGD", "RAdam", "NAdam")),
    Symbol("stable_baselines3.common.sb2_compat.rmsprop_tf_like", "RMSpropTFLike"),
    *(Symbol("torch", "device"), Symbol("collections", "OrderedDict")),
}

#: Symbols allowed in pickles of ``policy_class`` and of ``policy_kwargs``
CLASS_SYMBOLS = frozenset(_FAMILY_OF)
KWARGS_SYMBOLS = frozenset(ACTIVATIONS) | frozenset(EXTRACTORS) | _UNUSED

MAX_LAYERS = 32
MAX_WIDTH = 2**20
MAX_CRITICS = 16


def family_of(policy_class: Any, algorithm: str | None) -> Family:
    """
    Return the family of a policy class.

    :param policy_class: decoded class
    :param algorithm: algorithm that it must belong to; None for any
    :return: the family
    :raises Unreadable: if the class is unknown or belongs to another algorithm
    """
    family = _FAMILY_OF.get(policy_class) if isinstance(policy_class, Symbol) else None
    if family is None:
        raise Unreadable(f"its policy_class is {describe(policy_class)}, none of SB3, SB3-Contrib or this package")
    if algorithm is not None and algorithm not in family.algorithms:
        raise Unreadable(
            f"it is named as an agent of {algorithm}, but its policy is one of {' or '.join(family.algorithms)} "
            f"({policy_class}); name one of its folders, or the file, after the algorithm that trained it"
        )
    return family


def import_policy(policy_class: Symbol) -> type[BasePolicy]:
    """
    Import a known policy class.

    :param policy_class: symbol that :func:`family_of` knows
    :return: the class
    :raises ImportError: if SB3-Contrib is needed and missing
    """
    assert policy_class in CLASS_SYMBOLS, "only classes in the table are imported"
    with needing("zoo", f"An agent with a {policy_class} needs sb3-contrib"):
        found: type[BasePolicy] = getattr(importlib.import_module(policy_class.module), policy_class.name)
    return found


def policy_arguments(kwargs: Any, family: Family) -> dict[str, Any]:
    """
    Check the arguments that describe the network.

    :param kwargs: decoded ``policy_kwargs``
    :param family: family of the policy
    :return: the checked arguments
    :raises Unreadable: if an argument is unknown or its value invalid
    """
    if not isinstance(kwargs, dict):
        raise Unreadable(f"its policy_kwargs are {describe(kwargs)}")
    unknown = [describe(name) for name in kwargs if name not in family.fields and name not in _IGNORED]
    if unknown:
        raise Unreadable(f"its policy_kwargs have {', '.join(unknown[:8])}, which are unknown for its policy")
    return {name: _FIELDS[name](name, value) for name, value in kwargs.items() if name not in _IGNORED}


#: Checks the value of a named argument, and returns what it stands for.
_Check = Callable[[str, Any], Any]


def _if(holds: Callable[[Any], bool]) -> _Check:
    def check(name: str, value: Any) -> Any:
        if not holds(value):
            raise Unreadable(f"the policy's {name} is {describe(value)}")
        return value

    return check


_flag = _if(lambda value: isinstance(value, bool))
_number = _if(lambda value: isinstance(value, int | float) and math.isfinite(value))
_list = _if(lambda value: isinstance(value, list))
_dict = _if(lambda value: isinstance(value, dict))
_networks = _if(lambda value: set(value) <= {"pi", "vf", "qf"})


def _count(largest: int) -> _Check:
    return _if(lambda value: type(value) is int and 0 < value <= largest)


def _one_of(table: dict[Symbol, type[nn.Module]]) -> _Check:
    known = _if(lambda value: isinstance(value, Symbol) and value in table)
    return lambda name, value: table[known(name, value)]


def _layers(name: str, value: Any) -> list[int]:
    if len(_list(name, value)) > MAX_LAYERS:
        raise Unreadable(f"the policy's {name} has {len(value)} layers, over {MAX_LAYERS}")
    return [_count(MAX_WIDTH)(f"layer of {name}", width) for width in value]


def _architecture(name: str, value: Any) -> list[int] | dict[str, list[int]] | None:
    """Check layers, or layers for each network; before SB3 1.8 the latter were in a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        (value,) = value
    if isinstance(value, dict):
        return {network: _layers(name, widths) for network, widths in _networks(name, value).items()}
    return None if value is None else _layers(name, value)


def _extractor_arguments(name: str, value: Any) -> dict[str, Any] | None:
    known = {"features_dim": _count(MAX_WIDTH), "cnn_output_dim": _count(MAX_WIDTH), "normalized_image": _flag}
    if value is None:
        return None
    if unknown := [describe(key) for key in _dict(name, value) if key not in known]:
        raise Unreadable(f"the policy's {name} have {', '.join(unknown[:8])}, which no known extractor takes")
    return {each: known[each](f"{name}[{each}]", entry) for each, entry in value.items()}


_FIELDS: dict[str, _Check] = {
    "net_arch": _architecture,
    "activation_fn": _one_of(ACTIVATIONS),
    "features_extractor_class": _one_of(EXTRACTORS),
    "features_extractor_kwargs": _extractor_arguments,
    **dict.fromkeys(("normalize_images", "share_features_extractor", "use_sde", "full_std"), _flag),
    **dict.fromkeys(("use_expln", "squash_output", "with_bias"), _flag),
    **dict.fromkeys(("log_std_init", "clip_mean"), _number),
    "n_critics": _count(MAX_CRITICS),
    "n_quantiles": _count(MAX_WIDTH),
}
