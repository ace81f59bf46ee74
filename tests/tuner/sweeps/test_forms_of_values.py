"""A space with tuples, groups and listed configs from a sweep to its Solution, database, replay and other programs."""

import json

import optuna
import pytest

from benchmarks.search_replay.recording import read_recording
from db.store import Store
from tests.tuner import toy
from tests.tuner.without_ray import command
from tuner.results import documents
from tuner.results.best_config import BestConfig
from tuner.results.optuna_export import export_study
from tuner.results.recording import record_sweep, write_recording
from tuner.results.report import write_report
from tuner.settings import SweepSettings

SPACE = """
op_type: toy
targets: [cpu]
entry_point: main.py::run
size_axis: n
configs: [{cluster: [1, 1], warps: 4}, {cluster: [2, 1], warps: 4}, {cluster: [2, 2], warps: 8}]
parameters:
  gemm: {block: [16, 64], order: {values: [rows, columns]}}
constraints:
  - expression: gemm.block * cluster[0] <= 64
    reason: small
default: {cluster: [2, 1], warps: 4, gemm: {block: 16, order: rows}}
starts: [{config: {cluster: [1, 1], gemm.block: 64}}]
"""
MAIN = """
from .config import select
def run(x, y):
    config = select(x.shape[0])
    assert isinstance(config["cluster"], tuple)
    y.copy_(x + config["gemm.block"] // config["gemm.block"])
"""
VALID = 3 * 2 + 2
"""Each listed config with two orders and the small block; only one with the large block."""


@pytest.fixture
def place(tmp_path):
    toy.dataset(tmp_path / "d", [{"n": 8}])
    folder = toy.kernel(tmp_path / "k", size="x.shape[0]")
    (folder / "main.py").write_text(MAIN)
    (folder / "space.yaml").write_text(SPACE)
    toy.quick_settings(tmp_path)
    return tmp_path


def tuner(place, *arguments):
    done = command(place, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


SWEEP = ("sweep", "--dataset", "d", "--space", "k", "--target", "cpu", "--config", "quick.yaml", "--out", "out")


def test_every_form_goes_from_the_file_to_the_solution(place):
    """A list for a tuple anywhere on the way would be another value, or none that can be a key."""
    tuner(place, *SWEEP, "--max-trials", "3")
    tuner(place, "sweep", "--resume", "1", "--max-trials", "50")
    with Store.open(f"sqlite:///{place}/results.db") as store:
        trials = store.trials.of(1)
    assert len(trials) == VALID
    assert {type(t.config["cluster"]) for t in trials} == {tuple}
    assert trials[1].config == {"cluster": (1, 1), "warps": 4, "gemm.block": 64, "gemm.order": "rows"}

    answer = json.loads(tuner(place, "best", "--definition", "a", "--axes", "n=8", "--json"))
    assert isinstance(answer["config"]["cluster"], list)
    read = documents.read(BestConfig, answer)
    assert isinstance(read.config["cluster"], tuple)

    (solution,) = (place / "out" / "solutions").rglob("*.json")
    sources = {s["path"]: s["content"] for s in json.loads(solution.read_text())["sources"]}
    scope: dict = {}
    exec(sources["config.py"], scope)
    assert scope["select"](8) == read.config

    given = SweepSettings(db=f"sqlite:///{place}/results.db", dataset=place / "d")
    with Store.open(given.db) as store:
        write_report(store, 1, place / "report.html", None)
        export_study(store, 1, place / "study.db")
        write_recording(place / "recorded.replay.json.gz", record_sweep(store, 1, None, given))
    assert "gemm.block" in (place / "report.html").read_text()
    study_db = f"sqlite:///{place}/study.db"
    (study,) = optuna.get_all_study_summaries(study_db)
    loaded = optuna.load_study(study_name=study.study_name, storage=study_db)
    assert {t.params["cluster"] for t in loaded.trials} == {"(1, 1)", "(2, 1)", "(2, 2)"}
    recording = read_recording(place / "recorded.replay.json.gz")
    assert {tuple(c.values()) for c in recording.space().enumerate()} == {
        tuple(t.config[p.name] for p in recording.parameters) for t in trials
    }
    assert all(recording.row(t.config) is not None for t in trials)


def test_a_default_that_breaks_a_rule_at_some_size_is_refused_before_workers_start(place):
    rule = "  - expression: gemm.block > 16 or sizes.n > 100\n    reason: small blocks are for long rows\n"
    (place / "k" / "space.yaml").write_text(SPACE.replace("default:", f"{rule}default:"))
    done = command(place, *SWEEP, "--max-trials", "3")
    assert done.returncode == 2
    said = "tuner: space 'k': the default config is not valid: small blocks are for long rows (at n 8 to 8)"
    assert done.stderr.strip() == said
