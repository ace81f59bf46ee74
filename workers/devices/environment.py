"""The environment: hardware and software that a measurement was taken on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from search_spaces.targets import is_cuda, target_of_capability
from workers.devices.libraries import library_versions
from workers.errors import WorkerError
from workers.records import Environment

_PACKAGES = ("torch", "numba", "llvmlite", "triton", "nvidia-cutlass-dsl", "apache-tvm-ffi", "flashinfer-bench")

_VARIABLES = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|NUMEXPR|CUBLAS|CUBLASLT)_.*|NUMBA_NUM_THREADS|NUMBA_THREADING_LAYER"
    r"|ATEN_CPU_CAPABILITY|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|PYTORCH_(CUDA_|NO_CUDA_)?ALLOC_CONF"
    r"|CUDA_LAUNCH_BLOCKING|CUDA_DEVICE_MAX_CONNECTIONS"
)
"""Environment variables that decide how fast, or how exactly, libraries compute."""

_COMPILERS_VARIABLES = re.compile(
    r"CUTE_DSL_(?!ARCH$|LOG_|DUMP_DIR$|CACHE_DIR$).*|TRITON_(?!CACHE_DIR$|DUMP_DIR$|OVERRIDE_DIR$|HOME$).*"
    r"|(PTXAS|NVCC_(APPEND|PREPEND)_FLAGS|NVCC|CC|CXX|CFLAGS|CXXFLAGS|CPPFLAGS|LDFLAGS)"
)
"""Environment variables that decide what compilers make, such as assertions; builders set the target themselves."""

_CORES_PER_SM = 128
"""FP32 lanes of an SM, on compute capability 9.0 and 10.0."""


def versions() -> dict[str, str]:
    """Versions of Python and of installed packages that results depend on. Imports none of them."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def variables() -> dict[str, str]:
    """The environment variables of this process that decide how fast libraries compute."""
    return {name: value for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name)}


def toolchain(target: str, imports: Sequence[str] = ()) -> dict[str, str]:
    """What a build depends on besides its sources: versions, and variables that compilers read; on the CPU also the
    processor, for which code is generated.

    Args:
        target: Target of the build.
        imports: What its sources import, see :mod:`workers.devices.libraries`.
    """
    found = library_versions(imports) | versions()
    if not is_cuda(target):
        found["cpu"] = cpu_model()
    return found | {name: value for name, value in os.environ.items() if _COMPILERS_VARIABLES.fullmatch(name)}


def cpu_model() -> str:
    """The processor's marketing name, else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Main memory that this process may use: the machine's, or the control group's limit if that is lower."""
    total = int(psutil.virtual_memory().total)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text().strip()))
    return total


def cores() -> int:
    """Logical cores that this process may use: those it may run on, or the control group's quota if that is lower."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, math.ceil(quota))) if (quota := cpu_quota()) is not None else allowed


def threads(given: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep thread pools of libraries within the quota: they count the CPUs that they see.

    Args:
        given: Variables that are set, which win.
    """
    if cores() == len(os.sched_getaffinity(0)):
        return {}
    return {name: str(cores()) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS") if name not in given}


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs' worth of time that the control groups of this process allow, None for no limit.

    The limit of a group holds for those below it; in a container the own group is often the root of what is visible.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (``cpu.max``) and scheduler/sched-bwc.rst (``cfs_quota_us``).
    """
    names = {""}
    with contextlib.suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            path = Path(line.split(":", 2)[-1].strip("/"))
            names |= {"" if str(p) == "." else str(p) for p in (path, *path.parents)}
    limits = []
    for folder in (root / part / name for part in ("", "cpu", "cpu,cpuacct") for name in names):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            limits.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError):
            quota, period = ((folder / f"cpu.cfs_{n}_us").read_text(encoding="utf-8") for n in ("quota", "period"))
            limits.append(int(quota) / int(period))
    return min((limit for limit in limits if limit > 0), default=None)


def describe(target: str, imports: Sequence[str] = (), given: Mapping[str, str] | None = None) -> Environment:
    """The environment of this process for a target.

    Args:
        target: The target that runs here.
        imports: Modules that kernels import; their versions, or digests of their files, are part of it.
        given: The variables that kernels run under; None for this process's own.

    Raises:
        WorkerError: The target is a GPU's and no GPU can be read.
    """
    found = _gpu(target) if is_cuda(target) else _cpu()
    used = library_versions(imports) | dict(found.versions)
    found = replace(found, versions=used, variables=variables() if given is None else dict(given))
    content = asdict(found)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return replace(found, fingerprint=digest)


def _cpu() -> Environment:
    gib = memory_bytes() >> 30
    return Environment(
        hardware=cpu_model(),
        target="cpu",
        compute_capability=platform.machine(),
        units=cores(),
        # In whole GiB: what the kernel reserves differs from boot to boot, and must not change the environment.
        memory_bytes=gib << 30,
        driver="",
        versions=versions(),
    )


def _gpu(target: str) -> Environment:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = nvml_handle(pynvml)
        name = pynvml.nvmlDeviceGetName(handle)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
        driver = pynvml.nvmlSystemGetDriverVersion()
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
        units = pynvml.nvmlDeviceGetNumGpuCores(handle) // _CORES_PER_SM
    except Exception as error:
        raise WorkerError(f"target {target} needs an NVIDIA GPU, and none can be read here: {error}") from error
    found: Mapping[str, str] = {**versions(), "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}"}
    return Environment(
        hardware=str(name),
        target=target,
        compute_capability=f"{major}.{minor}",
        units=units,
        memory_bytes=int(memory),
        driver=str(driver),
        versions=found,
    )


def open_nvml() -> tuple[Any, Any] | None:
    """NVML with its handle of the first GPU that CUDA shows to this process; None without library, driver or GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml, nvml_handle(pynvml)
    except pynvml.NVMLError:
        return None


def nvml_handle(pynvml: Any) -> Any:
    """NVML's handle of the first GPU that CUDA shows to this process.

    Raises:
        pynvml.NVMLError: There is none.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if visible.startswith(("GPU-", "MIG-")):
        return pynvml.nvmlDeviceGetHandleByUUID(visible)
    if visible and not visible.isdecimal():  # CUDA shows none then, as with -1
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
    return pynvml.nvmlDeviceGetHandleByIndex(int(visible) if visible else 0)


def gpu_target() -> str | None:
    """The target of this machine's first visible GPU, None without a GPU or with one that has no target."""
    opened = open_nvml()
    if opened is None:
        return None
    nvml, handle = opened
    return target_of_capability(tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)))


def gpu_name() -> str | None:
    """The marketing name of this machine's first visible GPU, None without one."""
    opened = open_nvml()
    return None if opened is None else str(opened[0].nvmlDeviceGetName(opened[1]))


def own_hardware() -> str:
    """The model that records of this machine name: its GPU, else its processor."""
    return gpu_name() or cpu_model()


def hardware_of_target(target: str) -> str | None:
    """The model of this machine that runs a target; None where that is a GPU and there is none."""
    return gpu_name() if is_cuda(target) else cpu_model()


def hardware_named(given: str | None) -> str | None:
    """The model that a user means; ``auto`` is this machine's. Records are compared with it in lower case."""
    return own_hardware() if given == "auto" else given
