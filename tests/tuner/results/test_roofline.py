"""The roofline against figures computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from db.records import WinnerWorkload
from db.store import Store
from tuner.results.report.page import write_report
from tuner.results.roofline import floor_us, source
from tuner.service.pages.charts import Charts
from tuner.sweeps.setup import open_dataset

H200 = "NVIDIA H200"
BYTES_PER_US, FP8_FLOP_PER_US = 4.8e6, 1979e6
TOKEN_BYTES = 7168 + 56 * 4 + 256 * 4 + 2 * 7168
EXPERT_BYTES = 3 * 7168 * 2048 + 4 * (32 * 56 + 56 * 16)


@pytest.fixture(scope="module")
def moe() -> dict[str, Any]:
    """The DeepSeek-V3 definition: the packaged one with its axes."""
    dataset = open_dataset(None)
    small = dataset.definition("moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256")
    sizes = {"num_experts": 256, "num_local_experts": 32, "hidden_size": 7168, "intermediate_size": 2048,
             "gemm1_out_size": 4096, "num_hidden_blocks": 56, "num_intermediate_blocks": 16,
             "num_gemm1_out_blocks": 32}  # fmt: skip
    axes = {n: {**a, "value": sizes[n]} if n in sizes else a for n, a in small["axes"].items()}
    return {**small, "name": "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048", "axes": axes}


def test_one_token_reads_the_experts_that_it_is_likely_to_choose(moe: dict[str, Any]) -> None:
    expected = (TOKEN_BYTES + 512 + 8 + 32 * 8 / 256 * EXPERT_BYTES) / BYTES_PER_US
    assert floor_us(moe, {"seq_len": 1}, H200) == pytest.approx(expected, rel=1e-9)


def test_many_tokens_are_bound_by_arithmetic(moe: dict[str, Any]) -> None:
    rows = 16384 * 8 * 32 / 256
    assert floor_us(moe, {"seq_len": 16384}, H200) == pytest.approx(rows * 6 * 7168 * 2048 / FP8_FLOP_PER_US, rel=1e-9)


def test_a_gemm_is_bound_by_memory_or_by_arithmetic() -> None:
    gemm = open_dataset(None).definition("gemm_n512_k1024")
    (size,) = (name for name, axis in gemm["axes"].items() if axis["type"] == "var")
    small = 2 * (1 * 1024 + 512 * 1024 + 1 * 512) / BYTES_PER_US
    assert floor_us(gemm, {size: 1}, H200) == pytest.approx(small, rel=1e-9)
    large = 2 * 100_000 * 512 * 1024 / 989.5e6
    assert floor_us(gemm, {size: 100_000}, H200) == pytest.approx(large, rel=1e-9)


@pytest.mark.parametrize("hardware", ["AMD EPYC", "NVIDIA A100-SXM4-80GB", ""])
def test_an_unknown_machine_has_none(moe: dict[str, Any], hardware: str) -> None:
    assert floor_us(moe, {"seq_len": 1}, hardware) is None


@pytest.mark.parametrize("change", [{"op_type": "sampling"}, {"name": "moe_without_a_count"}, {"axes": {}},
                                    {"outputs": {"o": {"shape": ["seq_len"], "dtype": "float4"}}}])  # fmt: skip
def test_unknown_work_has_none(moe: dict[str, Any], change: dict[str, Any]) -> None:
    assert floor_us({**moe, **change}, {"seq_len": 1}, H200) is None


def test_gpus_are_told_apart(moe: dict[str, Any]) -> None:
    names = ("NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA B200")
    times = [floor_us(moe, {"seq_len": 1}, name) for name in names]
    assert times == sorted(times, reverse=True)  # type: ignore[type-var]
    assert len(set(times)) == 4


def test_a_machine_without_a_data_sheet_has_the_floor_of_its_measured_rates(moe: dict[str, Any]) -> None:
    """Operands of any type are multiplied at the measured rate: a CPU converts them on the way."""
    rates = {"copy_bytes_per_us": 12_000.0, "multiply_add_flop_per_us": 150_000.0}
    assert floor_us(moe, {"seq_len": 1}, "AMD EPYC", {}) is None
    expected = (TOKEN_BYTES + 512 + 8 + 32 * 8 / 256 * EXPERT_BYTES) / 12_000
    assert floor_us(moe, {"seq_len": 1}, "AMD EPYC", rates) == pytest.approx(expected, rel=1e-9)
    rows = 16384 * 8 * 32 / 256
    by_arithmetic = rows * 6 * 7168 * 2048 / 150_000
    assert floor_us(moe, {"seq_len": 16384}, "AMD EPYC", rates) == pytest.approx(by_arithmetic, rel=1e-9)
    assert source("AMD EPYC", rates) == (
        "rates measured on this AMD EPYC: 12 GB/s copied, 150 Gflop/s multiplied and added"
    )
    assert source(H200, {}) == "the data sheet of NVIDIA H200"


@pytest.mark.parametrize("rates", [{}, {"copy_bytes_per_us": 12_000.0, "multiply_add_flop_per_us": 150_000.0}])
def test_report_and_page_draw_the_roofline_of_a_sweep(rates: dict[str, float], scene: Any, tmp_path: Path) -> None:
    """Measured where a CPU's rates were measured; nothing where nothing is known of the machine."""
    store = Store.open("sqlite://")
    made = scene(store, hardware="AMD EPYC", target="cpu")
    gemm = open_dataset(None).definition("gemm_n512_k1024")
    (axis,) = (name for name, spec in gemm["axes"].items() if spec["type"] == "var")
    made.definition_id = store.catalog.register_definition(gemm["name"], "gemm", gemm)
    for uuid, axes in made.axes.items():
        store.catalog.register_workload(made.definition_id, uuid, {axis: axes["seq_len"]}, "shipped")
    ends = tuple(WinnerWorkload(w, 2.0, 1.9, 2.1, 3.0) for w in ("w1", "w3"))
    sweep_id = made.finished(made.winner(workloads=ends, size_axis=axis))
    if rates:
        store.catalog.set_rates(store.sweeps.get(sweep_id).environment_id, rates)
    page = json.loads(Charts(store).json(sweep_id))["sizes"]
    assert [t["name"] for t in page["data"]][2:] == (["roofline (measured rates)"] if rates else [])
    report = write_report(store, sweep_id, tmp_path / "report.html").read_text()
    assert ("roofline (measured rates)" in report) == bool(rates)
