"""How to install what is missing. The package is on no index: it is installed from a clone of its repository."""

import pathlib

import gymnasium as gym

_ROOT = pathlib.Path(__file__).parents[1]
#: Words of gymnasium's messages, and our extra that has what they miss.
_EXTRAS = {"Box2D": "box2d", "MuJoCo": "mujoco", "mujoco": "mujoco", "ALE": "atari", "NoFrameskip": "atari"}


def how_to_install(extra: str) -> str:
    """
    :param extra: one of this package's extras
    :return: a command
    """
    if (_ROOT / "pyproject.toml").is_file():
        return f"pip install -e '{_ROOT}[{extra}]'"
    return f"pip install -e '.[{extra}]' in a clone of sb3_ca2e"


def advice(error: gym.error.Error) -> str | None:
    """
    gymnasium names its own extras, of which that for Box2D needs a compiler, and forgets to name ale-py's.

    :param error: that ``gym.make`` raised
    :return: what to do about it; None if nothing of ours helps
    """
    missing = gym.error.DependencyNotInstalled, gym.error.NamespaceNotFound, gym.error.NameNotFound
    if not isinstance(error, missing):
        return None
    extra = next((extra for word, extra in _EXTRAS.items() if word in str(error)), None)
    if extra is None:
        return None
    if extra == "atari":
        return (
            f"Atari games need ale-py: {how_to_install(extra)}. Where it is installed, make them with "
            "sb3_ca2e.make_atari_env, or call gymnasium.register_envs(ale_py) first."
        )
    return f"Install it with {how_to_install(extra)}."
