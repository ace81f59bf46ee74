"""A Triton file becomes a space: the decorator goes, launches read the config, the author's text stays as it is."""

import ast
import json
from pathlib import Path

import pytest

from search_spaces.directory import DirectoryFamily
from search_spaces.targets import target_named
from tuner.errors import UsageError
from tuner.init.make_space import make_space

TWICE = '''# Copyright of somebody.
import torch, triton
import triton.language as tl
import not_there_at_all


def blocks():
    return [triton.Config({"BLOCK": b}, num_warps=w) for b in (128, 256) for w in (2, 4)]


# What the kernel does.
@triton.autotune(
    configs=blocks(),
    key=["n"],
)
@triton.jit
def twice(x, out, n,    BLOCK: tl.constexpr):   # odd  spacing
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, 2 * tl.load(x + at, at < n), at < n)


def doubled(x):
    """Größe und Umlaute: columns are counted in bytes."""
    out = torch.empty_like(x); n = x.numel()
    twice[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, out, n)
    return out


def bench_all(sizes):
    return [not_there_at_all.measure(doubled, size) for size in sizes]


x = torch.rand(98432, device="cuda")
print(doubled(x))
'''
DEFINITION = {
    "name": "double_n",
    "op_type": "double",
    "axes": {"n": {"type": "var"}},
    "inputs": {"x": {"shape": ["n"], "dtype": "float32"}},
    "outputs": {"out": {"shape": ["n"], "dtype": "float32"}},
    "reference": "def run(x):\n    return 2 * x\n",
}


def made(tmp_path: Path, text: str, definition=DEFINITION, entry=None, name="twice.py"):
    path = tmp_path / name
    path.write_text(text)
    return make_space(path, target_named("sm_90a"), ("sm_90a", "sm_100a"), definition, entry)


def written(space, folder: Path) -> DirectoryFamily:
    space.write(folder)
    return DirectoryFamily(folder)


def test_configs_become_parameters_and_the_launcher_reads_them(tmp_path):
    space = made(tmp_path, TWICE)
    kernel = space.files["twice.py"]
    assert "autotune" not in kernel
    assert "blocks()" not in kernel, "only the decorator needed it"
    assert "def twice(x, out, n,    BLOCK: tl.constexpr):   # odd  spacing\n" in kernel, "the author's text stays"
    assert kernel.startswith("# Copyright of somebody.\n")
    assert "# What the kernel does.\n@triton.jit\n" in kernel
    launch = next(
        n for n in ast.walk(ast.parse(kernel)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Subscript)
    )
    assert {k.arg: ast.unparse(k.value) for k in launch.keywords} == {
        "BLOCK": "config['BLOCK']",
        "num_warps": "config['num_warps']",
        "num_stages": "config['num_stages']",
    }
    found = written(space, tmp_path / "space").space(DEFINITION, "sm_90a")
    assert {p.name: p.values for p in found.parameters} == {
        "BLOCK": (128, 256),
        "num_warps": (2, 4),
        "num_stages": (3,),
    }
    assert found.default == {"BLOCK": 128, "num_warps": 2, "num_stages": 3}
    assert found.size_axis == "n"
    assert space.todo == []


def test_what_the_launcher_does_not_need_stays_behind(tmp_path):
    """Catches tests and benchmarks that a builder would run at import, and imports that only they need."""
    space = made(tmp_path, TWICE)
    assert not {"bench_all", "not_there_at_all", "print"} & set(space.files["twice.py"].replace("(", " ").split())
    assert {what for *_, what in space.left_out} >= {"bench_all", "not_there_at_all", "x"}


def test_the_entry_chooses_by_the_size_axis_and_hands_the_inputs_over(tmp_path):
    main = made(tmp_path, TWICE).files["main.py"]
    assert "config = select(x.shape[0])\n    twice.config = config\n    return twice.doubled(x)\n" in main


