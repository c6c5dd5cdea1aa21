"""An algorithm's update as one compiled function of a few tensors that hold networks and optimizers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from sb3_ca2e.common.layers import Rewritten, copy_of
from sb3_ca2e.learner import flat_adam
from sb3_ca2e.learner.flat_adam import AdamTensors, FlatAdam, Layout, decays_weights_themselves
from sb3_ca2e.replay.samples import PrioritizedReplaySamples

#: Function of the network to optimise that returns the loss and any other detached results.
Loss = Callable[[Any], tuple[th.Tensor, Any]]
#: Result of an update: ``(batch,)`` TD errors, and scalars to log.
Result = tuple[th.Tensor, dict[str, th.Tensor]]


class Functional:
    """
    A network called with parameters from elsewhere.

    :param module: module that defines the computation
    :param values: parameters by name
    """

    def __init__(self, module: nn.Module, values: dict[str, th.Tensor]):
        self.module, self.values = module, values

    def __call__(self, *inputs: Any) -> Any:
        return th.func.functional_call(self.module, self.values, inputs)

    def parameters(self) -> Iterator[th.Tensor]:
        """
        Iterate over the parameters.

        :return: the parameters
        """
        return iter(self.values.values())


@dataclass(eq=False)
class FlatNetworks:
    """
    :class:`~sb3_ca2e.learner.update.Networks` on flat tensors, for the compiler.

    :param modules: modules that define the computation
    :param layouts: layout of each network
    :param parameters: flat parameters of each network; changed in place
    :param adams: optimizer state of each optimised network; changed in place
    :param decoupled: whether each optimizer decays the weights directly
    """

    modules: dict[str, nn.Module]
    layouts: dict[str, Layout]
    parameters: dict[str, list[th.Tensor]]
    adams: dict[str, AdamTensors]
    decoupled: dict[str, bool]

    def __post_init__(self) -> None:
        #: scalar bool: whether all losses and gradients of this update have been finite so far
        self.sound = th.ones((), dtype=th.bool, device=next(iter(self.parameters.values()))[0].device)

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
        finite = th.stack([tensor.isfinite().all() for tensor in (result[0], *gradients)]).all()
        sound = self.sound = self.sound & finite
        if max_grad_norm is not None:
            norm = th.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            scale = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as nn.utils.clip_grad_norm_
            gradients = [gradient * scale for gradient in gradients]
        for index, tensors in enumerate(zip(parameters, state.first, state.second, strict=True)):
            parameter, first, second = stepped = [tensor.clone() for tensor in tensors]  # fused into one loop
            flat_adam.adam(parameter, gradients[index], first, second, state, self.decoupled[name])
            taken = sound & state.trained[index] if index in state.trained else sound
            for tensor, new in zip(tensors, stepped, strict=True):
                tensor.copy_(th.where(taken, new, tensor))
        state.steps.add_(sound)
        state.corrections.copy_(flat_adam.bias_corrections(state.constants, state.steps[0] + 1))
        return result

    def polyak_update(self, target: str, online: str, tau: float) -> None:
        for parameter, followed in zip(self.parameters[target], self.parameters[online], strict=True):
            parameter.copy_(th.where(self.sound, parameter.lerp(followed, tau), parameter))


def taken_for_granted(
    modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]
) -> Callable[[], tuple[Any, ...]]:
    """
    Collect what a compiled update relies on: which tensors networks and optimizers have, and which are trained how.

    :param modules: all networks
    :param optimizers: optimizers by the name of their network
    :return: function that returns some dozen current numbers, fast enough to be called before each round of updates
    """
    layers = [layer for module in modules.values() for layer in module.modules()]
    owned = [each for layer in layers for each in (layer._parameters, layer._modules) if each]
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    trained = [parameter for name in optimizers for parameter in modules[name].parameters()]
    hooks = hooks_of(modules, optimizers)

    def look() -> tuple[Any, ...]:
        return (
            [tuple(map(id, each.values())) for each in owned],
            [parameter.data_ptr() for parameter in parameters],
            [parameter.requires_grad for parameter in trained],
            any(hooks),
            [
                (len(each.param_groups), tuple(map(id, group["params"])), group["amsgrad"], group["maximize"])
                for each in optimizers.values()
                for group in each.param_groups[:1]
            ],
            [decays_weights_themselves(each) for each in optimizers.values()],
        )

    return look


def hooks_of(modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]) -> list[Mapping[int, Any]]:
    """
    Collect PyTorch's dictionaries of hooks.

    :param modules: all networks
    :param optimizers: optimizers by the name of their network
    :return: dictionaries, empty unless hooks are registered
    """
    names = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    hooks = [getattr(layer, name) for module in modules.values() for layer in module.modules() for name in names]
    steps = "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"
    return hooks + [getattr(optimizer, name) for optimizer in optimizers.values() for name in steps]


class FlatUpdate:
    """
    An update as a function of flat tensors.

    Creating one turns the networks' parameters and the optimizers' states into views of these tensors; other code can
    use them as before.

    :param update: the algorithm's update
    :param modules: all networks that the update names
    :param optimizers: optimizers by the name of their network; all have made a step
    :param metrics: names of the scalars that the update logs
    :param priority_floor: constant added to absolute TD errors for the new priorities
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
        self._parameters = {name: flat_adam.flattened(module, self._layouts[name]) for name, module in modules.items()}
        self._adams = {name: FlatAdam(optimizer, modules[name]) for name, optimizer in optimizers.items()}
        self._decoupled = {name: decays_weights_themselves(optimizer) for name, optimizer in optimizers.items()}
        device = next(iter(self._parameters.values()))[0].device
        # Sums of the metrics and the number of skipped updates since the last read; then the number of updates skipped
        # in a row up to now.
        self._tally = th.zeros(len(metrics) + 2, device=device)
        self._since, self._in_a_row = self._tally[:-1], self._tally[-1]
        adams = {name: each.tensors for name, each in self._adams.items()}
        #: the first inputs of the graph, which it writes
        self.state, self._state_spec = tree_flatten((self._parameters, adams, self._tally))
        self._look = taken_for_granted(modules, optimizers)
        self._found = self._look()
        self._used: list[int] = []

    def holds(self) -> bool:
        """
        Check whether networks and optimizers are still as when this was created.

        :return: True if nothing has changed
        """
        return self._look() == self._found

    def update_state(self) -> bool:
        """
        Copy changes of the optimizers' settings and states.

        :return: whether all optimizers have a state
        """
        return all(each.update() for each in self._adams.values())

    def stepped_elsewhere(self) -> None:
        """Note that the optimizers themselves have made a step."""
        for each in self._adams.values():
            each.stepped_elsewhere()
        self._in_a_row.zero_()

    def take_sums(self) -> tuple[list[float], int, int]:
        """
        Read and reset the sums.

        :return: sums of the scalars over all updates not skipped since the last call, number of skipped updates, and
            number of updates skipped in a row up to now
        """
        *sums, skipped, in_a_row = self._tally.tolist()
        self._since.zero_()
        return sums, int(skipped), int(in_a_row)

    def inputs(self, batch: PrioritizedReplaySamples) -> list[th.Tensor]:
        """
        Return a batch as input of the graph.

        :param batch: a batch
        :return: contiguous tensors that follow :attr:`state`
        """
        tensors = batch.tensors()
        return [tensors[index].contiguous() for index in self._used]

    def trace(self, batch: PrioritizedReplaySamples) -> GraphModule:
        """
        Record the operations of an update.

        :param batch: example batch; all batches must be like it
        :return: graph from :attr:`state` and :meth:`inputs` to TD errors and priorities
        """
        tensors = [tensor.contiguous() for tensor in batch.tensors()]
        modules = {name: copy_of(module) for name, module in self._modules.items()}  # modules may keep recorded tensors

        def function(*tensors: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            state, inputs = list(tensors[: len(self.state)]), tensors[len(self.state) :]
            parameters, adams, tally = tree_unflatten(state, self._state_spec)
            networks = FlatNetworks(modules, self._layouts, parameters, adams, self._decoupled)
            with th.no_grad(), Rewritten():
                td_errors, metrics = self._update(networks, batch.holding(map(_channels_last, inputs)))
                sound = networks.sound
                *sums, skipped, in_a_row = tally.unbind()
                sums = [total + th.where(sound, metrics[n], 0.0) for n, total in zip(self._metrics, sums, strict=True)]
                tally.copy_(th.stack([*sums, skipped + ~sound, (in_a_row + 1.0) * ~sound]))
                return td_errors, td_errors.abs().double() + self._priority_floor

        graph: GraphModule = make_fx(function, tracing_mode="fake")(*self.state, *tensors)
        placeholders = graph.graph.find_nodes(op="placeholder")[len(self.state) :]
        self._used = [index for index, node in enumerate(placeholders) if node.users]
        for node in placeholders:
            if not node.users:
                graph.graph.erase_node(node)
        graph.recompile()
        return graph


def _channels_last(tensor: th.Tensor) -> th.Tensor:
    """
    Use the memory format that convolutions on a CPU prefer; otherwise the compiler copies images and activations twice.
    """
    return tensor.contiguous(memory_format=th.channels_last) if tensor.is_cpu and tensor.dim() == 4 else tensor


def obstacle_to_compiling(modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]) -> str | None:
    """
    Explain why a compiled update would compute something else.

    :param modules: all networks
    :param optimizers: optimizers by the name of their network
    :return: the reason, None if it would not
    """
    for name, module in modules.items():
        if any(True for _ in module.buffers()):
            return f"{name} has buffers that change as it runs (BatchNorm?)"
        if any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in module.modules()):
            return f"{name} has dropout"
        if len({(parameter.dtype, parameter.device) for parameter in module.parameters()}) != 1:
            return f"{name} has parameters of several types or on several devices, or none"
    if any(hooks_of(modules, optimizers)):
        return "hooks are registered, which would not be called"
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
            return f"{name} has no trainable parameters"
        if not trained <= set(group["params"]) <= set(parameters):
            return f"the optimizer of {name} has other parameters than {name}"
    return None
