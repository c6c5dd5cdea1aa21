"""What is built from a clone has all of it, and works outside of it."""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests import REPOSITORY

BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def run(*command, cwd: pathlib.Path, **variables: str) -> str:
    environ = {**os.environ, "MPLBACKEND": "agg", **variables}
    done = subprocess.run([str(each) for each in command], cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def tracked() -> set[str]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no clone")
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    hidden = {name for name in listed.splitlines() if name.startswith(".")}
    return set(listed.splitlines()) - hidden


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """An sdist of the clone, and a wheel of that."""
    folder = tmp_path_factory.mktemp("built")
    clone = folder / "clone"
    run("git", "clone", "-q", REPOSITORY, clone, cwd=folder)
    told = run(sys.executable, "-c", BUILD, "build_sdist", folder, cwd=clone)
    assert "would be ignored" not in told
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    told = run(sys.executable, "-c", BUILD, "build_wheel", folder, cwd=folder / sdist.name.removesuffix(".tar.gz"))
    assert "would be ignored" not in told
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.mark.extended
def test_an_sdist_has_what_a_clone_has(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked() - {"sb3_ca2e/hyperparams"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("runs/")]


@pytest.mark.extended
def test_a_wheel_has_the_package_and_its_data(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {name for name in tracked() if name.startswith("sb3_ca2e/")} - {"sb3_ca2e/hyperparams"}
    assert names == expected | {"sb3_ca2e/hyperparams/ca2e_dqn.yml", "sb3_ca2e/hyperparams/ca2e_ddpg.yml"}


@pytest.fixture(scope="module")
def site(built, tmp_path_factory) -> pathlib.Path:
    """A folder into which the wheel was unpacked."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built[1]) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.extended
def test_a_wheel_works_outside_of_the_clone(site, tmp_path):
    """Demo, commands and bundled agents."""
    pytest.importorskip("Box2D")
    pytest.importorskip("rich")
    own = {"PYTHONPATH": str(site), "SB3_CA2E_AGENTS": ""}
    found = run(sys.executable, "-c", "import sb3_ca2e; print(sb3_ca2e.__file__)", cwd=tmp_path, **own)
    assert pathlib.Path(found.strip()).is_relative_to(site)
    agents = run(sys.executable, "-m", "sb3_ca2e.zoo", "priors", "--env", "LunarLander-v3", cwd=tmp_path, **own)
    assert all(f"zoo:{name}" in agents for name in ("ppo", "dqn", "a2c"))
    run(sys.executable, "-m", "sb3_ca2e.demo", "--timesteps", "400", "--out", "out", cwd=tmp_path, **own)
    assert (tmp_path / "out").is_dir()


MISSING = """
import runpy, sys
sys.modules[sys.argv[1]] = None
code = sys.argv[2]
sys.argv[:] = ["sb3-ca2e", *sys.argv[3:]]
from sb3_ca2e import CA2EDDPG, CA2EDQN, make_atari_env
exec(code)
"""
COMMAND = "runpy.run_module('sb3_ca2e.zoo', run_name='__main__')"


@pytest.mark.extended
@pytest.mark.parametrize(
    ("module", "extra", "code", "arguments"),
    [
        ("ale_py", "atari", "make_atari_env('PongNoFrameskip-v4')", ""),
        ("mujoco", "mujoco", "CA2EDDPG('MlpPolicy', 'Hopper-v5')", ""),
        ("Box2D", "box2d", "CA2EDQN('MlpPolicy', 'LunarLander-v3')", ""),
        ("rl_zoo3", "zoo", COMMAND, "train --algo ca2e_dqn --env CartPole-v1"),
        ("requests", "zoo", COMMAND, "train --algo ca2e_dqn --env CartPole-v1"),
        ("huggingface_hub", "hub", "CA2EDQN('MlpPolicy', 'CartPole-v1', prior_agents=['hub:a/ppo']).learn(100)", ""),
        ("rich", "demo", "import sb3_ca2e.demo", ""),
        # In SB3's own words
        ("tensorboard", None, "CA2EDQN('MlpPolicy', 'CartPole-v1', tensorboard_log='logs').learn(100)", ""),
        ("tqdm", None, "CA2EDQN('MlpPolicy', 'CartPole-v1').learn(100, progress_bar=True)", ""),
    ],
)
def test_what_an_extra_brings_is_asked_for_where_it_is_missing(module, extra, code, arguments, site, tmp_path):
    command = [sys.executable, "-c", MISSING, module, code, *arguments.split()]
    environ = {**os.environ, "PYTHONPATH": str(site), "SB3_CA2E_AGENTS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    *_, last = done.stderr.strip().splitlines()
    assert re.search(rf"\b{module}\b", last)
    if extra is not None:
        assert f"pip install -e '.[{extra}]' in a clone of sb3_ca2e" in last
    assert [each.name for each in tmp_path.iterdir()] in ([], ["logs"])
