"""Requests through a proxy: for https by a connection that it makes (CONNECT), for http by its sending them on.

RFC 9110 section 9.3.6, RFC 9112 section 3.2.2. Whatever a proxy does instead of that is told in words that name it, by
host and port alone, and nothing of the request behind it was sent then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import anyio
import httpcore2
import httpx2

from moltis import __version__
from moltis.http.carrier import Carrier
from moltis.http.tls import CaFileError, tls_context
from moltis.http.words import InOurWords, network_words
from moltis.proxies import Proxy, Way
from moltis.threads import in_thread

AUTHENTICATION_REQUIRED: Final = 407
MAX_SHOWN_CHARS: Final = 100
_SCHEME: Final = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]{0,19})(?=\s|,|$)")
"""A challenge's (RFC 9110 section 11.3); a parameter of one has a `=` behind its name."""

Headers = list[tuple[bytes, bytes]]


class ProxyProblem(InOurWords):
    """A proxy gives no connection, or does not send a request on."""

    def __init__(self, proxy: Proxy, words: str) -> None:
        super().__init__(f"the proxy {proxy.netloc[:MAX_SHOWN_CHARS]} {words}")


class ProxiedBackend(httpcore2.AsyncNetworkBackend):
    """Makes connections by way of a proxy.

    backend: makes those to the proxy.
    ca_file: certificates to trust beside the system's, for a proxy that is reached by https.
    """

    def __init__(self, way: Way, backend: httpcore2.AsyncNetworkBackend, ca_file: str | None) -> None:
        self._way = way
        self._backend = backend
        self._ca_file = ca_file

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Return a connection to a host, or to the proxy if that sends requests on. `timeout` is for all of it.

        Raises:
            httpcore2.ConnectError: there is none; its cause is the `ProxyProblem`.
        """
        proxy = self._way.proxy
        try:
            with anyio.fail_after(timeout):
                stream = await self._to_proxy(local_address, socket_options)
                if not self._way.forwards:
                    await self._tunnel(stream, host, port)
                return stream
        except TimeoutError:
            within = "" if timeout is None else f" within {timeout:g} s"
            problem = ProxyProblem(proxy, f"gives no connection{within}")
        except ProxyProblem as refusal:
            problem = refusal
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, CaFileError) as error:
            problem = ProxyProblem(proxy, f"gives no connection: {network_words(error)}")
        raise httpcore2.ConnectError(problem) from problem

    async def _to_proxy(
        self, local_address: str | None, socket_options: Iterable[httpcore2.SOCKET_OPTION] | None
    ) -> httpcore2.AsyncNetworkStream:
        proxy = self._way.proxy
        context = await in_thread(tls_context, self._ca_file) if proxy.scheme == "https" else None
        stream = await self._backend.connect_tcp(proxy.host, proxy.port, None, local_address, socket_options)
        return stream if context is None else await stream.start_tls(context, proxy.host)

    async def _tunnel(self, stream: httpcore2.AsyncNetworkStream, host: str, port: int) -> None:
        """Have the proxy connect to a host; the stream is closed if it does not."""
        proxy = self._way.proxy
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        where = httpcore2.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port, target=target)
        headers = [(b"Host", target.encode()), (b"User-Agent", f"moltis/{__version__}".encode()), *_credentials(proxy)]
        request = httpcore2.Request("CONNECT", where, headers=headers)
        try:
            response = await httpcore2.AsyncHTTP11Connection(where.origin, stream).handle_async_request(request)
            if not 200 <= response.status < 300:
                raise _refusal(proxy, response.status, response.headers)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            raise


class ForwardedCarrier(Carrier):
    """Sends each request to a proxy that sends it on; of a pool whose connections are those to the proxy."""

    def __init__(self, pool: httpcore2.AsyncConnectionPool, proxy: Proxy) -> None:
        super().__init__(pool)
        self._forwarding = Forwarding(proxy)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        try:
            self._forwarding.check(response.status_code, response.headers.raw)
        except ProxyProblem as problem:
            await response.aclose()
            raise httpx2.ConnectError("the connection failed") from problem
        return response

    def _asked(self, request: httpx2.Request) -> httpcore2.Request:
        return self._forwarding.asked(super()._asked(request))


class Forwarding:
    """What is different about requests that a proxy sends on."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._credentials = _credentials(proxy)

    def asked(self, request: httpcore2.Request) -> httpcore2.Request:
        """Return the same request for the proxy: by its whole URL, and with the credentials for the proxy."""
        url = request.url
        host = b"[%b]" % url.host if b":" in url.host else url.host
        port = b"" if url.port is None else b":%d" % url.port
        request.url = httpcore2.URL(
            scheme=url.scheme,
            host=url.host,
            port=url.port,
            target=b"%b://%b%b%b" % (url.scheme, host, port, url.target),
        )
        request.headers = [*request.headers, *self._credentials]
        return request

    def check(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Look whether an answer is the proxy's own, which did not send the request on then.

        Raises:
            ProxyProblem: it is.
        """
        if status == AUTHENTICATION_REQUIRED:
            raise _refusal(self._proxy, status, headers)


def _credentials(proxy: Proxy) -> Headers:
    """Return the headers by which a proxy lets us through."""
    authorization = proxy.authorization
    return [] if authorization is None else [(b"Proxy-Authorization", authorization.encode())]


def _refusal(proxy: Proxy, status: int, headers: Iterable[tuple[bytes, bytes]]) -> ProxyProblem:
    """Return what a proxy's refusal means."""
    if status != AUTHENTICATION_REQUIRED:
        words = "does not get there" if status >= 500 else "does not let this through"
        return ProxyProblem(proxy, f"{words} (HTTP {status})")
    wanted = dict.fromkeys(
        scheme
        for name, value in headers
        if name.lower() == b"proxy-authenticate"
        for scheme in _SCHEME.findall(value[:4096].decode("latin-1"))
    )
    if wanted and "basic" not in {scheme.lower() for scheme in wanted}:
        words = f"wants a login by {', '.join(list(wanted)[:5])}, and only Basic is spoken here"
    elif proxy.user is None:
        words = "wants a user and a password"
    else:
        words = "refuses the user and the password that it is given"
    return ProxyProblem(proxy, f"{words} (HTTP {status})")
