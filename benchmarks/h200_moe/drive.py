"""Check and time a folder of built variants on this machine's GPU; a variant that hangs or crashes costs only itself.

    python benchmarks/h200_moe/drive.py VARIANTS --out DIR [options]

VARIANTS holds one folder per variant: the Solution's sources with its config.py, and artifacts/ with the compiled code.
DIR gets records.jsonl (everything, one line per variant) and best.json (per public workload the fastest correct
variant).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

START_S = 60.0
"""Deadline of the first line of a worker: imports and the first touch of the device."""
BEST_KEYS = ("seq_len", "rows", "active_experts", "floor_us", "median_us", "config")


SANITIZER_EXIT = 9


def sanitizer_command(tool: str) -> list[str]:
    """compute-sanitizer on the variants' own kernels; torch's are left out, or it would take minutes."""
    filters = [part for name in ("kernel_cutlass", "moe_") for part in ("--kernel-regex", f"kns={name}")]
    return ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(SANITIZER_EXIT), *filters]


class Watched:
    """A worker process and its lines, with a deadline per line."""

    def __init__(self, options: dict, folders: list[Path], sanitizer: str | None = None):
        here = Path(__file__).resolve().parent
        command = [sys.executable, str(here / "worker.py"), json.dumps(options), *map(str, folders)]
        if sanitizer:
            command = sanitizer_command(sanitizer) + command
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def kill(self) -> None:
        """End the worker and, under a sanitizer, the program that it wraps."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def events(self, deadline_s: float) -> Iterator[dict]:
        """Events until the process ends. A silence longer than the deadline ends it: {"event": "hang"}."""
        limit = START_S
        while True:
            try:
                line = self.lines.get(timeout=limit)
            except queue.Empty:
                self.kill()
                yield {"event": "hang", "after_s": limit}
                return
            if line is None:
                yield {"event": "end", "code": self.process.wait()}
                return
            limit = deadline_s
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                print(line, end="", file=sys.stderr)


def judge_all(
    folders: list[Path], options: dict, deadline_s: float, total_s: float, sanitizer: str | None = None
) -> Iterator[dict]:
    """One result per variant, in order. A worker is replaced after a hang or a crash.

    Under a sanitizer each variant has a worker of its own, since errors are known when the process ends.
    """
    begin, left = time.monotonic(), list(folders)
    while left:
        if time.monotonic() - begin > total_s:
            yield from ({"variant": f.name, "status": "NOT_RUN", "message": "out of time"} for f in left)
            return
        watched = Watched(options, left[:1] if sanitizer else left, sanitizer)
        try:
            done = yield from judge_with(watched, left, deadline_s, begin + total_s, sanitizer)
        finally:
            watched.kill()
        left = [f for f in left if f.name not in done]


def judge_with(
    watched: Watched, left: list[Path], deadline_s: float, end_s: float, sanitizer: str | None
) -> Generator[dict, None, list[str]]:
    """Results from one worker; returns the names of the variants that have one."""
    step: dict = {}
    done: list[str] = []
    for event in watched.events(deadline_s):
        kind = event.pop("event")
        if kind == "step":
            step = event
        elif kind == "start":
            print(json.dumps(event), flush=True)
        else:
            result = event if kind == "result" else verdict_on_end(kind, event, step, left, done)
            if kind == "result" and sanitizer and (code := watched.process.wait()):
                result |= {"status": "SANITIZER_ERROR", "message": f"{sanitizer} ended with code {code}"}
            step = {}
            if result is None:
                break
            done.append(result["variant"])
            yield result
            if time.monotonic() > end_s:
                break
    return done


