"""Doors to what tests look at and no user needs: the one place where these private names of the package stand."""

import threading

import torch as th

from sb3_ca2e.algorithms.base import CA2EMixin
from sb3_ca2e.learner.collector import Collector
from sb3_ca2e.learner.graphed_updates import FusedUpdates
from sb3_ca2e.learner.update import Learner
from sb3_ca2e.replay import PrioritizedReplayBuffer
from sb3_ca2e.replay.rows import Rows
from sb3_ca2e.replay.samples import PrioritizedReplaySamples
from sb3_ca2e.replay.storage import SegmentStorage
from sb3_ca2e.transport.shared_memory import parking


def storage(memory: PrioritizedReplayBuffer) -> SegmentStorage | None:
    """
    :param memory: that holds something or not yet
    :return: where; None if nothing has been reserved
    """
    return memory._storage


def rows(memory: PrioritizedReplayBuffer) -> Rows:
    """
    :param memory: that holds something
    :return: its rows, with their priorities
    """
    held = storage(memory)
    assert held is not None
    return held.rows


def learner(model: CA2EMixin) -> Learner:
    """
    :param model: that has been updated
    :return: what updates it
    """
    assert model._learner is not None
    return model._learner


def fused(model: CA2EMixin) -> FusedUpdates | None:
    """
    :param model: that has been updated
    :return: what makes several of its updates at once; None if nothing does
    """
    return learner(model)._fused


def compiler(model: CA2EMixin) -> threading.Thread | None:
    """
    :param model: that has been updated
    :return: the thread that compiles its updates or has done so; None if there has been none
    """
    return learner(model)._compiler


def last_batch(model: CA2EMixin) -> tuple[PrioritizedReplaySamples, th.Tensor]:
    """
    :param model: that has been updated
    :return: the batch of the last update, and its TD errors
    """
    assert model._last_batch is not None
    return model._last_batch


def collector(model: CA2EMixin) -> Collector | None:
    """
    :param model: that learns
    :return: what collects its actors' blocks; None once it has learned
    """
    return model._collector


def parked_server() -> int | None:
    """
    :return: the process that waits for the next ``learn``, to fork its actors; None if there is none
    """
    server = parking._PARKING._server
    return None if server is None else server._process.pid
