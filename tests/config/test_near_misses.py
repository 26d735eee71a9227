"""What people write who know another host's files, or a shell: it is seen, and the line to write instead is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moltis.config.load import Loaded, loads, plan_entry
from moltis.config.plan import RemoteLaunch, StdioLaunch
from moltis.config.problem import Problem
from moltis.errors import ConfigError
from moltis.server.mending import commands
from moltis.server.status import LastError, ServerStatus

ENVIRON = {"HOME": "/home/me", "USER": "me", "PATH": "/bin"}


def entry(**keys: Any) -> Loaded:
    """Read a file with one server; the keys are written as TOML, of which a JSON text and list are a part."""
    lines = []
    for key, value in keys.items():
        if isinstance(value, dict):
            value = "{ " + ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in value.items()) + " }"
        else:
            value = json.dumps(value, ensure_ascii=False)
        lines.append(f"{key} = {value}\n")
    return loads('[env]\nset = "HIDDEN-value"\n[mcp.servers.x]\n' + "".join(lines), {}, ENVIRON)


def only_problem(loaded: Loaded) -> Problem:
    (problem,) = loaded.problems
    assert problem.line is not None
    assert problem.line > 3
    return problem


def failure(kind: str, message: str) -> LastError:
    return LastError(kind=kind, message=message, at="2026-11-20T12:00:00.000Z")


def failed(state: str, error: LastError, command: str = "x") -> ServerStatus:
    return ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state=state, status="error", attempts=1,
        command=command, last_error=error,
    )  # fmt: skip


def local(loaded: Loaded) -> StdioLaunch:
    launch = loaded.plan.servers[0].launch
    assert isinstance(launch, StdioLaunch)
    return launch


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("npx -y pkg", 'command = "npx" and args = ["-y", …]'),
        ("npx -y", 'command = "npx" and args = ["-y"]'),
        ("uvx mcp-server-time", 'command = "uvx" and args = […]'),
        ("/usr/bin/python server.py", 'command = "/usr/bin/python" and args = […]'),
        ("./run.sh --root=/srv", 'command = "./run.sh" and args = […]'),
        ("~/bin/server /srv", 'command = "~/bin/server" and args = […]'),
        ("node\t/x/server.js", 'command = "node" and args = […]'),
    ],
)
def test_arguments_in_command_are_told_to_go_into_args(command: str, line: str) -> None:
    problem = only_problem(entry(command=command))
    assert (problem.key, problem.fails_check) == ("mcp.servers.x.command", True)
    assert problem.message == f"arguments go into args: write {line}"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (r"'C:\Program Files\nodejs\npx.cmd'", "command = '/mnt/c/Program Files/nodejs/npx.cmd'"),
        (r'"C:\\Program Files\\nodejs\\npx.cmd"', "command = '/mnt/c/Program Files/nodejs/npx.cmd'"),
        (r"'C:\Program Files\nodejs\npx.cmd -y pkg'", "command = '/mnt/c/Program Files/nodejs/npx.cmd' and args = […]"),
        ("'D:/My Servers/a.exe'", "command = '/mnt/d/My Servers/a.exe'"),
        (r'"C:\nodejs\node.exe"', "command = '/mnt/c/nodejs/node.exe'"),
        (r'"C:\tools\run server.bat --x"', "command = '/mnt/c/tools/run server.bat' and args = […]"),
        ('"C:\\\\it\'s here\\\\a.exe"', 'command = "/mnt/c/it\'s here/a.exe"'),
    ],
)
def test_a_path_of_windows_is_told_with_the_line_that_works_in_wsl(command: str, line: str) -> None:
    problem = only_problem(loads(f"\n\n\n[mcp.servers.x]\ncommand = {command}\n", {}, ENVIRON))
    assert problem.fails_check
    assert problem.message.endswith(f": in WSL write {line}")
    assert ("backslashes became" in problem.message) == command.startswith(('"C:\\n', '"C:\\t'))
    read = loads(f"[mcp.servers.x]\n{line.replace(' and ', chr(10)).replace('…', '')}\n", {}, ENVIRON)
    assert read.problems == (), "the line that it says is one that can be written"


@pytest.mark.parametrize("keys", [r'args = ["-y", "C:\temp\new"]', r'env = { ROOT = "D:\notes\team" }'])
def test_a_path_of_windows_whose_backslashes_made_other_signs_is_named(keys: str) -> None:
    problem = only_problem(loads(f'\n\n\n[mcp.servers.x]\ncommand = "npx"\n{keys}\n', {}, ENVIRON))
    assert "its backslashes became tabs or line breaks" in problem.message
    assert "'single quotes'" in problem.message


def test_why_names_the_path_of_a_program_of_windows() -> None:
    error = failure("spawn_failed", r"command not found: C:\Program Files\x.exe (looked in PATH /bin)")
    told = commands(failed("backoff", error, r"C:\Program Files\x.exe"))
    assert told[0].startswith("write command = '/mnt/c/Program Files/x.exe' in [mcp.servers.x]")


@pytest.mark.parametrize("command", ["/opt/My App/bin/server", "~/My Servers/run", "npx", "./a-b"])
def test_a_program_with_blanks_in_its_path_is_one(command: str) -> None:
    assert entry(command=command).problems == ()


def test_why_says_the_same_of_a_program_that_was_not_found() -> None:
    error = failure("spawn_failed", "command not found: npx -y pkg (looked in PATH /bin)")
    told = commands(failed("backoff", error, "npx -y pkg"))
    assert told[0].startswith('write command = "npx" and args = ["-y", …] in [mcp.servers.x]')


def test_a_request_that_has_arguments_in_command_is_refused_with_the_line_to_write() -> None:
    with pytest.raises(ConfigError, match='write command = "npx" and args = '):
        plan_entry("new", {"command": "npx -y pkg"}, loads("").base)


@pytest.mark.parametrize(
    ("args", "index", "words"),
    [
        (["-y pkg"], 0, 'two arguments: write "-y", "…"'),
        (["pkg", "–-port"], 1, "begins with a dash of a word processor (–): write it with - or --"),
        (["pkg", "—stdio"], 1, "begins with a dash of a word processor (—)"),
        (["−y", "pkg"], 0, "begins with a dash of a word processor (−)"),
        (["-y @scope/pkg"], 0, 'two arguments: write "-y", "…"'),
        (["pkg", "--root /srv"], 1, 'two arguments: write "--root", "…"'),
        (["run", "-e NAME=value"], 1, 'two arguments: write "-e", "…"'),
        (["exec --yes pkg"], 0, 'one each: write "PACKAGE", "ARGUMENT"'),
        (["-y", "pkg --stdio"], 1, 'one each: write "PACKAGE", "ARGUMENT"'),
        (["npx", "-y", "pkg"], 0, "the program is named in command already: write args without 'npx'"),
        (["“/x/srv.py”"], 0, "quotes inside (“) are part of the value"),
        (["/x/srv.py”"], 0, "quotes inside"),
        (["'/x/srv.py'"], 0, "quotes inside (')"),
        (["/x/srv.py "], 0, "begins or ends with a blank"),
        (["<PATH_TO_REPO>"], 0, "words of an example"),
    ],
)
def test_an_argument_that_is_not_what_it_seems_is_named(args: list[str], index: int, words: str) -> None:
    problem = only_problem(entry(command="npx", args=args))
    assert problem.key == f"mcp.servers.x.args[{index}]"
    assert words in problem.message


@pytest.mark.parametrize(
    ("command", "argument", "told"),
    [
        ("docker", "run -i --rm img", 'write "run", "-i", …'),
        ("/usr/bin/podman", "run  --rm=true img", 'write "run", "--rm", …'),
        ("uv", "run --directory /x server.py", 'write "run", "--directory", …'),
        ("python3", "server.py --stdio", 'write "server.py", "--stdio", …'),
    ],
)
def test_a_first_argument_with_its_options_in_it_is_named(command: str, argument: str, told: str) -> None:
    problem = only_problem(entry(command=command, args=[argument, "more"]))
    assert (problem.key, problem.severity) == ("mcp.servers.x.args[0]", "warning")
    assert problem.message == f"its words are an argument each: {told}"


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("ssh", ["me@box", "server --stdio"]),
        ("node", ["My Servers/a -b.js"]),
        ("my-server", ["say -x"]),
        ("sh", ["-c", "exec server --root /srv; echo $(date) %PATH% '{env:X}'"]),
        ("bash", ["-lc", "'/x/y'"]),
        ("npx", ["-y", "@scope/pkg", "a text with blanks", "-", "--", "-5", "--name=a b"]),
        ("uvx", ["--from", "git+https://h/x", "--with", "mcp < 2", "server"]),
        ("docker", ["ps", "--format", "{{.Names}}"]),
        ("date", ["+%Y-%m-%d", "100%", "a$", "cost$5", "~", "a~b"]),
        ("x", ['{"a": {"b": 1}}', "[1]", "https://h/%41BC%42", "put-object", "here"]),
    ],
)
def test_arguments_that_are_meant_so_are_left_alone(command: str, args: list[str]) -> None:
    loaded = entry(command=command, args=args)
    assert [str(p) for p in loaded.problems] == []


@pytest.mark.parametrize(
    ("written", "run"),
    [
        ("~/Documents", "/home/me/Documents"),
        ("~", "/home/me"),
        ("--root=~/x", "/home/me/x"),
        ("ROOT=~/x", "/home/me/x"),
        ("~/src:/src", "/home/me/src:/src"),
        ("~root/x", "/root/x"),
        ("a~/x", "a~/x"),
        ("~x", "~x"),
        ("https://h/~me/", "https://h/~me/"),
    ],
)
def test_a_path_in_args_that_begins_at_home_is_written_out(written: str, run: str) -> None:
    loaded = entry(command="x", args=[written])
    assert local(loaded).args[0].endswith(run)
    assert loaded.problems == ()


@pytest.mark.parametrize(
    ("name", "written", "run"),
    [
        ("X_DIR", "~/data", "/home/me/data"),
        ("X_DIRS", "~/a:~/b:/c", "/home/me/a:/home/me/b:/c"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "~/google.json", "/home/me/google.json"),
        ("PASSWORD", "~/x!y", "~/x!y"),
        ("PASSWORD", "a:~/x", "a:~/x"),
        ("TEXT", "about ~ 5", "about ~ 5"),
        ("X_DIR", "${A:-~}/x", "~/x"),
    ],
)
def test_a_path_in_env_that_begins_at_home_is_written_out(name: str, written: str, run: str) -> None:
    assert local(entry(command="x", env={name: written})).env == ((name, run),)


def test_a_home_with_a_dollar_is_no_placeholder_and_what_a_placeholder_stands_for_is_left_alone() -> None:
    text = "[env]\nP = '~/x'\n[mcp.servers.x]\ncommand='x'\nargs=['~/a', '$P']\n"
    (server,) = loads(text, {}, {"HOME": "/home/$P"}).plan.servers
    assert isinstance(server.launch, StdioLaunch)
    assert server.launch.args == ("/home/$P/a", "~/x")


UNRESOLVED = [
    ("args", ["$HOME/x"], "write ${env:HOME}"),
    ("env", {"A": "$HOME"}, "write ${env:HOME}"),
    ("env", {"DB": "mysql://$USER@h"}, "write ${env:USER}"),
    ("env", {"PATH": "$PATH:/x"}, "write ${env:PATH}"),
    ("cwd", "${workspaceFolder}", "write the folder itself"),
    ("args", ["${workspaceFolder}/x"], "write the folder itself"),
    ("args", ["${userHome}/x"], "write ~"),
    ("env", {"PGPASSWORD": "p@ss$word"}, "write $$ for it"),
    ("env", {"DB_PASSWORD": "x!$USER"}, "write $$ for it"),
    ("env", {"A": "$env:APPDATA"}, "write ${env:NAME}"),
    ("args", ["-c", "exec server --root $ROOT"], "write $$ROOT"),
    ("args", ["-c", "exec server --root ${ROOT}"], "write $${ROOT}"),
    ("args", ["-lc", "cd $HOME && exec server"], "write $$HOME"),
]
MALFORMED = [
    ("${input:token}", "write $TOKEN, and keep its value with `moltis env set TOKEN`"),
    ("${input:github-token}", "write $GITHUB_TOKEN, and keep"),
    ("${secret:apiKey}", "write $API_KEY, and keep"),
    ("${{ secrets.GITHUB_TOKEN }}", "write $GITHUB_TOKEN, and keep"),
    ("${{ inputs.token }}", "write $TOKEN, and keep"),
    ("${env.HOME}", "write ${env:HOME}"),
    ("${localEnv:HOME}", "write ${env:HOME}"),
    ("${process.env.HOME}", "write ${env:HOME}"),
    ("${env: HOME }", "write ${env:HOME}"),
    ("${file:~/.secrets/key}", "`moltis env set NAME`"),
    ("${TOKEN:?not set}", "write ${TOKEN:-default}"),
    ("${TOKEN-x}", "write ${TOKEN:-default}"),
    ("${ TOKEN }", "write $TOKEN, and keep"),
    ("${TOKEN", "without a name or its '}'"),
    ("${}", "without a name or its '}'"),
    ("${A:-${B}}", "one inside another"),
]


@pytest.mark.parametrize(("key", "value", "words"), UNRESOLVED)
def test_a_placeholder_without_a_value_says_what_to_write(key: str, value: Any, words: str) -> None:
    loaded = entry(command="x", **{key: value})
    (problem,) = loaded.problems
    assert problem.severity == "error"
    assert words in problem.message
    assert loaded.plan.servers[0].launch is None
    why = failure("invalid", loaded.plan.servers[0].problem or "")
    assert words in commands(failed("invalid", why))[0]


@pytest.mark.parametrize(("value", "words"), MALFORMED)
def test_a_placeholder_of_another_program_says_what_to_write_here(value: str, words: str) -> None:
    for keys in ({"env": {"A": value}}, {"args": [f"x-{value}"]}):
        loaded = entry(command="x", **keys)
        problem = only_problem(loaded)
        assert problem.severity == "error"
        assert words in problem.message
        assert loaded.plan.servers[0].launch is None


def test_a_password_that_is_no_placeholder_is_not_cited() -> None:
    problem = only_problem(entry(command="x", env={"PGPASSWORD": "${hunter!22}"}))
    assert "hunter" not in problem.message


LITERAL = [
    ("env", "A", "{env:GITHUB_TOKEN}", "write ${env:GITHUB_TOKEN}"),
    ("env", "A", "{file:~/key}", "`moltis env set NAME`"),
    ("env", "A", "{{ github.token }}", "write $TOKEN, and keep"),
    ("env", "A", "%APPDATA%", "write ${env:APPDATA}"),
    ("env", "A", "%APPDATA%\\x", "write ${env:APPDATA}"),
    ("env", "A", "$(TOKEN)", "write ${env:TOKEN}"),
    ("env", "A", "$(pass show x)", "`moltis env set NAME`"),
    ("env", "A", "<YOUR_TOKEN>", "words of an example"),
    ("env", "A", "YOUR_API_KEY_HERE", "words of an example"),
    ("env", "A", "https://your-domain.example.com", "words of an example"),
    ("env", "A", "xxxxxxxx", "words of an example"),
    ("env", "A", "changeme", "words of an example"),
    ("env", "A", '"quoted"', 'quotes inside (")'),
    ("env", "A", "‘quoted’", "quotes inside"),
    ("env", "A", "value ", "begins or ends with a blank"),
    ("env", "A", "value\n", "begins or ends with a blank or line break"),
    ("env", "PGPASSWORD", "pa$$w0rd", "write $$$$"),
    ("env", "PGPASSWORD", "p@ss$set", "write $$; if not, write ${set}"),
    ("env", "API_KEY", "x!$set", "write $$; if not, write ${set}"),
    ("headers", "Authorization", "Bearer Bearer x", "has 'Bearer' twice"),
    ("headers", "authorization", "Bearer bearer x", "has 'Bearer' twice"),
    ("headers", "Authorization", "Bearer", "no credential after 'Bearer'"),
    ("headers", "Authorization", "Bearer: x", "no sign follows the scheme"),
    ("headers", "Authorization", "Bearer 'x'", "quotes inside are part of the credential"),
    ("headers", "Authorization", "Bearer <TOKEN>x", None),
    ("headers", "X-Api-Key", "X-Api-Key: x", "the header's name in its value"),
    ("headers", "X-Api-Key", "{env:KEY}", "write ${env:KEY}"),
]


@pytest.mark.parametrize(("table", "name", "value", "words"), LITERAL)
def test_a_value_that_is_taken_as_it_is_and_hardly_meant_so_is_warned_of(
    table: str, name: str, value: str, words: str | None
) -> None:
    keys: dict[str, Any] = {"command": "x"} if table == "env" else {"url": "https://h/"}
    loaded = entry(**keys, **{table: {name: value}})
    if words is None:
        assert loaded.problems == ()
        return
    problem = only_problem(loaded)
    assert (problem.severity, problem.key, problem.fails_check) == ("warning", f"mcp.servers.x.{table}.{name}", False)
    assert words in problem.message
    assert loaded.plan.servers[0].problem is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("$OTHER", "is not expanded in [env]"),
        ("${env:HOME}", "is not expanded in [env]"),
        ("${input:token}", "is not expanded in [env]"),
        ("<YOUR_TOKEN>", "words of an example"),
        ("'sesame-open'", "quotes inside (')"),
        ("sesame-open\n", "begins or ends with a blank or line break"),
        ("pa$$w0rd$set", None),
        ("p@ss${x", None),
        ("...", None),
        ("", None),
        ("-----BEGIN KEY-----\nabc\n-----END KEY-----\n", None),
    ],
)
def test_a_value_of_a_placeholder_is_taken_as_it_stands(value: str, words: str | None) -> None:
    loaded = loads(f"[env]\nT = {json.dumps(value)}\n[mcp.servers.x]\ncommand='x'\nenv={{ A = '${{T:-}}' }}\n")
    assert [p.key for p in loaded.problems] == (["env.T"] if words else [])
    assert all(words and words in p.message and "sesame" not in p.message for p in loaded.problems)
    assert local(loaded).env == (("A", value),)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://your-domain.example.com/mcp", "words of an example"),
        ("https://h/{env:TENANT}/mcp", "write ${env:TENANT}"),
        ("https://h/?key={{api_key}}", "write $API_KEY"),
        ("https://h/%41BC%42/", None),
        ("https://h/$set/", None),
    ],
)
def test_a_url_with_what_another_program_would_fill_in_is_warned_of(url: str, words: str | None) -> None:
    loaded = entry(url=url)
    assert [p.key for p in loaded.problems] == (["mcp.servers.x.url"] if words else [])
    assert all(words and words in p.message for p in loaded.problems)


def test_an_authorization_header_without_a_credential_is_warned_of() -> None:
    problem = only_problem(entry(url="https://h/", headers={"Authorization": "Bearer "}))
    assert "no credential after 'Bearer'" in problem.message


def test_a_scheme_that_is_in_the_value_of_the_placeholder_too_is_seen() -> None:
    text = "[mcp.servers.x]\nurl = 'https://h/'\nheaders = { Authorization = 'Bearer $T' }\n"
    (problem,) = loads(text, {"T": "Bearer sesame-open"}, ENVIRON).problems
    assert "has 'Bearer' twice" in problem.message
    assert "sesame" not in problem.message


@pytest.mark.parametrize(
    ("name", "value", "run"),
    [
        ("A", "abc$", "abc$"),
        ("A", "cost$5", "cost$5"),
        ("A", "a$$b", "a$b"),
        ("PGPASSWORD", "abc$5!", "abc$5!"),
        ("API_KEY", "sk-$set", "sk-HIDDEN-value"),
        ("AUTH_HEADER", "Bearer $set", "Bearer HIDDEN-value"),
        ("PGPASSWORD", "pre${set}", "preHIDDEN-value"),
        ("A", "p@ss$set", "p@ssHIDDEN-value"),
        ("A", "$set", "HIDDEN-value"),
    ],
)
def test_values_that_are_meant_so_are_left_alone(name: str, value: str, run: str) -> None:
    loaded = entry(command="x", env={name: value})
    assert loaded.problems == ()
    assert local(loaded).env == ((name, run),)


def test_near_misses_of_a_remote_server_cost_it_nothing() -> None:
    plan = entry(url="https://h/", headers={"Authorization": "Bearer Bearer x"}).plan.servers[0]
    assert plan.launch == RemoteLaunch("https://h/", (("Authorization", "Bearer Bearer x"),))


def test_reading_a_megabyte_of_near_misses_ends() -> None:
    for value in ("{" * 100_000, "%A" * 50_000, "$(" * 50_000, "{{ a." * 20_000, "your-" * 25_000, "- " * 50_000):
        entry(command="npx", args=[value], env={"A_TOKEN": value})


@pytest.mark.parametrize("url", ["https://h/mcp ", " https://h/mcp", "https://h/mcp\n", "https://h/mcp\t"])
def test_a_url_with_a_blank_around_it_is_told_to_be_written_without(url: str) -> None:
    assert only_problem(entry(url=url)).message == "begins or ends with a blank or line break: write it without"


@pytest.mark.parametrize("url", ["https://h/a b", "https://h/\u200bmcp", "https://h\\mcp"])
def test_a_url_with_what_no_url_has_in_it_is_told_to_be_encoded(url: str) -> None:
    assert "percent-encode it" in only_problem(entry(url=url)).message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://h/", "must begin with https:// or http://"),
        ("h/mcp", "must begin with https:// or http://"),
        ("https:///mcp", "has no host, or port 0"),
        ("https://u:p@/mcp", "has no host, or port 0"),
        ("https://h:0/mcp", "has no host, or port 0"),
        ("https://h:65536/mcp", "is not a URL: look at its host"),
        ("https://exam%70le.com/", "is not a URL: look at its host"),
        ("https://[::1%lo]/", "is not a URL: look at its host"),
        ("https://u:p@ss@h/mcp", "is not a URL: in user and password write %40 for @, %2F for /, %23 for #, %5B for ["),
    ],
)
def test_a_url_that_nothing_could_be_connected_by_is_told_before_it_is_tried(url: str, words: str) -> None:
    assert only_problem(entry(url=url)).message == words
