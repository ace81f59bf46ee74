"""The lookup's short way: the same answers as the route's, and none that is older than it may be."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx
import pytest

from db.errors import StoreError
from db.queries.lookups import Lookups
from db.store import Store
from tuner.service.best import MAX_AGE_S, NOTHING, BestConfigs

PATH = "/api/v1/best-config"
ROUTE = "&unknown=1"
"""A parameter that the route ignores and that the short way leaves to it."""


@pytest.fixture(scope="module")
def stage(serve: Callable[..., Any], scene: Any) -> Iterator[Any]:
    """A server that asks for a token, with winners of ``gemm`` on two GPUs."""
    server = serve("--rate-per-s", "0")
    with Store.open(server.db) as store:
        filled = scene(store)
        filled.sweep_id = filled.finished(filled.winner(2))
        other = scene(store, hardware="NVIDIA B200", target="sm_100a")
        other.finished(other.winner(1))
        filled.server, filled.token = server, server.token("read")
        yield filled


@pytest.fixture
def client(stage: Any) -> Iterator[httpx.Client]:
    with stage.server.client(stage.token) as opened:
        yield opened


def without_age(reply: httpx.Response) -> dict[str, Any]:
    """The document but for what passes with time."""
    return {k: v for k, v in reply.json().items() if k != "age_s"}


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("definition=gemm&axes=seq_len=10&hardware=NVIDIA%20H100", {}),
        ("definition=gemm&axes=seq_len=10&hardware=nvidia+h100&objective=latency", {}),
        ("axes=seq_len%3D12&hardware=NVIDIA%20B200&definition=gemm", {}),
        ("definition=gemm&axes=seq_len=30&hardware=NVIDIA%20H100", {}),
        ("definition=gemm&axes=seq_len=10&target=sm_90a", {}),
        ("definition=gemm&axes=seq_len=10&hardware=auto", {"Tuner-Hardware": "NVIDIA B200"}),
    ],
)
def test_both_ways_give_the_same_answer(client: httpx.Client, query: str, headers: dict[str, str]) -> None:
    short, long = (client.get(f"{PATH}?{query}{more}", headers=headers) for more in ("", ROUTE))
    assert (short.status_code, long.status_code) == (200, 200)
    assert without_age(short) == without_age(long)
    assert short.json()["age_s"] >= 0
    for name in ("etag", "cache-control", "vary", "content-type", "x-content-type-options"):
        assert short.headers[name] == long.headers[name], name
    assert int(short.headers["age"]) <= MAX_AGE_S
    again = client.get(f"{PATH}?{query}", headers={**headers, "If-None-Match": short.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {}),
        ("definition=gemm", {}),
        ("definition=gemm&axes=seq_len=10", {}),  # known on two GPUs
        ("definition=gemm&axes=seq_len=10&hardware=auto", {}),
        ("definition=gemm&axes=seq_len=10&hardware=A100", {}),
        ("definition=gemm&axes=sequence=10&hardware=NVIDIA%20H100", {}),
        ("definition=gemm&axes=seq_len=10&hardware=NVIDIA%20H100&profile=unknown", {}),
        ("definition=gemm&definition=other&axes=seq_len=10&hardware=NVIDIA%20H100", {}),
        ("definition=gemm&axes=seq_len=30000&hardware=NVIDIA%20H100", {}),
        ("definition=gemm&axes=seq_len=10%0a&hardware=NVIDIA%20H100", {}),
        ("definition=gemm%0a&axes=seq_len=10&hardware=NVIDIA%20H100", {}),
        ("definition=gemm&axes=seq_len=10&objective=beauty", {}),
        ("definition=gemm&" + "&".join(f"axes=a{i}=1" for i in range(17)), {}),
        ("definition=gemm&axes=seq_len=10&hardware=NVIDIA%20H100", {"If-None-Match": "x" * 300}),
        ("definition=gemm&axes=seq_len=10&hardware=NVIDIA%20H100", {"Authorization": "Bearer wrong"}),
        ("definition=gemm&axes=seq_len=10&hardware=NVIDIA%20H100", {"Authorization": "Basic eDp5"}),
    ],
)
def test_what_cannot_be_answered_is_refused_by_the_route(
    client: httpx.Client, query: str, headers: dict[str, str]
) -> None:
    short, long = (client.get(f"{PATH}?{query}{more}", headers=headers) for more in ("", ROUTE))
    assert short.status_code in (401, 404, 422)
    assert (short.status_code, short.json()) == (long.status_code, long.json())


def test_the_cookie_of_the_pages_holds_for_lookups_too(stage: Any) -> None:
    url = f"{PATH}?definition=gemm&axes=seq_len=10&hardware=NVIDIA%20H100"
    with stage.server.client(cookies={"tuner_token": stage.token}) as client:
        assert client.get(url).status_code == 200
    with stage.server.client(cookies={"tuner_token": "wrong"}) as client:
        assert client.get(url).status_code == 401


def test_lookups_are_counted_as_their_route(client: httpx.Client) -> None:
    def counted() -> float:
        lines = client.get("/metrics").text.splitlines()
        name = f'tuner_http_requests_total{{method="GET",route="{PATH}",status="200"}}'
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = counted()
    client.get(f"{PATH}?definition=gemm&axes=seq_len=10&hardware=NVIDIA%20H100")
    assert counted() == before + 1


def test_sizes_that_are_nearly_as_far_away_have_their_own_distance(tmp_path: Any, scene: Any) -> None:
    async def ask(best: BestConfigs, seq_len: int) -> dict[str, Any]:
        answer, _ = await best.answer("gemm", {"seq_len": seq_len}, None)
        return dict(json.loads(answer.body(0.0)))

    async def follow() -> None:
        with Store.open(f"sqlite:///{tmp_path}/results.db") as store:
            stage = scene(store, axes={"w1": {"seq_len": 1}, "w2": {"seq_len": 10_000}})
            stage.finished(stage.winner(1, max_size=10_000))
            best = BestConfigs(store.best, cache_s=60)
            near, far = await ask(best, 20_001), await ask(best, 20_002)
            assert near["detail"] == far["detail"]
            assert (near["distance"], far["distance"]) == (2.0001, 2.0002)

    asyncio.run(follow())


def test_answers_are_kept_until_the_records_change(tmp_path: Any, scene: Any) -> None:
    async def follow() -> None:
        with Store.open(f"sqlite:///{tmp_path}/results.db") as store:
            stage = scene(store)
            best = BestConfigs(store.best, cache_s=0)

            async def ask(seq_len: int = 10) -> Any:
                return (await best.answer("gemm", {"seq_len": seq_len}, "nvidia h100"))[0]

            assert await ask() is NOTHING
            stage.finished(stage.winner(2))
            first = await ask()
            assert first.found == "exact"
            assert await ask() is first
            assert await ask(12) is await ask(13)  # of one regime
            stage.finished(stage.winner(3))
            assert (await ask()).etag != first.etag
            assert '"tile": 3' in (await ask()).text

    asyncio.run(follow())


def test_who_asks_early_enough_does_not_wait_for_the_next_read(tmp_path: Any, scene: Any) -> None:
    class Slow:
        """The store, whose reads begin when they may."""

        def __init__(self, store: Store) -> None:
            self.store, self.may, self.reads = store, threading.Event(), 0
            self.may.set()

        def stamp(self, definition: str) -> tuple[Any, ...]:
            self.reads += 1
            assert self.may.wait(60)
            return self.store.best.stamp(definition)

        def rows(self, definition: str) -> Any:
            return self.store.best.rows(definition)

    async def follow() -> None:
        with Store.open(f"sqlite:///{tmp_path}/results.db") as store:
            stage, now = scene(store), [0.0]
            stage.finished(stage.winner(2))
            slow = Slow(store)
            best = BestConfigs(cast("Lookups", slow), cache_s=10, clock=lambda: now[0])

            async def ask() -> tuple[str, int]:
                answer, age_s = await best.answer("gemm", {"seq_len": 10}, None)
                return answer.text.partition('"config": {"tile": ')[2][0], age_s

            assert await ask() == ("2", 0)
            stage.finished(stage.winner(3))
            slow.may.clear()
            now[0] = 3.9
            assert (await ask(), slow.reads) == (("2", 4), 1)
            now[0] = 7.1
            assert (await ask(), await ask()) == (("2", 8), ("2", 8))
            while slow.reads < 2:
                await asyncio.sleep(0)
            now[0] = 10.0
            late = asyncio.create_task(ask())
            await asyncio.sleep(0)
            assert not late.done()
            slow.may.set()
            assert await late == ("3", 3)  # read at 7.1
            assert slow.reads == 2

    asyncio.run(follow())


def test_a_read_that_failed_behind_the_scenes_is_told_to_who_needs_it(tmp_path: Any, scene: Any) -> None:
    async def follow() -> None:
        store, now = Store.open(f"sqlite:///{tmp_path}/results.db"), [0.0]
        stage = scene(store)
        stage.finished(stage.winner(2))
        best = BestConfigs(store.best, cache_s=10, clock=lambda: now[0])
        loud: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: loud.append(context))

        async def ask() -> str:
            return (await best.answer("gemm", {"seq_len": 10}, None))[0].found

        assert await ask() == "exact"
        (tmp_path / "results.db").rename(tmp_path / "elsewhere")
        store.close()
        now[0] = 9.0
        assert await ask() == "exact"
        now[0] = 11.0
        for _ in range(2):
            with pytest.raises(StoreError):
                await ask()
        gc.collect()
        assert loud == []

    asyncio.run(follow())


def test_a_target_is_asked_for_by_name(client: httpx.Client) -> None:
    query = f"{PATH}?definition=gemm&axes=seq_len=10"
    assert client.get(query).status_code == 422  # two GPUs, none is named
    assert client.get(f"{query}&target=sm_100a").json()["hardware"] == "NVIDIA B200"
    missing, unknown = (client.get(f"{query}&target={name}") for name in ("cpu", "tpu"))
    assert (missing.status_code, unknown.status_code) == (404, 422)
    assert "for target cpu" in missing.json()["detail"]
    assert "target 'tpu' is unknown" in unknown.json()["detail"]


def test_a_profile_is_asked_for_by_name(client: httpx.Client) -> None:
    query = f"{PATH}?definition=gemm&axes=seq_len=10&hardware=NVIDIA%20H100&profile="
    assert client.get(query + "recorded").json()["profile"] == "recorded"
    refused = client.get(query + "hot:3")
    assert refused.status_code == 422
    assert "not tuned for profile 'hot:3'; measured were recorded" in refused.json()["detail"]
