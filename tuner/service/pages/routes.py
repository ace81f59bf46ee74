"""The pages: rendered on the server, live where something runs, without anything from another host."""

from __future__ import annotations

import functools
import heapq
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

import jinja2
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse

from db.records import SweepState
from tuner.format import config_text, microseconds, ratio, workload_text
from tuner.results import roofline
from tuner.results.report.figures import samples
from tuner.results.report.input_page import input_table
from tuner.results.report.page import failures, workload_rows
from tuner.results.status import NOT_FAILURES, detail, heads
from tuner.service import views
from tuner.service.api import find_trial, store_of
from tuner.service.middleware.auth import COOKIE, Caller, MayRead, presented
from tuner.service.middleware.problems import ProblemError, answer
from tuner.service.models import HARDWARE, MAX_ID, NAME, Id
from tuner.service.pages.parallel_coordinates import parallel_coordinates
from tuner.service.pages.tables import best_table, comparison, size_range
from tuner.service.start_sweep.start import choices

router = APIRouter(include_in_schema=False)

LISTED = 50
LISTED_TO_COMPARE = 200
TRIALS_SHOWN = 50
FAILURES_SHOWN = 50
DAY_S = 86400
COOKIE_S = 30 * DAY_S


class SignInNeededError(Exception):
    """The page needs a token; the visitor is sent to the sign-in page."""


@dataclass(frozen=True)
class Viewer:
    """Who looks at a page.

    Args:
        closed: Whether the server asks for tokens.
        caller: What the token allows.
        path: The path of the page.
    """

    closed: bool
    caller: Caller | None
    path: str

    @property
    def may_run(self) -> bool:
        """Whether the visitor may start and stop sweeps."""
        return self.caller is not None and "run" in self.caller.scopes


async def visitor(request: Request) -> Viewer:
    """Dependency of pages that need no token."""
    guard = request.app.state.guard
    caller = await guard.caller(presented(request))
    return Viewer(guard.closed, caller, request.url.path)


async def viewer(request: Request) -> Viewer:
    """Dependency of pages that need a token.

    Raises:
        SignInNeededError: There is none, or it is not active.
    """
    seen = await visitor(request)
    if seen.caller is None:
        raise SignInNeededError
    return seen


Visitor = Annotated[Viewer, Depends(visitor)]
SignedIn = Annotated[Viewer, Depends(viewer)]


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(us=microseconds, config=config_text, latency_us=views.latency_us, when=_when)
    environment.globals.update(ratio=ratio, size_range=size_range)
    return environment


def _when(moment: str | None) -> str:
    """A point in time as text for people."""
    return "not yet" if moment is None else moment.replace("T", " ").replace("+00:00", " UTC")


def _page(name: str, viewer: Viewer, status: int = 200, **values: Any) -> HTMLResponse:
    text = _templates().get_template(name).render(viewer=viewer, **values)
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})


@router.get("/")
def sweeps(
    request: Request, viewer: SignedIn, before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None
) -> HTMLResponse:
    """The newest sweeps, and a form that starts one."""
    store = store_of(request)
    found = store.sweeps.newest(LISTED, before=before)
    return _page(
        "sweeps.html",
        viewer,
        sweeps=heads(store, found),
        older=found[-1].id if len(found) == LISTED else None,
        newest=before is None,
        choices=choices(request.app.state.settings.dataset),
    )


@router.get("/sweeps/{sweep_id}")
def sweep(request: Request, viewer: SignedIn, sweep_id: Id) -> HTMLResponse:
    """The page of one sweep."""
    store = store_of(request)
    record = store.sweeps.get(sweep_id)
    trials = store.trials.points(sweep_id)
    failed = failures(trials, store.trials.failures(sweep_id, not_failures=NOT_FAILURES))
    shown = detail(store, record)
    reference = dict(record.summary.get("reference_by_workload_us", {}))
    has_failed = shown.state == SweepState.FAILED and "error" in record.summary  # one that is resumed keeps its summary
    floors = roofline.of_sweep(store, record, shown.winners)
    return _page(
        "sweep.html",
        viewer,
        sweep=shown,
        failure=record.summary.get("error_kind", "unknown") if has_failed else None,
        winners=shown.winners,
        workloads=[row for w in shown.winners for row in workload_rows(w, reference)],
        floors=floors.us,
        floors_from=floors.origin,
        expected=record.summary.get("expected", {}),
        failures=[{**f, "message": views.last_line(f["message"])} for f in failed[:FAILURES_SHOWN]],
        more_failures=sum(f["count"] for f in failed[FAILURES_SHOWN:]),
        inputs=input_table(record.summary.get("inputs", ())),
        drawing=parallel_coordinates(trials),
        latest=heapq.nlargest(TRIALS_SHOWN, trials, key=lambda t: t.id),
        last_id=max((t.id for t in trials), default=0),
    )


