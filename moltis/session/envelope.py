"""The envelope of one JSON-RPC 2.0 message: who it is for and what kind it is, without reading what is inside.

Payloads (`params`, `result`, `error`) stay the bytes the peer sent. They are checked to be well-formed all the same,
in one pass that builds nothing: a payload is later written into messages to other clients, and a server whose
"result" could end early would be answering in the name of its neighbours. (Finding `"id":N,"result":` by its head
alone would save 28 us on 100 kB and is not worth that.)

`parse` never raises. What is not JSON-RPC 2.0 is `Junk`.
"""

from __future__ import annotations

import msgspec

from moltis.errors import RpcCode
from moltis.jsonrpc import MALFORMED, json_string, our_id
from moltis.nesting import MAX_PARTS, counting, outer_id
from moltis.session.parts import elements
from moltis.steps import LONG_BYTES, Steps, finished
from moltis.unicode import mend, mending, reading

MAX_BATCH = 1000
"""Messages taken from one array. Batches existed only in MCP 2025-03-26, and none was ever seen this long."""

MAX_ID_BYTES = 1024
"""The longest request id of a server that is echoed back to it."""

BLANKS = b" \t\r\n"

RAW_NOTHING = msgspec.Raw()

TOO_DEEP = b'{"code":-32603,"message":"the server answered, and its answer is nested too deeply to be read"}'
TOO_MANY_PARTS = (
    b'{"code":-32603,"message":"the server answered, and its answer has more than %d values '
    b'(a list or an object counts as three)"}' % MAX_PARTS
)
NOTHING_TOLD = b'{"code":-32603,"message":"the server answered, and its answer has neither result nor error"}'
NO_UNICODE = b'{"code":-32603,"message":"the server answered, and too much of its answer is no Unicode"}'


