"""Whether emulated verdicts still stand: the PTX of recorded configs in this tree, and in another one.

    python -m benchmarks.emulation.kernels docs/results/emulation.json --set sample --out then.json   # in each tree
    python -m benchmarks.emulation.kernels docs/results/emulation.json --compare then.json now.json

A verdict is about kernels, so it stands as long as they are the same, whatever happened to the sources. Two kernels
are the same if their PTX is, apart from names and the numbers of labels. Compiles without a GPU, a few seconds a
config; resumable. The file also runs in trees that are older than it (``python path/to/kernels.py``, from the tree's
root).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))

from benchmarks.emulation.__main__ import SETS, space_of
from workers.emulator.host.launches import build_with_ptx
from workers.emulator.judge import stage

NOTES = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
DEBUG = re.compile(r"^\s*\.(loc|file|version|section)\b[^\n]*$", re.MULTILINE)
LABEL = re.compile(r"\$L[\w$]*")
ENTRY = re.compile(r"\.entry\s+(\w+)")


def plain(ptx: str) -> str:
    """A kernel's PTX without its name, notes and places in the sources; labels numbered as they appear."""
    name = ENTRY.search(ptx)
    text = DEBUG.sub("", NOTES.sub("", ptx))
    if name:
        text = text.replace(name[1], "kernel")
    order: dict[str, str] = {}
    text = LABEL.sub(lambda found: order.setdefault(found[0], f"$L{len(order)}"), text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def kernels(ptx: str) -> list[str]:
    """The kernels in a text of one or more modules, each from its ``.entry`` to the brace that ends it."""
    starts = [found.start() for found in re.finditer(r"^(?:\.visible\s+)?\.entry\b", ptx, re.MULTILINE)]
    return [ptx[at : ptx.index("\n}", at) + 2] for at in starts]


def digests(ptx: str) -> dict[str, list[str]]:
    """Of each kernel a digest of its PTX, and one of its instructions in any order. Sorted: names may change."""
    texts = sorted(plain(kernel) for kernel in kernels(ptx))
    return {
        "exact": sorted(_digest(text) for text in texts),
        "unordered": sorted(
            _digest("\n".join(sorted(re.sub(r"%\w+|\$L\d+", "_", text).splitlines()))) for text in texts
        ),
    }


def _unordered(text: str) -> str:
    """The instructions alone: without the registers and labels that they name."""
    return "\n".join(sorted(re.sub(r"%\w+|\$L\d+", "_", text).splitlines()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compiled(records: list[dict[str, Any]], out: Path) -> None:
    """Digests of every record's config, written one after the other."""
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    spaces = {sizes.name: space_of(sizes) for sizes, _ in SETS.values()}
    for record in records:
        if record["hash"] in found:
            continue
        space = spaces[record["definition"]]
        # Older trees have no function for this: parameters that they lack are left out, later ones have their default.
        config = {**space.default, **{name: value for name, value in record["config"].items() if name in space.default}}
        with tempfile.TemporaryDirectory(prefix="tuner-kernels-") as scratch:
            package = Path(scratch) / "variant"
            stage(space.variant_sources(config), package)
            build_with_ptx(package)
            (ptx,) = (package / "artifacts").glob("*.ptx")
            found[record["hash"]] = digests(ptx.read_text())
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(len(found), record["hash"], len(found[record["hash"]]["exact"]), "kernels", file=sys.stderr, flush=True)


def compared(then: dict[str, Any], now: dict[str, Any]) -> dict[str, list[str]]:
    """Hashes of the configs whose kernels are the same, have the same instructions in another order, or differ."""
    verdicts: dict[str, list[str]] = {"same": [], "reordered": [], "different": []}
    for name in sorted(then.keys() & now.keys()):
        same = then[name]["exact"] == now[name]["exact"]
        reordered = then[name]["unordered"] == now[name]["unordered"]
        verdicts["same" if same else "reordered" if reordered else "different"].append(name)
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("records", type=Path, help="docs/results/emulation.json, or a file of benchmarks.emulation")
    parser.add_argument("--set", default="sample", choices=sorted(SETS))
    parser.add_argument("--out", type=Path, help="JSON; what it already has is not compiled again")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("THEN", "NOW"))
    arguments = parser.parse_args()
    if arguments.compare:
        then, now = (json.loads(path.read_text()) for path in arguments.compare)
        print(json.dumps(compared(then, now), indent=1))
        return
    if arguments.out is None:
        parser.error("give --out FILE, or --compare THEN NOW")
    document = json.loads(arguments.records.read_text())
    records = document.get("configs", document.get("variants"))
    compiled([record for record in records if record["set"] == arguments.set], arguments.out)


if __name__ == "__main__":
    main()
