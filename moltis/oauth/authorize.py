"""The authorization request (RFC 6749 section 4.1.1, RFC 7636, RFC 8707), and whether its URL may be opened.

Every parameter is there once, and ours win: what the endpoint's own query says of them is dropped, the rest of it kept.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterator
from urllib.parse import quote, unquote_plus, urlencode

import msgspec

from moltis.http.origins import shown_host
from moltis.oauth.documents import MAX_SCOPE_CHARS, scope_tokens
from moltis.oauth.model import AuthServer, Challenge, Client, ClientConfig, OAuthProblem, ProtectedResource
from moltis.oauth.urls import url_problem

OFFLINE_ACCESS = "offline_access"
INSUFFICIENT_SCOPE = "insufficient_scope"
INVALID_TOKEN = "invalid_token"

MAX_SAID_CHARS = 300
"""Of what the other side lists, where it is repeated to a person."""

_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}")
"""RFC 7636 section 4.1."""


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """One authorization request under way. Its repr shows nothing.

    url: for the browser.
    state, verifier: secrets of this one flow.
    issuer, iss_supported: whom the answer must come from (RFC 9207); `issuer` None: endpoints given by hand, whose
        issuer nobody has named.
    """

    url: str
    state: str
    verifier: str
    redirect_uri: str
    scope: str | None
    resource: str | None
    prompt: str | None
    issuer: str | None
    iss_supported: bool

    def __repr__(self) -> str:
        return "Authorization(***)"


def scope_to_ask(
    config: ClientConfig,
    challenge: Challenge | None,
    resource: ProtectedResource | None,
    server: AuthServer,
    *,
    granted: str | None = None,
    refused: Collection[frozenset[str]] = (),
) -> str | None:
    """Return the `scope` to ask for, None to leave the parameter out (MCP, Scope Selection Strategy).

    The configured scopes, else those of the challenge, else all that the resource lists. `offline_access` joins them
    where the authorization server lists it, for without it some give no refresh token (MCP, Refresh Tokens); not those
    that a person has written, unless that person wants it.

    challenge: with `insufficient_scope` its scopes are asked for whatever is configured: the request needs them.
    granted: what was asked for or granted before, by this authorization server: it is asked for again (MCP, Step-Up
        Authorization Flow).
    refused: what was asked for in vain (`invalid_scope`): then without what the authorization server does not list, and
        without `offline_access`. What is configured or challenged is asked for all the same.

    Raises:
        OAuthProblem: they are too many for a URL; naming fewer in moltis.toml helps.
    """
    challenged = challenge.scope if challenge is not None else None
    asked = list(config.scopes)
    if not asked and challenged is None and resource is not None:
        asked = list(resource.scopes_supported or ())
    if challenged is not None and (not asked or (challenge is not None and challenge.error == INSUFFICIENT_SCOPE)):
        asked.append(challenged)
    scopes = list(scope_tokens(" ".join((granted or "", *asked))))
    if not scopes:
        return None
    if OFFLINE_ACCESS not in scopes and _gives_offline_access(config, server):
        scopes.append(OFFLINE_ACCESS)
    needed = {*config.scopes, *scope_tokens(f"{granted or ''} {challenged or ''}")}
    choices = (chosen for chosen in _fewer_and_fewer(scopes, needed, server) if frozenset(chosen) not in refused)
    scope = " ".join(next(choices, scopes))
    if len(scope) > MAX_SCOPE_CHARS:
        raise OAuthProblem("more scopes are offered than a login can ask for: name some in oauth.scopes in moltis.toml")
    return scope or None


def scope_of_client(scope: str | None, client: Client, challenge: Challenge | None) -> str | None:
    """Leave out what a client is not registered for (RFC 7591 section 3.2.1), but what a request needs."""
    if scope is None or not client.scopes_denied:
        return scope
    insufficient = challenge is not None and challenge.error == INSUFFICIENT_SCOPE
    needed = scope_tokens(challenge.scope or "") if challenge is not None and insufficient else ()
    kept = [token for token in scope.split() if token in needed or token not in client.scopes_denied]
    return " ".join(kept) or scope


def _fewer_and_fewer(scopes: list[str], needed: Collection[str], server: AuthServer) -> Iterator[list[str]]:
    yield scopes
    spare = [scope for scope in scopes if scope not in needed]
    unlisted = {scope for scope in spare if server.scopes_supported and scope not in server.scopes_supported}
    offline = {scope for scope in spare if scope == OFFLINE_ACCESS}
    for left_out in (unlisted, offline, unlisted | offline):
        yield [scope for scope in scopes if scope not in left_out]


def authorization_request(
    server: AuthServer,
    client: Client,
    *,
    redirect_uri: str,
    scope: str | None,
    resource: str | None,
    state: str,
    verifier: str,
    prompt: str | None = None,
) -> Authorization:
    """Build the request.

    resource: None to leave the parameter out. prompt: None to ask for consent to what needs it; empty to leave it out.
    state, verifier: fresh, random, and not the same: whoever sees the URL knows the state (RFC 7636 section 7.1).

    Raises:
        OAuthProblem: there is no authorization endpoint, or the URL may not be opened.
        ValueError: the verifier is not one of RFC 7636, or is also the state.
    """
    if _VERIFIER.fullmatch(verifier) is None or verifier == state:
        raise ValueError("not a verifier for this state")
    if server.authorization_endpoint is None:
        raise OAuthProblem(f"{shown_host(server.issuer)} has no authorization endpoint to log in at")
    parameters = {
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": redirect_uri,
        **({"scope": scope} if scope is not None else {}),
        "state": state,
        "code_challenge": code_challenge(verifier),
        "code_challenge_method": "S256",
        **({"resource": resource} if resource is not None else {}),
    }
    # OpenID Connect Core section 11: without it offline access is ignored.
    if prompt is None and OFFLINE_ACCESS in (scope or "").split():
        prompt = "consent"
    if prompt:
        parameters["prompt"] = prompt
    url = _with_query(server.authorization_endpoint, parameters)
    problem = opening_problem(url)
    if problem is not None:
        shown = shown_host(server.authorization_endpoint)
        raise OAuthProblem(f"the login page at {shown} is not opened: its address {problem}")
    return Authorization(
        url=url,
        state=state,
        verifier=verifier,
        redirect_uri=redirect_uri,
        scope=scope,
        resource=resource,
        prompt=prompt or None,
        issuer=None if server.manual else server.issuer,
        iss_supported=server.iss_supported,
    )


def code_challenge(verifier: str) -> str:
    """Return the S256 code challenge (RFC 7636 section 4.2)."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode("ascii")