def test_without_a_definition_its_place_is_marked(tmp_path):
    space = made(tmp_path, TWICE, definition=None)
    marked = [(t.file, space.files[t.file].splitlines()[t.line - 1]) for t in space.todo]
    assert [file for file, line in marked if "TODO(tuner init)" in line] == ["space.yaml", "main.py", "main.py"]
    assert written(space, tmp_path / "space").why_not(DEFINITION) == "definition 'double_n' is not one of TODO"


def test_configs_that_cannot_be_read_are_marked_and_left_as_they_are(tmp_path):
    """Catches a space with half of the author's configs, and a kernel that lost its decorator for nothing."""
    space = made(tmp_path, TWICE.replace("(128, 256)", "torch.load('sizes.pt')"))
    kernel = space.files["twice.py"]
    assert "@triton.autotune(" in kernel
    assert "config[" not in kernel
    (todo,) = [t for t in space.todo if t.file == "twice.py"]
    assert "torch.load" in todo.what
    assert "TODO(tuner init)" in kernel.splitlines()[todo.line - 1]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("k.py", "def f(:\n", "k.py, line 1: invalid syntax"),
        ("k.py", "import triton\n", "no function launches a Triton kernel"),
        ("k.txt", "", "is no .py file"),
        ("k.json", json.dumps({"name": "a"}), "k.json is no Solution: key 'spec' is missing"),
        ("config.toml", "[solution]\nname = 'a'\n", "config.toml has no 'build'"),
        ("config.toml", "solution = 'a'\nbuild = 'b'\n", "config.toml has something else than tables"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, name, text, why):
    with pytest.raises(UsageError, match=why) as raised:
        made(tmp_path, text, name=name)
    assert "\n" not in str(raised.value)


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path):
    space = made(tmp_path, TWICE)
    place = tmp_path / "mine"
    place.mkdir()
    (place / "main.py").write_text("mine\n")
    with pytest.raises(UsageError, match="mine is there already"):
        space.write(place)
    assert (place / "main.py").read_text() == "mine\n"


MATMUL = """
import triton
import triton.language as tl


@triton.autotune([triton.Config({"B": 16}), triton.Config({"B": 32}, num_warps=8)], key=["M"])
@triton.jit
def product(a, b, c, M, B: tl.constexpr):
    tl.store(c, tl.load(a) * tl.load(b) * B)


def matmul(a, b, eps, is_causal, activation=""):
    M, K = a.shape
    K, N = b.shape
    c = a.new_empty(M, N)
    product[(M,)](
        a, b, c,  # what is read and written
        M,  # rows
    )
    return c, eps
"""
PLAIN = """
import torch
import triton
import triton.language as tl


@triton.jit
def _k(a, b, c, B: tl.constexpr):
    pass
"""
GEMM = {
    "name": "gemm",
    "op_type": "gemm",
    "axes": {"M": {"type": "var"}, "N": {"type": "const", "value": 4}, "K": {"type": "const", "value": 8}},
    "inputs": {"A": {"shape": ["M", "K"], "dtype": "float32"}, "B": {"shape": ["N", "K"], "dtype": "float32"}},
    "outputs": {"C": {"shape": ["M", "N"], "dtype": "float32"}},
    "reference": "def run(A, B):\n    EPS = 1e-6\n    return A @ B.t()\n",
}


def test_inputs_are_handed_over_as_the_author_takes_them(tmp_path):
    """Catches B in the definition's layout where the kernel wants it transposed, and a tuple in place of one output."""
    space = made(tmp_path, MATMUL, GEMM)
    assert "    return twice.matmul(A, B.t(), 1e-06, False)[0]\n" in space.files["main.py"]
    assert [t.what.partition(";")[0] for t in space.todo] == [
        "eps is no input of the definition",
        "is_causal is no input of the definition",
    ]


