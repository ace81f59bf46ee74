"""The result of ``tuner bench``, complete or stopped early: tables, ratios and the document of ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tuner import errors
from tuner.format import first_line, microseconds
from tuner.sweeps.finals.statistics import Ratio, compare
from workers.records import Evaluation, Measurement, Status

NOT_REACHED = "not reached"


@dataclass(frozen=True)
class BenchResult:
    """Interleaved measurements of several Solutions; the others are compared with the first.

    Args:
        definition: Name of the definition.
        hardware: Name of the hardware, as the environment records it.
        names: Solutions in the order given.
        axes: Workload uuid -> its axes as text, in the order measured.
        evaluations: Solution -> its measurements, and the status of its first failure.
        interrupted: Whether the run was stopped before everything was measured.
    """

    definition: str
    hardware: str
    names: tuple[str, ...]
    axes: Mapping[str, str]
    evaluations: Mapping[str, Evaluation]
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """3 if no Solution passed on any workload, 130 if it was stopped."""
        if self.interrupted:
            return errors.EXIT_INTERRUPTED
        passed = any(_passed(e) for e in self.evaluations.values())
        return errors.EXIT_OK if passed else errors.EXIT_NOTHING_FOUND

    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """For each workload its axes and the time of each Solution."""
        for workload, axes in self.axes.items():
            yield axes, [self.cell(name, workload) for name in self.names]

    def cell(self, name: str, workload: str) -> str:
        """A Solution's time on a workload with its interval, or the reason why there is none."""
        evaluation = self.evaluations[name]
        found = next((m for m in evaluation.measurements if m.workload == workload), None)
        if found is not None and found.median_us is not None:
            return f"{microseconds(found.median_us)} [{microseconds(found.low_us)}, {microseconds(found.high_us)}]"
        if skipped(evaluation):
            return "skipped"
        if found is not None:
            return found.status.value
        return NOT_REACHED if evaluation.status is Status.PASSED else evaluation.status.value

    def against_first(self) -> dict[str, Ratio]:
        """Time of each other Solution over the first one's on the workloads that both passed, with its interval."""
        rounds = {n: _passed(e) for n, e in self.evaluations.items()}
        first = rounds.get(self.names[0], {})
        found = {}
        for name in self.names[1:]:
            both = [w for w in self.axes if w in first and w in rounds.get(name, {})]
            if both:
                found[name] = compare({w: rounds[name][w] for w in both}, {w: first[w] for w in both})
        return found

    def verdicts(self) -> Iterator[str]:
        """One line for each Solution but the first, and the reasons why Solutions were not measured everywhere."""
        for name, r in self.against_first().items():
            interval = f"[{r.low:.3f}, {r.high:.3f}]"
            where = self._where(name)
            yield f"{name} takes {r.ratio:.3f} {interval} times as long as {self.names[0]} ({r.verdict}){where}"
        for name, evaluation in self.evaluations.items():
            why = skipped(evaluation)
            if why:
                yield f"{name} is skipped: {why}"
            elif evaluation.status is not Status.PASSED:
                passed = len(_passed(evaluation))
                how = f"failed on some workloads ({passed} passed)" if passed else "is left out"
                yield f"{name} {how}: {evaluation.status.value} {first_line(evaluation.message)}".rstrip()

    def _where(self, name: str) -> str:
        """A remark for a Solution that was not compared on all workloads."""
        both = set(_passed(self.evaluations[name])) & set(_passed(self.evaluations[self.names[0]]))
        return "" if len(both) == len(self.axes) else f", on {len(both)} of {len(self.axes)} workloads"

    def document(self) -> dict[str, Any]:
        """The JSON document of the result."""
        return {
            "definition": self.definition,
            "hardware": self.hardware,
            "interrupted": self.interrupted,
            "solutions": {
                n: {
                    "status": e.status.value,
                    "message": e.message,
                    "skipped": skipped(e),
                    "workloads": {m.workload: _measured(m, self.axes[m.workload]) for m in e.measurements},
                }
                for n, e in self.evaluations.items()
            },
            "ratio_to_first": {n: {**asdict(r), "verdict": r.verdict} for n, r in self.against_first().items()},
        }


def skipped(evaluation: Evaluation) -> str | None:
    """Why a Solution says that it cannot run on this machine; None if it ran or failed."""
    return first_line(evaluation.message) if evaluation.status is Status.SKIPPED else None


def _passed(evaluation: Evaluation) -> dict[str, tuple[float, ...]]:
    """Samples of a Solution on the workloads that it passed."""
    return {m.workload: m.samples_us for m in evaluation.measurements if m.status is Status.PASSED}


def _measured(m: Measurement, axes: str) -> dict[str, Any]:
    return {
        "axes": axes,
        "status": m.status.value,
        "message": m.message,
        "median_us": m.median_us,
        "low_us": m.low_us,
        "high_us": m.high_us,
        "samples_us": list(m.samples_us),
    }
