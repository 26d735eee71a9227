"""How a server and we settle on a protocol revision, as a machine without I/O.

Two eras: up to 2025-11-25 a connection begins with `initialize`; from 2026-07-28 every request says who it is from,
and `server/discover` asks what the server speaks. Over HTTP, where a request harms no other, `auto` begins with the
latter and falls back to the former, as MCP 2026-07-28 (Versioning) wants it. Over stdio it begins with `initialize`:
servers on the Rust SDK exit on anything else, and one pipe must not carry two opening requests that a slow server may
both accept: it would be in the era of the last.

A server that refuses the revision it is offered, and names another that we speak, is offered that once, in the same
start: it should have done so itself, and some do not.

One start may take several connections: a process that exited on what it was asked, or whose era is in doubt, is
followed by a fresh one that is asked something else. The owner sends what a step says, hands each reply to
`on_reply`, calls `on_timeout` once when an `Ask` with `patience_secs` has had none in that time, and asks `again` when
a connection came to nothing before the server was ready. How long the whole may take is the owner's affair.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import Raw

from moltis import jsonrpc
from moltis.errors import RpcCode
from moltis.jsonrpc import MALFORMED
from moltis.session import envelope
from moltis.session.description import describe, read_answer
from moltis.session.parts import is_empty, kind_of

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)
"""Oldest first; the last of each is what we offer."""


PATIENCE_SECS = 10.0
"""For the first of the two questions, before the other is asked too: what the reference client gives its probe. Over
stdio it counts from when the server has read the question, for a cold `npx` takes longer until anybody reads."""

MUTE_SECS = 1.0
"""The same over HTTP for a server that left `server/discover` unanswered the last time."""

MAX_CONNECTIONS = 3
"""Of one start: the second is for the other era, the third for the first one alone."""

MAX_TOLD_CHARS = 100
"""Of a server's name and of its version, as they are remembered."""

MAX_REFUSAL_CHARS = 4096
"""Of a server's own words. Whoever shows them takes out what is secret first, and shortens them after that."""

MAX_DATA_CHARS = 200
"""Of the data of a refusal, as it is shown behind the words."""

Era = Literal["legacy", "modern"]

INITIALIZE = "initialize"
DISCOVER = "server/discover"
INITIALIZED = "notifications/initialized"


class Ask(msgspec.Struct, frozen=True):
    """A request to send. `patience_secs` None: as long as the connection lives. `version`: what it is sent under."""

    method: str
    params: bytes
    patience_secs: float | None = None
    version: str | None = None


class Agreed(msgspec.Struct, frozen=True):
    """What both sides will speak, and what the server says of itself (display only, by the specification).

    more: what else it says, `_meta` among it, as it came.
    supported: the revisions that it names, if it was asked by `server/discover`; one that has both eras may name both.
    remarks: what of its answer could not be used, a sentence each.
    """

    era: Era
    protocol_version: str
    server_info: dict[str, Any] | None
    capabilities: dict[str, Any]
    instructions: str | None = None
    more: dict[str, Raw] = msgspec.field(default_factory=dict)
    supported: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class Send(msgspec.Struct, frozen=True):
    """Send these, in order, and go on. Often there are none."""

    asks: tuple[Ask, ...] = ()


class Done(msgspec.Struct, frozen=True):
    """Agreed. `notifications` are methods to send before anything else."""

    agreed: Agreed
    notifications: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True):
    """There is nothing in common. `reason` completes "the handshake failed: ..."."""

    reason: str


class Anew(msgspec.Struct, frozen=True):
    """End this connection, gently, and open another: `start` says what it begins with."""


Step = Send | Done | Failed | Anew

NOTHING = Send()
ANEW = Anew()


_UNSUPPORTED = b'{"code":-32022,"message":"Unsupported protocol version","data":{"supported":[%b]}}'


_PLAIN = re.compile(r"[!-~]+")
_DATE = re.compile(r"(?<!\d)20\d\d-\d\d-\d\d(?!\d)")


