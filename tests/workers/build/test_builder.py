"""Builds: what ends in the cache, and every way in which a build fails."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from workers.build.artifact_cache import ArtifactCache
from workers.build.builder import CPU_S, VariantBuilder
from workers.devices.environment import toolchain
from workers.errors import CacheFullError
from workers.records import Status, Variant

GOOD = "import torch\n\n\ndef run(x, y, out):\n    torch.add(y, x, alpha=2, out=out)\n"
BUILD = (
    "import os\n\n\ndef build(out_dir):\n"
    "    open(os.path.join(out_dir, 'kernel.bin'), 'w').write('code')\n"
    "    return {'registers': 64, 'odd': object}\n"
)
REJECTING = (
    "class Rejected(Exception):\n    pass\n\n\ndef build(out_dir):\n"
    "    error = Rejected('spills 512 bytes')\n    error.figures = {'spill_bytes': 512}\n    raise error\n"
)

FAILING = {
    "raises": ({"main.py": "raise ImportError('nothing here')"}, Status.COMPILE_ERROR, "nothing here"),
    "no such function": ({"main.py": "x = 1"}, Status.COMPILE_ERROR, "not callable"),
    "syntax": ({"main.py": "def run(:"}, Status.COMPILE_ERROR, "SyntaxError"),
    "dies": ({"main.py": "import os; os._exit(7)"}, Status.CRASHED, "exit code 7"),
    "segfault": ({"main.py": "import ctypes; ctypes.string_at(0)"}, Status.CRASHED, "signal 11"),
    "build raises": ({"main.py": GOOD, "build.py": "def build(d): return 1 / 0"}, Status.COMPILE_ERROR, "ZeroDivision"),
    "rejected": ({"main.py": GOOD, "build.py": REJECTING}, Status.REJECTED, "spills 512 bytes"),
    "leaves the folder": ({"main.py": GOOD, "../x.py": "x = 1"}, Status.COMPILE_ERROR, "leaves the Solution's folder"),
    "hides open": ({"main.py": GOOD + "import builtins; builtins.open = None"}, Status.COMPILE_ERROR, "TypeError"),
    "c++ error": ({"main.cpp": "int main( {"}, Status.COMPILE_ERROR, "error:"),
}


def variant(sources: dict[str, str], **more) -> Variant:
    language, entry = ("cpp", "main.cpp::run") if "main.cpp" in sources else ("python", "main.py::run")
    return Variant("key", "scale_add_d64", sources, entry, language, "cpu", **more)


@pytest.mark.parametrize("name", FAILING)
def test_failing_build(bench, name):
    sources, status, said = FAILING[name]
    result = bench.builder.build(variant(sources))
    assert (result.status, said in result.log) == (status, True), result.log
    assert result.artifact is None
    assert bench.builder.build(variant({"main.py": GOOD, "marker.py": name})).status is Status.BUILT


def test_what_a_module_replaces_is_whole_for_the_next_build(bench):
    """The next one's import would fail, and be its own COMPILE_ERROR."""
    takes = "import json, numpy, torch\njson.dumps = torch.no_grad = numpy.mean = None\n"
    asks = "import json, numpy, torch\nwith torch.no_grad():\n    json.dumps(float(numpy.mean([1, 3])))\n"
    assert bench.builder.build(variant({"main.py": takes + GOOD})).status is Status.BUILT
    found = bench.builder.build(variant({"main.py": asks + GOOD}))
    assert found.status is Status.BUILT, found.log


def test_hanging_build(hasty):
    result = hasty.builder.build(variant({"main.py": "while True: pass"}))
    assert result.status is Status.TIMEOUT
    assert "'compile' took longer than 3 s" in result.log
    assert hasty.builder.build(variant({"main.py": "def run(x, y, out): ..."})).status is Status.BUILT


def test_a_variant_is_rejected_once(bench, tmp_path):
    tried = tmp_path / "tried"
    sources = {"main.py": GOOD, "build.py": f"open({str(tried)!r}, 'a').write('x')\n{REJECTING}"}
    first, second = (bench.builder.build(variant(sources)) for _ in range(2))
    assert (first.status, first.cached, second.cached) == (Status.REJECTED, False, True)
    assert (second.status, second.artifact, second.log) == (Status.REJECTED, None, first.log)
    assert first.figures == second.figures == {"spill_bytes": 512, CPU_S: first.figures[CPU_S]}
    assert tried.read_text() == "x"


