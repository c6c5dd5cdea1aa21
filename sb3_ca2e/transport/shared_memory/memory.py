"""Memory that processes share."""

import errno
import os
import tempfile

import numpy as np


def shared_file(n_bytes: int, name: str) -> int:
    """
    Create shared memory that is freed with the last process that uses it, however the processes end.

    :param n_bytes: size in bytes, reserved now: a lack of memory is an error here instead of a SIGBUS later
    :param name: name shown in /proc, for debugging
    :return: a file descriptor
    :raises MemoryError: if it can't be reserved
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(f"sb3_ca2e-{name}")
    else:  # pragma: no cover - an unlinked file does the same where memfd is missing
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        # Check this here: for a size beyond the physical memory, the kernel may kill this process.
        if n_bytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        os.truncate(fd, n_bytes)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, max(n_bytes, 1))
    except OSError as error:
        os.close(fd)
        raise MemoryError(
            f"Could not reserve {n_bytes / 2**20:.1f} MiB of shared memory for the actors ({error.strerror}); "
            "lower n_actors or local_buffer_size, or free memory."
        ) from error
    return fd


def map_file(fd: int) -> np.ndarray:
    """
    Map shared memory.

    :param fd: result of :func:`shared_file`
    :return: ``(n_bytes,)`` uint8, shared
    :raises MemoryError: if it can't be mapped
    """
    with os.fdopen(os.dup(fd), "r+b") as file:  # the mapping outlives the file object
        try:
            return np.memmap(file, dtype=np.uint8, mode="r+").view(np.ndarray)
        except OSError as error:
            size = os.fstat(fd).st_size / 2**20
            raise MemoryError(
                f"Could not map {size:.1f} MiB of shared memory for the actors ({error.strerror}); raise the limit on "
                "this process's memory (`ulimit -v`), or lower n_actors or local_buffer_size."
            ) from error
