"""Builds variants in a sandbox and publishes the outcome in the artifact cache, rejections included.

How a variant is built: its own ``build.py`` if it has one (``build(out_dir) -> dict`` writes ``artifacts/`` beside the
sources and returns static figures; raising an exception whose class is named ``Rejected`` refuses the variant; if it
has a parameter ``kept``, that is a :class:`KeptParts`), a flashinfer-bench builder for compiled languages, else an
import of the entry point. If that imports Triton and the target is a GPU, its host code is run as well, without a GPU,
so that its kernels are compiled (triton_jit/).
"""

from __future__ import annotations

import compileall
import importlib
import importlib.util
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

from search_spaces.targets import is_cuda, target_named
from workers.build import loader, native, resource_usage
from workers.build.artifact_cache import DISK_FULL, ArtifactCache
from workers.build.kept_parts import KeptParts, origin
from workers.build.triton_jit.dry_run import told_apart
from workers.devices.environment import toolchain
from workers.devices.libraries import imported_names
from workers.errors import CacheFullError
from workers.fib.dataset import Document
from workers.records import BuildResult, Status, Variant
from workers.sandbox.fork_server import ForkRequest
from workers.sandbox.messages import ChildError, Phase, PhaseKind, Send, status_of
from workers.sandbox.process import ChildProcess
from workers.sandbox.process_state import ProcessState

BUILD_FILE = "build.py"
CPU_S = "build_cpu_s"
"""Figure of every build: CPU seconds of its process and of what that has started and awaited."""
_RECYCLE_AFTER = 100
"""Number of builds after which the process is replaced, since compilers do not free all memory."""
_ON_CPU = ("torch", "numba")


