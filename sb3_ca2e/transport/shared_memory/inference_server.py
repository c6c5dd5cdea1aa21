"""
Inference on the learner's device: actors only step, and a thread of the learner's process serves all waiting actors
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
from sb3_ca2e.replay.block import ACTION_MASK, plain
from sb3_ca2e.transport.shared_memory.inference_layout import Doorbell, InferenceLayout, Part, Request, write_text
from sb3_ca2e.transport.shared_memory.memory import shared_file

#: Overhead of a request in seconds, with the learner's updates in the same interpreter.
ROUND_TRIP = 3e-4
#: Passes to time when choosing where networks run.
TIMED_PASSES = 10


class InferenceServer:
    """
    Serves the actors' requests with copies of the published networks on a device.

    A pass always has the rows of all slots, so that it is the same operation each time; rows of processes without a
    request are ignored. Each prior agent has its own networks and its own pass.

    :param specs: actor processes, with all networks
    :param published: parameters of the learner's networks, in the order of the specs' networks
    :param device: torch device
    """

    def __init__(self, specs: Sequence[WorkerSpec], published: FlatParameters, device: th.device):
        self.device = device
        self._published = published
        self._core = specs[0].core
        self._modules = {name: module.to(device) for name, module in copy.deepcopy(specs[0].modules).items()}
        self._parameters = FlatParameters(self._modules)
        self.layout = layout_for(specs, self._modules, device)
        #: specs for the processes, without networks
        self.specs = [dataclasses.replace(spec, modules={}) for spec in specs]
        self._policy = Inference(self._core, self._modules, sum(self.layout.n_slots))
        priors = [prior for spec in specs for prior in spec.priors]
        self._priors = {row: prior.on_device(device) for row, prior in enumerate(priors) if prior is not None}
        self._states: dict[int, Any] = {}
        self._stream = th.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        # Between two threads of the learner: parameters must not change during a pass.
        self._lock = threading.Lock()
        # A pipe must not be closed, and its number reused for another file, just before a reply is written to it.
        self._reply_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._fds: list[int] = []
        self._replies: dict[int, int] = {}
        #: why the thread has failed, None while it runs
        self.error: str | None = None

    # The learner's side, called by the owner of the actors.

    def start(self) -> None:
        """Reserve the memory and start the thread. Call it in the main thread, as networks are traced."""
        with th.inference_mode():
            n_slots, masks = sum(self.layout.n_slots), self.layout.action_masks
            given = [] if masks is None else [th.ones((n_slots, *masks.shape), dtype=th.bool, device=self.device)]
            self._policy.trace(zeros(self.layout.observations, n_slots, self.device), *given)
        self._exchange = self._keep(shared_file(self.layout.n_bytes, "exchange"))
        self._views = self.layout.views(self._exchange)
        self._rung, ring = map(self._keep, os.pipe())
        self._bell = Doorbell(ring)
        #: descriptor that becomes readable when the thread has failed
        self.alarm, self._sounds_alarm = map(self._keep, os.pipe())
        self._thread = threading.Thread(target=self._serve, name="inference", daemon=True)
        self._thread.start()

    def connect(self, process: int) -> tuple[int, int, int]:
        """
        Create a pipe of replies for an actor process.

        :param process: index of the actor process that will start
        :return: descriptors of the exchange, of the bell, and of the read end of the new pipe, which the caller closes
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
        Copy the learner's parameters on the device.

        :return: whether they have changed; True on a GPU, where comparing would wait for the device
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
        """Stop the thread and close all pipes: actors that wait get no reply. May be called twice."""
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
        except Exception:  # the learner raises it: it would be lost with the thread
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
        with self._reply_lock, contextlib.suppress(BrokenPipeError, BlockingIOError):  # ended, or bytes unread
            os.write(self._replies[process], b"\0")

    def _act(self, processes: list[int]) -> None:
        """Compute the actions of all slots of some processes, including prior agents."""
        mine = [self.layout.rows(process) for process in processes]
        self._pass(slice(0, sum(self.layout.n_slots)), mine)
        for row in (row for rows in mine for row in range(rows.start, rows.stop)):
            if self._views["playing"][row] != Playing.NATURE:
                self._play(row, starts=self._views["playing"][row] == Playing.PRIOR_STARTS)

    def _pass(self, rows: slice, written: list[slice]) -> None:
        """Run the networks on rows, and write some of the results: other rows may be read at this moment."""
        with self._lock:
            given = self._on_device("observations", rows), rows.stop - rows.start, self._masks("action_masks", rows)
            actions, outputs = self._policy(*given)
        for part in written:
            seen = slice(part.start - rows.start, part.stop - rows.start)
            self._views["actions"][part] = actions[seen]
            self._views["outputs"][part] = outputs[seen]

    def _on_device(self, name: str, rows: slice) -> Any:
        """Copy rows to the device: actors without a request may write meanwhile."""
        arrays = {key: self._views[f"{name}/{key}"][rows] for key in self.layout.observations}
        return plain({key: moved(th.from_numpy(array), self.device, copy=True) for key, array in arrays.items()})

    def _masks(self, name: str, rows: slice) -> th.Tensor | None:
        """Copy rows of action masks, if there are any, to the device."""
        if self.layout.action_masks is None:
            return None
        return moved(th.from_numpy(self._views[name][rows]), self.device, copy=True)

    def _rate(self, process: int, n_rows: int) -> None:
        """Evaluate steps (Algorithm 2)."""
        rows = self.layout.rated(process, n_rows)
        actions, outputs = (th.from_numpy(self._views[f"rated/{name}"][rows]) for name in ("actions", "outputs"))
        observations = self._on_device("rated/observations", rows) if self.layout.rates_observations else None
        masks = self._masks("rated/action_masks", rows)
        with self._lock:
            steps = GivenSteps(observations, actions.to(self.device), outputs.to(self.device), masks)
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
        except Exception:  # reported to the actor, which handles it like its own agent's failure
            failure = traceback.format_exc()
        write_text(failure, self._views["prior_failures"][row])


