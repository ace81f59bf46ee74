"""``tuner verify``: judge variants on a machine without their GPU, by executing their kernels' PTX on the emulator.

A verdict is right or wrong on the inputs tried, never a time. Nothing is written to the database: emulated verdicts and
measurements never meet in one record.
"""

from __future__ import annotations

import ast
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from db.store import Store
from search_spaces import Config, SpaceError
from search_spaces.dataset import PATH as PACKAGED
from search_spaces.emulated_case import EmulatedCase
from search_spaces.registry import family, for_definition, space_for
from search_spaces.sample_spread import spread
from search_spaces.space import SearchSpace, SpaceFamily, row_of
from tuner import errors
from tuner.commands.compile import VariantResults, definition_for
from tuner.errors import NothingFoundError, UsageError
from tuner.files import read_object
from tuner.progress import Steps
from tuner.settings import SweepSettings, load
from tuner.sweeps.setup import open_dataset, settings_of, tell_missing
from workers.emulator.host.launches import HostError, compile_mock
from workers.emulator.judge import SHRUNK_SMS, EmulatedVerdict, judge_sources

TARGETS = ("sm_90a", "sm_100a")


@dataclass(frozen=True)
class Subject:
    """Something to judge: ``configs`` are its dispatch table's, one for a variant."""

    name: str
    config: Config | None
    sources: Mapping[str, str] = field(repr=False)
    cases: list[EmulatedCase] = field(repr=False)


class VerifyResult(VariantResults):
    """``variants`` have ``name``, ``config``, ``status`` and ``cases``."""

    @property
    def passed(self) -> int:
        """How many subjects passed every case."""
        return sum(v["passed"] for v in self.variants)

    @property
    def exit_code(self) -> int:
        """3 if a subject did not pass."""
        return errors.EXIT_OK if self.passed == len(self.variants) else errors.EXIT_NOTHING_FOUND

    def document(self) -> dict[str, Any]:
        """The JSON document of the result."""
        counts = {"passed": self.passed, "run": len(self.variants)}
        return super().document() | {"emulated": True, "sms": SHRUNK_SMS} | counts


def verify(
    settings: SweepSettings,
    sample: int = 1,
    sweep: int | None = None,
    solution: Path | None = None,
    database: str | None = None,
    view: Steps | None = None,
    starts: bool = False,
) -> VerifyResult:
    """Judge the default and a sample of a space, the winners of a sweep, or a Solution.

    Args:
        settings: Space, target, definition, dataset and seed. A small definition is advisable.
        sample: Configs of the space, the default among them.
        sweep: ID of a sweep, whose winners are judged instead.
        solution: A Solution file, which is judged instead.
        database: URL of the database that knows the sweep.
        view: Shows the progress, and every failure at once.
        starts: Take the space's starts before others.

    Raises:
        UsageError: The target is no GPU's, or both a sweep and a Solution are named.
        SpaceError: The family says nothing about what its kernels must leave.
        NothingFoundError: The sweep has no winners that are valid for the definition.
    """
    if sweep is not None and solution is not None:
        raise UsageError("--sweep and --solution exclude each other")
    file = read_solution(solution, settings.space) if solution is not None else None
    swept = _swept(sweep, database, settings) if sweep is not None else None
    settings = swept[0] if swept else settings
    target = settings.target or (file.target if file else None)
    if target is None or target not in TARGETS:
        of_it = f"{solution} is for" if file else f"sweep {sweep} was for" if swept else "--target is"
        raise UsageError(
            f"{f'{of_it} {target}' if target else 'give --target'}; the emulator knows {', '.join(TARGETS)}"
        )
    view = view or Steps()
    dataset = open_dataset(settings.dataset)
    own = file.definition if file and file.definition in dataset.definitions else None
    name = settings.definition or own or definition_for(dataset.definitions, settings.space, target)
    definition = dataset.definition(name)
    space = space_for(definition, target, settings.space)
    tell_missing(space)
    maker = family(settings.space) if settings.space else for_definition(definition, target)
    if file is not None:
        if file.definition != name:
            view.say(f"{file.path} solves {file.definition}; its kernels and configs are judged at the sizes of {name}")
        subjects = of_solution(file, maker, space, name, view.say)
    elif swept:
        subjects = [_of_config(maker, space, c) for c in _valid_winners(space, swept[1], f"sweep {sweep}", view.say)]
    else:
        subjects = [_of_config(maker, space, c) for c in _of_space(space, sample, settings.seed, starts)]
    began = time.perf_counter()
    variants = [_document(c, verdicts) for c, verdicts in _judged(subjects, view)]
    return VerifyResult(space.name, target, name, time.perf_counter() - began, variants)


