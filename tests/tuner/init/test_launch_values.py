"""Kernels that nothing tunes: what their launches say becomes parameters."""

from search_spaces.directory import DirectoryFamily
from tests.tuner.init.strangers import DEFINITION, HEAD, made, write

NUMBERS = (
    HEAD
    + """
@triton.jit
def move(x, out, n, width: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, GROUP: tl.constexpr):
    pass


def moved(x):
    out = torch.empty_like(x)
    BLOCK_M = 64
    warps = 8 if x.numel() > 99 else 4
    grid = (triton.cdiv(x.numel(), 128), triton.cdiv(1, BLOCK_M))
    move[grid](x, out, x.numel(), 16, 128, BLOCK_M=BLOCK_M, GROUP=triton.next_power_of_2(7), num_warps=warps)
    return out
"""
)


def test_numbers_of_a_launch_become_parameters_where_one_place_holds_them(tmp_path):
    """Catches a block that changes in the launch and not in the grid, and constants that are no choice."""
    space = made(write(tmp_path, {"move.py": NUMBERS}))
    kernel = space.files["move.py"]
    assert space.parameters == {
        "BLOCK_M": (32, 64, 128),
        "num_warps": (0, 1, 2, 4, 8, 16),
        "num_stages": (1, 2, 3, 4, 5),
    }
    assert '    BLOCK_M = config["BLOCK_M"]\n' in kernel, "the grid reads it too"
    assert "x.numel(), 16, 128, BLOCK_M=BLOCK_M" in kernel, "128 stands in the grid as well"
    space.write(tmp_path / "space")
    assert DirectoryFamily(tmp_path / "space").space(DEFINITION, "sm_90a").default["BLOCK_M"] == 64


def test_what_the_author_computes_stays_the_default(tmp_path):
    """Catches a default that is not what runs today, where the launcher computes its warps."""
    space = made(write(tmp_path, {"move.py": NUMBERS}))
    space.write(tmp_path / "space")
    read = DirectoryFamily(tmp_path / "space").space(DEFINITION, "sm_90a")
    warps = read.by_name["num_warps"]
    assert (read.default["num_warps"], warps.kind) == (0, "categorical")
    assert warps.doc == "0 is the author's own: warps = 8 if x.numel() > 99 else 4"
    assert 'num_warps=config["num_warps"] or warps,' in space.files["move.py"]
    inline = NUMBERS.replace("num_warps=warps", "num_warps=8 if x.numel() > 99 else 4")
    space = made(write(tmp_path, {"inline.py": inline}))
    assert 'num_warps=config["num_warps"] or (8 if x.numel() > 99 else 4),' in space.files["inline.py"]


SHARED = (
    HEAD
    + """
@triton.jit
def move(x, out, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    start = tl.program_id(0)
    rows = start * BLOCK_M + tl.arange(0, BLOCK_M)
    for column in range(0, n, BLOCK_N):
        pass


def moved(x):
    out = torch.empty_like(x)
    BLOCK = 64
    grid = (triton.cdiv(x.numel(), BLOCK),)
    move[grid](x, out, x.numel(), BLOCK_M=BLOCK, BLOCK_N=BLOCK)
    return out
"""
)


def test_one_number_under_two_names_is_told_apart_by_what_counts_programs(tmp_path):
    """Catches a parameter that nothing reads, and a grid that is computed of another block than the kernel's."""
    space = made(write(tmp_path, {"move.py": SHARED}))
    kernel = space.files["move.py"]
    assert '    BLOCK = config["BLOCK_M"]\n' in kernel
    assert 'BLOCK_M=BLOCK, BLOCK_N=config["BLOCK_N"]' in kernel
    assert space.parameters["BLOCK_N"] == (32, 64, 128)
    unclear = made(write(tmp_path, {"unclear.py": SHARED.replace("start * BLOCK_M", "start")}))
    assert "BLOCK_N" not in unclear.parameters
    assert "BLOCK_M=BLOCK, BLOCK_N=BLOCK" in unclear.files["unclear.py"]
    assert any("are one number of its launcher; BLOCK_M stands for all" in r for r in unclear.remarks)


def test_each_launch_of_a_kernel_reads_the_config_where_it_has_the_number(tmp_path):
    """Catches a second launch whose block changes and whose grid does not."""
    launcher = SHARED[SHARED.index("def moved") :]
    second = launcher.replace("moved", "again").replace("BLOCK = 64", "SIZE = 32").replace("BLOCK)", "SIZE)")
    second = second.replace("=BLOCK, BLOCK_N=SIZE", "=SIZE")  # this one gives BLOCK_M alone
    text = SHARED.replace("    return out", "    return again(x)") + "\n\n" + second
    space = made(write(tmp_path, {"move.py": text}))
    kernel = space.files["move.py"]
    assert '    BLOCK = config["BLOCK_M"]\n' in kernel
    assert '    SIZE = config["BLOCK_M"]\n' in kernel
    assert "BLOCK_N" not in space.parameters, "only one of them gives it"


APPLIED = (
    SHARED.replace("def moved(x):", "def launched(x):")
    + """

@triton.jit
def move_back(x, BLOCK_B: tl.constexpr):
    pass


class Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return launched(x)

    @staticmethod
    def backward(ctx, x):
        move_back[(1,)](x, BLOCK_B=64)


try:
    from nowhere_at_all import fast
except ImportError:
    fast = None

if triton.__version__ >= "2.1.0":

    def other(y, packed=False, causal=False):
        return fast or Moved.apply(y)

    def moved(x, causal=False):
        return fast or Moved.apply(x)
"""
)


def test_what_is_left_out_gives_no_parameters_and_what_is_guarded_is_not_missing(tmp_path):
    """Catches parameters of a backward pass, and a remark on a module whose absence the author provides for."""
    space = made(write(tmp_path, {"move.py": APPLIED}))
    assert set(space.parameters) == {"BLOCK_M", "BLOCK_N", "num_warps", "num_stages"}
    assert not any("nowhere_at_all" in t.what for t in space.todo)
    assert "except ImportError" in space.files["move.py"]


def test_the_entry_is_the_one_that_names_the_inputs(tmp_path):
    """Catches the first of several entries that could take as many inputs, one inside an if, and a mask left off."""
    assert "move.moved(x, causal=False)" in made(write(tmp_path, {"move.py": APPLIED})).files["main.py"]
    assert "move.other(x," in made(tmp_path / "move.py", entry="other").files["main.py"]


def test_a_launch_by_a_name_for_one_of_two_kernels_gives_parameters(tmp_path):
    """Catches a space with nothing to tune."""
    launch = "    fast = move if n > 9 else other\n    move["
    text = SHARED.replace("    move[", launch.replace("n > 9", "x.numel() > 9").replace("    move[", "    fast["))
    other = SHARED[SHARED.index("@triton.jit") : SHARED.index("def moved")].replace("def move", "def other")
    space = made(write(tmp_path, {"move.py": text.replace("def moved", other + "def moved")}))
    assert space.parameters["BLOCK_N"] == (32, 64, 128)
    assert 'BLOCK_N=config["BLOCK_N"]' in space.files["move.py"]
