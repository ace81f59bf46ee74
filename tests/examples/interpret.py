"""Runs examples in Triton's interpreter: ``python tests/examples/interpret.py FOLDER``, in a process of its own, since
Triton reads the variable when it is imported.

Prints a JSON line for each: its name, and the largest error as a share of its row's mean magnitude.
"""

import importlib
import json
import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import torch

from search_spaces.dataset import PATH
from search_spaces.directory import DirectoryFamily

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CASES = {
    "triton_rmsnorm": ("rmsnorm_h1024", 5, {"rows": 4, "num_warps": 8}),
    "triton_gemm": ("gemm_n512_k1024", 17, {"block_m": 16, "block_n": 128, "group_m": 1}),
    "triton_mlp": ("swiglu_mlp_h1024_i2048", 17, {"gate_up.BLOCK_N": 128, "BLOCK_M": 16, "down.BLOCK_K": 128}),
    "triton_attention": ("attention_h16_d128", 70, {"BLOCK_M": 64, "num_warps": 4, "heads_first": True}),
}
"""Definition, size, and what is not the default's."""


def error(folder: Path, example: str) -> float:
    """The largest error of one config on random inputs.

    They are float16: the interpreter multiplies the bits of bfloat16 values.
    """
    name, size, changes = CASES[example]
    (path,) = [p for root in (PATH, EXAMPLES / "dataset") for p in root.rglob(f"definitions/*/{name}.json")]
    definition = json.loads(path.read_text())
    space = DirectoryFamily(EXAMPLES / example).space(definition, "sm_90a")
    config = space.check({**space.default, **changes})
    assert space.is_valid(config)
    (folder / example).mkdir()
    for file, text in space.variant_sources(config).items():
        (folder / example / file).write_text(text)
    run = importlib.import_module(f"{example}.main").run
    scope: dict = {}
    exec(definition["reference"].replace("bfloat16", "float16"), scope)
    axes = {n: axis.get("value", size) for n, axis in definition["axes"].items()}
    torch.manual_seed(0)
    inputs = [torch.randn([axes[a] for a in t["shape"]]).half() for t in definition["inputs"].values()]
    if example == "triton_mlp":  # its values would be too large for float16
        inputs[1:] = [0.1 * weight for weight in inputs[1:]]
    expected = scope["run"](*inputs).float()
    output = torch.full(expected.shape, torch.nan, dtype=torch.float16)
    run(*inputs, output)
    rows = expected.abs().mean(dim=-1, keepdim=True)
    return float(((output.float() - expected).abs() / rows).nan_to_num(nan=1e9).max())


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    for example in CASES:
        print(json.dumps([example, error(Path(sys.argv[1]), example)]), flush=True)
