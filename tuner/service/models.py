"""What the API takes and answers. Keys carry units; fields are added, never renamed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, create_model

from tuner.results.documents import SolutionHead, SweepHead, TrialRow
from tuner.setting_flags import Served, marker
from tuner.settings import AXIS, NAME, SweepSettings

MAX_ID = 2**63 - 1
HARDWARE = r"^[\x20-\x7E]{1,200}$"
PROFILE = r"^[A-Za-z0-9_.:\-]{1,60}$"
MAX_AXES = 16
MAX_ETAGS = 200
"""Characters of an ``If-None-Match``."""

Id = Annotated[int, Path(ge=1, le=MAX_ID)]


class Lookup(BaseModel):
    """What a lookup asks: the parameters of its query."""

    model_config = ConfigDict(frozen=True)

    definition: str = Field(pattern=NAME, description="name of a definition")
    axes: list[Annotated[str, Field(pattern=AXIS)]] = Field(
        [], max_length=MAX_AXES, description="NAME=NUMBER, such as seq_len=57; repeatable"
    )
    hardware: str | None = Field(
        None, pattern=HARDWARE, description="as recorded, or auto: from the header Tuner-Hardware"
    )
    target: str | None = Field(None, pattern=NAME, description="what it was built for, such as sm_90a; default: any")
    profile: str | None = Field(
        None, pattern=PROFILE, description="what the inputs look like; default: the mix that was tuned for"
    )
    objective: Literal["latency"] = Field("latency", description="what is best")

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Value of each axis."""
        return {name: int(value) for name, _, value in (axis.partition("=") for axis in self.axes)}


class LookupHeaders(BaseModel):
    """The headers that a lookup depends on, besides the token."""

    tuner_hardware: str | None = Field(None, pattern=HARDWARE)
    if_none_match: str | None = Field(None, max_length=MAX_ETAGS)


class Settings(BaseModel):
    """What to sweep, by names of what is installed on the server. Code, files and folders are not accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """The settings that the client gave; null counts as not given."""
        return {k: v for k, v in self.model_dump(exclude_unset=True).items() if v is not None}


def _start_sweep() -> type[Settings]:
    """The settings that are marked as served, with the bounds that hold for clients."""
    fields: dict[str, Any] = {}
    for name, field in SweepSettings.model_fields.items():
        served = marker(field, Served)
        if served is not None:
            kind: Any = served.kind or field.annotation
            default = ... if served.required else field.default
            own = Field(default, description=served.description or field.description)
            fields[name] = (kind if served.required else kind | None, own)
    return create_model("StartSweep", __base__=Settings, __doc__=Settings.__doc__, **fields)


if TYPE_CHECKING:
    StartSweep = Settings
else:
    StartSweep = _start_sweep()


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
class TunableDefinition:
    """What a sweep can be started for."""

    name: str
    op_type: str
    workloads: int
    spaces: list[str]


@dataclass(frozen=True)
class Choices:
    """Definitions of the server's dataset, each with the installed search spaces that solve it."""

    definitions: list[TunableDefinition]
    targets: list[str]
    samplers: list[str]
