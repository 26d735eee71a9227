"""A lost session, begun anew: `initialize` and `notifications/initialized` once more, with an id of our own.

The server has forgotten us, not we it: what was agreed on must come out the same, or the connection is over.
"""

from __future__ import annotations

import itertools
from contextlib import aclosing
from typing import Final

import anyio
import httpx2
import msgspec

from moltis.errors import NotSent, ServerNotReady
from moltis.http.authorized import (
    FAULTS,
    NOTHING_SPARED,
    REFUSALS,
    AuthorizedClient,
    HeldBack,
    NotLetIn,
    Unreachable,
    discard,
    held_secs,
)
from moltis.http.bodies import BodyTooLarge, read_capped
from moltis.http.heads import media_type
from moltis.jsonrpc import MALFORMED
from moltis.server.states import FailureKind
from moltis.slices import taken
from moltis.transport import Ended, Outgoing, Receiver
from moltis.transport.remote.base import Session
from moltis.transport.remote.delivery import login_needed
from moltis.transport.remote.events import BOM
from moltis.transport.remote.headers import BadSessionId, checked_session_id, post_headers
from moltis.transport.remote.incoming import body_of, events_in_turn
from moltis.transport.remote.outcomes import PATIENCE_SECS
from moltis.transport.remote.replies import Told, answers, told

MAX_ANSWER_BYTES: Final = 256 * 1024
"""Of the answer to a probe that is looked at; a longer one is an answer too."""
MAX_HELLO_BYTES: Final = 16 * 1024 * 1024
"""The longest answer to `initialize`: of instructions without end a part is used, as at the first time."""

RENEWAL_SECS: Final = 30.0

_numbers = itertools.count(1)


