"""A message on its way to a server: posted, answered, sent once more where that is harmless and may help, or failed.

A handshake that cannot be begun is told by the end of the connection alone, which says more than the failure of a
request could, such as when to try again.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final, NamedTuple

import httpx2

from moltis.errors import MoltisError, NotSent
from moltis.http.authorized import (
    FAULTS,
    NOTHING_SPARED,
    REFUSALS,
    AuthorizedClient,
    NotLetIn,
    Unreachable,
    held_secs,
)
from moltis.http.bodies import BodyEncoded, coding_of, read_capped
from moltis.http.cookies import Cookies
from moltis.http.heads import media_type, redirect_words, shown_field
from moltis.server.states import FailureKind
from moltis.transport import Ended, Notices, Outgoing, Receiver
from moltis.transport.remote.base import NO_SESSION, Endpoint, Post, RemoteConnection, Session
from moltis.transport.remote.events import BOM, EventStream
from moltis.transport.remote.headers import Headers
from moltis.transport.remote.outcomes import Answered, Asked, Do, Outcome, complaint, failure, outcome, revision_refused
from moltis.transport.remote.replies import about_session, error_reply, says_nothing, under_id, unknown_method

NO_REFUSALS: Final = REFUSALS | {408, 425, 429}
"""What says nothing of the revision, whatever the words."""
ERROR_BYTES: Final = 1024 * 1024
"""Of the body of an HTTP error; a longer one is not read for a JSON-RPC error."""
KNOWN_TYPES: Final = frozenset({"application/json", "text/event-stream"})


class Attempt(NamedTuple):
    """One sending of a message. session: in which. spares: as for `AuthorizedClient.send`."""

    asked: Asked
    headers: Headers
    session: Session = NO_SESSION
    spares: frozenset[int] = NOTHING_SPARED


class PostingConnection(RemoteConnection):
    """A connection by which each message is posted.

    A subclass says what a message has to wait for and how it is sent (`attempt`), and what is done with its answer.
    """

    def __init__(self, endpoint: Endpoint, receive: Receiver, notices: Notices) -> None:
        super().__init__(endpoint, receive, notices)
        self._exchange = self.client_for(endpoint.url)
        self._agreed = False

    def client_for(self, url: str, cookies: Cookies | None = None) -> AuthorizedClient:
        """Return what sends requests to a URL of the server, with the credentials of this connection."""
        endpoint = self.endpoint
        haste_secs = endpoint.limits.heartbeat_timeout_secs / 2
        return AuthorizedClient(
            endpoint.server,
            url,
            self.client,
            endpoint.credentials,
            haste_secs=haste_secs,
            cookies=cookies,
            on_odd=self.odd,
        )

    @abstractmethod
    async def attempt(self, post: Post, *, waited: bool, renewed: bool) -> Attempt:
        """Wait until a message may be sent, and return how. waited, renewed: as in `Asked`."""

    @abstractmethod
    async def take(self, post: Post, attempt: Attempt, response: httpx2.Response) -> Do:
        """Do with an answer what has to be done, except for sending again, and say what that was."""

    async def renew(self, post: Post, attempt: Attempt, status: int) -> bool:
        """Begin the session anew that an answer says is lost; False if the message is not to be sent again."""
        return False

    def unanswered(self) -> None:
        self._exchange.suspect()

    async def deliver(self, post: Post, client: AuthorizedClient) -> bool:
        """Send a message, once more where that is harmless and may help; say whether the server just took it."""
        waited = renewed = False
        while True:
            attempt = await self.attempt(post, waited=waited, renewed=renewed)
            asked = attempt.asked
            try:
                response = await client.send(
                    "POST", attempt.headers, post.message, post, asked.patience_secs, attempt.spares
                )
            except NotLetIn as fault:
                self.turned_away(asked, post.about, fault)
                return False
            except Unreachable as fault:
                self.come_to_nothing(post, asked, failure(asked, fault.words, connected=fault.connected))
                return False
            if response.status_code < 500:
                self.notices.heard()
            try:
                do = await self.take(post, attempt, response)
            finally:
                await response.aclose()
            if do is Do.RENEW:
                if not await self.renew(post, attempt, response.status_code):
                    return False
                renewed = True
            elif do is Do.WAIT:
                waited = True
            else:
                return do is Do.ACCEPT

    def turned_away(self, asked: Asked, about: Outgoing, fault: NotLetIn) -> None:
        """Let a message fail that could not be sent, or was refused, for want of credentials."""
        if asked.opens:
            self.lose(not_begun(fault))
            return
        if fault.lost:
            self.lose(login_needed(), waits=True)
        self.fail(about, fault.error, sent=not isinstance(fault.error, NotSent))

    def come_to_nothing(self, post: Post, asked: Asked, found: Outcome) -> None:
        """Let a message fail whose outcome is `FAIL` or `LOSE`, or answer a probe in the server's place."""
        about = post.about
        if post.answered:  # where the reply comes by another way, it may be faster than what becomes of the POST
            return
        if found.do is Do.UNKNOWN_METHOD:
            self.receive(unknown_method(about.id or 0, found.words))
            return
        if found.do is Do.LOSE:
            assert found.kind
            self.lose(Ended(found.kind, found.words, retry_after_secs=found.held_secs), waits=not asked.opens)
        if not asked.opens:
            self.fail(about, self.not_ready(found.words, held_secs=found.held_secs))


