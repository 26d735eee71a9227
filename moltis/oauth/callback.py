"""What the browser came back with: RFC 6749 section 4.1.2, and from whom (RFC 9207).

Read first, believed later: the state finds the flow, then the issuer is checked, and only then is anything acted upon
or shown.
"""

from __future__ import annotations

import hmac
from urllib.parse import parse_qsl

import msgspec

from moltis.http.origins import shown_host
from moltis.oauth.documents import error_code, is_visible
from moltis.oauth.model import OAuthProblem

MAX_TARGET_CHARS = 16 * 1024
MAX_PARAMETERS = 64
_OURS = ("state", "code", "iss", "error")


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of one authorization response, as they came. Its repr shows nothing."""

    state: str
    code: str | None = None
    iss: str | None = None
    error: str | None = None

    def __repr__(self) -> str:
        return "Callback(***)"


def parse_callback(target: str) -> Callback:
    """Read a request target (`/callback?...`), a whole URL as pasted, or a query alone.

    A parameter without a value counts as absent (RFC 6749 section 3.1).

    Raises:
        OAuthProblem: it is too long, there is no state in it, or a parameter of ours is there twice.
    """
    target = target.strip()
    if len(target) > MAX_TARGET_CHARS:
        raise OAuthProblem("what came back from the login is too long to be an answer")
    before, mark, after = target.partition("#")[0].partition("?")
    try:
        pairs = parse_qsl(after if mark else before, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise OAuthProblem("what came back from the login has more parameters than an answer has") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise OAuthProblem(f"what came back from the login has {name} twice")
        if name in _OURS:
            found[name] = value
    if not found.get("state"):
        raise OAuthProblem("what came back from the login has no state: it is not an answer to a login begun here")
    return Callback(
        state=found["state"],
        code=found.get("code") or None,
        iss=found.get("iss") or None,
        error=found.get("error") or None,
    )


def check_callback(callback: Callback, *, state: str, issuer: str | None, iss_supported: bool) -> str:
    """Return the authorization code, if this is the answer of `issuer` to the request that carried `state`.

    issuer: compared to the letter with `iss` wherever there is one, whether the server promised it or not (MCP,
        Authorization Response Validation). None: endpoints given by hand; the code goes nowhere but to the token
        endpoint beside them.
    iss_supported: the server promised an `iss`, so an answer without one is not its answer.

    Raises:
        OAuthProblem: `refused` if it is not (then nothing it says is shown); `denied` if it says no, with its code.
    """
    if not _same(callback.state, state):
        raise OAuthProblem("what came back is not the answer to this login: its state is another")
    who = "the authorization server" if issuer is None else shown_host(issuer)
    if issuer is not None:
        if callback.iss is None and iss_supported:
            raise OAuthProblem(f"the answer to the login does not say that it is from {who}, as it promised to (iss)")
        if callback.iss is not None and not _same(callback.iss, issuer):
            raise OAuthProblem(f"the answer to the login is not from {who}: it names another issuer (iss)")
    if callback.error is not None:
        raise _denial(callback.error, who)
    if callback.code is None:
        raise OAuthProblem(f"the answer of {who} to the login has neither a code nor an error in it")
    if not is_visible(callback.code.replace(" ", "")):
        raise OAuthProblem(f"the answer of {who} to the login has an illegible code in it")
    return callback.code


def _denial(error: str, who: str) -> OAuthProblem:
    code = error_code(error)
    if code is None:
        return OAuthProblem(f"{who} did not let the login through, for a reason that is illegible", kind="denied")
    if code == "access_denied":
        return OAuthProblem(f"the login at {who} was declined", kind="denied", code=code)
    return OAuthProblem(f"{who} did not let the login through ({code})", kind="denied", code=code)


def _same(given: str, expected: str) -> bool:
    """Compare without telling by the time it takes how much was right; any text, lone surrogates too."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))
