"""Checks of system limits before actors are started, as later errors would be harder to understand."""

import contextlib
import errno
import os

with contextlib.suppress(ImportError):  # not on Windows, which has no actor processes
    import resource

#: Descriptors that the learner keeps for each actor process: two pipes and the process itself.
KEPT = 3
#: Descriptors that it opens temporarily while it starts a process, and some to spare.
SPARE = 24


def check_descriptors(n_processes: int, n_more: int = 0) -> None:
    """
    Check that enough file descriptors are available.

    :param n_processes: number of actor processes to start
    :param n_more: number of other descriptors to open
    :raises OSError: if the limit of this process is too low
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + KEPT * n_processes + n_more + SPARE
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise OSError(
            errno.EMFILE,
            f"This process may open {limit} file descriptors but needs about {needed} with {n_processes} actor "
            "processes. Lower n_processes, or raise the limit: `ulimit -n` in the shell, or resource.setrlimit",
        )


def limits() -> dict[str, tuple[int, int]]:
    """
    Return the resource limits of this process, which its children inherit.

    :return: soft and hard limit by name
    """
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}
