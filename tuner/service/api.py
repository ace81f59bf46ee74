"""The routes under ``/api/v1``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from db.records import SweepState, TrialRecord
from db.store import Store
from tuner.results.documents import SweepDetail, TrialDetail
from tuner.results.status import detail, heads, state_now
from tuner.service import views
from tuner.service.best import respond
from tuner.service.events import stream
from tuner.service.metrics import STREAMS
from tuner.service.middleware.auth import MayRead, MayRun, presented
from tuner.service.middleware.problems import ProblemError, responses
from tuner.service.models import (
    MAX_ID,
    NAME,
    Choices,
    Id,
    Lookup,
    LookupHeaders,
    SolutionList,
    Started,
    StartSweep,
    SweepList,
    TrialList,
)
from tuner.service.start_sweep.start import Starter, choices

# 400: the body is no JSON; 403: the host name is not this machine's; 413, 414 and 429 come from the rate limiter.
router = APIRouter(prefix="/api/v1", responses=responses(400, 401, 403, 413, 414, 422, 429, 503))


def store_of(request: Request) -> Store:
    """The server's store."""
    store: Store = request.app.state.store
    return store


@router.get("/best-config", tags=["best config"], responses=responses(404) | {304: {"description": "Not changed"}})
async def best_config(
    request: Request, caller: MayRead, asked: Annotated[Lookup, Query()], told: Annotated[LookupHeaders, Header()]
) -> Response:
    """The best known config for a problem size. Never measures, never guesses: ``found`` says how it was found.

    404 if there is no record. Poll with the ETag: a 304 costs next to nothing.
    """
    # Well-formed requests are answered by tuner.service.middleware.fast_path, from the same function.
    return await respond(request.app.state.best, asked, told)


@router.get("/definitions", tags=["sweeps"])
def definitions(request: Request, caller: MayRead) -> Choices:
    """What a sweep can be started for."""
    return choices(request.app.state.settings.dataset)


@router.get("/sweeps", tags=["sweeps"])
def sweeps(
    request: Request,
    caller: MayRead,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, le=MAX_ID, description="only sweeps with a smaller id")] = None,
    definition: Annotated[str | None, Query(pattern=NAME)] = None,
) -> SweepList:
    """Sweeps, newest first."""
    store = store_of(request)
    found = store.sweeps.newest(limit, definition=definition, before=before)
    more = found[-1].id if len(found) == limit else None
    return SweepList(heads(store, found), more)


@router.post("/sweeps", tags=["sweeps"], status_code=201, responses=responses(415, 502, 504))
def start(request: Request, caller: MayRun, wanted: StartSweep, response: Response) -> Started:
    """Start a sweep. Answers once its process has registered it, which takes seconds."""
    sweep_id = _starter(request).start(wanted)
    response.headers["Location"] = str(request.url_for("sweep", sweep_id=sweep_id).path)
    return _started(request, sweep_id)


@router.get("/sweeps/{sweep_id}", tags=["sweeps"], responses=responses(404))
def sweep(request: Request, caller: MayRead, sweep_id: Id) -> SweepDetail:
    """One sweep with its winners."""
    store = store_of(request)
    return detail(store, store.sweeps.get(sweep_id))


@router.post("/sweeps/{sweep_id}/resume", tags=["sweeps"], status_code=202, responses=responses(404, 409, 502, 504))
def resume(request: Request, caller: MayRun, sweep_id: Id) -> Started:
    """Continue a sweep that was stopped or whose process died."""
    _starter(request).resume(sweep_id)
    return _started(request, sweep_id)


@router.delete("/sweeps/{sweep_id}", tags=["sweeps"], status_code=202, responses=responses(404))
def stop(request: Request, caller: MayRun, sweep_id: Id) -> Started:
    """Ask a sweep to stop. Finished trials are kept; it ends as INTERRUPTED and can be resumed."""
    store = store_of(request)
    if state_now(store.sweeps.get(sweep_id)) == SweepState.RUNNING:
        store.sweeps.request_stop(sweep_id)
    return _started(request, sweep_id)


