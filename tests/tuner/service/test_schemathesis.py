"""Whatever the OpenAPI document allows, and much that it forbids: no 5xx, no status or body it does not name.

Sends generated requests to a real server on which nothing can be started, over every route of the document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from db.records import ExportRecord
from db.store import Store

schemathesis = pytest.importorskip("schemathesis", reason="needs the package schemathesis")

from schemathesis import checks  # noqa: E402
from schemathesis.specs.openapi import checks as openapi_checks  # noqa: E402

EXAMPLES = 15
"""Generated requests per route."""

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def document(serve: Callable[..., Any], scene: Any) -> Iterator[Any]:
    """The document of a server with a finished sweep and a Solution; every event stream on it ends."""
    server = serve("--rate-per-s", "0", "--max-running-sweeps", "0")
    with Store.open(server.db) as store:
        sweep_id = scene(store).finished()
        store.exports.record(ExportRecord(sweep_id, "fast", "digest", content=json.dumps({"name": "fast"}), path="/x"))
    yield schemathesis.openapi.from_url(f"{server.url}/api/v1/openapi.json")
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_answer_is_one_that_the_document_names(document: Any, mode: Any) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 15
    sent = 0
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: Any) -> None:
            nonlocal sent
            sent += 1
            case.call_and_validate(checks=CHECKS, timeout=60)

        if mode.value == "positive" or any(
            operation.iter_parameters()
        ):  # a route that takes nothing cannot be asked wrongly
            holds()
    assert sent >= EXAMPLES
