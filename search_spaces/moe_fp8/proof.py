"""Proves that the families read a definition correctly: compares their float32 model with its reference on tiny inputs.

    python -m search_spaces.moe_fp8.proof < DEFINITION.json

The reference is foreign code, so it runs in a process of its own. A definition with large weights is made smaller for
it: hidden and intermediate size, as axes and as numbers in the reference. Experts, groups and top-k, which are read
from the source, stay unchanged.
"""

from __future__ import annotations

import ast
import copy
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from search_spaces.moe_fp8.reading import BLOCK, Reading, read
from search_spaces.space import Proof

TOKENS = 32
VALUES = 4
"""Number of different FP8 matrices among the experts of :func:`inputs`."""
LARGEST_WEIGHTS = 1 << 24
"""Most weights of all experts with which a reference runs at its own sizes; it holds several float32 copies."""
SMALL_HIDDEN, SMALL_INTERMEDIATE = 2 * BLOCK, BLOCK
TOLERANCE = 0.02
"""Largest relative error of a token: rounding the output to bfloat16 makes 0.002, a wrong expert 0.1 and more."""
LIMIT_S = 300.0
MOST_UNSURE = 8
"""Most numbers in a reference that are tried with both meanings."""
_SIZE_AXES = {
    *("hidden_size", "intermediate_size", "gemm1_out_size"),
    *("num_hidden_blocks", "num_intermediate_blocks", "num_gemm1_out_blocks"),
}


def prove(definition: Mapping[str, Any]) -> Proof:
    """Whether model and reference agree, compared in another process."""
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "search_spaces.moe_fp8.proof"],
            input=json.dumps(definition),
            capture_output=True,
            encoding="utf-8",
            cwd=root,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return Proof(None, f"its reference takes more than {LIMIT_S:.0f} s on a tiny input on the CPU")
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Proof(None, f"its reference does not run on a tiny input on the CPU: {last[:300]}")
    return Proof(**json.loads(lines[-1]))


def compare(definition: Mapping[str, Any], reading: Reading) -> Proof:
    """The same in this process; imports torch.

    Raises:
        Exception: Whatever the reference raises at every size that is tried.
    """
    failure: Exception | None = None
    unsure = ""
    for smaller, certain in _tiny(definition, reading):
        seen = replace(reading, hidden=_size(smaller, "hidden_size"), intermediate=_size(smaller, "intermediate_size"))
        given, got = _answered(seen)
        try:
            want = _reference(smaller)(*(i.clone() if hasattr(i, "clone") else i for i in given))
        except Exception as error:  # code of the definition may raise anything
            failure = failure or error
            continue
        try:
            errors = _errors(want, got)
        except ValueError as error:
            failure = failure or error
            continue
        wrong = int((errors > TOLERANCE).sum())
        if not wrong:
            return Proof(True, f"{TOKENS} tokens, largest relative error {float(errors.max()):.2g}")
        what = f"read as {reading}, {wrong} of {TOKENS} tokens differ from the reference"
        if certain:
            return Proof(False, what + _what_agrees(seen, given, want))
        unsure = f"{what}, whose numbers could not be made smaller without doubt"
    if failure is not None and not unsure:
        raise failure
    return Proof(None, unsure)


@lru_cache(maxsize=1)
def _answered(reading: Reading) -> tuple[list[Any], Any]:
    """Inputs and the model's outputs for them."""
    from search_spaces.moe_fp8.model import moe

    given = inputs(reading)
    return given, moe(reading, *given)


def _size(definition: Mapping[str, Any], axis: str) -> int:
    return int(definition["axes"][axis]["value"])


def _reference(definition: Mapping[str, Any]) -> Any:
    scope: dict[str, Any] = {"__name__": "reference"}
    exec(compile(definition["reference"], "reference", "exec"), scope)
    return scope["run"]


def _errors(want: Any, got: Any) -> Any:
    """Relative error of each token, infinite where something is not finite."""
    import torch

    if isinstance(want, tuple | list):
        (want,) = want
    if want.shape != got.shape:
        raise ValueError(f"the reference gives {tuple(want.shape)}, the output has {tuple(got.shape)}")
    want, got = want.float(), got.float()
    error = (got - want).norm(dim=1) / want.norm(dim=1).clamp(min=1e-6)
    return torch.nan_to_num(error, nan=torch.inf)


