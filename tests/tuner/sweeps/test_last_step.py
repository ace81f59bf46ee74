"""The last step cannot lose the search: real sweeps (without Ray) whose export fails, and what is left of them."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from db.store import Store
from tests.tuner import toy
from tests.tuner.without_ray import command

ROOT = Path(__file__).resolve().parents[3]
LOADS = [{"n": 8, "heads": 2}, {"n": 300, "heads": 2}]
WORKS_UP_TO_1000 = "if step == 4 and x.shape[0] > 1000:\n    raise ValueError('too many rows')\ny.copy_(x + 1)"
QUICK = ["--dataset", "d", "--space", "k", "--target", "cpu", "--max-trials", "2", "--sampler", "grid"]
QUICK += ["--config", "quick.yaml"]


class Place:
    """A folder with a dataset ``d``, a kernel ``k`` and a database, in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = f"sqlite:///{folder}/results.db"
        toy.dataset(folder / "d", LOADS)
        toy.quick_settings(folder)
        self.kernel(WORKS_UP_TO_1000)

    def kernel(self, body: str) -> None:
        toy.kernel(self.folder / "k", body, "x.shape[0]", size_axis="n")

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return command(self.folder, *arguments, **environment)

    def state(self) -> tuple[str, int]:
        with Store.open(self.database) as store:
            return store.sweeps.get(1).state, len(store.winners.of(1))


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def test_an_export_that_fails_at_the_end_leaves_the_winners_and_names_the_way_on(place):
    """The folder was good when the sweep began, and is a file when it ends."""
    done = place.run("--spoil", "out", "sweep", *QUICK, "--out", "out")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tuner: no Solution can be written into out")
    assert "over default" in done.stdout
    assert "go on with: tuner export 1 --out out" in done.stdout
    assert place.state() == ("DONE", 2)
    with Store.open(place.database) as store:
        measured = store.catalog.rates(store.sweeps.get(1).environment_id)
    assert set(measured) == {"copy_bytes_per_us", "multiply_add_flop_per_us"}

    (ask,) = [line for line in done.stdout.splitlines() if line.startswith("ask for it: tuner ")]
    told = place.run(*shlex.split(ask.removeprefix("ask for it: tuner ")))
    assert "found: exact (measured on workload w0 with heads=2, n=8)" in told.stdout
    assert "decided by: n" in told.stdout

    (place.folder / "out").unlink()
    # The kernel has characters that this locale does not.
    done = place.run("export", "1", "--out", "out", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert "PASSED on 2 of 2 workloads" in done.stdout
    assert [line.partition(" PASSED ")[0] for line in done.stderr.splitlines() if " PASSED " in line] == [
        "workload 1 of 2 (n=8 heads=2):",
        "workload 2 of 2 (n=300 heads=2):",
    ]
    (solution,) = (place.folder / "out" / "solutions").rglob("*.json")
    assert "Größe" in solution.read_text(encoding="utf-8")
    sources = {s["path"]: s["content"] for s in json.loads(solution.read_text(encoding="utf-8"))["sources"]}
    scope: dict = {}
    exec(sources["config.py"], scope)
    assert scope["select"](5000) == {"step": 1}, "beyond the measured sizes the default"

    done = place.run("export", "1", "--sweep", "2", "--out", "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "two; name one" in done.stderr


def test_a_bug_in_the_export_shows_the_winners_before_it_shows_itself(place):
    done = place.run("--bug", "sweep", *QUICK, "--json")
    assert done.returncode == 1
    assert "ZeroDivisionError: a bug" in done.stderr
    document = json.loads(done.stdout)
    assert (document["export"], document["export_error"], len(document["winners"])) == (None, "a bug", 2)
    assert place.state() == ("DONE", 2)
    told = json.loads(place.run("status", "1", "--json").stdout)
    assert document["winners"] == told["winners"], "what the sweep says of them is what the database has"
    on = [(w["workload"], w["axes"], w["profile"]) for winner in document["winners"] for w in winner["workloads"]]
    assert on == [(f"w{i}", axes, "recorded") for i, axes in enumerate(LOADS)]

    assert place.run("report", "1", "--out", "new/folder/page.html").returncode == 0
    assert (place.folder / "new/folder/page.html").is_file()
    for where in ("k/main.py/page.html", "new/folder"):
        done = place.run("report", "1", "--out", where)
        assert (done.returncode, done.stderr.count("\n")) == (4, 1), done.stderr
        assert f"cannot be written to {where}" in done.stderr
    assert [p.name for p in (place.folder / "new").rglob("*.part")] == []


def test_a_sweep_in_which_nothing_passed_is_not_done(place):
    place.kernel("y.copy_(x + 2)")
    done = place.run("sweep", *QUICK)
    assert done.returncode == 3
    assert "tuner status 1" in done.stdout
    assert place.state() == ("FAILED", 0)
    assert "no finished sweep" in place.run("export", "--out", "out").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--out", "k/main.py"], 4, "no Solution can be written into k/main.py"),
        (["--size-axis", "depth"], 2, "'depth' is not a variable axis"),
        (["--out", "other"], 2, "another definition 'a'"),
    ],
)
def test_what_the_end_needs_is_asked_for_before_the_first_trial(arguments, code, said, place):
    toy.dataset(place.folder / "other", LOADS, reference="def run(x):\n    return x + 2\n")
    done = place.run("sweep", *QUICK, *arguments)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert said in line
    with Store.open(place.database) as store:
        assert store.sweeps.newest() == []


