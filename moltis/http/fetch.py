"""One bounded exchange with a party that is not trusted: what it is, where it is, how long it takes, how much it sends.

Nothing is kept between exchanges. A connection that is used again may turn out to be closed after a token request was
written to it, and then nobody knows whether a refresh token has been used up; and it was judged by what was allowed
when it was made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import anyio
import anyio.lowlevel
import httpcore2

from moltis.errors import Busy
from moltis.http.addresses import Scope, host_is_loopback, scope
from moltis.http.bodies import BodyEncoded, BodyTooLarge, collect, in_turn, unpacked
from moltis.http.clients import USER_AGENT
from moltis.http.dialing import Resolve, resolve
from moltis.http.origins import Url, read_url, resolved, shown_host
from moltis.http.pinned import AddressRefused, PinnedBackend, judged
from moltis.http.tls import CaFileError, tls_context
from moltis.http.words import InOurWords, network_words
from moltis.threads import in_thread

if TYPE_CHECKING:
    from moltis.proxies import Proxies, Way

Kind = Literal["refused", "outage"]
Sending = Callable[[], Awaitable[None]]
T = TypeVar("T")

TOTAL_SECS = 10.0
MAX_BYTES = 1024 * 1024
MAX_REDIRECTS = 3
KNOWN_HERE_SECS = 1.0
"""How long a name that a proxy resolves is looked up here too. Behind one, there may be no other way out for that."""
NO_HEADERS: Mapping[str, str] = {}

_EVERYWHERE = frozenset(Scope)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
_REFUSED = (
    AddressRefused,
    BodyEncoded,
    BodyTooLarge,
    CaFileError,
    httpcore2.LocalProtocolError,
    httpcore2.UnsupportedProtocol,
)
"""What trying again does not change. A bad certificate is no such thing: a hotel's network has one for every host."""


class FetchProblem(InOurWords):
    """There is no answer, or none that may be used.

    message: one sentence that names the host and nothing else of the other side.
    kind: `refused`: what the other side wants or sends is unsafe, and trying again changes nothing;
        `outage`: it cannot be reached, or breaks off, or takes too long.
    status: the HTTP status, if it came to that (a redirect that is not followed).
    retry_after_secs: how long it asks to be left alone, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Kind = "outage",
        status: int | None = None,
        retry_after_secs: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind: Kind = kind
        self.status = status
        self.retry_after_secs = retry_after_secs


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """An HTTP response of any status, whole.

    headers: names in lower case; what came several times is joined with ", ".
    url: where it came from, after redirects.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    def __repr__(self) -> str:
        return f"Answer({self.status}, {len(self.body)} bytes)"


