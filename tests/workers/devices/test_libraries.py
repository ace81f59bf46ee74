"""What a kernel imports is told apart by version or content, so that a changed library has other figures."""

import os
import sys
from importlib import metadata

import pytest

from workers.devices.libraries import MISSING, imported_names, library_versions


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A module of the user's own that imports another one, found as PYTHONPATH finds it."""
    (tmp_path / "mine_a.py").write_text("import mine_b\n")
    (tmp_path / "mine_b").mkdir()
    (tmp_path / "mine_b" / "__init__.py").write_text("from .inner import x\n")
    (tmp_path / "mine_b" / "inner.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_imports_of_all_files_count_but_own_ones_and_pythons():
    sources = {
        "main.py": "import os, numpy as np\nfrom .config import a\nfrom helper import f\ndef run():\n    import late\n",
        "helper.py": "import importlib\nm = importlib.import_module('named.sub')\nn = __import__('other')\n",
        "kernel.cu": "#include <import fake>",
        "broken.py": "import (",
    }
    assert imported_names(sources, ("torch>=2.1", "mylib")) == ("late", "mylib", "named", "numpy", "other", "torch")


def test_installed_package_counts_by_version_and_own_module_by_content(library):
    found = library_versions(["numpy", "yaml", "mine_a", "no_such_module"])
    assert found["numpy"] == metadata.version("numpy")
    assert found["yaml"] == metadata.version("PyYAML"), "a module whose package has another name"
    assert found["no_such_module"] == MISSING
    assert found["mine_a"].startswith("files:")
    assert found["mine_b"].startswith("files:"), "what it imports counts too"


@pytest.mark.parametrize("changed", ["mine_a.py", "mine_b/inner.py"])
def test_change_in_a_library_is_seen_whatever_its_time_and_size(library, changed):
    before = library_versions(["mine_a"])
    file = library / changed
    stat = file.stat()
    file.write_text(file.read_text().replace("mine_b\n", "mine_b \n").replace("x = 1", "x = 2"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = library_versions(["mine_a"])
    assert after != before
    assert library_versions(["mine_a"]) == after


def test_nothing_is_imported(library):
    (library / "mine_a.py").write_text("raise RuntimeError\n")
    library_versions(["mine_a"])
    assert "mine_a" not in sys.modules