def verify_first(settings: SweepSettings, view: Steps) -> None:
    """Judge the configs that a sweep would begin with, on the packaged definition that its space solves.

    Which numbers come out is decided by the config and the sizes of a tile; the sweep's own definition may be too large
    to be emulated. Configs that are not valid for the small one are left out.

    Args:
        settings: Of the sweep, its target resolved; ``verify_first`` is the number of configs.
        view: Shows the progress, and every failure at once.

    Raises:
        UsageError, SpaceError: The emulator does not know the target, or the space does not say what is right.
        NothingFoundError: A config failed; the message is the first one's.
    """
    small = {"space": settings.space, "target": settings.target, "seed": settings.seed, "dataset": PACKAGED}
    result = verify(load(small), settings.verify_first, starts=True, view=view)
    failed = [v for v in result.variants if not v["passed"]]
    if failed:
        raise NothingFoundError(
            f"{len(failed)} of {len(result.variants)} configs failed on the emulator, so nothing was timed; "
            f"{summary_of(failed[0])}"
        )
    view.say(f"{result.passed} of {len(result.variants)} passed (emulated on {result.definition})")


def _of_space(space: SearchSpace, count: int, seed: int, starts: bool) -> list[Config]:
    """The first ``count`` of: defaults and starts if ``starts``, the default and a spread sample."""
    known = [c for _, c in space.default_table] + [s.config for s in space.starts] if starts else []
    sampled = spread(space, count, seed) if len(known) < count else []
    found = {space.config_hash(c): dict(c) for c in [*known, *sampled]}
    return list(found.values())[:count]


def _of_config(maker: SpaceFamily, space: SearchSpace, config: Config) -> Subject:
    name = space.config_hash(config)
    return Subject(name, config, space.variant_sources(config), maker.emulated_cases(space, config))


def _swept(
    sweep: int, database: str | None, settings: SweepSettings
) -> tuple[SweepSettings, dict[str, Mapping[str, Any]]]:
    """The settings, with a sweep's target and space where they name none; and its winners' configs by regime."""
    if database is None:
        raise UsageError("--sweep wants a database")
    with Store.open(database, create=False) as store:
        own = settings_of(store, sweep, settings)  # says so if there is none
        winners = {w.regime or "all sizes": w.config for w in store.winners.of(sweep)}
    missing = {key: getattr(own, key) for key in ("target", "space") if getattr(settings, key) is None}
    return settings.model_copy(update=missing), winners


def _valid_winners(
    space: SearchSpace, winners: Mapping[str, Mapping[str, Any]], whose: str, say: Callable[[str], None]
) -> list[Config]:
    """Configs that are valid for this space, each once; those that are not are told with the reason.

    Parameters that a space did not have when a config was found count as their default.

    Raises:
        NothingFoundError: None is valid.
    """
    found, left_out = {}, []
    for where, config in winners.items():
        whole = {**space.default, **config}
        strange = sorted(set(whole) - set(space.default))
        try:
            why = f"it has no {strange[0]!r}" if strange else space.violation(space.check(whole), space.default)
        except SpaceError as error:
            why = str(error)
        if why is None:
            found[space.config_hash(whole)] = space.check(whole)
        else:
            left_out.append(f"its config for {where} is not valid there: {why}")
    if not found:
        why = left_out[0] if left_out else "it has no winner"
        raise NothingFoundError(f"nothing of {whose} can be judged in space {space.name!r} on {space.target}: {why}")
    for line in left_out:
        say(f"left out of {whose}: {line}")
    return list(found.values())


@dataclass(frozen=True)
class SolutionFile:
    """What verification wants to know of a Solution file; ``table`` has its configs by size."""

    path: Path
    name: str
    definition: str
    target: str
    sources: Mapping[str, str] = field(repr=False)
    table: list[tuple[int | None, Config]] = field(repr=False)


