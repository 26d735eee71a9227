"""What operations take and answer, as structs: their fields and descriptions are what documents say of them.

An unknown param is an error, so that a misspelt one is never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from moltis.config.keys import KEYS, LIMITS, Key
from moltis.gateway.tokens import MAX_DAYS, Scope

MIN_SECS: Final = 0.05
MAX_SECS: Final = 24 * 3600.0
MAX_RECORDS: Final = 10_000

Name = Annotated[str, Meta(description="a server's name")]
Secs = Annotated[float, Meta(ge=MIN_SECS, le=MAX_SECS)]
ArgumentsObject = Annotated[Raw, Meta(description="an object, sent to the server byte for byte")]
TimeoutSecs = Annotated[
    Secs | None, Meta(description="without reply or progress; the server's request_timeout_secs when left out")
]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Params go by name."""


class Nothing(Params, frozen=True):
    """No params."""


class OneServer(Params, frozen=True):
    """One server."""

    name: Name


class PerhapsOneServer(Params, frozen=True):
    """One server, or all that are ready."""

    name: Name | None = None


class ListServers(Params, frozen=True):
    """All servers."""

    project: Annotated[str | None, Meta(description="only those of a project")] = None


class History(Params, frozen=True):
    """One server's transitions."""

    name: Name
    limit: Annotated[int, Meta(ge=1, le=MAX_RECORDS, description="the last so many; all kept when left out")] | None = (
        None
    )


class CallTool(Params, frozen=True):
    """A tool call."""

    server: Name
    tool: Annotated[str, Meta(description="its name, as the server lists it")]
    arguments: ArgumentsObject | UnsetType = UNSET
    timeout_secs: TimeoutSecs = None


class ReadResource(Params, frozen=True):
    """A resource to be read."""

    server: Name
    uri: Annotated[str, Meta(description="the resource's URI")]


class GetPrompt(Params, frozen=True):
    """A prompt to be filled in."""

    server: Name
    name: Annotated[str, Meta(description="the prompt's name")]
    arguments: ArgumentsObject | UnsetType = UNSET


class RequestTimeout(Params, frozen=True):
    """The default of all servers."""

    request_timeout_secs: Annotated[Secs, Meta(description="seconds without reply or progress")]


class BeginLogin(Params, frozen=True):
    """Whom to log in to."""

    name: Name
    new_client: Annotated[
        bool, Meta(description="register anew: the authorization server does not know moltis any more")
    ] = False


class EndLogin(Params, frozen=True):
    """Whom to log out of."""

    name: Name
    forget_client: Annotated[bool, Meta(description="end the registration too: the next login makes another")] = False


class CompleteLogin(Params, frozen=True):
    """What the browser was sent back with."""

    callback_url: Annotated[str | None, Meta(description="the whole address")] = None
    state: Annotated[str | None, Meta(description="or its parts: state")] = None
    code: Annotated[str | None, Meta(description="code")] = None
    iss: Annotated[str | None, Meta(description="iss, RFC 9207")] = None
    error: Annotated[str | None, Meta(description="error, instead of code")] = None


class OneValue(Params, frozen=True):
    """A value for a placeholder."""

    name: Annotated[str, Meta(description="the placeholder's name")]
    value: Annotated[str, Meta(description="its value; no method ever shows it")]


class OneName(Params, frozen=True):
    """A placeholder."""

    name: Annotated[str, Meta(description="the placeholder's name")]


class CreateToken(Params, frozen=True):
    """A new access token."""

    name: Annotated[str, Meta(description="what it is called: 1 to 64 of A-Z a-z 0-9 _ . -, unique")]
    scope: Annotated[Scope, Meta(description="write includes read")]
    expires_days: Annotated[float, Meta(gt=0, le=MAX_DAYS, description="from now; never when left out")] | None = None
    projects: Annotated[
        list[str] | None,
        Meta(description="it opens what these get and nothing else; everything when left out"),
    ] = None


