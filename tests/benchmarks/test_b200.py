"""docs/b200.md: its commands exist and take the options that it gives them, and its ladder can be built."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "b200.md").read_text(encoding="utf-8")
LADDER = ROOT / "benchmarks" / "h200_moe" / "b200_ladder.json"


def commands() -> list[str]:
    """Lines of the fenced blocks, joined where they go on; the shell functions are written out."""
    block = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, re.M | re.S))
    lines = [line for line in re.sub(r"\\\n\s*", "", block).splitlines() if line and not line.startswith("#")]
    functions = {m[1]: m[2] for line in lines if (m := re.fullmatch(r"(\w+)\(\) \{ (.*); \}", line))}
    calls = [line for line in lines if not re.match(r"\w+\(\)", line)]
    return [written_out(line, functions) for line in calls]


def written_out(line: str, functions: dict[str, str]) -> str:
    """A call of one of the page's shell functions with its arguments in the place of ``"$@"``."""
    name, _, arguments = line.partition(" ")
    if name not in functions:
        return line
    return written_out(functions[name].replace('"$@"', arguments), functions)


def parsers() -> dict[str, list[str]]:
    """Options that the page gives to each program."""
    found: dict[str, list[str]] = {}
    for line in commands():
        program = re.match(r"python3? (?:-m )?(\S+)|(tuner \w+)|(?:\. )?(\S+\.sh)", line)
        assert program, line
        found.setdefault(program[1] or program[2] or program[3], []).extend(re.findall(r"\s(--[a-z][a-z-]*)", line))
    return found


def test_the_page_has_commands():
    assert {"benchmarks/h200_moe/drive.py", "benchmarks/h200_moe/variants_build.py", "tuner sweep"} <= set(parsers())


@pytest.mark.parametrize("program", sorted(parsers()))
def test_commands_exist_and_know_their_options(program):
    if program.endswith(".sh"):
        assert (ROOT / program).is_file()
        return
    words = [str(ROOT / program)] if program.endswith(".py") else ["-m", *program.split()]
    done = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-500:]
    for option in parsers()[program]:
        assert option in done.stdout, option


@pytest.mark.parametrize("page", ["b200.md", "b200-failures.md"])
def test_named_files_and_names_exist(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name in re.findall(r"`([\w./]+\.(?:py|sh|md))`", text):
        assert list(ROOT.glob(f"**/{Path(name).name}")), name
    solution = ROOT / "search_spaces" / "moe_fp8_cute" / "solution"
    code = "".join(p.read_text(encoding="utf-8") for p in solution.glob("*.py"))
    for name in re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", text):
        assert re.search(rf"\b{name}\b", code) or name in ("same_bits",), name


def test_the_ladder_is_valid_and_has_as_many_rungs_as_the_table():
    from search_spaces.moe_fp8_cute.space_sm100 import DEFAULT, constraints

    sizes = {
        **{"hidden": 7168, "intermediate": 2048, "experts": 256, "local_experts": 32, "top_k": 8},
        **{"routing": "deepseek", "groups": 8, "topk_groups": 4, "power_of_two": False},
    }
    rungs = json.loads(LADDER.read_text())
    assert len(rungs) == len(re.findall(r"^\| \d+ \| [^|]+ \| [^|]+ \|$", TEXT, re.M))
    for rung in rungs:
        assert set(rung) <= set(DEFAULT)
        assert [c.reason for c in constraints(sizes) if not c.holds({**DEFAULT, **rung})] == []
