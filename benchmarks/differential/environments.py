"""The environments of the differential test."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

ATARI = (
    "Asterix",
    "BeamRider",
    "Boxing",
    "Breakout",
    "Enduro",
    "MsPacman",
    "Pong",
    "Qbert",
    "Seaquest",
    "SpaceInvaders",
)


@dataclass(frozen=True)
class Environment:
    """
    An environment, made by an id.

    :param id: as ``gymnasium.make`` takes it
    :param kwargs: further arguments of ``gymnasium.make``
    :param package: module that registers it, or None for gymnasium's own
    :param needs: module without which it can't be made
    :param adapt: wraps it so that one agent with one reward remains
    :param slow: whether it makes few steps a second, and the program is shorter
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    package: str | None = None
    needs: str | None = None
    adapt: Callable[[gym.Env], gym.Env] | None = None
    slow: bool = False

    def make(self) -> gym.Env:
        """
        Make the environment.

        :return: a new one
        """
        if self.package is not None:
            module = importlib.import_module(self.package)
            if not self.id.startswith("differential/"):
                gym.register_envs(module)
        env = gym.make(self.id, **self.kwargs)
        return env if self.adapt is None else self.adapt(env)

    @property
    def missing(self) -> str | None:
        """Name of a module that is not installed, or None."""
        for name in (self.package, self.needs):
            if name is not None and importlib.util.find_spec(name.partition(".")[0]) is None:
                return name
        return None


def of_gymnasium() -> Iterator[tuple[str, Environment]]:
    """
    Iterate over gymnasium's registry.

    :return: name and environment of the newest id of each entry point
    """
    newest: dict[str, str] = {}
    for name, spec in gym.registry.items():
        entry = spec.entry_point if isinstance(spec.entry_point, str) else ""
        if entry.startswith("gymnasium.envs."):
            newest[entry] = name
    for entry, name in newest.items():
        needs = "jax" if "phys2d" in entry or "tabular" in entry else "mujoco" if "mujoco" in entry else None
        yield name, Environment(name, needs="Box2D" if "box2d" in entry else needs)


def _game(name: str, **kwargs: Any) -> Environment:
    return Environment(name, kwargs, package="ale_py")


def _timed(env: gym.Env) -> gym.Env:
    return gym.wrappers.TimeAwareObservation(env, flatten=False)


def _rendered(id: str, **kwargs: Any) -> Environment:
    return Environment(id, {"render_mode": "rgb_array", **kwargs}, needs="pygame")


#: What wrappers are tried on.
BASES = {
    **{
        name: Environment(name) for name in ("CartPole-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0")
    },
    **{f"{name} timed": Environment(name, adapt=_timed) for name in ("CartPole-v1", "Pendulum-v1")},
    **{f"{name} rendered": _rendered(name) for name in ("CartPole-v1", "Pendulum-v1")},
    **{f"ALE/{name}-v5": _game(f"ALE/{name}-v5", frameskip=1) for name in ("Pong", "Breakout")},
    "CarRacing-v3": Environment("CarRacing-v3", needs="Box2D"),
}


def _flat(env: gym.Env) -> gym.Env:
    return gym.wrappers.FlattenObservation(env)


def _weighted(env: gym.Env) -> gym.Env:
    import mo_gymnasium
    import numpy as np

    n = env.unwrapped.reward_space.shape[0]  # type: ignore[attr-defined]
    wrapped: gym.Env = mo_gymnasium.wrappers.LinearReward(env, weight=np.full(n, 1 / n))
    return wrapped


def _image_only(env: gym.Env) -> gym.Env:
    from minigrid.wrappers import ImgObsWrapper

    wrapped: gym.Env = ImgObsWrapper(env)
    return wrapped


def _package(
    package: str, *ids: str, adapt: Any = None, needs: str | None = None, slow: bool = False
) -> list[Environment]:
    return [Environment(id, {}, package, needs, adapt, slow) for id in ids]


def of_others() -> list[Environment]:
    """
    Return environments of packages that install from the index.

    :return: the environments
    """
    return [
        *_package("minigrid", "MiniGrid-Empty-Random-6x6-v0", "MiniGrid-DoorKey-5x5-v0", adapt=_image_only),
        *_package("minigrid", "BabyAI-GoToRedBallGrey-v0", adapt=_image_only),
        *_package("highway_env", "highway-fast-v0", "parking-v0", slow=True),
        *_package("gymnasium_robotics", "PointMaze_UMaze-v3", "AdroitHandDoor-v1"),
        *_package("panda_gym", "PandaReach-v3", "PandaPush-v3"),
        *_package("shimmy", "dm_control/cartpole-swingup-v0", "dm_control/cheetah-run-v0", needs="dm_control"),
        *_package("mo_gymnasium", "deep-sea-treasure-v0", "mo-mountaincar-v0", adapt=_weighted),
        *_package("flappy_bird_gymnasium", "FlappyBird-v0"),
        *_package(
            "popgym", "popgym-RepeatPreviousEasy-v0", "popgym-CountRecallEasy-v0", "popgym-PositionOnlyCartPoleEasy-v0"
        ),
        *_package(
            "differential.pettingzoo_agent",
            "differential/Pursuit-v0",
            "differential/KnightsArchersZombies-v0",
            needs="pettingzoo",
        ),
        *_package("tetris_gymnasium.envs", "tetris_gymnasium/Tetris", adapt=_flat),
        *_package("gym_pusht", "gym_pusht/PushT-v0"),
        *_package("gym_anytrading", "stocks-v0"),
    ]


#: Environments by the name of their case.
ENVIRONMENTS = {
    **dict(of_gymnasium()),
    "Blackjack-v1 flat": Environment("Blackjack-v1", adapt=_flat),
    **{f"ALE/{game}-v5": _game(f"ALE/{game}-v5") for game in ATARI},
    **{each.id: each for each in of_others()},
}
