"""From a sweep's winners to a Solution in a folder: what is written, what is recorded, and what is refused."""

import json
import re
from dataclasses import replace

import pytest

from db.records import StoredBuild, SweepRecord, TrialRecord, WinnerRecord, WinnerWorkload
from db.store import Store
from tests.tuner import toy
from tuner.commands.bench import run_bench
from tuner.errors import NothingFoundError, UsageError
from tuner.progress import Steps
from tuner.results.export import ExportRefusedError, export_solution, export_winners, newest_finished
from tuner.settings import SweepSettings
from tuner.sweeps.setup import resolve
from workers.devices.environment import cpu_model, gpu_name
from workers.fib import adapter as fib
from workers.fib.official_run import StockRun
from workers.records import BuildResult, Environment, Evaluation, Measurement, Prepared, Status
from workers.runner import Runner

HERE = Environment("AMD EPYC 7B13", "cpu", versions={"torch": "2.13.0"}, fingerprint="here")


class Workers(Runner):
    """Builds everything, and gives each workload its status."""

    builders = evaluators = 1
    submit_comparison = close = None

    def __init__(self, **statuses):
        self.statuses, self.outcomes, self.built_sources = statuses, [], {}

    def stock(self, job):
        """What flashinfer-bench's own run says: 9 us on each workload, but for what ``stock`` names."""
        (solution,) = job.solutions
        refused = self.statuses.get("stock", "")
        traces = []
        for uuid, n in (("w0", 8), ("w1", 300)):
            status = Status.INCORRECT_NUMERICAL if uuid == refused else Status.PASSED
            workload = {"uuid": uuid, "axes": {"n": n}, "inputs": {"x": {"type": "random"}}}
            trace = fib.trace("a", workload, solution["name"], Measurement(uuid, status, median_us=9.0), "H200", {})
            traces.append(trace.model_dump(mode="json"))
        return StockRun(None, 9.0, tuple(traces), "")

    def environment(self):
        return HERE

    def submit_build(self, variant):
        self.built_sources = variant.sources
        artifact = None if "build" in self.statuses else "folder"
        status = self.statuses.get("build", Status.BUILT)
        self.outcomes.append(BuildResult(variant.key, status, 0.1, artifact, log="error: no such register"))

    def submit_evaluation(self, job):
        (uuid,) = job.workloads
        status = self.statuses.get(uuid, Status.PASSED)
        found = Measurement(uuid, status, (7.0,) * 6, 7.0, 6.0, 8.0, conditions={"judged_by": {"y": "close"}})
        self.outcomes.append(Evaluation(job.variant.key, status, (found,), message="y is off by 3"))

    def wait(self, timeout_s):
        done, self.outcomes = self.outcomes, []
        return done


def winner(step: int, low: int, high: int | None, uuid: str) -> WinnerRecord:
    """The config {"step": step} for a regime with one workload."""
    load = WinnerWorkload(uuid, 7.0, 6.0, 8.0, 14.0)
    return WinnerRecord(
        f"{low}-{high}", f"hash{step}", 7.0, 6.0, 8.0, 14.0, 13.0, 15.0, (load,),
        config={"step": step}, size_axis="n", min_size=low, max_size=high,
    )  # fmt: skip


