"""What a server says of where to log in: WWW-Authenticate (RFC 9110 section 11.6.1), and its metadata (RFC 9728).

A challenge is a hint, never more. Only a `Bearer` one is of use here (RFC 6750 section 3). What cannot be read is
passed over, and so is a value that may not be used: a 401 without a legible challenge is still a 401, and the metadata
is looked for where it belongs. That may be about the server itself or what contains it, and nothing else: it names who
gives out tokens for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from moltis.http.origins import Url, read_url, same_origin, shown_host, shown_url
from moltis.oauth.documents import (
    MAX_SCOPE_CHARS,
    error_code,
    read_object,
    scope_tokens,
    text_member,
    texts_if_any,
    texts_member,
)
from moltis.oauth.model import Challenge, OAuthProblem, ProtectedResource
from moltis.oauth.urls import MAX_GIVEN_CHARS, given_url_problem, url_problem

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
    """Return the first Bearer challenge of these WWW-Authenticate field values; None if there is none. Never raises.

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
    """Yield each challenge: its scheme and its parameters, names in lower case. Linear in the length of the value."""
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


WELL_KNOWN = "/.well-known/oauth-protected-resource"

MAX_AUTHORIZATION_SERVERS = 8
"""More are not looked at. A server has one, or a few."""


def metadata_urls(server_url: str, challenge: Challenge | None) -> tuple[str, ...]:
    """Return the addresses to try, in order; what is not there (404, or no JSON) sends one to the next.

    First what the challenge names (RFC 9728 section 5.1), if it is https or on the server's own origin: a server is not
    to have other plain-HTTP services of this machine visited. Then the well-known address of the server's path, then
    that of its origin (RFC 9728 section 3.1; MCP, Protected Resource Metadata Discovery Requirements). The server's
    query, which may hold secrets, is in none of them.

    Raises:
        OAuthProblem: `server_url` is not an http or https URL.
    """
    server = _server(server_url)
    base = server.origin + WELL_KNOWN
    named = challenge.resource_metadata if challenge is not None else None
    if named is not None and (
        given_url_problem(named, server_url) is not None
        or not (named.lower().startswith("https:") or same_origin(named, server_url))
    ):
        named = None
    paths = (server.path,) if server.path not in ("", "/") else ()
    return tuple(dict.fromkeys((*((named,) if named is not None else ()), *(base + path for path in paths), base)))


def read_resource(body: bytes, server_url: str, *, issuer_known: bool = False) -> ProtectedResource:
    """Read the metadata of the server at `server_url`.

    `resource` must be the server's URL or a parent path of it on the same origin, and is kept to the letter: that is
    the identifier tokens are asked for (RFC 9728 section 3.3; MCP, Canonical Server URI). Authorization servers that
    may not be used are left out; the others keep their order.

    issuer_known: moltis.toml says who the authorization server is, so that it need name none.

    Raises:
        OAuthProblem: `outage` if it is not a JSON object; `refused` if it is about another resource, or names no usable
            authorization server.
    """
    host = shown_host(server_url)
    what = f"the protected resource metadata of {host}"
    document = read_object(body, what)
    resource = text_member(document, "resource", what)
    if resource is None:
        raise OAuthProblem(f"{what} does not say which resource it is about")
    if not _contains(resource, _server(server_url)):
        raise OAuthProblem(
            f"{what} is about another resource: it says {shown_url(resource)}, and url in moltis.toml is "
            f"{shown_url(server_url)}; correct url, or ask who runs it"
        )
    try:
        usable = _usable(texts_member(document, "authorization_servers", what) or (), server_url, what)
    except OAuthProblem:
        if not issuer_known:
            raise
        usable = ()
    scopes = texts_if_any(document, "scopes_supported")
    return ProtectedResource(
        resource=resource,
        authorization_servers=usable,
        scopes_supported=scope_tokens(" ".join(scopes)) if scopes is not None else None,
    )


def _contains(resource: str, server: Url) -> bool:
    """Say whether a resource is the server, or a parent path on its origin.

    A query (RFC 9728 section 1.2 allows one) must be the server's own. A slash at the end makes no difference.
    """
    parts = read_url(resource)
    if parts is None or len(resource) > MAX_GIVEN_CHARS or parts.userinfo or "#" in resource:
        return False
    if parts.origin != server.origin or parts.query not in ("", server.query):
        return False
    own, other = server.path.rstrip("/") + "/", parts.path.rstrip("/") + "/"
    return own == other if parts.query else own.startswith(other)


def _usable(listed: tuple[str, ...], server_url: str, what: str) -> tuple[str, ...]:
    """Return the issuers that may be asked: usable URLs without a query (RFC 8414 section 2), each once."""
    if not listed:
        raise OAuthProblem(f"{what} names no authorization server")
    problems = [given_url_problem(issuer, server_url) for issuer in listed[:MAX_AUTHORIZATION_SERVERS]]
    usable = [url for url, problem in zip(listed, problems, strict=False) if problem is None and "?" not in url]
    if not usable:
        raise OAuthProblem(
            f"{what} names no authorization server that may be used: the address of the first "
            + (problems[0] or "has a query")
        )
    return tuple(dict.fromkeys(usable))


def _server(server_url: str) -> Url:
    parts = read_url(server_url)
    if parts is None:
        raise OAuthProblem("the server's url in moltis.toml is not an http or https URL")
    return parts
