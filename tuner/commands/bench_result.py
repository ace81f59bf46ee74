"""The result of ``tuner bench``, complete or stopped early: tables, ratios and the document of ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tuner import errors
from tuner.format import first_line, microseconds
from tuner.sweeps.finals.statistics import Ratio, compare
from workers.records import AUTO, Evaluation, Measurement, Status

NOT_REACHED = "not reached"
_MOST_WORDS = 300


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
        """For each workload its axes and the time of each Solution, in a row for each mode that they were timed in."""
        modes = self._modes()
        for workload, axes in self.axes.items():
            for mode in modes:
                label = axes if len(modes) == 1 else f"{axes} ({words(mode)})"
                yield label, [self.cell(name, workload, mode) for name in self.names]

    def cell(self, name: str, workload: str, mode: str | None = None) -> str:
        """A Solution's time on a workload with its interval, or the reason why there is none.

        Args:
            name: The Solution.
            workload: Uuid of the workload.
            mode: The mode that is meant; None for the first of those that it was timed in.
        """
        evaluation = self.evaluations[name]
        of_workload = [m for m in evaluation.measurements if m.workload == workload]
        found = next((m for m in of_workload if mode in (None, m.method.mode)), None)
        if found is None and any(m.status is Status.PASSED for m in of_workload):
            return "-"
        found = found or next(iter(of_workload), None)
        if found is not None and found.median_us is not None:
            return f"{microseconds(found.median_us)} [{microseconds(found.low_us)}, {microseconds(found.high_us)}]"
        if skipped(evaluation):
            return "skipped"
        if found is not None:
            return found.status.value
        return NOT_REACHED if evaluation.status is Status.PASSED else evaluation.status.value

    def against_first(self) -> dict[str, Ratio]:
        """Time of each other Solution over the first one's on the workloads that both passed, with its interval, both
        timed in the mode of :meth:`compared_in`."""
        found = {}
        for name in self.names[1:]:
            mode = self.compared_in(name)
            this, first = (_passed(self.evaluations[n], mode) for n in (name, self.names[0]))
            both = [w for w in self.axes if w in first and w in this]
            if both:
                found[name] = compare({w: this[w] for w in both}, {w: first[w] for w in both})
        return found

    def compared_in(self, name: str) -> str:
        """The mode in which a Solution is compared with the first one: as graphs if both were captured on every
        workload that both passed, else eagerly."""
        this, first = (self.evaluations[n] for n in (name, self.names[0]))
        both = set(_passed(this)) & set(_passed(first))
        for mode in self._modes():
            if all(w in _passed(this, mode) and w in _passed(first, mode) for w in both):
                return mode
        return self._modes()[-1]

    def _modes(self) -> list[str]:
        """The modes that Solutions were timed in, that of graphs first."""
        found = {m.method.mode for e in self.evaluations.values() for m in e.measurements if m.status is Status.PASSED}
        return sorted(found) or [AUTO]

    def verdicts(self) -> Iterator[str]:
        """One line for each Solution but the first, and the reasons why Solutions were not measured everywhere."""
        for name, r in self.against_first().items():
            interval = f"[{r.low:.3f}, {r.high:.3f}]"
            where = self._where(name)
            how = f", both timed {words(self.compared_in(name))}" if len(self._modes()) > 1 else ""
            yield f"{name} takes {r.ratio:.3f} {interval} times as long as {self.names[0]} ({r.verdict}){where}{how}"
        for name, evaluation in self.evaluations.items():
            why = uncaptured(evaluation)
            if why:
                yield f"{name} is timed eagerly: {why}"
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
                    "workloads": _by_workload(e, self.axes),
                }
                for n, e in self.evaluations.items()
            },
            "ratio_to_first": {
                n: {**asdict(r), "verdict": r.verdict, "mode": self.compared_in(n)}
                for n, r in self.against_first().items()
            },
        }


def skipped(evaluation: Evaluation) -> str | None:
    """Why a Solution says that it cannot run on this machine; None if it ran or failed."""
    return first_line(evaluation.message) if evaluation.status is Status.SKIPPED else None


def uncaptured(evaluation: Evaluation) -> str | None:
    """Why a Solution was timed eagerly only, None if it was not or that was asked for."""
    whys = (m.conditions.get("uncaptured") for m in evaluation.measurements)
    return next((" ".join(str(why).split())[:_MOST_WORDS] for why in whys if why), None)


def words(mode: str) -> str:
    """A mode, as it is said."""
    return {"cuda_graph": "as graphs", "eager": "eagerly"}.get(mode, mode)


def _passed(evaluation: Evaluation, mode: str | None = None) -> dict[str, tuple[float, ...]]:
    """Samples of a Solution on the workloads that it passed, in one mode or in any."""
    passed = [m for m in evaluation.measurements if m.status is Status.PASSED and mode in (None, m.method.mode)]
    return {m.workload: m.samples_us for m in reversed(passed)}


def _by_workload(evaluation: Evaluation, axes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Workload -> figures; those of further modes are below the mode's name."""
    found: dict[str, dict[str, Any]] = {}
    for m in evaluation.measurements:
        figures = _measured(m, axes[m.workload])
        if m.workload in found:
            found[m.workload][m.method.mode] = figures
        else:
            found[m.workload] = figures
    return found


def _measured(m: Measurement, axes: str) -> dict[str, Any]:
    return {
        "axes": axes,
        "mode": m.method.mode,
        "status": m.status.value,
        "message": m.message,
        "median_us": m.median_us,
        "low_us": m.low_us,
        "high_us": m.high_us,
        "samples_us": list(m.samples_us),
    }
