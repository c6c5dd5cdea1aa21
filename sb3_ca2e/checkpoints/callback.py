"""Writes checkpoints, and the callback that asks for them."""

import itertools
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import cloudpickle
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e.checkpoints.checkpoint import MEMORY, MODEL, NORMALIZE, RUN, TITLE, checkpoints_in
from sb3_ca2e.checkpoints.saving import Saving
from sb3_ca2e.common.files import partial_beside, remove_left_partials, sync_folder, written_through
from sb3_ca2e.common.sums import SUMS, HashedFile, list_of_sums, sha256
from sb3_ca2e.replay.files import write_memory


def write_checkpoint(model: Saving, folder: Path, prefix: str, replay_buffer: bool, vecnormalize: bool) -> Path:
    """
    Write a checkpoint to a temporary folder, and rename it once it is on disk.

    :param model: model to save
    :param folder: folder of checkpoints
    :param prefix: prefix of its name
    :param replay_buffer: whether to save the memory
    :param vecnormalize: whether to save the statistics of ``VecNormalize``, if there are any
    :return: its folder
    :raises OSError: if it can't be written; the temporary folder is removed then
    """
    final = _free_name(folder / f"{prefix}_{model.num_timesteps}_steps")
    partial = partial_beside(final)
    number = 1 + max((each.number for each in checkpoints_in(folder)), default=0)
    sums = {}

    def write(name: str, contents: Callable[[HashedFile], None]) -> None:
        with written_through(partial / name) as file:
            hashed = HashedFile(file)
            contents(hashed)
        sums[name] = hashed.hexdigest()

    remove_left_partials(folder)
    try:
        partial.mkdir()
        model.save(partial / MODEL)
        sums[MODEL] = sha256(partial / MODEL)
        write(RUN, lambda file: cloudpickle.dump(model.snapshot(), file))
        normalize = model.get_vec_normalize_env()
        if vecnormalize and normalize is not None:
            write(NORMALIZE, lambda file: pickle.dump(normalize, file))
        if replay_buffer:
            write(MEMORY, lambda file: write_memory(model.replay_buffer, file))
        title = TITLE.format(number=number, timesteps=model.num_timesteps)
        with written_through(partial / SUMS) as file:
            file.write(list_of_sums(title, sums).encode())
        sync_folder(partial)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(folder)
    return final


def _free_name(path: Path) -> Path:
    """Append a number to the path if it exists: checkpoints are never overwritten."""
    endings = itertools.chain([""], (f"_{again}" for again in itertools.count(2)))
    paths = (path.with_name(f"{path.name}{each}") for each in endings)
    return next(each for each in paths if not each.exists())


def discard_old(folder: Path, prefix: str, keep: int) -> None:
    """
    Delete old checkpoints.

    :param folder: folder of checkpoints
    :param prefix: prefix of the names to consider
    :param keep: number of newest checkpoints to keep
    """
    own = re.compile(re.escape(prefix) + r"_\d+_steps(_\d+)?")
    old = [each.folder for each in checkpoints_in(folder) if own.fullmatch(each.folder.name)][keep:]
    for path in old:
        # Rename first: a half-deleted folder would be a damaged checkpoint
        shutil.rmtree(path.rename(partial_beside(path)))


class CA2ECheckpointCallback(BaseCallback):
    """
    Saves checkpoints from which :meth:`~sb3_ca2e.CA2EDQN.resume` continues; each is written atomically.

    Like SB3's ``CheckpointCallback``, but a checkpoint is a folder and is saved once the pending updates are made. It
    holds the model's zip, random states, the state of slots and, on request, the memory. If saving fails, for example
    because the disk is full, a warning is given, training continues, and earlier checkpoints are unchanged. Only one
    run at a time may use a prefix in a folder.

    :param save_freq: number of calls (ticks of ``n_envs`` transitions) between two checkpoints
    :param save_path: folder of the checkpoints
    :param name_prefix: prefix of their names, ``<prefix>_<num_timesteps>_steps``
    :param save_replay_buffer: whether to save the memory and its priorities
    :param save_vecnormalize: whether to save the statistics of ``VecNormalize``, if the environment has one
    :param verbose: 2 to print the path of each checkpoint
    :param keep_last: number of newest checkpoints to keep; None for all
    """

    model: Saving

    def __init__(
        self,
        save_freq: int,
        save_path: str | Path,
        name_prefix: str = "rl_model",
        save_replay_buffer: bool = False,
        save_vecnormalize: bool = True,
        verbose: int = 0,
        *,
        keep_last: int | None = 3,
    ):
        super().__init__(verbose)
        for name, value in {"save_freq": save_freq, "keep_last": 1 if keep_last is None else keep_last}.items():
            if isinstance(value, str | os.PathLike):
                raise TypeError(f"{name} takes a number, not {value!r}; save_freq comes before save_path.")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}.")
        if os.sep in name_prefix or name_prefix.startswith("."):
            raise ValueError(f"name_prefix={name_prefix!r} can't be the beginning of a folder's name.")
        self.save_freq = save_freq
        self.save_path = Path(save_path)
        self.name_prefix = name_prefix
        self.save_replay_buffer = save_replay_buffer
        self.save_vecnormalize = save_vecnormalize
        self.keep_last = keep_last

    def _init_callback(self) -> None:
        if not hasattr(self.model, "between_rounds"):
            raise TypeError(
                f"CA2ECheckpointCallback saves CA2EDQN and CA2EDDPG, not {type(self.model).__name__}; use "
                "CheckpointCallback from Stable-Baselines3."
            )
        self.save_path.mkdir(parents=True, exist_ok=True)

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            self.model.between_rounds(self._save)
        return True

    def _save(self) -> None:
        parts = self.save_replay_buffer, self.save_vecnormalize
        try:
            path = write_checkpoint(self.model, self.save_path, self.name_prefix, *parts)
            if self.keep_last is not None:
                discard_old(self.save_path, self.name_prefix, self.keep_last)
        except Exception as error:  # training must continue without a checkpoint
            warnings.warn(
                f"No checkpoint was saved after {self.model.num_timesteps} timesteps "
                f"({type(error).__name__}: {error}). Older ones in {self.save_path} are unchanged; training continues.",
                stacklevel=2,
            )
        else:
            if self.verbose >= 2:
                print(f"Saved the checkpoint {path}")
