"""Plugin of pytest for ``sb3_tests.py``: puts our classes in the place of SB3's, and keeps the tests that use them."""

import inspect
import json
import os
import pathlib
from typing import Any

import pytest
import stable_baselines3

from sb3_ca2e import CA2EDDPG, CA2EDQN

EXECUTION = os.environ["SB3_TESTS_EXECUTION"]


class DQN(CA2EDQN):
    """:class:`CA2EDQN` under SB3's name, which names runs and files."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"execution": EXECUTION, **kwargs})


class DDPG(CA2EDDPG):
    """:class:`CA2EDDPG` under SB3's name."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"execution": EXECUTION, **kwargs})


OURS = {"DQN": DQN, "DDPG": DDPG}
for _name, _algorithm in OURS.items():
    setattr(stable_baselines3, _name, _algorithm)

_results: list[dict[str, Any]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that our classes are given to, or that name one and are given no class."""
    items[:] = [item for item in items if _is_of_ours(item)]


def _is_of_ours(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    given = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    algorithms = [each for each in given if isinstance(each, type) and issubclass(each, _base())]
    if algorithms:
        return any(each in OURS.values() for each in algorithms)
    source = inspect.getsource(item.function)
    return any(f"{name}(" in source or f"{name}.load" in source for name in OURS)


def _base() -> type:
    from stable_baselines3.common.base_class import BaseAlgorithm

    return BaseAlgorithm


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a test ended."""
    if report.when == "call" or report.outcome != "passed":
        result = {"name": report.nodeid.rpartition("/")[2], "outcome": report.outcome}
        if report.failed:
            result["error"] = str(report.longrepr).strip().splitlines()[-1][:500]
        _results.append(result)


def pytest_sessionfinish() -> None:
    """Write the results."""
    pathlib.Path(os.environ["SB3_TESTS_REPORT"]).write_text(json.dumps(_results), encoding="utf-8")
