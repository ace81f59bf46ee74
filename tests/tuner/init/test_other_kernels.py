"""What strangers' files have beside a plain decorator: hooks, helpers in other files, Solutions, folders."""

import ast
import json

import pytest

from search_spaces.directory import DirectoryFamily
from tests.tuner.init.strangers import DEFINITION, HEAD, made, write
from tuner.errors import UsageError

HOOKED = (
    HEAD
    + """
def prepare(nargs):
    nargs["d"].block = [nargs["B"]]


@triton.autotune(
    configs=[triton.Config({"B": b}, pre_hook=prepare) for b in (32, 64)], key=[], prune_configs_by={"top_k": 3}
)
@triton.jit
def move(d, x, out, n, B: tl.constexpr):
    pass


def moved(x):
    out = torch.empty_like(x)
    if out.numel():
        move[(1,)](make(x), x, out, x.numel())
    return out


def make(x):
    return x
"""
)


def test_a_hook_is_called_before_the_launch_with_what_it_reads(tmp_path):
    """Catches a descriptor that keeps the block of another config, or of none."""
    space = made(write(tmp_path, {"move.py": HOOKED}))
    kernel = space.files["move.py"]
    body = next(n for n in ast.parse(kernel).body if getattr(n, "name", "") == "moved").body
    assert next(ast.unparse(s) for s in body[1].body) == "prepare({'d': make(x), 'B': config['B']})"
    assert "def prepare(nargs):" in kernel
    assert "prunes its configs by its arguments" in space.files["space.yaml"]


def test_hooks_that_only_some_configs_have_are_left_to_the_author(tmp_path):
    """Catches split-K sums that are added to memory nobody zeroed, with nothing on the author's list."""
    hooks = "pre_hook=(lambda nargs: nargs['out'].zero_()) if b == 64 else None"
    space = made(write(tmp_path, {"move.py": HOOKED.replace("pre_hook=prepare", hooks)}))
    assert "prepare(" not in space.files["move.py"].split("def moved")[1]
    assert "TODO(tuner init): 1 of the 2 configs of move call a function before" in space.files["space.yaml"]


def test_a_hook_of_another_file_is_left_to_the_author(tmp_path):
    """Catches a call of a name that the launching file does not have."""
    kernels, launcher = HOOKED.split("def moved(x):")
    (tmp_path / "place").mkdir()
    files = {
        "launch.py": "import torch\nfrom .kernels import move\n\n\ndef moved(x):" + launcher,
        "kernels.py": kernels,
    }
    space = made(write(tmp_path / "place", files))
    assert "prepare(" not in space.files["launch.py"]
    assert [t.what for t in space.todo if t.file == "launch.py"] == [
        "call prepare before the launch of move, as its configs did"
    ]


def test_configs_of_other_names_are_left_out_and_counted(tmp_path):
    """Catches a config without a value for what the kernel needs."""
    text = HOOKED.replace("for b in (32, 64)]", "for b in (32, 64)] + [triton.Config({'OTHER': 1})]")
    space = made(write(tmp_path, {"move.py": text}))
    assert space.parameters["B"] == (32, 64)
    assert "move.py: move: 1 configs give other names than the first; left out" in space.remarks


PROJECT = {
    "project/ops/copy.py": HEAD
    + """
from ..helpers import KEPT, blocks, unused
from project.sub import launch_all as launch
from nowhere_at_all import gone


class Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        from ..late import check
        check(x, gone)
        return launch(x, KEPT)

    @staticmethod
    def backward(ctx, gradient):
        return unused(gradient)
""",
    "project/helpers.py": """import torch

KEPT = 4
OTHER = torch.cuda.nothing_of_the_kind


def blocks():
    return (16, 32)


def unused(x):
    return OTHER
""",
    "project/sub/__init__.py": "from ._kernels import launch_all, more\n",
    "project/sub/_kernels.py": HEAD
    + """
from ..helpers import blocks, unused


@triton.autotune([triton.Config({"B": b}) for b in blocks()], key=[])
@triton.jit
def move(x, out, B: tl.constexpr):
    pass


def launch_all(x, kept):
    out = torch.empty_like(x)
    move[(kept,)](x, out)
    return out


more = unused(3)
""",
    "project/late.py": "def check(x, gone):\n    pass\n",
    "project/__init__.py": "raise SystemError\n",
}


