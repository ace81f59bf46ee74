"""The shape of the house: imports go downwards, no file is in a circle, no folder holds more than a dozen loose files.

``python tests/test_structure.py`` prints how many arrows (imports between files or folders of ours) and floors (files
or folders on the longest way down) the packages have; another root may be given.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tuner", "db", "workers", "search_spaces")
"""From the top floor to the ground."""
MOST_LOOSE_FILES = 12
MOST_LINES = 500

Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """File of each module of ours; a Solution's sources stand alone, and import each other by their own names."""
    files = (f for package in PACKAGES for f in (root / package).rglob("*.py") if "solution" not in f.parts)
    return {".".join(f.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports(root: Path) -> Graph:
    """Module -> modules of ours that it imports, also within functions and for types alone."""
    known = modules(root)
    return {name: set(_imported(file, known)) - {name} for name, file in known.items()}


def _imported(file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inside]
        yield from (name for name in names if name in known)


def folders(graph: Graph, package: str, root: Path) -> Graph:
    """The same between the files and folders that lie directly in a package."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2])

    found: Graph = {}
    for module, targets in inside(graph, package).items():
        found.setdefault(room(module), set()).update(room(t) for t in targets)
    return {name: targets - {name} for name, targets in found.items()}


def inside(graph: Graph, package: str) -> Graph:
    """The part of the graph that lies in one package, which itself (its ``__init__``) is left out."""
    names = {m for m in graph if m.startswith(f"{package}.")}
    return {m: graph[m] & names for m in sorted(names)}


def circles(graph: Graph) -> list[list[str]]:
    """A way round for each module from which one leads back to it."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, [*way, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def floors(graph: Graph) -> int:
    """Modules on the longest way down; circles count as one step."""
    known: dict[str, int] = {}

    def height(module: str, way: frozenset[str]) -> int:
        if module not in known:
            below = (height(t, way | {module}) for t in graph[module] if t not in way)
            known[module] = 1 + max(below, default=0)
        return known[module]

    return max(height(m, frozenset()) for m in graph)


def test_no_file_imports_itself_by_way_of_others():
    assert circles(imports(ROOT)) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_imports_itself_by_way_of_others(package):
    """Else nobody can say which of two is built on the other, and to read one is to read both."""
    assert circles(folders(imports(ROOT), package, ROOT)) == []


def test_imports_go_downwards():
    floor = {name: number for number, name in enumerate(PACKAGES)}
    upwards = [
        f"{module} imports {target}"
        for module, targets in imports(ROOT).items()
        for target in targets
        if floor[target.partition(".")[0]] < floor[module.partition(".")[0]]
    ]
    assert upwards == []


def test_the_store_knows_of_the_workers_their_records_alone():
    allowed = {"workers.records"}
    known = imports(ROOT)
    below = {t for m, targets in known.items() if m.startswith("db") for t in targets if not t.startswith("db")}
    assert below == allowed
    assert not [t for name in allowed for t in known[name]], "records are plain values"


def test_only_the_command_line_imports_the_command_line():
    def is_cli(module: str) -> bool:
        return f"{module}.".startswith("tuner.cli.")

    importers = {m for m, targets in imports(ROOT).items() if any(map(is_cli, targets))}
    assert {m for m in importers if not is_cli(m)} == {"tuner.__main__"}


def test_no_folder_holds_more_than_a_dozen_loose_files():
    counts: dict[Path, int] = {}
    for file in modules(ROOT).values():
        if file.name != "__init__.py":
            counts[file.parent] = counts.get(file.parent, 0) + 1
    assert {str(f.relative_to(ROOT)): n for f, n in counts.items() if n > MOST_LOOSE_FILES} == {}


def test_no_name_stands_for_two_classes():
    """Catches a second ``Comparison`` or ``Plan``: one word for one thing."""
    homes: dict[str, list[str]] = {}
    for module, file in modules(ROOT).items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_no_file_is_longer_than_its_reader_can_hold():
    lengths = {
        str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines()) for f in modules(ROOT).values()
    }
    assert {file: lines for file, lines in lengths.items() if lines > MOST_LINES} == {}


def main(root: Path) -> None:
    """Print the picture."""
    graph = imports(root)
    for package in PACKAGES:
        for what, part in (("files", inside(graph, package)), ("rooms", folders(graph, package, root))):
            arrows = sum(map(len, part.values()))
            print(f"{package:14} {len(part):3} {what}  {arrows:3} arrows  {floors(part):2} floors")
    print(f"circles: {circles(graph) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
