"""The sweep loop: ask for configs, have them built and judged, commit each trial, end with finals.

One thread; searches are asked in another. What else is slow happens behind the :class:`~workers.runner.Runner`. What
must survive is stored in the :class:`~db.store.Store` before a search is told of it.
"""

from __future__ import annotations

import bisect
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from db.records import StoredBuild, StoredMeasurement, TrialRecord, method_hash
from db.store import Store
from search_spaces import Config
from search_spaces.targets import is_cuda, target_named
from tuner.progress import SLOW_S, Progress, Slow, Steps
from tuner.search import Proposal, Search
from tuner.sweeps.failures import Failures
from tuner.sweeps.finals import winners
from tuner.sweeps.finals.crossings import Crossing, settled
from tuner.sweeps.finals.final import FinalResult, run_final, summed
from tuner.sweeps.finals.finalists import finalists_of
from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.objective import Objective
from tuner.sweeps.regimes import Regime
from tuner.sweeps.result import SweepResult, evaluator_usage
from tuner.sweeps.reuse import LoadBeside, other_load, usable
from tuner.sweeps.start.earlier_trials import EarlierTrials
from tuner.sweeps.start.head_start import HeadStart, taken_up
from tuner.sweeps.start.plan import SweepPlan
from tuner.sweeps.trials.asking import Asker
from tuner.sweeps.trials.eager import EagerTrials
from tuner.sweeps.trials.modes import RegimeMode, final_method, remarks
from tuner.sweeps.trials.reference_times import ReferenceTimes
from tuner.sweeps.trials.trial import Leader, RegimeState, Trial
from tuner.sweeps.variants import config_variant, toolchain
from workers.fib.adapter import reference_variant
from workers.records import BuildResult, Evaluation, EvaluationJob, Measurement, Status
from workers.runner import Outcome, Runner

HEARTBEAT_S = 5.0
BUILDS_KEPT = 1000
"""Most builds that are remembered for other regimes. Older ones are submitted again and found in the cache."""
OVERTIME_S = 5.0
"""For what is in flight when the search's time is over; what no worker has begun by then is dropped."""


