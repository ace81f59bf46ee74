"""What a kernel imports is told apart by version or content, so that a changed library has other figures."""

import os
import sys
from importlib import metadata

import pytest

from workers.devices import libraries
from workers.devices.libraries import MISSING, imported_names, library_versions, not_installed


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


def test_a_module_found_elsewhere_counts_by_the_package_that_installed_it(tmp_path, monkeypatch):
    """The CuTe DSL: its package has another name, and a .pth file leads to its modules. Reading all of them takes each
    builder ten seconds of CPU."""
    info = tmp_path / "some_dsl_libs-4.8.1.dist-info"
    inner = tmp_path / "some_dsl" / "packages"
    (inner / "dsl_kernels").mkdir(parents=True)
    (inner / "dsl_kernels" / "__init__.py").write_text("import os\n")
    (inner / "dsl_extra.py").write_text("x = 1\n")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-dsl-libs\nVersion: 4.8.1\n")
    (info / "RECORD").write_text("some_dsl/packages/dsl_kernels/__init__.py,sha256=x,10\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(inner)
    libraries._records.cache_clear()
    found = library_versions(["dsl_kernels", "dsl_extra"])
    libraries._records.cache_clear()
    assert found["dsl_kernels"] == "4.8.1"
    assert found["dsl_extra"].startswith("files:"), "beside a package's modules, but not one of them"


@pytest.mark.parametrize(
    ("dependency", "said"),
    [
        ("numpy", ""),
        ("NumPy >= 1.0 ; python_version >= '3.0'", ""),
        ("no-such-thing>=2; platform_system == 'Plan9'", ""),
        ("numpy@https://example.org/numpy.whl", ""),
        ("numpy(>=1.0)", ""),
        ("json", ""),  # a module is there, whatever brought it
        ("no-such-thing[all]>=2", "no-such-thing[all]>=2 (not installed); pip install 'no-such-thing[all]>=2'"),
        ("no-such_used", "no-such_used (not installed; its sources import it); pip install no-such_used"),
        ("a requirement?", "a requirement? (not installed); pip install 'a requirement?'"),
    ],
)
def test_a_dependency_that_is_missing_is_told_with_what_pip_would_be_asked_for(dependency, said):
    assert not_installed((dependency,), {"main.py": "def run():\n    import no_such_used.part\n"}) == said


def test_a_dependency_of_another_version_is_told_with_the_one_that_is_there():
    told = not_installed(("numpy<1", "torch"), {})
    assert told == f"numpy<1 (installed is {metadata.version('numpy')}); pip install 'numpy<1'"
