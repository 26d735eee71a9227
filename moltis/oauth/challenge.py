"""What a server says in WWW-Authenticate (RFC 9110 section 11.6.1). A hint, never more.

Only a `Bearer` challenge is of use here (RFC 6750 section 3). What cannot be read is passed over, and so is a value
that may not be used: a 401 without a legible challenge is still a 401, and the metadata is looked for where it belongs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from moltis.oauth.documents import MAX_SCOPE_CHARS, error_code, scope_tokens
from moltis.oauth.model import Challenge
from moltis.oauth.urls import MAX_GIVEN_CHARS, url_problem

MAX_VALUES = 8
MAX_VALUE_CHARS = 4 * 1024

_TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_GAP = re.compile(r"[ \t,]+")
_PARAM = re.compile(rf'({_TCHAR}+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', re.DOTALL)
"""Servers in use leave out quotes around URLs and commas between parameters; both are read as meant."""

_SCHEME = re.compile(rf"{_TCHAR}+")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|\Z)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def bearer_challenge(values: Iterable[str]) -> Challenge | None:
    """Give the first Bearer challenge of these WWW-Authenticate field values; None if there is none. Never raises.

    Of a parameter that is there twice the first counts. A `resource_metadata` that is no usable URL, and a `scope` or
    an `error` that cannot be one, count as absent.
    """
    for value in islice(values, MAX_VALUES):
        for scheme, parameters in _challenges(value[:MAX_VALUE_CHARS]):
            if scheme == "bearer":
                return _judged(parameters)
    return None


def _judged(parameters: dict[str, str]) -> Challenge:
    url = parameters.get("resource_metadata", "")
    scope = " ".join(scope_tokens(parameters.get("scope", "")))
    return Challenge(
        resource_metadata=url if len(url) <= MAX_GIVEN_CHARS and url_problem(url) is None else None,
        scope=scope if 0 < len(scope) <= MAX_SCOPE_CHARS else None,
        error=error_code(parameters.get("error")),
    )


def _challenges(value: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Give each challenge: its scheme and its parameters, names in lower case. Linear in the length of the value."""
    scheme, parameters = "", dict[str, str]()
    at = 0
    while at < len(value):
        if (gap := _GAP.match(value, at)) is not None:
            at = gap.end()
        elif scheme and (found := _PARAM.match(value, at)) is not None:
            name, quoted, bare = found.groups()
            parameters.setdefault(name.lower(), bare if quoted is None else _ESCAPED.sub(r"\1", quoted))
            at = found.end()
        elif (found := _SCHEME.match(value, at)) is not None:
            if scheme:
                yield scheme, parameters
            scheme, parameters = found[0].lower(), {}
            token68 = _TOKEN68.match(value, found.end())
            at = (token68 or found).end()
        else:
            at = _after_next_comma(value, at)
    if scheme:
        yield scheme, parameters


def _after_next_comma(value: str, at: int) -> int:
    comma = value.find(",", at)
    return len(value) if comma == -1 else comma + 1
