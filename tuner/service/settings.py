"""The settings of ``tuner serve``, passed to the server's worker processes in one environment variable."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

VARIABLE = "TUNER_SERVICE_SETTINGS"
"""Environment variable with the settings as JSON, for the server's worker processes. Not for users."""


class ServiceSettings(BaseModel):
    """Everything that decides what the service does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    db: str
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=64, description="server processes")
    dataset: Path | None = Field(default=None, description="flashinfer-trace folder that sweeps take definitions from")
    cache_dir: Path | None = None
    ray_address: str | None = Field(default=None, description="Ray cluster that local sweep processes connect to")
    ray_jobs_url: str | None = Field(default=None, description="Ray Jobs API; sweeps run as jobs there if it is set")
    log_dir: Path = Field(description="where the output of started sweeps goes")
    out: Path = Field(description="flashinfer-trace folder that started sweeps write their Solution into")
    rate_per_s: float = Field(default=100.0, ge=0, description="requests per second of one client, 0 for no limit")
    max_body_bytes: int = Field(default=64 * 1024, ge=1024)
    max_query_bytes: int = Field(default=4096, ge=256)
    max_running_sweeps: int = Field(default=2, ge=0, description="sweeps at once; the next one is refused")
    max_streams: int = Field(default=64, ge=1, description="event streams at once in one server process")
    start_timeout_s: float = Field(default=120.0, gt=0, description="how long a sweep may take to register itself")
    cache_s: float = Field(default=1.0, ge=0, description="how old the records behind a best-config answer may be")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    def publish(self) -> None:
        """Store the settings in the environment of worker processes that are about to start."""
        os.environ[VARIABLE] = self.model_dump_json()


def published() -> ServiceSettings:
    """The settings that :meth:`ServiceSettings.publish` stored."""
    return ServiceSettings.model_validate_json(os.environ[VARIABLE])


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only. Of names, only localhost counts."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