def read_solution(path: Path, space: str | None) -> SolutionFile:
    """Read a Solution file.

    Raises:
        UsageError: It cannot be read, or is no Solution of a space with configs.
    """
    document = read_object(path, "Solution file")
    try:
        sources = {s["path"]: s["content"] for s in document["sources"]}
        assigned = [node for node in ast.parse(sources["config.py"]).body if isinstance(node, ast.Assign)]
        # The generated file holds nothing but literals; a stranger's file is not run in this process.
        scope: dict[str, Any] = {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assigned}
        name = str(document.get("name", path.stem))
        return SolutionFile(path, name, document["definition"], scope["TARGET"], sources, scope["TABLE"])
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        literal = isinstance(error, (ValueError, SyntaxError))
        why = f"{error} is missing" if isinstance(error, KeyError) else "a part of it has another form"
        why = "its config.py is none that an export writes" if literal else why
        wanted = f"space {space!r}" if space else "a space that can be emulated"
        raise UsageError(f"{path} is no Solution of {wanted}: {why}") from error


def of_solution(
    file: SolutionFile, maker: SpaceFamily, space: SearchSpace, definition: str, say: Callable[[str], None]
) -> list[Subject]:
    """A Solution file as it is; each case is checked by the config that its table gives for the size.

    A Solution of another definition, usually one too large to be emulated, is judged at this one's sizes: its own
    kernels with each config of its table, since this one's inputs have few of its sizes. Parameters that the space did
    not have when it was exported count as their default.

    Raises:
        UsageError: It is for another target.
        NothingFoundError: None of its configs is valid here.
    """
    if file.target != space.target:
        raise UsageError(f"{file.path} is for {file.target}, asked for is {space.target}")
    if file.definition == definition:
        by_size: list[EmulatedCase] = []
        for number, case in enumerate(maker.emulated_cases(space, space.default)):
            _, config = row_of(file.table, case.size)
            by_size.append(maker.emulated_cases(space, {**space.default, **config})[number])
        return [Subject(file.name, None, file.sources, by_size)]
    rows = {f"sizes up to {bound}" if bound is not None else "larger sizes": config for bound, config in file.table}
    found = []
    for config in _valid_winners(space, rows, str(file.path), say):
        generated = {name: space.variant_sources(config)[name] for name in space.generated_files}
        cases = maker.emulated_cases(space, config)
        found.append(Subject(space.config_hash(config), config, {**file.sources, **generated}, cases))
    return found


def _judged(subjects: list[Subject], view: Steps) -> Iterator[tuple[Subject, list[EmulatedVerdict]]]:
    """Candidates one after the other, each in a folder of its own that goes again."""
    with tempfile.TemporaryDirectory(prefix="tuner-verify-") as scratch:
        root = Path(scratch)
        try:
            mock = compile_mock(root)
        except HostError as error:
            raise UsageError(f"nothing can be emulated here: {error}") from error
        for number, subject in enumerate(subjects):
            who = f"{number + 1} of {len(subjects)}, {subject.name}"
            view.step(f"{who}: building, and emulating on the first of {len(subject.cases)} inputs")
            folder = root / f"variant_{number}"
            verdicts = judge_sources(subject.sources, subject.cases, folder, mock, tell=_teller(view, who, subject))
            shutil.rmtree(folder, ignore_errors=True)
            if not verdicts[-1].is_passed:
                view.say(summary_of(_document(subject, verdicts)))
            yield subject, verdicts


def _teller(view: Steps, who: str, subject: Subject) -> Callable[[EmulatedVerdict], None]:
    """Says each verdict of a subject, and which input is emulated next."""
    names = [case.name for case in subject.cases]
    numbers = itertools.count(1)

    def tell(verdict: EmulatedVerdict) -> None:
        number = next(numbers)
        if not verdict.is_passed:
            return
        view.say(f"{subject.name} on {verdict.case}: {verdict.status.value} in {verdict.seconds:.1f} s")
        if number < len(names):
            view.step(f"{who}: emulating on {names[number]}, input {number + 1} of {len(names)}")

    return tell


def summary_of(variant: Mapping[str, Any]) -> str:
    """One line about a subject."""
    if variant["passed"]:
        return f"{variant['name']}: PASSED (emulated), {len(variant['cases'])} inputs"
    last = variant["cases"][-1]
    message = next(iter(last["message"].splitlines()), "")
    where = f"{last['kernel'] or 'host'}, {last['case']}" if last["case"] else "build"
    return f"{variant['name']}: {last['status']} in {where}: {message}"


def _document(subject: Subject, verdicts: list[EmulatedVerdict]) -> dict[str, Any]:
    return {
        "name": subject.name,
        "config": subject.config,
        "status": verdicts[-1].status.value,
        "passed": verdicts[-1].is_passed,
        "cases": [v.document() for v in verdicts],
    }
