"""What goes from the CPU to a device, without waiting for it."""

from collections.abc import Sequence

import numpy as np
import torch as th

#: Bytes to whose multiples parts of a piece are aligned.
ALIGNMENT = 16


def moved(tensor: th.Tensor, device: th.device, copy: bool = False) -> th.Tensor:
    """
    :param tensor: on the CPU or where it is to be
    :param device: torch device
    :param copy: also where it is there already
    :return: the tensor there; the CPU does not wait for what a GPU has to do before
    """
    if device.type == "cuda" and tensor.is_cpu:
        return pinned(tensor.numpy()).to(device, non_blocking=True)
    return tensor.to(device, copy=copy)


def pinned(values: np.ndarray) -> th.Tensor:
    """
    Where a GPU can fetch values without a word from the CPU. NumPy copies them: PyTorch may do that with all cores, on
    which actors run, and wait for each.

    :param values: free to change afterwards
    :return: a copy, in memory that PyTorch uses again once it has been fetched
    """
    copy = th.empty(values.shape, dtype=dtype_of(values), pin_memory=True)
    copy.numpy()[...] = values
    return copy


def dtype_of(values: np.ndarray) -> th.dtype:
    """
    :param values: of a type that PyTorch knows
    :return: PyTorch's name of it
    """
    return th.from_numpy(np.empty(0, values.dtype)).dtype


def copy_to(part: th.Tensor, values: np.ndarray) -> None:
    """
    Write a part of a column that may be on another device, without waiting for it.

    :param part: ``(n, *shape)``, written
    :param values: the same, free to change afterwards
    """
    part.copy_(pinned(values) if part.is_cuda else th.tensor(values), non_blocking=part.is_cuda)


def copy_all(parts: Sequence[tuple[th.Tensor, np.ndarray]]) -> None:
    """
    :func:`copy_to` for several columns of a device. A GPU gets all in one piece, as a small one takes as long to send.

    :param parts: ``(n, *shape)`` tensors, written, each with its values
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
