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

from benchmarks.packaged_dataset.make import GEMM, MOE, RMSNORM
from search_spaces import registry
from search_spaces.dataset import PATH
from search_spaces.directory import DirectoryFamily
from search_spaces.parameters import SpaceError

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
    folder = folder_with(tmp_path, files=files, language="cpp", binding="tvm-ffi", entry_point="main.cc::run")
    space = DirectoryFamily(folder).space(DEFINITION, "cpu")
    header = space.variant_sources({"tile": 16, "order": "columns", "fast": True})["config.h"].splitlines()
    assert space.binding == "tvm-ffi"
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
        ({"targets": None}, "key 'targets' is missing; needed are targets, default, entry_point"),
        ({"colour": "red"}, "unknown key 'colour'; allowed are targets,"),
        ({"definition": None}, "neither 'definition' nor 'op_type'"),
        ({"definition": []}, "'definition' is []; needed is a text or a list of at least one text"),
        ({"targets": []}, "'targets' is []; needed is a list of at least one of cpu, sm_90a"),
        ({"definition": 3}, "'definition' is 3; needed is a text or a list of at least one text"),
        ({"starts": {"tile": 8}}, "'starts' is {'tile': 8}; needed is a list of {config, sizes}"),
        ({"starts": [8]}, "start 1 is 8; needed is a mapping with 'config' and maybe 'sizes'"),
        ({"starts": [{"config": {"tile": 9}}]}, "start 1: 'config' has tile=9; allowed are [8, 16, 32]"),
        ({"starts": [{"config": {}}, {"config": {"tiles": 8}}]}, "start 2: 'config' names unknown parameter 'tiles'"),
        (
            {"starts": [{"config": {"tile": 32, "order": "columns"}}]},
            "start 1: 'config' breaks a constraint: wide tiles go by rows",
        ),
        ({"starts": [{"config": {}, "sizes": [5, 4]}]}, "start 1: 'sizes' is [5, 4]; needed is [smallest, largest]"),
        ({"starts": [{"config": {}, "sizes": [5]}]}, "start 1: 'sizes' is [5]; needed is [smallest, largest]"),
        ({"starts": [{"config": {}, "sizes": [True, 2]}]}, "start 1: 'sizes' is [True, 2]; needed is [smallest,"),
        ({"targets": ["tpu"]}, "'targets' is ['tpu']; allowed are cpu, sm_90a, sm_100a"),
        ({"language": "rust"}, "'language' is 'rust'; allowed are python,"),
        ({"binding": "torch"}, "'binding' is for cpp and cuda, not for language 'python'"),
        ({"binding": "swig", "language": "cpp"}, "'binding' is 'swig'; allowed are tvm-ffi, torch"),
        ({"language": "cuda", "binding": "torch"}, "language 'cuda' needs CUDA to build, so target cpu cannot have it"),
        ({"language": "cpp", "binding": "torch"}, "'binding' torch needs CUDA to build, so target cpu cannot have it"),
        (
            {"language": "cuda", "targets": ["sm_90a"], "size_axis": "M"},
            "'size_axis' is for Solutions that read config.py",
        ),
        ({"destination_passing": "yes"}, "'destination_passing' is 'yes'; allowed are true, false"),
        ({"dependencies": [1]}, "'dependencies' is [1]"),
        ({"name": ""}, "'name' is ''; needed is a text"),
        ({"name": "../mine"}, "'name' '../mine' leads out of its folder"),
        ({"name": ".."}, "'name' '..' leads out of its folder"),
        ({"name": "a\\b"}, "leads out of its folder"),
        ({"name": "x\ny"}, "'name' 'x\\ny' has characters that cannot be printed"),
        ({"name": "x" * 121}, "has 121 bytes; at most 120 are allowed"),
        (parameters(tile={"values": [1, 10**400]}), "parameter 'tile' has a number of 1329 bits, which is too large"),
        (parameters(tile={"values": [0.5, 10**400]}), "a number is too large"),
        (parameters(tile={"values": list(range(40000))}), "has 40000 values; at most 32767 are allowed"),
        ({"parameters": {}}, "'parameters' is {}; needed is a mapping"),
        (parameters(tile=8), "parameter 'tile' is 8; needed is a mapping with 'values'"),
        (parameters(tile={"kind": "ordinal"}), "parameter 'tile': key 'values' is missing"),
        (parameters(tile={"values": []}), "'values' is []; needed is a list of at least one value"),
        (parameters(tile={"values": [1, "x"]}), "all must be of one type"),
        (parameters(tile={"values": [[1], 1]}), "all must be of one type"),
        (parameters(tile={"values": [[[1]]]}), "a value that is a list may hold int, float, bool and text"),
        (parameters(tile={"values": ["a\x1b[31m", "b"]}), "a text has a character that cannot be printed"),
        (parameters(tile={"values": ["a\ud800", "b"]}), "a text has a character that cannot be printed"),
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
        (constraint(expression="tiles > 4"), "names unknown 'tiles'; known are fast, order, registers, "),
        (constraint(expression="tile.bit_length() > 4"), "which is not allowed; allowed are names"),
        (constraint(expression="order > tile"), "fails for order='rows', tile=8"),
        (constraint(expression="tile % (tile - tile) == 0"), "fails for tile=8"),
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
        ("", "space.yaml: is empty; needed is a mapping"),
        ("- 1\n- 2\n", "holds [1, 2]; needed is a mapping"),
        ("targets: [cpu]\ntargets: [sm_90a]\n", "line 2: key 'targets' is given twice"),
        ("null: 1\n", "unknown key None; allowed are targets,"),
        ("1: 1\n", "unknown key 1; allowed are targets,"),
        ("? [a]\n: 1\n", "not YAML"),
        ("a: !!python/object:os.system {}\n", "not YAML"),
    ],
)
def test_mistake_in_the_yaml(tmp_path, text, part):
    assert part in message(folder_with(tmp_path, text=text))


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({}, "'entry_point' names 'main.py'; the sources are none"),
        ({"main.py": "def run():\n    pass\n", "config.py": "x = 1\n"}, "config.py is in the folder; it is generated"),
        ({"main.py": "def run(:\n"}, "source main.py, line 1: "),
        ({"main.py": "class A:\n    def run(self):\n        pass\n"}, "names 'run', which main.py does not define"),
    ],
)
def test_mistake_in_the_sources(tmp_path, files, part):
    assert part in message(folder_with(tmp_path, files=files))


