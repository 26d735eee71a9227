"""From a name to a connection: its addresses, and the first of them that answers.

getaddrinfo(3) cannot be interrupted, and where a network drops what is sent to port 53 it takes half a minute. The
event loop's own lookups hold the loop open for that long when it closes, and few of them run at once, so that one name
keeps all others waiting. Here each runs on a daemon thread, which nobody joins, and whoever waits can stop at once.
Nothing is cached; that is for the system to do. Of several addresses none that is dead keeps the others waiting
(RFC 8305).
"""

from __future__ import annotations

import errno
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from itertools import chain, zip_longest

import anyio
import anyio.from_thread
import httpcore2
from anyio.lowlevel import EventLoopToken, checkpoint, current_token

from moltis.http.words import CONNECT_SECS

MAX_THREADS = 32
"""How many names are looked up at once in this process, each once; what is more waits for one of these to end."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Return the IP addresses of a host for a port, best first. Raises OSError or UnicodeError when there are none."""

Ask = Callable[[str], Sequence[str]]
"""Return the addresses of a host, best first; blocks. Raises OSError or UnicodeError when there are none."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the IP addresses of a host, best first, as the system has them; those of a literal are it itself.

    port: of no account: an address is one of the host.

    Raises:
        OSError, UnicodeError: it has none, it is no name, or nobody said so within 10 s.
    """
    return await _process_wide.addresses(host)


class Resolver:
    """Looks names up on threads of its own.

    All who ask for a host while it is being looked up share that lookup and its answer. A lookup that all have stopped
    waiting for goes on, because it cannot be ended, and is joined by the next who asks; one that had not begun is
    dropped.
    """

    def __init__(self, ask: Ask, max_threads: int = MAX_THREADS) -> None:
        self._ask = ask
        self._max_threads = max_threads
        self._lock = threading.Lock()  # guards all below; held for moments, so that the event loop may take it
        self._threads = 0
        self._lookups: dict[str, _Lookup] = {}
        self._to_begin: deque[_Lookup] = deque()

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of a host, or the error of `Ask`; that nobody said within 10 s is one too."""
        if _is_literal(host):
            await checkpoint()
            return [host]
        waiter = _Waiter()
        lookup = self._join(host, waiter)
        try:
            with anyio.fail_after(CONNECT_SECS):
                await waiter.told.wait()
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer in time") from None
        finally:
            self._leave(lookup, waiter)
        return lookup.outcome()

    def _join(self, host: str, waiter: _Waiter) -> _Lookup:
        with self._lock:
            lookup = self._lookups.get(host)
            if lookup is None:
                lookup = _Lookup(host)
                if self._threads < self._max_threads:
                    self._begin_thread(lookup)
                else:
                    self._to_begin.append(lookup)
                self._lookups[host] = lookup
            lookup.waiters.append(waiter)
        return lookup

    def _leave(self, lookup: _Lookup, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in lookup.waiters:
                lookup.waiters.remove(waiter)
            if not lookup.waiters and lookup in self._to_begin:
                self._to_begin.remove(lookup)
                del self._lookups[lookup.host]

    def _begin_thread(self, lookup: _Lookup) -> None:
        try:
            threading.Thread(target=self._work, args=(lookup,), name="moltis-resolver", daemon=True).start()
        except RuntimeError:
            raise OSError(errno.EAGAIN, "no thread to be had") from None
        self._threads += 1

    def _work(self, lookup: _Lookup | None) -> None:
        """Live the life of a thread: one lookup after the other, until no more are waiting to begin."""
        while lookup is not None:
            lookup.ask(self._ask)
            with self._lock:
                del self._lookups[lookup.host]
                waiters, lookup.waiters = lookup.waiters, []
            for waiter in waiters:
                waiter.tell()
            with self._lock:
                lookup = self._to_begin.popleft() if self._to_begin else None
                if lookup is None:
                    self._threads -= 1


class _Lookup:
    """One name being looked up, or about to be."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.waiters: list[_Waiter] = []
        self._found: Sequence[str] = ()
        self._error: tuple[type[Exception], tuple[object, ...]] | None = None

    def ask(self, ask: Ask) -> None:
        try:
            self._found = ask(self.host)
        except (OSError, UnicodeError) as error:
            self._error = type(error), error.args
        except Exception:  # else they would wait for a thread that is no more
            self._error = socket.gaierror, (socket.EAI_FAIL, "the lookup failed")

    def outcome(self) -> Sequence[str]:
        if self._error is not None:
            kind, args = self._error
            raise kind(*args)  # one for each who waits: an error keeps the trace of whoever raised it
        return self._found


class _Waiter:
    """A task that waits, on its event loop."""

    def __init__(self) -> None:
        self.told = anyio.Event()
        self._loop: EventLoopToken = current_token()

    def tell(self) -> None:
        """Wake the task, from another thread; its loop may be closed by now."""
        with suppress(RuntimeError):
            anyio.from_thread.run_sync(self.told.set, token=self._loop)


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _ask_system(host: str) -> Sequence[str]:
    # As bytes: a str is put through a codec for international names, and those are ASCII where they come from.
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(_with_zone(address) for *_, address in found))


def _with_zone(address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    """Name an address so that it can be connected to: a link-local one is nothing without its interface."""
    return f"{address[0]}%{address[3]}" if len(address) == 4 and address[3] else str(address[0])


_process_wide = Resolver(_ask_system)


HEAD_START_SECS = 0.25
"""What an address gets before the next one is tried beside it (RFC 8305 section 5)."""

MAX_ADDRESSES = 8
"""How many are tried."""

Connect = Callable[[str], Awaitable[httpcore2.AsyncNetworkStream]]


async def first_to_answer(addresses: Sequence[str], connect: Connect) -> httpcore2.AsyncNetworkStream:
    """Try the addresses, at least one, the two families in turn, each with a head start; the others are closed.

    Raises:
        httpcore2.NetworkError, httpcore2.TimeoutException: none could be connected to; the first error.
    """
    in_turn = _alternating(addresses)[:MAX_ADDRESSES]
    if len(in_turn) == 1:
        return await connect(in_turn[0])
    won: list[httpcore2.AsyncNetworkStream] = []
    lost: list[Exception] = []

    async def attempt(address: str, over: anyio.Event) -> None:
        try:
            stream = await connect(address)
        except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
            lost.append(error)
            over.set()
        else:
            won.append(stream)
            race.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as race:
            for address in in_turn:
                over = anyio.Event()
                race.start_soon(attempt, address, over)
                with anyio.move_on_after(HEAD_START_SECS):
                    await over.wait()
    except BaseException:
        await _close(won)  # it is given up at the moment one answered
        raise
    if not won:
        raise lost[0]
    await _close(won[1:])  # two answered at once
    return won[0]


def _alternating(addresses: Sequence[str]) -> list[str]:
    """Let the families alternate, the first one's first (RFC 8305 section 4): often one of them leads nowhere."""
    families = ([a for a in addresses if (":" in a) is six] for six in (True, False))
    first, second = sorted(families, key=lambda family: addresses[0] not in family)
    return [a for a in chain.from_iterable(zip_longest(first, second)) if a is not None]


async def _close(streams: Sequence[httpcore2.AsyncNetworkStream]) -> None:
    with anyio.CancelScope(shield=True):
        for stream in streams:
            await stream.aclose()
