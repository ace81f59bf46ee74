"""The evaluator's side inside the sandbox: loads variants, checks them, times them."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from search_spaces.targets import is_cuda
from workers.build import loader
from workers.build.triton_jit import kernel_cache
from workers.devices.device import CaptureError, Device
from workers.errors import DatasetError, DeviceLostError, ProcessChangedError, TamperedError
from workers.fib import adapter as fib
from workers.fib.dataset import Problem
from workers.judge.comparison import Comparer, take_turn
from workers.judge.first_call import FirstCalls
from workers.judge.judgement import Judgement, Staged, blamed, is_reference, refuse_spoiler, with_part
from workers.judge.outputs import check, memory
from workers.judge.outputs.check import Candidate, Verdict
from workers.judge.outputs.expected import plain
from workers.judge.references import ReferenceStore
from workers.judge.resident_workloads import Inspection, Resident, Residents, prepared
from workers.judge.timing import timer
from workers.judge.timing.drift_reference import DriftReference
from workers.judge.timing.interval import measured
from workers.judge.timing.timed_run import TimedRun
from workers.judge.verdicts import AheadError, Verdicts, failed, failure, tampered
from workers.judge.verified_run import VerifiedRun
from workers.records import ComparisonJob, EvaluationJob, Measurement, Prepared, Status
from workers.sandbox.child import raised
from workers.sandbox.messages import Phase, PhaseKind, Send
from workers.sandbox.process_state import ProcessState, Turns, changed


class Judge:
    """Judges variants on one device.

    Args:
        send: Sends events to the parent.
        problem: Definition and workloads.
        target: ``cpu`` or the target of a GPU.
        store: Folder for reference outputs.
    """

    def __init__(self, send: Send, problem: Problem, target: str, store: str) -> None:
        import torch

        self._send = send
        self._problem = problem
        self._device = _open_device(target)
        self._definition = fib.definition_model(problem.definition)
        self._reference = fib.reference_variant(problem.definition, target)
        references = ReferenceStore(Path(store), problem, self._device.model)
        self._residents = Residents(problem, self._device, references, self._device.memory_budget_bytes())
        self._drift = DriftReference(self._device)
        self._loaded: loader.Loaded | None = None
        self._ahead: tuple[str, loader.Loaded] | None = None
        self._compared: dict[str, loader.Loaded] = {}
        self._usage: Counter[str] = Counter()
        self._uncaptured: CaptureError | None = None
        self._inspection: Inspection | None = None
        torch.set_grad_enabled(False)
        self._state = ProcessState(cuda=is_cuda(target))
        self._verdicts = Verdicts(self._device, self._definition, self._residents, self._state)
        self._first_calls = FirstCalls(send, self._device, self._definition, self._verdicts)
        # Exempt what is loaded now from garbage collection: collecting after a variant must not scan all of torch.
        gc.collect()
        gc.freeze()

    def start(self) -> None:
        """Make the first calls of our own kernels, so that no candidate waits for them. An answer means that the
        process and its device work."""
        import torch

        some = torch.ones(64, 1024, device=self._device.name)
        check.compare([some], plain([some]))
        memory.all_true(memory.Seal([some]).holds([some]))
        memory.poison([some], 0)
        self._drift.conditions()
        self._device.usage()

    def rates(self) -> Mapping[str, float]:
        """What the device does, see :meth:`workers.devices.device.Device.rates`."""
        return self._device.rates()

    def prepare(self, uuid: str) -> Prepared:
        """Make a workload resident and store what was observed of its reference."""
        self._state.put_back_names()  # the first call of the next variant may have taken some
        self._verdicts.made_in_turn |= self._ahead is not None
        found = prepared(self._residents.get(uuid, may_compute=True))
        try:
            found = replace(found, figures=self._residents.figures(uuid))
        except DatasetError as error:
            found = replace(found, notes=(*found.notes, str(error)))
        self._device.usage()
        return found

    def judge(self, job: EvaluationJob, staged: Staged, ahead: Staged | None = None) -> Judgement:
        """Check and time a variant; each Measurement is sent as an event, the failing one last.

        Args:
            job: The job.
            staged: The job's variant.
            ahead: The variant of the next job. It is loaded while the device warms up for the last measurement. If it
                names a first workload it is called once, after the last measurement, while memory is inspected.
        """
        replaced = self._verdicts.replaced  # held here, where no candidate puts another one in its place
        inspected = False
        self._usage.clear()
        self._uncaptured = self._inspection = None
        if ahead is not None and ahead.package == staged.package:
            ahead = None  # the same variant for another regime: a module cannot be loaded twice
        self._send("phase", Phase(PhaseKind.LOAD, job.variant.key))
        self._unload_compared()
        if self._ahead is None:
            # Libraries of variants, as above; not while one is held, since what it allocated would stay for good.
            gc.collect()
            if self._verdicts.made_in_turn:  # and variants with what was made
                gc.unfreeze()
                gc.collect()
                self._verdicts.made_in_turn = False
            gc.freeze()
            if not self._state.threads_left():
                self._verdicts.count_threads()
        try:
            self._loaded = self._load(staged)
            candidate = Candidate(self._loaded.function, job.variant.destination_passing, self._loaded.was_called)
            candidate.is_reference = is_reference(staged, self._reference)
            candidate.compiles_late = self._loaded.compiles_late
            self._verdicts.load_again = lambda: self._renew(candidate, staged)
            self._begin_turn(self._loaded)
            judgement = self._judge(job, candidate, ahead)
            if judgement.status.is_failure:  # otherwise the last verdict was given after a look
                judgement = blamed(judgement, replaced())
            if not judgement.replace:
                judgement, inspected = self._inspect(judgement, job, ahead), True
        except (ProcessChangedError, TamperedError, loader.LoadError) as error:
            judgement = blamed(self._spoiled(error.status, str(error)), replaced())
        except Exception as error:
            part = self._taken(replaced)
            if part is None or isinstance(error, DeviceLostError):
                raise
            judgement = blamed(Judgement(Status.TAMPERED, str(raised(error))), part)
        finally:
            self._verdicts.forget()
            if self._loaded is not None:
                self._loaded.unload()
                self._loaded = None
        judgement = self._put_back(judgement, self._state.names if inspected else ())
        if not judgement.replace:
            self._device.tidy()
        return replace(judgement, usage=dict(self._usage), uncaptured=str(self._uncaptured or ""))

    def _judge(self, job: EvaluationJob, candidate: Candidate, ahead: Staged | None) -> Judgement:
        """Judge the workloads one after the other, until a failure or a lost race."""
        for uuid, following in zip(job.workloads, (*job.workloads[1:], None), strict=True):
            measurement = self._one(candidate, uuid, job, following, ahead)
            if measurement.status is not Status.PASSED:
                judgement = self._spoiled(measurement.status, measurement.message)
                self._send("event", replace(measurement, status=judgement.status, message=judgement.message))
                return judgement
            self._send("event", measurement)
            limit = job.stop_above_us.get(uuid)
            if limit is not None and measurement.median_us is not None and measurement.median_us > limit:
                return Judgement(Status.RACED_OUT, f"{measurement.median_us:.1f} us on {uuid}, limit {limit:.1f}")
        return Judgement(Status.PASSED)

    def _load(self, staged: Staged) -> loader.Loaded:
        """The variant, loaded ahead or now.

        Raises:
            LoadError: It cannot be loaded.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if ahead[0] == staged.package:
                return ahead[1]
            # What its first call did is not inspected, and the names that it took are not given back.
            self._residents.keep_only("")
            self._state.put_back_names()
            ahead[1].unload()
        compiles_late = kernel_cache.offer(Path(staged.folder) / staged.package)
        if compiles_late:
            self._first_calls.prepare()
        replaced = self._verdicts.replaced
        present = self._state.own()
        self._state.reseed()
        try:
            loaded = loader.load(staged.variant, self._problem.definition, Path(staged.folder), staged.package)
            if loaded.preload is not None:
                loaded.preload()
        except BaseException as error:
            part = self._taken(replaced)
            verdict = failure(error, "loading failed: ")
            status = verdict.status if part is None else Status.TAMPERED
            raise loader.LoadError(with_part(verdict.message, part), status) from error
        else:
            # Names come back at once: others are loaded, and have their turns, before this one's are over.
            loaded.tampered = replaced()
            self._state.put_back_names()
            loaded.settings = self._state.own()
        finally:
            stuck = self._state.give_turn(present)
        loaded.stuck, loaded.compiles_late = tuple(stuck), compiles_late
        return loaded

    def _begin_turn(self, loaded: loader.Loaded) -> None:
        """Give the process the settings that this variant made when it was loaded.

        Raises:
            ProcessChangedError: It made a change that cannot be undone.
            TamperedError: It replaced a part of the evaluator.
        """
        refuse_spoiler(loaded)
        if stuck := self._state.give_turn(loaded.settings or {}):
            raise ProcessChangedError(changed(stuck))

    def _put_back(self, judgement: Judgement, done: Collection[str]) -> Judgement:
        """End the turn: restore the process's settings, or have it replaced. Some of it may be done."""
        stuck = self._state.put_back(but=done)
        self._state.put_back_imports([self._ahead[1].path] if self._ahead and self._ahead[1].path else [])
        if stuck and not judgement.status.is_failure:
            return replace(judgement, status=Status.PROCESS_CHANGED, message=changed(stuck), replace=True)
        if stuck or self._state.threads_left():
            return replace(judgement, replace=True)
        return judgement

    def _taken(self, replaced: Callable[[], str | None]) -> str | None:
        """After an exception: what the candidate replaced of the evaluator or of what that is written with; names are
        given back. Where the next variant is loaded already, it may be that one's doing."""
        part, name = replaced(), self._state.put_back_names()
        return part or (name if self._ahead is None else None)

    def _renew(self, candidate: Candidate, staged: Staged) -> None:
        """Load the present variant again, without what it kept from earlier workloads."""
        assert self._loaded is not None
        self._loaded.unload()
        self._loaded = self._load(staged)
        self._begin_turn(self._loaded)
        candidate.function, candidate.was_called = self._loaded.function, False

    def _inspect(self, judgement: Judgement, job: EvaluationJob, ahead: Staged | None) -> Judgement:
        """At the end of the job, check that all memory is unchanged; load the next variant meanwhile."""
        found = (not judgement.status.is_failure and self._inspection) or self._residents.begin_inspection()
        if ahead is not None:
            self._load_ahead(ahead, then=Phase(PhaseKind.LOAD, ahead.variant.key))
        self._state.put_back_names()  # here, while the device works: it takes a millisecond
        if ahead is not None and self._ahead is not None:
            self._call_first(ahead, self._ahead[1])
        self._send("phase", Phase(PhaseKind.INSPECT, job.variant.key))
        if not memory.all_true([part for parts in found.values() for part in parts]):
            where = ", ".join(uuid for uuid, parts in found.items() if not memory.all_true(parts))
            message = f"the candidate wrote into the memory of workload {where}"
            status = judgement.status if judgement.status.is_failure else Status.INPUTS_MODIFIED
            judgement = Judgement(status, f"{judgement.message}\n{message}".strip(), replace=True)
        self._usage.update(self._device.usage())
        return judgement

    def _load_ahead(self, staged: Staged, then: Phase) -> None:
        """Load the next variant unless that was done; ``then`` is the phase that continues.

        Raises:
            DeviceLostError: It has damaged this process or its device; or the present variant has, which will be found
                when that is judged again without the next one.
        """
        self._send("phase", Phase(PhaseKind.LOAD, staged.variant.key))
        if self._ahead is None or self._ahead[0] != staged.package:
            is_spoiled = False
            try:
                loaded = self._load(staged)
                is_spoiled = bool(loaded.stuck or loaded.tampered)
                self._ahead = (staged.package, loaded)
            except loader.LoadError as error:
                # It will fail again when its turn comes, and that counts as its fault then.
                is_spoiled = error.status is Status.TAMPERED
            if is_spoiled or not self._device.is_healthy():
                raise DeviceLostError(f"after {staged.variant.key} was loaded")
        self._send("phase", then)

    def _call_first(self, staged: Staged, loaded: loader.Loaded) -> None:
        """Call the next variant once, since first calls load code onto the device and make workspaces.

        Raises:
            DeviceLostError: The device does not recover from it.
        """
        if staged.first not in self._residents.held or loaded.compiles_late:
            return
        inputs = self._residents.get(staged.first).inputs
        candidate = Candidate(loaded.function, staged.variant.destination_passing)
        present = self._state.own()
        try:
            self._state.give_turn(loaded.settings or {})
            try:
                check.run_once(candidate, self._definition, inputs, self._device)
            finally:
                replaced = self._verdicts.replaced()  # while the device works
            self._device.synchronize()
            loaded.was_called = True
            loaded.settings = self._state.own()
        except BaseException as error:
            if not self._device.is_healthy():
                raise DeviceLostError(str(raised(error))) from error
        finally:
            loaded.stuck = tuple(self._state.give_turn(present))
        if loaded.stuck or replaced is not None:
            raise DeviceLostError(f"after {staged.variant.key} was called")

    def _one(
        self, candidate: Candidate, uuid: str, job: EvaluationJob, following: str | None, ahead: Staged | None
    ) -> Measurement:
        """One workload: prepare, check, measure, verify the timed runs.

        Meanwhile the next step is started: the check on the ``following`` workload or, on the last workload, loading
        the variant ``ahead``.
        """
        self._send("phase", Phase(PhaseKind.PREPARE, uuid))
        resident = self._verdicts.with_room(uuid, lambda: self._verdicts.resident(uuid))
        if resident.degenerate:
            return failed(resident, Verdict(Status.DEGENERATE_REFERENCE, resident.degenerate), job.method)
        candidate.writes = candidate.is_reference and bool(resident.wrote)
        verdict = Verdict(Status.PASSED)
        compiled: dict[str, Any] = {}
        if candidate.compiles_late:
            verdict, compiled = self._first_calls.make(candidate, resident)
            if verdict.status is not Status.PASSED:
                return failed(resident, verdict, job.method)
        if job.check:
            self._send("phase", Phase(PhaseKind.CHECK, uuid))
            verdict = self._verdicts.first_check(candidate, resident)
            if verdict.status is not Status.PASSED:
                return failed(resident, verdict, job.method)
        measuring = Phase(PhaseKind.MEASURE, uuid)
        self._send("phase", measuring)

        hooks: dict[str, Callable[[], Any]] = {}
        if self._device.runs_ahead and following is not None and job.check and not candidate.compiles_late:
            begin = partial(self._send, "phase")
            hooks["then"] = lambda: self._verdicts.check_ahead(candidate, following, begin, measuring)
        if self._device.runs_ahead and following is None and ahead is not None:
            hooks["meanwhile"] = lambda: self._load_ahead(ahead, then=measuring)
        try:
            timing, after = self._verdicts.with_room(
                uuid, lambda: self._measure(candidate, resident, job, following is None, **hooks)
            )
        except DeviceLostError:
            raise
        except AheadError as error:
            after = failure(error.__cause__ or error)
            return failed(self._residents.get(error.uuid), after, job.method)
        except CaptureError as error:
            self._uncaptured = error
            after = failure(error)
        except BaseException as error:
            after = failure(error, "while measured: ")
        if after.status is not Status.PASSED:
            return failed(resident, after, job.method)
        errors = (verdict if job.check else after).errors()
        conditions = {**timing.conditions, **resident.judged_by, **compiled}
        return measured(uuid, timing.samples_us, job.method, conditions, errors)

    def _measure(
        self,
        candidate: Candidate,
        resident: Resident,
        job: EvaluationJob,
        is_last: bool,
        then: Callable[[], Callable[[], None]] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[timer.Timing, Verdict]:
        """Time the candidate, and verify one run. ``then`` is done after the last sample, before the verdict is waited
        for; what it gives is waited for. On the last workload, a device that runs ahead inspects the memory behind
        the samples."""
        timer.check_mode(job.method, self._device)
        run = TimedRun(candidate, self._definition, resident.inputs, self._device)
        prepared = self._device.prepare(run, job.method.mode)
        look = VerifiedRun(self._verdicts, run, prepared, resident, self._device, job.method, is_known=not job.check)

        def before_sample() -> None:
            if look.is_due():
                look.take()
            look.before_sample()

        def at_the_end() -> None:
            look.at_the_end()
            if is_last and self._device.runs_ahead:
                self._inspection = self._residents.begin_inspection()

        limit = job.stop_above_us.get(resident.uuid)
        drift = self._drift.conditions()
        self._inspection = None
        try:
            timing = timer.measure(prepared, job.method, self._device, limit, before_sample, at_the_end, meanwhile)
            timing = replace(timing, conditions={**timing.conditions, **drift})
            # Not behind queued samples, which may be followed by more: a graph reads what a candidate keeps from its
            # calls, and a call on another workload may make that anew.
            if then is not None:
                wait = then()
                look.look()  # that called the candidate
                wait()
            return timing, look.verdict()
        finally:
            resident.others.undo()

    def _load_unspoiled(self, staged: Staged) -> loader.Loaded:
        """Load a variant; raises as :func:`refuse_spoiler`."""
        refuse_spoiler(loaded := self._load(staged))
        return loaded

    def _spoiled(self, status: Status, message: str) -> Judgement:
        """End the job after a failure, and find out whether this process is still usable."""
        if self._uncaptured is not None and not self._uncaptured.is_undone:
            return Judgement(status, message, replace=True)
        if not self._device.is_healthy():
            return Judgement(Status.CRASHED, f"the device does not recover: {message}", replace=True)
        self._usage.update(self._device.usage())
        return Judgement(status, message, replace=status is Status.TAMPERED)

    def compare(
        self, job: ComparisonJob, staged: Mapping[str, Staged], turn_file: str, uncaptured: Mapping[str, str]
    ) -> dict[str, float]:
        """Interleave the variants' samples; each Measurement is sent as ``(key, m)``.

        The key of the variant whose turn it is is written to ``turn_file``, so that the parent knows which one to
        blame. A message for each sample would wake the parent while a candidate is being timed. ``uncaptured`` says of
        variants why they cannot be captured in a graph.

        Returns:
            How long the device was busy, in seconds by kind of work.
        """
        replaced = self._verdicts.replaced
        self._usage.clear()
        turns = os.open(turn_file, os.O_WRONLY)
        try:
            candidates: dict[str, Candidate] = {}
            self._unload_compared(except_for=[v.key for v in job.variants])
            for variant in job.variants:
                take_turn(turns, variant.key)
                self._send("phase", Phase(PhaseKind.LOAD, variant.key))
                if variant.key not in self._compared:
                    self._compared[variant.key] = self._load_unspoiled(staged[variant.key])
                loaded = self._compared[variant.key]
                candidates[variant.key] = Candidate(loaded.function, variant.destination_passing)
                candidates[variant.key].is_reference = is_reference(staged[variant.key], self._reference)
                candidates[variant.key].compiles_late = loaded.compiles_late

            def renew(key: str) -> None:
                self._compared[key].unload()
                self._compared[key] = self._load_unspoiled(staged[key])
                candidates[key].function, candidates[key].was_called = self._compared[key].function, False

            own = (self._send, self._device, self._definition, self._residents)
            means = (self._verdicts, self._first_calls, self._drift)
            settings = Turns(self._state, {key: item.settings or {} for key, item in self._compared.items()})
            comparer = Comparer(*own, *means, job, turns, settings, renew, uncaptured)
            for index, uuid in enumerate(job.workloads):
                wrote = bool(self._verdicts.resident(uuid).wrote)
                for candidate in candidates.values():
                    candidate.writes = candidate.is_reference and wrote
                comparer.on(uuid, candidates, job.seed + index)
                self._usage.update(self._device.usage())
        except Exception as error:
            part = self._taken(replaced)
            if isinstance(error, TamperedError):  # it says which part
                raise
            if part is not None:
                raise TamperedError(f"{tampered(part)}\n{raised(error)}") from error
            if isinstance(error, (CaptureError, DeviceLostError, ProcessChangedError)) or self._device.is_healthy():
                raise
            raise DeviceLostError(str(raised(error))) from error
        finally:
            os.close(turns)
            self._state.put_back()
            if not job.keep_loaded:
                self._unload_compared()
        self._device.tidy()
        return dict(self._usage)

    def _unload_compared(self, except_for: Sequence[str] = ()) -> None:
        """Unload the variants that comparisons have kept, except these."""
        for key in [k for k in self._compared if k not in except_for]:
            self._compared.pop(key).unload()
        if not self._compared:
            self._state.put_back_imports([])


def _open_device(target: str) -> Device:
    """The device for a target, in this process."""
    if is_cuda(target):
        from workers.devices.cuda import CudaDevice

        return CudaDevice()
    from workers.devices.cpu import HostDevice

    return HostDevice()
