"""What a host is told when it asks who it talks to: `initialize`, and `server/discover` from MCP 2026-07-28 on.

Pure. One server is introduced in its own words, but for what is ours to promise: we notice by ourselves when a list is
new (a server that comes back may list something else), so we always promise to tell.

Servers together are introduced by the words of each, divided fairly, and by who cannot be had now. Hosts keep some
2,000 characters of what a server says and drop the rest without a word, so no more is said; where that is too little
for a server, the whole of its words is a resource, `moltis://instructions/SERVER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Raw

from moltis.gateway.api import Known
from moltis.gateway.messages import SERVER_INFO
from moltis.jsonrpc import MALFORMED
from moltis.printable import one_line
from moltis.server.states import TRAITS, State
from moltis.server.status import HostSeen
from moltis.session.handshake import HANDSHAKE_VERSIONS, MODERN_VERSIONS
from moltis.session.listing import Item

_ALL: Final[dict[str, Any]] = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "prompts": {"listChanged": True},
    "logging": {},
    "completions": {},
}
MAX_NAME_CHARS: Final = 100
"""Of a host that status and log tell of."""
MAX_SAID_BYTES: Final = 16 * 1024
"""Of what it says of itself; who says more has no name there."""
MAX_SEEN: Final = 256
"""Hosts whose words are looked at once; a program says the same in each of its sessions."""
_SCRATCH_CHARS: Final = 1000
"""Of a name that are made printable: each may take ten characters then."""
_LISTS: Final = ("tools", "resources", "prompts")
_NOTHING: Final = Raw(b"{}")


class Introduction(msgspec.Struct, frozen=True):
    """Who it is. `info`: `Implementation` of MCP; `more`: what else a server says of itself, `_meta` among it."""

    info: dict[str, Any]
    capabilities: dict[str, Any]
    instructions: str | None = None
    more: dict[str, Raw] = {}

    def initialized(self, version: str) -> bytes:
        """Return the result of `initialize`."""
        said = {"protocolVersion": version, "capabilities": self.capabilities, "serverInfo": self.info}
        return msgspec.json.encode({**said, **self._instructions(), **self.more})

    def discovered(self) -> bytes:
        """Return the result of `server/discover`."""
        said = {"supportedVersions": list(MODERN_VERSIONS), "capabilities": self.capabilities}
        more = {name: raw for name, raw in self.more.items() if name != "_meta"}
        rest = msgspec.json.encode({**said, **self._instructions(), **more})
        return b"{%b%b" % (self._modern_members(self.more.get("_meta", _NOTHING)), rest[1:])

    def modern_members(self) -> bytes:
        """Return the members that each result of ours begins with (MCP 2026-07-28), with the comma behind.

        Nothing of ours may be cached: a list is new as soon as a server comes or goes, and not every host listens.
        """
        return self._modern_members(_NOTHING)

    def _modern_members(self, meta: Raw) -> bytes:
        named = {SERVER_INFO: self.info, **msgspec.json.decode(meta, type=dict[str, Raw])}
        return b'"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":%b,' % msgspec.json.encode(named)

    def _instructions(self) -> dict[str, str]:
        return {"instructions": self.instructions} if self.instructions else {}


def of_all(name: str, version: str, instructions: str) -> Introduction:
    """Introduce the gateway itself."""
    return Introduction({"name": name, "version": version}, _ALL, instructions or None)


def of_one(name: str, known: Known | None) -> Introduction:
    """Introduce one server; of one that nothing is known of, everything is expected."""
    if known is None:
        return Introduction({"name": name, "version": "unknown"}, _ALL)
    agreed = known.agreed
    info = dict(agreed.server_info or {})
    info.setdefault("name", name)
    info.setdefault("version", "unknown")
    capabilities = dict(agreed.capabilities)
    if capabilities.get("tools") is None and (known.tools or not any(capabilities.get(member) for member in _LISTS)):
        capabilities["tools"] = {}  # some servers declare nothing and have tools all the same
    for member in _LISTS:
        if isinstance(capabilities.get(member), dict):
            capabilities[member] = {**capabilities[member], "listChanged": True}
    return Introduction(info, capabilities, agreed.instructions, agreed.more)


class _Named(msgspec.Struct):
    name: Any = None
    version: Any = None


def seen(client_info: bytes, *, modern: bool, token: str) -> HostSeen:
    """Return who a host says it is; "unknown" for what it does not say. token: the name of its access token, if any."""
    if len(client_info) > MAX_SAID_BYTES:
        client_info = b""
    return _seen(client_info, modern, token)


@lru_cache(maxsize=MAX_SEEN)
def _seen(client_info: bytes, modern: bool, token: str) -> HostSeen:
    try:
        found = msgspec.json.decode(client_info, type=_Named)
    except MALFORMED:
        found = _Named()
    return HostSeen(_shown(found.name), _shown(found.version), "modern" if modern else "legacy", token or None)


def _shown(said: Any) -> str:
    """Return a stranger's word as one printable line."""
    shown = one_line(said[:_SCRATCH_CHARS])[:MAX_NAME_CHARS].rstrip() if isinstance(said, str) else ""
    return shown or "unknown"


