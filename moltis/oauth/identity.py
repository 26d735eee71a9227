"""Becoming a client of an authorization server: what `registration` decides, done."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from moltis.http.fetch import Fetcher, FetchProblem
from moltis.http.heads import retry_after_secs
from moltis.oauth.discovery import in_oauth
from moltis.oauth.model import AuthServer, Client, ClientConfig, OAuthProblem, Record
from moltis.oauth.registration import Register, choose_client, read_registration, registration_request

NOWHERE = "http://127.0.0.1/callback"
"""The redirect URI where none is of any matter."""


async def become_client(
    fetcher: Fetcher,
    config: ClientConfig,
    server: AuthServer,
    known: Client | None,
    *,
    redirect_uri: str,
    scope: str | None,
    wall: Callable[[], float],
) -> Client:
    """Give who we are to this authorization server, registered with it if need be (RFC 7591 section 3.1).

    known: what this very issuer registered before.

    Raises:
        OAuthProblem: there is no way to become anyone, or it cannot register us now.
    """
    chosen = choose_client(config, server, known, redirect_uri, wall())
    if not isinstance(chosen, Register):
        return chosen
    register = partial(_register, fetcher, server, chosen, redirect_uri=redirect_uri, wanted=scope, wall=wall)
    try:
        return await register(scope)
    except OAuthProblem as problem:
        # Some take the scope of a registration for one of their own to check, and know nothing of the resource's.
        if scope is None or problem.code != "invalid_client_metadata":
            raise
    return await register(None)


async def _register(
    fetcher: Fetcher,
    server: AuthServer,
    chosen: Register,
    scope: str | None,
    *,
    redirect_uri: str,
    wanted: str | None,
    wall: Callable[[], float],
) -> Client:
    body = registration_request(server, redirect_uri=redirect_uri, scope=scope)
    try:
        answer = await fetcher.post(chosen.endpoint, body, "application/json", {"Accept": "application/json"})
    except FetchProblem as problem:
        raise in_oauth(problem) from None
    return read_registration(
        answer.status,
        answer.body,
        server=server,
        redirect_uri=redirect_uri,
        now=wall(),
        scope=wanted,
        retry_after_secs=retry_after_secs(answer.headers.get("retry-after"), wall()),
    )


async def end_registration(fetcher: Fetcher, client: Client) -> bool:
    """Have an authorization server forget a registration (RFC 7592 section 2.3). Best effort: never raises."""
    if client.registration_uri is None or client.registration_token is None:
        return False
    try:
        answer = await fetcher.delete(client.registration_uri, {"Authorization": f"Bearer {client.registration_token}"})
    except FetchProblem:
        return False
    return answer.status == 204


def client_of(config: ClientConfig, record: Record, now: float) -> Client | None:
    """Give who we are to a login's issuer, for a refresh or a revocation; None if that is not known any more."""
    known = record.client
    try:
        redirect_uri = known.redirect_uri if known is not None else None
        chosen = choose_client(config, record.server, known, redirect_uri or NOWHERE, now)
    except OAuthProblem:
        return None
    return None if isinstance(chosen, Register) else chosen
