"""On the GPU machine: what variants leave in memory for fixed inputs, byte for byte.

    python3 benchmarks/h200_moe/emulator_dump.py VARIANTS INPUTS OUT [--only NAME ...] [--deadline-s 60]

VARIANTS and INPUTS come from emulator_pack.py. OUT/NAME/CASE.npz gets ``workspace`` (all bytes, poisoned with 0xFF
before the call, the routing's barrier with zeros) and ``out``. Each variant runs in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

ORDER = ("x", "xs", "w13", "s13", "w2", "s2")


def tensors(path: Path, weights: dict[str, np.ndarray], device: str) -> tuple[list, int]:
    """The arguments of ``run`` without the output, and the tokens."""
    import torch

    case = {**weights, **dict(np.load(path))}

    def tensor(name: str):
        raw = torch.from_numpy(case[name].view(np.int16 if case[name].dtype == np.uint16 else case[name].dtype))
        raw = raw.to(device)
        if name in ("x", "w13", "w2"):
            return raw.view(torch.float8_e4m3fn)
        return raw.view(torch.bfloat16) if raw.dtype == torch.int16 else raw

    deepseek = "bias" in case
    head = [tensor("logits"), *([tensor("bias")] if deepseek else [])]
    scalars = [int(case["offset"]), float(case["scaling"])] if deepseek else []
    return [*head, *(tensor(name) for name in ORDER), *scalars], len(case["logits"])


def dump(folder: Path, inputs: Path, out: Path) -> None:
    """All cases of one variant."""
    import torch
    from load import load_variant

    main = load_variant(folder)
    weights = dict(np.load(inputs / "weights.npz"))
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(inputs.glob("*.npz")):
        if path.name == "weights.npz":
            continue
        arguments, tokens = tensors(path, weights, "cuda")
        config = main.select(tokens)
        rows = main.row_capacity(config, main.SIZES, tokens)
        size = main.sections(config, main.SIZES, tokens, rows)["total"]
        main._workspaces.clear()
        workspace = main._workspace(arguments[0].device, size)
        workspace[4:].fill_(0xFF)
        result = torch.full((tokens, main.SIZES["hidden"]), float("nan"), dtype=torch.bfloat16, device="cuda")
        main.run(*arguments, result)
        torch.cuda.synchronize()
        np.savez_compressed(
            out / path.name,
            workspace=workspace[:size].cpu().numpy(),
            out=result.view(torch.int16).cpu().numpy().view(np.uint16),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--one", action="store_true", help="this process runs the variant at VARIANTS")
    parser.add_argument("--deadline-s", type=float, default=60)
    args = parser.parse_args()
    if args.one:
        dump(args.variants, args.inputs, args.out)
        return
    for folder in sorted(p for p in args.variants.iterdir() if (p / "variant.json").is_file()):
        if args.only and folder.name not in args.only:
            continue
        command = [sys.executable, __file__, str(folder), str(args.inputs), str(args.out / folder.name), "--one"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=args.deadline_s)
            tail = " ".join(done.stderr.strip().splitlines()[-1:])
            print(folder.name, "done" if done.returncode == 0 else f"FAILED: {tail}", flush=True)
        except subprocess.TimeoutExpired:
            print(folder.name, "TIMEOUT", flush=True)


if __name__ == "__main__":
    main()
