"""The API against a real server: what it answers, how it refuses, and what it never tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from db.records import ExportRecord
from db.store import Store
from tuner.results.report import write_report
from tuner.sweeps.setup import open_dataset

MOE = "moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256"

PROBLEM = "application/problem+json"
HOSTILE = [
    "'; DROP TABLE sweep; --",
    '" OR 1=1 --',
    "../../etc/passwd",
    "..%2f..%2fetc",
    "a\x00b",
    "x" * 300,
    "gemm/..",
]


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    return serve("--rate-per-s", "0")


@pytest.fixture(scope="module")
def stage(server: Any, scene: Any) -> Iterator[Any]:
    """One finished sweep of the definition ``gemm``, its regime up to 16, with a Solution."""
    with Store.open(server.db) as store:
        filled = scene(store)
        filled.sweep_id = filled.finished(filled.winner(2))
        content = json.dumps({"name": "gemm-fast", "sources": []})
        filled.export_id = store.exports.record(
            ExportRecord(filled.sweep_id, "gemm-fast", "digest1", content=content, path="/srv/secret/place.json")
        )
        yield filled


@pytest.fixture
def client(server: Any, stage: Any) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def ask(client: httpx.Client, *axes: str, **more: Any) -> httpx.Response:
    """A best-config lookup of ``gemm``."""
    headers = more.pop("headers", {})
    return client.get("/api/v1/best-config", params={"definition": "gemm", "axes": list(axes), **more}, headers=headers)


def is_problem(reply: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer that must be one."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == PROBLEM
    document = reply.json()
    assert document["status"] == status
    assert document["title"]
    return dict(document)


def test_an_exact_size_is_answered_with_the_measured_figures(client: httpx.Client, stage: Any) -> None:
    answer = ask(client, "seq_len=10").json()
    assert (answer["found"], answer["config"], answer["hardware"]) == ("exact", {"tile": 2}, "NVIDIA H100")
    assert (answer["median_us"], answer["low_us"], answer["high_us"]) == (3.0, 2.9, 3.1)
    assert (answer["solution"], answer["export_id"], answer["sweep_id"]) == (
        "gemm-fast",
        stage.export_id,
        stage.sweep_id,
    )
    assert answer["environment"]["versions"] == {"torch": "2.13.0"}
    assert answer["age_s"] >= 0


def test_how_it_was_found_follows_the_size(client: httpx.Client) -> None:
    assert ask(client, "seq_len=12").json()["found"] == "regime"
    assert ask(client, "seq_len=30").json()["found"] == "nearest"
    assert is_problem(ask(client, "seq_len=30000"), 404)["found"] == "none"


def test_hardware_is_never_substituted(client: httpx.Client) -> None:
    assert ask(client, "seq_len=10", hardware="nvidia h100").status_code == 200
    assert is_problem(ask(client, "seq_len=10", hardware="NVIDIA B200"), 404)["found"] == "none"


def test_hardware_auto_is_what_the_client_says_it_has(client: httpx.Client) -> None:
    assert ask(client, "seq_len=10", hardware="auto", headers={"Tuner-Hardware": "NVIDIA H100"}).status_code == 200
    is_problem(ask(client, "seq_len=10", hardware="auto", headers={"Tuner-Hardware": "NVIDIA B200"}), 404)
    is_problem(ask(client, "seq_len=10", hardware="auto"), 422)


def test_an_unchanged_answer_costs_no_body(client: httpx.Client) -> None:
    first = ask(client, "seq_len=10")
    assert "max-age=" in first.headers["cache-control"]
    again = ask(client, "seq_len=10", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert ask(client, "seq_len=1").headers["etag"] != first.headers["etag"]


def test_a_question_that_is_not_complete_says_what_is_missing(client: httpx.Client) -> None:
    assert "seq_len" in is_problem(ask(client), 422)["detail"]
    assert "seq_len" in is_problem(ask(client, "sequence=5"), 422)["detail"]
    for axis in ("seq_len=-1", "seq_len=1e3", "seq_len", "=5", "seq_len=99999999999999999999"):
        is_problem(ask(client, axis), 422)
    is_problem(ask(client, "seq_len=5", objective="beauty"), 422)


def test_sweeps_are_listed_in_pages(client: httpx.Client, stage: Any) -> None:
    ids = [stage.sweep(max_trials=9) for _ in range(3)]
    first = client.get("/api/v1/sweeps", params={"limit": 2}).json()
    assert [s["id"] for s in first["sweeps"]] == [ids[2], ids[1]]
    assert first["sweeps"][0]["max_trials"] == 9
    second = client.get("/api/v1/sweeps", params={"limit": 2, "before": first["next_before"]}).json()
    assert second["sweeps"][0]["id"] == ids[0]
    for sweep_id in ids:
        stage.store.sweeps.finish(sweep_id, "INTERRUPTED", {})


def test_one_sweep_has_its_winners_and_trials(client: httpx.Client, stage: Any) -> None:
    sweep = client.get(f"/api/v1/sweeps/{stage.sweep_id}").json()
    assert (sweep["state"], sweep["trials_by_state"], sweep["resumable"]) == ("DONE", {"PASSED": 4}, False)
    assert sweep["winners"][0]["config"] == {"tile": 2}
    trials = client.get(f"/api/v1/sweeps/{stage.sweep_id}/trials", params={"limit": 3}).json()
    assert [t["number"] for t in trials["trials"]] == [0, 1, 2]
    rest = client.get(f"/api/v1/sweeps/{stage.sweep_id}/trials", params={"after": trials["next_after"]}).json()
    assert ([t["number"] for t in rest["trials"]], rest["next_after"]) == ([3], None)
    one = client.get(f"/api/v1/sweeps/{stage.sweep_id}/trials/1").json()
    assert one["build"]["figures"] == {"registers": 168}
    assert one["measurements"][0]["samples_us"] == [2.5, 1.5, 2.0]


def test_a_solution_leaves_as_it_was_verified(client: httpx.Client, stage: Any) -> None:
    listed = client.get("/api/v1/solutions").json()["solutions"]
    assert [s["name"] for s in listed] == ["gemm-fast"]
    assert "secret" not in json.dumps(listed)
    assert client.get(f"/api/v1/solutions/{stage.export_id}").json() == {"name": "gemm-fast", "sources": []}
    is_problem(client.get("/api/v1/solutions/999"), 404)


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/nothing", "/api/v1/sweeps/99", "/api/v1/sweeps/99/events",
                                  "/api/v1/sweeps/99/trials", "/api/v1/sweeps/99/trials/0", "/static/nothing.js",
                                  "/static/../app.py", "/static/..%2f..%2fapp.py", "/sweeps/99"])  # fmt: skip
def test_what_is_not_there_is_a_problem_document(client: httpx.Client, path: str) -> None:
    is_problem(client.get(path), 404)


def test_a_browser_asks_again_for_scripts_it_has(client: httpx.Client) -> None:
    first = client.get("/static/sweep.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/static/sweep.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_method_that_is_not_known_is_a_problem_document(client: httpx.Client) -> None:
    reply = client.put("/api/v1/sweeps")
    is_problem(reply, 405)
    assert reply.headers["allow"]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    ("path", "name"),
    [("/api/v1/best-config", "definition"), ("/api/v1/best-config", "axes"), ("/api/v1/best-config", "hardware"),
     ("/api/v1/best-config", "objective"), ("/api/v1/sweeps", "definition"), ("/api/v1/sweeps", "limit"),
     ("/api/v1/sweeps", "before"), ("/api/v1/solutions", "definition"), ("/best", "definition"), ("/compare", "a")],
)  # fmt: skip
def test_hostile_text_in_any_parameter_is_refused_or_finds_nothing(
    client: httpx.Client, stage: Any, path: str, name: str, hostile: str
) -> None:
    reply = client.get(path, params={"definition": "gemm", name: hostile})
    assert reply.status_code in (404, 422), reply.text
    assert is_problem(reply, reply.status_code)
    assert "Traceback" not in reply.text
    assert len(stage.store.winners.of(stage.sweep_id)) == 1


SQL = ["'; DROP TABLE sweep; --", '" OR 1=1 --', "gemm' UNION SELECT secret_hash FROM api_token --", "\\'; --"]


@pytest.mark.parametrize("hostile", SQL)
@pytest.mark.parametrize("field", ["definition", "space", "target", "sampler", "workloads", "max_trials", "seed"])
def test_sql_in_any_field_of_a_body_is_refused(client: httpx.Client, stage: Any, field: str, hostile: str) -> None:
    body = {"definition": "gemm_n512_k1024", field: [hostile] if field == "workloads" else hostile}
    document = is_problem(client.post("/api/v1/sweeps", json=body), 422)
    assert field in json.dumps(document)
    assert len(stage.store.winners.of(stage.sweep_id)) == 1


@pytest.mark.parametrize("hostile", SQL)
def test_sql_in_headers_and_paths_finds_nothing(client: httpx.Client, stage: Any, hostile: str) -> None:
    is_problem(ask(client, "seq_len=10", hardware="auto", headers={"Tuner-Hardware": hostile}), 404)
    assert ask(client, "seq_len=10", headers={"If-None-Match": hostile}).status_code == 200
    bearer = {"Authorization": f"Bearer {hostile}"}  # means nothing to an open server
    assert client.get("/api/v1/sweeps", headers=bearer).status_code == 200
    events = client.get(f"/api/v1/sweeps/{stage.sweep_id}/events", headers={"Last-Event-ID": hostile[:30]})
    assert events.text.count("event: trial") == 4
    quoted = quote(hostile, safe="")
    for path in ("/api/v1/sweeps/{}", "/api/v1/sweeps/1/trials/{}", "/api/v1/solutions/{}", "/sweeps/{}"):
        is_problem(client.get(path.format(quoted)), 422)
    assert client.post("/login", data={"token": hostile, "to": hostile}).headers["location"] == "/"
    assert len(stage.store.winners.of(stage.sweep_id)) == 1


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"definition": "none_such"}, "none_such"),
        ({"definition": "../../etc/passwd"}, "definition"),
        ({"definition": "gemm_n512_k1024", "space": "/srv/spaces/mine"}, "space"),
        ({"definition": "gemm_n512_k1024", "space": "none_such"}, "none_such"),
        ({"definition": "gemm_n512_k1024", "dataset": "/srv/data"}, "dataset"),
        ({"definition": "gemm_n512_k1024", "code": "print(1)"}, "code"),
        ({"definition": "gemm_n512_k1024", "target": "sm_10"}, "target"),
        ({"definition": "gemm_n512_k1024", "max_trials": 0}, "max_trials"),
        ({"definition": "gemm_n512_k1024", "budget_s": -1}, "budget_s"),
        ({"definition": "gemm_n512_k1024", "sampler": "none_such"}, "none_such"),
        ({"definition": "gemm_n512_k1024", "target": "cpu"}, "space"),
        ({"definition": MOE, "target": "cpu", "workloads": ["zzz"]}, "starts with zzz"),
        ({"definition": MOE, "target": "cpu", "axes": ["seq_len=2"]}, "sizes of seq_len are 1, "),
        ({"definition": MOE, "target": "cpu", "axes": ["rows=2"]}, "there is no axis 'rows'"),
        ([], "body"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused_before_anything_starts(client: httpx.Client, body: Any, word: str) -> None:
    document = is_problem(client.post("/api/v1/sweeps", json=body), 422)
    assert word in json.dumps(document)


def test_a_body_that_is_no_json_is_refused(client: httpx.Client) -> None:
    reply = client.post("/api/v1/sweeps", content=b"{", headers={"Content-Type": "application/json"})
    assert is_problem(reply, reply.status_code)["status"] in (400, 422)
    text = client.post("/api/v1/sweeps", content=b'{"definition": "gemm"}', headers={"Content-Type": "text/plain"})
    assert is_problem(text, text.status_code)["status"] in (415, 422)


def test_a_huge_body_is_refused_with_and_without_a_length(client: httpx.Client) -> None:
    is_problem(client.post("/api/v1/sweeps", content=b"x" * 100_000), 413)
    is_problem(client.post("/api/v1/sweeps", content=(b"x" * 10_000 for _ in range(10))), 413)


def test_a_huge_query_is_refused(client: httpx.Client) -> None:
    is_problem(client.get("/api/v1/sweeps", params={"definition": "x" * 5000}), 414)


def test_another_host_name_is_refused_on_loopback(client: httpx.Client) -> None:
    is_problem(client.get("/api/v1/sweeps", headers={"Host": "evil.example"}), 403)


def test_a_page_of_another_site_cannot_start_a_sweep(client: httpx.Client) -> None:
    reply = client.post("/api/v1/sweeps", json={"definition": "gemm"}, headers={"Sec-Fetch-Site": "cross-site"})
    is_problem(reply, 403)


def test_an_open_document_describes_every_route(client: httpx.Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert {"/api/v1/best-config", "/api/v1/sweeps", "/api/v1/sweeps/{sweep_id}/events", "/metrics"} <= set(
        document["paths"]
    )
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_metrics_count_requests_and_sweeps(client: httpx.Client) -> None:
    ask(client, "seq_len=10")
    text = client.get("/metrics").text
    assert 'tuner_http_requests_total{method="GET",route="/api/v1/best-config",status="200"}' in text
    assert 'tuner_sweeps{state="DONE"} 1.0' in text
    assert 'tuner_best_config_lookups_total{found="exact"}' in text


def test_nothing_comes_from_elsewhere(client: httpx.Client, stage: Any) -> None:
    for path in ("/", f"/sweeps/{stage.sweep_id}", f"/sweeps/{stage.sweep_id}/trials/0", "/best", "/compare", "/docs"):
        page = client.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 200, path
        assert "//cdn" not in page.text
        assert 'src="http' not in page.text
        assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "plotly.js v" in client.get("/plotly.js").text[:200]


def test_a_page_that_is_not_there_is_a_page(client: httpx.Client) -> None:
    reply = client.get("/sweeps/99", headers={"Accept": "text/html"})
    assert reply.status_code == 404
    assert "there is no sweep 99" in reply.text
    assert reply.headers["content-type"].startswith("text/html")


def test_logs_and_reasons_lose_their_folders(client: httpx.Client, stage: Any) -> None:
    sweep_id = stage.sweep()
    reason = 'File "/home/somebody/secret/kernel.py", line 3: no such tile'
    stage.store.trials.commit(
        stage.trial(sweep_id, 0, state="COMPILE_ERROR", reason=reason, measurements=(), objective=None)
    )
    stage.store.sweeps.finish(sweep_id, "INTERRUPTED", {})
    for path in (f"/sweeps/{sweep_id}", f"/sweeps/{sweep_id}/trials/0", f"/api/v1/sweeps/{sweep_id}/trials"):
        text = client.get(path, headers={"Accept": "text/html"}).text
        assert "kernel.py" in text
        assert "somebody" not in text


def test_the_workloads_of_known_work_are_held_against_the_roofline(
    client: httpx.Client, stage: Any, scene: Any
) -> None:
    body = open_dataset(None).definition("gemm_n512_k1024")
    (size,) = (name for name, axis in body["axes"].items() if axis["type"] == "var")
    known = scene(stage.store, definition="gemm_n512_k1024", hardware="NVIDIA H200")
    known.definition_id = stage.store.catalog.register_definition("gemm_n512_k1024", "gemm", body)
    for uuid in ("w1", "w2"):
        stage.store.catalog.register_workload(known.definition_id, uuid, {size: 1}, "shipped")
    page = client.get(f"/sweeps/{known.finished()}").text
    assert "of roofline" in page
    assert ">22 %<" in page  # 0.219 us of 1 us: 1 MB at 4.8 TB/s
    assert "from the data sheet of NVIDIA H200" in page
    assert "No roofline" in client.get(f"/sweeps/{stage.sweep_id}").text


def test_a_cpu_is_held_against_its_measured_rates_and_the_page_and_the_report_say_so(
    client: httpx.Client, stage: Any, scene: Any, tmp_path: Path
) -> None:
    body = open_dataset(None).definition("gemm_n512_k1024")
    (size,) = (name for name, axis in body["axes"].items() if axis["type"] == "var")
    known = scene(stage.store, definition="gemm_n512_k1024", hardware="AMD EPYC", target="cpu")
    known.definition_id = stage.store.catalog.register_definition("gemm_n512_k1024", "gemm", body)
    for uuid in ("w1", "w2"):
        stage.store.catalog.register_workload(known.definition_id, uuid, {size: 1}, "shipped")
    sweep_id = known.finished()
    said = "rates measured on this AMD EPYC: 4.8e+03 GB/s copied, 150 Gflop/s multiplied and added"
    assert said not in client.get(f"/sweeps/{sweep_id}").text
    rates = {"copy_bytes_per_us": 4.8e6, "multiply_add_flop_per_us": 150e3}
    stage.store.catalog.set_rates(known.environment_id, rates)
    report = write_report(stage.store, sweep_id, tmp_path / "page.html")
    # 7 us of 1 us: by arithmetic, a megaflop.
    for text in (client.get(f"/sweeps/{sweep_id}").text, report.read_text()):
        assert said in text
        assert ">699 %<" in text


def test_a_sweep_whose_workers_have_not_come_up_is_shown_without_hardware(client: httpx.Client, stage: Any) -> None:
    sweep = stage.sweep(environment_id=None, definition_id=stage.store.catalog.register_definition("early", "toy", {}))
    stage.store.sweeps.finish(sweep, "FAILED", {"error_kind": "ClusterError", "error": "ClusterError: no machine"})
    told = client.get(f"/api/v1/sweeps/{sweep}").json()
    assert (told["state"], told["hardware"], told["resumable"]) == ("FAILED", "", True)
    for page in ("/", f"/sweeps/{sweep}", f"/compare?a={sweep}&b={stage.sweep_id}", "/best?definition=early"):
        assert client.get(page).status_code == 200, page
    assert "The sweep failed (ClusterError)" in client.get(f"/sweeps/{sweep}").text
    stage.store.sweeps.claim(sweep, "me", 30.0)
    assert "The sweep failed" not in client.get(f"/sweeps/{sweep}").text, "it runs again"