class _Supported(msgspec.Struct):
    supported: Raw


class Lesson(enum.StrEnum):
    """What earlier starts taught that the next one would pay for again."""

    NONE = ""
    LEGACY = "legacy"
    """It answers `initialize`: over stdio it is never asked anything else, however long it takes."""
    MODERN = "modern"
    """Over stdio: it exits on `initialize`, or leaves it unanswered, and answers `server/discover`."""
    MUTE = "mute"
    """Over HTTP: it leaves `server/discover` unanswered, and answers `initialize`."""


class EraMemory(msgspec.Struct):
    """What one server's earlier starts taught, for as long as it is started the same way.

    It only decides what is asked first and how long is waited: the server's answer decides what is spoken, and corrects
    the memory. server: who that was, in its own words; another version of it is asked anew.
    on_change: told when something else is known.
    """

    lesson: Lesson = Lesson.NONE
    server: str = ""
    on_change: Callable[[EraMemory], None] | None = None

    def learn(self, lesson: Lesson, server: str = "") -> None:
        """Take note of a start that went well, or (`NONE`) that what was known is in doubt."""
        if (lesson, server) != (self.lesson, self.server):
            self.lesson, self.server = lesson, server
            if self.on_change is not None:
                self.on_change(self)


class _Phase(enum.Enum):
    NEW = "new"
    PROBING = "probing"
    INITIALIZING = "initializing"
    OVER = "over"


