"""Variants against the definition's reference, and the compile step across processes."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flashinfer_bench.compile import BuilderRegistry
from flashinfer_bench.data import TraceSet

from benchmarks.packaged_dataset.make import MOE, routing
from search_spaces.dataset import PATH
from search_spaces.moe_fp8_cpu import FAMILY

FROBENIUS_LIMIT = 4e-3
"""Relative. bfloat16 rounding of the output alone gives 2^-9 / sqrt(3) = 1.1e-3 and meets the reference's own."""
BFLOAT16_FROBENIUS_LIMIT = 8e-3
"""With bfloat16 products: rows, weights and results of both products are rounded as well, 6 times 2^-9 at worst."""


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Torch's own threads would compete with the variants'."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def definition():
    return TraceSet.from_path(str(PATH)).definitions[MOE]


@pytest.fixture(scope="module")
def space(definition):
    return FAMILY.space(json.loads(definition.model_dump_json()), "cpu")


@pytest.fixture(scope="module")
def reference(definition):
    return BuilderRegistry.get_instance().build_reference(definition)


def inputs_for(tokens, offset=16, experts=None, seed=3):
    """Inputs of the op. ``experts`` forces every token to these four global experts (of at most two groups)."""
    generator = torch.Generator().manual_seed(seed)

    def fp8(*shape):
        return torch.randn(shape, generator=generator).clamp_(-2, 2).to(torch.float8_e4m3fn)

    def scale(*shape):
        return torch.randn(shape, generator=generator)

    drawn = routing(tokens) if tokens else {"routing_logits": torch.empty(0, 32), "routing_bias": torch.zeros(32)}
    logits, bias = drawn["routing_logits"], drawn["routing_bias"].to(torch.bfloat16)
    if experts is not None:
        logits, bias = torch.full_like(logits, -3.0), torch.zeros_like(bias)
        logits[:, experts] = torch.tensor([3.0, 2.0, 1.0, 0.5])
    return [
        logits, bias, fp8(tokens, 512), scale(4, tokens), fp8(8, 512, 512), scale(8, 4, 4), fp8(8, 512, 256),
        scale(8, 4, 2), offset, 2.5,
    ]  # fmt: skip


def stage(folder, space, table):
    """Write a Solution below ``folder``; returns the package's name."""
    package = f"variant_{abs(hash(str(folder))):x}"
    (folder / package).mkdir(parents=True)
    for name, text in space.render(table).items():
        (folder / package / name).write_text(text)
    return package


