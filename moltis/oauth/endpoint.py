"""The token endpoint and the revocation endpoint (RFC 6749 section 3.2, RFC 7009), spoken to through authlib.

The one rule: a code, a verifier, a token or a secret goes to the endpoint of the issuer it belongs to, in one POST
that follows no redirect, and nowhere else. Every token request says which resource it is for (RFC 8707 section 2.2),
unless the owner leaves that out, or the endpoint refuses it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol

from moltis.http.fetch import Answer, FetchProblem
from moltis.http.heads import retry_after_secs
from moltis.oauth.clientauth import ClientAuthentication, prepare
from moltis.oauth.grants import is_about_request, read_tokens
from moltis.oauth.model import AuthServer, Client, OAuthProblem, Tokens

__all__ = ["Poster", "TokenEndpoint", "prepare"]

FORM = "application/x-www-form-urlencoded"


Sending = Callable[[], Awaitable[None]]


class Poster(Protocol):
    """What `http.fetch.Fetcher` does for us."""

    async def post(
        self,
        url: str,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str],
        *,
        trusted: bool,
        sending: Sending | None,
    ) -> Answer:
        """Post a body; never redirected. `sending` is awaited between being connected and the first byte.

        Raises:
            FetchProblem: there is no answer.
        """


async def with_or_without(
    resource: str | None, ask: Callable[[str | None], Awaitable[Tokens]]
) -> tuple[Tokens, str | None]:
    """Ask for tokens for a resource, and once without it, if the refusal is about the request and not about the grant.

    MCP has every request say `resource`, whether the server knows of it or not; some refuse what they do not know, and
    know from the grant what it is for (RFC 8707 section 2.2). Give the tokens and what was said for them.
    """
    if resource is not None:
        try:
            return await ask(resource), resource
        except OAuthProblem as problem:
            if not is_about_request(problem):
                raise
    return await ask(None), None


class TokenEndpoint:
    """One client at one authorization server. Every request is on its own: any number may be under way.

    wall: seconds since the epoch.

    Each of `exchange`, `refresh` and `client_credentials` raises OAuthProblem: `denied` with the code the server gives,
    `outage` when there is no answer that could be one, `refused` when what it says cannot be used, or the request
    cannot be made.
    """

    def __init__(
        self, fetcher: Poster, server: AuthServer, client: Client, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._fetcher = fetcher
        self._server = server
        self._authentication = ClientAuthentication(client, server.issuer, wall)
        self._wall = wall

    async def exchange(
        self,
        code: str,
        verifier: str,
        redirect_uri: str,
        resource: str | None,
        *,
        asked_scope: str | None = None,
        sending: Sending | None = None,
    ) -> Tokens:
        """Turn an authorization code into tokens (RFC 6749 section 4.1.3, RFC 7636 section 4.5).

        asked_scope: what the authorization request asked for; granted, if the answer does not say.
        sending: awaited when the server is reached, just before it is told the code.
        """
        return await self._ask(
            "authorization_code",
            {"code": code, "redirect_uri": redirect_uri, "code_verifier": verifier, "resource": resource},
            asked_scope=asked_scope,
            sending=sending,
        )

    async def refresh(self, tokens: Tokens, resource: str | None, *, sending: Sending | None = None) -> Tokens:
        """Turn a refresh token into new tokens (RFC 6749 section 6), with the scope it has.

        sending: awaited when the server is reached, just before it is told the token.
        """
        if tokens.refresh_token is None:
            raise OAuthProblem("there is no refresh token")
        return await self._ask(
            "refresh_token",
            {"refresh_token": tokens.refresh_token, "resource": resource},
            asked_scope=tokens.scope,
            previous_refresh=tokens.refresh_token,
            sending=sending,
        )

    async def client_credentials(self, scope: str | None, resource: str | None) -> Tokens:
        """Get tokens for ourselves, with nobody logging in (RFC 6749 section 4.4)."""
        return await self._ask("client_credentials", {"scope": scope, "resource": resource}, asked_scope=scope)

    async def revoke(self, token: str, hint: Literal["access_token", "refresh_token"]) -> bool:
        """Give a token back (RFC 7009), and say whether the server took it. Best effort: never raises."""
        url = self._server.revocation_endpoint
        if url is None:
            return False
        try:
            await prepare()
            from authlib.oauth2.rfc7009.parameters import prepare_revoke_token_request  # type: ignore[import-untyped]

            body, _ = prepare_revoke_token_request(token, hint)
            answer = await self._post(url, body)
        except OAuthProblem:
            return False
        return answer.status == 200

    async def _ask(
        self,
        grant_type: str,
        parameters: Mapping[str, str | None],
        *,
        asked_scope: str | None,
        previous_refresh: str | None = None,
        sending: Sending | None = None,
    ) -> Tokens:
        await prepare()
        from authlib.oauth2.rfc6749.parameters import prepare_token_request  # type: ignore[import-untyped]

        try:
            body = prepare_token_request(grant_type, **parameters)
        except UnicodeEncodeError:
            raise OAuthProblem("what came back from the login is not text") from None
        # Before it is sent, so that the token is never taken to live longer than it does.
        now = self._wall()
        answer = await self._post(self._server.token_endpoint, body, sending)
        return read_tokens(
            answer.status,
            answer.body,
            now=now,
            asked_scope=asked_scope,
            previous_refresh=previous_refresh,
            retry_after_secs=retry_after_secs(answer.headers.get("retry-after"), self._wall()),
        )

    async def _post(self, url: str, form: str, sending: Sending | None = None) -> Answer:
        headers, body = await self._authentication.apply(url, form)
        headers["Accept"] = "application/json"
        try:
            return await self._fetcher.post(
                url, body.encode("ascii"), FORM, headers, trusted=self._server.manual, sending=sending
            )
        except FetchProblem as problem:
            # A redirect is not followed with a secret, and is no word on the grant: captive portals answer so.
            kind = "outage" if 300 <= (problem.status or 0) < 400 else problem.kind
            raise OAuthProblem(problem.message, kind=kind, retry_after_secs=problem.retry_after_secs) from problem
