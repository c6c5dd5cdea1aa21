"""PyTorch's tracer and compiler work beside learning: their warnings are kept back, and nobody else's."""

import contextlib
import threading
import warnings

import pytest
import torch as th

from sb3_ca2e import CA2EDQN
from sb3_ca2e.actors.inference import TRACE_AFTER, Inference
from sb3_ca2e.quiet import quiet
from test_updates import make_dqn


class Pausing:
    """What another thread comes by, and stands still at while ``with`` lasts."""

    def __init__(self):
        self._arrived, self._go_on = threading.Event(), threading.Event()

    def here(self) -> None:
        self._arrived.set()
        assert self._go_on.wait(100)

    def __enter__(self) -> None:
        assert self._arrived.wait(100)

    def __exit__(self, *exception) -> None:
        self._go_on.set()


@pytest.fixture
def log():
    with warnings.catch_warnings(record=True) as log:
        warnings.simplefilter("always")
        yield log


def texts(log) -> list[str]:
    return [str(warning.message) for warning in log]


def test_a_quiet_thread_is_quiet_alone_and_filters_that_others_set_stay(log):
    pausing, seen = Pausing(), []

    def work():
        with quiet(DeprecationWarning):
            pausing.here()
            warnings.warn("of the quiet one", stacklevel=1)
            try:
                warnings.warn("raised", DeprecationWarning, stacklevel=1)
            except DeprecationWarning as error:
                seen.append(str(error))
        warnings.warn("quiet no more", DeprecationWarning, stacklevel=1)

    thread = threading.Thread(target=work)
    thread.start()
    with pausing:
        warnings.warn("of another", DeprecationWarning, stacklevel=1)
        warnings.filterwarnings("ignore", "nobody wants to see this")
    thread.join()
    warnings.warn("nobody wants to see this", stacklevel=1)
    warnings.warn("of another, later", stacklevel=1)
    assert texts(log) == ["of another", "quiet no more", "of another, later"]
    assert seen == ["raised"]


def test_quietness_may_be_nested_and_ends_with_an_error(log):
    with contextlib.suppress(KeyError), quiet():
        with quiet(DeprecationWarning):
            pass
        warnings.warn("quiet still", DeprecationWarning, stacklevel=1)
        raise KeyError
    warnings.warn("seen", stacklevel=1)
    assert texts(log) == ["seen"]


def test_what_happens_while_updates_are_compiled_is_told(log, monkeypatch):
    pausing, compile = Pausing(), th._inductor.compile

    def watched(*arguments, **options):
        warnings.warn("the compiler's", stacklevel=1)
        pausing.here()
        return compile(*arguments, **options)

    monkeypatch.setattr(th._inductor, "compile", watched)
    model = make_dqn(sgd=False)
    model.train(1, 64)
    model._learner.compile(model.replay_buffer.sample(64))
    with pausing:
        warnings.warn("an actor was killed, say", stacklevel=1)
    model._learner.compile(model.replay_buffer.sample(64), wait=True)
    assert model._learner.compiled, model._learner.obstacle
    assert texts(log) == ["an actor was killed, say"]


def test_what_happens_while_networks_are_traced_is_told(log):
    pausing = Pausing()

    class Watched(th.nn.Module):
        """Stands still when it is traced, and has the tracer warn."""

        def forward(self, observations):
            if th.jit.is_tracing():
                warnings.warn("the tracer's", stacklevel=1)
                pausing.here()
            return observations * 2

    inference = Inference(CA2EDQN, {"q_net": Watched()}, 4)

    def passes():
        with th.inference_mode():
            for _ in range(TRACE_AFTER):
                inference(th.ones(4, 3), 4)

    thread = threading.Thread(target=passes)
    thread.start()
    with pausing:
        warnings.warn("an actor was killed, say", stacklevel=1)
    thread.join()
    assert inference.traced
    assert texts(log) == ["an actor was killed, say"]
