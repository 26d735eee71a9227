"""Every key of moltis.toml, in one table: schema, example file and docs are made from it, and the bounds of `model.py`.

The limits of servers come from `limits.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from moltis.config.kinds import KINDS, aliases
from moltis.config.kinds import Kind as ServerKind
from moltis.config.limits import DECLARED, MAX_SECS, MIN_SECS, Limit
from moltis.config.plan import DEFAULT_CAP, DaemonPlan, GatewayPlan, ServerPlan
from moltis.names import SERVER_NAME

LOG_LEVELS = ("debug", "info", "warn", "error", "warning")
TRANSPORTS = tuple(KINDS)
TRANSPORT_ALIASES = aliases()
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
PROTOCOLS = ("auto", "legacy", *REVISIONS)
ELICITATIONS = ("host", "defaults", "none")
ELICITATION_ALIASES = {"off": "host"}
ASKED = ("host", "none")
STARTS = ("always", "on_demand")
SHARES = ("all", "host")
SEPARATORS = ("__", ".", "/")
GRANTS = ("authorization_code", "client_credentials")
REDIRECT_HOSTS = ("127.0.0.1", "localhost")

ALIASES = {*TRANSPORT_ALIASES, *ELICITATION_ALIASES, "warning"}
"""Words that are accepted beside the one that is documented."""

SectionName = Literal["daemon", "gateway", "mcp", "server", "oauth", "project"]
Kind = Literal["seconds", "count", "text", "flag", "list", "table", "choice"]
PATHS: dict[SectionName, str] = {
    "daemon": "daemon",
    "gateway": "gateway",
    "mcp": "mcp",
    "server": "mcp.servers.NAME",
    "oauth": "mcp.servers.NAME.oauth",
    "project": "projects.NAME",
}


class Key(msgspec.Struct, frozen=True):
    """One key. `default` is None when there is none; `low` and `high` bound a count; `words` are a choice's."""

    section: SectionName
    name: str
    kind: Kind
    doc: str
    default: Any = None
    low: int = 0
    high: int = 0
    words: tuple[str, ...] = ()
    placeholders: bool = False
    may_be_empty: bool = False
    """Of a text: `""` has a meaning of its own."""
    may_be_zero: bool = False
    """Of seconds: 0 has a meaning of its own."""
    example: str | None = None
    """What to write in the example file, as TOML, when that is not the default."""


def _limit_key(limit: Limit) -> Key:
    if not limit.is_count:
        return Key("mcp", limit.name, "seconds", limit.doc, limit.default)
    return Key("mcp", limit.name, "count", limit.doc, limit.default, low=int(limit.low), high=int(limit.high))


LIMITS = tuple(_limit_key(limit) for limit in DECLARED)
"""The keys of `[mcp]` that each server may override."""

_DAEMON = DaemonPlan()
_GATEWAY = GatewayPlan()
_SERVER = ServerPlan(name="")