@router.get("/sweeps/{sweep_id}/figures")
def sweep_figures(request: Request, caller: MayRead, sweep_id: Id) -> Response:
    """The plots of a sweep's page."""
    drawn = request.app.state.charts.json(sweep_id)
    return Response(drawn, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get("/sweeps/{sweep_id}/trials/{number}")
def trial(request: Request, viewer: SignedIn, sweep_id: Id, number: int) -> HTMLResponse:
    """One trial: config, build, samples, clocks."""
    store = store_of(request)
    record = find_trial(store, sweep_id, number)
    sizes = store.catalog.workload_axes([m.workload for m in record.measurements])
    labels = {m.workload: workload_text(sizes[m.workload], m.profile) for m in record.measurements}
    return _page(
        "trial.html",
        viewer,
        sweep=heads(store, [store.sweeps.get(sweep_id)])[0],
        trial=views.trial_detail(record),
        log=views.without_paths((record.build.log if record.build else "").strip()[-20_000:]),
        reason=views.without_paths(record.reason.strip()[-20_000:]),
        labels=labels,
        figure=samples([(labels.get(m.workload, m.workload[:8]), m.samples_us) for m in record.measurements]),
    )


@router.get("/compare")
def compare(
    request: Request,
    viewer: SignedIn,
    a: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    b: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
) -> HTMLResponse:
    """Two sweeps side by side, on one GPU or on two."""
    store = store_of(request)
    listed = store.sweeps.newest(LISTED_TO_COMPARE)
    pair = None if a is None or b is None else [store.sweeps.get(a), store.sweeps.get(b)]
    return _page(
        "compare.html",
        viewer,
        listed=listed,
        chosen=(a, b),
        pair=None if pair is None else heads(store, pair),
        table=None if pair is None else comparison(store, pair[0], pair[1]),
    )


@router.get("/best")
def best(
    request: Request,
    viewer: SignedIn,
    definition: Annotated[str | None, Query(pattern=NAME)] = None,
    hardware: Annotated[str | None, Query(pattern=HARDWARE)] = None,
) -> HTMLResponse:
    """The best configs per definition and hardware, and a form that asks for one size."""
    store = store_of(request)
    known = store.best.swept()
    if definition is None and known:
        definition = known[0][0]
    rows = store.best.rows(definition) if definition else []
    axes = sorted({a for r in rows for w in r.winner.workloads for a in w.axes})
    return _page(
        "best.html",
        viewer,
        definitions=sorted({name for name, _ in known}),
        definition=definition,
        hardware=hardware,
        hardwares=sorted({r.environment.hardware for r in rows}),
        axes=axes or ["seq_len"],
        rows=[r for r in best_table(rows) if hardware in (None, "", r["hardware"])],
    )


@router.get("/docs")
def docs(request: Request, viewer: Visitor) -> HTMLResponse:
    """The API for people, made from its OpenAPI document."""
    application: FastAPI = request.app
    return _page("docs.html", viewer, api=application.openapi())


@router.get("/login")
def sign_in_page(viewer: Visitor, to: Annotated[str, Query(max_length=500)] = "/") -> HTMLResponse:
    """The form for a token."""
    return _page("login.html", viewer, to=_local(to), wrong=False)


@router.post("/login")
async def sign_in(request: Request, viewer: Visitor) -> Response:
    """Store a valid token in a cookie that scripts cannot read and other sites cannot use."""
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    token, to = form.get("token", [""])[0].strip(), _local(form.get("to", ["/"])[0])
    if await request.app.state.guard.caller(token) is None:
        return _page("login.html", viewer, 403, to=to, wrong=True)
    reply = RedirectResponse(to, 303)
    secure = request.url.scheme == "https"
    reply.set_cookie(COOKIE, token, max_age=COOKIE_S, httponly=True, samesite="strict", secure=secure)
    return reply


@router.post("/logout")
def sign_out() -> Response:
    """Delete the cookie."""
    reply = RedirectResponse("/login", 303)
    reply.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return reply


@router.get("/plotly.js")
def plotly_script() -> FileResponse:
    """Plotly's script, from its Python package."""
    package = importlib.util.find_spec("plotly")  # Only its path is needed; importing it takes a third of a second.
    path = Path(str(package and package.origin)).parent / "package_data" / "plotly.min.js"
    return FileResponse(path, media_type="text/javascript", headers={"Cache-Control": "public, max-age=86400"})


def _local(to: str) -> str:
    """The path if it is on this server, else the start page: no redirects to other hosts."""
    return to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/"


def install(app: FastAPI) -> None:
    """Show errors of pages as pages, and send visitors without a token to the sign-in page."""

    @app.exception_handler(SignInNeededError)
    async def on_sign_in(request: Request, _: SignInNeededError) -> Response:
        to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?to={quote(to)}", 303)

    async def error_page(request: Request, error: ProblemError) -> Response:
        if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
            return answer(error)
        return _page("error.html", await visitor(request), error.status, code=error.status, detail=error.detail)

    app.state.error_page = error_page
