"""Notices when layers, parameters or buffers of networks are replaced."""

import itertools
import operator
from collections.abc import Iterable
from types import FunctionType
from typing import Any

import torch as th


class NetworkParts:
    """
    Remembers what networks consist of. Comparing takes microseconds; walking through all layers takes much longer.

    :param networks: the networks
    """

    def __init__(self, networks: Iterable[th.nn.Module]):
        layers = [layer for network in networks for layer in network.modules()]
        self._owned = [part for layer in layers for part in (layer._parameters, layer._buffers, layer._modules)]
        self._found = self._now()

    def replaced(self) -> bool:
        """
        Check for layers, parameters and buffers that were not there.

        :return: whether there are any, or some are missing
        """
        now = self._now()
        return len(now) != len(self._found) or not all(map(operator.is_, now, self._found))

    def _now(self) -> list[Any]:
        return [*itertools.chain.from_iterable(part.values() for part in self._owned)]


def kinds_of(networks: dict[str, th.nn.Module]) -> list[Any]:
    """
    Describe networks but for the values of their parameters: what compares equal computes the same.

    Attributes of layers other than plain values, classes and functions are not looked at.

    :param networks: networks by name
    :return: a description of each layer
    """
    return [(name, path, *_kind(layer)) for name, each in networks.items() for path, layer in each.named_modules()]


def _kind(layer: th.nn.Module) -> tuple[Any, ...]:
    plain = (bool, int, float, str, tuple, type, FunctionType, type(None))
    settings = {name: value for name, value in vars(layer).items() if isinstance(value, plain) and name != "training"}
    tensors = itertools.chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False))
    return type(layer), layer.extra_repr(), settings, [(name, each.shape, each.dtype) for name, each in tensors]
