"""Settings of a sweep, and where they come from: flag, then environment, then YAML file, then default."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from search_spaces.inputs.generator import RECORDED
from search_spaces.targets import NAMES as TARGETS
from search_spaces.targets import target_named
from tuner.errors import UsageError
from tuner.files import read_text
from tuner.setting_flags import Flag, Served

ENVIRONMENT = {
    "db": ("TUNER_DB_URL",),
    "dataset": ("TUNER_DATASET", "FIB_DATASET_PATH"),
    "cache_dir": ("TUNER_CACHE_DIR",),
    "ray_address": ("RAY_ADDRESS",),
}
"""Setting -> environment variables for it; the first one that is set counts."""


def default_database_url() -> str:
    """SQLite in the user's data directory.

    Raises:
        NoPlaceError: This user has no home folder.
    """
    import platformdirs

    from workers.home import user_folder

    folder = user_folder(platformdirs.user_data_dir, "the database", "TUNER_DB_URL", "sqlite:////PATH/tuner.db")
    return f"sqlite:///{folder / 'tuner.db'}"


GRAPH_MODES = {"graph": "cuda_graph", "eager": "eager"}
"""How modes are called by users -> by records."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def log_level(default: str) -> str:
    """The level that ``TUNER_LOG_LEVEL`` names.

    Raises:
        UsageError: It does not name a level.
    """
    level = os.environ.get("TUNER_LOG_LEVEL", "").strip().upper() or default
    if level not in LOG_LEVELS:
        allowed = ", ".join(LOG_LEVELS).lower()
        raise UsageError(f"TUNER_LOG_LEVEL={os.environ['TUNER_LOG_LEVEL']!r} is not a level; allowed are {allowed}")
    return level


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


def _known_target(name: str) -> str:
    return target_named(name).name


AXIS = r"^[A-Za-z_][A-Za-z0-9_]{0,63}=[0-9]{1,12}$"
"""An axis and its size."""


def _name_and_number(given: str) -> str:
    if not re.fullmatch(AXIS, given):
        raise ValueError("must be NAME=NUMBER, such as seq_len=57")
    return given


AxisSize = Annotated[str, AfterValidator(_name_and_number)]
"""An axis with one size; several of one axis are alternatives."""

DEFAULT_BOUNDS = (8, 32, 128, 512, 2048)
"""From a few decoded sequences to a long prefill, in steps of four.

On one H200, over 89 sizes and routings of the FP8 MoE, the table that these bounds lead to is 2.8 % behind the best
config of each point on average; 16, 256, 2048 are 5.0 %, steps of two 2.4 % with twice as many regimes to search.
"""

TargetName = Annotated[str, AfterValidator(_known_target), WithJsonSchema({"type": "string", "enum": list(TARGETS)})]
"""A target of :data:`search_spaces.targets.TARGETS`."""


NAME = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}$"
"""Names of definitions, spaces and workloads over HTTP: no slash and no leading dot, so that no name is a path."""
Name = Annotated[str, Field(pattern=NAME)]