@pytest.mark.parametrize("sources", [None, ["*"]])
def test_source_that_is_not_text(tmp_path, sources):
    folder = folder_with(tmp_path, sources=sources)
    (folder / "more.py").write_bytes(b"# caf\xe9\n")
    assert "source more.py is not readable UTF-8 text" in message(folder)


def fingerprint(folder):
    return DirectoryFamily(folder).space(DEFINITION, "cpu").fingerprint


def test_junk_beside_a_kernel_is_left_out_with_a_word_and_changes_nothing(tmp_path, caplog):
    files = {"main.py": "def run(A, B, C):\n    pass\n", "parts/__init__.py": "", "parts/tile.cuh": "// tile\n"}
    folder = folder_with(tmp_path, files=files)
    before = fingerprint(folder)
    assert caplog.messages == []
    for name in (
        "run.log", "libkernel.so", "paper.pdf", "bench.json", "tuner-report-1.html", "main.py~", "tuner.db", "Makefile",
        "parts/profile.nsys-rep", "build/generated.cu", "mine.egg-info/setup.py", "venv/lib/site.py", "venv/pyvenv.cfg",
        "tuner-out/solutions/gemm/x.json", "data/definitions/gemm/helper.py", "second/space.yaml", "second/main.py",
        ".git/hooks/hook.py", ".ipynb_checkpoints/main-checkpoint.py", "__pycache__/main.pyc", "._main.py",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xff\xfe\x00 no text")
    assert fingerprint(folder) == before
    assert set(DirectoryFamily(folder).space(DEFINITION, "cpu").sources) == set(files)
    (remark,) = set(caplog.messages)
    assert "build/, data/, mine.egg-info/ and 12 more left out; name in 'sources'" in remark


@pytest.mark.parametrize("place", [".", "tuner-out", "results/mine"])
def test_what_a_sweep_wrote_is_no_source_though_a_pattern_matches_it(tmp_path, place):
    """Else the second sweep is of another space than the first, and knows none of its figures."""
    folder = folder_with(tmp_path, sources=["**/*"])
    (folder / "table.json").write_text("{}")
    before = DirectoryFamily(folder).space(DEFINITION, "cpu").sources
    for part in ("definitions", "workloads", "solutions", "traces", "blob"):
        (folder / place / part / "op").mkdir(parents=True)
        (folder / place / part / "op" / "a.json").write_text("{}")
    assert DirectoryFamily(folder).space(DEFINITION, "cpu").sources == before
    assert set(before) == {"main.py", "table.json"}


def test_what_sources_names_belongs_to_the_kernel_whatever_it_is(tmp_path):
    folder = folder_with(tmp_path, sources=["*.py", "tables/*"])
    (folder / "tables").mkdir()
    (folder / "tables" / "best.json").write_text("{}")
    first = fingerprint(folder)
    (folder / "tables" / "best.json").write_text('{"tile": 8}')
    assert fingerprint(folder) != first


def test_byte_order_marks_and_line_ends_are_no_part_of_a_source(tmp_path):
    folder = folder_with(tmp_path)
    before = fingerprint(folder)
    for name in ("main.py", "space.yaml"):
        path = folder / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert fingerprint(folder) == before


def test_an_empty_file_is_what_flashinfer_bench_accepts(tmp_path):
    folder = folder_with(tmp_path, files={"main.py": "from .parts.run import run\n", "parts/__init__.py": ""})
    assert DirectoryFamily(folder).space(DEFINITION, "cpu").sources["parts/__init__.py"] == "\n"


PARTS = {"parts/__init__.py": "from .run import *\n", "parts/run.py": "def run():\n    pass\n", "none.py": "x = 1\n"}


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    import fast\nexcept ImportError:\n    def run():\n        pass\n",
        "import sys\nif sys.version_info > (3, 11):\n    def run():\n        pass\nelse:\n    run = None\n",
        "def make():\n    return lambda: None\nrun = make()\n",
        "run: object = print\n",
        "run, other = print, print\n",
        "with open(__file__) as f:\n    run = f.read\n",
        "for run in (print,):\n    pass\n",
        "(run := print)\n",
        "from .parts.run import *\n",
        "from .parts import *\n",
        "from . import parts as run\n",
        "from somewhere import *\n",
        "globals()['ru' + 'n'] = print\n",
        "def __getattr__(name):\n    return print\n",
        "class run:\n    pass\n",
        "x = '\\d'\nasync def run():\n    pass\n",
    ],
)
def test_run_may_be_defined_in_any_way(tmp_path, text):
    DirectoryFamily(folder_with(tmp_path, files={"main.py": text, **PARTS}))


