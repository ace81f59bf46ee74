"""Compares variants inside the sandbox: samples are interleaved, on one workload after the other."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from workers.devices.device import CaptureError, Device, Run
from workers.errors import DeviceLostError
from workers.judge.first_call import FirstCalls
from workers.judge.outputs.check import Candidate, Verdict
from workers.judge.resident_workloads import Resident, Residents
from workers.judge.timing import timer
from workers.judge.timing.drift_reference import DriftReference
from workers.judge.timing.interval import measured
from workers.judge.timing.timed_run import TimedRun
from workers.judge.verdicts import Verdicts, failed, failure
from workers.judge.verified_run import VerifiedRun
from workers.records import AUTO, ComparisonJob, Method, Status
from workers.sandbox.messages import Phase, PhaseKind, Send
from workers.sandbox.process_state import Turns

Entry = tuple[str, str]
"""A candidate's key, and a mode that it is timed in."""


class Comparer:
    """Compares loaded candidates on one device.

    Args:
        send: Sends events to the parent.
        device: The device they run on.
        definition: flashinfer-bench's definition.
        residents: Inputs and reference outputs.
        verdicts: Decides whether they are right.
        first_calls: Makes first calls that are neither checks nor samples.
        drift: The drift reference.
        job: The job.
        turns: Open file with the key of the candidate whose turn it is.
        settings: The settings that each candidate has made in the process.
        renew: Loads a candidate again.
        uncaptured: Key -> why the candidate cannot be captured in a graph, as far as that is known.
    """

    def __init__(
        self,
        send: Send,
        device: Device,
        definition: Any,
        residents: Residents,
        verdicts: Verdicts,
        first_calls: FirstCalls,
        drift: DriftReference,
        job: ComparisonJob,
        turns: int,
        settings: Turns,
        renew: Callable[[str], None],
        uncaptured: Mapping[str, str],
    ) -> None:
        self._send = send
        self._device = device
        self._definition = definition
        self._residents = residents
        self._verdicts = verdicts
        self._first_calls = first_calls
        self._compiled: dict[str, dict[str, Any]] = {}
        self._drift = drift
        self._job = job
        self._turns = turns
        self._settings = settings
        self._renew = renew
        self._uncaptured = dict(uncaptured)

    def on(self, uuid: str, candidates: Mapping[str, Candidate], seed: int) -> None:
        """Compare on one workload. The measurements of each candidate are sent as ``(key, measurement)``, one for each
        mode that it is timed in.

        Raises:
            DeviceLostError: The device does not recover.
            CaptureError: The candidate whose turn it is cannot be captured, and the process has to be replaced.
        """
        self._send("phase", Phase(PhaseKind.PREPARE, uuid))
        resident = self._residents.get(uuid)
        looks: dict[Entry, VerifiedRun] = {}
        prepared: dict[Entry, Run] = {}
        verdicts: dict[str, Verdict] = {}
        for key, candidate in candidates.items():
            take_turn(self._turns, key)
            with self._settings.first(key):
                verdicts[key] = self._check(key, candidate, resident)
                if verdicts[key].status is Status.PASSED:
                    verdicts[key], runs = self._runs(key, candidate, resident)
                    for mode, (run, ready) in runs.items():
                        prepared[key, mode] = ready
                        method = replace(self._job.method, mode=mode)
                        looks[key, mode] = VerifiedRun(self._verdicts, run, ready, resident, self._device, method)
                        timer.warm_up(ready, method, self._device)
                        self._device.synchronize()
        drift = self._drift.conditions()
        self._send("phase", Phase(PhaseKind.COMPARE, uuid))
        try:
            samples, conditions = self._interleave(looks, prepared, seed)
            for (key, _), look in looks.items():
                take_turn(self._turns, key)
                self._settings.take(key)
                look.at_the_end()
                timed = look.verdict()
                verdicts[key] = verdicts[key] if timed.status is Status.PASSED else timed
        finally:
            resident.others.undo()
        for key, verdict in verdicts.items():
            if verdict.status is not Status.PASSED:
                self._send("event", (key, failed(resident, verdict, self._method_of_failures())))
                continue
            own = dict(self._compiled.pop(key, {}))
            if key in self._uncaptured:
                own["uncaptured"] = self._uncaptured[key]
            for mode in (mode for timed_key, mode in looks if timed_key == key):
                measurement = measured(
                    uuid,
                    samples[key, mode],
                    replace(self._job.method, mode=mode),
                    {**conditions, **drift, **resident.judged_by, **own},
                    verdict.errors(),
                )
                self._send("event", (key, measurement))

    def _check(self, key: str, candidate: Candidate, resident: Resident) -> Verdict:
        """The verdict on a first call.

        Raises:
            DeviceLostError: The device does not recover from it.
        """
        if resident.degenerate:
            return Verdict(Status.DEGENERATE_REFERENCE, resident.degenerate)
        verdict = Verdict(Status.PASSED)
        if candidate.compiles_late:
            verdict, self._compiled[key] = self._first_calls.make(candidate, resident)
        if verdict.status is Status.PASSED:
            self._send("phase", Phase(PhaseKind.CHECK, resident.uuid))
            verdict = self._verdicts.first_check(candidate, resident)
        if verdict.status is not Status.PASSED and not self._device.is_healthy():
            # Now, while it is known whose turn it is: on a broken device all others would fail too.
            raise DeviceLostError(verdict.message)
        return verdict

    def _runs(
        self, key: str, candidate: Candidate, resident: Resident
    ) -> tuple[Verdict, dict[str, tuple[TimedRun, Run]]]:
        """What is timed of a candidate that passed its check, by mode.

        In mode ``auto`` that is all modes in which it works. After a failed capture it is loaded and checked again,
        since it may keep what the captured call was to make.
        """
        asked = self._job.method.mode
        graph = self._device.graph_mode if asked == AUTO else asked
        found = {}
        verdict = Verdict(Status.PASSED)
        if graph is not None and (asked != AUTO or key not in self._uncaptured):
            try:
                found[graph] = self._run(candidate, resident, graph)
            except CaptureError as error:
                if not error.is_undone:
                    raise
                if asked != AUTO:
                    told = failure(error)
                    return replace(told, message=told.message + CaptureError.CURE), {}
                self._uncaptured[key] = str(error)
                self._renew(key)
                verdict = self._check(key, candidate, resident)
        if asked == AUTO and verdict.status is Status.PASSED:
            plain = next(mode for mode in self._device.modes if mode != self._device.graph_mode)
            found[plain] = self._run(candidate, resident, plain)
        return verdict, found

    def _method_of_failures(self) -> Method:
        """Records are of one mode: of the device's first one where all were asked for."""
        method = self._job.method
        return replace(method, mode=self._device.modes[0]) if method.mode == AUTO else method

    def _run(self, candidate: Candidate, resident: Resident, mode: str) -> tuple[TimedRun, Run]:
        run = TimedRun(candidate, self._definition, resident.inputs, self._device)
        return run, self._device.prepare(run, mode)

    def _interleave(
        self, looks: Mapping[Entry, VerifiedRun], prepared: Mapping[Entry, Run], seed: int
    ) -> tuple[dict[Entry, list[float]], dict[str, Any]]:
        """Samples of each entry, round after round, repeated if they were throttled; and the conditions."""
        rng, job = random.Random(seed), self._job
        device, retaken, load = self._device, 0, self._device.watch_load()
        while True:
            order = [entry for _ in range(job.rounds) for entry in rng.sample(list(looks), len(looks))]
            before = device.conditions()
            samples, late = self._rounds(order, looks, prepared)
            after = device.conditions()
            doubts = timer.why_doubtful(device, (before, after), ())
            if not doubts or retaken == device.retakes:
                return samples, timer.joined(before, after) | timer.flags(doubts, retaken, late) | dict(load())
            retaken += 1

    def _rounds(
        self, order: list[Entry], looks: Mapping[Entry, VerifiedRun], prepared: Mapping[Entry, Run]
    ) -> tuple[dict[Entry, list[float]], int]:
        """One sample for each entry of ``order``, and how many were repeated because the host was late.

        Poison and flush for the next sample are submitted while this one runs; no second candidate is ever in flight,
        so a fault belongs to the one whose turn it is.
        """

        def get_ready(entry: Entry) -> None:
            looks[entry].before_sample()
            self._device.ready(entry[1], self._job.method.cold_cache)

        samples: dict[Entry, list[float]] = {entry: [] for entry in looks}
        late = 0
        for index, entry in enumerate(order):
            key, mode = entry
            if index == 0:
                get_ready(entry)
            while True:
                take_turn(self._turns, key)
                self._settings.take(key)
                if looks[entry].is_due():
                    looks[entry].take()
                    get_ready(entry)
                sample = self._device.submit(prepared[entry], mode)
                if index + 1 < len(order):
                    get_ready(order[index + 1])
                us = sample.us()
                if not sample.late or late == len(order):
                    break
                late += 1
                get_ready(entry)
            samples[entry].append(us)
        return samples, late


def take_turn(turns: int, key: str) -> None:
    """Write the key of the candidate whose turn it is to a file."""
    os.pwrite(turns, f"{key}\n".encode().ljust(256), 0)
