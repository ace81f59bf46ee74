"""The benchmarks' float32 reference against the definitions' own, and the inputs it is run on."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[3]
DEFINITIONS = ROOT.parent / "shared" / "flashinfer-trace" / "definitions" / "moe"


def load(name: str):
    """A module of the harness, which is a folder of scripts and no package."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "h200_moe"))
    try:
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / "h200_moe" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(name, module)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.pop(0)


load("product")
problems, reference, judge = load("problems"), load("reference"), load("judge")


def small(problem):
    """The same routing with few and small experts, so that the definition's own reference runs in a moment."""
    from dataclasses import replace

    return replace(problem, hidden=128, intermediate=128)


def definition_reference(problem):
    """``run`` of the definition, with its hard-wired sizes reduced to those of ``problem``."""
    text = json.loads((DEFINITIONS / f"{problem.name}.json").read_text())["reference"]
    full = problems.PROBLEMS[problem.name]
    for old, new in ((full.hidden, problem.hidden), (full.intermediate, problem.intermediate)):
        for form in ("H = {}", "I = {}", "H == {},", "I == {},"):
            text = text.replace(form.format(old), form.format(new))
    scope: dict = {}
    exec(text, scope)
    return scope["run"]


@pytest.mark.parametrize("name", sorted(problems.PROBLEMS))
def test_agrees_with_the_definition(name):
    if not DEFINITIONS.is_dir():
        pytest.skip(f"the public definitions are not at {DEFINITIONS}")
    problem = small(problems.PROBLEMS[name])
    case = problems.Case(6, 0 if problem.renorm else problem.experts // 4, seed=3)
    weights = reference.make_weights(problem, 1, "cpu")
    inputs = reference.make_inputs(problem, case, weights, "cpu")
    got = reference.answer(problem, inputs)
    want = definition_reference(problem)(*inputs.arguments(problem)).float()
    assert got.rows > 0
    assert torch.allclose(got.exact.bfloat16().float(), want, rtol=2e-2, atol=1e-3 * float(want.abs().max()))
    error = float((got.requantised - got.exact).norm() / got.exact.norm())
    assert 1e-4 < error < 0.05  # FP8 has 3 bits of mantissa: a relative step of up to 1/16, averaged over a row


def test_judge_sees_one_wrong_expert():
    """A tenth of the rows wrong passes the ratio rule but not the Frobenius one."""
    problem = small(problems.MAIN)
    case = problems.Case(200, 0, seed=5)
    weights = reference.make_weights(problem, 1, "cpu")
    answer = reference.answer(problem, reference.make_inputs(problem, case, weights, "cpu"))
    right = answer.requantised.bfloat16()
    assert judge.judge(right, answer).passed
    wrong = right.clone()
    wrong[:20] = 0
    assert not judge.judge(wrong, answer).passed
    wrong[:20] = float("nan")
    assert "not finite" in judge.judge(wrong, answer).message
    assert not judge.judge(right.float(), answer).passed


def test_no_tokens_are_a_case_too():
    problem = small(problems.MAIN)
    weights = reference.make_weights(problem, 1, "cpu")
    answer = reference.answer(problem, reference.make_inputs(problem, problems.Case(0, 0), weights, "cpu"))
    assert (answer.rows, answer.exact.shape) == (0, (0, 128))
    assert judge.judge(answer.exact.bfloat16(), answer).passed


def test_random_cases_reach_the_corners():
    cases = problems.random_cases(problems.MAIN, 200, seed=1)
    main = problems.MAIN
    assert {0, 1, 128, 129, 4096} <= {c.seq_len for c in cases}
    assert {c.shape for c in cases} == set(problems.SHAPES)
    assert any(c.offset < 0 for c in cases)
    assert any(c.offset + main.local > main.experts for c in cases)
    assert cases == problems.random_cases(problems.MAIN, 200, seed=1)


def test_no_token_is_silent():
    """Every token's hidden states count: none is scaled to zero, and both signs occur."""
    problem = small(problems.MAIN)
    weights = reference.make_weights(problem, 1, "cpu")
    scale = reference.make_inputs(problem, problems.Case(64, 0, seed=6), weights, "cpu").hidden_scale
    assert bool((scale.abs() > 0).all())
    assert 0.2 < float((scale < 0).float().mean()) < 0.8


def test_shapes_route_as_they_say():
    main = problems.MAIN
    for shape, per_token in (("one_expert", 1), ("not_local", 0)):
        case = problems.Case(64, 96, shape, seed=11)
        chosen, _ = reference.route(reference.reading(main), *problems.routing_logits(main, case, "cpu"), 2.5)
        local = (chosen >= case.offset) & (chosen < case.offset + main.local)
        assert int(local.sum()) == 64 * per_token
        assert chosen[local].unique().numel() <= 1


def test_bf16_logits_have_no_ties():
    for problem in problems.PROBLEMS.values():
        if problem.renorm:
            logits, _ = problems.routing_logits(problem, problems.Case(50, 0, seed=2), "cpu")
            assert logits.dtype == torch.bfloat16
            assert all(row.unique().numel() == problem.experts for row in logits)


def test_floor_is_the_published_formula():
    assert problems.MAIN.floor_us(32, 0) == pytest.approx(32 * 44.04e6 / 4.3e6, rel=1e-3)
    assert problems.MAIN.floor_us(1, 100_000) == pytest.approx(100_000 * 88.1e6 / 1.5e9, rel=1e-3)
