"""What the API takes and answers. Keys carry units; fields are added, never renamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from tuner.results.documents import SolutionHead, SweepHead, TrialRow
from tuner.settings import TargetName

MAX_ID = 2**63 - 1
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}$"
"""Names of definitions, spaces and workloads: no slash and no leading dot, so that no name is a path."""
HARDWARE = r"^[\x20-\x7E]{1,200}$"
PROFILE = r"^[A-Za-z0-9_.:\-]{1,60}$"
AXIS = r"^[A-Za-z_][A-Za-z0-9_]{0,63}=[0-9]{1,12}$"
MAX_AXES = 16
MAX_ETAGS = 200
"""Characters of an ``If-None-Match``."""

Id = Annotated[int, Path(ge=1, le=MAX_ID)]
Name = Annotated[str, Query(pattern=NAME, description="name of a definition")]


class StartSweep(BaseModel):
    """What to sweep, by names of what is installed on the server. Code, files and folders are not accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    definition: str = Field(pattern=NAME, description="a definition of the server's dataset")
    space: str | None = Field(None, pattern=NAME, description="an installed search space; default: the one that fits")
    target: TargetName | None = Field(None, description="default: the server machine's")
    max_trials: int | Literal["auto"] = Field(64, description="1 to 100000 trials over all regimes, or auto")
    budget_s: float | None = Field(None, gt=0, le=7 * 86400, allow_inf_nan=False, description="wall time in seconds")
    sampler: str | None = Field(None, pattern=NAME, description="search strategy")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    workloads: list[Annotated[str, Field(pattern=NAME)]] = Field([], max_length=100, description="uuids or prefixes")
    reuse: bool = Field(True, description="take measurements that the database already has")


@dataclass(frozen=True)
class SweepList:
    """Sweeps, newest first; ``next_before`` is the ``before`` of the next page."""

    sweeps: list[SweepHead]
    next_before: int | None = None


@dataclass(frozen=True)
class TrialList:
    """Trials in the order in which they were committed; ``next_after`` is the ``after`` of the next page."""

    trials: list[TrialRow]
    next_after: int | None = None


@dataclass(frozen=True)
class Started:
    """The sweep that was started or resumed."""

    id: int
    state: str
    url: str


@dataclass(frozen=True)
class SolutionList:
    """Solutions, newest first."""

    solutions: list[SolutionHead]


@dataclass(frozen=True)
class Choice:
    """What a sweep can be started for."""

    name: str
    op_type: str
    workloads: int
    spaces: list[str]


@dataclass(frozen=True)
class Choices:
    """Definitions of the server's dataset, each with the installed search spaces that solve it."""

    definitions: list[Choice]
    targets: list[str]
    samplers: list[str]
