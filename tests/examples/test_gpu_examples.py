"""The examples for GPUs, as far as a CPU can tell: what they compute, and that they are built for a GPU without one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from search_spaces.dataset import PATH
from search_spaces.directory import DirectoryFamily
from tests.examples import emulate
from tests.examples.emulate import EXAMPLES
from tuner.sweeps.variants import config_variant
from workers.build.builder import VariantBuilder
from workers.fib.dataset import Dataset
from workers.records import Status

ROOT = Path(__file__).resolve().parents[2]
OWN = EXAMPLES / "dataset"
SOLVES = {
    "triton_rmsnorm": ("rmsnorm_h1024", PATH),
    "triton_gemm": ("gemm_n512_k1024", PATH),
    "triton_mlp": ("swiglu_mlp_h1024_i2048", OWN),
    "triton_attention": ("attention_h16_d128", OWN),
    "cuda_rmsnorm": ("rmsnorm_h1024", PATH),
    "cute_rmsnorm": ("rmsnorm_h1024", PATH),
}
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")


def test_triton_examples_compute_what_their_definitions_say(tmp_path):
    """In Triton's interpreter, at sizes that no block divides. A wrong mask or a wrong group is an error above 1."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.examples.interpret", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    errors = dict(map(json.loads, done.stdout.splitlines()))
    assert set(errors) == {name for name in SOLVES if name.startswith("triton")}
    assert {name: error for name, error in errors.items() if error > 0.02} == {}


@needs_nvcc
@pytest.mark.parametrize(
    "config", [{"lanes": 32, "rows": 4, "width": 2}, {"lanes": 128, "rows": 2, "width": 8}], ids=str
)
def test_the_cuda_example_computes_what_its_definition_says(config, tmp_path):
    """Emulated: the PTX of the kernel with rows in one warp, and in several that meet in shared memory."""
    tvm_ffi = pytest.importorskip("tvm_ffi")
    for name, text in emulate.space("cuda_rmsnorm").variant_sources(config).items():
        (tmp_path / name).write_text(text)
    headers = (tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path())
    subprocess.run(
        ["nvcc", "-ptx", "-arch=sm_90a", "-std=c++17", *(f"-I{h}" for h in headers), "main.cu", "-o", "main.ptx"],
        cwd=tmp_path, check=True, timeout=300,
    )  # fmt: skip
    threads = config["lanes"] * config["rows"]
    ptx = (tmp_path / "main.ptx").read_text()
    out, expected = emulate.rmsnorm(ptx, config["rows"], threads)
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-3)


CUTE = """
import importlib, os, sys
os.environ["CUTE_DSL_ARCH"] = "sm_90a"
import cutlass.cute as cute
build, kernel = (importlib.import_module(f"package.{name}") for name in ("build", "kernel"))
compiled = cute.compile

def show(*given, options):
    print(compiled(*given, options=options + " --keep-ptx").artifacts.PTX)
    sys.exit()

cute.compile = show
build.build(sys.argv[1])
"""
"""Prints the PTX of what ``build.py`` compiles first."""


@pytest.mark.parametrize("config", [{"rows": 4, "width": 8, "weight": "late"}], ids=str)
def test_the_cute_example_computes_what_its_definition_says(config, tmp_path):
    """Emulated. In a process of its own: the DSL's options stay with a process."""
    pytest.importorskip("cutlass")
    (tmp_path / "package").mkdir()
    for name, text in emulate.space("cute_rmsnorm").variant_sources(config).items():
        (tmp_path / "package" / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", CUTE, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ptx = done.stdout[done.stdout.index("//") :]
    out, expected = emulate.rmsnorm(ptx, config["rows"], 32 * config["rows"])
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-3)


def dataset_of(example):
    name, folder = SOLVES[example]
    return name, Dataset(folder)


@pytest.mark.parametrize(
    "example",
    [
        "triton_mlp",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("triton_gemm", "triton_rmsnorm", "triton_attention")),
        pytest.param("cuda_rmsnorm", marks=[pytest.mark.slow, needs_nvcc]),
        pytest.param("cute_rmsnorm", marks=pytest.mark.slow),
    ],
)
def test_default_and_starts_are_built_for_a_gpu_without_one(example, tmp_path):
    for module in {"triton": ["triton"], "cuda": ["tvm_ffi"], "cute": ["cutlass", "tvm_ffi"]}[example.split("_")[0]]:
        pytest.importorskip(module)
    name, dataset = dataset_of(example)
    definition = dataset.definition(name)
    space = DirectoryFamily(EXAMPLES / example).space(definition, "sm_90a")
    configs = [space.default, *(s.config for s in space.starts)]
    builder = VariantBuilder(definition, "sm_90a", str(tmp_path / "cache"), 300, workloads=dataset.workloads(name))
    builder.start()
    try:
        built = [builder.build(config_variant(name, space, config)) for config in configs]
    finally:
        builder.close()
    assert [b.status for b in built] == [Status.BUILT] * len(configs), [b.log for b in built]
    if example.startswith("cute"):
        # Would catch a library whose kernels are looked up in the one of another variant, which was loaded before.
        libraries = list((tmp_path / "cache" / "entries").rglob("rmsnorm.so"))
        said = [subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout for path in libraries]
        assert said
        assert all("SYMBOLIC" in text for text in said)
    if not example.startswith("cuda"):
        assert all(b.figures["registers"] and b.figures["spill_bytes"] <= 64 for b in built)


@pytest.mark.parametrize("example", SOLVES)
def test_an_example_is_a_space_of_its_definition(example, caplog):
    """With no remark on files that are left out, and workloads of several sizes."""
    name, dataset = dataset_of(example)
    family = DirectoryFamily(EXAMPLES / example)
    for target in family.targets:
        space = family.space(dataset.definition(name), target)
        assert sum(1 for _ in space.enumerate(limit=100)) > 5
    assert len(dataset.workloads(name)) >= 4
    assert caplog.messages == []
