"""Agents from the Hugging Face hub."""

import pathlib
import re

from sb3_ca2e.common.installing import needing
from sb3_ca2e.priors.find import SETTINGS, AgentFiles, beside

#: Prefix of sources on the hub.
PREFIX = "hub:"
#: Learning curves that the RL Zoo uploads beside a model.
CURVES = "train_eval_metrics.zip"


def download(source: str, commit: str | None = None) -> tuple[AgentFiles, str]:
    """
    Download an agent's files from the Hugging Face hub, or take them from the local cache.

    Only the model and its settings are downloaded. A branch or a tag stands for its newest commit; in offline mode
    (``HF_HUB_OFFLINE=1``), or if the hub can't be reached, for the newest one in the cache.

    :param source: ``"hub:<owner>/<name>[@<branch, tag or commit>]"``
    :param commit: commit used before, which overrides the source's revision
    :return: the files and their commit
    :raises ImportError: if huggingface_hub is missing
    :raises ValueError: if the repository or revision does not exist, or has no model
    :raises ConnectionError: if the hub can't be reached or fails, and the agent is not in the cache
    """
    repository, revision = repository_and_revision(source)
    algorithm = AgentFiles.algorithm_of(source)
    snapshot = _snapshot(repository, commit or revision)
    return beside(algorithm, _model_in(snapshot, repository)), snapshot.name


def repository_and_revision(source: str) -> tuple[str, str]:
    """
    Parse a source on the hub.

    :param source: ``"hub:<owner>/<name>[@<branch, tag or commit>]"``
    :return: the repository, and the branch, tag or commit
    :raises ValueError: if the source does not have this form
    """
    match = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@(\S+))?", source)
    if match is None:
        raise ValueError(f"{source!r} names no agent of the hub; write 'hub:<owner>/<name>' or '...@<revision>'.")
    return match[1], match[2] or "main"


def _snapshot(repository: str, revision: str) -> pathlib.Path:
    """Return the folder in the hub's cache that holds a commit's files, named after the commit."""
    with needing("hub", f"{PREFIX}{repository} needs huggingface_hub"):
        from huggingface_hub import errors, snapshot_download
    wanted = f"revision {revision!r} of {repository}"
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=["*.zip", *SETTINGS], ignore_patterns=[CURVES, "*/*"]
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ValueError(
            f"There is no {wanted} on the hub, or it is private ({_first_line(error)}). Correct the name, or log in "
            "with `hf auth login`."
        ) from error
    except Exception as error:  # the library may raise many kinds of network errors
        raise ConnectionError(
            f"{wanted} can't be downloaded and is not in the hub's cache ({type(error).__name__}: "
            f"{_first_line(error)}). Load it once while the hub can be reached (see HF_HUB_OFFLINE, HF_ENDPOINT and "
            "HF_HOME), or give the path of a zip."
        ) from error
    return pathlib.Path(folder)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _model_in(snapshot: pathlib.Path, repository: str) -> pathlib.Path:
    """Find the zip named after the repository, as the RL Zoo names it, or the only zip."""
    zips = sorted(path for path in snapshot.glob("*.zip") if path.name != CURVES)
    named = [path for path in zips if path.stem == repository.partition("/")[2]]
    found = named or zips
    if len(found) != 1:
        listed = ", ".join(path.name for path in zips) or "no zip"
        raise ValueError(
            f"{repository} has {listed} at its top, where {repository.partition('/')[2]}.zip or one model's zip is "
            "expected. Download the right file, and give its path."
        )
    return found[0]
