"""Functions of networks, written as compilers and devices want them."""

from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn
from torch.overrides import TorchFunctionMode

from sb3_ca2e.common import copying


class Rewritten(TorchFunctionMode):
    """While it is entered, the functions below take the place of PyTorch's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = WRITTEN.get(func)
        return (func if written is None else written)(*args, **(kwargs or {}))


def copy_of(module: nn.Module) -> nn.Module:
    """
    Pickled, as a network may keep results of its last pass, which ``deepcopy`` refuses.

    :param module: a network
    :return: a copy, without the optimiser that SB3 hangs onto networks, whose parameters are parts of nothing larger
    """
    optimizer = module.__dict__.pop("optimizer", None)
    try:
        copied: nn.Module = copying.copy(module)
    finally:
        if optimizer is not None:
            module.optimizer = optimizer
    copied._apply(th.clone)
    return copied


def one_hot(tensor: th.Tensor, num_classes: int) -> th.Tensor:
    """
    ``nn.functional.one_hot`` without PyTorch's look at the numbers, which can't be recorded.

    :param tensor: ``(...)`` int64
    :param num_classes: number of classes
    :return: ``(..., num_classes)`` int64
    """
    return (tensor.unsqueeze(-1) == th.arange(num_classes, device=tensor.device)).long()


def linear(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
    """
    ``nn.functional.linear``, on a GPU with the bias apart. The compiler would make one operation of a product and a
    sum, but not of a difference; for that operation, cuBLASLt takes kernels that are slow on small networks.

    :param inputs: ``(batch, in_features)``
    :param weight: ``(out_features, in_features)``
    :param bias: ``(out_features,)``
    :return: ``(batch, out_features)``
    """
    if bias is None or not inputs.is_cuda:
        return nn.functional.linear(inputs, weight, bias)
    return inputs @ weight.t() - (-bias)


def conv2d(
    inputs: th.Tensor,
    weight: th.Tensor,
    bias: th.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> th.Tensor:
    """
    ``nn.functional.conv2d``, on a GPU without a stride where the kernel is a multiple of it: see
    :func:`without_stride`.

    :param inputs: ``(batch, channels, height, width)``
    :param weight: ``(filters, channels, kernel height, kernel width)``
    :param bias: ``(filters,)``
    :param stride: of the filters
    :param padding: around the images
    :param dilation: of the filters
    :param groups: of channels
    :return: ``(batch, filters, ...)``
    """
    plain = isinstance(stride, tuple) and (padding, dilation, groups) == ((0, 0), (1, 1), 1)
    if inputs.is_cuda and plain and stride[0] == stride[1] > 1 and all(n % stride[0] == 0 for n in weight.shape[2:]):
        return without_stride(inputs, weight, bias, stride[0])
    return nn.functional.conv2d(inputs, weight, bias, stride, padding, dilation, groups)


def without_stride(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, stride: int) -> th.Tensor:
    """
    A convolution whose steps of ``stride`` pixels have become channels. The first layers of image networks have few
    channels and large steps, with which tensor cores can't do much.

    :param inputs: ``(batch, channels, height, width)``
    :param weight: ``(filters, channels, kernel height, kernel width)``, multiples of the stride
    :param bias: ``(filters,)``
    :param stride: of the filters
    :return: ``(batch, filters, ...)``
    """
    # What the last filter does not reach is cut off.
    height, width = ((size // stride) * stride for size in inputs.shape[2:])

    def folded(images: th.Tensor) -> th.Tensor:
        n, channels, height, width = images.shape
        steps = images.reshape(n, channels, height // stride, stride, width // stride, stride)
        folded = steps.permute(0, 1, 3, 5, 2, 4).reshape(n, -1, height // stride, width // stride)
        return folded.contiguous(memory_format=th.channels_last)

    return nn.functional.conv2d(folded(inputs[..., :height, :width]), folded(weight), bias)


#: What takes the place of which.
WRITTEN: dict[Any, Callable[..., th.Tensor]] = {
    nn.functional.one_hot: one_hot,
    nn.functional.linear: linear,
    nn.functional.conv2d: conv2d,
}
