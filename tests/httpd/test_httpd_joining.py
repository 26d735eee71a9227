"""Head and body leave together where both are known, and nothing is held back where they are not."""

from __future__ import annotations

import weakref

import pytest

from moltis.httpd.server import JOIN_BYTES, Joining


class FakeTransport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class FakeCycle:
    """What is looked at of uvicorn's."""

    def __init__(self, *, chunked: bool | None, method: str = "GET") -> None:
        self.scope = {"method": method}
        self.response_started = False
        self.chunked_encoding = chunked


def begun(*, chunked: bool) -> tuple[FakeTransport, Joining]:
    transport, cycle = FakeTransport(), FakeCycle(chunked=None)
    joining = Joining(transport, cycle)
    joining.write(b"100 ")
    assert transport.written == [b"100 "], "before the response has begun, it waits for nothing"
    cycle.response_started, cycle.chunked_encoding = True, chunked
    return transport, joining


def test_a_short_answer_is_one_write() -> None:
    transport, joining = begun(chunked=False)
    joining.write(b"head ")
    joining.write(b"body")
    assert transport.written == [b"100 ", b"head body"]


def test_a_long_body_is_not_copied() -> None:
    transport, joining = begun(chunked=False)
    body = b"x" * (JOIN_BYTES + 1)
    joining.write(b"head ")
    joining.write(body)
    assert transport.written[1:] == [b"head ", body]
    assert transport.written[2] is body


def test_a_body_in_parts_follows_its_head_at_once() -> None:
    transport, joining = begun(chunked=False)
    for part in (b"head ", b"one", b"two"):
        joining.write(part)
    assert transport.written[1:] == [b"head one", b"two"]


def test_a_stream_waits_for_nothing() -> None:
    transport, joining = begun(chunked=True)
    joining.write(b"head")
    assert transport.written[1:] == [b"head"]


@pytest.mark.parametrize(
    ("method", "head"),
    [("HEAD", b"HTTP/1.1 200 OK"), ("DELETE", b"HTTP/1.1 204 No Content"), ("GET", b"HTTP/1.1 304 Not Modified")],
)
def test_a_head_that_no_body_follows_is_not_held_back(method: str, head: bytes) -> None:
    transport, cycle = FakeTransport(), FakeCycle(chunked=False, method=method)
    joining = Joining(transport, cycle)
    cycle.response_started = True
    joining.write(head)
    assert transport.written == [head]


@pytest.mark.parametrize("with_body", [False, True])
def test_closing_loses_nothing(with_body: bool) -> None:
    transport, joining = begun(chunked=False)
    joining.write(b"head ")
    if with_body:
        joining.write(b"body")
    joining.close()
    assert b"".join(transport.written[1:]) == (b"head body" if with_body else b"head ")
    assert joining.is_closing()


@pytest.mark.usefixtures("no_collections")
def test_it_lets_go_of_the_request_once_it_has_begun_to_answer() -> None:
    cycle = FakeCycle(chunked=False)
    cycle.response_started = True
    cycle.transport = Joining(FakeTransport(), cycle)  # type: ignore[attr-defined]
    cycle.transport.write(b"head")  # type: ignore[attr-defined]
    seen = weakref.ref(cycle)
    del cycle
    assert seen() is None
