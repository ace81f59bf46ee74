"""What the exported host function launches, without a GPU: order, shapes, shared memory, stream, attributes, pointers.

A Solution is built and called in a process of its own in which a few lines of C answer for the CUDA runtime
(launches/). What has to come out is written down here from the pipeline's description in docs/kernels.md, not
taken from host.py.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")
pytest.importorskip("tvm_ffi", reason="apache-tvm-ffi is not installed")

from search_spaces.moe_fp8_cute.solution.plans import launches as gemm_launches
from search_spaces.moe_fp8_cute.solution.workspace import MAX_TOKENS
from search_spaces.moe_fp8_cute.space import FAMILY

TOKENS = (0, 1, 7, 128, 129, 512, 513, 901, 14107, 32768)
"""Both sides of what changes a launch (routing at 128, finalize at 512), public sizes, the most that routing takes."""
SMEM_PER_SM, SMEM_RESERVED = 233472, 1024


@dataclass(frozen=True)
class Expected:
    """One launch; ``pointers`` are the tensors and workspace sections that it must reach."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    pointers: frozenset[str]
    cluster: int = 1


def ceil(a: int, b: int) -> int:
    return -(-a // b)


def expected(config: dict, sizes: dict, tokens: int) -> list[Expected]:
    """The pipeline of docs/kernels.md for a config and a number of tokens."""
    if tokens == 0:
        return []
    hidden = sizes["hidden"]
    vectors = (ceil(tokens * hidden // 8, 128), 1, 1)
    out = {"finalize": "y", "atomic_f32": "acc", "atomic_bf16": "out"}[config["combine"]]
    permuted, apart = config["gather"] in ("kernel", "many"), config["requant"] == "kernel"
    ready = {"ready"} if config["gather"] == "beside" else set()
    queue = {"queue"} if config.get("feed") == "tiles" else set()
    sms = 148 if "acc_stages_1" in config else 132
    launches = []
    if config["combine"] == "atomic_f32":
        launches.append(Expected("zero", vectors, 128, frozenset({"acc"})))
    routed = {"logits", "counts", "m_indptr", "row_token", "row_weight", "token_row", "scratch", "barrier"}
    routed |= ready | queue | ({"bias"} if sizes["routing"] == "deepseek" else set())
    if tokens <= 128:
        launches.append(Expected("routing", (8, 1, 1), 512, frozenset(routed), cluster=8))
    else:
        grid = ceil(tokens, max(ceil(tokens, 128), 8))
        launches.append(Expected("routing", (grid, 1, 1), 1024, frozenset(routed)))
    if permuted:
        table = {"counts", "m_indptr"} if config["gather"] == "many" else set()
        pointers = frozenset({"x", "xs", "token_row", "x_rows", "x_scale"} | table)
        launches.append(Expected("permute", (ceil(tokens, 2), 1, 1), 256, pointers))
    read = {"counts", "m_indptr"} | queue
    rows = {False: {"x_rows", "x_scale"}, True: {"x", "xs", "row_token"}}
    written = ({"partial"} if apart else {"act", "act_scale"}) | ({"out"} if out == "out" else set())
    by_role = {name.removeprefix("moe_"): plan for name, plan in gemm_launches(config, sizes)}
    for name in (n for n in by_role if n.startswith("gemm_1")):
        plan = by_role[name]
        source = rows[True] | ready if plan.copies else set()
        launches.append(gemm(name, plan, {"w13", "s13"} | rows[plan.gather] | source | read | written))
    if apart:
        pointers = frozenset({"partial", "counts", "m_indptr", "act", "act_scale"})
        launches.append(Expected("act_quant", (4 * sms, 1, 1), 256, pointers))
    weighted = {"row_token", "row_weight"} if config["combine"] != "finalize" else set()
    for name in (n for n in by_role if n.startswith("gemm_2")):
        launches.append(gemm(name, by_role[name], {"w2", "s2", "act", "act_scale", out} | read | weighted))
    if config["combine"] == "atomic_f32":
        launches.append(Expected("cast", vectors, 128, frozenset({"acc", "out"})))
    if config["combine"] == "finalize":
        pointers = frozenset({"y", "token_row", "row_weight", "out"})
        if tokens <= 512 or sizes["experts"] == sizes["local_experts"]:
            launches.append(Expected("wide", (tokens, ceil(hidden, 1024), 1), 128, pointers))
        else:
            pieces = min(4, ceil(hidden // 8, 32))
            launches.append(Expected("deep", (tokens, 1, 1), 32 * ceil(hidden // 8, 32 * pieces), pointers))
    return launches


def gemm(kernel: str, plan, pointers: set[str]) -> Expected:
    """A persistent grid: a CTA per SM and place, in clusters."""
    return Expected(kernel, (plan.ctas, 1, 1), plan.threads, frozenset(pointers), plan.cluster)


def role(kernel: str) -> str:
    """The part of the pipeline that a kernel's name belongs to."""
    for pattern, name in (
        (r"moe_(gemm_[12](?:_many|_small)?|act_quant)_\d+$", r"\1"),
        (r"kernel_cutlass_kernel_\w*routingRouting_.*", "routing"),
        (r"kernel_cutlass_kernel_\w*permutePermute_.*", "permute"),
        (r"kernel_cutlass_(wide|deep)_\w*combineFinalize_.*", r"\1"),
        (r"kernel_cutlass_kernel_\w*combineZero_.*", "zero"),
        (r"kernel_cutlass_kernel_\w*combineCast_.*", "cast"),
    ):
        if re.match(pattern, kernel):
            return re.sub(pattern, name, kernel)
    raise AssertionError(f"a kernel that nobody expects: {kernel}")


def routing_smem(sizes: dict, tokens: int) -> int:
    """Bytes of the routing kernel: a bit per (expert, token), choices and weights, four tables of experts."""
    chunk = 32 if tokens <= 128 else 256
    local = sizes["local_experts"]
    return 4 * (local * chunk // 32 + 2 * chunk * sizes["top_k"] + 3 * local + local + 1)


def check_launches(built, config: dict, tokens: int, answer: dict) -> None:
    """Everything that is known about the launches of one call."""
    assert "error" not in answer, answer
    sizes = built.space.sizes
    want = expected(config, sizes, tokens)
    got = answer["launches"]
    assert [role(launch["kernel"]) for launch in got] == [e.kernel for e in want]
    by_role = {name.removeprefix("moe_"): plan for name, plan in gemm_launches(config, sizes)}
    for launch, e in zip(got, want, strict=True):
        assert tuple(launch["grid"]) == e.grid, e.kernel
        assert launch["block"] == [e.threads, 1, 1], e.kernel
        assert launch["cluster"] == [e.cluster, 1, 1], e.kernel
        assert e.grid[0] % e.cluster == 0
        assert launch["pdl"] is config["pdl"], e.kernel
        assert not launch["cooperative"], e.kernel
        assert launch["unknown"] == [], e.kernel
        # The gather list and the weights are handed to every GEMM, whether or not its epilogue reads them.
        handed = {"row_token", "row_weight"} if e.kernel in by_role else set()
        assert e.pointers <= set(launch["pointers"]) <= e.pointers | handed, e.kernel
        check_smem(launch, e, by_role.get(e.kernel), sizes, tokens)
    assert {launch["stream"] for launch in got} <= {answer["stream"]}
    assert answer["workspace"] == ([answer["total"]] if want else [])
    assert not answer["compiler"], "calling a built Solution must not import the compiler"


def check_smem(launch: dict, e: Expected, plan, sizes: dict, tokens: int) -> None:
    """Dynamic shared memory is what the plan said, was allowed before the launch, and leaves room for the occupancy."""
    smem = launch["smem"]
    assert smem <= launch["smem_allowed"]
    if plan is not None:
        assert smem <= plan.smem_bytes
        # Beyond stages and epilogue: barriers (8 bytes each) and gaps of alignment.
        assert 0 <= smem - plan.stages * plan.stage_bytes - 16 * plan.stages <= plan.epilogue_bytes + 512
        assert plan.ctas_per_sm * (smem + SMEM_RESERVED) <= SMEM_PER_SM
        assert plan.ctas_per_sm * e.threads <= 2048
    else:
        assert smem == (routing_smem(sizes, tokens) if e.kernel == "routing" else 0), e.kernel


def test_every_call_launches_the_pipeline_of_its_config(small_solution):
    check_all(small_solution)


def test_the_table_decides_which_config_runs(small_solution):
    sizes = {1: 0, 6: 0, 7: 1, 128: 1, 129: 2, 901: 2, 902: 3, 5000: 3, 5001: 4, 14107: 4}
    for (tokens, row), answer in zip(sizes.items(), small_solution.ask(*({"tokens": t} for t in sizes)), strict=True):
        check_launches(small_solution, small_solution.configs[row], tokens, answer)


def test_the_host_knows_nothing_of_the_routing(small_solution):
    """Whatever experts the tokens choose and wherever this rank's begin, the same kernels go out: a graph can replay
    them."""
    first, *others = small_solution.ask(
        *({"row": 0, "tokens": 57, "offset": offset} for offset in (0, 32, 224, 250, -5))
    )
    for other in others:
        assert other == first


def test_more_tokens_than_routing_has_room_for_are_refused(small_solution):
    """Its CTAs would write past their shared memory."""
    (answer,) = small_solution.ask({"row": 0, "tokens": MAX_TOKENS + 1})
    assert answer["error"] == "ValueError: 32769 tokens; a call takes at most 32768"
    assert answer["launches"] == []


def test_a_failed_launch_ends_the_call_with_an_error(small_solution):
    (answer,) = small_solution.ask({"row": 1, "tokens": 57, "fail": 701})
    assert "701" in answer["error"]
    assert len(answer["launches"]) == 1


WRONG = [
    ({"name": "x", "dtype": "uint8"}, "argument #2.*expected dtype=float8_e4m3fn"),
    ({"name": "logits", "dtype": "bfloat16"}, "argument #0.*expected dtype=float32"),
    ({"name": "bias", "dtype": "float32"}, "argument #1.*expected dtype=bfloat16"),
    ({"name": "out", "dtype": "float16"}, "argument #10.*expected dtype=bfloat16"),
    ({"name": "x", "shape": [9, 512]}, "x.shape\\[0\\].*"),
    ({"name": "logits", "shape": [57, 63]}, "argument #0.*"),
    ({"name": "xs", "shape": [57, 4]}, "argument #3.*"),
    ({"name": "w13", "shape": [4, 512, 512]}, "argument #4.*"),
    ({"name": "s2", "shape": [4, 4, 3]}, "argument #7.*"),
    ({"name": "w2", "shape": [4, 512 * 512]}, "argument #6.*"),
    ({"name": "x", "strides": [1024, 1]}, "argument #2.*"),
    ({"name": "w13", "strides": [1024 * 512, 1, 1024]}, "argument #4.*"),
    ({"name": "x", "offset": 8}, "argument #2.*alignment=16"),
    ({"name": "w2", "offset": 4}, "argument #6.*alignment=16"),
    ({"name": "xs", "offset": 2}, "argument #3.*alignment=4"),
    ({"name": "out", "device": 1}, "argument #10.*"),
]


def test_wrong_arguments_are_refused_by_name(small_solution):
    """Before anything is launched."""
    answers = small_solution.ask(*({"row": 0, "tokens": 57, "wrong": wrong} for wrong, _ in WRONG))
    for (wrong, pattern), answer in zip(WRONG, answers, strict=True):
        assert "error" in answer, wrong
        assert re.search(pattern, answer["error"]), (wrong, answer["error"])
        assert answer["launches"] == [], wrong


def check_all(built) -> None:
    """Every row of the table at every size."""
    requests = [{"row": row, "tokens": tokens} for row in range(len(built.configs)) for tokens in TOKENS]
    for request, answer in zip(requests, built.ask(*requests), strict=True):
        check_launches(built, built.configs[request["row"]], request["tokens"], answer)


@pytest.mark.slow
@pytest.mark.parametrize("target", FAMILY.targets)
@pytest.mark.parametrize("seed", range(4))
def test_launches_of_sampled_configs(target, seed, build_solution, make_definition):
    """Twenty random configs, all sizes."""
    rng = random.Random(seed)
    space = FAMILY.space(make_definition(), target)
    check_all(build_solution(target, make_definition(), [space.sample(rng) for _ in range(5)], [1, 2, 3, 4]))


@pytest.mark.slow
@pytest.mark.parametrize("target", FAMILY.targets)
@pytest.mark.parametrize(("routing", "experts"), [("renorm", 128), ("deepseek", 384)])
def test_launches_of_other_definitions(target, routing, experts, build_solution, make_definition):
    """Renormalised softmax has no bias and no offset; with all experts local the combine takes another form."""
    definition = make_definition(routing, experts=experts, local=experts)
    check_all(build_solution(target, definition, [{}], []))
