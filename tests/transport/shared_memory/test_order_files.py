"""The files of the log of orders, read while they are written and after the writer was killed."""

import os
import signal

import numpy as np

from sb3_ca2e.actors.orders import EnvCall, SetAttribute
from sb3_ca2e.transport.shared_memory.control_block import ControlBlock
from sb3_ca2e.transport.shared_memory.memory import shared_file
from sb3_ca2e.transport.shared_memory.order_files import OrderFiles, OrderReader
from tests.transport.shared_memory.test_memory_and_messages import forked

BULK = 2000


def write_until_stopped(board: ControlBlock, files: OrderFiles) -> None:
    """Pairs of values that are right together, and now and then a call, so that more and more orders live."""
    number = 0
    while not board.stopped:
        number += 1
        files.prepare(SetAttribute("value", np.full(BULK // 8, number), (0,)))()
        if number % 500 == 0:
            files.prepare(EnvCall("mark", (number,), {}, (0,)))()


def test_a_reader_that_races_the_learner_sees_whole_orders_and_none_is_lost():
    fd = shared_file(ControlBlock.size(1, 1), "test")
    board = ControlBlock(1, 1, fd)
    files = OrderFiles(board.orders)
    writer = forked(write_until_stopped, board, files)
    seen, values, marks = 0, [0], []
    reader = OrderReader(board.orders, tuple(files.fds))
    try:
        while len(marks) < 20 or board.orders.generation[0] < 50:
            orders = reader.since(seen)
            assert [number for number, _ in orders] == sorted({number for number, _ in orders})
            for number, order in orders:
                assert number > seen
                seen = number
                if isinstance(order, EnvCall):
                    marks += order.args
                else:
                    assert len(set(order.value.tolist())) == 1
                    values.append(int(order.value[0]))
        assert marks == list(range(500, 500 * (len(marks) + 1), 500))
        assert values == sorted(set(values))
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        late = OrderReader(board.orders, tuple(files.fds)).since(0)
        files.close()
        os.close(fd)
    assert [order.args[0] for _, order in late if isinstance(order, EnvCall)][: len(marks)] == marks


def test_the_learner_may_be_killed_at_any_time_and_what_it_had_sent_can_be_read():
    for _ in range(20):
        fd = shared_file(ControlBlock.size(1, 1), "test")
        board = ControlBlock(1, 1, fd)
        files = OrderFiles(board.orders)
        writer = forked(write_until_stopped, board, files)
        while board.orders.generation[0] < 3:
            os.sched_yield()
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        newest = int(board.orders.newest[0])
        orders = OrderReader(board.orders, tuple(files.fds)).since(0)
        assert orders[-1][0] >= newest
        files.close()
        os.close(fd)


def test_an_attribute_set_at_every_step_takes_no_more_memory_than_set_once():
    board = ControlBlock(1, 1)
    files, sizes = OrderFiles(board.orders), []
    for step in range(3000):
        files.prepare(SetAttribute("value", np.full(BULK // 8, step), (0, 1)))()
        files.prepare(SetAttribute("value", np.full(BULK // 8, -step), (1,)))()
        sizes.append(sum(os.fstat(fd).st_size for fd in files.fds))
    assert max(sizes) < 20 * 2 * BULK + 2**16
    orders = OrderReader(board.orders, tuple(files.fds)).since(0)
    assert [(order.indices, order.value[0]) for _, order in orders[-2:]] == [((0, 1), 2999), ((1,), -2999)]
    files.close()