def login_needed() -> Ended:
    """Return how a connection ends that nobody is let in by before a person has logged in."""
    return Ended(FailureKind.AUTH_REQUIRED, "a person must log in")


def not_begun(fault: NotLetIn) -> Ended:
    """Return how a connection ends that could not be begun for want of credentials."""
    return login_needed() if fault.lost else unavailable(fault.error)


def unavailable(error: MoltisError) -> Ended:
    """Return how a connection ends that could not be begun because its login cannot be renewed now."""
    kind = FailureKind.LOGIN_UNAVAILABLE if isinstance(error, NotSent) else FailureKind.CONNECT_FAILED
    return Ended(kind, error.message)


def judged(
    client: AuthorizedClient, asked: Asked, id: int | None, response: httpx2.Response, body: bytes
) -> tuple[Outcome, bytes | None]:
    """Return what an answer means, and the reply that it is, if it is an error; the server is left alone if it says so.

    body: of an HTTP error.
    """
    reply = refusal_reply(asked, id, response, body) if body and id is not None else None
    found = outcome(asked, answered(response, body, reply, id))
    if found.held_secs is not None:
        client.gate.close(found.held_secs)
    return found, reply


def answered(
    response: httpx2.Response, body: bytes = b"", reply: bytes | None = None, id: int | None = None
) -> Answered:
    """Return what there is to know of an answer. `body`: of an HTTP error; `reply`: what `error_reply` makes of it.

    id: of the request, if it was one.
    """
    headers, status = response.headers, response.status_code
    if 200 <= status < 300:
        compressed, kind = "", media_type(headers.get("Content-Type"))
        try:
            coding_of(headers.get("Content-Encoding"))
        except BodyEncoded as fault:
            compressed = fault.coding
        labelled = "" if kind in KNOWN_TYPES else shown_field(headers.get("Content-Type"))
        return Answered(status, kind, labelled, compressed=compressed)
    redirects = 300 <= status < 400
    return Answered(
        status,
        retry_after_secs=held_secs(response),
        leads=redirect_words(headers.get("Location"), str(response.request.url)) if redirects else "",
        reply=reply is not None,
        ours=id is not None and under_id(body, id),
        about_session=about_session(body, id),
        wordless=says_nothing(status, body),
        said="" if reply is not None else complaint(body, media_type(headers.get("Content-Type"))),
    )


def refusal_reply(asked: Asked, id: int, response: httpx2.Response, body: bytes) -> bytes | None:
    """Return the reply that an HTTP error is: the one that its body holds, or the refusal of a revision in words."""
    reply = error_reply(body, id)
    if reply is None and asked.opens and not asked.probes and response.status_code not in NO_REFUSALS:
        content_type = media_type(response.headers.get("Content-Type"))
        reply = revision_refused(body, content_type, response.status_code, id)
    return reply


def _unframed(body: bytes) -> bytes:
    """Return the message of a stream that has one event, else the body: some servers send their errors so too."""
    events = EventStream(ERROR_BYTES).feed(body + b"\n\n")
    return events[0].data if len(events) == 1 and events[0].data else body


async def read_error(response: httpx2.Response) -> bytes:
    """Read the body of an HTTP error, and be done with the answer; empty if it is too long or breaks off."""
    try:
        body = (await read_capped(response, ERROR_BYTES)).removeprefix(BOM)
        return _unframed(body) if media_type(response.headers.get("Content-Type")) == "text/event-stream" else body
    except FAULTS:
        return b""
    finally:
        await response.aclose()
