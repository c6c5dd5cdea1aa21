"""Agents as safetensors and JSON: files that hold numbers and names, and nothing that could be executed."""

import contextlib
import dataclasses
import json
import pathlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_ca2e.common.installing import needing
from sb3_ca2e.priors.reader.archive import MAX_ARCHIVE, MIB, open_plain
from sb3_ca2e.priors.reader.building import build_policy
from sb3_ca2e.priors.reader.pickle_values import Symbol
from sb3_ca2e.priors.reader.policies import ACTIVATIONS, EXTRACTORS, Family, family_of, policy_arguments
from sb3_ca2e.priors.reader.statistics import Moments, NormalizationStatistics
from sb3_ca2e.priors.reader.tensors import SavedTensor
from sb3_ca2e.priors.reader.torch_files import Storage
from sb3_ca2e.priors.trained_on import TrainedOn

#: Weights, bounds of spaces and running statistics.
MODEL = "agent.safetensors"
#: Everything else.
ABOUT = "agent.json"
FORMAT = "sb3_ca2e agent, version 1"
MAX_ABOUT = MIB

Tensors = dict[str, th.Tensor]

#: Fields of NormalizationStatistics
_NUMBERS = ("clip_obs", "clip_reward", "epsilon", "gamma")
_MOMENTS = ("observations", "returns")


def write_agent(folder: pathlib.Path, algorithm: str, policy: BasePolicy, trained_on: TrainedOn) -> None:
    """
    Write an agent that has been read.

    :param folder: where to; it is made, and must not hold an agent yet
    :param algorithm: name of the algorithm that trained it
    :param policy: its policy
    :param trained_on: what stood between the environment and its policy
    :raises FileExistsError: if there is an agent
    :raises ValueError: if its policy is none that could be read again
    :raises ImportError: if safetensors is not installed
    """
    safetensors = _library()
    if (folder / ABOUT).exists():
        raise FileExistsError(f"{folder} holds an agent already; give another folder.")
    tensors = {f"policy.{name}": tensor.clone().contiguous() for name, tensor in policy.state_dict().items()}
    policy_class = Symbol(type(policy).__module__, type(policy).__qualname__)
    family = family_of(policy_class, algorithm)
    about = {
        "format": FORMAT,
        "algorithm": algorithm,
        "policy_class": str(policy_class),
        "policy_kwargs": _plain_arguments(policy, family),
        "observation_space": _plain_space(policy.observation_space, "observation_space", tensors),
        "action_space": _plain_space(policy.action_space, "action_space", tensors),
        "trained_on": _plain_trained_on(trained_on, tensors),
    }
    text = json.dumps(about, indent=2, allow_nan=False)  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.save_file(tensors, str(folder / MODEL))
    (folder / ABOUT).write_text(text + "\n", encoding="utf-8")


def about_agent(folder: pathlib.Path) -> dict[str, Any]:
    """
    :param folder: of an agent that :func:`write_agent` wrote
    :return: what it says of itself: ``algorithm``, ``trained_on`` and more
    :raises ValueError: if it is none
    """
    with _refusing(folder):
        with open_plain(folder / ABOUT, MAX_ABOUT) as file:
            about = json.loads(file.read())
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}, not {FORMAT!r}")
        env_id = about["trained_on"]["env_id"]
        if not isinstance(about["algorithm"], str) or not isinstance(env_id, str | None):
            raise ValueError("its names are none")
        found: dict[str, Any] = about
        return found


def read_agent(folder: pathlib.Path) -> tuple[BasePolicy, TrainedOn]:
    """
    Read an agent that :func:`write_agent` wrote. Nothing in its files is executed, whoever wrote them.

    :param folder: its folder
    :return: its policy, on the CPU, in evaluation mode, and what stood between that and the environment
    :raises ValueError: if it is damaged
    :raises ImportError: if safetensors or SB3-Contrib is needed and missing
    """
    about = about_agent(folder)
    safetensors = _library()
    with _refusing(folder):
        with open_plain(folder / MODEL, MAX_ARCHIVE):  # refuses what is too large, and what is no file
            tensors: Tensors = safetensors.load_file(folder / MODEL)
        policy_class = _symbol(about["policy_class"])
        family = family_of(policy_class, about["algorithm"])
        use_sde = {"use_sde": about["policy_kwargs"].pop("use_sde") is True} if family.sde_of_model else {}
        arguments = policy_arguments(_with_symbols(about["policy_kwargs"]), family) | {
            name: _space(about[name], name, tensors) for name in ("observation_space", "action_space")
        }
        weights = {name.removeprefix("policy."): each for name, each in tensors.items() if name.startswith("policy.")}
        saved = {name: _as_saved(name, tensor) for name, tensor in weights.items()}
        policy = build_policy(policy_class, family, arguments | use_sde, saved)
        return policy, _trained_on(about["trained_on"], tensors)


def _library() -> Any:
    with needing("safetensors", "Agents in this format need safetensors"):
        import safetensors.torch
    return safetensors.torch


