"""What is built from a clone has all of it, and works outside of it."""

import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def run(*command, cwd: pathlib.Path, **variables: str) -> str:
    environ = {**os.environ, "MPLBACKEND": "agg", **variables}
    done = subprocess.run([str(each) for each in command], cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    hidden = {name for name in listed.splitlines() if name.startswith(".")}
    return set(listed.splitlines()) - hidden


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """An sdist of the clone, and a wheel of that."""
    folder = tmp_path_factory.mktemp("built")
    clone = folder / "clone"
    run("git", "clone", "-q", ROOT, clone, cwd=folder)
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


@pytest.mark.extended
def test_a_wheel_works_outside_of_the_clone(built, tmp_path):
    """Demo, commands and bundled agents, from a folder into which it was unpacked."""
    pytest.importorskip("Box2D")
    pytest.importorskip("rich")
    site = tmp_path / "site"
    with zipfile.ZipFile(built[1]) as archive:
        archive.extractall(site)
    own = {"PYTHONPATH": str(site), "SB3_CA2E_AGENTS": ""}
    found = run(sys.executable, "-c", "import sb3_ca2e; print(sb3_ca2e.__file__)", cwd=tmp_path, **own)
    assert pathlib.Path(found.strip()).is_relative_to(site)
    agents = run(sys.executable, "-m", "sb3_ca2e.zoo", "priors", "--env", "LunarLander-v3", cwd=tmp_path, **own)
    assert all(f"zoo:{name}" in agents for name in ("ppo", "dqn", "a2c"))
    run(sys.executable, "-m", "sb3_ca2e.demo", "--timesteps", "400", "--out", "out", cwd=tmp_path, **own)
    assert (tmp_path / "out").is_dir()
