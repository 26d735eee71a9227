"""An HTTP proxy on a loopback port, in threads of the test: CONNECT, requests by their whole URL, and what goes wrong.

It knows names that nobody else does: `names` says on which port of this machine each host listens.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 65536


@dataclass
class Asked:
    """One request to the proxy: its first line, and its headers by their names in lower case."""

    line: str
    headers: dict[str, str]


@dataclass
class StandInProxy:
    """What it does can be changed while it runs.

    names: the port on this machine of each host that it knows; any other is a 502.
    login: `user:password` that it wants. challenge: what it says to whoever has none.
    says: it answers everything with these bytes and hangs up. hangs: it answers nothing.
    dies_after: bytes of an answer, after which it breaks every connection off.
    connections, open: how many there were, and are.
    """

    port: int
    names: dict[str, int] = field(default_factory=dict)
    login: str | None = None
    challenge: str = 'Basic realm="proxy"'
    says: bytes | None = None
    hangs: bool = False
    dies_after: int | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    open: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url_with(self, login: str) -> str:
        return f"http://{login}@127.0.0.1:{self.port}"

    def wait_closed(self, within: float = 10.0) -> None:
        """Wait until no connection to it is open."""
        deadline = time.monotonic() + within
        while self.open:
            assert time.monotonic() < deadline, f"{self.open} connections are still open"
            time.sleep(0.01)

    @property
    def targets(self) -> list[str]:
        """What it was asked for: `host:port` of a CONNECT, else the URL."""
        return [asked.line.split(" ")[1] for asked in self.asked]


@contextmanager
def stand_in_proxy(tls: ssl.SSLContext | None = None, **how: object) -> Iterator[StandInProxy]:
    """Run one; it and all its connections end with the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = StandInProxy(listener.getsockname()[1], **how)  # type: ignore[arg-type]
        running = _Running(proxy, tls)
        thread = threading.Thread(target=running.accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            running.end()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


class _Running:
    def __init__(self, proxy: StandInProxy, tls: ssl.SSLContext | None) -> None:
        self._proxy = proxy
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._over = False

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._proxy.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def end(self) -> None:
        with self._lock:
            self._over = True
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), client:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            with client, self._kept(client):
                self._proxy.open += 1
                try:
                    self._answer(client)
                finally:
                    self._proxy.open -= 1

    @contextmanager
    def _kept(self, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            if self._over:
                raise OSError("it is over")
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)

    def _answer(self, client: socket.socket) -> None:
        proxy = self._proxy
        head, rest = _head(client)
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
        proxy.asked.append(Asked(line, headers))
        if proxy.hangs:
            client.recv(1)
            return
        if proxy.says is not None:
            client.sendall(proxy.says)
            return
        if proxy.login is not None:
            wanted = "Basic " + base64.b64encode(proxy.login.encode()).decode()
            if headers.get("proxy-authorization") != wanted:
                challenge = f"Proxy-Authenticate: {proxy.challenge}\r\n" if proxy.challenge else ""
                client.sendall(f"HTTP/1.1 407 No\r\n{challenge}Content-Length: 0\r\n\r\n".encode())
                return
        method, target, _ = line.split(" ")
        host = urlsplit(f"//{target}" if method == "CONNECT" else target).hostname or ""
        port = proxy.names.get(host)
        if port is None:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", port)) as server, self._kept(server):
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                server.sendall(rest)
            else:
                server.sendall(_sent_on(line, fields) + rest)
            onward = threading.Thread(target=_copy_on, args=(client, server), daemon=True)
            onward.start()
            _copy_back(server, client, proxy)
            onward.join(10)


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more or len(data) > MAX_HEAD_BYTES:
            raise OSError("no request")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _sent_on(line: str, fields: list[str]) -> bytes:
    """Return the head that the server gets: one request, after which it hangs up, so that nothing need be parsed."""
    method, target, version = line.split(" ")
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    kept = [f for f in fields if not f.lower().startswith(("proxy-", "connection:"))]
    return "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""]).encode("latin-1")


def _copy_on(client: socket.socket, server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            server.sendall(data)
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_WR)


def _copy_back(server: socket.socket, client: socket.socket, proxy: StandInProxy) -> None:
    count = 0
    with contextlib.suppress(OSError):
        while data := server.recv(65536):
            client.sendall(data)
            count += len(data)
            if proxy.dies_after is not None and count >= proxy.dies_after:
                break
    for end in (client, server):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
