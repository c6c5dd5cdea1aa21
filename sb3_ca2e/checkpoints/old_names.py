"""What older checkpoints name, and where it is now."""

import pickle
from typing import Any

#: Modules of today by those, and the names in them, that checkpoints of format 1 were written with.
MOVED = {
    ("sb3_ca2e.actors.collector", "SlotStats"): "sb3_ca2e.learner.slot_stats",
    ("sb3_ca2e.resumption", "Snapshot"): "sb3_ca2e.checkpoints.resumption",
}


class Unpickler(pickle.Unpickler):
    """Reads what any version has written."""

    def find_class(self, module: str, name: str) -> Any:
        """
        :param module: as it was called
        :param name: of something in it
        :return: it
        """
        return super().find_class(MOVED.get((module, name), module), name)
