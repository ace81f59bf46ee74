"""The page of the results, from the JSON document."""

from __future__ import annotations

from typing import Any

INTRODUCTION = """# The model of the MoE kernels, and searches that begin with it

Made by `python -m benchmarks.search_physics --sweeps DATABASE...`, from databases that are not part of the repository.
Everything here is from recorded sweeps on one {card} (2026-11-29,
synthetic routing), replayed; nothing was measured anew. Raw figures: [search-physics.json](search-physics.json).

## What the model says

`search_spaces/moe_fp8_cute/model.py` predicts each kernel of the pipeline from the rows of each expert: waves of
tiles, bytes from device memory and through each SM's port to the L2, loads in flight, tensor core, shared memory port,
promotion, epilogue, launches. It has {constants} constants of the kernels and {gpu} figures of the GPU that no data
sheet has; these were fitted to the workloads of {sizes} tokens of both sweeps. Everything else is from data sheets and
architecture documents (`workers/devices/hardware.py`). A prediction takes about 0.1 ms.

*Spearman* is the rank correlation of predicted and measured time, *best of ten* the best measured time of the ten
configs that are predicted fastest, over the best of all. *Ratio* and *spread*: median and standard deviation (of the
logarithm) of predicted over measured. *Near*: configs within 5 % of the best; ranks among these are mostly noise.
"""


def page(document: dict[str, Any]) -> str:
    """Markdown, lines under 140 characters."""
    from benchmarks.search_physics.fit import GPU, KERNELS

    sizes = document["fitted_sizes"]
    unseen = [a for a in document["agreement"] if a["tokens"] not in sizes]
    listed = ", ".join(f"{s:,}" for s in sizes[:-1]) + f" and {sizes[-1]:,}"
    text = INTRODUCTION.format(card=document["card"], constants=len(KERNELS), gpu=len(GPU), sizes=listed)
    lines = [text, "## Against sizes that it was not fitted to", ""]
    lines += _table(unseen)
    low, enough = min(a["spearman"] for a in unseen), sum(a["spearman"] >= 0.9 for a in unseen)
    close = sum(a["best_of_ten"] <= 1.05 for a in unseen)
    lines += [
        "",
        f"Spearman is at least 0.9 on {enough} of {len(unseen)} workloads (wanted: all), {low:.2f} on the worst. The",
        f"best of ten is within 5 % of the best recorded on {close} of {len(unseen)} (wanted: 80 %). Workloads of 256",
        "and 2,048 tokens have three hot experts, a profile that the fit did not see.",
        "",
        "## Against a sweep that it was not fitted to",
        "",
        "The same constants fitted to one sweep alone, at the same five sizes, and judged on the configs of the other.",
        "",
        "| judged on | workloads | Spearman, median (lowest) | best of ten, worst | spread, median |",
        "|---|---|---|---|---|",
    ]
    for sweep, found in document["fitted_to_the_other_sweep"].items():
        ranks = sorted(a["spearman"] for a in found)
        spreads = sorted(a["spread"] for a in found)
        worst = max(a["best_of_ten"] for a in found)
        lines.append(
            f"| {sweep} | {len(found)} | {ranks[len(ranks) // 2]:.2f} ({ranks[0]:.2f}) | {worst:.3f} | "
            f"{spreads[len(spreads) // 2]:.3f} |"
        )
    lines += ["", "Within one sweep most configs are within a few per cent of each other, so ranks are noisier."]
    lines += _replay(document)
    lines += ["", "## Not measured", ""]
    lines += [f"* `{name}`: {why}." for name, why in document["not_measured"].items()]
    return "\n".join(lines) + "\n"


def _table(found: list[dict[str, Any]]) -> list[str]:
    head = "| tokens | configs | near | Spearman | best of ten | ratio | spread |"
    rows = [
        f"| {a['tokens']:,} | {a['configs']} | {a['within_5']} | {a['spearman']:.3f} | {a['best_of_ten']:.3f} | "
        f"{a['ratio']:.3f} | {a['spread']:.3f} |"
        for a in found
    ]
    return [head, "|---|---|---|---|---|---|---|", *rows]


def _replay(document: dict[str, Any]) -> list[str]:
    kinds = {
        "model": "**with the model**",
        "none": "no model",
        "reversed": "the model reversed",
        "noise": "a model that says anything",
        "random": "random",
    }
    counts = list(document["replay"][0]["median"])
    lines = [
        "",
        "## Replay without hand-made starts",
        "",
        f"`auto` over the configs that both sweeps recorded in a regime, one in flight, {document['seeds']} seeds.",
        "Median of the best so far over the best recorded (worst seed), after so many trials. These are few configs,",
        "found by searches, half of them near the best: a live search has 25 million to choose from. All of them fit",
        "into the sample from which the start is drawn, so that seeds of one kind hardly differ.",
        "",
        f"| regime (configs) | | {' | '.join(str(c) for c in counts)} |",
        f"|---|---|{'---|' * len(counts)}",
    ]
    for curve in document["replay"]:
        cells = [f"{curve['median'][c]:.3f} ({curve['worst'][c]:.3f})" for c in counts]
        name = f"{curve['regime']} ({curve['configs']})"
        lines.append(f"| {name} | {kinds[curve['kind']]} | {' | '.join(cells)} |")
    return lines
