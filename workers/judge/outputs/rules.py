"""The rule by which each output of a definition is judged: the table of rules, and users' settings. Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from workers.records import Asked, Tolerance


class Kind(StrEnum):
    """The kind of rule: what "right" means for an output."""

    CLOSE = "close"
    """Floats within a tolerance; infinities and NaN in exactly the places where the reference has them."""
    EXACT = "exact"
    """Whole numbers and booleans that equal the reference's."""
    STEPS = "steps"
    """Codes of a coarse format (fp8, quantised int8): most equal the reference's, the others are neighbours of it."""
    SELECTED = "selected"
    """Indices, compared by what they select: ties and another order are right, a repeated index is not."""
    DRAWN = "drawn"
    """Random samples, compared by their distribution over many draws; a single draw only has to be possible."""


LOW_BIT = Tolerance(rtol=0.2, atol=0.1, required_matched_ratio=0.85, by_scale=True)
"""Source: flashinfer-bench's low-bit evaluator (bench/evaluators/lowbit.py, 0.1.2); it leaves the ratio to the user."""

DEFAULT = Tolerance(rtol=1e-2, atol=1e-2, by_scale=True)
"""flashinfer-bench's tolerances, with the absolute one in units of the row's mean magnitude; for outputs of magnitude
one that is the same. A fixed 0.01 would accept zeros for a softmax over 4096, and refuse bfloat16 partial sums of a
long reduction."""

STEPS_SHARE = 0.1
"""Share of codes that may be neighbours of the reference's. Kernels that differ by 0.4 % before rounding to fp8, whose
steps are 6 to 12 %, give another code in 3 to 6 % of the places."""

NEAR = 3.0
"""Times its tolerance that a float may be off where few are beyond it at all."""
NEAR_SHARE = 1e-3
"""Share of floats that may be beyond their tolerance so."""

FP4 = "float4"
_FP8 = "float8"
_WHOLE = ("int", "uint")
_SAMPLES = re.compile(r"(^|_)(samples?|sampled|sampling)(_|$)")
_SELECTS = re.compile(r"(^|_)(top_?k|top_?n|arg_?max|arg_?min)(_|$|\d)")
_INDICES = re.compile(r"(^|_)(indices|index|idx|ids?|top_?k|arg_?max|arg_?min)(_|$|\d)")
_QUANTISES = re.compile(r"(^|_|:)(de)?quant")
_LOW_BIT = re.compile(r"(^|_)(fp8|fp4|nvfp4|mxfp4|mxfp8)(_|$)")
_TAG = re.compile(r"judge:([^=]+)=(.+)")


@dataclass(frozen=True)
class Rule:
    """How one output is judged, and which line of the table decided that."""

    output: str
    kind: Kind
    tolerance: Tolerance
    why: str

    def __str__(self) -> str:
        """The rule as text, as in a measurement's record and in traces."""
        t = self.tolerance
        if self.kind is Kind.CLOSE:
            unit = " of the row's mean magnitude" if t.by_scale else ""
            share = "" if t.required_matched_ratio == 1 else f", {t.required_matched_ratio:g} of the elements"
            return f"close: rtol {t.rtol:g} or atol {t.atol:g}{unit}{share} ({self.why})"
        return f"{self.kind.value} ({self.why})"


@dataclass(frozen=True)
class _Output:
    """The properties of an output that the table depends on."""

    name: str
    dtype: str
    definition: str
    op_type: str
    tags: tuple[str, ...]
    low_bit: bool

    @property
    def whole(self) -> bool:
        return self.dtype.startswith(_WHOLE)

    def says(self, pattern: re.Pattern[str]) -> bool:
        return any(pattern.search(text) for text in (self.name, self.definition, self.op_type, *self.tags))


_TABLE = (
    # (name of the line, what it applies to, kind, tolerance); the first that applies counts. Before all of them come a
    # setting (--judge, or a tolerance for that output) and a tag "judge:OUTPUT=KIND" of the definition; below them what
    # the reference was seen to do: whole numbers that it got from top-k or argmax are SELECTED, from a draw DRAWN.
    ("booleans", lambda o: o.dtype == "bool", Kind.EXACT, DEFAULT),
    ("samples", lambda o: o.whole and o.says(_SAMPLES), Kind.DRAWN, DEFAULT),
    ("selected indices", lambda o: o.whole and o.says(_SELECTS) and _INDICES.search(o.name), Kind.SELECTED, DEFAULT),
    ("quantised integers", lambda o: o.dtype in ("int8", "uint8") and o.says(_QUANTISES), Kind.STEPS, DEFAULT),
    ("whole numbers", lambda o: o.whole, Kind.EXACT, DEFAULT),
    ("fp8 codes", lambda o: o.dtype.startswith(_FP8), Kind.STEPS, DEFAULT),
    ("low-bit MoE", lambda o: o.low_bit and "moe" in f"{o.op_type} {o.definition}", Kind.CLOSE, LOW_BIT),
    ("floats", lambda o: True, Kind.CLOSE, DEFAULT),
)  # fmt: skip


