"""What a bench run says about Solutions that were measured, skipped or failed; and the report that shows it."""

import json
from collections.abc import Iterator

import pytest
from rich.console import Console

from db.store import Store
from tests.tuner import toy
from tuner.cli.tune import _bench_table
from tuner.commands.bench import _told_apart
from tuner.commands.bench_result import BenchResult, skipped
from tuner.errors import UsageError
from tuner.results.report import write_report
from tuner.results.report.side_by_side import read
from tuner.settings import load
from tuner.sweeps.setup import resolve
from workers.records import Evaluation, Measurement, Method, Status, Variant

DEFINITION = "gemm"


def passed(name: str, us: float) -> Evaluation:
    samples = tuple(us + 0.01 * (i % 3) for i in range(12))
    return Evaluation(name, Status.PASSED, (Measurement("w1", Status.PASSED, samples, us, us - 1, us + 1),))


@pytest.fixture
def result() -> BenchResult:
    no_gpu = "there is no CUDA device\nTraceback (most recent call last)"
    evaluations = {
        "tuned": passed("tuned", 20.0),
        "triton": passed("triton", 30.0),
        "deepgemm": Evaluation("deepgemm", Status.SKIPPED, message=no_gpu),
        "broken": Evaluation("broken", Status.COMPILE_ERROR, message="no such file\nmore"),
    }
    return BenchResult(DEFINITION, "NVIDIA H100", tuple(evaluations), {"w1": "seq_len=1"}, evaluations)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open("sqlite://") as opened:
        yield opened


def test_a_solution_that_cannot_run_here_is_skipped_with_its_reason(result):
    assert skipped(result.evaluations["deepgemm"]) == "there is no CUDA device"
    assert skipped(result.evaluations["broken"]) is None
    ((axes, cells),) = result.rows()
    assert (axes, cells[2:]) == ("seq_len=1", ["skipped", "COMPILE_ERROR"])
    assert list(result.verdicts())[1:] == [
        "deepgemm is skipped: there is no CUDA device",
        "broken is left out: COMPILE_ERROR no such file",
    ]
    assert result.document()["solutions"]["deepgemm"]["skipped"] == "there is no CUDA device"


def test_the_report_shows_a_bench_run(result, scene, store, tmp_path):
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps(result.document()))
    sweep_id = scene(store, definition=DEFINITION).finished()
    page = write_report(store, sweep_id, tmp_path / "page.html", bench).read_text()
    assert "Beside other Solutions" in page
    assert "deepgemm: skipped: there is no CUDA device." in page
    assert "1.500 [" in page
    assert "Beside other Solutions" not in write_report(store, sweep_id, tmp_path / "plain.html").read_text()


def timed(name: str, **us: float) -> Evaluation:
    """Timed on two workloads, in each of the modes."""
    conditions = {} if "cuda_graph" in us else {"uncaptured": "it cannot be captured in a CUDA graph: it syncs\nmore"}
    measurements = tuple(
        Measurement(
            w, Status.PASSED, tuple(t + 0.01 * (i % 3) for i in range(12)), t, t - 1, t + 1,
            conditions=conditions, method=Method(mode=mode),
        )
        for w in ("w1", "w2") for mode, t in us.items()
    )  # fmt: skip
    return Evaluation(name, Status.PASSED, measurements)


@pytest.mark.parametrize(("number", "of_columns"), [(2, True), (14, False)])
def test_every_figure_of_a_bench_can_be_read_whatever_the_number_of_solutions(number, of_columns):
    """Fourteen columns in a terminal's width were "g…" over "1…"."""
    evaluations = {f"solution_{i}": passed(f"solution_{i}", 100.0 + i) for i in range(number)}
    console = Console(width=80)
    table = _bench_table(BenchResult(DEFINITION, "CPU", tuple(evaluations), {"w1": "n=8"}, evaluations), console)
    with console.capture() as told:
        console.print(table)
    assert ("time" not in told.get()) is of_columns
    for i in range(number):
        assert f"solution_{i}" in told.get()
        assert f"{100 + i} us [{99 + i} us, {101 + i} us]" in told.get()


