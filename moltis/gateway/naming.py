"""Names that are unique across servers, and the way back from them.

A server's own names never change what they mean. An item that is renamed keeps every other byte of every value, in the
server's order.
"""

from __future__ import annotations

from collections.abc import Container
from hashlib import blake2b
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from moltis.patterns import later
from moltis.session.listing import Item, Kind
from moltis.session.parts import members

_PREFIX: Final = "moltis://"
"""Of the URIs that say whose they are: `moltis://SERVER/` and the server's own URI, percent-encoded."""

_SCHEME: Final = later(r"([A-Za-z][A-Za-z0-9+.-]*):")  # RFC 3986 section 3.1

_ADDRESS: Final = {"tools": "name", "prompts": "name", "resources": "uri", "resourceTemplates": "uriTemplate"}
"""The member that an item is addressed by, by `Kind.member`: looking up an Enum is slow."""

_encode: Final = msgspec.json.Encoder().encode
_UNSAFE: Final = later(r"[^A-Za-z0-9_-]")
_TRACE_BYTES: Final = 4
_FITTED: Final = later(r"_[0-9a-f]{8}\Z")
MIN_FITTED_CHARS: Final = 24
"""Of names that are shortened: a hash, and as much again to know them by."""

MAX_TAKEN_CHARS: Final = 64
"""Of a tool's name that the models of most providers take; a longer one costs the host the whole request."""

_LONGEST_SERVER: Final = 64


def join(server: str, name: str, sep: str) -> str:
    """Return the name under which all servers' hosts know a tool or prompt."""
    return f"{server}{sep}{name}"


def fitted(server: str, name: str, sep: str, most: int) -> str:
    """Return the name that `join` gives, or one of at most `most` characters that hosts and model providers take.

    Whatever is too long or has other characters than A-Z a-z 0-9 _ - is shortened, and ends with a hash of the
    whole, so that no two meet. The separator stays as it was chosen. `most` 0: as it is.
    """
    full = join(server, name, sep)
    safe = _UNSAFE.sub("_", name) if most else name
    if not most or (safe == name and len(full) <= most):
        return full
    trace = blake2b(full.encode("utf-8", "surrogatepass"), digest_size=_TRACE_BYTES).hexdigest()
    return f"{join(server, safe, sep)[: most - len(trace) - 1]}_{trace}"


def refused(server: str, name: str, sep: str, most: int, path: str) -> str | None:
    """Say why many hosts refuse the name under which a tool is listed at a path; None where they take it."""
    shown = fitted(server, name, sep, most)
    if len(shown) > MAX_TAKEN_CHARS:
        return f"its name at {path} has {len(shown)} characters, and many hosts take {MAX_TAKEN_CHARS}"
    if not most and _UNSAFE.search(name):
        return "its name has characters that many hosts refuse: they take A-Z a-z 0-9 _ -"
    return None


def fitted_chars(wanted: int) -> int:
    """Return how long names may be where somebody wrote that they may be so long."""
    return max(wanted, MIN_FITTED_CHARS) if wanted else 0


def may_be_fitted(text: str) -> bool:
    """Whether a name ends as `fitted` makes them end."""
    return _FITTED.search(text) is not None


def splits(text: str, sep: str, servers: Container[str]) -> list[tuple[str, str]]:
    """Return every way to take a joined name apart in front of which one of these servers stands, shortest first.

    There may be several: `a_` with `t` and `a` with `_t` are both `a___t`.
    """
    found: list[tuple[str, str]] = []
    at = text.find(sep, 1, _LONGEST_SERVER + len(sep))
    while at != -1:
        if text[:at] in servers:
            found.append((text[:at], text[at + len(sep) :]))
        at = text.find(sep, at + 1, _LONGEST_SERVER + len(sep))
    return found


def renamed(item: Item, kind: Kind, name: str) -> bytes:
    """Return the item's JSON, addressed by another name.

    A member that it has twice is there once, as everybody reads it: the last one.

    Raises:
        msgspec.MsgspecError, RecursionError: it is not a JSON object after all.
        ValueError: it has too much in it that MCP does not know.
    """
    # Cutting the name out and putting another in takes longer: another member of that name must be looked for.
    found: dict[str, object] = {**members(item.raw), _ADDRESS[kind.member]: name}
    return _encode(found)


# --- URIs


def scheme_of(uri: str) -> str | None:
    """Return a URI's scheme in lower case; None if it has none."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else None


def alias(server: str, uri: str) -> str:
    """Return the URI that says whose it is."""
    return f"{_PREFIX}{server}/{quote(uri, safe='')}"


def alias_template(server: str, template: str) -> str:
    """Return the URI template that says whose it is. It stays as it is, as its expansions must come back exactly."""
    return f"{_PREFIX}{server}/{template}"


def is_alias(uri: str) -> bool:
    """Whether a URI or template is one of those that are ours to give."""
    return uri[: len(_PREFIX)].lower() == _PREFIX


def origin(uri: str) -> tuple[str, str] | None:
    """Return the server and its own URI that an alias, or an expanded template of `alias_template`, stands for.

    None if it is neither. An alias has no colon behind the server, so what has a scheme there was expanded.
    """
    if not is_alias(uri):
        return None
    server, slash, rest = uri[len(_PREFIX) :].partition("/")
    if not (server and slash and rest):
        return None
    return (server, rest) if _SCHEME.match(rest) else (server, unquote(rest))
