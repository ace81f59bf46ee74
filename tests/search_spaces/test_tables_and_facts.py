"""Defaults by size, and constraints that see sizes, target and its limits."""

import pytest

from search_spaces import SpaceError
from search_spaces.directory import DirectoryFamily
from tests.tuner import toy
from tuner.sweeps.variants import config_variant

DEFINITION = {
    "name": "a",
    "op_type": "toy",
    "axes": {"n": {"type": "var"}, "k": {"type": "var"}, "hidden": {"type": "const", "value": 64}},
}
ROWS = [
    {"config": {"step": 1}, "sizes": [0, 16]},
    {"config": {"step": 2}, "sizes": [17, 512]},
    {"config": {"step": 4}, "sizes": [513, None]},
]


def space(tmp_path, target="cpu", **keys):
    return DirectoryFamily(toy.kernel(tmp_path / "kernel", size="x.shape[0]", **keys)).space(DEFINITION, target)


def test_each_size_has_the_default_that_runs_today(tmp_path):
    """Compared with one row of five, a winner would beat what nobody runs at these sizes."""
    table = space(tmp_path, default=ROWS, size_axis="n")
    assert [table.at(sizes).default["step"] for sizes in ([1, 8], [8, 100, 200], [4096], [])] == [1, 2, 4, 1]
    assert table.default_table == [(16, {"step": 1}), (512, {"step": 2}), (None, {"step": 4})]
    sources = table.render(table.default_table)
    assert "(512, {'step': 2})" in sources["config.py"]
    assert table.fingerprint == space(tmp_path, default={"step": 1}, size_axis="n").fingerprint
    assert config_variant("a", table, {"step": 2}) == config_variant("a", table.at([100]), {"step": 2})


@pytest.mark.parametrize("sizes", [([0, 64], [65, None]), ([65, None], [0, 64]), ([101, None], [1, 100])])
def test_rows_in_any_order_mean_the_same_to_a_regime_and_to_a_table(tmp_path, sizes):
    """The sweep compared with one row, ``tuner bench default`` with another."""
    rows = [{"config": {"step": step}, "sizes": held} for step, held in zip((1, 2), sizes, strict=True)]
    made = space(tmp_path, default=rows, size_axis="n")
    scope: dict = {}
    exec(made.render(made.default_table)["config.py"], scope)
    for size in (1, 60, 64, 65, 100, 101, 150, 201, 5000):
        assert made.at([size]).default == scope["select"](size), size


def test_one_default_serves_all_sizes(tmp_path):
    plain = space(tmp_path, default={"step": 2}, size_axis="n")
    assert plain.at([1, 5000]) is plain
    assert plain.default_table == [(None, {"step": 2})]


