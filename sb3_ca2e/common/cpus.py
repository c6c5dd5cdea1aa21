"""The number of CPU cores available."""

import os


def cpu_count() -> int:
    """
    Count the CPU cores that this process may use.

    :return: number of cores
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