def rules_for(definition: Mapping[str, Any], asked: Asked | None = None) -> tuple[Rule, ...]:
    """A rule for each output of a definition's document, in its order.

    Raises:
        ValueError: A setting names an unknown output or kind, or a kind that the output cannot have. One line.
    """
    asked = asked or Asked()
    outputs = {str(name): str(spec["dtype"]) for name, spec in definition["outputs"].items()}
    for setting in ("rtol", "atol", "required_matched_ratio", "judge"):
        for name in getattr(asked, setting):
            if name and name not in outputs:
                raise ValueError(f"setting {setting} names output {name!r}; the outputs are {', '.join(outputs)}")
    name, op_type = str(definition["name"]), str(definition.get("op_type", ""))
    tags = tuple(str(tag) for tag in definition.get("tags") or ())
    low_bit = bool(_LOW_BIT.search(name)) or any(
        str(spec["dtype"]).startswith(_FP8) for spec in definition.get("inputs", {}).values()
    )
    return tuple(
        _rule(_Output(output, dtype, name, op_type, tags, low_bit), asked) for output, dtype in outputs.items()
    )


def _rule(output: _Output, asked: Asked) -> Rule:
    why, _, kind, tolerance = next(row for row in _TABLE if row[1](output))
    tagged = {m[1]: m[2] for m in map(_TAG.fullmatch, output.tags) if m}
    if output.name in tagged:
        why, kind = "the definition's tag", _kind(output, tagged[output.name])
    if output.name in asked.judge:
        why, kind = "as set", _kind(output, asked.judge[output.name])
    own = any(output.name in values for values in (asked.rtol, asked.atol, asked.required_matched_ratio))
    if own and kind is not Kind.CLOSE:
        # A tolerance that is set for this output means that it is judged by tolerance.
        why, kind = "as set", _kind(output, Kind.CLOSE.value)
    rule = Rule(output.name, kind, tolerance, why)
    return replace(rule, tolerance=_asked_for(tolerance, output.name, asked)) if kind is Kind.CLOSE else rule


def _asked_for(default: Tolerance, output: str, asked: Asked) -> Tolerance:
    """The default with the user's settings; a setting for the output takes precedence over one for all."""

    def found(values: Mapping[str, float]) -> float | None:
        return values.get(output, values.get(""))

    rtol, atol, ratio = found(asked.rtol), found(asked.atol), found(asked.required_matched_ratio)
    rule = default
    if rtol is not None:
        # If a smaller relative tolerance is set, the default absolute one must not hide it.
        rule = replace(rule, rtol=rtol, atol=min(rule.atol, rtol))
    if atol is not None:
        rule = replace(rule, atol=atol, by_scale=False)
    return rule if ratio is None else replace(rule, required_matched_ratio=ratio)


def _kind(output: _Output, text: str) -> Kind:
    allowed = [Kind.CLOSE, Kind.EXACT, Kind.STEPS]
    if output.whole:
        allowed += [Kind.SELECTED, Kind.DRAWN]
    elif not output.dtype.startswith(_FP8):
        allowed = [Kind.CLOSE]
    if text not in [kind.value for kind in allowed]:
        raise ValueError(
            f"output {output.name!r} ({output.dtype}) cannot be judged as {text!r}; allowed are "
            + ", ".join(kind.value for kind in allowed)
        )
    return Kind(text)


def unjudgeable(definition: Mapping[str, Any]) -> str | None:
    """Why no output of this definition can be judged on any workload, in one line; None if they can be."""
    for what in ("inputs", "outputs"):
        for name, spec in definition[what].items():
            if str(spec["dtype"]).startswith(FP4):
                return (
                    f"definition {definition['name']!r} cannot be judged: its {what[:-1]} {name!r} is {spec['dtype']}, "
                    "and fp4 tensors can be neither made nor compared; give them as packed bytes (int8) or as floats"
                )
    return None


def for_official_run(rules: tuple[Rule, ...], scale: float = 1.0) -> Tolerance:
    """The single tolerance that stock flashinfer-bench takes for all outputs: the loosest of ours. Each output has been
    judged by its own rule before, which lets a few floats be further off. ``scale`` is the largest mean magnitude of a
    row. If a share of the elements may be wrong anyway, flashinfer-bench's own numbers are used."""
    floats = [rule.tolerance for rule in rules if rule.kind is Kind.CLOSE] or [DEFAULT]
    unit = max(1.0, scale) if math.isfinite(scale) else 1.0
    return Tolerance(
        rtol=max(t.rtol for t in floats),
        atol=max(t.atol * (unit if t.by_scale and t.required_matched_ratio == 1 else 1.0) for t in floats),
        required_matched_ratio=min(min(t.required_matched_ratio, 1 - NEAR_SHARE * t.by_scale) for t in floats),
    )