class Fetcher:
    """Fetches documents from authorization servers, and posts forms to them.

    allowed: the scopes of addresses that may be reached (`addresses.neighbours`), as of now: whoever has found out
        more may set it. Plain http reaches this machine only, whatever is allowed.
    total_secs: for one `get` or `post`, from the first name looked up to the last byte, redirects included.
    max_bytes: of one body.
    proxies: what is reached through a proxy. Who is at the other end of a name is the proxy's to say then; addresses,
        and names that are known here too, are judged all the same.
    """

    def __init__(
        self,
        ca_file: str | None,
        allowed: frozenset[Scope] = frozenset(),
        *,
        total_secs: float = TOTAL_SECS,
        max_bytes: int = MAX_BYTES,
        proxies: Proxies | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        self._proxies = proxies
        self._ca_file = ca_file
        self.allowed = allowed
        self._total_secs = total_secs
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._under_way: set[anyio.CancelScope] = set()
        self._closed = False

    async def get(self, url: str, headers: Mapping[str, str] = NO_HEADERS) -> Answer:
        """Fetch a document; up to 3 redirects are followed, each judged like the first URL, none from https to http.

        headers: none of them credentials: whoever is asked, and whoever they redirect to, may be anybody.

        Raises:
            FetchProblem: there is no answer that may be used.
        """
        if any(name.lower() in _CREDENTIALS for name in headers):
            raise ValueError("a document is fetched without credentials")
        return await self._bounded(url, lambda: self._follow(url, headers))

    async def post(
        self,
        url: str,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        trusted: bool = False,
        sending: Sending | None = None,
    ) -> Answer:
        """Post a body, to that URL and nowhere else: no redirect is followed.

        trusted: the URL comes from moltis.toml; it may be at any address.
        sending: awaited once, when the connection is made and before the first byte of the request is written. Before
            that nothing was sent: it is not called when there is no connection or it is given up. If it raises, nothing
            is sent, and that very exception comes out. It counts toward `total_secs`, which may cut it short.

        Raises:
            FetchProblem: there is no answer that may be used. For an `outage`, the request may have been acted upon, if
                `sending` was called.
        """
        all_headers = {**headers, "Content-Type": content_type}

        async def exchange() -> Answer:
            answer = await self._exchange("POST", url, all_headers, body, trusted=trusted, sending=sending)
            if 300 <= answer.status < 400:
                raise FetchProblem(
                    f"{shown_host(url)} answers with a redirect, which is not followed with what was sent",
                    kind="refused",
                    status=answer.status,
                )
            return answer

        return await self._bounded(url, exchange)

    async def delete(self, url: str, headers: Mapping[str, str] = NO_HEADERS) -> Answer:
        """Have what is at that URL deleted; no redirect is followed, and the headers may be credentials.

        Raises:
            FetchProblem: there is no answer that may be used.
        """
        return await self._bounded(url, lambda: self._exchange("DELETE", url, headers, None))

    async def scopes_of(self, url: str) -> frozenset[Scope]:
        """Say whose networks a URL's host is in, by its addresses.

        A name that is not this machine's (`host_is_loopback`) but resolves to it counts as FORBIDDEN: anybody can let a
        name of theirs point there. One that only a proxy knows counts as PUBLIC, for which least may be reached.

        Raises:
            FetchProblem: it is not a URL, or cannot be resolved.
        """

        async def judge() -> frozenset[Scope]:
            parts = _readable(url)
            if self._way(parts) is not None:
                found = {scope(address) for address in await self._known_here(parts)} or {Scope.PUBLIC}
            else:
                try:
                    found = {scope(address) for address in await self._resolve(parts.host, parts.port)}
                except (OSError, UnicodeError) as error:
                    raise _problem(url, error) from None
            if Scope.LOOPBACK in found and not host_is_loopback(parts.host):
                found = (found - {Scope.LOOPBACK}) | {Scope.FORBIDDEN}
            return frozenset(found)

        return await self._bounded(url, judge)

    async def aclose(self) -> None:
        """Give up what is under way, and fetch nothing any more."""
        self._closed = True
        for under_way in self._under_way:
            under_way.cancel()

    async def _bounded(self, url: str, work: Callable[[], Awaitable[T]]) -> T:
        if self._closed:
            raise FetchProblem("nothing is fetched any more")
        with anyio.move_on_after(self._total_secs) as under_way:
            self._under_way.add(under_way)
            try:
                return await work()
            finally:
                self._under_way.discard(under_way)
        if self._closed:
            raise FetchProblem("nothing is fetched any more")
        raise FetchProblem(f"no answer from {shown_host(url)}{self._by_way(url)} within {self._total_secs:g} s")

    async def _follow(self, url: str, headers: Mapping[str, str]) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._exchange("GET", url, headers, None)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            target = resolved(url, location)
            if target is None or (_is_https(url) and not _is_https(target)):
                raise FetchProblem(
                    f"{shown_host(url)} redirects to {shown_host(target or '')}, which is not https",
                    kind="refused",
                    status=answer.status,
                )
            url = target
        raise FetchProblem(
            f"{shown_host(url)} redirects more than {MAX_REDIRECTS} times", kind="refused", status=answer.status
        )

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        trusted: bool = False,
        sending: Sending | None = None,
    ) -> Answer:
        """Send one request on a connection of its own, and read the whole answer."""
        parts = _readable(url)
        if parts.userinfo:
            raise FetchProblem(f"the URL of {shown_host(url)} has a user name or a password in it", kind="refused")
        if not parts.secure:
            raise FetchProblem(f"{shown_host(url)} would be reached by plain http; only https is safe", kind="refused")
        way, reach = self._way(parts), self._reach(parts, trusted)
        backend = PinnedBackend(reach if way is None else _EVERYWHERE, self._resolve)
        try:
            if way is not None and not trusted:
                judged(parts.host, await self._known_here(parts), reach)
            status, received, whole = await self._send(method, parts, headers, body, backend, way, sending)
        except _NotSent as refusal:
            raise refusal.error from refusal.error.__cause__
        except Exception as error:
            raise _problem(url, error) from None
        finally:
            await backend.aclose()
        return Answer(status, received, whole, url.partition("#")[0])

    def _reach(self, parts: Url, trusted: bool) -> frozenset[Scope]:
        allowed = self.allowed
        if trusted:
            allowed = _EVERYWHERE
        return allowed if parts.scheme == "https" else allowed & {Scope.LOOPBACK}

    def _way(self, parts: Url) -> Way | None:
        return None if self._proxies is None else self._proxies.way(parts)

    def _by_way(self, url: str) -> str:
        parts = read_url(url)
        way = self._way(parts) if parts is not None else None
        return "" if way is None else f" through the proxy {way.proxy.netloc}"

    async def _known_here(self, parts: Url) -> Sequence[str]:
        """Return the addresses of a host that a proxy connects to, as far as they are known here: none is no error."""
        with anyio.move_on_after(KNOWN_HERE_SECS):
            try:
                return await self._resolve(parts.host, parts.port)
            except (OSError, UnicodeError):
                pass
        return ()

    async def _send(
        self,
        method: str,
        parts: Url,
        headers: Mapping[str, str],
        body: bytes | None,
        backend: PinnedBackend,
        way: Way | None,
        sending: Sending | None,
    ) -> tuple[int, dict[str, str], bytes]:
        where = httpcore2.URL(scheme=parts.scheme, host=parts.host, port=parts.port, target=parts.target)
        request = httpcore2.Request(method, where, headers=_request_headers(parts, headers, body), content=body)
        through: httpcore2.AsyncNetworkBackend = backend
        forwarding = None
        if way is not None:
            from moltis.http.proxied import Forwarding, ProxiedBackend

            through = ProxiedBackend(way, backend, self._ca_file)
            if way.forwards:
                forwarding = Forwarding(way.proxy)
                request = forwarding.asked(request)
        context = await in_thread(tls_context, self._ca_file) if parts.scheme == "https" else None
        stream = await through.connect_tcp(parts.host, parts.port)
        if context is not None:
            stream = await stream.start_tls(context, parts.host)
        if sending is not None:
            stream = _Announced(stream, sending)
        response = await httpcore2.AsyncHTTP11Connection(where.origin, stream).handle_async_request(request)
        if forwarding is not None:
            forwarding.check(response.status, response.headers)
        received = _by_name(response.headers)
        pieces = unpacked(in_turn(response.aiter_stream()), received.get("content-encoding"), self._max_bytes)
        whole = await collect(pieces, self._max_bytes, received.get("content-length"))
        return response.status, received, whole


