"""The redirect URI of one login: an HTTP listener on 127.0.0.1 for as long as the login lasts (RFC 8252 section 7.3).

Anything on this machine can connect, and any web page can make the browser ask. A request is either `GET /callback` for
this very host and port, and then its target alone goes on to whoever waits, or it gets a fixed page. Nothing of a
request comes back in an answer, and no number of connections keeps the browser out.

Why this is no application on `moltis.httpd`: docs/adr/0006-the-page-of-a-login-has-a-small-server.md.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import anyio
import h11
from anyio.abc import TaskGroup

from moltis.oauth.model import OAuthProblem, RedirectHost
from moltis.oauth.pages import Page, notice

HOST: Final = "127.0.0.1"
PATH: Final = "/callback"

MAX_TARGET_BYTES: Final = 8 * 1024
"""What an authorization response may be long; the longest codes in use have some 2 KiB."""
MAX_REQUEST_BYTES: Final = 32 * 1024
"""Target and header fields. Cookies know no port: the browser sends those of all that ever ran on 127.0.0.1."""
MAX_CONNECTIONS: Final = 8
"""For another one, the oldest gives way that nobody is working for: a browser also opens some that it never uses."""
REQUEST_SECS: Final = 5.0
"""From the connection to the end of the request. It is then closed without a word, as browsers expect of idle ones."""
ANSWER_SECS: Final = 2.0
"""To take the answer, and to close."""
LAST_PAGE_SECS: Final = 5.0
"""When the login is over: for callbacks that are being answered."""
MAX_UNREAD_BYTES: Final = 1024 * 1024
"""What is read and dropped after an answer: closing on unread data resets the connection, and the answer is lost."""
ACCEPT_PAUSE_SECS: Final = 0.05
"""When no descriptor is left, the next one may be there soon."""

_READ_BYTES: Final = 4096
_BACKLOG: Final = 128

_HEADERS: Final = (
    "Content-Type: text/html; charset=utf-8\r\n"
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'\r\n"
    "Cache-Control: no-store\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n"
)

_NOT_HTTP = notice(HTTPStatus.BAD_REQUEST, "Not a request that moltis understands", "You can close this tab.")
_NOT_HERE = notice(
    HTTPStatus.NOT_FOUND,
    "Nothing is here",
    "moltis waits at another address of this machine for a login to come back.",
    "You can close this tab.",
)
_NOT_GET = notice(
    HTTPStatus.METHOD_NOT_ALLOWED,
    "The login came back in another way than it should",
    "It must be a plain visit of the page (GET), and nothing else was asked for.",
    "Try again; if it stays like this, the authorization server is not made for programs like moltis.",
)
_NOT_US = notice(
    HTTPStatus.MISDIRECTED_REQUEST,
    "Reached under another name",
    "A login comes back to the very name and port that it was begun with: 127.0.0.1, or localhost if so configured.",
    "Through a tunnel, use the same port number at both ends.",
)
_LONG_TARGET = notice(
    HTTPStatus.REQUEST_URI_TOO_LONG,
    "The address is too long",
    "No answer to a login needs as much. Begin it again.",
)
_LARGE_REQUEST = notice(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "The browser sends too much",
    "Its cookies for 127.0.0.1 take more than 32 KiB.",
    "Clear them, or log in from a private window.",
)


@asynccontextmanager
async def listen(
    port: int, on_callback: Callable[[str], Awaitable[Page]], host: RedirectHost = HOST
) -> AsyncGenerator[str]:
    """Listen while the block runs; give the redirect URI, `http://HOST:PORT/callback`.

    port: 0 for any that is free.
    host: what the browser calls this machine. `localhost` may be 127.0.0.1 or ::1 to it, so that both are listened at
        where there are both (RFC 8252 section 8.3 recommends against it; some providers take nothing else).
    on_callback: given the target of each callback, `/callback?code=...`, and answering with the page to show. It may
        run several times at once and must not raise; it is not interrupted when the browser goes away. A page that it
        gives when the block has just ended is still delivered, for at most `LAST_PAGE_SECS`.

    Raises:
        OAuthProblem: `refused` if the port is taken or not ours to use, `outage` if the system has no socket left.
    """
    failure: Exception | None = None
    with ExitStack() as stack:
        socks = [stack.enter_context(_bound(port))]
        desk = _Desk(socks[0].getsockname()[1], host, on_callback)
        if host != HOST and (other := _bound_v6(desk.port)) is not None:
            socks.append(stack.enter_context(other))
        async with anyio.create_task_group() as tasks:
            for sock in socks:
                tasks.start_soon(desk.accept, sock, tasks)
            try:
                yield f"http://{host}:{desk.port}{PATH}"
            except Exception as error:  # raised again below: from here it would come out in an ExceptionGroup
                failure = error
            await desk.finish()
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Desk:
    """Listeners of one login, and connections: each in `_open` with the scope that ends its wait, oldest first."""

    def __init__(self, port: int, host: RedirectHost, on_callback: Callable[[str], Awaitable[Page]]) -> None:
        self.port = port
        self._on_callback = on_callback
        self._accepting: list[anyio.CancelScope] = []
        self._open: dict[socket.socket, anyio.CancelScope] = {}
        self._busy: set[socket.socket] = set()
        """Those that a callback is being answered on: they never give way."""
        self._quiet = anyio.Event()
        # A browser leaves out the port that the scheme implies (RFC 9110 section 7.2).
        names = {HOST, host}
        self._hosts = {f"{name}:{port}".encode() for name in names} | {n.encode() for n in names if port == 80}

    async def accept(self, sock: socket.socket, tasks: TaskGroup) -> None:
        """Take connections until cancelled. anyio's own listeners end for good when no descriptor is left."""
        with anyio.CancelScope() as accepting, sock:
            self._accepting.append(accepting)
            while True:
                await anyio.wait_readable(sock)
                try:
                    conn, _address = sock.accept()
                except BlockingIOError:
                    continue
                except OSError:
                    await anyio.sleep(ACCEPT_PAUSE_SECS)
                    continue
                conn.setblocking(False)
                if not self._make_room():
                    conn.close()
                    continue
                self._open[conn] = anyio.CancelScope(deadline=anyio.current_time() + REQUEST_SECS)
                tasks.start_soon(self._attend, conn, self._open[conn])

    async def finish(self) -> None:
        """Take no more connections, and let the callbacks that are being answered have their pages."""
        for accepting in self._accepting:
            accepting.cancel()
        if self._busy:
            with anyio.move_on_after(LAST_PAGE_SECS):
                await self._quiet.wait()

    def _make_room(self) -> bool:
        """See that there is room for one more, and say whether there is."""
        there = [conn for conn, scope in self._open.items() if not scope.cancel_called]
        if len(there) < MAX_CONNECTIONS:
            return True
        oldest = next((conn for conn in there if conn not in self._busy), None)
        if oldest is not None:
            self._open[oldest].cancel()
        return oldest is not None

    async def _attend(self, conn: socket.socket, reading: anyio.CancelScope) -> None:
        request = None
        try:
            with reading:
                request = await _read_request(conn)
            if request is not None:
                await self._answer(conn, request)
        finally:
            self._forget(conn)

    async def _answer(self, conn: socket.socket, request: h11.Request | Page) -> None:
        reply = self._judge(request) if isinstance(request, h11.Request) else request
        if isinstance(reply, str):
            self._busy.add(conn)
            reply = await self._on_callback(reply)
        with_body = not (isinstance(request, h11.Request) and request.method == b"HEAD")
        self._open[conn] = anyio.CancelScope(deadline=anyio.current_time() + ANSWER_SECS)
        with self._open[conn]:
            await _send(conn, _response(reply, with_body))
            self._not_busy(conn)
            await _drop_the_rest(conn)

    def _judge(self, request: h11.Request) -> Page | str:
        """Return the target of a callback, or the page for what is none."""
        if not any(name == b"host" and value in self._hosts for name, value in request.headers):
            return _NOT_US
        if request.method != b"GET":
            return _NOT_GET
        if len(request.target) > MAX_TARGET_BYTES:
            return _LONG_TARGET
        path, _, _query = request.target.partition(b"?")
        if path != PATH.encode() or b"#" in request.target:
            return _NOT_HERE
        return request.target.decode("ascii")

    def _not_busy(self, conn: socket.socket) -> None:
        self._busy.discard(conn)
        if not self._busy:
            self._quiet.set()
            self._quiet = anyio.Event()

    def _forget(self, conn: socket.socket) -> None:
        self._open.pop(conn, None)
        conn.close()
        self._not_busy(conn)


