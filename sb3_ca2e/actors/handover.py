"""Messages with which actors announce filled blocks."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Seconds(NamedTuple):
    """
    Time that an actor spent, in seconds.

    :param collecting: filling blocks
    :param waiting: waiting for the learner before
    :param environments: part of ``collecting`` spent in environment steps and resets
    :param inference: part of ``collecting`` spent in networks and prior agents
    """

    collecting: float = 0.0
    waiting: float = 0.0
    environments: float = 0.0
    inference: float = 0.0


@dataclass
class Handover:
    """
    Announcement of an actor that it has filled one block for each of its slots.

    :param process: index of the actor process
    :param sequence: number of the handover in this process, from 0
    :param n_rows: number of rows written for each slot
    :param version: version of the parameters behind the actions and priorities
    :param infos: entries of ``info``, by (step, position of the slot)
    :param games: by (step, position of the slot), for each game that ended: its return, and whether a nature slot
        played it without exploration
    :param seconds: how the actor spent its time
    :param refused: by position of the slot: number of values refused because they are not finite, and the reason for
        the last
    :param broken: by position of the slot: why its prior agent was given up
    :param begins: the actor's first handover: episodes start anew, those before were cut off
    :param late: the actor was silent for longer than the timeout meanwhile
    :param error: traceback if the actor failed; the other fields are empty then
    :param failed_slot: slot whose environment failed, or -1
    :param hopeless: a replacement would fail too
    """

    process: int
    sequence: int = 0
    n_rows: list[int] = field(default_factory=list)
    version: int = 0
    infos: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    games: dict[tuple[int, int], tuple[float, bool]] = field(default_factory=dict)
    seconds: Seconds = field(default_factory=Seconds)
    refused: dict[int, tuple[int, str]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    begins: bool = False
    late: bool = False
    error: str | None = None
    failed_slot: int = -1
    hopeless: bool = False
