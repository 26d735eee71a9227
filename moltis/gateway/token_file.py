"""tokens.toml: what stands in it, and how it is read without trusting it.

What is not in order is an error that names the file and repeats nothing of it, for whoever edits by hand may have put a
token anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from moltis.config.document import parse
from moltis.config.files import read_own
from moltis.errors import ConfigError
from moltis.patterns import later

Scope = Literal["read", "write"]
"""`write` includes `read`."""

PREFIX: Final = "mlt_"
"""What a token begins with, so that people and secret scanners know it when they see it."""

MAX_FILE_BYTES: Final = 1 << 20
_NAME: Final = later(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_YEARS: Final = range(1971, 9000)
_HEADER: Final = "# Access tokens, as the SHA-256 of each. `moltis token` writes this file; comments do not stay.\n\n"

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Instant = Annotated[datetime, Meta(tz=True)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A token in the file. Unknown keys are refused, for writing the file anew would lose them.

    projects: those it is bound to; None: it is bound to none.
    """

    sha256: Digest
    scope: Scope
    projects: tuple[str, ...] | None = None
    created_at: Instant
    expires_at: Instant | None = None
    last_used_at: Instant | None = None


def text_of(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of a file with these tokens, by their names."""
    import tomli_w  # only writing needs it

    return _HEADER + tomli_w.dumps({"tokens": tables} if tables else {})


def read(path: Path) -> bytes:
    """Read the file; nothing when there is none.

    Raises:
        ConfigError: as `read_own`.
    """
    return read_own(path, MAX_FILE_BYTES) or b""


def entries(raw: bytes, path: Path) -> dict[str, Entry]:
    """Return what stands in the file, by the tokens' names.

    Raises:
        ConfigError: something of it is not in order.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise damaged(path, "it is not UTF-8 text") from None
    try:
        tables: dict[str, Any] = parse(text, str(path)).tables
    except ConfigError as error:
        raise ConfigError(error.message, hint=_mend(path)) from None
    found = tables.pop("tokens", {})
    if tables or not isinstance(found, dict):
        raise damaged(path, "it holds something else than [tokens.NAME]")
    known = {}
    for name, table in found.items():
        if name_problem(name) is not None:
            raise damaged(path, "a name of a token is none")
        try:
            entry = msgspec.convert(table, Entry)
        except msgspec.ValidationError:
            raise damaged(path, f"[tokens.{name}] is not as it was written") from None
        instants = (entry.created_at, entry.expires_at, entry.last_used_at)
        if any(instant is not None and instant.year not in _YEARS for instant in instants):
            raise damaged(path, f"[tokens.{name}] has an instant out of range")
        known[name] = entry
    return known


def damaged(path: Path, what: str) -> ConfigError:
    """Return the error that says so. `what`: no text of the file."""
    return ConfigError(f"{path} is damaged: {what}", hint=_mend(path))


def _mend(path: Path) -> str:
    return f"mend {path}, or move it away and make new tokens: moltis token create"


def name_problem(name: str) -> str | None:
    """Say what is wrong with a token's name, without repeating it; None if nothing is."""
    if name.startswith(PREFIX):
        return "that looks like a token, not like the name of one"
    if not _NAME.fullmatch(name):
        return "a token's name is 1 to 64 of A-Z a-z 0-9 _ . - and starts with a letter or digit"
    return None
