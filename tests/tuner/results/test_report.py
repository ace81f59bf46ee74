"""Which sweep the report is of, where none is named."""

from db.store import Store
from tuner.results.report import write_report


def test_a_sweep_that_never_began_hides_no_earlier_one(tmp_path, monkeypatch, scene):
    """Catches the newest row of all, which is stored before its workers start: it has nothing to report."""
    monkeypatch.chdir(tmp_path)
    with Store.open(f"sqlite:///{tmp_path}/a.db") as store:
        found = scene(store)
        measured = found.sweep()
        store.trials.commit(found.trial(measured, 0))
        found.sweep()
        assert write_report(store).name == f"tuner-report-{measured}.html"
