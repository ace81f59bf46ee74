"""Values that are tuples, lists of configs as they are, and groups of parameters."""

import importlib
import math
import pickle
import random
import re

import pytest

from search_spaces import SpaceError
from search_spaces.constraint_search import Effort
from search_spaces.directory import DirectoryFamily
from search_spaces.space import hash_of
from tests.tuner import toy

DEFINITION = {"name": "a", "op_type": "toy", "axes": {"n": {"type": "var"}, "k": {"type": "const", "value": 64}}}
LISTED = [
    {"block": 16, "warps": 4, "order": "rows"},
    {"block": 128, "warps": 8, "order": "rows"},
    {"block": 64, "warps": 4, "order": "columns"},
]


def space(tmp_path, text):
    """The space of a folder whose space.yaml ends with this text."""
    folder = toy.kernel(tmp_path / "kernel")
    head = "op_type: toy\ntargets: [cpu]\nentry_point: main.py::run\nlanguage: python\n"
    (folder / "space.yaml").write_text(head + text)
    return DirectoryFamily(folder).space(DEFINITION, "cpu")


TUPLES = """
parameters:
  cluster: [[1, 1], [2, 1], [2, 2]]
  tile: {values: [[64, "row"], [128, "row"]], kind: ordinal}
constraints:
  - expression: cluster[0] * cluster[1] <= 2 or tile != [64, 'row']
    reason: too many blocks
  - expression: cluster in [(1, 1), (2, 1)] or len(cluster) == 2 and tile[-1] == 'row'
    reason: unknown
default: {cluster: [2, 1], tile: [64, row]}
starts: [{config: {cluster: [1, 1]}}]
"""


def test_values_may_be_tuples(tmp_path):
    found = space(tmp_path, TUPLES)
    assert found.default == {"cluster": (2, 1), "tile": (64, "row")}
    assert found.starts[0].config == {"cluster": (1, 1), "tile": (64, "row")}
    assert [p.kind for p in found.parameters] == ["categorical", "ordinal"]
    assert ((2, 2), (64, "row")) not in {tuple(c.values()) for c in found.enumerate()}
    assert sum(1 for _ in found.enumerate()) == 5


def test_a_config_from_json_is_the_same_config(tmp_path):
    """JSON has no tuples: what comes back from a file, a request or a database must hash and compare alike."""
    found = space(tmp_path, TUPLES)
    from_json = {"tile": [64, "row"], "cluster": [2, 1]}
    assert found.check(from_json) == found.default
    assert found.config_hash(from_json) == found.config_hash(found.default) == hash_of(found.default)


