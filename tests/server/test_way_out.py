"""What is said of a remote server that is not reached for want of a proxy, or by its fault: the line that mends it."""

from __future__ import annotations

from typing import Any

import pytest

from moltis.config.plan import Shown
from moltis.server.causes import is_offline
from moltis.server.mending import commands, hints
from moltis.server.status import LastError, ServerStatus

AT = "the proxy proxy.example:3128"
UNRESOLVED = "cannot be reached at mcp.example: its name cannot be resolved"
UNTRUSTED = "its certificate is signed by nobody this machine trusts (ca_file names a private CA)"


def status_of(
    message: str, *withheld: str, kind: str = "connect_failed", proxy: str = "none", state: str = "backoff", **more: Any
) -> ServerStatus:
    return ServerStatus(
        name="x", display_name=None, transport="sse", enabled=True, state=state, status="error", attempts=1,
        url="https://mcp.example/", proxy=proxy, env_withheld=list(withheld),
        last_error=LastError(kind=kind, message=message, at=""), **more,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["connect_failed", "no_network", "startup_timeout", "disconnected"])
@pytest.mark.parametrize(
    "message",
    [
        UNRESOLVED,
        "cannot be reached at mcp.example: there is no route to it",
        "cannot be reached at mcp.example: no connection within 10 s",
        "cannot be reached at mcp.example: connection refused",
    ],
)
def test_a_server_that_is_not_reached_directly_names_the_proxy_that_there_is(kind: str, message: str) -> None:
    told = commands(status_of(message, "HTTPS_PROXY", kind=kind))
    assert told[0].startswith('proxy = "env" in [mcp.servers.x], or in [mcp] for all    (HTTPS_PROXY is set')
    assert len(told) > 3, "and what else it may be"
    assert 'proxy = "env"' not in "".join(commands(status_of(message, kind=kind)))
    assert 'proxy = "env"' not in "".join(commands(status_of(message, "NODE_EXTRA_CA_CERTS", kind=kind)))


@pytest.mark.parametrize(
    "message", ["answered initialize with HTTP 503", "gave no answer: the connection broke off", UNTRUSTED, ""]
)
def test_another_failure_names_no_proxy(message: str) -> None:
    assert "proxy =" not in "".join(commands(status_of(message, "HTTPS_PROXY")))


def test_a_login_that_is_not_got_to_names_it_too() -> None:
    message = "no usable answer from auth.example: its name cannot be resolved"
    for state, kind in (("awaiting_auth", "login_failed"), ("backoff", "login_unavailable"), ("ready", "login_failed")):
        told = commands(status_of(message, "https_proxy", kind=kind, state=state, auth_state="failed"))
        assert told[0].startswith('proxy = "env" in [mcp.servers.x]')
        assert "moltis mcp reauth x" in told[-1]


def test_a_certificate_of_ones_own_ca_names_the_variable_that_has_it() -> None:
    message = f"cannot be reached at mcp.example: {UNTRUSTED}"
    told = commands(status_of(message, "HTTPS_PROXY", "REQUESTS_CA_BUNDLE"))
    assert told[0].startswith('ca_file = "FILE" in [mcp.servers.x]    (FILE: what REQUESTS_CA_BUNDLE names')
    assert commands(status_of(message))[0].startswith('ca_file = "/etc/ssl/YOUR_CA.pem"')


@pytest.mark.parametrize(
    ("words", "said", "said_of_env"),
    [
        ("wants a user and a password (HTTP 407)", "moltis env set PROXY_PASSWORD", "HTTPS_PROXY=http://USER:PASSWORD@"),
        (
            "refuses the user and the password that it is given (HTTP 407)",
            "correct user and password of proxy in [mcp.servers.x], or in [mcp]",
            "correct user and password of HTTPS_PROXY in the environment",
        ),
        ("wants a login by NTLM, and only Basic is spoken here (HTTP 407)", "px or cntlm", "px or cntlm"),
        ("gives no connection: connection refused", "look whether proxy.example:3128 is right, and", "HTTPS_PROXY in"),
        ("gives no connection: its name cannot be resolved", "look whether proxy.example:3128 is", "HTTPS_PROXY in"),
        ("gives no connection within 10 s", "look whether proxy.example:3128 is right, and runs", "HTTPS_PROXY in"),
        (f"gives no connection: {UNTRUSTED}", "the certificate of the CA of the proxy", "the certificate of the CA"),
        ("does not let this through (HTTP 403)", 'proxy = "none" in [mcp.servers.x]', 'proxy = "none"'),
        ("does not get there (HTTP 502)", 'proxy = "none" in [mcp.servers.x]', 'proxy = "none"'),
    ],
)  # fmt: skip
def test_what_a_proxy_refuses_is_mended_there(words: str, said: str, said_of_env: str) -> None:
    for message in (
        f"cannot be reached at mcp.example: {AT} {words}",
        f"no usable answer from a.example: {AT} {words}",
    ):
        assert said in commands(status_of(message, proxy="http://[REDACTED]@proxy.example:3128"))[0]
        assert said_of_env in commands(status_of(message, proxy="env", kind="no_network"))[0]
        told = commands(
            status_of(message, proxy="env", kind="login_failed", state="awaiting_auth", auth_state="failed")
        )
        assert said_of_env in told[0]


def test_a_try_that_is_not_kept_is_told_the_same() -> None:
    shown = Shown(url="https://mcp.example/", env_withheld=("HTTPS_PROXY",))
    error = LastError(kind="connect_failed", message=UNRESOLVED, at="")
    assert hints("x", shown, error)[0].startswith('proxy = "env"')


def test_a_local_server_that_speaks_of_a_proxy_is_another_matter() -> None:
    error = LastError(kind="exited", message=f"cannot be reached at x: {AT} gives no connection", at="", exit_code=1)
    status = ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state="backoff", status="error", attempts=1,
        command="npx", last_error=error, env_withheld=["HTTPS_PROXY"],
    )  # fmt: skip
    assert "look whether" not in commands(status)[0]


def test_a_proxy_that_has_no_name_here_is_waited_for_as_a_network_is() -> None:
    assert is_offline([f"cannot be reached at mcp.example: {AT} gives no connection: its name cannot be resolved"])
    assert not is_offline([f"cannot be reached at mcp.example: {AT} wants a user and a password (HTTP 407)"])