@dataclass(slots=True)
class Handshake:
    """The negotiation of one start.

    client: `clientInfo` as JSON.
    protocol: as in moltis.toml: `auto`, `legacy`, or the one revision that is offered.
    remote: each message is a request of its own (HTTP), and none goes down the same pipe as another.
    memory: what earlier starts taught; what this one teaches is put into it by `was_ready` and `failed`.
    capabilities: what we do for the server, as a JSON object.
    relayed: the same for a server of the older era, if that is more.
    """

    client: bytes
    protocol: str = "auto"
    remote: bool = False
    memory: EraMemory = field(default_factory=EraMemory)
    capabilities: bytes = b"{}"
    relayed: bytes = b""
    _phase: _Phase = field(default=_Phase.NEW, init=False)
    _connections: int = field(default=0, init=False)
    _first: str = field(default="", init=False)
    """What the present connection begins with; empty: nothing has decided that but the memory."""
    _alone: bool = field(default=False, init=False)
    """Whether nothing else may be asked on the present connection, however long that stays unanswered."""
    _asked: list[str] = field(default_factory=list, init=False)
    _pending: set[str] = field(default_factory=set, init=False)
    _probes: int = field(default=0, init=False)
    _refusal: bytes | None = field(default=None, init=False)
    """How `initialize` was refused, on whatever connection."""
    _refused_on: int = field(default=0, init=False)
    """On which one."""
    _offers: list[str] = field(default_factory=list, init=False)
    """The revisions that `initialize` was sent with; the second is what the refusal of the first named."""
    _late: Done | None = field(default=None, init=False)
    """Over HTTP: the answer to a probe that was given up."""
    _unusable: str = field(default="", init=False)
    """Why a result of `server/discover` is of no use."""
    _muted: bool = field(default=False, init=False)
    _impatient: bool = field(default=False, init=False)
    """Over HTTP: `initialize` has had its time too, and whichever is answered first decides."""
    _fatal: bool = field(default=False, init=False)
    """A connection ended on `initialize`."""
    _agreed: Agreed | None = field(default=None, init=False)

    def start(self) -> Step:
        """Say what to send first on a connection that has just been opened."""
        self._connections += 1
        self._asked.clear()
        self._pending.clear()
        self._probes = 0
        self._agreed = None
        return self._probe() if self._begins_with() == DISCOVER else self._initialize()

    def on_timeout(self) -> Step:
        """The latest question had no reply in time: ask the other one too."""
        if self._phase is _Phase.INITIALIZING and self.remote:
            self._impatient = True
            return NOTHING if self._late is None else self._finish(self._late)
        if self._phase is _Phase.INITIALIZING and not self.remote and DISCOVER not in self._asked:
            probe = self._probe(patience_secs=None)
            self._phase = _Phase.INITIALIZING  # its answer still decides
            return probe
        if self._phase is _Phase.PROBING and self._refusal is not None:
            return self._refused()
        if self._phase is _Phase.PROBING and self.remote and self.protocol == "auto":
            self._muted = True
            return self._initialize()
        return NOTHING

    def on_reply(self, method: str, result: bytes | None, error: bytes | None) -> Step:
        """Take the reply to the latest request of that method: exactly one of `result` and `error` is not None."""
        self._pending.discard(method)
        if self._phase in (_Phase.NEW, _Phase.OVER):
            return NOTHING
        if method == DISCOVER:
            return self._discovered(result) if result is not None else self._probe_refused(error or b"")
        if self._phase is _Phase.PROBING:
            return NOTHING  # the initialize before this probe, answered twice
        return self._initialized(result) if result is not None else self._initialize_refused(error or b"")

    def on_failure(self, method: str) -> Step | None:
        """Take note that a question will have no reply, and say what follows; None: nothing can."""
        self._pending.discard(method)
        dropped = method == DISCOVER and self._phase is _Phase.PROBING and self._refusal is None
        if self.remote and self.protocol == "auto" and dropped:
            return self._initialize()
        return NOTHING if self.remote and self._phase is _Phase.INITIALIZING and method == DISCOVER else None

    def again(self, *, ended_itself: bool, read: bool) -> bool:
        """Say whether our asking may be why this connection came to nothing, and another one is to be opened.

        ended_itself: the server ended it; else what it said was of no use.
        read: the server had read all that it was sent. One that had not cannot have minded it.
        """
        if self.remote or self._connections >= MAX_CONNECTIONS:
            return False
        if len(self._offers) > 1 and self._agreed is None:
            # It ended on the first offer, and the second came too late; it does not have to have read that.
            minded = ended_itself and self._refused_on == self._connections and INITIALIZE in self._pending
            return minded and self._next(INITIALIZE, alone=True)
        if self.protocol != "auto":
            return False
        both = INITIALIZE in self._asked and DISCOVER in self._asked
        if both and self._refusal is None and not self._alone:
            # Its answers cannot be told apart: it may be in the era of the one that it read last.
            return self._next(INITIALIZE, alone=True)
        if not ended_itself or not read or self._agreed is not None:
            return False
        if self._begins_with() == INITIALIZE:
            unanswered = INITIALIZE in self._pending and self.memory.lesson is not Lesson.LEGACY and not self._alone
            self._fatal = unanswered
            return (unanswered or self._refusal is not None) and self._next(DISCOVER)
        if DISCOVER in self._pending and not self._first:
            return self._next(INITIALIZE)  # what was remembered is out of date
        return False

    @property
    def refuses_era(self) -> bool:
        """Whether `initialize` was refused in a way that says that the server does not have its era."""
        code = envelope.read_error(self._refusal).code if self._refusal is not None else None
        return code in (RpcCode.UNSUPPORTED_VERSION, RpcCode.METHOD_NOT_FOUND)

    def was_ready(self) -> None:
        """Take note that the server became ready: what was learnt holds."""
        if self._agreed is None:
            return
        told = self._agreed.server_info or {}
        server = " ".join(str(told.get(member, ""))[:MAX_TOLD_CHARS] for member in ("name", "version"))
        lesson = self._learnt(server)
        self.memory.learn(lesson, server if lesson is Lesson.MODERN else "")

    def failed(self, *, read: bool) -> None:
        """Take note that the server did not become ready; what it left unanswered may not be what it answers any more.

        read: as for `again`. A start that was too slow to read anything says nothing of eras.
        """
        if read and self._pending and not self.remote:
            self.memory.learn(Lesson.NONE)

    def _learnt(self, server: str) -> Lesson:
        assert self._agreed is not None
        if self.remote:
            return Lesson.MUTE if self._muted and self._agreed.era == "legacy" else Lesson.NONE
        if self._agreed.era == "legacy":
            return Lesson.LEGACY
        if any(version in HANDSHAKE_VERSIONS for version in self._agreed.supported):
            return Lesson.NONE  # it has both, and what it did not answer may have been slow
        if self._first == DISCOVER:
            return Lesson.MODERN
        known = self.memory.lesson is Lesson.MODERN and self.memory.server == server
        return Lesson.MODERN if known else Lesson.NONE

    # --- what to send

    def _begins_with(self) -> str:
        if self._first:
            return self._first
        if self.protocol in MODERN_VERSIONS:
            return DISCOVER
        if self.protocol != "auto":
            return INITIALIZE
        return DISCOVER if self.remote or self.memory.lesson is Lesson.MODERN else INITIALIZE

    def _next(self, first: str, *, alone: bool = False) -> bool:
        """Have another connection begin with that; say that there is to be one."""
        self._phase = _Phase.NEW
        self._first = first
        self._alone = alone
        return True

    def _probe(self, version: str = "", patience_secs: float | None = PATIENCE_SECS) -> Step:
        self._phase = _Phase.PROBING
        self._probes += 1
        version = version or (self.protocol if self.protocol in MODERN_VERSIONS else MODERN_VERSIONS[-1])
        meta = envelope.modern_meta(version, self.client, self.capabilities)
        if self.protocol != "auto" or (not self.remote and self._refusal is None):
            patience_secs = None
        elif self.memory.lesson is Lesson.MUTE:
            patience_secs = MUTE_SECS
        return self._ask(Ask(DISCOVER, b'{"_meta":{%b}}' % meta, patience_secs, version))

    def _initialize(self) -> Step:
        self._phase = _Phase.INITIALIZING
        if not self._offers:
            self._offers.append(self.protocol if self.protocol in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1])
        capabilities = self.relayed or self.capabilities
        params = b'{"protocolVersion":%b,"capabilities":%b,"clientInfo":%b}' % (
            jsonrpc.json_string(self._offers[-1]),
            capabilities,
            self.client,
        )
        settled = self.protocol != "auto" or self._alone or self.memory.lesson is Lesson.LEGACY or len(self._offers) > 1
        patient = settled or (not self.remote and DISCOVER in self._asked)
        return self._ask(Ask(INITIALIZE, params, None if patient else PATIENCE_SECS))

    def _ask(self, ask: Ask) -> Step:
        self._asked.append(ask.method)
        self._pending.add(ask.method)
        return Send((ask,))

    def _finish(self, done: Done) -> Step:
        self._phase = _Phase.OVER
        self._agreed = done.agreed
        return done

    def _failed(self, reason: str) -> Step:
        self._phase = _Phase.OVER
        return Failed(reason)

    # --- what came back

    def _discovered(self, result: bytes) -> Step:
        done = self._read_discovery(result)
        if self._phase is _Phase.PROBING:
            return self._finish(done) if done is not None else self._unproven(b"")
        if done is None:
            return NOTHING  # `initialize` is on its way, and its answer decides
        if self.remote:
            self._late = done
            return self._finish(done) if self._impatient else NOTHING
        # It answered this one and not the other, yet. Should it answer that too, it would be in the older era.
        if self._connections >= MAX_CONNECTIONS:
            return NOTHING
        self._next(DISCOVER)
        return ANEW

    def _read_discovery(self, result: bytes) -> Done | None:
        try:
            supported = _versions(read_answer(DISCOVER, result).supported_versions)
            found = describe(DISCOVER, result, modern=True)
        except ValueError as fault:
            self._unusable = str(fault)
            return None
        mutual = _mutual(supported, (self.protocol,) if self.protocol in MODERN_VERSIONS else MODERN_VERSIONS)
        if mutual is None:
            self._unusable = f"the answer to {DISCOVER} names {_shown(supported)} and no revision that was asked for"
            return None
        return Done(
            Agreed(
                era="modern",
                protocol_version=mutual,
                server_info=found.server_info,
                capabilities=found.capabilities,
                instructions=found.instructions,
                more=found.more,
                supported=tuple(supported),
                remarks=found.remarks,
            )
        )

    def _probe_refused(self, error: bytes) -> Step:
        if self._phase is not _Phase.PROBING:
            return NOTHING
        supported = _supported(error)
        if supported is not None:
            mutual = _mutual(supported)
            if mutual is not None and self._probes == 1 and self.protocol in ("auto", mutual):
                return self._probe(mutual)
            if not any(version in HANDSHAKE_VERSIONS for version in supported):
                return self._failed(self._nothing_in_common(supported))
        return self._unproven(error)

    def _unproven(self, error: bytes) -> Step:
        """The probe did not show a modern server."""
        if self._refusal is not None:
            return self._refused()
        if self.protocol == "auto" and not self._fatal:
            return self._initialize()
        supported = _supported(error) if error else None
        if supported is not None:
            return self._failed(self._nothing_in_common(supported))
        return self._failed(_answered_with(DISCOVER, error) if error else self._unusable)

    def _initialized(self, result: bytes) -> Step:
        try:
            version = _version(read_answer(INITIALIZE, result).protocol_version)
            found = describe(INITIALIZE, result, modern=False)
        except ValueError as fault:
            return self._failed(str(fault))
        if version in MODERN_VERSIONS:
            # No answer that the older era allows: like the refusal that it should have been, it shows a modern server.
            return self._initialize_refused(_UNSUPPORTED % jsonrpc.json_string(version))
        if version not in HANDSHAKE_VERSIONS:
            return self._failed(self._nothing_in_common([version]))
        agreed = Agreed(
            era="legacy",
            protocol_version=version,
            server_info=found.server_info,
            capabilities=found.capabilities,
            instructions=found.instructions,
            more=found.more,
            remarks=found.remarks,
        )
        return self._finish(Done(agreed, (INITIALIZED,)))

    def _initialize_refused(self, error: bytes) -> Step:
        self._refusal, self._refused_on = error, self._connections
        if self.remote and self._late is not None:
            return self._finish(self._late)
        if DISCOVER in self._pending and not self.remote:
            self._phase = _Phase.PROBING  # refused, it leaves no doubt about the era of the answer to the other
            return NOTHING
        supported = _supported(error)
        if self.protocol == "auto" and self._probes <= 1:
            # This refusal is itself proof of a modern server: the probe came too late, or was spared by mistake.
            mutual = _mutual(supported or [])
            if mutual is not None:
                return self._probe(mutual)
            if supported is None and self._probes == 0 and not _refuses_revision(error):
                return self._probe()
        return self._refused()

    def _refused(self) -> Step:
        error = self._refusal or b""
        other = self._named(error)
        if other is not None:
            self._offers.append(other)
            return self._initialize()
        supported = _supported(error)
        if supported is None:
            offers = ", and then ".join(self._offers)
            return self._failed(f"{_answered_with(INITIALIZE, error)} (it was offered {offers})")
        if self._unusable and _mutual(supported) is not None:
            return self._failed(self._unusable)  # the one thing that is wrong: it speaks what we speak
        return self._failed(self._nothing_in_common(supported))

    def _named(self, error: bytes) -> str | None:
        """Return the newest revision that a refusal of `initialize` names and that may be offered, once.

        The server should have made that offer itself (MCP 2025-11-25, Lifecycle, Version Negotiation).
        """
        if self.protocol not in ("auto", "legacy") or len(self._offers) > 1:
            return None
        return _mutual(_mentioned(error), [version for version in HANDSHAKE_VERSIONS if version not in self._offers])

    def _nothing_in_common(self, theirs: Sequence[str]) -> str:
        ours = _ours(self.protocol)
        if ours == _ours("auto"):
            return f"the server speaks MCP {_shown(theirs)}; this program speaks {', '.join(ours)}"
        return (
            f"the server speaks MCP {_shown(theirs)}; "
            f'protocol = "{self.protocol}" in its entry allows {", ".join(ours)} alone'
        )


