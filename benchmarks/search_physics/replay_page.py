"""The page's part about replays."""

from __future__ import annotations

from typing import Any

KINDS = {
    "model": "**with the model**",
    "model alone": "with the model, each regime alone",
    "none": "no model",
    "none alone": "no model, each regime alone",
    "reversed": "the model reversed",
    "noise": "a model that says anything",
    "random": "random",
}


def page(document: dict[str, Any]) -> list[str]:
    """Both kinds of replays."""
    return [*_found(document), *_wide(document)]


def _found(document: dict[str, Any]) -> list[str]:
    fewest = min(curve["configs"] for curve in document["replay"])
    # After as many trials as there are configs every search has found the best.
    counts = [
        c for c in dict.fromkeys(c for curve in document["replay"] for c in curve["median"]) if int(c) < fewest / 2
    ]
    lines = [
        "",
        "## Replay without hand-made starts",
        "",
        "`auto` over the configs that all sweeps recorded in a regime, one in flight, the regimes taking turns,",
        f"{document['seeds']} seeds; each can choose from another 70 % of the configs. Median of the best so far over",
        "the best recorded there (worst seed), after so many trials. These are few configs, found by searches, many of",
        "them near the best: a live search has the whole space to choose from. A seed has about 150 of them: after",
        "100 trials two thirds are known, and after 200 all were tried: `replay_rel_60` and `replay_rel_200` are of",
        "the table after this one.",
        "",
        f"| regime (configs) | | {' | '.join(str(c) for c in counts)} |",
        f"|---|---|{'---|' * len(counts)}",
    ]
    for curve in document["replay"]:
        cells = [f"{curve['median'][c]:.3f} ({curve['worst'][c]:.3f})" if c in curve["median"] else "" for c in counts]
        name = f"{curve['regime']} ({curve['configs']})"
        lines.append(f"| {name} | {KINDS[curve['kind']]} | {' | '.join(cells)} |")
    return lines


def _wide(document: dict[str, Any]) -> list[str]:
    """Replays on recordings of a thousand configs and more."""
    if not (curves := document.get("replay_wide")):
        return []
    counts = ["5", "10", "20", "60", "200"]  # wider, and the lines were too long
    lines = [
        "",
        "## Replay on the wide recordings",
        "",
        f"The same on the {curves[0]['configs']:,} configs of the whole space, failed ones among them: one search for",
        f"each size with recorded routing, taking turns, no starts; {document['wide_seeds']} seeds, each with 70 % of",
        "the configs: of about 1,450, 200 trials see one in seven. Made with today's model. Wanted: 1.03 after 60",
        "trials and 1.01 after 200. This favours the model: many of the configs, the best among them, were",
        "found by searches that began with it and with starts. How far the best recorded is from the best of the",
        "space it does not say.",
        "",
        f"| regime (configs) | | {' | '.join(counts)} |",
        f"|---|---|{'---|' * len(counts)}",
    ]
    for curve in curves:
        cells = [f"{curve['median'][c]:.3f} ({curve['worst'][c]:.3f})" if c in curve["median"] else "" for c in counts]
        lines.append(f"| {curve['regime']} ({curve['configs']}) | {KINDS[curve['kind']]} | {' | '.join(cells)} |")
    return lines
