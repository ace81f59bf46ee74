"""``tuner compile`` for a GPU that is not there."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")


def test_the_default_for_blackwell_is_built_and_described_without_a_gpu(tmp_path):
    command = [sys.executable, "-m", "tuner", "compile", "--space", "moe_fp8_cute", "--target", "sm_100a"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}
    done = subprocess.run(
        [*command, "--sample", "1", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**clean, "TUNER_CACHE_DIR": str(tmp_path / "cache")},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["target"] == "sm_100a"
    assert len(found["variants"]) == 1
    for variant in found["variants"]:
        assert variant["status"] == "BUILT", variant["log"]
        assert variant["config"]["acc_stages_1"] in (1, 2, 4)
        assert variant["build_s"] > 0
        assert 0 < variant["registers"] <= 255
        assert variant["spill_bytes"] == 0
        assert variant["smem_bytes"] <= 232_448
        assert variant["figures"]["tmem_columns"] in (32, 64, 128, 256, 512)
        assert {"stages", "acc_stages", "kernels"} <= set(variant["figures"])
