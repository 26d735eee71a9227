"""`proxy` of `[mcp]` and of a server: what it may be, whom it is about, what is said of it, and what never is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from moltis.cli.config import shown
from moltis.config.load import Loaded, loads, plan_entry
from moltis.config.plan import RemoteLaunch, ServerPlan, diff
from moltis.errors import ConfigError
from moltis.proxies import Proxy
from moltis.redaction import Scrubber

SECRET = "s3cr3t-word"
ENVIRON = {"HOME": "/home/me", "HTTPS_PROXY": f"http://me:{SECRET}@env.example:3128", "NO_PROXY": "exempt.example"}
SERVERS = (
    '[mcp.servers.remote]\nurl = "https://a.example/mcp"\n'
    '[mcp.servers.exempt]\nurl = "https://exempt.example/mcp"\n'
    '[mcp.servers.here]\nurl = "http://127.0.0.1:9/mcp"\n'
    '[mcp.servers.local]\ncommand = "x"\n'
)


def read(text: str, environ: dict[str, str] = ENVIRON) -> Loaded:
    return loads(text, {}, environ)


def with_proxy(proxy: str) -> str:
    """The same servers, the first of them with a proxy of its own."""
    return SERVERS.replace('a.example/mcp"', f'a.example/mcp"\nproxy = "{proxy}"')


def server(loaded: Loaded, name: str) -> ServerPlan:
    found = loaded.plan.server(name)
    assert found is not None
    return found


def way(server: ServerPlan) -> str | None:
    assert isinstance(server.launch, RemoteLaunch), server.problem
    return None if server.launch.way is None else server.launch.way.proxy.netloc


def proxy_of(server: ServerPlan) -> Proxy:
    assert isinstance(server.launch, RemoteLaunch)
    assert server.launch.way is not None
    return server.launch.way.proxy


def ways(loaded: Loaded) -> dict[str, str | None]:
    return {s.name: way(s) for s in loaded.plan.servers if isinstance(s.launch, RemoteLaunch)}


def test_without_a_word_and_by_none_no_server_is_reached_through_one() -> None:
    for setting in ("", '[mcp]\nproxy = "none"\n'):
        loaded = read(setting + SERVERS)
        assert ways(loaded) == {"remote": None, "exempt": None, "here": None}
        assert loaded.problems == ()


def test_what_mcp_says_holds_for_all_remote_servers_that_say_nothing_else() -> None:
    own = '[mcp.servers.own]\nurl = "https://a.example/mcp"\nproxy = "http://own.example:1"\n'
    none = '[mcp.servers.none]\nurl = "https://a.example/mcp"\nproxy = "none"\n'
    env = '[mcp.servers.env]\nurl = "https://a.example/mcp"\nproxy = "env"\n'
    at = ways(read(f'[mcp]\nproxy = "http://all.example:2"\n{SERVERS}{own}{none}{env}'))
    assert at == {
        "remote": "all.example:2", "exempt": "all.example:2", "here": None, "own": "own.example:1", "none": None,
        "env": "env.example:3128",
    }  # fmt: skip
    assert ways(read(f'[mcp]\nproxy = "env"\n{SERVERS}')) == {
        "remote": "env.example:3128",
        "exempt": None,
        "here": None,
    }


@pytest.mark.parametrize("section", ["mcp", "mcp.servers.x"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"proxy.example:3128"', "must be none, env or a URL like"),
        ('"nonne"', "did you mean 'none'?"),
        (f'"socks5://me:{SECRET}@h:1"', "is a SOCKS proxy"),
        (f'"http://me:{SECRET}@h:1/path"', "without a path"),
        (f'"http://me:{SECRET}@x@h:1"', "write %40 for @"),
        ("true", "must be text in quotes"),
        ('["http://h:1"]', "must be text in quotes"),
        ('"${X"', "a '${' without a name"),
        ('""', "must be none, env or a URL"),
    ],
)  # fmt: skip
def test_a_wrong_one_is_named_once_with_its_line_and_nobody_goes_without_it(
    section: str, value: str, said: str
) -> None:
    loaded = read(
        '[mcp.servers.local]\ncommand = "x"\n[mcp.servers.y]\nurl = "https://a.example/"\nproxy = "none"\n'
        f'[mcp.servers.x]\nurl = "https://a.example/"\n[{section}]\nproxy = {value}\n'
        if section == "mcp"
        else '[mcp.servers.local]\ncommand = "x"\n[mcp.servers.y]\nurl = "https://a.example/"\n\n'
        f'[mcp.servers.x]\nurl = "https://a.example/"\n\nproxy = {value}\n'
    )
    errors = [p for p in loaded.problems if p.severity == "error"]
    assert [(p.key, p.line) for p in errors] == [(f"{section}.proxy", 9)]
    assert said in errors[0].message
    assert SECRET not in str(loaded.problems)
    assert server(loaded, "local").problem is None
    assert way(server(loaded, "y")) is None
    assert server(loaded, "x").launch is None
    assert "proxy" in str(server(loaded, "x").problem)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
def test_a_wrong_variable_is_named_and_nobody_goes_without_it(name: str) -> None:
    environ = {name: f"socks5://me:{SECRET}@h:1"}
    for text in (
        '[mcp]\nproxy = "env"\n' + SERVERS,
        SERVERS.replace('a.example/mcp"', 'a.example/mcp"\nproxy = "env"'),
    ):
        loaded = read(text, environ)
        (error,) = [p for p in loaded.problems if p.severity == "error"]
        assert f'is "env", and {name} in the environment is a SOCKS proxy' in error.message
        assert server(loaded, "remote").launch is None
        assert SECRET not in str(loaded.problems) + str(server(loaded, "remote").problem)


def test_an_environment_without_one_is_warned_of_and_is_no_proxy() -> None:
    for text, key in (
        ('[mcp]\nproxy = "env"\n' + SERVERS, "mcp.proxy"),
        (with_proxy("env"), "mcp.servers.remote.proxy"),
    ):
        loaded = read(text, {})
        (warning,) = loaded.problems
        assert (warning.severity, warning.key) == ("warning", key)
        assert not warning.fails_check
        assert "the environment has no HTTPS_PROXY" in warning.message
        assert way(server(loaded, "remote")) is None


def test_a_local_server_has_no_use_for_one() -> None:
    (problem,) = read('[mcp.servers.x]\ncommand = "x"\nproxy = "none"\n').problems
    assert "is not used by a local server" in problem.message


def test_what_is_not_used_is_not_even_imported() -> None:
    text = SERVERS + '[mcp.servers.none]\nurl = "https://a.example/mcp"\nproxy = "none"\n'
    script = (
        "import sys\nfrom moltis.config.load import loads\nimport moltis.http.fetch, moltis.transport.remote.opening\n"
        "from moltis.http.clients import server_client\n"
        f"loads({text!r}, {{}}, {{'NO_PROXY': 'x'}}); server_client(None)\nprint(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"moltis.proxies", "moltis.http.proxied"} & set(loaded)


# Secrets -------------------------------------------------------------------------------------------------------------

WITH_PASSWORD = f"http://me:{SECRET}@proxy.example:3128"


def test_placeholders_work_in_it_and_one_without_a_value_is_named() -> None:
    text = '[mcp]\nproxy = "http://me:$PW@proxy.example:3128"\n[mcp.servers.x]\nurl = "https://a.example/"\n'
    loaded = loads(text + f'[env]\nPW = "{SECRET}"\n', {}, {})
    assert loaded.problems == ()
    assert proxy_of(server(loaded, "x")).password == SECRET
    missing = loads(text, {}, {})
    assert [(p.key, p.severity) for p in missing.problems] == [("mcp.proxy", "error")]
    assert server(missing, "x").launch is None
    assert "$PW" in str(server(missing, "x").problem)
    odd = loads(text + f'[env]\nPW = "{SECRET}@x"\n', {}, {})
    assert ["write %40 for @" in p.message for p in odd.problems] == [True]
    assert SECRET not in str(odd.problems) + str(server(odd, "x").problem)
    whole = loads('[mcp.servers.x]\nurl = "https://a.example/"\nproxy = "${env:OURS}"\n', {}, {"OURS": WITH_PASSWORD})
    assert way(server(whole, "x")) == "proxy.example:3128"
    assert whole.plan.servers[0].proxy == "${env:OURS}"
    assert SECRET in whole.plan.secrets


@pytest.mark.parametrize(
    "text",
    [
        f'[mcp]\nproxy = "{WITH_PASSWORD}"\n{SERVERS}',
        f'[mcp.servers.x]\nurl = "https://a.example/"\nproxy = "{WITH_PASSWORD}"\n',
        f'[mcp]\nproxy = "env"\n{SERVERS}',
        '[mcp.servers.x]\nurl = "https://a.example/"\nproxy = "env"\n',
    ],
    ids=["mcp", "server", "mcp-env", "server-env"],
)
def test_its_password_is_a_secret_in_every_form_and_shown_nowhere(text: str) -> None:
    loaded = read(text)
    assert loaded.problems == ()
    plan = loaded.plan
    assert SECRET not in repr(plan) + repr(loaded) + repr([s.launch for s in plan.servers]) + json.dumps(shown(plan))
    scrub = Scrubber(plan.secrets).text
    proxy = proxy_of(plan.servers[0])
    for told in (SECRET, proxy.url, f"Proxy-Authorization: {proxy.authorization}"):
        assert "[REDACTED]" in scrub(told)
        assert SECRET not in scrub(told)
        assert str(proxy.authorization).split()[1] not in scrub(told)


def test_it_is_shown_as_written_less_its_password() -> None:
    document = shown(read(f'[mcp]\nproxy = "{WITH_PASSWORD}"\n{SERVERS}').plan)["mcp"]
    assert document["proxy"] == "http://[REDACTED]@proxy.example:3128"
    assert [name for name, entry in document["servers"].items() if "proxy" in entry] == []
    own = shown(read('[mcp.servers.x]\nurl = "https://a.example/"\nproxy = "env"\n').plan)["mcp"]
    assert (own["proxy"], own["servers"]["x"]["proxy"]) == ("none", "env")


def test_a_password_in_a_file_that_others_read_is_warned_of() -> None:
    for text, key in (
        (f'[mcp]\nproxy = "{WITH_PASSWORD}"\n', "mcp.proxy"),
        (f'[mcp.servers.x]\nurl = "https://a.example/"\nproxy = "{WITH_PASSWORD}"\n', "mcp.servers.x.proxy"),
    ):
        (warning,) = loads(text, {}, {}, mode=0o644).problems
        assert (warning.key, "chmod 600" in warning.message) == (key, True)
        assert loads(text.replace(SECRET, "${PW:-}"), {}, {}, mode=0o644).problems == ()


# Reload, requests, the environment -----------------------------------------------------------------------------------


def test_a_change_of_it_restarts_just_the_servers_that_are_reached_otherwise() -> None:
    def keys(text: str) -> dict[str, object]:
        return {s.name: s.launch_key for s in read(text).plan.servers}

    before, after = read(SERVERS), read('[mcp]\nproxy = "http://p.example:1"\n' + SERVERS)
    assert set(diff(before.plan, after.plan).changed) == {"remote", "exempt", "here"}
    own = with_proxy("http://p.example:1")
    assert diff(before.plan, read(own).plan).changed == ("remote",)
    assert {n for n, key in keys(own).items() if key != keys(SERVERS)[n]} == {"remote"}
    marks = {s.name: s.launch_mark for s in before.plan.servers}
    assert {s.name: s.launch_mark for s in after.plan.servers} == marks  # what is known of it is still known


def test_a_server_of_a_request_goes_through_that_of_mcp_or_its_own() -> None:
    base = read('[mcp]\nproxy = "http://all.example:2"\n').base
    assert way(plan_entry("new", {"url": "https://a.example/"}, base).server) == "all.example:2"
    entry = {"url": "https://a.example/", "proxy": WITH_PASSWORD}
    planned = plan_entry("new", entry, base)
    assert way(planned.server) == "proxy.example:3128"
    assert SECRET in planned.secrets
    with pytest.raises(ConfigError, match=r"proxy: must be none, env or a URL") as caught:
        plan_entry("new", {**entry, "proxy": f"//me:{SECRET}@h"}, base)
    assert SECRET not in str(caught.value)


def test_a_variable_of_the_environment_sets_it() -> None:
    environ = {"MOLTIS_MCP__PROXY": "http://set.example:3", "MOLTIS_MCP__SERVERS__EXEMPT__PROXY": "none"}
    assert ways(read(SERVERS, environ)) == {"remote": "set.example:3", "exempt": None, "here": None}


# What a server lacks -------------------------------------------------------------------------------------------------


def test_the_variable_that_a_remote_server_is_not_reached_by_is_named_unless_somebody_decided() -> None:
    loaded = read(SERVERS)
    named = {s.name: s.shown.env_withheld for s in loaded.plan.servers}
    assert named == {"remote": ("HTTPS_PROXY",), "exempt": (), "here": (), "local": ("HTTPS_PROXY", "NO_PROXY")}
    for text in ('[mcp]\nproxy = "none"\n', '[mcp]\nproxy = "env"\n', '[mcp]\nproxy = "http://p.example:1"\n'):
        assert read(text + SERVERS).plan.servers[0].shown.env_withheld == ()
    assert read(with_proxy("none")).plan.servers[0].shown.env_withheld == ()


def test_a_file_of_certificates_for_other_programs_is_named_unless_there_is_one() -> None:
    environ = {"NODE_EXTRA_CA_CERTS": "/etc/ca.pem", "SSL_CERT_FILE": "/etc/ca.pem"}
    assert read(SERVERS, environ).plan.servers[0].shown.env_withheld == ("NODE_EXTRA_CA_CERTS",)
    given = SERVERS.replace('a.example/mcp"', 'a.example/mcp"\nca_file = "/etc/ca.pem"')
    assert read(given, environ).plan.servers[0].shown.env_withheld == ()