class VariantBuilder:
    """Builds one variant at a time. Used by one thread.

    Args:
        definition: Document of the definition that all variants solve.
        target: Target of all variants.
        cache_dir: Folder of the artifact cache.
        compile_s: Deadline for one build in seconds.
        nice: Niceness of compilation; :mod:`workers.cluster.ray_runner` chooses it.
        preload: Modules imported once for all builds; None for those that the variants' compiler needs.
        workloads: Documents of the workloads, for whose sizes kernels are compiled that are compiled when launched.
        imports: Modules that the variants import, which tell their compiler; if none, the first variant does.
    """

    def __init__(
        self,
        definition: Document,
        target: str,
        cache_dir: str,
        compile_s: float = 300.0,
        nice: int = 0,
        preload: tuple[str, ...] | None = None,
        workloads: Sequence[Document] = (),
        imports: Sequence[str] = (),
    ) -> None:
        self._cache = ArtifactCache(cache_dir)
        self._compile_s = compile_s
        self._target = target
        self._toolchains: dict[tuple[str, ...], dict[str, str]] = {}
        sizes = told_apart(workloads)
        arguments = (definition, sizes, compile_s, cache_dir)
        self._request = ForkRequest("workers.build.builder:BuildHandler", arguments, nice=nice)
        self._sizes = json.dumps([w["axes"] for w in sizes])
        if preload is None:
            preload = _compiler_of(imports) if is_cuda(target) and imports else None if is_cuda(target) else _ON_CPU
        self._preload = preload
        self._process: ChildProcess | None = None
        self._builds = 0

    def start(self) -> None:
        """Start importing what builds need, if that is known. The first variant does not wait for it then."""
        if self._preload is not None:
            self._started(self._preload)

    def build(self, variant: Variant) -> BuildResult:
        """Build a variant, or find it in the cache. A failure of the candidate is a status.

        Raises:
            WorkerError: The machinery failed.
        """
        began = time.perf_counter()
        digest = self._cache.key(variant, self._toolchain(variant))
        entry = self._cache.get(digest)
        if entry is not None:
            return _result(variant, digest, entry.meta, cached=True)
        staged = self._cache.stage()
        try:
            return self._build(variant, digest, staged, began)
        finally:
            self._cache.discard(staged)

    def pack(self, artifact: str) -> bytes:
        """A built artifact as an archive, for another machine's cache."""
        return self._cache.pack(artifact)

    def processes(self) -> dict[str, int | None]:
        """Process IDs of the fork server and the child."""
        if self._process is None:
            return {"fork_server": None, "child": None}
        return {"fork_server": self._process.fork_server_pid, "child": self._process.pid}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()

    def _toolchain(self, variant: Variant) -> Mapping[str, str]:
        """What a build of this variant depends on. Versions are kept: all variants of a family import the same."""
        names = imported_names(variant.sources, variant.dependencies)
        if names not in self._toolchains:
            self._toolchains[names] = toolchain(self._target, names)
        more = {"sizes": self._sizes} if is_compiled_at_launch(variant) else {}
        if native.has_figures(variant):  # an entry says what could be read when it was made
            more["cuobjdump"] = str(resource_usage.tool(native.toolkit()) is not None)
        return self._toolchains[names] | more

    def _started(self, preload: tuple[str, ...]) -> ChildProcess:
        """The sandbox; if it has to be started, its fork server imports these modules."""
        if self._process is None:
            self._process = ChildProcess(
                self._request,
                preload=("workers.build.builder", *preload),
                # One compiler thread per builder: builders are the parallelism. They never see a GPU, so that a build
                # is the same on every machine and takes nothing from an evaluator's memory. The CuTe DSL must know the
                # target when it is imported: otherwise its first build initialises the driver to ask which GPU is
                # here, which processes do one after the other (first builds on an H200: 12 s for one, 50 for fifteen).
                env={
                    "OMP_NUM_THREADS": "1",
                    "MAX_JOBS": "1",
                    "CUDA_VISIBLE_DEVICES": "",
                    **({"CUTE_DSL_ARCH": self._target} if is_cuda(self._target) else {}),
                },
            )
            self._process.start()
        return self._process

    def _build(self, variant: Variant, digest: str, staged: Path, began: float) -> BuildResult:
        process = self._started(
            _compiler_of(imported_names(variant.sources)) if self._preload is None else self._preload
        )
        if self._builds >= _RECYCLE_AFTER:
            process.kill()
            self._builds = 0
        self._builds += 1

        def failed(status: Status, message: str, log: str) -> BuildResult:
            text = f"{message}\n{log}".strip()
            return BuildResult(variant.key, status, time.perf_counter() - began, log=text)

        try:
            (status, figures, message, is_spoiled), log = process.call(
                "build",
                variant,
                str(staged),
                digest,
                origin(variant, self._toolchain(variant)) if BUILD_FILE in variant.sources else "",
                limits_s={PhaseKind.COMPILE: self._compile_s},
                phase=Phase(PhaseKind.COMPILE),
            )
        except ChildError as error:
            if error.status is not Status.TIMEOUT:
                self._cache.check_room()  # a full disk is not the candidate's fault
            return failed(error.status or Status.COMPILE_ERROR, str(error), error.log)
        if status is Status.WORKER_LOST:
            raise CacheFullError(
                f"a build in {self._cache.root} ran out of disk space ({message}). Free some and resume"
            )
        if is_spoiled:
            process.kill()
            self._builds = 0
        text = f"{message}\n{log}".strip()
        meta = {"status": status, "build_s": time.perf_counter() - began, "figures": figures, "log": text}
        # A rejection follows from the sources, so it is cached; there is nothing to load.
        self._cache.publish(digest, staged if status is Status.BUILT else self._cache.stage(), meta)
        return _result(variant, digest, meta)


