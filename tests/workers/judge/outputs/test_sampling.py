"""Samples are judged by their distribution: right samplers pass whatever they draw, wrong ones do not."""

import pytest
import torch

from workers.devices.cpu import HostDevice
from workers.fib import adapter as fib
from workers.judge.outputs import check, sampling
from workers.judge.outputs.check import Candidate
from workers.judge.outputs.expected import truths_of
from workers.judge.outputs.observed import observe
from workers.judge.outputs.rules import Kind, rules_for
from workers.records import Status

WRONG = Status.INCORRECT_NUMERICAL
TOP_K = """
import torch


def run(probs, k):
    out = torch.empty(probs.shape[0], dtype=torch.int64)
    for i, row in enumerate(probs):
        n = int(k[i])
        if n == 1:
            out[i] = torch.argmax(row)
            continue
        keep = torch.argsort(row, descending=True)[:n]
        kept = torch.zeros_like(row)
        kept[keep] = row[keep]
        out[i] = torch.multinomial(kept / kept.sum(), 1, replacement=True).squeeze(0)
    return out
"""
GUMBEL = """
import torch


def run(probs, k):
    noise = torch.empty_like(probs).exponential_()
    limit = probs.sort(-1, descending=True).values.gather(1, (k - 1).long().unsqueeze(1))
    return torch.where(probs >= limit, probs / noise, 0).argmax(-1)
"""
BATCH = """
import torch


def run(probs, k):
    limit = probs.sort(-1, descending=True).values.gather(1, (k - 1).long().unsqueeze(1))
    return torch.multinomial(torch.where(probs >= limit, probs, 0), 1).squeeze(1)
"""
REFERENCES = {"row by row": TOP_K, "gumbel": GUMBEL, "batch": BATCH}


class Sampler:
    """A sampling definition with inputs, judged as the evaluator does it."""

    def __init__(self, reference: str, rows: int, vocabulary: int) -> None:
        spec = {"probs": (["b", "v"], "float32"), "k": (["b"], "int32")}
        document = {
            "name": "d", "op_type": "toy", "axes": {"b": {"type": "var"}, "v": {"type": "var"}},
            "inputs": {n: {"shape": s, "dtype": d} for n, (s, d) in spec.items()},
            "outputs": {"token": {"shape": ["b"], "dtype": "int64"}}, "reference": reference,
        }  # fmt: skip
        generator = torch.Generator().manual_seed(1)
        probs = (2 * torch.randn(rows, vocabulary, generator=generator)).softmax(-1)
        k = torch.tensor([[1, 3, 20, vocabulary][i % 4] for i in range(rows)], dtype=torch.int32)
        self.inputs = (probs, k)
        self.definition = fib.definition_model(document)
        self.truths = truths_of(rules_for(document), observe(self.definition, self.inputs, "cpu"), self.inputs)

    def judge(self, function) -> Status:
        candidate, device = Candidate(function, False), HostDevice()
        outputs = check.run_once(candidate, self.definition, self.inputs, device)
        verdict = check.compare(outputs, self.truths)
        if verdict.status is Status.PASSED:
            drawn = sampling.draw(candidate, self.definition, self.inputs, self.truths, device)
            verdict = sampling.verdict(drawn, self.truths)
        return verdict.status


def right(probs, k, sharper=1.0, shift=0, add=0):
    """By a sum of probabilities; wrong by the arguments."""
    weights = probs**sharper
    limit = weights.sort(-1, descending=True).values.gather(
        1, (k - 1 + add).clamp(0, probs.shape[1] - 1).long()[:, None]
    )
    sums = torch.where(weights >= limit, weights, 0).cumsum(-1)
    at = torch.rand(len(probs), 1) * sums[:, -1:] * 0.999999
    return (torch.searchsorted(sums, at, right=True)[:, 0] + shift) % probs.shape[1]


def one_row_wrong(probs, k):
    tokens = right(probs, k)
    tokens[-1] = probs[-1].argmax()
    return tokens


MISTAKES = {
    "next token": lambda probs, k: right(probs, k, shift=1),
    "another temperature": lambda probs, k: right(probs, k, sharper=1.5),
    "one more than k": lambda probs, k: right(probs, k, add=1),
    "no k": lambda probs, k: right(probs, torch.full_like(k, probs.shape[1])),
    "always the best": lambda probs, k: probs.argmax(-1),
    "zeros": lambda probs, k: torch.zeros(len(probs), dtype=torch.int64),
    "evenly": lambda probs, k: torch.randint(0, probs.shape[1], (len(probs),)),
    "one row wrong": one_row_wrong,
    "rows in another order": lambda probs, k: right(probs, k).flip(0),
    "out of the vocabulary": lambda probs, k: torch.where(torch.rand(len(probs)) < 0.01, -1, right(probs, k)),
}


@pytest.fixture(scope="module", params=REFERENCES)
def sampler(request):
    return Sampler(REFERENCES[request.param], 8, 64)


def test_right_sampler_passes(sampler):
    (truth,) = sampler.truths
    assert truth.rule.kind is Kind.DRAWN
    assert (truth.before is None) is (truth.draws is not None)
    assert sampler.judge(right) is Status.PASSED


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_sampler_does_not(sampler, mistake):
    if (
        mistake in ("another temperature", "one more than k", "out of the vocabulary")
        and sampler.truths[0].draws is not None
    ):
        pytest.skip("512 draws of a reference that hides its weights do not show so small a difference")
    assert sampler.judge(MISTAKES[mistake]) is WRONG


def test_sampler_that_remembers_its_first_draw_is_wrong(sampler):
    first = right(*sampler.inputs)
    assert sampler.judge(lambda probs, k: first) is WRONG


def test_right_sampler_of_one_row_and_a_large_vocabulary_passes():
    assert Sampler(TOP_K, 4, 50_000).judge(right) is Status.PASSED


def test_right_samplers_are_not_refused_by_chance():
    """300 checks with other random numbers: the probability is uniform, so its least is about 1 / 300."""
    (truth,) = Sampler(BATCH, 8, 64).truths
    probs, k = Sampler(BATCH, 8, 64).inputs
    torch.manual_seed(3)
    for _ in range(30):
        tokens = torch.stack([right(probs, k) for _ in range(256)])
        assert sampling.why_wrong(tokens, truth) is None


def test_samples_in_the_form_of_a_reference_that_keeps_an_axis_pass():
    """torch.multinomial gives [rows, 1] where a definition says [rows]: candidates may return either."""
    sampler = Sampler(BATCH.replace(".squeeze(1)", ""), 8, 64)
    assert sampler.truths[0].returned == (torch.int64, (8, 1))
    assert sampler.judge(lambda probs, k: right(probs, k).unsqueeze(1)) is Status.PASSED
    assert sampler.judge(right) is Status.PASSED
    assert sampler.judge(lambda probs, k: right(probs, k, shift=1).unsqueeze(1)) is WRONG
