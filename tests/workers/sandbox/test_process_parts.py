"""What of a process is watched, on every torch that the project allows."""

import pytest

from workers.sandbox.process_parts import cuda_parts


@pytest.mark.parametrize("missing", ["_accelerator_getAllocatorSettings", "_accelerator_setAllocatorSettings"])
def test_a_torch_without_a_private_function_is_watched_without_it(missing, monkeypatch):
    """No evaluator could start on an H200 with torch 2.11, whose allocator settings cannot be read."""
    import torch

    monkeypatch.delattr(torch._C, missing, raising=False)
    assert "allocator settings" not in cuda_parts()
    assert "CUDA device" in cuda_parts()
