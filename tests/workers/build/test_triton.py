"""Triton kernels are compiled by builders, for a GPU that is not there, and found where the first call looks."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")

from search_spaces.targets import target_named
from workers.build.builder import VariantBuilder
from workers.build.triton_jit import kernel_cache
from workers.build.triton_jit.dry_run import FOLDER, dry_run, told_apart
from workers.records import Status

HEAD = """
import torch
import triton
import triton.language as tl


@triton.jit
def scale_add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 2 * tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)
"""
GOOD = (
    HEAD
    + """

def run(x, y, out):
    n = x.numel()
    scale_add[(triton.cdiv(n, 256),)](x, y, out, n, BLOCK=256, num_warps=2)
"""
)
HUNGRY = """
import triton
import triton.language as tl


@triton.jit
def multiply(a, b, c, K: tl.constexpr, B: tl.constexpr):
    i, k = tl.arange(0, B), tl.arange(0, 128)
    total = tl.zeros((B, B), dtype=tl.float32)
    for start in range(0, K, 128):
        left = tl.load(a + i[:, None] * K + start + k[None, :])
        right = tl.load(b + i[None, :] * K + start + k[:, None])
        total = tl.dot(left.to(tl.float16), right.to(tl.float16), total)
    tl.store(c + i[:, None] * B + i[None, :], total)


def run(x, y, out):
    multiply[(1,)](x, y, out, 4096, 128, num_stages=8)
"""
AUTOTUNED = (
    HEAD.replace(
        "@triton.jit", "@triton.autotune([triton.Config({'BLOCK': b}) for b in (128, 512)], key=['n'])\n@triton.jit"
    )
    + """

def run(x, y, out):
    scale_add[lambda meta: (triton.cdiv(x.numel(), meta['BLOCK']),)](x, y, out, x.numel())