def opening_problem(url: str) -> str | None:
    """Say why this URL must not be given to a browser, to follow "its address ..."; None if it may.

    https, or http to this machine by its very name; printable ASCII without what no URL has, so that neither a launcher
    nor a browser reads another host or an option out of it; no userinfo, no fragment; at most 8 KiB. The
    words hold nothing of the URL.
    """
    return url_problem(url)


# What is said of a request that came to nothing, so that a person knows what was asked for, and which key of
# moltis.toml may help: as `oauth.KEY`, which `server.mending` finds in a message.


def unanswered(request: Authorization, client: Client, *, known: bool) -> str:
    """Say what a page may have refused from which nobody came back; nobody but the person has seen it.

    known: the client was registered for an earlier login.
    """
    more = ""
    if client.source == "registered":
        who = "the next one registers moltis anew" if known else "--new-client registers moltis anew"
        more = f"; if it does not know moltis, {who}"
    return f"if its page showed an error instead, it may be about what {_said(request)}{more}"


def _said(request: Authorization) -> str:
    said = [f"redirect_uri {request.redirect_uri} (oauth.redirect_host)"]
    if request.scope is not None:
        said.append(f"scope {_cut(request.scope)} (oauth.scopes)")
    if request.resource is not None:
        said.append(f"resource {_cut(request.resource)} (oauth.resource)")
    if request.prompt is not None:
        said.append(f"prompt {request.prompt} (oauth.prompt)")
    return f"moltis said: {', '.join(said)}"


def with_advice(problem: OAuthProblem, server: AuthServer, request: Authorization, client: Client) -> OAuthProblem:
    """Return a refusal of a login that also says what was asked for, and which key of moltis.toml changes that."""
    more = _about(problem.code, server, request, client) if problem.kind == "denied" else ""
    if not more:
        return problem
    return OAuthProblem(f"{problem.message}; {more}", kind=problem.kind, code=problem.code)


def _about(code: str | None, server: AuthServer, request: Authorization, client: Client) -> str:
    match code:
        case "invalid_scope":
            listed = server.scopes_supported
            lists = f"it lists {_cut(' '.join(listed))}" if listed else "it lists none"
            example = ", ".join(
                f'"{scope}"' for scope in (request.scope or "").split()[:2] if listed and scope in listed
            )
            return (
                f"asked for {_cut(request.scope or 'none')}; {lists}; set oauth.scopes = [{example or '...'}] to what "
                "it gives"
            )
        case "invalid_target" | "invalid_resource":
            said = f"moltis said resource {_cut(request.resource)}" if request.resource else "moltis said no resource"
            return f'{said}; oauth.resource = "" leaves it out, and another text is said instead'
        case "invalid_client" | "unauthorized_client" if client.source == "registered":
            return "the next login registers moltis anew"
        case "invalid_client" | "unauthorized_client":
            return "check oauth.client_id and oauth.client_secret, and what the client is allowed there"
        case "invalid_request" | "unsupported_response_type":
            return _said(request)
        case _:
            return ""


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SAID_CHARS else text[: MAX_SAID_CHARS - 3] + "..."


def _gives_offline_access(config: ClientConfig, server: AuthServer) -> bool:
    return (
        config.grant == "authorization_code"
        and (not config.scopes if config.offline_access is None else config.offline_access)
        and OFFLINE_ACCESS in (server.scopes_supported or ())
        and (server.grant_types is None or "refresh_token" in server.grant_types)
    )


def _with_query(endpoint: str, parameters: dict[str, str]) -> str:
    """Add to an endpoint's own query (RFC 6749 section 3.1: it is retained, and no parameter is there twice)."""
    base, _, own = endpoint.partition("?")
    kept = [part for part in own.split("&") if part and unquote_plus(part.partition("=")[0]) not in parameters]
    return base + "?" + "&".join((*kept, urlencode(parameters, quote_via=quote)))
