"""Asks searches for proposals while the sweep goes on.

A proposal takes some ten milliseconds, and a second or more where a search looks at its space anew. Meanwhile builders
and evaluators end what they had and need the next job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

from tuner.search import Proposal, Search

_LOOK_S = 0.03
"""Seconds between looks at what has ended meanwhile."""


class Asker:
    """Has searches asked by a thread of its own, one at a time. What they are told meanwhile reaches them afterwards:
    a search is used by one thread, and searches of other sizes look into it.

    Args:
        meanwhile: Goes on with whatever does not need a search; called now and then while one is asked.
    """

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="asker")
        self._asked: Future[Proposal | None] | None = None
        self._untold: list[Callable[[], None]] = []

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Drop what the thread has not begun: the interpreter would wait for it before it ends."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def ask(self, search: Search) -> Proposal | None:
        """The next proposal of a search, None when it has none left, see :meth:`tuner.search.Search.ask`."""
        self._asked = self._thread.submit(search.ask)
        try:
            while not wait([self._asked], timeout=_LOOK_S).done:
                self._meanwhile()
            return self._asked.result()
        finally:
            wait([self._asked])
            self._asked = None
            untold, self._untold = self._untold, []
            for tell in untold:
                tell()

    def prepare(self, searches: Iterable[Search]) -> None:
        """Have the searches look at their space, one after the other, before they are asked for what they have learnt;
        waits for nothing. They may be told meanwhile. If it fails, the question that follows does so too."""
        for search in searches:
            self._thread.submit(search.prepare)

    def tell(self, search: Search, number: int, value: float | None, detail: str) -> None:
        """Report a value, now or after the proposal that is being made, see :meth:`tuner.search.Search.tell`."""
        if self._asked is None:
            search.tell(number, value, detail=detail)
        else:
            self._untold.append(lambda: search.tell(number, value, detail=detail))
