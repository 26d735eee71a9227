"""A flood of small events is taken, and others have their turn meanwhile; a large event stays in one piece."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from old_server import LIMITS, Body, OldServer, line, streaming
from scripted_remote import LEGACY, McpServer, Peer, dialled, serving

from moltis.transport.remote.events import Event
from moltis.transport.remote.incoming import EVENTS_IN_A_ROW, HELPING_BYTES, body_of, events_in_turn, helpings
from moltis.transport.remote.legacy import LegacyConnection

pytestmark = pytest.mark.anyio

FLOOD = b"data:{}\n\n" * 7000
"""Not longer than one read from the network."""
BETWEEN_TURNS = 2 * EVENTS_IN_A_ROW
"""Who runs first in a round of the loop is left to chance."""


class Others:
    """Somebody else on the same loop. most: how often `count` rose, at most, between two turns of theirs."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.most = 0
        self._count = count

    async def run(self) -> None:
        before = self._count()
        while True:
            await anyio.lowlevel.checkpoint()
            now = self._count()
            self.most = max(self.most, now - before)
            before = now


@asynccontextmanager
async def others(count: Callable[[], int]) -> AsyncIterator[Others]:
    """Have others run beside; what waits meanwhile must not wait for the clock, which stands still."""
    async with anyio.create_task_group() as tasks:
        them = Others(count)
        tasks.start_soon(them.run)
        yield them
        tasks.cancel_scope.cancel()


def response_of(*pieces: bytes) -> httpx2.Response:
    body = Body()
    for piece in pieces:
        body.write(piece)
    body.end()
    return streaming(body)


# --- where streams are read


async def test_a_flood_in_the_stream_of_a_reply_lets_others_run() -> None:
    async def flooding(peer: Peer) -> None:
        await peer.begin_events()
        await peer.raw(FLOOD)
        await peer.event(peer.reply())

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on["tools/call"] = flooding
        await dial.shake_hands()
        await dial.ask("ping")
        async with others(lambda: len(dial.heard.messages)) as them:
            assert isinstance(await dial.ask("tools/call"), dict)
        assert len(dial.heard.messages) > 7000
        assert 0 < them.most <= BETWEEN_TURNS


async def test_a_flood_in_the_answer_to_a_new_handshake_lets_others_run() -> None:
    async def flooding(peer: Peer) -> None:
        server.sessions.add("new")
        await peer.begin_events(mcp_session_id="new")
        await peer.raw(FLOOD)
        await peer.event(peer.reply({"protocolVersion": LEGACY, "capabilities": {}}))

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()
        server.on["initialize"] = flooding
        async with others(lambda: len(dial.heard.messages)) as them:
            assert isinstance(await dial.ask("tools/call"), dict)
        assert len(dial.heard.messages) > 7000
        assert 0 < them.most <= BETWEEN_TURNS


async def test_a_flood_in_the_stream_of_an_old_server_lets_others_run() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.stream.write(FLOOD)
        async with others(lambda: len(at.told.messages)) as them:
            while len(at.told.messages) < 7000:
                await anyio.lowlevel.checkpoint()
        assert 0 < them.most <= BETWEEN_TURNS


# --- helpings


async def test_events_in_many_small_pieces_are_counted_together() -> None:
    taken = 0
    response = response_of(*[b"data:a\n\n" * 10] * 100)
    async with others(lambda: taken) as them:
        async for event in events_in_turn(body_of(response, 1000), 1000):
            assert event == Event(data=b"a")
            taken += 1
    assert taken == 1000
    assert 0 < them.most <= BETWEEN_TURNS


@pytest.mark.parametrize("line", [b"\n", b":\n", b"data\r", b"\r\n"])
async def test_lines_that_are_no_events_let_others_run_too(line: bytes) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        async for _ in events_in_turn(body_of(response_of(line * (65536 // len(line))), 1 << 20), 1 << 20):
            pass
        tasks.cancel_scope.cancel()
    assert turns >= 65536 // HELPING_BYTES // 2


async def test_what_is_too_large_is_said_and_nothing_else_is_lost() -> None:
    response = response_of(b"data:" + b"x" * 2 * LIMITS.max_message_bytes + b"\n\ndata:a\n\n", b"data:b\n\n")
    found = [
        event async for event in events_in_turn(body_of(response, LIMITS.max_message_bytes), LIMITS.max_message_bytes)
    ]
    assert found == [None, Event(data=b"a"), Event(data=b"b")]


LINES = st.lists(
    st.tuples(st.sampled_from([0, 1, 7, 1000, HELPING_BYTES, 30_000]), st.sampled_from([b"\n", b"\r", b"\r\n", b""])),
    max_size=40,
)


@given(LINES)
def test_helpings_are_what_was_read_cut_at_ends_of_lines(lines: list[tuple[int, bytes]]) -> None:
    piece = b"".join(b"x" * length + end for length, end in lines)
    cut = list(helpings(piece))
    assert b"".join(cut) == piece
    for helping in cut[:-1]:
        assert helping.endswith((b"\n", b"\r"))
    for helping in cut:
        *_, last = [0, *(found.end() for found in re.finditer(rb"[\r\n]", helping[:-1]))]
        assert last <= HELPING_BYTES


@pytest.mark.parametrize("piece", [b"", b"x", b"x" * 65536, b"data: " + b"x" * 65000 + b"\n", b"\n" * HELPING_BYTES])
def test_a_line_that_reaches_beyond_is_not_copied(piece: bytes) -> None:
    (whole,) = helpings(piece)
    assert whole is piece