def test_graphs_are_compared_with_graphs_and_eager_figures_with_eager_ones():
    """The second one would look five times as slow beside graphs: the host's part is in its figures alone."""
    evaluations = {
        "ours": timed("ours", cuda_graph=20.0, eager=100.0),
        "syncs": timed("syncs", eager=90.0),
        "other": timed("other", cuda_graph=30.0, eager=95.0),
    }
    result = BenchResult(DEFINITION, "GPU", tuple(evaluations), {"w1": "n=1", "w2": "n=2"}, evaluations)
    ratios = result.against_first()
    assert ratios["syncs"].ratio == pytest.approx(0.9, rel=1e-2)
    assert ratios["other"].ratio == pytest.approx(1.5, rel=1e-2)
    rows = dict(result.rows())
    assert list(rows) == ["n=1 (as graphs)", "n=1 (eagerly)", "n=2 (as graphs)", "n=2 (eagerly)"]
    assert rows["n=1 (as graphs)"][1] == "-"
    assert [cell.split()[0] for cell in rows["n=1 (eagerly)"]] == ["100", "90", "95"]
    said = list(result.verdicts())
    assert said[0].endswith("both timed eagerly")
    assert said[1].endswith("both timed as graphs")
    assert "syncs is timed eagerly: it cannot be captured in a CUDA graph: it syncs more" in said
    document = result.document()
    assert document["ratio_to_first"]["syncs"]["mode"] == "eager"
    figures = document["solutions"]["ours"]["workloads"]["w1"]
    assert (figures["mode"], figures["median_us"], figures["eager"]["median_us"]) == ("cuda_graph", 20.0, 100.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{", "bench file .*bench.json is not JSON: Expecting property name"),
        ('{"solutions": {}}', "is not what `tuner bench --json` writes: KeyError"),
        ('{"solutions": {}, "definition": "other", "ratio_to_first": {}, "hardware": "x"}', "is about other"),
    ],
)
def test_a_file_that_is_no_bench_run_is_one_line(text, said, tmp_path):
    path = tmp_path / "bench.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read(path, DEFINITION)


def of(folder, file: str, name: str) -> str:
    path = folder / f"{file}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({"name": name}))
    return str(path)


def test_files_with_solutions_of_one_name_are_told_apart_by_their_own_names(tmp_path):
    """``my-team-solution-v1`` is the name that a starter kit gives to everybody."""
    files = [of(tmp_path, "ours", "kit"), of(tmp_path, "theirs", "kit"), of(tmp_path, "third", "another")]
    variants = [Variant(n, DEFINITION, {}, "main.py::run", "python", "cpu") for n in ("kit", "kit", "another")]
    assert [v.key for v in _told_apart(files, variants)] == ["ours", "theirs", "another"]
    below = [of(tmp_path / folder, "solution", "kit") for folder in ("a", "b")]
    assert [v.key for v in _told_apart(below, variants[:2])] == below
    with pytest.raises(UsageError, match=r"ours\.json is given twice"):
        _told_apart([files[0], files[0]], variants[:2])


def test_workloads_are_chosen_by_size(tmp_path):
    data = toy.dataset(tmp_path, [{"n": 1, "k": 8}, {"n": 57, "k": 8}, {"n": 57, "k": 16}])

    def chosen(**given):
        settings = load({"dataset": data, "definition": "a", "target": "cpu", **given})
        return [w["uuid"] for w in resolve(settings).problem.workloads]

    assert chosen(axes=("n=57",)) == ["w1", "w2"]
    assert chosen(axes=("n=57", "n=1", "k=8")) == ["w0", "w1"]
    assert chosen(axes=("n=57",), workloads=("w2",)) == ["w2"]
    with pytest.raises(UsageError, match=r"no workload of a has n=58; sizes of n are 1, 57"):
        chosen(axes=("n=58",))
    with pytest.raises(UsageError, match="there is no axis 'seq_len'"):
        chosen(axes=("seq_len=1",))
    with pytest.raises(UsageError, match="no workload of a starts with x; it has 3"):  # it was left out without a word
        chosen(workloads=("w0", "x"))
    with pytest.raises(UsageError, match="must be NAME=NUMBER, such as seq_len=57"):
        chosen(axes=("n",))
