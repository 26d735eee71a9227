"""moltis.toml becomes a plan; what is wrong in it is named with its key and line, and hurts nothing else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from moltis.config.limits import Limits
from moltis.config.load import Loaded, load, loads, plan_entry
from moltis.config.plan import DaemonPlan, Plan, RemoteLaunch, ServerPlan, StdioLaunch, changed_sections, diff
from moltis.errors import ConfigError

ENVIRON = {"HOME": "/home/me", "FROM_OUTSIDE": "outside-value"}


def read(text: str, overrides: Mapping[str, str] | None = None) -> Loaded:
    return loads(text, overrides or {}, ENVIRON)


def one_server(text: str, overrides: Mapping[str, str] | None = None) -> ServerPlan:
    (server,) = read(f"[mcp.servers.x]\n{text}", overrides).plan.servers
    return server


def test_an_empty_file_is_a_plan_of_nothing() -> None:
    assert read("") == Loaded(Plan(), (), read("").base)
    assert read("# only a comment\n").plan == Plan()


def test_sections_of_other_programs_are_ignored() -> None:
    text = '[server]\nport = "x"\n[agents.presets.a.mcp]\nallow_servers = 5\n[tools]\n[[hooks]]\na = 1\n'
    assert read(text + "[gateway]\nenabled = true\n[catalog]\nx = 1\n").problems == ()


def test_daemon_and_mcp_are_read() -> None:
    loaded = read(
        '[daemon]\nlog_level = "debug"\nlog_max_bytes = 5000\nlog_backups = 0\nbrowser_command = []\n'
        "[mcp]\nmax_concurrent_starts = 3\nstop_eof_secs = 0.05\nmax_restart_attempts = 0\n"
    )
    assert loaded.problems == ()
    assert loaded.plan.daemon == DaemonPlan("debug", 5000, 0, (), max_concurrent_starts=3)
    assert loaded.plan.defaults == Limits(stop_eof_secs=0.05, max_restart_attempts=0)


def test_the_same_text_gives_an_equal_plan_and_a_changed_server_is_the_difference() -> None:
    text = (
        '[env]\nK = "value-of-k"\n[mcp.servers.a]\ncommand = "x"\nenv = { K = "$K" }\n[mcp.servers.b]\ncommand = "y"\n'
    )
    assert read(text).plan == read(text).plan
    change = diff(read(text).plan, read(text.replace("value-of-k", "another-value")).plan)
    assert (change.changed, change.unchanged) == (("a",), ("b",))


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("[gateway]\nlisten = '127.0.0.1:1'\n", ("gateway",)),
        ("[gateway]\nallowed_hosts = ['a.example']\n[daemon]\nbrowser_command = []\n", ("gateway", "daemon")),
        ("[mcp]\nmax_concurrent_starts = 3\n", ("mcp",)),
        ("[mcp]\nfirst_list_secs = 1\n", ("mcp",)),
        ("[mcp]\nmax_servers_per_project = 1\n", ("mcp",)),
        ("[projects.a]\npath = '/a'\n", ("projects",)),
        ("[mcp]\nrequest_timeout_secs = 1\n[daemon]\nlog_level = 'debug'\n", ("daemon", "mcp")),
        ("[mcp]\nproxy = 'env'\n", ("mcp",)),
        ("[mcp]\nenv_pass = ['A']\n", ("mcp",)),
        ("[mcp.servers.x]\ncommand = 'x'\n[agents]\na = 1\n[env]\nK = 'v'\n", ()),
        ("[gateway]\nlisten = '127.0.0.1:8642'\n", ()),  # which is the default
    ],
)
def test_it_is_told_which_sections_besides_the_servers_are_others(text: str, sections: tuple[str, ...]) -> None:
    assert changed_sections(read("").plan, read(text).plan) == sections
    assert changed_sections(read(text).plan, read("").plan) == sections
    assert changed_sections(read(text).plan, read(text).plan) == ()


def test_a_problem_above_an_invalid_server_does_not_change_its_plan() -> None:
    text = "[mcp.servers.a]\ncommand = 5\n"
    assert read(text).plan == read(f"\n\n{text}").plan


# Values that are wrong -----------------------------------------------------------------------------------------------

WRONG_LIMITS = {
    "request_timeout_secs": [
        "0",
        "-1",
        "0.04",
        "nan",
        "inf",
        "-inf",
        '"30"',
        "true",
        "[30]",
        "1e12",
        "{}",
        "1979-05-27",
    ],
    "restart_backoff_secs": ["0", "'1'"],
    "heartbeat_max_missed": ["0", "-1", "1.5", "true", '"3"', "1001"],
    "max_restart_attempts": ["-1", "2.0", "nan"],
    "max_message_bytes": ["0", "1023", "2000000000000", '"16M"'],
}
WRONG_DAEMON = {
    "log_level": ['"loud"', "3", '""'],
    "log_max_bytes": ["0", "-5", '"10M"', "1.5"],
    "log_backups": ["-1", '"5"', "true"],
    "browser_command": ['"xdg-open"', "[1]", '[""]', "{}"],
}
WRONG_SERVER = {
    "command": ["5", '""', '"  "', '["npx"]', '"a\\u0000b"'],
    "args": ['"-y"', "[1]", '["a", true]', '["${"]', "{}", '["a\\u0000"]'],
    "env": ['"A=b"', "{ A = 1 }", "{ A = true }", '{ "A=B" = "x" }', '{ "" = "x" }', '{ A = "${" }', "[]"],
    "cwd": ["5", '""', '"${A:-${B}}"'],
    "enabled": ['"yes"', "1", "0"],
    "display_name": ["5", '""', '"a\\nb"', '"\\u001b[2J"', f'"{"x" * 201}"'],
    "transport": ['"stdoi"', "5", '""', '"rest"'],
    "include_tools": ['"*"', "[1]", '[""]'],
    "exclude_tools": ["5"],
    "share": ['"project"', '"none"', "true"],
    "max_instances": ["0", "-1", "1.5", '"8"', "1001"],
    "start": ['"lazy"', "true", '"on-demand"'],
    "idle_stop_secs": ["-1", "0.01", "1e12", '"10"', "true", "nan", "inf"],
    "protocol": ['"auto2"', "2"],
}
WRONG_REMOTE = {
    "url": ["5", '""', '"mcp.example.com"', '"ftp://h/"', '"https://"', '"https://h:99999/"', '"https://h/a b"'],
    "headers": [
        '"A: b"', "{ A = 1 }", '{ Accept = "x" }', '{ content-TYPE = "x" }', '{ Mcp-Session-Id = "x" }',
        '{ "a b" = "x" }', '{ "" = "x" }', '{ "ä" = "x" }', '{ A = "1", a = "2" }', '{ A = "日本" }', '{ A = "\\n" }',
    ],
    "oauth": [
        '"x"', "{ scopes = 'a' }", "{ callback_port = 65536 }", "{ callback_port = '0' }", "{ grant = 'x' }",
        "{ auth_url = 'http://auth.example.com/' }", "{ token_url = 'x' }", "{ client_id = 1 }",
        "{ client_metadata_url = 'javascript:alert(1)' }",
        "{ issuer = 'auth.example.com' }", "{ issuer = 'http://auth.example.com' }", "{ issuer = '' }",
        "{ issuer = 'https://auth.example.com/?x' }", "{ issuer = 'https://auth.example.com/#x' }",
        "{ resource = 'mcp' }", "{ resource = 'https://h/#x' }", "{ resource = 'https://h/ x' }", "{ resource = 1 }",
        "{ prompt = 'Consent' }", "{ prompt = 'a&b' }", "{ prompt = ' ' }", "{ prompt = true }",
        "{ redirect_host = '::1' }", "{ redirect_host = 'example.com' }", "{ offline_access = 'no' }",
    ],
}  # fmt: skip


def cases(table: Mapping[str, list[str]]) -> list[Any]:
    return [pytest.param(key, value, id=f"{key}={value}") for key, values in table.items() for value in values]


@pytest.mark.parametrize(("key", "value"), cases(WRONG_LIMITS))
def test_a_wrong_default_is_an_error_on_its_line_and_the_default_stays(key: str, value: str) -> None:
    loaded = read(f'[mcp]\n# a comment\n{key} = {value}\nstop_term_secs = 1.5\n[mcp.servers.ok]\ncommand = "x"\n')
    assert [(p.severity, p.line, p.key) for p in loaded.problems] == [("error", 3, f"mcp.{key}")]
    assert loaded.plan.defaults == Limits(stop_term_secs=1.5)
    assert [s.problem for s in loaded.plan.servers] == [None]


@pytest.mark.parametrize(("key", "value"), cases(WRONG_DAEMON))
def test_a_wrong_daemon_key_is_an_error_on_its_line_and_the_default_stays(key: str, value: str) -> None:
    loaded = read(f"[daemon]\n{key} = {value}\n")
    assert [(p.severity, p.line) for p in loaded.problems] == [("error", 2)]
    assert loaded.problems[0].key.startswith(f"daemon.{key}")
    assert loaded.plan.daemon == DaemonPlan()


def only_x_is_invalid(loaded: Loaded, key: str, line: int) -> None:
    errors = [p for p in loaded.problems if p.severity == "error"]
    assert errors
    assert {p.line for p in errors} == {line}
    assert all(p.key.startswith(f"mcp.servers.x.{key}") for p in errors)
    problems = {s.name: s.problem for s in loaded.plan.servers}
    assert problems["before"] is problems["after"] is None
    assert str(problems["x"]).startswith(key)
    assert loaded.plan.server("x").launch is None  # type: ignore[union-attr]  # it is there
    assert str(errors[0]).startswith(f"moltis.toml:{line}: mcp.servers.x.{key}")


BEFORE = '[mcp.servers.before]\ncommand = "x"\n\n[mcp.servers.x]\n'
AFTER = '\n[mcp.servers.after]\nurl = "https://h/"\n'


@pytest.mark.parametrize(("key", "value"), cases({**WRONG_LIMITS, **WRONG_SERVER}))
def test_a_wrong_key_makes_its_server_invalid_and_no_other(key: str, value: str) -> None:
    command = "" if key == "command" else '\ncommand = "x"'
    only_x_is_invalid(read(f"{BEFORE}{key} = {value}{command}{AFTER}"), key, 5)


@pytest.mark.parametrize(("key", "value"), cases(WRONG_REMOTE))
def test_a_wrong_key_makes_its_remote_server_invalid_and_no_other(key: str, value: str) -> None:
    url = "" if key == "url" else '\nurl = "https://h/"'
    only_x_is_invalid(read(f"{BEFORE}{key} = {value}{url}{AFTER}"), key, 5)


def test_a_wrong_value_in_a_multi_line_list_is_named_with_its_own_line() -> None:
    loaded = read('[mcp.servers.x]\ncommand = "a"\nargs = [\n  "ok",\n  5,\n]\n')
    assert [(p.line, p.key) for p in loaded.problems] == [(5, "mcp.servers.x.args[1]")]


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("mcp = 5", "mcp", 1),
        ("env = 'x'", "env", 1),
        ("daemon = []", "daemon", 1),
        ("[mcp]\nservers = 5", "mcp.servers", 2),
        ("[mcp]\nservers = []", "mcp.servers", 2),
        ("[[mcp.servers]]\ncommand = 'x'", "mcp.servers", 1),
        ("[mcp.servers]\nx = 5", "mcp.servers.x", 2),
        ("[mcp.servers]\n\nx = 'npx'", "mcp.servers.x", 3),
        ("[env]\nA = 5", "env.A", 2),
        ("[env]\nA = true", "env.A", 2),
        ("[env]\nA.B = 'x'", "env.A", 2),
        ("[env]\n'a b' = 'x'", 'env."a b"', 2),
    ],
)
def test_a_section_of_a_wrong_shape_is_an_error(text: str, key: str, line: int) -> None:
    errors = [(p.severity, p.key, p.line) for p in read(text).problems]
    assert ("error", key, line) in errors


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[mcp]\nrequst_timeout_secs = 30", "mcp.requst_timeout_secs", "request_timeout_secs"),
        ("[daemon]\nloglevel = 'x'", "daemon.loglevel", "log_level"),
        ("[mcp.servers.x]\ncommand='a'\nenabeld = false", "mcp.servers.x.enabeld", "enabled"),
        ("[mcp.servers.x]\nurl='https://h/'\nheader = {}", "mcp.servers.x.header", "headers"),
        ("[mcp.servers.x]\nurl='https://h/'\n[mcp.servers.x.oauth]\nscope = []", "mcp.servers.x.oauth.scope", "scopes"),
        ("[mcp.server.x]\ncommand='a'", "mcp.server", "servers"),
    ],
)
def test_an_unknown_key_is_a_warning_that_fails_the_check_and_names_the_nearest(
    text: str, key: str, nearest: str
) -> None:
    loaded = read(text)
    (problem,) = loaded.problems
    assert (problem.severity, problem.key, problem.fails_check) == ("warning", key, True)
    assert f"did you mean {nearest!r}" in problem.message
    assert all(s.problem is None for s in loaded.plan.servers)


# Rules between keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "transport"),
    [
        ("command = 'x'", "stdio"),
        ("command = 'x'\ntransport = 'stdio'", "stdio"),
        ("url = 'https://h/'", "sse"),
        ("url = 'https://h/'\ntransport = 'sse'", "sse"),
        ("url = 'https://h/'\ntransport = 'streamable-http'", "streamable-http"),
        ("url = 'https://h/'\ntransport = 'streamable_http'", "streamable-http"),
        ("url = 'https://h/'\ntransport = 'http'", "streamable-http"),
        ("url = 'https://h/'\ntransport = 'sse'\ncommand = 'x'", "sse"),
    ],
)
def test_the_transport_follows_from_the_keys(keys: str, transport: str) -> None:
    server = one_server(keys)
    assert server.problem is None
    assert server.transport == transport
    assert isinstance(server.launch, StdioLaunch if transport == "stdio" else RemoteLaunch)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("enabled = true", "needs a command"),
        ("command = 'x'\nurl = 'https://h/'", "both command and url"),
        ("command = 'x'\nurl = 'https://h/'\ntransport = 'stdio'", "both command and url"),
        ("url = 'https://h/'\ntransport = 'stdio'", "transport stdio needs a command"),
        ("transport = 'sse'", "transport sse needs a url"),
        ("command = 'x'\ntransport = 'http'", "transport streamable-http needs a url"),
    ],
)
def test_a_server_that_cannot_be_reached_is_invalid(keys: str, words: str) -> None:
    assert words in str(one_server(keys).problem)


@pytest.mark.parametrize(
    ("keys", "unused"),
    [
        ("command = 'x'\nheaders = { A = 'b' }", "headers"),
        ("command = 'x'\noauth = {}", "oauth"),
        ("url = 'https://h/'\nargs = []", "args"),
        ("url = 'https://h/'\ncwd = '$NOT_SET'", "cwd"),
    ],
)
def test_a_key_of_the_other_kind_of_server_is_a_warning(keys: str, unused: str) -> None:
    loaded = read(f"[mcp.servers.x]\n{keys}")
    (problem,) = loaded.problems
    assert (problem.severity, problem.key, problem.fails_check) == ("warning", f"mcp.servers.x.{unused}", False)
    assert loaded.plan.servers[0].problem is None


@pytest.mark.parametrize("name", ["../x", "a b", "-a", "é", "a__b", "", "x" * 300, "a/b", "\x1b[2J", "a.b"])
def test_a_name_that_could_do_harm_is_invalid_and_shown_harmlessly(name: str) -> None:
    quoted = '"' + name.replace("\x1b", "\\u001b") + '"'
    loaded = read(f'[mcp.servers.{quoted}]\ncommand = "x"\n[mcp.servers.ok]\ncommand = "x"\n')
    bad, ok = loaded.plan.servers
    assert ok.problem is None
    assert "server name" in str(bad.problem)
    assert 0 < len(bad.name) <= 64
    assert (bad.name + str(loaded.problems[0])).isprintable()
    assert len(str(loaded.problems[0])) < 400
    assert loaded.problems[0].line == 1


def test_the_second_of_two_names_that_differ_by_case_is_invalid() -> None:
    first, second = read('[mcp.servers.Git]\ncommand="x"\n[mcp.servers.git]\ncommand="y"\n').plan.servers
    assert first.problem is None
    assert "'Git' only by case" in str(second.problem)


def test_a_server_overrides_every_limit_of_mcp() -> None:
    text = "[mcp]\n" + "".join(f"{name} = 7\n" for name in Limits.__slots__ if "bytes" not in name)
    text += "max_message_bytes = 7000\n[mcp.servers.a]\ncommand = 'x'\n[mcp.servers.b]\ncommand = 'x'\n"
    text += "".join(f"{name} = 9\n" for name in Limits.__slots__ if "bytes" not in name) + "max_message_bytes = 9000\n"
    loaded = read(text)
    assert loaded.problems == ()
    a, b = (s.limits for s in loaded.plan.servers)
    assert a == loaded.plan.defaults
    for name in Limits.__slots__:
        assert (getattr(a, name), getattr(b, name)) == ((7, 9) if "bytes" not in name else (7000, 9000))


def test_a_timeout_above_the_default_cap_takes_the_cap_along() -> None:
    assert one_server("command = 'x'\nrequest_timeout_secs = 900").limits.request_timeout_max_secs == 900
    assert read("[mcp]\nrestart_backoff_secs = 90").plan.defaults.restart_backoff_max_secs == 90


def test_a_timeout_above_a_cap_beside_it_is_a_warning() -> None:
    loaded = read("[mcp]\nrequest_timeout_secs = 90\nrequest_timeout_max_secs = 9\n[mcp.servers.x]\ncommand = 'x'\n")
    assert [(p.severity, p.key, p.line) for p in loaded.problems] == [("warning", "mcp.request_timeout_secs", 2)]
    assert loaded.plan.defaults.request_timeout_max_secs == 9


def test_who_answers_a_server_changes_how_it_is_started_and_off_is_an_older_word_for_host() -> None:
    plain = one_server("command = 'x'")
    assert one_server("command = 'x'\nelicitation = 'off'") == plain
    assert (plain.elicitation, plain.sampling, plain.roots, plain.undeclared) == ("host", "host", "host", frozenset())
    for key in ("elicitation", "sampling", "roots"):
        changed = one_server(f"command = 'x'\n{key} = 'none'")
        assert changed.undeclared == {key}
        assert changed.launch_key != plain.launch_key
    assert one_server("command = 'x'\nelicitation = 'defaults'").undeclared == frozenset()
    assert "must be one of host, none" in str(one_server("command = 'x'\nsampling = 'defaults'").problem)


# Placeholders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "overrides", "written", "run"),
    [
        ({"A": "one"}, {}, "$A", "one"),
        ({}, {"A": "two"}, "${A}", "two"),
        ({"A": "one"}, {"A": "two"}, "$A", "one"),
        ({"A": " "}, {"A": "two"}, "$A", "two"),
        ({}, {}, "${A:-three}", "three"),
        ({}, {}, "${env:FROM_OUTSIDE}", "outside-value"),
        ({"A": "$B", "B": "x"}, {}, "$A", "$B"),
        ({}, {}, "$$A", "$A"),
        ({"A": "p", "B": "q"}, {}, "$A-${B}", "p-q"),
    ],
)
def test_placeholders_resolve_in_every_place_that_allows_them(
    env: dict[str, str], overrides: dict[str, str], written: str, run: str
) -> None:
    section = "[env]\n" + "".join(f"{k} = '{v}'\n" for k, v in env.items())
    local = f"[mcp.servers.a]\ncommand='x'\nargs=['{written}']\nenv={{ K='{written}' }}\ncwd='/d/{written}'\n"
    remote = f"[mcp.servers.b]\nurl='https://h/{written}'\nheaders={{ H='{written}' }}\n"
    oauth = f"[mcp.servers.b.oauth]\nclient_secret='{written}'\nscopes=['{written}']\n"
    a, b = read(section + local + remote + oauth, overrides).plan.servers
    assert a.launch == StdioLaunch("x", (run,), (("K", run),), f"/d/{run}")
    assert b.launch == RemoteLaunch(f"https://h/{run}", (("H", run),), (("client_secret", run), ("scopes", (run,))))


@pytest.mark.parametrize(
    ("keys", "key", "name"),
    [
        ("command='x'\nenv={ K = '$NONE' }", "env.K", "$NONE"),
        ("command='x'\nargs=['a', '${NONE}']", "args[1]", "$NONE"),
        ("command='x'\ncwd='/$NONE'", "cwd", "$NONE"),
        ("command='x'\nenv={ K = '$FROM_OUTSIDE' }", "env.K", "$FROM_OUTSIDE"),
        ("command='x'\nenv={ K = '${env:NONE}' }", "env.K", "${env:NONE}"),
        ("url='https://h/$NONE'", "url", "$NONE"),
        ("url='https://h/'\nheaders={ H = 'Bearer $NONE' }", "headers.H", "$NONE"),
        ("url='https://h/'\noauth={ client_secret = '$NONE' }", "oauth.client_secret", "$NONE"),
        ("url='https://h/'\noauth={ scopes = ['$NONE'] }", "oauth.scopes[0]", "$NONE"),
    ],
)
def test_a_name_that_resolves_to_nothing_makes_the_server_invalid_and_is_named(keys: str, key: str, name: str) -> None:
    server = one_server(keys)
    assert server.launch is None
    assert str(server.problem).startswith(f"{key}: {name} resolves to nothing")


def test_what_only_the_owner_may_allow_of_a_login_is_read_as_written() -> None:
    keys = {
        "issuer": "https://auth.example.com/x",
        "resource": "",
        "prompt": "",
        "redirect_host": "localhost",
        "offline_access": False,
    }
    written = "".join(
        f"{key} = {str(value).lower() if value is False else repr(value)}\n" for key, value in keys.items()
    )
    launch = one_server(f"url = 'https://h/'\n[mcp.servers.x.oauth]\n{written}").launch
    assert isinstance(launch, RemoteLaunch)
    assert dict(launch.oauth) == keys
    for more in ("resource = 'api://$APP/x'", "prompt = 'login consent'", "issuer = 'http://127.0.0.1:9000'"):
        assert one_server(f"url = 'https://h/'\noauth = {{ {more} }}", {"APP": "a"}).problem is None


def test_a_placeholder_in_args_works_with_a_warning() -> None:
    loaded = read("[env]\nTOKEN='sesame-open'\n[mcp.servers.x]\ncommand='x'\nargs=['--token', '$TOKEN']\n")
    (problem,) = loaded.problems
    assert (problem.severity, problem.key, problem.fails_check) == ("warning", "mcp.servers.x.args[1]", False)
    assert loaded.plan.servers[0].launch == StdioLaunch("x", ("--token", "sesame-open"))


def test_a_placeholder_in_command_is_not_expanded_and_warned_of() -> None:
    loaded = read("[mcp.servers.x]\ncommand='$HOME/bin/x'\n")
    assert [p.key for p in loaded.problems] == ["mcp.servers.x.command"]
    assert loaded.plan.servers[0].launch == StdioLaunch("$HOME/bin/x")


@pytest.mark.parametrize("bad", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "日本", "a\x1bb", "a\x7fb", "a\u2028b"])
@pytest.mark.parametrize("place", ["url='https://h/?k=$BAD'", "url='https://h/'\nheaders={ H = '$BAD' }"])
def test_a_value_that_would_break_a_header_or_url_is_refused(bad: str, place: str) -> None:
    server = one_server(place, {"BAD": bad})
    assert server.launch is None
    assert "has a" in str(server.problem)
    assert bad not in str(server.problem)


def test_a_nul_from_a_placeholder_is_refused_everywhere() -> None:
    for keys in ("args=['$BAD']", "env={ K = '$BAD' }", "cwd='$BAD'"):
        assert "NUL" in str(one_server(f"command='x'\n{keys}", {"BAD": "a\0b"}).problem)


@pytest.mark.parametrize(
    ("cwd", "run"),
    [
        ("~", "/home/me"),
        ("~/src", "/home/me/src"),
        ("/abs", "/abs"),
        ("rel/../other", "/etc/moltis/other"),
        (".", "/etc/moltis"),
        ("${env:HOME}/x", "/home/me/x"),
    ],
)
def test_cwd_is_relative_to_the_folder_of_the_file(cwd: str, run: str) -> None:
    text = f"[mcp.servers.x]\ncommand='~/bin/x'\ncwd='{cwd}'\n"
    (server,) = loads(text, {}, ENVIRON, path=Path("/etc/moltis/moltis.toml")).plan.servers
    assert server.launch == StdioLaunch("/home/me/bin/x", cwd=run)


# Secrets -------------------------------------------------------------------------------------------------------------

PLANTED = """\
[env]
UNUSED = "sec-env-unused"
USED = "sec-env-used"
[mcp.servers.local]
command = "x"
env = { LITERAL = "sec-literal", MIXED = "pre-$USED", LANG = "de_DE.UTF-8", NAME = "remote" }
args = ["${env:FROM_OUTSIDE}"]
[mcp.servers.remote]
url = "https://sec-user:sec%2Fpass@h/?a=sec%20query&b=$OVER&sec-bare#sec-fragment"
headers = { Authorization = "Bearer sec-bearer", Cookie = "sid=sec-cookie; b=c", X = "Basic dTpzZWMtYmFzaWM=" }
oauth = { client_id = "my-client", client_secret = "sec-oauth" }
[mcp.servers.broken]
command = 5
env = { K = "sec-of-broken", NONE = "$NONE" }
[mcp.servers.unused_here]
url = "https://h/"
env = { K = "sec-not-used" }
"""


def test_the_plan_knows_every_secret_value() -> None:
    loaded = read(PLANTED, {"OVER": "sec-override", "OTHER": "sec-override-unused"})
    expected = {
        "sec-env-unused", "sec-env-used", "sec-override", "sec-override-unused", "sec-literal", "pre-sec-env-used",
        "outside-value", "sec-user", "sec%2Fpass", "sec/pass", "sec%20query", "sec query", "sec-bare", "sec-fragment",
        "Bearer sec-bearer", "sec-bearer", "sec-cookie", "sec-basic", "sec-oauth", "sec-of-broken", "sec-not-used",
    }  # fmt: skip
    assert expected <= loaded.plan.secrets


def test_what_everyone_may_know_is_not_taken_for_a_secret() -> None:
    secrets = read(PLANTED).plan.secrets
    for public in ("de_DE.UTF-8", "remote", "local", "my-client", "x", "h", "", " ", "$NONE"):
        assert public not in secrets or public in {"x", "h"}


def test_no_repr_and_no_problem_holds_a_secret() -> None:
    loaded = read(PLANTED.replace('"sec-', '"sec-\\u0000'), {"OVER": "sec-override"})
    loaded_too = read(PLANTED, {"OVER": "sec-override"})
    for value in (loaded, loaded_too):
        text = repr(value) + repr(value.plan) + repr(value.plan.servers) + " ".join(map(str, value.problems))
        assert "sec-" not in text


@pytest.mark.parametrize(
    "text",
    [
        "[env]\nK = 'a'",
        "[mcp.servers.x]\ncommand='x'\nenv={ GITHUB_TOKEN = 'ghp' }",
        "[mcp.servers.x]\nurl='https://h/?k=v'",
        "[mcp.servers.x]\nurl='https://u:p@h/'",
        "[mcp.servers.x]\nurl='https://h/'\nheaders={ x-api-key = 'k' }",
        "[mcp.servers.x]\nurl='https://h/'\noauth={ client_secret = 'k' }",
    ],
)
def test_a_secret_in_a_file_that_others_can_read_is_a_warning(text: str) -> None:
    loaded = loads(text, {}, ENVIRON, mode=0o644)
    (problem,) = loaded.problems
    assert (problem.severity, problem.fails_check) == ("warning", False)
    assert "chmod 600" in problem.message
    assert loads(text, {}, ENVIRON, mode=0o600).problems == ()


def test_a_file_without_secrets_may_be_read_by_all() -> None:
    text = "[mcp.servers.x]\ncommand='x'\nenv={ TOKEN = '$T', MODE = 'fast' }\n[mcp.servers.y]\nurl='https://h/?k=$T'\n"
    assert loads(text, {"T": "v"}, ENVIRON, mode=0o644).problems == ()


# The file ------------------------------------------------------------------------------------------------------------


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="create one with `moltis init`"):
        load(tmp_path / "no" / "moltis.toml", {}, {})


def test_what_is_no_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        load(tmp_path, {}, {})
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path / "fifo", {}, {})


@contextlib.contextmanager
def not_root() -> Iterator[None]:
    """Be nobody for a moment: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unreadable_file_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text("")
    path.chmod(0)
    with not_root(), pytest.raises(ConfigError, match="Permission denied"):
        load(path, {}, {})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"# ok\nx = '\xff'\n", ":2: not UTF-8"),
        ("# ok\n".encode("utf-16"), ":1: not UTF-8"),
        (b"#" * 1_048_577, "larger than"),
        (b"a = 1\na = 2\n", ":2:6: this key is there twice"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "moltis.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=words) as raised:
        load(path, {}, {})
    assert str(path) in raised.value.message


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.write_bytes(b"\xef\xbb\xbf[mcp.servers.x]\r\ncommand = 'x'\r\n")
    path.chmod(0o600)
    loaded = load(path, {}, {})
    assert loaded.problems == ()
    assert loaded.plan.path == path
    assert [s.name for s in loaded.plan.servers] == ["x"]


def test_five_hundred_servers_are_planned() -> None:
    entry = 'command = "npx"\nargs = ["-y", "pkg"]\nenv = { A = "$K", B = "literal" }\nrequest_timeout_secs = 5\n'
    loaded = read("[env]\nK='value-of-k'\n" + "".join(f"[mcp.servers.s{n}]\n{entry}" for n in range(500)))
    assert len(loaded.plan.servers) == 500
    assert loaded.problems == ()


# Labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "kept", "wrong"),
    [
        ({"a": "gh", "b": "hub"}, {"a": "gh", "b": "hub"}, []),
        ({"a": "gh", "b": "gh"}, {"a": "gh", "b": None}, [("b", "'a' and 'b'")]),
        ({"a": "gh", "b": "GH"}, {"a": "gh", "b": None}, [("b", "'a' and 'b'")]),
        ({"a": "B", "b": None}, {"a": None, "b": None}, [("a", "'b' and 'a'")]),
        ({"a": "b", "b": "a"}, {"a": None, "b": None}, [("a", "'b' and 'a'"), ("b", "'a' and 'b'")]),
        ({"a": "A", "b": "b"}, {"a": "A", "b": "b"}, []),
        (
            {"a": "x", "b": "x", "c": "X"},
            {"a": "x", "b": None, "c": None},
            [("b", "'a' and 'b'"), ("c", "'a' and 'c'")],
        ),
    ],
)
def test_a_label_that_is_another_servers_names_both_and_neither_ends(
    labels: dict[str, str | None], kept: dict[str, str | None], wrong: list[tuple[str, str]]
) -> None:
    lines = (
        f"[mcp.servers.{n}]\ncommand = 'x'\n" + (f"label = '{label}'\n" if label else "") for n, label in labels.items()
    )
    loaded = read("".join(lines))
    assert {s.name: s.label for s in loaded.plan.servers} == kept
    assert [s.problem for s in loaded.plan.servers] == [None] * len(labels)
    assert [p.key for p in loaded.problems] == [f"mcp.servers.{name}.label" for name, _ in wrong]
    for problem, (_, both) in zip(loaded.problems, wrong, strict=True):
        assert problem.severity == "error"
        assert problem.line
        assert both in problem.message


