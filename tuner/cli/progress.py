"""The live view of a sweep: a Rich display on a terminal, an occasional line without one."""

from __future__ import annotations

import time
from typing import Any

from tuner.cli.output import stderr
from tuner.format import microseconds, ratio
from tuner.sweeps.loop import Progress

LINE_EVERY_S = 10.0


class SweepView:
    """Shows :class:`~tuner.sweeps.loop.Progress` snapshots on stderr. A context manager."""

    def __init__(self, enabled: bool = True) -> None:
        self._console = stderr()
        self._enabled = enabled
        self._live: Any = None
        self._last_line = float("-inf")
        self._last_phase = ""

    def __enter__(self) -> SweepView:
        if self._enabled and self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._enabled:
            self._console.print(text)

    def __call__(self, progress: Progress) -> None:
        """Show a snapshot."""
        if not self._enabled:
            return
        if self._live is not None:
            self._live.update(_panel(progress))
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S or progress.phase != self._last_phase:
            self._last_line, self._last_phase = now, progress.phase
            self._console.print(_line(progress))


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
    best = ", ".join(
        f"{name} {microseconds(us)} ({ratio(progress.default_us[name], us)} over the default)"
        for name, us in progress.best_us.items()
    )
    total = progress.max_trials or "auto"
    return (
        f"{progress.phase}: {progress.done}/{total} trials in {progress.elapsed_s:.0f} s, {_time_left(progress)}; "
        f"best {best}; failures: {_failures(progress)}"
    )


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
