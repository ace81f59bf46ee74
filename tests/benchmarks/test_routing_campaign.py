"""What the next measurement over routings runs: its configs are valid, and a form that fails is not timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from search_spaces.moe_fp8_cute.space import FAMILY
from tests.search_spaces.moe_fp8_cute.test_space import made_up

LAB = Path(__file__).resolve().parents[2] / "benchmarks" / "h200_moe"
CONFIGS, RANGES = (json.loads((LAB / f"routing_{what}.json").read_text()) for what in ("configs", "ranges"))
SIZES = (57, 256, 901, 2048, 4096)
STUB = """
import json, pathlib, sys
script, rest = pathlib.Path(sys.argv[1]), sys.argv[2:]
out = pathlib.Path(rest[rest.index("--out") + 1]) if "--out" in rest else None
if script.name == "one_library.py":
    for name in {names}:
        (pathlib.Path(rest[2]) / name).mkdir(parents=True)
elif script.name == "drive.py":
    only = rest[rest.index("--only") + 1 :]
    only = only[: next((i for i, n in enumerate(only) if n.startswith("--")), len(only))]
    out.mkdir(parents=True)
    bad = {bad!r} if "racecheck" in rest else "nobody"
    lines = [json.dumps({{"variant": n, "status": "SANITIZER_ERROR" if n == bad else "PASSED"}}) for n in only]
    (out / "records.jsonl").write_text("".join(f"{{line}}\\n" for line in lines))
elif script.name == "routing_run.py":
    out.write_text(json.dumps(sorted(p.name for p in pathlib.Path(rest[0]).iterdir())))
else:
    exec(rest[0])
"""


def test_every_config_is_valid_has_a_range_and_is_there_once():
    space = FAMILY.space(made_up(), "sm_90a")
    whole = [space.check({**space.default, **config}) for config in CONFIGS.values()]
    assert [space.violation(config) for config in whole] == [None] * len(whole)
    assert len({space.config_hash(config) for config in whole}) == len(whole)
    assert list(RANGES) == list(CONFIGS)
    for size in SIZES:
        here = [n for n, (low, high) in RANGES.items() if low <= size <= high]
        assert "default" in here
        assert any(n.endswith("_h") for n in here)
        assert any(n.startswith("two_") for n in here)


def test_what_racecheck_does_not_pass_is_not_timed(tmp_path):
    """The scripts that need a GPU are stubs; who is checked, raced and timed is the campaign's own."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB.format(names=list(CONFIGS), bad="two_t64_128_h"))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nexec {sys.executable} {stub} "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "MOE_SITE": str(tmp_path)}
    command = ["bash", str(LAB / "routing_campaign.sh"), "all", str(tmp_path / "out"), "60"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    checked = [json.loads(line)["variant"] for line in (tmp_path / "out/check/records.jsonl").read_text().splitlines()]
    assert set(checked) == {n for n in CONFIGS if n.startswith("two_") or n.endswith("_h")}
    assert set(json.loads((tmp_path / "out/routing.json").read_text())) == set(CONFIGS) - {"two_t64_128_h"}
    assert "two_t64_128_h is left out" in done.stdout
