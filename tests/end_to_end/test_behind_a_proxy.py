"""A daemon whose only way out is a proxy: its remote servers, their logins, and what is said while there is none."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, RpcError, wait_until
from named_servers import AUTH, MCP, OPEN, NamedServers, named_servers
from patience import PATIENCE
from remote_harness import Place, login, place_in, remote
from stand_in_proxy import StandInProxy, stand_in_proxy

PASSWORD = "s3cr3t-of-the-proxy"
USER = f"me:{PASSWORD}"
OF_THIS_MACHINE = re.compile(r"PROXY|CERT|CA_|CAINFO|_TLS|INDEX|REGISTRY", re.IGNORECASE)


@pytest.fixture
def named(folder: Path) -> Iterator[NamedServers]:
    (folder / "authority").mkdir()
    with named_servers(folder / "authority") as servers:
        yield servers


@pytest.fixture
def proxy(named: NamedServers) -> Iterator[StandInProxy]:
    with stand_in_proxy(names=named.names) as running:
        yield running


@pytest.fixture
def behind(daemon: Daemon) -> Daemon:
    """A daemon in whose environment nothing says how the network of this machine is reached."""
    daemon.env = {name: value for name, value in daemon.env.items() if not OF_THIS_MACHINE.search(name)}
    return daemon


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    with place_in(folder) as found:
        yield found


def entry(named: NamedServers, host: str = OPEN, **keys: Any) -> dict[str, Any]:
    return remote(f"https://{host}/mcp", ca_file=named.ca_file, **keys)


def everything_shown(daemon: Daemon, name: str) -> str:
    words = (
        ("status", name),
        ("why", name),
        ("config", "show"),
        ("logs", "-n", "500"),
        ("mcp", "get", name),
        ("doctor",),
    )
    return "".join(done.stdout + done.stderr for done in (daemon.cli(*w) for w in words)) + daemon.log_text()


@pytest.mark.parametrize("how", ["placeholder", "env"])
def test_a_login_and_its_server_go_through_the_proxy_from_the_first_401_to_a_call(
    behind: Daemon, named: NamedServers, proxy: StandInProxy, how: str
) -> None:
    proxy.login = USER
    quiet: dict[str, Any] = {"browser_command": []}
    if how == "env":
        behind.env |= {"HTTPS_PROXY": proxy.url_with(USER), "NO_PROXY": "localhost,.example"}
        behind.write({"s": entry(named, MCP)}, mcp={"proxy": "env"}, daemon=quiet)
    else:
        written = proxy.url_with("me:$PROXY_PASSWORD")
        behind.write({"s": entry(named, MCP, proxy=written)}, env={"PROXY_PASSWORD": PASSWORD}, daemon=quiet)
    auth_url = login(behind.start(), "s")["auth_url"]
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(named.consent(auth_url), timeout=PATIENCE):
        pass
    behind.wait_for("s", "ready")
    assert len(behind.text("s", "long")) == 500_000
    assert set(proxy.targets) == {f"{MCP}:443", f"{AUTH}:443"}
    for route in (f"POST {AUTH}/register", f"POST {AUTH}/token"):
        assert named.heard.count(route) == 1
    assert not any("proxy-authorization" in headers for headers in named.headers)
    shown = everything_shown(behind, "s")
    assert PASSWORD not in shown
    status = behind.status("s")
    assert status["proxy"] == ("env" if how == "env" else f"http://[REDACTED]@127.0.0.1:{proxy.port}")
    assert re.search(rf"^proxy +{re.escape(status['proxy'])}$", behind.cli("status", "s").stdout, re.M)
    assert status["env_withheld"] == []


def test_a_daemon_whose_only_way_out_is_a_proxy_says_so_and_a_reload_takes_it(
    behind: Daemon, named: NamedServers, proxy: StandInProxy
) -> None:
    behind.env |= {"HTTPS_PROXY": proxy.url_with(USER), "NODE_EXTRA_CA_CERTS": named.ca_file}
    proxy.login = USER
    behind.write({"s": entry(named), "t": remote(f"https://{OPEN}/mcp")})
    behind.start()
    wait_until("it failed", lambda: behind.status("s")["state"] in ("backoff", "cooldown"))
    assert behind.status("s")["env_withheld"] == ["HTTPS_PROXY"]
    assert behind.status("t")["env_withheld"] == ["HTTPS_PROXY", "NODE_EXTRA_CA_CERTS"]
    line = 'proxy = "env" in [mcp.servers.s], or in [mcp] for all'
    why = behind.cli("why", "s").stdout
    assert why.partition("What to do:")[2].strip().startswith(line)
    assert line in behind.cli("doctor").stdout
    assert line in behind.cli("mcp", "test", "s").stderr
    assert proxy.connections == 0
    behind.write({"s": entry(named), "t": remote(f"https://{OPEN}/mcp")}, mcp={"proxy": "env"})
    behind.rpc("daemon.reload")
    behind.wait_for("s", "ready")
    said = wait_until("t is not trusted", lambda: "signed by nobody" in str(behind.status("t")["last_error"]) or None)
    assert said
    assert (
        'ca_file = "FILE" in [mcp.servers.t]    (FILE: what NODE_EXTRA_CA_CERTS names' in behind.cli("why", "t").stdout
    )
    assert PASSWORD not in everything_shown(behind, "s")


def test_a_reload_that_changes_the_proxy_of_one_server_restarts_just_that_one(
    behind: Daemon, named: NamedServers, proxy: StandInProxy
) -> None:
    local = behind.evil()
    with stand_in_proxy(names=named.names) as other:
        behind.write({"a": entry(named, proxy=proxy.url), "b": entry(named, proxy=proxy.url), "l": local})
        behind.start().wait_all()
        before = {name: behind.status(name)["started_at"] for name in "abl"}
        heard = len(proxy.asked)
        behind.write({"a": entry(named, proxy=proxy.url), "b": entry(named, proxy=other.url), "l": local})
        assert behind.rpc("daemon.reload")["changed"] == ["b"]
        wait_until("b goes by the other", lambda: other.asked)
        behind.wait_all()
        assert len(behind.text("b", "long")) == 500_000
        assert set(other.targets) == {f"{OPEN}:443"}
        assert {name for name in "abl" if behind.status(name)["started_at"] != before[name]} == {"b"}
        assert len(proxy.asked) == heard
        behind.write(
            {"a": entry(named, proxy=proxy.url), "b": entry(named, proxy=other.url), "l": local},
            mcp={"proxy": "http://127.0.0.1:9"},
        )
        assert behind.rpc("daemon.reload")["changed"] == []


def test_a_login_is_kept_when_the_way_to_it_changes(behind: Daemon, named: NamedServers, proxy: StandInProxy) -> None:
    quiet: dict[str, Any] = {"browser_command": []}
    behind.write({"s": entry(named, MCP, proxy=proxy.url)}, daemon=quiet)
    auth_url = login(behind.start(), "s")["auth_url"]
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(named.consent(auth_url), timeout=PATIENCE):
        pass
    behind.wait_for("s", "ready")
    with stand_in_proxy(names=named.names) as other:
        behind.write({"s": entry(named, MCP, proxy=other.url)}, daemon=quiet)
        assert behind.rpc("daemon.reload")["changed"] == ["s"]
        wait_until("it is reached by the other", lambda: other.asked)
        status = behind.wait_for("s", "ready")
        assert status["auth_state"] == "authenticated"
        assert set(other.targets) == {f"{MCP}:443"}
    assert (named.heard.count(f"POST {AUTH}/register"), named.heard.count(f"POST {AUTH}/token")) == (1, 1)


def test_a_host_that_no_proxy_names_is_not_asked_of_the_proxy(
    behind: Daemon, named: NamedServers, proxy: StandInProxy
) -> None:
    behind.env |= {"HTTPS_PROXY": proxy.url, "NO_PROXY": f"localhost, .{MCP}"}
    behind.write({"s": entry(named), "exempt": entry(named, MCP)}, mcp={"proxy": "env"})
    behind.start().wait_for("s", "ready")
    wait_until("it failed", lambda: behind.status("exempt")["last_error"] is not None)
    assert "its name cannot be resolved" in behind.status("exempt")["last_error"]["message"]
    assert behind.status("exempt")["env_withheld"] == []
    assert set(proxy.targets) == {f"{OPEN}:443"}


def test_a_proxy_that_refuses_is_named_with_what_mends_it(
    behind: Daemon, named: NamedServers, proxy: StandInProxy
) -> None:
    proxy.login = USER
    wrong = entry(named, proxy=proxy.url_with("me:not-the-password"))
    behind.write(
        {
            "none": entry(named, proxy=proxy.url),
            "wrong": wrong,
            "lost": entry(named, "x.invalid", proxy=proxy.url_with(USER)),
        }
    )
    behind.start()
    for name, said, mends in (
        ("none", "wants a user and a password (HTTP 407)", "moltis env set PROXY_PASSWORD"),
        (
            "wrong",
            "refuses the user and the password that it is given (HTTP 407)",
            "correct user and password of proxy",
        ),
        ("lost", "does not get there (HTTP 502)", 'proxy = "none" in [mcp.servers.lost]'),
    ):
        wait_until(f"{name} failed", lambda name=name: behind.status(name)["state"] in ("backoff", "cooldown"))
        assert f"the proxy 127.0.0.1:{proxy.port} {said}" in behind.status(name)["last_error"]["message"]
        assert mends in behind.cli("why", name).stdout
    assert "not-the-password" not in everything_shown(behind, "wrong")
    assert named.heard == []


@pytest.mark.parametrize("given", ["a wrong password", "none", "a name that it does not find"])
def test_a_proxy_that_refuses_is_asked_once_at_each_start(
    behind: Daemon, named: NamedServers, proxy: StandInProxy, given: str
) -> None:
    proxy.login = USER
    url = {"a wrong password": proxy.url_with("me:not-the-password"), "none": proxy.url}.get(given)
    written = entry(named, proxy=url) if url else entry(named, "x.invalid", proxy=proxy.url_with(USER))
    behind.write({"s": written}, mcp={"restart_backoff_secs": 60.0, "restart_backoff_max_secs": 60.0})
    behind.start().wait_for("s", "backoff")
    assert len(proxy.asked) == 1, proxy.asked


def test_a_proxy_that_dies_in_the_middle_of_a_call_costs_that_call(
    behind: Daemon, named: NamedServers, proxy: StandInProxy
) -> None:
    behind.write({"s": entry(named, proxy=proxy.url)})
    started = behind.start().wait_for("s", "ready")["started_at"]
    proxy.dies_after = 100_000
    with pytest.raises(RpcError, match="broke off"):
        behind.call("s", "long")
    proxy.dies_after = None
    assert len(behind.text("s", "long")) == 500_000
    status = behind.status("s")
    assert (status["state"], status["started_at"], status["attempts"]) == ("ready", started, 0)


@pytest.mark.parametrize("kind", ["streamable-http", "sse"])
def test_plain_http_is_sent_on_by_the_proxy_in_both_transports(behind: Daemon, place: Place, kind: str) -> None:
    server = place.http_server(*(["--sse"] if kind == "sse" else []))
    assert server.port is not None
    with stand_in_proxy(names={"127.0.0.1": server.port}, login=USER) as proxy:
        behind.write({"s": remote(server.url, transport=kind, proxy=proxy.url_with("me:$PW"))}, env={"PW": PASSWORD})
        behind.start().wait_for("s", "ready")
        assert "hello" in behind.text("s", "echo", message="hello")
        assert {target.split("?")[0].rpartition("/")[0] for target in proxy.targets} >= {
            f"http://127.0.0.1:{server.port}"
        }
        assert len(proxy.asked) >= 3
        assert PASSWORD not in everything_shown(behind, "s")


def test_the_official_client_asks_through_the_proxy_too(
    behind: Daemon, named: NamedServers, proxy: StandInProxy
) -> None:
    proxy.login = USER
    behind.write({"s": entry(named, proxy=proxy.url_with(USER))})
    behind.start().wait_for("s", "ready")
    heard = len(proxy.asked)
    done = behind.cli("mcp", "test", "s", "--sdk", "--json", within=4 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"differences": []' in done.stdout
    assert len(proxy.asked) >= heard + 2
    assert PASSWORD not in done.stdout + done.stderr
