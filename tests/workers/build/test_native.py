"""C++ and CUDA are built for the target that is named, with the headers and libraries of packages, and what lacks is
said."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("flashinfer_bench")

from workers.build import native, resource_usage
from workers.build.builder import VariantBuilder
from workers.errors import CompileError, RejectedError
from workers.records import Status, Variant

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
CUDA = """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
{include}
__global__ void scale_add(const float* x, const float* y, float* out, int n) {{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(__CUDA_ARCH_FEAT_SM100_ALL)
#error "instructions of one architecture alone are not there"
#endif
  if (i < n) out[i] = 2 * x[i] + y[i];
}}

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y, tvm::ffi::TensorView out) {{
  int n = x.size(0) * x.size(1);
  scale_add<<<(n + 255) / 256, 256>>>(
      static_cast<float*>(x.data_ptr()), static_cast<float*>(y.data_ptr()), static_cast<float*>(out.data_ptr()), n);
}}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""


def cuda(include: str = "", target: str = "sm_90a", dependencies: tuple[str, ...] = ()) -> Variant:
    sources = {"main.cu": CUDA.format(include=include)}
    return Variant("cuda", "scale_add_d64", sources, "main.cu::run", "cuda", target, dependencies)


def variant(**more: object) -> Variant:
    return replace(Variant("v", "scale_add_d64", {}, "main.cpp::run", "cpp", "cpu"), **more)


@pytest.mark.parametrize(("target", "architecture"), [("sm_90a", "9.0a"), ("sm_100a", "10.0a"), ("cpu", None)])
def test_builders_are_told_the_targets_architecture(target, architecture, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    monkeypatch.delenv("TVM_FFI_CUDA_ARCH_LIST", raising=False)
    with native.built_for(variant(target=target)):
        assert os.environ.get("TVM_FFI_CUDA_ARCH_LIST") == architecture
        assert os.environ["TORCH_CUDA_ARCH_LIST"] == (architecture or "7.5")
    assert "TVM_FFI_CUDA_ARCH_LIST" not in os.environ
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "7.5"


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """An installed package with a header and a library in a namespace, as NVIDIA's are."""
    inside = tmp_path / "nvidia" / "made"
    (inside / "include" / "deep").mkdir(parents=True)
    (inside / "lib").mkdir()
    (inside / "include" / "made.h").write_text('extern "C" int seven();\n')
    (inside / "include" / "deep" / "more.h").write_text("#define MORE 1\n")
    code = tmp_path / "made.c"
    code.write_text("int seven() { return 7; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", inside / "lib" / "libmade.so.3", code], check=True)
    info = tmp_path / "nvidia_made-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-made\nVersion: 1.0\n")
    files = [str(p.relative_to(tmp_path)) for p in inside.rglob("*") if p.is_file()]
    (info / "RECORD").write_text("".join(f"{f},,\n" for f in files))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return "nvidia-made"


CPP = """
#include <made.h>
#include <deep/more.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y, tvm::ffi::TensorView out) {
  static_cast<float*>(out.data_ptr())[0] = seven();
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
"""


def test_headers_and_libraries_of_a_package_are_found(package, bench, tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path / "fib"))
    given = variant(sources={"main.cpp": CPP}, dependencies=(f"{package}>=1",))
    x = torch.zeros(2, 64)
    native.build(given, bench.problem.definition)(x, x, x)
    assert float(x[0, 0]) == 7.0


def test_a_function_that_no_library_has_is_told_and_does_not_end_the_process(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path / "fib"))
    source = CPP.replace("#include <made.h>\n#include <deep/more.h>", 'extern "C" int cublasSeven();')
    given = variant(sources={"main.cpp": source.replace("seven()", "cublasSeven()")})
    with pytest.raises(CompileError, match="cublasSeven was not found; name nvidia-cublas in 'dependencies'"):
        native.build(given, bench.problem.definition)


