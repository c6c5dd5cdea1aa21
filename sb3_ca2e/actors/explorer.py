"""Explores in all slots of a process at once, each with its own setting."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sb3_ca2e.actors.exploration import Exploration, NoiseProcess, replace_forbidden, samples_of


class Explorer:
    """
    Explores in all slots of a process at once.

    Each slot draws from its own random generator, one block ahead and whatever the slot does, so that its draws depend
    neither on its process nor on the other slots.

    :param explorations: exploration of each slot
    :param rngs: random generator of each slot
    :param block_size: number of steps in a block
    :param action_masks: ``(slots, n_actions)`` bool, which actions the current observations allow, read at each step;
        None if all are. Forbidden actions of explorations are then replaced by allowed ones, drawn uniformly
    """

    def __init__(
        self,
        explorations: Sequence[Exploration],
        rngs: Sequence[np.random.Generator],
        block_size: int,
        action_masks: np.ndarray | None = None,
    ):
        self._explorations, self._rngs, self._block_size = explorations, rngs, block_size
        self._progress, self._n_random, self._t = 0.0, 0, 0
        n_drawn = 0 if samples_of(explorations[0]) is not None else 1
        self._random = self._stacked([each.random(n_drawn, rng) for each, rng in self._slots()])
        self.explore(explorations)
        #: whether each slot takes greedy actions, with the axes of actions
        self._greedy = np.zeros((len(explorations), *[1] * (self._random.ndim - 2)), dtype=bool)
        self._any_greedy = False
        self._masks = action_masks
        self._replacements = np.zeros(0)

    def explore(self, explorations: Sequence[Exploration]) -> None:
        """
        Replace the explorations, between two blocks.

        :param explorations: exploration of each slot
        """
        for before, after in zip(self._explorations, explorations, strict=True):
            if isinstance(after, NoiseProcess):
                after.go_on_from(before)
            if (samples := samples_of(before)) is not None:
                vars(after)["samples"] = samples  # they may have a state, and know the environment
        self._explorations = explorations
        self._sampled = samples_of(explorations[0]) is not None
        self._perturb = explorations[0].perturb
        self._drawn_ahead = explorations[0].drawn_ahead and not self._sampled
        self._noise = np.zeros((1, *self._random.shape[1:]), dtype=self._random.dtype)

    def begin_block(self, progress: float, n_random: int) -> None:
        """
        Draw the random numbers of a block.

        :param progress: fraction of the training that is done, 0 to 1
        :param n_random: number of steps until learning starts; until then, actions are uniform
        """
        n, self._progress, self._n_random, self._t = self._block_size, progress, n_random, 0
        if n_random > 0 and not self._sampled:
            self._random = self._stacked([each.random(n, rng) for each, rng in self._slots()])
        if self._drawn_ahead:
            self._noise = self._stacked([each.draw_noise(n, progress, rng) for each, rng in self._slots()])
        if self._masks is not None:
            self._replacements = self._stacked([rng.random(n) for rng in self._rngs])

    def set_greedy(self, position: int, greedy: bool) -> None:
        """
        Switch exploration of a slot off or on.

        :param position: position of the slot in this process
        :param greedy: whether it takes greedy actions from now on
        """
        self._greedy[position] = greedy
        self._any_greedy = bool(self._greedy.any())

    def actions(self, t: int, greedy: np.ndarray) -> np.ndarray:
        """
        Choose the actions of a step.

        :param t: index of the step in the block
        :param greedy: ``(slots, ...)`` greedy actions
        :return: ``(slots, ...)`` actions to take; may be modified
        """
        actions: np.ndarray
        self._t = t + 1
        if t < self._n_random:
            actions = self._next(lambda each, rng: each.random(1, rng)) if self._sampled else self._random[t]
        else:
            actions = self._perturb(greedy, self._noise[t] if self._drawn_ahead else self._next_noise())
        if self._any_greedy:
            actions = np.where(self._greedy, greedy, actions)
        if self._masks is not None:
            actions = replace_forbidden(actions, self._masks, self._replacements[t])
        return actions

    @property
    def samples_next(self) -> bool:
        """Whether the next actions are random ones of the user's, of which a game without exploration has none."""
        return self._sampled and self._t < self._n_random

    def _next_noise(self) -> np.ndarray:
        return self._next(lambda each, rng: each.draw_noise(1, self._progress, rng))

    def _next(self, draw: Callable[[Exploration, np.random.Generator], np.ndarray]) -> np.ndarray:
        """Draw random numbers for one step; greedy slots draw none."""
        for position, (each, rng) in enumerate(self._slots()):
            if not self._greedy[position]:
                self._noise[0, position] = draw(each, rng)[0]
        noise: np.ndarray = self._noise[0]
        return noise

    def _slots(self) -> Iterator[tuple[Exploration, np.random.Generator]]:
        return zip(self._explorations, self._rngs, strict=True)

    @staticmethod
    def _stacked(of_slots: Sequence[np.ndarray]) -> np.ndarray:
        """Stack arrays ``(steps, ...)`` of all slots into ``(steps, slots, ...)``."""
        return np.stack(of_slots, axis=1)
