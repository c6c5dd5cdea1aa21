"""Statistics of each slot."""

import collections
from dataclasses import dataclass, field


@dataclass
class SlotStats:
    """Statistics of one slot; all counts are of this slot alone."""

    transitions: int = 0
    episodes: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    param_age: int = 0
    refused: int = 0
    kind: str = "nature"
    returns: collections.deque = field(default_factory=lambda: collections.deque(maxlen=100))

    @property
    def ep_rew_mean(self) -> float | None:
        """Mean return of its last hundred games."""
        return sum(self.returns) / len(self.returns) if self.returns else None