def test_helpers_of_the_same_project_come_along_with_what_is_needed_of_them(tmp_path):
    """Catches a whole package in the space, names that stay behind, and imports that lead out of the folder."""
    (tmp_path / "project" / "ops").mkdir(parents=True)
    space = made(write(tmp_path, PROJECT), entry="Copy")
    files = space.files
    assert sorted(files) == ["copy.py", "helpers.py", "kernels.py", "late.py", "main.py", "space.yaml", "sub.py"]
    assert "from .helpers import KEPT\n" in files["copy.py"]
    assert "from .sub import launch_all as launch\n" in files["copy.py"]
    assert "from .late import check\n" in files["copy.py"]
    assert files["sub.py"] == "from .kernels import launch_all\n"
    assert "OTHER" not in files["helpers.py"]
    assert "KEPT = 4" in files["helpers.py"]
    assert space.parameters["B"] == (16, 32), "the configs are made by a helper in another file"
    assert 'move[(kept,)](x, out, B=config["B"]' in files["kernels.py"]
    assert "    kernels.config = config\n    return copy.Copy.apply(x)\n" in files["main.py"]
    (todo,) = space.todo
    assert (todo.file, todo.what.partition(" (")[0]) == ("copy.py", "module nowhere_at_all")


SOLUTION = {
    "name": "somebody's entry",
    "definition": "copy_n",
    "author": "somebody",
    "spec": {
        "language": "triton",
        "target_hardware": ["cuda"],
        "entry_point": "src/entry.py::kernel",
        "destination_passing_style": True,
    },
    "sources": [
        {
            "path": "src/entry.py",
            "content": "from .move import move\n\ndef kernel(x, out):\n    move[(1,)](x, out)\n",
        },
        {
            "path": "src/move.py",
            "content": HEAD + '@triton.autotune([triton.Config({"B": 16}), triton.Config({"B": 32})], key=[])\n'
            "@triton.jit\ndef move(x, out, B: tl.constexpr):\n    pass\n",
        },
        {"path": "main.py", "content": "# of somebody\n"},
        {"path": "table.json", "content": "{}"},
    ],
}


def test_a_solution_keeps_its_files_and_its_way_to_pass_outputs(tmp_path):
    path = write(tmp_path, {"solution.json": json.dumps(SOLUTION)})
    space = made(path)
    assert space.files["main.py"] == "# of somebody\n"
    assert "    entry.config = config\n    entry.kernel(x, out)\n" in space.files["main2.py"]
    assert "from .src import entry\n" in space.files["main2.py"]
    assert "def run(x, out):\n" in space.files["main2.py"]
    assert space.files["table.json"] == "{}"
    space.write(tmp_path / "space")
    found = DirectoryFamily(tmp_path / "space").space(DEFINITION, "sm_90a")
    assert (found.entry_point, found.destination_passing) == ("main2.py::run", True)
    assert [p.name for p in found.parameters] == ["B", "num_warps", "num_stages"]


def test_a_contest_folder_is_read_with_its_config(tmp_path):
    files = {f"solution/mine/{s['path']}": s["content"] for s in SOLUTION["sources"][:2]}
    build = '[build]\nlanguage = "triton"\nsource_dir = "mine"\nentry_point = "kernel"\n'
    write(tmp_path, {"config.toml": f'[solution]\nname = "entry-v1"\ndefinition = "copy_n"\n\n{build}', **files})
    space = made(tmp_path)
    assert (space.name, space.definition) == ("entry-v1", "copy_n")
    assert "    entry.kernel(x, out)\n" in space.files["main.py"]