def load(folder, space, config, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    package = stage(folder, space, [(None, config)])
    return __import__(f"{package}.main", fromlist=["run"]).run


def judge(run, reference, inputs, limit=FROBENIUS_LIMIT):
    """Run and compare: the tolerance of the op, and the much tighter relative Frobenius norm."""
    expected = reference(*inputs)
    output = torch.full_like(expected, float("nan"))
    before = [i.clone() if isinstance(i, torch.Tensor) else i for i in inputs]
    run(*inputs, output)
    for kept, given in zip(before, inputs, strict=True):
        if isinstance(kept, torch.Tensor):
            assert torch.equal(kept.view(torch.uint8), given.view(torch.uint8))
    assert torch.isfinite(output).all()
    if output.numel() == 0:
        return
    error, size = (output.float() - expected.float()).abs(), expected.float().abs()
    matched = 1.0 - ((error > 0.1) & (error > 0.2 * size)).float().mean().item()
    assert matched >= 0.85
    assert error.norm() <= limit * size.norm()


CONFIGS = 7
"""Each is compiled, which takes seconds."""


@pytest.fixture(scope="module")
def spread(space):
    """The default and six configs that between them use every value of every parameter; and the values left over."""
    rng = random.Random(7)
    missing = {(p.name, v) for p in space.parameters for v in p.values} - set(space.default.items())
    configs = [space.default]
    while len(configs) < CONFIGS:
        best = max((space.sample(rng) for _ in range(400)), key=lambda c: len(missing & set(c.items())))
        missing -= set(best.items())
        configs.append(best)
    return configs, missing


def test_spread_covers_every_value(spread):
    assert spread[1] == set()


@pytest.mark.parametrize("number", range(CONFIGS))
def test_variant_matches_reference(number, spread, space, reference, tmp_path, monkeypatch):
    config = spread[0][number]
    run = load(tmp_path, space, config, monkeypatch)
    limit = BFLOAT16_FROBENIUS_LIMIT if config["product"] == "blas_bf16" else FROBENIUS_LIMIT
    judge(run, reference, inputs_for(37), limit)
    judge(run, reference, inputs_for(37), limit)  # right the second time too
    judge(run, reference, inputs_for(1, offset=8), limit)
    judge(run, reference, inputs_for(0), limit)
    nowhere = inputs_for(21, experts=[2, 3, 4, 5], offset=24)  # no token is local
    assert not reference(*nowhere).any()
    judge(run, reference, nowhere, limit)
    judge(run, reference, inputs_for(21, experts=[2, 3, 4, 17], offset=17), limit)  # all tokens on one local expert


@pytest.mark.parametrize("number", [0, 1])
def test_starts_match_the_reference(number, space, reference, tmp_path, monkeypatch):
    """More rows of an expert than a row tile holds too: the tile's buffers are used again."""
    config = {**space.starts[number].config, "row_tile": 64}
    run = load(tmp_path, space, config, monkeypatch)
    limit = BFLOAT16_FROBENIUS_LIMIT if config["product"] == "blas_bf16" else FROBENIUS_LIMIT
    judge(run, reference, inputs_for(150, experts=[2, 3, 4, 17], offset=17), limit)
    judge(run, reference, inputs_for(300), limit)


def test_bfloat16_rounding_is_torch_s(space, tmp_path, monkeypatch):
    """Ties, subnormals, infinities and NaN; a truncation instead of rounding would pass the tolerance of the op."""
    import numpy as np

    monkeypatch.syspath_prepend(str(tmp_path))
    package = stage(tmp_path, space, [(None, space.default)])
    fp8 = __import__(f"{package}.fp8", fromlist=["bfloat16_bits"])
    values = np.random.default_rng(3).integers(0, 2**32, 2000, dtype=np.uint32)
    values[:6] = [0x3F808000, 0x3F818000, 0x7F800000, 0xFF800000, 0x00008000, 0x7FC00001]
    values = values.view(np.float32)
    ours = torch.tensor([int(fp8.bfloat16_bits(v)) for v in values], dtype=torch.int32).to(torch.uint16)
    theirs = torch.from_numpy(values).to(torch.bfloat16)
    assert torch.equal(ours.view(torch.bfloat16).nan_to_num(7.0), theirs.nan_to_num(7.0))


def test_offsets_beyond_the_experts(space, reference, tmp_path, monkeypatch):
    """Local experts that do not exist globally compute nothing."""
    run = load(tmp_path, space, {**space.default, "layout": "flat", "decode": "bits"}, monkeypatch)
    for offset in (-4, 0, 28, 32):
        judge(run, reference, inputs_for(40, offset=offset))


def test_fp8_decoding_is_exact(space, tmp_path, monkeypatch):
    """Every code by shifts and by table, subnormals and NaN included, against torch."""
    import numpy as np

    monkeypatch.syspath_prepend(str(tmp_path))
    package = stage(tmp_path, space, [(None, space.default)])
    fp8 = __import__(f"{package}.fp8", fromlist=["fp8_table"])
    expected = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    shifted = np.array([fp8.value_of(np.uint8(code)) for code in range(256)], dtype=np.float32)
    np.testing.assert_array_equal(fp8.fp8_table(), expected)
    np.testing.assert_array_equal(shifted, expected)


def test_dispatch_table_uses_each_row(space, reference, tmp_path, monkeypatch):
    flat = {**space.default, "layout": "flat", "micro_tile": "2x2", "threads": 2}
    monkeypatch.syspath_prepend(str(tmp_path))
    package = stage(tmp_path, space, [(8, space.default), (None, flat)])
    main = __import__(f"{package}.main", fromlist=["run"])
    for tokens in (1, 8, 9, 60):
        judge(main.run, reference, inputs_for(tokens))
    assert main.kernels(space.default) != main.kernels(flat)


BUILD = "import json, {0}.build as b; print(json.dumps(b.build({1!r})))"
RUN = (
    "import json; from {0}.config import TABLE; from {0}.compiled import kernels; "
    "s = [k.stats for _, c in TABLE for k in kernels(c)]; "
    "print(json.dumps([sum(sum(getattr(x, n).values()) for x in s) for n in ('cache_hits', 'cache_misses')]))"
)


def python(folder, code):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=clean, capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_built_artifact_loads_elsewhere_without_compiling(space, tmp_path):
    """Built in one folder, moved under another path and package name, loaded by another process."""
    fast = {**space.default, "layout": "flat", "decode": "bits"}
    built = tmp_path / "builder"
    package = stage(built, space, [(64, space.default), (None, fast)])
    (built / package / "artifacts").mkdir()
    figures = python(built, BUILD.format(package, str(built / package / "artifacts")))
    assert (figures["cache_hits"], figures["cache_misses"]) == (0, 2)
    assert figures["compile_cpu_s"] > 0
    assert figures["llvm_ir_bytes"] > 10_000
    assert figures["object_bytes"] > 10_000
    moved = tmp_path / "evaluator" / "deeper"
    moved.mkdir(parents=True)
    (built / package).rename(moved / "renamed_variant")
    assert not built.joinpath(package).exists()
    assert python(moved, RUN.format("renamed_variant")) == [2, 0]


def test_other_config_at_the_same_path_is_not_taken_for_the_cached_one(space, tmp_path):
    """The cache's key holds the config: stale machine code would be measured under another config's name."""
    package = stage(tmp_path, space, [(None, space.default)])
    assert python(tmp_path, RUN.format(package)) == [0, 1]
    other = {**space.default, "k_block": 256}
    Path(tmp_path, package, "config.py").write_text(space.variant_sources(other)["config.py"])
    assert python(tmp_path, RUN.format(package)) == [0, 1]
    assert python(tmp_path, RUN.format(package)) == [1, 0]


def test_threads_survive_a_fork(space, tmp_path):
    """A child forked after the helper threads ran makes its own instead of waiting for the parent's."""
    code = f"""
import json, os, sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_solution import inputs_for
from {{0}}.main import run
torch.set_num_threads(1)
inputs = inputs_for(30)
def go():
    output = torch.zeros(30, 512, dtype=torch.bfloat16)
    run(*inputs, output)
    return output.float().abs().sum().item()
first = go()
child = os.fork()
if child == 0:
    os._exit(0 if go() == first else 1)
print(json.dumps(os.waitpid(child, 0)[1]))
"""
    package = stage(tmp_path, space, [(None, {**space.default, "threads": 2})])
    env_path = str(Path(__file__).resolve().parents[3])
    assert python(tmp_path, f"import sys; sys.path.append({env_path!r})\n" + code.format(package)) == 0
