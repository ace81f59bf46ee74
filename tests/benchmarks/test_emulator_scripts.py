"""The scripts that compare the emulator with a GPU: they start, and their planted mistakes still have a place."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.packaged_dataset.make import moe_definition
from search_spaces.moe_fp8_cute.space import FAMILY

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "h200_moe"


@pytest.mark.parametrize("script", ["emulator_pack.py", "emulator_dump.py", "emulator_compare.py"])
def test_a_script_starts(script):
    """One of them imported a class by a name that was gone: nothing else imports it."""
    done = subprocess.run([sys.executable, str(FOLDER / script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_mistake_for_a_gpu_is_planted_once(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from emulator_mistakes import MISTAKES

    space = FAMILY.space(moe_definition(), "sm_90a")
    assert len(MISTAKES) >= 8
    for mistake in MISTAKES:
        config = {**space.default, **mistake.config}
        assert space.violation(space.check(config)) is None, mistake.name
        right = space.variant_sources(config)
        wrong = mistake.planted(right)
        changed = [name for name, text in right.items() if wrong[name] != text]
        assert changed == [mistake.file], mistake.name
        ast.parse(wrong[mistake.file])
