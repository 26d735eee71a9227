"""Credentials in texts that people write: names that say a value is one, and what a credential looks like.

Pure. Used for arguments, which nothing declares to be secret, and for environment variables, most of which are not.
A guess errs to one side: what may be a credential is hidden, and only what hardly can be anything else is warned of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from moltis.patterns import later

SECRET_NAME = later(
    r"token|secret|passw|credential|cookie|^auth(?!or(?!iz))|authorization|api[-_]?key|(^|[-_])(key|pwd|pass|pat|bearer)$",
    re.IGNORECASE,
)
"""Names of variables, headers and options whose values are credentials."""

_ABOUT_A_SECRET = later(
    r"(?:[-_]|(?<=[a-z])(?=[A-Z]))"
    r"(?:files?|path|dir|folder|jar|url|uri|endpoint|server|host|name|type|kind|method|mode|provider|store|id|env|var"
    r"|header|prefix|scheme|format|ttl|expiry|secs|seconds|ms|timeout|limit|count|max|min|size|length|budget|number)$"
    r"|tokens$",
    re.IGNORECASE,
)
"""How the names end that say something of a credential and do not hold it: `--token-file`, `--max-tokens`."""

TOKEN = later(
    r"(?<![A-Za-z0-9])(?:"
    r"[sr]k-[A-Za-z0-9_-]{16,}|[spr]k_(?:live|test)_[A-Za-z0-9]{8,}|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|xapp-[\w-]{10,}|sbp_[0-9a-f]{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}"
    r"|ya29\.[\w.-]{20,}|eyJ[\w-]{10,2000}+\.eyJ[\w-]{10,}\.[\w-]*|(?:npm|hf|ntn|r8|gsk|dop_v1|lin_api|shpat|shpss|shpca)_\w{20,}"
    r"|SG\.[\w-]{10,}\.[\w-]{10,}|figd_[\w-]{20,}|(?:tvly|pplx|xai|fc)-[\w-]{16,}"
    r")"
)
"""Credentials that say by their first letters whose they are, as their issuers document them."""

_URL = later(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*+://[^\s\"'<>]+")
_OPTION = later(r"--?([A-Za-z][\w.-]*)")
_NAMED = later(
    r"""(?<![\w.-])(?:--?(?P<option>(?!(?:e|env)=)[A-Za-z][\w.-]*+)(?:=|\s++)|(?P<variable>[A-Za-z_][\w.-]*+)=)
        (?P<quote>["']?)(?P<value>[^\s"']+)""",
    re.VERBOSE,
)
_HEADER = later(r"(?:^|=|[\"'\s])([A-Za-z][A-Za-z0-9-]*):[ \t]*(\S[^\"']*)")
_SCHEME = later(r"\b(?:Bearer|Basic)\s++([^\s\"',;]{6,})", re.IGNORECASE)
_NUMBER = later(r"[0-9.,_]+")
_PATH = later(r"(?:~|\.{1,2})?/|[A-Za-z]:\\|.*\.(?:pem|json|key|crt|txt|toml|ya?ml|env)$")
_VARIABLE = later(r"[A-Z]+(?:_[A-Z]+)+")
_WORDS = frozenset({"true", "false", "none", "null", "yes", "no", "env", "file", "auto", "oauth", "bearer", "basic"})
_OPAQUE = later(r"(?=[^/]*[0-9])(?=[^/]*[A-Za-z])[A-Za-z0-9_+=-]{20,}")
"""A long word of letters and digits: an identifier of a machine's, which may be a credential."""


def named_secret(name: str) -> bool:
    """Say whether a value of this name is a credential, rather than a file that has it or how long it lasts."""
    return SECRET_NAME.search(name) is not None and _ABOUT_A_SECRET.search(name) is None


def in_words(words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the credentials in the words of a command, each with the index of its word; some may come twice."""
    for n, word in enumerate(words):
        yield from ((n, secret) for secret in in_text(word))
        option = _OPTION.fullmatch(word) if word.startswith("-") else None
        if option and named_secret(option[1]) and n + 1 < len(words) and _may_be_one(words[n + 1], option[1]):
            yield n + 1, words[n + 1]


def in_text(text: str) -> Iterator[str]:
    """Yield the credentials in a text: of URLs, options, assignments and headers, and what looks like one anywhere."""
    # Most words have none of the signs without which a pattern finds nothing: asked for first, they cost nothing.
    is_several = len(text.split(None, 1)) > 1
    if is_several or "=" in text:
        for m in _NAMED.finditer(text):
            name = m["option"] or m["variable"]
            if named_secret(name) and _may_be_one(m["value"], name):
                yield m["value"]
    if ":" in text:
        for m in _HEADER.finditer(text):
            if named_secret(m[1]) and not m[2].startswith("//"):
                value = m[2].strip()
                yield value.rpartition(" ")[2]
    if is_several:
        for m in _SCHEME.finditer(text):
            yield m[1]
    for m in TOKEN.finditer(text):
        yield m[0]
    if "://" in text:
        for m in _URL.finditer(text):
            yield from in_url(m[0])


def parts_of(text: str) -> SplitResult | None:
    """Return the parts of what may be a URL of any scheme, to look for secrets in it; None if it is none.

    What is connected to is read by `http.origins.read_url`.
    """
    try:
        return urlsplit(text)
    except ValueError:
        return None


def in_url(url: str) -> Iterator[str]:
    """Yield the credentials of a URL: its password, a user that is a token, values of such names in its query."""
    parts = parts_of(url)
    if parts is None:
        return
    userinfo, at, _ = parts.netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    if colon and password:
        yield from dict.fromkeys((password, unquote(password)))
    elif at and (_OPAQUE.fullmatch(user) or TOKEN.match(user)):
        yield user
    for name, value in parse_qsl(parts.query):
        if named_secret(name) or name.lower() in ("sig", "signature"):
            yield value


def is_plain(value: str) -> bool:
    """Say whether nothing in a value can be a credential: no password, query, long word of letters and digits."""
    if TOKEN.search(value) or any(_OPAQUE.fullmatch(word) for word in re.split(r"[/\\:.,;?&@\s]+", value)):
        return False
    if "://" not in value:
        return "@" not in value
    parts = parts_of(value)
    # The path of a webhook is its credential.
    return parts is not None and not (parts.query or parts.fragment or "@" in parts.netloc or "hook" in value.lower())


def is_path(value: str) -> bool:
    """Say whether a value is the path of a file, from the root, the home or the current folder."""
    return re.match(r"(?:~|\.{1,2})?/|[A-Za-z]:\\", value) is not None and "\n" not in value


def _may_be_one(value: str, name: str) -> bool:
    if not value or value.startswith("-") or value.lower() in _WORDS or _VARIABLE.fullmatch(value):
        return False
    if _URL.fullmatch(value) or _PATH.match(value):
        return False
    return not _NUMBER.fullmatch(value) or re.search(r"pass|pwd", name, re.IGNORECASE) is not None
