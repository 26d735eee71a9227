"""The files of other hosts: their sections, their keys of a server and their syntax, and what each is called here.

Pure. Nothing of it is read as if it were ours, but what withholds: a server, or a tool, that somebody switched off in
another host's words stays off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from moltis.names import name_problem

_KEYS: Final[Mapping[str, str]] = {
    "type": "transport, or nothing: it follows from command or url",
    "transporttype": "transport, or nothing: it follows from command or url",
    "cmd": "command",
    "arguments": "args",
    "environment": "env",
    "envvars": 'env_pass, or env = { NAME = "${env:NAME}" }',
    "envfile": "env, with the values kept by `moltis env set NAME`",
    "workingdirectory": "cwd",
    "workingdir": "cwd",
    "directory": "cwd",
    "name": "display_name",
    "description": "display_name",
    "title": "display_name",
    "httpurl": "url",
    "serverurl": "url",
    "endpoint": "url",
    "baseurl": "url",
    "requestinit": "headers",
    "httpheaders": "headers",
    "envhttpheaders": 'headers = { NAME = "${env:VARIABLE}" }',
    "bearertokenenvvar": 'headers = { Authorization = "Bearer ${env:VARIABLE}" }',
    "bearertoken": 'headers = { Authorization = "Bearer $TOKEN" }, with `moltis env set TOKEN`',
    "apikey": 'headers = { Authorization = "Bearer $TOKEN" }, with `moltis env set TOKEN`',
    "timeout": "request_timeout_secs (seconds)",
    "timeoutms": "request_timeout_secs (seconds)",
    "tooltimeoutsec": "request_timeout_secs",
    "tooltimeoutms": "request_timeout_secs (seconds)",
    "requesttimeout": "request_timeout_secs (seconds)",
    "startuptimeoutsec": "startup_timeout_secs",
    "startuptimeoutms": "startup_timeout_secs (seconds)",
    "inittimeout": "startup_timeout_secs (seconds)",
    "httpproxy": "proxy",
    "httpsproxy": "proxy",
    "proxyurl": "proxy",
    "scopes": "oauth.scopes",
    "clientid": "oauth.client_id",
    "clientsecret": "oauth.client_secret",
    "auth": "headers, or oauth",
    "enabledtools": "include_tools",
    "includetools": "include_tools",
    "allowedtools": "include_tools",
    "disabledtools": "exclude_tools",
    "excludetools": "exclude_tools",
    "autoapprove": "nothing: your host asks before a tool runs",
    "alwaysallow": "nothing: your host asks before a tool runs",
    "trust": "nothing: your host asks before a tool runs",
}
"""Keys of a server in the files of Claude, Cline, Codex, Cursor, Gemini, opencode, VS Code, Windsurf and Zed, in lower
case and without `_` and `-`: what to write here."""

_ROOTS: Final = frozenset(
    {"mcpservers", "mcpserver", "servers", "server", "contextservers", "mcp.servers", "amp.mcpservers"}
)
_LAUNCHES: Final = frozenset({"command", "cmd", "url", "httpurl", "serverurl", "args"})


def instead_of(key: str, value: object) -> str | None:
    """Say what to write instead of a key of a server that another host has; None for one that none has."""
    ours = _KEYS.get(_plain(key))
    if is_switch(key):
        off = _is_off(key, value)
        ours = "enabled = false; until then it stays off all the same" if off else "enabled = true, or nothing"
    return ours and f"unknown key, of another program: write {ours}"


_SWITCHES: Final = {"disabled": True, "disable": True, "enabled": False, "enable": False, "isenabled": False} | {
    "active": False,
    "isactive": False,
}
"""The keys that switch a server on and off in other hosts' words, and which of true and false is off."""


def _is_off(key: str, value: object) -> bool:
    says = value not in (False, "false")
    return says is _SWITCHES[_plain(key)]


def is_switch(key: str) -> bool:
    """Say whether a key is one that switches a server on or off in another host's words."""
    return _plain(key) in _SWITCHES and key != "enabled"


