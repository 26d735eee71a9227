"""What the answer to a POST means for the message it carried (MCP 2025-11-25 and 2026-07-28, Streamable HTTP).

Pure. Nothing is sent again that may have been processed: a message is repeated only where the server says that it did
not look at it (401, 404 for its session, 429), or where repeating changes nothing. What the body of an error says to a
person is somebody else's text: one line of it is told, where it is text.
"""

from __future__ import annotations

import enum
import math
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from moltis.errors import RpcCode
from moltis.http.heads import REDIRECTS
from moltis.jsonrpc import MALFORMED
from moltis.server.states import FailureKind
from moltis.session.handshake import HANDSHAKE_VERSIONS, MAX_REFUSAL_CHARS
from moltis.transport.remote.replies import UNRELATED, AboutSession

HANDSHAKE: Final = frozenset({"initialize", "server/discover"})
HEARTBEATS: Final = frozenset({"ping", "server/discover"})
INITIALIZED: Final = "notifications/initialized"
LASTING: Final = "subscriptions/listen"
UNLIMITED: Final = HANDSHAKE | {"ping", LASTING}
"""What waits behind no calls, however many there are."""
PATIENCE_SECS: Final = 5.0
"""How long a request is held back for a server that wants to be left alone. Longer, and it fails at once."""
CHANGES_NOTHING: Final = HANDSHAKE | {"ping", "resources/read", "prompts/get", INITIALIZED}
"""Besides every `*/list`: what may be asked twice."""

NOT_UNDERSTOOD: Final = frozenset({400, 404, 405, 406, 415, 422, 500, 501})
"""How servers that know no `server/discover` answer it over HTTP, besides with a JSON-RPC error."""
UNSERVED: Final = frozenset({400, 404, 405})
"""How a server answers that does not speak Streamable HTTP (MCP, Transports, Backwards Compatibility)."""
GONE: Final = frozenset({404, 410})
"""How a server says that it does not know something, such as the session."""
OVERLOADED: Final = frozenset({429, 503})
NO_ANSWER: Final = "no answer that could be used"


class Do(enum.Enum):
    """What is to be done now."""

    TAKE_MESSAGE = "the body is a message"
    TAKE_EVENTS = "the body is a stream of messages"
    LOOK = "the body does not say that it is either, and may be all the same"
    ACCEPT = "it was taken, and nothing follows"
    DELIVER = "the body of the error is a JSON-RPC reply"
    RENEW = "the session is lost: begin anew, and send it again"
    ALIVE = "answer in the server's place: whoever answers a heartbeat so is alive"
    WAIT = "leave the server alone for a while, and send it again"
    UNKNOWN_METHOD = "answer in the server's place that it does not know the method"
    FAIL = "this message has failed"
    LOSE = "this message has failed, and the connection with it"


class Asked(msgspec.Struct, frozen=True):
    """What is known of a message when its POST is answered.

    modern: it was sent under 2026-07-28 or later. session: it named a session.
    agreed: the handshake succeeded on this connection.
    renewed, waited: it was sent again already, after a session was lost, or after a Retry-After.
    spared: a 401 to it was not shown to who holds the credentials, for it may be the session that is refused.
    """

    method: str
    is_request: bool
    modern: bool = False
    session: bool = False
    agreed: bool = True
    renewed: bool = False
    waited: bool = False
    spared: bool = False

    @property
    def opens(self) -> bool:
        """Whether the connection begins with it: without an answer to this there is none."""
        return not self.agreed and self.method in HANDSHAKE

    @property
    def probes(self) -> bool:
        """Whether it asks if the server is a modern one. Later the same method is a heartbeat."""
        return self.opens and self.method == "server/discover"

    @property
    def heartbeat(self) -> bool:
        """Whether it only asks if the server is alive."""
        return self.agreed and self.is_request and self.method in HEARTBEATS

    @property
    def patience_secs(self) -> float:
        """How long it may be held back. What nobody waits for in person is not worth a failure: that can wait."""
        if self.heartbeat:
            return 0.0
        patient = not self.is_request or self.opens or self.method == LASTING or self.method.endswith("/list")
        return math.inf if patient else PATIENCE_SECS

    @property
    def harmless(self) -> bool:
        """Whether the server is in the same state after it was processed twice as after once."""
        return self.method in CHANGES_NOTHING or self.method.endswith("/list")

    def begins_anew(self, about: AboutSession) -> bool:
        """Whether an error that says this of the session has it begun anew, and the message sent once more."""
        if not self.session or self.renewed:
            return False
        return about is AboutSession.REFUSED or (about is AboutSession.HINTED and self.harmless)


