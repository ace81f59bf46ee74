"""What the pages name exists: files, links, commands, flags, modules, tests. And a stranger can follow them."""

from __future__ import annotations

import gzip
import importlib.util
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from tuner.cli.app import app
from tuner.setting_flags import flag
from tuner.settings import SweepSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*/*.md", "examples/**/*.md")
    for page in ROOT.glob(pattern)
)
TOP = r"(?:tuner|workers|db|search_spaces|tests|docs|benchmarks|examples|deploy|\.ci)"
SUFFIXES = r"(?:py|md|sh|yml|yaml|json|csv|png|gz|html)"
MADE_BY_A_COMMAND = {"config.py", "config.h", "results.json", "bench.json", "variant.json", "records.jsonl"}
"""Names of files that a page says are written, or that a user brings."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def code_of(page: str) -> list[str]:
    """Everything in a page that is set as code: inline, in fences, and indented by four."""
    text = text_of(page)
    fences = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    return [*fences, *re.findall(r"`([^`\n]+)`", rest), *re.findall(r"^ {4}(\S.*)$", rest, re.M)]


def lines_of_code(page: str) -> list[str]:
    """Command lines, with continuations joined."""
    return [line.strip() for block in code_of(page) for line in block.replace("\\\n", " ").splitlines()]


@cache
def sources() -> str:
    """The text of everything that can declare a flag or a test."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    names = [n for n in listed if n.endswith((".py", ".sh", "Makefile", ".toml")) and n != "tests/docs/test_pages.py"]
    return "\n".join((ROOT / n).read_text() for n in names if (ROOT / n).exists())


@cache
def basenames() -> frozenset[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return frozenset(Path(n).name for n in listed)


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_under_140_characters(page: str):
    long = [f"{n}: {line[:60]}..." for n, line in enumerate(text_of(page).splitlines(), 1) if len(line) >= 140]
    assert not long


RESULTS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs" / "results").iterdir() if p.suffix != ".md")


@pytest.mark.parametrize("name", [*PAGES, *RESULTS])
def test_no_page_or_result_holds_a_folder_of_the_machine_that_made_it(name: str):
    """Catches raw records with tracebacks, whose files have the paths of the machine they were taken on."""
    raw = (ROOT / name).read_bytes()
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
    assert not re.findall(r"(?<![\w.-])/(?:root|work|home|Users|mnt|opt)/[\w./-]+", text)


@pytest.mark.parametrize("page", PAGES)
def test_no_command_needs_a_folder_outside_the_repository(page: str):
    assert not re.findall(r"\.\./shared\S*", text_of(page))


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str):
    named = set(re.findall(rf"(?<![\w./-]){TOP}/[\w./-]*\w\.{SUFFIXES}\b", text_of(page)))
    missing = {name for name in named if not (ROOT / name).exists()}
    for code in code_of(page):
        for name in re.findall(r"(?<![\w./$*<>-])\w[\w-]*\.py\b", code):
            if name not in basenames() | MADE_BY_A_COMMAND:
                missing.add(name)
        if re.fullmatch(rf"{TOP}/[\w./-]*", code) and not (ROOT / code).exists():
            missing.add(code)
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_repository_resolve(page: str):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def test_every_picture_and_record_in_docs_is_on_a_page():
    pages = "\n".join(map(text_of, PAGES))
    kept = [path for path in (ROOT / "docs").rglob("*") if path.is_file() and path.suffix not in (".md", ".sh", ".py")]
    assert not [str(path.relative_to(ROOT)) for path in kept if path.name not in pages]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_tuner_and_their_flags_exist(page: str):
    wrong = []
    for line in lines_of_code(page):
        for call in re.findall(r"(?:^|[|;&`] *|\$\()(?:\.venv/bin/)?tuner( [^|;&#>)`]*)", line):
            wrong += complaints(call)
    assert not wrong


def complaints(call: str) -> list[str]:
    """What is wrong with the words behind ``tuner``."""
    command: click.Command = typer.main.get_command(app)  # type: ignore[assignment]
    try:
        words = shlex.split(call)
    except ValueError:
        words = call.split()
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if word.startswith("-") or word in ("CMD", "COMMAND", "..."):
            return []
        if word not in command.commands:
            return [f"tuner{call}: no command {word}"]
        command = command.commands[word]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return [
        f"tuner{call}: no flag {w}" for w in (w.partition("=")[0] for w in words) if w[:2] == "--" and w not in known
    ]


@pytest.mark.parametrize("page", PAGES)
def test_flags_that_are_named_alone_exist_somewhere(page: str):
    alone = {m for code in code_of(page) for m in re.findall(r"^(--[a-z][\w-]+)", code)}
    parameters = re.sub(r"_", "-", " ".join(re.findall(r"^    (\w+): ", sources(), re.M)))
    of_settings = {flag(name, field) for name, field in SweepSettings.model_fields.items()}
    known = of_settings | {f"--{word}" for word in parameters.split()}
    assert not {f for f in alone - known if f not in sources()}


@pytest.mark.parametrize("page", PAGES)
def test_modules_and_make_targets_exist(page: str):
    missing = []
    for line in lines_of_code(page):
        missing += [m for m in re.findall(r"python3? -m ([\w.]+)", line) if importlib.util.find_spec(m) is None]
        targets = set(re.findall(r"^(\w+):", text_of("Makefile"), re.M))
        missing += [m for m in re.findall(r"^make (\w+)\b", line) if m not in targets]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named_exist(page: str):
    named = {name for code in code_of(page) for name in re.findall(r"\b(test_\w+)\b(?!\.py|/)", code)}
    assert not {name for name in named if f"def {name}(" not in sources() and f"{name}.py" not in basenames()}
