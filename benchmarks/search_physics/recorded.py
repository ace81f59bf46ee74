"""What sweeps of moe_fp8_cute recorded, read from their databases as they are, of any version."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.moe_fp8.reading import DEEPSEEK_INPUTS
from search_spaces.parameters import Config
from search_spaces.prediction.model import WorkloadFeatures
from search_spaces.registry import family
from search_spaces.space import SearchSpace

ROWS = json.loads(Path(__file__).with_name("rows.json").read_text(encoding="utf-8"))
"""Workload -> rows of each local expert. Synthetic routing, computed from the blobs that the sweeps measured on."""

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


def read(databases: Sequence[Path]) -> Recorded:
    """Read databases, gzip-compressed or not."""
    timed: list[Timed] = []
    features: dict[str, WorkloadFeatures] = {}
    tried: dict[str, tuple[Tried, ...]] = {}
    space, hardware = None, ""
    for path in databases:
        name = path.name.split(".")[0]
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
    return Recorded(hardware, space, features, tuple(timed), tried)


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
