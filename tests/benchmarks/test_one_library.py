"""The pool of configs that one library holds refuses what every build refuses."""

from __future__ import annotations

import json
import shutil

import pytest

from benchmarks.packaged_dataset.make import moe_definition
from search_spaces.moe_fp8_cute.space import FAMILY


@pytest.fixture(scope="module")
def one_library(of_h200_moe):
    return of_h200_moe("one_library")


@pytest.fixture
def staged(one_library, tmp_path):
    """The pool's folder, and the default config."""
    space = FAMILY.space(moe_definition(), "sm_90a")
    folder = tmp_path / one_library.PACKAGE
    (folder / "artifacts").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    for path, text in space.variant_sources(space.default).items():
        (folder / path).write_text(text)
    return folder, dict(space.default)


def test_a_plan_that_exceeds_the_hardware_is_refused(one_library, staged):
    """The pool had a build path of its own, which asked neither the plan nor the spills."""
    folder, default = staged
    is_built, line = one_library.compile_one(folder, "large", {**default, "stages_1": 12})
    assert not is_built
    assert line.startswith("large: FAILED")
    assert "Rejected" in line, line
    assert not list((folder / "artifacts").iterdir())


def test_a_spilling_kernel_is_refused(one_library, staged):
    """What a compiler without a GPU would say is written down; the rule is the Solution's own."""
    folder, default = staged
    build = folder / "build.py"
    build.write_text(
        f"{build.read_text()}\n\n"
        "def make(document, out):\n"
        "    name, spilled = symbol(document), 65\n"
        "    figures = {f\"{document['name']}_0\": {'registers': 168, 'spill_bytes': spilled}}\n"
        "    (out / f'{name}.o').write_text('')\n"
        "    (out / f'{name}.json').write_text(json.dumps(figures if document['kind'] == 'gemm' else {}))\n\n\n"
        "def link(objects, library, names):\n"
        "    library.write_text('')\n"
    )
    is_built, line = one_library.compile_one(folder, "spills", default)
    assert not is_built
    assert "spills 65 bytes" in line
    # A part is found by its document, and this one's maker has changed meanwhile.
    shutil.rmtree(folder.parent / one_library.PARTS)
    # Of another length: within a second, bytecode is told from its source by that alone.
    build.write_text(build.read_text().replace("spilled = symbol(document), 65", "spilled = symbol(document), 8 * 8"))
    is_built, line = one_library.compile_one(folder, "fits", default)
    assert is_built, line
    assert json.loads(line.removeprefix("fits: ")) == {
        f"moe_gemm_{i}_0": {"registers": 168, "spill_bytes": 64} for i in (1, 2)
    }


def test_a_table_is_unfolded_over_the_pools_library(one_library, staged, tmp_path):
    folder, default = staged
    one_library.unfold(folder.parent, tmp_path / "made", [(8, default), (None, {**default, "sms": 64})])
    scope: dict = {}
    exec((tmp_path / "made" / "config.py").read_text(), scope)
    assert [bound for bound, _ in scope["TABLE"]] == [8, None]
    assert scope["TABLE"][1][1]["sms"] == 64
    assert (tmp_path / "made" / "artifacts").resolve() == (folder / "artifacts").resolve()
