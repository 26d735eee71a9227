"""What is said of a login that came to nothing, so that a person knows what to change: what was asked for, and the key.

Keys are named as `oauth.KEY`, which `server.mending` finds in a message.
"""

from __future__ import annotations

from moltis.oauth.authorize import Authorization
from moltis.oauth.model import AuthServer, Client, OAuthProblem

MAX_SAID_CHARS = 300
"""Of what the other side lists."""


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
