"""How many cores there are."""

import os


def cpu_count() -> int:
    """
    :return: number of cores that this process may use
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
