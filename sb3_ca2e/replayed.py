"""A function of tensors as one CUDA graph: a single launch for all its kernels. Never run on a GPU yet."""

from collections.abc import Callable, Sequence

import torch as th

#: What a recorder makes of a function without arguments: what repeats it, and its outputs, written at every repetition.
Recording = tuple[Callable[[], object], tuple[th.Tensor, ...]]
#: Runs before a graph is recorded, as PyTorch asks for: libraries set themselves up in the first ones.
WARM_UP = 3


class Replayed:
    """
    A function that is recorded at its first call, and repeated from then on.

    Inputs are copied to where those of the recording were; nothing is read back.

    :param function: of the state's tensors, which it writes, and of inputs
    :param state: tensors that stay where they are
    :param record: how to record
    """

    def __init__(
        self,
        function: Callable[..., tuple[th.Tensor, ...]],
        state: Sequence[th.Tensor],
        record: Callable[[Callable[[], tuple[th.Tensor, ...]]], Recording] | None = None,
    ):
        self._function, self._state, self._record = function, state, record or cuda_graph
        self._inputs: list[th.Tensor] = []
        self._recording: Recording | None = None

    def __call__(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param inputs: of the same shapes each time
        :return: outputs, overwritten by the next call
        """
        if self._recording is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            before = [tensor.clone() for tensor in self._state]
            self._recording = self._record(lambda: self._function(*self._state, *self._inputs))
            for tensor, value in zip(self._state, before, strict=True):  # warming up has learned something
                tensor.copy_(value)
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        replay, outputs = self._recording
        replay()
        return outputs


def cuda_graph(run: Callable[[], tuple[th.Tensor, ...]]) -> Recording:
    """
    Record as a CUDA graph.

    :param run: reads and writes the same tensors at every call, without a word from the host between
    :return: the recording
    """
    stream = th.cuda.Stream()
    stream.wait_stream(th.cuda.current_stream())
    with th.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    th.cuda.current_stream().wait_stream(stream)
    graph = th.cuda.CUDAGraph()
    with th.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the device meanwhile
        outputs = run()
    return graph.replay, outputs
