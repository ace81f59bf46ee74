"""Head and body of an answer leave together, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

pytest.importorskip("uvicorn", reason="needs the packages of tuner[serve]")

from tuner.service.middleware.one_packet import Joining

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"body"


class Wire:
    """A transport that keeps each packet."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.closed_after = -1

    def write(self, data: bytes) -> None:
        self.packets.append(data)

    def close(self) -> None:
        self.closed_after = len(self.packets)

    def get_extra_info(self, name: str) -> str:
        return name


def sent(talk: Callable[[Joining], object]) -> Wire:
    """What has left after a turn of the loop."""
    wire = Wire()

    async def follow() -> None:
        talk(Joining(wire, asyncio.get_running_loop()))  # type: ignore[arg-type]
        await asyncio.sleep(0)

    asyncio.run(follow())
    return wire


def test_head_and_body_are_one_packet() -> None:
    assert sent(lambda t: [t.write(part) for part in (HEAD, BODY, HEAD, b"", BODY)]).packets == [
        HEAD + BODY,
        HEAD,
        BODY,
    ]


def test_a_head_whose_body_is_late_does_not_wait_for_it() -> None:
    assert sent(lambda t: t.write(HEAD)).packets == [HEAD]


def test_a_connection_is_closed_after_the_head() -> None:
    wire = sent(lambda t: (t.write(HEAD), t.close()))
    assert (wire.packets, wire.closed_after) == ([HEAD], 1)


def test_all_else_is_asked_of_the_transport() -> None:
    wire = sent(lambda t: t.write(t.get_extra_info("peername").encode()))
    assert wire.packets == [b"peername"]
