"""An algorithm's update as one compiled function of a few tensors, which networks and optimisers share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch as th
from torch import nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from sb3_ca2e.common.layers import Rewritten, copy_of
from sb3_ca2e.learner.flat_adam import (
    AdamTensors,
    FlatAdam,
    Layout,
    adam,
    bias_corrections,
    decays_weights_themselves,
    flattened,
)
from sb3_ca2e.replay.samples import PrioritizedReplaySamples

#: A loss to minimise, given the network to optimise, and whatever else its author wants back, detached.
Loss = Callable[[Any], tuple[th.Tensor, Any]]
#: What an update gives: ``(batch,)`` TD errors, and scalars to log.
Result = tuple[th.Tensor, dict[str, th.Tensor]]


class Functional:
    """
    A network that takes its parameters from elsewhere.

    :param module: what it computes
    :param values: its parameters, by name
    """

    def __init__(self, module: nn.Module, values: dict[str, th.Tensor]):
        self.module, self.values = module, values

    def __call__(self, *inputs: Any) -> Any:
        return th.func.functional_call(self.module, self.values, inputs)

    def parameters(self) -> Iterator[th.Tensor]:
        """
        :return: its parameters
        """
        return iter(self.values.values())


class FlatNetworks:
    """
    :class:`~sb3_ca2e.learner.update.Networks` written with flat tensors, as compilers want it.

    :param modules: what the networks compute
    :param layouts: of the networks
    :param parameters: of each network; written in place
    :param adams: of each optimised network; moments and steps are written in place
    :param decoupled: of each optimiser, whether it decays the weights themselves
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        layouts: dict[str, Layout],
        parameters: dict[str, list[th.Tensor]],
        adams: dict[str, AdamTensors],
        decoupled: dict[str, bool],
    ):
        self.modules, self.layouts, self.decoupled = modules, layouts, decoupled
        self.parameters, self.adams = parameters, adams
        #: scalar bool, all losses and gradients of the update have been finite so far
        self.sound = th.ones((), dtype=th.bool, device=next(iter(parameters.values()))[0].device)

    def __call__(self, name: str) -> Functional:
        return Functional(self.modules[name], self.layouts[name].split(self.parameters[name]))

    def optimize(self, name: str, loss: Loss, max_grad_norm: float | None = None) -> tuple[th.Tensor, Any]:
        def of(flats: list[th.Tensor]) -> tuple[th.Tensor, Any]:
            value, others = loss(Functional(self.modules[name], self.layouts[name].split(flats)))
            return value, (value.detach(), others)

        parameters, state = self.parameters[name], self.adams[name]
        result: tuple[th.Tensor, Any]
        gradients, result = th.func.grad(of, has_aux=True)(parameters)
        for index, trained in state.trained.items():
            gradients[index] = th.where(trained, gradients[index], 0.0)
        sound = self.sound = self.sound & all_finite([result[0], *gradients])
        if max_grad_norm is not None:
            norm = th.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            scale = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as nn.utils.clip_grad_norm_
            gradients = [gradient * scale for gradient in gradients]
        for index, tensors in enumerate(zip(parameters, state.first, state.second, strict=True)):
            parameter, first, second = stepped = [tensor.clone() for tensor in tensors]  # the compiler makes one loop
            settings = state.corrections, state.rate, state.constants, self.decoupled[name]
            adam(parameter, gradients[index], first, second, *settings)
            taken = sound & state.trained[index] if index in state.trained else sound
            for tensor, new in zip(tensors, stepped, strict=True):
                tensor.copy_(th.where(taken, new, tensor))
        state.steps.add_(sound)
        state.corrections.copy_(bias_corrections(state.constants, state.steps[0] + 1))
        return result

    def polyak_update(self, target: str, online: str, tau: float) -> None:
        for parameter, followed in zip(self.parameters[target], self.parameters[online], strict=True):
            parameter.copy_(th.where(self.sound, parameter.lerp(followed, tau), parameter))


def all_finite(tensors: Sequence[th.Tensor]) -> th.Tensor:
    """
    :param tensors: of any shapes, on one device
    :return: scalar bool, whether all their numbers are finite
    """
    return th.stack([tensor.isfinite().all() for tensor in tensors]).all()


