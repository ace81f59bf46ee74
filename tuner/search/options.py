"""Everything about the default strategy that was chosen by measurement."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuner.search.gaussian_process import regression as gp


@dataclass(frozen=True)
class Options:
    """See docs/search.md for what each choice is worth.

    Args:
        start: Proposals before the model takes over, spread over the space.
        related: The first so many proposals after the default are the best by a related sweep, where there is one.
        related_apart: Least distance between them, as a part of the usual one between two configs.
        start_candidates: Random free configs among which the farthest from all taken ones is proposed.
        refit_growth: Hyperparameters are fitted again when this many times more values are known, or a quarter of
            ``observations_limit`` more.
        pool_limit: Candidates that the model looks at; all free configs where there are fewer.
        sample_limit: The same where the space is not listed, beside the leaders' neighbours.
        fresh: Random configs that join the candidates at each fit where the space is not listed.
        leaders: Best configs whose neighbours are always among the candidates.
        observations_limit: Values that the model learns from; beyond it the best and a random rest.
        least_log_chance: Floor of the logarithm of the chance that a config works.
        outlook_configs: Free configs that the outlook is drawn from, the most promising ones.
        outlook_draws: Draws of it.
        doubt: How much wider than the model says they are spread. Results of the model's own proposals miss what it
            foretold by 1.1 to 1.9 of its standard deviations over 300 trials, and more in the first hundred (root mean
            square; 25 recorded spaces).
        beliefs: About the hyperparameters of the Gaussian process.
    """

    start: int = 6
    related: int = 3
    related_apart: float = 0.5
    start_candidates: int = 200
    refit_growth: float = 1.1
    pool_limit: int = 20_000
    sample_limit: int = 2_000
    fresh: int = 200
    leaders: int = 5
    observations_limit: int = 200
    least_log_chance: float = -12.0
    outlook_configs: int = 200
    outlook_draws: int = 200
    doubt: float = 1.5
    beliefs: gp.Prior = field(default_factory=gp.Prior)