def layout_for(specs: Sequence[WorkerSpec], modules: dict[str, th.nn.Module], device: th.device) -> InferenceLayout:
    """
    Derive the layout of the exchange from a pass with zeros.

    :param specs: actor processes
    :param modules: networks on the device
    :param device: torch device
    :return: the layout
    """
    first = specs[0]
    recipe, n_slots = first.recipe, tuple(len(spec.slots) for spec in specs)
    raw = {key: Part(column.shape, column.dtype) for key, column in recipe.columns.items()}
    normalized = recipe.normalization.shapes if recipe.normalization is not None else {}
    seen = {key: part._replace(dtype=np.dtype(np.float32)) if key in normalized else part for key, part in raw.items()}
    stored, mask = Part(*stored_action(recipe.action_space)), recipe.stored_columns.get(ACTION_MASK)
    with th.inference_mode():
        observations = zeros(seen, sum(n_slots), device)
        actions, outputs = first.core.act(modules, observations)
        stored_actions = th.from_numpy(np.zeros((len(outputs), *stored.shape), stored.dtype)).to(device)
        steps = GivenSteps(observations, stored_actions, outputs)
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
        rates_observations=steps.used,
        action_masks=Part(mask.shape, mask.dtype) if mask is not None else None,
    )


def zeros(parts: dict[str, Part], n_rows: int, device: th.device) -> Any:
    """
    Return network input of zeros.

    :param parts: parts of an observation by key
    :param n_rows: number of observations
    :param device: torch device
    :return: a tensor or a dictionary of tensors
    """
    arrays = {key: np.zeros((n_rows, *part.shape), part.dtype) for key, part in parts.items()}
    return plain({key: th.from_numpy(array).to(device) for key, array in arrays.items()})


def _part_of(tensor: th.Tensor) -> Part:
    return Part(tuple(tensor.shape[1:]), tensor.cpu().numpy().dtype)


class GivenSteps(Steps):
    """
    Steps whose observations are given, and that note whether they are used.

    :param observations: ``(rows, ...)`` network input, or None if it is not needed
    :param actions: ``(rows, action_dim)``
    :param outputs: ``(rows, ...)``
    :param action_masks: ``(rows, n_actions)`` bool; None without action masks
    """

    def __init__(
        self, observations: Any, actions: th.Tensor, outputs: th.Tensor, action_masks: th.Tensor | None = None
    ):
        super().__init__([], [], {}, None, actions, outputs, action_masks)
        self._given, self.used = observations, False

    @property
    def observations(self) -> Any:
        """The given observations."""
        self.used = True
        return self._given


def pays(specs: Sequence[WorkerSpec], device: th.device) -> bool:
    """
    Decide whether inference on the device pays, for ``inference="auto"``.

    It must take at most half the time, as updates use the device too.

    :param specs: actor processes, with all networks
    :param device: device of the learner's networks
    :return: whether it is at least twice as fast as an actor's own core; never for the CPU, on which the actors run
    """
    if device.type == "cpu":
        return False
    own, on_device = seconds_of_passes(specs, device)
    return own >= 2 * (on_device + ROUND_TRIP)


def seconds_of_passes(specs: Sequence[WorkerSpec], device: th.device) -> tuple[float, float]:
    """
    Time the networks for some hundredths of a second.

    :param specs: actor processes, with all networks
    :param device: torch device
    :return: seconds of a pass for one process's slots on one core, and of a pass for all slots on the device
    """
    first, cpu = specs[0], th.device("cpu")
    observations = layout_for(specs, first.modules, cpu).observations
    modules = {name: module.to(device) for name, module in copy.deepcopy(first.modules).items()}
    threads = th.get_num_threads()
    th.set_num_threads(1)  # as in actors
    try:
        own = seconds_of_pass(first.core, first.modules, zeros(observations, len(first.slots), cpu))
    finally:
        th.set_num_threads(threads)
    all_slots = zeros(observations, sum(len(spec.slots) for spec in specs), device)
    return own, seconds_of_pass(first.core, modules, all_slots)


def seconds_of_pass(core: type[ActorCore], modules: dict[str, th.nn.Module], observations: Any) -> float:
    """
    Time a pass.

    :param core: the algorithm's actor hooks
    :param modules: the networks
    :param observations: network input on the same device
    :return: median seconds of a pass, including the transfer of results to the CPU
    """
    seconds = []
    with th.inference_mode():
        for _ in range(TIMED_PASSES):
            started = time.perf_counter()
            core.act(modules, observations)[0].cpu()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[TIMED_PASSES // 2 :])  # the first passes load and allocate
