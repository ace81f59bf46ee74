"""Digests, poison and the comparison with the reference."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.judge.outputs import check, memory
from workers.judge.outputs.expected import plain
from workers.judge.outputs.truth import why_unjudgeable
from workers.records import Status, Tolerance

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int8, torch.bool]


def tensor_of(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return memory.same_digests([memory.digest(a)], [memory.digest(b)])


@given(st.binary(min_size=1, max_size=200), st.data())
def test_digest_sees_every_bit(data, draw):
    position = draw.draw(st.integers(0, len(data) - 1))
    bit = draw.draw(st.integers(0, 7))
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    assert same(tensor_of(data), tensor_of(data))
    assert not same(tensor_of(data), tensor_of(bytes(changed)))


def test_digest_sees_exchanged_words_in_any_row():
    values = torch.arange(2 * memory._DIGEST_ROW + 5, dtype=torch.int64)
    for i, j in ((0, 1), (3, memory._DIGEST_ROW + 3), (memory._DIGEST_ROW + 1, values.numel() - 1)):
        changed = values.clone()
        changed[[i, j]] = changed[[j, i]]
        assert not same(values, changed)


@pytest.mark.parametrize("thorough", [True, False])
def test_seal_sees_a_changed_word_and_a_changed_size(thorough):
    """In a tensor of its own digest, and in small ones that are compared in one piece."""
    large = torch.arange(3 * memory._DIGEST_ROW + 5, dtype=torch.int64)
    small, empty = torch.ones(3, 2), torch.ones(0, 4)
    values = [large, 1.5, small, None, torch.ones((), dtype=torch.bfloat16), empty]
    seal = memory.Seal(values, thorough)
    assert memory.all_true(seal.holds(values))
    for n, place in ((0, 0), (0, 2 * memory._DIGEST_ROW), (0, -1), (2, 0), (2, -1), (4, 0)):
        changed = values[n].clone()
        changed.view(-1)[place] += 1
        assert not memory.all_true(seal.holds([*values[:n], changed, *values[n + 1 :]])), (n, place)
    for n in (0, 2):
        assert not memory.all_true(seal.holds([*values[:n], values[n][:-1], *values[n + 1 :]])), n
    assert memory.Seal([1.5, None]).holds([1.5, None]) == []


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rule", [Tolerance(), Tolerance(rtol=0.2, atol=0.1, required_matched_ratio=0.85)])
def test_error_figures_are_flashinfer_benchs(dtype, rule):
    from flashinfer_bench.bench.config import BenchmarkConfig
    from flashinfer_bench.bench.utils import compute_error_stats

    generator = torch.Generator().manual_seed(3)
    expected = torch.randn(50, 40, generator=generator)
    expected[::7] = 0
    output = (expected + 0.2 * torch.randn(50, 40, generator=generator)).to(dtype)
    expected = expected.to(dtype)
    settings = BenchmarkConfig(
        rtol=rule.rtol, atol=rule.atol, required_matched_ratio=rule.required_matched_ratio, log_dir=""
    )
    worst_abs, worst_rel, exceeds, matched = compute_error_stats(output, expected, settings)
    verdict = check.compare([output], plain([expected], rule))
    assert (verdict.max_abs_error, verdict.max_rel_error, verdict.matched_ratio) == (worst_abs, worst_rel, matched)
    assert (verdict.status is Status.PASSED) is not exceeds


@pytest.mark.parametrize("dtype", DTYPES)
def test_digest_of_every_dtype_shape_and_scalar(dtype):
    assert same(torch.ones(3, 5).to(dtype), torch.ones(3, 5).to(dtype))
    assert same(torch.ones(()).to(dtype), torch.ones(()).to(dtype))
    assert same(torch.ones(0, 4).to(dtype), torch.ones(0, 4).to(dtype))
    assert not memory.same_digests([memory.digest(1.5)], [memory.digest(2.5)])


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("shape", [(3, 4), ()])
def test_poison_of_floats_is_nan(dtype, shape):
    tensor = torch.zeros(shape, dtype=dtype)
    memory.poison([tensor], 0)
    assert bool(tensor.to(torch.float32).isnan().all())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.bool])
def test_poison_of_integers_differs_from_attempt_to_attempt(dtype):
    first, second = torch.zeros(4, dtype=dtype), torch.zeros(4, dtype=dtype)
    memory.poison([first], 0)
    memory.poison([second], 1)
    assert not bool((first == second).any())


LOOSE = Tolerance(rtol=0.2, atol=0.1, required_matched_ratio=0.85)


@pytest.mark.parametrize(("wrong", "status"), [(14, Status.PASSED), (16, Status.INCORRECT_NUMERICAL)])
def test_share_of_matching_elements(wrong, status):
    expected = torch.linspace(1, 2, 100)
    output = expected.clone()
    output[:wrong] += 10
    verdict = check.compare([output], plain([expected], LOOSE))
    assert verdict.status is status
    assert verdict.matched_ratio == pytest.approx(1 - wrong / 100)
    assert verdict.max_abs_error == pytest.approx(10, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "error", "status"),
    [(100.0, 15.0, Status.PASSED), (0.1, 0.09, Status.PASSED), (100.0, 25.0, Status.INCORRECT_NUMERICAL)],
)
def test_an_element_fails_only_if_it_exceeds_both(value, error, status):
    expected = torch.full((10,), value)
    assert check.compare([expected + error], plain([expected], LOOSE)).status is status


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_not_finite_fails_whatever_the_ratio(bad):
    expected = torch.ones(1000)
    output = expected.clone()
    output[500] = bad
    verdict = check.compare([output], plain([expected], LOOSE))
    assert verdict.status is Status.INCORRECT_NUMERICAL
    assert "1 of 1000" in verdict.message


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (torch.zeros(4, 4), "constant"),
        (torch.full((4, 4), 3.5), "constant"),
        (torch.tensor([math.nan, -math.inf]), "nowhere finite"),
        (torch.linspace(-0.05, 0.05, 50), "zeros would pass"),
    ],
)
def test_degenerate_references(expected, said):
    assert said in why_unjudgeable(plain([expected], LOOSE))


def test_references_that_can_be_judged_by():
    good = [torch.linspace(-3, 3, 50), torch.zeros(5, dtype=torch.int32), torch.tensor(2.5)]
    assert why_unjudgeable(plain(good, LOOSE)) is None
