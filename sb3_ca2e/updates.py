"""An algorithm's update as one function of networks, optimiser states and a batch, run eagerly or compiled."""

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch as th
from stable_baselines3.common.utils import polyak_update
from torch import nn

from sb3_ca2e.replay.samples import PrioritizedReplaySamples

#: What an update gives: ``(batch,)`` TD errors, and scalars to log.
Result = tuple[th.Tensor, dict[str, th.Tensor]]
#: A loss to minimise, given the network to optimise, and whatever else its author wants back, detached.
Loss = Callable[[Any], tuple[th.Tensor, Any]]


class Networks(Protocol):
    """
    What an algorithm's update is written with, so that the same lines run eagerly and compiled.

    Its networks are called by their names: ``networks("critic")(observations, actions)``.
    """

    def __call__(self, name: str) -> Any: ...

    def minimise(self, name: str, loss: Loss, max_grad_norm: float | None = None) -> tuple[th.Tensor, Any]:
        """
        One step of a network's optimiser.

        :param name: the network
        :param loss: of the network
        :param max_grad_norm: clip the norm of the gradient to it
        :return: the loss, detached, and what ``loss`` gave beside it
        """

    def follow(self, target: str, online: str, tau: float) -> None:
        """
        Let a target network follow: theta^- <- tau theta + (1 - tau) theta^-.

        :param target: the target network
        :param online: the network that it follows
        :param tau: how far
        """


class EagerNetworks:
    """
    Networks and optimisers of any kind.

    :param modules: by name
    :param optimizers: by the name of the network that they optimise
    """

    def __init__(self, modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]):
        self.modules, self.optimizers = modules, optimizers

    def __call__(self, name: str) -> nn.Module:
        return self.modules[name]

    def minimise(self, name: str, loss: Loss, max_grad_norm: float | None = None) -> tuple[th.Tensor, Any]:
        module, optimizer = self.modules[name], self.optimizers[name]
        value, others = loss(module)
        optimizer.zero_grad()
        value.backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
        optimizer.step()
        return value.detach(), others

    def follow(self, target: str, online: str, tau: float) -> None:
        polyak_update(self.modules[online].parameters(), self.modules[target].parameters(), tau)


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


#: Of each optimised network and each of its parameters: the moments and the number of steps that Adam keeps.
AdamStates = dict[str, dict[str, dict[str, th.Tensor]]]