def _plain(name: str) -> str:
    """Return a key without what hosts spell differently: case, `_` and `-`."""
    return name.lower().replace("_", "").replace("-", "")


def as_ours(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of our own that a server's entry means where it withholds something in another host's words."""
    meant: dict[str, Any] = {}
    for name, value in entry.items():
        if is_switch(name) and _is_off(name, value):
            meant["enabled"] = False
        match _plain(name), value:
            case ("disabledtools", list()) if isinstance(own := entry.get("exclude_tools", []), list):
                meant["exclude_tools"] = [*own, *value]
            case ("enabledtools" | "allowedtools", list()) if value and "include_tools" not in entry:
                meant["include_tools"] = list(value)
    return meant


def servers_elsewhere(tables: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each section that holds servers as another host names them, with the first server's name."""
    for root, section in tables.items():
        if _plain(root) in _ROOTS and (name := _first_server(section)) is not None:
            yield (root,), name
    mcp = tables.get("mcp")
    if isinstance(mcp, dict):
        yield from ((("mcp", key), key) for key, entry in mcp.items() if key != "servers" and _is_server(entry))


def _first_server(section: Any) -> str | None:
    if not isinstance(section, dict):
        return None
    return next((name for name, entry in section.items() if _is_server(entry)), None)


def _is_server(entry: Any) -> bool:
    return isinstance(entry, dict) and any(_plain(key) in _LAUNCHES for key in entry)


# Syntax --------------------------------------------------------------------------------------------------------------

_JSON_MEMBER: Final = re.compile(r'\s*"[^"\n]{1,200}"\s*:')
_YAML_MEMBER: Final = re.compile(r"\s*(?:-\s+)?[A-Za-z_][\w-]{0,63}:(?:\s|$)")
_COMMENT: Final = re.compile(r"\s*(?://|/\*|;|--\s)")
_WORDS: Final = re.compile(
    r"\b(?:(?P<true>True|TRUE|yes|on)|(?P<false>False|FALSE|no|off)|(?P<none>null|None|nil|undefined))\b"
)


def of_json(text: str) -> str | None:
    """Say what to write instead of a whole file that is JSON; None for one that is not, from its first character on."""
    if text.lstrip("\ufeff \t\r\n")[:1] != "{":
        return None
    try:
        tables = json.loads(text)
    except (ValueError, RecursionError):
        tables = {}
    found = next((name for _, name in servers_elsewhere(tables)), None) if isinstance(tables, dict) else None
    name = found if found is not None and name_problem(found) is None else "NAME"
    return (
        f"not TOML: this is JSON, and moltis.toml is TOML: write [mcp.servers.{name}], and below it a line for each "
        'key, as in command = "npx" and args = ["-y", "PACKAGE"]'
    )


def of_line(line: str, column: int) -> str | None:
    """Say what a line that is no TOML is elsewhere, and what it is here; None where that is unknown.

    column: where the parser gave up, from 1.
    """
    rest = line[max(0, column - 1) :]
    if line.strip() in ("{", "}", "},", "};") or _JSON_MEMBER.match(line):
        return 'this is JSON: in TOML it is [mcp.servers.NAME] and below it lines like command = "npx"'
    if _COMMENT.match(line) and "=" not in line.partition("//")[0]:
        return "a comment begins with # in TOML"
    if _YAML_MEMBER.match(line):
        return 'this is YAML: in TOML it is key = value, with text in quotes, as in command = "npx"'
    if any(quote in rest[:2] or quote in line[max(0, column - 2) : column] for quote in "“”„‘’«»＂"):
        return "a curly quote of a word processor: text needs straight quotes, \" or '"
    if found := _WORDS.match(rest):
        if found["none"]:
            return "TOML has no null: leave the key out"
        return "true and false are written so, in lower case, in TOML"
    if re.search(r'[{,]\s*("[^"\n]{1,200}"|[\w-]{1,80})\s*:', line):
        return 'this is JSON: in TOML a table in one line is { NAME = "value" }'
    if rest.strip() == "," or rest.strip() == ";":
        return "nothing follows a value at the end of its line: remove the sign"
    return None