class TakenForGranted:
    """
    What a compiled update says once for all: of which tensors networks consist, which are trained, and how.

    To look is to compare some dozen numbers: it is done before every round of updates.

    :param modules: all networks
    :param optimizers: by the name of the network that they optimise
    """

    def __init__(self, modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]):
        self._layers = [layer for module in modules.values() for layer in module.modules()]
        owned = [each for layer in self._layers for each in (layer._parameters, layer._modules)]
        self._owned = [each for each in owned if each]
        self._parameters = [parameter for module in modules.values() for parameter in module.parameters()]
        self._trained = [parameter for name in optimizers for parameter in modules[name].parameters()]
        self._hooks, self._optimizers = hooks_of(modules, optimizers), list(optimizers.values())
        self._found = self._look()

    def holds(self) -> bool:
        """
        :return: whether all is as it was
        """
        return self._look() == self._found

    def _look(self) -> tuple[Any, ...]:
        return (
            [tuple(map(id, owned.values())) for owned in self._owned],
            [parameter.data_ptr() for parameter in self._parameters],
            [parameter.requires_grad for parameter in self._trained],
            any(self._hooks),
            [
                (len(each.param_groups), tuple(map(id, group["params"])), group["amsgrad"], group["maximize"])
                for each in self._optimizers
                for group in each.param_groups[:1]
            ],
            [decays_weights_themselves(each) for each in self._optimizers],
        )


def hooks_of(modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]) -> list[Mapping[int, Any]]:
    """
    :param modules: all networks
    :param optimizers: by the name of the network that they optimise
    :return: where PyTorch keeps what else is to be called; empty unless somebody has asked for something
    """
    names = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    hooks = [getattr(layer, name) for module in modules.values() for layer in module.modules() for name in names]
    steps = "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"
    return hooks + [getattr(optimizer, name) for optimizer in optimizers.values() for name in steps]


