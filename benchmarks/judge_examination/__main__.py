"""Run the examination over a flashinfer-trace folder; definition by definition, so that it can be gone on with."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
import traceback
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.judge_examination import made, publish
from benchmarks.judge_examination.reduced import candidates
from search_spaces.dataset import PATH
from workers.errors import DatasetError
from workers.fib.dataset import Dataset, Problem
from workers.records import METHOD_REVISION


def main() -> None:
    """Examine what is not examined yet, then write the page and the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="flashinfer-trace folder; the packaged one is examined too")
    parser.add_argument("--work", type=Path, default=Path("judge-examination"), help="folder for what is done")
    parser.add_argument("--out", type=Path, help="folder for judge.md and judge.json; default: none are written")
    parser.add_argument("--only", default="", help="regular expression for names of definitions")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--part", default="0/1", help="I/N: every Nth definition from the Ith on, for N processes")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    every = [
        (root, dataset, n) for root in (PATH, given.dataset) for dataset in [Dataset(root)] for n in _names(dataset)
    ]
    first, step = map(int, given.part.split("/"))
    for root, dataset, name in every[first::step]:
        done = given.work / f"{name}.{given.device}.json"
        if not re.search(given.only, name) or (done.exists() and json.loads(done.read_text())["found"]):
            continue  # one that failed, as where a package was missing, is tried again
        began = time.monotonic()
        document = _examined(dataset, name, given.device, packaged=root == PATH)
        document["seconds"] = round(time.monotonic() - began, 1)
        done.write_text(json.dumps(document))
        missed = [f["mistake"] for f in document["found"] if f["caught"] == f["mistake"].startswith("none")]
        print(name, len(document["found"]), f"{document['seconds']} s", document.get("why", ""), missed, flush=True)
    if given.out is not None:
        publish.write([json.loads(p.read_text()) for p in sorted(given.work.glob("*.json"))], given.out)


def _names(dataset: Dataset) -> list[str]:
    """Those first of which a CPU can only hold a smaller version."""
    return sorted(dataset.definitions, key=lambda n: (next(candidates(dataset.definition(n), "cpu"))[1] == 1, n))


def _examined(dataset: Dataset, name: str, device: str, packaged: bool) -> dict[str, Any]:
    """What the judge said, with how the definition was reduced and why it could not be judged."""
    from benchmarks.judge_examination.examine import examine

    document: dict[str, Any] = {"definition": name, "op_type": dataset.definitions[name]["op_type"], "on": device}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (smaller, factor) in enumerate(candidates(dataset.definition(name), device)):
            if packaged:
                whole = dataset.problem(name)
                # The smallest ones: what is examined is the judge and not the reference's speed.
                few = sorted(whole.workloads, key=lambda w: sum(w["axes"].values()))[:2]
                problem = Problem(whole.root, whole.definition, tuple(few))
                factor = 1
            else:
                folder = Path(scratch) / str(number)
                made.dataset(folder, smaller)
                problem = Dataset(folder).problem(name)
            try:
                found, unjudgeable = examine(problem, device)
            except DatasetError as error:
                document.setdefault("why", str(error))
                continue
            except Exception:
                traceback.print_exc()
                document.setdefault("failed", []).append(f"factor {factor}: {traceback.format_exc().splitlines()[-1]}")
                continue
            whole_why = "; ".join(unjudgeable)
            return {
                **document,
                "factor": factor,
                "why": whole_why,
                "revision": METHOD_REVISION,
                "date": date.today().isoformat(),
                "found": [f.document() for f in found],
            }
    return {**document, "factor": 0, "revision": METHOD_REVISION, "date": date.today().isoformat(), "found": []}


if __name__ == "__main__":
    main()