@pytest.mark.parametrize(
    "text",
    [
        "def other():\n    run = 1\n",
        "class A:\n    run = 1\n",
        "from .none import *\n",
        "x = [run for run in ()]\n",
        "make = lambda run: (run := 1)\n",
    ],
)
def test_what_is_called_run_elsewhere_is_no_entry_point(tmp_path, text):
    assert "names 'run', which main.py does not define" in message(
        folder_with(tmp_path, files={"main.py": text, **PARTS})
    )


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        ("1e-3, 2.0e-3", "1e-3 is a text to YAML; write 0.001 for the number, or '1e-3' for the text"),
        ("1e-05, 2", "1e-05 is a text to YAML; write 1.0e-05 for the number"),
        ("1.5e3", "1.5e3 is a text to YAML; write 1500.0 for the number"),
        ("64_64, 128_64", "64_64 is 6464 to YAML; write 6464, or '64_64' for the text"),
        ("1:1, 2:1", "1:1 is 61 to YAML; write 61, or '1:1' for the text"),
        ("1:1.5", "1:1.5 is 61.5 to YAML"),
        ("010, 020", "010 is 8 to YAML; write 8, or '010' for the text"),
        ("08, 16", "08 is a text to YAML; write 8 for the number, or '08' for the text"),
        ("0o17", "0o17 is a text to YAML; write 15 for the number"),
        ("on, off", "on is true to YAML; write true, or 'on' for the text"),
        ("No, y", "No is false to YAML; write false, or 'No' for the text"),
        ("=", "= is a sign of YAML's own; write '=' for the text"),
        ("<<", "<< is a sign of YAML's own; write '<<' for the text"),
        ("2024-01-01", "2024-01-01 is a date to YAML; write '2024-01-01' for the text"),
    ],
)
def test_a_value_that_yaml_reads_otherwise_comes_with_the_cure(tmp_path, values, cure):
    head = "op_type: gemm\ntargets: [cpu]\nentry_point: main.py::run\nparameters:\n  tile:\n    values:"
    folder = folder_with(tmp_path, text=f"{head} [{values}]\ndefault: {{tile: 1}}\n")
    assert f"line 6: {cure}" in message(folder)
    (folder / "space.yaml").write_text(f"{head} [1]\ndefault: {{tile: {values.split(',')[0].strip()}}}\n")
    assert "line 7: " in message(folder)