@pytest.mark.parametrize(
    ("default", "axis", "said"),
    [
        (ROWS, None, "'default' is a list by size, which needs a 'size_axis'"),
        ([], "n", "'default' is an empty list"),
        ([{"config": {}}], "n", r"row 1 of 'default': 'config' has no value for parameter 'step'"),
        ([*ROWS, {"step": 3}], "n", "row 4 of 'default': unknown key 'step'; allowed are config, sizes"),
        ([{"config": {"step": 3}}], "n", r"row 1 of 'default': 'config' has step=3; allowed are \[1, 2, 4\]"),
        (7, "n", "'default' is 7; needed is a mapping with a value for every parameter, or a list"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, default, axis, said):
    keys = {} if axis is None else {"size_axis": axis}
    with pytest.raises(SpaceError, match=said):
        space(tmp_path, default=default, **keys)


def rule(expression):
    return {"constraints": [{"expression": expression, "reason": "it does not fit"}]}


@pytest.mark.parametrize(
    ("expression", "target", "valid"),
    [
        ("step * 32 <= sizes.hidden", "cpu", [1, 2]),
        ("sizes.hidden % step == 0 and step < 4", "cpu", [1, 2]),
        ("step * 65536 <= shared_memory_bytes", "sm_90a", [1, 2]),
        ("target != 'sm_100a' or step == 1", "sm_100a", [1]),
        ("target != 'sm_100a' or step == 1", "sm_90a", [1, 2, 4]),
        ("units // step >= 66", "sm_90a", [1, 2]),
        ("registers // step >= 32768", "sm_90a", [1, 2]),
    ],
)
def test_constraints_see_sizes_target_and_limits(tmp_path, expression, target, valid):
    found = space(tmp_path, target, targets=["cpu", "sm_90a", "sm_100a"], **rule(expression))
    assert [config["step"] for config in found.enumerate()] == valid


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("step < sizes.seq_len", r"constraint 1 reads 'sizes.seq_len'; constant axes are sizes.hidden"),
        ("step < sizes.n", r"space\.yaml: constraint 1 reads 'sizes.n'"),
        ("step < hidden", "names unknown 'hidden'; known are .*shared_memory_bytes"),
        ("step < sizes", "names unknown 'sizes'"),
        ("shared_memory_bytes > 8", "reads no parameter; known are step"),
        ("step < sizes.hidden.more", "which is not allowed"),
        ("step.real < 3", "which is not allowed"),
        ("step * 4096 <= sizes.hidden", "the default config is not valid: it does not fit"),
    ],
)
def test_a_wrong_fact_is_one_line(tmp_path, expression, said):
    with pytest.raises(SpaceError, match=said):
        space(tmp_path, **rule(expression))


def test_a_rule_on_facts_that_gives_a_number_holds_for_no_config(tmp_path, caplog):
    """A number that is not 0 would count as true, and the rule hold for all."""
    with pytest.raises(SpaceError, match="the default config is not valid: it does not fit"):
        space(tmp_path, **rule("sizes.hidden // step"))
    assert "expression 'sizes.hidden // step' gives 64; needed is true or false" in caplog.text


SPLIT = rule("step == 1 or sizes.n * step <= 512 and sizes.hidden == 64")


def test_a_constraint_on_the_size_axis_holds_for_every_size_of_a_regime(tmp_path):
    """What cannot pay at large sizes is not tried there; at small ones it is."""
    whole = space(tmp_path, size_axis="n", starts=[{"config": {"step": 4}}], **SPLIT)
    assert [c["step"] for c in whole.enumerate()] == [1, 2, 4]
    steps = {
        n: [c["step"] for c in whole.at(sizes).enumerate()]
        for n, sizes in {8: [1, 8], 200: [8, 200], 999: [999]}.items()
    }
    assert steps == {8: [1, 2, 4], 200: [1, 2], 999: [1]}
    assert [len(whole.at(sizes).starts) for sizes in ([8], [200], [])] == [1, 0, 1]
    assert whole.at([200]).fingerprint == whole.fingerprint


def test_a_constraint_on_the_size_axis_and_a_table_of_defaults(tmp_path):
    """The row for large sizes breaks the rule at small ones, where it is not the default."""
    rows = [{"config": {"step": 1}, "sizes": [0, 16]}, {"config": {"step": 4}, "sizes": [17, None]}]
    found = space(tmp_path, default=rows, size_axis="n", **rule("step < 4 or sizes.n > 16"))
    assert [found.at([n]).default["step"] for n in (8, 64)] == [1, 4]
    assert [c["step"] for c in found.at([8]).enumerate()] == [1, 2]
    with pytest.raises(SpaceError, match=r"the default config is not valid: it does not fit \(at n 8 to 300\)"):
        found.at([8, 64, 300])


def test_another_axis_than_the_size_axis_is_no_fact(tmp_path):
    with pytest.raises(SpaceError, match=r"reads 'sizes.k'; constant axes are sizes.hidden; the size axis is sizes.n"):
        space(tmp_path, size_axis="n", **rule("step < sizes.k"))
