"""The pool of configs that one library holds refuses what every build refuses."""

from __future__ import annotations

import json

import pytest

from search_spaces.dataset.make import moe_definition
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
    figures = {"moe_gemm_1_0": {"registers": 168, "spill_bytes": 65}}
    build = folder / "build.py"
    build.write_text(
        f"{build.read_text()}\n\n"
        "def compile_config(name, config, out, keep=False):\n"
        "    (out / f'{name}.o').write_text('')\n"
        f"    return {figures!r}\n"
    )
    is_built, line = one_library.compile_one(folder, "spills", default)
    assert not is_built
    assert "spills 65 bytes" in line
    build.write_text(build.read_text().replace("'spill_bytes': 65", "'spill_bytes': 64"))
    is_built, line = one_library.compile_one(folder, "fits", default)
    assert is_built, line
    assert json.loads(line.removeprefix("fits: ")) == {"moe_gemm_1_0": {"registers": 168, "spill_bytes": 64}}
    assert len(list((folder / "artifacts").glob("*.o"))) == 1


def test_a_table_is_unfolded_over_the_pools_library(one_library, staged, tmp_path):
    folder, default = staged
    one_library.unfold(folder.parent, tmp_path / "made", [(8, default), (None, {**default, "sms": 64})])
    scope: dict = {}
    exec((tmp_path / "made" / "config.py").read_text(), scope)
    assert [bound for bound, _ in scope["TABLE"]] == [8, None]
    assert scope["TABLE"][1][1]["sms"] == 64
    assert (tmp_path / "made" / "artifacts").resolve() == (folder / "artifacts").resolve()
