"""Makes flashinfer-bench importable where processes cannot share a lock."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from typing import Any


def importable() -> None:
    """Import flashinfer-bench, to be called before anything is taken from it.

    It makes a lock between processes when it is imported, which takes a page of ``/dev/shm``: there may be none. The
    lock is for its own benchmark; here, one process at a time has a device, so one between threads does.
    """
    if "flashinfer_bench" in sys.modules:
        return
    try:
        import flashinfer_bench
    except OSError:
        shared: Any = multiprocessing
        before = shared.Lock
        shared.Lock = threading.Lock
        try:
            import flashinfer_bench  # noqa: F401
        finally:
            shared.Lock = before
