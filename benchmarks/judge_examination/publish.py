"""docs/results/judge.md and judge.json from what was found."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.judge_examination.mistakes import OF_CANDIDATE, OF_OUTPUT
from workers.records import METHOD_REVISION

MESSAGE = 120
"""Characters of a message that are kept."""

WHY_MISSED: tuple[tuple[str, str, str], ...] = (
    (
        "^mla_paged",
        "^rounded",
        "the log-sum-exps lie between 9.4 and 15.9, where rounding to 5 bits is hardly a change by 1 %, and the "
        "absolute tolerance is 1 % of their row's mean magnitude: the farthest is 0.98 times its tolerance in decoding "
        "and 1.01 times in prefill, where it is one of 176 and one may be.",
    ),
)
"""Regular expressions for definition and mistake, and why the judge cannot see it there."""

_HEAD = """# The judge's examination

Every definition of a flashinfer-trace folder, and of the packaged dataset, with two workloads each: its reference as a
candidate, which must pass, and planted mistakes, which must not. All of them go through the functions that a sweep
uses: the first check on poisoned outputs, timed runs on poisoned outputs and on other values, and the inputs' digests.

    python -m benchmarks.judge_examination FLASHINFER_TRACE_FOLDER --work FOLDER --out docs/results

The records, one for each definition, output and mistake, are in [judge.json](judge.json). Which rule an output has, and
why, is in [How a measurement is taken](../measurement.md).

