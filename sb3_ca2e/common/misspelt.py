"""Suggestions for misspelt argument and attribute names."""

import difflib
import inspect
from collections.abc import Iterable, Sequence

from stable_baselines3 import A2C, PPO, SAC, TD3

#: Names that other libraries or functions of SB3 use, and ours.
_OTHER_NAMES = {"lr": "learning_rate", "n_envs": "n_actors"}


def refuse_misspelt(algorithm: str, given: Iterable[str], known: Sequence[str]) -> None:
    """
    Refuse unknown arguments, suggesting the nearest name or the algorithm that takes it.

    :param algorithm: name of the class
    :param given: names of keyword arguments for its constructor
    :param known: names of all that the constructor takes
    :raises TypeError: if it does not take one of them
    """
    for name in given:
        if name not in known:
            others = [each.__name__ for each in (A2C, PPO, SAC, TD3) if name in inspect.signature(each).parameters]
            hint = f"It is one of {' and '.join(others)}." if others else suggestion(name, known)
            raise TypeError(f"{algorithm} takes no argument {name!r}. {hint}")


def suggestion(name: str, known: Sequence[str]) -> str:
    """
    Suggest a known name for an unknown one, or list all known names.

    :param name: the unknown name
    :param known: names that exist
    :return: a sentence for an error message
    """
    nearest = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else difflib.get_close_matches(name, known, 1, cutoff=0.75)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"It takes {', '.join(known)}."


def refuse_unknown(algorithm: type, given: Iterable[str], saved: Iterable[str]) -> None:
    """
    Refuse attributes that a model does not have.

    :param algorithm: class of the model that is loaded
    :param given: names of attributes to change
    :param saved: names of the saved attributes
    :raises TypeError: if one of them does not exist
    """
    known = [*inspect.signature(algorithm).parameters, *saved]
    for name in given:
        if name not in known:
            raise TypeError(f"{algorithm.__name__} has no attribute {name!r} to change. {suggestion(name, known)}")
