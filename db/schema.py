"""The tables. The migrations create them; a test checks that the two agree.

``sweep`` 1-n ``trial`` n-1 ``variant`` 1-n ``build``; ``measurement`` belongs to a variant, not to a trial, so that
later sweeps reuse it: ``trial_measurement`` says which trial uses which. ``finalist`` holds the interleaved
measurements from which a sweep chose its ``winner`` rows; they are paired, so they belong to the sweep and are never
reused. ``ticket`` and ``stop_requested_at`` of a sweep are how the HTTP service and the sweep's process communicate.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from db.records import FIGURES, RESOURCES, canonical

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
"""The revisions in ``migrations/versions``, oldest first; this code reads and writes the last one."""

VERSION_TABLE = "tuner_schema"
"""Table with the revision. Not Alembic's default name, which other programs in a shared database may use."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

BigKey = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column declared INTEGER, which has 64 bits there."""


class PlainText(TypeDecorator[str]):
    """Text from candidates' logs: what PostgreSQL cannot store (NUL, lone surrogates) is replaced."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class JsonText(TypeDecorator[Any]):
    """A JSON document as canonical text.

    Not the databases' own JSON types: PostgreSQL's refuses NaN, which candidates' figures may contain.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else canonical(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class ConfigText(JsonText):
    """A config as canonical text; a value that is a tuple, a list in JSON, is one again when it is read."""

    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        found = super().process_result_value(value, dialect)
        return found and {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}


class Samples(TypeDecorator[tuple[float, ...]]):
    """Microseconds as little-endian float32: 4 bytes a sample, exact to 1 part in 16 million."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: tuple[float, ...] | None, dialect: Dialect) -> bytes | None:
        return None if value is None else struct.pack(f"<{len(value)}f", *value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> tuple[float, ...]:
        return struct.unpack(f"<{len(value) // 4}f", value) if value else ()


def _key() -> Column[int]:
    return Column("id", BigKey, primary_key=True)


def _ref(table: str, *, nullable: bool = False) -> Column[int]:
    return Column(f"{table}_id", BigKey, ForeignKey(f"{table}.id"), nullable=nullable)


def _text(name: str) -> Column[str]:
    return Column(name, PlainText, nullable=False)


def _json(name: str) -> Column[Any]:
    return Column(name, JsonText, nullable=False)


def _figure(name: str, *, nullable: bool = True) -> Column[float]:
    return Column(name, Float(53), nullable=nullable)


environment = Table(
    "environment",
    metadata,
    _key(),
    Column("fingerprint", PlainText, nullable=False, unique=True),
    _text("hardware"),
    _text("target"),
    _text("compute_capability"),
    Column("units", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    _text("driver"),
    _json("versions"),
    _json("variables"),
    # Not part of the fingerprint: measured once, and of two machines of one kind the first one's.
    Column("rates", JsonText, nullable=False, server_default="{}"),
)

definition = Table(
    "definition",
    metadata,
    _key(),
    _text("name"),
    _text("op_type"),
    _text("digest"),
    _json("body"),
    # An edited definition is a new row, so that measurements by the old reference are not reused.
    UniqueConstraint("name", "digest"),
)

workload = Table(
    "workload",
    metadata,
    _key(),
    _ref("definition"),
    _text("uuid"),
    _json("axes"),
    _text("dataset"),
    # A digest of the given inputs: with another digest the same uuid is another workload.
    _text("content"),
    # What the inputs look like; "recorded" for those of the dataset.
    Column("profile", PlainText, nullable=False, server_default="recorded"),
    UniqueConstraint("definition_id", "uuid", "content"),
)

search_space = Table(
    "search_space",
    metadata,
    _key(),
    _text("name"),
    _text("target"),
    _text("fingerprint"),
    UniqueConstraint("name", "target", "fingerprint"),
)

sweep = Table(
    "sweep",
    metadata,
    _key(),
    _ref("definition"),
    _ref("search_space"),
    # Not known before the workers are up.
    _ref("environment", nullable=True),
    Column("seed", BigInteger, nullable=False),
    _json("settings"),
    _figure("budget_s"),
    Column("max_trials", Integer),
    _text("host"),
    _text("state"),
    _json("summary"),
    _figure("started_at", nullable=False),
    _figure("finished_at"),
    Column("owner", PlainText),
    _figure("heartbeat_at"),
    Column("ticket", PlainText),
    _figure("stop_requested_at"),
    Index(None, "definition_id", "finished_at"),
    Index(None, "search_space_id", "finished_at"),
    Index(None, "ticket", unique=True),
)

variant = Table(
    "variant",
    metadata,
    _key(),
    _ref("search_space"),
    _text("config_hash"),
    Column("config", ConfigText, nullable=False),
    UniqueConstraint("search_space_id", "config_hash"),
)

build = Table(
    "build",
    metadata,
    _key(),
    _ref("variant"),
    _text("toolchain"),
    _text("status"),
    _figure("build_s", nullable=False),
    Column("artifact", PlainText),
    *(Column(name, Integer if name == "registers" else BigInteger) for name in RESOURCES),
    _json("figures"),
    _text("log"),
    _figure("built_at", nullable=False),
    UniqueConstraint("variant_id", "toolchain"),
)

trial = Table(
    "trial",
    metadata,
    _key(),
    _ref("sweep"),
    Column("number", Integer, nullable=False),
    _ref("variant"),
    _ref("build", nullable=True),
    _text("regime"),
    _text("state"),
    _figure("objective"),
    _text("reason"),
    _text("origin"),
    _figure("started_at", nullable=False),
    _figure("finished_at", nullable=False),
    UniqueConstraint("sweep_id", "number"),
    Index(None, "sweep_id", "regime", "state", "objective"),
)

method = Table(
    "method",
    metadata,
    _key(),
    Column("hash", PlainText, nullable=False, unique=True),
    _json("body"),
)


def _measured() -> list[Column[Any]]:
    return [
        _text("status"),
        Column("samples", Samples),
        *map(_figure, FIGURES),
        _json("conditions"),
        _text("message"),
        _figure("measured_at", nullable=False),
    ]


measurement = Table(
    "measurement",
    metadata,
    _key(),
    _ref("variant"),
    _ref("environment"),
    _ref("method"),
    _ref("workload"),
    *_measured(),
    # In the order of the query for reuse: all workloads of one variant in one environment by one method.
    UniqueConstraint("variant_id", "environment_id", "method_id", "workload_id"),
)

trial_measurement = Table(
    "trial_measurement",
    metadata,
    Column("trial_id", BigKey, ForeignKey("trial.id"), primary_key=True),
    Column("measurement_id", BigKey, ForeignKey("measurement.id"), primary_key=True),
    sqlite_with_rowid=False,
)

finalist = Table(
    "finalist",
    metadata,
    _key(),
    _ref("sweep"),
    _ref("variant"),
    _ref("workload"),
    _ref("environment"),
    _ref("method"),
    *_measured(),
    UniqueConstraint("sweep_id", "variant_id", "workload_id"),
)

winner = Table(
    "winner",
    metadata,
    _key(),
    _ref("sweep"),
    _text("regime"),
    _ref("variant"),
    _figure("median_us", nullable=False),
    _figure("low_us", nullable=False),
    _figure("high_us", nullable=False),
    _figure("default_median_us"),
    _figure("default_low_us"),
    _figure("default_high_us"),
    Column("size_axis", PlainText),
    Column("min_size", BigInteger),
    Column("max_size", BigInteger),
    # "" for the winner over all workloads, else for those of one profile.
    Column("profile", PlainText, nullable=False, server_default=""),
    Column("unfit_sizes", JsonText, nullable=False, server_default="[]"),
    UniqueConstraint("sweep_id", "regime", "profile"),
)

winner_workload = Table(
    "winner_workload",
    metadata,
    Column("winner_id", BigKey, ForeignKey("winner.id", ondelete="CASCADE"), primary_key=True),
    Column("workload_id", BigKey, ForeignKey("workload.id"), primary_key=True),
    _figure("median_us", nullable=False),
    _figure("low_us", nullable=False),
    _figure("high_us", nullable=False),
    _figure("default_median_us"),
    sqlite_with_rowid=False,
)

export = Table(
    "export",
    metadata,
    _key(),
    _ref("sweep"),
    _text("solution"),
    _text("digest"),
    _json("made_from"),
    _json("verification"),
    _text("content"),
    _text("path"),
    _figure("exported_at", nullable=False),
    Index(None, "sweep_id"),
)

api_token = Table(
    "api_token",
    metadata,
    _key(),
    Column("key", PlainText, nullable=False, unique=True),
    _text("secret_hash"),
    _text("name"),
    _text("scopes"),
    _figure("created_at", nullable=False),
    _figure("expires_at"),
    _figure("revoked_at"),
)