def test_select_gives_a_tuple(tmp_path, monkeypatch):
    found = space(tmp_path, TUPLES)
    (tmp_path / "generated_tuples.py").write_text(found.variant_sources(found.default)["config.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.import_module("generated_tuples").select(5) == {"cluster": (2, 1), "tile": (64, "row")}


def test_a_header_has_the_tuple_and_its_elements(tmp_path):
    text = "language: cpp\nparameters: {cluster: [[2, 1]], g.k: [4]}\ndefault: {cluster: [2, 1], g: {k: 4}}\n"
    folder = toy.kernel(tmp_path / "kernel")
    (folder / "main.cc").write_text("void run() {}\n")
    (folder / "space.yaml").write_text(f"op_type: toy\ntargets: [cpu]\nentry_point: main.cc::run\n{text}")
    found = DirectoryFamily(folder).space(DEFINITION, "cpu")
    header = found.variant_sources(found.default)["config.h"].splitlines()
    assert header[-4:] == [
        "#define CONFIG_CLUSTER 2, 1",
        "#define CONFIG_CLUSTER_0 2",
        "#define CONFIG_CLUSTER_1 1",
        "#define CONFIG_G_K 4",
    ]
    (folder / "space.yaml").write_text(
        "op_type: toy\ntargets: [cpu]\nentry_point: main.cc::run\nlanguage: cpp\n"
        "parameters: {cluster: [[2, 1]], cluster_0: [4]}\ndefault: {cluster: [2, 1], cluster_0: 4}\n"
    )
    with pytest.raises(SpaceError, match="both become the macro CONFIG_CLUSTER_0"):
        DirectoryFamily(folder)


def listed_text(more=""):
    return f"configs: {LISTED}\ndefault: {LISTED[1]}\n{more}"


def test_a_list_of_configs_is_the_whole_space(tmp_path):
    found = space(tmp_path, listed_text())
    assert sorted(found.enumerate(), key=str) == sorted(LISTED, key=str)
    assert {p.name: (p.values, p.kind) for p in found.parameters} == {
        "block": ((16, 64, 128), "ordinal"),
        "warps": ((4, 8), "ordinal"),
        "order": (("rows", "columns"), "categorical"),
    }
    assert (
        found.violation({"block": 16, "warps": 8, "order": "rows"}) == "these values together are not one of 'configs'"
    )
    rng = random.Random(0)
    drawn = {tuple(found.sample(rng).values()) for _ in range(100)}
    assert drawn == {tuple(c.values()) for c in LISTED}


def test_each_listed_config_is_crossed_with_the_parameters(tmp_path):
    more = (
        "parameters: {split: [1, 2]}\nconstraints: [{expression: split == 1 or block < 128, reason: enough blocks}]\n"
    )
    text = f"configs: {LISTED}\ndefault: {LISTED[0] | {'split': 2}}\n{more}"
    found = space(tmp_path, text)
    expected = [{**c, "split": s} for c in LISTED for s in (1, 2) if s == 1 or c["block"] < 128]
    assert sorted(found.enumerate(), key=str) == sorted(expected, key=str)


def test_a_long_list_over_many_parameters_is_listed_at_once(tmp_path):
    """Each value combination tried one by one, 200 configs of eight parameters would take hours."""
    rng = random.Random(1)
    configs = [{f"p{i}": rng.randrange(50) for i in range(8)} for _ in range(200)]
    found = space(tmp_path, f"configs: {configs}\ndefault: {configs[0]}\n")
    assert math.prod(len(p.values) for p in found.parameters) > 10**12
    assert len(found.walk.all(1000, Effort()) or ()) == 200
    assert found.sample(rng) in configs


def test_starts_and_a_table_of_defaults_are_of_the_list(tmp_path):
    more = "size_axis: n\nstarts: [{config: {block: 16, warps: 4}, sizes: [0, 8]}]\n"
    found = space(tmp_path, listed_text(more))
    assert found.starts[0].config == LISTED[0]
    with pytest.raises(SpaceError, match="start 1: 'config' breaks a constraint: these values together are not one"):
        space(tmp_path, listed_text("starts: [{config: {block: 16}}]\n"))


def test_a_list_serves_triton_configs_by_anchor(tmp_path):
    text = "configs:\n  - &today {BLOCK_M: 64, num_warps: 4}\n  - {BLOCK_M: 64, num_warps: 8}\ndefault: *today\n"
    assert space(tmp_path, text).default == {"BLOCK_M": 64, "num_warps": 4}


GROUPS = """
parameters:
  gemm_1: &gemm
    block_m: {values: [16, 64], doc: rows}
    warps: [4, 8]
  gemm_2: *gemm
  gemm_2.split: [1, 2]
constraints:
  - {expression: gemm_1.block_m == gemm_2.block_m, reason: rows are shared}
  - {expression: gemm_2.split * gemm_1.block_m <= 64 and sizes.k == 64, reason: too wide}
default:
  gemm_1: {block_m: 16, warps: 4}
  gemm_2: {block_m: 16, warps: 8, split: 1}
starts:
  - config: {gemm_1.block_m: 64, gemm_2: {block_m: 64}}
"""


def test_a_group_is_names_with_a_dot(tmp_path, monkeypatch):
    found = space(tmp_path, GROUPS)
    names = ["gemm_1.block_m", "gemm_1.warps", "gemm_2.block_m", "gemm_2.warps", "gemm_2.split"]
    assert [p.name for p in found.parameters] == names
    assert found.parameters[2].doc == "rows"
    assert found.default == dict(zip(names, [16, 4, 16, 8, 1], strict=True))
    assert found.starts[0].config == found.default | {"gemm_1.block_m": 64, "gemm_2.block_m": 64}
    assert sum(1 for _ in found.enumerate()) == 2 * 2 * 3
    (tmp_path / "generated_groups.py").write_text(found.variant_sources(found.default)["config.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.import_module("generated_groups").select() == found.default


def test_dots_and_nested_mappings_say_the_same(tmp_path):
    dotted = """
parameters: {g.a: [1, 2], g.h.b: {values: [3, 4]}}
default: {g.a: 1, g.h.b: 3}
"""
    nested = """
parameters: {g: {a: [1, 2], h: {b: {values: [3, 4]}}}}
default: {g: {a: 1, h.b: 3}}
"""
    first, second = space(tmp_path, dotted), space(tmp_path, nested)
    assert (first.parameters, first.default) == (second.parameters, second.default)


def test_a_table_of_defaults_may_have_groups(tmp_path):
    text = """
size_axis: n
parameters: {g: {a: [1, 2], b: [3, 4]}}
default:
  - {config: {g: {a: 1, b: 3}}, sizes: [0, 16]}
  - {config: {g: {b: 4}}, sizes: [17, null]}
"""
    assert [row.config for row in space(tmp_path, text).defaults] == [{"g.a": 1, "g.b": 3}, {"g.a": 1, "g.b": 4}]


def test_the_last_row_of_a_default_is_for_the_rest(tmp_path):
    text = "size_axis: n\nparameters: {a: [1, 2]}\ndefault: [{config: {a: 2}, sizes: [1, 64]}, {config: {a: 1}}]\n"
    rows = space(tmp_path, text).defaults
    assert [(row.config["a"], row.smallest, row.largest) for row in rows] == [(2, 1, 64), (1, 65, None)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("[0, 64]", "[32, null]"), "row 2 of 'default' begins at 32, which another row has too"),
        (("[0, 64]", "[0, 64]"), "row 2 of 'default' begins at 0, which another row has too"),
        (("[0, null]", "[65, null]"), "row 2 of 'default' begins at 65, which another row has too"),
        (("[0, 64]", "[1000, null]"), "row 2 of 'default' begins at 1000, and no row has 65; rows cover all sizes"),
        (("[1000, null]", "[2, 999]"), "row 2 of 'default' begins at 2, and no row has 0"),
        (("[0, 64]", "[65, 128]"), "no row of 'default' has sizes from 129 on; write null for the largest size"),
        (("[64, 0]", "[65, null]"), "row 1 of 'default': 'sizes' is [64, 0]; needed is [smallest, largest]"),
        (("64", "[65, null]"), "row 1 of 'default': 'sizes' is 64; needed is [smallest, largest], largest may be null"),
    ],
)
def test_a_default_has_each_size_in_one_row(tmp_path, rows, said):
    """What runs today would be another config than the one that is written beside the size, and every gain with it."""
    text = "".join(f"  - {{config: {{a: 1}}, sizes: {row}}}\n" for row in rows)
    with pytest.raises(SpaceError) as caught:
        space(tmp_path, f"size_axis: n\nparameters: {{a: [1, 2]}}\ndefault:\n{text}")
    assert said in str(caught.value)


def test_listed_configs_may_have_groups(tmp_path):
    found = space(tmp_path, "configs: [{g: {a: 1}, b: 2}, {g.a: 2, b: 3}]\ndefault: {g: {a: 2}, b: 3}\n")
    assert list(found.enumerate()) == [{"g.a": 1, "b": 2}, {"g.a": 2, "b": 3}]


def test_yaml_may_merge_groups(tmp_path):
    text = """
parameters:
  one: &one {m: [1, 2], n: [3, 4]}
  two: {<<: *one, n: [5, 6]}
default: {one: {m: 1, n: 3}, two: {m: 1, n: 5}}
"""
    assert [p.name for p in space(tmp_path, text).parameters] == ["one.m", "one.n", "two.m", "two.n"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("default: {a: 1}", "neither 'parameters' nor 'configs' is given; say what can be chosen"),
        ("configs: []\ndefault: {a: 1}", "'configs' is []; needed is a list of mappings"),
        ("configs: {a: 1}\ndefault: {a: 1}", "'configs' is {'a': 1}; needed is a list of mappings"),
        ("configs: [3]\ndefault: {a: 1}", "'configs' is [3]; needed is a list of mappings"),
        ("configs: [{}]\ndefault: {a: 1}", "the mappings of 'configs' name no parameter"),
        (
            "configs: [{a: 1, b: 2}, {a: 2}]\ndefault: {a: 1}",
            "config 2 of 'configs' has no value for 'b'; the first one has it",
        ),
        (
            "configs: [{a: 1}, {a: 2, b: 2}]\ndefault: {a: 1}",
            "config 2 of 'configs' has a value for 'b'; the first one",
        ),
        ("configs: [{a: 1}, {a: x}]\ndefault: {a: 1}", "'configs': the values of 'a': all must be of one type"),
        ("configs: [{a: null}]\ndefault: {a: 1}", "'configs': the values of 'a': all must be of one type"),
        ("configs: [{a-b: 1}]\ndefault: {a-b: 1}", "'a-b' is not a name"),
        ("configs: [{a: 1}]\nparameters: {a: [1, 2]}\ndefault: {a: 1}", "'a' is in 'configs' and in 'parameters'"),
        ("configs: [{a: 1, b: 1}, {a: 2, b: 2}]\ndefault: {a: 1, b: 2}", "'default' breaks a constraint: these values"),
        ("configs: [{a: 1e-3}]\ndefault: {a: 1}", "1e-3 is a text to YAML"),
        ("parameters: {g: {a: [1]}, g.a: [2]}\ndefault: {g: {a: 1}}", "parameter 'g.a' is given twice"),
        ("parameters: {g: {a: [1]}}\ndefault: {g: {a: 1}, g.a: 1}", "parameter 'g.a' is given twice"),
        ("parameters: {g: {a: [1]}}\ndefault: {g: 1}", "'default' names unknown parameter 'g'; known are g.a"),
        ("parameters: {g: {a: [1]}}\ndefault: {a: 1}", "'default' names unknown parameter 'a'; known are g.a"),
        ("parameters: {g: {if: [1]}}\ndefault: {g: {if: 1}}", "parameter 'g.if' is not a name"),
        ("parameters: {.a: [1]}\ndefault: {.a: 1}", "parameter '.a' is not a name"),
        ("parameters: {g: {}}\ndefault: {g: 1}", "parameter 'g': key 'values' is missing"),
        ("parameters: &p {g: *p}\ndefault: {g: 1}", "groups are inside one another"),
        (
            "parameters: {g: {a: [1]}}\nconstraints: [{expression: g.b > 1, reason: r}]\ndefault: {g: {a: 1}}",
            "names unknown 'g.b'; known are g.a",
        ),
        (
            "parameters: {a: [[1]]}\nconstraints: [{expression: 'a[1] > 1', reason: r}]\ndefault: {a: [1]}",
            "fails for a=(1,): tuple index out of range",
        ),
        (
            "parameters: {a: [x]}\nconstraints: [{expression: 'a[0] == \"x\"', reason: r}]\ndefault: {a: x}",
            "an element of 'x', which is not a tuple",
        ),
        (
            "parameters: {a: [[1]]}\nconstraints: [{expression: 'a[0:1] == a', reason: r}]\ndefault: {a: [1]}",
            "uses '0:1', which is not allowed",
        ),
        ("parameters: {a: [[1], [1]]}\ndefault: {a: [1]}", "lists a value twice"),
        ("parameters: {a: [[1], [2]]}\ndefault: {a: [3]}", "'default' has a=[3]; allowed are [(1,), (2,)]"),
        ("parameters: {a: [[1], [2]]}\ndefault: {a: [true]}", "'default' has a=[True]; allowed are"),
        ("parameters: {a: [[.inf]]}\ndefault: {a: [1]}", "numbers must be finite"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, text, said):
    with pytest.raises(SpaceError, match=re.escape(said)) as caught:
        space(tmp_path, text + "\n")
    assert "\n" not in str(caught.value)


def test_listed_constraints_travel_between_processes(tmp_path):
    found = space(tmp_path, listed_text())
    again = [pickle.loads(pickle.dumps(c)) for c in found.constraints]
    assert [all(c.admits(config) for c in again) for config in (LISTED[0], LISTED[0] | {"warps": 8})] == [True, False]
