"""What is secret, and what of it may be shown.

Three views of one value: as written (`Template`, which prints as `***`), as run (a plain string that only a child's
environment or an HTTP request ever receives), and as shown, which is built from the text as written, so that an
expanded secret cannot reach it. `Scrubber` is the last net, for text that others wrote: a server's stderr, an error. No
function here puts a value into an exception, a repr or a message.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

REDACTED = "[REDACTED]"
INVALID_URL = "[invalid URL]"
SHORTEST_SECRET = 6
"""Characters a value must have to be searched for: shorter ones ("true", "8080") occur everywhere by chance."""

_FEW_FORMS = 400
"""Up to so many, searching for each is cheaper than looking at each place of the text: 0.06 us a kB against 170 us."""
_FEW_FOR_LONG = 2500
_LONGEST_PERIOD = 64
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]+")
"""Of RFC 3986 section 2.3."""
_LONG_CHARS = 4096
"""A text from which on so many are few."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PLACEHOLDER = re.compile(
    rf"""\$(?:
        (?P<dollar>\$)
      | (?P<bare>{_NAME})
      | \{{ (?P<name>(?:env:)?{_NAME}|project:(?:path|name)) (?P<fallback>:-(?P<default>(?:[^}}$]|\$\$)*+))? \}}
      | (?P<malformed>\{{)
    )""",
    re.VERBOSE,
)
_ENV_NAME = re.compile(_NAME)
_MAX_INNER = 200

Lookup = Callable[[str], "str | None"]
"""Returns the value of `NAME`, or of `env:NAME` for the process environment; None or blank when there is none."""


def is_env_name(name: str) -> bool:
    """Say whether a placeholder can have this name."""
    return _ENV_NAME.fullmatch(name) is not None


class Malformed(ValueError):
    """A `${` begins no placeholder. `inner`: what follows it, up to a `}` if one is near; it may be a secret."""

    def __init__(self, inner: str = "") -> None:
        super().__init__("a '${' without a name or its '}', or one inside another; for a literal '$' write '$$'")
        self.inner = inner


