"""What the system must grant before actors are started: to run out of it later would be harder to understand."""

import contextlib
import errno
import os

with contextlib.suppress(ImportError):  # Windows has none, and no actor processes
    import resource

#: Descriptors that the learner keeps for each actor process: to wake it, to hear from it, and of the process itself.
KEPT = 3
#: Those that it has open for a moment while it starts a process, and some to spare.
SPARE = 24


def check_descriptors(n_processes: int, n_more: int = 0) -> None:
    """
    :param n_processes: actor processes to start
    :param n_more: other descriptors that are to be opened
    :raises OSError: if this process may not open as many
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + KEPT * n_processes + n_more + SPARE
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise OSError(
            errno.EMFILE,
            f"This process may have {limit} file descriptors and would need about {needed} with {n_processes} actor "
            "processes. Lower n_processes, or raise the limit: `ulimit -n` in the shell, or resource.setrlimit",
        )


def limits() -> dict[str, tuple[int, int]]:
    """
    :return: what the system grants this process, and those that it starts
    """
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}
