"""Patches for wrong assumptions of rl_zoo3 2.9, in one process, until they are fixed in the zoo."""

import importlib
import subprocess
import sys
from typing import Any

from sb3_ca2e.common.installing import needing


@needing("zoo", "A part of the RL Zoo is not installed")
def patch() -> None:
    """
    Patch the zoo's scripts; call it before they are imported.

    :raises ImportError: if something that they import is missing
    """
    _metadata_of_model_cards()
    _files_missing_on_the_hub()
    _benchmark_outside_of_a_clone()


def _metadata_of_model_cards() -> None:
    """Restore a function that push_to_hub imports: sb3-team-hf-integration 3.2 renamed it and changed its result."""
    upload: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(upload, "generate_metadata"):
        upload.generate_metadata = lambda *about: upload._generate_metadata(*about).to_dict()


def _files_missing_on_the_hub() -> None:
    """Raise the error of requests that load_from_hub expects for a missing file; huggingface_hub raises another one."""
    import huggingface_sb3
    from huggingface_hub.errors import EntryNotFoundError
    from requests.exceptions import HTTPError

    download = huggingface_sb3.load_from_hub

    def load_from_hub(repo_id: str, filename: str) -> str:
        try:
            path: str = download(repo_id, filename)
        except EntryNotFoundError as error:
            raise HTTPError(str(error)) from error
        return path

    if not issubclass(EntryNotFoundError, HTTPError):
        huggingface_sb3.load_from_hub = load_from_hub


def _benchmark_outside_of_a_clone() -> None:
    """Run agents with this package's command: the benchmark calls a script that is only in the zoo's repository."""
    call = subprocess.call

    def call_own(command: Any, *args: Any, **kwargs: Any) -> int:
        if command[:2] == ["python", "enjoy.py"]:
            command = [sys.executable, "-m", "sb3_ca2e.zoo", "enjoy", *command[2:]]
        return call(command, *args, **kwargs)

    subprocess.call = call_own  # type: ignore[assignment]
