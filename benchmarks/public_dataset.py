"""Makes the dataset that the benchmarks use from flashinfer-bench's public repository.

    python -m benchmarks.public_dataset OUT [--source FOLDER]

OUT becomes a flashinfer-trace folder: all public definitions and workloads, and routing tensors for the MoE. The
public repository leaves the tensors out, so they are **synthetic** (benchmarks/h200_moe/problems.py has the recipe),
the same bytes on every machine. ``--source`` names a folder with ``definitions`` and ``workloads`` that is here
already; without it git fetches one (needs the network, about 2 MB).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.h200_moe.problems import MAIN, Case, routing_logits

REPOSITORY = "https://github.com/flashinfer-ai/flashinfer-bench"
COMMIT = "6569a4d6^"
"""The last commit whose ``flashinfer_trace`` holds them, of 2026-04-25."""
PARTS = ("definitions", "workloads")


def fetched(into: Path, repository: str = REPOSITORY, commit: str = COMMIT) -> Path:
    """The folder ``flashinfer_trace`` of the public repository, and nothing else of it."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(into), *words], check=True)

    subprocess.run(
        ["git", "clone", "--quiet", "--filter=blob:none", "--no-checkout", repository, str(into)], check=True
    )
    git("sparse-checkout", "set", *(f"flashinfer_trace/{part}" for part in PARTS))
    git("checkout", "--quiet", commit)
    return into / "flashinfer_trace"


def copied(source: Path, out: Path) -> None:
    """Copy definitions and workloads; what is in ``out`` already is replaced."""
    for part in PARTS:
        if not (source / part).is_dir():
            raise SystemExit(f"{source} has no folder {part}: a flashinfer-trace folder is needed")
        shutil.copytree(source / part, out / part, dirs_exist_ok=True)


def with_routing(out: Path) -> int:
    """Write the routing tensors that MoE workloads name and that are not there; how many."""
    written = 0
    for listing in sorted((out / "workloads" / "moe").glob("*.jsonl")):
        for line in listing.read_text().splitlines():
            workload = json.loads(line)["workload"]
            path = workload["inputs"].get("routing_logits", {}).get("path")
            if path is None or (out / path).exists():
                continue
            logits, bias = routing_logits(MAIN, Case(workload["axes"]["seq_len"], 0, uuid=workload["uuid"]), "cpu")
            assert bias is not None
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            save_file({"routing_logits": logits, "routing_bias": bias}, out / path)
            written += 1
    return written


def main() -> None:
    """Make the folder and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", type=Path, help="a flashinfer-trace folder that is here already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        copied(args.source or fetched(Path(scratch) / "repository"), args.out)
    print(f"{args.out}: {len(list(args.out.glob('definitions/*/*.json')))} definitions, "
          f"{with_routing(args.out)} routing tensors made")  # fmt: skip


if __name__ == "__main__":
    main()
