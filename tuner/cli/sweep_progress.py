"""The live view of a sweep: a Rich display on a terminal, an occasional line without one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tuner.cli import progress_line
from tuner.cli.progress_line import StepView
from tuner.commands.sweep import View
from tuner.format import microseconds, ratio
from tuner.progress import Progress


class SweepView(StepView, View):
    """Shows :class:`~tuner.progress.Progress` snapshots and steps on stderr. A context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._last_line = float("-inf")
        self._last_phase = ""
        self._progress: Progress | None = None

    def _made_display(self) -> Any:
        from rich.live import Live

        return Live(console=self._console, refresh_per_second=4, transient=True)

    def __call__(self, progress: Progress) -> None:
        """Show a snapshot."""
        self._progress = progress
        if progress.phase in ("search", "done"):  # what prepared the search, and the last of the finals, are over
            self._step = None
        self.tick()

    def tick(self) -> None:
        """Update what is shown."""
        if self._display is not None:
            self._display.update(self._picture())
            return
        now = time.monotonic()
        phase = self._progress.phase if self._progress else ""
        if now - self._last_line >= progress_line.LINE_EVERY_S or phase != self._last_phase:
            self._last_line, self._last_phase = now, phase
            for line in self._lines():
                self._console.print(line)

    def _lines(self) -> Iterator[str]:
        """Without a terminal: the search's figures until it is over, then the step."""
        if self._progress is not None and self._progress.phase != "done":
            yield _line(self._progress)
            yield from _slow(self._progress)
        if self._step is not None:
            yield self._step.line()

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        parts = [] if self._progress is None else [_panel(self._progress), *map(Text, _slow(self._progress))]
        return Group(*parts, *([] if self._step is None else [Text(self._step.line())]))


def _slow(progress: Progress) -> Iterator[str]:
    """A line for each thing that trials wait long for, which names the one that has waited longest."""
    for thing in dict.fromkeys(slow.thing for slow in progress.slow):
        waiting = [slow for slow in progress.slow if slow.thing == thing]
        longest = max(waiting, key=lambda slow: slow.waits_s)
        others = f", and {len(waiting) - 1} more for a shorter time" if len(waiting) > 1 else ""
        yield (
            f"trial {longest.trial} has waited {longest.waits_s:.0f} s for its {thing} (limit {longest.limit_s:g} s)"
            + others
        )


def _time_left(progress: Progress) -> str:
    estimates = []
    if progress.max_trials and progress.done:
        estimates.append(progress.elapsed_s / progress.done * max(0, progress.max_trials - progress.done))
    if progress.budget_s:
        estimates.append(max(0.0, progress.budget_s - progress.elapsed_s))
    return f"{min(estimates):.0f} s left" if estimates else "time left unknown"


def _failures(progress: Progress) -> str:
    return ", ".join(f"{n} {k}" for k, n in sorted(progress.failures.items())) or "none"


def _line(progress: Progress) -> str:
    best = ", ".join(f"{name} {_best(progress, name, us)}" for name, us in progress.best_us.items() if us is not None)
    total = progress.max_trials or "auto"
    return (
        f"{progress.phase}: {progress.done}/{total} trials in {progress.elapsed_s:.0f} s, {_time_left(progress)}; "
        f"best {best or 'none yet'}; failures: {_failures(progress)}"
    )


def _best(progress: Progress, regime: str, us: float) -> str:
    default = progress.default_us[regime]
    return microseconds(us) + (f" ({ratio(default, us)} over the default)" if default else "")


def _panel(progress: Progress) -> Any:
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table("regime", "best so far", "over default", "over reference", box=None, pad_edge=False)
    for name, us in progress.best_us.items():
        default, reference = progress.default_us[name], progress.reference_us[name]
        table.add_row(name, microseconds(us), ratio(default, us), ratio(reference, us))
    head = (
        f"{progress.done}/{progress.max_trials or 'auto'} trials, {progress.elapsed_s:.0f} s, {_time_left(progress)}   "
        f"building {progress.building}, evaluating {progress.evaluating}, raced out {progress.raced_out}, "
        f"reused {progress.reused}"
    )
    bar = ProgressBar(total=progress.max_trials or 100, completed=progress.done)
    return Panel(Group(head, bar, table, f"failures: {_failures(progress)}"), title=f"tuner sweep: {progress.phase}")