def test_build_file_fills_artifacts_beside_untouched_sources(bench):
    sources = {"main.py": GOOD, "build.py": BUILD, "sub/__init__.py": ""}
    result = bench.builder.build(variant(sources))
    assert result.status is Status.BUILT, result.log
    assert result.figures["registers"] == 64
    folder = ArtifactCache(bench.cache_dir).get(result.artifact).folder
    (package,) = [path for path in folder.iterdir() if path.is_dir()]
    assert {p: (package / p).read_text() for p in sources} == sources
    assert (package / "artifacts" / "kernel.bin").read_text() == "code"


def test_the_record_of_a_build_says_what_cpu_time_it_took_with_what_it_started(bench):
    """Would catch one that counts neither a compiler that is called, nor the builder's own process."""
    burn = "t = __import__('time'); until = t.process_time() + 0.3\nwhile t.process_time() < until: pass\n"
    call = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}], check=True)\n"
    for source in (burn, call):
        build = source + "def build(out_dir): return {}\n"
        result = bench.builder.build(variant({"main.py": GOOD, "build.py": build}))
        assert result.status is Status.BUILT, result.log
        assert 0.3 <= result.figures[CPU_S] < result.build_s + 0.3


def test_second_build_comes_from_the_cache(bench):
    sources = {"main.py": GOOD, "build.py": BUILD + "\n# once\n"}
    first = bench.builder.build(variant(sources))
    second = bench.builder.build(variant(sources))
    assert (first.cached, second.cached) == (False, True)
    assert (second.artifact, second.figures) == (first.artifact, first.figures)


def test_damaged_artifact_is_built_again(bench):
    sources = {"main.py": GOOD, "build.py": BUILD + "\n# damaged\n"}
    first = bench.builder.build(variant(sources))
    folder = ArtifactCache(bench.cache_dir).get(first.artifact).folder
    next(folder.rglob("kernel.bin")).write_text("rot")
    second = bench.builder.build(variant(sources))
    assert (second.status, second.cached) == (Status.BUILT, False)
    assert next(folder.rglob("kernel.bin")).read_text() == "code"


def test_numba_code_is_compiled_by_the_builder_only(bench, tmp_path):
    """The evaluator finds the machine code by the sources' modification times, also after shipping."""
    main = (
        "from numba import njit\nimport torch\n\n\n@njit('void(f4[:,::1], f4[:,::1], f4[:,::1])', cache=True)\n"
        "def kernel(x, y, out):\n    for i in range(x.shape[0]):\n        for j in range(x.shape[1]):\n"
        "            out[i, j] = 2 * x[i, j] + y[i, j]\n\n\nmisses = sum(kernel.stats.cache_misses.values())\n\n\n"
        "def run(x, y, out):\n    if misses: raise RuntimeError(f'{misses} kernels were compiled here')\n"
        "    kernel(x.numpy(), y.numpy(), out.numpy())\n"
    )
    made = variant({"main.py": main})
    built = bench.builder.build(made)
    assert built.status is Status.BUILT, built.log
    evaluation = bench.judge(made)
    assert evaluation.status is Status.PASSED, evaluation.message
    shipped = ArtifactCache(tmp_path / "elsewhere").unpack(built.artifact, bench.builder.pack(built.artifact))
    here = ArtifactCache(bench.cache_dir).get(built.artifact).folder
    times = {p.relative_to(here): os.stat(p).st_mtime for p in here.rglob("main.py")}
    assert {p: os.stat(shipped.folder / p).st_mtime for p in times} == times
    assert list(shipped.folder.rglob("*.nbc"))


def test_cpp_is_built_by_flashinfer_bench_and_loaded_without_a_compiler(bench, cpp):
    result = bench.builder.build(cpp)
    assert result.status is Status.BUILT, result.log
    evaluation = bench.judge(replace(cpp, key="as a regime evaluates it"))
    assert evaluation.status is Status.PASSED, evaluation.message
    library = next(ArtifactCache(bench.cache_dir).get(result.artifact).folder.rglob("*.so"))
    copies = [path for path in bench.cache_dir.rglob("*.so") if result.artifact in path.parts]
    assert len(copies) > 1  # the evaluator's own among them
    assert {(path.name, path.stat().st_mtime_ns) for path in copies} == {(library.name, library.stat().st_mtime_ns)}


