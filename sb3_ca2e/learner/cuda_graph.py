"""A function of tensors as one CUDA graph: a single launch for all its kernels."""

import warnings
from collections.abc import Callable, Sequence

import torch as th

#: Gives outputs, and does what it does to tensors that it knows.
Run = Callable[[], tuple[th.Tensor, ...]]
#: Runs before a graph is recorded, as PyTorch asks for: libraries set themselves up in the first ones.
WARM_UP = 3


class CudaGraph:
    """
    A function that is recorded at its first call, and repeated from then on.

    Inputs are copied to where those of the recording were; nothing is read back. What can't be recorded is called each
    time, as it would be without this, and a warning says why.

    :param function: of inputs
    :param state: tensors that it writes, and that stay where they are
    :param record: makes of a run one that repeats it, with outputs that the next repetition overwrites
    """

    def __init__(
        self,
        function: Callable[..., tuple[th.Tensor, ...]],
        state: Sequence[th.Tensor],
        record: Callable[[Run], Run] | None = None,
    ):
        self._function, self._state, self._record = function, state, record or cuda_graph
        self._inputs: list[th.Tensor] = []
        self._run: Run | None = None

    def __call__(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param inputs: of the same shapes each time
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
            for tensor, value in zip(self._state, before, strict=True):  # warming up has learned something
                tensor.copy_(value)


def cuda_graph(run: Run) -> Run:
    """
    Record as a CUDA graph.

    :param run: reads and writes the same tensors at every call, without a word from the host between
    :return: what repeats it
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