@contextlib.contextmanager
def _refusing(folder: pathlib.Path) -> Iterator[None]:
    """The files' contents are the block's only input, so whatever goes wrong with them is said of the folder."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        raise ValueError(
            f"{folder} holds no whole agent as 'sb3-ca2e convert' writes it ({type(error).__name__}: "
            f"{str(error)[:200]}). Convert the agent again."
        ) from error


# The policy's arguments: classes become their names.


def _plain_arguments(policy: BasePolicy, family: Family) -> dict[str, Any]:
    given = policy._get_constructor_parameters()
    fields = (*family.fields, *(["use_sde"] if family.sde_of_model else []))
    return {name: _plain(given[name]) for name in fields if given.get(name) is not None}


def _plain(value: Any) -> Any:
    if not isinstance(value, type):
        return value
    symbol = Symbol(value.__module__, value.__qualname__)
    if symbol not in ACTIVATIONS and symbol not in EXTRACTORS:
        raise ValueError(f"{symbol} in the agent's policy is none of the classes that could be read again")
    return str(symbol)


def _with_symbols(arguments: dict[str, Any]) -> dict[str, Any]:
    classes = {"activation_fn", "features_extractor_class"}
    return {name: _symbol(value) if name in classes else value for name, value in arguments.items()}


def _symbol(name: str) -> Symbol:
    module, _, own = name.rpartition(".")
    return Symbol(module, own)


def _as_saved(name: str, tensor: th.Tensor) -> SavedTensor:
    storage = Storage(name, tensor.dtype, tensor.numel())
    return SavedTensor(storage, tuple(tensor.shape), tensor.stride(), 0, lambda _: tensor.flatten())


# Spaces: bounds are tensors, the rest is names and numbers.


def _plain_space(space: spaces.Space, name: str, tensors: Tensors) -> dict[str, Any]:
    kind = type(space).__name__
    if isinstance(space, spaces.Dict):
        parts = {key: _plain_space(each, f"{name}.{key}", tensors) for key, each in space.items()}
        return {"type": kind, "spaces": parts}
    if isinstance(space, spaces.Box):
        tensors |= {f"{name}.low": _tensor(space.low), f"{name}.high": _tensor(space.high)}
        return {"type": kind, "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {"type": kind, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": kind, "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": kind, "n": list(space.n) if isinstance(space.n, tuple) else space.n}
    raise ValueError(f"{space} is none of the spaces that could be read again")


def _space(about: dict[str, Any], name: str, tensors: Tensors) -> spaces.Space:
    kind, arguments = about["type"], {key: value for key, value in about.items() if key != "type"}
    if kind == "Dict":
        parts = arguments["spaces"].items()
        return spaces.Dict(OrderedDict((key, _space(each, f"{name}.{key}", tensors)) for key, each in parts))
    if kind == "Box":
        low, high = (tensors[f"{name}.{bound}"].numpy() for bound in ("low", "high"))
        return spaces.Box(low, high, dtype=np.dtype(arguments["dtype"]).type)
    known = {"Discrete": spaces.Discrete, "MultiDiscrete": spaces.MultiDiscrete, "MultiBinary": spaces.MultiBinary}
    space: spaces.Space = known[kind](**arguments)
    return space


# What stood between: running means and variances are tensors.


def _plain_trained_on(trained_on: TrainedOn, tensors: Tensors) -> dict[str, Any]:
    statistics = trained_on.statistics
    plain = None
    if statistics is not None:
        plain = {name: getattr(statistics, name) for name in _NUMBERS} | {
            name: _plain_moments(getattr(statistics, name), f"statistics.{name}", tensors) for name in _MOMENTS
        }
    return dataclasses.asdict(dataclasses.replace(trained_on, statistics=None)) | {"statistics": plain}


def _trained_on(about: dict[str, Any], tensors: Tensors) -> TrainedOn:
    plain = about["statistics"]
    statistics = None
    if plain is not None:
        numbers: dict[str, Any] = {name: float(plain[name]) for name in _NUMBERS}
        if not all(0 < number < np.inf for number in numbers.values()):
            raise ValueError(f"its statistics have {numbers}, which should be positive")
        moments = {name: _moments(plain[name], f"statistics.{name}", tensors) for name in _MOMENTS}
        statistics = NormalizationStatistics(**numbers, **moments)
    counts = [about["n_stack"], 1 if about["time_limit"] is None else about["time_limit"]]
    if not all(type(count) is int and count > 0 for count in counts):
        raise ValueError(f"its frame stack and time limit are {counts}, which should be positive whole numbers")
    return TrainedOn(**about | {"statistics": statistics, "wrappers": tuple(map(str, about["wrappers"]))})


def _plain_moments(moments: Moments | Mapping[str, Moments] | None, name: str, tensors: Tensors) -> Any:
    """None, True for one pair of tensors, or a dictionary of these."""
    if isinstance(moments, Mapping):
        return {key: _plain_moments(each, f"{name}.{key}", tensors) for key, each in moments.items()}
    if moments is None:
        return None
    tensors |= {f"{name}.mean": _tensor(moments.mean), f"{name}.var": _tensor(moments.var)}
    return True


def _moments(plain: Any, name: str, tensors: Tensors) -> Any:
    if isinstance(plain, dict):
        return {key: _moments(each, f"{name}.{key}", tensors) for key, each in plain.items()}
    return Moments(tensors[f"{name}.mean"].numpy(), tensors[f"{name}.var"].numpy()) if plain else None


def _tensor(array: np.ndarray) -> th.Tensor:
    return th.from_numpy(np.array(array))  # torch warns of arrays that can't be written to
