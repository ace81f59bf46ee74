"""The packaged dataset is a real flashinfer-trace folder, and its references mean what they say."""

import filecmp
from pathlib import Path

import numpy as np
import pytest
import torch
from flashinfer_bench.bench.utils import gen_inputs, load_safetensors
from flashinfer_bench.compile import BuilderRegistry
from flashinfer_bench.data import TraceSet

from benchmarks.packaged_dataset.make import GEMM, MOE, RMSNORM, write
from search_spaces.dataset import PATH

PUBLIC = Path(__file__).resolve().parents[4] / "shared" / "flashinfer-trace"


@pytest.fixture(scope="module")
def dataset():
    return TraceSet.from_path(str(PATH))


def cases(dataset, name):
    """(inputs, reference outputs) of each workload of a definition, with flashinfer-bench's own inputs."""
    definition = dataset.definitions[name]
    reference = BuilderRegistry.get_instance().build_reference(definition)
    for trace in dataset.workloads[name]:
        torch.manual_seed(7)
        blobs = load_safetensors(definition, trace.workload, PATH)
        inputs = gen_inputs(definition, trace.workload, "cpu", blobs)
        yield inputs, reference(*inputs)


@pytest.fixture(scope="module")
def moe_cases(dataset):
    return list(cases(dataset, MOE))


def relative_error(got, expected):
    return np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected)


def test_loads_in_stock_flashinfer_bench(dataset):
    assert set(dataset.definitions) == {MOE, GEMM, RMSNORM}
    sizes = [t.workload.axes["seq_len"] for t in dataset.workloads[MOE]]
    assert len(sizes) >= 6
    assert sizes[0] == 1
    assert sizes[-1] == 2000
    assert len(dataset.workloads[GEMM]) == len(dataset.workloads[RMSNORM]) == 5


def test_is_small():
    assert sum(f.stat().st_size for f in PATH.rglob("*") if f.is_file() and "__pycache__" not in f.parts) < 1_000_000


def test_make_writes_the_same_bytes(tmp_path):
    write(tmp_path)
    written = [f.relative_to(tmp_path) for f in tmp_path.rglob("*") if f.is_file()]
    assert len(written) == 12
    _, different, missing = filecmp.cmpfiles(tmp_path, PATH, [str(f) for f in written], shallow=False)
    assert not different
    assert not missing


def test_moe_reference_matches_numpy(moe_cases):
    for inputs, output in moe_cases:
        assert output.dtype == torch.bfloat16
        assert relative_error(output.float().numpy(), numpy_moe(*inputs)) < 0.004


def test_no_moe_workload_passes_with_zeros(moe_cases):
    """At the tolerance's ratio of 0.85, an output that is mostly zero would let a kernel that does nothing pass."""
    for _, output in moe_cases:
        assert torch.isfinite(output).all()
        assert (output.float().abs() > 0.1).float().mean() > 0.5


def test_moe_routing_is_uneven(moe_cases):
    inputs, _ = moe_cases[-1]
    loads = np.bincount(numpy_routing(*inputs[:2], 2.5)[0].ravel(), minlength=32)
    assert loads.max() > 4 * loads.mean()


def test_gemm_reference_matches_numpy(dataset):
    for (a, b), output in cases(dataset, GEMM):
        assert relative_error(output.numpy(), a.double().numpy() @ b.double().numpy().T) < 1e-3


def test_rmsnorm_reference_matches_numpy(dataset):
    for (x, weight), output in cases(dataset, RMSNORM):
        x64, w64 = x.double().numpy(), weight.double().numpy()
        expected = x64 / np.sqrt((x64**2).mean(axis=1, keepdims=True) + 1e-6) * w64
        assert relative_error(output.float().numpy(), expected) < 0.004


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public flashinfer-trace copy is not beside the checkout")
def test_public_dataset_loads_completely(tmp_path):
    """from_path creates missing folders, so the read-only copy is loaded through links."""
    for folder in ("definitions", "workloads"):
        (tmp_path / folder).symlink_to(PUBLIC / folder)
    loaded = TraceSet.from_path(str(tmp_path))
    lines = sum(len(f.read_text().splitlines()) for f in PUBLIC.glob("workloads/*/*.jsonl"))
    assert len(loaded.definitions) == 156
    assert sum(map(len, loaded.workloads.values())) == lines


def numpy_routing(logits, bias, scaling):
    """Routing of one token after the other, by sorting; independent of the reference's code."""
    chosen, weights = [], []
    for row in logits.double().numpy():
        score = 1 / (1 + np.exp(-row))
        biased = score + bias.double().numpy()
        group_score = [sum(sorted(biased[g * 8 : g * 8 + 8])[-2:]) for g in range(4)]
        groups = sorted(range(4), key=lambda g: group_score[g])[-2:]
        allowed = [e for e in range(32) if e // 8 in groups]
        top = sorted(allowed, key=lambda e: biased[e])[-4:]
        chosen.append(top)
        weights.append(score[top] / (score[top].sum() + 1e-20) * scaling)
    return np.array(chosen), np.array(weights)


def numpy_moe(logits, bias, x, x_scale, w1, s1, w2, s2, offset, scaling):
    """The op in float64, token by token."""
    chosen, weights = numpy_routing(logits, bias, scaling)
    rows = x.double().numpy() * np.repeat(x_scale.double().numpy(), 128, axis=0).T
    first = w1.double().numpy() * np.kron(s1.double().numpy(), np.ones((1, 128, 128)))
    second = w2.double().numpy() * np.kron(s2.double().numpy(), np.ones((1, 128, 128)))
    output = np.zeros(rows.shape)
    for expert in range(8):
        token, slot = np.nonzero(chosen == offset + expert)
        both = rows[token] @ first[expert].T
        value, gate = both[:, :256], both[:, 256:]
        output[token] += (gate / (1 + np.exp(-gate)) * value) @ second[expert].T * weights[token, slot][:, None]
    return output
