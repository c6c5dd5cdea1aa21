"""Updates the statistics of the user's VecNormalize with exactly the stored transitions."""

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.envs.normalization import Normalization
from sb3_ca2e.replay.block import TERMINATED, TRANSITION, TRUNCATED, Block, ObservationColumn
from sb3_ca2e.replay.normalization import observation_statistics
from sb3_ca2e.replay.stacks import stacked


class Statistics:
    """
    Updates the user's ``VecNormalize`` with stored data, as it would update itself at each step.

    :param normalize: the user's wrapper
    :param normalization: settings of the wrapper
    :param columns: how observations are stored
    """

    def __init__(self, normalize: VecNormalize, normalization: Normalization, columns: dict[str, ObservationColumn]):
        self.normalize, self.normalization, self.columns = normalize, normalization, columns
        self._returns: dict[int, float] = {}
        #: current observation of each slot with an unfinished episode
        self._newest: dict[int, dict[str, np.ndarray]] = {}

    def update(self, block: Block) -> None:
        """
        Update the statistics with a block.

        :param block: stored rows of one slot
        """
        n_rows = len(block.flags)
        if n_rows == 0:
            return
        newest = {}
        counts = self.normalize.training and self.normalize.norm_obs
        for key, rms in observation_statistics(self.normalize).items() if counts else ():
            frames, column = block.frames[key], self.columns[key]
            data = frames[column.n_stack - 1 :] if self.normalization.of_frames else stacked(frames, block.ages, column)
            rms.update(data[:n_rows])
            newest[key] = data[n_rows:].copy()
        returns = self._discounted(block)
        if len(returns) > 0:  # an empty batch would make the mean NaN permanently
            self.normalize.ret_rms.update(returns)
        self._newest[block.slot] = newest if block.flags[-1] & TRANSITION else {}

    def end_stream(self, slot: int) -> None:
        """
        Count the last observation of an episode that was cut off, which the memory stores.

        :param slot: slot of the episode
        """
        newest = self._newest.pop(slot, {})
        self._returns.pop(slot, None)
        if self.normalize.training and self.normalize.norm_obs:
            for key, data in newest.items():
                observation_statistics(self.normalize)[key].update(data)

    def end_streams(self) -> None:
        """Count the last observations of all slots."""
        for slot in list(self._newest):
            self.end_stream(slot)

    def state(self) -> tuple[dict[int, float], dict[int, dict[str, np.ndarray]]]:
        """
        Return the state of unfinished episodes.

        :return: the state, for :meth:`restore`
        """
        return self._returns, self._newest

    def restore(self, state: tuple[dict[int, float], dict[int, dict[str, np.ndarray]]]) -> None:
        """
        Restore the state of unfinished episodes.

        :param state: result of :meth:`state`
        """
        self._returns, self._newest = state

    def _discounted(self, block: Block) -> np.ndarray:
        """Return the running discounted return of the slot after each of its steps; it pauses as training does."""
        value, returns, training = self._returns.get(block.slot, 0.0), [], self.normalize.training
        for reward, flags in zip(block.rewards.tolist(), block.flags.tolist(), strict=True):
            if training and flags & TRANSITION:
                value = value * self.normalize.gamma + reward
                returns.append(value)
            if not flags & TRANSITION or flags & (TERMINATED | TRUNCATED):
                value = 0.0
        self._returns[block.slot] = value
        return np.array(returns)

    def publish(self) -> np.ndarray:
        """
        Return the statistics for actors.

        :return: as :meth:`Normalization.publish` returns them
        """
        return self.normalization.publish(self.normalize)
