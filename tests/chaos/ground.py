"""Where chaos runs take place: a dataset of two tiny workloads and a space of trivial kernels, some of them hostile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

DEFINITION = "scale_add_d64"
MATRIX = {"shape": ["n", "d"], "dtype": "float32"}
SIZES = (3, 40)

SPACE = """\
definition: {definition}
targets: [cpu]
entry_point: main.py::run
size_axis: n
parameters:
  work: {{values: [{works}], doc: how often the sum is computed; 1 is best}}
  tens: {{values: [{tens}], kind: categorical, doc: tens and ones of the salt}}
  ones: {{values: [{ones}], kind: categorical, doc: the salt decides how a config misbehaves}}
default: {{work: {most}, tens: 0, ones: 0}}
"""

MAIN = """\
import os
import time

import torch

from .config import select

FATES = {fates!r}


def run(x, y, out):
    config = select(len(x))
    fate = FATES.get(10 * config["tens"] + config["ones"])
    if fate == "crash":
        os.kill(os.getpid(), 11)
    if fate == "raise":
        raise RuntimeError("planted")
    if fate == "hang":
        time.sleep(3600)
    for _ in range(config["work"] * {repeats}):
        torch.add(y, x, alpha=2, out=out)
    if fate == "wrong":
        out += 1
    if fate == "hang when timed" and seen(os.getpid()) > 3:
        time.sleep(3600)


CALLS = {{}}


def seen(pid):
    CALLS[pid] = CALLS.get(pid, 0) + 1
    return CALLS[pid]
"""

BUILD = """\
import os
import time

from .config import select

FATES = {fates!r}


def build(out_dir):
    config = select()
    fate = FATES.get(10 * config["tens"] + config["ones"])
    if fate == "hang in build":
        time.sleep(3600)
    if fate == "crash in build":
        os.kill(os.getpid(), 9)
    if fate == "raise in build":
        raise RuntimeError("planted")
    time.sleep({build_s})
    return {{"registers": 1}}
"""

HOSTILE = ("crash", "raise", "hang", "wrong", "hang when timed", "hang in build", "crash in build", "raise in build")
"""What a candidate may do; each is a trial with a typed status and nothing else."""

STATUS_OF = {
    "crash": "CRASHED",
    "raise": "RUNTIME_ERROR",
    "hang": "TIMEOUT",
    "wrong": "INCORRECT_NUMERICAL",
    "hang when timed": "TIMEOUT",
    "hang in build": "TIMEOUT",
    "crash in build": "CRASHED",
    "raise in build": "COMPILE_ERROR",
}


@dataclass(frozen=True)
class Ground:
    """Folders of a run."""

    root: Path

    @property
    def dataset(self) -> Path:
        """flashinfer-trace folder."""
        return self.root / "dataset"

    @property
    def space(self) -> Path:
        """Folder with space.yaml."""
        return self.root / "space"


def lay(
    root: Path,
    *,
    tens: int,
    works: int = 4,
    ones: int = 10,
    fates: dict[int, str] | None = None,
    repeats: int = 1,
    build_s: float = 0.0,
) -> Ground:
    """Write dataset and space.

    Args:
        root: An empty folder.
        tens: Values of the parameter ``tens``; the space has ``works * tens * ones`` configs.
        works: Values of the parameter ``work``; the default is the most.
        ones: Values of the parameter ``ones``, at most ten.
        fates: Salt (``10 * tens + ones``) -> one of :data:`HOSTILE`. The default config's salt is 0.
        repeats: Of the kernel's one operation, so that configs differ by more than noise.
        build_s: How long a build sleeps.
    """
    ground = Ground(root)
    _write_dataset(ground.dataset)
    ground.space.mkdir(parents=True)
    listed = {"tens": ", ".join(map(str, range(tens))), "works": ", ".join(map(str, range(1, works + 1)))}
    listed["ones"] = ", ".join(map(str, range(ones)))
    (ground.space / "space.yaml").write_text(SPACE.format(definition=DEFINITION, most=works, **listed))
    (ground.space / "main.py").write_text(MAIN.format(fates=fates or {}, repeats=repeats))
    (ground.space / "build.py").write_text(BUILD.format(fates=fates or {}, build_s=build_s))
    return ground


def _write_dataset(root: Path) -> None:
    document = {
        "name": DEFINITION,
        "op_type": "toy",
        "axes": {"n": {"type": "var"}, "d": {"type": "const", "value": 64}},
        "inputs": {"x": MATRIX, "y": MATRIX},
        "outputs": {"out": MATRIX},
        "reference": "import torch\n\n\ndef run(x, y):\n    return 2 * x + y\n",
    }
    lines = [
        {
            "definition": DEFINITION,
            "solution": None,
            "workload": {
                "uuid": f"{DEFINITION}-n{n}",
                "axes": {"n": n},
                "inputs": {"x": {"type": "random"}, "y": {"type": "random"}},
            },
            "evaluation": None,
        }
        for n in SIZES
    ]
    for kind, name, text in (
        ("definitions", f"{DEFINITION}.json", json.dumps(document)),
        ("workloads", f"{DEFINITION}.jsonl", "\n".join(map(json.dumps, lines)) + "\n"),
    ):
        folder = root / kind / "toy"
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
