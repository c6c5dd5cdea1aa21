"""Policies of games, evaluated in a process of its own: beside training where there are cores for it, or afterwards."""

import multiprocessing
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.dqn.policies import DQNPolicy

from learning.curve import CURVE_SEED, Kept
from sb3_ca2e import make_atari_env

#: Share of random actions in evaluations, where the policy is not stochastic itself.
EPSILON = 0.01
#: Cores that an evaluation takes beside training.
THREADS = 2


class Acting:
    """
    What is evaluated. The zoo plays Atari games with stochastic policies. Those that learn values must act at random
    now and then, too: where nothing is random, a rally of two paddles that do the same each time goes on for minutes.

    :param policy: of SB3
    """

    def __init__(self, policy: Any):
        self._policy, self._random = policy, np.random.default_rng(0)
        self._epsilon = EPSILON if isinstance(policy, DQNPolicy) else 0.0

    def predict(self, observation: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        """
        :param observation: of some games
        :param kwargs: as of SB3's models
        :return: actions
        """
        actions, state = self._policy.predict(observation, **kwargs)
        at_random = self._random.random(len(actions)) < self._epsilon
        actions[at_random] = self._random.integers(self._policy.action_space.n, size=at_random.sum())
        return actions, state


def serve(
    connection: Connection, policy: type, arguments: dict[str, Any], env_id: str, games: int, frames: int | None
) -> None:
    """
    Answer parameters with the returns of whole games, until there are no more.

    :param connection: parameters come, and returns go, through it
    :param policy: class of the policy
    :param arguments: that it is made with
    :param env_id: the game
    :param games: to be played
    :param frames: after which each ends, None for the emulator's own limit
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks says when it is over
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    th.set_num_threads(THREADS)
    acting = policy(**arguments)
    limit = {} if frames is None else {"max_num_frames_per_episode": frames}
    env = make_atari_env(env_id, n_envs=games, seed=CURVE_SEED, native=True, env_kwargs=limit)
    while True:
        try:
            parameters = connection.recv()
        except EOFError:
            return
        acting.load_state_dict({name: th.from_numpy(values) for name, values in parameters.items()})
        returns, _ = evaluate_policy(Acting(acting), env, games, deterministic=False, return_episode_rewards=True)  # type: ignore[arg-type]
        connection.send(returns)


class Evaluator:
    """
    Evaluates policies in the order in which they come; who asks does not wait.

    :param model: whose policies they are
    :param env_id: the game
    :param games: to be played with each
    :param frames: after which each game ends, None for the emulator's own limit
    """

    def __init__(self, model: BaseAlgorithm, env_id: str, games: int, frames: int | None = None):
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        arguments = model.policy._get_constructor_parameters()
        given = theirs, type(model.policy), arguments, env_id, games, frames
        self._process = spawn.Process(target=serve, args=given)
        self._process.daemon = True  # it ends with this one, whatever happens
        self._process.start()
        theirs.close()
        # A pipe holds less than the parameters of a policy: to write them is to wait until they are wanted.
        self._messenger = ThreadPoolExecutor(1)
        self._asked: list[tuple[dict[str, Any], Future[list[float]]]] = []
        self.rows: list[dict[str, Any]] = []

    def ask(self, kept: Kept) -> None:
        """
        :param kept: a policy
        """
        parameters = {name: tensor.cpu().numpy() for name, tensor in kept.parameters.items()}
        self._asked.append((kept.told, self._messenger.submit(self._returns, parameters)))

    def _returns(self, parameters: dict[str, np.ndarray]) -> list[float]:
        try:
            self._connection.send(parameters)
            returns: list[float] = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"The process that evaluates has ended, with exit code {code}: run it again.") from error
        return returns

    def answered(self, wait: bool = False) -> float | None:
        """
        Take one answer, into :attr:`rows`.

        :param wait: for it
        :return: the mean return, None if there is no answer
        :raises RuntimeError: if the process that evaluates has ended
        """
        if not self._asked or not (wait or self._asked[0][1].done()):
            return None
        told, answer = self._asked.pop(0)
        returns = answer.result()
        self.rows += [{**told, "final": 0, "episode": i, "return": each} for i, each in enumerate(returns)]
        mean = float(np.mean(returns))
        print(told, f"return {mean:.2f}", flush=True)
        return mean

    @property
    def waited_for(self) -> int:
        """How many answers are still to come."""
        return len(self._asked)

    def close(self) -> None:
        """End the process, and what it has not answered."""
        self._process.terminate()
        self._messenger.shutdown(cancel_futures=True)
        self._process.join()
