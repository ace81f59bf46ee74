"""Which config to try next: an ask-and-tell search over one space, guided by Optuna.

Importing this package does not load Optuna; making a ``Search`` does.
"""

from tuner.search.search import Proposal, Search, sampler_names
from tuner.search.stopping_rule import StopAdvice

__all__ = ["Proposal", "Search", "StopAdvice", "sampler_names"]