def test_what_a_build_lacks_is_named(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path / "fib"))
    source = CPP.replace("<made.h>", "<cublas_v2.h>")
    with pytest.raises(Exception, match=r"cublas_v2\.h was not found; name nvidia-cublas in 'dependencies'"):
        native.build(variant(sources={"main.cpp": source}), bench.problem.definition)
    with pytest.raises(
        Exception, match=r"cublas_v2\.h was not found; install nvidia-cublas on the machines that build"
    ):
        native.build(variant(sources={"main.cpp": source}, dependencies=("nvidia-cublas",)), bench.problem.definition)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("a.cu:3:10: fatal error: my/own.h: No such file or directory", "my/own.h was not found"),
        ("ld: cannot find -lcudnn", "cudnn was not found; name nvidia-cudnn-cu13 in 'dependencies'"),
        ("RuntimeError: Could not find CUDA installation. Please set", "this machine has no CUDA compiler (nvcc)"),
        ("lib.so: undefined symbol: _Z5scalefi", "scale(float, int) was not found"),
        ("error: expected ';'", ""),
    ],
)
def test_a_log_is_read_for_what_is_missing(log, said):
    assert native.lacks(log, ()) == said


SAID = """
Fatbin elf code:
================
arch = sm_90a

Resource usage:
 Common:
  GLOBAL:0
 Function _Z5scalefi:
  REG:40 STACK:16 SHARED:5120 LOCAL:0 CONSTANT[0]:536 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function plain:
  REG:23 STACK:8 SHARED:1024 LOCAL:0 CONSTANT[0]:556 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_100a

Resource usage:
 Common:
  GLOBAL:0
 Function _Z5scalefi:
  REG:48 STACK:64 SHARED:9216 LOCAL:0 CONSTANT[0]:536 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


@pytest.fixture
def built(tmp_path, monkeypatch) -> Path:
    """A folder with a library, on a machine whose cuobjdump says ``SAID`` of it."""
    library = tmp_path / "entry" / "fib" / "tvm_ffi" / "name" / "name.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"")
    tool = tmp_path / "cuobjdump"
    tool.write_text(f"#!/bin/sh\ntest -f $2 && cat <<'END'\n{SAID}\nEND\n")
    tool.chmod(0o755)
    monkeypatch.setenv("TRITON_CUOBJDUMP_PATH", str(tool))
    monkeypatch.setattr(native, "toolkit", lambda: None)
    return tmp_path / "entry"


def test_what_cuda_kernels_need_is_read_from_the_library(built):
    """Without the kibibyte that CUDA keeps for itself in each block."""
    found, remark = native.figures(cuda(), built)
    assert (found["registers"], found["spill_bytes"], found["smem_bytes"], remark) == (40, 24, 4096, "")
    assert [k["name"] for k in found["kernels"]] == ["scale(float, int)", "plain"]
    assert native.figures(variant(), built) == ({}, "")  # C++ for a CPU has none


def test_what_a_library_has_for_another_target_does_not_count(built):
    """It would be the larger of both numbers of registers, and the spills of both together."""
    found, remark = native.figures(cuda(target="sm_100a"), built)
    assert (found["registers"], found["spill_bytes"], found["smem_bytes"], remark) == (48, 64, 8192, "")
    assert [k["name"] for k in found["kernels"]] == ["scale(float, int)"]


def test_a_machine_that_cannot_read_libraries_says_so(built, monkeypatch):
    monkeypatch.setattr(resource_usage, "tool", lambda toolkit=None: None)
    found, remark = native.figures(cuda(), built)
    assert found == {"remark": remark}
    assert "not known, since cuobjdump is not on this machine" in remark


def test_a_kernel_with_too_much_shared_memory_is_rejected(monkeypatch):
    """The assembler refuses it: an answer about the target, as Triton's OutOfResources is, and no mistake in the
    source."""

    def refused(*_):
        raise RuntimeError(
            "ninja: build stopped\nptxas error   : Entry function '_Z5scalefi' uses too much shared data "
            "(0x3a980 bytes, 0x38c00 max)"
        )

    monkeypatch.setattr(native.fib, "build", refused)
    with pytest.raises(
        RejectedError, match=r"scale\(float, int\) declares 240000 bytes .*, 232448 are allowed"
    ) as raised:
        native.build(cuda(), {})
    assert raised.value.figures == {"smem_bytes": 240000}


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            'x\n/tmp/a b/main.cu(12): error: identifier "y" is undefined\nmore',
            'main.cu, line 12: identifier "y" is undefined',
        ),
        ("/tmp/k.cuh(3): catastrophic error: #error directive: two", "k.cuh, line 3: #error directive: two"),
        ("k.cuh(3): error #20: static assertion failed", "k.cuh, line 3: static assertion failed"),
        (
            "/tmp/m.cpp: In function 'f':\n/tmp/m.cpp:10:20: error: 'y' was not declared",
            "m.cpp, line 10: 'y' was not declared",
        ),
        ("ptxas /tmp/x.ptx, line 7; error   : Unexpected instruction", "ptxas: Unexpected instruction"),
        ("ninja: build stopped: subcommand failed.", ""),
    ],
)
def test_a_log_is_read_for_the_first_mistake(log, said):
    assert native.first_error(log) == said


def test_where_c_plus_plus_does_not_compile_is_the_first_line(bench, tmp_path, monkeypatch):
    """It was that ninja exited with status 1."""
    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path / "fib"))
    source = CPP.replace("#include <made.h>\n#include <deep/more.h>", "").replace("seven()", "eight()")
    with pytest.raises(CompileError, match=r"^main\.cpp, line 7: .*eight.* was not declared") as raised:
        native.build(variant(sources={"main.cpp": source}), bench.problem.definition)
    assert "ninja" in str(raised.value)


@pytest.mark.slow
@needs_nvcc
def test_built_cuda_has_figures_and_what_is_too_large_is_rejected(dataset, tmp_path):
    problem = dataset.problem("scale_add_d64")
    builder = VariantBuilder(problem.definition, "sm_90a", str(tmp_path / "cache"), 200.0, preload=("torch",))
    shared = "__shared__ volatile float many[{}];\n  many[threadIdx.x] = n; n = many[n];"
    try:
        for count, status in ((1000, Status.BUILT), (60_000, Status.REJECTED)):
            given = cuda()
            text = given.sources["main.cu"].replace("#if defined", shared.format(count) + "\n#if defined", 1)
            build = builder.build(replace(given, sources={"main.cu": text}))
            assert (build.status, build.figures["smem_bytes"]) == (status, 4 * count), build.log
            assert ("registers" in build.figures) == (status is Status.BUILT)
    finally:
        builder.close()


@pytest.mark.slow
@needs_nvcc
def test_one_source_is_built_for_each_of_several_targets_without_a_gpu(dataset, tmp_path):
    built = {}
    for target in ("sm_90a", "sm_100a"):
        problem = dataset.problem("scale_add_d64")
        builder = VariantBuilder(problem.definition, target, str(tmp_path / "cache"), 200.0, preload=("torch",))
        try:
            build = builder.build(cuda(target=target))
            assert build.status is Status.BUILT, build.log
            library = next((builder._cache.root / "entries" / build.artifact).rglob("*.so"))
            built[target] = architectures(library)
        finally:
            builder.close()
    assert built == {"sm_90a": {"sm_90"}, "sm_100a": {"sm_100"}}


def architectures(library: Path) -> set[str]:
    tool = shutil.which("cuobjdump")
    if tool is None:
        tool = str(Path(pytest.importorskip("triton").__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
    listed = subprocess.run([tool, "--list-elf", library], capture_output=True, text=True, check=True).stdout
    return {line.split(".")[-2].rstrip("a") for line in listed.splitlines() if "sm_" in line}
