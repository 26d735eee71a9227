"""How a connection settles on a protocol revision, as a machine without I/O.

Two eras: up to 2025-11-25 a connection begins with `initialize`; from 2026-07-28 every request says who it is from,
and `server/discover` asks what the server speaks. `auto` probes with the latter and falls back to the former on
anything that is not proof of a modern server, as the reference client does (MCP 2026-07-28, Versioning).

The owner sends what a step says, hands each reply to `on_reply`, and calls `on_timeout` once when an `Ask` with
`patience_secs` has had none in that time. How long the whole may take is the owner's affair.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import Raw

from moltis.session import envelope

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)
"""Oldest first; the last of each is what we offer."""

UNSUPPORTED_VERSION = -32022
"""`UnsupportedProtocolVersionError` of MCP 2026-07-28; its data names the server's versions."""

PROBE_PATIENCE_SECS = 10.0
"""What the reference client gives the probe. A cold `npx` takes 6 s until its server reads anything."""

MAX_ANSWER_BYTES = 256 * 1024
"""The longest handshake answer accepted: its parts are shown in every status. Real ones have below 4 kB."""

MAX_REFUSAL_CHARS = 4096
"""Of a server's own words. Whoever shows them takes out what is secret first, and shortens them after that."""

Era = Literal["legacy", "modern"]

