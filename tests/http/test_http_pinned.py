"""A connection goes to an address that was judged, or nowhere."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from typing import Any

import anyio
import httpcore2
import pytest
from scripted_http import JSON, canary, saying, serving
from trio.testing import MockClock

from moltis.http.addresses import Scope
from moltis.http.dialing import HEAD_START_SECS, resolve
from moltis.http.pinned import AddressRefused, PinnedBackend

VIRTUAL = ("trio", {"clock": MockClock(autojump_threshold=0)})
LOOPBACK = frozenset({Scope.LOOPBACK})
ALL_BUT_FORBIDDEN = frozenset(Scope) - {Scope.FORBIDDEN}


class Names:
    """A resolver that gives its answers one after the other, and counts."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("addresses", "place"),
    [
        (["127.0.0.1"], "on this machine"),
        (["::1"], "on this machine"),
        (["::ffff:127.0.0.1"], "on this machine"),
        (["10.0.0.1"], "in a private network"),
        (["fd00::1"], "in a private network"),
        (["169.254.169.254"], "at an address for special use"),
        (["fe80::1%eth0"], "at an address for special use"),
        (["0.0.0.0"], "at an address for special use"),
        (["64:ff9b::7f00:1"], "at an address for special use"),
        (["1.1.1.1", "127.0.0.1"], "on this machine"),
        (["1.1.1.1"] * 20 + ["127.0.0.1"], "on this machine"),
        (["nonsense"], "at an address for special use"),
    ],
)
async def test_a_host_with_one_address_that_is_not_allowed_is_not_connected_to(
    addresses: list[str], place: str
) -> None:
    with canary() as (port, touched):
        backend = PinnedBackend(frozenset({Scope.PUBLIC}), Names(addresses))
        with pytest.raises(AddressRefused, match=rf"^as\.example is {place}, where nothing is fetched"):
            await backend.connect_tcp("as.example", port)
        assert not touched()


async def test_a_name_is_asked_for_once_and_its_answer_is_what_is_connected_to() -> None:
    """A second look could give another address (DNS rebinding)."""
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    async with serving(saying(JSON)) as server:
        backend = PinnedBackend(LOOPBACK, names)
        stream = await backend.connect_tcp("as.example", server.port)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
        await backend.aclose()
        assert names.asked == [("as.example", server.port)]
        with pytest.raises(AddressRefused):
            await backend.connect_tcp("as.example", server.port)


@pytest.mark.parametrize("answer", [[], socket.gaierror(-2, "no"), UnicodeError(), OSError()])
async def test_a_host_without_an_address_is_an_ordinary_failure(answer: Sequence[str] | Exception) -> None:
    with pytest.raises(httpcore2.ConnectError):
        await PinnedBackend(ALL_BUT_FORBIDDEN, Names(answer)).connect_tcp("as.example", 443)


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "127.0.0.1", "::1", "::ffff:7f00:1", "localhost"]
)
async def test_another_spelling_of_this_machine_is_this_machine(host: str) -> None:
    """The system's resolver is the only one who knows them all."""
    with canary() as (port, touched):
        with pytest.raises((AddressRefused, httpcore2.ConnectError)):
            await PinnedBackend(frozenset({Scope.PUBLIC, Scope.PRIVATE}), resolve).connect_tcp(host, port)
        assert not touched()


async def test_what_was_opened_is_closed_even_when_the_exchange_is_given_up() -> None:
    async with serving(saying(JSON)) as server:
        backend = PinnedBackend(LOOPBACK, Names(["127.0.0.1"]))
        await backend.connect_tcp("as.example", server.port)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await backend.aclose()
        with anyio.fail_after(5):
            await server.hung_up.wait()
        await backend.aclose()


# The race, in virtual time -----------------------------------------------------------------------------------------


class Wire:
    """Connections that come about after so many seconds; a negative number: they fail after as many."""

    def __init__(self, **secs: float) -> None:
        self.secs = {name.replace("_", "."): delay for name, delay in secs.items()}
        self.tried: list[tuple[str, float]] = []
        self.opened: list[Opened] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.tried.append((host, anyio.current_time()))
        delay = self.secs[f"a{host}"]
        await anyio.sleep(abs(delay))
        if delay < 0:
            raise httpcore2.ConnectError(host)
        self.opened.append(Opened(host))
        return self.opened[-1]


class Opened(httpcore2.AsyncNetworkStream):
    def __init__(self, host: str) -> None:
        self.host = host
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


async def race(monkeypatch: pytest.MonkeyPatch, **secs: float) -> tuple[Wire, float, str]:
    wire = Wire(**secs)
    monkeypatch.setattr(httpcore2, "AnyIOBackend", lambda: wire)
    backend = PinnedBackend(ALL_BUT_FORBIDDEN, Names([name[1:] for name in wire.secs]))
    began = anyio.current_time()
    wire.tried.clear()
    try:
        stream = await backend.connect_tcp("as.example", 443)
    except httpcore2.ConnectError as error:
        won = f"failed: {error}"
    else:
        assert isinstance(stream, Opened)
        assert not stream.closed
        won = stream.host
    took = anyio.current_time() - began
    wire.tried = [(host, at - began) for host, at in wire.tried]
    await backend.aclose()
    assert all(opened.closed for opened in wire.opened)
    return wire, took, won


@pytest.mark.parametrize("anyio_backend", [VIRTUAL])
@pytest.mark.parametrize(
    ("secs", "won", "took", "tried"),
    [
        ({"a1.1.1.1": 0.1}, "1.1.1.1", 0.1, 1),
        ({"a1.1.1.1": 0.1, "a1.1.1.2": 0.0}, "1.1.1.1", 0.1, 1),
        ({"a1.1.1.1": 60.0, "a1.1.1.2": 0.1}, "1.1.1.2", HEAD_START_SECS + 0.1, 2),
        ({"a1.1.1.1": -0.1, "a1.1.1.2": 0.1}, "1.1.1.2", 0.2, 2),
        ({"a1.1.1.1": 0.3, "a1.1.1.2": 60.0}, "1.1.1.1", 0.3, 2),
        ({"a1.1.1.1": -0.1, "a1.1.1.2": -0.2}, "failed: 1.1.1.1", 0.3, 2),
        ({f"a1.1.1.{n}": -0.1 for n in range(30)}, "failed: 1.1.1.0", 0.8, 8),
    ],
)
async def test_a_dead_address_costs_a_quarter_of_a_second(
    secs: dict[str, float],
    won: str,
    took: float,
    tried: int,
    anyio_backend: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, real_took, real_won = await race(monkeypatch, **secs)
    assert real_won == won
    assert real_took == pytest.approx(took)
    assert len(wire.tried) == tried


@pytest.mark.parametrize("anyio_backend", [VIRTUAL])
async def test_a_race_that_is_given_up_leaves_nothing_open(
    anyio_backend: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(**{"a1.1.1.1": 60.0, "a1.1.1.2": 60.0})
    monkeypatch.setattr(httpcore2, "AnyIOBackend", lambda: wire)
    backend = PinnedBackend(ALL_BUT_FORBIDDEN, Names(["1.1.1.1", "1.1.1.2"]))
    with anyio.move_on_after(1) as waited:
        await backend.connect_tcp("as.example", 443)
    assert waited.cancelled_caught
    assert wire.opened == []