KEYS: tuple[Key, ...] = (
    Key("daemon", "log_level", "choice", "what goes into logs.jsonl", _DAEMON.log_level, words=LOG_LEVELS),
    Key(
        "daemon", "log_max_bytes", "count", "then logs.jsonl is copied aside and truncated in place",
        _DAEMON.log_max_bytes, low=1024, high=2**40,
    ),
    Key("daemon", "log_backups", "count", "copies kept: logs.jsonl.1 …", _DAEMON.log_backups, low=0, high=1000),
    Key(
        "daemon", "browser_command", "list", "argv; a login's URL is appended; [] opens nothing",
        _DAEMON.browser_command,
    ),
    Key(
        "daemon", "encrypt_tokens", "flag", "with a key of the system's keyring; needs moltis[keyring]",
        _DAEMON.encrypt_tokens,
    ),
    *LIMITS,
    Key(
        "mcp", "first_list_secs", "seconds", "a first list at /mcp waits so long for servers never seen before",
        _GATEWAY.first_list_secs,
    ),
    Key(
        "mcp", "env_pass", "list", "variables of the daemon's environment that every local server gets", (),
    ),
    Key(
        "mcp", "proxy", "text", "of remote servers and logins: none, env (HTTPS_PROXY, NO_PROXY), or a URL", "none",
        placeholders=True,
    ),
    Key(
        "mcp", "max_concurrent_starts", "count", "servers starting at the same time; a start that works keeps its turn",
        _DAEMON.max_concurrent_starts, low=1, high=10_000,
    ),
    Key(
        "mcp", "max_servers_per_project", "count", "its own first, then those that stand first here; 0: no cap",
        DEFAULT_CAP, low=0, high=10_000,
    ),
    Key("gateway", "enabled", "flag", "one MCP endpoint for every host on the machine", _GATEWAY.enabled),
    Key("gateway", "listen", "text", "port 0: any free one; the address is in daemon.status", _GATEWAY.listen),
    Key(
        "gateway", "require_token", "flag", "see `moltis token create`; only a loopback address can do without",
        _GATEWAY.require_token,
    ),
    Key(
        "gateway", "allowed_hosts", "list", "names it may be reached under, besides its address",
        _GATEWAY.allowed_hosts, example='["mcp.example.com"]',
    ),
    Key(
        "gateway", "allowed_origins", "list", "pages that may use it, besides its own, of any scheme",
        _GATEWAY.allowed_origins, example='["https://app.example.com", "app://obsidian.md"]',
    ),
    Key(
        "gateway", "rate_limit_per_minute", "count", "requests of one token; 0: no limit",
        _GATEWAY.rate_limit_per_minute, low=0, high=10_000_000,
    ),
    Key(
        "gateway", "catalog_rate_limit_per_minute", "count", "of the catalogue; accepted, and does nothing yet",
        _GATEWAY.catalog_rate_limit_per_minute, low=0, high=10_000_000,
    ),
    Key(
        "gateway", "tool_name_chars", "count", "longer or odd names are shortened, with a hash; 0: as they are",
        _GATEWAY.tool_name_chars, low=0, high=128,
    ),
    Key(
        "gateway", "tool_separator", "choice", "between server and tool; many hosts refuse a dot",
        _GATEWAY.tool_separator, words=SEPARATORS,
    ),
    Key("server", "command", "text", "a local server's program", example='"npx"'),
    Key(
        "server", "args", "list", "its arguments; any user of the machine can read them", (), placeholders=True,
        example='["-y", "@modelcontextprotocol/server-filesystem", "/srv"]',
    ),
    Key(
        "server", "env", "table", "its environment, besides HOME PATH USER LANG and such", {}, placeholders=True,
        example='{ GITHUB_TOKEN = "$GITHUB_TOKEN" }',
    ),
    Key(
        "server", "env_pass", "list", "variables of the daemon's environment that it gets, instead of those of [mcp]",
        example='["HTTPS_PROXY", "NODE_EXTRA_CA_CERTS"]',
    ),
    Key(
        "server", "cwd", "text", "its folder; a relative one is relative to this file's", placeholders=True,
        example='"~/src"',
    ),
    Key("server", "enabled", "flag", "false: known, never started", True),
    Key("server", "display_name", "text", "what people see", example='"Files"'),
    Key("server", "label", "text", "what its tools are named after at /mcp, instead of NAME", example='"gh"'),
    Key(
        "server", "transport", "choice", "stdio with command; with url sse, which is Streamable HTTP, else HTTP+SSE",
        words=(*TRANSPORTS, *TRANSPORT_ALIASES), example='"stdio"',
    ),
    Key(
        "server", "url", "text", "a remote server", placeholders=True,
        example='"https://mcp.example.com/mcp?api_key=$REMOTE_MCP_KEY"',
    ),
    Key(
        "server", "headers", "table", "sent with each request to it", {}, placeholders=True,
        example='{ Authorization = "Bearer ${REMOTE_MCP_TOKEN}" }',
    ),
    Key("server", "include_tools", "list", "glob patterns; none: all", (), example='["search_*"]'),
    Key("server", "exclude_tools", "list", "glob patterns; wins over include_tools", ()),
    Key(
        "server", "protocol", "choice", "or a revision: that one alone; legacy: initialize alone",
        "auto", words=PROTOCOLS,
    ),
    Key(
        "server", "elicitation", "choice", "who answers its questions; none: not declared to it; see docs/remote.md",
        "host", words=(*ELICITATIONS, *ELICITATION_ALIASES),
    ),
    Key("server", "sampling", "choice", "who samples for it; none: not declared to it", "host", words=ASKED),
    Key("server", "roots", "choice", "whose folders it is told; none: not declared to it", "host", words=ASKED),
    Key(
        "server", "share", "choice", "host: each host has an instance of its own; docs/lifecycle.md has the rule",
        _SERVER.share, words=SHARES,
    ),
    Key(
        "server", "max_instances", "count", "of a server that is not shared by all: how many run at most",
        _SERVER.max_instances, low=1, high=1000,
    ),
    Key(
        "server", "start", "choice", "on_demand: runs only while a host needs it; docs/lifecycle.md has the rule",
        _SERVER.start, words=STARTS,
    ),
    Key(
        "server", "idle_stop_secs", "seconds", "an on-demand server is stopped after so long without use; 0: never",
        _SERVER.idle_stop_secs, may_be_zero=True,
    ),
    Key(
        "server", "ca_file", "text", "certificates (PEM) to trust for it, besides the system's",
        example='"~/ca.pem"',
    ),
    Key(
        "server", "proxy", "text", "instead of that of [mcp]", placeholders=True,
        example='"http://me:$PROXY_PASSWORD@proxy.example.com:3128"',
    ),
    Key("oauth", "client_id", "text", "when the server registers no clients", placeholders=True, example='"..."'),
    Key("oauth", "client_secret", "text", "of that client", placeholders=True, example='"$SECRET"'),
    Key(
        "oauth", "private_key", "text", "of that client (PEM), instead of a secret: private_key_jwt",
        placeholders=True, example='"$CLIENT_KEY"',
    ),
    Key(
        "oauth", "auth_url", "text", "auth_url and token_url together skip discovery", placeholders=True,
        example='"https://auth.example.com/authorize"',
    ),
    Key("oauth", "token_url", "text", "see auth_url", placeholders=True, example='"https://auth.example.com/token"'),
    Key("oauth", "scopes", "list", "to ask for", (), placeholders=True, example='["mcp:read"]'),
    Key(
        "oauth", "client_metadata_url", "text", "client ID metadata document", placeholders=True,
        example='"https://example.com/moltis.json"',
    ),
    Key("oauth", "grant", "choice", "how tokens are got", "authorization_code", words=GRANTS),
    Key("oauth", "callback_port", "count", "of the login's way back; 0: any free one", 0, low=0, high=65535),
    Key(
        "oauth", "redirect_host", "choice", "of the login's way back; localhost where a provider takes nothing else",
        REDIRECT_HOSTS[0], words=REDIRECT_HOSTS,
    ),
    Key(
        "oauth", "issuer", "text", "trusted, exactly this, whatever the server's metadata says", placeholders=True,
        example='"https://auth.example.com"',
    ),
    Key(
        "oauth", "resource", "text", 'the RFC 8707 parameter, by default the server\'s own; "" leaves it out (Entra)',
        placeholders=True, may_be_empty=True, example='"https://mcp.example.com/mcp"',
    ),
    Key(
        "oauth", "prompt", "text", 'of the authorization request; "" leaves it out; by default as OpenID Connect asks',
        may_be_empty=True, example='"consent"',
    ),
    Key(
        "oauth", "offline_access", "flag", "false: never added to the scopes; true: to those of `scopes` too",
        example="true",
    ),
    Key(
        "project", "path", "text", "its folder: `moltis connect` in it, or below it, shows this project",
        example='"~/src/site"',
    ),
    Key("project", "exclude", "list", "servers of all that it does without", (), example='["github"]'),
)  # fmt: skip

