"""Files on a full disk, and damaged: beside what tests/chaos does to checkpoints."""

import os
import random
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch as th

from sb3_ca2e import CA2EDQN, CA2ECheckpointCallback, DamagedError
from sb3_ca2e.common.files import partial_beside
from tests.chaos.checkpoints import contents, learner


def test_where_all_are_damaged_none_is_accepted(tmp_path):
    learner().learn(200, CA2ECheckpointCallback(100, tmp_path))
    (tmp_path / "rl_model_100_steps" / "SHA256SUMS").unlink()
    (tmp_path / "rl_model_200_steps" / "run.pkl").unlink()
    with (
        pytest.warns(UserWarning, match="200_steps is skipped: run.pkl can't be read"),
        pytest.warns(UserWarning, match=r"100_steps is skipped: .*No such file.*SHA256SUMS"),
        pytest.raises(DamagedError, match="All of the 2 checkpoints"),
    ):
        CA2EDQN.resume(tmp_path)


def test_a_damaged_list_of_sums_is_told_and_what_is_half_saved_is_not_looked_at(tmp_path):
    learner().learn(200, CA2ECheckpointCallback(100, tmp_path))
    newest = tmp_path / "rl_model_200_steps"
    shutil.copytree(newest, partial_beside(newest))
    (newest / "SHA256SUMS").write_text("nothing\n")
    with pytest.warns(UserWarning, match="is skipped") as told:
        assert CA2EDQN.resume(tmp_path).num_timesteps == 100
    (warning,) = told
    assert f"{newest} is skipped: SHA256SUMS is damaged" in str(warning.message)


def test_a_model_and_a_memory_that_could_not_be_saved_leave_those_before(tmp_path):
    model = learner().learn(100)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    before = contents(tmp_path)
    assert before.keys() == {"model.zip", "memory.pkl"}
    model.learn(100)
    for save, name in ((model.save, "model"), (model.save_replay_buffer, "memory")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        try:
            with pytest.raises(OSError, match="File too large"):
                save(tmp_path / name)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert contents(tmp_path) == before


def test_threads_that_save_to_one_path_leave_one_whole_model(tmp_path):
    model = learner()
    expected = model.policy.state_dict()

    def save(_):
        model.save(tmp_path / "model")
        return CA2EDQN.load(tmp_path / "model").policy.state_dict()

    with ThreadPoolExecutor(4) as threads:
        for loaded in threads.map(save, range(40)):
            assert all(th.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


#: Writes a part of a file, says so, and waits.
SAVES_SLOWLY = """
import pathlib, sys
from sb3_ca2e.common.files import replacing
with replacing(pathlib.Path(sys.argv[1])) as file:
    file.write(b"a part")
    file.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("what", ["model", "checkpoint"])
def test_the_next_save_removes_what_a_killed_one_left_and_nothing_else(what, tmp_path):
    command = [sys.executable, "-c", SAVES_SLOWLY, str(tmp_path / "model.zip")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as saving:
        try:
            assert saving.stdout.readline() == "written\n"
            (left,) = tmp_path.iterdir()
            elsewhere = tmp_path / left.name.replace(".sb3_ca2e-", ".sb3_ca2e-another.")
            elsewhere.mkdir()
            ours = partial_beside(tmp_path / "model.zip")  # another thread of this process is writing it
            ours.mkdir()
            save = {"model": learner().save, "checkpoint": checkpointed}[what]
            save(tmp_path / "mine")
            assert left.exists()
        finally:
            saving.kill()
    save(tmp_path / "mine")
    assert not left.exists()
    assert elsewhere.exists()
    assert ours.exists()


def checkpointed(path):
    learner().learn(100, CA2ECheckpointCallback(100, path.parent))


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    model = learner()
    model.save(tmp_path / ("m" * 251))
    assert (tmp_path / f"{'m' * 251}.zip").exists()


def test_a_damaged_model_is_refused_or_the_same(tmp_path):
    model = learner()
    model.save(tmp_path / "model")
    content, rng, refused = (tmp_path / "model.zip").read_bytes(), random.Random(0), 0
    for _ in range(60):
        damaged = bytearray(content)
        # Three of four in the list of members, where a bit may change what is looked for where.
        damaged[-rng.randrange(1, rng.choice((2000, 2000, 2000, len(content))))] ^= 1 << rng.randrange(8)
        (tmp_path / "damaged.zip").write_bytes(damaged)
        try:
            loaded = CA2EDQN.load(tmp_path / "damaged.zip")
        except (ValueError, KeyError):
            refused += 1
        else:
            for name, tensor in model.policy.state_dict().items():
                assert th.equal(tensor, loaded.policy.state_dict()[name]), name
    assert refused > 40


def test_a_saved_model_keeps_its_place(tmp_path):
    """A link stays one, permissions stay, and what is no plain file is written to as it is."""
    model = learner()
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target.zip", tmp_path / "link.zip"
    model.save(target)
    target.chmod(0o640)
    link.symlink_to(target)
    before = target.read_bytes()
    model.learn(100).save(link)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.read_bytes() != before
    assert CA2EDQN.load(link).num_timesteps == 100
    model.save("/dev/null")
    assert not os.path.isfile("/dev/null")
