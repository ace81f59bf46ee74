"""The constants of the default sampler; each was chosen by measurement."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuner.search.gaussian_process import regression as gp


@dataclass(frozen=True)
class Options:
    """See docs/search.md for what each choice is worth.

    Args:
        start: Proposals before the model takes over, spread over the space.
        related: Proposals right after the default that are taken from a related sweep, if there is one.
        related_apart: Least distance between them, relative to the usual distance between two configs.
        start_candidates: Random free configs, of which the one farthest from all taken configs is proposed.
        refit_growth: Hyperparameters are fitted again when this many times more values are known, or a quarter of
            ``observations_limit`` more.
        pool_limit: Most candidates that the model looks at, in a space that is listed.
        sample_limit: The same in a space that is not listed; the leaders' neighbours come on top.
        fresh: Random configs that join the candidates at each fit, in a space that is not listed.
        leaders: Best configs whose neighbours are always among the candidates.
        observations_limit: Most values that the model learns from: the best ones and a random rest.
        others_limit: Most values of searches on other sizes that the model learns from, all of them together.
        least_log_chance: Lower bound of the logarithm of the probability that a config works.
        outlook_configs: Most promising free configs, for which the stopping rule draws joint values.
        outlook_draws: Number of these draws.
        doubt: Factor on the standard deviation of the draws, since the model is too sure of itself: results differ
            from its predictions by 1.1 to 1.9 of its standard deviations over 300 trials, and by more in the first
            hundred (root mean square; 25 recorded spaces).
        trust: How strongly values follow what the space's model says, before any result: mean and standard deviation.
        beliefs: Prior of the Gaussian process's hyperparameters.
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
    others_limit: int = 100
    least_log_chance: float = -12.0
    outlook_configs: int = 200
    outlook_draws: int = 200
    doubt: float = 1.5
    trust: tuple[float, float] = (1.0, 0.5)
    beliefs: gp.Prior = field(default_factory=gp.Prior)
