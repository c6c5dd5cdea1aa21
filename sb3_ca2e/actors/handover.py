"""What actors say of the blocks that they hand over."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Seconds(NamedTuple):
    """
    How an actor spent its time.

    :param collecting: filling blocks
    :param waiting: for the learner, before
    :param environments: of collecting, in steps and resets
    :param inference: of collecting, in networks and prior agents
    """

    collecting: float = 0.0
    waiting: float = 0.0
    environments: float = 0.0
    inference: float = 0.0


@dataclass
class Handover:
    """
    What an actor announces when it has filled a block for each of its slots.

    :param process: index of the actor process
    :param sequence: number of the handover in that process, from 0
    :param n_rows: rows written, a number a slot
    :param version: version of the parameters that chose the actions and priorities
    :param infos: what environments reported, by (step, position of the slot)
    :param games: for each game that ended: its return, and whether a nature slot played it without exploration
    :param seconds: how the actor spent its time
    :param refused: by position of the slot, how much of what it gave was not finite, and why the last was refused
    :param broken: by position of the slot, why its prior agent was given up
    :param begins: the first of its actor: episodes begin anew, those before were cut off
    :param late: the actor was silent for too long meanwhile
    :param error: traceback, if the actor failed: then all else is empty
    :param failed_slot: slot whose environment failed, -1 if none did
    :param hopeless: another actor would fail too
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
