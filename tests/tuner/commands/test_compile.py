"""``tuner compile``: why a build failed is said without ``--json`` and in a narrow terminal."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "rmsnorm"


def test_a_dependency_that_is_not_installed_is_said_and_does_not_stop_what_does_without(tmp_path):
    space = shutil.copytree(EXAMPLE, tmp_path / "rmsnorm")
    file = space / "space.yaml"
    text = file.read_text()
    assert "\ndependencies: [torch]\n" in text
    wanted = "\ndependencies: [torch, 'no-such-thing>=2', 'numpy>=999']\n"
    file.write_text(text.replace("\ndependencies: [torch]\n", wanted))
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "compile", "--space", str(space), "--target", "cpu", "--sample", "1"],
        env={**os.environ, "COLUMNS": "400", "TUNER_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (note,) = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert note.startswith(
        "note: space 'rmsnorm' has dependencies that this machine lacks: no-such-thing>=2 (not installed), numpy>=999 ("
    )
    assert note.endswith("; pip install 'no-such-thing>=2' 'numpy>=999'")


def test_compile_says_once_why_builds_failed_whatever_the_terminal(tmp_path):
    space = shutil.copytree(EXAMPLE, tmp_path / "rmsnorm")
    main = space / "main.py"
    main.write_text(
        'print("a long log\\n" * 400)\n'
        'raise ImportError("no library of that name here, and a message that is wider than it")\n' + main.read_text()
    )
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "compile", "--space", str(space), "--target", "cpu", "--sample", "2"],
        env={**os.environ, "COLUMNS": "40", "TUNER_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3
    first, *_, count, reason = done.stdout.splitlines()
    assert first == "the default: method=square_mean, rows=0, in_place=False, multiply_in=float32"
    assert count.startswith("0 of 2 built in ")
    assert reason == ("2 COMPILE_ERROR: ImportError: no library of that name here, and a message that is wider than it")
    assert done.stderr.count("no library of that name") == 1, "once, at once"
