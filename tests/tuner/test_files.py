"""Whatever is wrong with a JSON file that a user names, every command says it in one line."""

import pytest

from db.store import Store
from tests.tuner import toy
from tuner.commands.bench import run_bench
from tuner.commands.verify import read_solution
from tuner.errors import UsageError
from tuner.files import read_object
from tuner.init.origin import read_origin
from tuner.prediction.explain import explain
from tuner.results.report.side_by_side import read
from tuner.settings import SweepSettings

MODEL = "def predict(config, features, hardware):\n    return {'add': 1.0}\n"


def bench(path):
    data = toy.dataset(path.parent / "d", [{"n": 8}])
    run_bench(SweepSettings(dataset=data, definition="a", target="cpu"), [str(path)], 6)


def explained(path):
    folder = toy.kernel(path.parent / "k", targets=["sm_90a"])
    (folder / "model.py").write_text(MODEL)
    data = toy.dataset(path.parent / "d", [{"n": 8}])
    with Store.open("sqlite://") as store:
        explain(store, SweepSettings(dataset=data, space=str(folder), target="sm_90a"), str(path))


READERS = {
    "bench": bench,
    "explain": explained,
    "init": read_origin,
    "report --bench": lambda path: read(path, "a"),
    "verify --solution": lambda path: read_solution(path, None),
}
FAULTS = {
    "missing": (None, "cannot be read: No such file or directory"),
    "a folder": ("folder", "cannot be read: Is a directory"),
    "another encoding": ('{"name": "größe"}'.encode("latin-1"), "is not UTF-8 text"),
    "no JSON": (b"{", "is not JSON: Expecting property name"),
    "brackets without an end": (b"[" * 100_000, "is not JSON: maximum recursion depth"),
    "a list": (b"[]", "must be a JSON object, not list"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("reader", READERS)
def test_one_line_says_what_is_wrong_with_the_file(reader, fault, tmp_path):
    content, said = FAULTS[fault]
    if (reader, fault) == ("init", "a folder"):  # which may hold a contest's config.toml
        said = "is a folder without config.toml"
    path = tmp_path / "given.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        READERS[reader](path)
    assert f"{path} {said}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_as_editors_save_them_are_read(encoding, tmp_path):
    (tmp_path / "a.json").write_bytes('{"name": "größe"}'.encode(encoding))
    assert read_object(tmp_path / "a.json", "file") == {"name": "größe"}
