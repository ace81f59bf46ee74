"""Write the baselines as flashinfer-bench Solutions for a definition.

    python benchmarks/baselines/make.py --dataset DIR --definition NAME --out DIR

The Solutions land in OUT/solutions/baseline/moe/NAME/, where flashinfer-bench's TraceSet finds them. They say at run
time why they cannot run on a machine (an exception whose class is named Skipped); ``unavailable()`` in their entry
module says so beforehand.
"""

from __future__ import annotations

import argparse
import json
import pprint
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from search_spaces.moe_fp8_cute.space import sizes_of  # noqa: E402

SHARED = {"triton": ("routing", "elementwise"), "deepgemm": ("routing", "elementwise"), "flashinfer": ()}
LANGUAGE = {"triton": "triton", "deepgemm": "triton", "flashinfer": "python"}
HARDWARE = {"triton": ["cuda"], "deepgemm": ["NVIDIA H100", "NVIDIA H200"], "flashinfer": ["NVIDIA B200"]}
DEPENDENCIES = {
    "triton": ["torch", "triton"],
    "deepgemm": ["torch", "triton", "deep_gemm"],
    "flashinfer": ["flashinfer"],
}
DESCRIPTION = {
    "triton": "A usual Triton pipeline: routing, sorted token blocks, block-scaled FP8 grouped GEMMs, weighted sum.",
    "deepgemm": "DeepGEMM's contiguous grouped GEMM between Triton kernels.",
    "flashinfer": "flashinfer's trtllm_fp8_block_scale_moe.",
}


def solution(kind: str, definition: dict) -> dict:
    """The Solution document of one baseline.

    Args:
        kind: ``triton``, ``deepgemm`` or ``flashinfer``.
        definition: The parsed definition.
    """
    sources = {path.name: path.read_text() for path in sorted((HERE / "solutions" / kind).glob("*.py"))}
    for name in SHARED[kind]:
        sources[f"{name}.py"] = (HERE / "solutions" / "common" / f"{name}.py").read_text()
    sizes = pprint.pformat(sizes_of(definition), sort_dicts=False)  # Python's True and False, not JSON's
    sources["sizes.py"] = f'"""Sizes of the definition {definition["name"]}. Generated."""\n\nSIZES = {sizes}\n'
    return {
        "name": f"baseline_{kind}_{definition['name']}",
        "definition": definition["name"],
        "author": "baseline",
        "description": DESCRIPTION[kind],
        "spec": {
            "language": LANGUAGE[kind],
            "target_hardware": HARDWARE[kind],
            "entry_point": "main.py::run",
            "dependencies": DEPENDENCIES[kind],
            "destination_passing_style": True,
        },
        "sources": [{"path": path, "content": text} for path, text in sorted(sources.items())],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="a flashinfer-trace folder")
    parser.add_argument("--definition", required=True)
    parser.add_argument("--out", type=Path, required=True, help="a flashinfer-trace folder to write into")
    parser.add_argument("--folders", action="store_true", help="write plain source folders instead, for drive.py")
    args = parser.parse_args()
    definition = json.loads(next(args.dataset.glob(f"definitions/*/{args.definition}.json")).read_text())
    for kind in SHARED:
        document = solution(kind, definition)
        if args.folders:
            for source in document["sources"]:
                path = args.out / f"baseline_{kind}" / source["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(source["content"])
        else:
            path = args.out / "solutions" / "baseline" / "moe" / args.definition / f"{document['name']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document, indent=1))
        print(path if not args.folders else args.out / f"baseline_{kind}")


if __name__ == "__main__":
    main()
