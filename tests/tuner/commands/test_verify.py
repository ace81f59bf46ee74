"""``tuner verify``: what it refuses, and a verdict from end to end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SMALL = ["--space", "moe_fp8_cute", "--json"]


def tuner(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tuner", "verify", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "moe_fp8_cpu", "--target", "cpu"], "--target is cpu; the emulator knows sm_90a, sm_100a"),
        ([*SMALL, "--target", "sm_90a", "--sweep", "1", "--solution", "x.json"], "exclude each other"),
        ([*SMALL, "--target", "sm_90a", "--solution", "nowhere.json"], "nowhere.json is no Solution of space"),
    ],
)
def test_what_cannot_be_judged_is_one_line_and_exit_code_2(arguments, message):
    done = tuner(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90a", "sm_100a"])
def test_the_default_passes_and_says_that_it_was_emulated(target):
    pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")
    done = tuner(*SMALL, "--target", target)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"]
    assert document["emulated"] is True
    (variant,) = document["variants"]
    assert variant["status"] == "EMULATED_PASSED"
    assert len(variant["cases"]) == 7
    assert not any("_us" in key for key in variant)
