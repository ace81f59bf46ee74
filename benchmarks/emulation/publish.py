"""Write docs/results/emulation.json from what runs left.

    python -m benchmarks.emulation.publish --judged FILE ... --mistakes JUNIT.xml ... [--on-gpu COMPARED.json]

JUnit files come from ``pytest -o junit_family=xunit1 --junitxml=FILE`` of test_mistakes.py, COMPARED.json from
``emulator_compare.py --out`` on a dump of ``emulator_pack.py --mistakes``. What is not given keeps its figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parents[2]
OUT = HERE / "docs" / "results" / "emulation.json"


def judged(paths: list[Path]) -> list[dict[str, Any]]:
    """One short record for each config of each set; the last one counts."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        text = path.read_text()
        lines = json.loads(text)["variants"] if text.startswith("{\n") else [json.loads(x) for x in text.splitlines()]
        for r in lines:
            last = r["cases"][-1]
            short = {"set": r["set"], "hash": r["hash"], "definition": r["definition"], "status": r["status"]}
            short |= {"passed": r["passed"], "inputs": [c["case"] for c in r["cases"]], "config": r["config"]}
            failed = {} if r["passed"] else {"kernel": last["kernel"], "message": last["message"]}
            found[r["set"], r["hash"]] = short | failed
    return list(found.values())


def mistakes(paths: list[Path]) -> list[dict[str, Any]]:
    """Name, kernel and what was seen of each planted mistake that was run."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            properties = {p.get("name"): p.get("value") for p in case.iter("property")}
            failed = case.find("failure") is not None
            if case.find("skipped") is not None or not (failed or properties):
                continue
            name = str(case.get("name")).partition("-")[2].rstrip("]")
            record = {"name": name, "kernel": properties.get("kernel"), "seen": properties.get("seen")}
            if name not in found or not failed:
                found[name] = {**record, "caught": not failed}
    return list(found.values())


def on_gpu(path: Path) -> list[dict[str, Any]]:
    """Planted mistakes that ran on a GPU: whether every kernel left there what the emulator made of it."""
    sys.path.insert(0, str(HERE / "benchmarks" / "h200_moe"))
    from emulator_mistakes import MISTAKES

    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for variant, records in json.loads(path.read_text()).items():
        found[variant] += records
    listed = []
    for variant, records in sorted(found.items()):
        mistake = MISTAKES[int(variant.removeprefix("m_"))]
        mine = [r for r in records if r["kernel"] == mistake.kernel]
        listed.append(
            {
                "name": mistake.name,
                "kernel": mistake.kernel,
                "inputs": sorted({r["case"] for r in records}),
                "equal": all(r["equal"] for r in records),
                "elements": sum(r["elements"] for r in mine),
                "different": sum(r["different"] for r in mine),
            }
        )
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--judged", type=Path, nargs="*", default=[])
    parser.add_argument("--mistakes", type=Path, nargs="*", default=[])
    parser.add_argument("--on-gpu", type=Path)
    arguments = parser.parse_args()
    document = json.loads(OUT.read_text())
    if arguments.judged:
        configs = judged(arguments.judged)
        document |= {"configs_passed": sum(c["passed"] for c in configs), "configs_run": len(configs)}
        document["configs"] = configs
    if arguments.mistakes:
        planted = mistakes(arguments.mistakes)
        document |= {"mistakes_planted": len(planted), "mistakes_caught": sum(m["caught"] for m in planted)}
        document["mistakes"] = planted
    if arguments.on_gpu:
        document["mistakes_on_gpu"] = on_gpu(arguments.on_gpu)
    OUT.write_text(json.dumps(document, indent=1) + "\n")
    print({k: v for k, v in document.items() if not isinstance(v, list)})


if __name__ == "__main__":
    main()
