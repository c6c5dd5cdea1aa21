"""Asynchronous copies from the CPU to a device."""

from collections.abc import Sequence

import numpy as np
import torch as th

#: Alignment of arrays within one transfer, in bytes.
ALIGNMENT = 16


def moved(tensor: th.Tensor, device: th.device, copy: bool = False) -> th.Tensor:
    """
    Move a tensor to a device.

    The CPU does not wait for a GPU's pending work.

    :param tensor: tensor on the CPU or on the device
    :param device: target device
    :param copy: also copy a tensor that is on the device already
    :return: the tensor on the device
    """
    if device.type == "cuda" and tensor.is_cpu:
        return pinned(tensor.numpy()).to(device, non_blocking=True)
    return tensor.to(device, copy=copy)


def pinned(values: np.ndarray) -> th.Tensor:
    """
    Copy an array into pinned memory, from which a GPU reads by itself.

    NumPy makes the copy: PyTorch may use all cores for it, on which actors run, and wait for each.

    :param values: may be changed afterwards
    :return: a copy; PyTorch reuses its memory once the GPU has read it
    """
    copy = th.empty(values.shape, dtype=dtype_of(values), pin_memory=True)
    copy.numpy()[...] = values
    return copy


def dtype_of(values: np.ndarray) -> th.dtype:
    """
    Return PyTorch's dtype of a NumPy array.

    :param values: array of a dtype that PyTorch supports
    :return: the same dtype in PyTorch
    """
    return th.from_numpy(np.empty(0, values.dtype)).dtype


def copy_to(part: th.Tensor, values: np.ndarray) -> None:
    """
    Copy values into a tensor that may be on another device, without waiting.

    :param part: ``(n, *shape)``, overwritten
    :param values: ``(n, *shape)``, may be changed afterwards
    """
    part.copy_(pinned(values) if part.is_cuda else th.tensor(values), non_blocking=part.is_cuda)


def copy_all(parts: Sequence[tuple[th.Tensor, np.ndarray]]) -> None:
    """
    Copy values into several tensors of one device.

    A GPU receives all of them in one transfer, as a small transfer takes as long as a large one.

    :param parts: pairs of ``(n, *shape)`` tensors, overwritten, and their values
    """
    if not parts[0][0].is_cuda:
        for part, values in parts:
            copy_to(part, values)
        return
    starts = np.cumsum([0, *(-(-values.nbytes // ALIGNMENT) * ALIGNMENT for _, values in parts)]).tolist()
    piece = th.empty(starts[-1], dtype=th.uint8, pin_memory=True)
    staged = piece.numpy()
    for (_, values), start in zip(parts, starts[:-1], strict=True):
        staged[start : start + values.nbytes].view(values.dtype).reshape(values.shape)[...] = values
    sent = piece.to(parts[0][0].device, non_blocking=True)
    for (part, values), start in zip(parts, starts[:-1], strict=True):
        part.copy_(sent[start : start + values.nbytes].view(dtype_of(values)).view(part.shape))
