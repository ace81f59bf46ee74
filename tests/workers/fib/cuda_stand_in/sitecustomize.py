"""Lets stock flashinfer-bench run without CUDA: one "device" that is the CPU, and events that read the clock.

Python imports this in every process that has the folder on PYTHONPATH. Everything else is flashinfer-bench as it is.
"""

import importlib.abc
import importlib.util
import sys
import time


class _Event:
    def __init__(self, enable_timing=False):
        self.at = 0.0

    def record(self, *_):
        self.at = time.perf_counter()

    def elapsed_time(self, end):
        return (end.at - self.at) * 1e3


def _nothing(*_, **__):
    return None


def _torch(module):
    for name in ("set_device", "synchronize", "empty_cache"):
        setattr(module.cuda, name, _nothing)
    module.cuda.Event = _Event


def _utils(module):
    module.list_cuda_devices = lambda: ["cpu:0"]


_PATCHES = {"torch": _torch, "flashinfer_bench.utils": _utils}


class _Patcher(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name not in _PATCHES or name in sys.modules:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        inner, patch = spec.loader.exec_module, _PATCHES[name]

        def exec_module(module):
            inner(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Patcher())