class Response(msgspec.Struct, frozen=True, gc=False):
    """A reply to one of our requests: exactly one of `result` and `error` is not None.

    id: None when it is not one that this program could have sent.
    mended: the payload held bytes or escapes that are not Unicode; each is now U+FFFD.
    """

    id: int | None
    result: bytes | None = None
    error: bytes | None = None
    mended: bool = False


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request from the peer. `id` is JSON, to be echoed as it is; `params` is JSON, or empty when it sent none."""

    id: bytes
    method: str
    params: bytes = b""


class Notification(msgspec.Struct, frozen=True, gc=False):
    """A notification from the peer. `params` is JSON, or empty when it sent none."""

    method: str
    params: bytes = b""


class Junk(msgspec.Struct, frozen=True, gc=False):
    """Not a JSON-RPC 2.0 message; `reason` is ours and holds nothing of what was sent."""

    reason: str


class Batch(msgspec.Struct, frozen=True):
    """An array of messages, none of them a batch."""

    messages: tuple[Message, ...]


Message = Response | Request | Notification | Junk
Incoming = Message | Batch


class _Envelope(msgspec.Struct, gc=False):
    jsonrpc: str = ""
    id: int | float | str | msgspec.UnsetType | None = msgspec.UNSET
    method: str | None = None
    params: msgspec.Raw = RAW_NOTHING
    result: msgspec.Raw = RAW_NOTHING
    error: msgspec.Raw = RAW_NOTHING


_ENVELOPE = msgspec.json.Decoder(_Envelope)
NOT_JSON = "not JSON"
"""The reason of a `Junk` that is no JSON at all."""


def parse(message: bytes) -> Incoming:
    """Classify one message. Never raises."""
    if len(message) > LONG_BYTES:
        return finished(reading_of(message))
    try:
        envelope = _ENVELOPE.decode(message)
        if not message.isascii():
            str(message, "utf-8")  # strings that are skipped over are not checked to be UTF-8
    except RecursionError:
        return _too_deep(message)
    except MALFORMED:
        return finished(_batch(message)) if _is_array(message) else _as_mended(message, mend(message))
    return _classify(envelope, mended=False)


def reading_of(message: bytes) -> Steps[Incoming]:
    """Return what `parse` returns in steps, for a message that is long. Never raises."""
    if message[:64].lstrip(BLANKS)[:1] not in (b"{", b"[", b""):
        return Junk(NOT_JSON)
    is_text = yield from reading(message)
    if (yield from counting(message)) > MAX_PARTS:
        return _unread(message, TOO_MANY_PARTS, "JSON of too many values")
    yield
    try:
        envelope = _ENVELOPE.decode(message)
        if is_text:
            yield
            return _classify(envelope, mended=False)
    except RecursionError:
        return _too_deep(message)
    except MALFORMED:
        if _is_array(message):
            yield
            return (yield from _batch(message))
    yield
    mended = yield from mending(message)
    yield
    return _as_mended(message, mended)


def _is_array(message: bytes) -> bool:
    return message[:64].lstrip(BLANKS)[:1] == b"["


def _too_deep(message: bytes) -> Message:
    return _unread(message, TOO_DEEP, "JSON that is nested too deeply")


def _unread(message: bytes, error: bytes, reason: str) -> Message:
    """Have a reply that nobody can parse be an answer all the same: whoever asked would wait for it in vain."""
    id = outer_id(message)
    if id is None or b'"method"' in message[:2048]:
        return Junk(reason)
    return Response(our_id(msgspec.json.decode(id)), None, error)


def _classify(envelope: _Envelope, *, mended: bool) -> Message:
    if envelope.jsonrpc != "2.0":
        return Junk("JSON that is not JSON-RPC 2.0")
    if envelope.method is None:
        error = bytes(envelope.error)
        if error and error != b"null":
            return Response(our_id(envelope.id), None, error, mended)
        result = bytes(envelope.result)
        if not result and our_id(envelope.id) is not None:  # a serializer that leaves out what is null
            return Response(our_id(envelope.id), None, NOTHING_TOLD, mended)
        if not result or envelope.id is msgspec.UNSET:
            return Junk("JSON-RPC without method, result or error")
        return Response(our_id(envelope.id), result, None, mended)
    if envelope.id is msgspec.UNSET:
        return Notification(envelope.method, bytes(envelope.params))
    if envelope.id is None:
        return Junk("a request whose id is null")
    echo = msgspec.json.encode(envelope.id)
    if len(echo) > MAX_ID_BYTES:
        return Junk("a request whose id is too long")
    return Request(echo, envelope.method, bytes(envelope.params))


def _as_mended(message: bytes, mended: bytes | None) -> Message:
    """Classify what could not be read as it came."""
    if not mended:
        return Junk(NOT_JSON) if mended is None else _unread(message, NO_UNICODE, NOT_JSON)
    try:
        return _classify(_ENVELOPE.decode(mended), mended=True)
    except RecursionError:
        return _too_deep(mended)
    except MALFORMED:
        return Junk(NOT_JSON)


def _batch(message: bytes) -> Steps[Incoming]:
    try:
        items = elements(message, MAX_BATCH + 1)
    except MALFORMED:
        return Junk(NOT_JSON)
    yield
    found: list[Message] = []
    for item in items[:MAX_BATCH]:
        one = yield from reading_of(bytes(item))
        found.append(Junk("a batch inside a batch") if isinstance(one, Batch) else one)
    if len(items) > MAX_BATCH:
        found.append(Junk("a batch that is too long"))
    return Batch(tuple(found)) if found else Junk("an empty batch")


def modern_meta(version: str, client: bytes, capabilities: bytes = b"{}") -> bytes:
    """Return the members of `_meta` that every request of MCP 2026-07-28 carries.

    client, capabilities: `clientInfo` and `clientCapabilities` as JSON.
    """
    return (
        b'"io.modelcontextprotocol/protocolVersion":%b,"io.modelcontextprotocol/clientInfo":%b,'
        b'"io.modelcontextprotocol/clientCapabilities":%b' % (json_string(version), client, capabilities)
    )


def meta_members(era: bytes, token: int | None) -> bytes:
    """Join the era's members of `_meta` (empty before 2026-07-28) and a progress token."""
    if token is None:
        return era
    return b'%b,"progressToken":%d' % (era, token) if era else b'"progressToken":%d' % token


def call_params(name: str, arguments: bytes | None, meta: bytes, more: bytes = b"") -> bytes:
    """Build the params of `tools/call` and `prompts/get`.

    arguments: a well-formed JSON object, sent as it is; None sends none.
    meta: members of `_meta`, from `meta_members`.
    more: further members, on one line.
    """
    middle = b"" if arguments is None else b',"arguments":%b' % arguments
    return b'{"name":%b%b%b%b,"_meta":{%b}}' % (json_string(name), middle, more and b",", more, meta)


def read_params(uri: str, meta: bytes, more: bytes = b"") -> bytes:
    """Build the params of `resources/read`; `meta` and `more` as for `call_params`."""
    return b'{"uri":%b%b%b,"_meta":{%b}}' % (json_string(uri), more and b",", more, meta)


