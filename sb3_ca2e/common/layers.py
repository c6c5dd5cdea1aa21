"""Network functions rewritten for compilers and GPUs."""

from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn
from torch.overrides import TorchFunctionMode

from sb3_ca2e.common import copying


class Rewritten(TorchFunctionMode):
    """Context that replaces PyTorch's functions with those of this module."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = WRITTEN.get(func)
        return (func if written is None else written)(*args, **(kwargs or {}))


def copy_of(module: nn.Module) -> nn.Module:
    """
    Copy a network.

    The copy is made by pickling: a network may keep results of its last pass, which ``deepcopy`` refuses.

    :param module: a network
    :return: a copy without the optimizer that SB3 attaches to networks; no parameter is a view of a larger tensor
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
    ``nn.functional.one_hot`` without PyTorch's check of the values, which a CUDA graph can't record.

    :param tensor: ``(...)`` int64
    :param num_classes: number of classes
    :return: ``(..., num_classes)`` int64
    """
    return (tensor.unsqueeze(-1) == th.arange(num_classes, device=tensor.device)).long()


def linear(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor | None = None) -> th.Tensor:
    """
    ``nn.functional.linear`` that adds the bias in a separate operation on a GPU.

    The compiler fuses a product and a sum into one operation, but not a product and a difference; for the fused
    operation, cuBLASLt chooses kernels that are slow on small networks.

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
    ``nn.functional.conv2d`` that avoids the stride on a GPU if the kernel size is a multiple of it; see
    :func:`without_stride`.

    :param inputs: ``(batch, channels, height, width)``
    :param weight: ``(filters, channels, kernel height, kernel width)``
    :param bias: ``(filters,)``
    :param stride: stride of the filters
    :param padding: padding of the images
    :param dilation: dilation of the filters
    :param groups: groups of channels
    :return: ``(batch, filters, ...)``
    """
    plain = isinstance(stride, tuple) and (padding, dilation, groups) == ((0, 0), (1, 1), 1)
    if inputs.is_cuda and plain and stride[0] == stride[1] > 1 and all(n % stride[0] == 0 for n in weight.shape[2:]):
        return without_stride(inputs, weight, bias, stride[0])
    return nn.functional.conv2d(inputs, weight, bias, stride, padding, dilation, groups)


def without_stride(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, stride: int) -> th.Tensor:
    """
    Compute a strided convolution as one without stride, by folding each stride x stride patch into channels.

    The first layers of image networks have few channels and large strides, which tensor cores handle poorly.

    :param inputs: ``(batch, channels, height, width)``
    :param weight: ``(filters, channels, kernel height, kernel width)``, kernel sizes that are multiples of the stride
    :param bias: ``(filters,)``
    :param stride: stride of the filters
    :return: ``(batch, filters, ...)``
    """
    # Cut off the pixels that the last filter does not reach.
    height, width = ((size // stride) * stride for size in inputs.shape[2:])

    def folded(images: th.Tensor) -> th.Tensor:
        n, channels, height, width = images.shape
        steps = images.reshape(n, channels, height // stride, stride, width // stride, stride)
        folded = steps.permute(0, 1, 3, 5, 2, 4).reshape(n, -1, height // stride, width // stride)
        return folded.contiguous(memory_format=th.channels_last)

    return nn.functional.conv2d(folded(inputs[..., :height, :width]), folded(weight), bias)


#: PyTorch's functions and their replacements.
WRITTEN: dict[Any, Callable[..., th.Tensor]] = {
    nn.functional.one_hot: one_hot,
    nn.functional.linear: linear,
    nn.functional.conv2d: conv2d,
}
