"""Variables of the daemon's environment: passed on where `env_pass` names them, and named where a server lacks them."""

from __future__ import annotations

import pytest

from moltis.config.load import Loaded, loads, plan_entry
from moltis.config.plan import ServerPlan, StdioLaunch
from moltis.config.surroundings import advice
from moltis.errors import ConfigError
from moltis.server.mending import commands
from moltis.server.status import LastError, ServerStatus

ENVIRON = {
    "HOME": "/home/me",
    "HTTPS_PROXY": "http://me:secretpass@proxy:3128",
    "NO_PROXY": "localhost",
    "NODE_EXTRA_CA_CERTS": "/etc/ca.pem",
    "MY_TOKEN": "sesame-open",
}


def read(text: str) -> Loaded:
    return loads(text, {}, ENVIRON)


def env_of(server: ServerPlan) -> dict[str, str]:
    assert isinstance(server.launch, StdioLaunch)
    return dict(server.launch.env)


def test_what_mcp_passes_every_local_server_gets_and_a_list_of_its_own_replaces_it() -> None:
    loaded = read(
        '[mcp]\nenv_pass = ["HTTPS_PROXY", "NOT_THERE", "NO_PROXY", "NO_PROXY"]\n'
        '[mcp.servers.a]\ncommand = "x"\nenv = { NO_PROXY = "own" }\n'
        '[mcp.servers.b]\ncommand = "x"\nenv_pass = ["NODE_EXTRA_CA_CERTS"]\n'
        '[mcp.servers.c]\ncommand = "x"\nenv_pass = []\n'
        '[mcp.servers.d]\nurl = "https://h/"\n'
    )
    assert loaded.problems == ()
    a, b, c, d = loaded.plan.servers
    assert env_of(a) == {"HTTPS_PROXY": ENVIRON["HTTPS_PROXY"], "NO_PROXY": "own"}
    assert env_of(b) == {"NODE_EXTRA_CA_CERTS": "/etc/ca.pem"}
    assert env_of(c) == {}
    assert (a.shown.env_names, a.shown.env_withheld) == (("HTTPS_PROXY", "NO_PROXY"), ("NODE_EXTRA_CA_CERTS",))
    assert c.shown.env_withheld == ("HTTPS_PROXY", "NO_PROXY", "NODE_EXTRA_CA_CERTS")
    assert d.shown.env_withheld == ("HTTPS_PROXY", "NODE_EXTRA_CA_CERTS")  # whose names are proxy and ca_file there


def test_what_is_passed_is_hidden_where_it_is_a_secret_and_is_part_of_how_a_server_is_started() -> None:
    text = '[mcp.servers.a]\ncommand = "x"\nenv_pass = ["HTTPS_PROXY", "NO_PROXY", "MY_TOKEN"]\n'
    plan = read(text).plan
    assert {"secretpass", "sesame-open"} <= plan.secrets
    assert "localhost" not in plan.secrets
    assert "sesame" not in repr(plan)
    other = loads(text, {}, {**ENVIRON, "MY_TOKEN": "another-one"}).plan
    assert other.servers[0].launch_key != plan.servers[0].launch_key
    assert other.servers[0].launch_mark == plan.servers[0].launch_mark


@pytest.mark.parametrize("value", ['"HTTPS_PROXY"', '["$HTTPS_PROXY"]', '["A=b"]', '[""]', "[1]", "{}", '["*"]'])
@pytest.mark.parametrize("section", ["mcp", "mcp.servers.x"])
def test_a_wrong_list_is_named_with_its_line(section: str, value: str) -> None:
    loaded = read(f'[mcp.servers.ok]\ncommand = "x"\n[{section}]\nenv_pass = {value}\n')
    errors = [p for p in loaded.problems if p.key.startswith(f"{section}.env_pass")]
    assert errors
    assert {(p.severity, p.line) for p in errors} == {("error", 4)}
    assert loaded.plan.servers[0].problem is None
    assert "sesame" not in str(errors)


def test_a_remote_server_has_no_use_for_it() -> None:
    (problem,) = read('[mcp.servers.x]\nurl = "https://h/"\nenv_pass = ["A"]\n').problems
    assert "is not used by a remote server" in problem.message


def test_a_server_of_a_request_gets_what_mcp_passes() -> None:
    base = read('[mcp]\nenv_pass = ["NO_PROXY"]\n').base
    assert env_of(plan_entry("new", {"command": "x"}, base).server) == {"NO_PROXY": "localhost"}
    with pytest.raises(ConfigError, match="env_pass"):
        plan_entry("new", {"command": "x", "env_pass": ["$A"]}, base)


# What a server without them says -------------------------------------------------------------------------------------

ALL = ("HTTPS_PROXY", "NO_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE")


@pytest.mark.parametrize(
    "line",
    [
        "npm error code EAI_AGAIN",
        "getaddrinfo ENOTFOUND registry.npmjs.org",
        "Error: connect ECONNREFUSED 10.0.0.1:443",
        "httpx.ConnectError: [Errno -2] Name or service not known",
        "error: Failed to fetch: `https://pypi.org/simple/x/`",
        "TypeError: fetch failed",
        "dial tcp: lookup slack.com: no such host",
        "npm error code ETIMEDOUT",
    ],
)
def test_a_failure_of_the_network_names_the_proxy_that_is_not_passed_on(line: str) -> None:
    said = advice("x", [line], ALL)
    assert said is not None
    assert said.startswith('env_pass = ["HTTPS_PROXY", "NO_PROXY"] in [mcp.servers.x], or in [mcp] for all')
    assert advice("x", [line], ()) is None


@pytest.mark.parametrize(
    "line",
    [
        "npm error code SELF_SIGNED_CERT_IN_CHAIN",
        "npm error code UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
        "  Caused by: invalid peer certificate: UnknownIssuer",
        "ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
        "x509: certificate signed by unknown authority",
        "Error: self-signed certificate in certificate chain",
    ],
)
def test_a_certificate_that_is_not_trusted_names_the_file_that_is_not_passed_on(line: str) -> None:
    said = advice("x", [line], ALL)
    assert said is not None
    assert said.startswith('env_pass = ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY"]')
    other = advice("x", [line], ("HTTPS_PROXY",))
    assert other is not None
    assert "name the file of its authority in env" in other


@pytest.mark.parametrize("line", ["GITHUB_TOKEN is not set", "Cannot find module 'x'", "EADDRINUSE", "", "exited 1"])
def test_another_failure_names_none(line: str) -> None:
    assert advice("x", [line], ALL) is None


@pytest.mark.parametrize("state", ["backoff", "cooldown"])
@pytest.mark.parametrize(("command", "is_told"), [("npx", True), (None, False)])
def test_why_says_it_first_of_a_local_server(state: str, command: str | None, is_told: bool) -> None:
    error = LastError(kind="exited", message="exited with code 1", at="", exit_code=1, stderr_tail=["code EAI_AGAIN"])
    status = ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state=state, status="error", attempts=1,
        command=command, last_error=error, env_withheld=["HTTPS_PROXY"],
    )  # fmt: skip
    assert commands(status)[0].startswith('env_pass = ["HTTPS_PROXY"]') is is_told