def _ours(protocol: str) -> tuple[str, ...]:
    """Return the revisions that an entry of moltis.toml allows."""
    match protocol:
        case "auto":
            return (*HANDSHAKE_VERSIONS, *MODERN_VERSIONS)
        case "legacy":
            return HANDSHAKE_VERSIONS
        case _:
            return (protocol,)


def _mutual(versions: Collection[str], ours: Sequence[str] = MODERN_VERSIONS) -> str | None:
    return next((version for version in reversed(ours) if version in versions), None)


def _answered_with(method: str, error: bytes) -> str:
    refusal = envelope.read_error(error)
    words = f"{method} was answered with {refusal.words[:MAX_REFUSAL_CHARS]}"
    return words if not refusal.data or is_empty(refusal.data) else f"{words} {_text(refusal.data)[:MAX_DATA_CHARS]}"


def _mentioned(error: bytes) -> set[str]:
    """Return what looks like a revision in an error's message and data, however it is written there."""
    refusal = envelope.read_error(error)
    return set(_DATE.findall(refusal.message[:MAX_REFUSAL_CHARS] + " " + _text(refusal.data)))


def _text(data: Raw) -> str:
    return bytes(data)[:MAX_REFUSAL_CHARS].decode("utf-8", "replace")


def _refuses_revision(error: bytes) -> bool:
    """Say whether a server refuses the revision that it was offered, as one of the older era does.

    (MCP 2025-11-25, Lifecycle, Error Handling: -32602 "Unsupported protocol version".)
    """
    named = _mentioned(error)
    names_old = _mutual(named, HANDSHAKE_VERSIONS[:-1]) is not None
    of_revision = names_old or "protocol version" in envelope.read_error(error).message[:MAX_REFUSAL_CHARS].lower()
    return of_revision and _mutual(named) is None


