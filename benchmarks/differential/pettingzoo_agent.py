"""One agent of PettingZoo's environments, among others that act by chance. Importing registers them."""

import importlib
from typing import Any

import gymnasium as gym


class OneAgent(gym.Env):
    """
    The first agent of a parallel environment.

    :param module: module of the environment
    :param kwargs: arguments of its ``parallel_env``
    """

    def __init__(self, module: str, **kwargs: Any):
        self.parallel = importlib.import_module(module).parallel_env(**kwargs)
        self.agent = self.parallel.possible_agents[0]
        self.observation_space = self.parallel.observation_space(self.agent)
        self.action_space = self.parallel.action_space(self.agent)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """
        Begin an episode.

        :param seed: of this environment and the parallel one
        :param options: of the parallel environment
        :return: observation and info of the agent
        """
        super().reset(seed=seed)
        if seed is None:  # PettingZoo's environments go on with their generators where they have some
            seed = int(self.np_random.integers(2**31))
        observations, infos = self.parallel.reset(seed=seed, options=options)
        return observations[self.agent], infos[self.agent]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Let all agents act.

        :param action: of the agent
        :return: the agent's part of the result
        """
        actions = {other: self._by_chance(other) for other in self.parallel.agents} | {self.agent: action}
        observations, rewards, ends, cuts, infos = self.parallel.step(actions)
        return tuple(each[self.agent] for each in (observations, rewards, ends, cuts, infos))

    def _by_chance(self, agent: str) -> int:
        return int(self.np_random.integers(self.parallel.action_space(agent).n))

    def close(self) -> None:
        """Close the parallel environment."""
        self.parallel.close()


ENTRY_POINT = "differential.pettingzoo_agent:OneAgent"
for name, module in (
    ("Pursuit", "pettingzoo.sisl.pursuit_v5"),
    ("KnightsArchersZombies", "pettingzoo.butterfly.knights_archers_zombies_v11"),
):
    gym.register(f"differential/{name}-v0", ENTRY_POINT, kwargs={"module": module, "max_cycles": 40})
