"""Other values in inputs: which they are, that all is undone, and that a nudge changes no amount of work."""

import json
import random

import pytest

from workers.devices.cpu import HostDevice
from workers.fib.dataset import Dataset
from workers.judge.other_values import OtherValues, choose
from workers.judge.references import ReferenceStore
from workers.judge.resident_workloads import Residents

torch = pytest.importorskip("torch")

FORMATS = ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")


def values(dtype, *shape):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator).abs().add(1e-3).to(getattr(torch, dtype))


def numbers(value):
    return value.to(torch.float64).flatten()


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", [(40, 64), (3, 7), (2,)])
def test_blocks_come_from_the_same_tensor_and_go_back(dtype, shape):
    """Also where a block is no multiple of eight bytes."""
    x = values(dtype, *shape)
    before = x.clone()
    found = {v.item() for v in numbers(x)}
    others = OtherValues([x], choose([x], 1.0, random.Random(1)))
    for _ in range(2):
        with others.altered():
            assert {v.item() for v in numbers(x)} <= found
            changed = (numbers(x) != numbers(before)).sum()
            assert changed > 0 if len(found) > 1 else changed == 0
        assert torch.equal(x.view(torch.uint8), before.view(torch.uint8))


@pytest.mark.parametrize("dtype", FORMATS)
def test_no_two_samples_see_the_same_inputs(dtype):
    x = values(dtype, 40, 64)
    before = x.clone()
    others = OtherValues([x, torch.arange(4)], None)
    seen, sums = set(), set()
    for _ in range(60):
        others.nudge()
        assert torch.isfinite(numbers(x)).all()
        sums.add(numbers(x).sum().item())
        seen.add(bytes(x.view(torch.uint8).flatten().tolist()))
    assert len(seen) == 60
    # A sum of all numbers tells them apart as well, the better the more bits a number has.
    assert len(sums) >= {1: 8, 2: 16, 4: 60, 8: 60}[x.element_size()]
    assert bytes(before.view(torch.uint8).flatten().tolist()) not in seen
    others.undo()
    assert torch.equal(x.view(torch.uint8), before.view(torch.uint8))
    others.nudge()
    assert not torch.equal(x.view(torch.uint8), before.view(torch.uint8)), "after an undo they go on"


@pytest.mark.parametrize("dtype", FORMATS)
def test_what_a_candidate_writes_under_a_nudge_is_still_there_when_all_is_undone(dtype):
    """It was repaired with the old value, and who writes to its inputs passed, once in some runs."""
    x = values(dtype, 40, 64)
    data = x.view(torch.uint8).view(-1)
    before = data.clone()
    others = OtherValues([x], None)
    for _ in range(8):
        others.nudge()
    nudged = int((data != before).nonzero()[0])
    data[nudged] += 1
    for _ in range(8):
        others.nudge()
    others.undo()
    before[nudged] += 1
    assert torch.equal(data, before)


def test_a_nudge_changes_no_amount_of_work():
    """Expert choice by large logits: with other experts the kernel takes another time, sample by sample."""
    logits = torch.randn(14, 256, generator=torch.Generator().manual_seed(0))
    chosen = logits.topk(8).indices.sort().values
    others = OtherValues([logits], None)
    for _ in range(60):
        others.nudge()
        assert torch.equal(logits.topk(8).indices.sort().values, chosen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_nor_does_a_nudge_of_a_bias_that_decides_alone(dtype):
    """Catches another mantissa for a piece of one number, which is its own smaller half: a routing bias became nearly
    twice as large, ten experts had rows where there were twelve, and a GPU was timed above its memory's rate."""
    bias = torch.full((256,), 0.29, dtype=dtype)
    bias[:8] = 0.30
    others = OtherValues([bias], None)
    for _ in range(60):
        others.nudge()
        assert set(bias.topk(8).indices.tolist()) == set(range(8))


def test_equal_numbers_are_told_apart_too():
    x = torch.ones(64)
    others = OtherValues([x], None)
    assert len({(others.nudge(), x.numpy().tobytes())[1] for _ in range(60)}) == 60


@pytest.mark.parametrize("x", [torch.zeros(8), torch.full((8,), torch.inf), torch.full((8,), torch.nan)], ids=str)
def test_what_has_no_small_number_is_left_alone(x):
    before = x.clone()
    others = OtherValues([x], None)
    others.nudge()
    others.undo()
    assert torch.equal(x.nan_to_num(7.0), before.nan_to_num(7.0))


def test_largest_numbers_of_a_format_stay_numbers():
    """The next code of e4m3's largest is NaN."""
    x = torch.full((64,), 480.0).to(torch.float8_e4m3fn).view(torch.uint8).fill_(0x7B).view(torch.float8_e4m3fn)
    others = OtherValues([x], None)
    for _ in range(5):
        others.nudge()
        assert torch.isfinite(x.to(torch.float32)).all()


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "bool"])
def test_whole_numbers_are_replaced_where_all_of_them_were_drawn_at_random(dtype, tmp_path):
    """A kernel of whole numbers that remembers its first answer was believed. Numbers from a file stay as they are:
    they may be offsets, and in another order lead out of memory."""
    from safetensors.torch import save_file

    for part in ("definitions", "workloads"):
        (tmp_path / part / "toy").mkdir(parents=True)
    row = {"shape": ["n"], "dtype": dtype}
    document = {
        "name": "whole", "op_type": "toy", "axes": {"n": {"type": "var"}}, "inputs": {"x": row}, "outputs": {"y": row},
        "reference": "def run(x):\n    return ~x\n",
    }  # fmt: skip
    (tmp_path / "definitions/toy/whole.json").write_text(json.dumps(document))
    x = torch.arange(300) % 7 > 2 if dtype == "bool" else torch.arange(300).to(getattr(torch, dtype))
    save_file({"x": x}, tmp_path / "x.safetensors")
    given = {
        "drawn": {"type": "random"},
        "from a file": {"type": "safetensors", "path": "x.safetensors", "tensor_key": "x"},
    }
    lines = [
        json.dumps({"definition": "whole", "workload": {"uuid": uuid, "axes": {"n": 300}, "inputs": {"x": spec}}})
        for uuid, spec in given.items()
    ]
    (tmp_path / "workloads/toy/whole.jsonl").write_text("\n".join(lines))
    problem = Dataset(tmp_path).problem("whole")
    device = HostDevice()
    residents = Residents(problem, device, ReferenceStore(tmp_path / "store", problem, device.model), 1 << 30)
    drawn = residents.get("drawn", may_compute=True)
    before = drawn.inputs[0].clone()
    with drawn.others.altered():
        assert not torch.equal(drawn.inputs[0], before)
        assert torch.equal(drawn.other_truths[0].value, ~drawn.inputs[0])
    assert torch.equal(drawn.inputs[0], before)
    assert residents.get("from a file", may_compute=True).others.alteration is None