def test_a_key_that_yaml_reads_otherwise_comes_with_the_cure(tmp_path):
    text = yaml.safe_dump(GOOD).replace("fast:", "on:")
    assert "on is true to YAML; write true, or 'on' for the text" in message(folder_with(tmp_path, text=text))


def test_quoted_values_and_free_texts_are_what_they_look_like(tmp_path):
    text = """
op_type: gemm
targets: [cpu]
entry_point: main.py::run
parameters:
  eps: {values: ["1e-3", '010', "on"], doc: 1e-3}
  scale: {values: [0x40, 1.0e-3, -2, .5, 0]}
default: {eps: "on", scale: 0}
"""
    space = DirectoryFamily(folder_with(tmp_path, text=text)).space(DEFINITION, "cpu")
    assert [p.values for p in space.parameters] == [("1e-3", "010", "on"), (64.0, 0.001, -2.0, 0.5, 0.0)]
    assert space.parameters[0].doc == "1e-3"


def test_whole_numbers_among_others_are_numbers(tmp_path):
    changes = {"parameters": {"share": {"values": [0, 0.5, 1]}}, "constraints": None}
    folder = folder_with(tmp_path, **changes, default={"share": 0}, starts=[{"config": {"share": 1.0}}])
    space = DirectoryFamily(folder).space(DEFINITION, "cpu")
    assert [(type(v), v) for v in space.parameters[0].values] == [(float, 0.0), (float, 0.5), (float, 1.0)]
    assert (repr(space.default), repr(space.starts[0].config)) == ("{'share': 0.0}", "{'share': 1.0}")


def test_a_constraint_that_cannot_be_computed_makes_its_configs_invalid(tmp_path, caplog):
    rule = [{"expression": "64 % (tile - 16) == 0", "reason": "parts are equal"}]
    space = DirectoryFamily(folder_with(tmp_path, constraints=rule)).space(DEFINITION, "cpu")
    assert {c["tile"] for c in space.enumerate()} == {8, 32}
    assert space.violation({**space.default, "tile": 16}) == "parts are equal"
    (remark,) = caplog.messages
    assert "constraint 'parts are equal' cannot be computed, such configs are invalid" in remark
    assert "tile=16" in remark


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