@router.get("/sweeps/{sweep_id}/trials", tags=["sweeps"], responses=responses(404))
def trials(
    request: Request,
    caller: MayRead,
    sweep_id: Id,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="only trials with a greater id")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> TrialList:
    """Trials in the order in which they were committed."""
    store = store_of(request)
    store.sweeps.get(sweep_id)
    found = store.trials.of(sweep_id, measurements=False, after_id=after, limit=limit)
    more = found[-1].id if len(found) == limit else None
    return TrialList([views.trial_row(t) for t in found], more)


@router.get("/sweeps/{sweep_id}/trials/{number}", tags=["sweeps"], responses=responses(404))
def trial(request: Request, caller: MayRead, sweep_id: Id, number: int) -> TrialDetail:
    """One trial with its build, samples and clocks."""
    return views.trial_detail(find_trial(store_of(request), sweep_id, number))


def find_trial(store: Store, sweep_id: int, number: int) -> TrialRecord:
    """A trial by its number, with details.

    Raises:
        ProblemError: 404.
        NoSuchSweep: There is no such sweep.
    """
    store.sweeps.get(sweep_id)
    found = store.trials.of(sweep_id, details=True, number=number) if abs(number) < 2**31 else []
    if not found:
        raise ProblemError(404, f"sweep {sweep_id} has no trial {number}")
    return found[0]


@router.get(
    "/sweeps/{sweep_id}/events",
    tags=["sweeps"],
    responses=responses(404) | {200: {"content": {"text/event-stream": {}}, "description": "trial, state, end"}},
    response_class=StreamingResponse,
)
async def events(
    request: Request,
    caller: MayRead,
    sweep_id: Id,
    last_event_id: Annotated[str | None, Header(max_length=30)] = None,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="as Last-Event-ID, for the first request")] = 0,
) -> StreamingResponse:
    """A sweep's progress as server-sent events. A client that reconnects with ``Last-Event-ID`` misses nothing.

    The stream ends when the token is revoked or expires.
    """
    store = store_of(request)
    state = request.app.state
    await request.app.state.in_thread(store.sweeps.get, sweep_id)
    if state.streams >= state.settings.max_streams:
        raise ProblemError(503, "too many event streams are open", headers={"Retry-After": "5"})
    token = presented(request)

    async def allowed() -> bool:
        return await state.guard.caller(token) is not None

    known = last_event_id or ""
    seen = int(known) if known.isascii() and known.isdigit() and int(known) <= MAX_ID else after

    async def counted() -> AsyncIterator[bytes]:
        state.streams += 1
        STREAMS.inc()
        try:
            async for part in stream(store, sweep_id, seen, allowed):
                yield part
        finally:
            state.streams -= 1
            STREAMS.dec()

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(counted(), media_type="text/event-stream", headers=headers)


@router.get("/solutions", tags=["solutions"])
def solutions(
    request: Request, caller: MayRead, definition: Annotated[str | None, Query(pattern=NAME)] = None
) -> SolutionList:
    """Exported Solutions, newest first."""
    found = store_of(request).exports.newest(definition)
    return SolutionList([views.solution_head(e) for e in found])


@router.get(
    "/solutions/{solution_id}",
    tags=["solutions"],
    responses=responses(404) | {200: {"content": {"application/json": {}}, "description": "a Solution"}},
)
def solution(request: Request, caller: MayRead, solution_id: Id) -> Response:
    """An exported Solution, byte for byte as it was verified: flashinfer-bench's JSON."""
    found = store_of(request).exports.get(solution_id)
    if found is None or not found.content:
        raise ProblemError(404, f"there is no Solution {solution_id}")
    headers = {"ETag": f'"{found.digest}"', "Cache-Control": "private, max-age=86400, immutable"}
    return Response(found.content, media_type="application/json", headers=headers)


def _starter(request: Request) -> Starter:
    starter: Starter = request.app.state.starter
    return starter


def _started(request: Request, sweep_id: int) -> Started:
    state = state_now(store_of(request).sweeps.get(sweep_id))
    return Started(id=sweep_id, state=str(state), url=f"/sweeps/{sweep_id}")
