"""Random search without replacement."""

from __future__ import annotations

from tuner.search.samplers._base import Strategy


class RandomStrategy(Strategy):
    """Uniform over the valid configs that were not proposed yet."""

    def propose(self) -> int:
        return self.random_row()
