"""Read what a model's zip says about itself, without executing anything in it."""

import io
import json
import pathlib
import zipfile
from typing import Any

from stable_baselines3.common.save_util import open_path

from sb3_ca2e.common.sums import check_members
from sb3_ca2e.errors import DamagedError
from sb3_ca2e.priors.reader.archive import Window
from sb3_ca2e.priors.reader.errors import Unreadable

_WAY_OUT = "Give the path of a zip that model.save() has left whole."


def check_model(path: pathlib.Path) -> None:
    """
    :param path: a file that is to be a model's zip
    :raises ValueError: if it is no whole zip, or has nothing of a model
    """
    with path.open("rb") as file:
        try:
            names = zipfile.ZipFile(Window(file, 0, path.stat().st_size)).namelist()
        except Unreadable:  # a directory that is too large: whoever reads it refuses that
            return
        except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
            raise ValueError(f"{path} is no zip, or only a part of one ({error}). {_WAY_OUT}") from error
    if "data" not in names:
        raise ValueError(f"{path} is a zip, but none of a Stable-Baselines3 model: it has no data. {_WAY_OUT}")


def saved_attributes(path: str | pathlib.Path | io.BufferedIOBase) -> dict[str, Any]:
    """
    :param path: a zip that SB3's ``save`` left, with or without its ending, or an open file
    :return: the model's attributes; what is no plain data is described by a dictionary
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is no whole zip, or not of a model
    """
    try:
        file = open_path(path, "r", suffix="zip")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no model at {path}. {_WAY_OUT}") from error
    try:
        with zipfile.ZipFile(file) as archive:
            attributes: dict[str, Any] = json.loads(archive.read("data"))
            check_members(archive)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} is no zip, or only a part of one ({error}). {_WAY_OUT}") from error
    except DamagedError as error:
        raise ValueError(f"{path} is damaged: {error}. {_WAY_OUT}") from error
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is a zip, but none of a Stable-Baselines3 model: it has no data. {_WAY_OUT}"
        ) from error
    finally:
        if file is path:
            file.seek(0)
        else:
            file.close()
    if "policy_class" not in attributes:
        raise ValueError(f"{path} holds no policy_class, so it is no Stable-Baselines3 model. {_WAY_OUT}")
    return attributes
