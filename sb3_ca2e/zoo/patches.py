"""Where rl_zoo3 2.9 takes for granted what is not so: for one process, until the zoo itself is mended."""

import importlib
import subprocess
import sys
from typing import Any

from sb3_ca2e.common.installing import needing


@needing("zoo", "A part of the RL Zoo is not installed")
def patch() -> None:
    """
    Let the zoo's scripts find what they look for; it must come before they are imported.

    :raises ImportError: if something is missing that they import
    """
    _metadata_of_model_cards()
    _files_missing_on_the_hub()
    _benchmark_outside_of_a_clone()


def _metadata_of_model_cards() -> None:
    """push_to_hub imports a function that sb3-team-hf-integration 3.2 has renamed, and that returned a dictionary."""
    upload: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(upload, "generate_metadata"):
        upload.generate_metadata = lambda *about: upload._generate_metadata(*about).to_dict()


def _files_missing_on_the_hub() -> None:
    """load_from_hub expects requests' error for a file that is not there, which huggingface_hub no longer raises."""
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
    """The benchmark plays agents with a script of the zoo's repository, which is no part of the package."""
    call = subprocess.call

    def call_own(command: Any, *args: Any, **kwargs: Any) -> int:
        if command[:2] == ["python", "enjoy.py"]:
            command = [sys.executable, "-m", "sb3_ca2e.zoo", "enjoy", *command[2:]]
        return call(command, *args, **kwargs)

    subprocess.call = call_own  # type: ignore[assignment]
