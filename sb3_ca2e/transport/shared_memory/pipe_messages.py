"""
Actors' announcements to the learner, as whole messages through a pipe.

A block counts once the whole message that announces it has arrived, so an actor that dies while writing leaves nothing
behind.
"""

import os
import pickle
import select
import struct

from sb3_ca2e.actors.handover import Handover


class MessageWriter:
    """
    Sends whole messages through a pipe.

    :param fd: write end
    """

    def __init__(self, fd: int):
        self._fd = fd

    def send(self, message: Handover) -> None:
        """
        Send a message.

        :param message: what to send
        """
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        data = struct.pack("<Q", len(data)) + data
        while data:
            data = data[os.write(self._fd, data) :]


class MessageReader:
    """
    Receives whole messages from a pipe without waiting for incomplete ones.

    :param fd: read end
    """

    def __init__(self, fd: int):
        self._fd = fd
        os.set_blocking(fd, False)
        self._received = bytearray()

    def receive(self) -> tuple[list[Handover], bool]:
        """
        Read messages without waiting.

        :return: the messages that have arrived, and whether the writer has closed the pipe
        """
        closed = False
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                closed = True
                break
            self._received += data
        messages = []
        while len(self._received) >= 8:
            (size,) = struct.unpack_from("<Q", self._received)
            if len(self._received) < 8 + size:
                break
            messages.append(pickle.loads(self._received[8 : 8 + size]))
            del self._received[: 8 + size]
        return messages, closed


def wait_readable(fd: int) -> bytes:
    """
    Wait for data from a pipe.

    :param fd: read end
    :return: the data; empty if the other end is closed
    """
    select.select([fd], [], [])
    return os.read(fd, 1 << 16)
