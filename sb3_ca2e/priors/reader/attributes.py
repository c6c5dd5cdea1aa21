"""Reads the attributes in a model's zip without executing anything in it."""

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

_WAY_OUT = "Give the path of a complete zip written by model.save()."


def check_model(path: pathlib.Path) -> None:
    """
    Check that a file is a model's zip.

    :param path: file to check
    :raises ValueError: if it is not a complete zip, or not a model
    """
    with path.open("rb") as file:
        try:
            names = zipfile.ZipFile(Window(file, 0, path.stat().st_size)).namelist()
        except Unreadable:  # the directory is too large: the reader refuses it later
            return
        except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
            raise ValueError(f"{path} is not a zip, or only a part of one ({error}). {_WAY_OUT}") from error
    if "data" not in names:
        raise ValueError(f"{path} is a zip but not a Stable-Baselines3 model: it has no data. {_WAY_OUT}")


def saved_attributes(path: str | pathlib.Path | io.BufferedIOBase) -> dict[str, Any]:
    """
    Read the attributes in a model's zip.

    :param path: zip written by SB3's ``save``, with or without suffix, or an open file
    :return: the model's attributes; those that are not plain data are described by a dictionary
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is not a complete zip, or not a model
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
        raise ValueError(f"{path} is not a zip, or only a part of one ({error}). {_WAY_OUT}") from error
    except DamagedError as error:
        raise ValueError(f"{path} is damaged: {error}. {_WAY_OUT}") from error
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is a zip but not a Stable-Baselines3 model: it has no data. {_WAY_OUT}") from error
    finally:
        if file is path:
            file.seek(0)
        else:
            file.close()
    if "policy_class" not in attributes:
        raise ValueError(f"{path} has no policy_class, so it is not a Stable-Baselines3 model. {_WAY_OUT}")
    return attributes
