"""What the reference was seen to do: unwritten elements, inputs it writes to, what it selects and draws from."""

from collections.abc import Sequence

import pytest
import torch

from workers.fib import adapter as fib
from workers.judge.outputs import check
from workers.judge.outputs.expected import truths_of
from workers.judge.outputs.observed import observe
from workers.judge.outputs.rules import Kind, rules_for
from workers.judge.outputs.truth import why_unjudgeable
from workers.records import Status

WRONG = Status.INCORRECT_NUMERICAL


class Case:
    """A reference on one input x, and what its outputs are judged by; they have the axes of x unless told."""

    def __init__(self, reference: str, x: torch.Tensor, shape: Sequence[str] | None = ("all",), **outputs: str) -> None:
        axes = {f"a{i}": {"type": "var"} for i in range(x.dim())}
        shape = list(axes) if shape == ("all",) else shape
        document = {
            "name": "d",
            "op_type": "toy",
            "axes": axes,
            "inputs": {"x": {"shape": list(axes), "dtype": str(x.dtype).removeprefix("torch.")}},
            "outputs": {name: {"shape": shape, "dtype": dtype} for name, dtype in outputs.items()},
            "reference": f"import torch\n\n\ndef run(x):\n{reference}",
        }
        self.x = x
        self.seen = observe(fib.definition_model(document), [x], "cuda:0" if x.is_cuda else "cpu")
        self.truths = truths_of(rules_for(document), self.seen, [x])

    def status(self, *outputs: torch.Tensor) -> Status:
        return check.compare(list(outputs), self.truths).status


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn", "int32", "int64", "bool"])
@pytest.mark.parametrize("how", ["torch.empty(x.shape, dtype={})", "torch.empty_like(x, dtype={})"])
def test_elements_that_the_reference_leaves_unwritten_do_not_count(dtype, how):
    made = how.format(f"torch.{dtype}")
    case = Case(f"    y = {made}\n    y[:5] = (x[:5] * 9).to(y.dtype)\n    return y\n", randn(8, 64), y=dtype)
    right = case.seen.expected[0].clone()
    right[5:] = 1
    assert case.status(right) is Status.PASSED
    assert int(case.truths[0].counted.sum()) == 5 * 64
    wrong = right.clone()
    wrong.view(torch.uint8)[4] ^= 0x81 if dtype != "bool" else 1
    assert case.status(wrong) is WRONG


def test_padding_that_went_through_arithmetic_does_not_count_either():
    case = Case("    y = torch.empty_like(x)\n    y[:5] = x[:5]\n    return y * 2\n", randn(8, 64), y="float32")
    right = case.x * 2
    right[5:] = float("nan")
    assert case.status(right) is Status.PASSED


def test_written_elements_beside_unwritten_ones_have_the_allowance_of_all():
    """Poison is NaN: a figure of it would be NaN for the whole output."""
    case = Case("    y = torch.empty_like(x)\n    y[:5] = x[:5]\n    return y\n", randn(8, 64), y="float32")
    near = case.x.clone()
    place = case.truths[0].atol[2].item() > 0.01 * near[2].abs()  # where the absolute tolerance counts
    at = int(place.nonzero()[0])
    near[2, at] += 2 * case.truths[0].atol[2].item()
    verdict = check.compare([near], case.truths)
    assert verdict.status is Status.PASSED, verdict.message
    assert verdict.max_rel_error > 0
    near[2, at] += 2 * case.truths[0].atol[2].item()
    assert case.status(near) is WRONG


@pytest.mark.gpu
def test_selection_on_the_host_is_observed_on_a_gpu():
    """Its scores would be on the host, and the outputs on the GPU."""
    x = randn(8, 64).cuda()
    case = Case("    return x.cpu().argmax(-1)\n", x, shape=["a0"], index="int64")
    assert case.truths[0].choice is not None
    assert case.status(x.argmax(-1)) is Status.PASSED
    assert case.status((x.argmax(-1) + 1) % 64) is WRONG


def test_output_that_is_nowhere_written_is_no_evidence():
    case = Case("    return torch.empty_like(x)\n", randn(8, 64), y="float32")
    assert "is not written" in why_unjudgeable(case.truths)


@pytest.mark.parametrize("write", ["x.mul_(2)", "x[0] = 7", "x += 1", "torch.add(x, 1, out=x)"])
def test_reference_that_writes_to_its_input_gets_a_copy_and_is_named(write):
    x = randn(8, 64)
    before = x.clone()
    case = Case(f"    {write}\n    return x + 1\n", x, y="float32")
    assert case.seen.wrote == ["x"]
    assert torch.equal(x, before)