class SweepSettings(BaseModel):
    """Everything that decides what a sweep does. Stored with the sweep, so that a resume continues with the same.

    A field is all that a new setting needs: its flag, its key in a YAML file, its line in docs/settings.md and, if it
    is marked as served, its key in the API come from it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    definition: Annotated[str | None, Served(Name, "a definition of the server's dataset", required=True)] = Field(
        None, description="name of the definition; default: the only one that the space fits, else the only MoE"
    )
    dataset: Path | None = Field(
        None, description="flashinfer-trace folder; default: TUNER_DATASET, else the packaged one"
    )
    space: Annotated[str | None, Served(Name, "an installed search space; default: the one that fits")] = Field(
        None, description="name of a search space, or a folder with a space.yaml; default: the one that fits"
    )
    target: Annotated[TargetName | None, Served()] = Field(
        None, description=f"{', '.join(TARGETS)}; default: the machine's"
    )
    accelerators: tuple[str, ...] = Field(
        (), description="kinds of machine in the Ray cluster to sweep on, such as H200,B200: a sweep on each"
    )
    sampler: Annotated[str, Served(Name)] = Field("auto", description="search strategy, such as tpe, gp or random")
    seed: Annotated[int, Served(Annotated[int, Field(ge=0, le=2**31 - 1)])] = Field(
        0, ge=0, description="seed of the search and of the finals' order"
    )
    max_trials: Annotated[int | Literal["auto"], Served(Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"])] = (
        Field(64, description="trials over all regimes; auto: until more do not pay")
    )
    budget_s: Annotated[float | None, Served(Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)])] = Field(
        None, gt=0, description="seconds of wall time for the sweep, finals included"
    )
    size_axis: str | None = Field(
        None, description="variable axis whose size decides the config; default: the one that the space names"
    )
    regimes: tuple[int, ...] = Field(
        DEFAULT_BOUNDS, description="largest size of each regime but the last, such as 8,32,128"
    )
    workloads: Annotated[
        tuple[str, ...], Flag("--workload", repeated=True), Served(Annotated[list[Name], Field(max_length=100)])
    ] = Field((), description="only this workload uuid or prefix")
    axes: Annotated[
        tuple[AxisSize, ...],
        Flag("--axes", repeated=True),
        Served(Annotated[list[Annotated[str, Field(pattern=AXIS)]], Field(max_length=100)]),
    ] = Field((), description="only workloads of this size, such as seq_len=57")
    profiles: dict[str, Positive] = Field(
        {RECORDED: 1.0},
        description="what inputs look like: recorded,uniform,zipf:0.8,hot:3; in YAML each with its weight",
    )
    sizes: Literal["listed", "auto"] | tuple[Size, ...] = Field(
        "listed", description="sizes beside the listed ones: auto for some between and around them, or 1,2,4"
    )
    worst_factor: float = Field(
        1.5,
        gt=1,
        description="a config is no winner if it is this many times slower than the best known on any workload",
    )
    builders: int | None = Field(None, ge=1, description="builds at once; default: by the cluster's free CPUs")
    evaluators: int | None = Field(None, ge=1, description="evaluations at once; default: one per GPU, one on CPU")
    race_factor: float = Field(1.3, gt=1, description="stop a trial this many times slower than the incumbent")
    finalists: int = Field(3, ge=1, description="configs per regime that are measured again, besides the default")
    final_rounds: int = Field(96, ge=8, description="most rounds of a final")
    final_s: float = Field(8, gt=0, description="seconds after which a regime's final ends unsettled")
    final_share: float = Field(0.25, gt=0, lt=1, description="share of budget_s kept for the finals")
    keep_going: bool = Field(False, description="go on where the first trials have all failed for the same reason")
    reuse: Annotated[bool, Served()] = Field(True, description="take measurements that the database already has")
    verify_first: Annotated[int, Served(Annotated[int, Field(ge=0, le=100)])] = Field(
        0,
        ge=0,
        description="configs that must pass the emulator, on a small definition, before the first trial: the default, "
        "the starts, a sample",
    )
    warm_start: bool = Field(True, description="try early what related sweeps and the kernel's author found good")
    compile_s: float = Field(300, gt=0, description="deadline of a build in seconds")
    check_s: float = Field(60, gt=0, description="deadline of a check in seconds")
    measure_s: float = Field(60, gt=0, description="deadline of a measurement in seconds")
    rtol: Annotated[dict[str, Positive], Flag(repeated=True)] = Field(
        {}, description="relative tolerance, or OUTPUT=NUMBER for one output"
    )
    atol: Annotated[dict[str, Positive], Flag(repeated=True)] = Field(
        {}, description="absolute tolerance, or OUTPUT=NUMBER for one output; default: by the outputs' scale"
    )
    required_matched_ratio: Annotated[dict[str, Share], Flag(repeated=True)] = Field(
        {}, description="share of elements that must match, or OUTPUT=NUMBER for one output"
    )
    judge: Annotated[dict[str, str], Flag(repeated=True)] = Field(
        {}, description="OUTPUT=close, exact, steps, selected or drawn: how it is judged"
    )
    baseline: Path | None = Field(
        None, description="Solution file to compare the winners with at the end, such as what runs today"
    )
    mode: Literal["auto", "host", "eager", "cuda_graph"] | None = Field(
        None, description="execution mode that is timed on a GPU: auto (a graph where it can be captured), eager, graph"
    )
    max_samples: int = Field(60, ge=5, description="most samples of one measurement")
    target_rel_ci: float = Field(0.02, gt=0, description="stop sampling at this relative interval of the median")
    sample_budget_s: float = Field(0.4, gt=0, description="stop sampling after this many seconds")
    ray_address: str | None = Field(
        None, description="Ray cluster; default: RAY_ADDRESS, else one on this machine for this sweep"
    )
    db: str = Field(
        default_factory=default_database_url,
        description="database URL; default: TUNER_DB_URL, else SQLite in your data folder",
    )
    cache_dir: Path | None = Field(None, description="where built artifacts are kept")

    @field_validator("dataset", "cache_dir", "baseline")
    @classmethod
    def _from_any_folder(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("space")
    @classmethod
    def _space_from_any_folder(cls, value: str | None) -> str | None:
        from search_spaces.registry import names

        if value is None or value in names():
            return value
        folder = Path(value).expanduser()
        return str(folder.absolute()) if folder.is_dir() else value

    @field_validator("rtol", "atol", "required_matched_ratio", "judge", mode="before")
    @classmethod
    def _by_output(cls, value: object) -> object:
        """One number is for all outputs; a list has VALUE for all or OUTPUT=VALUE for one."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"": value}
        if not isinstance(value, list):
            return value
        found: dict[str, str] = {}
        for text in map(str, value):
            name, _, own = text.rpartition("=")
            if not own or name in found:
                why = "is given twice" if own else "has no value"
                raise ValueError(f"{text!r} {why}; it must be a value or OUTPUT=VALUE, such as lse=1e-3")
            found[name] = own
        return found

    @field_validator("accelerators", mode="before")
    @classmethod
    def _with_commas(cls, value: object) -> object:
        return _parts(value) if isinstance(value, str) else value

    @field_validator("mode", mode="before")
    @classmethod
    def _short_name(cls, value: object) -> object:
        return GRAPH_MODES.get(value, value) if isinstance(value, str) else value

    @field_validator("profiles", mode="before")
    @classmethod
    def _weighted(cls, value: object) -> object:
        """Names alone count alike."""
        names = _parts(value) if isinstance(value, str) else value
        if isinstance(names, list | tuple) and not all(isinstance(name, str) for name in names):
            raise ValueError("is a list of names, or of name: weight, such as recorded,uniform")
        return dict.fromkeys(names, 1.0) if isinstance(names, list | tuple) else value

    @field_validator("profiles")
    @classmethod
    def _named(cls, value: dict[str, float]) -> dict[str, float]:
        if not value or not all(value):
            raise ValueError("name at least one profile, such as recorded,uniform")
        return value

    @field_validator("sizes", "regimes", mode="before")
    @classmethod
    def _numbers(cls, value: object, info: ValidationInfo) -> object:
        words = ("listed", "auto") if info.field_name == "sizes" else ()
        if not isinstance(value, str) or value in words:
            return value
        parts = _parts(value)
        if not parts or not all(part.isdigit() for part in parts):
            allowed = ", ".join((*words, "or numbers" if words else "numbers"))
            raise ValueError(f"must be {allowed} with commas between, such as 1,2,4")
        return tuple(map(int, parts))

    @field_validator("max_trials")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or 'auto'")
        return value

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, value: str) -> str:
        from tuner.search import sampler_names

        if value not in sampler_names():
            raise ValueError(f"allowed are {', '.join(sampler_names())}")
        return value


