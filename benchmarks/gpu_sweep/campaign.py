"""Drives stages one after another, GPUs side by side, within a time limit; what is finished is handed over at once.

A plan is text: steps are separated by ``;`` and run one after another, lanes of a step by ``|`` and run side by side,
each on a GPU of its own, and a lane is a list of ``STAGE:SECONDS``. ``setup:60 ; first:200 table:60 | second:200``. A
stage that fails or runs out of time never stops the next one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_sweep.context import ROOT, Context, kill_tree
from benchmarks.gpu_sweep.utilisation import Sampler

_GRACE_S = 10.0
"""A stage knows its limit and plans with it; this much later it is killed."""

_KEEP_BYTES = 12 << 20
"""Files larger than this stay behind: what comes back from the GPU machine is limited to 16 MiB a file."""


@dataclass(frozen=True)
class Call:
    """A stage with its limit."""

    stage: str
    limit_s: float


def parse(plan: str, known: Sequence[str]) -> list[list[list[Call]]]:
    """Steps of lanes of calls.

    Raises:
        ValueError: A part is not ``STAGE:SECONDS``, or the stage is unknown.
    """
    steps = []
    for step in filter(str.strip, plan.split(";")):
        lanes = []
        for lane in filter(str.strip, step.split("|")):
            calls = []
            for part in lane.split():
                stage, colon, seconds = part.partition(":")
                if not colon or not seconds.isdigit() or stage not in known:
                    raise ValueError(f"{part!r} must be STAGE:SECONDS, with one of the stages {', '.join(known)}")
                calls.append(Call(stage, float(seconds)))
            lanes.append(calls)
        steps.append(lanes)
    return steps


@dataclass
class Campaign:
    """One run of a plan.

    Args:
        context: Of all stages; its ``limit_s`` is the whole campaign's.
        flags: Command line by which a stage finds the same context.
        out: Where results go.
    """

    context: Context
    flags: list[str]
    out: Path
    _log: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: float = field(default_factory=time.time)

    def run(self, steps: Sequence[Sequence[Sequence[Call]]]) -> None:
        """Run all; returns when the last stage has ended or the limit is reached."""
        self.context.work.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        if self._earlier.exists():
            self._log += json.loads(self._earlier.read_text())
        with Sampler(self.context.work / "gpu.csv") as sampler:
            for lanes in steps:
                threads = [
                    threading.Thread(target=self._lane, args=(calls, index if len(lanes) > 1 else None, sampler))
                    for index, calls in enumerate(lanes)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        self.hand_over(final=True)

    @property
    def _earlier(self) -> Path:
        """The log of all campaigns in this work folder: a plan may be run in parts."""
        return self.context.work / "stages.json"

    def _lane(self, calls: Sequence[Call], gpu: int | None, sampler: Sampler) -> None:
        for call in calls:
            left = self.context.limit_s - (time.time() - self._began)
            limit = min(call.limit_s, left - _GRACE_S)
            if limit < min(20.0, call.limit_s):
                self._note({"stage": call.stage, "ended": "left out", "why": f"{left:.0f} s are left"})
                continue
            began = time.time()
            ended = self._call(call.stage, limit, gpu)
            entry = {
                "stage": call.stage, "gpu": gpu, "ended": ended, "began": began,
                "wall_s": time.time() - began, "gpu_utilisation": sampler.mean(gpu, began, time.time()),
            }  # fmt: skip
            searched = self.context.result(call.stage).get("records", {}).get("searched")
            if searched:
                entry["gpu_utilisation_in_search"] = sampler.mean(gpu, *searched)
            self._note(entry)

    def _call(self, stage: str, limit_s: float, gpu: int | None) -> str:
        """Run a stage in a process of its own; how it ended."""
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu_sweep",
            "stage",
            stage,
            *self.flags,
            "--limit-s",
            f"{limit_s:.0f}",
        ]
        env = stage_environment(self.context, gpu)
        with (self.context.work / f"stage-{stage}.log").open("w") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            try:
                code = process.wait(limit_s + _GRACE_S)
                return "done" if code == 0 else f"exit {code}"
            except subprocess.TimeoutExpired:
                return "out of time"
            finally:
                kill_tree(process)

    def _note(self, entry: dict[str, Any]) -> None:
        """Add to the log and hand over what there is."""
        with self._lock:
            self._log.append(entry)
            self._earlier.write_text(json.dumps(self._log))
            print(json.dumps(entry), flush=True)
            try:
                self.hand_over()
            except Exception:  # the next stages are worth more than this copy
                traceback.print_exc()

    def hand_over(self, final: bool = False) -> None:
        """Write ``results.json`` (small, everything that is published) and ``records.tar.gz`` (what it rests on)."""
        work = self.context.work
        self.out.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = {
            "target": self.context.target,
            "definition": self.context.definition,
            "sizes": self.context.sizes(),
            "began": self._began,
            "wall_s": time.time() - self._began,
            "stages": self._log,
        }
        for path in sorted((work / "results").glob("*.json")):
            document[path.stem] = json.loads(path.read_text())
        partial = self.out / "results.partial"
        partial.write_text(json.dumps(document, indent=1))
        os.replace(partial, self.out / "results.json")
        archive = self.out / "records.partial"
        kept = [
            *work.glob("*.log"),
            *work.glob("*.db"),
            *work.glob("*.csv"),
            *work.glob("*.replay.json.gz"),
            *work.glob("export-*"),
            *work.glob("stock-*/traces"),
        ]
        with tarfile.open(archive, "w:gz", compresslevel=6 if final else 1) as tar:
            for path in sorted(kept):
                if path.is_dir() or path.stat().st_size < _KEEP_BYTES:
                    tar.add(path, arcname=str(path.relative_to(work)), filter=_small)
        os.replace(archive, self.out / "records.tar.gz")


def _small(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what is large or can be made again (routing tensors)."""
    return None if member.size > _KEEP_BYTES or "/blob/" in f"/{member.name}/" else member


def stage_environment(context: Context, gpu: int | None) -> dict[str, str]:
    """What a stage's process gets: folders of the campaign's own, and one GPU or all."""
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    env["PYTHONUNBUFFERED"] = "1"
    env["TUNER_CACHE_DIR"] = str(context.work / "cache")
    env["FIB_CACHE_PATH"] = str(context.work / "fib")
    env["XDG_CACHE_HOME"] = str(context.work / "xdg")
    if gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = str(gpu)
    return env
