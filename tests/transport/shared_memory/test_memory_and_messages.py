"""Shared memory and messages between the learner and its actors."""

import fcntl
import os
import signal
import struct
import sys
import termios
import threading

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.replay.block import BlockLayout, observation_columns
from sb3_ca2e.transport.shared_memory.block_buffers import BUFFERS, BlockBuffers
from sb3_ca2e.transport.shared_memory.control_block import ControlBlock
from sb3_ca2e.transport.shared_memory.memory import shared_file
from sb3_ca2e.transport.shared_memory.pipe_messages import MessageReader, MessageWriter
from tests.marked_processes import open_files, shared_memory


def forked(function, *arguments) -> int:
    """Run a function in a child of this process; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
        finally:
            os._exit(0)
    return pid


def publish_until_stopped(fd: int, size: int) -> None:
    board, parameters = ControlBlock(1, size, fd), np.empty(size, np.float32)
    while not board.stopped:
        parameters[:] = board.version + 1
        board.publish(parameters)


def test_a_reader_that_races_the_learner_never_sees_a_torn_vector():
    size = 4096
    fd = shared_file(ControlBlock.size(1, size), "test")
    # Written with gaps, so that the reader is slower than the writer and often overtaken
    board, out = ControlBlock(1, size, fd), np.zeros((size, 64), np.float32)[:, 0]
    publisher = forked(publish_until_stopped, fd, size)
    try:
        seen = set()
        while len(seen) < 500:
            version = board.read(out)
            assert (out == version).all()
            seen.add(version)
    finally:
        board.stop()
        os.waitpid(publisher, 0)
        os.close(fd)


def test_a_reader_waits_out_a_half_written_vector():
    board, out = ControlBlock(1, 2), np.zeros(2, np.float32)
    board.publish(np.array([1, 1], np.float32))
    # The state that publish() passes through: the second version announced, and its buffer not yet whole
    board._sequence[0], board._words[ControlBlock._VERSION], board._parameters[0] = -2, 2, [2, -5]
    versions = []
    reader = threading.Thread(target=lambda: versions.append(board.read(out)), daemon=True)
    reader.start()
    assert not versions
    board._parameters[0] = 2
    board._sequence[0] = 2
    reader.join()
    assert versions == [2]
    assert (out == 2).all()


def test_board_fields_do_not_overlap():
    board = ControlBlock(3, 5)
    board.publish(np.arange(5, dtype=np.float32))
    board.set_progress(0.25)
    for process in range(3):
        board.grant(process, 10 + process)
    board.retire(1)
    out = np.zeros(5, np.float32)
    assert board.read(out) == 1
    assert out.tolist() == [0, 1, 2, 3, 4]
    assert board.progress == 0.25
    assert [board.credit(process) for process in range(3)] == [10, 11, 12]
    assert [board.retired(slot) for slot in range(3)] == [False, True, False]
    assert not board.stopped
    board.stop()
    assert board.stopped


MESSAGES = [Handover(3), Handover(1, 7, [4, 5], 2, {(0, 1): {"a": np.arange(3)}}, {(0, 1): (1.5, True)}, (0.1, 0.2))]


def message_bytes(messages=MESSAGES) -> bytes:
    read, write = os.pipe()
    for message in messages:
        MessageWriter(write).send(message)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        return file.read()


def plain(message: Handover) -> tuple:
    return message.process, message.sequence, message.n_rows, repr(message.infos), message.games, message.seconds


def test_messages_split_at_every_byte():
    data = message_bytes()
    (first,) = struct.unpack_from("<Q", data)
    for split in range(len(data) + 1):
        read, write = os.pipe()
        reader = MessageReader(read)
        os.write(write, data[:split])
        whole = 0 if split < 8 + first else 1 if split < len(data) else 2
        messages, closed = reader.receive()
        assert [plain(m) for m in messages] == [plain(m) for m in MESSAGES[:whole]]
        assert not closed
        os.write(write, data[split:])
        messages, closed = reader.receive()
        assert [plain(m) for m in messages] == [plain(m) for m in MESSAGES[whole:]]
        os.close(write)
        assert reader.receive() == ([], True)
        os.close(read)


def send_and_hang(write: int) -> None:
    writer = MessageWriter(write)
    writer.send(Handover(5))
    writer.send(Handover(6, error="x" * 10_000_000))  # more than a pipe holds: it stops in the middle


def n_unread(read: int) -> int:
    return int.from_bytes(fcntl.ioctl(read, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_what_a_killed_writer_left_unfinished_does_not_count():
    read, write = os.pipe()
    reader = MessageReader(read)
    writer = forked(send_and_hang, write)
    os.close(write)
    first = len(message_bytes([Handover(5)]))
    while n_unread(read) <= first:  # until the second message has begun; nobody reads, so it can't end
        os.sched_yield()
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    received, closed = [], False
    while not closed:
        messages, closed = reader.receive()
        received += messages
    assert [message.process for message in received] == [5]
    os.close(read)


def layouts():
    columns = {
        "vector": observation_columns(spaces.Box(-1, 1, (3,), np.float32)),
        "bytes": observation_columns(spaces.Box(0, 255, (5,), np.uint8)),
        "stack": observation_columns(spaces.Box(0, 255, (4, 3, 3), np.uint8), 4, 0),
    }
    actions = [((1,), np.dtype(np.int64)), ((3,), np.dtype(np.float32))]
    return st.builds(
        lambda column, n_steps, action: BlockLayout(columns[column], n_steps, *action),
        st.sampled_from(sorted(columns)),
        st.integers(1, 7),
        st.sampled_from(actions),
    )


@given(layout=layouts(), n_slots=st.integers(1, 3))
def test_no_two_fields_of_any_block_share_a_byte(layout, n_slots):
    buffers = BlockBuffers(layout, list(range(n_slots)))
    handed_over = [buffers.views(sequence) for sequence in range(BUFFERS)]
    fields = [array for buffer in handed_over for views in buffer for array in views.values()]
    for i, array in enumerate(fields):
        array.view(np.uint8)[...] = i
    for i, array in enumerate(fields):
        assert (array.view(np.uint8) == i).all()


@given(layout=layouts(), data=st.data())
def test_a_block_is_a_view_of_the_written_rows(layout, data):
    n_rows = data.draw(st.integers(0, 2 * layout.n_steps))
    buffers = BlockBuffers(layout, [4])
    (views,) = buffers.views(1)
    views["rewards"][:] = np.arange(2 * layout.n_steps)
    (block,) = buffers.blocks(1, [n_rows])
    assert block.slot == 4
    assert block.rewards.tolist() == list(range(n_rows))
    lengths = {"actions": n_rows, "flags": n_rows, "priorities": n_rows, "ages": n_rows + 1}
    assert {name: len(getattr(block, name)) for name in lengths} == lengths
    assert {len(frames) for frames in block.frames.values()} == {layout.lead + n_rows + 1}


def test_shared_memory_is_shared_has_no_name_and_goes_with_its_processes():
    before = shared_memory()
    fd = shared_file(4096, "test")
    one, other = ControlBlock(2, 10, fd), ControlBlock(2, 10, fd)
    assert os.fstat(fd).st_nlink == 0
    assert shared_memory() > before
    os.close(fd)  # the mappings hold it
    one.publish(np.full(10, 3.0, np.float32))
    out = np.zeros(10, np.float32)
    assert other.read(out) == 1
    assert (out == 3).all()
    del one, other
    assert shared_memory() <= before


def test_a_lack_of_memory_is_an_error_that_says_what_to_do():
    before = open_files()
    with pytest.raises(MemoryError, match=r"lower n_actors or local_buffer_size"):
        shared_file(1 << 60, "test")
    assert not open_files() - before


def test_flat_parameters_carry_modules_over():
    def net() -> dict[str, th.nn.Module]:
        trunk = th.nn.Linear(3, 4)
        return {"a": th.nn.Sequential(trunk, th.nn.BatchNorm1d(4)), "b": th.nn.Sequential(trunk, th.nn.Linear(4, 2))}

    learner, actor = net(), net()
    learner["a"][1].running_mean += 7
    flat = FlatParameters(actor).bind()
    flat[...] = FlatParameters(learner).get()
    assert FlatParameters(actor).size == 3 * 4 + 4 + 4 * 4 + 4 * 2 + 2  # the shared layer once, no integer counters
    for name in learner:
        for mine, theirs in zip(learner[name].state_dict().values(), actor[name].state_dict().values(), strict=True):
            assert th.equal(mine, theirs)