_BY_NAME = {(key.section, key.name): key for key in KEYS}


def key_of(section: SectionName, name: str) -> Key:
    """Return a key of a section. Raise `KeyError` if there is none."""
    return _BY_NAME[section, name]


SERVER_KEYS = tuple(k.name for k in KEYS if k.section == "server") + tuple(k.name for k in LIMITS) + ("oauth",)
"""What may stand in `[mcp.servers.NAME]`."""

_KINDS = {
    "seconds": "seconds",
    "count": "whole number",
    "text": "text",
    "flag": "true or false",
    "list": "list of texts",
    "table": "table of texts",
}


def toml_value(value: Any) -> str:
    """Return a default as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(toml_value(v) for v in value)}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if value != {} else "{}"


def keys_markdown() -> str:
    """Return the table of all keys in docs/configuration.md."""
    rows = ["| key | type | default | what |", "|---|---|---|---|"]
    for key in KEYS:
        kind = " ".join(f"`{w}`" for w in key.words) if key.words else _KINDS[key.kind]
        default = "" if key.default is None else f"`{toml_value(key.default)}`"
        rows.append(f"| `{PATHS[key.section]}.{key.name}` | {kind} | {default} | {key.doc} |")
    rows.append("| `env.NAME` | text | | value of the placeholder `$NAME`; never shown |")
    return (
        "\n".join(rows)
        + "\n\nEach server may override every key of `mcp` but `first_list_secs`, `max_concurrent_starts` and\n"
        "`max_servers_per_project`. `projects.NAME.servers.NAME` takes every key of `mcp.servers.NAME`.\n"
    )


_HEAD = """\
# moltis.toml: the MCP servers that moltis keeps running, and how. This file shows every key.
# A line that begins with '#' and a key is the default, or an example; remove the '#' and change it.
#
# moltis config check    says what is wrong, with its line
# moltis reload          applies a change (so does saving the file, while the daemon runs)
#
# A variable of the daemon's environment wins over this file: MOLTIS_GATEWAY__LISTEN=127.0.0.1:9000
#
# Durations are in seconds, from 0.05 on. Placeholders work in url, headers, proxy, env, args, cwd and oauth:
#   $NAME  ${NAME}         the value of NAME in [env], or of `moltis env set NAME`
#   ${NAME:-default}       the default when NAME has no value
#   ${env:NAME}            the variable NAME of the daemon's own environment
#   $$                     a '$'
"""

_EXAMPLES = """
# Local servers: a program that speaks MCP on its stdin and stdout.

