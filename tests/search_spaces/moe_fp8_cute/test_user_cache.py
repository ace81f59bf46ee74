"""An exported Solution without an artifact builds into the user's cache, once for each compiler."""

from __future__ import annotations

import importlib
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("torch")

from search_spaces.moe_fp8_cute.space import FAMILY


def test_another_version_of_the_compiler_builds_again(tmp_path, monkeypatch, make_definition):
    """Sources alone named the folder: a library of an older compiler, which the newer runtime may refuse, was taken."""
    space = FAMILY.space(make_definition(), "sm_90a")
    folder = tmp_path / "exported_moe"
    folder.mkdir()
    for name, text in {"__init__.py": "", **space.render([(None, space.default)])}.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    built: list[Path] = []

    def build(out: str) -> None:
        built.append(Path(out))
        (Path(out) / "kernels.so").write_text("")

    main = importlib.import_module("exported_moe.main")
    monkeypatch.setitem(sys.modules, "exported_moe.build", types.SimpleNamespace(build=build))
    found = []
    for version in ("4.8", "4.9", "4.8"):
        monkeypatch.setattr(metadata, "version", lambda package, version=version: version)
        found.append(main._cached("kernels.so"))
    assert found[0] == found[2] != found[1]
    assert len(built) == 2
    assert all(path.is_file() for path in found)
