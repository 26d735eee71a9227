"""What is said of a login that came to nothing, so that a person knows what to change: what was asked for, and the key.

Keys are named as `oauth.KEY`, which `server.mending` finds in a message.
"""

from __future__ import annotations

from moltis.oauth.authorize import Authorization
from moltis.oauth.model import Client

MAX_SAID_CHARS = 300
"""Of what the other side lists."""


def unanswered(request: Authorization, client: Client, *, known: bool) -> str:
    """Say what a page may have refused from which nobody came back; nobody but the person has seen it.

    known: the client was registered for an earlier login.
    """
    said = [f"redirect_uri {request.redirect_uri} (oauth.redirect_host)"]
    if request.scope is not None:
        said.append(f"scope {_cut(request.scope)} (oauth.scopes)")
    if request.resource is not None:
        said.append(f"resource {_cut(request.resource)} (oauth.resource)")
    if request.prompt is not None:
        said.append(f"prompt {request.prompt} (oauth.prompt)")
    more = ""
    if client.source == "registered":
        who = "the next one registers moltis anew" if known else "--new-client registers moltis anew"
        more = f"; if it does not know moltis, {who}"
    return f"if its page showed an error instead, it may be about what was said: {', '.join(said)}{more}"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SAID_CHARS else text[: MAX_SAID_CHARS - 3] + "..."