#[mcp.servers.filesystem]
#command = "npx"
#args = ["-y", "@modelcontextprotocol/server-filesystem", "/srv"]

#[mcp.servers.github]
#command = "npx"
#args = ["-y", "@modelcontextprotocol/server-github"]
#env = { GITHUB_TOKEN = "$GITHUB_TOKEN" }
#request_timeout_secs = 90

# Remote servers.

#[mcp.servers.remote_api]
#transport = "sse"
#url = "https://mcp.example.com/mcp?api_key=$REMOTE_MCP_KEY"
#headers = { Authorization = "Bearer ${REMOTE_MCP_TOKEN}" }
"""

_PROJECTS = """
# Projects: what is served at /mcp/PROJECT, and to `moltis connect` in its folder: all servers above less those that it
# excludes, and its own. In args, env and cwd of its own, ${project:path} is its folder, ${project:name} its name.

#[projects.site]"""
_OWN = """
# Its own servers, with every key of a server; moltis calls this one site/db, and the project's hosts db.
#[projects.site.servers.db]
#command = "npx"
#args = ["-y", "@modelcontextprotocol/server-filesystem", "${project:path}"]"""

_EXAMPLE_VALUES = ("GITHUB_TOKEN", "REMOTE_MCP_KEY", "REMOTE_MCP_TOKEN", "PROXY_PASSWORD", "SECRET", "CLIENT_KEY")
_NAME_RULE = "NAME: A-Z a-z 0-9 _ -, at most 64, no '__', and no two that differ only by case."