class Said(Steps):
    """Keeps what a command says."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


class Place:
    """A dataset, a kernel, and a database with a finished sweep of two regimes."""

    def __init__(self, folder, store, target="cpu", hardware=HERE.hardware):
        toy.dataset(folder / "d", [{"n": 8}, {"n": 300}])
        kernel = toy.kernel(folder / "k", size="x.shape[0]", size_axis="n", targets=["cpu", "sm_90a"])
        settings = SweepSettings(dataset=folder / "d", space=str(kernel), target=target, db="sqlite://")
        self.store, self.out, self.setup = store, folder / "out", resolve(settings)
        catalog = store.catalog
        definition = catalog.register_definition("a", "toy", {"name": "a"})
        for uuid, axes in (("w0", {"n": 8}), ("w1", {"n": 300})):
            catalog.register_workload(definition, uuid, axes, "")
        space = catalog.register_space("k", "cpu", "src")
        environment = catalog.register_environment(replace(HERE, hardware=hardware, fingerprint=hardware))
        self.sweep = store.sweeps.create(SweepRecord(definition, space, environment, owner="t"))
        self.winners = [winner(2, 0, 16, "w0"), winner(4, 17, None, "w1")]

    def export(self, runner, winners=None):
        for number, w in enumerate(winners or self.winners):
            build = StoredBuild("", Status.BUILT, 0.0, toolchain="t")
            record = TrialRecord(self.sweep, number, w.config, w.config_hash, w.regime, "PASSED", 7.0, build=build)
            self.store.trials.commit(record)
        self.store.winners.set(self.sweep, self.winners if winners is None else winners)
        self.store.sweeps.finish(self.sweep, "DONE", {"reference_by_workload_us": {"w0": 70.0, "w1": 140.0}})
        return export_winners(self.store, self.sweep, self.setup, self.setup.space(), runner, self.out)


@pytest.fixture
def place(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/results.db") as store:
        yield Place(tmp_path, store)


def test_a_solution_dispatches_as_the_winners_were_chosen_and_is_what_was_judged(place):
    workers = Workers()
    done = place.export(workers)
    written = json.loads(done.path.read_text())
    sources = {s["path"]: s["content"] for s in written["sources"]}
    assert sources == workers.built_sources
    scope: dict = {}
    exec(sources["config.py"], scope)
    assert [scope["select"](n)["step"] for n in (8, 16, 17, 300, 1200, 1201)] == [2, 2, 4, 4, 4, 1]
    assert done.verdict == "PASSED on 2 of 2 workloads"
    assert done.verification["w1"] == {"status": "PASSED", "median_us": 7.0, "judged_by": {"y": "close"}}


def test_the_record_of_an_export_says_what_it_was_made_from(place):
    done = place.export(Workers())
    record = place.store.exports.get(done.export_id)
    assert record.made_from == {
        "0-16": {"max_size": 16, "config_hash": "hash2"},
        "17-None": {"max_size": None, "config_hash": "hash4"},
    }
    assert (record.sweep_id, record.solution, record.digest) == (place.sweep, done.name, done.digest)
    assert record.content == done.path.read_text()
    assert done.name == f"tuner_k_amd_epyc_7b13_{done.digest}"


def test_the_solution_says_by_which_tolerances_it_was_accepted(place):
    """It travels without the database, and with other tolerances its verdict may be another one."""
    rules = place.setup.method.rules
    assert "rtol 0.01" in rules
    written = json.loads(place.export(Workers()).path.read_text())
    assert written["description"].endswith(f"Accepted by: {rules}.")


def test_traces_name_the_solution_and_how_much_faster_than_the_reference_it_is(place):
    done = place.export(Workers())
    traces = [json.loads(line) for line in done.traces.read_text().splitlines()]
    assert {t["solution"] for t in traces} == {done.name}
    speedups = {t["workload"]["uuid"]: t["evaluation"]["performance"]["speedup_factor"] for t in traces}
    assert speedups == pytest.approx({"w0": 10.0, "w1": 20.0})


def latencies_ms(done):
    traces = [json.loads(line) for line in done.traces.read_text().splitlines()]
    return {t["workload"]["uuid"]: t["evaluation"]["performance"]["latency_ms"] for t in traces}


def test_on_a_gpu_the_traces_are_flashinfer_benchs_and_ours_where_it_cannot_judge(tmp_path):
    """Ours are timed otherwise: a trace with our figures would pass for one of the official run."""
    with Store.open("sqlite://") as store:
        place = Place(tmp_path, store, "sm_90a")
        done = place.export(Workers())
        assert latencies_ms(done) == pytest.approx({"w0": 0.009, "w1": 0.009})
        assert done.verification["w0"]["flashinfer_bench_us"] == pytest.approx(9.0)
    (tmp_path / "again").mkdir()
    with Store.open("sqlite://") as store:
        place = Place(tmp_path / "again", store, "sm_90a")
        place.setup = replace(place.setup, prepared={"w0": Prepared(plainly=False), "w1": Prepared()})
        done = place.export(Workers(stock="w0"))
        assert latencies_ms(done) == pytest.approx({"w0": 0.007, "w1": 0.009})
        assert "flashinfer_bench_us" not in done.verification["w0"]


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ({"build": Status.COMPILE_ERROR}, r"does not build \(COMPILE_ERROR\): error: no such register"),
        ({"w0": Status.INCORRECT_NUMERICAL}, r"workload 1 of 2 \(n=8\) \(INCORRECT_NUMERICAL\): y is off by 3"),
        ({"w1": Status.TIMEOUT}, r"workload 2 of 2 \(n=300\) \(TIMEOUT\)"),
    ],
)
def test_a_solution_that_does_not_pass_everywhere_is_not_written(place, statuses, said):
    with pytest.raises(ExportRefusedError, match=said):
        place.export(Workers(**statuses))
    assert not place.out.exists()
    assert place.store.exports.newest() == []


def test_a_second_export_replaces_the_solution_of_the_same_name(place):
    first = place.export(Workers())
    first.path.write_text("cut off")
    second = place.export(Workers())
    assert second.path == first.path
    assert json.loads(second.path.read_text())["name"] == first.name


def test_what_is_exported_without_an_id_is_the_newest_sweep_that_is_done(place):
    with pytest.raises(NothingFoundError, match="no finished sweep for any definition"):
        newest_finished(place.store)
    place.export(Workers())
    record = place.store.sweeps.get(place.sweep)
    running = SweepRecord(record.definition_id, record.space_id, record.environment_id, owner="t")
    assert place.store.sweeps.create(running) > place.sweep
    assert newest_finished(place.store) == newest_finished(place.store, "a", HERE.hardware.upper()) == place.sweep
    with pytest.raises(NothingFoundError, match="for a on NVIDIA H200"):
        newest_finished(place.store, "a", "NVIDIA H200")
    here = re.escape(gpu_name() or cpu_model())
    with pytest.raises(NothingFoundError, match=f"for a on {here}"):
        newest_finished(place.store, "a", "auto")


def test_winners_of_other_sources_are_neither_exported_nor_measured_as_the_best(place, tmp_path):
    """The sweep searched sources that the folder does not hold any more: its figures are not of what is there now."""
    place.export(Workers())
    of = {"db": f"sqlite:///{tmp_path}/results.db", "dataset": tmp_path / "d", "space": str(tmp_path / "k")}
    with pytest.raises(UsageError, match=r"sweep 1 searched another version of space k \(src, now \w+\)"):
        export_solution(place.sweep, out=tmp_path / "again", **of)
    assert not (tmp_path / "again").exists()


def test_a_bench_takes_the_newest_sweep_of_the_target_on_this_machine(tmp_path):
    """And not the newest one of all, whose winners are another machine's: it said nothing of that."""
    of = {"db": f"sqlite:///{tmp_path}/results.db", "dataset": tmp_path / "d", "space": str(tmp_path / "k")}
    settings = SweepSettings(definition="a", target="cpu", **of)
    with Store.open(of["db"]) as store:
        here = Place(tmp_path, store, hardware=cpu_model())
        here.export(Workers())
        Place(tmp_path, store, hardware="Another CPU").export(Workers())
    said = Said()
    with pytest.raises(UsageError, match="sweep 1 searched another version"):
        run_bench(settings, ["best", "default"], 6, said)
    assert said.lines == [f"best and default are those of sweep 1: space k for cpu on {cpu_model()}"]
    with pytest.raises(NothingFoundError, match="no finished sweep for a on any hardware and target sm_90a"):
        run_bench(settings.model_copy(update={"target": "sm_90a", "ray_address": "head:1"}), ["best"], 6)
