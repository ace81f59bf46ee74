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
        "num_warps": (0, 1, 2, 4, 8, 16, 32),
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


UNPACKED = (
    SHARED[: SHARED.index("def moved")]
    + """
def launched(x, out, config):
    move[lambda META: (triton.cdiv(x.numel(), META["BLOCK_M"]),)](x, out, x.numel(), **config)


def moved(x):
    out = torch.empty_like(x)
    config = {"BLOCK_M": 64, "BLOCK_N": 32}
    if x.numel() < 9:
        config = {"BLOCK_M": 16, "BLOCK_N": 32, "num_warps": 8}
    launched(x, out, config)
    launched(out, out, config)
    return out


def test_moved():
    config = {"BLOCK_M": 1, "BLOCK_N": 1}
"""
)


def test_dicts_that_are_unpacked_into_a_launch_become_default_and_starts(tmp_path):
    """Catches a MoE's blocks that stay as they are, a test's dict among them, and an option that is given twice."""
    space = made(write(tmp_path, {"move.py": UNPACKED}))
    kernel = space.files["move.py"]
    first = '{"BLOCK_M": tuned["BLOCK_M"], "BLOCK_N": tuned["BLOCK_N"]'
    assert kernel.count(first) == 2
    assert f'{first}, "num_warps": 8}}' in kernel, "only one of them gives it"
    assert 'num_stages=tuned["num_stages"])' in kernel
    assert "num_warps=" not in kernel
    assert not space.todo
    space.write(tmp_path / "space")
    found = DirectoryFamily(tmp_path / "space").space(DEFINITION, "sm_90a")
    assert found.default == {"BLOCK_M": 64, "BLOCK_N": 32, "num_stages": 3}
    assert [start.config for start in found.starts] == [{"BLOCK_M": 16, "BLOCK_N": 32, "num_stages": 3}]
    assert found.by_name["BLOCK_M"].values == (8, 16, 32, 64, 128)


def test_of_two_entries_alike_the_one_that_is_named_as_the_op_is_taken(tmp_path):
    """Catches a layer norm that is handed what an RMS norm takes."""
    text = (
        SHARED.replace("def moved", "def shift")
        + "\n\n"
        + SHARED[SHARED.index("def moved") :].replace("moved", "copy_fn")
    )
    assert "move.copy_fn(x)" in made(write(tmp_path, {"move.py": text})).files["main.py"]


def test_what_is_unpacked_is_marked_unless_it_is_known_to_hold_something_else(tmp_path):
    """Catches a remark on options of another vendor, and none on a dict of which nothing is known."""
    launch = "    more = {}\n    if x.is_xpu:\n        more['grf_mode'] = 'large'\n    move["
    text = SHARED.replace("    move[", launch).replace("BLOCK_N=BLOCK)", "BLOCK_N=BLOCK, **more)")
    assert not made(write(tmp_path, {"move.py": text})).todo
    for other in (
        text.replace("'grf_mode'", "'num_warps'"),
        text.replace("more = {}", "more = dict(options)"),
        text.replace("more = {}", "more = {}\n    more.update(options)"),
        text.replace("moved(x)", "moved(x, more={})"),
    ):
        (todo,) = made(write(tmp_path, {"move.py": other})).todo
        assert todo.what.startswith("**more must not hold")