class Answered(msgspec.Struct, frozen=True):
    """What is known of the answer.

    content_type: from `media_type`. labelled: the field, if that is neither JSON nor events, from `shown_field`.
    leads: where a redirect leads that is not followed, from `redirect_words`.
    reply: its body is a JSON-RPC reply; ours: under the id of the request.
    about_session: what its body says of the session.
    wordless: it is an error, and its body says no more than its status. said: what it says instead, to a person.
    compressed: how, if its body cannot be unpacked.
    """

    status: int
    content_type: str = ""
    labelled: str = ""
    retry_after_secs: float | None = None
    leads: str = ""
    reply: bool = False
    ours: bool = False
    about_session: AboutSession = AboutSession.NOTHING
    wordless: bool = False
    said: str = ""
    compressed: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What follows. `words` say what happened, as what follows the server's name.

    kind: of `Do.LOSE`, and of nothing else.
    held_secs: nothing is to be sent for so long.
    unserved: it may be that the server speaks the older HTTP+SSE.
    doubts: the session may be lost, and is to be looked after.
    refuses: it was refused by who may not have read it. Once that says nothing of the session.
    """

    do: Do
    words: str = ""
    kind: FailureKind | Literal[""] = ""
    held_secs: float | None = None
    unserved: bool = False
    doubts: bool = False
    refuses: bool = False


def outcome(asked: Asked, answered: Answered) -> Outcome:
    """Decide. A 401 or 403 comes here only when nobody can do anything about it.

    A heartbeat only asks if somebody is there, and any answer says so but a 5xx: that is what a proxy says of a server
    that is not.
    """
    found = _outcome(asked, answered)
    if asked.session and answered.status >= 400 and found.do is not Do.RENEW and not asked.renewed:
        refuses = answered.status < 500 and answered.status not in UNRELATED and not answered.ours
        gone = answered.status in GONE or answered.about_session is not AboutSession.NOTHING
        found = replace(found, doubts=gone or (refuses and answered.wordless), refuses=refuses)
    if asked.heartbeat and found.do is Do.FAIL and answered.status < 500:
        return replace(found, do=Do.ALIVE)
    return found


def _outcome(asked: Asked, answered: Answered) -> Outcome:
    status = answered.status
    if 200 <= status < 300:
        return _succeeded(asked, answered)
    if asked.session and not asked.renewed and _session_lost(asked, answered):
        return Outcome(Do.RENEW)
    held_secs = answered.retry_after_secs if status in OVERLOADED else None
    if held_secs is not None:
        return _held(asked, answered, held_secs)
    if answered.reply and status != 401:
        return Outcome(Do.DELIVER)
    unserved = status in UNSERVED and asked.is_request
    if asked.probes and status in NOT_UNDERSTOOD:
        return Outcome(Do.UNKNOWN_METHOD, f"HTTP {status}", unserved=unserved)
    return _failed(asked, _error_words(asked, answered), status=status, unserved=unserved)


def _session_lost(asked: Asked, answered: Answered) -> bool:
    """Whether the session is lost, and the message was not processed or may be processed twice."""
    if answered.status == 401:  # RFC 9110 section 15.5.2: it "has not been applied"
        return asked.spared
    if answered.status == 404 and not answered.ours:  # MCP 2025-11-25, Session Management
        return True
    return answered.status not in OVERLOADED and asked.begins_anew(answered.about_session)


def failure(asked: Asked, words: str, *, connected: bool = True) -> Outcome:
    """Decide what follows when there is no answer that could be looked at.

    connected: whether there was a connection to ask by; without one, another question would not be answered either.
    """
    if asked.probes and not connected:
        return Outcome(Do.LOSE, words, FailureKind.CONNECT_FAILED)
    return _failed(asked, words)


def compressed_words(coding: str) -> str:
    """Say that a body is compressed in a way that cannot be unpacked, as what follows the server's name."""
    return (
        f"answered with a body compressed by {coding}, though it was asked not to: it does so itself, "
        "or a proxy or CDN before it; that can be switched off there for this URL"
    )


