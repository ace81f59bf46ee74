"""Folders as spaces: the shipped examples work, every mistake is one clear line, nothing but SpaceError comes out."""

import contextlib
import copy
import importlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from flashinfer_bench.bench.utils import gen_inputs
from flashinfer_bench.compile import BuilderRegistry
from flashinfer_bench.data import TraceSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_spaces import registry
from search_spaces.dataset import PATH
from search_spaces.dataset.make import GEMM, MOE, RMSNORM
from search_spaces.directory import DirectoryFamily
from search_spaces.space import SpaceError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

GOOD = {
    "definition": "gemm_n512_k1024",
    "targets": ["cpu"],
    "entry_point": "main.py::run",
    "parameters": {
        "tile": {"values": [8, 16, 32], "doc": "rows at once"},
        "order": {"values": ["rows", "columns"]},
        "fast": {"values": [False, True]},
    },
    "constraints": [{"expression": "tile <= 16 or order == 'rows'", "reason": "wide tiles go by rows"}],
    "default": {"tile": 8, "order": "rows", "fast": False},
}
DEFINITION = {
    "name": "gemm_n512_k1024",
    "op_type": "gemm",
    "axes": {"M": {"type": "var"}, "N": {"type": "const", "value": 512}},
}


def folder_with(tmp_path, text=None, files=None, **changes):
    """A folder whose space.yaml is GOOD with changes; a change to None removes the key."""
    data = {k: v for k, v in {**copy.deepcopy(GOOD), **changes}.items() if v is not None}
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "space.yaml").write_text(yaml.safe_dump(data, sort_keys=False) if text is None else text)
    for name, content in ({"main.py": "def run(A, B, C):\n    pass\n"} if files is None else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def message(folder):
    with pytest.raises(SpaceError) as caught:
        DirectoryFamily(folder)
    assert str(caught.value).startswith(str(folder / "space.yaml") + ": ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_folder(tmp_path):
    space = DirectoryFamily(folder_with(tmp_path, size_axis="M")).space(DEFINITION, "cpu")
    assert space.name == "mine"
    assert space.sizes == {"N": 512}
    assert [p.kind for p in space.parameters] == ["ordinal", "categorical", "categorical"]
    assert sum(1 for _ in space.enumerate()) == 10
    assert space.violation({"tile": 32, "order": "columns", "fast": True}) == "wide tiles go by rows"
    assert set(space.variant_sources(space.default)) == {"main.py", "config.py"}


def test_starts_say_what_differs_from_the_default_and_for_which_sizes(tmp_path):
    starts = [{"config": {"tile": 16}}, {"config": {"order": "columns"}, "sizes": [256, None]}]
    space = DirectoryFamily(folder_with(tmp_path, starts=starts)).space(DEFINITION, "cpu")
    assert [s.config for s in space.starts] == [
        {"tile": 16, "order": "rows", "fast": False},
        {"tile": 8, "order": "columns", "fast": False},
    ]
    assert [[s.suits(sizes) for s in space.starts] for sizes in ([1, 255], [1, 256], [None])] == [
        [True, False],
        [True, True],
        [True, True],
    ]


def test_registry_takes_a_folder(tmp_path):
    folder = folder_with(tmp_path)
    assert registry.space_for(DEFINITION, "cpu", str(folder)).name == "mine"
    with pytest.raises(SpaceError, match="no target 'sm_90a'; it has cpu"):
        registry.space_for(DEFINITION, "sm_90a", str(folder))
    with pytest.raises(SpaceError, match="definition 'other' is not one of gemm_n512_k1024"):
        registry.space_for({**DEFINITION, "name": "other"}, "cpu", str(folder))


def test_op_type_takes_every_definition_of_it(tmp_path):
    family = DirectoryFamily(folder_with(tmp_path, definition=None, op_type=["gemm", "moe"]))
    assert family.why_not({**DEFINITION, "name": "any"}) is None
    assert family.why_not({**DEFINITION, "op_type": "rope"}) == "op_type 'rope' is not one of gemm, moe"


def test_size_axis_must_be_a_variable_axis(tmp_path):
    family = DirectoryFamily(folder_with(tmp_path, size_axis="N"))
    assert family.why_not(DEFINITION) == "size_axis 'N' is not a variable axis; those are M"


def test_cpp_gets_a_header(tmp_path):
    files = {"main.cc": "void run() {}\n"}
    folder = folder_with(tmp_path, files=files, language="cpp", binding="torch", entry_point="main.cc::run")
    space = DirectoryFamily(folder).space(DEFINITION, "cpu")
    header = space.variant_sources({"tile": 16, "order": "columns", "fast": True})["config.h"].splitlines()
    assert space.binding == "torch"
    assert {
        "#define SIZE_N 512",
        "#define CONFIG_TILE 16",
        '#define CONFIG_ORDER "columns"',
        "#define CONFIG_ORDER_IS_COLUMNS 1",
        "#define CONFIG_FAST 1",
    } <= set(header)


def parameters(**changes):
    return {"parameters": {**GOOD["parameters"], **changes}}


def constraint(**changes):
    return {"constraints": [{"expression": "tile > 4", "reason": "why", **changes}]}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"targets": None}, "key 'targets' is missing; needed are targets, parameters, default, entry_point"),
        ({"colour": "red"}, "unknown key 'colour'; allowed are targets,"),
        ({"definition": None}, "neither 'definition' nor 'op_type'"),
        ({"definition": []}, "'definition' is an empty list"),
        ({"definition": 3}, "'definition' is 3; needed is a text or a list of texts"),
        ({"starts": {"tile": 8}}, "'starts' is {'tile': 8}; needed is a list of {config, sizes}"),
        ({"starts": [8]}, "start 1 is 8; needed is a mapping with 'config' and maybe 'sizes'"),
        ({"starts": [{"config": {"tile": 9}}]}, "start 1: 'config' has tile=9; allowed are [8, 16, 32]"),
        ({"starts": [{"config": {}}, {"config": {"tiles": 8}}]}, "start 2: 'config' names unknown parameter 'tiles'"),
        (
            {"starts": [{"config": {"tile": 32, "order": "columns"}}]},
            "start 1: 'config' breaks a constraint: wide tiles go by rows",
        ),
        ({"starts": [{"config": {}, "sizes": [5, 4]}]}, "start 1: 'sizes' is [5, 4]; needed is [smallest, largest]"),
        ({"targets": ["tpu"]}, "target 'tpu' is unknown; allowed are cpu, sm_90a, sm_100a"),
        ({"language": "rust"}, "'language' is 'rust'; allowed are python,"),
        ({"binding": "torch"}, "'binding' is for cpp and cuda, not for language 'python'"),
        ({"binding": "swig", "language": "cpp"}, "'binding' is 'swig'; allowed are tvm-ffi, torch"),
        ({"language": "cuda", "size_axis": "M"}, "'size_axis' is for Solutions that read config.py"),
        ({"destination_passing": "yes"}, "'destination_passing' is 'yes'; allowed are true, false"),
        ({"dependencies": [1]}, "'dependencies' is [1]"),
        ({"name": ""}, "'name' is ''; needed is a text"),
        ({"parameters": {}}, "'parameters' is {}; needed is a mapping"),
        (parameters(tile=[8]), "parameter 'tile' is [8]; needed is a mapping with 'values'"),
        (parameters(tile={"kind": "ordinal"}), "parameter 'tile': key 'values' is missing"),
        (parameters(tile={"values": []}), "'values' is []; needed is a list of at least one value"),
        (parameters(tile={"values": [1, "x"]}), "all must be of one type"),
        (parameters(tile={"values": [[1]]}), "all must be of one type"),
        (parameters(tile={"values": [8, 8]}), "lists a value twice: [8, 8]"),
        (parameters(tile={"values": [float("nan")]}), "numbers must be finite"),
        (parameters(tile={"values": [8], "kind": "linear"}), "'kind' is 'linear'; allowed are ordinal, categorical"),
        (parameters(tile={"values": [8], "step": 2}), "parameter 'tile': unknown key 'step'; allowed are values, kind"),
        (parameters(tile={"values": [8], "doc": 1}), "'doc' is 1; needed is a text"),
        ({"parameters": {"my tile": {"values": [1]}}}, "parameter 'my tile' is not a name"),
        ({"parameters": {"if": {"values": [1]}}}, "parameter 'if' is not a name"),
        ({"language": "cpp", **parameters(TILE={"values": [1]})}, "both become the macro CONFIG_TILE"),
        ({"constraints": {}}, "'constraints' is {}; needed is a list"),
        ({"constraints": ["tile > 4"]}, "constraint 1 is 'tile > 4'; needed is a mapping"),
        (constraint(reason=None), "constraint 1: 'reason' is None; needed is a text"),
        (constraint(expression="tile >"), "constraint 1: 'tile >' is not an expression"),
        (constraint(expression="tiles > 4"), "names unknown 'tiles'; known are fast, order, tile"),
        (constraint(expression="tile.bit_length() > 4"), "which is not allowed; allowed are names"),
        (constraint(expression="order > tile"), "fails for order='rows', tile=8"),
        (constraint(expression="tile % (tile - 16) == 0"), "fails for tile=16"),
        (constraint(expression="tile + 1"), "gives 9; needed is true or false"),
        (constraint(expression="1 < 2"), "reads no parameter"),
        (constraint(expression="tile > 99"), "is false for all values, so no config is valid"),
        ({"default": {"tile": 8}}, "'default' has no value for parameter 'order'; allowed are ['rows', 'columns']"),
        ({"default": {**GOOD["default"], "tile": 9}}, "'default' has tile=9; allowed are [8, 16, 32]"),
        ({"default": {**GOOD["default"], "fast": 1}}, "'default' has fast=1; allowed are [False, True]"),
        (
            {"default": {**GOOD["default"], "x": 1}},
            "'default' names unknown parameter 'x'; known are tile, order, fast",
        ),
        ({"default": {"tile": 32, "order": "columns", "fast": True}}, "breaks a constraint: wide tiles go by rows"),
        ({"default": "tile"}, "'default' is 'tile'; needed is a mapping"),
        ({"entry_point": "main.py"}, "'entry_point' is 'main.py'; needed is file::function"),
        ({"entry_point": "other.py::run"}, "'entry_point' names 'other.py'; the sources are main.py"),
        ({"entry_point": "main.py::go"}, "'entry_point' names 'go', which main.py does not define"),
        ({"sources": ["*.cu"]}, "'sources' has '*.cu', which matches no file"),
        ({"sources": ["../*.py"]}, "patterns are relative to the folder and stay inside it"),
        ({"sources": ["/etc/passwd"]}, "patterns are relative to the folder and stay inside it"),
    ],
)
def test_mistake_in_the_file(tmp_path, changes, part):
    assert part in message(folder_with(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("targets: [cpu", "not YAML"),
        ("", "holds None; needed is a mapping"),
        ("- 1\n- 2\n", "holds [1, 2]; needed is a mapping"),
        ("targets: [cpu]\ntargets: [sm_90a]\n", "key 'targets' is given twice"),
        ("? [a]\n: 1\n", "not YAML"),
        ("a: !!python/object:os.system {}\n", "not YAML"),
    ],
)
def test_mistake_in_the_yaml(tmp_path, text, part):
    assert part in message(folder_with(tmp_path, text=text))


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({}, "matches no file"),
        ({"main.py": "def run():\n    pass\n", "config.py": "x = 1\n"}, "config.py is in the folder; it is generated"),
        ({"main.py": "def run(:\n"}, "source main.py, line 1: "),
        ({"main.py": "def run():\n    pass\n", "empty.py": ""}, "source empty.py is empty"),
        ({"main.py": "class A:\n    def run(self):\n        pass\n"}, "names 'run', which main.py does not define"),
    ],
)
def test_mistake_in_the_sources(tmp_path, files, part):
    assert part in message(folder_with(tmp_path, files=files))


