"""
PyTorch's compiler, in a thread beside learning. A thread shares much with the rest of its process: filters of warnings,
tracers' patches of ``nn.Module``, autograd's modes. What PyTorch would change of these for all, it leaves alone here.
"""

import functools
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch as th
from torch import nn
from torch.fx import GraphModule

#: Whether this thread compiles just now; a new thread begins with the default.
_COMPILES: ContextVar[bool] = ContextVar("compiles", default=False)


def import_what_warns() -> None:
    """
    Import what the compiler needs and what warns when it is imported.

    For the thread that learns, where warnings are kept back, before the compiler's starts: filters belong to all
    threads, and where two change them in turn, one's warnings are lost and the other's filters stay.
    """
    importlib.import_module("torch.utils.mkldnn")


def compile_graph(graph: GraphModule, inputs: list[Any], on_cuda: bool) -> Callable[..., tuple[th.Tensor, ...]]:
    """
    Compile a graph, within seconds, of which other threads lose little.

    :param graph: operations
    :param inputs: tensors as it will be given; what it writes to is not written
    :param on_cuda: whether they are on a GPU
    :return: the same operations
    """
    compiles = _COMPILES.set(True)
    try:
        with _others_first(), _helpers_ended(), th.no_grad():
            _leave_other_threads_alone()
            # Kernels called from C++: half the time of small networks is the calling. Shapes and strides of what they
            # are called with are seen to by the caller.
            options = {"cpp_wrapper": not on_cuda, "size_asserts": False, "cpp.cxx": _cxx()}
            compiled: Callable[..., tuple[th.Tensor, ...]] = th._inductor.compile(graph, inputs, options=options)
            if on_cuda:  # whose kernels try themselves out when first called
                compiled(*(tensor.clone() for tensor in inputs))
            return compiled
    finally:
        _COMPILES.reset(compiles)


@contextmanager
def _others_first() -> Iterator[None]:
    """
    Give the interpreter away as soon as another thread asks for it, which eager updates do at each of their hundreds of
    operations: they would come to a stop beside a compiler that keeps it for five milliseconds each time.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@contextmanager
def _helpers_ended() -> Iterator[None]:
    """PyTorch compiles a GPU's kernels in processes that it keeps for the next time: none is to outlive learning."""
    from torch._inductor import async_compile  # takes a second to import

    kept = bool(async_compile._pool_set)  # by whoever has compiled something before
    try:
        yield
    finally:
        if not kept:
            async_compile.shutdown_compile_workers()


def _cxx() -> Any:
    """The C++ compilers to try, by full path: to look for a program on ``PATH``, Python changes filters of warnings."""
    from torch._inductor import config

    named = config.cpp.cxx
    found = tuple(name and (shutil.which(name) or name) for name in ((named,) if isinstance(named, str) else named))
    return found[0] if isinstance(named, str) else found


class _Run(nn.Module):
    """A graph that does not look like one."""

    def __init__(self, graph: Callable[..., Any]):
        super().__init__()
        self._graph = graph  # a method, not a part of this module

    def forward(self, *inputs: Any) -> Any:
        """
        :param inputs: of the graph
        :return: what it gives
        """
        return self._graph(*inputs)


@functools.cache
def _leave_other_threads_alone() -> None:
    """Put harmless functions in the place of some of the compiler's, for the threads that compile here only."""
    from torch._functorch import aot_autograd  # these take seconds to import
    from torch._inductor import compile_fx
    from torch._inductor.loop_body import InterpreterShim

    # Of a graph it would read the lines of the user's code, under anomaly detection, which is slow, is on for all
    # threads meanwhile, and warns.
    call = getattr(aot_autograd, "create_functional_call", None)
    if call is not None:
        _here(
            aot_autograd,
            "create_functional_call",
            lambda graph, *rest, **more: call(_Run(graph.forward), *rest, **more),
        )
    if hasattr(compile_fx, "_warn_tf32_disabled"):  # which is the user's to say
        _here(compile_fx, "_warn_tf32_disabled", lambda: None)
    # The compiler once traces a function that returns what it is given, with a tracer that makes each call of a module
    # fail that is none of it, in whichever thread: eager updates here, ``predict()`` in a callback. It gets the graph.
    identity = th.fx.Graph()
    identity.output(identity.placeholder("x"))
    traced = GraphModule({}, identity)
    InterpreterShim._dummy_gm = staticmethod(lambda: traced)  # type: ignore[method-assign,assignment]


def _here(module: Any, name: str, function: Callable[..., Any]) -> None:
    """Call another function in the place of a module's, in threads that compile here."""
    original = getattr(module, name)

    @functools.wraps(original)
    def chosen(*arguments: Any, **named: Any) -> Any:
        return (function if _COMPILES.get() else original)(*arguments, **named)

    setattr(module, name, chosen)
