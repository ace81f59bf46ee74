"""The Ray actor around a builder. It owns a sandbox; the actor itself never runs a candidate.

The runner gives it one job at a time. Apart from the evaluators' file, which imports torch: where many builders start
at once, that takes each of them seconds.
"""

from __future__ import annotations

import os

from workers.build.builder import VariantBuilder
from workers.fib.dataset import Problem
from workers.records import BuildResult, Deadlines, Variant

Packed = bytes | None
"""An artifact as an archive for another machine; None if all share one file system."""


class BuilderActor:
    """Builds variants on one core.

    Args:
        problem: The problem that variants solve.
        target: Target of all variants.
        cache_dir: Artifact cache on the actor's machine.
        deadlines: Deadline of the compile phase.
        nice: Niceness of compilation; :mod:`workers.cluster.ray_runner` chooses it.
        pack: Whether artifacts are sent along, for evaluators on other machines.
        imports: Modules that variants import, whose compiler is loaded before the first variant comes.
    """

    def __init__(
        self,
        problem: Problem,
        target: str,
        cache_dir: str,
        deadlines: Deadlines,
        nice: int,
        pack: bool,
        imports: tuple[str, ...] = (),
    ) -> None:
        self._builder = VariantBuilder(
            problem.definition,
            target,
            cache_dir,
            deadlines.compile_s,
            nice,
            workloads=problem.workloads,
            imports=imports,
        )
        self._pack = pack
        self._builder.start()

    def build(self, variant: Variant) -> tuple[BuildResult, Packed]:
        """Build a variant: the result, and the artifact if it is sent along."""
        result = self._builder.build(variant)
        packed = self._builder.pack(result.artifact) if self._pack and result.artifact else None
        return result, packed

    def processes(self) -> dict[str, int | None]:
        """Process IDs of the actor, its fork server and its child."""
        return {"actor": os.getpid(), **self._builder.processes()}

    def close(self) -> None:
        """End the sandbox."""
        self._builder.close()
