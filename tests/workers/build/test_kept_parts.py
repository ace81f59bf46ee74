"""Parts that variants share: made once, by one process, found by everything that they depend on."""

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from workers.build import kept_parts
from workers.build.artifact_cache import ArtifactCache
from workers.build.kept_parts import KeptParts, origin
from workers.records import Status, Variant

MAIN = "import torch\n\n\ndef run(x, y, out):\n    torch.add(y, x, alpha=2, out=out)\n"
MAKER = """
import uuid

imported = uuid.uuid4().hex

def make(document, folder):
    (folder / "made").write_text(uuid.uuid4().hex)
    (folder / "by").write_text(imported)

def slow(document, folder):
    open(document["at_work"], "w").close()
    open(document["go_on"]).close()
    (folder / "made").write_text("by the other one")

def half(document, folder):
    make(document, folder)
    raise ValueError("in the middle")

def spoils(document, folder):
    assert document == {"shape": [1, 2]}
    document.clear()
    make(document, folder)

def own_source(document, folder):
    (folder / "made").write_text(open(__file__).read())

def never(document, folder):
    raise AssertionError("it is there already")
"""
BUILD = """
from .config import DEPTH
from .maker import make

def build(out_dir, kept):
    parts = {"own": {"depth": DEPTH}, "common": {}}
    found = {name: folder for name, folder in kept(parts, make)}
    return {name: [(folder / file).read_text() for file in ("made", "by")] for name, folder in found.items()}
"""


def variant(depth: int = 1, **sources: str) -> Variant:
    texts = {"main": MAIN, "maker": MAKER, "build": BUILD, "config": f"DEPTH = {depth}\n"} | sources
    return Variant("key", "scale_add_d64", {f"{n}.py": t for n, t in texts.items()}, "main.py::run", "python", "cpu")


def figures_of(bench, *built: Variant) -> list[dict]:
    results = [bench.builder.build(v) for v in built]
    assert [r.status for r in results] == [Status.BUILT] * len(built), [r.log for r in results]
    return [r.figures for r in results]


def test_variants_that_differ_in_config_alone_share_what_their_documents_say(bench):
    first, second, other = figures_of(bench, variant(1), variant(2), variant(1, maker=MAKER + "\n"))
    assert first["common"] == second["common"]
    assert first["own"][0] != second["own"][0]
    assert first["own"][1] == second["own"][1], "made by modules that were imported once"
    made = {text for figures in (first, second) for part in figures.values() for text in part}
    assert made.isdisjoint(text for part in other.values() for text in part), "other sources, other parts"


def test_a_part_that_reads_the_config_is_no_part(bench):
    """The forgotten parameter: the first config's part would serve all others. It says so at the first build."""
    reads = MAKER.replace("import uuid\n", "import uuid\nfrom .config import DEPTH\n", 1)
    late = MAKER.replace("    (folder", "    from .config import DEPTH\n    (folder", 1)
    for maker in (reads, late):
        result = bench.builder.build(variant(maker=maker))
        assert (result.status, ".config'" in result.log) == (Status.COMPILE_ERROR, True), result.log
    inside = BUILD.replace("from .maker import make\n", "def make(document, folder):\n    pass\n")
    result = bench.builder.build(variant(build=inside))
    assert (result.status, ".config'" in result.log) == (Status.COMPILE_ERROR, True), result.log


def test_a_build_that_takes_no_parts_is_called_as_before(bench):
    (figures,) = figures_of(bench, variant(build="def build(out_dir):\n    return {'given': out_dir[:1]}\n"))
    assert figures == {"given": "/"}


@pytest.mark.parametrize(
    "change",
    [
        {"target": "sm_90a"},
        {"definition": "scale_add_d128"},
        {"sources": {**variant().sources, "main.py": MAIN + "#"}},
        {"dependencies": ("triton",)},
        {"language": "triton"},
    ],
)
def test_parts_are_not_found_from_elsewhere(change):
    assert origin(replace(variant(), **change), {}) != origin(variant(), {})


def test_another_compiler_makes_other_parts():
    assert origin(variant(1), {"compiler": "4.8.1"}) != origin(variant(1), {"compiler": "4.8.2"})
    assert origin(variant(1), {"compiler": "4.8.1"}) == origin(variant(2), {"compiler": "4.8.1"})


def parts(root: Path) -> KeptParts:
    return KeptParts(ArtifactCache(root), origin(variant(), {}), variant())


