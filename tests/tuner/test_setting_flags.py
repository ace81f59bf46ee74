"""A setting is written once: flag, YAML key, key over HTTP and line of the docs come from its field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tuner.cli.app import app
from tuner.cli.options import with_settings
from tuner.setting_flags import arguments, table
from tuner.settings import SweepSettings, load

ROOT = Path(__file__).resolve().parents[2]
FIELDS = SweepSettings.model_fields

ONE_MORE_FIELD = """
import json, pathlib, sys, types
import tuner
module = types.ModuleType("tuner.settings")
source = pathlib.Path(sys.argv[1]).read_text()
before = "    keep_going: bool"
assert before in source
line = "    patience: Annotated[int, Served()] = Field(3, ge=1, description='trials without gain')\\n"
sys.modules["tuner.settings"] = tuner.settings = module
exec(compile(source.replace(before, line + before), sys.argv[1], "exec"), module.__dict__)
import typer
from tuner.cli.app import app
from tuner.service.models import StartSweep
from tuner.setting_flags import arguments, table
fields = module.SweepSettings.model_fields
sweep = typer.main.get_command(app).commands["sweep"]
print(json.dumps({
    "flag": [p.opts for p in sweep.params if p.name == "patience"],
    "yaml": module.load({"patience": 5}).patience,
    "http": StartSweep(definition="gemm", patience=7).given(),
    "started": arguments(fields, {"patience": 7}),
    "docs": "**patience** (`--patience`, default 3, also over HTTP): trials without gain" in table(fields),
}))
"""


def test_a_new_setting_is_one_field():
    """Catches a place where settings are listed once more."""
    words = [sys.executable, "-c", ONE_MORE_FIELD, str(ROOT / "tuner/settings.py")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "flag": [["--patience"]],
        "yaml": 5,
        "http": {"definition": "gemm", "patience": 7},
        "started": ["--patience", "7"],
        "docs": True,
    }


def test_every_setting_has_a_flag_and_a_line_in_the_docs():
    sweep: Any = typer.main.get_command(app).commands["sweep"]  # type: ignore[attr-defined]
    assert set(FIELDS) <= {p.name for p in sweep.params}
    page = (ROOT / "docs/settings.md").read_text()
    assert table(FIELDS) in page, "docs/settings.md: put `python -c` of tuner.setting_flags.table in place of its list"


@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        ("init", "definition", "else none"),  # it takes no definition of the dataset by itself
        ("init", "target", "sm_90a"),
        ("status", "definition", "of any"),
        ("export", "definition", "of any"),
        ("export", "dataset", "the sweep's"),
        ("export", "space", "the sweep's"),
        ("verify", "target", "emulated"),
        ("compile", "seed", "of the sample"),
        ("bench", "seed", "of the order"),
    ],
)
def test_where_a_flag_means_something_else_than_for_a_sweep_its_help_says_so(command, name, said):
    params = {p.name: p for p in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    assert said in params[name].help
    assert params[name].help != FIELDS[name].description


def parsed(words: list[str]) -> SweepSettings:
    """The settings that a command makes of these words."""
    found: list[dict[str, Any]] = []
    only = typer.Typer()
    only.command()(with_settings()(found.append))
    only(words, standalone_mode=False)
    return load(found[0])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"definition": "gemm", "max_trials": "auto", "budget_s": 2.5, "seed": 3, "mode": "eager"},
        {"max_trials": 9, "workloads": ("a", "b"), "reuse": False, "warm_start": False, "keep_going": True},
        {"regimes": (4, 64), "accelerators": ("H200", "B200"), "sizes": (1, 2), "profiles": ("recorded", "hot:3")},
        {"rtol": {"": 0.1, "lse": 0.001}, "judge": {"out": "exact"}},
    ],
)
def test_words_made_from_settings_give_the_same_settings(given):
    assert parsed(arguments(FIELDS, given)) == load(given)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rtol", "lse=1", "--rtol", "lse=2"], "'lse=2' is given twice"),
        (["--judge", "lse="], "'lse=' has no value"),
        (["--regimes", "a,b"], "numbers with commas between"),
        (["--sizes", "some"], "listed, auto, or numbers"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(words, said):
    from tuner.errors import UsageError

    with pytest.raises(UsageError, match=said) as refused:
        parsed(words)
    assert "\n" not in str(refused.value)
