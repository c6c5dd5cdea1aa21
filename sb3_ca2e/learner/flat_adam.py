"""Networks' parameters and the states of their Adam optimizers in a few flat tensors."""

import math
import operator
from collections.abc import Mapping
from typing import NamedTuple

import torch as th
from torch import nn

#: Elements from which a parameter gets its own tensor: copying its gradient takes longer than passing another argument.
LARGE = 2**14


class Layout:
    """
    Assigns a network's parameters to tensors: one for all small ones, and one for each large one.

    :param module: network
    """

    def __init__(self, module: nn.Module):
        self.shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        small = [name for name, shape in self.shapes.items() if shape.numel() < LARGE]
        large = [[name] for name, shape in self.shapes.items() if shape.numel() >= LARGE]
        self.groups = [small, *large] if small else large

    def join(self, values: Mapping[str, th.Tensor]) -> list[th.Tensor]:
        """
        Join parameters to flat tensors.

        :param values: a tensor for each parameter by name
        :return: new tensors of shape ``(elements,)``
        """
        return [th.cat([values[name].detach().flatten() for name in group]) for group in self.groups]

    def split(self, flats: list[th.Tensor]) -> dict[str, th.Tensor]:
        """
        Split flat tensors into parameters.

        :param flats: result of :meth:`join`
        :return: views by parameter name
        """
        values = {}
        for group, flat in zip(self.groups, flats, strict=True):
            parts = flat.split([self.shapes[name].numel() for name in group])
            values.update({name: part.view(self.shapes[name]) for name, part in zip(group, parts, strict=True)})
        return {name: values[name] for name in self.shapes}


class AdamTensors(NamedTuple):
    """
    State of an Adam optimizer on the tensors of a :class:`Layout`.

    :param first: first moments of the gradients
    :param second: second moments of the gradients
    :param steps: number of steps for each parameter, as in the optimizer; all are equal
    :param corrections: ``(2,)`` bias corrections of the next step, computed in advance: computing them where they are
        used would repeat it for each parameter
    :param rate: learning rate, a scalar
    :param constants: ``(7,)`` result of :func:`adam_constants`
    :param trained: by index of the tensor, a mask of its trained elements; tensors that are trained as a whole are
        missing
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
    The state of Adam or AdamW in flat tensors; the optimizer's own state consists of views of them.

    :param optimizer: optimizer
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
        """Note that the optimizer itself has made a step."""
        self._states = [{}] * len(self._views)

    def update(self) -> bool:
        """
        Copy settings and state if they have changed, for example after being loaded from a file.

        :return: whether there is a state with equal numbers of steps for all parameters: there is none before the first
            step, and parameters that were not trained for a while have fewer
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
    Turn a network's parameters into views of a few tensors.

    :param module: network
    :param layout: layout of the network
    :return: the tensors
    """
    named = dict(module.named_parameters())
    flats = layout.join(named)
    for name, view in layout.split(flats).items():
        named[name].data = view
    return flats


def decays_weights_themselves(optimizer: th.optim.Optimizer) -> bool:
    """
    Check whether an optimizer decays weights directly (https://arxiv.org/abs/1711.05101), not through the gradient.

    :param optimizer: Adam or AdamW with one parameter group
    :return: True for decoupled weight decay
    """
    group = optimizer.param_groups[0]
    return bool(group.get("decoupled_weight_decay", isinstance(optimizer, th.optim.AdamW)))


def adam_constants(beta1: float, beta2: float, eps: float, weight_decay: float) -> list[float]:
    """
    Compute the constants of :func:`adam` in double precision.

    :param beta1: decay rate of the first moment
    :param beta2: decay rate of the second moment
    :param eps: added to the square root of the second moment
    :param weight_decay: L2 penalty
    :return: 1 - beta1, beta2, 1 - beta2, eps, weight decay, and the logarithms of both betas
    """
    logarithms = [math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2)]
    return [1 - beta1, beta2, 1 - beta2, eps, weight_decay, *logarithms]


def adam(
    parameter: th.Tensor, gradient: th.Tensor, first: th.Tensor, second: th.Tensor, state: AdamTensors, decoupled: bool
) -> None:
    """
    Make a step of Adam (https://arxiv.org/abs/1412.6980, Algorithm 1) or AdamW (https://arxiv.org/abs/1711.05101) in
    place.

    :param parameter: parameter to change
    :param gradient: gradient; same shape, like the moments
    :param first: first moment
    :param second: second moment
    :param state: corrections, rate and constants
    :param decoupled: whether to decay the weights directly, not through the gradient
    """
    one_less_beta1, beta2, one_less_beta2, eps, weight_decay, *_ = state.constants.unbind()
    if decoupled:
        parameter.mul_(1 - state.rate * weight_decay)
    else:
        gradient = gradient + weight_decay * parameter
    first.lerp_(gradient, one_less_beta1)
    second.mul_(beta2).add_(one_less_beta2 * gradient.square())
    parameter.sub_(state.rate / state.corrections[0] * first / ((second / state.corrections[1]).sqrt() + eps))


def bias_corrections(constants: th.Tensor, steps: th.Tensor) -> th.Tensor:
    """
    Compute 1 - beta^step for both moments, without the cancellation of a power in the first steps.

    :param constants: ``(7,)`` result of :func:`adam_constants`
    :param steps: number of the step from 1, a scalar
    :return: ``(2,)`` corrections
    """
    return -th.expm1(steps * constants[-2:])
