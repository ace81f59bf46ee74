"""What can be tuned: search spaces and, per kernel family, the kernel sources themselves."""

from search_spaces.parameters import Config, Constraint, Parameter, Scalar, SpaceError, Value
from search_spaces.space import Proof, SearchSpace, SpaceFamily

__all__ = ["Config", "Constraint", "Parameter", "Proof", "Scalar", "SearchSpace", "SpaceError", "SpaceFamily", "Value"]
