"""The learner's log of orders, the same for every transport."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sb3_ca2e.actors.orders import EnvCall, Order, SetAttribute, Settings

#: Most calls of environments in a log, which actors that start later have to repeat.
MOST_CALLS = 10_000

Pickled = TypeVar("Pickled")


@dataclass(frozen=True)
class Entry(Generic[Pickled]):
    """
    An order in the log.

    :param number: its number, higher than those before
    :param order: what it replaces and what replaces it: the order, without arguments or value
    :param pickled: the order
    """

    number: int
    order: Order
    pickled: Pickled


class OrderLog(Generic[Pickled]):
    """
    The orders that an actor needs that starts now, in their order.

    An attribute that is set again replaces its earlier value, unless a method was called in between, which may have
    read it. Settings are combined. The log of a curriculum that sets an attribute at every step thus keeps one entry.

    :param pickle: function that pickles an order; it may raise anything
    """

    def __init__(self, pickle: Callable[[Order], Pickled]):
        self._pickle = pickle
        self._settings: Settings | None = None
        self.newest = 0
        self.entries: list[Entry[Pickled]] = []

    def prepare(self, order: Order) -> Callable[[], Entry[Pickled]]:
        """
        Check and pickle an order.

        :param order: the order
        :return: function that adds it to the log
        :raises ValueError: if it can't be pickled
        :raises RuntimeError: if there are too many
        """
        if isinstance(order, Settings):
            order = (self._settings or Settings()).updated(order)
        elif len(self.entries) - (self._settings is not None) - len(self._replaced(order)) >= MOST_CALLS:
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
        return lambda: self._add(_without_values(order), pickled)

    def _add(self, order: Order, pickled: Pickled) -> Entry[Pickled]:
        for position in self._replaced(order):  # from the end
            del self.entries[position]
        if isinstance(order, Settings):
            self._settings = order
        self.newest += 1
        self.entries.append(Entry(self.newest, order, pickled))
        return self.entries[-1]

    def _replaced(self, order: Order) -> list[int]:
        """Return the positions of the entries that an order replaces, the last one first."""
        positions = []
        for position in reversed(range(len(self.entries))):
            older = self.entries[position].order
            if isinstance(order, EnvCall) or (isinstance(older, EnvCall) and isinstance(order, SetAttribute)):
                break
            if _replaces(order, older):
                positions.append(position)
        return positions


def _replaces(newer: Order, older: Order) -> bool:
    if isinstance(newer, Settings):
        return isinstance(older, Settings)
    if not isinstance(newer, SetAttribute) or not isinstance(older, SetAttribute):
        return False
    return newer.name == older.name and set(newer.indices) >= set(older.indices)


def _without_values(order: Order) -> Order:
    if isinstance(order, EnvCall):
        return EnvCall(order.method, (), {}, order.indices)
    if isinstance(order, SetAttribute):
        return SetAttribute(order.name, None, order.indices)
    return order