def _others(r: Reading) -> Iterator[Reading]:
    """Readings with other routing constants, to find out which one is wrong."""
    for top_k in range(1, min(r.experts, 16) + 1):
        yield replace(r, top_k=top_k)
    if r.routing == "deepseek":
        for groups in (n for n in range(1, min(r.experts // 2, 32) + 1) if r.experts % n == 0):
            for kept in range(1, groups + 1):
                if r.top_k <= kept * (r.experts // groups):
                    yield replace(r, groups=groups, topk_groups=kept)


def _what_agrees(read_as: Reading, given: Sequence[Any], want: Any) -> str:
    """The routing constants with which model and reference agree, as text; empty if there are none."""
    from search_spaces.moe_fp8.model import moe

    few = 6
    tokens = [i[:, -few:] if n == 2 + (read_as.routing == "deepseek") else i for n, i in enumerate(given)]
    for n in (0, 1 + (read_as.routing == "deepseek")):
        tokens[n] = given[n][-few:]
    for other in _others(read_as):
        if float(_errors(want[-few:], moe(other, *tokens)).max()) <= TOLERANCE:
            names = [n for n in ("top_k", "groups", "topk_groups") if getattr(other, n) != getattr(read_as, n)]
            return ", which agrees with " + ", ".join(f"{n} {getattr(other, n)}" for n in names)
    return ""


def inputs(r: Reading, tokens: int = TOKENS, device: str = "cpu") -> list[Any]:
    """Inputs in the definition's order: no two logits of a token are equal, and most tokens have local experts."""
    import torch

    g = torch.Generator().manual_seed(15)
    deepseek = r.routing == "deepseek"
    offset = (r.experts - r.local_experts) // 2 if deepseek else 0
    # Distinct bfloat16 numbers: with equal logits any choice would be right.
    numbers = torch.linspace(-4, 4, 20_000).to(torch.bfloat16).float().unique()
    logits = torch.stack([numbers[torch.randperm(len(numbers), generator=g)[: r.experts]] for _ in range(tokens)])
    if deepseek:
        logits[tokens // 2 :, offset : offset + r.local_experts] += 2.5

    def fp8(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g).clamp_(-2, 2).to(torch.float8_e4m3fn)

    def scale(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g)

    h, i, e = r.hidden, r.intermediate, r.local_experts
    # Experts differ by their scales; random values for each of hundreds would take seconds.
    values = torch.arange(e) % VALUES
    operands = [
        fp8(tokens, h),
        scale(h // BLOCK, tokens),
        fp8(VALUES, 2 * i, h).view(torch.uint8)[values].view(torch.float8_e4m3fn),
        scale(e, 2 * i // BLOCK, h // BLOCK),
        fp8(VALUES, h, i).view(torch.uint8)[values].view(torch.float8_e4m3fn),
        scale(e, h // BLOCK, i // BLOCK),
    ]
    bias = (0.1 * torch.randn(r.experts, generator=g)).to(torch.bfloat16)
    made = [logits, bias, *operands] if deepseek else [logits.to(torch.bfloat16), *operands]
    return [t.to(device) for t in made] + ([offset, 2.5] if deepseek else [])


def _tiny(definition: Mapping[str, Any], r: Reading) -> Iterator[tuple[dict[str, Any], bool]]:
    """The definition itself if it is small, else versions with smaller sizes, one for each interpretation of its
    numbers.

    Each comes with whether all numbers that may be routing constants are unchanged.

    A number of the reference that is both a size and a routing constant (32 experts, 32 scale blocks) may be meant as
    either; the reference's own checks of shapes decide.
    """
    if 3 * r.local_experts * r.hidden * r.intermediate <= LARGEST_WEIGHTS:
        yield dict(definition), True
        return
    hidden = SMALL_INTERMEDIATE if r.hidden == r.intermediate else SMALL_HIDDEN
    smaller = {r.hidden: hidden, r.intermediate: SMALL_INTERMEDIATE, 2 * r.intermediate: 2 * SMALL_INTERMEDIATE}
    smaller |= {size // BLOCK: small // BLOCK for size, small in list(smaller.items())}
    kept = {r.experts, r.local_experts, r.top_k, r.groups, r.topk_groups, r.experts // r.groups, BLOCK}
    tree = ast.parse(definition["reference"])
    numbers = [(n, v) for n, v in _whole_numbers(tree) if v in smaller]
    unsure = [(n, v) for n, v in numbers if v in kept or v < BLOCK][:MOST_UNSURE]
    axes = copy.deepcopy(definition["axes"])
    for name in _SIZE_AXES & set(axes):
        axes[name]["value"] = smaller[axes[name]["value"]]
    for node, value in numbers:
        if value not in kept and value >= BLOCK:
            node.value = smaller[value]
    for chosen in itertools.product((False, True), repeat=len(unsure)):
        certain = True
        for (node, value), change in zip(unsure, chosen, strict=True):
            node.value = smaller[value] if change else value
            certain = certain and not (change and value in (r.top_k, r.groups, r.topk_groups))
        yield {**definition, "axes": axes, "reference": ast.unparse(tree)}, certain


def _whole_numbers(tree: ast.AST) -> Iterator[tuple[ast.Constant, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool):
            yield node, node.value


def main() -> None:
    """Read a definition from standard input, write the proof as the last line."""
    from dataclasses import asdict

    import torch

    torch.set_num_threads(1)  # the matrices are small: on a busy machine two threads take ten times as long as one
    definition = json.load(sys.stdin)
    print(json.dumps(asdict(compare(definition, read(definition)))))


if __name__ == "__main__":
    main()