def with_meta(params: bytes, meta: bytes) -> bytes:
    """Add members to `_meta` of `params`, a well-formed JSON object; where both have one, ours stays.

    Raises:
        ValueError: `params` or its `_meta` is not an object.
    """
    params = params.strip()
    if not meta:
        return params
    if b"_meta" not in params and b"\\" not in params:
        rest = params[1:].lstrip()
        return b'{"_meta":{%b}%b%b' % (meta, b"" if rest[:1] == b"}" else b",", rest)
    try:
        members = _MEMBERS.decode(params)
        theirs = _MEMBERS.decode(members.pop("_meta", b"{}"))
    except msgspec.MsgspecError as fault:
        raise ValueError("params and their _meta must be objects") from fault
    ours = _MEMBERS.decode(b"{%b}" % meta)
    members["_meta"] = msgspec.Raw(msgspec.json.encode({**theirs, **ours}))
    return msgspec.json.encode(members)


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Progress(msgspec.Struct):
    progressToken: int | float | str | None = None  # noqa: N815 - the wire's spelling


class _Subscription(msgspec.Struct):
    id: int | float | str | None = msgspec.field(name="io.modelcontextprotocol/subscriptionId", default=None)


class _Subscribed(msgspec.Struct):
    meta: _Subscription = msgspec.field(name="_meta", default_factory=_Subscription)


class _Cancelled(msgspec.Struct):
    requestId: int | float | str | None = None  # noqa: N815 - the wire's spelling


_PROGRESS = msgspec.json.Decoder(_Progress)
_CANCELLED = msgspec.json.Decoder(_Cancelled)
_SUBSCRIBED = msgspec.json.Decoder(_Subscribed)


def progress_token(params: bytes) -> int | None:
    """Read the token of `notifications/progress`, if it is one of ours."""
    try:
        return our_id(_PROGRESS.decode(params).progressToken)
    except MALFORMED:
        return None


def subscription_id(params: bytes) -> int | None:
    """Read which `subscriptions/listen` of ours a notification of MCP 2026-07-28 is about."""
    try:
        return our_id(_SUBSCRIBED.decode(params).meta.id)
    except MALFORMED:
        return None


def cancelled_id(params: bytes) -> int | None:
    """Read the request id of `notifications/cancelled`, if it is one of ours."""
    try:
        return our_id(_CANCELLED.decode(params).requestId)
    except MALFORMED:
        return None


def cancelled_key(params: bytes) -> bytes:
    """Read the request id of `notifications/cancelled` as `Request.id` spells it; empty if there is none."""
    try:
        id = _CANCELLED.decode(params).requestId
    except MALFORMED:
        return b""
    return b"" if id is None else msgspec.json.encode(id)


class ErrorObject(msgspec.Struct, frozen=True):
    """What is read of a JSON-RPC error. `data` stays JSON."""

    code: int | float | None = None
    message: str = ""
    data: msgspec.Raw = RAW_NOTHING

    @property
    def words(self) -> str:
        """The whole of it but its data, as it continues "was answered with"."""
        return f"error {self.code}: {self.message}" if self.code is not None else f"an error: {self.message}"


class _WellFormed(msgspec.Struct):
    code: int
    message: str


_ERROR = msgspec.json.Decoder(ErrorObject)
_WELL_FORMED = msgspec.json.Decoder(_WellFormed)
_TEXT_OR_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw] | str)
_MAX_CODE = 2**53
"""Beyond it a number is no integer to most hosts."""


def read_error(error: bytes) -> ErrorObject:
    """Read a JSON-RPC error. Of one that is malformed, what is there: a text is its message, a code in words too."""
    try:
        return _ERROR.decode(error)
    except MALFORMED:
        return _read_in_part(error)


def _read_in_part(error: bytes) -> ErrorObject:
    try:
        found = _TEXT_OR_MEMBERS.decode(error)
    except MALFORMED:
        return ErrorObject()
    if isinstance(found, str):
        return ErrorObject(message=found)
    code, message = (_plain(found.get(name)) for name in ("code", "message"))
    words = [word for word in (code, message) if isinstance(word, str) and word]
    number = code if isinstance(code, int | float) else None
    return ErrorObject(number, ": ".join(words), found.get("data", RAW_NOTHING))


def _plain(raw: msgspec.Raw | None) -> str | int | float | None:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=str | int | float | None)
    except MALFORMED:
        return None


def mended_error(error: bytes) -> bytes:
    """Return an error object that any host can read: the same bytes if it is one, else with what can be read of it.

    A host drops a reply whose error is malformed, and waits on. What of it is neither code nor message is its `data`.
    """
    try:
        if abs(_WELL_FORMED.decode(error).code) < _MAX_CODE:
            return error
    except MALFORMED:
        pass
    read = read_error(error)
    code = read.code if isinstance(read.code, int) and abs(read.code) < _MAX_CODE else int(RpcCode.INTERNAL_ERROR)
    data = bytes(read.data) or (b"" if error.strip()[:1] in (b'"', b"") else error)
    more = b',"data":%b' % data if data not in (b"", b"{}", b"null") else b""
    return b'{"code":%d,"message":%b%b}' % (code, json_string(read.message or "an error without a message"), more)
