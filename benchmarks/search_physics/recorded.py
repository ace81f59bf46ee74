"""What sweeps of moe_fp8_cute recorded, read from their databases as they are, of any version, or from recordings."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.search_replay.recording import STATUS_OF, SUFFIX, Recording, read_recording
from search_spaces.moe_fp8.reading import DEEPSEEK_INPUTS
from search_spaces.parameters import Config
from search_spaces.prediction.model import WorkloadFeatures
from search_spaces.registry import family
from search_spaces.space import SearchSpace

ROWS = json.loads(Path(__file__).with_name("rows.json").read_text(encoding="utf-8"))
"""Workload -> rows of each local expert. Synthetic routing, computed from the blobs that the sweeps measured on, and of
made workloads from the inputs that the product makes of those (4,096 tokens: like those of 901)."""

RECORDED = {
    "moe_h200_no_starts": "no-starts-later",
    "moe_h200_starts": "starts-later",
    "moe_h200_spread": "spread-hot3",
    "moe_h200_random": "random-hot3",
    "moe_h200_wide_random": "wide-random",
    "moe_h200_wide_searched": "wide-searched",
    "moe_h200_crowded_random": "crowded-random",
    "moe_h200_crowded_searched": "crowded-searched",
}
"""What the names of recordings begin with -> the sweep that they were taken from; of some each regime has its own."""

_TIMED = """
    select distinct w.uuid, w.axes, v.config, m.median_us
    from measurement m join workload w on w.id = m.workload_id join variant v on v.id = m.variant_id
    where m.status = 'PASSED' and m.median_us is not null
"""
_TRIALS = """
    select t.regime, v.config, t.state, t.objective from trial t join variant v on v.id = t.variant_id order by t.number