"""


def write(documents: Sequence[dict[str, Any]], out: Path) -> None:
    """The page and the records."""
    found = [f for document in documents for f in document["found"]]
    op_of = {document["definition"]: document["op_type"] for document in documents}
    out.mkdir(parents=True, exist_ok=True)
    records = [
        {**f, "message": f["message"][:MESSAGE], "revision": d["revision"], "date": d.get("date")}
        for d in documents
        for f in d["found"]
    ]
    (out / "judge.json").write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")
    parts = [_HEAD, _summary(documents, found), _table(found, op_of), _missed(found), _how(documents)]
    (out / "judge.md").write_text("".join(parts))


def _summary(documents: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str:
    """What was examined and caught, by device."""
    dates = sorted({d["date"] for d in documents if "date" in d})
    lines = [
        f"{' and '.join(dict.fromkeys((*dates[:1], *dates[-1:])))}, measured:\n",
        "| device | definitions examined | right candidates | wrongly refused | mistakes planted | caught |",
        "|---|---|---|---|---|---|",
    ]
    every = len({d["definition"] for d in documents})
    for device in sorted({_on(d) for d in documents}):
        given = [d for d in documents if _on(d) == device]
        records = [f for d in given for f in d["found"]]
        right = [f for f in records if _is_right(f)]
        planted = [f for f in records if not _is_right(f)]
        caught = sum(f["caught"] for f in planted)
        share = f" ({caught / len(planted):.2%})" if planted else ""
        name = ", ".join(sorted({f["device"] for f in records})) or device
        lines.append(
            f"| {name} | {sum(bool(d['found']) for d in given)} of {every} | {len(right)} "
            f"| {sum(f['caught'] for f in right)} | {len(planted)} | {caught}{share} |"
        )
    return "\n".join(lines) + f"\n\n{_older([d for d in documents if d['found']])}"


def _on(document: dict[str, Any]) -> str:
    return str(document.get("on", "cpu"))


def _older(examined: Sequence[dict[str, Any]]) -> str:
    """What is said if some definitions were examined with an earlier judge."""
    older = Counter(_on(d) for d in examined if d["revision"] < METHOD_REVISION)
    return "".join(
        f"{count} definitions were examined on the {'CPU' if on == 'cpu' else 'GPU'} by an earlier revision of the "
        f"method than {METHOD_REVISION}.\n\n"
        for on, count in sorted(older.items())
    )


def _table(found: Sequence[dict[str, Any]], op_of: dict[str, str]) -> str:
    """Caught of planted, by op and mistake."""
    ops = sorted({op_of[f["definition"]] for f in found})
    planted = Counter((op_of[f["definition"]], f["mistake"]) for f in found if not _is_right(f))
    caught = Counter((op_of[f["definition"]], f["mistake"]) for f in found if f["caught"] and not _is_right(f))
    lines = [
        "## Caught, of planted\n",
        "On all devices together.\n",
        f"| mistake | {' | '.join(ops)} |",
        f"|---|{'---|' * len(ops)}",
    ]
    for mistake in (*OF_OUTPUT, *OF_CANDIDATE):
        cells = [f"{caught[op, mistake]}/{planted[op, mistake]}" if planted[op, mistake] else "" for op in ops]
        lines.append(f"| {mistake} | {' | '.join(cells)} |")
    return "\n".join(lines) + (
        "\n\nEmpty: the mistake cannot be made there (no second output, one head, one axis, no experts)."
        "\nA mistake that changes no number that counts is left out too, output by output.\n\n"
    )


def _missed(found: Sequence[dict[str, Any]]) -> str:
    """Each mistake that passed and each right candidate that did not, with the reason."""
    lines = ["## Missed\n"]
    groups: dict[tuple[str, str], list[str]] = {}
    for f in found:
        if f["caught"] != _is_right(f):
            continue
        why = next((w for d, m, w in WHY_MISSED if re.search(d, f["definition"]) and re.search(m, f["mistake"])), "?")
        groups.setdefault((f["mistake"], why), []).append(f"{f['definition']} {f['output']}".strip())
    for (mistake, why), where in groups.items():
        lines += [_item(f"**{mistake}**: {why}"), *(f"    * `{name}`" for name in where)]
    return "\n".join(lines if groups else [*lines, "Nothing."]) + "\n\n"


def _how(documents: Sequence[dict[str, Any]]) -> str:
    """What was made smaller and what could not be judged."""
    factors = Counter(d["factor"] for d in documents if d["found"] and _on(d) == "cpu")
    on_gpu = [d for d in documents if d["found"] and _on(d) != "cpu"]
    whole = sum(d["factor"] == 1 for d in on_gpu)
    lines = [
        "## How",
        "",
        "Workloads are made from the axes, small enough for a CPU, also where the dataset lists some: those are for",
        "GPUs. The second one has other sizes, leaves optional inputs out, and has a sequence without keys. Large",
        "constant axes (vocabulary, hidden, intermediate size) are divided, in the reference too; on a CPU by these",
        "factors:",
        "",
        *(f"* {factor}: {count} definitions" for factor, count in sorted(factors.items())),
        "",
        *([f"On a GPU, {whole} of {len(on_gpu)} were examined in their own sizes.", ""] if on_gpu else []),
    ]
    without = sorted({d["definition"] for d in documents} - {d["definition"] for d in on_gpu})
    if on_gpu and without:
        why = "Not examined on a GPU: its machine lacked a package when it was their turn."
        lines += [textwrap.fill(why, 118), "", *(_item(f"`{name}`") for name in without), ""]
    failed = [d for d in documents if d.get("failed")]
    if failed:
        lines += ["The examination itself failed, so a smaller size was taken if there is one:", ""]
        lines += [*(_item(f"`{d['definition']}`: {'; '.join(d['failed'])[:200]}") for d in failed), ""]
    odd = [d for d in documents if d.get("why")]
    if odd:
        lines += [
            "Workloads that cannot be judged, and are left out by a sweep as here:",
            "",
        ]
        lines += [_item(f"`{d['definition']}`: {d['why'][:200]}") for d in odd]
    return "\n".join(lines).rstrip() + "\n"


def _item(text: str) -> str:
    return textwrap.fill(text, 118, initial_indent="* ", subsequent_indent="  ", break_long_words=False)


def _is_right(f: dict[str, Any]) -> bool:
    return str(f["mistake"]).startswith("none")
