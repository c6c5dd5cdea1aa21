"""Which orders a log keeps for actors that start later."""

import pickle

from sb3_ca2e.actors.orders import EnvCall, SetAttribute, Settings, settings_of
from sb3_ca2e.envs.order_log import OrderLog


def kept(orders):
    log = OrderLog(pickle.dumps)
    for order in orders:
        log.prepare(order)()
    return [(entry.number, pickle.loads(entry.pickled)) for entry in log.entries]


def test_settings_replace_those_before_that_set_nothing_else():
    """Else a schedule that changes a setting in each round would let the log grow without end."""
    call, attribute = EnvCall("add", (1,), {}, (0, 1)), SetAttribute("level", 3.0, (0, 1))
    orders = [
        Settings(gamma=0.9, n_steps=3),
        Settings(warmup=7),
        call,
        Settings(gamma=0.8),
        attribute,
        Settings(gamma=0.7, explorations=()),
    ]
    assert kept(orders) == [(1, orders[0]), (2, orders[1]), (3, call), (5, attribute), (6, orders[5])]
    orders.append(Settings(gamma=0.6, n_steps=1))
    assert kept(orders) == [(2, orders[1]), (3, call), (5, attribute), (6, orders[5]), (7, orders[6])]
    assert settings_of(kept(orders)) == settings_of(list(enumerate(orders)))
    assert settings_of(kept(orders)) == {"gamma": 0.6, "n_steps": 1, "warmup": 7, "explorations": ()}
