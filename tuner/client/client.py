"""A typed client of the HTTP service, for inference servers and scripts. It loads neither torch nor Ray.

>>> client = Client("http://tuner.example:8080", token="tuner_...")              # doctest: +SKIP
>>> best = client.best_config("gemm_n512_k1024", {"m": 57}, hardware="auto")      # doctest: +SKIP
>>> best.config if best else None                                                # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from tuner.client.answer_cache import AnswerCache, BestAnswer, Kept
from tuner.errors import EXIT_USAGE, TunerError, UnusableEnvironmentError, UsageError
from tuner.results import documents
from tuner.results.documents import SweepDetail, SweepHead

HARDWARE_HEADER = "Tuner-Hardware"
_MAX_AGE = re.compile(r"max-age=(\d+)")
_RETRIED = (429, 500, 502, 503, 504)


class ServiceError(TunerError):
    """The service refused; ``status`` is the HTTP status, the message what it said."""

    exit_code = EXIT_USAGE

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token must not follow a redirect to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _UnavailableError(Exception):
    """No answer, or one that says to try later. The request is repeated a few times, then given up."""


class Client:
    """Talks to one service. Safe to use from several threads and processes.

    Args:
        url: Such as ``http://tuner.example:8080``.
        token: Default: ``TUNER_TOKEN``; None for a server that asks for none.
        timeout_s: Limit for one attempt.
        attempts: How often a call that only reads is tried; starting a sweep is never repeated.
        cache_dir: Where answers of :meth:`best_config` are kept; default: the user's cache folder.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 5.0,
        attempts: int = 3,
        cache_dir: Path | str | None = None,
    ) -> None:
        parsed = urllib.parse.urlsplit(url)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise UsageError(f"service URL {url!r} must look like http://HOST:PORT")
        self._url = url.rstrip("/")
        self._token = token or os.environ.get("TUNER_TOKEN") or None
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._cache = AnswerCache(cache_dir)
        # Loopback is this machine, which no proxy can reach.
        direct = (urllib.request.ProxyHandler({}),) if _is_loopback(parsed.hostname) else ()
        self._proxy = "" if direct else urllib.request.getproxies().get(parsed.scheme, "")
        if self._proxy and urllib.request.proxy_bypass(parsed.hostname):
            self._proxy = ""
        self._opener = urllib.request.build_opener(_NoRedirect, *direct)

    def best_config(
        self,
        definition: str,
        axes: Mapping[str, int] | None = None,
        *,
        hardware: str | None = None,
        target: str | None = None,
        profile: str | None = None,
    ) -> BestAnswer | None:
        """The best known config for a problem size; None if the service has no record.

        A cached answer that is younger than the service allows is returned without asking. If the service cannot be
        reached, the last answer is returned with ``stale=True``.

        Args:
            definition: Name of the definition.
            axes: Values of the variable axes, such as ``{"seq_len": 57}``.
            hardware: A GPU or CPU name as recorded; ``auto`` for this machine's.
            target: ``cpu``, ``sm_90a`` or ``sm_100a``; None for whatever the hardware was tuned for.
            profile: What the inputs look like, such as ``hot:3``; None for the mix that was tuned for.

        Raises:
            ServiceError: The service refused the question or the token.
            UnusableEnvironmentError: It cannot be reached, and has never answered this question.
        """
        query = [("definition", definition), *(("axes", f"{k}={v}") for k, v in sorted((axes or {}).items()))]
        if hardware is not None:
            query.append(("hardware", hardware))
        if target is not None:
            query.append(("target", target))
        if profile is not None:
            query.append(("profile", profile))
        own = ""
        if hardware == "auto":
            from workers.devices.environment import own_hardware

            own = own_hardware()
        key = hashlib.sha256(json.dumps([self._url, query, own]).encode()).hexdigest()[:32]
        kept = self._cache.read(key)
        if kept is not None and 0 <= time.time() - kept.fetched_at < kept.max_age_s:
            return kept.answer()
        headers = ({HARDWARE_HEADER: own} if own else {}) | ({"If-None-Match": kept.etag} if kept else {})
        try:
            status, reply_headers, body = self._read(f"/api/v1/best-config?{urllib.parse.urlencode(query)}", headers)
        except UnusableEnvironmentError:
            if kept is None:
                raise
            return kept.answer(stale=True)
        document = kept.document if status == 304 and kept is not None else self._json(body)
        if status == 404:
            self._cache.drop(key)
            return None
        max_age = _MAX_AGE.search(reply_headers.get("cache-control", ""))
        age = reply_headers.get("age", "0")
        max_age_s = float(max_age[1]) - float(age if age.isdecimal() else 0) if max_age else 0.0
        with self._readable():
            kept = Kept(reply_headers.get("etag", ""), time.time(), max_age_s, document)
        self._cache.write(key, kept)
        return kept.answer()

    def solution(self, solution_id: int) -> dict[str, Any]:
        """An exported Solution as flashinfer-bench's document."""
        return self._document(f"/api/v1/solutions/{solution_id}")

    def sweeps(self, *, limit: int = 50, definition: str | None = None) -> list[SweepHead]:
        """The newest sweeps first."""
        query = {"limit": limit} | ({"definition": definition} if definition else {})
        document = self._document(f"/api/v1/sweeps?{urllib.parse.urlencode(query)}")
        with self._readable():
            return [documents.read(SweepHead, s) for s in document["sweeps"]]

    def sweep(self, sweep_id: int) -> SweepDetail:
        """One sweep with its winners."""
        document = self._document(f"/api/v1/sweeps/{sweep_id}")
        with self._readable():
            return documents.read(SweepDetail, document)

    def start_sweep(self, definition: str, **settings: Any) -> SweepDetail:
        """Start a sweep; waits until its process has registered it, which takes seconds.

        Args:
            definition: A definition of the server's dataset.
            **settings: Fields of the API's ``StartSweep``: ``space``, ``target``, ``max_trials``, ``budget_s``, ...
        """
        body = json.dumps({"definition": definition, **settings}).encode()
        started = self._once("POST", "/api/v1/sweeps", body, timeout_s=180)
        return self.sweep(started["id"])

    def resume_sweep(self, sweep_id: int) -> SweepDetail:
        """Continue a sweep that was stopped or whose process died."""
        self._once("POST", f"/api/v1/sweeps/{sweep_id}/resume", b"", timeout_s=180)
        return self.sweep(sweep_id)

    def stop_sweep(self, sweep_id: int) -> SweepDetail:
        """Ask a sweep to stop; what it finished is kept."""
        self._once("DELETE", f"/api/v1/sweeps/{sweep_id}", None, timeout_s=self._timeout_s)
        return self.sweep(sweep_id)

    def events(self, sweep_id: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """A sweep's progress as (kind, document): ``trial``, ``state`` and at last ``end``.

        After a lost connection the stream continues where it was; it ends with an error after ``attempts`` failures in
        a row.
        """
        seen, failures = "0", 0
        while True:
            try:
                with self._open("GET", f"/api/v1/sweeps/{sweep_id}/events", None, {"Last-Event-ID": seen}, 30) as reply:
                    for event_id, kind, document in _events(reply):
                        seen, failures = event_id, 0
                        yield kind, document
                        if kind == "end":
                            return
            except urllib.error.HTTPError as error:
                raise _refusal(error) from None
            except (OSError, http.client.HTTPException) as error:
                failures += 1
                if failures >= self._attempts:
                    raise UnusableEnvironmentError(f"service {self._url} cannot be reached: {error}") from None
            time.sleep(0.2 * 2**failures)

    def _document(self, path: str) -> dict[str, Any]:
        status, _, body = self._read(path, {})
        document = self._json(body)
        if status == 404:
            raise ServiceError(404, str(document.get("detail", "not found")))
        return document

    def _json(self, body: bytes) -> dict[str, Any]:
        """The object that the service answers; what else answers there, as a proxy's page, is no answer of its."""
        with self._readable():
            document = json.loads(body)
            if not isinstance(document, dict):
                raise ValueError(f"needed is a JSON object, not {document!r}")
            return document

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn the error of a document that cannot be read into one line.

        Raises:
            UnusableEnvironmentError: It cannot be read.
        """
        try:
            yield
        except (ValueError, KeyError) as error:
            why = " ".join(str(error).split())[:300]
            raise UnusableEnvironmentError(
                f"service {self._url} answers what this version cannot read: {why}"
            ) from None

    def _read(self, path: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, lower-case headers and body of a GET, repeated with growing pauses; 304 and 404 are answers.

        Raises:
            ServiceError: The service refused.
            UnusableEnvironmentError: It cannot be reached, or keeps answering that it is unavailable.
        """
        patience = Retrying(
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            retry=retry_if_exception_type(_UnavailableError),
            reraise=True,
        )
        try:
            return patience(self._get, path, headers)
        except _UnavailableError as error:
            raise UnusableEnvironmentError(f"service {self._url} cannot be reached: {error}") from None

    def _get(self, path: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        try:
            with self._open("GET", path, None, headers, self._timeout_s) as reply:
                return reply.status, {k.lower(): v for k, v in reply.headers.items()}, reply.read()
        except urllib.error.HTTPError as error:
            if error.code in (304, 404):
                return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()
            if error.code in _RETRIED:
                raise _UnavailableError(f"it answered {error.code}") from None
            raise _refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
            raise _UnavailableError(why + self._through()) from None

    def _once(self, method: str, path: str, body: bytes | None, timeout_s: float) -> dict[str, Any]:
        """The answer to a request that changes something; such a request is never repeated."""
        try:
            with self._open(method, path, body, {"Content-Type": "application/json"}, timeout_s) as reply:
                document: dict[str, Any] = json.load(reply)
                return document
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise UnusableEnvironmentError(f"service {self._url} cannot be reached: {error}{self._through()}") from None

    def _through(self) -> str:
        """The proxy that requests go through, for messages."""
        return f" (through proxy {self._proxy}; no_proxy names hosts without one)" if self._proxy else ""

    def _open(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float) -> Any:
        own = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = urllib.request.Request(self._url + path, data=body, method=method, headers={**own, **headers})
        return self._opener.open(request, timeout=timeout_s)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _refusal(error: urllib.error.HTTPError) -> ServiceError:
    """What the service's problem document says."""
    try:
        detail = json.loads(error.read())["detail"]
    except (ValueError, KeyError, TypeError):
        detail = error.reason
    return ServiceError(error.code, f"the service answered {error.code}: {detail}")


def _events(reply: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    fields: dict[str, str] = {}
    for raw in reply:
        line = raw.decode().rstrip("\r\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}