class BuildHandler:
    """The side of :class:`VariantBuilder` that runs in the sandbox."""

    def __init__(
        self, send: Send, definition: Document, workloads: Sequence[Document], compile_s: float, cache_dir: str
    ) -> None:
        self._cache = ArtifactCache(cache_dir)
        self._definition = definition
        self._workloads = workloads
        self._compile_s = compile_s
        self._state = ProcessState(cuda=False)

    def build(self, variant: Variant, folder: str, digest: str, of: str) -> tuple[Status, Mapping[str, Any], str, bool]:
        """Stage and build below ``folder``. Parts are kept under ``of``.

        Returns:
            Status (BUILT, REJECTED, COMPILE_ERROR; WORKER_LOST if the disk is full), static figures and
            :data:`CPU_S`, a message, and whether the process must not be used again.
        """
        before = sum(os.times()[:4])
        try:
            status, figures, message = self._build(variant, folder, digest, of)
        finally:
            # What a module does when it is imported must not reach the next variant's build.
            stuck = self._state.put_back()
            self._state.put_back_imports([])
        figures = {**figures, CPU_S: round(sum(os.times()[:4]) - before, 2)}
        return status, figures, message, bool(stuck or self._state.threads_left())

    def _build(self, variant: Variant, folder: str, digest: str, of: str) -> tuple[Status, Mapping[str, Any], str]:
        package = loader.package_name(digest)
        package_dir = Path(folder) / package
        loader.stage_sources(variant, package_dir)
        sys.dont_write_bytecode = True
        remark = ""
        try:
            if BUILD_FILE in variant.sources:
                figures = _run_build_file(Path(folder), package, KeptParts(self._cache, of, variant))
            elif is_compiled_at_launch(variant):
                figures, remark = self._compile_kernels(variant, Path(folder), package)
            else:
                loader.load(variant, self._definition, Path(folder), package).unload()
                figures, remark = native.figures(variant, Path(folder))
        except BaseException as error:
            if isinstance(error, CacheFullError) or (isinstance(error, OSError) and error.errno in DISK_FULL):
                return Status.WORKER_LOST, {}, str(error)
            if status_of(error) is Status.REJECTED:
                return Status.REJECTED, _plain(getattr(error, "figures", {})), str(error)
            raise
        # Evaluators load a variant faster from bytecode. It is never compared with the sources: the folder's name is a
        # digest of them.
        compileall.compile_dir(package_dir, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        return Status.BUILT, _plain(figures), remark

    def _compile_kernels(self, variant: Variant, folder: Path, package: str) -> tuple[Mapping[str, Any], str]:
        """Static figures of the Triton kernels, and a remark if not all could be compiled."""
        from workers.build.triton_jit.dry_run import FOLDER, dry_run

        cache = folder / package / loader.ARTIFACTS / FOLDER
        cache.mkdir(parents=True)
        loaded: list[loader.Loaded] = []

        def load() -> Callable[..., Any]:
            loaded.append(loader.load(variant, self._definition, folder, package))
            return loaded[0].function

        try:
            ran = dry_run(
                load,
                self._definition,
                self._workloads,
                target_named(variant.target),
                cache,
                self._compile_s,
                variant.destination_passing,
            )
        finally:
            for item in loaded:
                item.unload()
        return ran.figures | ({"remark": ran.remark} if ran.remark else {}), ran.remark


def is_compiled_at_launch(variant: Variant) -> bool:
    """Whether a variant has Triton kernels, which are compiled when they are launched, and no build of its own."""
    if not is_cuda(variant.target) or variant.is_native or BUILD_FILE in variant.sources:
        return False
    return "triton" in imported_names(variant.sources) and importlib.util.find_spec("triton") is not None


def _result(variant: Variant, digest: str, meta: Mapping[str, Any], cached: bool = False) -> BuildResult:
    """The result that a cache entry stands for: a built variant, or one that its ``build.py`` rejected."""
    # Entries of earlier versions have no status; they hold built variants only.
    status = Status(meta.get("status", Status.BUILT))
    artifact = digest if status is Status.BUILT else None
    return BuildResult(variant.key, status, meta["build_s"], artifact, meta["figures"], meta["log"], cached)


def _compiler_of(imports: Sequence[str]) -> tuple[str, ...]:
    """What compiles GPU variants that import these; not torch for CuTe DSL, since many import it slowly at once."""
    if "cutlass" in imports:
        return ("cutlass.cute",)
    return ("torch", "triton", "workers.build.triton_jit.dry_run") if "triton" in imports else ("torch",)


def _run_build_file(folder: Path, package: str, kept: KeptParts) -> Any:
    """Call ``build(out_dir)`` of the staged package's build.py, with ``kept`` if it takes it, then unload the
    package."""
    out_dir = folder / package / loader.ARTIFACTS
    out_dir.mkdir()
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    staged = loader.Loaded(_nothing, package, str(folder))
    try:
        build = importlib.import_module(f"{package}.build").build
        return build(str(out_dir), kept=kept) if _takes_parts(build) else build(str(out_dir))
    finally:
        staged.unload()


def _takes_parts(build: Callable[..., Any]) -> bool:
    """Whether a build has a parameter ``kept``."""
    try:
        return "kept" in inspect.signature(build).parameters
    except (TypeError, ValueError):
        return False


def _plain(figures: Any) -> dict[str, Any]:
    """Figures as JSON values; empty if they are not a mapping."""
    return {str(k): _json(v) for k, v in figures.items()} if isinstance(figures, Mapping) else {}


def _json(value: Any) -> Any:
    """The value as JSON; as text if JSON cannot express it."""
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _nothing() -> None:
    """Stands for the entry point while a package is built."""
