"""A function of tensors as one CUDA graph: a single launch for all its kernels."""

import warnings
from collections.abc import Callable, Sequence

import torch as th

#: Function without arguments that returns outputs and may change other tensors.
Run = Callable[[], tuple[th.Tensor, ...]]
#: Makes a recording of a function: calls repeat what it did.
Record = Callable[[Run], Run]
#: Runs before a graph is recorded, as PyTorch requires: libraries initialise themselves in the first ones.
WARM_UP = 3


class CudaGraph:
    """
    A function that is recorded at its first call and replayed from then on.

    Inputs are copied to the tensors of the recording; nothing is read back. A function that can't be recorded is called
    each time instead, with a warning that says why.

    :param function: function of the inputs
    :param state: tensors that it writes, at fixed addresses
    :param record: turns a run into one that replays it; the outputs are overwritten by the next replay
    """

    def __init__(
        self, function: Callable[..., tuple[th.Tensor, ...]], state: Sequence[th.Tensor], record: Record | None = None
    ):
        self._function, self._state, self._record = function, state, record or cuda_graph
        self._inputs: list[th.Tensor] = []
        self._run: Run | None = None

    def __call__(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        Call the function.

        :param inputs: inputs, of the same shapes in each call
        :return: outputs, overwritten by the next call
        """
        if self._run is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            self._run = self._recorded()
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        return self._run()

    def _recorded(self) -> Run:
        before = [tensor.clone() for tensor in self._state]

        def run() -> tuple[th.Tensor, ...]:
            return self._function(*self._inputs)

        try:
            return self._record(run)
        except RuntimeError as error:
            reason = (str(error).strip() or "?").splitlines()[0]
            message = f"Updates can't be recorded, so their kernels are launched one by one: {reason}"
            warnings.warn(message, stacklevel=3)
            return run
        finally:
            for tensor, value in zip(self._state, before, strict=True):  # undo the updates of the warm-up
                tensor.copy_(value)


def cuda_graph(run: Run) -> Run:
    """
    Record a CUDA graph.

    :param run: run that uses the same tensors in each call, without synchronising with the host
    :return: a function that replays it
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

    def replay() -> tuple[th.Tensor, ...]:
        graph.replay()
        return outputs

    return replay