class FlatUpdate:
    """
    An update as a function of flat tensors.

    To make one turns the networks' parameters and the optimisers' states into views of them, which changes nothing for
    whoever uses them.

    :param update: the algorithm's
    :param modules: all networks that it names
    :param optimizers: by the name of the network that they optimise; all have taken a step
    :param metrics: names of the scalars that it gives to log
    :param priority_floor: added to absolute TD errors, for the new priorities
    """

    def __init__(
        self,
        update: Callable[[Any, PrioritizedReplaySamples], Result],
        modules: dict[str, nn.Module],
        optimizers: dict[str, th.optim.Optimizer],
        metrics: Sequence[str],
        priority_floor: float,
    ):
        self._update, self._modules, self._metrics, self._priority_floor = update, modules, metrics, priority_floor
        self._layouts = {name: Layout(module) for name, module in modules.items()}
        self._parameters = {name: flattened(module, self._layouts[name]) for name, module in modules.items()}
        self._adams = {name: FlatAdam(optimizer, modules[name]) for name, optimizer in optimizers.items()}
        self._decoupled = {name: decays_weights_themselves(optimizer) for name, optimizer in optimizers.items()}
        device = next(iter(self._parameters.values()))[0].device
        # Since this was last looked at, sums of the metrics and how many updates were skipped; then how many of these
        # came last, without another.
        self._tally = th.zeros(len(metrics) + 2, device=device)
        self._since, self._in_a_row = self._tally[:-1], self._tally[-1]
        self._state, self._state_spec = tree_flatten(
            (self._parameters, {name: each.tensors for name, each in self._adams.items()}, self._tally)
        )
        self._taken_for_granted = TakenForGranted(modules, optimizers)
        self._used: list[int] = []

    def holds(self) -> bool:
        """
        :return: whether networks and optimisers are still as they were when this was made
        """
        return self._taken_for_granted.holds()

    def update_state(self) -> bool:
        """
        Take over what has changed in the optimisers.

        :return: whether all have a state
        """
        return all(each.update() for each in self._adams.values())

    def stepped_elsewhere(self) -> None:
        """The optimisers themselves have taken a step."""
        for each in self._adams.values():
            each.stepped_elsewhere()
        self._in_a_row.zero_()

    def take_sums(self) -> tuple[list[float], int, int]:
        """
        :return: sums of the scalars to log, over all updates since this was last called that were not skipped; how many
            were skipped; and how many just now, one after the other
        """
        *sums, skipped, in_a_row = self._tally.tolist()
        self._since.zero_()
        return sums, int(skipped), int(in_a_row)

    def inputs(self, batch: PrioritizedReplaySamples) -> list[th.Tensor]:
        """
        :param batch: a batch
        :return: the tensors that the graph takes after those of the state, without gaps
        """
        tensors = batch.tensors()
        return [tensors[index].contiguous() for index in self._used]

    @property
    def state(self) -> list[th.Tensor]:
        """The tensors that the graph takes first, and writes."""
        return self._state

    def trace(self, batch: PrioritizedReplaySamples) -> GraphModule:
        """
        :param batch: as all of them will be
        :return: the operations of an update, from :attr:`state` and :meth:`inputs` to TD errors and priorities
        """
        tensors = [tensor.contiguous() for tensor in batch.tensors()]
        modules = {name: copy_of(module) for name, module in self._modules.items()}  # which may keep what is recorded

        def function(*tensors: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            state, inputs = list(tensors[: len(self._state)]), tensors[len(self._state) :]
            parameters, adams, tally = tree_unflatten(state, self._state_spec)
            networks = FlatNetworks(modules, self._layouts, parameters, adams, self._decoupled)
            with th.no_grad(), Rewritten():
                td_errors, metrics = self._update(networks, batch.holding(map(_channels_last, inputs)))
                sound = networks.sound
                *sums, skipped, in_a_row = tally.unbind()
                sums = [total + th.where(sound, metrics[n], 0.0) for n, total in zip(self._metrics, sums, strict=True)]
                tally.copy_(th.stack([*sums, skipped + ~sound, (in_a_row + 1.0) * ~sound]))
                return td_errors, td_errors.abs().double() + self._priority_floor

        graph: GraphModule = make_fx(function, tracing_mode="fake")(*self._state, *tensors)
        placeholders = graph.graph.find_nodes(op="placeholder")[len(self._state) :]
        self._used = [index for index, node in enumerate(placeholders) if node.users]
        for node in placeholders:
            if not node.users:
                graph.graph.erase_node(node)
        graph.recompile()
        return graph


def _channels_last(tensor: th.Tensor) -> th.Tensor:
    """Images as convolutions on a CPU want them, else the compiler copies them, and what layers make of them, twice."""
    return tensor.contiguous(memory_format=th.channels_last) if tensor.is_cpu and tensor.dim() == 4 else tensor


def obstacle_to_compiling(modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]) -> str | None:
    """
    :param modules: all networks
    :param optimizers: by the name of the network that they optimise
    :return: why the compiled update would compute something else, None if it would not
    """
    for name, module in modules.items():
        if any(True for _ in module.buffers()):
            return f"{name} has buffers that change as it runs (BatchNorm?)"
        if any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in module.modules()):
            return f"{name} has dropout"
        if len({(parameter.dtype, parameter.device) for parameter in module.parameters()}) != 1:
            return f"{name} has parameters of several types or on several devices, or none"
    if any(hooks_of(modules, optimizers)):
        return "somebody has registered hooks, which would not be called"
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    if len(set(parameters)) < len(parameters):
        return "networks share parameters"
    for name, optimizer in optimizers.items():
        group = optimizer.param_groups[0]
        if type(optimizer) not in (th.optim.Adam, th.optim.AdamW) or len(optimizer.param_groups) > 1:
            return f"the optimizer is {type(optimizer).__name__}, not Adam or AdamW with one group of parameters"
        if group["amsgrad"] or group["maximize"]:
            return "the optimizer has amsgrad or maximize set"
        parameters = list(modules[name].parameters())
        trained = {parameter for parameter in parameters if parameter.requires_grad}
        if not trained:
            return f"{name} has nothing to train"
        if not trained <= set(group["params"]) <= set(parameters):
            return f"the optimizer of {name} has other parameters than {name}"
    return None