def test_a_solution_in_cuda_becomes_a_space_with_a_place_for_parameters(tmp_path):
    spec = {**SOLUTION["spec"], "language": "cuda", "entry_point": "k.cu::go", "dependencies": ["nvidia-cublas"]}
    sources = [{"path": "k.cu", "content": "void go() {}\n"}]
    space = made(write(tmp_path, {"s.json": json.dumps({**SOLUTION, "spec": spec, "sources": sources})}))
    space.write(tmp_path / "space")
    found = DirectoryFamily(tmp_path / "space").space(DEFINITION, "sm_90a")
    assert (found.language, found.entry_point, found.dependencies) == ("cuda", "k.cu::go", ("nvidia-cublas",))
    assert [t.file for t in space.todo] == ["space.yaml"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sources": [{"path": "../k.py", "content": "x"}]}, "leads out of its folder"),
        ({"sources": [{"path": "config.py", "content": "x"}]}, "rename it"),
        ({"sources": []}, "has no sources"),
        ({"spec": {**SOLUTION["spec"], "entry_point": "gone.py::run"}}, "is not among the sources"),
        ({"spec": {**SOLUTION["spec"], "entry_point": "table.json::run"}}, "is not among the sources in triton: "),
        ({"definition": ["copy_n"]}, "definition is \\['copy_n'\\]; needed is its name"),
        ({"spec": {**SOLUTION["spec"], "dependencies": "torch"}}, "dependencies are 'torch'; needed is a list"),
        ({"spec": {**SOLUTION["spec"], "language": "rust"}}, "language is 'rust'; allowed are"),
    ],
)
def test_a_solution_that_cannot_be_used_gets_one_line(tmp_path, change, why):
    path = write(tmp_path, {"solution.json": json.dumps({**SOLUTION, **change})})
    with pytest.raises(UsageError, match=why) as raised:
        made(path)
    assert "\n" not in str(raised.value)


def test_an_entry_beside_the_authors_own_is_refused(tmp_path):
    """It was ignored, so the space had another entry point than the one that was asked for."""
    path = write(tmp_path, {"solution.json": json.dumps(SOLUTION)})
    with pytest.raises(
        UsageError, match=r"says itself that its entry point is src/entry.py::kernel; leave --entry out"
    ):
        made(path, entry="other")


def tuned(sizes):
    configs = ", ".join(f'triton.Config({{"B": {size}}})' for size in sizes)
    jit = "@triton.jit\ndef move(x, out, B: tl.constexpr):\n    pass\n"
    return f"{HEAD}@triton.autotune(configs=[{configs}], key=[])\n{jit}"


def test_names_of_a_star_import_are_known(tmp_path):
    """Catches configs that could not be read, since a constant of theirs comes from ``import *``."""
    files = {
        "place/move.py": "from .sizes import *\n" + tuned((32,)).replace('"B": 32', '"B": LARGEST'),
        "place/sizes.py": "LARGEST = 256\n",
    }
    files["place/move.py"] += "def moved(x, out):\n    move[(1,)](x, out)\n"
    assert made(write(tmp_path, files)).parameters["B"] == (256,)


def test_two_kernels_of_one_name_are_refused_unless_they_are_copies(tmp_path):
    """Parameters go by the kernel's name: one list of configs took the other one's place."""
    main = {"path": "m.py", "content": "from . import a, b\ndef run(x, out):\n    a.go(x, out)\n    b.go(x, out)\n"}

    def solution(folder, first, second):
        go = "def go(x, out):\n    move[(1,)](x, out)\n"
        parts = [{"path": f"{n}.py", "content": tuned(s) + go} for n, s in (("a", first), ("b", second))]
        document = {**SOLUTION, "spec": {**SOLUTION["spec"], "entry_point": "m.py::run"}, "sources": [main, *parts]}
        return write(tmp_path / folder, {"s.json": json.dumps(document)})

    with pytest.raises(UsageError, match=r"[ab].py and [ab].py have different tuned kernels called move; rename one"):
        made(solution("other", (32, 64), (128, 256)))
    space = made(solution("same", (32, 64), (32, 64)))
    assert space.parameters["B"] == (32, 64)
    assert all('B=config["B"]' in space.files[f"{name}.py"] for name in "ab")


def test_values_that_are_unpacked_into_a_launch_are_marked(tmp_path):
    """Were num_warps among them, Python would refuse the call, in the first build."""
    go = "def moved(x, out):\n    more = {'num_warps': 8}\n    move[(1,)](x, out, **more)\n"
    space = made(write(tmp_path, {"k.py": tuned((32, 64)) + go}))
    (todo,) = [t for t in space.todo if t.file == "k.py"]
    assert todo.what == "**more must not hold what the config gives: B, num_warps, num_stages"


def test_small_numbers_are_written_as_yaml_reads_them(tmp_path):
    text = tuned((32,)).replace('{"B": 32}', '{"B": 32, "eps": 1e-06}').replace("out, B", "out, eps, B")
    space = made(write(tmp_path, {"k.py": text + "def moved(x, out):\n    move[(1,)](x, out)\n"}))
    space.write(tmp_path / "space")
    found = DirectoryFamily(tmp_path / "space").space(DEFINITION, "sm_90a")
    assert found.default["eps"] == 1e-06