class _Announced(httpcore2.AsyncNetworkStream):
    """A connection whose first write waits until `sending` has been awaited.

    Here, and not before the request is handed to the stack: that may find that it cannot be sent at all.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream, sending: Sending) -> None:
        self._stream = stream
        self._sending: Sending | None = sending

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            await anyio.lowlevel.checkpoint_if_cancelled()
            try:
                await sending()
            except Exception as error:
                raise _NotSent(error) from None
        await self._stream.write(buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _NotSent(Exception):
    """Carries an error of `sending` past those who would take it for one of the connection."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _readable(url: str) -> Url:
    parts = read_url(url)
    if parts is None:
        raise FetchProblem("what is to be fetched is not an http or https URL", kind="refused")
    return parts


def _is_https(url: str) -> bool:
    return _readable(url).scheme == "https"


def _problem(url: str, error: Exception) -> FetchProblem:
    kind: Kind = "refused" if isinstance(error, _REFUSED) else "outage"
    if isinstance(error, AddressRefused | CaFileError | Busy):
        return FetchProblem(str(error), kind=kind)
    return FetchProblem(f"no usable answer from {shown_host(url)}: {network_words(error)}", kind=kind)


def _request_headers(parts: Url, headers: Mapping[str, str], body: bytes | None) -> list[tuple[bytes, bytes]]:
    own = {
        "accept": "application/json",
        **{name.lower(): value for name, value in headers.items()},
        "host": parts.netloc,
        "user-agent": USER_AGENT,
        "accept-encoding": "identity",
        "connection": "close",
    }
    if body is not None:
        own["content-length"] = str(len(body))
    return [(name.encode(), value.encode()) for name, value in own.items()]


def _by_name(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("ascii", "replace").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
