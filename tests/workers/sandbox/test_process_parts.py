"""What of a process is watched, on every torch that the project allows, and what is said of it."""

import sys
from types import ModuleType

import pytest

from workers.sandbox.process_parts import cuda_parts
from workers.sandbox.process_state import ProcessState


@pytest.mark.parametrize("missing", ["_accelerator_getAllocatorSettings", "_accelerator_setAllocatorSettings"])
def test_a_torch_without_a_private_function_is_watched_without_it(missing, monkeypatch):
    """No evaluator could start on an H200 with torch 2.11, whose allocator settings cannot be read."""
    import torch

    monkeypatch.delattr(torch._C, missing, raising=False)
    assert "allocator settings" not in cuda_parts()
    assert "CUDA device" in cuda_parts()


@pytest.mark.parametrize(("put", "taken"), [(ModuleType("another"), None), (None, "json.decoder")])
def test_a_module_that_could_not_be_imported_before_was_taken_by_nobody(put, taken, monkeypatch):
    """One that a candidate replaced, as libraries do, was reported by the name of another that had been None before."""
    monkeypatch.setitem(sys.modules, "blocked_by_somebody", None)
    before = sys.modules["json.decoder"]
    state = ProcessState(cuda=False)
    monkeypatch.setitem(sys.modules, "json.decoder", put)
    assert state.put_back_names() == taken
    assert sys.modules["json.decoder"] is before
