"""What was called on environments that functions make anew for each actor."""

from collections.abc import Callable

from sb3_ca2e.common import copying
from sb3_ca2e.envs.calls import Call
from sb3_ca2e.envs.copies.modules import modules_in, refuse_lost_modules
from sb3_ca2e.envs.copies.pickling import Builder, dumps
from sb3_ca2e.envs.order_log import OrderLog


class Journal:
    """
    The calls that environments made anew have to repeat.

    A call that can't be repeated is an error only when it has to be.
    """

    def __init__(self) -> None:
        self._log = OrderLog(copying.dumps)
        self._refusal: Exception | None = None

    def prepare(self, call: Call) -> Callable[[], object]:
        """
        Pickle a call.

        :param call: the call
        :return: function that notes it down
        """
        try:
            return self._log.prepare(call)
        except (ValueError, RuntimeError) as error:
            refusal = error
        return lambda: self._refuse(refusal)

    def _refuse(self, refusal: Exception) -> None:
        self._refusal = self._refusal or refusal

    def calls(self) -> list[Call]:
        """
        Return the calls.

        :return: new copies
        :raises ValueError: if one can't be repeated, as it can't be pickled
        :raises RuntimeError: if there were too many
        """
        if self._refusal is not None:
            raise self._refusal
        return [copying.loads(*each.pickled) for each in self._log.entries]

    def builder(self, here: bool) -> Builder | None:
        """
        Pickle the calls for actors.

        :param here: whether they are loaded in this process
        :return: a builder of the list of calls, or None if there are none
        :raises ValueError: if one can't be repeated; the message names it and the remedy
        :raises RuntimeError: if there were too many
        """
        if not (calls := self.calls()):
            return None
        names = "calls of the environments: " + ", ".join(sorted({str(call) for call in calls}))
        try:
            builder = dumps((calls, ()), here)
        except Exception as error:  # the user's objects may raise anything
            raise ValueError(
                f"Actors repeat {names}. What they hold can't be pickled ({type(error).__name__}: {error}). Pass plain "
                "values, or let the function that makes the environment do the same."
            ) from error
        if not here:
            refuse_lost_modules(modules_in(builder.pickled), names)
        return builder