def _succeeded(asked: Asked, answered: Answered) -> Outcome:
    if not asked.is_request:
        return Outcome(Do.ACCEPT)
    if answered.status in (202, 204):
        if asked.probes:
            return Outcome(Do.UNKNOWN_METHOD, f"HTTP {answered.status}")
        return _failed(asked, f"took {asked.method} with HTTP {answered.status} and will not answer it")
    if answered.compressed:
        return _failed(asked, compressed_words(answered.compressed))
    if answered.content_type == "application/json":
        return Outcome(Do.TAKE_MESSAGE)
    if answered.content_type == "text/event-stream":
        return Outcome(Do.TAKE_EVENTS)
    refusal = _failed(asked, f"answered {asked.method} with an unexpected content-type: {answered.labelled or 'none'}")
    return replace(refusal, do=Do.LOOK)


def _held(asked: Asked, answered: Answered, secs: float) -> Outcome:
    words = f"is overloaded (HTTP {answered.status}) and wants to be left alone for {secs:.0f} s"
    if asked.opens:
        return Outcome(Do.LOSE, words, FailureKind.CONNECT_FAILED, secs)
    if asked.heartbeat:
        return Outcome(Do.ALIVE, words, held_secs=secs)
    if not asked.waited and secs <= asked.patience_secs and (answered.status == 429 or asked.harmless):
        return Outcome(Do.WAIT, words, held_secs=secs)
    return Outcome(Do.FAIL, words, held_secs=secs)


def _error_words(asked: Asked, answered: Answered) -> str:
    status = answered.status
    if status in REDIRECTS:
        return answered.leads or f"redirects (HTTP {status})"
    if status == 401:
        return "answers 401: it refuses what moltis.toml sends: check headers.Authorization and url"
    tells = answered.said and not answered.wordless and (asked.opens or status < 500)  # a refusal, or why none begins
    said = f": {answered.said}" if tells else ""
    if status == 403:
        return f"refuses {asked.method or 'an answer'} (HTTP 403){said}"
    if status == 404 and asked.session:
        return "does not know the session that it has just begun (HTTP 404)"
    return f"answered {asked.method or 'an answer'} with HTTP {status}{said}"


def _failed(asked: Asked, words: str, *, status: int = 200, unserved: bool = False) -> Outcome:
    if status == 401:
        return Outcome(Do.LOSE, words, FailureKind.AUTH_REQUIRED)
    if asked.probes and status not in REDIRECTS and status not in OVERLOADED:
        return Outcome(Do.UNKNOWN_METHOD, NO_ANSWER, unserved=unserved)  # it may answer the other question
    if asked.opens:
        return Outcome(Do.LOSE, words, FailureKind.CONNECT_FAILED, unserved=unserved)
    return Outcome(Do.FAIL, words, unserved=unserved)


_TEXTS: Final = ("", "text/plain", "application/json", "application/problem+json")
_MEMBERS: Final = ("message", "detail", "error_description", "title", "error", "errors")
"""Where JSON has its words: RFC 9457, RFC 6749 section 5.2, and what is usual."""
_MAX_DEPTH: Final = 3


def complaint(body: bytes, content_type: str) -> str:
    """Return the first line of a text, or what stands for it in JSON; empty if there is none. Never raises.

    content_type: without parameters. The caller takes secrets out, and shortens it after that.
    """
    if content_type not in _TEXTS or body.lstrip()[:1] == b"<":
        return ""
    text = body[:MAX_REFUSAL_CHARS].decode("utf-8", "replace")
    if text.lstrip()[:1] in ("{", "[", '"'):
        try:
            said = msgspec.json.decode(body)
            text = _words(said, _MAX_DEPTH) or (text if said else "")
        except MALFORMED:
            pass
    return next((line.strip() for line in text[:MAX_REFUSAL_CHARS].splitlines() if line.strip()), "")


def revision_refused(body: bytes, content_type: str, status: int, id: int) -> bytes | None:
    """Return a refusal of `initialize` as the JSON-RPC it should have been, if it names a revision that we speak."""
    said = complaint(body, content_type)
    text = body[:MAX_REFUSAL_CHARS].decode("utf-8", "replace")
    if not said or not any(version in text for version in HANDSHAKE_VERSIONS):
        return None
    error: dict[str, Any] = {"code": RpcCode.INVALID_REQUEST, "message": f"HTTP {status}: {said}"}
    if text.strip() != said:
        error["data"] = text
    return msgspec.json.encode({"jsonrpc": "2.0", "id": id, "error": error})


def _words(value: Any, depth: int) -> str:
    match value:
        case str():
            return value
        case dict() if depth:
            said = (_words(value[name], depth - 1) for name in _MEMBERS if name in value)
            return next(filter(None, said), "")
        case [first, *_] if depth:
            return _words(first, depth - 1)
        case _:
            return ""