def version_for(requested: str | None) -> str:
    """Return the protocol version that a session is held in (MCP 2025-11-25, Lifecycle)."""
    return requested if requested in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]


MAX_CHARS: Final = 2000
MIN_CHARS: Final = 40
"""Of one server's words: those of whom there is less room for are a resource alone."""
MAX_NAMED: Final = 20
MAX_NAMED_CHARS: Final = 500
"""Of servers that are named in one sentence."""
_CUT: Final = " [...]"
_URI: Final = "moltis://instructions/"


class Composed(msgspec.Struct, frozen=True):
    """text: for the host, empty where there is nothing to say. cut: the servers whose words are not all in it."""

    text: str
    cut: tuple[str, ...] = ()

    @property
    def resources(self) -> tuple[Item, ...]:
        """The whole words of those, as they are listed."""
        return tuple(
            Item(
                f"{_URI}{server}",
                msgspec.json.encode(
                    {
                        "uri": f"{_URI}{server}",
                        "name": f"instructions/{server}",
                        "description": f"All that {server} says of its use",
                        "mimeType": "text/plain",
                    }
                ),
            )
            for server in self.cut
        )


def compose(
    parts: Iterable[tuple[str, str | None]],
    sep: str = "__",
    starting: Sequence[str] = (),
    missing: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> Composed:
    """Join what servers say of their use, `(server, text)`, under their names, in at most `MAX_CHARS` characters.

    Where that is too little, the longest texts are cut, each to the same length, so that none pushes out another.

    starting: servers of which nothing is known yet. missing: what `unavailable` said.
    left_out: servers that a project's cap keeps out.
    """
    said = [(server, text.strip()) for server, text in parts if text and text.strip()]
    notes = _sentence(" Still starting: ", starting, ", ", "; what they offer is listed once they are up.")
    notes += _sentence(" Not to be had now: ", missing, "; ", ".")
    notes += _sentence(" Left out here by max_servers_per_project: ", left_out, ", ", " (moltis project show).")
    if not said:
        return Composed(notes.strip())
    intro = f"Several MCP servers behind one. The tools and prompts of each are named SERVER{sep}NAME.{notes}"
    whole = _joined(intro, said, MAX_CHARS)
    if len(whole) <= MAX_CHARS:
        return Composed(whole)
    intro += f" Words that end in {_CUT.strip()}, and those of servers that are not below, are whole at {_URI}SERVER."
    shown = list(said)
    while shown and _share(intro, shown) < min(MIN_CHARS, max(len(text) for _, text in shown)):
        shown.pop()
    share = _share(intro, shown) if shown else 0
    names = {server for server, _ in shown}
    cut = [server for server, text in said if server not in names or len(text) > share]
    return Composed(_joined(intro, shown, share), tuple(cut))


def _share(intro: str, said: Sequence[tuple[str, str]]) -> int:
    room = MAX_CHARS - len(_joined(intro, [(server, "") for server, _ in said], 0))
    return _fair_share([len(text) for _, text in said], room)


def _joined(intro: str, said: Sequence[tuple[str, str]], share: int) -> str:
    return intro + "".join(f"\n\n# {server}\n\n{_cut(text, share)}" for server, text in said)


def _fair_share(lengths: Sequence[int], room: int) -> int:
    """Return the length to which the longest are to be cut so that all have room."""
    ordered = sorted(lengths)
    for index, length in enumerate(ordered):
        share = max(room, 0) // (len(ordered) - index)
        if length > share:
            return share
        room -= length
    return ordered[-1]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(most - len(_CUT), 0)] + _CUT[:most]


def _sentence(begin: str, each: Sequence[str], between: str, end: str) -> str:
    if not each:
        return ""
    named: list[str] = []
    for one in each[:MAX_NAMED]:
        if named and len(between.join([*named, one])) > MAX_NAMED_CHARS:
            break
        named.append(one)
    more = f" and {len(each) - len(named)} more" if len(each) > len(named) else ""
    return f"{begin}{between.join(named)}{more}{end}"


def unavailable(label: str, state: State, name: str) -> str | None:
    """Return the label of a server that waits for somebody to mend it, and with what; None of any other.

    name: what the moltis command calls it.
    """
    told = TRAITS[state].to_hosts.format(name)
    return f"{label} ({told})" if told else None


def whole_of(uri: str, said: Mapping[str, str]) -> str | None:
    """Return the words that a URI of ours stands for; None for any other. said: what servers say, by their names."""
    return said.get(uri.removeprefix(_URI)) if uri.startswith(_URI) else None


def contents(uri: str, text: str) -> bytes:
    """Return the result of reading a resource that is a text, without its braces."""
    return msgspec.json.encode({"contents": [{"uri": uri, "mimeType": "text/plain", "text": text}]})[1:-1]
