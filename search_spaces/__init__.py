"""What can be tuned: search spaces and, per kernel family, the kernel sources themselves."""

from search_spaces.space import (
    Config,
    Constraint,
    Parameter,
    Proof,
    Scalar,
    SearchSpace,
    SpaceError,
    SpaceFamily,
)

__all__ = ["Config", "Constraint", "Parameter", "Proof", "Scalar", "SearchSpace", "SpaceError", "SpaceFamily"]