def test_output_that_is_the_changed_input_is_kept_as_it_was_returned():
    case = Case("    x[2] = 5\n    return x\n", randn(8, 64), y="float32")
    expected = case.x.clone()
    expected[2] = 5
    assert case.status(expected) is Status.PASSED
    assert case.status(case.x.clone()) is WRONG


SELECTIONS = {
    "argmax": "x.argmax(-1)",
    "argmax of rows": "torch.stack([torch.argmax(row) for row in x])",
    "argmin": "torch.argmin(x, dim=1)",
    "first of max": "x.max(dim=-1).indices",
    "top-k": "torch.topk(x, 8).indices",
    "top-k of computed scores": "torch.topk((x * 1.5).sigmoid(), k=8, dim=-1)[1]",
    "smallest": "x.topk(8, largest=False)[1]",
    "top-k of columns": "x.topk(4, 0)[1]",
    "top-k row by row": "torch.stack([torch.topk(row, 8)[1] for row in x])",
}


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_indices_are_judged_by_what_they_select(name, dtype):
    x = randn(16, 300)
    x[:, 17] = x[:, 200] = 9.0  # ties at both ends
    x[:, 18] = x[:, 201] = -9.0
    case = Case(f"    return ({SELECTIONS[name]}).to(torch.{dtype})\n", x, y=dtype)
    (truth,) = case.truths
    assert truth.rule.kind is Kind.SELECTED
    expected = case.seen.expected[0]
    ties = {17: 200, 200: 17, 18: 201, 201: 18}
    other = expected.clone()
    for a, b in ties.items():
        other[expected == a] = b
    if "columns" not in name:
        assert not torch.equal(other, expected)
    assert case.status(other) is Status.PASSED
    assert case.status((expected + 1) % 16 if "columns" in name else (expected + 1) % 300) is WRONG
    for index in (-1, 300):
        wrong = expected.clone()
        wrong.view(-1)[0] = index
        assert case.status(wrong) is WRONG
    if expected.dim() > 1:
        axis = 0 if "columns" in name else 1
        assert case.status(expected.flip(axis)) is Status.PASSED
        twice = expected.clone()
        twice.select(axis, 1).copy_(twice.select(axis, 0))
        assert case.status(twice) is WRONG


CUTS = {
    "best of a sort": "x.argsort(-1, descending=True)[:, :8]",
    "last of a sort": "torch.sort(x, stable=True).indices[:, -8:]",
    "top-k in rising order": "x.topk(8).indices.sort(-1).values",
}


@pytest.mark.parametrize("name", CUTS)
def test_a_part_of_a_sort_is_judged_by_what_it_selects(name):
    """References that take the first of a sort: exact indices would refuse every kernel that breaks ties otherwise."""
    x = randn(16, 300)
    x[:, 17] = x[:, 200] = 9.0
    case = Case(f"    return {CUTS[name]}\n", x, y="int64")
    expected = case.seen.expected[0]
    ties = torch.where(expected == 17, 200, torch.where(expected == 200, 17, expected))
    assert not torch.equal(ties, expected)
    assert case.status(ties) is Status.PASSED
    assert case.status(expected.flip(1)) is Status.PASSED
    assert case.status((expected + 1) % 300) is WRONG
    ninth = expected.clone()
    ninth[ninth == x.topk(8).indices[:, -1:]] = x.topk(9).indices[:, -1]
    assert case.status(ninth) is WRONG


@pytest.mark.parametrize("special", [float("nan"), float("inf")])
def test_what_is_not_finite_is_selected_too(special):
    """The relative error beside an infinite score is NaN, which is above no tolerance."""
    x = randn(8, 100)
    x[:, 50] = special
    case = Case("    return (x * 1.5).argmax(-1)\n", x, y="int64")
    assert case.status(torch.full((8,), 50)) is Status.PASSED
    assert case.status(x[:, :50].argmax(-1)) is WRONG


AS_DECLARED = {
    "int64 for int32": ("x.argmax(-1)", "int32", ["a0"], lambda x: x.argmax(-1).int()),
    "float64 for float32": ("x.double().cumsum(-1)", "float32", ["a0", "a1"], lambda x: x.cumsum(-1)),
    "an axis of one": ("x.sum(-1, keepdim=True)", "float32", ["a0"], lambda x: x.sum(-1)),
    "a number for a tensor": ("float(x.abs().sum())", "float32", None, lambda x: x.abs().sum()),
    "by name": ("{'y': x + 1}", "float32", ["a0", "a1"], lambda x: x + 1),
}


