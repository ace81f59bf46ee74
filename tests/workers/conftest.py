"""A tiny dataset, and one builder with one evaluator for all tests that judge candidates."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from workers.build.builder import VariantBuilder
from workers.fib.dataset import Dataset, Problem
from workers.judge.evaluator import VariantEvaluator
from workers.records import BuildResult, Deadlines, Evaluation, EvaluationJob, Method, Status, Variant

AXES = {"n": {"type": "var"}, "d": {"type": "const", "value": 64}}
MATRIX = {"shape": ["n", "d"], "dtype": "float32"}
REFERENCES = {
    "scale_add_d64": "import torch\n\n\ndef run(x, y):\n    return 2 * x + y\n",
    "zero_d64": "import torch\n\n\ndef run(x, y):\n    return 0 * x\n",
    "broken_d64": "import torch\n\n\ndef run(x, y):\n    raise ValueError('no such thing')\n",
}
QUICK = Method(warmup_s=0.0, min_samples=3, max_samples=6, budget_s=0.5, cold_cache=False)
PATIENT = Deadlines(compile_s=120.0, check_s=60.0, measure_s=60.0)
HASTY = Deadlines(compile_s=3.0, check_s=3.0, measure_s=3.0)

# Modules here cannot import each other (no packages among tests), so what they share comes as fixtures.
GOOD = "import torch\n\n\ndef run(x, y, out):\n    torch.add(y, x, alpha=2, out=out)\n"


def write_dataset(root: Path) -> Path:
    for name, reference in REFERENCES.items():
        document = {
            "name": name,
            "op_type": "toy",
            "axes": AXES,
            "inputs": {"x": MATRIX, "y": MATRIX},
            "outputs": {"out": MATRIX},
            "reference": reference,
        }
        (root / "definitions" / "toy").mkdir(parents=True, exist_ok=True)
        (root / "definitions" / "toy" / f"{name}.json").write_text(json.dumps(document))
        lines = [
            {
                "definition": name,
                "solution": None,
                "workload": {
                    "uuid": f"{name}-n{n}",
                    "axes": {"n": n},
                    "inputs": {"x": {"type": "random"}, "y": {"type": "random"}},
                },
                "evaluation": None,
            }
            for n in (3, 40)
        ]
        (root / "workloads" / "toy").mkdir(parents=True, exist_ok=True)
        (root / "workloads" / "toy" / f"{name}.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return root


def toy(source: str = GOOD, key: str = "toy", returns: bool = False, **sources: str) -> Variant:
    """A variant of the toy definition; keyword arguments are further files (``build`` is ``build.py``)."""
    files = {"main.py": source, **{f"{name}.py": text for name, text in sources.items()}}
    return Variant(key, "scale_add_d64", files, "main.py::run", "python", "cpu", destination_passing=not returns)


def job(variant: Variant, build: BuildResult, workloads: tuple[str, ...], **more: object) -> EvaluationJob:
    """An evaluation of a built variant with the quick method, as the evaluator of a cluster gets it."""
    assert build.artifact is not None, build.log
    return replace(EvaluationJob(variant.built(build.artifact).to_evaluate(), workloads, QUICK), **more)


@dataclass
class Bench:
    """A builder and an evaluator without Ray."""

    problem: Problem
    builder: VariantBuilder
    evaluator: VariantEvaluator
    cache_dir: Path

    @property
    def workloads(self) -> tuple[str, ...]:
        return tuple(w["uuid"] for w in self.problem.workloads)

    def judge(self, variant: Variant, **more: object) -> Evaluation:
        build = self.builder.build(variant)
        assert build.status is Status.BUILT, build.log
        return self.evaluator.evaluate(job(variant, build, self.workloads, **more))


@pytest.fixture(scope="session")
def make():
    """Variants of the toy definition; see :func:`toy`."""
    return toy


@pytest.fixture(scope="session")
def cpp() -> Variant:
    """The toy definition in C++."""
    source = (
        "#include <tvm/ffi/container/tensor.h>\n#include <tvm/ffi/function.h>\n"
        "void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y, tvm::ffi::TensorView out) {\n"
        "  auto* a = static_cast<float*>(x.data_ptr());\n  auto* b = static_cast<float*>(y.data_ptr());\n"
        "  auto* c = static_cast<float*>(out.data_ptr());\n"
        "  for (int64_t i = 0; i < x.shape()[0] * x.shape()[1]; ++i) c[i] = 2 * a[i] + b[i];\n}\n"
        "TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);\n"
    )
    return Variant("cpp", "scale_add_d64", {"main.cpp": source}, "main.cpp::run", "cpp", "cpu")


@pytest.fixture(scope="session")
def order():
    """Evaluation jobs; see :func:`job`."""
    return job


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(write_dataset(tmp_path_factory.mktemp("dataset")))


def open_bench(dataset: Dataset, cache_dir: Path, deadlines: Deadlines) -> Iterator[Bench]:
    problem = dataset.problem("scale_add_d64")
    builder = VariantBuilder(problem.definition, "cpu", str(cache_dir), deadlines.compile_s, preload=("torch", "numba"))
    evaluator = VariantEvaluator(problem, "cpu", str(cache_dir), deadlines)
    builder.start()
    evaluator.start()
    yield Bench(problem, builder, evaluator, cache_dir)
    builder.close()
    evaluator.close()


@pytest.fixture(scope="session")
def bench(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory):
    """Deadlines that only a hang would meet."""
    yield from open_bench(dataset, tmp_path_factory.mktemp("cache"), PATIENT)


@pytest.fixture(scope="session")
def hasty(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory):
    """For candidates that do hang."""
    yield from open_bench(dataset, tmp_path_factory.mktemp("hasty_cache"), HASTY)


class SmallDisk:
    """A file system of a few MiB that can be filled."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.root / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        (self.root / "filler").unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk is a tmpfs, which only root may mount")
    yield SmallDisk(tmp_path)
    subprocess.run(["umount", "-l", tmp_path], check=True)


def _left_after(limit_s: float, processes) -> list[psutil.Process]:
    """Those that still run after a while; zombies that nobody has waited for do not."""
    deadline = time.monotonic() + limit_s
    alive = list(processes)
    while alive and time.monotonic() < deadline:
        _, alive = psutil.wait_procs(alive, timeout=0.5)
        alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    return alive


@pytest.fixture(scope="session")
def left_after():
    """See :func:`_left_after`."""
    return _left_after
