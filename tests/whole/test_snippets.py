"""README's and docs' Python blocks run as they stand, page by page, but for the number of transitions."""

import pathlib
import re
import subprocess
import sys

import pytest

from tests import REPOSITORY
from tests.user_script import environment, of_ours

#: Transitions of a ``learn``, and of what is done every so many of them.
LONG = re.compile(r"\b\d{1,3}(?:_\d{3})+\b")
SHORT = "400"
#: What is given on the command line to a page's script.
ARGUMENTS = {"zoo.md": ["--algo", "ca2e_dqn", "--env", "CartPole-v1", "-n", SHORT, "--eval-freq", "-1"]}


def blocks(page: pathlib.Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


PAGES = {
    page.name: page for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))] if blocks(page)
}


@pytest.mark.extended
@pytest.mark.parametrize("name", PAGES)
def test_blocks_run_one_after_the_other(name, tmp_path):
    for module in ("ale_py", "Box2D", "matplotlib", "rl_zoo3", "rich", "tensorboard"):
        pytest.importorskip(module)
    source = "\n\n".join(LONG.sub(SHORT, block) for block in blocks(PAGES[name]))
    (tmp_path / "script.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "script.py", *ARGUMENTS.get(name, [])]
    variables = {**environment(tmp_path), "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in of_ours(done.stderr)


def test_pages_with_blocks_are_found():
    assert {"README.md", "quickstart.md", "from_dqn.md", "callbacks.md", "checkpoints.md"} <= PAGES.keys()
    assert LONG.sub(SHORT, "learn(10_000_000, 5_000, 400, 2.3e-3, 100_000)") == "learn(400, 400, 400, 2.3e-3, 400)"
