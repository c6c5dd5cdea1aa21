"""Atari games with the paper's preprocessing: SB3's wrappers, or ale-py's native preprocessing."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common import env_util
from stable_baselines3.common.vec_env import VecFrameStack
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_ca2e.common.cpus import cpu_count
from sb3_ca2e.common.installing import needing
from sb3_ca2e.envs.native.vec_env import BatchVecEnv, NativeVecEnv

if TYPE_CHECKING:
    from ale_py.vector_env import AtariVectorEnv

#: Prefix of ids that imports ale-py to register the games, also in workers of a ``SubprocVecEnv``.
MODULE = "ale_py:"
NOOP = 0
#: Actions that start a game that waits for FIRE, as in SB3's ``FireResetEnv``.
START = (1, 2)
#: Settings of gymnasium's Atari environments that native games support, and neutral values of the others.
_FOLLOWED = {"game", "repeat_action_probability", "full_action_space", "max_num_frames_per_episode"}
_NEUTRAL = {"obs_type": ("rgb", "grayscale"), "frameskip": (1,), "mode": (None, 0), "difficulty": (None, 0)}


def make_atari_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    *,
    native: bool = False,
    n_stack: int = 4,
    wrapper_kwargs: dict[str, Any] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> VecFrameStack:
    """
    Make Atari games with the paper's preprocessing: SB3's ``make_atari_env`` with stacked frames.

    :param env_id: a game without frame skip, e.g. ``"PongNoFrameskip-v4"``
    :param n_envs: number of environments
    :param seed: seed of the first environment; the others follow
    :param native: preprocess natively with ale-py's ``AtariVectorEnv`` instead of in Python
    :param n_stack: number of frames in an observation
    :param wrapper_kwargs: arguments of SB3's ``AtariWrapper``
    :param env_kwargs: arguments of the game
    :param kwargs: further arguments of SB3's ``make_atari_env``, only with ``native=False``
    :return: environments with ``(84, 84, n_stack)`` uint8 observations
    :raises ImportError: if ale-py is not installed
    :raises TypeError: if an argument is unknown
    :raises ValueError: if a native game does not support a setting
    """
    with needing("atari", "Atari games need ale-py"):
        import ale_py
    gym.register_envs(ale_py)
    game = env_id.removeprefix(MODULE)
    if not native:
        kwargs = {"wrapper_kwargs": wrapper_kwargs, "env_kwargs": env_kwargs, **kwargs}
        return VecFrameStack(env_util.make_atari_env(MODULE + game, n_envs, seed, **kwargs), n_stack)
    if kwargs:
        raise TypeError(
            f"Native games take no {', '.join(sorted(kwargs))}: they have no Python environments. Leave it out, or "
            "make them with native=False; for monitor files, put a VecMonitor around them."
        )
    settings = Settings.of(gym.spec(game), wrapper_kwargs or {}, env_kwargs or {})
    return VecFrameStack(NativeVecEnv(partial(AtariVecEnv, settings), n_envs, seed), n_stack)


@dataclass(frozen=True)
class Settings:
    """
    Settings of a native game: the arguments of SB3's ``AtariWrapper`` and of ale-py.

    :param env_id: gymnasium's id
    :param game: ale-py's name
    """

    env_id: str
    game: str
    noop_max: int = 30
    frame_skip: int = 4
    screen_size: int = 84
    terminal_on_life_loss: bool = True
    clip_reward: bool = True
    action_repeat_probability: float = 0.0
    full_action_space: bool = False
    max_num_frames_per_episode: int = 108_000

    @classmethod
    def of(cls, spec: EnvSpec, wrapper_kwargs: dict[str, Any], env_kwargs: dict[str, Any]) -> "Settings":
        """
        Combine the settings of a game.

        :param spec: gymnasium's spec of the game
        :param wrapper_kwargs: arguments of SB3's ``AtariWrapper``
        :param env_kwargs: arguments of the game
        :return: the settings
        :raises TypeError: if ``AtariWrapper`` has no such argument
        :raises ValueError: if it is not an Atari game, or native games do not support a setting
        """
        known = {"noop_max", "frame_skip", "screen_size", "terminal_on_life_loss", "clip_reward"}
        if unknown := wrapper_kwargs.keys() - known - {"action_repeat_probability"}:
            raise TypeError(f"AtariWrapper has no argument {', '.join(sorted(unknown))}.")
        own = {**spec.kwargs, **env_kwargs}
        if "game" not in own:
            raise ValueError(f"{spec.id} is not an Atari game: give an id such as 'PongNoFrameskip-v4'.")
        for key, value in own.items():
            if key not in _FOLLOWED and value not in _NEUTRAL.get(key, ()):
                hint = " without frame skip, such as 'PongNoFrameskip-v4'," if key == "frameskip" else ""
                raise ValueError(
                    f"{spec.id} has {key}={value!r}, which native games do not support. Give an id{hint} or arguments "
                    "that leave it out, or make it with native=False."
                )
        sticky = own.pop("repeat_action_probability", 0.0)
        followed = {key: value for key, value in own.items() if key in _FOLLOWED}
        return cls(spec.id, **{"action_repeat_probability": sticky, **followed, **wrapper_kwargs})

    def make(self) -> "AtariVectorEnv":
        """
        Make one game.

        :return: the game
        """
        from ale_py.vector_env import AtariVectorEnv

        return AtariVectorEnv(
            self.game,
            num_envs=1,
            num_threads=1,
            max_num_frames_per_episode=self.max_num_frames_per_episode,
            repeat_action_probability=self.action_repeat_probability,
            full_action_space=self.full_action_space,
            img_height=self.screen_size,
            img_width=self.screen_size,
            stack_num=1,
            frameskip=self.frame_skip,
            maxpool=self.frame_skip > 1,
            noop_max=self.noop_max + 1,  # an exclusive bound
            reward_clipping=False,
            use_fire_reset=False,
        )


class Game:
    """
    One game with the episodes of SB3's ``AtariWrapper``.

    ale-py would reset the game when a life is lost, or continue without pressing FIRE, which agents trained with SB3's
    wrappers have never had to do.

    :param settings: settings of the game
    """

    def __init__(self, settings: Settings):
        self._env = settings.make()
        self._lives_are_episodes = settings.terminal_on_life_loss
        self.action_space = self._env.single_action_space
        meanings = self._env.ale.get_action_set()
        self._start = START if any(action.name == "FIRE" for action in meanings) else ()
        self.terminated = self.truncated = self.life_lost = False
        self.game_return = self.reward = 0.0
        self.info: dict[str, Any] = {"lives": 0}

    @property
    def over(self) -> bool:
        """Whether the game is over: the last life is lost, or the time limit is reached."""
        return self.terminated or self.truncated

    @property
    def ended(self) -> bool:
        """Whether an episode has ended: a game or a life."""
        return self.over or self.life_lost

    def new(self, seed: int | None = None) -> np.ndarray:
        """
        Begin a new game.

        :param seed: seed of its no-ops
        :return: ``(screen_size, screen_size)`` first frame
        """
        return self._begun(self._reset(seed))

    def next(self) -> np.ndarray:
        """
        Begin the next episode: the next life, or a new game.

        :return: ``(screen_size, screen_size)`` first frame
        """
        return self._begun(self._go_on())

    def _begun(self, frame: np.ndarray) -> np.ndarray:
        for action in self._start:
            frame = self.step(action)
            if self.ended:
                frame = self._go_on()
        return frame

    def _go_on(self) -> np.ndarray:
        if self.over:
            return self._reset()
        frame = self.step(NOOP)
        return self._reset() if self.over else frame

    def _reset(self, seed: int | None = None) -> np.ndarray:
        frames, info = self._env.reset(seed=seed)
        self._known(info)
        self.terminated = self.truncated = self.life_lost = False
        self.game_return = 0.0
        return frames[0, 0]  # type: ignore[no-any-return]

    def step(self, action: int) -> np.ndarray:
        """
        Make a step.

        :param action: action, repeated for the skipped frames
        :return: ``(screen_size, screen_size)`` next frame
        """
        self.send(action)
        return self.receive()

    def send(self, action: int) -> None:
        """
        Begin a step, which the game's own thread makes.

        :param action: action, repeated for the skipped frames
        """
        self._env.send(np.array([action]))

    def receive(self) -> np.ndarray:
        """
        Wait for the step to end.

        :return: ``(screen_size, screen_size)`` next frame
        """
        frames, rewards, terminated, truncated, info = self._env.recv()
        lives = self.info["lives"]
        self._known(info)
        self.life_lost = self._lives_are_episodes and 0 < self.info["lives"] < lives
        self.terminated, self.truncated, self.reward = bool(terminated[0]), bool(truncated[0]), float(rewards[0])
        self.game_return += self.reward
        return frames[0, 0]  # type: ignore[no-any-return]

    def _known(self, info: dict[str, np.ndarray]) -> None:
        self.info = {key: int(info[key][0]) for key in ("lives", "episode_frame_number", "frame_number")}

    def close(self) -> None:
        """Close the game and end its thread."""
        self._env.close()


class AtariVecEnv(BatchVecEnv):
    """
    Games that ale-py steps at once, each in its own thread.

    ``info["episode"]`` has the raw return of the whole game and its number of emulated frames, as in SB3, where
    ``Monitor`` is inside ``AtariWrapper``.

    :param settings: settings of the games
    :param n_envs: number of games
    :param seed: seed of the first game; the others follow
    """

    def __init__(self, settings: Settings, n_envs: int, seed: int | None = None):
        self._games = [Game(settings) for _ in range(n_envs)]
        self._clip = settings.clip_reward
        size = settings.screen_size
        observation_space = spaces.Box(0, 255, (size, size, 1), np.uint8)
        super().__init__(n_envs, observation_space, self._games[0].action_space, gym.spec(settings.env_id))
        if seed is not None:
            self.seed(seed)

    def reset(self) -> np.ndarray:
        """
        Begin new games.

        :return: ``(n_envs, screen_size, screen_size, 1)`` first frames
        """
        # ale-py's seeds have 31 bits
        seeds = [seed % 2**31 if seed is not None else None for seed in self._seeds]
        with ThreadPoolExecutor(min(self.num_envs, cpu_count())) as threads:  # no-ops take a game tens of milliseconds
            frames = list(threads.map(Game.new, self._games, seeds))
        self._reset_seeds()
        self._reset_options()
        return np.stack(frames)[..., None]

    def step_async(self, actions: np.ndarray) -> None:
        """
        Begin a step of all games.

        :param actions: one action for each game
        """
        for game, action in zip(self._games, actions, strict=True):
            game.send(action)

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the step to end.

        :return: observations, rewards, dones and infos
        """
        frames = np.stack([game.receive() for game in self._games])[..., None]
        rewards = np.array([game.reward for game in self._games], dtype=np.float32)
        dones = np.array([game.ended for game in self._games])
        infos = [game.info for game in self._games]
        for index in np.flatnonzero(dones).tolist():
            game, info = self._games[index], infos[index]
            info["terminal_observation"] = frames[index].copy()
            if game.over:
                info["episode"] = self.episode(game.game_return, info["episode_frame_number"])
            info["TimeLimit.truncated"] = game.truncated and not (game.terminated or game.life_lost)
            frames[index, ..., 0] = game.next()
        return frames, np.sign(rewards) if self._clip else rewards, dones, infos

    def close(self) -> None:
        """Close the games."""
        for game in self._games:
            game.close()