class Unresolved(LookupError):
    """Placeholders that resolve to nothing, by name, as written (`NAME` or `env:NAME`)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class TooLong(ValueError):
    """What a text expands to is longer than it may be."""


class Bare(msgspec.Struct, frozen=True):
    """A placeholder without braces, and the character before it ("" at the beginning)."""

    name: str
    before: str


@dataclass(frozen=True, slots=True, repr=False)
class Template:
    """A text as a person wrote it: `$NAME`, `${NAME}`, `${NAME:-default}`, `${env:NAME}`, `${project:path}` and
    `${project:name}`, and `$$` for a `$`.

    A `$` before anything else is literal. A default replaces an unset or blank value, and is itself literal.

    Raises:
        Malformed: when a `${` begins none of these.
    """

    text: str

    def __post_init__(self) -> None:
        for m in _PLACEHOLDER.finditer(self.text):
            if m["malformed"]:
                inner = self.text[m.end() : m.end() + _MAX_INNER]
                raise Malformed(inner.partition("}")[0] if "}" in inner else "")

    def __repr__(self) -> str:
        return "***"

    @property
    def names(self) -> tuple[str, ...]:
        """The names it asks for, in order, each once; `env:NAME` for the process environment, `project:path`."""
        return tuple(dict.fromkeys(m["bare"] or m["name"] for m in _PLACEHOLDER.finditer(self.text) if not m["dollar"]))

    def bare(self) -> Iterator[Bare]:
        """Yield the placeholders that are written without braces, in order."""
        for m in _PLACEHOLDER.finditer(self.text):
            if m["bare"]:
                yield Bare(m["bare"], self.text[m.start() - 1] if m.start() else "")

    def expand(self, lookup: Lookup, most: int) -> str:
        """Return the text as run, in one pass: what a lookup returns is not looked into.

        most: bytes of UTF-8 that it may have. Nothing longer is ever put together, however often a value is asked for.

        Raises:
            Unresolved: with every name that has neither a value nor a default.
            TooLong: it has more than `most` bytes.
        """
        missing: dict[str, None] = {}
        pieces: list[str] = []
        size = done = 0
        for m in _PLACEHOLDER.finditer(self.text):
            for piece in (self.text[done : m.start()], _replacement(m, lookup, missing)):
                if piece:
                    size += utf8_bytes(piece, most)
                    pieces.append(piece)
            done = m.end()
            if size > most:
                raise TooLong
        if missing:
            raise Unresolved(tuple(missing))
        if not done:
            pieces = [self.text]
            size = utf8_bytes(self.text, most)
        elif rest := self.text[done:]:
            pieces.append(rest)
            size += utf8_bytes(rest, most)
        if size > most:
            raise TooLong
        return pieces[0] if len(pieces) == 1 else "".join(pieces)


def utf8_bytes(text: str, most: int) -> int:
    """Return how many bytes a text has in UTF-8; of one that has more than `most`, at least more than that."""
    return len(text) if text.isascii() or len(text) > most else len(text.encode("utf-8", "surrogatepass"))


def _replacement(m: re.Match[str], lookup: Lookup, missing: dict[str, None]) -> str:
    if m["dollar"]:
        return "$"
    name = m["bare"] or m["name"]
    value = lookup(name)
    if value and not value.isspace():
        return value
    if m["fallback"] is None:
        missing[name] = None
        return ""
    return str(m["default"]).replace("$$", "$")


# What may be shown of a URL ------------------------------------------------------------------------------------------

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_AUTHORITY_END = re.compile(r"[/?#\\]")
_UNSHOWABLE = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")
_PORT = re.compile(r"[^:\[\]]*(?::(?:[0-9]*|x+))?|\[[0-9A-Fa-f:.]+\](?::(?:[0-9]*|x+))?")


def shown_url(as_written: str) -> str:
    """Return what anyone may see of a URL: userinfo, fragment and query values go, unless one is exactly a placeholder.

    A default inside a shown placeholder goes too, since it is literal text. A text that is no URL is not shown at all.
    """
    # Delimiters count only outside of placeholders: in the mask, each character of a placeholder is an `x`.
    mask = _PLACEHOLDER.sub(lambda m: "x" * len(m[0]) if not (m["dollar"] or m["malformed"]) else m[0], as_written)
    if not as_written or _UNSHOWABLE.search(mask):
        return INVALID_URL if as_written else ""
    start = m.end() if (m := _SCHEME.match(mask)) else 0
    end = m.start() if (m := _AUTHORITY_END.search(mask, start)) else len(mask)
    at = mask.rfind("@", start, end)
    host = at + 1 if at >= 0 else start
    literal_start = start == 0 and not _PLACEHOLDER.match(as_written)
    if literal_start or host == end or not _PORT.fullmatch(mask, host, end):
        return INVALID_URL
    hash_at = mask.find("#", end)
    stop = hash_at if hash_at >= 0 else len(mask)
    query = mask.find("?", end, stop)
    path_end = query if query >= 0 else stop
    shown = as_written[:start] + (f"{REDACTED}@" if at >= 0 else "") + as_written[host:path_end]
    if query >= 0:
        shown += "?" + "&".join(_shown_pairs(as_written, mask, query + 1, stop))
    return shown + (f"#{REDACTED}" if hash_at >= 0 else "")


def _shown_pairs(text: str, mask: str, start: int, stop: int) -> Iterator[str]:
    while start <= stop:
        end = mask.find("&", start, stop)
        end = stop if end < 0 else end
        equals = mask.find("=", start, end)
        value = equals + 1 if equals >= 0 else start
        yield text[start:value] + _shown_value(text[value:end])
        start = end + 1


def _shown_value(value: str) -> str:
    placeholder = _PLACEHOLDER.fullmatch(value)
    if not value:
        return ""
    if placeholder is None or placeholder["dollar"] or placeholder["malformed"]:
        return REDACTED
    return f"${{{placeholder['name']}:-{REDACTED}}}" if placeholder["default"] else value


# What may be kept of a text that others wrote ------------------------------------------------------------------------


class Scrubber:
    """Replaces every known secret in a text by `[REDACTED]`, whether raw, URL-encoded, base64 or JSON-escaped."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.generation = 0
        """Counts the changes of what it knows."""
        self._forms_of: dict[str, tuple[str, ...]] = {}
        self._forms: tuple[str, ...] = ()
        self._by_head: dict[str, list[str]] = {}
        self.update(secrets)

    def update(self, secrets: Iterable[str]) -> None:
        """Forget the old secrets and know these; holders of this object see them from the next text on."""
        self.generation += 1
        before = self._forms_of  # tokens come and go by the minute, and to write one in every form takes a while
        self._forms_of = {
            secret: before.get(secret) or tuple({form for form in _forms(secret) if len(form) >= SHORTEST_SECRET})
            for secret in secrets
            if len(secret) >= SHORTEST_SECRET
        }
        self._forms = tuple({form for forms in self._forms_of.values() for form in forms})
        by_head: dict[str, list[str]] = {}
        for form in self._forms:
            by_head.setdefault(form[:SHORTEST_SECRET], []).append(form)
        self._by_head = by_head

    def text(self, text: str) -> str:
        """Return the text without any character of any occurrence of a secret; the same object when none is in it."""
        found = [form for form in self._candidates(text) if form in text]
        if not found:
            return text
        pieces: list[str] = []
        done = 0
        for start, end in _merged(sorted(span for form in found for span in _spans(text, form))):
            pieces += (text[done:start], REDACTED)
            done = end
        return "".join((*pieces, text[done:]))

    def _candidates(self, text: str) -> Iterable[str]:
        if len(self._forms) <= (_FEW_FORMS if len(text) < _LONG_CHARS else _FEW_FOR_LONG):
            return self._forms
        by_head = self._by_head  # once: `update` may come from another thread
        windows = {text[i : i + SHORTEST_SECRET] for i in range(len(text) - SHORTEST_SECRET + 1)}
        return [form for head in windows & by_head.keys() for form in by_head[head]]

    def value(self, value: Any) -> Any:
        """Return a JSON value with every string in it scrubbed, keys included."""
        return scrubbed(value, self.text)


