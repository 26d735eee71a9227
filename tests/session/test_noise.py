"""What a server writes to stdout that is no MCP message, in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.session.envelope import Batch, Junk, parse
from moltis.session.oddities import Noise

REPLY = '{"jsonrpc":"2.0","id":1,"result":{}}'


def words(*lines: bytes, unfinished: bytes = b"") -> str:
    noise = Noise()
    for line in lines:
        found = parse(line)
        assert isinstance(found, Junk), found
        noise.add(found.reason, line)
    return noise.in_words(unfinished, lambda text: text.replace("hunter22", "[REDACTED]"))


@pytest.mark.parametrize(
    ("lines", "unfinished", "said"),
    [
        ([b"Content-Length: 85"] * 3, b"", "3 lines were not JSON; the first: `Content-Length: 85` (LSP framing)"),
        ([], b"Content-Length: 85\r\n" + REPLY.encode(), "(LSP framing)"),
        ([b"{", b'  "jsonrpc": "2.0",', b"}"], b"", "3 lines were not JSON; the first: `{` (JSON over several lines)"),
        ([f"{REPLY}{REPLY}".encode()], b"", "(several messages on one line)"),
        ([], f"{REPLY}\r{REPLY}\r".encode(), "(lines that end in CR)"),
        ([], REPLY.encode(), "(a message without a newline after it)"),
        ([], REPLY.encode() + b"\0" + REPLY.encode() + b"\0", "(a message without a newline after it)"),
        ([REPLY.encode("utf-16")], b"", "(UTF-16)"),
        ([REPLY.encode("utf-16-be")], b"", "(UTF-16)"),
        ([f"data: {REPLY}".encode()], b"", f"1 line was not JSON: `data: {REPLY}` (server-sent events)"),
        ([b"\x1e" + REPLY.encode()] * 2, b"", "(JSON text sequences)"),
        ([], b"\x1e" + REPLY.encode(), "(JSON text sequences)"),
        ([b"\x1e{", b'  "jsonrpc": "2.0"', b"}"], b"", "(JSON text sequences)"),
        ([f"[INFO] {REPLY}".encode()], b"", "(messages with something before them)"),
        ([b'{"jsonrpc":"2.0","id":1,"result":{"x":NaN}}'], b"", "(NaN or Infinity in a message)"),
        ([b'{"jsonrpc":"2.0","id":1,"result":[1, -Infinity]}'], b"", "(NaN or Infinity in a message)"),
        ([REPLY.encode() + b","], b"", "(messages with something behind them)"),
        ([REPLY.encode() + b"\0"], b"", "(messages with something behind them)"),
        ([REPLY.encode() + b"\x1b[0m"], b"", "(messages with something behind them)"),
        (
            [b'{"id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}'],
            b"",
            "(messages without `jsonrpc`: `2.0`)",
        ),
        (
            [b'{"jsonrpc":"1.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}'],
            b"",
            "(messages without `jsonrpc`: `2.0`)",
        ),
        ([b"2026-01-01 starting"], b"", "1 line was not JSON: `2026-01-01 starting`"),
        ([b'{"level":30}', b'{"level":30}'], b"", '2 lines were JSON, but no MCP message; the first: `{"level":30}`'),
        ([b'{"level":30}', b"oh"], b"", "1 line was not JSON: `oh`"),
        (
            [b"Welcome", b"to it", b"Error: hunter22 is wrong", b"Error: bye"],
            b"",
            "4 lines were not JSON; the first: `Welcome`; among them: `Error: [REDACTED] is wrong`",
        ),
        (
            [b"Need to install the following packages:", b"x@1"],
            b"Ok to proceed? (y) ",
            "2 lines were not JSON; the first: `Need to install the following packages:`; "
            "a line was begun and not ended: `Ok to proceed? (y)`",
        ),
        ([b"\x1b[31mhunter22\x1b[0m \x1b]0;x\x07is it\x00"], b"", "1 line was not JSON: `[REDACTED] is it\\x00`"),
        ([], b" \r\n", ""),
    ],
)
def test_it_is_counted_shown_and_named_for_what_it_looks_like(lines: list[bytes], unfinished: bytes, said: str) -> None:
    told = words(*lines, unfinished=unfinished)
    assert told.endswith(said)
    assert bool(told) == bool(said)


@given(st.lists(st.binary(max_size=60), max_size=5), st.binary(max_size=60))
def test_whatever_it_is_one_printable_line_comes_out(lines: list[bytes], unfinished: bytes) -> None:
    noise = Noise()
    for line in lines:
        found = parse(line)
        if isinstance(found, Junk) and not isinstance(found, Batch):
            noise.add(found.reason, line)
    told = noise.in_words(unfinished, str)
    assert len(told.splitlines()) <= 1
    assert all(c.isprintable() or c.isspace() for c in told)


@pytest.mark.parametrize(
    "pattern",
    [b"[", b" ", b"{", b"a\x00", b"[INFO] ", b'{"jsonrpc"', b'{"jsonrpc":,NaN', b'"capabilities":', b"\xff\xfe"],
)
def test_a_long_line_costs_no_more_than_a_moment(pattern: bytes) -> None:
    noise = Noise()
    noise.add("not JSON", pattern * 200_000)
    assert len(noise.in_words(pattern * 1000, str)) < 600
