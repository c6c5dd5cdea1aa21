"""
Runs PyTorch's compiler in a thread beside learning.

A thread shares much with the rest of its process: warning filters, tracers' patches of ``nn.Module``, and autograd
modes. This module keeps PyTorch from changing these for other threads.
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

#: Whether this thread is compiling; a new thread starts with the default.
_COMPILES: ContextVar[bool] = ContextVar("compiles", default=False)


def import_what_warns() -> None:
    """
    Import modules of the compiler that warn when imported.

    Call it in the learning thread, with warnings suppressed, before the compiler's thread starts: warning filters are
    shared by all threads, and concurrent changes would lose warnings or leave filters behind.
    """
    importlib.import_module("torch.utils.mkldnn")


def compile_graph(graph: GraphModule, inputs: list[Any], on_cuda: bool) -> Callable[..., tuple[th.Tensor, ...]]:
    """
    Compile a graph; this takes seconds, with little effect on other threads.

    :param graph: graph of operations
    :param inputs: example inputs; tensors that the graph writes are not changed
    :param on_cuda: whether the inputs are on a GPU
    :return: the compiled function
    """
    compiles = _COMPILES.set(True)
    try:
        with _others_first(), _helpers_ended(), th.no_grad():
            _leave_other_threads_alone()
            # Call kernels from C++, as calls take half the time of small networks. The caller guarantees shapes and
            # strides of the inputs.
            options = {"cpp_wrapper": not on_cuda, "size_asserts": False, "cpp.cxx": _cxx()}
            compiled: Callable[..., tuple[th.Tensor, ...]] = th._inductor.compile(graph, inputs, options=options)
            if on_cuda:  # kernels are autotuned at their first call
                compiled(*(tensor.clone() for tensor in inputs))
            return compiled
    finally:
        _COMPILES.reset(compiles)


@contextmanager
def _others_first() -> Iterator[None]:
    """
    Give the interpreter to waiting threads quickly.

    Eager updates request it at each of their hundreds of operations, and would nearly stop beside a compiler that keeps
    it for five milliseconds each time.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@contextmanager
def _helpers_ended() -> Iterator[None]:
    """End the processes in which PyTorch compiles GPU kernels, which it would keep after learning."""
    from torch._inductor import async_compile  # takes a second to import

    kept = bool(async_compile._pool_set)  # other code has compiled before
    try:
        yield
    finally:
        if not kept:
            async_compile.shutdown_compile_workers()


def _cxx() -> Any:
    """Return full paths of the C++ compilers to try: searching ``PATH`` changes warning filters."""
    from torch._inductor import config

    named = config.cpp.cxx
    found = tuple(name and (shutil.which(name) or name) for name in ((named,) if isinstance(named, str) else named))
    return found[0] if isinstance(named, str) else found


class _Run(nn.Module):
    """Wraps a graph so that it is not recognised as one."""

    def __init__(self, graph: Callable[..., Any]):
        super().__init__()
        self._graph = graph  # a method, so that the graph is no submodule

    def forward(self, *inputs: Any) -> Any:
        """
        Run the graph.

        :param inputs: inputs of the graph
        :return: its outputs
        """
        return self._graph(*inputs)


@functools.cache
def _leave_other_threads_alone() -> None:
    """Replace some of the compiler's functions by harmless ones, only in threads that compile."""
    from torch._functorch import aot_autograd  # these take seconds to import
    from torch._inductor import compile_fx
    from torch._inductor.loop_body import InterpreterShim

    # To find the user's source lines of a graph, it would enable anomaly detection, which is slow, affects all
    # threads, and warns.
    name = "create_functional_call"
    call = getattr(aot_autograd, name, None)
    if call is not None:
        _here(aot_autograd, name, lambda graph, *rest, **more: call(_Run(graph.forward), *rest, **more))
    if hasattr(compile_fx, "_warn_tf32_disabled"):  # the user decides
        _here(compile_fx, "_warn_tf32_disabled", lambda: None)
    # The compiler once traces the identity, with a tracer under which calls of other modules fail in all threads, such
    # as eager updates, or ``predict()`` in a callback. Provide the traced graph instead.
    identity = th.fx.Graph()
    identity.output(identity.placeholder("x"))
    traced = GraphModule({}, identity)
    InterpreterShim._dummy_gm = staticmethod(lambda: traced)  # type: ignore[method-assign,assignment]


def _here(module: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace a module's function in threads that compile."""
    original = getattr(module, name)

    @functools.wraps(original)
    def chosen(*arguments: Any, **named: Any) -> Any:
        return (function if _COMPILES.get() else original)(*arguments, **named)

    setattr(module, name, chosen)