@pytest.mark.parametrize(
    ("sizes", "is_turned"),
    [
        ("K, N = b.shape", True),
        ("_, N = b.shape", True),
        ("N = b.shape[1]", True),
        ("K, N = b.size(0), b.size(-1)", True),
        ("N, _ = b.shape", False),
        ("N = b.shape[0]", False),
        ("rows, columns = b.shape", False),
    ],
)
@pytest.mark.parametrize("within", ["the entry", "what it calls"])
def test_a_matrix_is_transposed_by_whatever_shows_how_the_author_takes_it(tmp_path, sizes, is_turned, within):
    """Catches a product of matrices that do not fit, where the author names one size of it, or further down."""
    launcher = (
        f"def launched(a, b):\n    {sizes}\n    c = torch.empty(4, 4)\n    _k[(1,)](a, b, c, B=32)\n    return c\n"
    )
    text = f"{PLAIN}\n\n{launcher}"
    if within != "the entry":
        text += "\n\ndef matmul(a, b):\n    return launched(a, b)\n"
    name = "launched" if within == "the entry" else "matmul"
    call = f"{name}(A, B.t())" if is_turned else f"{name}(A, B)"
    assert call in made(tmp_path, text, GEMM).files["main.py"]


def test_outputs_that_the_author_does_not_return_are_told(tmp_path):
    two = {**GEMM, "outputs": {"C": GEMM["outputs"]["C"], "sums": {"shape": ["M"], "dtype": "float32"}}}
    text = f"{PLAIN}\n\ndef launched(a, b):\n    c = torch.empty(4, 4)\n    _k[(1,)](a, b, c, B=32)\n    return c\n"
    (todo,) = [t.what for t in made(tmp_path, text, two).todo if "outputs" in t.what]
    assert todo == "launched returns 1 value, as it seems; the definition has the outputs C, sums"


def test_the_class_of_a_class_method_is_no_input(tmp_path):
    """Catches forward(cls, ctx, a, b): apply is called with the inputs alone."""
    text = f"""{PLAIN}

class _Product(torch.autograd.Function):
    @classmethod
    def forward(cls, ctx, a, b):
        _k[(1,)](a, b, a, B=32)
        return a


product = _Product.apply
"""
    assert "product(A, B)" in made(tmp_path, text, GEMM).files["main.py"]


def test_a_default_of_the_author_gives_way_to_the_reference(tmp_path):
    """Catches a norm with the author's eps where the definition has another: it passes with large inputs alone."""
    text = MATMUL.replace("eps, is_causal, activation", "is_causal, eps=1e-3, activation")
    assert "matmul(A, B.t(), False, eps=1e-06)[0]" in made(tmp_path, text, GEMM).files["main.py"]
    unnamed = {**GEMM, "reference": 'def run(A, B):\n    """1e-05."""\n    return A @ B.t() / (0.5 + 1e-6)\n'}
    assert "eps=1e-06)[0]" in made(tmp_path, text, unnamed).files["main.py"], "the only small number of the reference"
    two = {**GEMM, "reference": "def run(A, B):\n    return A @ B.t() / (1e-5 + 1e-6)\n"}
    assert "eps=" not in made(tmp_path, text, two).files["main.py"]


def test_arguments_go_behind_the_last_one_and_its_comment_stays(tmp_path):
    """Catches code that lands in a comment, and a comma too many or too few."""
    kernel = made(tmp_path, MATMUL, GEMM).files["twice.py"]
    launch = kernel[kernel.index("    product[") : kernel.index("    return c")]
    assert launch == (
        "    product[(M,)](\n        a, b, c,  # what is read and written\n        M,\n"
        '        B=config["B"], num_warps=config["num_warps"], num_stages=config["num_stages"]  # rows\n    )\n'
    )


def test_a_list_that_is_no_product_stays_a_list_unless_it_is_widened(tmp_path):
    listed = made(tmp_path, MATMUL, GEMM)
    first, second = {"B": 16, "num_warps": 4, "num_stages": 3}, {"B": 32, "num_warps": 8, "num_stages": 3}
    space = written(listed, tmp_path / "listed").space(GEMM, "sm_90a")
    assert sorted(space.enumerate(), key=str) == [first, second]
    assert space.default == first

    wide = make_space(tmp_path / "twice.py", target_named("sm_90a"), ("sm_90a",), GEMM, widen=True)
    space = written(wide, tmp_path / "wide").space(GEMM, "sm_90a")
    assert len(list(space.enumerate())) == 4
    assert [s.config for s in space.starts] == [second], "the author's list is tried first"
