"""The GPU as a device: known durations, graphs, doubtful samples, sticky errors. Needs an NVIDIA GPU."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from workers.devices.device import CANDIDATE, CHECK, CaptureError
from workers.judge.timing.timer import measure
from workers.records import Method

pytestmark = pytest.mark.gpu

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[3]
METHODS = {
    mode: Method(mode=mode, warmup_s=0.02, min_samples=10, max_samples=50, budget_s=1.0)
    for mode in ("eager", "cuda_graph")
}
# A million cycles are 0.5 ms at 2 GHz; no GPU with a target runs below 1 or above 3 GHz under load.
CYCLES = 1_000_000
BETWEEN_US = (CYCLES / 3e3, CYCLES / 1e3)


def spin():
    torch.cuda._sleep(CYCLES)


@pytest.fixture(scope="module")
def device():
    from workers.devices.cuda import CudaDevice

    return CudaDevice()


@pytest.mark.parametrize("mode", METHODS)
def test_known_duration(device, mode):
    timing = measure(device.prepare(spin, mode), METHODS[mode], device)
    assert BETWEEN_US[0] < timing.interval.median < BETWEEN_US[1]
    assert timing.interval.rel_half_width < 0.1


def test_modes_agree_where_there_is_one_kernel(device):
    medians = [measure(device.prepare(spin, m), METHODS[m], device).interval.median for m in METHODS]
    assert medians[0] == pytest.approx(medians[1], rel=0.1)


def test_launch_gaps_count_in_eager_mode_only(device):
    """200 launches of a kernel of a microsecond cost the host more than the device."""
    small = torch.zeros(16, device=device.name)

    def chatty():
        for _ in range(200):
            small.add_(1)

    eager, graph = (measure(device.prepare(chatty, mode), METHODS[mode], device).interval.median for mode in METHODS)
    assert eager > 1.2 * graph


def test_cold_cache_is_slower_than_warm(device):
    """A copy within the L2 has to fetch its source again after a flush."""
    source = torch.ones(4 << 20, dtype=torch.uint8, device=device.name)
    target = torch.empty_like(source)
    run = device.prepare(lambda: target.copy_(source), "cuda_graph")
    cold, warm = (
        measure(run, Method("cuda_graph", 0.02, 20, 50, 0.0, 1.0, cold), device).interval.median
        for cold in (True, False)
    )
    assert cold > warm


def test_host_is_seldom_late(device):
    """Short graphs, one after the other: the flush hides the host, after the spin has grown where it must."""
    small = torch.zeros(16, device=device.name)
    run = device.prepare(lambda: small.add_(1), "cuda_graph")
    late = [measure(run, METHODS["cuda_graph"], device).conditions.get("late", 0) for _ in range(5)]
    assert late[-1] <= 5, late


def test_usage_is_what_the_device_did(device):
    device.usage()
    runs = 20
    with device.span(CHECK):
        for _ in range(runs):
            spin()
    for _ in range(runs):
        device.time_us(spin, "eager", cold_cache=True)
    usage = device.usage()
    low, high = (runs * us / 1e6 for us in BETWEEN_US)
    assert low < usage[CHECK] < high
    assert low < usage[CANDIDATE] < high
    assert 0 < usage["cold"] < usage[CANDIDATE]
    assert device.usage() == {}


def test_conditions_are_read(device):
    conditions = device.conditions()
    assert conditions["sm_mhz"] > 0
    assert 0 < conditions["temperature_c"] < 110
    assert conditions["power_w"] > 0
    assert isinstance(conditions["throttle_reasons"], int)


def test_power_cap_alone_is_no_reason_to_measure_again(device):
    assert not device.is_throttled({"throttle_reasons": 0x04})
    assert device.is_throttled({"throttle_reasons": 0x04 | 0x40})
    assert not device.is_throttled({})


def test_anchor_writes_to_its_own_memory_only(device):
    """Its tensors once went back to the pool while its graph still wrote to them, into workloads' inputs."""
    device.drift_reference_us()
    taken = [torch.zeros(32 << 20, dtype=torch.uint8, device=device.name) for _ in range(64)]
    device.drift_reference_us()
    assert not any(bool(memory.any()) for memory in taken)


def test_anchor_takes_the_same_time_again(device):
    device.drift_reference_us()
    first, second = device.drift_reference_us(), device.drift_reference_us()
    assert 100 < first < 5000
    assert second == pytest.approx(first, rel=0.1)


def test_graph_keeps_the_memory_that_it_writes_to(device):
    """Otherwise a replay writes into whatever got that memory next."""

    def make():
        target = torch.zeros(64 << 20, dtype=torch.uint8, device=device.name)
        return device.prepare(lambda: target.fill_(1), "cuda_graph")

    run = make()
    gc.collect()
    others = [torch.zeros(64 << 20, dtype=torch.uint8, device=device.name) for _ in range(4)]
    run()
    torch.cuda.synchronize()
    assert not any(bool(other.any()) for other in others)


def test_what_waits_cannot_be_captured_and_the_device_survives(device):
    tensor = torch.ones(4, device=device.name)
    for _ in range(2):
        with pytest.raises(CaptureError, match="cannot be captured in a CUDA graph") as raised:
            device.prepare(lambda: tensor.sum().item(), "cuda_graph")
        assert raised.value.is_undone
    assert device.is_healthy()
    assert float(torch.rand(1000, device=device.name).mean()) == pytest.approx(0.5, abs=0.1)
    assert measure(device.prepare(spin, "cuda_graph"), METHODS["cuda_graph"], device).samples_us


STICKY = """
import torch
from workers.devices.cuda import CudaDevice

device = CudaDevice()
assert device.is_healthy()
torch.zeros(4, device="cuda")[torch.tensor([1 << 40], device="cuda")]
print("healthy" if device.is_healthy() else "lost")
"""


def test_sticky_error_is_noticed():
    done = subprocess.run([sys.executable, "-c", STICKY], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "lost", done.stderr


def test_digests_and_error_figures_are_those_of_the_host(device):
    from workers.judge.outputs import check, memory
    from workers.judge.outputs.expected import plain

    generator = torch.Generator().manual_seed(1)
    data = torch.randint(-(2**62), 2**62, (5 * memory._DIGEST_ROW + 3,), generator=generator)
    for thorough in (True, False):
        on_gpu = memory.digest(data.to(device.name), thorough)
        assert torch.equal(on_gpu.cpu(), memory.digest(data, thorough))
    expected, noise = (torch.randn(300, 70, generator=generator) for _ in range(2))
    output = expected + 0.02 * noise
    here, there = (check.compare([output.to(where)], plain([expected.to(where)])) for where in ("cpu", device.name))
    assert (here.status, here.matched_ratio) == (there.status, there.matched_ratio)
    assert there.max_abs_error == pytest.approx(here.max_abs_error)
