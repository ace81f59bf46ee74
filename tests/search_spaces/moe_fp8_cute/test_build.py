"""Builds on a machine without a GPU: what comes out, what is refused, and that nothing else of this project is
needed.
"""

import importlib
import json
import os
import subprocess
import sys

import pytest

from benchmarks.packaged_dataset.make import MoeSizes
from search_spaces.moe_fp8_cute.space import DEFAULT, FAMILY
from search_spaces.parameters import SpaceError
from tests.search_spaces.moe_fp8 import definitions as moe

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

SMALL = {
    "swap_1": True,
    "tile_t_1": 8,
    "tile_w_1": 128,
    "groups_1": 2,
    "swap_2": True,
    "tile_t_2": 8,
    "tile_w_2": 128,
    "groups_2": 2,
}


def renorm() -> dict:
    """A small definition with renormalised softmax routing."""
    return moe.definition(MoeSizes(2048, 512, 128, 128, 10, renorm=True), moe.renorm)


def stage(folder, table) -> None:
    """Write a Solution's sources as a package."""
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name, text in FAMILY.space(renorm(), "sm_90a").render(table).items():
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One dispatching Solution with swapped operands for few tokens and the default above; built in a process of
    its own.
    """
    root = tmp_path_factory.mktemp("solution")
    stage(root / "variant_ab", [(64, {**DEFAULT, **SMALL}), (None, DEFAULT)])
    code = "import json, variant_ab.build as b; print(json.dumps(b.build('variant_ab/artifacts')))"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return root, json.loads(done.stdout.splitlines()[-1])


def test_figures_tell_registers_spills_and_shared_memory(built):
    _, figures = built
    assert figures["spill_bytes"] == 0
    assert 0 < figures["registers"] <= 255
    assert 100_000 < figures["smem_bytes"] <= 232_448
    gemms = [name for name in figures["kernels"] if "moe_gemm" in name]
    assert len(gemms) == 4
    assert all(figures["kernels"][g]["spill_bytes"] == 0 for g in gemms)


def test_artifact_loads_without_the_compiler_and_checks_its_arguments(built):
    root, _ = built
    code = """
import sys, torch
import variant_ab.main as main
name = main._key(3)
assert name != main._key(65)
function = main._function(name)
assert "cutlass" not in sys.modules
logits = torch.zeros(3, 128, dtype=torch.bfloat16)
try:
    function(logits, None)
except (TypeError, ValueError, RuntimeError) as error:
    print("few", error)
fp8 = torch.float8_e4m3fn
w13, w2 = torch.zeros(128, 1024, 2048).to(fp8), torch.zeros(128, 2048, 512).to(fp8)
good = [logits, None, torch.zeros(3, 2048).to(fp8), torch.zeros(16, 3), w13, torch.zeros(128, 8, 16)]
good += [w2, torch.zeros(128, 16, 4), 0, 1.0, torch.zeros(3, 2048, dtype=torch.bfloat16)]
good += [torch.zeros(1024, dtype=torch.uint8), 64, 64]
for place, wrong in ((0, logits.float()), (2, torch.zeros(3, 1024).to(fp8)), (3, torch.zeros(16, 4))):
    bad = list(good)
    bad[place] = wrong
    try:
        function(*bad)
        print("accepted", place)
    except (TypeError, ValueError, RuntimeError) as error:
        print("refused", place, error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "few" in done.stdout
    assert [f"refused {i}" in done.stdout for i in (0, 2, 3)] == [True] * 3, done.stdout


def test_builds_do_not_look_up_source_lines(tmp_path, monkeypatch):
    """The switch is private to the DSL; where it is gone, builds are right and nearly twice as slow."""
    stage(tmp_path / "variant_lines", [(None, DEFAULT)])
    monkeypatch.syspath_prepend(str(tmp_path))
    objects = importlib.import_module("variant_lines.objects")
    dsl, op = (importlib.import_module(f"cutlass.{name}") for name in ("base_dsl.dsl", "_mlir_helpers.op"))
    switch = dsl._set_enable_frame_filtering
    switch(True)  # as a compilation of somebody else's leaves it
    with objects._without_locations():
        dsl._set_enable_frame_filtering(True)
        assert op._ENABLE_FRAME_FILTERING is False
    assert dsl._set_enable_frame_filtering is switch


def test_a_plan_that_does_not_fit_is_rejected_before_compiling(tmp_path, monkeypatch):
    stage(tmp_path / "variant_big", [(None, DEFAULT)])
    config = tmp_path / "variant_big" / "config.py"
    config.write_text(config.read_text().replace("'stages_1': 5", "'stages_1': 12"))
    monkeypatch.syspath_prepend(str(tmp_path))
    build = importlib.import_module("variant_big.build")
    with pytest.raises(build.Rejected, match="shared memory"):
        build.build(str(tmp_path / "out"))


def test_remarks_of_the_compiler_are_read(tmp_path, monkeypatch):
    stage(tmp_path / "variant_remarks", [(None, DEFAULT)])
    monkeypatch.syspath_prepend(str(tmp_path))
    objects = importlib.import_module("variant_remarks.objects")
    text = (
        "ptxas info    : Compiling entry function ''moe_gemm_1_2'' for ''sm_90a''\n"
        "ptxas         .     8 bytes stack frame, 24 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 168 registers, used 1 barriers\n"
    )
    assert objects.read_remarks(text) == {"moe_gemm_1_2": {"registers": 168, "spill_bytes": 36}}


def test_a_kernel_that_would_wait_for_registers_is_refused(tmp_path, monkeypatch):
    stage(tmp_path / "variant_wait", [(None, {**DEFAULT, **SMALL})])
    monkeypatch.syspath_prepend(str(tmp_path))
    build = importlib.import_module("variant_wait.build")
    many = {"split_rows": 8, "swap_1": True, "swap_2": True, "groups_1": 2, "groups_2": 2}
    plans = dict(build.launches({**DEFAULT, **SMALL, **many}, build.SIZES))
    figures = {
        "kernel_routing_0": {"registers": 40},
        "moe_gemm_1_2": {"registers": 168},
        "moe_gemm_2_3": {"registers": 168},
        "moe_gemm_2_many_4": {"registers": 168},
    }
    build.refuse_hangs(figures, plans)
    for kernel in ("moe_gemm_2_3", "moe_gemm_2_many_4"):
        low = {**figures, kernel: {"registers": 160}}
        with pytest.raises(build.Rejected, match="down: the warpgroups want 64512 registers, a launch brings 61440"):
            build.refuse_hangs(low, plans)


def test_an_invalid_config_never_renders():
    space = FAMILY.space(renorm(), "sm_90a")
    with pytest.raises(SpaceError, match="tile_t_1"):
        space.variant_sources({**DEFAULT, "tile_t_1": 7})


def test_workspace_lies_where_the_compiled_code_wants_it(tmp_path, monkeypatch):
    """torch aligns to 512 bytes on a GPU, to 64 here: the workspace starts at a multiple of 1,024 all the same."""
    torch = pytest.importorskip("torch")
    stage(tmp_path / "solution_of_workspace", [(None, {**DEFAULT, **SMALL})])
    monkeypatch.syspath_prepend(str(tmp_path))
    main = importlib.import_module("solution_of_workspace.main")
    for size in (1, 4096, 100_000, 100_001, 5_000_000):
        made = main._workspace(torch.device("cpu"), size)
        assert made.data_ptr() % 1024 == 0
        assert made.numel() >= size
        assert not made.any()
    assert main._workspace(torch.device("cpu"), 10).data_ptr() == made.data_ptr(), "the largest is used again"
