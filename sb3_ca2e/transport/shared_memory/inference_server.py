"""
Inference on the learner's device: actors only step, and a thread of the learner's process answers all that have asked
with one pass (as GA3C does, https://arxiv.org/abs/1611.06256).
"""

import contextlib
import copy
import dataclasses
import os
import statistics
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.actors.actions import stored_action
from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.inference import ActorCore, Inference, Steps
from sb3_ca2e.actors.slot import Playing
from sb3_ca2e.actors.spec import WorkerSpec
from sb3_ca2e.common.transfers import moved
from sb3_ca2e.replay.block import plain
from sb3_ca2e.transport.shared_memory.inference_layout import Doorbell, InferenceLayout, Part, Request, write_text
from sb3_ca2e.transport.shared_memory.memory import shared_file

#: Seconds that a question takes on its way, with the learner's updates on the same interpreter.
ROUND_TRIP = 3e-4
#: Passes that are timed to choose where networks run.
TIMED_PASSES = 10


class InferenceServer:
    """
    Answers the actors' questions from copies of the published networks on a device.

    A pass is made of the rows of all slots, so that it is the same operation each time; rows of processes that have
    not asked are not looked at. Each prior agent has its own networks, and a pass of its own.

    :param specs: the actor processes, with all networks
    :param published: parameters of the learner's networks, in the order of those of the specs
    :param device: torch device
    """

    def __init__(self, specs: Sequence[WorkerSpec], published: FlatParameters, device: th.device):
        self.device = device
        self._published = published
        self._core = specs[0].core
        self._modules = {name: module.to(device) for name, module in copy.deepcopy(specs[0].modules).items()}
        self._parameters = FlatParameters(self._modules)
        self.layout = layout_for(specs, self._modules, device)
        #: what the processes are started with: without the networks
        self.specs = [dataclasses.replace(spec, modules={}) for spec in specs]
        self._policy = Inference(self._core, self._modules, sum(self.layout.n_slots))
        priors = [prior for spec in specs for prior in spec.priors]
        self._priors = {row: prior.on_device(device) for row, prior in enumerate(priors) if prior is not None}
        self._states: dict[int, Any] = {}
        self._stream = th.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        # Between two threads of the learner: parameters are not copied in the middle of a pass.
        self._lock = threading.Lock()
        # Nor is a pipe closed, and its number given to another file, when an answer is about to be written to it.
        self._reply_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._fds: list[int] = []
        self._replies: dict[int, int] = {}
        #: why answering has ended, None while it goes on
        self.error: str | None = None

    # The learner's side, called by whoever owns the actors.

    def start(self) -> None:
        """Reserve the memory and begin to answer. For the main thread, as networks are traced."""
        with th.inference_mode():
            self._policy.trace(zeros(self.layout.observations, sum(self.layout.n_slots), self.device))
        self._exchange = self._keep(shared_file(self.layout.n_bytes, "exchange"))
        self._views = self.layout.views(self._exchange)
        self._rung, ring = map(self._keep, os.pipe())
        self._bell = Doorbell(ring)
        #: readable once answering has failed
        self.alarm, self._sounds_alarm = map(self._keep, os.pipe())
        self._thread = threading.Thread(target=self._serve, name="inference", daemon=True)
        self._thread.start()

    def connect(self, process: int) -> tuple[int, int, int]:
        """
        :param process: index of an actor process that is to start
        :return: what it is to be given: the exchange, the bell, and the reading end of a new pipe of replies, which is
            the caller's to close
        """
        replies, answers = os.pipe()
        os.set_blocking(answers, False)
        with self._reply_lock:
            previous, self._replies[process] = self._replies.get(process), self._keep(answers)
            if previous is not None:
                self._fds.remove(previous)
                os.close(previous)
        return self._exchange, self._bell.fd, replies

    def refresh(self) -> bool:
        """
        Take over the learner's parameters, on the device.

        :return: whether they were others; True where to find out would mean to wait for the device
        """
        with self._lock:
            if self._stream is None:
                changed = not self._parameters.equal(self._published)
                if changed:
                    self._parameters.copy_from(self._published)
            else:
                changed, updates = True, th.cuda.current_stream(self.device)
                self._stream.wait_stream(updates)
                with th.cuda.stream(self._stream):
                    self._parameters.copy_from(self._published)
                updates.wait_stream(self._stream)
            if changed:
                self._policy.parameters_changed()
        return changed

    def stop(self) -> None:
        """End; whoever waits for an answer is told that there will be none. May be called twice."""
        if self._thread is not None:
            self._bell.ring(Doorbell.STOP)
            self._thread.join()
            self._thread = None
        while self._fds:
            os.close(self._fds.pop())
        self._replies.clear()

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    # The thread.

    def _serve(self) -> None:
        try:
            with th.inference_mode(), th.cuda.stream(self._stream):
                while Doorbell.STOP not in (asking := Doorbell.rung(self._rung)):
                    self._answer(sorted(set(asking)))
        except Exception:  # it would be lost with the thread: the learner raises it
            self.error = f"Inference on {self.device} failed:\n{traceback.format_exc()}"
            os.write(self._sounds_alarm, b"\0")

    def _answer(self, processes: list[int]) -> None:
        questions = {process: self._views["asked"][process].tolist() for process in processes}
        acting = [process for process, (_, kind, _) in questions.items() if kind == Request.ACT]
        if acting:
            self._act(acting)
            for process in acting:
                self._reply(process, questions.pop(process)[0])
        for process, (number, kind, size) in questions.items():
            if kind == Request.RATE:
                self._rate(process, size)
            else:
                rows = self.layout.rows(process)
                self._pass(slice(rows.start, rows.start + size), [slice(rows.start, rows.start + size)])
            self._reply(process, number)

    def _reply(self, process: int, number: int) -> None:
        self._views["answered"][process] = number
        with self._reply_lock, contextlib.suppress(BrokenPipeError, BlockingIOError):  # gone, or it has bytes to read
            os.write(self._replies[process], b"\0")

    def _act(self, processes: list[int]) -> None:
        """Actions of all slots of processes, those of prior agents included."""
        mine = [self.layout.rows(process) for process in processes]
        self._pass(slice(0, sum(self.layout.n_slots)), mine)
        for row in (row for rows in mine for row in range(rows.start, rows.stop)):
            if self._views["playing"][row] != Playing.NATURE:
                self._play(row, starts=self._views["playing"][row] == Playing.PRIOR_STARTS)

    def _pass(self, rows: slice, written: list[slice]) -> None:
        """Have the networks see rows, and write what they say about some of them: others may be read just now."""
        with self._lock:
            actions, outputs = self._policy(self._on_device("observations", rows), rows.stop - rows.start)
        for part in written:
            seen = slice(part.start - rows.start, part.stop - rows.start)
            self._views["actions"][part] = actions[seen]
            self._views["outputs"][part] = outputs[seen]

    def _on_device(self, name: str, rows: slice) -> Any:
        """Copies: actors that have not asked may write meanwhile."""
        arrays = {key: self._views[f"{name}/{key}"][rows] for key in self.layout.observations}
        return plain({key: moved(th.from_numpy(array), self.device, copy=True) for key, array in arrays.items()})

    def _rate(self, process: int, n_rows: int) -> None:
        """What steps are worth (Algorithm 2)."""
        rows = self.layout.rated(process, n_rows)
        actions, outputs = (th.from_numpy(self._views[f"rated/{name}"][rows]) for name in ("actions", "outputs"))
        observations = self._on_device("rated/observations", rows) if self.layout.rates_observations else None
        with self._lock:
            steps = steps_of(observations, actions.to(self.device), outputs.to(self.device))
            rated = self._core.evaluate(self._modules, steps)
        for name, values in zip(("q_taken", "values"), rated, strict=True):
            self._views[f"rated/{name}"][rows] = values.cpu().numpy()

    def _play(self, row: int, starts: bool) -> None:
        name = "raw" if self.layout.raw else "observations"
        observation = plain({key: self._views[f"{name}/{key}"][row][None].copy() for key in self.layout.observations})
        state, failure = None if starts else self._states.get(row), ""
        try:
            action, self._states[row] = self._priors[row].predict(observation, state, np.array([starts]))
            self._views["prior_actions"][row] = action[0]
        except Exception:  # the actor's to handle, as if the agent were its own
            failure = traceback.format_exc()
        write_text(failure, self._views["prior_failures"][row])


