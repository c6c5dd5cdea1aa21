"""Whatever stands in a file, nothing of it is executed."""

import re

import pytest

from tests.priors.reader.burdens import that_burden
from tests.priors.reader.executing import that_execute
from tests.priors.reader.malice import canary_of, save_honest_files, work, write_attacks, write_damaged_files

MIB = 1024  # in KiB


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest")
    save_honest_files(folder)
    return folder


def assert_inert(results):
    """Nothing was executed, nothing grew beyond measure and nothing took long (ten times what it should)."""
    assert [(each["title"], each["executed"]) for each in results if each["executed"]] == []
    assert sum(each["memory"] for each in results) < 256 * MIB
    assert max(each["seconds"] for each in results) < 10


def test_no_attack_is_executed_and_each_is_refused(honest, tmp_path):
    attacks = that_execute(honest / "dqn.zip", honest / "vecnormalize.pkl") + that_burden(honest / "dqn.zip")
    assert len({attack.name for attack in attacks}) == len(attacks) >= 40
    manifest = write_attacks(attacks, tmp_path / "attacks")

    results = work(manifest, "inert", tmp_path)

    assert [path.name for path in tmp_path.glob("attacks/*.made")] == []
    assert_inert(results)
    for attack, result in zip(attacks, results, strict=True):
        if attack.reason is not None:
            assert result["refused"], result
            assert re.search(attack.reason, result["message"]), result
            assert "trust=True" in result["message"], result


def test_the_attacks_are_as_bad_as_they_look(honest, tmp_path):
    """Read by those that trust them, all that claim to execute something do."""
    attacks = that_execute(honest / "dqn.zip", honest / "vecnormalize.pkl")
    manifest = write_attacks([attack for attack in attacks if attack.executes], tmp_path / "attacks")

    work(manifest, "trusting", tmp_path)

    assert len(manifest) >= 40
    assert [title for title, _, path in manifest if not canary_of(path).exists()] == []


def test_names_that_an_attack_needs_are_told(honest, tmp_path):
    attacks = that_execute(honest / "dqn.zip", honest / "vecnormalize.pkl")
    partial = [attack for attack in attacks if "functools" in attack.name]

    results = work(write_attacks(partial, tmp_path / "attacks"), "inert", tmp_path)

    assert len(results) == 2
    for result in results:
        assert "functools.partial, io.open" in result["message"]


def test_no_damaged_file_is_executed(honest, tmp_path):
    manifest = write_damaged_files(honest, tmp_path / "damaged", n=480)

    results = work(manifest, "inert", tmp_path)

    assert not (tmp_path / "damaged" / "canary.made").exists()
    assert_inert(results)
    assert {each["error"] for each in results} == {"UntrustedAgentError", "NoneType"}  # some damage is none
    assert sum(each["refused"] for each in results) > 400
