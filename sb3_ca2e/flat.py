"""Networks' parameters, and the state of their Adam optimisers, in few flat tensors."""

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch as th
from torch import nn

#: Elements from which a parameter has a tensor of its own: to gather its gradient takes longer than another argument.
LARGE = 2**14


class Layout:
    """
    Which tensor holds which parameters of a network: all small ones together in one, every large one in its own.

    :param module: the network
    """

    def __init__(self, module: nn.Module):
        self.shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        small = [name for name, shape in self.shapes.items() if shape.numel() < LARGE]
        large = [[name] for name, shape in self.shapes.items() if shape.numel() >= LARGE]
        self.groups = [small, *large] if small else large

    def join(self, values: Mapping[str, th.Tensor]) -> list[th.Tensor]:
        """
        :param values: a tensor for each parameter
        :return: ``(elements,)`` new tensors that hold them
        """
        return [th.cat([values[name].detach().flatten() for name in group]) for group in self.groups]

    def split(self, flats: list[th.Tensor]) -> dict[str, th.Tensor]:
        """
        :param flats: as :meth:`join` gives them
        :return: their parts, views, by parameter
        """
        values = {}
        for group, flat in zip(self.groups, flats, strict=True):
            parts = flat.split([self.shapes[name].numel() for name in group])
            values.update({name: part.view(self.shapes[name]) for name, part in zip(group, parts, strict=True)})
        return {name: values[name] for name in self.shapes}


#: As :meth:`FlatAdam.tensors` gives them.
AdamTensors = tuple[list[th.Tensor], list[th.Tensor], th.Tensor, th.Tensor, th.Tensor]


class FlatAdam:
    """
    The state of an Adam or AdamW: the optimiser's own is made of views of it.

    :param optimizer: the optimiser
    :param module: the network that it optimises
    """

    def __init__(self, optimizer: th.optim.Optimizer, module: nn.Module):
        self._optimizer, self._layout, self._named = optimizer, Layout(module), dict(module.named_parameters())
        self.first = self._layout.join({name: th.zeros_like(p) for name, p in self._named.items()})
        self.second = [th.zeros_like(first) for first in self.first]
        # A number for each parameter, as the optimiser has it: all are the same.
        self.steps = th.zeros(len(self._named), device=self.first[0].device)
        # Of the next step: to compute them where they are used would be to compute them for every parameter.
        self.corrections = th.zeros(2, device=self.first[0].device)
        self.rate = th.empty((), device=self.first[0].device)
        self._rate = math.nan
        firsts, seconds = self._layout.split(self.first), self._layout.split(self.second)
        self._views = [
            {"exp_avg": firsts[name], "exp_avg_sq": seconds[name], "step": step}
            for name, step in zip(self._named, self.steps, strict=True)
        ]
        self._states: list[dict[str, th.Tensor]] = []
        self.stepped_elsewhere()

    def tensors(self) -> AdamTensors:
        """
        :return: moments, steps, bias corrections of the next step, and learning rate
        """
        return self.first, self.second, self.steps, self.corrections, self.rate

    def stepped_elsewhere(self) -> None:
        """The optimiser itself has taken a step."""
        self._states = [{}] * len(self._views)

    def update(self) -> bool:
        """
        Take over learning rate and state if they are others now, as after they have been loaded from a file.

        :return: whether there is a state: there is none before the first step
        """
        rate = self._optimizer.param_groups[0]["lr"]
        if rate != self._rate:
            self._rate = float(rate)
            self.rate.fill_(self._rate)
        states = self._optimizer.state
        if not all(map(operator.is_, map(states.get, self._named.values()), self._states)):
            self._states = [states.get(parameter, {}) for parameter in self._named.values()]
            if not all(self._states):
                return False
            for state, views in zip(self._states, self._views, strict=True):
                for key, view in views.items():
                    view.copy_(state[key])
                state.update(views)
            self.corrections.copy_(bias_corrections(self._optimizer.param_groups[0]["betas"], self.steps[0] + 1))
        return True


def flattened(module: nn.Module, layout: Layout) -> list[th.Tensor]:
    """
    Let a network's parameters be views of few tensors.

    :param module: the network
    :param layout: of it
    :return: the tensors
    """
    named = dict(module.named_parameters())
    flats = layout.join(named)
    for name, view in layout.split(flats).items():
        named[name].data = view
    return flats


def adam_settings(optimizer: th.optim.Optimizer) -> dict[str, Any]:
    """
    :param optimizer: Adam or AdamW, with one group of parameters
    :return: what :func:`adam` takes from it
    """
    group = optimizer.param_groups[0]
    return {
        "betas": group["betas"],
        "eps": group["eps"],
        "weight_decay": group["weight_decay"],
        "decoupled": isinstance(optimizer, th.optim.AdamW),
    }


def adam(
    parameter: th.Tensor,
    gradient: th.Tensor,
    first: th.Tensor,
    second: th.Tensor,
    corrections: th.Tensor,
    rate: th.Tensor,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """
    Adam (https://arxiv.org/abs/1412.6980, Algorithm 1), in place, and AdamW (https://arxiv.org/abs/1711.05101).

    :param parameter: to step
    :param gradient: of the same shape, as are the moments
    :param first: moment, of the gradient
    :param second: moment, of its square
    :param corrections: ``(2,)`` of the bias that the moments have from their start at zero
    :param rate: learning rate
    :param betas: of the two moments
    :param eps: added to the square root of the second
    :param weight_decay: L2 penalty
    :param decoupled: decay the weights themselves, not by the gradient
    """
    beta1, beta2 = betas
    if weight_decay and decoupled:
        parameter.mul_(1 - rate * weight_decay)
    elif weight_decay:
        gradient = gradient + weight_decay * parameter
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).add_(gradient.square(), alpha=1 - beta2)
    parameter.sub_(rate / corrections[0] * first / ((second / corrections[1]).sqrt() + eps))


def bias_corrections(betas: tuple[float, float], steps: th.Tensor) -> th.Tensor:
    """
    1 - beta^step of both moments, without the cancellation that a power would bring in the first steps.

    :param betas: of the moments
    :param steps: scalar, the step's number from 1
    :return: ``(2,)``
    """
    return th.stack([-th.expm1(steps * math.log(beta)) if beta > 0 else th.ones_like(steps) for beta in betas])
