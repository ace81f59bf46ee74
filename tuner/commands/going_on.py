"""The commands that go on where one has ended early, to be copied as they are."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from sqlalchemy.engine import make_url

from tuner.errors import UsageError
from tuner.files import OUT_DEFAULT
from tuner.setting_flags import flag
from tuner.settings import ENVIRONMENT, SweepSettings, default_database_url
from workers.errors import NoPlaceError


def shown(url: str) -> str:
    """A database URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def resume_command(sweep_id: int, settings: SweepSettings, out: Path | None) -> str:
    """The command that goes on with a sweep."""
    where = [] if out == OUT_DEFAULT else ["--no-export"] if out is None else ["--out", str(out)]
    return shlex.join(["tuner", "sweep", "--resume", str(sweep_id), *where, *_place(settings)])


def export_command(sweep_id: int, settings: SweepSettings, out: Path | None) -> str:
    """The command that writes the Solution of a sweep that has winners."""
    return shlex.join(["tuner", "export", str(sweep_id), "--out", str(out or "FOLDER"), *_place(settings)])


def _place(settings: SweepSettings) -> list[str]:
    """The flags of database and cluster, where neither environment nor default names the same: a sweep is found in its
    own database alone."""
    words = []
    for name in ("db", "ray_address"):
        value = getattr(settings, name)
        usual = next((os.environ[v] for v in ENVIRONMENT[name] if os.environ.get(v)), None)
        if usual is None and name == "db":
            usual = _default_database()
        if value is not None and value != usual:
            words += [flag(name, SweepSettings.model_fields[name]), shown(value) if name == "db" else value]
    return words


def _default_database() -> str | None:
    try:
        return default_database_url()
    except (NoPlaceError, UsageError):
        return None
