"""Names in older checkpoints and their current modules."""

import pickle
from typing import Any

#: Current modules by module and name as written in checkpoints of format 1.
MOVED = {
    ("sb3_ca2e.actors.collector", "SlotStats"): "sb3_ca2e.learner.slot_stats",
    ("sb3_ca2e.resumption", "Snapshot"): "sb3_ca2e.checkpoints.resumption",
}


class Unpickler(pickle.Unpickler):
    """Reads pickles of all versions."""

    def find_class(self, module: str, name: str) -> Any:
        """
        Find an object by its old or current name.

        :param module: module in the pickle
        :param name: name in the module
        :return: the object
        """
        return super().find_class(MOVED.get((module, name), module), name)
