"""Each kind of output by its own rule: what is right passes, what is wrong does not."""

import math

import pytest
import torch

from workers.judge.outputs import check, memory
from workers.judge.outputs.expected import plain
from workers.judge.outputs.rules import LOW_BIT
from workers.judge.outputs.truth import why_unjudgeable
from workers.records import Status, Tolerance

FLOATS = [torch.float32, torch.float16, torch.bfloat16]
WRONG = Status.INCORRECT_NUMERICAL


def status(output, expected, tolerance=None):
    return check.compare([output], plain([expected], tolerance)).status


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("special", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_matches_in_equal_places_only(dtype, special):
    expected = randn(8, 64).to(dtype)
    expected[3, :5] = special
    assert status(expected.clone(), expected) is Status.PASSED
    moved = expected.clone()
    moved[3, 4], moved[4, 4] = 0.0, special
    assert status(moved, expected) is WRONG
    missing = expected.clone()
    missing[3, 4] = 0.0
    assert status(missing, expected) is WRONG
    other = expected.clone()
    other[3, 4] = math.inf if special != math.inf else -math.inf
    assert status(other, expected) is WRONG


@pytest.mark.parametrize("dtype", FLOATS)
def test_finite_part_beside_infinities_is_judged(dtype):
    expected = randn(300).to(dtype)
    expected[::3] = -math.inf
    assert status(expected * 1.2, expected) is WRONG
    assert status(torch.where(torch.isfinite(expected), 0, expected), expected) is WRONG


@pytest.mark.parametrize("length", [300, 4096, 100_000])
def test_zeros_never_pass_for_a_softmax_and_a_right_one_does(length):
    x = randn(8, length)
    expected = x.softmax(-1)
    assert why_unjudgeable(plain([expected])) is None
    assert status(torch.zeros_like(expected), expected) is WRONG
    assert status(x.double().softmax(-1).float(), expected) is Status.PASSED
    one_row = expected.clone()
    one_row[5] = 0
    assert status(one_row, expected) is WRONG


def test_rows_of_different_scale_are_each_judged_by_their_own():
    """Row n is a softmax over n + 1 keys: by one tolerance for all, zeros in the long rows would pass."""
    scores = randn(2048, 2048).masked_fill(torch.ones(2048, 2048).triu(1).bool(), -math.inf)
    expected = scores.softmax(-1)
    wrong = expected.clone()
    wrong[-1] = 0
    assert status(wrong, expected) is WRONG


@pytest.mark.parametrize("scale", [1e-9, 1e-12, 1e-30])
def test_tiny_numbers_are_judged_like_large_ones(scale):
    """Against a constant in the denominator of the relative error, every kernel was right where numbers were small."""
    expected = randn(8, 64) * scale
    assert why_unjudgeable(plain([expected])) is None
    assert status(expected * 1.001, expected) is Status.PASSED
    assert status(expected * 1.05, expected) is WRONG
    one_row = expected.clone()
    one_row[5] *= 1.3
    assert status(one_row, expected) is WRONG


@pytest.mark.parametrize(("columns", "large"), [(64, 1), (4096, 3), (4, 1)])
def test_a_few_large_numbers_do_not_hide_the_others(columns, large):
    """By the mean magnitude of a row with an outlier channel, all other numbers in it could be zero."""
    expected = randn(64, columns)
    expected[:, :large] *= 1e5
    rest = expected.clone()
    rest[:, large:] = 0
    assert status(rest, expected) is WRONG
    last = expected.clone()
    last[-1, -1] += 1
    assert status(last, expected) is WRONG
    assert status((expected + 1e-3).bfloat16(), expected.bfloat16()) is Status.PASSED


def test_a_row_of_large_numbers_does_not_hide_the_other_rows():
    expected = randn(64, 128)
    expected[7] *= 1e6
    wrong = expected.clone()
    wrong[20] = 0
    assert status(wrong, expected) is WRONG


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_rounding_at_zeros_of_a_relu_is_no_mistake(share):
    """Most numbers may be zero; what rounds to just above it is judged by the scale of the others."""
    x = randn(64, 256) - torch.special.ndtri(torch.tensor(share))
    noise = randn(64, 256, seed=1) * 4e-4
    assert status((x + noise).relu(), x.relu()) is Status.PASSED


@pytest.mark.parametrize("parts", [1, 8, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_long_reduction_in_parts_passes(parts, dtype):
    """Partial sums are kept as narrow as the output: near zero the error is that of the large terms."""
    a, b = randn(64, 32768).to(dtype), randn(48, 32768, seed=1).to(dtype)
    expected = (a.float() @ b.float().T).to(dtype)
    a, b = a.float().view(64, parts, -1), b.float().view(48, parts, -1)
    sums = torch.einsum("mpk,npk->pmn", a, b).to(dtype)
    assert status(sums.float().sum(0).to(dtype), expected) is Status.PASSED
    assert status(sums[:-1].float().sum(0).to(dtype) if parts > 1 else sums[0] * 1.05, expected) is WRONG


@pytest.mark.parametrize("seed", range(4))
def test_attention_with_weights_in_bfloat16_passes(seed):
    """As every flash attention: about one right element in 50,000 is a little beyond the tolerance."""
    q, k, v = (randn(512, 128, seed=3 * seed + i).bfloat16().float() for i in range(3))
    scores = q @ k.T / math.sqrt(128)
    expected = (scores.softmax(-1) @ v).bfloat16()
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    right = ((weights.bfloat16().float() @ v) / weights.sum(-1, keepdim=True)).bfloat16()
    assert status(right, expected) is Status.PASSED


@pytest.mark.parametrize(
    ("many", "times", "passes"),
    [(10, 2.5, True), (30, 2.5, False), (1, 3.5, False), (1, 1000, False), (20, 1.5, True), (21, 1.5, False)],
)
def test_few_floats_may_be_a_little_beyond_the_tolerance_and_none_far(many, times, passes):
    """Would catch a share without a bound, which lets one element be anything, and a bound without a share."""
    expected = torch.ones(20, 1000)
    output = expected.clone()
    output.view(-1)[:: 20_000 // many][:many] += 0.01 * times
    assert status(output, expected) is (Status.PASSED if passes else WRONG)
    assert status(output, expected, Tolerance(rtol=0.01, atol=0.01)) is WRONG, "a user's tolerance is what it says"


def test_one_of_few_floats_may_not_be_beyond_the_tolerance():
    expected = torch.ones(99)
    output = expected.clone()
    output[7] += 0.015
    assert status(output, expected) is WRONG


def test_float16_near_zero_may_be_its_neighbour():
    """A softmax whose small weights are below float16's normal numbers: one step there is 6 % of 1e-6."""
    x = randn(64, 512) * 2
    x[:, 0] = 20
    exact = x.double().softmax(-1)
    step = 2.0**-24
    assert status((exact + 0.6 * step).half(), exact.half()) is Status.PASSED
    assert status(torch.where(exact < 1e-4, 0, exact).half(), exact.half()) is WRONG


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8])
def test_whole_numbers_are_exact(dtype):
    expected = torch.arange(-60, 60).to(dtype)
    assert status(expected.clone(), expected) is Status.PASSED
    assert status(expected + 1, expected) is WRONG
    one = expected.clone()
    one[7] += 1
    verdict = check.compare([one], plain([expected]))
    assert (verdict.status, "1 of 120 elements differ" in verdict.message) == (WRONG, True)


def test_large_whole_numbers_are_not_compared_as_floats():
    expected = torch.tensor([2**53, 2**60 + 1, 5])
    assert status(expected + torch.tensor([1, 0, 0]), expected) is WRONG


def test_booleans_are_exact():
    expected = torch.arange(100) % 3 == 0
    flipped = expected.clone()
    flipped[50] = ~flipped[50]
    assert status(expected.clone(), expected) is Status.PASSED
    assert status(flipped, expected) is WRONG


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_codes_may_be_a_step_off_in_some_places(dtype):
    x = randn(64, 256)
    expected = x.to(dtype)
    rounded_otherwise = (x * (1 + 0.002 * randn(64, 256, seed=1))).to(dtype)
    assert int((rounded_otherwise.float() != expected.float()).sum()) > 0
    assert status(rounded_otherwise, expected) is Status.PASSED
    bits = expected.view(torch.uint8).clone()
    assert status((bits + 1).view(dtype), expected) is WRONG  # all of them a step off
    bits[0, 0] ^= 0x80
    assert status(bits.view(dtype), expected) is WRONG  # one sign
    assert status(torch.zeros_like(expected), expected) is WRONG


def test_fp8_nan_is_in_its_place():
    expected = randn(4, 64).to(torch.float8_e4m3fn)
    wrong = expected.clone()
    wrong.view(torch.uint8)[0, 0] = 0x7F
    assert status(wrong, expected) is WRONG
    assert status(expected, wrong) is WRONG
    assert status(wrong.clone(), wrong) is Status.PASSED


@pytest.mark.parametrize("place", ["row", "columns"])
def test_a_share_of_elements_that_may_be_wrong_is_not_one_row_or_one_run_of_columns(place):
    """With 85 % of the elements required, one token of eight or one tile of 128 columns could be anything."""
    expected = randn(8, 2048)
    noise = torch.where(randn(8, 2048, seed=2) > 1.4, 0.9, 0.0)  # 8 % of the elements, spread
    assert status(expected + noise, expected, LOW_BIT) is Status.PASSED
    wrong = expected.clone()
    if place == "row":
        wrong[3] = randn(2048, seed=3)
    else:
        wrong[:, 256:384] = randn(8, 128, seed=3)
    verdict = check.compare([wrong], plain([expected], LOW_BIT))
    assert verdict.status is WRONG
    assert verdict.matched_ratio > 0.85


def test_one_output_that_cannot_be_judged_does_not_hide_the_others():
    expected = [torch.ones(8), randn(8, 64)]
    truths = plain(expected)
    assert [t.idle is None for t in truths] == [False, True]
    assert why_unjudgeable(truths) is None
    assert check.compare([torch.ones(8), expected[1]], truths).status is Status.PASSED
    assert check.compare([torch.zeros(8), expected[1]], truths).status is WRONG
    assert check.compare([torch.ones(8), expected[1] * 1.1], truths).status is WRONG


def test_results_that_are_expanded_or_transposed_are_poisoned():
    tensors = [torch.ones(4, 1).expand(4, 8), torch.ones(4, 8).t(), torch.ones(4, 8, dtype=torch.int32).t()]
    memory.poison(tensors, 0)
    assert bool(tensors[0].isnan().all())
    assert bool(tensors[1].isnan().all())
    assert not bool((tensors[2] == 1).any())
