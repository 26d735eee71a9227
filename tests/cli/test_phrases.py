"""What is said of a server: the state's own word, when it changes by itself, why, and what mends it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from moltis.cli import phrases
from moltis.server.states import TRAITS

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0s"), (0, "0s"), (0.4, "0s"), (12, "12s"), (59.6, "1m00s"), (298, "4m58s"), (3600, "1h00m"),
        (8100, "2h15m"), (86399, "23h59m"), (273600, "3d4h"),
    ],
)  # fmt: skip
def test_durations_are_told_in_their_two_largest_units(seconds: float, words: str) -> None:
    assert phrases.duration(seconds) == words


@pytest.mark.parametrize(("code", "words"), [(0, "exit 0"), (1, "exit 1"), (-9, "SIGKILL"), (-99, "signal 99")])
def test_an_exit_code_below_zero_is_a_signal(code: int, words: str) -> None:
    assert phrases.exit_words(code) == words


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-11-21T12:00:00"])
def test_what_is_not_an_instant_with_its_zone_is_none(text: str | None) -> None:
    assert phrases.instant(text) is None


def server(state: str, **more: Any) -> dict[str, Any]:
    status = {"ready": "connected", "backoff": "error", "cooldown": "error", "invalid": "error"}
    base = {"name": "x", "state": state, "status": status.get(state, "disconnected"), "enabled": True}
    return {**base, "attempts": 0, "max_restart_attempts": 5, "restarts": 0, "last_error": None, **more}


DECLINED = {"kind": "login_failed", "message": "it was declined", "exit_code": None}
REFUSED = {
    "kind": "auth_required", "message": "answers 401: it refuses what moltis.toml sends", "exit_code": None,
}  # fmt: skip
EXITED = {"kind": "exited", "message": "it ended", "exit_code": 1}
NOT_RENEWED = {"kind": "login_unavailable", "message": "its login cannot be renewed now", "exit_code": None}
LOCKED = {"kind": "locked_out", "message": "it needed no login before, and now does not say how"}
LATE = {"kind": "startup_timeout", "message": "not ready in 60 s", "exit_code": None}
UNRESOLVED = {"kind": "config", "message": "env.T: $GITHUB_TOKEN resolves to nothing", "exit_code": None}
FOREIGN = {"kind": "config", "message": "env.T: ${env:TOKEN} resolves to nothing", "exit_code": None}
WRONG = {"kind": "config", "message": "timeout: unknown key", "exit_code": None}


@pytest.mark.parametrize(
    ("status", "text", "action"),
    [
        (server("ready"), "ready", ""),
        (
            server("ready", remarks=["its list of tools changes all the time", "more"]),
            "ready, its list of tools changes all the time",
            "moltis why x",
        ),
        (server("starting"), "starting", ""),
        (server("initializing"), "initializing", ""),
        (server("stopping"), "stopping", ""),
        (server("backoff", last_error=LOCKED), "backoff, retry soon, locked out", "moltis why x"),
        (server("stopped"), "stopped", "moltis mcp start x"),
        (server("disabled", enabled=False), "disabled", "moltis mcp enable x"),
        (server("awaiting_auth"), "awaiting_auth, login needed", "moltis mcp reauth x"),
        (
            server("awaiting_auth", auth_state="failed", last_error=DECLINED),
            "awaiting_auth, login failed: it was declined",
            "moltis mcp reauth x",
        ),
        (
            server("awaiting_auth", auth_state="failed", last_error={**DECLINED, "message": "set oauth.scopes"}),
            "awaiting_auth, login failed: set oauth.scopes",
            "moltis why x",
        ),
        (
            server("awaiting_auth", auth_state="failed", last_error={**DECLINED, "message": "logged out by request"}),
            "awaiting_auth, logged out",
            "moltis mcp reauth x",
        ),
        (
            server("awaiting_auth", auth_state="failed", last_error=REFUSED),
            "awaiting_auth, answers 401: it refuses what moltis.toml sends",
            "correct headers.Authorization, then moltis mcp restart x",
        ),
        (server("ready", auth_state="awaiting_browser"), "ready, login pending", "moltis mcp reauth x"),
        (server("ready", auth_state="failed", last_error=DECLINED), "ready, login failed", "moltis mcp reauth x"),
        (
            server("backoff", attempts=3, next_retry_at="2026-11-21T12:00:12Z", last_error=EXITED),
            "backoff, retry in 12s (3/5), exit 1",
            "moltis why x",
        ),
        (
            server("backoff", attempts=1, next_retry_at=None, last_error=LATE),
            "backoff, retry soon (1/5), startup timeout",
            "moltis why x",
        ),
        (
            server("cooldown", next_retry_at="2026-11-21T12:04:58Z", last_error={**LATE, "exit_code": 0}),
            "cooldown, retry in 4m58s, startup timeout",
            "moltis why x",
        ),
        (
            server("backoff", attempts=1, last_error={"kind": "unresponsive", "message": "", "exit_code": -15}),
            "backoff, retry soon (1/5), unresponsive",
            "moltis why x",
        ),
        (
            server("backoff", attempts=1, last_error={"kind": "handshake_failed", "message": "", "exit_code": -9}),
            "backoff, retry soon (1/5), handshake failed",
            "moltis why x",
        ),
        (
            server("backoff", attempts=1, last_error={**EXITED, "exit_code": -9}),
            "backoff, retry soon (1/5), SIGKILL",
            "moltis why x",
        ),
        (
            server("backoff", attempts=0, next_retry_at="2026-11-21T12:00:12Z", last_error=NOT_RENEWED),
            "backoff, retry in 12s (0/5), login unavailable",
            "moltis mcp reauth x",
        ),
        (
            server("ready", next_retry_at="2026-11-21T12:00:12Z", last_error=NOT_RENEWED),
            "ready, login unavailable, retry in 12s",
            "moltis mcp reauth x",
        ),
        (
            server("cooldown", attempts=6, next_retry_at="2026-11-21T12:04:58Z", last_error=EXITED),
            "cooldown, retry in 4m58s, exit 1",
            "moltis why x",
        ),
        (
            server("invalid", last_error=UNRESOLVED),
            "invalid, env.T: $GITHUB_TOKEN resolves to nothing",
            "moltis env set GITHUB_TOKEN",
        ),
        (
            server("invalid", last_error=FOREIGN),
            "invalid, env.T: ${env:TOKEN} resolves to nothing",
            "moltis config check",
        ),
        (server("invalid", last_error=WRONG), "invalid, timeout: unknown key", "moltis config check"),
        (server("invalid"), "invalid", "moltis config check"),
    ],
    ids=lambda v: v if isinstance(v, str) and not v.startswith("moltis") else "",
)
def test_every_state_has_its_words_and_its_remedy(status: dict[str, Any], text: str, action: str) -> None:
    assert phrases.status_text(status, NOW) == text
    assert phrases.action(status) == action


def test_every_state_of_the_daemon_is_counted_and_painted() -> None:
    states = {
        "invalid", "disabled", "stopped", "starting", "initializing", "ready", "awaiting_auth", "backoff", "cooldown",
        "stopping", "idle",
    }  # fmt: skip
    painted = {state for state, traits in TRAITS.items() if traits.colour and traits.counted}
    assert set(phrases.COUNTED) == painted == states


def test_servers_are_counted_by_state_the_good_ones_first() -> None:
    assert phrases.counted([]) == "no servers"
    assert phrases.counted([server("ready")]) == "1 server: 1 ready"
    many = [server("backoff"), server("ready"), server("disabled"), server("ready")]
    assert phrases.counted(many) == "4 servers: 2 ready, 1 backing off, 1 disabled"


def test_only_what_is_enabled_can_be_unhealthy() -> None:
    assert phrases.is_unhealthy(server("backoff"))
    assert not phrases.is_unhealthy(server("backoff", enabled=False))
    assert not phrases.is_unhealthy(server("stopped"))