class TracedNetworks:
    """
    The same, written with tensors that are arguments of one function, as compilers want it.

    :param modules: what the networks compute
    :param parameters: by network and name; written in place
    :param states: of the optimisers; written in place
    :param rates: learning rates by network, scalar tensors
    :param adams: settings of the optimisers
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        parameters: dict[str, dict[str, th.Tensor]],
        states: AdamStates,
        rates: dict[str, th.Tensor],
        adams: dict[str, dict[str, Any]],
    ):
        self.modules, self.parameters, self.states, self.rates, self.adams = modules, parameters, states, rates, adams

    def __call__(self, name: str) -> Functional:
        return Functional(self.modules[name], self.parameters[name])

    def minimise(self, name: str, loss: Loss, max_grad_norm: float | None = None) -> tuple[th.Tensor, Any]:
        module = self.modules[name]

        def of(values: dict[str, th.Tensor]) -> tuple[th.Tensor, Any]:
            value, others = loss(Functional(module, values))
            return value, (value.detach(), others)

        result: tuple[th.Tensor, Any]
        gradients, result = th.func.grad(of, has_aux=True)(self.parameters[name])
        if max_grad_norm is not None:
            norm = th.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
            scale = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as nn.utils.clip_grad_norm_
            gradients = {key: gradient * scale for key, gradient in gradients.items()}
        for key, gradient in gradients.items():
            adam(self.parameters[name][key], gradient, self.states[name][key], self.rates[name], **self.adams[name])
        return result

    def follow(self, target: str, online: str, tau: float) -> None:
        for key, parameter in self.parameters[target].items():
            parameter.lerp_(self.parameters[online][key], tau)


def adam(
    parameter: th.Tensor,
    gradient: th.Tensor,
    state: dict[str, th.Tensor],
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
    :param gradient: of the same shape
    :param state: as ``torch.optim.Adam`` keeps it: ``exp_avg``, ``exp_avg_sq``, ``step``
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
    step = state["step"].add_(1)
    first = state["exp_avg"].lerp_(gradient, 1 - beta1)
    second = state["exp_avg_sq"].mul_(beta2).add_(gradient.square(), alpha=1 - beta2)
    corrected = (second / (1 - beta2**step)).sqrt() + eps
    parameter.sub_(rate / (1 - beta1**step) * first / corrected)


class Learner:
    """
    Runs an algorithm's update, eagerly at first, and compiled as soon as a compiler has finished beside it.

    :param update: the algorithm's
    :param modules: all networks that it names
    :param optimizers: by the name of the network that they optimise
    :param settings: whatever else the update depends on; what is compiled holds for one value of it
    """

    def __init__(
        self,
        update: Callable[[Networks, PrioritizedReplaySamples], Result],
        modules: dict[str, nn.Module],
        optimizers: dict[str, th.optim.Optimizer],
        settings: Callable[[], tuple[Any, ...]] = tuple,
    ):
        self._update, self._settings = update, settings
        self._eager = EagerNetworks(modules, optimizers)
        self._arguments = Arguments(modules, optimizers)
        self._compiler: threading.Thread | None = None
        self._compiled: tuple[tuple[Any, ...], Callable[..., Result]] | None = None
        #: why updates stay eager, None if they need not
        self.obstacle = _obstacle(modules, optimizers)

    def update(self, batch: PrioritizedReplaySamples) -> Result:
        """
        One update.

        :param batch: what to learn from
        :return: TD errors, and what to log
        """
        if self._compiled is not None:
            key, compiled = self._compiled
            if key == self._key(batch):
                return compiled(*self._arguments.current(), batch)
        return self._update(self._eager, batch)

    @property
    def compiled(self) -> bool:
        """Whether compiled updates run."""
        return self._compiled is not None

    def compile(self, batch: PrioritizedReplaySamples, wait: bool = False) -> None:
        """
        Begin to compile, once; updates go on meanwhile.

        :param batch: as all of them will be; an update must have been made, so that the optimisers have states
        :param wait: until it is done
        """
        if self._compiler is None and self.obstacle is None:
            # The compiler's first run is on copies, as it learns something.
            arguments = _copied((*self._arguments.current(), batch))
            self._compiler = threading.Thread(target=self._compile, args=(self._key(batch), arguments), name="compile")
            self._compiler.start()
        if wait and self._compiler is not None:
            self._compiler.join()

    def _key(self, batch: PrioritizedReplaySamples) -> tuple[Any, ...]:
        return batch.rewards.shape, batch.rewards.device, *self._settings()

    def _compile(self, key: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        def traced(
            parameters: Tensors, states: AdamStates, rates: dict[str, th.Tensor], batch: PrioritizedReplaySamples
        ) -> Result:
            with th.no_grad():
                return self._update(TracedNetworks(modules, parameters, states, rates, adams), batch)

        modules = self._eager.modules
        adams = {name: _adam_settings(optimizer) for name, optimizer in self._eager.optimizers.items()}
        # Guards that ask of every layer whether it is still the same take as long as the layers: the key says it. What
        # is compiled belongs to a code object, of which each learner therefore needs its own.
        traced.__code__ = traced.__code__.replace()
        options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
        if arguments[-1].rewards.is_cpu:
            options["cpp_wrapper"] = True  # calls the kernels from C++: half the time of small networks is the calling
        compiled = th.compile(traced, fullgraph=True, dynamic=False, options=options)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compiled(*arguments)
        except Exception as error:  # no compiler, or networks that it can't trace: learning goes on as it did
            self.obstacle = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        else:
            self._compiled = key, compiled


#: By network and parameter.
Tensors = dict[str, dict[str, th.Tensor]]


class Arguments:
    """
    What a compiled update reads and writes: the very tensors of networks and optimisers.

    :param modules: all networks, by name
    :param optimizers: by the name of the network that they optimise
    """

    def __init__(self, modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]):
        self._optimizers = optimizers
        self._named = {name: dict(modules[name].named_parameters()) for name in optimizers}
        self._parameters = {n: {k: p.detach() for k, p in m.named_parameters()} for n, m in modules.items()}
        self._states: AdamStates = {}
        self._rates: dict[str, th.Tensor] = {}
        self._rate_values: dict[str, float] = {}

    def current(self) -> tuple[Tensors, AdamStates, dict[str, th.Tensor]]:
        """
        :return: parameters, optimiser states, and learning rates
        """
        for name, optimizer in self._optimizers.items():
            own = self._states.get(name, {})
            for key, parameter in self._named[name].items():
                if own.get(key) is not optimizer.state[parameter]:  # new, or loaded from a file
                    own[key] = optimizer.state[parameter]
            self._states[name] = own
            rate = float(optimizer.param_groups[0]["lr"])
            if self._rate_values.get(name) != rate:
                device = next(iter(self._parameters[name].values())).device
                self._rates.setdefault(name, th.empty((), device=device)).fill_(rate)
                self._rate_values[name] = rate
        return self._parameters, self._states, self._rates


def _adam_settings(optimizer: th.optim.Optimizer) -> dict[str, Any]:
    group = optimizer.param_groups[0]
    return {
        "betas": group["betas"],
        "eps": group["eps"],
        "weight_decay": group["weight_decay"],
        "decoupled": isinstance(optimizer, th.optim.AdamW),
    }


def _obstacle(modules: dict[str, nn.Module], optimizers: dict[str, th.optim.Optimizer]) -> str | None:
    """What the compiled update does not know: it would compute something else."""
    for name, module in modules.items():
        if any(True for _ in module.buffers()):
            return f"{name} has buffers that change as it runs (BatchNorm?)"
        if any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in module.modules()):
            return f"{name} has dropout"
    for optimizer in optimizers.values():
        group = optimizer.param_groups[0]
        if type(optimizer) not in (th.optim.Adam, th.optim.AdamW) or len(optimizer.param_groups) > 1:
            return f"the optimizer is {type(optimizer).__name__}, not Adam or AdamW with one group of parameters"
        if group["amsgrad"] or group["maximize"]:
            return "the optimizer has amsgrad or maximize set"
    return None


def _copied(value: Any) -> Any:
    if isinstance(value, th.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, PrioritizedReplaySamples):
        return PrioritizedReplaySamples(*map(_copied, value))
    return tuple(map(_copied, value))
