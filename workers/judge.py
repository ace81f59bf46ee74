"""The evaluator's side inside the killable process: loads variants, checks them, times them.

Phases reported to the parent: ``load KEY``, ``prepare UUID``, ``check UUID``, ``measure UUID``, ``compare UUID``.
"""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers import check, fib, loader, timer
from workers.check import Candidate, Verdict
from workers.child import Send, describe
from workers.dataset import Problem
from workers.device import Run, open_device
from workers.integrity import Integrity
from workers.interval import median_interval
from workers.records import ComparisonJob, EvaluationJob, Measurement, Method, Status
from workers.residents import Resident, Residents
from workers.timed import TimedRun


@dataclass(frozen=True)
class Judgement:
    """How a job ended in the process. ``replace`` asks the parent not to use this process again."""

    status: Status
    message: str = ""
    replace: bool = False


class Judge:
    """Judges variants on one device.

    Args:
        send: To the parent.
        problem: Definition and workloads.
        target: ``cpu`` or a GPU's.
        store: Folder for reference outputs.
    """

    def __init__(self, send: Send, problem: Problem, target: str, store: str) -> None:
        self._send = send
        self._problem = problem
        self._device = open_device(target)
        self._definition = fib.definition_model(problem.definition)
        self._rule = fib.tolerance(problem.definition)
        self._residents = Residents(problem, self._device, Path(store), self._device.memory_budget_bytes())
        self._integrity = Integrity()

    def prepare(self, uuid: str) -> str | None:
        """Make a workload resident and store its reference outputs; why it is degenerate, if so."""
        return self._residents.get(uuid).degenerate

    def judge(self, job: EvaluationJob, folder: str, package: str) -> Judgement:
        """Check and time a variant; each Measurement is sent as an event, the failing one last."""
        import torch

        self._send("phase", f"load {job.variant.key}")
        try:
            loaded = loader.load(job.variant, self._problem.definition, Path(folder), package)
        except BaseException as error:
            return self._spoiled(Status.RUNTIME_ERROR, f"loading failed: {_say(error)}")
        try:
            with torch.no_grad():
                candidate = Candidate(loaded.function, job.variant.destination_passing)
                for uuid in job.workloads:
                    measurement = self._one(candidate, uuid, job)
                    self._send("event", measurement)
                    if measurement.status is not Status.PASSED:
                        return self._spoiled(measurement.status, measurement.message)
                    limit = job.stop_above_us.get(uuid)
                    if limit is not None and measurement.median_us is not None and measurement.median_us > limit:
                        return Judgement(
                            Status.RACED_OUT, f"{measurement.median_us:.1f} us on {uuid}, limit {limit:.1f}"
                        )
            return Judgement(Status.PASSED)
        finally:
            loaded.unload()

    def _one(self, candidate: Candidate, uuid: str, job: EvaluationJob) -> Measurement:
        """One workload: prepare, check, measure, look at what the timed runs left."""
        self._send("phase", f"prepare {uuid}")
        resident = self._residents.get(uuid)
        if resident.degenerate:
            return Measurement(uuid, Status.DEGENERATE_REFERENCE, message=resident.degenerate, method=job.method)
        verdict = Verdict(Status.PASSED)
        if job.check:
            self._send("phase", f"check {uuid}")
            verdict = self._check(candidate, resident)
            if verdict.status is not Status.PASSED:
                return _failed(uuid, verdict, job.method)
        self._send("phase", f"measure {uuid}")
        try:
            run = TimedRun(candidate, self._definition, resident.inputs, self._device)
            timing = timer.measure(run, job.method, self._device, job.stop_above_us.get(uuid), run.poison)
            after = self._check_timed(run, resident)
        except BaseException as error:
            after = Verdict(Status.RUNTIME_ERROR, f"while measured: {_say(error)}")
        if after.status is not Status.PASSED:
            return _failed(uuid, after, job.method)
        return Measurement(
            uuid,
            Status.PASSED,
            timing.samples_us,
            timing.interval.median,
            timing.interval.low,
            timing.interval.high,
            verdict.max_abs_error if job.check else after.max_abs_error,
            verdict.max_rel_error if job.check else after.max_rel_error,
            verdict.matched_ratio if job.check else after.matched_ratio,
            timing.conditions,
            method=job.method,
        )

    def _check(self, candidate: Candidate, resident: Resident) -> Verdict:
        """Right on poisoned outputs, inputs untouched. The run that has to be right again is the last timed one."""
        try:
            outputs = check.run_once(candidate, self._definition, resident.inputs, self._device)
            verdict = check.compare(outputs, resident.expected, self._rule)
        except BaseException as error:
            verdict = Verdict(Status.RUNTIME_ERROR, _say(error))
        # Digests cannot be read on a device that is gone, and the verdict then says why.
        return self._with_inputs(verdict, resident) if self._device.is_healthy() else verdict

    def _check_timed(self, run: TimedRun, resident: Resident) -> Verdict:
        """The last timed run, on outputs poisoned just before it, was right; inputs and evaluator are untouched."""
        part = self._integrity.replaced()
        if part is not None:
            return Verdict(Status.RUNTIME_ERROR, f"the candidate replaced {part} in the evaluator's process")
        verdict = self._with_inputs(check.compare(run.outputs(), resident.expected, self._rule), resident)
        return verdict if verdict.status is Status.PASSED else _not_repeatable("the last timed run", verdict)

    def _with_inputs(self, verdict: Verdict, resident: Resident) -> Verdict:
        """The verdict, unless the inputs are not what they were."""
        if check.same_digests([check.digest(v) for v in resident.inputs], resident.digests):
            return verdict
        self._residents.drop(resident.uuid)
        return Verdict(Status.INPUTS_MODIFIED, "the candidate wrote to its inputs")

    def _spoiled(self, status: Status, message: str) -> Judgement:
        """The job's end after a failure: is this process still good?"""
        if not self._device.is_healthy():
            return Judgement(Status.CRASHED, f"the device does not recover: {message}", replace=True)
        return Judgement(status, message, replace=self._integrity.replaced() is not None)

    def compare(self, job: ComparisonJob, folders: Mapping[str, tuple[str, str]], turn_file: str) -> None:
        """Interleave the variants' samples; one Measurement for each variant and workload is sent as ``(key, m)``.

        The key of the variant whose turn it is stands in ``turn_file``, so that the parent knows whom to blame: a
        message for each sample would wake the parent while a candidate is being timed.
        """
        import torch

        turns = os.open(turn_file, os.O_WRONLY)
        loaded: dict[str, loader.Loaded] = {}
        try:
            candidates: dict[str, Candidate] = {}
            for variant, _ in job.variants:
                _take_turn(turns, variant.key)
                self._send("phase", f"load {variant.key}")
                folder, package = folders[variant.key]
                loaded[variant.key] = loader.load(variant, self._problem.definition, Path(folder), package)
                candidates[variant.key] = Candidate(loaded[variant.key].function, variant.destination_passing)
            with torch.no_grad():
                for index, uuid in enumerate(job.workloads):
                    self._compare_on(uuid, job, candidates, turns, job.seed + index)
        finally:
            os.close(turns)
            for item in loaded.values():
                item.unload()

    def _compare_on(
        self, uuid: str, job: ComparisonJob, candidates: dict[str, Candidate], turns: int, seed: int
    ) -> None:
        self._send("phase", f"prepare {uuid}")
        resident = self._residents.get(uuid)
        runs: dict[str, TimedRun] = {}
        prepared: dict[str, Run] = {}
        verdicts: dict[str, Verdict] = {}
        for key, candidate in candidates.items():
            _take_turn(turns, key)
            self._send("phase", f"check {uuid}")
            verdicts[key] = (
                Verdict(Status.DEGENERATE_REFERENCE, resident.degenerate)
                if resident.degenerate
                else self._check(candidate, resident)
            )
            if verdicts[key].status is Status.PASSED:
                runs[key] = TimedRun(candidate, self._definition, resident.inputs, self._device)
                prepared[key] = self._device.prepare(runs[key], job.method.mode)
                timer.warm_up(prepared[key], job.method, self._device)
        self._send("phase", f"compare {uuid}")
        samples: dict[str, list[float]] = {key: [] for key in runs}
        rng = random.Random(seed)
        conditions = self._device.conditions()
        for _ in range(job.rounds):
            for key in rng.sample(list(runs), len(runs)):
                _take_turn(turns, key)
                runs[key].poison()
                samples[key].append(self._device.time_us(prepared[key], job.method.cold_cache))
        for key, run in runs.items():
            _take_turn(turns, key)
            timed = self._check_timed(run, resident)
            verdicts[key] = verdicts[key] if timed.status is Status.PASSED else timed
        for key, verdict in verdicts.items():
            measurement = (
                _measured(uuid, verdict, samples[key], conditions, job.method)
                if verdict.status is Status.PASSED
                else _failed(uuid, verdict, job.method)
            )
            self._send("event", (key, measurement))


