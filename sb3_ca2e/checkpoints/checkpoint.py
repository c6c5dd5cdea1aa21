"""Atomic checkpoints: folders that appear only when complete, with a list of SHA-256 sums of their files."""

import pathlib
import pickle
import re
import warnings
from dataclasses import dataclass
from typing import Any

from sb3_ca2e.common.sums import SUMS, parse_sums, sha256
from sb3_ca2e.errors import DamagedError
from sb3_ca2e.replay.files import read_memory

MODEL, MEMORY, NORMALIZE, RUN = "model.zip", "replay_buffer.pkl", "vecnormalize.pkl", "run.pkl"
#: Formats that can be read.
FORMATS = ("1", "2")
#: First line of the list of sums. The number counts the checkpoints of a folder: the largest is the newest, independent
#: of clocks and of the timesteps of other runs.
TITLE = "sb3_ca2e checkpoint 2, number {number}, after {timesteps} timesteps"
_TITLE_PATTERN = re.compile(r"sb3_ca2e checkpoint (?P<format>\d+), number (?P<number>\d+), after \d+ timesteps")
#: Current modules by module and name as written in checkpoints of format 1.
MOVED = {
    ("sb3_ca2e.actors.collector", "SlotStats"): "sb3_ca2e.learner.slot_stats",
    ("sb3_ca2e.resumption", "Snapshot"): "sb3_ca2e.checkpoints.resumption",
}


class Unpickler(pickle.Unpickler):
    """Reads pickles of all versions."""

    def find_class(self, module: str, name: str) -> Any:
        """
        Find an object by its old or current name.

        :param module: module in the pickle
        :param name: name in the module
        :return: the object
        """
        return super().find_class(MOVED.get((module, name), module), name)


@dataclass(frozen=True)
class Checkpoint:
    """
    A checkpoint on disk.

    :param folder: its folder
    :param number: its number, the newest has the largest; 0 if its list of sums is damaged
    :param sums: SHA-256 of each of its files
    :param damage: what is wrong with its list of sums, or None
    """

    folder: pathlib.Path
    number: int
    sums: dict[str, str]
    damage: str | None = None

    @classmethod
    def at(cls, folder: pathlib.Path) -> "Checkpoint":
        """
        Read a checkpoint's list of sums.

        :param folder: its folder
        :return: the checkpoint
        """
        try:
            title, sums = parse_sums((folder / SUMS).read_bytes())
            match = _TITLE_PATTERN.fullmatch(title)
            if match is None or match["format"] not in FORMATS:
                raise DamagedError(f"{title!r} is of another version of sb3_ca2e")
        except (OSError, DamagedError) as error:
            return cls(folder, 0, {}, str(error))
        return cls(folder, int(match["number"]), sums)

    def check(self) -> None:
        """
        Verify its files.

        :raises DamagedError: if a file has changed; the message names it
        """
        if self.damage is not None:
            raise DamagedError(self.damage)
        for name, digest in self.sums.items():
            try:
                if sha256(self.folder / name) != digest:
                    raise DamagedError(f"{name} is damaged")
            except OSError as error:
                raise DamagedError(f"{name} can't be read ({error})") from error

    def read(self, name: str) -> Any:
        """
        Read a pickled file.

        :param name: name of the file
        :return: its content, None if there is no such file
        """
        if name not in self.sums:
            return None
        with (self.folder / name).open("rb") as file:
            return read_memory(file) if name == MEMORY else Unpickler(file).load()


def checkpoints_in(folder: pathlib.Path) -> list[Checkpoint]:
    """
    Find checkpoints.

    :param folder: folder of checkpoints, or one checkpoint
    :return: checkpoints, newest first; those with a damaged list of sums come last
    """
    if _is_checkpoint(folder):
        return [Checkpoint.at(folder)]
    folders = [each for each in folder.iterdir() if _is_checkpoint(each)] if folder.is_dir() else []
    return sorted(map(Checkpoint.at, folders), key=lambda each: each.number, reverse=True)


def _is_checkpoint(folder: pathlib.Path) -> bool:
    return not folder.name.startswith(".") and any((folder / name).exists() for name in (SUMS, MODEL))


def newest_whole(folder: pathlib.Path) -> Checkpoint:
    """
    Find the newest undamaged checkpoint; damaged ones are skipped with a warning.

    :param folder: folder of checkpoints, or one checkpoint
    :return: the checkpoint
    :raises FileNotFoundError: if there is no checkpoint
    :raises DamagedError: if all are damaged
    """
    found = checkpoints_in(folder)
    if not found:
        raise FileNotFoundError(f"There is no checkpoint in {folder}. Give the save_path of a CA2ECheckpointCallback.")
    # The age of a checkpoint with a damaged list is unknown, so warn of it in any case.
    for checkpoint in sorted(found, key=lambda each: each.damage is None):
        try:
            checkpoint.check()
        except DamagedError as error:
            warnings.warn(f"The checkpoint {checkpoint.folder} is skipped: {error}.", stacklevel=3)
        else:
            return checkpoint
    raise DamagedError(f"All of the {len(found)} checkpoints in {folder} are damaged; the warnings say how.")