def _shown(versions: Sequence[str]) -> str:
    """Return revisions as a person is told them: what cannot be told from none, or from its neighbour, in quotes."""
    shown = (version[:40] for version in versions[:8])
    return ", ".join(version if _PLAIN.fullmatch(version) else repr(version) for version in shown) or "none"


def _version(said: Raw) -> str:
    """Return the revision that `initialize` is answered with. White space around it is no part of it.

    Raises:
        ValueError: it is none; as a sentence.
    """
    if not said:
        raise ValueError(f"the answer to {INITIALIZE} has no `protocolVersion`")
    try:
        return msgspec.json.decode(said, type=str).strip()
    except msgspec.MsgspecError as fault:
        raise ValueError(f"`protocolVersion` in the answer to {INITIALIZE} is {kind_of(said)}, not a text") from fault


def _versions(said: Raw) -> list[str]:
    """Return the revisions that a server names, less what cannot be one.

    Raises:
        ValueError: there are none; as a sentence.
    """
    if not said or is_empty(said):
        raise ValueError(f"the answer to {DISCOVER} has no `supportedVersions`")
    try:
        found = msgspec.json.decode(said, type=list[Any] | str)
    except (msgspec.MsgspecError, RecursionError) as fault:
        raise ValueError(f"`supportedVersions` in the answer to {DISCOVER} is {kind_of(said)}, not a list") from fault
    return [version.strip() for version in ([found] if isinstance(found, str) else found) if isinstance(version, str)]


def _supported(error: bytes) -> list[str] | None:
    """Return the versions that a -32022 names, or None if it is another error or names none."""
    refusal = envelope.read_error(error)
    if refusal.code != RpcCode.UNSUPPORTED_VERSION:
        return None
    try:
        named = msgspec.json.decode(refusal.data, type=_Supported).supported
        return [] if bytes(named) == b"[]" else _versions(named)
    except MALFORMED:
        return None
