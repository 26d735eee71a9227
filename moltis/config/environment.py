"""Keys of moltis.toml that the environment sets, as containers want it: `MOLTIS_GATEWAY__LISTEN=0.0.0.0:9000`.

A variable is called like the path of its key, with `__` between the parts; it wins over the file. Values are written as
in TOML, but text without quotes. Only servers that the file has can be changed: no variable makes a program start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from moltis.config.document import parse
from moltis.config.keys import KEYS, LIMITS, Key, SectionName
from moltis.config.scan import Path
from moltis.errors import ConfigError
from moltis.names import did_you_mean
from moltis.patterns import later

_PREFIX: Final = "MOLTIS_"
_SECTIONS: Final = ("ENV", "DAEMON", "GATEWAY", "MCP")
_ALMOST: Final = later(rf"MOLTIS_(?:{'|'.join(_SECTIONS)})_[A-Z]", re.IGNORECASE)
"""With one `_` where two are meant. `MOLTIS_CONFIG` and the like are not settings."""
_ENVIRONMENT: Final = "the environment"

_BY_SECTION: Final[Mapping[SectionName, Mapping[str, Key]]] = {
    section: {key.name: key for key in KEYS if key.section == section}
    for section in ("daemon", "gateway", "mcp", "server", "oauth")
}
_OF_A_SERVER: Final = {**{key.name: key for key in LIMITS}, **_BY_SECTION["server"]}


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What the environment sets: values by the path of their key, and the variable of each."""

    values: Mapping[Path, Any] = field(default_factory=dict)
    variables: Mapping[Path, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Variables that set nothing, and why."""


NONE: Final = Settings()


def settings(environ: Mapping[str, str], tables: Mapping[str, Any]) -> Settings:
    """Read the variables that set keys. `tables`: the file's, for the servers that it has.

    An empty variable sets nothing, as one that a container's file passes on and that is not there.
    """
    meant = {name: text for name, text in environ.items() if text and name[:7].upper() == _PREFIX and "__" in name}
    almost = [name for name in environ if _ALMOST.match(name) and "__" not in name]
    if not meant and not almost:
        return NONE
    servers = _servers(tables)
    values: dict[Path, Any] = {}
    variables: dict[Path, str] = {}
    unknown = {name: _told(name, servers) for name in almost}
    for name, text in _leaves(meant):
        found = _key_of(name, servers)
        if found is None:
            unknown[name] = _told(name, servers)
        elif found[0] in variables:
            unknown[name] = f"sets the same key as {variables[found[0]]}: unset one"
        else:
            path, kind = found
            values[path], variables[path] = _value(kind, text), name
    return Settings(values, variables, unknown)


def overlaid(tables: Mapping[str, Any], values: Mapping[Path, Any]) -> dict[str, Any]:
    """Return the tables with these values in them, the shorter paths first. Neither argument is changed."""
    made = dict(tables)
    for path in sorted(values, key=len):
        at: dict[str, Any] = made
        for part in path[:-1]:
            inner = at.get(str(part))
            at[str(part)] = at = dict(inner) if isinstance(inner, dict) else {}
        at[str(path[-1])] = values[path]
    return made


def _leaves(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the variables of our sections, as pydantic-settings takes their names apart; then all others."""
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

    class Sections(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", case_sensitive=True)
        ENV: dict[str, Any] = {}
        DAEMON: dict[str, Any] = {}
        GATEWAY: dict[str, Any] = {}
        MCP: dict[str, Any] = {}

    class Source(EnvSettingsSource):
        def _load_env_vars(self) -> Mapping[str, str | None]:
            return environ

        def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
            return value  # values are TOML, not JSON, and what kind of value a key has is known by its whole path

    # A variable that sets a whole table comes before those of its members, which are added to it.
    taken = dict(_walked(Source(Sections)(), ()))
    yield from sorted(taken.items())
    yield from ((name, text) for name, text in sorted(environ.items()) if name not in taken)


def _walked(tables: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _walked(value, (*path, name))
        else:
            yield _PREFIX + "__".join((*path, name)), value


def _servers(tables: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the file's servers by how a variable spells them; what two share is neither's."""
    mcp = tables.get("mcp")
    entries = mcp.get("servers") if isinstance(mcp, dict) else None
    found: dict[str, list[str]] = {}
    for name in entries if isinstance(entries, dict) else ():
        for spelt in {name.upper(), name.upper().replace("-", "_")}:
            found.setdefault(spelt, []).append(name)
    return {spelt: names[0] for spelt, names in found.items() if len(names) == 1}


def _key_of(variable: str, servers: Mapping[str, str]) -> tuple[Path, Key | None] | None:
    """Return the path of the key that a variable sets, and the key; None for that of a plain text, or of no key."""
    section, *parts = variable[len(_PREFIX) :].split("__")
    section, names = section.lower(), [part.lower() for part in parts]
    match section, names:
        case "env", [_]:
            return ("env", parts[0]), None
        case (("daemon" | "gateway" | "mcp"), [name]) if name in _BY_SECTION[section]:
            return (section, name), _BY_SECTION[section][name]
        case "mcp", ["servers", _, *rest] if (server := servers.get(parts[1].upper())) is not None:
            path = ("mcp", "servers", server)
            match rest:
                case [name] if name in _OF_A_SERVER:
                    return (*path, name), _OF_A_SERVER[name]
                case ["env" | "headers" as table, _]:
                    return (*path, table, parts[3]), None
                case ["oauth", name] if name in _BY_SECTION["oauth"]:
                    return (*path, "oauth", name), _BY_SECTION["oauth"][name]
    return None


def _told(variable: str, servers: Mapping[str, str]) -> str:
    """Say of a variable what is nearest to it."""
    parts = variable[len(_PREFIX) :].split("__")
    if [part.upper() for part in parts[:2]] == ["MCP", "SERVERS"] and len(parts) > 2:
        if parts[2].upper() not in servers:
            return f"the file has no one server {parts[2][:64]!r}{did_you_mean(parts[2], {*servers.values()})}"
        path = [f"MCP__SERVERS__{parts[2]}__{name.upper()}" for name in _OF_A_SERVER]
        path += [f"MCP__SERVERS__{parts[2]}__OAUTH__{name.upper()}" for name in _BY_SECTION["oauth"]]
    else:
        path = [f"{s}__{name.upper()}" for s in ("daemon", "gateway", "mcp") for name in _BY_SECTION[s]]
        path = [name[: name.index("__")].upper() + name[name.index("__") :] for name in path]
    return f"sets no key{did_you_mean(variable.upper(), [_PREFIX + name for name in path])}"


def _value(key: Key | None, text: str) -> Any:
    """Read a value as TOML, or as the text that it is; what is no TOML stays text, which the key's check refuses."""
    if key is None or key.kind in ("text", "choice"):
        return text
    try:
        tables = parse(f"value = {text}\n", _ENVIRONMENT).tables
    except ConfigError:
        return text
    return tables["value"] if tables.keys() == {"value"} else text
