"""Why trials failed: the telling line of each message, how often it came, and whether going on can help."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence

from workers.records import Status

_log = logging.getLogger(__name__)

ALIKE = 8
"""First trials that fail for the same reason, after which a sweep stops: a fault of the machine or of all configs."""

LONGEST = 240
"""Most characters of a reason."""

_OF_A_TOOL = re.compile(r"fatal error|\berror:|not found|no such file|cannot find|undefined (symbol|reference)", re.I)
_OF_PYTHON = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Warning|Interrupt|Exit)\b")
_VARYING = re.compile(r"0x[0-9a-f]+|/[^\s'\"]+|\d+(\.\d+)?(e[-+]?\d+)?", re.I)


def telling_line(message: str) -> str:
    """The line of a log that says what went wrong, cut in the middle where it is long.

    A compiler's first error is the cause of those after it; a traceback ends with its exception.
    """
    lines = [line.rstrip() for line in message.splitlines() if line.strip()]
    own = [line for line in lines if not line[0].isspace()]
    of_a_tool = [line for line in own if _OF_A_TOOL.search(line)]
    of_python = [line for line in own if _OF_PYTHON.match(line)]
    line = of_a_tool[0] if of_a_tool else of_python[-1] if of_python else (own or lines or [""])[-1]
    line = " ".join(line.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 83]} ... {line[-78:]}"


def kind_of(reason: str) -> str:
    """A reason without its numbers, addresses and paths, so that reasons that differ only in these count as one."""
    return _VARYING.sub("#", reason)


class Failures:
    """Reasons of the trials that failed.

    Args:
        default_hash: Of the config whose failure is told at once.
    """

    def __init__(self, default_hash: str = "") -> None:
        self._default_hash = default_hash
        self._configs: set[str] = set()
        self._kinds: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._passed = False

    def note(self, config_hash: str, status: Status, message: str) -> None:
        """Count the outcome of a trial."""
        if not status.is_failure:
            self._passed = True
            return
        reason = f"{status.value}: {telling_line(message)}".removesuffix(": ")
        kind = kind_of(reason)
        if config_hash == self._default_hash and kind not in self._kinds:
            _log.warning(f"the default config failed: {reason}")
        self._configs.add(config_hash)
        self._kinds[kind] += 1
        self._examples.setdefault(kind, reason)

    @property
    def is_pointless_to_go_on(self) -> bool:
        """Whether all of the first trials, the default among them, failed for the same reason."""
        alike = len(self._kinds) == 1 and self._kinds.total() >= ALIKE and len(self._configs) * 2 >= ALIKE
        return alike and not self._passed and self._default_hash in self._configs

    def lines(self, most: int = 3) -> Sequence[str]:
        """The most frequent reasons, each with its number of trials."""
        return [f"{count} x {self._examples[kind]}" for kind, count in self._kinds.most_common(most)]
