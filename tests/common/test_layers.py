"""Functions that take the place of PyTorch's while an update is traced give the same."""

import pytest
import torch as th
from torch import nn

from sb3_ca2e.common import layers


@pytest.mark.parametrize(
    ("channels", "size", "filters", "kernel", "stride"),
    [
        (4, (84, 84), 32, (8, 8), 4),
        (32, (20, 20), 64, (4, 4), 2),
        (3, (13, 18), 5, (3, 6), 3),
        (1, (7, 5), 2, (2, 4), 2),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_without_stride_is_the_same_convolution(channels, size, filters, kernel, stride, bias):
    th.manual_seed(0)
    ours = [th.randn(2, channels, *size), th.randn(filters, channels, *kernel), th.randn(filters) if bias else None]
    theirs = [None if tensor is None else tensor.clone() for tensor in ours]
    tensors = [[tensor.requires_grad_() for tensor in side if tensor is not None] for side in (ours, theirs)]
    got, expected = layers.without_stride(*ours, stride), nn.functional.conv2d(*theirs, stride)
    th.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    direction = th.randn_like(expected)
    gradients = [th.autograd.grad(out, side, direction) for out, side in zip((got, expected), tensors, strict=True)]
    th.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


def test_modules_call_what_is_rewritten(monkeypatch):
    called = []
    for function, written in layers.WRITTEN.items():

        def noted(*args, _written=written, **kwargs):
            called.append(_written)
            return _written(*args, **kwargs)

        monkeypatch.setitem(layers.WRITTEN, function, noted)
    network = nn.Sequential(nn.Conv2d(1, 2, 4, 2), nn.Flatten(), nn.Linear(2 * 3 * 3, 4))
    images, numbers = th.randn(5, 1, 8, 8), th.tensor([0, 2, 1])
    expected = network(images), nn.functional.one_hot(numbers, 3)
    with layers.Rewritten():
        got = network(images), nn.functional.one_hot(numbers, 3)
    th.testing.assert_close(got, expected)
    assert called == [layers.conv2d, layers.linear, layers.one_hot]
