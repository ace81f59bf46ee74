"""Compares variants inside the sandbox: samples are interleaved, on one workload after the other."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any

from workers.devices.device import Device, Run
from workers.errors import DeviceLostError
from workers.judge.outputs.check import Candidate, Verdict
from workers.judge.resident_workloads import Residents
from workers.judge.timing import timer
from workers.judge.timing.drift_reference import Anchor
from workers.judge.timing.interval import measured
from workers.judge.timing.timed_run import TimedRun
from workers.judge.verdicts import Verdicts, failed
from workers.judge.verified_run import VerifiedRun
from workers.records import ComparisonJob, Status
from workers.sandbox.messages import Phase, PhaseKind, Send
from workers.sandbox.process_state import Turns


class Comparison:
    """Compares loaded candidates on one device.

    Args:
        send: Sends events to the parent.
        device: The device they run on.
        definition: flashinfer-bench's definition.
        residents: Inputs and reference outputs.
        verdicts: Decides whether they are right.
        anchor: The drift reference.
        job: The job.
        turns: Open file with the key of the candidate whose turn it is.
        settings: The settings that each candidate has made in the process.
    """

    def __init__(
        self,
        send: Send,
        device: Device,
        definition: Any,
        residents: Residents,
        verdicts: Verdicts,
        anchor: Anchor,
        job: ComparisonJob,
        turns: int,
        settings: Turns,
    ) -> None:
        self._send = send
        self._device = device
        self._definition = definition
        self._residents = residents
        self._verdicts = verdicts
        self._anchor = anchor
        self._job = job
        self._turns = turns
        self._settings = settings

    def on(self, uuid: str, candidates: Mapping[str, Candidate], seed: int) -> None:
        """Compare on one workload. The measurement of each candidate is sent as ``(key, measurement)``.

        Raises:
            DeviceLostError: The device does not recover.
        """
        job = self._job
        self._send("phase", Phase(PhaseKind.PREPARE, uuid))
        resident = self._residents.get(uuid)
        runs: dict[str, TimedRun] = {}
        prepared: dict[str, Run] = {}
        verdicts: dict[str, Verdict] = {}
        for key, candidate in candidates.items():
            take_turn(self._turns, key)
            self._send("phase", Phase(PhaseKind.CHECK, uuid))
            with self._settings.first(key):
                verdicts[key] = (
                    Verdict(Status.DEGENERATE_REFERENCE, resident.degenerate)
                    if resident.degenerate
                    else self._verdicts.first_check(candidate, resident)
                )
                if verdicts[key].status is not Status.PASSED and not self._device.is_healthy():
                    # Now, while it is known whose turn it is: on a broken device all others would fail too.
                    raise DeviceLostError(verdicts[key].message)
                if verdicts[key].status is Status.PASSED:
                    runs[key] = TimedRun(candidate, self._definition, resident.inputs, self._device)
                    prepared[key] = self._device.prepare(runs[key], job.method.mode)
                    timer.warm_up(prepared[key], job.method, self._device)
                    self._device.synchronize()
        anchor = self._anchor.conditions()
        self._send("phase", Phase(PhaseKind.COMPARE, uuid))
        looks = {
            key: VerifiedRun(self._verdicts, run, prepared[key], resident, self._device, job.method)
            for key, run in runs.items()
        }
        try:
            samples, conditions = self._interleave(looks, prepared, seed)
            for key, look in looks.items():
                take_turn(self._turns, key)
                self._settings.take(key)
                look.at_the_end()
                timed = look.verdict()
                verdicts[key] = verdicts[key] if timed.status is Status.PASSED else timed
        finally:
            resident.others.undo()
        for key, verdict in verdicts.items():
            measurement = (
                measured(
                    uuid,
                    samples[key],
                    job.method,
                    {**conditions, **anchor, **resident.judged_by},
                    verdict.errors(),
                )
                if verdict.status is Status.PASSED
                else failed(resident, verdict, job.method)
            )
            self._send("event", (key, measurement))

    def _interleave(
        self, looks: Mapping[str, VerifiedRun], prepared: Mapping[str, Run], seed: int
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:
        """Samples of each variant, round after round, repeated if they were throttled; and the conditions."""
        rng, job = random.Random(seed), self._job
        device, retaken, load = self._device, 0, self._device.watch_load()
        while True:
            order = [key for _ in range(job.rounds) for key in rng.sample(list(looks), len(looks))]
            before = device.conditions()
            samples, late = self._rounds(order, looks, prepared)
            after = device.conditions()
            doubts = timer.why_doubtful(device, (before, after), ())
            if not doubts or retaken == device.retakes:
                return samples, timer.joined(before, after) | timer.flags(doubts, retaken, late) | dict(load())
            retaken += 1

    def _rounds(
        self, order: list[str], looks: Mapping[str, VerifiedRun], prepared: Mapping[str, Run]
    ) -> tuple[dict[str, list[float]], int]:
        """One sample for each entry of ``order``, and how many were repeated because the host was late.

        Poison and flush for the next sample are submitted while this one runs; no second candidate is ever in flight,
        so a fault belongs to the one whose turn it is.
        """
        method = self._job.method

        def get_ready(key: str) -> None:
            looks[key].before_sample()
            self._device.ready(method.mode, method.cold_cache)

        samples: dict[str, list[float]] = {key: [] for key in looks}
        late = 0
        for index, key in enumerate(order):
            if index == 0:
                get_ready(key)
            while True:
                take_turn(self._turns, key)
                self._settings.take(key)
                if looks[key].is_due():
                    looks[key].take()
                    get_ready(key)
                sample = self._device.submit(prepared[key], method.mode)
                if index + 1 < len(order):
                    get_ready(order[index + 1])
                us = sample.us()
                if not sample.late or late == len(order):
                    break
                late += 1
                get_ready(key)
            samples[key].append(us)
        return samples, late


def take_turn(turns: int, key: str) -> None:
    """Write the key of the candidate whose turn it is to a file."""
    os.pwrite(turns, f"{key}\n".encode().ljust(256), 0)