def test_source_that_is_not_text(tmp_path):
    folder = folder_with(tmp_path)
    (folder / "blob.bin").write_bytes(b"\xff\xfe\x00")
    assert "source blob.bin is not readable UTF-8 text" in message(folder)


def test_source_link_out_of_the_folder(tmp_path):
    folder = folder_with(tmp_path)
    (tmp_path / "secret.py").write_text("x = 1\n")
    (folder / "link.py").symlink_to(tmp_path / "secret.py")
    assert "source link.py is a link that leaves the folder" in message(folder)


def test_no_space_file(tmp_path):
    assert "cannot be read: No such file" in message(tmp_path)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(["tile", "cpu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*GOOD, "name", "op_type", "language", "binding", "dependencies", "sources", "size_axis", "odd"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, PLAIN, max_size=3))
def test_any_values_give_a_family_or_a_space_error(tmp_path_factory, changes):
    folder = folder_with(tmp_path_factory.mktemp("fuzz"), text=yaml.safe_dump({**GOOD, **changes}))
    with contextlib.suppress(SpaceError):
        DirectoryFamily(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=80) | st.text(alphabet="a:&*-[]{}!|>'\"\n %@#?,1", max_size=80))
def test_any_text_gives_a_family_or_a_space_error(tmp_path_factory, text):
    folder = folder_with(tmp_path_factory.mktemp("fuzz"))
    (folder / "space.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(SpaceError):
        DirectoryFamily(folder)


@pytest.fixture(scope="module")
def dataset():
    return TraceSet.from_path(str(PATH))


@pytest.mark.parametrize(("example", "name"), [("rmsnorm", RMSNORM), ("gemm", GEMM)])
def test_example_is_right_for_every_value(example, name, dataset, tmp_path, monkeypatch):
    """Configs that between them use every value, on two small workloads, at flashinfer-bench's own tolerance."""
    definition = dataset.definitions[name]
    space = DirectoryFamily(EXAMPLES / example).space(json.loads(definition.model_dump_json()), "cpu")
    reference = BuilderRegistry.get_instance().build_reference(definition)
    monkeypatch.syspath_prepend(str(tmp_path))
    missing = {(p.name, v) for p in space.parameters for v in p.values}
    for number, config in enumerate(space.enumerate()):
        if not missing & set(config.items()):
            continue
        missing -= set(config.items())
        package = f"{example}_{number}"
        (tmp_path / package).mkdir()
        for path, text in space.variant_sources(config).items():
            (tmp_path / package / path).write_text(text)
        run = importlib.import_module(f"{package}.main").run
        for trace in dataset.workloads[name][1:3]:
            torch.manual_seed(1)
            inputs = gen_inputs(definition, trace.workload, "cpu")
            expected = reference(*inputs)
            output = torch.full_like(expected, float("nan"))
            run(*inputs, output)
            torch.testing.assert_close(output.float(), expected.float(), rtol=1e-2, atol=1e-2)
    assert missing == set()


def test_example_refuses_another_op(dataset):
    why = DirectoryFamily(EXAMPLES / "gemm").why_not(json.loads(dataset.definitions[MOE].model_dump_json()))
    assert why == "op_type 'moe' is not one of gemm"
