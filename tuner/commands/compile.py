"""``tuner compile``: build a spread sample of a space's configs for a target, without a GPU, a database or Ray."""

from __future__ import annotations

import queue
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from search_spaces import Config
from search_spaces.registry import family, space_for
from search_spaces.sample_spread import spread
from tuner import errors
from tuner.errors import UsageError
from tuner.format import first_line
from tuner.progress import Steps
from tuner.settings import SweepSettings
from tuner.sweeps.setup import local_target, open_dataset, tell_missing
from tuner.sweeps.variants import config_variant
from workers.build.artifact_cache import default_cache_dir
from workers.build.builder import VariantBuilder
from workers.devices.environment import cores
from workers.devices.libraries import imported_names
from workers.records import BuildResult, Status


@dataclass(frozen=True)
class VariantResults:
    """What came out of work on some variants of a space; ``variants`` holds one document per variant."""

    space: str
    target: str
    definition: str
    wall_s: float
    variants: list[dict[str, Any]] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """The JSON document of the result."""
        return {
            "space": self.space,
            "target": self.target,
            "definition": self.definition,
            "wall_s": self.wall_s,
            "variants": self.variants,
        }


class CompileResult(VariantResults):
    """``variants`` have ``config``, ``status``, ``build_s``, ``registers``, ..."""

    @property
    def built(self) -> int:
        """The number of variants that were built."""
        return sum(v["status"] == Status.BUILT for v in self.variants)

    @property
    def exit_code(self) -> int:
        """3 if nothing built."""
        return errors.EXIT_OK if self.built else errors.EXIT_NOTHING_FOUND

    def document(self) -> dict[str, Any]:
        """The JSON document of the result."""
        return super().document() | {"built": self.built}


def compile_sample(
    settings: SweepSettings, sample: int, jobs: int | None = None, view: Steps | None = None
) -> CompileResult:
    """Build the default and a sample of other configs.

    Args:
        settings: Settings with space, target, definition and dataset.
        sample: Number of configs.
        jobs: Builds at once; None for one per core.
        view: Shows the progress, and at once why a build failed, if that is new.

    Raises:
        UsageError, SpaceError, DatasetError: Space, target or definition do not fit.
    """
    dataset = open_dataset(settings.dataset)
    target = settings.target or _target_for(settings.space)
    name = settings.definition or definition_for(dataset.definitions, settings.space, target)
    definition = dataset.definition(name)
    space = space_for(definition, target, settings.space)
    tell_missing(space)
    configs = spread(space, sample, settings.seed)
    jobs = min(jobs or cores(), len(configs))
    cache_dir = str(settings.cache_dir or default_cache_dir())
    began = time.perf_counter()
    idle: queue.SimpleQueue[VariantBuilder] = queue.SimpleQueue()
    sizes = dataset.workloads(name)
    imports = imported_names(space.sources, space.dependencies)
    builders = [
        VariantBuilder(definition, target, cache_dir, settings.compile_s, workloads=sizes, imports=imports)
        for _ in range(jobs)
    ]
    for builder in builders:
        builder.start()
        idle.put(builder)

    def build(config: Config) -> BuildResult:
        builder = idle.get()
        try:
            return builder.build(config_variant(name, space, config))
        finally:
            idle.put(builder)

    pool = ThreadPoolExecutor(jobs)
    try:
        results = _followed([pool.submit(build, c) for c in configs], view or Steps(), settings)
    finally:
        # Whoever stops it does not wait for compilers: ending a builder ends its build.
        pool.shutdown(wait=False, cancel_futures=True)
        for builder in builders:
            builder.close()
    variants = [_document(c, r) for c, r in zip(configs, results, strict=True)]
    return CompileResult(space.name, target, name, time.perf_counter() - began, variants)


def _followed(builds: list[Future[BuildResult]], view: Steps, settings: SweepSettings) -> list[BuildResult]:
    """The results in order, once all have arrived; meanwhile the view shows the progress."""
    waiting, said = set(builds), set()
    while waiting:
        view.step(f"{len(builds) - len(waiting)} of {len(builds)} built; each may take {settings.compile_s:g} s")
        done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
        for result in (build.result() for build in done):
            why = f"{result.status.value}: {first_line(result.log)}"
            if result.status is not Status.BUILT and why not in said:
                view.say(why)
                said.add(why)
    return [build.result() for build in builds]


def _target_for(space: str | None) -> str:
    """This machine's target if the space has it, else the space's first one: since compiling needs no GPU."""
    here = local_target()
    if space is None:
        return here
    targets = family(space).targets
    return here if here in targets else targets[0]


def definition_for(definitions: dict[str, Any], space: str | None, target: str) -> str:
    """The first definition of a dataset that the space solves, of the MoE ones where no space is named.

    Raises:
        UsageError: There is none.
    """
    candidates = [family(space)] if space else []
    for name, definition in definitions.items():
        if all(c.why_not(definition) is None for c in candidates) and (candidates or definition["op_type"] == "moe"):
            return name
    raise UsageError(
        f"the dataset has no definition that space {space!r} solves on {target}; name one with --definition"
    )


def _document(config: Config, build: BuildResult) -> dict[str, Any]:
    figures = dict(build.figures)
    return {
        "config": config,
        "status": build.status.value,
        "build_s": round(build.build_s, 3),
        "cached": build.cached,
        "registers": figures.pop("registers", None),
        "spill_bytes": figures.pop("spill_bytes", None),
        "smem_bytes": figures.pop("smem_bytes", None),
        "figures": figures,
        "reason": "" if build.status is Status.BUILT else first_line(build.log),
        "log": "" if build.status is Status.BUILT else build.log[-2000:],
    }