@pytest.mark.parametrize("label", ["", "a__b", "a b", "-a", "a/b", "x" * 65])
def test_a_label_is_what_a_server_may_be_called(label: str) -> None:
    server = one_server(f"command = 'x'\nlabel = '{label}'\n")
    assert server.problem is not None
    assert server.problem.startswith("label: must")


# Entries that come from a request ------------------------------------------------------------------------------------


def test_an_entry_of_a_request_is_planned_like_one_in_the_file() -> None:
    base = loads("[env]\nK='v'\n[mcp]\nstop_eof_secs = 1\n", {}, ENVIRON, path=Path("/etc/m/moltis.toml")).base
    entry = {"command": "x", "args": ["a"], "env": {"K": "$K"}, "cwd": "d", "display_name": None, "stop_term_secs": 9}
    server = plan_entry("new", entry, base).server
    assert server.problem is None
    assert server.launch == StdioLaunch("x", ("a",), (("K", "v"),), "/etc/m/d")
    assert (server.limits.stop_eof_secs, server.limits.stop_term_secs) == (1, 9)


def test_an_entry_with_an_unresolved_placeholder_is_a_plan_with_a_problem() -> None:
    server = plan_entry("new", {"command": "x", "env": {"K": "$LATER"}}, read("").base).server
    assert "$LATER resolves to nothing" in str(server.problem)


