"""A body is read as it was sent, up to a limit, and costs no more than that."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from bombs import deflate_bomb, gzip_bomb
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE
from scripted_http import CHUNKED, OK, Script, ending, repeating, serving, within_memory

from moltis.http.bodies import (
    CRUMB_BYTES,
    PIECES_IN_A_ROW,
    UNPACKED_RATIO,
    BodyEncoded,
    BodyTooLarge,
    Unpacker,
    collect,
    in_turn,
    read_capped,
    unpacked,
)
from moltis.http.clients import server_client


async def body_of(script: Script, limit: int) -> bytes:
    async with serving(script) as server, server_client(None) as client:
        request = client.build_request("POST", f"http://127.0.0.1:{server.port}/", content=b"{}")
        response = await client.send(request, stream=True)
        try:
            with anyio.fail_after(PATIENCE):
                return await read_capped(response, limit)
        finally:
            assert response.is_closed


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 5\r\n\r\nabcde",
        CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        OK + b"\r\nabcde",
        OK + b"Content-Encoding: identity\r\nContent-Length: 5\r\n\r\nabcde",
        OK + b"Content-Encoding: \r\nContent-Length: 5\r\n\r\nabcde",
    ],
)
async def test_a_body_of_just_the_limit_is_read(answer: bytes) -> None:
    assert await body_of(ending(answer), 5) == b"abcde"
    with pytest.raises(BodyTooLarge, match="longer than 4 bytes"):
        await body_of(ending(answer), 4)


async def test_an_announced_length_over_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(BodyTooLarge):
        await body_of(repeating(OK + b"Content-Length: 1000000\r\n\r\n", b"", 0.01), 1000)


@pytest.mark.parametrize(
    "script", [repeating(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"), repeating(OK + b"\r\n", b"x" * 65536)]
)
async def test_an_endless_body_is_refused_within_little_memory(script: Script) -> None:
    with within_memory(4 * 1024 * 1024), pytest.raises(BodyTooLarge):
        await body_of(script, 2 * 1024 * 1024)


@pytest.mark.parametrize("encoding", [b"br", b"BR", b"zstd", b"identity, br", b"gzip, gzip", b"compress"])
async def test_a_body_compressed_by_what_is_not_known_is_refused_unread(encoding: bytes) -> None:
    bomb = gzip_bomb(50)
    head = OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (encoding, len(bomb))
    with within_memory(1_000_000), pytest.raises(BodyEncoded):
        await body_of(ending(head + bomb), 1_000_000)


DEFLATED = zlib.compress(b"abcde")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", gzip.compress(b"abcde", mtime=0)),
        (b"X-GZIP", gzip.compress(b"abcde", mtime=0)),
        (b"identity, gzip", gzip.compress(b"abcde", mtime=0)),
        (b"gzip", gzip.compress(b"abc", mtime=0) + gzip.compress(b"", mtime=0) + gzip.compress(b"de", mtime=0)),
        (b"gzip", gzip.compress(b"abcde", mtime=0) + bytes(100)),
        (b"deflate", DEFLATED),
        (b"deflate", DEFLATED[2:-4]),
        (b"gzip", b"abcde"),
        (b"utf-8", b"abcde"),
        (b"none", b"abcde"),
        (b"aws-chunked", b"abcde"),
    ],
    ids=str,
)
@pytest.mark.parametrize("chunks", [False, True])
async def test_a_compressed_body_is_unpacked_up_to_the_limit(encoding: bytes, body: bytes, chunks: bool) -> None:
    head = (CHUNKED if chunks else OK).removesuffix(b"\r\n" if chunks else b"") + b"Content-Encoding: %b\r\n" % encoding
    if chunks:
        answer = head + b"\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    else:
        answer = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    assert await body_of(ending(answer), max(5, len(body))) == b"abcde"


@pytest.mark.parametrize(
    ("coding", "bomb"),
    [
        (b"gzip", gzip_bomb(50)),
        (b"gzip", gzip.compress(bytes(40_000), mtime=0) * 1000),
        (b"deflate", deflate_bomb(50)),
    ],
    ids=["gzip", "many members", "deflate"],
)
async def test_a_body_that_unpacks_to_too_much_is_refused_within_little_memory(coding: bytes, bomb: bytes) -> None:
    head = OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(bomb))
    with within_memory(2_500_000), pytest.raises(BodyTooLarge):
        await body_of(ending(head + bomb), 1_000_000)


def test_a_bomb_is_well_formed() -> None:
    assert gzip.decompress(gzip_bomb(3)) == zlib.decompress(deflate_bomb(3)) == bytes(3_000_000)
    assert len(gzip_bomb(3)) < 6_000


async def test_an_endless_stream_that_unpacks_to_far_more_than_was_sent_is_given_up() -> None:
    packed = gzip_bomb(50)

    async def pieces() -> AsyncGenerator[bytes]:
        yield packed

    taken = 0
    with within_memory(1_000_000), pytest.raises(BodyEncoded, match="so much larger"):  # noqa: PT012 - the loop is what raises
        async for part in unpacked(pieces(), "gzip", 100_000):
            taken += len(part)
    assert taken <= 100_000 + UNPACKED_RATIO * len(packed)


@pytest.mark.parametrize(
    "body", [gzip.compress(b"abcde", mtime=0)[:10] + b"\xff" * 20, gzip.compress(b"abcde", mtime=0)[:-8] + bytes(8)]
)
async def test_a_body_that_cannot_be_unpacked_is_refused(body: bytes) -> None:
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    with pytest.raises(BodyEncoded, match="says that it is gzip"):
        await body_of(ending(head + body), 1000)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]), st.integers(1, 9), st.randoms())
def test_what_is_packed_and_cut_anywhere_is_unpacked_to_the_same(
    data: bytes, coding: str, level: int, cuts: Any
) -> None:
    packed = gzip.compress(data, level) if coding == "gzip" else zlib.compress(data, level)
    unpacker, found = Unpacker(coding), b""
    while packed:
        cut = cuts.randint(1, len(packed))
        found += b"".join(unpacker.feed(packed[:cut]))
        packed = packed[cut:]
    assert found == data


async def test_a_body_that_breaks_off_is_no_body() -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        await body_of(ending(OK + b"Content-Length: 5\r\n\r\nabc"), 100)


async def test_a_body_in_a_million_pieces_leaves_the_loop_to_others() -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await anyio.lowlevel.checkpoint()
            longest = max(longest, time.thread_time() - began)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        with pytest.raises(BodyTooLarge):
            await body_of(repeating(CHUNKED, b"1\r\nx\r\n" * 11_000), 50_000)
        tasks.cancel_scope.cancel()
    assert longest < 0.1, "s; without turns it is 0.3 s"


async def test_turns_are_given_after_a_number_of_pieces() -> None:
    turns = 0
    done = False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(10 * PIECES_IN_A_ROW):
            yield b"x"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        assert await collect(in_turn(pieces()), 10**6) == b"x" * 10 * PIECES_IN_A_ROW
        done = True
    assert 10 <= turns <= 12


async def test_a_source_that_is_left_early_is_closed() -> None:
    closed = False

    async def pieces() -> AsyncGenerator[bytes]:
        nonlocal closed
        try:
            while True:
                yield b"x"
        finally:
            closed = True

    turns = in_turn(pieces())
    assert await anext(turns) == b"x"
    await turns.aclose()
    assert closed


@given(st.lists(st.integers(0, 3 * CRUMB_BYTES), max_size=12), st.binary(min_size=1, max_size=7))
async def test_pieces_of_every_size_are_joined_in_their_order(sizes: list[int], pattern: bytes) -> None:
    whole = (pattern * (sum(sizes) // len(pattern) + 1))[: sum(sizes)]
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]

    async def pieces() -> AsyncGenerator[bytes]:
        for size, end in zip(sizes, ends, strict=True):
            yield whole[end - size : end]

    assert await collect(pieces(), len(whole)) == whole
    if whole:
        with pytest.raises(BodyTooLarge):
            await collect(pieces(), len(whole) - 1)


@pytest.mark.parametrize("announced", ["", "x", "-1", "١", "9" * 5000])
async def test_a_strange_length_says_nothing(announced: str) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        yield b"abc"

    assert await collect(pieces(), 3, announced) == b"abc"