def _parts(text: str) -> tuple[str, ...]:
    """What stands between commas, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def load(flags: Mapping[str, Any], config_file: Path | None = None) -> SweepSettings:
    """The effective settings.

    Args:
        flags: Values from the command line or the Python caller; None counts as not given.
        config_file: A YAML mapping with keys of :class:`SweepSettings`.

    Raises:
        UsageError: A key is unknown, a value is not allowed, or the file is not a readable YAML mapping.
    """
    merged: dict[str, Any] = {}
    if config_file is not None:
        merged.update(_read_yaml(config_file))
    for key, variables in ENVIRONMENT.items():
        value = next((os.environ[v] for v in variables if os.environ.get(v)), None)
        if value is not None:
            merged[key] = value
    merged.update({k: v for k, v in flags.items() if v is not None})
    try:
        return SweepSettings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if str(part)) or "settings"
        if first["type"] == "extra_forbidden":
            known = ", ".join(SweepSettings.model_fields)
            raise UsageError(f"unknown setting {key!r}; known are {known}") from None
        raise UsageError(f"setting {key}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    from search_spaces import SpaceError
    from search_spaces.space_yaml import yaml_text

    try:
        loaded = yaml_text.load(read_text(path, "config file"), values=(), but=())
    except SpaceError as error:
        raise UsageError(f"config file {path} is {' '.join(str(error).split())}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"config file {path} must hold a mapping of settings, got {type(loaded).__name__}")
    return {str(k): v for k, v in loaded.items()}
