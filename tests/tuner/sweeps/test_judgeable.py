"""What cannot be judged is said once, at the start; only what is left is tuned."""

import json

import pytest

from tuner.errors import NothingFoundError, UsageError
from tuner.settings import SweepSettings
from tuner.sweeps.setup import judgeable, resolve
from workers.records import Prepared
from workers.runner import Runner

OUTPUTS = {"out": "bfloat16", "lse": "float32"}


@pytest.fixture(name="folder")
def _folder(tmp_path):
    def write(**outputs):
        for part in ("definitions", "workloads"):
            (tmp_path / part / "toy").mkdir(parents=True, exist_ok=True)
        shape = {"shape": ["n"], "dtype": "float32"}
        document = {
            "name": "d", "op_type": "toy", "axes": {"n": {"type": "var"}}, "inputs": {"x": shape},
            "outputs": {o: {"shape": ["n"], "dtype": dtype} for o, dtype in (outputs or OUTPUTS).items()},
            "reference": "def run(x):\n    return x\n",
        }  # fmt: skip
        (tmp_path / "definitions/toy/d.json").write_text(json.dumps(document))
        lines = [
            {
                "definition": "d",
                "workload": {"uuid": f"w{i}", "axes": {"n": 8 + i}, "inputs": {"x": {"type": "random"}}},
            }
            for i in range(3)
        ]
        (tmp_path / "workloads/toy/d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path

    return write


class Prepares(Runner):
    """Says of each workload what it was made with."""

    submit_build = submit_evaluation = submit_comparison = wait = environment = close = None

    def __init__(self, **prepared):
        self._prepared = prepared

    def workloads(self):
        return self._prepared


def setup_of(folder, **settings):
    return resolve(SweepSettings(dataset=folder, definition="d", target="cpu", db="sqlite://", **settings))


def test_workloads_that_cannot_be_judged_are_named_and_left_out(folder):
    setup, said = setup_of(folder()), []
    runner = Prepares(w0=Prepared(), w1=Prepared("it is constant"), w2=Prepared(scale=3.0))
    left = judgeable(setup, runner, said.append)
    assert [w["uuid"] for w in left.problem.workloads] == ["w0", "w2"]
    assert said == ["left out: workload w1 cannot be judged: it is constant"]
    assert left.problem.left_out == ("workload w1 cannot be judged: it is constant",)
    assert list(left.sizes("n")) == ["w0", "w2"]


def test_if_none_is_left_the_sweep_refuses_in_one_line(folder):
    runner = Prepares(w0=Prepared("a"), w1=Prepared("b"), w2=Prepared("c"))
    with pytest.raises(NothingFoundError, match="none of the 3 workloads of d can be judged; w0: a") as caught:
        judgeable(setup_of(folder()), runner)
    assert caught.value.exit_code == 3


def test_what_holds_for_every_workload_is_said_once(folder):
    said = []
    note = "the reference writes to its input 'x'; it works on a copy"
    everywhere = {f"w{i}": Prepared(notes=(note, f"only {i}")) for i in range(3)}
    judgeable(setup_of(folder()), Prepares(**everywhere), said.append)
    assert said == [f"{note} (on every workload)", "only 0 (on w0)", "only 1 (on w1)", "only 2 (on w2)"]


@pytest.mark.parametrize("dtype", ["float4_e2m1"])
def test_fp4_is_refused_before_anything_starts(folder, dtype):
    with pytest.raises(NothingFoundError, match="output 'packed' is float4") as caught:
        setup_of(folder(y="float32", packed=dtype))
    assert caught.value.exit_code == 3


def test_a_setting_for_an_output_that_does_not_exist_is_a_usage_error(folder):
    with pytest.raises(UsageError, match="names output 'les'; the outputs are out, lse"):
        setup_of(folder(), rtol={"les": 1e-3})


def test_rules_are_part_of_the_method(folder):
    default, tight = setup_of(folder()), setup_of(folder(), rtol={"lse": 1e-3})
    assert "lse close: rtol 0.01" in default.method.rules
    assert "lse close: rtol 0.001" in tight.method.rules
    assert default.method != tight.method


def test_stock_flashinfer_bench_follows_the_largest_output(folder):
    setup = judgeable(setup_of(folder()), Prepares(w0=Prepared(scale=1e-4), w1=Prepared(scale=50.0)))
    assert setup.official_rule.atol == 0.5
