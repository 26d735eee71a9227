"""A login to keep, for the tests of the store and the processes they start."""

from __future__ import annotations

from moltis.oauth.model import AuthServer, Client, Key, Record, Tokens

ISSUER = "https://as.example.com/tenant"
RESOURCE = "https://mcp.example.com/mcp"
KEY = Key(RESOURCE, ISSUER)


def record(number: int = 1, *, key: Key = KEY, padding: int = 0, token_endpoint: str = f"{ISSUER}/token") -> Record:
    """Give the login as it is after so many refreshes."""
    return Record(
        key=key,
        server=AuthServer(issuer=key.issuer, token_endpoint=token_endpoint, scopes_supported=("a", "b")),
        client=Client(client_id="abc", client_secret="client-secret-canary", auth_method="client_secret_post"),
        tokens=Tokens(
            access_token=f"access-canary-{number}" + "x" * padding,
            refresh_token=f"refresh-canary-{number}",
            scope="a b",
            obtained_at=1000.0 + number,
            expires_at=4600.0 + number,
        ),
        rotates=True,
    )


def number_of(kept: Record | None) -> int:
    """Say how often a kept login was refreshed."""
    assert kept is not None
    assert kept.tokens is not None
    assert kept.tokens.refresh_token is not None
    return int(kept.tokens.refresh_token.rpartition("-")[2])
