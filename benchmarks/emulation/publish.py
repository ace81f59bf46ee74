"""Write docs/results/emulation.json from what runs left.

    python -m benchmarks.emulation.publish --judged FILE ... --mistakes JUNIT.xml ...
        [--on-gpu COMPARED.json ...] [--hopper COMPARED.json ...]

FILE is what ``python -m benchmarks.emulation`` wrote. JUnit files come from ``pytest -o junit_family=xunit1
--junitxml=FILE`` of test_mistakes.py. COMPARED.json is from ``emulator_compare.py --out``: of a dump of
``emulator_pack.py --mistakes`` for ``--on-gpu``, of right kernels for ``--hopper``. What is not given keeps
its figures, and so does a set of configs that no FILE has.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parents[2]
OUT = HERE / "docs" / "results" / "emulation.json"
MADE_BY = ("fingerprint", "method", "commit", "compiler", "count", "seed")
"""What made a record. All of a set share it but for the commit: what it says of kernels and emulator, their digests
say, and it also names changes of theirs that change nothing."""
OF_ONE = ("set", "hash", "definition", "status", "passed", *MADE_BY, "sources", "wall_s", "config")
"""What is kept of a config's record, beside its inputs and where it failed."""


def judged(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """One short record for each config of each set; of a config that was judged twice the last one counts.

    Raises:
        ValueError: Two records of a set are of different kernels, or were judged by different emulators.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        for r in json.loads(path.read_text())["variants"]:
            last = r["cases"][-1]
            short = {name: r[name] for name in OF_ONE if name in r} | {"inputs": [c["case"] for c in r["cases"]]}
            failed = {} if r["passed"] else {"kernel": last["kernel"], "message": last["message"]}
            found[r["set"], r["hash"]] = short | failed
    made_by: dict[str, dict[str, Any]] = {}
    for record in found.values():
        mine = {name: record.get(name) for name in MADE_BY if name != "commit"}
        first = made_by.setdefault(record["set"], mine)
        if mine != first:
            raise ValueError(f"set {record['set']}: {record['hash']} was made by {mine}, others by {first}")
    return list(found.values())


def mistakes(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, kernel and what was seen of each planted mistake that was run.

    A later file supersedes an earlier one; within a file a mistake is caught only if each run of it saw it.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        here: dict[str, dict[str, Any]] = {}
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            properties = {p.get("name"): p.get("value") for p in case.iter("property")}
            missed = case.find("failure") is not None or case.find("error") is not None
            if case.find("skipped") is not None or not (missed or properties):
                continue
            name = str(case.get("name")).partition("-")[2].rstrip("]")
            if name in here and not here[name]["caught"]:
                continue
            made_by = {key: properties[key] for key in ("fingerprint", "method") if key in properties}
            seen = {"kernel": properties.get("kernel"), "seen": properties.get("seen")}
            here[name] = {"name": name, **seen, "caught": not missed, **made_by}
        found |= here
    return list(found.values())


def compared(paths: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Variant -> records of emulator_compare.py, of all files; an input that stands in two files counts once."""
    found: dict[str, dict[tuple[str, str, str], dict[str, Any]]] = defaultdict(dict)
    for path in paths:
        for variant, records in json.loads(path.read_text()).items():
            found[variant] |= {(r["case"], r["kernel"], r["tensor"]): r for r in records}
    return {variant: list(records.values()) for variant, records in sorted(found.items())}


def on_gpu(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Planted mistakes that ran on a GPU.

    Each with whether every kernel left there what the emulator made of it (``equal``), how much of the tensors of the
    mistaken kernel differs between the two, what is wrong with the numbers that it left on the GPU (``wrong``, by
    input), and which kernels left something wrong there, in order: both GEMMs share their sources.
    """
    sys.path.insert(0, str(HERE / "benchmarks" / "h200_moe"))
    try:
        from emulator_mistakes import MISTAKES
    finally:
        sys.path.pop(0)
    listed = []
    for variant, records in compared(paths).items():
        mistake = MISTAKES[int(variant.removeprefix("m_"))]
        mine = [r for r in records if r["kernel"] == mistake.kernel]
        wrong = sorted({(r["case"], r["wrong"]) for r in mine if r["wrong"]})
        listed.append(
            {
                "name": mistake.name,
                "kernel": mistake.kernel,
                "inputs": sorted({r["case"] for r in records}),
                "equal": all(r["equal"] for r in records),
                "elements": sum(r["elements"] for r in mine),
                "different": sum(r["different"] for r in mine),
                "wrong": dict(wrong),
                "wrong_kernels": list(dict.fromkeys(r["kernel"] for r in records if r["wrong"])),
            }
        )
    return listed


def hopper(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Variants that ran on a GPU as they are: per tensor, over all inputs, what the emulator made otherwise."""
    listed = []
    for variant, records in compared(paths).items():
        tensors: dict[str, dict[str, Any]] = {}
        for r in records:
            name = f"{r['kernel']}.{r['tensor']}"
            t = tensors.setdefault(name, {"elements": 0, "different": 0, "largest_ulp": 0, "by_atomics": False})
            t |= {key: t[key] + r[key] for key in ("elements", "different")}
            t |= {"largest_ulp": max(t["largest_ulp"], r["largest_ulp"]), "by_atomics": r["by_atomics"]}
            if r["by_atomics"]:
                t["largest_share"] = max(t.get("largest_share", 0.0), r["largest_share"])
        listed.append(
            {
                "variant": variant.removeprefix("e_"),
                "inputs": sorted({r["case"] for r in records}),
                "equal": all(r["equal"] for r in records),
                "wrong": sorted({f"{r['case']}, {r['kernel']}: {r['wrong']}" for r in records if r["wrong"]}),
                "tensors": tensors,
            }
        )
    return listed


def document(
    before: dict[str, Any],
    judged_files: Sequence[Path] = (),
    mistake_files: Sequence[Path] = (),
    gpu_files: Sequence[Path] = (),
    hopper_files: Sequence[Path] = (),
) -> dict[str, Any]:
    """The published document, with the figures of the files that are given in place of those of before."""
    now = dict(before)
    if judged_files:
        given = judged(judged_files)
        others = {c["set"] for c in before.get("configs", ())} - {c["set"] for c in given}
        configs = [c for c in before.get("configs", ()) if c["set"] in others] + given
        now |= {"configs_passed": sum(c["passed"] for c in configs), "configs_run": len(configs), "configs": configs}
    if mistake_files:
        planted = mistakes(mistake_files)
        now |= {"mistakes_planted": len(planted), "mistakes_caught": sum(m["caught"] for m in planted)}
        now["mistakes"] = planted
    if gpu_files:
        ran = on_gpu(gpu_files)
        same = sum(m["equal"] and m["wrong_kernels"][:1] == [m["kernel"]] for m in ran)
        now |= {"mistakes_run_on_gpu": len(ran), "mistakes_equal_on_gpu": same, "mistakes_on_gpu": ran}
    if hopper_files:
        variants = hopper(hopper_files)
        equal = sum(v["equal"] and not v["wrong"] for v in variants)
        now |= {"hopper_configs_equal": equal, "hopper_configs_compared": len(variants), "hopper_configs": variants}
    return dict(sorted(now.items(), key=lambda item: isinstance(item[1], list)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--judged", type=Path, nargs="*", default=[])
    parser.add_argument("--mistakes", type=Path, nargs="*", default=[])
    parser.add_argument("--on-gpu", type=Path, nargs="*", default=[])
    parser.add_argument("--hopper", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    before = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    now = document(before, arguments.judged, arguments.mistakes, arguments.on_gpu, arguments.hopper)
    arguments.out.write_text(json.dumps(now, indent=1) + "\n")
    print({k: v for k, v in now.items() if not isinstance(v, list)})


if __name__ == "__main__":
    main()