class NotRenewed(Exception):
    """There is no new session; `ended` is how the connection ends of it."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.message)
        self.ended = ended


class CredentialsRefused(Exception):
    """`initialize` is refused with 401 like what was asked in the session: it is not the session that is refused."""


class _Request(msgspec.Struct):
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _Result(msgspec.Struct, rename="camel"):
    protocol_version: str = ""


class _Reply(msgspec.Struct):
    result: _Result | msgspec.UnsetType = msgspec.UNSET


async def begin_anew(
    exchange: AuthorizedClient,
    hello: bytes,
    confirmation: bytes,
    lost: Session,
    receive: Receiver,
    *,
    by_401: bool = False,
    guessed: bool = False,
) -> Session:
    """Do the handshake again.

    hello: the `initialize` request of the first time. confirmation: its `notifications/initialized`.
    receive: takes what the server says besides.
    by_401: a 401 made it look as if the session were lost. guessed: nobody said so; nobody is asked to log in for it.

    Raises:
        CredentialsRefused: it was a 401, and `initialize` is answered with 401 too.
        NotRenewed: it refused, or wants to speak another revision.
    """
    try:
        with anyio.fail_after(RENEWAL_SECS):
            return await _begin_anew(exchange, hello, confirmation, lost, receive, by_401, guessed)
    except TimeoutError as fault:
        raise NotRenewed(
            _ended(f"has lost the session, and did not begin another within {RENEWAL_SECS:g} s")
        ) from fault


async def probe(exchange: AuthorizedClient, session: Session, method: str, receive: Receiver) -> Told:
    """Ask something harmless in a session, and return what the answer says of it.

    receive: takes what the server says besides.
    """
    id = f"moltis-check-{next(_numbers)}"
    message = b'{"jsonrpc":"2.0","id":"%b","method":"%b"}' % (id.encode(), method.encode())
    headers = post_headers(Outgoing(method=method, version=session.version), session.id)
    try:
        exchange.gate.check(0.0)
        response = await exchange.send("POST", headers, message, spares=REFUSALS)
        try:
            if response.is_success and media_type(response.headers.get("Content-Type")) == "text/event-stream":
                body = await _reply_of_stream(response, id, receive)
            else:
                body = await read_capped(response, MAX_ANSWER_BYTES)
        except BodyTooLarge:
            return Told.KNOWN if response.is_success else Told.NOTHING
        except NotRenewed:  # a stream without the reply
            body = b""
        finally:
            await response.aclose()
    except (HeldBack, NotLetIn, Unreachable, *FAULTS):
        return Told.NOTHING
    return told(response.status_code, body.removeprefix(BOM), id)


async def _begin_anew(
    exchange: AuthorizedClient,
    hello: bytes,
    confirmation: bytes,
    lost: Session,
    receive: Receiver,
    by_401: bool,
    guessed: bool,
) -> Session:
    id = f"moltis-renewal-{next(_numbers)}"
    params = msgspec.json.decode(hello, type=_Request).params
    message = b'{"jsonrpc":"2.0","id":"%b","method":"initialize","params":%b}' % (id.encode(), bytes(params))
    try:
        exchange.gate.check(PATIENCE_SECS)
        spares = REFUSALS if by_401 or guessed else NOTHING_SPARED
        response = await exchange.send(
            "POST", post_headers(Outgoing(method="initialize"), None), message, spares=spares
        )
        if by_401 and response.status_code in REFUSALS:
            await discard(response)
            raise CredentialsRefused
        session_id, reply = await _read_reply(response, id, receive)
        version = _version(reply)
        if version != lost.version:
            raise NotRenewed(_ended("has lost the session, and now speaks another revision of MCP than before"))
        session = Session(session_id, version)
        about = Outgoing(method="notifications/initialized", version=version)
        spares = REFUSALS if guessed else NOTHING_SPARED
        response = await exchange.send("POST", post_headers(about, session_id), confirmation, spares=spares)
        await discard(response)
        if not response.is_success:
            raise NotRenewed(_ended(f"has lost the session, and refuses a new one (HTTP {response.status_code})"))
    except HeldBack as fault:
        words = f"has lost the session, and {fault.words}"
        raise NotRenewed(Ended(FailureKind.DISCONNECTED, words, retry_after_secs=fault.secs)) from fault
    except Unreachable as fault:
        raise NotRenewed(_ended(f"has lost the session, and {fault.words}")) from fault
    except NotLetIn as fault:
        if isinstance(fault.error, NotSent):
            raise NotRenewed(
                Ended(FailureKind.LOGIN_UNAVAILABLE, f"has lost the session, and {fault.error.message}")
            ) from fault
        told = fault.error.message if isinstance(fault.error, ServerNotReady) else "a person must log in"
        raise NotRenewed(login_needed() if fault.lost else _ended(f"has lost the session, and {told}")) from fault
    return session


async def _read_reply(response: httpx2.Response, id: str, receive: Receiver) -> tuple[str | None, bytes]:
    try:
        if response.status_code == 401:
            words = "answers 401: it refuses what moltis.toml sends: check headers.Authorization and url"
            raise NotRenewed(Ended(FailureKind.AUTH_REQUIRED, words))
        if not response.is_success:
            words = f"has lost the session, and answered initialize with HTTP {response.status_code}"
            secs = held_secs(response) if response.status_code in (429, 503) else None
            raise NotRenewed(Ended(FailureKind.DISCONNECTED, words, retry_after_secs=secs))
        session_id = checked_session_id(response.headers.get("Mcp-Session-Id"))
        kind = media_type(response.headers.get("Content-Type"))
        if kind == "text/event-stream":
            return session_id, await _reply_of_stream(response, id, receive)
        body = await read_capped(response, MAX_HELLO_BYTES)
        if kind == "application/json" or answers(body, id):
            return session_id, body
        raise NotRenewed(_ended("has lost the session, and answered initialize with neither JSON nor a stream"))
    except BadSessionId as fault:
        raise NotRenewed(_ended(str(fault))) from fault
    except BodyTooLarge as fault:
        raise NotRenewed(_ended("has lost the session, and answered initialize with far too much")) from fault
    except FAULTS as fault:
        raise NotRenewed(_ended("has lost the session, and broke off while beginning another")) from fault
    finally:
        await response.aclose()


async def _reply_of_stream(response: httpx2.Response, id: str, receive: Receiver) -> bytes:
    async with aclosing(events_in_turn(body_of(response, MAX_HELLO_BYTES), MAX_HELLO_BYTES)) as events:
        async for event in events:
            if event is None:
                raise NotRenewed(_ended("has lost the session, and answered initialize with far too much"))
            if answers(event.data, id):
                return event.data
            if event.data and event.event == "message":
                await taken(receive(event.data))
    raise NotRenewed(_ended("has lost the session, and did not answer initialize"))


def _version(reply: bytes) -> str:
    try:
        result = msgspec.json.decode(reply, type=_Reply).result
    except MALFORMED as fault:
        raise NotRenewed(_ended("has lost the session, and answered initialize with something else")) from fault
    if result is msgspec.UNSET:
        raise NotRenewed(_ended("has lost the session, and refuses a new one"))
    return result.protocol_version.strip()  # as when it was agreed on


def _ended(words: str) -> Ended:
    return Ended(FailureKind.DISCONNECTED, words)