INITIALIZE = "initialize"
DISCOVER = "server/discover"
INITIALIZED = "notifications/initialized"
SERVER_INFO = "io.modelcontextprotocol/serverInfo"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to send. `patience_secs` None: as long as the connection lives. `version`: what it is sent under."""

    method: str
    params: bytes
    patience_secs: float | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Agreed:
    """What both sides will speak, and what the server says of itself (display only, by the specification).

    more: what else it says, `_meta` among it, as it came.
    """

    era: Era
    protocol_version: str
    server_info: dict[str, Any] | None
    capabilities: dict[str, Any]
    instructions: str | None = None
    more: dict[str, Raw] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Send:
    """Send these, in order, and go on. Often there are none."""

    asks: tuple[Ask, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """Agreed. `notifications` are methods to send before anything else."""

    agreed: Agreed
    notifications: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """There is nothing in common. `reason` completes "the handshake failed: ..."."""

    reason: str


Step = Send | Done | Failed

NOTHING = Send()


class _Initialize(msgspec.Struct, rename="camel"):
    # Differs: the reference client also requires serverInfo; a server that does not say its name can still be used.
    protocol_version: str
    capabilities: dict[str, Any] = {}
    server_info: dict[str, Any] | None = None
    instructions: str | None = None


class _Discover(msgspec.Struct, rename="camel"):
    supported_versions: list[str]
    capabilities: dict[str, Any]
    instructions: str | None = None
    meta: Any = msgspec.field(name="_meta", default=None)


_UNDERSTOOD = frozenset({"protocolVersion", "capabilities", "serverInfo", "instructions", "supportedVersions"})
_OF_ONE_ANSWER = frozenset({"resultType", "ttlMs", "cacheScope"})
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])


class _Supported(msgspec.Struct):
    supported: list[str]


class _Phase(enum.Enum):
    NEW = "new"
    PROBING = "probing"
    INITIALIZING = "initializing"
    OVER = "over"


@dataclass(slots=True)
class EraMemory:
    """What one server's earlier starts taught, for as long as the daemon runs and the server is started the same way.

    A probe costs a legacy server an error at best; some print a page of warnings, some exit.
    """

    proven_legacy: bool = False
    suspected_legacy: bool = False

    @property
    def legacy_first(self) -> bool:
        """Whether the next start should begin with `initialize`."""
        return self.proven_legacy or self.suspected_legacy

    def agreed(self, era: Era) -> None:
        """Note a handshake that succeeded."""
        self.proven_legacy = era == "legacy"
        self.suspected_legacy = False

    def failed(self, *, died_of_probe: bool) -> None:
        """Note a start without agreement. A suspicion holds for one start, so that a wrong one cannot last."""
        self.suspected_legacy = died_of_probe


@dataclass(slots=True)
class Handshake:
    """One negotiation. `legacy_first` (from `EraMemory`) spares `auto` the probe; the server can still correct it.

    client: `clientInfo` as JSON.
    capabilities: what we do for the server, as a JSON object.
    relayed: the same for a server of the older era, if that is more.
    """

    client: bytes
    mode: Literal["auto", "legacy"] = "auto"
    legacy_first: bool = False
    capabilities: bytes = b"{}"
    relayed: bytes = b""
    probe_unanswered: bool = field(default=False, init=False)
    """A probe was sent and has had no reply of any kind: whatever ends the connection now may be its doing."""
    probe_timed_out: bool = field(default=False, init=False)
    _phase: _Phase = field(default=_Phase.NEW, init=False)
    _probes: int = field(default=0, init=False)

    def start(self) -> Step:
        """Say what to send first."""
        if self.mode == "legacy" or self.legacy_first:
            return self._initialize()
        return self._probe(MODERN_VERSIONS[-1])

    def on_timeout(self) -> Step:
        """The probe had no reply in time: `initialize` follows it, and whichever is answered first decides."""
        if self._phase is not _Phase.PROBING:
            return NOTHING
        self.probe_timed_out = True
        return self._initialize()

    def on_reply(self, method: str, result: bytes | None, error: bytes | None) -> Step:
        """Take the reply to the latest request of that method: exactly one of `result` and `error` is not None."""
        if method == DISCOVER:
            self.probe_unanswered = False
        if self._phase in (_Phase.NEW, _Phase.OVER):
            return NOTHING
        if method == DISCOVER:
            return self._discovered(result) if result is not None else self._probe_refused(error or b"")
        if self._phase is _Phase.PROBING:
            return NOTHING  # the initialize before this probe, answered twice
        return self._initialized(result) if result is not None else self._initialize_refused(error or b"")

    # --- what to send

    def _probe(self, version: str) -> Step:
        self._phase = _Phase.PROBING
        self._probes += 1
        self.probe_unanswered = True
        self.probe_timed_out = False
        meta = envelope.modern_meta(version, self.client, self.capabilities)
        return Send((Ask(DISCOVER, b'{"_meta":{%b}}' % meta, PROBE_PATIENCE_SECS, version),))

    def _initialize(self) -> Step:
        self._phase = _Phase.INITIALIZING
        version = envelope.json_string(HANDSHAKE_VERSIONS[-1])
        capabilities = self.relayed or self.capabilities
        params = b'{"protocolVersion":%b,"capabilities":%b,"clientInfo":%b}' % (version, capabilities, self.client)
        return Send((Ask(INITIALIZE, params),))

    def _done(self, agreed: Agreed, notifications: tuple[str, ...] = ()) -> Step:
        self._phase = _Phase.OVER
        return Done(agreed, notifications)

    def _failed(self, reason: str) -> Step:
        self._phase = _Phase.OVER
        return Failed(reason)

    # --- what came back

    def _discovered(self, result: bytes) -> Step:
        found = _read_discover(result)
        mutual = _mutual(found.supported_versions) if found else None
        if found is None or mutual is None:
            # Not proof of a modern server. When `initialize` is already on its way, its answer decides.
            return self._initialize() if self._phase is _Phase.PROBING else NOTHING
        meta = found.meta if isinstance(found.meta, dict) else {}
        info = meta.get(SERVER_INFO)
        return self._done(
            Agreed(
                era="modern",
                protocol_version=mutual,
                server_info=info if isinstance(info, dict) else None,
                capabilities=found.capabilities,
                instructions=found.instructions,
                more=_more(result),
            )
        )

    def _probe_refused(self, error: bytes) -> Step:
        if self._phase is not _Phase.PROBING:
            return NOTHING
        supported = _supported(error)
        if supported is None:
            return self._initialize()
        mutual = _mutual(supported)
        if mutual is not None and self._probes == 1:
            return self._probe(mutual)
        if not any(version in HANDSHAKE_VERSIONS for version in supported):
            return self._failed(_nothing_in_common(supported))
        return self._initialize()

    def _initialized(self, result: bytes) -> Step:
        if len(result) > MAX_ANSWER_BYTES:
            return self._failed(
                f"the answer to initialize has {len(result)} bytes; at most {MAX_ANSWER_BYTES} are read"
            )
        try:
            found = msgspec.json.decode(result, type=_Initialize)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return self._failed("the answer to initialize is not an InitializeResult")
        if found.protocol_version not in HANDSHAKE_VERSIONS:
            return self._failed(_nothing_in_common([found.protocol_version]))
        agreed = Agreed(
            era="legacy",
            protocol_version=found.protocol_version,
            server_info=found.server_info,
            capabilities=found.capabilities,
            instructions=found.instructions,
            more=_more(result),
        )
        return self._done(agreed, (INITIALIZED,))

    def _initialize_refused(self, error: bytes) -> Step:
        supported = _supported(error)
        if self.mode == "auto" and self._probes <= 1:
            # This refusal is itself proof of a modern server: the probe came too late, or was spared by mistake.
            mutual = _mutual(supported or [])
            if mutual is not None:
                return self._probe(mutual)
            if supported is None and self._probes == 0:
                return self._probe(MODERN_VERSIONS[-1])  # what was remembered may be out of date
        if supported is not None:
            return self._failed(_nothing_in_common(supported))
        refusal = envelope.read_error(error)
        return self._failed(f"initialize was answered with error {refusal.code}: {refusal.message[:MAX_REFUSAL_CHARS]}")


def _more(answer: bytes) -> dict[str, Raw]:
    """Give the members of an answer that are not understood here, less what is about this answer alone."""
    found = {
        name: raw.copy() for name, raw in _MEMBERS.decode(answer).items() if name not in _UNDERSTOOD | _OF_ONE_ANSWER
    }
    meta = found.pop("_meta", None)
    if meta is not None and bytes(meta)[:1] == b"{":
        rest = {name: raw for name, raw in _MEMBERS.decode(meta).items() if name != SERVER_INFO}
        if rest:
            found["_meta"] = Raw(msgspec.json.encode(rest))
    return found


def _mutual(versions: Sequence[str]) -> str | None:
    return next((v for v in reversed(MODERN_VERSIONS) if v in versions), None)


def _nothing_in_common(versions: Sequence[str]) -> str:
    theirs = ", ".join(version[:40] for version in versions[:8]) or "none"
    ours = ", ".join((*HANDSHAKE_VERSIONS, *MODERN_VERSIONS))
    return f"the server speaks MCP {theirs}; this program speaks {ours}"


def _supported(error: bytes) -> list[str] | None:
    """Give the versions that a -32022 names, or None if it is another error or names none."""
    refusal = envelope.read_error(error)
    if refusal.code != UNSUPPORTED_VERSION:
        return None
    try:
        return msgspec.json.decode(refusal.data, type=_Supported).supported
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None


def _read_discover(result: bytes) -> _Discover | None:
    if len(result) > MAX_ANSWER_BYTES:
        return None
    try:
        return msgspec.json.decode(result, type=_Discover)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
