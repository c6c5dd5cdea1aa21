"""Pickles objects that display an environment: a copy creates its own when it is rendered."""

import sys
from typing import Any


def of_display(value: Any) -> Any:
    """
    Reduce an object that displays an environment.

    :param value: any object to pickle
    :return: as ``__reduce__`` returns it; None if the object displays nothing
    """
    module = type(value).__module__
    if module.startswith("pygame"):
        return _of_pygame(value)
    if module == "gymnasium.envs.mujoco.mujoco_rendering" and type(value).__name__ == "MujocoRenderer":
        return _without_windows, (type(value), {**vars(value), "viewer": None, "_viewers": {}})
    return None


def _of_pygame(value: Any) -> Any:
    pygame: Any = sys.modules["pygame"]
    if isinstance(value, pygame.Surface):
        if pygame.display.get_init() and value is pygame.display.get_surface():
            return _nothing, ()  # the window: environments open one if there is none
        kind = "RGBA" if value.get_flags() & pygame.SRCALPHA else "RGB"
        looks = value.get_colorkey(), value.get_alpha()
        return _surface, (pygame.image.tobytes(value, kind), value.get_size(), kind, *looks)
    if isinstance(value, pygame.time.Clock().__class__):
        return _clock, ()
    return None


def _nothing() -> None:
    return None


def _clock() -> Any:
    import pygame

    return pygame.time.Clock()


def _surface(content: bytes, size: tuple[int, int], kind: Any, colorkey: Any, alpha: int | None) -> Any:
    import pygame

    surface = pygame.image.frombytes(content, size, kind)
    if colorkey is not None:
        surface.set_colorkey(colorkey)
    if alpha is not None and alpha != 255:
        surface.set_alpha(alpha)
    return surface


def _without_windows(kind: type, attributes: dict[str, Any]) -> Any:
    renderer: Any = object.__new__(kind)
    vars(renderer).update(attributes)
    return renderer
