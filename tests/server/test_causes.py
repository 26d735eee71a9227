"""What the last words of a server mean: the cause that has to be mended first, and never one that is not theirs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.server.causes import CAUSES, About, is_offline, recognised
from moltis.server.mending import commands, in_its_words
from moltis.server.states import FailureKind
from moltis.server.status import LastError, ServerStatus
from moltis.server.story import tell

EPOCH_TEXT = "2026-11-20T12:00:00.000Z"


def first(*lines: str, command: str = "npx", env: tuple[str, ...] = (), kind: str = "exited") -> str:
    """Give the first advice; empty for none."""
    sources = tuple((name, f"env set {name}") for name in env)
    return next(iter(recognised(About("x", lines, command, sources, kind)).advice), "")


@pytest.mark.parametrize(
    ("lines", "command", "said"),
    [
        # what other launchers ask and refuse
        (
            ['error: NotCapable: Requires net access to "x", run again with the --allow-net flag'],
            "deno",
            'add "--allow-net" to args in [mcp.servers.x], right after "run"',
        ),
        (
            [
                'error: Uncaught PermissionDenied: Requires read access to "/s", specify the required permissions '
                "during compilation using `deno compile --allow-read`"
            ],
            "deno",
            'add "--allow-read" to args',
        ),
        (
            ["! Corepack is about to download https://registry.npmjs.org/pnpm/-/pnpm-9.0.0.tgz"],
            "pnpm",
            'env = { COREPACK_ENABLE_DOWNLOAD_PROMPT = "0" } in [mcp.servers.x]',
        ),
        (
            ["? Do you want to continue? [Y/n] ", "! Corepack is about to download https://r/yarn-4.tgz"],
            "yarn",
            "env = { COREPACK_ENABLE_DOWNLOAD_PROMPT",
        ),
        (
            ["error: could not determine executable to run for package foo"],
            "bunx",
            'write "--package", "PACKAGE", "PROGRAM" as args in',
        ),
        (
            ["  × Failed to build `psycopg2==2.9`", "      Error: pg_config executable not found."],
            "uvx",
            'add "--no-build" to args',
        ),
        (["ERROR: Failed building wheel for lxml"], "pipx", "apt-get install build-essential python3-dev"),
        (
            ["error: Failed to build: `pyodbc==5`", "  fatal error: sql.h: No such file or directory"],
            "uvx",
            'add "--no-build" to args',
        ),
        # npx's folder, wherever it is and however it is told
        (
            ["Error: Cannot find package 'zod' imported from /h/.npm/_npx/8af3/node_modules/x/i.js"],
            "npx",
            "rm -rf /h/.npm/_npx/8af3 ",
        ),
        (
            ["Error [ERR_MODULE_NOT_FOUND]: Cannot find module 'file:///h/.npm/_npx/8af3/node_modules/x.js'"],
            "npx",
            "rm -rf /h/.npm/_npx/8af3 ",
        ),
        (
            [
                "npm ERR! code ENOTEMPTY",
                "npm ERR! path /my cache/_npx/8af3/node_modules/x",
                "npm ERR! ENOTEMPTY: rename '/my cache/_npx/8af3/node_modules/x'",
            ],
            "npx",
            "rm -rf ",
        ),
        (
            ["npm error code ENOTEMPTY", "npm error ENOTEMPTY: rename '[REDACTED]/_npx/8af3/x'"],
            "npx",
            'rm -rf "$(npm config get cache)"/_npx/8af3 ',
        ),
        (
            ["Error: The module '/h/_npx/8af3/n.node' was compiled for NODE_MODULE_VERSION 93"],
            "npx",
            "rm -rf /h/_npx/8af3 ",
        ),
        (["npm error code EINTEGRITY", "npm error path /h/.npm/_npx/00ff/x"], "npx", "rm -rf /h/.npm/_npx/00ff "),
        # ... and what only has it in its stack
        (
            [
                "Error: ENOENT: no such file or directory, open '/srv/conf.json'",
                "    at x (/h/.npm/_npx/8af3/i.js:1:2)",
            ],
            "npx",
            "ls -ld /srv/conf.json",
        ),
        (
            ["Error: Cannot find module '/srv/conf.js'", "Require stack:", "- /h/.npm/_npx/8af3/i.js"],
            "npx",
            "correct /srv/conf.js in args",
        ),
        (
            [
                "Error: listen EADDRINUSE: address already in use 127.0.0.1:8080",
                "    at x (/h/.npm/_npx/8af3/i.js:1:2)",
            ],
            "npx",
            "sport = :8080",
        ),
        # Python, in the words of pip, uv and the interpreter
        (["ERROR: Package 'foo' requires a different Python: 3.9.2 not in '>=3.10'"], "python3.9", "3.10"),
        (["Because the current Python version (3.14.0) does not satisfy Python<3.13"], "uvx", 'add "--python", "3.12"'),
        (
            ["Because the requested Python version does not satisfy Python>=3.11,<3.13 and all"],
            "uvx",
            'add "--python", "3.11"',
        ),
        (
            ["ImportError: cannot import name 'FastMCP' from 'mcp.server' (/x/mcp/server/__init__.py)"],
            "uvx",
            'add "--with", "mcp<2"',
        ),
        (
            ["ModuleNotFoundError: No module named 'mcp.server.fastmcp'"],
            "/opt/v/bin/python",
            "/opt/v/bin/python -m pip install 'mcp<2'",
        ),
        (["/usr/bin/python3: No module named mcp_server_git"], "python3", "python3 -m pip install mcp_server_git"),
        (["ERROR: No matching distribution found for foo-mcp"], "pipx", 'correct "foo-mcp" in args'),
        (
            [
                "An executable named `foo` is not provided by package `foo-mcp`.",
                "The following executables are available:",
                "- foo-stdio",
                "- foo-http",
            ],
            "uvx",
            'by "--from", "foo-mcp", "foo-stdio"',
        ),
        # certificates
        (["npm error code SELF_SIGNED_CERT_IN_CHAIN"], "npx", "NODE_EXTRA_CA_CERTS"),
        (
            [
                "Error: unable to get local issuer certificate",
                "    at TLSSocket (node:_tls_wrap)",
                "code: 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY'",
            ],
            "node",
            "NODE_EXTRA_CA_CERTS",
        ),
        (
            ["ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"],
            "python3",
            "SSL_CERT_FILE",
        ),
        # what a shell says
        (["bash: line 1: gh: command not found"], "bash", "which gh"),
        (["/usr/bin/env: ‘python’: No such file or directory"], "server", "which python"),
        (["Error: spawn git ENOENT"], "node", "which git"),
        # docker
        (
            ["docker: Error response from daemon: Bind for 0.0.0.0:8000 failed: port is already allocated."],
            "docker",
            "sport = :8000",
        ),
        (["exec /usr/bin/server: exec format error"], "docker", "file "),
        # variables
        (["pydantic: field required: OPENAI_API_KEY"], "uvx", "moltis env set OPENAI_API_KEY"),
        (["Error: Please provide NOTION_TOKEN", "Usage: notion [options]"], "npx", "moltis env set NOTION_TOKEN"),
        (
            ["Update check failed: getaddrinfo ENOTFOUND registry.npmjs.org", "Error: API_TOKEN is required"],
            "npx",
            "moltis env set API_TOKEN",
        ),
        # no variables, though they look so
        (
            ["Error [ERR_PACKAGE_PATH_NOT_EXPORTED]: Package subpath './x' is not defined by \"exports\" in /srv/p"],
            "node",
            "",
        ),
        (["code: 'MODULE_NOT_FOUND' is missing"], "node", ""),
        # arguments
        (["error: unrecognized arguments: --port 80"], "python3", 'remove "--port"'),
        (["Error: Unknown flag: --foo"], "server", 'remove "--foo"'),
        (["flag provided but not defined: -stdio"], "server", 'remove "-stdio"'),
        (["Usage: mcp-server-filesystem <allowed-directory>"], "npx", "correct args"),
        # paths and rights
        (["PermissionError: [Errno 13] Permission denied: '/srv/a b'"], "python3", "chmod u+rwX '/srv/a b'"),
        (["Error: EACCES: permission denied, mkdir '/var/lib/x'"], "node", "chmod u+rwX /var/lib/x"),
        # what is held
        (["sqlite3.OperationalError: database is locked"], "uvx", "pgrep -af uvx"),
        (
            ["[Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use"],
            "uvx",
            "sport = :8000",
        ),
        (
            ["Error: ENOSPC: System limit for number of file watchers reached, watch '/x'"],
            "node",
            "sudo sysctl fs.inotify.max_user_watches",
        ),
        # a backend
        (
            ['psycopg2.OperationalError: connection to server at "localhost", port 5432 failed: Connection refused'],
            "uvx",
            "start what listens at",
        ),
        (["HTTPError: 401 Client Error: Unauthorized for url: https://api.x.test"], "uvx", "give it a key"),
        # what only warns
        (
            [
                "Warning: Setting the NODE_TLS_REJECT_UNAUTHORIZED environment variable to '0' is required by nobody",
                "npm warn exec The following package was not found and will be installed: x@1.0.0",
                "Error: listen EADDRINUSE :::80",
            ],
            "npx",
            "sport = :80'",
        ),
        (["WARN: API_TOKEN is not set"], "npx", "moltis env set API_TOKEN"),
        (["FileNotFoundError: [Errno 2] No such file or directory: 'git'"], "uvx", "which git"),
        # remote servers
        (["answered initialize with HTTP 403"], "", 'headers = { Authorization = "Bearer $TOKEN" }'),
        (["its certificate is signed by nobody this machine trusts (ca_file names a private CA)"], "", "ca_file = "),
        # errors on stdout
        (["3 lines were not JSON; the first: `hi`; among them: `Error: API_TOKEN is required`"], "x", "moltis env set"),
    ],
)
def test_the_first_advice_is_the_line_that_mends_it(lines: list[str], command: str, said: str) -> None:
    assert said in first(*lines, command=command)
    assert bool(first(*lines, command=command)) == bool(said)


@pytest.mark.parametrize(
    "line",
    [
        "npm error code EAI_AGAIN",
        "npm ERR! code ETIMEDOUT",
        "error: Failed to fetch: `https://pypi.org/simple/foo/`",
        "httpx.ConnectError: [Errno -2] Name or service not known",
        "dial tcp: lookup slack.com: no such host",
        "OSError: [Errno 101] Network is unreachable",
        "fatal: Could not resolve host: github.com",
        "cannot be reached at mcp.example.com: its name cannot be resolved",
        "its tools could not be listed: tools/list was answered with error -32603: fetch failed",
    ],
)
def test_what_says_that_there_is_no_network_is_told_so(line: str) -> None:
    assert is_offline([line])
    assert "ping" in first(line)
    assert not is_offline([line, "Error: API_TOKEN is required"]), "what a person can mend comes first"


@pytest.mark.parametrize(
    "line",
    ["Error: connect ECONNREFUSED 127.0.0.1:5432", "exited with code 1", "npm error code E404", "timed out", ""],
)
def test_what_does_not_say_so_is_not_taken_for_it(line: str) -> None:
    assert not is_offline([line])


def status_of(line: str, *withheld: str) -> ServerStatus:
    error = LastError(kind="exited", message="exited with code 1", at=EPOCH_TEXT, exit_code=1, stderr_tail=[line])
    return ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state="backoff", status="error", attempts=1,
        command="npx", last_error=error, env_withheld=list(withheld),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("npm error code EAI_AGAIN", 'env_pass = ["HTTPS_PROXY"]'),
        ("getaddrinfo failed, and API_TOKEN is required", "moltis env set API_TOKEN"),
        ("connect ECONNREFUSED 127.0.0.1:5432", "start what listens at 127.0.0.1:5432"),
    ],
)
def test_a_proxy_that_is_not_passed_on_comes_first_where_the_way_out_is_the_cause(line: str, said: str) -> None:
    assert said in commands(status_of(line, "HTTPS_PROXY"))[0]
    assert "env_pass" not in commands(status_of(line))[0]


def test_a_server_that_serves_http_is_told_of_its_flag_only_where_it_was_not_ready_in_time() -> None:
    line = "Uvicorn running on http://127.0.0.1:8000"
    assert 'add "--stdio"' in first(line, kind="startup_timeout")
    assert first(line) == ""


def test_a_variable_that_the_entry_passes_on_is_only_to_be_set() -> None:
    assert "and env =" in first("GITHUB_TOKEN is required")
    assert "and env =" not in first("GITHUB_TOKEN is required", env=("GITHUB_TOKEN",))


@pytest.mark.parametrize(
    "line",
    [
        "ENOTEMPTY '/h/_npx/../../etc/_npx/8af3/x'",
        "ENOTEMPTY '/_npx/$(reboot)/x'",
        "ENOTEMPTY /h/_npx/8af3;reboot",
        'container name "/x; reboot" is already in use',
        "No module named 'x; reboot'",
        "sh: 1: x;reboot: not found",
        "Cannot find module 'x; reboot'",
        "pull access denied for $(reboot), repository",
        "ENOENT: no such file or directory, open '/x$(reboot)'",
        "connect ECONNREFUSED $(reboot):1",
    ],
)
def test_what_a_server_says_cannot_be_made_a_command_of(line: str) -> None:
    for said in recognised(About("x", (line,), "npx")).advice:
        what = said.partition("    (")[0]
        bare = "".join(what.split("'")[::2])  # what a shell would take as it stands
        assert "reboot" not in bare, what
        assert "/.." not in what


@given(st.lists(st.text(max_size=200), max_size=8), st.sampled_from([kind.value for kind in FailureKind]))
def test_whatever_is_said_the_story_can_be_told(lines: list[str], kind: str) -> None:
    from datetime import UTC, datetime

    error = LastError(kind=kind, message="it failed", at=EPOCH_TEXT, exit_code=1, stderr_tail=lines)
    status = ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state="backoff", status="error", attempts=1,
        command="npx", last_error=error,
    )  # fmt: skip
    assert tell(status, [], datetime.now(UTC))
    assert commands(status)


@pytest.mark.parametrize("text", ["a", " ", "'", "/", "/_npx/", "ENOENT '", "port ", "must be required "])
def test_a_hostile_line_costs_no_time(text: str) -> None:
    began = time.process_time()
    for cause in CAUSES:
        cause.search((text * 1024)[:1024])
    for n in range(5):
        first(*[f"{n}{text * 1024}"] * 20)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("env set API_TOKEN", "moltis env set API_TOKEN    (the service"),
        ("env set MY_PAT", "moltis env set MY_PAT    (the service"),
        ("[env] MY_PAT", 'MY_PAT = "..." in [env] of moltis.toml    ('),
        (
            "environment MY_PAT",
            "set MY_PAT in the environment that the daemon is started with, and start it again    (",
        ),
        (
            "moltis.toml",
            'moltis env set API_TOKEN    (and env = { API_TOKEN = "$API_TOKEN" } in [mcp.servers.x], in place',
        ),
    ],
)
def test_another_value_goes_to_where_the_variable_has_it_from(source: str, said: str) -> None:
    about = About("x", ("Error: 401 Unauthorized",), "server", (("API_TOKEN", source),), "exited")
    assert recognised(about).advice[0].startswith(said)


def test_a_variable_that_the_entry_does_not_have_is_set_and_passed_on() -> None:
    (advice,) = recognised(About("x", ("Error: API_TOKEN is required",), "server")).advice
    assert advice.startswith('moltis env set API_TOKEN    (and env = { API_TOKEN = "$API_TOKEN" } in [mcp.servers.x]: ')


def test_each_placeholder_without_a_value_is_told_how_to_give_it_one() -> None:
    message = (
        "env.A: $A resolves to nothing: set it in [env], or with `moltis env set A`; "
        "env.B: ${env:B} resolves to nothing: the daemon's environment has no B"
    )
    status = ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state="invalid", status="error",
        last_error=LastError(kind="config", message=message, at=EPOCH_TEXT),
    )  # fmt: skip
    assert [line.partition("    (")[0] for line in commands(status)] == [
        "moltis env set A",
        "set B in the environment that the daemon is started with, and start it again",
        "moltis config check",
    ]


KUBERNETES = [
    "Error: unable to create kubernetes target provider: no current-context is set and no contexts are defined in "
    "kubeconfig",
    "Usage:",
    "  kubernetes-mcp-server [command] [options] [flags]",
    "",
    "Flags:",
    "      --cluster-provider string   Cluster provider strategy to use (one of: kubeconfig, in-cluster, disabled)",
    "      --kubeconfig string         Path to the kubeconfig file to use for authentication",
]
NO_CLUSTER = (
    "invalid configuration: no configuration has been provided, try setting KUBERNETES_MASTER environment variable"
)
OBSIDIAN = [
    "Traceback (most recent call last):",
    '  File "/c/bin/mcp-obsidian", line 4, in <module>',
    "    from mcp_obsidian import main",
    '  File "/c/lib/python3.11/site-packages/mcp_obsidian/server.py", line 31, in <module>',
    '    raise ValueError(f"OBSIDIAN_API_KEY environment variable required. Working directory: {os.getcwd()}")',
    "ValueError: OBSIDIAN_API_KEY environment variable required. Working directory: /h/own",
]
IN_A_GROUP = [
    "  + Exception Group Traceback (most recent call last):",
    '  |   File "/c/bin/server", line 10, in <module>',
    "  |     sys.exit(main())",
    "  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)",
    "  +-+---------------- 1 ----------------",
    "    | Traceback (most recent call last):",
    '    |   File "/c/server.py", line 31, in lifespan',
    '    |     raise ConfigError("no vault could be opened")',
    "    | server.ConfigError: no vault could be opened",
    "    +------------------------------------",
]
CODEX = [
    "WARNING: proceeding, even though we could not create PATH aliases: Refusing to create helper binaries",
    "Error: stdin is not a terminal",
    "",
    "Stack backtrace:",
    "   0: <unknown>",
    "   1: <unknown>",
]


@pytest.mark.parametrize(
    ("lines", "why", "first_advice"),
    [
        (KUBERNETES, KUBERNETES[0], 'env = { KUBECONFIG = "~/.kube/config" } in [mcp.servers.x]'),
        ([NO_CLUSTER], NO_CLUSTER, 'env = { KUBECONFIG = "~/.kube/config" } in [mcp.servers.x]'),
        (OBSIDIAN, OBSIDIAN[-1], "moltis env set OBSIDIAN_API_KEY"),
        (IN_A_GROUP, "server.ConfigError: no vault could be opened", "moltis logs x"),
        (CODEX, "Error: stdin is not a terminal", "correct args in [mcp.servers.x]"),
        (["A Shortcut api token is required."], "A Shortcut api token is required.", "moltis env set NAME"),
        (["Error: No API key configured"], "Error: No API key configured", "moltis env set NAME"),
        (["please provide an access token"], "please provide an access token", "moltis env set NAME"),
        (
            ["Error: missing required config: GROK_SEARCH_API_KEY", "", "Stack backtrace:", "   0: <unknown>"],
            "Error: missing required config: GROK_SEARCH_API_KEY",
            "moltis env set GROK_SEARCH_API_KEY",
        ),
        (
            ["Error: accepts 1 arg(s), received 0", "Usage:", "  server DIR"],
            "Error: accepts 1 arg(s), received 0",
            "correct args in [mcp.servers.x]",
        ),
        (
            ["usage: server [-h] path", "server: error: the following arguments are required: path"],
            "server: error: the following arguments are required: path",
            "correct args in [mcp.servers.x]",
        ),
        (["Error: app::missing_workspace", "", "  x No root"], "Error: app::missing_workspace", "moltis logs x"),
        ([], "it said nothing", "run `npx` with its args by hand"),
    ],
)  # fmt: skip
def test_real_programs_words_are_told_by_the_line_that_matters(lines: list[str], why: str, first_advice: str) -> None:
    status = ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state="backoff", status="error", attempts=1,
        command="npx", last_error=LastError(kind="exited", message="", at=EPOCH_TEXT, exit_code=1, stderr_tail=lines),
    )  # fmt: skip
    assert in_its_words(status) == why
    assert commands(status)[0].startswith(first_advice)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "[mcp.servers.x] has no env;"),
        (["MYSQL_HOST"], "env of [mcp.servers.x] has MYSQL_HOST;"),
        ([f"N{n}" for n in range(7)], "env of [mcp.servers.x] has N0, N1, N2, N3, N4 and 2 more;"),
    ],
)
def test_of_a_server_that_ends_without_a_word_it_is_told_what_its_entry_sets(names: list[str], told: str) -> None:
    status = ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state="backoff", status="error", attempts=1,
        command="npx", env_names=["HTTPS_PROXY", *names], env_sources=dict.fromkeys(names, ""),
        last_error=LastError(kind="exited", message="", at=EPOCH_TEXT, exit_code=1),
    )  # fmt: skip
    assert told in commands(status)[0]


def test_a_key_that_is_wanted_goes_to_the_variable_that_is_there_for_it() -> None:
    about = About("x", ("A Shortcut api token is required.",), "npx", (("SHORTCUT_API_TOKEN", "env set MINE"),))
    assert recognised(about).advice == ("moltis env set MINE    (it wants a key)",)