@pytest.mark.parametrize("name", AS_DECLARED)
def test_reference_that_does_not_keep_to_its_definition_is_taken_as_declared(name):
    """Destination-passing kernels are given outputs as declared, and would all be refused. What returns its outputs may
    also return them as the reference does."""
    expression, dtype, shape, right = AS_DECLARED[name]
    case = Case(f"    return {expression}\n", randn(16, 32), shape=shape, y=dtype)
    assert case.status(right(case.x)) is Status.PASSED
    assert case.status(right(case.x) + 9) is WRONG
    if "by name" not in name and "number" not in name:
        theirs = eval(expression, {"x": case.x})
        assert case.status(theirs) is Status.PASSED
        assert case.status(theirs + 9) is WRONG


def test_order_of_a_sort_counts_and_that_of_equal_numbers_does_not():
    x = (randn(8, 100) * 4).round()
    case = Case("    return x.argsort(-1, descending=True)\n", x, y="int64")
    assert case.status(torch.argsort(x, dim=-1, descending=True, stable=True)) is Status.PASSED
    assert case.status(case.seen.expected[0].flip(1)) is WRONG


def test_values_go_with_their_indices_in_whatever_order():
    case = Case("    v, i = x.topk(8)\n    return v, i\n", randn(16, 300), v="float32", i="int64")
    values, indices = (output.clone() for output in case.seen.expected)
    assert case.status(values.flip(1), indices.flip(1)) is Status.PASSED
    assert case.status(values, indices.flip(1)) is WRONG
    assert case.status(values.flip(1), indices) is WRONG


MAPPED = """
    out = torch.full((len(x), 12), -1, dtype=torch.int32)
    pages = torch.arange(300).flip(0) * 3
    for i, row in enumerate(x):
        n = 30 + 9 * i
        _, chosen = torch.topk(row[:n] * 2, min(8, n))
        out[i, :8] = pages[chosen]
    return out
"""


def test_indices_that_are_mapped_row_by_row_are_judged_by_what_they_select():
    """As an indexer of a paged cache does: what the reference makes of every index is found out."""
    x = randn(16, 300)
    x[:, 7] = x[:, 21] = x[:, 3] = 9.0
    x[:, 25:28] = x.topk(8).values[:, -1:].clamp(max=1.9)
    case = Case(MAPPED, x, topk_indices="int32")
    assert case.truths[0].choice.names is not None
    expected = case.seen.expected[0]
    assert case.status(expected.flip(1)) is Status.PASSED
    for wrong in (expected + 3, expected + 1, expected.roll(1, 0), torch.full_like(expected, -1)):
        assert case.status(wrong) is WRONG
    twice = expected.clone()
    twice[3, 1] = twice[3, 0]
    assert case.status(twice) is WRONG
    padded = expected.clone()
    padded[3, 7] = -1
    assert case.status(padded) is WRONG


def test_ties_of_mapped_indices_are_right():
    x = (randn(16, 300) * 2).round()
    case = Case(MAPPED, x, topk_indices="int32")
    pages = torch.arange(300).flip(0) * 3
    other = case.seen.expected[0].clone()
    for i, row in enumerate(x):
        n = 30 + 9 * i
        other[i, :8] = pages[torch.argsort(row[:n], descending=True, stable=True)[:8]]
    assert not torch.equal(other.sort(1).values, case.seen.expected[0].sort(1).values)
    assert case.status(other) is Status.PASSED


def test_selected_indices_that_were_mapped_are_the_same_in_any_order():
    """The scores of what else could have been selected are not known: no ties, but any order."""
    case = Case("    return x.topk(8)[1] * 4 + 1\n", randn(16, 300), topk_indices="int64")
    assert case.truths[0].choice is None
    expected = case.seen.expected[0]
    assert case.status(expected.flip(1)) is Status.PASSED
    assert case.status(expected + 1) is WRONG


def test_random_floats_are_no_evidence_and_random_whole_numbers_are_drawn():
    random = "torch.randn(8, 64)"
    case = Case(
        f"    return x + 1, {random}, torch.randint(0, 9, (8,))\n", randn(8, 64), y="float32", r="float32", i="int32"
    )
    assert [t.idle is None for t in case.truths] == [True, False, True]
    assert [t.rule.kind for t in case.truths] == [Kind.CLOSE, Kind.CLOSE, Kind.DRAWN]
    assert case.status(case.x + 1, randn(8, 64, seed=5), case.seen.expected[2]) is Status.PASSED


def test_plain_references_run_once():
    """Nothing to poison, nothing random: the reference of a large model is not run again."""
    case = Case(
        "    global calls\n    calls = globals().get('calls', 0) + 1\n    return x + 1\n", randn(4, 64), y="float32"
    )
    assert case.seen.counted == [None]
    assert case.seen.random == [False]