def solution(place: Place, name: str, definition: str = "a", body: str = "y.copy_(x + 1)") -> str:
    """What runs today, in a file."""
    content = f"import time\ndef run(x, y):\n    {body}\n"
    document = {
        "name": name, "definition": definition, "author": "a", "description": "",
        "spec": {"language": "python", "target_hardware": ["cpu"], "entry_point": "main.py::run", "dependencies": [],
                 "destination_passing_style": True},
        "sources": [{"path": "main.py", "content": content}],
    }  # fmt: skip
    (place.folder / f"{name}.json").write_text(json.dumps(document))
    return f"{name}.json"


def test_winners_are_measured_beside_what_runs_today(place):
    """Over a default of the space's own says little to whoever runs another kernel."""
    slow = solution(place, "today", body="time.sleep(0.02); y.copy_(x + 1)")
    done = place.run("sweep", *QUICK, "--out", "out", "--baseline", slow)
    assert done.returncode == 0, done.stderr
    assert "tuned takes 0.0" in done.stdout
    assert "times as long as baseline (faster)" in done.stdout
    with Store.open(place.database) as store:
        kept = store.sweeps.get(1).summary["baseline"]
    assert list(kept["solutions"]) == ["baseline", "tuned"]
    assert kept["ratio_to_first"]["tuned"]["verdict"] == "faster"
    report = place.run("report", "1", "--out", "page.html")
    assert report.returncode == 0, report.stderr
    assert "Beside other Solutions" in (place.folder / "page.html").read_text()


def test_a_baseline_that_does_not_fit_is_told_before_the_first_trial(place):
    for file, said in (
        (solution(place, "other", definition="b"), "other.json solves b, not a"),
        ("missing.json", "missing.json cannot be read: No such file"),
    ):
        done = place.run("sweep", *QUICK, "--baseline", file)
        assert done.returncode == 2
        assert said in done.stderr


def test_a_baseline_that_fails_costs_the_sweep_nothing(place):
    wrong = solution(place, "wrong", body="y.copy_(x + 2)")
    done = place.run("sweep", *QUICK, "--out", "out", "--baseline", wrong)
    assert done.returncode == 0, done.stderr
    assert "baseline is left out: INCORRECT_NUMERICAL" in done.stdout
    assert "Solution " in done.stdout
