"""What the daemon and the process with the SDK say to each other, one line of JSON each way, and where they differ.

The question goes by stdin, never by arguments or environment: it holds a server's secrets. What a server says anew at
each start (a time, a process id) is not compared: only what hosts see of it. Pure.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

LISTS = ("tools", "resources", "resource_templates", "prompts")
"""The lists of MCP, by the names that their members have here."""


class AskLocal(msgspec.Struct, frozen=True, kw_only=True, tag="stdio"):
    """Start a program and ask it. `env`: its whole environment."""

    command: str
    args: list[str]
    env: dict[str, str]
    cwd: str
    legacy: bool
    elicits: bool
    request_timeout_secs: float

    def __repr__(self) -> str:
        return f"AskLocal({self.command!r})"


class AskRemote(msgspec.Struct, frozen=True, kw_only=True, tag="http"):
    """Connect and ask. `falls_back`: to HTTP+SSE. `headers`: with the stored access token, if there is one.

    proxy: the URL of the proxy that it is reached through, with its password.
    """

    url: str
    headers: list[tuple[str, str]]
    ca_file: str | None
    proxy: str | None = None
    falls_back: bool
    legacy: bool
    elicits: bool
    request_timeout_secs: float

    def __repr__(self) -> str:
        return f"AskRemote({len(self.headers)} headers)"


Ask = AskLocal | AskRemote


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a client found of a server. `lists`: the names, URIs or URI templates, in the server's order.

    note: what it took to get there, if that was unusual.
    """

    protocol_version: str | None = None
    server_info: dict[str, Any] | None = None
    lists: dict[str, list[str]] = {}
    latency_ms: float | None = None
    note: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the process found, or why it did not.

    trouble: `missing`: there is no SDK; `server`: the server could not be connected to or listed.
    """

    sdk_version: str | None = None
    found: Found | None = None
    trouble: Literal["missing", "server"] | None = None
    error: str | None = None


SHOWN_INFO: Final = ("name", "version", "title")

NEWER_ERA: Final = "2026-07-28"
OLDER_ON_PURPOSE: Final = (
    "the server has both eras: over stdio moltis speaks the older one, in which more of the released SDKs' tools work; "
    f'protocol = "{NEWER_ERA}" in its entry is the other one'
)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the two do not find alike.

    what: `error` (only one of them got through), `protocol_version`, `server_info`, or the name of a list.
    moltis, sdk: what each found, in words. only_moltis, only_sdk: members of a list that the other does not have.
    note: why that is so, where it is known.
    expected: it is meant to be so, and nothing is wrong.
    """

    what: str
    moltis: str | None = None
    sdk: str | None = None
    only_moltis: list[str] = []
    only_sdk: list[str] = []
    note: str | None = None
    expected: bool = False


def differences(ours: Found | None, theirs: Found | None, *, local: bool) -> list[Difference]:
    """Return where they differ; None stands for a client that did not get through. `local`: a server over stdio."""
    if ours is None or theirs is None:
        if ours is theirs:
            return []
        told = {True: "failed", False: "ok"}
        return [Difference(what="error", moltis=told[ours is None], sdk=told[theirs is None])]
    found: list[Difference] = []
    if ours.protocol_version != theirs.protocol_version:
        meant = local and theirs.protocol_version == NEWER_ERA and ours.protocol_version is not None
        found.append(
            Difference(
                what="protocol_version",
                moltis=ours.protocol_version,
                sdk=theirs.protocol_version,
                note=OLDER_ON_PURPOSE if meant else None,
                expected=meant,
            )
        )
    if (mine := _who(ours.server_info)) != (other := _who(theirs.server_info)):
        found.append(Difference(what="server_info", moltis=mine, sdk=other))
    for name in LISTS:
        found += _of_list(name, ours.lists.get(name, []), theirs.lists.get(name, []))
    return found


def _of_list(name: str, ours: list[str], theirs: list[str]) -> list[Difference]:
    mine, other = set(ours), set(theirs)
    if mine == other and len(ours) == len(theirs):
        return []
    repeated = "one of the two lists has members of the same name" if mine == other else None
    return [
        Difference(
            what=name,
            moltis=str(len(ours)),
            sdk=str(len(theirs)),
            only_moltis=[item for item in dict.fromkeys(ours) if item not in other],
            only_sdk=[item for item in dict.fromkeys(theirs) if item not in mine],
            note=repeated,
        )
    ]


def _who(info: dict[str, Any] | None) -> str | None:
    words = [str(info[key]) for key in SHOWN_INFO if info.get(key)] if info else []
    return " ".join(words) or None
