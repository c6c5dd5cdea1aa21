"""Hints on how to install missing dependencies. The package is installed from a clone, not from an index."""

import contextlib
import pathlib
import re
from collections.abc import Iterator

from gymnasium import error

_ROOT = pathlib.Path(__file__).parents[1]
#: Words in gymnasium's messages, and the extra of this package that provides the missing dependency.
_EXTRAS = {"Box2D": "box2d", "MuJoCo": "mujoco", "mujoco": "mujoco", "ALE": "atari", "NoFrameskip": "atari"}


def how_to_install(extra: str) -> str:
    """
    Return the command that installs an extra.

    :param extra: one of this package's extras
    :return: a shell command
    """
    if (_ROOT / "pyproject.toml").is_file():
        return f"pip install -e '{_ROOT}[{extra}]'"
    return f"pip install -e '.[{extra}]' in a clone of sb3_ca2e"


@contextlib.contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """
    Add the install command to import errors.

    :param extra: one of this package's extras
    :param what: description of what is missing, a sentence without its full stop
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} ({error}): {how_to_install(extra)}") from error


@contextlib.contextmanager
def naming_our_extras() -> Iterator[None]:
    """
    Add this package's install command to errors of ``gym.make``.

    gymnasium names its own extras: the one for Box2D needs a compiler, and there is none for ale-py.
    """
    try:
        yield
    except (error.DependencyNotInstalled, error.NamespaceNotFound, error.NameNotFound) as raised:
        extra = next((extra for word, extra in _EXTRAS.items() if word in str(raised)), None)
        if extra is None:
            raise
        what = re.split(r", you can install|, run `pip|\. Have you", str(raised))[0].rstrip(".")
        advice = f"Install it with {how_to_install(extra)}."
        if extra == "atari":
            advice = (
                f"Atari games need ale-py: {how_to_install(extra)}. Where it is installed, make them with "
                "sb3_ca2e.make_atari_env, or call gymnasium.register_envs(ale_py) first."
            )
        raise type(raised)(f"{what}. {advice}") from raised
