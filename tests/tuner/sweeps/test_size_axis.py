"""Which axis divides the sizes: the space's, the flag's, none; and that regimes, records and lookup all follow it."""

import pytest

from search_spaces import SpaceError
from tests.tuner import toy
from tuner.commands.sweep import _parts
from tuner.errors import UsageError
from tuner.settings import load
from tuner.sweeps.regimes import split
from tuner.sweeps.setup import Setup, resolve

TWO = [{"rows": 4, "cols": c} for c in (8, 64, 512, 4096)]
THREE = [{"batch": b, "heads": 8, "keys": k} for b, k in ((1, 100), (64, 100), (1, 5000))]


def setup(tmp_path, loads, axis: str | None = None, flag: str | None = None, config: str | None = None) -> Setup:
    more = {} if axis is None else {"size_axis": axis}
    space = toy.kernel(tmp_path / "k", size="x.shape[0]", **more)
    file = None
    if config is not None:
        file = tmp_path / "settings.yaml"
        file.write_text(config)
    dataset = toy.dataset(tmp_path / "d", loads, const={})
    given = {"dataset": dataset, "space": str(space), "target": "cpu", "db": "sqlite://", "size_axis": flag}
    return resolve(load(given, file))


def regimes(made: Setup) -> dict[str, set[str]]:
    axis = made.space().size_axis
    return {r.name: set(r.workloads) for r in split(made.sizes(axis), (16, 256))}


def test_regimes_follow_the_second_axis_if_the_space_does(tmp_path):
    """The first variable axis has one value here: by it there would be one regime."""
    made = setup(tmp_path, TWO, "cols")
    assert regimes(made) == {"0-16": {"w0"}, "17-256": {"w1"}, "257+": {"w2", "w3"}}


def test_the_only_definition_is_refused_with_the_reason(tmp_path):
    """Where no definition is named. It said "0 of the dataset's fit; some are" and the definition that does not."""
    with pytest.raises(UsageError, match=r"space 'k' cannot solve 'a': size_axis 'depth' is not .* rows, cols"):
        setup(tmp_path, TWO, "depth")


def test_the_flag_and_the_file_name_another_axis(tmp_path):
    assert regimes(setup(tmp_path / "a", TWO, "cols", flag="rows")) == {"0-16": {"w0", "w1", "w2", "w3"}}
    by_file = setup(tmp_path / "b", THREE, "heads", config="size_axis: keys\n")
    assert by_file.space().size_axis == "keys"
    assert regimes(by_file) == {"17-256": {"w0", "w1"}, "257+": {"w2"}}
    assert regimes(setup(tmp_path / "c", THREE, "heads", "batch", "size_axis: keys\n")) == {
        "0-16": {"w0", "w2"}, "17-256": {"w1"}
    }  # fmt: skip


def test_without_an_axis_there_is_one_config_and_it_is_said_before_the_first_trial(tmp_path):
    made = setup(tmp_path, TWO)
    (regime,) = split(made.sizes(made.space().size_axis), (16, 256))
    assert (regime.name, regime.low, regime.bound) == ("all", None, None)
    assert _parts((regime,), None) == "no size axis: one config for all sizes"
    assert _parts((regime, regime), "cols") == "2 regimes of cols"


def test_a_flag_gives_an_axis_to_a_space_that_names_none(tmp_path):
    assert set(regimes(setup(tmp_path, TWO, flag="cols"))) == {"0-16", "17-256", "257+"}


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"constraints": [{"expression": "step < sizes.cols", "reason": "too wide"}]}, "constraint 'too wide' does"),
        ({"default": [{"config": {"step": 1}, "sizes": [0, 8]}, {"config": {"step": 2}}]}, "its default does"),
    ],
)
def test_another_axis_than_the_one_that_the_space_goes_by_is_refused(own, said, tmp_path):
    """The constraint was never applied, and rows of the default were chosen by sizes along the other axis."""
    made = setup(tmp_path, TWO, "cols", flag="rows")
    toy.kernel(tmp_path / "k", size="x.shape[0]", size_axis="cols", **own)
    with pytest.raises(SpaceError, match=f"size axis 'rows': space 'k' goes by 'cols', as .*{said}"):
        made.space()


@pytest.mark.parametrize(
    ("flag", "said"),
    [("depth", "'depth' is not a variable axis of a; those are rows, cols"), ("m", "'m' is not a variable")],
)
def test_an_axis_that_does_not_vary_is_refused(flag, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        setup(tmp_path, TWO, flag=flag).space()


def test_an_axis_that_does_not_vary_is_named_before_a_kernel_that_passes_no_size(tmp_path):
    """The kernel's fault was looked for first, in sizes along an axis that no workload has: a traceback."""
    made = setup(tmp_path, TWO, "cols", flag="depth")
    toy.kernel(tmp_path / "k", size="", size_axis="cols")
    with pytest.raises(UsageError, match="'depth' is not a variable axis"):
        made.space()


def test_a_workload_that_gives_the_axis_no_value_is_left_out(tmp_path):
    made = setup(tmp_path, [{"rows": 4, "cols": 8}, {"rows": 4}])
    assert made.sizes("cols") == {"w0": 8}
    assert made.problem.left_out == ("workload w1: axes give no size for 'cols'",)


@pytest.mark.parametrize(("axis", "flag"), [("cols", None), (None, "cols")])
def test_a_kernel_that_passes_no_size_cannot_dispatch(axis, flag, tmp_path):
    """It would take the first row of the table at every size, and nobody would see that the others are never used."""
    made = setup(tmp_path, TWO, axis, flag)
    toy.kernel(tmp_path / "k", size="", **({} if axis is None else {"size_axis": axis}))
    with pytest.raises(UsageError, match=r"space 'k' calls select\(\) without a size"):
        made.space()
    toy.kernel(
        tmp_path / "k", body="select(x.shape[1])\ny.copy_(x + 1)", **({} if axis is None else {"size_axis": axis})
    )
    assert made.space().size_axis == "cols"


def test_a_kernel_that_passes_no_size_may_be_tuned_for_one_size(tmp_path):
    made = setup(tmp_path, TWO[:1], "cols", None)
    toy.kernel(tmp_path / "k", size="", size_axis="cols")
    assert made.space().size_axis == "cols"


def test_a_solution_with_one_config_has_no_axis(tmp_path):
    made = setup(tmp_path, TWO, flag="cols")
    folder = tmp_path / "k"
    (folder / "main.py").unlink()
    (folder / "main.cpp").write_text("void run() {}\n")
    text = (folder / "space.yaml").read_text().replace("main.py", "main.cpp")
    (folder / "space.yaml").write_text(text.replace('"op_type"', '"language": "cpp", "op_type"', 1))
    with pytest.raises(UsageError, match="a Solution in cpp holds one config for all sizes"):
        made.space()