@pytest.mark.parametrize(("imports", "starts"), [(("cutlass", "torch"), True), ((), False)])
def test_what_compiles_is_loaded_before_the_first_variant_comes(bench, tmp_path, imports, starts):
    builder = VariantBuilder(bench.problem.definition, "sm_90a", str(tmp_path / "cache"), imports=imports)
    try:
        builder.start()
        assert (builder.processes()["fork_server"] is not None) == starts
    finally:
        builder.close()


def test_the_dsl_is_told_its_target_and_asks_no_driver_for_it(bench, tmp_path):
    """What it does not know when it is imported, its first build asks the GPU's driver, which takes seconds."""
    build = (
        "from cuda.bindings import driver\nfrom cutlass.base_dsl.runtime import cuda\n\n\n"
        "def build(out_dir):\n    from cutlass.cutlass_dsl import CuTeDSL\n    asked = []\n"
        "    cuda.cuda.cuInit = lambda flags: asked.append(flags) or (driver.CUresult.CUDA_SUCCESS,)\n"
        "    return {'arch': CuTeDSL._get_dsl().envar.arch, 'asked': asked}\n"
    )
    pytest.importorskip("cutlass", reason="the CuTe DSL is not installed")
    builder = VariantBuilder(bench.problem.definition, "sm_90a", str(tmp_path / "cache"), 60.0, imports=("cutlass",))
    try:
        made = builder.build(replace(variant({"main.py": GOOD, "build.py": build}), target="sm_90a"))
    finally:
        builder.close()
    assert made.status is Status.BUILT, made.log
    assert made.figures == {"arch": "sm_90a", "asked": [], CPU_S: made.figures[CPU_S]}


def test_actors_of_builders_do_not_import_torch():
    """Fifteen at once took several seconds each for it, before the first build."""
    look = "import sys, workers.cluster.builder_actor; sys.exit('torch' in sys.modules or 'cutlass' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def test_toolchain_is_part_of_the_key():
    made = variant({"main.py": GOOD})
    keys = {ArtifactCache.key(made, {"numba": version}) for version in ("0.61", "0.62")}
    assert len(keys) == 2
    assert Path(keys.pop()).name.isalnum()


def test_what_was_compiled_under_another_name_is_compiled_again(cpp, monkeypatch):
    """Would catch a cache of before whose libraries no evaluator finds: each would compile them, for each regime."""
    now = [ArtifactCache.key(made, {}) for made in (cpp, variant({"main.py": GOOD}))]
    monkeypatch.setattr("workers.build.artifact_cache.LIBRARY", "another_name")
    then = [ArtifactCache.key(made, {}) for made in (cpp, variant({"main.py": GOOD}))]
    assert [a == b for a, b in zip(now, then, strict=True)] == [False, True]


def test_variables_that_compilers_read_are_part_of_the_toolchain(monkeypatch):
    """A kernel with assertions, built while somebody looked for a fault, would be timed by all later sweeps."""
    before = toolchain("sm_90a")
    for name in ("CUTE_DSL_ARCH", "CUTE_DSL_LOG_LEVEL", "TRITON_CACHE_DIR"):  # they change nothing that is built
        monkeypatch.setenv(name, "some")
    assert toolchain("sm_90a") == before
    for name in ("CUTE_DSL_ENABLE_ASSERTIONS", "TRITON_DEBUG", "NVCC_APPEND_FLAGS"):
        monkeypatch.setenv(name, "1")
        assert toolchain("sm_90a") != before, name
        monkeypatch.delenv(name)


def test_full_disk_is_not_the_candidates_fault(bench, make, small_disk):
    builder = VariantBuilder(bench.problem.definition, "cpu", str(small_disk.root / "cache"), 60.0, preload=())
    try:
        small_disk.fill()
        with pytest.raises(CacheFullError, match=r"disk.*Free some and resume"):
            builder.build(make(marker="#" * 100_000))
        small_disk.free()
        assert builder.build(make(marker="#" * 100_000)).status is Status.BUILT
    finally:
        builder.close()