class OneProject(Params, frozen=True):
    """A project."""

    name: Annotated[str, Meta(description="a project's name")]


class NewProject(Params, frozen=True):
    """A project for moltis.toml."""

    name: Annotated[str, Meta(description="what it is called, by the rule of servers' names")]
    path: Annotated[str, Meta(description="its folder, which exists: from / or ~ on")]


class ServerOfProject(Params, frozen=True):
    """A server of all, and a project that gets it or not."""

    project: Annotated[str, Meta(description="a project's name")]
    server: Name


class OneToken(Params, frozen=True):
    """An access token."""

    name: Annotated[str, Meta(description="what it is called; never its value")]


class Tail(Params, frozen=True):
    """Which log records."""

    limit: Annotated[int, Meta(ge=1, le=MAX_RECORDS, description="the last so many")] = 100
    server: Annotated[str | None, Meta(description="only of this server")] = None
    level: Annotated[
        Literal["debug", "info", "warn", "warning", "error"] | None, Meta(description="only of this level or above")
    ] = None


class Ok(msgspec.Struct, frozen=True):
    """It is done."""

    ok: bool = True


class OkName(msgspec.Struct, frozen=True, kw_only=True):
    """It is done, for this server."""

    ok: bool = True
    name: str


class OkRemoved(msgspec.Struct, frozen=True):
    """It is gone from moltis.toml."""

    ok: bool = True
    removed: bool = True


class LoginStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A person has to go on in a browser."""

    ok: bool = True
    oauth_pending: bool
    auth_url: str | None


_TYPES: Final[dict[str, Any]] = {
    "seconds": float,
    "count": int,
    "text": str,
    "choice": str,
    "flag": bool,
    "list": list[str],
    "table": dict[str, str],
}
"""What the daemon takes for each kind of key; bounds and words are for the configuration to check, as in the file."""


_annotated: Any = Annotated
"""The same, for types that exist at run time only."""


def _field(key: Key) -> tuple[str, Any, Any]:
    described = _annotated[_TYPES[key.kind], Meta(description=key.doc)]
    return key.name, described | None | UnsetType, UNSET


_OAUTH = msgspec.defstruct(
    "OAuthKeys",
    [_field(k) for k in KEYS if k.section == "oauth"],
    namespace={"__doc__": "The keys of [mcp.servers.NAME.oauth]."},
    frozen=True,
    forbid_unknown_fields=True,
)


def _entry(struct: str, doc: str, *own: tuple[Any, ...]) -> type[msgspec.Struct]:
    """Return params of `own` fields and all keys of `[mcp.servers.NAME]`; those left out are UNSET."""
    keys = [_field(k) for k in (*(k for k in KEYS if k.section == "server"), *LIMITS)]
    oauth = (
        "oauth",
        _OAUTH | None | UnsetType,
        UNSET,
    )
    return msgspec.defstruct(
        struct, [*own, *keys, oauth], bases=(Params,), namespace={"__doc__": doc}, frozen=True, kw_only=True
    )


AddServer: Final = _entry("AddServer", "A server for moltis.toml.", ("name", Name))
UpdateServer: Final = _entry("UpdateServer", "Keys to change; null clears one.", ("name", Name))
COPY_DOC: Final = "start a copy though the server is running"
SDK_DOC: Final = "start a copy, and another by the official Python SDK's client"
TestServer: Final = _entry(
    "TestServer",
    "A server of moltis.toml, or the keys of one.",
    ("name", Name | None, None),
    ("copy", _annotated[bool, Meta(description=COPY_DOC)], False),
    ("sdk", _annotated[bool, Meta(description=SDK_DOC)], False),
)


def entry_of(params: msgspec.Struct) -> dict[str, Any]:
    """Return the keys of the server that were given."""
    entry: dict[str, Any] = msgspec.to_builtins(params)
    entry.pop("name", None)
    entry.pop("copy", None)
    entry.pop("sdk", None)
    return entry
