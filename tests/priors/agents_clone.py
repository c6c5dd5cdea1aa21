"""A clone of the RL Zoo's pretrained agents, DLR-RM/rl-trained-agents, where one is at hand."""

import os
import pathlib
import re
from typing import NamedTuple

import pytest

from tests import REPOSITORY

_BESIDE = REPOSITORY / ".." / "shared" / "rl-trained-agents"
#: Its folder, which need not exist.
AGENTS = pathlib.Path(os.environ.get("SB3_CA2E_AGENTS", _BESIDE))

needs_agents = pytest.mark.skipif(
    not (AGENTS / "dqn").is_dir(), reason="no clone of rl-trained-agents (SB3_CA2E_AGENTS)"
)


class Rewards(NamedTuple):
    """
    What the clone's README says of an agent: means and standard deviations.

    :param published: in the zoo's benchmark
    :param measured: over ten episodes from seed 0, in version 4 of MuJoCo's environments where the versions differ
    """

    published: tuple[float, float]
    measured: tuple[float, float]


def readme_rewards() -> dict[tuple[str, str], Rewards]:
    """
    :return: the rewards of each agent by algorithm and environment; the test is skipped if the README has no such table
    """
    reward = r"(-?[\d.]+) ± ([\d.]+)"
    row = rf"^\| (\w+) \| ([\w-]+) \|[^|]*\|[^|]*\| {reward} \| (?:v4: )?{reward}"
    readme = AGENTS / "README.md"
    rows = re.findall(row, readme.read_text(encoding="utf-8") if readme.is_file() else "", re.M)
    if not rows:
        pytest.skip("this clone of rl-trained-agents has no table of measured rewards")
    return {
        (algorithm, env_id): Rewards((float(a), float(b)), (float(c), float(d)))
        for algorithm, env_id, a, b, c, d in rows
    }