class Sweep:
    """Runs one sweep against a runner and a store; both are owned by the caller."""

    def __init__(
        self,
        plan: SweepPlan,
        runner: Runner,
        store: Store,
        sweep_id: int,
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        steps: Steps | None = None,
        checkpoint: Callable[[], None] = lambda: None,
        ahead: HeadStart | None = None,
    ) -> None:
        self.plan = plan
        self.settings = plan.settings
        self.runner = runner
        self.store = store
        self.sweep_id = sweep_id
        self._record = store.sweeps.get(sweep_id)
        self._on_progress = on_progress
        self._steps = steps or Steps()
        self._checkpoint = checkpoint
        self._earlier = EarlierTrials.of(store.trials.of(sweep_id), plan.retry_failed)
        self._builds: dict[str, BuildResult] = {}
        self._waiting_for_build: dict[str, list[Trial]] = {}
        self._evaluating: dict[str, Trial] = {}
        self._eager = EagerTrials(plan.definition["name"], plan.space, plan.method, runner, self._finish)
        self._failures: Counter[str] = Counter()
        self._asker = Asker(lambda: self._take(runner.arrived()))
        self._measured: dict[str, FinalResult | None] = {}
        """Regime name -> its final; some regimes are done before the search is."""
        self._reasons = Failures(plan.space.config_hash(plan.space.default))
        self._usage: dict[str, float] = {}
        self._raced_out = 0
        self._reused = 0
        self._made_anew = 0
        self._beside_load: list[LoadBeside] = []
        self._done = 0
        self._next_number = self._earlier.next_number
        reference = reference_variant(plan.definition, plan.space.target)
        every = [w for r in plan.regimes for w in r.workloads]
        self._reference = ReferenceTimes(
            runner, reference, every, plan.method, plan.time_reference, is_building=ahead is not None
        )
        self._started = time.monotonic()
        self._last_beat = 0.0
        self._environment = runner.environment()
        self._toolchain = toolchain(self._environment)
        self._phase: Literal["start", "search", "finals", "done"] = "start"
        self._beat()  # a search begins with a look at the space, which may take seconds
        if ahead is not None:
            self._waiting_for_build = {key: [] for key in ahead.building}
        ahead = taken_up(ahead, plan, self._earlier.again)
        if any(ahead.proposals):
            self._asker.prepare(ahead.searches)
        self._states = [self._state(*of) for of in zip(plan.regimes, ahead.searches, ahead.proposals, strict=True)]

    def run(self) -> SweepResult:
        """Search, then run the finals. Trials that an earlier process of the sweep committed are taken over."""
        self._restore()
        self._phase = "search"
        with self._asker:
            self._search()
        self._phase = "finals"
        measured = self._finals()
        regimes, finals, crossed = self._settled(measured)
        if self.settings.budget_s is None or time.monotonic() - self._started < self.settings.budget_s:
            self._reference.again(self._beat)
        by_name = {r.name: r for r in regimes}
        won = winners.commit(self.store, self.sweep_id, by_name, finals, self._environment, self.plan.space, crossed)
        self._phase = "done"
        self._emit()
        usage = evaluator_usage(self._usage, [f.usage for f in finals.values()])
        return SweepResult(
            self.sweep_id,
            finals,
            won,
            self._reference.measured,
            self._done,
            dict(self._failures),
            usage,
            self._made_anew,
            tuple(self._beside_load),
            self._reasons,
            regimes,
            crossed,
            remarks({s.regime.name: s.mode for s in self._states}, {n: f.mode for n, f in measured.items()}),
        )

    # -- set-up ------------------------------------------------------------------------------------------------------

    def _state(self, regime: Regime, search: Search, proposed: deque[Proposal]) -> RegimeState:
        space = search.space
        objective, mode = Objective(regime.workloads, regime.weights), RegimeMode[Trial](self.plan.method)
        default_hash = space.config_hash(space.default)
        return RegimeState(regime, search, objective, mode, default_hash=default_hash, proposed=proposed)

    def _restore(self) -> None:
        """Take over the trials that are committed, so that none is lost or repeated."""
        by_name = {s.regime.name: s for s in self._states}
        for record in self._earlier.done:
            state, status = by_name[record.regime], Status(record.state)
            state.mode.note(status, record.measurements)
            self._note(
                state, record.config_hash, dict(record.config), status, record.measurements, None, record.objective
            )
            self._reasons.note(record.config_hash, status, record.reason)
            state.search.observe(dict(record.config), record.objective)
            state.asked += 1

    # -- search ------------------------------------------------------------------------------------------------------

    def _search(self) -> None:
        self._reference.start()
        while True:
            self._fill()
            is_idle = not self._in_flight() and not self._waiting_for_build
            if is_idle and not self._reference.waiting:
                return  # with nothing in flight that the finals would find in place of their own outcomes
            self._take(self.runner.wait(1.0))
            self._upkeep()
            self._measure_what_is_done()

    def _upkeep(self) -> None:
        self._withdraw()
        self._tick()

    def _measure_what_is_done(self) -> None:
        """While the last builds of a search are awaited, the finals of the regimes that have none of them: a GPU would
        have nothing to do. On a CPU builders would disturb them."""
        if not is_cuda(self.plan.space.target) or not self._search_is_over() or self._eager.in_flight:
            return
        busy = {t.state.regime.name for trials in self._waiting_for_build.values() for t in trials}
        busy |= {t.state.regime.name for t in self._evaluating.values()}
        for state in self._states:
            name = state.regime.name
            if not busy or name in busy or name in self._measured or state.mode.held:
                continue
            finalists = finalists_of(self.plan, state)
            if finalists and all(f.is_built for f in finalists.values()):  # without any the search may yet go on
                self._measured[name] = self._final(state, self._upkeep)
                return  # the others may be done by now

    def _withdraw(self) -> None:
        """Take back what has not begun: after the search what no trial needs any more, after its time the rest. The
        defaults stay, and as long as nothing has passed in a regime whatever may be the first there."""
        evaluations = {key: [trial] for key, trial in self._evaluating.items()}
        waiting = self._waiting_for_build | evaluations
        if not self._is_in_time(OVERTIME_S):
            self._reference.withdraw()
            last = {key for key, trials in waiting.items() if any(self._must_end(t) for t in trials)}
            keys = set(waiting) - last
        elif not all(waiting.values()) and self._search_is_over():
            keys = {key for key, trials in waiting.items() if not trials}
        else:
            return
        for key in self.runner.withdraw(keys):
            self._evaluating.pop(key, None)
            self._waiting_for_build.pop(key, None)

    @staticmethod
    def _must_end(trial: Trial) -> bool:
        return trial.config_hash == trial.state.default_hash or not trial.state.leaders

    def _take(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, BuildResult):
                self._on_build(outcome)
            elif isinstance(outcome, Evaluation):
                self._on_evaluation(outcome)

    def _in_flight(self) -> int:
        building = sum(map(len, self._waiting_for_build.values()))
        held = sum(len(s.mode.held) for s in self._states)
        return building + held + len(self._evaluating) + self._eager.in_flight

    def _fill(self) -> None:
        """Keep every builder and evaluator busy, but ask for no more: later proposals are based on more results."""
        wanted = self.runner.builders + self.runner.evaluators + self.runner.in_line
        while self._in_flight() < wanted and not self._search_is_over():
            open_states = [s for s in self._states if not s.exhausted]
            if not open_states:
                return
            state = min(open_states, key=lambda s: s.asked)
            proposal = state.proposed.popleft() if state.proposed else self._asker.ask(state.search)
            if proposal is None:
                state.exhausted = True
                continue
            state.asked += 1
            self._start(state, proposal)
            self._take(self.runner.arrived())

    def _search_is_over(self) -> bool:
        if any(s.asked == 0 for s in self._states):
            return False  # the default is measured in every regime, however small the budget
        if not self._is_in_time() or (self._reasons.is_pointless_to_go_on and not self.settings.keep_going):
            return True
        asked = sum(s.asked for s in self._states)
        if self.settings.max_trials != "auto":
            return asked >= self.settings.max_trials
        for state in self._states:
            if not state.exhausted and state.search.should_stop().stop:
                state.exhausted = True
        return all(s.exhausted for s in self._states)

    def _is_in_time(self, overtime_s: float = 0.0) -> bool:
        """Whether the search's share of the time budget is not used up."""
        budget = self.settings.budget_s
        if budget is None:
            return True
        return time.monotonic() - self._started <= budget * (1 - self.settings.final_share) + overtime_s

    def _start(self, state: RegimeState, proposal: Proposal) -> None:
        space = self.plan.space
        variant = config_variant(self.plan.definition["name"], space, proposal.config)
        config_hash = variant.key
        trial = Trial(self._next_number, state, proposal, config_hash, variant, time.time())
        self._next_number += 1
        if self.settings.reuse:
            trial.known = self._known(config_hash, state)
        if len(trial.known) == len(state.regime.workloads):
            for freed in state.mode.note(Status.PASSED, tuple(trial.known.values())):
                self._evaluate(freed)
            self._reused += 1
            self._finish(trial, Status.PASSED, (), "measured by an earlier sweep")
        elif config_hash in self._builds:
            self._after_build(trial, self._builds[config_hash])
        elif config_hash in self._waiting_for_build:
            self._waiting_for_build[config_hash].append(trial)
        else:
            self._waiting_for_build[config_hash] = [trial]
            self.runner.submit_build(variant)

    def _known(self, config_hash: str, state: RegimeState) -> dict[str, StoredMeasurement]:
        """Stored measurements of a config, all of one mode; as long as the mode is open, only if none is missing."""
        for method in state.mode.stored(target_named(self.plan.space.target).modes[0]):
            records = self.store.measurements.known(
                definition_id=self._record.definition_id,
                space_id=self._record.space_id,
                config_hash=config_hash,
                environment=self._environment.fingerprint,
                method=method_hash(method),
            )
            found, loaded = usable(records, state.regime.workloads)
            self._made_anew += loaded
            if state.mode.decided is not None or len(found) == len(state.regime.workloads):
                return found
        return {}

    def _on_build(self, build: BuildResult) -> None:
        if self._reference.took(build):
            return
        trials = self._waiting_for_build.pop(build.key)
        self._builds[build.key] = build
        if len(self._builds) > BUILDS_KEPT:
            self._builds.pop(next(iter(self._builds)))
        for trial in trials:
            self._after_build(trial, build)

    def _after_build(self, trial: Trial, build: BuildResult) -> None:
        trial.build = build
        if build.status is Status.BUILT:
            self._evaluate(trial)
        else:
            self._finish(trial, build.status, (), build.log)

    def _evaluate(self, trial: Trial) -> None:
        assert trial.build is not None
        assert trial.build.artifact is not None
        variant = replace(trial.variant.built(trial.build.artifact), key=trial.key)
        state = trial.state
        if state.mode.holds(trial):
            return
        todo = tuple(w for w in state.regime.workloads if w not in trial.known)
        limits = {} if trial.config_hash == state.default_hash else state.objective.limits_us(self.settings.race_factor)
        self._evaluating[trial.key] = trial
        self.runner.submit_evaluation(EvaluationJob(variant, todo, state.mode.asked(), limits))

    def _on_evaluation(self, evaluation: Evaluation) -> None:
        self._usage = summed((self._usage, evaluation.usage))
        if self._reference.took(evaluation) or self._eager.took(evaluation):
            return
        trial = self._evaluating.pop(evaluation.key)
        mode = trial.state.mode
        for freed in mode.note(evaluation.status, evaluation.measurements):
            self._evaluate(freed)
        if evaluation.status is Status.PASSED and mode.is_other(evaluation.measurements):
            if trial.known:
                # Some of its figures are of graphs, and this workload cannot be captured: all are taken eagerly.
                trial.known = {}
                self._evaluate(trial)
                return
            self._eager.rank(trial, evaluation)
            return
        self._finish(trial, evaluation.status, evaluation.measurements, evaluation.message)

    def _finish(
        self, trial: Trial, status: Status, fresh: tuple[Measurement, ...], message: str, ranked: float | None = None
    ) -> None:
        """Commit the trial with its new and its reused measurements, then tell the search. ``ranked`` is its value if
        it was timed in another mode than the regime's other trials."""
        state = trial.state
        here = self._environment.fingerprint
        measured = (*trial.known.values(), *(StoredMeasurement.of(m, environment=here) for m in fresh))
        value = ranked if state.mode.is_other(measured) else state.objective.value(status, measured)
        record = TrialRecord(
            sweep_id=self.sweep_id,
            number=trial.number,
            config=trial.proposal.config,
            config_hash=trial.config_hash,
            regime=state.regime.name,
            state=status.value,
            objective=value,
            reason=message,
            origin=trial.proposal.origin,
            started_at=trial.started,
            build=None if trial.build is None else StoredBuild.of(trial.build, toolchain=self._toolchain),
            measurements=measured,
        )
        self._beside_load += [load for m in fresh if (load := other_load(m)) is not None]
        self.store.trials.commit(record)
        self._reasons.note(trial.config_hash, status, message)
        self._note(state, trial.config_hash, trial.proposal.config, status, measured, trial.build, value)
        self._asker.tell(state.search, trial.proposal.number, value, status.value)

    def _note(
        self,
        state: RegimeState,
        config_hash: str,
        config: Config,
        status: Status,
        measured: Sequence[Measurement],
        build: BuildResult | None,
        value: float | None,
    ) -> None:
        self._done += 1
        if status is Status.PASSED and value is not None:
            artifact = None if build is None else build.artifact
            leader = Leader(value, config_hash, config, artifact, measured[0].method.mode)
            if config_hash == state.default_hash:
                state.default = leader
            bisect.insort(state.leaders, leader, key=lambda known: known.value)
            del state.leaders[self.settings.finalists :]
            if not state.mode.is_other(measured):
                state.objective.note(measured)
                state.note_specialists(leader, measured)
        elif status is Status.RACED_OUT:
            self._raced_out += 1
        elif status is not Status.PASSED:
            self._failures[status.value] += 1

    # -- finals ------------------------------------------------------------------------------------------------------

    def _finals(self) -> dict[str, FinalResult]:
        for state in self._states:
            if state.regime.name not in self._measured:
                self._measured[state.regime.name] = self._final(state, self._tick)
        found = {s.regime.name: self._measured[s.regime.name] for s in self._states}
        return {name: result for name, result in found.items() if result is not None}

    def _final(self, state: RegimeState, tick: Callable[[], None]) -> FinalResult | None:
        finalists = finalists_of(self.plan, state)
        if not finalists:
            return None
        deadline = time.monotonic() + self.settings.final_s
        if self.settings.budget_s is not None:
            deadline = min(deadline, self._started + self.settings.budget_s)
        return run_final(
            self.runner,
            finalists,
            state.regime,
            default=state.default_hash,
            method=final_method(self.plan.method, {key: f.mode for key, f in finalists.items()}),
            max_rounds=self.settings.final_rounds,
            deadline=deadline,
            seed=self.settings.seed,
            tick=tick,
            steps=self._steps,
            others=lambda outcome: self._take([outcome]),
        )

    def _settled(
        self, finals: Mapping[str, FinalResult]
    ) -> tuple[list[Regime], dict[str, FinalResult], list[Crossing]]:
        """The finals with the winners that the guard lets win, the regimes that they serve, and where they cross."""
        self._steps.step("measuring where the winners cross")
        budget = self.settings.budget_s
        guards = {
            s.regime.name: Guard(self.settings.worst_factor, s.known_us(finals[s.regime.name].mode))
            for s in self._states
            if s.regime.name in finals
        }
        return settled(
            self.runner,
            [s.regime for s in self._states],
            finals,
            guards,
            self.plan.method,
            self.settings.seed,
            deadline=None if budget is None else self._started + budget,
            tick=self._tick,
        )

    # -- upkeep ------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._beat()
        self._emit()

    def _beat(self) -> None:
        self._checkpoint()
        now = time.monotonic()
        if now - self._last_beat > HEARTBEAT_S:
            self.store.sweeps.heartbeat(self.sweep_id)
            self._last_beat = now

    def _slow(self) -> tuple[Slow, ...]:
        """The trials that have waited long for a build or an evaluation, for the progress display."""
        now, limits = time.time(), self.settings
        to_judge = limits.check_s + limits.measure_s
        building = (t for waiting in self._waiting_for_build.values() for t in waiting)
        found = [Slow(t.number, "build", now - t.started, limits.compile_s) for t in building]
        found += [Slow(t.number, "check and times", now - t.started, to_judge) for t in self._evaluating.values()]
        return tuple(slow for slow in found if slow.waits_s > SLOW_S)

    def _emit(self) -> None:
        self._on_progress(
            Progress(
                phase=self._phase,
                done=self._done,
                max_trials=None if self.settings.max_trials == "auto" else self.settings.max_trials,
                elapsed_s=time.monotonic() - self._started,
                budget_s=self.settings.budget_s,
                building=len(self._waiting_for_build),
                evaluating=len(self._evaluating),
                failures=dict(self._failures),
                raced_out=self._raced_out,
                reused=self._reused,
                best_us={s.regime.name: s.objective.best_us for s in self._states},
                default_us={
                    s.regime.name: None if s.default is None else math.exp(s.default.value) for s in self._states
                },
                reference_us={s.regime.name: s.objective.geomean_us(self._reference.measured) for s in self._states},
                slow=self._slow(),
            )
        )