def maker(name: str = "make") -> Callable:
    """A function of the variant's own package, as its build.py has it; its namesake in the copy is called."""

    def function(document, folder) -> None:
        raise AssertionError("this one may have read the config")

    function.__module__, function.__qualname__ = "tuner_variant_0.maker", name
    return function


def token(folder: Path) -> str:
    return (folder / "made").read_text()


def test_what_is_there_comes_first(tmp_path):
    dict(parts(tmp_path)({"b": {"n": 2}}, maker()))
    assert [name for name, _ in parts(tmp_path)({"a": {"n": 1}, "b": {"n": 2}}, maker())] == ["b", "a"]
    assert len(dict(parts(tmp_path)({"a": {"n": 1}, "b": {"n": 2}}, maker("never")))) == 2


def test_the_document_that_is_made_is_the_one_that_is_looked_up(tmp_path):
    """A tuple would be a list at the next look-up, and what ``make`` does to its document is nobody else's."""
    document = {"shape": (1, 2)}
    dict(parts(tmp_path)({"a": document}, maker("spoils")))
    assert document == {"shape": (1, 2)}
    dict(parts(tmp_path)({"a": {"shape": [1, 2]}}, maker("never")))


def test_nothing_is_kept_of_a_part_that_failed(tmp_path):
    with pytest.raises(ValueError, match="in the middle"):
        dict(parts(tmp_path)({"a": {}}, maker("half")))
    assert not list((tmp_path / "staging").iterdir())
    ((_, folder),) = parts(tmp_path)({"a": {}}, maker())
    assert token(folder)


def test_a_maker_that_no_module_has_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"build\.<locals>\.make makes parts"):
        dict(parts(tmp_path)({"a": {}}, maker("build.<locals>.make")))


def test_a_damaged_part_is_made_again(tmp_path):
    ((_, folder),) = parts(tmp_path)({"a": {}}, maker())
    before = token(folder)
    (folder / "made").write_text("something else")
    ((_, folder),) = parts(tmp_path)({"a": {}}, maker())
    assert token(folder) not in (before, "something else")


def _makes(root: Path, document: dict) -> None:
    dict(parts(root)({"slow": document}, maker("slow")))


@pytest.fixture
def other(tmp_path):
    """A builder's process in the midst of a part, the part's document, and what lets it go on."""
    document = {name: str(tmp_path / name) for name in ("at_work", "go_on")}
    for path in document.values():
        os.mkfifo(path)
    process = multiprocessing.get_context("spawn").Process(target=_makes, args=(tmp_path, document))
    process.start()
    open(document["at_work"]).close()  # it is there
    yield process, document, lambda: open(document["go_on"], "w").close()
    process.kill()
    process.join()


def test_a_part_that_somebody_makes_is_left_for_later_and_made_once(tmp_path, other):
    _, document, go_on = other
    found = parts(tmp_path)({"slow": document, "quick": {}}, maker())
    assert next(found)[0] == "quick"
    go_on()
    name, folder = next(found)
    assert (name, token(folder)) == ("slow", "by the other one")


def test_the_turn_of_one_that_was_killed_goes_to_the_next(tmp_path, other):
    process, document, _ = other
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    ((_, folder),) = parts(tmp_path)({"slow": document}, maker())
    assert token(folder) != "by the other one"


def test_one_that_hangs_or_is_stopped_is_not_waited_for_for_long(tmp_path, other, monkeypatch):
    """The builds of another sweep would end at their deadline, and their configs count as too slow to compile."""
    process, document, _ = other
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(kept_parts, "_PATIENCE_S", 0.05)
    ((_, folder),) = parts(tmp_path)({"slow": document}, maker())
    assert token(folder) != "by the other one"


def test_without_locks_parts_are_made(tmp_path):
    """The file is another user's, or cannot be opened for other reasons: that is not the candidate's fault."""
    (tmp_path / "parts.lock").mkdir()
    ((_, folder),) = parts(tmp_path)({"a": {}}, maker())
    assert token(folder)


def test_sources_are_there_as_long_as_parts_are_made(tmp_path, monkeypatch):
    """They were evicted after an hour, and kernels could not be read any more."""
    for name in [n for n in sys.modules if n.startswith(kept_parts.PACKAGE)]:  # other tests', in another cache
        monkeypatch.delitem(sys.modules, name)
    dict(parts(tmp_path)({"a": {}}, maker()))
    shutil.rmtree(tmp_path / "entries" / origin(variant(), {}))
    ((_, folder),) = parts(tmp_path)({"b": {"n": 2}}, maker("own_source"))
    assert token(folder) == MAKER
