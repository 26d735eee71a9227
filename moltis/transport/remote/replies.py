"""Whether a message from the server is the reply to a request: as much of JSON-RPC as a transport has to know.

Pure. It looks no further into a message than is needed to be sure, and changes nothing in it but the id of an error
that has none.

What such messages say of the session is here too: whether it is lost though no answer says so (a bare 400, or an error
that no request of ours is named in). A refusal proves something only where the same was answered before, or is in a new
session: a server that refuses one malformed call, or knows no `ping`, must not lose its session for that.
"""

from __future__ import annotations

import enum
from http import HTTPStatus
from typing import Final

import msgspec

from moltis.errors import RpcCode
from moltis.jsonrpc import MALFORMED
from moltis.session.envelope import MAX_BATCH
from moltis.session.parts import elements
from moltis.steps import LONG_BYTES, Steps, finished
from moltis.unicode import mend, mending

_NOTHING = msgspec.Raw()
MAX_ERROR_BYTES = 4096
"""Of an error that says that the session is lost; what is longer is a result."""


class _Head(msgspec.Struct, gc=False):
    id: int | float | str | msgspec.UnsetType | None = msgspec.UNSET
    method: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Reply(msgspec.Struct, gc=False):
    jsonrpc: str = ""
    id: int | float | str | msgspec.UnsetType | None = msgspec.UNSET
    method: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw = _NOTHING
    error: msgspec.Raw = _NOTHING


