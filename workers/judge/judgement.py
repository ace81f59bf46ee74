"""What the evaluator gives its sandbox to judge, and what it gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workers.build import loader
from workers.errors import ProcessChangedError, TamperedError
from workers.judge.verdicts import tampered
from workers.records import BuiltVariant, Status, Variant
from workers.sandbox.process_state import changed


@dataclass(frozen=True)
class Judgement:
    """How a job ended in the sandbox.

    Args:
        status: Of the variant.
        message: What happened.
        replace: Whether the parent is to replace this process.
        usage: How long the device was busy, in seconds by kind of work.
        uncaptured: Why the variant cannot be captured in a graph, if that is what ended the job.
    """

    status: Status
    message: str = ""
    replace: bool = False
    usage: Mapping[str, float] = field(default_factory=dict)
    uncaptured: str = ""


@dataclass(frozen=True)
class Staged:
    """A variant on disk: its folder, and the package in it. ``first`` is the workload of its first call, if that is to
    be made when the variant is loaded ahead."""

    variant: BuiltVariant
    folder: str
    first: str = ""

    @property
    def package(self) -> str:
        """Name of its package in the folder."""
        return loader.package_name(self.variant.artifact)


def blamed(found: Judgement, part: str | None) -> Judgement:
    """The judgement, unless the candidate replaced a part of the evaluator: that explains any other failure."""
    return found if part is None else Judgement(Status.TAMPERED, with_part(found.message, part), replace=True)


def with_part(message: str, part: str | None) -> str:
    """A message that begins with the part of the evaluator that was replaced, if there is one."""
    if part is None or message.startswith(tampered(part)):
        return message
    return f"{tampered(part)}\n{message}"


def refuse_spoiler(loaded: loader.Loaded) -> None:
    """Refuse a variant by what it did to the process when it was loaded.

    Raises:
        TamperedError: It replaced a part of the evaluator.
        ProcessChangedError: It made a change that cannot be undone.
    """
    if loaded.tampered is not None:
        raise TamperedError(tampered(loaded.tampered))
    if loaded.stuck:
        raise ProcessChangedError(changed(loaded.stuck))


def is_reference(staged: Staged, reference: Variant) -> bool:
    """Whether a variant is the definition's reference."""
    if staged.variant.entry_point != reference.entry_point:
        return False
    files = {Path(staged.folder) / staged.package / name: text for name, text in reference.sources.items()}
    return all(file.is_file() and file.read_text(encoding="utf-8") == text for file, text in files.items())
