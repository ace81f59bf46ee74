"""tuner: finds the fastest correct kernel for a flashinfer-bench definition on given hardware, and hands it out.

``import tuner`` is quick and loads no torch, ray or CUDA; each function loads what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.api import best_config, export_solution, sweep
    from tuner.client.client import Client

__all__ = ["Client", "best_config", "export_solution", "sweep"]

_HOMES = {
    "Client": "tuner.client.client",
    "sweep": "tuner.api",
    "best_config": "tuner.api",
    "export_solution": "tuner.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