def scrubbed(value: Any, scrub: Callable[[str], str], *, keys: bool = True) -> Any:
    """Return a JSON value with every string in it scrubbed; without `keys`, the names of members stay."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {
            scrub(key) if keys and isinstance(key, str) else key: scrubbed(item, scrub, keys=keys)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [scrubbed(item, scrub, keys=keys) for item in value]
    return value


def _spans(text: str, form: str) -> Iterator[tuple[int, int]]:
    """Return where it occurs, also where it overlaps itself. Occurrences that are a period apart are one span: a text
    can be made to be one long row of them.
    """
    period = next((n for n in range(1, min(len(form), _LONGEST_PERIOD)) if form.startswith(form[n:])), len(form))
    row = re.compile(f"{re.escape(form)}(?:{re.escape(form[-period:])})*+", re.DOTALL)
    found = row.search(text)
    while found is not None:
        yield found.span()
        found = row.search(text, found.end() - len(form) + 1)


def _merged(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join spans that overlap, so that the end of one secret is not left behind by another."""
    current: tuple[int, int] | None = None
    for start, end in spans:
        if current is None:
            current = (start, end)
        elif start <= current[1]:
            current = (current[0], max(current[1], end))
        else:
            yield current
            current = (start, end)
    if current is not None:
        yield current


def _forms(secret: str) -> Iterator[str]:
    yield secret
    raw = secret.encode("utf-8", "surrogatepass")
    if _UNRESERVED.fullmatch(secret) is None:  # that is written the same way everywhere but in base64
        yield repr(secret)[1:-1]
        for ascii_only in (True, False):
            escaped = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
            yield escaped
            yield escaped.replace("/", "\\/")
        for encoded in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
            yield encoded
            yield re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), encoded)
    for encoded in _base64_forms(raw):
        yield encoded
        yield encoded.replace("+", "-").replace("/", "_")
    # Of a secret of several lines (a PEM key), a log shows one at a time.
    lines = [line.strip() for line in secret.splitlines()]
    if len(lines) > 1:
        yield from lines


def _base64_forms(raw: bytes) -> Iterator[str]:
    """Yield what base64 makes of these bytes at each of the three places in a group, as in `user:secret`."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode("ascii")
        first = (offset * 8 + 5) // 6
        last = (offset + len(raw)) * 8 // 6
        yield encoded[first:last]
