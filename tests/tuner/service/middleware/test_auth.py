"""Who gets in: tokens on a real server, and how a server refuses to be open to strangers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from db.store import Store
from tuner.errors import UsageError
from tuner.service import tokens
from tuner.service.run import check
from tuner.service.settings import ServiceSettings

SWEEP = {"definition": "none_such"}


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    """A server that asks for tokens, since one was made."""
    started = serve("--rate-per-s", "0")
    started.token("read")
    return started


def status(server: Any, token: str | None, method: str = "GET", path: str = "/api/v1/sweeps", **more: Any) -> int:
    """What a request with this token is answered."""
    with server.client(token) as client:
        return int(client.request(method, path, **more).status_code)


def test_no_token_is_told_which_one_it_needs(server: Any) -> None:
    with server.client() as client:
        reply = client.get("/api/v1/sweeps")
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/api/v1/best-config?definition=a", "/api/v1/sweeps", "/api/v1/sweeps/1",
                                  "/api/v1/sweeps/1/events", "/api/v1/sweeps/1/trials", "/api/v1/definitions",
                                  "/api/v1/solutions", "/api/v1/solutions/1", "/metrics",
                                  "/sweeps/1/figures"])  # fmt: skip
def test_every_route_with_results_asks_for_a_token(server: Any, path: str) -> None:
    assert status(server, None, path=path) == 401
    assert status(server, server.token("read"), path=path) in (200, 404)


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/api/v1/openapi.json", "/docs", "/login", "/static/style.css"]
)
def test_what_holds_no_results_is_open(server: Any, path: str) -> None:
    assert status(server, None, path=path) == 200


def test_a_wrong_secret_or_form_does_not_hold(server: Any) -> None:
    good = server.token("read")
    key = tokens.parts(good)[0]  # type: ignore[index]
    other = server.token("read")
    for wrong in (f"tuner_{key}_{'A' * 43}", good[:-1], good + "A", good.upper(), key, "", "tuner__",
                  f"tuner_{key}_{tokens.parts(other)[1]}", "' OR 1=1 --", f"tuner_{key}' --_{'A' * 43}"):  # type: ignore[index]  # fmt: skip
        assert status(server, wrong) == 401, wrong
    assert status(server, good) == 200


@pytest.mark.parametrize("path", ["/api/v1/sweeps", "/api/v1/best-config?definition=gemm", "/metrics"])
def test_a_revoked_token_is_refused_at_once(server: Any, path: str) -> None:
    token = server.token("read")
    with server.client(token) as client, Store.open(server.db) as store:
        assert client.get(path).status_code in (200, 404)
        assert store.tokens.revoke(tokens.parts(token)[0])  # type: ignore[index]
        assert client.get(path).status_code == 401


def test_an_event_stream_ends_when_its_token_is_revoked(server: Any, scene: Any) -> None:
    token = server.token("read")
    with Store.open(server.db) as store, server.client(token) as client:
        sweep_id = scene(store).sweep(owner="here:1")
        with client.stream("GET", f"/api/v1/sweeps/{sweep_id}/events") as reply:
            lines = reply.iter_lines()
            assert "event: state" in [next(lines), next(lines)]
            store.tokens.revoke(tokens.parts(token)[0])  # type: ignore[index]
            assert "event: end" not in list(lines)
        store.sweeps.finish(sweep_id, "INTERRUPTED", {})


def test_an_expired_token_does_not_hold(server: Any) -> None:
    token = server.token("read", expires_in_s=1e-6)
    assert status(server, token) == 401


def test_a_reading_token_cannot_run(server: Any) -> None:
    reading, running = server.token("read"), server.token("run")
    for method, path in (
        ("POST", "/api/v1/sweeps"),
        ("POST", "/api/v1/sweeps/999/resume"),
        ("DELETE", "/api/v1/sweeps/999"),
    ):
        assert status(server, reading, method, path, json=SWEEP) == 403
        assert status(server, None, method, path, json=SWEEP) == 401
        assert status(server, running, method, path, json=SWEEP) in (404, 422)
    assert status(server, running) == 200


def test_pages_send_a_visitor_to_sign_in_and_back(server: Any) -> None:
    token = server.token("read")
    with server.client() as client:
        asked = client.get("/best?definition=gemm")
        assert (asked.status_code, asked.headers["location"]) == (303, "/login?to=/best%3Fdefinition%3Dgemm")
        assert client.post("/login", data={"token": "tuner_0_0", "to": "/"}).status_code == 403
        entered = client.post("/login", data={"token": token, "to": "/best"})
        assert (entered.status_code, entered.headers["location"]) == (303, "/best")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert client.get("/best").status_code == 200
        page = client.get("/").text
        assert 'id="start"' not in page  # a reading token gets no form that starts a sweep
        client.post("/logout")
        assert client.get("/best").status_code == 303


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_signing_in_leads_nowhere_else(server: Any, to: str) -> None:
    with server.client() as client:
        entered = client.post("/login", data={"token": server.token("read"), "to": to})
    assert entered.headers["location"] == "/"


def test_the_first_token_closes_the_server_and_its_revocation_does_not_open_it(serve: Callable[..., Any]) -> None:
    server = serve()
    with server.client() as client, Store.open(server.db) as store:
        assert client.get("/api/v1/sweeps").status_code == 200
        token = server.token("read")
        assert client.get("/api/v1/sweeps").status_code == 401
        assert status(server, token) == 200
        store.tokens.revoke(tokens.parts(token)[0])  # type: ignore[index]
        assert client.get("/api/v1/sweeps").status_code == 401
        assert status(server, token) == 401


def test_the_database_holds_no_secret(server: Any) -> None:
    token = server.token("read")
    key, secret = tokens.parts(token) or ("", "")
    with Store.open(server.db) as store:
        record = store.tokens.get(key)
    assert record is not None
    assert secret not in repr(record)
    assert record.secret_hash == tokens.hashed(secret)


def test_one_client_cannot_take_everything(serve: Callable[..., Any]) -> None:
    server = serve("--rate-per-s", "2")
    with server.client() as client:
        replies = [client.get("/healthz") for _ in range(40)]
    refused = [r for r in replies if r.status_code == 429]
    assert refused
    assert all(r.status_code in (200, 429) for r in replies)
    assert int(refused[0].headers["retry-after"]) >= 1


@pytest.fixture
def db(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/results.db"


def settings(db: str, host: str, tmp_path: Path) -> ServiceSettings:
    """Of a server that would listen there."""
    return ServiceSettings(db=db, host=host, log_dir=tmp_path, out=tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_server_without_tokens_does_not_listen_to_strangers(db: str, tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="tuner token create"):
        check(settings(db, host, tmp_path))
    with Store.open(db) as store:
        tokens.create(store, "run", expires_in_s=1e-6)
    with pytest.raises(UsageError, match="tuner token create"):
        check(settings(db, host, tmp_path))
    with Store.open(db) as store:
        tokens.create(store, "read")
    check(settings(db, host, tmp_path))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.5.5.5"])
def test_this_machine_alone_may_do_without(db: str, tmp_path: Path, host: str) -> None:
    check(settings(db, host, tmp_path))


def test_the_command_line_makes_lists_and_revokes_tokens(db: str, command: Callable[..., Any]) -> None:
    assert command("serve", "--host", "0.0.0.0", "--db", db).returncode == 2
    made = command("token", "create", "--scope", "run", "--name", "ci", "--expires-days", "1", "--db", db)
    key, secret = tokens.parts(made.stdout.strip()) or ("", "")
    listed = command("token", "list", "--db", db, "--json").stdout
    assert f'"key": "{key}"' in listed
    assert secret not in listed
    assert '"state": "active"' in listed
    assert command("token", "revoke", key, "--db", db).returncode == 0
    assert '"state": "revoked"' in command("token", "list", "--db", db, "--json").stdout
    assert command("token", "revoke", "nobody", "--db", db).returncode == 3


def test_a_request_is_written_down_without_its_secret(server: Any) -> None:
    token = server.token("read")
    assert status(server, token, path="/api/v1/sweeps?limit=7") == 200
    assert '"path": "/api/v1/sweeps"' in server.log()
    assert token not in server.log()


def test_health_needs_no_database_that_is_ready(server: Any) -> None:
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}