"""


@dataclass(frozen=True)
class Timed:
    """A config on a workload: what it took."""

    sweep: str
    workload: str
    config: Config
    us: float


@dataclass(frozen=True)
class Tried:
    """A trial: its regime, and its objective unless it failed."""

    regime: str
    config: Config
    state: str
    objective: float | None


@dataclass(frozen=True)
class Recorded:
    """Sweeps of one definition on one kind of GPU.

    Args:
        hardware: As the driver reports it.
        space: The space as it is now; parameters that a sweep did not have are at their default.
        features: By workload.
        timed: All measurements that passed.
        tried: Sweep -> its trials.
    """

    hardware: str
    space: SearchSpace
    features: Mapping[str, WorkloadFeatures]
    timed: tuple[Timed, ...]
    tried: Mapping[str, tuple[Tried, ...]]

    def of(self, workload: str, sweep: str | None = None) -> list[Timed]:
        """Measurements of a workload, of one sweep or of all."""
        return [t for t in self.timed if t.workload == workload and sweep in (None, t.sweep)]


def read(sources: Sequence[Path]) -> Recorded:
    """Read databases, gzip-compressed or not, and recordings (:data:`RECORDED` names their sweeps).

    A recording does not tell how many tokens a listed workload has: some database must have it, whatever its profile.
    """
    timed: list[Timed] = []
    features: dict[str, WorkloadFeatures] = {}
    tried: dict[str, tuple[Tried, ...]] = {}
    space, hardware = None, ""
    for path in (p for p in sources if not p.name.endswith(SUFFIX)):
        name = name_of(path)
        with opened(path) as database:
            (body,) = database.execute("select body from definition").fetchone()
            hardware, target = database.execute("select hardware, target from environment").fetchone()
            definition = json.loads(body)
            # Databases keep a document's content, not the order of its keys, and the family goes by that of the inputs.
            definition["inputs"] = {name: definition["inputs"][name] for name in DEEPSEEK_INPUTS}
            space = family("moe_fp8_cute").space(definition, target)

            def whole(config: str, default: Mapping[str, Any] = space.default) -> Config:
                return {**default, **json.loads(config)}

            for uuid, axes, config, us in database.execute(_TIMED):
                features[uuid] = WorkloadFeatures(json.loads(axes), {"rows_per_expert": tuple(ROWS[uuid])})
                timed.append(Timed(name, uuid, whole(config), us))
            tried[name] = tuple(Tried(r, whole(c), s, o) for r, c, s, o in database.execute(_TRIALS))
    if space is None:
        raise SystemExit("no database is given")
    for path in (p for p in sources if p.name.endswith(SUFFIX)):
        recording, sweep, regime = read_recording(path), name_of(path), regime_of(path)
        for workload in recording.workloads:
            features[workload] = _features(workload, features)
        timed += _timed(recording, sweep, space)
        tried[sweep] = (*tried.get(sweep, ()), *_trials(recording, regime, space))
    return Recorded(hardware, space, features, tuple(timed), tried)


def configs_on_all(recorded: Recorded, sweeps: Sequence[str]) -> dict[str, int]:
    """Distinct configs of sweeps that measured all on the same workloads: tried, and measured (they passed).

    Measured ones are counted where their time is known on every workload. Configs of an earlier space count once with
    those of today that have what came later at its default.
    """
    tried = {config_key(t.config) for sweep in sweeps for t in recorded.tried.get(sweep, ())}
    on: dict[tuple, set[str]] = {}
    for t in recorded.timed:
        if t.sweep in sweeps:
            on.setdefault(config_key(t.config), set()).add(t.workload)
    workloads = len(set().union(*on.values())) if on else 0
    return {"workloads": workloads, "tried": len(tried), "measured": sum(len(w) == workloads for w in on.values())}


def config_key(config: Mapping[str, Any]) -> tuple:
    """The same for the same config."""
    return tuple(sorted((name, repr(value)) for name, value in config.items()))


def name_of(path: Path) -> str:
    """The sweep of a database or a recording."""
    name = path.name.split(".")[0]
    return next((sweep for start, sweep in RECORDED.items() if name.startswith(start)), name)


def regime_of(recording: Path) -> str:
    """The regime in the name of a recording; ``all`` where it was taken from all of them."""
    name = recording.name.split(".")[0]
    start = next(start for start in RECORDED if name.startswith(start))
    low, _, high = name.removeprefix(start).removeprefix("_").rpartition("_")
    if not low:
        return "all"
    return f"{low}+" if high == "up" else f"{low.removesuffix('_to')}-{high}"


def _features(workload: str, known: Mapping[str, WorkloadFeatures]) -> WorkloadFeatures:
    """Tokens of the workload with the same inputs, since profiles change whom they are routed to; a made one is called
    by its tokens."""
    like, _, made = workload.partition("~")[0].partition("=")
    axes = {like: int(made)} if made else known[like].axes
    return WorkloadFeatures(axes, {"rows_per_expert": tuple(ROWS[workload])})


def _timed(recording: Recording, sweep: str, space: SearchSpace) -> Iterator[Timed]:
    for row in range(len(recording.points)):
        for workload, ms in recording.times_ms(row).items():
            if ms is not None:
                yield Timed(sweep, workload, {**space.default, **recording.config(row)}, 1e3 * ms)


def _trials(recording: Recording, regime: str, space: SearchSpace) -> Iterator[Tried]:
    """A trial that was stopped early has the best one's objective times its ratio on the workloads that it had."""
    ended = [i for i, ms in enumerate(recording.time_ms) if ms is not None]
    best = min(ended, key=lambda i: recording.time_ms[i] or math.inf)
    least = recording.times_ms(best)
    for row, status in enumerate(recording.status):
        ms = recording.time_ms[row]
        found = recording.times_ms(row)
        if status == "raced":
            ratios = [math.log(found[w] / least[w]) for w in found if found[w] and least[w]]  # type: ignore[operator]
            ms = recording.optimum_ms * math.exp(sum(ratios) / len(ratios))
        objective = None if ms is None else math.log(1e3 * ms)
        yield Tried(regime, {**space.default, **recording.config(row)}, STATUS_OF[status], objective)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        plain = path
        if path.suffix == ".gz":
            plain = Path(folder) / "sweep.db"
            with gzip.open(path) as source, plain.open("wb") as target:
                shutil.copyfileobj(source, target)
        with closing(sqlite3.connect(f"file:{plain}?mode=ro", uri=True)) as connection:
            yield connection
