"""The Python functions behind ``tuner.sweep`` and ``tuner.best_config``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.commands.sweep import SweepReport
    from tuner.results.best_config import BestConfig
    from tuner.results.export import Export


def sweep(
    definition: str | None = None,
    *,
    resume: int | None = None,
    out: Path | str | None = None,
    config: Path | str | None = None,
    **settings: Any,
) -> SweepReport:
    """Run a sweep and wait for it.

    May be called anywhere: in a program that is on Ray itself, in a Ray task, in a thread, several times at once. Where
    this process is not free for Ray, the sweep runs in a process of its own, with a cluster of its own.

    Args:
        definition: Name of the definition; by default the only one that the space fits, else the only MoE.
        resume: ID of a sweep to continue.
        out: flashinfer-trace folder for the best Solution, None to write none.
        config: YAML file with settings.
        **settings: Keys of :class:`tuner.settings.SweepSettings`, such as ``max_trials=200`` or ``target="sm_90a"``.

    Returns:
        Winners per regime with their intervals, failures by kind, and the export or, in ``export_failure``, why there
        is none although the sweep has winners.

    Raises:
        TunerError, SpaceError, StoreError, WorkerError: The message is one line; finished trials are kept.
    """
    from tuner.commands.sweep import run_sweep
    from tuner.own_process import call, is_in_a_task
    from tuner.settings import load

    effective = load({"definition": definition, **settings}, None if config is None else Path(config))
    if is_in_a_task() and "ray_address" not in settings:
        effective = effective.model_copy(update={"ray_address": None})  # RAY_ADDRESS is Ray's word to its workers here
    return call(run_sweep, settings=effective, resume=resume, out=None if out is None else Path(out))


def export_solution(sweep: int | None = None, *, out: Path | str, **options: Any) -> Export:
    """Export a finished sweep: the given one, else the newest one that fits.

    Works where :func:`sweep` does. Options are those of :func:`tuner.results.export.export_solution`.

    Raises:
        NothingFoundError: No such sweep, or it has no winner.
        ExportRefusedError: The Solution does not pass on this machine.
    """
    from tuner.own_process import call
    from tuner.results import export

    return call(export.export_solution, sweep=sweep, out=Path(out), **options)


def best_config(
    definition: str,
    axes: Mapping[str, int] | None = None,
    *,
    hardware: str | None = None,
    target: str | None = None,
    profile: str | None = None,
    db: str | None = None,
) -> BestConfig | None:
    """The best known config for a problem size; never measures and never needs a GPU.

    Args:
        definition: Name of the definition.
        axes: Values of the variable axes, such as ``{"seq_len": 57}``.
        hardware: A GPU or CPU name as recorded; ``auto`` for this machine's. None if all records are of
            one kind of hardware.
        target: ``cpu``, ``sm_90a`` or ``sm_100a``; None for whatever the hardware was tuned for.
        profile: What the inputs look like, such as ``hot:3``; None for the mix that was tuned for.
        db: Database URL.

    Returns:
        The config, how it was found, where it was measured, and its interval; None if nothing is known.

    Raises:
        UsageError: The question is incomplete, or names an axis or a target that does not exist.
        StoreError: The database that ``db`` names is missing, or cannot be used.
    """
    from tuner.database import open_existing
    from tuner.results.best_config import best_config as look_up
    from workers.devices.environment import hardware_named

    with open_existing(db) as store:
        model = hardware_named(hardware)
        return look_up(store.best, definition, dict(axes or {}), hardware=model, target=target, profile=profile)
