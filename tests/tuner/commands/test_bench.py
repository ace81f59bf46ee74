"""What a bench run says about Solutions that were measured, skipped or failed; and the report that shows it."""

import json
from collections.abc import Iterator

import pytest

from db.store import Store
from tuner.commands.bench_result import BenchResult, skipped
from tuner.errors import UsageError
from tuner.results.report import write_report
from tuner.results.report.side_by_side import read
from workers.records import Evaluation, Measurement, Status

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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{", "is not what `tuner bench --json` writes: JSONDecodeError"),
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
