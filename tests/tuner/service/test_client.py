"""The client against a real server: typed answers, its cache, and what it does when the server is gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from db.records import ExportRecord
from db.store import Store
from tuner import Client
from tuner.client.client import ServiceError
from tuner.errors import UnusableEnvironmentError, UsageError
from tuner.results.best_config import best_config
from tuner.results.status import detail


@pytest.fixture(scope="module")
def stage(serve: Callable[..., Any], scene: Any) -> Iterator[Any]:
    """A server that asks for tokens, with one finished sweep."""
    server = serve("--rate-per-s", "0")
    with Store.open(server.db) as store:
        filled = scene(store)
        filled.server, filled.token = server, server.token("run")
        filled.sweep_id = filled.finished(filled.winner(2))
        filled.export_id = store.exports.record(ExportRecord(filled.sweep_id, "fast", "d", content='{"name": "fast"}'))
        yield filled


@pytest.fixture
def client(stage: Any, tmp_path: Path) -> Client:
    return Client(stage.server.url, stage.token, cache_dir=tmp_path)


def expire(folder: Path) -> None:
    """Makes kept answers old enough to be asked for again."""
    for path in folder.glob("*.json"):
        kept = json.loads(path.read_text())
        path.write_text(json.dumps({**kept, "max_age_s": 0}))


def test_an_answer_is_typed(client: Client, stage: Any) -> None:
    best = client.best_config("gemm", {"seq_len": 10}, hardware="NVIDIA H100")
    assert best is not None
    assert (best.config, best.found, best.median_us, best.stale) == ({"tile": 2}, "exact", 3.0, False)
    assert client.solution(best.export_id or 0) == {"name": "fast"}


def test_records_are_those_of_a_local_lookup(client: Client, stage: Any) -> None:
    here = best_config(stage.store.best, "gemm", {"seq_len": 10})
    there = client.best_config("gemm", {"seq_len": 10})
    assert here is not None
    assert there is not None
    assert {**there.document(), "age_s": here.age_s} == {**here.document(), "stale": False}
    assert there.environment == here.environment
    assert client.sweep(stage.sweep_id) == detail(stage.store, stage.store.sweeps.get(stage.sweep_id))


def test_a_kept_answer_of_another_form_counts_as_missing(client: Client, tmp_path: Path) -> None:
    client.best_config("gemm", {"seq_len": 10})
    (path,) = tmp_path.glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "document": {"config": {"tile": 99}}}))
    best = client.best_config("gemm", {"seq_len": 10})
    assert best is not None
    assert best.config == {"tile": 2}


def test_nothing_known_is_none(client: Client) -> None:
    assert client.best_config("gemm", {"seq_len": 10}, hardware="NVIDIA B200") is None
    assert client.best_config("unknown") is None


def test_a_fresh_answer_is_not_asked_for_again(client: Client, stage: Any, tmp_path: Path) -> None:
    client.best_config("gemm", {"seq_len": 10})
    elsewhere = Client(stage.server.url, "a wrong token", cache_dir=tmp_path)
    again = elsewhere.best_config("gemm", {"seq_len": 10})
    assert again is not None
    assert not again.stale


def test_an_old_answer_is_confirmed_without_its_body(client: Client, stage: Any, tmp_path: Path) -> None:
    first = client.best_config("gemm", {"seq_len": 10})
    expire(tmp_path)
    before = stage.server.log().count('"status": 304')
    assert client.best_config("gemm", {"seq_len": 10}) == first
    assert stage.server.log().count('"status": 304') == before + 1


def test_a_refusal_says_why(client: Client, stage: Any, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="seq_len") as refused:
        client.best_config("gemm")
    assert refused.value.status == 422
    with pytest.raises(ServiceError, match="token") as refused:
        Client(stage.server.url, "wrong", cache_dir=tmp_path / "other").sweeps()
    assert refused.value.status == 401
    with pytest.raises(ServiceError, match="there is no sweep 999"):
        client.sweep(999)
    with pytest.raises(ServiceError, match="unknown definition"):
        client.start_sweep("none_such")


def test_sweeps_and_their_events(client: Client, stage: Any) -> None:
    assert [s.id for s in client.sweeps(definition="gemm")] == [stage.sweep_id]
    sweep = client.sweep(stage.sweep_id)
    assert (sweep.state, sweep.trials_by_state, len(sweep.winners)) == ("DONE", {"PASSED": 4}, 1)
    assert [kind for kind, _ in client.events(stage.sweep_id)] == ["trial"] * 4 + ["state", "end"]
    assert client.stop_sweep(stage.sweep_id).state == "DONE"


@pytest.mark.parametrize("url", ["", "tuner.example", "ftp://tuner.example", "file:///etc/passwd"])
def test_an_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="http://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("path", ["", "/missing"])
def test_another_web_server_is_no_service_that_knows_nothing(path: str, tmp_path: Path) -> None:
    """Its 404 would mean that no record is known, and its page be read as an answer."""
    page = tmp_path / "api" / "v1" / "best-config"
    page.parent.mkdir(parents=True)
    page.write_text("<html>a web page</html>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(f"http://127.0.0.1:{server.server_port}{path}", cache_dir=tmp_path / "cache")
        with pytest.raises(UnusableEnvironmentError, match="what this version cannot read"):
            client.best_config("gemm")
        server.shutdown()


def test_the_command_line_asks_a_service(stage: Any, command: Callable[..., Any], tmp_path: Path) -> None:
    asked = ["best", "--definition", "gemm", "--axes", "seq_len=10", "--url", stage.server.url, "--json"]
    answer = command(*asked, TUNER_TOKEN=stage.token, XDG_CACHE_HOME=str(tmp_path))
    document = json.loads(answer.stdout)
    assert (document["config"], document["found"], document["stale"]) == ({"tile": 2}, "exact", False)
    refused = command(*asked, TUNER_TOKEN="wrong", XDG_CACHE_HOME=str(tmp_path / "other"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "401" in refused.stderr


def test_without_the_service_the_last_answer_stands(client: Client, stage: Any, tmp_path: Path) -> None:
    """The last test of this file: it ends the server."""
    first = client.best_config("gemm", {"seq_len": 10})
    assert first is not None
    stage.server.kill()
    expire(tmp_path)
    offline = client.best_config("gemm", {"seq_len": 10})
    assert offline is not None
    assert (offline.stale, offline.config, offline.median_us) == (True, first.config, first.median_us)
    with pytest.raises(UnusableEnvironmentError, match="cannot be reached"):
        client.best_config("gemm", {"seq_len": 1})
    with pytest.raises(UnusableEnvironmentError, match="cannot be reached"):
        client.sweeps()