def _bound(port: int) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise OAuthProblem(f"cannot listen for the login: {error.strerror}", kind="outage") from None
    try:
        # Else a port is taken for a minute after each login; on no system does it let two listen.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((HOST, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise OAuthProblem(_why_not(port, error), kind="refused" if port else "outage") from None
    return sock


def _bound_v6(port: int) -> socket.socket | None:
    """Listen at the same port of ::1; None where that is not to be had, and 127.0.0.1 has to do."""
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(("::1", port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        return None
    return sock


def _why_not(port: int, error: OSError) -> str:
    if not port:
        return f"cannot listen on {HOST} for the login: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {HOST} (callback_port) is in use: end what uses it, or choose another callback_port"
    return f"cannot listen on port {port} of {HOST} (callback_port): {error.strerror}; choose another callback_port"


async def _read_request(conn: socket.socket) -> h11.Request | Page | None:
    """Read the head of one request: a page for what is none, None if there is nobody to answer."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError as problem:
            return _LARGE_REQUEST if problem.error_status_hint == _LARGE_REQUEST.status else _NOT_HTTP
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        data = await _receive(conn)
        if data is None:
            return None
        http.receive_data(data)


async def _receive(conn: socket.socket) -> bytes | None:
    """Return what comes next, empty at its end, None when the connection broke."""
    while True:
        await anyio.wait_readable(conn)
        try:
            return conn.recv(_READ_BYTES)
        except BlockingIOError:
            continue
        except OSError:
            return None


async def _send(conn: socket.socket, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[conn.send(left) :]
        except BlockingIOError:
            await anyio.wait_writable(conn)
        except OSError:
            return


async def _drop_the_rest(conn: socket.socket) -> None:
    try:
        conn.shutdown(socket.SHUT_WR)
    except OSError:
        return
    unread = 0
    while unread < MAX_UNREAD_BYTES and (data := await _receive(conn)):
        unread += len(data)


def _response(page: Page, with_body: bool) -> bytes:
    """Write the answer; made by hand, so that nothing of what was read can be in it."""
    allow = "Allow: GET\r\n" if page.status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        f"{allow}{_HEADERS}"
        f"Content-Length: {len(page.html)}\r\n\r\n"
    )
    return head.encode("ascii") + (page.html if with_body else b"")
