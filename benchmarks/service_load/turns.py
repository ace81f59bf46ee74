"""Load in short turns, service and control one after the other, since the machine changes from minute to minute."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SCRIPT = Path(__file__).with_name("lookup.lua")


@dataclass(frozen=True)
class Target:
    """What wrk asks: lookups at ``url``, or always the same ``path``."""

    name: str
    url: str
    path: str = ""


@dataclass(frozen=True)
class Load:
    """How it asks. ``per_s`` 0: as fast as it goes."""

    name: str
    connections: int
    per_s: float = 0.0

    @property
    def pace_ms(self) -> int:
        """The mean pause of a connection before each request."""
        return round(1e3 * self.connections / self.per_s) if self.per_s else 0


SATURATED = Load("saturated", 16)
PACED = Load("paced", 64, 1750)
"""Somewhat more than 1,500 a second: an answer takes time too. Many connections with long pauses, so that it takes a
small part of them, and the rate is nearly the same for a quick server and a slow one."""


def wrk(target: Target, load: Load, token: str, seconds: float) -> dict[str, Any]:
    """The figures of wrk after a number of seconds."""
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds:g}s", "-s", str(SCRIPT), target.url]
    variables = {"TOKEN": token, "ASK": target.path, "PACE_MS": str(load.pace_ms)}
    before = _cpu()
    said = subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True, text=True).stdout
    after = _cpu()
    figures: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    figures["requests_per_s"] = round(figures["requests"] / figures.pop("duration_s"), 1)
    figures["steal_percent"] = round(100 * (after["steal"] - before["steal"]) / (after["all"] - before["all"]), 2)
    return figures


def _cpu() -> dict[str, int]:
    """Ticks of all cores since the start of the machine: in all, and those that the host gave to others."""
    fields = [int(f) for f in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return {"all": sum(fields[:8]), "steal": fields[7]}


def in_turns(targets: Sequence[Target], token: str, *, turns: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Every target under both loads, interleaved: by load and target, all turns and what they come to."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for turn in range(turns):
        first = turn % len(targets)
        for load in (SATURATED, PACED):
            for target in (*targets[first:], *targets[:first]):
                runs = found.setdefault(load.name, {}).setdefault(target.name, [])
                runs.append(wrk(target, load, token, seconds))
    return {
        load: {name: summary(runs) | {"turns": runs} for name, runs in by_target.items()}
        for load, by_target in found.items()
    }


def as_busy(service: Target, service_pid: int, control: str, control_pid: int, token: str) -> Target:
    """The control at this address, made to compute for as long as a request costs the service; warms both up.

    By processor time, which other work on the machine hardly changes.
    """
    wrk(service, SATURATED, token, 2)
    difference_s = _cost_s(service, service_pid, token) - _cost_s(Target("", control, "/0"), control_pid, token)
    return Target("control", control, f"/{max(0, round(1e6 * difference_s))}")


def _cost_s(target: Target, pid: int, token: str) -> float:
    """Processor time of a request in the server's processes."""
    before = _spent_s(pid)
    requests = wrk(target, SATURATED, token, 2)["requests"]
    return (_spent_s(pid) - before) / float(requests)


def _spent_s(pid: int) -> float:
    parent = psutil.Process(pid)
    times = [p.cpu_times() for p in (parent, *parent.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def summary(runs: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Median and extremes over the turns."""
    p99 = [run["p99_ms"] for run in runs]
    rates = [run["requests_per_s"] for run in runs]
    return {
        "requests_per_s": {"median": statistics.median(rates), "min": min(rates), "max": max(rates)},
        "p50_ms": statistics.median(run["p50_ms"] for run in runs),
        "p99_ms": {"median": statistics.median(p99), "min": min(p99), "max": max(p99)},
        "turns_with_p99_below_25_ms": sum(value < 25 for value in p99),
        "errors": sum(run["errors"] for run in runs),
    }