class _Refusal(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Refused(msgspec.Struct):
    error: _Refusal
    jsonrpc: str = ""
    id: int | float | str | msgspec.UnsetType | None = msgspec.UNSET


_HEAD = msgspec.json.Decoder(_Head)
_REPLY = msgspec.json.Decoder(_Reply)
_REFUSED = msgspec.json.Decoder(_Refused)


def answers(message: bytes, id: int | str) -> bool:
    """Whether a message, or one of a batch, is the reply to the request of that id. Never raises."""
    return _begins(message, id) or finished(_looking(message, id))


def _begins(message: bytes, id: int | str) -> bool:
    """Whether it is so for certain, by how it begins or ends."""
    shown = b'"%b"' % id.encode() if isinstance(id, str) else b"%d" % id
    # As the common servers write it. A key so near to an end of the object is the object's own, not a payload's.
    if message.startswith(
        (b'{"jsonrpc":"2.0","id":%b,"result":' % shown, b'{"jsonrpc":"2.0","id":%b,"error":' % shown)
    ):
        return True
    return message.startswith((b'{"result":', b'{"error":')) and message.endswith(b',"jsonrpc":"2.0","id":%b}' % shown)


def answering(message: bytes, id: int | str) -> Steps[bool]:
    """Return what `answers` returns in steps, for a message that may be long. Never raises."""
    if len(message) <= LONG_BYTES:
        return answers(message, id)
    return _begins(message, id) or (yield from _looking(message, id))


def _looking(message: bytes, id: int | str) -> Steps[bool]:
    try:
        heads = yield from _heads(message)
    except MALFORMED:
        yield
        mended = yield from mending(message)  # as whoever receives it does
        yield
        try:
            heads = yield from _heads(mended or b"")
        except MALFORMED:
            return False
    return any(head.method is msgspec.UNSET and _same(head.id, id) for head in heads)


def _heads(message: bytes) -> Steps[list[_Head]]:
    if message[:64].lstrip(b" \t\r\n")[:1] != b"[":
        return [_HEAD.decode(message)]
    heads = []
    for one in elements(message, MAX_BATCH):
        yield
        heads.append(_HEAD.decode(one))
    return heads


def is_reply(message: bytes) -> bool:
    """Whether one message is a reply, to whatever request. Never raises."""
    try:
        return _HEAD.decode(message).method is msgspec.UNSET
    except MALFORMED:
        try:
            return _HEAD.decode(mend(message) or b"").method is msgspec.UNSET
        except MALFORMED:
            return False


def succeeds(reply: bytes) -> bool:
    """Whether a reply is a result and not an error. Never raises."""
    try:
        return bool(bytes(_REPLY.decode(reply).result))
    except MALFORMED:
        return False


def error_reply(body: bytes, id: int) -> bytes | None:
    """Return the JSON-RPC reply that the body of an HTTP error holds, as a reply to the request of that id.

    None if it holds none. An error under no id or under another is an answer to this request all the same: it came as
    the answer to this POST, and a request is often refused before its id is read.
    """
    try:
        reply = _REPLY.decode(body)
    except MALFORMED:
        return None
    if reply.jsonrpc != "2.0" or reply.method is not msgspec.UNSET:
        return None
    error = bytes(reply.error)
    if _same(reply.id, id) and (reply.result or error):
        return body
    return b'{"jsonrpc":"2.0","id":%d,"error":%b}' % (id, error) if error.startswith(b"{") else None


def unknown_method(id: int, words: str) -> bytes:
    """Make the reply of a server that answers a method it does not know with something else than JSON-RPC.

    words: ours, printable ASCII without quotes.
    """
    return _error(id, RpcCode.METHOD_NOT_FOUND, words)


def alive(id: int) -> bytes:
    """Return a reply to a heartbeat for a server that answers it otherwise than by JSON-RPC, but does answer."""
    return _error(id, RpcCode.NOT_READY, "it answered by HTTP alone")


def _error(id: int, code: RpcCode, words: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"error":{"code":%d,"message":"%b"}}' % (id, code, words.encode())


SESSION_CODES = frozenset({0, -32000, -32001, -32600})
"""Error codes under which servers speak of the session; under any other it is about what was asked. 0: no JSON-RPC."""

SESSION_SENTENCES = frozenset(
    {
        "no valid session id provided",
        "server not initialized",
        "session not found",
        "missing session id",
        "invalid session id",
    }
)
"""What the SDKs say, and say before they look at the message (after "Bad Request: " or "Not Found: ", some of them)."""


class AboutSession(enum.Enum):
    """What an error says of the session it was asked in."""

    NOTHING = "it is about something else"
    HINTED = "the session may be lost; the request may have been processed all the same"
    REFUSED = "the session is not known, and the request was not looked at"


def about_session(body: bytes, id: int | None) -> AboutSession:
    """Return what the body of an error, or an error in a body, says of the session. `id`: of the request, if it is one.

    The specification wants 404; the servers made after the reference examples answer 400 with "No valid session ID
    provided" after a restart, and those with one session only "Server not initialized". Such words are proof only
    where they are all that is said, and not said under our id: whoever writes that has read the request.
    """
    text = body[:1024].lower()
    if b"session" not in text and b"not initialized" not in text:
        return AboutSession.NOTHING
    try:
        refused = _REFUSED.decode(body)
    except MALFORMED:
        return AboutSession.HINTED
    if refused.error.code not in SESSION_CODES:
        return AboutSession.NOTHING
    sentence = refused.error.message.lower().removeprefix("bad request: ").removeprefix("not found: ")
    own = id is not None and _same(refused.id, id)
    if refused.jsonrpc == "2.0" and not own and sentence.strip(" .") in SESSION_SENTENCES:
        return AboutSession.REFUSED
    return AboutSession.HINTED


def speaks_of_session(message: bytes, id: int | None) -> AboutSession:
    """Return the same of a message that may be no error at all. What is long is none."""
    if len(message) > MAX_ERROR_BYTES or b'"error"' not in message:
        return AboutSession.NOTHING
    try:
        _REFUSED.decode(message)
    except MALFORMED:
        return AboutSession.NOTHING
    return about_session(message, id)


def under_id(body: bytes, id: int) -> bool:
    """Whether a body is a reply under that very id: whoever wrote it has read the request. Never raises."""
    try:
        return _same(_REPLY.decode(body).id, id)
    except MALFORMED:
        return False


def _same(given: object, id: int | str) -> bool:
    """Compare ids; some servers echo 7 as "7" or 7.0."""
    if isinstance(id, str):
        return given == id
    if isinstance(given, str):
        return given.isascii() and given.isdecimal() and len(given) < 20 and int(given) == id
    return given is not None and given == id


PING: Final = "ping"
LIST: Final = "tools/list"
"""What is asked where nothing was ever answered: a server without it refuses it in a new session too."""

UNRELATED: Final = frozenset({401, 408, 413, 414, 425, 429, 431})
"""Refusals that are about the login, the moment or the size of what was asked."""
TIMES: Final = frozenset({408, 425, 429})
PHRASES: Final = frozenset({"", "unprocessable content", *(status.phrase.lower() for status in HTTPStatus)})
"""Reason phrases (RFC 9110 section 15); 422 has a new one, which Python 3.11 does not know."""
REPEATED: Final = 2
"""Refusals in a row, in words about something else, until it may be the session after all."""


class Told(enum.Enum):
    """What the answer to a probe says of the session that the probe was sent in."""

    KNOWN = "the request was read, and answered under its id"
    LOST = "it says that it does not know it"
    REFUSED = "it does not answer what it was asked, and does not say why"
    NOTHING = "there is no answer, or none of the server's own"


def told(status: int, message: bytes, id: str) -> Told:
    """Return what the answer to a probe says. `message`: its body, or the reply in its stream. `id`: of the probe."""
    about = speaks_of_session(message, None) if 200 <= status < 300 else about_session(message, None)
    if about is not AboutSession.NOTHING:
        return Told.LOST
    if message and answers(message, id):
        return Told.KNOWN
    if status == 404:  # MCP 2025-11-25, Session Management
        return Told.LOST
    refused = 200 <= status < 300 or (400 <= status < 500 and status not in TIMES)
    return Told.REFUSED if refused else Told.NOTHING


def says_nothing(status: int, body: bytes) -> bool:
    """Whether the body of an error says no more than its status does, as "Bad Request" or "400 Bad Request"."""
    text = body[:100].decode("latin-1").strip(' \t\r\n".').lower()
    return text.removeprefix(str(status)).strip() in PHRASES


class Evidence:
    """What is known of the probes of one connection, whatever its session. Of use are `ping` and lists: harmless.

    refused: how many requests in a row were refused in this session, since it last served one.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._answered: dict[str, None] = {}
        self._disproved: set[str] = set()

    def served(self, method: str) -> None:
        """Take note that a request was answered."""
        if method != PING:
            self.refused = 0
        if method == PING or method.endswith("/list"):
            self._answered[method] = None
            self._disproved.discard(method)

    def disprove(self, method: str) -> None:
        """Take note that a new session refuses it as well: that it is refused says nothing of a session."""
        self._answered.pop(method, None)
        self._disproved.add(method)

    @property
    def answers_pings(self) -> bool:
        """Whether a `ping` that is refused says something."""
        return PING in self._answered

    def after_ping(self, ping: Told) -> str | None:
        """Return what else has to be asked to be sure, None if nothing has.

        A ping may be answered by who stands before the server, and refused by whoever knows none.
        """
        known = self.other(PING)
        if ping is Told.KNOWN:
            return known if self.refused >= REPEATED else None
        if ping is Told.REFUSED and not self.answers_pings:
            return known or (None if LIST in self._disproved else LIST)
        return None

    def other(self, than: str) -> str | None:
        """Return a list that was answered, other than one that was asked already."""
        return next((method for method in self._answered if method not in (PING, than)), None)