def layout_for(specs: Sequence[WorkerSpec], modules: dict[str, th.nn.Module], device: th.device) -> InferenceLayout:
    """
    Find out what is to be exchanged, from a pass that sees zeros.

    :param specs: the actor processes
    :param modules: the networks, on the device
    :param device: torch device
    :return: the layout
    """
    first = specs[0]
    recipe, n_slots = first.recipe, tuple(len(spec.slots) for spec in specs)
    raw = {key: Part(column.shape, column.dtype) for key, column in recipe.columns.items()}
    normalized = recipe.normalization.shapes if recipe.normalization is not None else {}
    seen = {key: part._replace(dtype=np.dtype(np.float32)) if key in normalized else part for key, part in raw.items()}
    stored = Part(*stored_action(recipe.action_space))
    with th.inference_mode():
        observations = zeros(seen, sum(n_slots), device)
        actions, outputs = first.core.act(modules, observations)
        stored_actions = th.from_numpy(np.zeros((len(outputs), *stored.shape), stored.dtype)).to(device)
        steps = _Watched([], [], {}, None, stored_actions, outputs)
        steps.given = observations
        first.core.evaluate(modules, steps)
    shape = recipe.action_space.shape
    assert shape is not None
    return InferenceLayout(
        n_slots=n_slots,
        rated_rows=2 * first.block_size + 1,
        observations=seen,
        actions=_part_of(actions),
        outputs=_part_of(outputs),
        stored_actions=stored,
        prior_actions=Part(shape, np.dtype(recipe.action_space.dtype)),
        raw=raw if normalized and any(prior is not None for spec in specs for prior in spec.priors) else {},
        rates_observations=steps.watched,
    )