@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        ("a b", {"command": "x"}, "server name"),
        ("a", {}, "needs a command"),
        ("a", {"command": 5}, "command: must be text"),
        ("a", {"command": "x", "argz": []}, "argz: unknown key - did you mean 'args'"),
        ("a", {"command": "x", "url": "https://h/"}, "both command and url"),
        ("a", {"command": "x", "request_timeout_secs": 0}, "request_timeout_secs: must be"),
        ("a", {"url": "https://h/", "headers": {"Accept": "x"}}, "headers.Accept: is reserved"),
        ("a", {"url": "x", "headers": {"A": "$LATER"}}, "url: must begin with"),
    ],
)
def test_a_wrong_entry_of_a_request_names_its_key(name: str, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_entry(name, entry, read("").base)


def test_where_each_variable_has_its_value_from_is_shown_and_the_value_is_not() -> None:
    text = """
[env]
WRITTEN = "secret-1"
BLANK = " "
[mcp.servers.x]
command = "c"
[mcp.servers.x.env]
A = "$WRITTEN"
B = "Bearer ${KEPT}"
C = "${env:HOME}"
D = "secret-3"
E = "$WRITTEN$KEPT"
F = "$BLANK"
G = "$$WRITTEN"
H = "${NOWHERE:-secret-4}"
"""
    (server,) = read(text, {"KEPT": "secret-2", "BLANK": "x"}).plan.servers
    assert dict(server.shown.env_sources) == {
        "A": "[env] WRITTEN",
        "B": "env set KEPT",
        "C": "environment HOME",
        "D": "moltis.toml",
        "E": "moltis.toml",
        "F": "env set BLANK",
        "G": "moltis.toml",
        "H": "env set NOWHERE",
    }


def test_a_server_that_hosts_do_not_share_runs_on_demand_and_never_always() -> None:
    (own,) = read('[mcp.servers.x]\ncommand = "npx"\nshare = "host"\n').plan.servers
    assert (own.start, own.has_instances, own.problem, own.max_instances) == ("on_demand", True, None, 8)
    loaded = read(
        '[mcp.servers.x]\ncommand = "npx"\nshare = "host"\nstart = "always"\n[mcp.servers.y]\ncommand = "npx"\n'
    )
    ((problem,), (x, y)) = loaded.problems, loaded.plan.servers
    assert (problem.severity, problem.line, problem.key) == ("error", 4, "mcp.servers.x.start")
    assert 'must be "on_demand" with share = "host"' in problem.message
    assert (x.launch, y.problem) == (None, None)


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("idle_stop_secs = 5", "idle_stop_secs"),
        ("max_instances = 3", "max_instances"),
        ('start = "on_demand"\nidle_stop_secs = 5', None),
        ('start = "on_demand"\nidle_stop_secs = 0', None),
        ('share = "host"\nidle_stop_secs = 5\nmax_instances = 3', None),
    ],
)
def test_a_key_that_does_nothing_to_a_server_is_told(lines: str, key: str | None) -> None:
    loaded = read(f'[mcp.servers.x]\ncommand = "npx"\n{lines}\n')
    assert [(p.severity, p.key) for p in loaded.problems] == ([("warning", f"mcp.servers.x.{key}")] if key else [])
    assert loaded.plan.servers[0].problem is None
