"""A sweep handed to optuna-dashboard, and the commands of ``tuner study`` and ``tuner db prune``."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from benchmarks.search_replay.recording import read_recording
from db.store import Store
from search_spaces.registry import space_for
from tuner.errors import NothingFoundError, UsageError
from tuner.results.optuna_export import export_study
from tuner.sweeps.setup import open_dataset

STATE = optuna.trial.TrialState


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("TUNER_DATASET", "FIB_DATASET_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNER_DB_URL", f"sqlite:///{tmp_path}/results.db")
    return f"sqlite:///{tmp_path}/results.db"


@pytest.fixture
def sweep_id(database: str, scene: Any) -> int:
    """A sweep with two regimes, one raced-out trial and one failure; a parameter with values of two kinds."""
    with Store.open(database) as store:
        stage = scene(store)
        sweep_id = int(stage.sweep())
        rows = [
            ("small", "PASSED", math.log(8.0), {"tile": 16, "layout": "flat"}),
            ("small", "RACED_OUT", math.log(20.0), {"tile": 128, "layout": "batched"}),
            ("small", "COMPILE_ERROR", None, {"tile": 64, "layout": None}),
            ("large", "PASSED", math.log(90.0), {"tile": 64, "layout": "flat"}),
        ]
        for number, (regime, state, objective, config) in enumerate(rows):
            store.trials.commit(
                stage.trial(
                    sweep_id, number, regime=regime, state=state, objective=objective, config=config,
                    reason="" if state == "PASSED" else "too slow", measurements=(), started_at=100.0 + number,
                    finished_at=101.0 + number,
                )
            )  # fmt: skip
        return sweep_id


def test_each_regime_is_a_study_with_the_trials_as_they_ended(database: str, sweep_id: int, tmp_path: Path) -> None:
    with Store.open(database) as store:
        written = export_study(store, sweep_id, tmp_path / "study.db")
    assert written == {f"sweep {sweep_id}, small": 3, f"sweep {sweep_id}, large": 1}
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.load_study(study_name=f"sweep {sweep_id}, small", storage=storage)
    assert [t.state for t in study.trials] == [STATE.COMPLETE, STATE.PRUNED, STATE.FAIL]
    assert [t.params["tile"] for t in study.trials] == [16, 128, 64]
    assert study.trials[0].distributions["tile"].choices == (16, 64, 128)
    assert study.trials[2].params["layout"] is None
    assert study.trials[2].user_attrs["status"] == "COMPILE_ERROR"
    assert [t.duration.total_seconds() for t in study.trials] == [1.0, 1.0, 1.0]
    assert study.best_value == pytest.approx(8.0)
    assert study.direction.name == "MINIMIZE"
    assert (study.user_attrs["hardware"], study.user_attrs["value"]) == ("NVIDIA H100", "latency in microseconds")


def test_a_file_that_exists_is_not_touched(database: str, sweep_id: int, tmp_path: Path) -> None:
    (tmp_path / "mine.db").write_text("mine")
    with Store.open(database) as store, pytest.raises(UsageError, match=r"mine\.db exists"):
        export_study(store, sweep_id, tmp_path / "mine.db")
    assert (tmp_path / "mine.db").read_text() == "mine"


def test_a_sweep_without_trials_leaves_no_file(database: str, scene: Any, tmp_path: Path) -> None:
    with Store.open(database) as store, pytest.raises(NothingFoundError, match="no trial"):
        export_study(store, scene(store).sweep(), tmp_path / "study.db")
    assert not list(tmp_path.glob("study.db*"))


def tuner(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tuner", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_commands(database: str, sweep_id: int, tmp_path: Path) -> None:
    out = tmp_path / "study.db"
    exported = tuner("study", "export", str(sweep_id), "--out", str(out), "--json")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["studies"] == {f"sweep {sweep_id}, small": 3, f"sweep {sweep_id}, large": 1}
    assert tuner("study", "export", "99", "--out", str(tmp_path / "other.db")).returncode == 3
    recorded = tuner("study", "record", str(sweep_id), "--out", str(tmp_path / "r.gz"))
    assert (recorded.returncode, recorded.stderr.count("\n")) == (2, 1)
    assert "gemm" in recorded.stderr
    assert not (tmp_path / "r.gz").exists()


def test_a_recorded_sweep_can_be_replayed(database: str, scene: Any, tmp_path: Path) -> None:
    definition = next(d for d in open_dataset(None).definitions.values() if d["op_type"] == "moe" and "e8" in d["name"])
    space = space_for(definition, "cpu", "moe_fp8_cpu")
    with Store.open(database) as store:
        stage = scene(store, definition["name"], target="cpu", space=space.name, fingerprint=space.fingerprint)
        sweep_id = stage.sweep()
        store.trials.commit(stage.trial(sweep_id, 0, config=space.default, config_hash="default"))
    recorded = tuner("study", "record", str(sweep_id), "--out", str(tmp_path / "moe.replay.json.gz"), "--json")
    assert recorded.returncode == 0, recorded.stderr
    recording = read_recording(tmp_path / "moe.replay.json.gz")
    assert [recording.config(row) for row in range(len(recording.points))] == [space.default]
    assert recording.times_ms(0) == {"w1": 0.002, "w2": 0.002}


def test_pruning_is_a_command(database: str, scene: Any) -> None:
    with Store.open(database) as store:
        stage = scene(store)
        old = stage.measurement("w1", measured_at=100.0)
        store.trials.commit(stage.trial(stage.sweep(), 0, measurements=(old, stage.measurement("w2"))))
    pruned = tuner("db", "prune", "--older-than-days", "1", "--json")
    assert json.loads(pruned.stdout)["pruned"] == 1
