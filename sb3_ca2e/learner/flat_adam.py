"""Networks' parameters, and the state of their Adam optimisers, in few flat tensors."""

import math
import operator
from collections.abc import Mapping
from typing import NamedTuple

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


class AdamTensors(NamedTuple):
    """
    An Adam optimiser of the small and large tensors of a :class:`Layout`.

    :param first: moments of the gradients
    :param second: moments of their squares
    :param steps: taken so far, a number for each parameter, as the optimiser has it: all are the same
    :param corrections: ``(2,)`` of the next step's moments: to compute them where they are used would be to compute
        them for every parameter
    :param rate: scalar, learning rate
    :param constants: ``(7,)``, see :func:`adam_constants`
    :param trained: by the tensor's index, bool of its shape: what is trained; none where all of it is
    """

    first: list[th.Tensor]
    second: list[th.Tensor]
    steps: th.Tensor
    corrections: th.Tensor
    rate: th.Tensor
    constants: th.Tensor
    trained: dict[int, th.Tensor]


class FlatAdam:
    """
    The state of an Adam or AdamW: the optimiser's own is made of views of it.

    :param optimizer: the optimiser
    :param module: the network that it optimises
    """

    def __init__(self, optimizer: th.optim.Optimizer, module: nn.Module):
        self._optimizer, named, layout = optimizer, dict(module.named_parameters()), Layout(module)
        self._trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        masks = layout.join({name: th.full_like(p, p.requires_grad, dtype=th.bool) for name, p in named.items()})
        first = layout.join({name: th.zeros_like(p) for name, p in named.items()})
        device = first[0].device
        self.tensors = AdamTensors(
            first,
            [th.zeros_like(moment) for moment in first],
            steps=th.zeros(len(self._trained), device=device),
            corrections=th.zeros(2, device=device),
            rate=th.empty((), device=device),
            constants=th.empty(7, device=device),
            trained={index: mask for index, mask in enumerate(masks) if not mask.all()},
        )
        self._rate, self._constants = math.nan, (math.nan,) * 4
        firsts, seconds = layout.split(self.tensors.first), layout.split(self.tensors.second)
        self._views = [
            {"exp_avg": firsts[name], "exp_avg_sq": seconds[name], "step": step}
            for name, step in zip(self._trained, self.tensors.steps, strict=True)
        ]
        self._states: list[dict[str, th.Tensor]] = []
        self.stepped_elsewhere()

    def stepped_elsewhere(self) -> None:
        """The optimiser itself has taken a step."""
        self._states = [{}] * len(self._views)

    def update(self) -> bool:
        """
        Take over settings and state if they are others now, as after they have been loaded from a file.

        :return: whether there is a state, and one of as many steps for all parameters: there is none before the first
            step, and those that were not trained for a while have taken fewer
        """
        group, states = self._optimizer.param_groups[0], self._optimizer.state
        if group["lr"] != self._rate:
            self._rate = float(group["lr"])
            self.tensors.rate.fill_(self._rate)
        constants = *group["betas"], group["eps"], group["weight_decay"]
        changed = constants != self._constants
        if changed:
            self._constants = constants
            self.tensors.constants.copy_(th.tensor(adam_constants(*map(float, constants))))
        if not all(map(operator.is_, map(states.get, self._trained.values()), self._states)):
            new = [states.get(parameter, {}) for parameter in self._trained.values()]
            if not all(new) or len({float(state["step"]) for state in new}) > 1:
                return False
            for state, views in zip(new, self._views, strict=True):
                for key, view in views.items():
                    view.copy_(state[key])
                state.update(views)
            self._states, changed = new, True
        if changed:
            self.tensors.corrections.copy_(bias_corrections(self.tensors.constants, self.tensors.steps[0] + 1))
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


def decays_weights_themselves(optimizer: th.optim.Optimizer) -> bool:
    """
    :param optimizer: Adam or AdamW, with one group of parameters
    :return: whether it decays weights themselves (https://arxiv.org/abs/1711.05101), not by the gradient
    """
    group = optimizer.param_groups[0]
    return bool(group.get("decoupled_weight_decay", isinstance(optimizer, th.optim.AdamW)))


def adam_constants(beta1: float, beta2: float, eps: float, weight_decay: float) -> list[float]:
    """
    What :func:`adam` takes, computed with the digits that float32 has not.

    :param beta1: of the first moment
    :param beta2: of the second
    :param eps: added to the square root of the second
    :param weight_decay: L2 penalty
    :return: 1 - beta1, beta2, 1 - beta2, eps, weight decay, and the logarithms of both betas
    """
    logarithms = [math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2)]
    return [1 - beta1, beta2, 1 - beta2, eps, weight_decay, *logarithms]


def adam(
    parameter: th.Tensor,
    gradient: th.Tensor,
    first: th.Tensor,
    second: th.Tensor,
    corrections: th.Tensor,
    rate: th.Tensor,
    constants: th.Tensor,
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
    :param constants: ``(7,)``, see :func:`adam_constants`
    :param decoupled: decay the weights themselves, not by the gradient
    """
    one_less_beta1, beta2, one_less_beta2, eps, weight_decay, *_ = constants.unbind()
    if decoupled:
        parameter.mul_(1 - rate * weight_decay)
    else:
        gradient = gradient + weight_decay * parameter
    first.lerp_(gradient, one_less_beta1)
    second.mul_(beta2).add_(one_less_beta2 * gradient.square())
    parameter.sub_(rate / corrections[0] * first / ((second / corrections[1]).sqrt() + eps))


def bias_corrections(constants: th.Tensor, steps: th.Tensor) -> th.Tensor:
    """
    1 - beta^step of both moments, without the cancellation that a power would bring in the first steps.

    :param constants: ``(7,)``, see :func:`adam_constants`
    :param steps: scalar, the step's number from 1
    :return: ``(2,)``
    """
    return -th.expm1(steps * constants[-2:])