def example_toml() -> str:
    """Return moltis.example.toml: every key with its default or an example, commented out."""
    server = [k for k in KEYS if k.section == "server"]
    others = [kind for kind in KINDS.values() if kind.is_implied and kind.name != "stdio"]
    local = [k for k in server if not any(k.name in kind.keys for kind in others)]
    parts = [
        _HEAD,
        "[env]                                     # values for placeholders; never shown",
        *(f'#{name} = "..."' for name in _EXAMPLE_VALUES),
        "",
        "[daemon]",
        *_commented(k for k in KEYS if k.section == "daemon"),
        "\n[gateway]                                 # one endpoint for every host: /mcp and /servers/NAME/mcp",
        *_commented(k for k in KEYS if k.section == "gateway"),
        "\n[mcp]                                     # each server may override most of these",
        *_commented(k for k in KEYS if k.section == "mcp"),
        _EXAMPLES,
        f"# Every key of a local server. {_NAME_RULE}\n\n#[mcp.servers.NAME]",
        *_commented(local),
        *(line for kind in others for line in _own_keys(kind)),
        "\n# For servers that do not support discovery or registration; every key is optional.\n",
        "#[mcp.servers.REMOTE.oauth]",
        *_commented(k for k in KEYS if k.section == "oauth"),
        _PROJECTS,
        *_commented(k for k in KEYS if k.section == "project"),
        _OWN,
    ]
    return "\n".join(parts) + "\n"


def _own_keys(kind: ServerKind) -> Iterator[str]:
    """Yield an entry of a kind of servers, with the keys that local ones have not."""
    yield f"\n# Every key of a {kind.called} server that a local one has not.\n\n#[mcp.servers.{kind.called.upper()}]"
    own = (k for k in KEYS if k.section == "server" and k.name in ("transport", *kind.keys))
    yield from _commented(own, {"transport": f'"{kind.name}"'})


def _commented(keys: Iterable[Key], values: Mapping[str, str] | None = None) -> Iterator[str]:
    for key in keys:
        value = (values or {}).get(key.name) or key.example or toml_value(key.default)
        words = f"; {' | '.join(w for w in key.words if w not in ALIASES and w not in REVISIONS)}" if key.words else ""
        setting, doc = f"#{key.name} = {value}", f"# {key.doc}{words}"
        # The doc stands beside a short setting and above a long one.
        yield f"{setting:<41} {doc}" if len(setting) <= 41 and len(doc) <= 78 else f"{doc}\n{setting}"


def schema() -> dict[str, Any]:
    """Return a JSON Schema (2020-12) of moltis.toml; sections of other programs are allowed."""
    own: dict[str, dict[str, Any]] = {s: {k.name: _type(k) for k in KEYS if k.section == s} for s in PATHS}
    server = {
        **own["server"],
        **{k.name: _type(k, with_default=False) for k in LIMITS},
        "oauth": {"type": "object", "additionalProperties": False, "properties": own["oauth"]},
    }
    servers = {
        "type": "object",
        "propertyNames": {"pattern": f"^{SERVER_NAME.pattern}$", "not": {"pattern": "__"}},
        "additionalProperties": {
            "type": "object",
            "additionalProperties": False,
            "properties": server,
            "anyOf": [{"required": [key]} for key in dict.fromkeys(kind.needs for kind in KINDS.values())],
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "moltis.toml",
        "type": "object",
        "properties": {
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
            "daemon": {"type": "object", "additionalProperties": False, "properties": own["daemon"]},
            "gateway": {"type": "object", "additionalProperties": False, "properties": own["gateway"]},
            "mcp": {
                "type": "object",
                "additionalProperties": False,
                "properties": {**own["mcp"], "servers": servers},
            },
            "projects": {
                "type": "object",
                "propertyNames": servers["propertyNames"],
                "additionalProperties": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {**own["project"], "servers": servers},
                    "required": ["path"],
                },
            },
        },
    }


def _type(key: Key, *, with_default: bool = True) -> dict[str, Any]:
    shape: dict[str, Any]
    match key.kind:
        case "seconds":
            shape = {"type": "number", "minimum": MIN_SECS, "maximum": MAX_SECS}
            if key.may_be_zero:
                shape = {"anyOf": [{"const": 0}, shape]}
        case "count":
            shape = {"type": "integer", "minimum": key.low, "maximum": key.high}
        case "text":
            shape = {"type": "string"} if key.may_be_empty else {"type": "string", "minLength": 1}
        case "flag":
            shape = {"type": "boolean"}
        case "list":
            shape = {"type": "array", "items": {"type": "string"}}
        case "table":
            shape = {"type": "object", "additionalProperties": {"type": "string"}}
        case "choice":
            shape = {"enum": list(key.words)}
    if with_default and key.default is not None:
        shape["default"] = list(key.default) if isinstance(key.default, tuple) else key.default
    return {**shape, "description": key.doc}
