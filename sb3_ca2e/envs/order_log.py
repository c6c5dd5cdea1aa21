"""A log of orders to environments and actors, from which those that start later catch up."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

#: Most orders in a log, which actors that start later have to repeat.
MOST_CALLS = 10_000

Pickled = TypeVar("Pickled")


class LoggedOrder(ABC):
    """An order, as a log sees it."""

    #: whether there may be many, so that a log limits their number
    limited: ClassVar[bool] = True

    def replaces(self, older: Any) -> bool:
        """
        Tell whether an older order need not be carried out.

        :param older: an order
        :return: whether this one makes up for it
        """
        return False

    def depends_on(self, older: Any) -> bool:
        """
        Tell whether this order replaces nothing that is as old as another one.

        :param older: an order
        :return: whether to look no further
        """
        return False

    @abstractmethod
    def without_values(self) -> Self:
        """
        Return what a log compares.

        :return: the order, or a part of it that takes little memory
        """


@dataclass(frozen=True)
class Entry(Generic[Pickled]):
    """
    An order in the log.

    :param number: its number, higher than those before
    :param order: the order without its values
    :param pickled: the order
    """

    number: int
    order: LoggedOrder
    pickled: Pickled


class OrderLog(Generic[Pickled]):
    """
    The orders that matter to an environment or an actor that starts now, in their order.

    An attribute that is set again replaces its earlier value, unless a method was called in between, which may have
    read it. The log of a curriculum that sets an attribute at every step thus keeps one entry.

    :param pickle: function that pickles an order; it may raise anything
    """

    def __init__(self, pickle: Callable[[Any], Pickled]):
        self._pickle = pickle
        self.newest = 0
        self.entries: list[Entry[Pickled]] = []

    def prepare(self, order: LoggedOrder) -> Callable[[], Entry[Pickled]]:
        """
        Check and pickle an order.

        :param order: the order
        :return: function that adds it to the log
        :raises ValueError: if it can't be pickled
        :raises RuntimeError: if there are too many
        """
        if order.limited and len(self.entries) - len(self._replaced(order)) >= MOST_CALLS:
            raise RuntimeError(
                f"{order} is one call too many: actors have {MOST_CALLS:,} to repeat whenever one is restarted. Set an "
                "attribute with set_attr() instead of calling a method (a newer value replaces the older one), or call "
                "it less often."
            )
        try:
            pickled = self._pickle(order)
        except Exception as error:  # the user's objects may raise anything
            raise ValueError(
                f"Actors repeat {order}, but it holds something that can't be sent to them ({type(error).__name__}: "
                f"{error}). Pass plain values, or let a method of the environment create what it needs."
            ) from error
        return lambda: self._add(order.without_values(), pickled)

    def _add(self, order: LoggedOrder, pickled: Pickled) -> Entry[Pickled]:
        for position in self._replaced(order):
            del self.entries[position]
        self.newest += 1
        self.entries.append(Entry(self.newest, order, pickled))
        return self.entries[-1]

    def _replaced(self, order: LoggedOrder) -> list[int]:
        """Return the positions of the entries that an order replaces, the last one first."""
        positions = []
        for position in reversed(range(len(self.entries))):
            older = self.entries[position].order
            if order.depends_on(older):
                break
            if order.replaces(older):
                positions.append(position)
        return positions