"""
)
ASKS_THE_GPU = GOOD.replace(
    "    n = x.numel()\n",
    "    assert x.is_cuda and x.device.type == 'cuda'\n"
    "    units = torch.cuda.get_device_properties(x.device).multi_processor_count\n"
    "    scratch = torch.empty(units, device='cuda')\n"
    "    with torch.cuda.device(x.device):\n        torch.cuda.synchronize()\n"
    "    n = x.numel()\n",
)
WRONG_KERNEL = GOOD.replace("2 * tl.load(x + i, i < n)", "2 * undefined_name")
READS_DATA = WRONG_KERNEL.replace("    n = x.numel()\n", "    n = x.numel() + int(x.sum().item() * 0)\n")
STOPS = GOOD.replace("    n = x.numel()\n", "    n = x.numel()\n    torch.ops.no_such.op(x)\n")
TOO_MUCH_LATER = GOOD + "    torch.ops.no_such.op(x)\n"


@pytest.fixture(scope="module")
def builder(dataset, tmp_path_factory):
    problem = dataset.problem("scale_add_d64")
    cache = str(tmp_path_factory.mktemp("triton"))
    built = VariantBuilder(problem.definition, "sm_90a", cache, 120.0, workloads=problem.workloads)
    yield built
    built.close()


@pytest.fixture
def triton_of(make):
    return lambda source, **more: replace(make(source, **more), language="triton", target="sm_90a")


def compiled(builder, artifact) -> set[str]:
    folder = next((builder._cache.root / "entries" / artifact).glob(f"*/artifacts/{FOLDER}"))
    return {path.name for path in folder.glob("*/*.cubin")}


@pytest.mark.parametrize("source", [GOOD, ASKS_THE_GPU], ids=["plain", "asks the GPU"])
def test_kernels_are_compiled_and_their_figures_known_without_a_gpu(builder, triton_of, source):
    build = builder.build(triton_of(source))
    assert build.status is Status.BUILT, build.log
    assert compiled(builder, build.artifact) == {"scale_add.cubin"}, build.log
    assert build.figures["registers"] > 8
    assert build.figures["spill_bytes"] == 0
    assert build.figures["smem_bytes"] == 0
    assert {k["num_warps"] for k in build.figures["kernels"]} == {2}
    assert "host code stopped" not in build.log


def test_each_specialisation_on_the_workloads_sizes_is_compiled(builder, triton_of):
    """3 x 64 is a multiple of 16, and so is 40 x 64; by rows alone they differ."""
    source = GOOD.replace("    n = x.numel()\n", "    n = x.shape[0]\n")
    assert len(builder.build(triton_of(source)).figures["kernels"]) == 1
    source = source.replace("    n = x.shape[0]\n", "    n = x.shape[0] if x.shape[0] > 3 else 16\n")
    assert len(builder.build(triton_of(source)).figures["kernels"]) == 2


def test_what_needs_too_much_shared_memory_is_rejected_before_it_meets_a_gpu(builder, triton_of):
    build = builder.build(triton_of(HUNGRY))
    assert build.status is Status.REJECTED
    assert "shared memory" in build.log
    assert "232448" in build.log
    assert build.figures["smem_bytes"] > 232448


def test_all_configs_of_a_candidates_own_autotuner_are_compiled(builder, triton_of):
    build = builder.build(triton_of(AUTOTUNED))
    assert build.status is Status.BUILT, build.log
    assert len(build.figures["kernels"]) >= 2


def test_a_kernel_that_does_not_compile_is_a_compile_error_unless_data_decided(builder, triton_of):
    """What the host reads here no kernel has computed, so another kernel might be launched on a GPU."""
    build = builder.build(triton_of(WRONG_KERNEL))
    assert build.status is Status.COMPILE_ERROR
    assert "undefined_name" in build.log
    build = builder.build(triton_of(READS_DATA))
    assert build.status is Status.BUILT
    assert "host code stopped without a GPU" in build.log


def test_host_code_that_stops_is_no_fault_and_what_it_launched_before_is_kept(builder, triton_of):
    build = builder.build(triton_of(STOPS))
    assert (build.status, set(build.figures)) == (Status.BUILT, {"remark"})
    assert "no_such" in build.figures["remark"]
    later = builder.build(triton_of(TOO_MUCH_LATER))
    assert later.status is Status.BUILT
    assert later.figures["registers"] > 0


def test_a_build_that_compiled_nothing_says_why(dataset, bench, tmp_path, triton_of):
    """It looked like one whose kernels are known to compile."""
    problem = dataset.problem("scale_add_d64")
    builder = VariantBuilder(problem.definition, "sm_90a", str(tmp_path / "none"), 120.0)
    try:
        built = builder.build(triton_of(GOOD))
    finally:
        builder.close()
    assert (built.status, built.log) == (
        Status.BUILT,
        "no Triton kernel was compiled: there are no workloads; its first call does it",
    )


def test_host_code_that_launches_nothing_is_told(builder, triton_of):
    built = builder.build(triton_of(GOOD.replace("    n = x.numel()", "    if x.numel():\n        return\n    n = 1")))
    assert built.status is Status.BUILT
    assert "no Triton kernel was compiled: its host code launched none for" in built.log


def test_the_process_is_as_before_for_the_next_variant(builder, triton_of, make):
    assert builder.build(triton_of(GOOD + "# once more\n")).status is Status.BUILT
    plain = "import torch\n\nassert not torch.cuda.is_available()\n\n\ndef run(x, y, out):\n    pass\n"
    build = builder.build(replace(make(plain), target="sm_90a"))
    assert build.status is Status.BUILT, build.log


def test_what_a_builder_compiled_is_found_in_another_folder_and_nothing_is_compiled_again(
    builder, triton_of, bench, tmp_path, monkeypatch
):
    """Triton's cache holds absolute paths, and its key the kernel's module, so that a copy is easily not found."""
    from triton import knobs

    from workers.build import loader

    build = builder.build(triton_of(GOOD + "# found\n"))
    entry = builder._cache.get(build.artifact)
    package = entry.folder / loader.package_name(build.artifact)
    private = tmp_path / "private"
    monkeypatch.setenv(kernel_cache.VARIABLE, str(private))
    assert kernel_cache.offer(package)
    moved = Path(shutil.copytree(entry.folder, tmp_path / "elsewhere"))
    shutil.rmtree(moved / package.name / loader.ARTIFACTS)
    hits = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda *, cache_hit, **_: hits.append(cache_hit))
    variant = triton_of(GOOD + "# found\n")
    loaded = []

    def load():
        loaded.append(loader.load(variant, bench.problem.definition, moved, package.name))
        return loaded[0].function

    before = knobs.cache.dir
    try:
        target = target_named("sm_90a")
        dry_run(load, bench.problem.definition, bench.problem.workloads, target, private, 60.0, True)
    finally:
        knobs.cache.dir = before
        loaded[0].unload()
    assert hits
    assert all(hits)


def test_a_launcher_names_the_driver_though_the_builder_has_none(tmp_path, monkeypatch):
    """Where the linker drops what nothing needs, as on Ubuntu, no launcher could be loaded on a GPU's machine."""
    from triton import knobs

    from workers.build.triton_jit.launchers import compile_library

    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nexec gcc -Wl,--as-needed "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    before = knobs.cache.dir
    knobs.cache.dir = str(tmp_path / "cache")
    try:
        compile_library("int cuInit(unsigned);\nint call(void) { return cuInit(0); }\n", "launcher")
    finally:
        knobs.cache.dir = before
    (library,) = (tmp_path / "cache").glob("*/launcher*.so")
    assert b"libcuda.so.1" in library.read_bytes()


def test_sizes_that_triton_tells_apart_are_among_the_few_that_are_compiled():
    workloads = [{"axes": {"n": n}} for n in (1, 7, 14, 16, 57, 901, 1024, 11948)]
    picked = [w["axes"]["n"] for w in told_apart(workloads)]
    assert picked == [1, 7, 16, 11948]
    assert told_apart([]) == []


def test_a_pass_that_fails_is_the_kernels_fault():
    """Triton's passes raise RuntimeError. Catches a kernel that never compiles being called built, and its host code
    being called unfit for machines without a GPU."""
    from workers.build.triton_jit.dry_run import _what_stopped
    from workers.errors import CompileError

    def raised_in(file: str) -> Exception:
        try:
            exec(compile("raise RuntimeError('PassManager::run failed')", file, "exec"))
        except RuntimeError as error:
            return error
        raise AssertionError

    target, empty = target_named("sm_90a"), Path("/nonexistent")
    with pytest.raises(CompileError, match="does not compile for sm_90a: RuntimeError: PassManager"):
        _what_stopped(raised_in("/x/triton/backends/nvidia/compiler.py"), target, empty, data_was_read=False)
    for error, was_read in ((raised_in("/x/kernel.py"), False), (raised_in("/x/triton/backends/amd/driver.py"), True)):
        assert "stopped without a GPU" in _what_stopped(error, target, empty, was_read)
    none = AttributeError("'NoneType' object has no attribute 'shape'")
    assert "which does not look like a missing GPU;" in _what_stopped(none, target, empty, data_was_read=False)
    assert "does not look" not in _what_stopped(none, target, empty, data_was_read=True), "it read what is not there"
