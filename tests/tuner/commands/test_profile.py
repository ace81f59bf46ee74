"""`tuner profile`: what a dataset's workloads look like, per profile and size."""

import torch

from benchmarks.packaged_dataset.make import MOE
from search_spaces.dataset import PATH
from tests.tuner import toy
from tests.tuner.without_ray import command
from tuner.commands.profile import profile_dataset
from tuner.results.report import figures
from tuner.results.report.input_page import input_table
from tuner.settings import load
from tuner.sweeps.setup import resolve
from workers.fib.made_inputs import described, filled_inputs, inputs_of

GIVEN = {"definition": MOE, "dataset": PATH, "target": "cpu", "workloads": ("be511fc9",)}


def test_figures_per_profile_and_size():
    found = profile_dataset(load({**GIVEN, "profiles": "recorded,hot:2", "sizes": "30"}))
    rows = {(w.profile, w.axes["seq_len"]): w.figures for w in found.workloads}
    assert list(rows) == [("recorded", 8), ("recorded", 30), ("hot:2", 8), ("hot:2", 30)]
    assert (rows["hot:2", 30]["rows"], rows["hot:2", 30]["active"]) == (60, 2)
    assert sum(rows["recorded", 8]["rows_per_expert"]) == rows["recorded", 8]["rows"] > 0
    table = input_table(found.document()["workloads"])
    assert "rows per expert" not in table["names"]
    assert len(figures.inputs(found.document()["workloads"])["data"]) == 4


def test_inputs_that_are_described_are_those_that_are_measured_on():
    problem = resolve(load({**GIVEN, "profiles": "recorded,uniform"})).problem
    for workload in problem.workloads:
        some = filled_inputs(problem, workload, "cpu")
        every = dict(zip(problem.definition["inputs"], inputs_of(problem, workload, "cpu"), strict=True))
        assert list(some) == ["routing_logits", "routing_bias"]
        assert all(torch.equal(some[name], every[name]) for name in some)
        assert described(problem, workload, some)["rows"] > 0


def test_an_op_whose_inputs_nobody_describes_has_its_sizes_alone(tmp_path):
    data = toy.dataset(tmp_path, [{"n": 4}, {"n": 9}])
    found = profile_dataset(load({"dataset": data, "definition": "a", "target": "cpu"})).document()
    assert [(w["axes"], w["figures"]) for w in found["workloads"]] == [({"n": 4}, {}), ({"n": 9}, {})]
    assert input_table(found["workloads"]) is None


def test_the_command_writes_a_picture(tmp_path):
    page = tmp_path / "page.html"
    given = ["profile", "--definition", MOE, "--target", "cpu", "--workload", "be511fc9", "--out", str(page)]
    done = command(tmp_path, *given)
    assert done.returncode == 0, done.stderr
    assert "rows per expert" in page.read_text()
