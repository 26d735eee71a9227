"""`[gateway]`: what it may say, and that an address which others reach is never open to all."""

from __future__ import annotations

import pytest

from moltis.config.load import loads
from moltis.config.plan import GatewayPlan
from moltis.config.web import is_loopback, split_listen


def test_every_key_is_read() -> None:
    loaded = loads(
        '[gateway]\nenabled = false\nlisten = "[::1]:0"\nrequire_token = false\nallowed_origins = ["http://A.example:3000"]\n'
        'allowed_hosts = ["mcp.example.com"]\n'
        'rate_limit_per_minute = 7\ncatalog_rate_limit_per_minute = 8\ntool_separator = "."\n'
    )
    assert loaded.problems == ()
    assert loaded.plan.gateway == GatewayPlan(
        False, "[::1]:0", False, ("mcp.example.com",), ("http://a.example:3000",), 7, 8, "."
    )


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("127.0.0.1:8642", ("127.0.0.1", 8642)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("localhost", 1)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_an_address_and_a_port_are_told_apart(text: str, given: tuple[str, int]) -> None:
    assert split_listen(text) == given


@pytest.mark.parametrize(
    "text",
    [
        "8642",
        ":8642",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "::1:80",
        "example.com:80",
        "a b:1",
    ],
)
def test_what_is_no_address_is_an_error_and_the_default_stays(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        split_listen(text)
    loaded = loads(f'[gateway]\nlisten = "{text}"\n')
    assert [problem.key for problem in loaded.problems] == ["gateway.listen"]
    assert loaded.plan.gateway == GatewayPlan()


@pytest.mark.parametrize(
    ("listen", "is_open"),
    [
        ("127.0.0.1:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("0.0.0.0:1", True),
        ("[::]:1", True),
        ("192.0.2.1:1", True),
    ],
)
def test_an_address_that_others_reach_needs_tokens(listen: str, is_open: bool) -> None:
    loaded = loads(f'[gateway]\nlisten = "{listen}"\nrequire_token = false\n')
    assert is_loopback(split_listen(listen)[0]) is not is_open
    assert [p.key for p in loaded.problems] == (["gateway.require_token"] if is_open else [])
    assert (loaded.plan.gateway.problem is not None) is is_open
    assert loads(f'[gateway]\nlisten = "{listen}"\n').plan.gateway.problem is None
    assert (
        loads(f'[gateway]\nenabled = false\nlisten = "{listen}"\nrequire_token = false\n').plan.gateway.problem is None
    )


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com",
        "https://a/path",
        "https://",
        "https://u@a",
        "https://a b",
        "https://bücher.example",
        "*",
        "://a",
    ],
)
def test_an_origin_has_a_scheme_and_no_path(origin: str) -> None:
    assert [p.key for p in loads(f'[gateway]\nallowed_origins = ["{origin}"]\n').problems] == [
        "gateway.allowed_origins[0]"
    ]


@pytest.mark.parametrize(
    "origin",
    [
        "app://obsidian.md",
        "vscode-webview://1a2b3c",
        "vscode-file://vscode-app",
        "tauri://localhost",
        "chrome-extension://abcdefghijklmnop",
        "moz-extension://0b5c-4d",
        "capacitor://localhost",
        "http://tauri.localhost",
        "https://app.example.com:8443",
        "http://[::1]:3000",
    ],
)
def test_the_pages_of_desktop_hosts_have_origins_of_any_scheme(origin: str) -> None:
    loaded = loads(f'[gateway]\nallowed_origins = ["{origin}"]\n')
    assert loaded.problems == ()
    assert loaded.plan.gateway.allowed_origins == (origin,)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://App.Example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
    ],
)
def test_an_origin_is_read_as_browsers_send_it(written: str, sent: str) -> None:
    """RFC 6454 section 6.2: no default port."""
    loaded = loads(f'[gateway]\nallowed_origins = ["{written}"]\n')
    assert (loaded.problems, loaded.plan.gateway.allowed_origins) == ((), (sent,))


@pytest.mark.parametrize("origin", ["*", "vscode-webview://*", "https://*.example.com", "http://localhost:*"])
def test_a_pattern_is_no_origin_for_none_that_is_sent_would_match_it(origin: str) -> None:
    loaded = loads(f'[gateway]\nallowed_origins = ["{origin}"]\n')
    (problem,) = loaded.problems
    assert "must be whole origins" in problem.message
    assert loaded.plan.gateway.allowed_origins == ()


@pytest.mark.parametrize("origin", ["null", "NULL", "file://", "file:///home/me/page.html"])
def test_what_every_page_from_a_file_is_called_lets_nobody_in_and_the_message_says_why(origin: str) -> None:
    loaded = loads(f'[gateway]\nallowed_origins = ["{origin}"]\n')
    (problem,) = loaded.problems
    assert "any page" in problem.message
    assert loaded.plan.gateway.allowed_origins == ()


@pytest.mark.parametrize("key", ["allowed_origins", "allowed_hosts"])
def test_a_wrong_element_costs_only_itself(key: str) -> None:
    good = "https://app.example.com" if key == "allowed_origins" else "mcp.example.com"
    loaded = loads(f'[gateway]\n{key} = ["a/b", "{good}", 5, "*", "x{good}"]\nlisten = "127.0.0.1:1"\n')
    assert [p.key for p in loaded.problems] == [f"gateway.{key}[{n}]" for n in (0, 2, 3)]
    assert getattr(loaded.plan.gateway, key) == (good, f"x{good}")
    assert loaded.plan.gateway.listen == "127.0.0.1:1"


def test_a_list_that_is_none_costs_only_itself_too() -> None:
    loaded = loads('[gateway]\nallowed_hosts = "mcp.example.com"\nallowed_origins = ["app://obsidian.md"]\n')
    assert [p.key for p in loaded.problems] == ["gateway.allowed_hosts"]
    assert loaded.plan.gateway.allowed_origins == ("app://obsidian.md",)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("mcp.example.com", "mcp.example.com"),
        ("MCP.Example.com.", "mcp.example.com"),
        ("host.docker.internal:8642", "host.docker.internal"),
        ("mybox", "mybox"),
        ("my_box.lan", "my_box.lan"),
        ("172.17.0.1", "172.17.0.1"),
        ("[fd00::1]:8642", "fd00::1"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_a_host_is_a_name_whatever_its_port(written: str, name: str) -> None:
    loaded = loads(f'[gateway]\nallowed_hosts = ["{written}"]\n')
    assert (loaded.problems, loaded.plan.gateway.allowed_hosts) == ((), (name,))


@pytest.mark.parametrize(
    "host", ["https://mcp.example.com", "*", "*.example.com", "a/b", "a b", "a@b", "bücher.example"]
)
def test_a_host_is_no_url_and_no_pattern(host: str) -> None:
    (problem,) = loads(f'[gateway]\nallowed_hosts = ["{host}"]\n').problems
    assert problem.key == "gateway.allowed_hosts[0]"
    assert '"mcp.example.com"' in problem.message


def test_a_separator_that_names_may_hold_is_refused() -> None:
    (problem,) = loads('[gateway]\ntool_separator = "_"\n').problems
    assert problem.key == "gateway.tool_separator"
    assert "__, ., /" in problem.message
