"""A login that failed, is pending or is none, as every place tells it: why, and what mends it, in no circle."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from moltis.errors import LoginNeeded, ServerNotReady
from moltis.operations.reach import not_ready
from moltis.server.mending import commands, login_keys
from moltis.server.status import HistoryEntry, LastError, ServerStatus
from moltis.server.story import tell

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
AT = "2026-11-30T11:59:00Z"
STARTED = HistoryEntry(at=AT, from_="stopped", to="starting", reason="start_requested", attempt=0)
ISSUER = 'it names https://b.example as its issuer, and https://a.example was asked; oauth.issuer = "https://b.example"'


def status(state: str = "awaiting_auth", auth_state: str = "failed", message: str = "", **more: Any) -> ServerStatus:
    error = LastError(kind=more.pop("kind", "login_failed"), message=message, at=AT) if message else None
    return ServerStatus(
        name="x",
        display_name=None,
        transport="streamable-http",
        enabled=True,
        state=state,
        status="error",
        auth_state=auth_state,
        last_error=error,
        **more,
    )


def story(of: ServerStatus) -> str:
    return "\n".join(tell(of, [STARTED], NOW))


def test_why_a_login_failed_is_told_before_what_mends_it_and_then_how_to_log_in() -> None:
    told = story(status(message=ISSUER))
    assert told.startswith(f"x waits for a person to log in; the login failed: {ISSUER}.")
    to_do = told.partition("What to do:")[2].split("\n")[1:]
    assert to_do == [
        '  issuer = "https://b.example"    (in [mcp.servers.x.oauth] of moltis.toml)',
        "  moltis mcp reauth x",
    ]


@pytest.mark.parametrize(
    ("message", "keys"),
    [
        ("the login at a.example was declined", []),
        ('asked for a b; set oauth.scopes = ["a", "b"] to what it gives', ['scopes = ["a", "b"]    (in {})']),
        ('said resource R; oauth.resource = "" leaves it out', ['resource = ""    (in {})']),
        (
            "set oauth.client_id and oauth.callback_port = 8765 in moltis.toml",
            ["callback_port = 8765    (in {})", "look at client_id in {}"],
        ),
        (
            "moltis said: redirect_uri U (oauth.redirect_host), scope S (oauth.scopes), prompt P (oauth.prompt)",
            ["look at redirect_host, scopes, prompt in {}"],
        ),
        ('oauth.issuer = "i", or oauth.issuer', ['issuer = "i"    (in {})']),
        ("myoauth.scopes and oauth. and OAuth.x", []),
    ],
)
def test_the_keys_that_a_message_names_are_what_to_write(message: str, keys: list[str]) -> None:
    where = "[mcp.servers.x.oauth] of moltis.toml"
    assert login_keys(message, "x") == [key.format(where).replace("in in", "in") for key in keys]
    assert commands(status(message=message))[-1] == "moltis mcp reauth x"


def test_a_call_says_why_and_the_key_and_no_circle() -> None:
    error = not_ready(status(message=ISSUER))
    assert isinstance(error, LoginNeeded)
    assert error.message == f"server 'x' waits for a person to log in: {ISSUER}"
    assert error.hint == 'issuer = "https://b.example" (in [mcp.servers.x.oauth] of moltis.toml)'
    assert not_ready(status(auth_state="awaiting_browser")).hint == "moltis mcp reauth x"


def test_a_header_that_is_refused_is_no_login_anywhere() -> None:
    refused = status(kind="auth_required", message="answers 401: it refuses what moltis.toml sends: check url")
    told = story(refused)
    assert told.startswith("x answers 401 to the Authorization that moltis.toml gives: no login changes that.")
    assert "headers.Authorization" in told
    assert "moltis mcp restart x" in told
    assert "reauth" not in told
    assert "log in" not in told
    error = not_ready(refused)
    assert isinstance(error, ServerNotReady)
    assert not isinstance(error, LoginNeeded)
    assert "correct headers.Authorization" in (error.hint or "")


def test_an_answer_that_was_refused_is_told_while_the_login_goes_on() -> None:
    told = story(status(auth_state="awaiting_browser", message="its state is another", auth_url="https://a.example/x"))
    assert "; an answer to the login was refused: its state is another." in told


def test_who_has_logged_out_is_told_so() -> None:
    told = story(status(message="logged out by request; moltis mcp reauth x logs in again"))
    assert told.startswith("x waits for a person to log in; logged out by request;")
    assert "failed" not in told


def test_a_login_beside_a_ready_server_is_told_of() -> None:
    pending = status("ready", "awaiting_browser", auth_url="https://a.example/x", tool_count=1)
    assert "a login is pending" in story(pending).splitlines()[0]
    assert commands(pending) == ["moltis mcp reauth x    (shows the address of the login that is pending)"]
    failed = status("ready", "failed", "the same scope is asked for again; check oauth.scopes", tool_count=1)
    assert "but the login failed: the same scope" in story(failed)
    assert commands(failed)[-1] == "moltis mcp reauth x"
    assert commands(status("ready", "authenticated", tool_count=1)) == []
