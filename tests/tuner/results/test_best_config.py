"""The best-config query on real stores: what it answers, how it says it was found, and when it answers nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db.records import (
    ExportRecord,
    StoredBuild,
    SweepRecord,
    TrialRecord,
    WinnerRecord,
    WinnerWorkload,
)
from db.store import Store
from tuner.errors import UsageError
from tuner.results.best_config import best_config
from workers.records import Environment, Status

ROOT = Path(__file__).parents[3]
H100 = "NVIDIA H100 80GB HBM3"
B200 = "NVIDIA B200"


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open("sqlite://") as opened:
        yield opened


def _winner(tile: int, low: int | None, high: int | None, *sizes: int, axis: str | None = "seq_len") -> WinnerRecord:
    """The config {"tile": tile} for a regime; on a workload of size s it takes s * 10 us."""
    workloads = tuple(WinnerWorkload(f"w{s}", s * 10.0, s * 9.0, s * 11.0, s * 20.0) for s in sizes)
    return WinnerRecord(
        regime=f"{low}-{high}",
        config_hash=f"hash{tile}",
        median_us=50.0,
        low_us=45.0,
        high_us=55.0,
        default_median_us=70.0,
        workloads=workloads,
        size_axis=axis,
        min_size=low,
        max_size=high,
    )


def _sweep(
    store: Store,
    *winners: WinnerRecord,
    definition: str = "moe",
    hardware: str = H100,
    axes: dict[str, dict[str, int]] | None = None,
    target: str = "sm_90a",
) -> int:
    """Id of a finished sweep with these winners, written as the sweep loop writes it."""
    environment = Environment(hardware, target, versions={"torch": "2.13.0"}, fingerprint=f"env {hardware}")
    definition_id = store.catalog.register_definition(definition, "moe", {"name": definition})
    space_id = store.catalog.register_space("moe_fp8_cute", target, "src")
    for workload in {w.workload for winner in winners for w in winner.workloads}:
        name, _, profile = workload.partition("~")
        size = (axes or {}).get(workload, {"seq_len": int(name[1:])})
        store.catalog.register_workload(definition_id, workload, size, "", profile=profile or "recorded")
    sweep_id = store.sweeps.create(
        SweepRecord(definition_id, space_id, store.catalog.register_environment(environment), owner="test")
    )
    for number, winner in enumerate(winners):
        config = {"tile": int(winner.config_hash.removeprefix("hash"))}
        build = StoredBuild("", Status.BUILT, 0.0, toolchain="dsl")
        store.trials.commit(TrialRecord(sweep_id, number, config, winner.config_hash, "", "PASSED", 1.0, build=build))
    store.winners.set(sweep_id, winners)
    store.sweeps.finish(sweep_id, "DONE", {})
    return sweep_id


SMALL = _winner(1, 0, 16, 1, 10)
LARGE = _winner(2, 17, None, 100, 1000)


def _found(store: Store, size: int, **options: Any) -> tuple[str, int] | None:
    answer = best_config(store.best, "moe", {"seq_len": size}, **options)
    return None if answer is None else (answer.found, answer.config["tile"])


def test_a_measured_workload_is_exact_and_has_its_own_figures(store: Store) -> None:
    sweep_id = _sweep(store, SMALL, LARGE)
    finished_at = store.sweeps.get(sweep_id).finished_at
    assert finished_at is not None
    answer = best_config(store.best, "moe", {"seq_len": 100}, now=finished_at + 3600)
    assert answer is not None
    assert (answer.found, answer.distance, answer.config) == ("exact", 1.0, {"tile": 2})
    assert answer.detail == "measured on workload w100 with seq_len=100"
    assert (answer.median_us, answer.low_us, answer.high_us, answer.default_median_us) == (
        1000.0,
        900.0,
        1100.0,
        2000.0,
    )
    assert (answer.hardware, answer.environment.versions) == (H100, {"torch": "2.13.0"})
    assert answer.age_s == pytest.approx(3600)
    assert (answer.sweep_id, answer.regime, answer.space, answer.target) == (
        sweep_id,
        "17-None",
        "moe_fp8_cute",
        "sm_90a",
    )
    assert (answer.solution, answer.export_id) == (None, None)


def test_of_several_workloads_with_the_same_axes_the_slowest_speaks(store: Store) -> None:
    _sweep(store, _winner(1, 0, None, 5, 6), axes={"w5": {"seq_len": 5}, "w6": {"seq_len": 5}})
    answer = best_config(store.best, "moe", {"seq_len": 5})
    assert answer is not None
    assert (answer.median_us, answer.detail) == (60.0, "measured on workload w6, the slowest of 2 with seq_len=5")


def test_a_config_that_is_forbidden_at_a_size_is_not_named_for_it(store: Store) -> None:
    """A constraint of the space on the size holds beyond what was measured, too."""
    _sweep(store, SMALL, replace(LARGE, unfit_sizes=((17, 40), (1500, None))))
    assert [_found(store, size) for size in (17, 40, 41, 999, 1499, 1500)] == [
        ("nearest", 1), ("nearest", 1), ("regime", 2), ("regime", 2), ("nearest", 2), None
    ]  # fmt: skip


@pytest.mark.parametrize(("size", "tile"), [(0, 1), (2, 1), (16, 1), (17, 2), (999, 2)])
def test_a_size_between_is_answered_by_its_regime(store: Store, size: int, tile: int) -> None:
    _sweep(store, SMALL, LARGE)
    answer = best_config(store.best, "moe", {"seq_len": size})
    assert answer is not None
    assert (answer.found, answer.config, answer.distance) == ("regime", {"tile": tile}, 1.0)
    assert (answer.median_us, answer.low_us, answer.high_us, answer.default_median_us) == (50.0, 45.0, 55.0, 70.0)
    sizes = "1 to 10" if tile == 1 else "100 to 1000"
    assert answer.detail == f"regime {answer.regime} of seq_len, from 2 workloads of size {sizes}"


def test_of_several_axes_the_winners_own_decides(store: Store) -> None:
    """Records by the second axis: the first one neither picks a regime nor counts as a distance."""
    small, large = _winner(1, 0, 16, 8, axis="cols"), _winner(2, 17, None, 4096, axis="cols")
    _sweep(store, small, large, axes={"w8": {"rows": 4, "cols": 8}, "w4096": {"rows": 4, "cols": 4096}})

    def ask(**axes: int) -> tuple[str, int, str | None] | None:
        answer = best_config(store.best, "moe", axes)
        return None if answer is None else (answer.found, answer.config["tile"], answer.document()["size_axis"])

    assert ask(rows=4, cols=4096) == ("exact", 2, "cols")
    assert ask(rows=9999, cols=8) == ("regime", 1, "cols")
    assert ask(rows=1, cols=10_000) == ("nearest", 2, "cols")
    assert ask(rows=4, cols=20_000) is None
    assert ask(cols=100) == ("regime", 2, "cols")
    with pytest.raises(UsageError, match="which one, such as --axes cols=57"):
        ask(rows=4)
    with pytest.raises(UsageError, match="no variable axis 'depth'; its axes are cols, rows"):
        ask(rows=4, depth=1)


def test_without_a_size_axis_nothing_decides(store: Store) -> None:
    _sweep(store, _winner(3, None, None, 8, axis=None), axes={"w8": {"rows": 4, "cols": 8}})
    answer = best_config(store.best, "moe", {"rows": 1, "cols": 10**6})
    assert answer is not None
    assert (answer.found, answer.config, answer.size_axis) == ("regime", {"tile": 3}, None)
    assert answer.detail == "one config for all sizes, from 1 workload"


def test_a_size_beyond_all_measured_ones_is_only_near(store: Store) -> None:
    _sweep(store, SMALL, LARGE)
    answer = best_config(store.best, "moe", {"seq_len": 2500})
    assert answer is not None
    assert (answer.found, answer.distance, answer.config) == ("nearest", 2.5, {"tile": 2})
    assert answer.detail == "nearest measured size: seq_len=1000, 2.5 times away"
    assert answer.median_us == 10000.0
    assert _found(store, 4000) == ("nearest", 2)
    assert _found(store, 4001) is None


def test_a_gap_between_regimes_is_answered_by_the_nearer_side(store: Store) -> None:
    _sweep(store, SMALL, replace(LARGE, min_size=65))
    assert _found(store, 20) == ("nearest", 1)
    assert _found(store, 60) == ("nearest", 2)


def test_a_config_for_all_sizes_is_the_regime_of_every_size(store: Store) -> None:
    _sweep(store, _winner(3, None, None, 1, 10, axis=None))
    assert _found(store, 5000) == ("regime", 3)
    answer = best_config(store.best, "moe", {})
    assert answer is not None
    assert answer.detail == "one config for all sizes, from 2 workloads"
    assert _found(store, 10) == ("exact", 3)


def test_another_gpu_is_never_used(store: Store) -> None:
    _sweep(store, SMALL, hardware=B200)
    assert _found(store, 1, hardware=H100) is None
    assert _found(store, 1, hardware="NVIDIA") is None
    _sweep(store, replace(SMALL, config_hash="hash9"), hardware=H100)
    assert _found(store, 1, hardware="nvidia b200") == ("exact", 1)
    assert _found(store, 1, hardware=H100) == ("exact", 9)


def test_without_hardware_only_one_model_may_be_recorded(store: Store) -> None:
    _sweep(store, SMALL, hardware=B200)
    assert _found(store, 1) == ("exact", 1)
    _sweep(store, SMALL, hardware=H100)
    with pytest.raises(UsageError, match=f"'moe' was tuned on {B200}, {H100}; say which one is meant with --hardware"):
        _found(store, 1)


def test_an_unknown_definition_has_no_answer(store: Store) -> None:
    _sweep(store, SMALL, definition="gemm")
    assert _found(store, 1) is None


def test_the_newer_sweep_answers_where_both_can(store: Store) -> None:
    _sweep(store, SMALL, LARGE)
    _sweep(store, replace(_winner(7, 0, None, 10, 200), regime="all"))
    assert _found(store, 10) == ("exact", 7)
    assert _found(store, 11) == ("regime", 7)
    assert _found(store, 100) == ("exact", 2)
    assert _found(store, 500) == ("regime", 2)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"seqlen": 5}, "'moe' has no variable axis 'seqlen'; its axes are seq_len"),
        ({"seq_len": -1}, "axis 'seq_len' cannot be -1"),
        ({}, "'moe' was tuned by size; say which one, such as --axes seq_len=57"),
    ],
)
def test_a_question_that_cannot_be_meant(store: Store, axes: dict[str, int], message: str) -> None:
    _sweep(store, SMALL, LARGE)
    with pytest.raises(UsageError, match=message):
        best_config(store.best, "moe", axes)


def test_exact_needs_every_axis(store: Store) -> None:
    axes = {"w1": {"seq_len": 1, "batch": 4}, "w10": {"seq_len": 10, "batch": 4}}
    _sweep(store, SMALL, axes=axes)
    assert best_config(store.best, "moe", {"seq_len": 10, "batch": 4}).found == "exact"  # type: ignore[union-attr]
    assert best_config(store.best, "moe", {"seq_len": 10}).found == "regime"  # type: ignore[union-attr]
    assert best_config(store.best, "moe", {"seq_len": 10, "batch": 8}).found == "regime"  # type: ignore[union-attr]


def test_the_exported_solution_is_named(store: Store) -> None:
    sweep_id = _sweep(store, SMALL)
    export_id = store.exports.record(ExportRecord(sweep_id, "moe-tuned", "digest"))
    answer = best_config(store.best, "moe", {"seq_len": 1})
    assert answer is not None
    assert (answer.solution, answer.export_id) == ("moe-tuned", export_id)


def test_the_document_is_json_with_units_in_its_keys(store: Store) -> None:
    _sweep(store, SMALL)
    answer = best_config(store.best, "moe", {"seq_len": 1}, now=1e12)
    assert answer is not None
    document = json.loads(json.dumps(answer.document()))
    assert document["config"] == {"tile": 1}
    assert document["environment"]["hardware"] == H100
    assert {"found", "detail", "median_us", "low_us", "high_us", "age_s", "sweep_id", "solution"} <= set(document)


def test_a_lookup_loads_nothing_heavy(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.db"
    with Store.open(url) as store:
        _sweep(store, SMALL)
    code = (
        "import sys\n"
        "from db.store import Store\n"
        "from tuner.results.best_config import best_config\n"
        "assert best_config(Store.open(sys.argv[1], create=False).best, 'moe', {'seq_len': 1}).found == 'exact'\n"
        "heavy = {'torch', 'ray', 'optuna', 'numpy', 'cutlass', 'alembic', 'psycopg', 'flashinfer_bench'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, url], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_profile_has_a_winner_of_its_own_and_the_mix_keeps_its_own(store: Store) -> None:
    mix = _winner(1, 0, 64, 7, 20)
    hot = WinnerWorkload("w20~hot:3", 5.0, 4.0, 6.0, 9.0)
    mix = replace(mix, workloads=(*mix.workloads, hot))
    alone = replace(mix, config_hash="hash2", profile="hot:3", workloads=(hot,), median_us=5.0)
    sweep_id = _sweep(store, mix, alone)

    def tile(seq_len: int, profile: str | None = None) -> tuple[int, str]:
        found = best_config(store.best, "moe", {"seq_len": seq_len}, profile=profile)
        assert found is not None
        return found.config["tile"], found.profile

    assert tile(20) == (1, "recorded")
    assert tile(30) == (1, "")
    assert tile(20, "hot:3") == (2, "hot:3")
    assert tile(15, "hot:3") == (2, "hot:3")
    assert [w.config_hash for w in store.winners.of(sweep_id)] == ["hash1"]
    assert [w.profile for w in store.winners.of(sweep_id, alone=True)] == ["hot:3"]
    with pytest.raises(UsageError, match="not tuned for profile 'uniform'; measured were hot:3, recorded"):
        best_config(store.best, "moe", {"seq_len": 20}, profile="uniform")


def test_records_of_several_targets_are_asked_for_by_target(store: Store) -> None:
    """A machine with a GPU sweeps for its CPU too; without a word on the target, it is not guessed."""
    _sweep(store, _winner(1, 0, 64, 7), target="sm_90a")
    _sweep(store, _winner(2, 0, 64, 7), target="cpu", hardware="Some CPU")

    def tile(target: str | None, hardware: str | None = None) -> int | None:
        found = best_config(store.best, "moe", {"seq_len": 7}, target=target, hardware=hardware)
        return None if found is None else found.config["tile"]

    assert (tile("sm_90a"), tile("cpu"), tile("sm_100a"), tile("cpu", H100)) == (1, 2, None, None)
    with pytest.raises(UsageError, match=r"with --hardware or --target \(cpu, sm_90a\)"):
        tile(None)
    with pytest.raises(UsageError, match="target 'sm_90' is unknown; allowed are cpu, sm_90a, sm_100a"):
        tile("sm_90")


def test_a_sweep_over_one_profile_answers_for_it(store: Store) -> None:
    _sweep(store, _winner(1, 0, 64, 7, 20))
    found = best_config(store.best, "moe", {"seq_len": 20}, profile="recorded")
    assert found is not None
    assert found.profile == "recorded"