def _measured(
    uuid: str, verdict: Verdict, samples: list[float], conditions: Mapping[str, Any], method: Method
) -> Measurement:
    interval = median_interval(samples)
    return Measurement(
        uuid,
        Status.PASSED,
        tuple(samples),
        interval.median,
        interval.low,
        interval.high,
        verdict.max_abs_error,
        verdict.max_rel_error,
        verdict.matched_ratio,
        conditions,
        method=method,
    )


def _failed(uuid: str, verdict: Verdict, method: Method) -> Measurement:
    return Measurement(
        uuid,
        verdict.status,
        max_abs_error=verdict.max_abs_error,
        max_rel_error=verdict.max_rel_error,
        matched_ratio=verdict.matched_ratio,
        message=verdict.message,
        method=method,
    )


def _not_repeatable(which: str, verdict: Verdict) -> Verdict:
    if verdict.status in (Status.RUNTIME_ERROR, Status.INPUTS_MODIFIED):
        return verdict
    message = f"right the first time; {which} gave {verdict.status.value}: {verdict.message}"
    return Verdict(Status.NOT_REPEATABLE, message, verdict.max_abs_error, verdict.max_rel_error, verdict.matched_ratio)


def _take_turn(turns: int, key: str) -> None:
    os.pwrite(turns, f"{key}\n".encode().ljust(256), 0)


def _say(error: BaseException) -> str:
    """The candidate's exception in a line, its traceback into the log."""
    traceback.print_exc()
    return describe(error)
