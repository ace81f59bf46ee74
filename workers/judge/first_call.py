"""First calls of candidates whose kernels are compiled when they are launched: neither a check nor a sample."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workers.devices.device import Device
from workers.judge.outputs import check
from workers.judge.outputs.check import Candidate, Verdict
from workers.judge.resident_workloads import Resident
from workers.judge.verdicts import Verdicts, failure
from workers.records import Status
from workers.sandbox.messages import Phase, PhaseKind, Send


@dataclass
class Watch:
    """What Triton does in this process. Made before the first candidate that uses it is loaded.

    Attributes:
        compiled: Names of the kernels that were compiled here, since no builder had or for another version of Triton.
        compile_s: Seconds of that.
        autotune_s: Seconds that candidates spent in their own autotuners, compiling in them included.
    """

    compiled: list[str] = field(default_factory=list)
    compile_s: float = 0.0
    autotune_s: float = 0.0

    def __post_init__(self) -> None:
        from triton import knobs
        from triton.runtime.autotuner import Autotuner

        knobs.compilation.listener = self._on_kernel
        bench: Callable[..., Any] = Autotuner._bench

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return bench(*args, **kwargs)
            finally:
                self.autotune_s += time.perf_counter() - began

        Autotuner._bench = timed

    def _on_kernel(self, *, src: Any, times: Any, cache_hit: bool, **_: Any) -> None:
        if not cache_hit:
            self.compiled.append(str(src.name))
            self.compile_s += times.total / 1e6

    def told(self) -> dict[str, Any]:
        """For a measurement's conditions, what was done since the last time; empty if that is nothing."""
        found: dict[str, Any] = {}
        if self.compiled:
            found |= {"compiled_kernels": len(self.compiled), "compile_s": round(self.compile_s, 3)}
        if self.autotune_s:
            found["autotune_s"] = round(self.autotune_s, 3)
        self.compiled, self.compile_s, self.autotune_s = [], 0.0, 0.0
        return found


class FirstCalls:
    """Makes them on one device.

    Args:
        send: Sends events to the parent.
        device: The device.
        definition: flashinfer-bench's definition.
        verdicts: Makes room where memory runs out.
    """

    def __init__(self, send: Send, device: Device, definition: Any, verdicts: Verdicts) -> None:
        self._send = send
        self._device = device
        self._definition = definition
        self._verdicts = verdicts
        self._watch: Watch | None = None

    def prepare(self) -> None:
        """To be called before a module with such kernels is imported."""
        if self._watch is None and importlib.util.find_spec("triton") is not None:
            self._watch = Watch()

    def make(self, candidate: Candidate, resident: Resident) -> tuple[Verdict, dict[str, Any]]:
        """Call the candidate on a workload, so that its kernels are compiled and its own autotuner has chosen.

        It has the deadline of a build, and what it computes is not looked at.

        Returns:
            A verdict that it passed, or raised; and what it did, for the measurement's conditions.
        """
        self._send("phase", Phase(PhaseKind.COMPILE, resident.uuid))

        def call() -> None:
            check.run_once(candidate, self._definition, resident.inputs, self._device)
            self._device.synchronize()

        if self._watch is not None:
            self._watch.told()  # what one before has compiled, whose call failed or was another one
        began = time.perf_counter()
        try:
            self._verdicts.with_room(resident.uuid, call)
        except BaseException as error:
            return failure(error), {}
        told = self._watch.told() if self._watch is not None else {}
        if told:
            told["first_call_s"] = round(time.perf_counter() - began, 3)
        return Verdict(Status.PASSED), told