def verdict_on_end(kind: str, event: dict, step: dict, left: list[Path], done: list[str]) -> dict | None:
    """The result of the variant that ended its worker, None if the worker ended between two variants.

    Raises:
        SystemExit: The worker never came to a variant.
    """
    if kind == "hang":
        culprit = step.get("variant") or next((f.name for f in left if f.name not in done), None)
        if culprit is None:
            return None
        return {"variant": culprit, "status": "TIMEOUT", "message": f"silent for {event['after_s']} s", "step": step}
    if step:
        message = f"the process ended with code {event['code']}"
        return {"variant": step["variant"], "status": "CRASHED", "message": message, "step": step}
    if not done:
        raise SystemExit(f"the worker cannot start: exit code {event['code']}")
    return None


def best_per_workload(results: list[dict]) -> dict[str, list[dict]]:
    """Per definition, the fastest correct figure of each workload, with the keys of a published table."""
    best: dict[str, dict[int, dict]] = {}
    for result in results:
        for figures in result.get("times", ()):
            rows = best.setdefault(result["definition"], {})
            tokens = figures["seq_len"]
            if tokens not in rows or figures["median_us"] < rows[tokens]["median_us"]:
                rows[tokens] = figures
    return {name: [{k: rows[tokens][k] for k in BEST_KEYS} for tokens in sorted(rows)] for name, rows in best.items()}


def print_table(results: list[dict]) -> None:
    """One line per variant, then one per workload."""
    for r in results:
        note = r.get("message") or "; ".join(f"{c['case']}: {c['problem']}" for c in r.get("failed", ()))
        frobenius = r.get("worst_frobenius")
        error = f" Frobenius {frobenius:.4f}" if frobenius is not None else ""
        print(f"{r['variant']}: {r['status']} checks={r.get('checks', 0)}{error} same_bits={r.get('same_bits')} {note}")
        for t in r.get("times", ()):
            over = t["median_us"] - t["floor_us"]
            ratio = t["median_us"] / t["floor_us"] if t["floor_us"] else float("nan")
            spread = f"[{t['low_us']:.2f}, {t['high_us']:.2f}]"
            print(f"    T={t['seq_len']:<6} rows={t['rows']:<6} active={t['active_experts']:<4}", end="")
            print(f" {t['median_us']:9.2f} us {spread:>20}  floor {t['floor_us']:8.2f}  x{ratio:5.3f}  +{over:.2f} us")
            for name, us in sorted(t.get("kernels_us", {}).items(), key=lambda item: -item[1]):
                print(f"        {us:9.2f} us  {name[:90]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="names of variants; all by default")
    parser.add_argument("--random-cases", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--largest", type=int, default=4096)
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="time only these token counts")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--profile", action="store_true", help="add mean times per kernel")
    parser.add_argument("--no-public", action="store_true", help="check random cases alone")
    parser.add_argument("--sanitizer", choices=("memcheck", "racecheck", "initcheck", "synccheck"))
    parser.add_argument("--deadline-s", type=float, default=20.0, help="longest silence of a variant")
    parser.add_argument("--total-s", type=float, default=500.0, help="no variant is started after this")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a worker is ended with us
    folders = sorted(p.parent for p in args.variants.glob("*/main.py") if not args.only or p.parent.name in args.only)
    if not folders:
        parser.error(f"{args.variants} holds no folder with a main.py")
    options = {"random_cases": args.random_cases, "seed": args.seed, "largest": args.largest, "time": not args.no_time}
    options |= {"samples": args.samples, "graph": not args.eager, "profile": args.profile}
    options |= {"sizes": args.sizes, "public": not args.no_public}
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    with (args.out / "records.jsonl").open("w") as records:
        for result in judge_all(folders, options, args.deadline_s, args.total_s, args.sanitizer):
            results.append(result)
            records.write(json.dumps(result) + "\n")
            records.flush()
            print_table([result])
            sys.stdout.flush()
    for definition, rows in best_per_workload(results).items():
        (args.out / f"best-{definition}.json").write_text(json.dumps(rows, indent=1))
    passed = sum(r["status"] in ("PASSED", "SKIPPED") for r in results)
    print(f"{passed} of {len(results)} variants passed or were skipped; figures in {args.out}")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