def zeros(parts: dict[str, Part], n_rows: int, device: th.device) -> Any:
    """
    :param parts: of an observation, by key
    :param n_rows: observations
    :param device: torch device
    :return: as the networks take them
    """
    arrays = {key: np.zeros((n_rows, *part.shape), part.dtype) for key, part in parts.items()}
    return plain({key: th.from_numpy(array).to(device) for key, array in arrays.items()})


def _part_of(tensor: th.Tensor) -> Part:
    return Part(tuple(tensor.shape[1:]), tensor.cpu().numpy().dtype)


def steps_of(observations: Any, actions: th.Tensor, outputs: th.Tensor) -> Steps:
    """
    :param observations: ``(rows, ...)`` as the networks take them, None if nobody will look at them
    :param actions: ``(rows, action_dim)``
    :param outputs: ``(rows, ...)``
    :return: the steps
    """
    steps = Steps([], [], {}, None, actions, outputs)
    steps.__dict__["observations"] = observations  # where it would keep what it has built
    return steps


class _Watched(Steps):
    """Tells whether somebody looks at the observations."""

    given: Any = None
    watched = False

    @property
    def observations(self) -> Any:
        """Those given."""
        self.watched = True
        return self.given


def pays(specs: Sequence[WorkerSpec], device: th.device) -> bool:
    """
    Whether the device answers sooner than an actor's own core, for ``inference="auto"``.

    Half of the time must be won, as updates use the device as well.

    :param specs: the actor processes, with all networks
    :param device: where the learner's networks are
    :return: whether it is at least twice as fast; never if it is the CPU, on which actors run as well
    """
    if device.type == "cpu":
        return False
    own, on_device = seconds_of_passes(specs, device)
    return own >= 2 * (on_device + ROUND_TRIP)


def seconds_of_passes(specs: Sequence[WorkerSpec], device: th.device) -> tuple[float, float]:
    """
    Time the networks, for some hundredths of a second.

    :param specs: the actor processes, with all networks
    :param device: torch device
    :return: seconds of a pass of one process's slots on one core, and of one of all slots on the device
    """
    first, cpu = specs[0], th.device("cpu")
    observations = layout_for(specs, first.modules, cpu).observations
    modules = {name: module.to(device) for name, module in copy.deepcopy(first.modules).items()}
    threads = th.get_num_threads()
    th.set_num_threads(1)  # as actors have
    try:
        own = seconds_of_pass(first.core, first.modules, zeros(observations, len(first.slots), cpu))
    finally:
        th.set_num_threads(threads)
    all_slots = zeros(observations, sum(len(spec.slots) for spec in specs), device)
    return own, seconds_of_pass(first.core, modules, all_slots)


def seconds_of_pass(core: type[ActorCore], modules: dict[str, th.nn.Module], observations: Any) -> float:
    """
    :param behaviour: the algorithm's hooks
    :param modules: the networks
    :param observations: on the same device
    :return: median of the seconds that a pass takes, its results read by the CPU
    """
    seconds = []
    with th.inference_mode():
        for _ in range(TIMED_PASSES):
            started = time.perf_counter()
            core.act(modules, observations)[0].cpu()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[TIMED_PASSES // 2 :])  # the first ones wait for what is loaded and allocated
