"""Protected resource metadata (RFC 9728): where a server's is, and whether it may be believed.

It may be about the server itself or what contains it, and nothing else: it names who gives out tokens for it.
"""

from __future__ import annotations

from moltis.http.origins import Url, read_url, same_origin, shown_host, shown_url
from moltis.oauth.documents import read_object, scope_tokens, text_member, texts_if_any, texts_member
from moltis.oauth.model import Challenge, OAuthProblem, ProtectedResource
from moltis.oauth.urls import MAX_GIVEN_CHARS, given_url_problem

WELL_KNOWN = "/.well-known/oauth-protected-resource"

MAX_AUTHORIZATION_SERVERS = 8
"""More are not looked at. A server has one, or a few."""


def metadata_urls(server_url: str, challenge: Challenge | None) -> tuple[str, ...]:
    """Give the addresses to try, in order; what is not there (404, or no JSON) sends one to the next.

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
    """Give the issuers that may be asked: usable URLs without a query (RFC 8414 section 2), each once."""
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
