"""The main function of an actor process."""

import contextlib
import dataclasses
import os
import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sb3_ca2e.actors.worker import Worker
    from sb3_ca2e.transport.shared_memory.inference_layout import InferenceLayout
    from sb3_ca2e.transport.shared_memory.pipe_messages import MessageWriter
    from sb3_ca2e.transport.shared_memory.port import SharedMemoryPort


def run_actor(fds: dict[str, int], niceness: int) -> int:
    """
    Run an actor until the learner stops it.

    :param fds: file descriptors by name, sent with the spawn request
    :param niceness: value to add to the process's niceness
    :return: exit status
    """
    import cloudpickle
    import torch as th
    from stable_baselines3.common.utils import set_random_seed

    from sb3_ca2e.actors.handover import Handover
    from sb3_ca2e.actors.spec import WorkerSpec
    from sb3_ca2e.actors.worker import Worker
    from sb3_ca2e.errors import UnrecoverableError
    from sb3_ca2e.transport.shared_memory.block_buffers import BlockBuffers
    from sb3_ca2e.transport.shared_memory.control_block import ControlBlock
    from sb3_ca2e.transport.shared_memory.inference_client import InferenceClient, LearnerGone
    from sb3_ca2e.transport.shared_memory.pipe_messages import MessageWriter
    from sb3_ca2e.transport.shared_memory.port import SharedMemoryPort

    th.set_num_threads(1)
    messages = MessageWriter(fds["messages"])
    actor: Worker | None = None
    spec: WorkerSpec | None = None
    try:
        with os.fdopen(fds["spec"], "rb") as file:
            file.seek(0)
            exchange: InferenceLayout | None = cloudpickle.load(file)
            spec = dataclasses.replace(cloudpickle.load(file), **cloudpickle.load(file))
        assert isinstance(spec, WorkerSpec)
        if spec.recipe.process is not None:
            spec.recipe.process.apply()
        set_random_seed(spec.seed_of(spec.slots[0]))
        board = ControlBlock(spec.n_slots, spec.n_parameters, fds["board"])
        remote = None
        if exchange is not None:
            ways = fds["exchange"], fds["bell"], fds["replies"]
            remote = InferenceClient(exchange, spec.process, *ways)
        buffers = BlockBuffers(spec.layout, spec.slots, fds["buffers"])
        port = SharedMemoryPort(spec.process, board, buffers, (fds["orders"], fds["more_orders"]))
        port.pulse.supervise(spec.supervision)
        actor = Worker(spec, port, remote, alone=True)
        # The learner's threads wait for each other in every layer, so an actor on the core of one would delay all.
        # Set it before environments start threads; the work until here is short.
        os.nice(niceness)
        actor.open()
        with contextlib.suppress(LearnerGone):
            _collect(actor, port, messages, fds["wake"])
        actor.close()
    except Exception as error:  # environments may raise anything; the learner reports it
        slot, process = actor.collecting if actor is not None else -1, spec.process if spec is not None else -1
        hopeless = isinstance(error, UnrecoverableError)
        failed = Handover(process, error=traceback.format_exc(), failed_slot=slot, hopeless=hopeless)
        with contextlib.suppress(BrokenPipeError):
            messages.send(failed)
        return 1
    return 0


def _collect(actor: "Worker", port: "SharedMemoryPort", messages: "MessageWriter", wake: int) -> None:
    """Fill blocks until the learner stops the actor, or has ended."""
    from sb3_ca2e.actors.heartbeat import Phase
    from sb3_ca2e.transport.shared_memory.pipe_messages import wait_readable

    while not port.stopped:
        started = time.perf_counter()
        port.pulse.enter(Phase.WAITING)
        while port.credit <= actor.sequence and not port.stopped:
            if not wait_readable(wake):
                return
        if port.stopped:
            return
        handover = actor.collect(time.perf_counter() - started)
        try:
            messages.send(handover)
        except BrokenPipeError:
            return
