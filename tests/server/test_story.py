"""`moltis why`: what a person is told, from status and history alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from datetime import timedelta

import anyio
import msgspec
import pytest
from msgspec.structs import replace
from scripted_life import EPOCH, HEALTHY, MUTE, PLAN, Script, ScriptedLife, World

from moltis.config.plan import ServerPlan, Shown
from moltis.http.heads import redirect_words
from moltis.server.actor import Actor
from moltis.server.mending import commands
from moltis.server.states import FailureKind, State
from moltis.server.status import HistoryEntry, LastError, ServerStatus
from moltis.server.story import DID, STDERR_LINES, duration, exit_in_words, tell
from moltis.times import stamp
from moltis.transport import Ended
from moltis.transport.remote.outcomes import compressed_words

NPX = replace(PLAN, shown=Shown(command="npx", arg_count=2))


def fails(ended: Ended, **script: float) -> Script:
    return Script(**{"opens_after": math.inf, "ends_after": 0.0, **script}, ended=ended)  # type: ignore[arg-type]


async def story(
    scripts: list[Script],
    after_secs: float,
    plan: ServerPlan = NPX,
    ask: Callable[[Actor[ScriptedLife]], None] = lambda actor: None,
) -> str:
    world = World(scripts, plan)
    async with world.running() as actor:
        await anyio.sleep(after_secs)
        ask(actor)
        await actor.wait_handled()
        now = EPOCH + timedelta(seconds=anyio.current_time())
        return "\n".join(tell(actor.status(), actor.history(), now))
    raise AssertionError


async def test_a_crash_loop_is_told_in_one_line_with_its_last_words_and_what_mends_it() -> None:
    dying = fails(
        Ended(FailureKind.EXITED, "exited with code 1", 1, ("Error: GITHUB_TOKEN is required", "    at main.js:3"))
    )
    assert await story([dying], 100) == "\n".join([
        "files is left alone for a while: it has failed 6 times in a row, and 5 restarts in a row are allowed.",
        "",
        "What happened:",
        "  12:00:00 to 12:00:15  It exited at once 6 times in a row, the last time with exit code 1: Error: "
        "GITHUB_TOKEN is required. After that it was left alone for 5 minutes.",
        "",
        "Its last words:",
        "  | Error: GITHUB_TOKEN is required",
        "  |     at main.js:3",
        "",
        "What comes next:",
        "  At 12:05:15, in 4 minutes, it is tried once. If that fails too, the next cooldown is twice as long, up to "
        "its limit.",
        "",
        "What to do:",
        '  moltis env set GITHUB_TOKEN    (and env = { GITHUB_TOKEN = "$GITHUB_TOKEN" } in [mcp.servers.files]: it is '
        "not given that one)",
        "  moltis logs files",
        "  moltis mcp restart files    (once it is mended)",
    ])  # fmt: skip


async def test_of_a_server_that_fails_without_a_word_it_is_told_how_long_it_tried() -> None:
    told = await story([fails(Ended(FailureKind.EXITED, "", 1), ends_after=12.0)], 27)
    assert "exited before it was ready twice in a row, the last time after 12 seconds and with exit code 1: it" in told
    told = await story([fails(Ended(FailureKind.EXITED, "", -9), ends_after=12.0)], 13)
    assert "exited before it was ready killed by SIGKILL." in told, "that says more than how long"
    told = await story([fails(Ended(FailureKind.EXITED, "", 1, ("Error: no",)), ends_after=12.0)], 13)
    assert "exited before it was ready with exit code 1: Error: no." in told


async def test_probes_after_cooldowns_are_told_apart_from_the_loop_before() -> None:
    told = await story([fails(Ended(FailureKind.EXITED, "", 1))], 2500)
    assert (
        "Tried once after each of 3 cooldowns, it exited at once, the last time with exit code 1: it said nothing."
        in told
    )
    assert "left alone for 40 minutes" in told


async def test_a_server_that_came_back_is_told_as_ready_and_not_yet_forgiven() -> None:
    told = await story([fails(Ended(FailureKind.EXITED, "killed", -9), opens_after=0.0, ends_after=3.0), HEALTHY], 60)
    assert told.startswith("files is ready, for 56 seconds now, with 3 tools.")
    assert "It became ready and then exited after 3 seconds, killed by SIGKILL." in told
    assert "Its earlier failure will be forgiven" in told
    assert "What to do" not in told


def test_what_is_odd_about_a_server_that_works_is_told() -> None:
    remark = "its list of tools changes all the time"
    status = ServerStatus(
        name="x",
        display_name=None,
        transport="stdio",
        enabled=True,
        state="ready",
        status="connected",
        remarks=[remark],
    )
    assert tell(status, [], EPOCH) == ["x is ready, with 0 tools.", "", "Worth knowing:", f"  {remark}"]


def starting(state: State, stdout: str) -> ServerStatus:
    return ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state=state, status="disconnected", command="npx",
        stdout=stdout,
    )  # fmt: skip


def test_what_a_server_that_works_writes_beside_mcp_is_told_and_asks_for_nothing() -> None:
    lines = tell(starting(State.READY, "2 lines were not JSON; the first: `hello`"), [], EPOCH)
    assert lines[-1].endswith("is passed over: 2 lines were not JSON; the first: `hello`")
    assert "What to do:" not in lines


def test_a_question_on_stdout_is_told_with_its_answer_while_the_start_waits_for_one() -> None:
    asks = "1 line was not JSON: `Need to install the following packages:`"
    assert 'add "-y" to args' in tell(starting(State.INITIALIZING, asks), [], EPOCH)[-1]


async def test_a_program_that_is_not_there_is_told_with_the_command_to_look_for_it() -> None:
    told = await story([fails(Ended(FailureKind.SPAWN_FAILED, "cannot run npx: No such file or directory"))], 0.1)
    assert "It could not be started: cannot run npx: No such file or directory." in told
    assert "which npx" in told
    assert "4 more failures will be borne" in told


@pytest.mark.parametrize(
    ("script", "after_secs", "said"),
    [
        (MUTE, 60.1, "It was not ready in time, and was ended: its MCP handshake or first listing was not done"),
        (Script(answers=False), 95.1, "stopped answering, and was ended after 95 seconds: 3 heartbeats in a row"),
        (
            Script(ends_after=2.0, ended=Ended(FailureKind.DISCONNECTED, "stdout was closed")),
            2.1,
            "closed the connection after",
        ),
        (Script(needs_login=True), 1.0, "It asked for a login."),
    ],
)
async def test_each_way_to_fail_is_said_in_words(script: Script, after_secs: float, said: str) -> None:
    assert said in await story([script], after_secs)


OFFLINE = fails(
    Ended(FailureKind.EXITED, "exited with code 1", 1, ("npm error code EAI_AGAIN",)),
    opens_after=0.1,
    ready_after=math.inf,
    ends_after=1,
)


async def test_without_a_network_the_story_says_so_and_counts_nothing() -> None:
    told = await story([OFFLINE], 500)
    assert told.startswith("files is not running: it found no network.")
    assert "It found no network 21 times in a row" in told
    assert "and so on until there is a network; no attempt is used." in told
    assert "left alone" not in told


async def test_while_the_next_try_is_under_way_the_last_words_and_what_mends_it_are_told() -> None:
    dying = fails(Ended(FailureKind.EXITED, "exited with code 1", 1, ("Error: API_TOKEN is required",)))
    told = await story([dying, MUTE], 10)
    assert told.startswith("files is there (pid 101) and is doing the MCP handshake")
    assert "it has failed once." in told
    assert "  | Error: API_TOKEN is required" in told
    assert "What to do:\n  moltis env set API_TOKEN" in told


async def test_of_many_last_words_those_that_tell_the_cause_are_cited() -> None:
    stack = [f"    at frame{n} (x.js:1:{n})" for n in range(15)]
    told = await story([fails(Ended(FailureKind.EXITED, "", 1, ("Error: profile is locked", *stack)))], 100)
    assert "  | Error: profile is locked" in told
    assert told.count("  | ") == STDERR_LINES


async def test_what_was_on_stdout_is_told_with_what_mends_it() -> None:
    lsp = "3 lines were not JSON; the first: `Content-Length: 85` (LSP framing)"
    told = await story([fails(Ended(FailureKind.EXITED, "exited with code 1", 1, (), None, b"", lsp))], 100)
    assert f"On its stdout:\n  {lsp}" in told
    assert "it speaks LSP framing" in told.partition("What to do:")[2].splitlines()[1]


@pytest.mark.parametrize(
    ("script", "after_secs", "said"),
    [
        (
            dataclasses.replace(MUTE, stop_takes=9.0),
            61,
            "12:01:00  It was not ready in time, and was ended: its MCP handshake",
        ),
        (Script(answers=False, stop_takes=9.0), 96, "12:01:35  It stopped answering, and was ended: 3 heartbeats"),
    ],
)
async def test_while_it_is_ended_for_a_failure_that_failure_is_told(
    script: Script, after_secs: float, said: str
) -> None:
    told = await story([script], after_secs)
    assert said in told
    assert "It was ended." not in told


async def test_a_single_failure_is_told_with_the_time_of_its_end() -> None:
    told = await story([fails(Ended(FailureKind.EXITED, "", 1), opens_after=0.0, ends_after=4000.0), HEALTHY], 4100)
    assert "13:06:40  It became ready and then exited after 67 minutes and with exit code 1." in told


async def test_what_people_did_is_told_as_such() -> None:
    assert "It was stopped by request." in await story([HEALTHY], 9, ask=lambda a: a.stop())


async def test_a_restart_is_told_and_not_called_a_failure() -> None:
    told = await story([HEALTHY], 9, ask=lambda actor: actor.restart())
    assert "It was restarted by request." in told
    assert "failed" not in told


async def test_an_unresolved_placeholder_is_told_with_the_command_that_sets_it() -> None:
    told = await story([], 1, plan=replace(PLAN, problem="env.KEY: ${API_KEY} resolves to nothing", launch=None))
    assert told.startswith("files cannot run: env.KEY: ${API_KEY} resolves to nothing.")
    assert "moltis env set API_KEY" in told


async def test_a_variable_of_the_environment_is_not_something_that_moltis_can_set() -> None:
    told = await story([], 1, plan=replace(PLAN, problem="env.KEY: ${env:API_KEY} resolves to nothing", launch=None))
    assert "moltis env set" not in told
    assert "set API_KEY in the environment" in told


async def test_a_history_that_begins_in_the_middle_of_a_run_is_told_from_the_next_start() -> None:
    world = World([fails(Ended(FailureKind.EXITED, "", 1)), HEALTHY])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        told = tell(actor.status(), actor.history()[1:], EPOCH + timedelta(days=3))
    assert [line for line in told if "became ready" in line] == ["  2026-11-20 12:00:00  It became ready (pid 101)."]
    assert not any("exited" in line for line in told)


def status(state: State, error: LastError | None = None) -> ServerStatus:
    return ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state=state, status="error", attempts=1,
        command="npx", last_error=error,
    )  # fmt: skip


@pytest.mark.parametrize("state", State)
def test_a_state_that_needs_a_person_names_a_command_and_no_other_state_does(state: State) -> None:
    fine = {State.IDLE, State.STARTING, State.INITIALIZING, State.READY, State.STOPPING}
    found = commands(status(state))
    assert (found == []) == (state in fine)
    assert all("moltis " in line for line in found)


@pytest.mark.parametrize("state", [State.BACKOFF, State.COOLDOWN, State.STARTING, State.INITIALIZING, State.STOPPING])
def test_what_mends_a_failing_server_is_told_whatever_is_done_with_it_just_now(state: State) -> None:
    words = "Missing environment variable: BRAVE_API_KEY"
    error = LastError(kind="startup_timeout", message="no answer", stderr_tail=[words], at="2026-11-20T12:00:00.000Z")
    told = tell(status(state, error), [], EPOCH)
    assert "it has failed once" in told[0]
    assert f"  | {words}" in told
    assert any(line.startswith("  moltis env set BRAVE_API_KEY") for line in told)


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_of_failure_has_words_and_can_be_mended(kind: FailureKind) -> None:
    assert DID[kind]
    error = LastError(kind=kind, message="it failed", at="2026-11-20T12:00:00.000Z")
    mends = "moltis mcp reauth x" if kind is FailureKind.LOGIN_UNAVAILABLE else "moltis mcp restart x"
    assert commands(status(State.BACKOFF, error))[-1].startswith(mends)


@pytest.mark.parametrize("state", [State.READY, State.BACKOFF])
def test_a_login_that_cannot_be_renewed_is_told_with_the_next_try_and_what_makes_a_new_one(state: State) -> None:
    said = "the login of server 'x' cannot be renewed now: connection refused"
    error = LastError(kind="login_unavailable", message=said, at="2026-11-20T12:00:00.000Z")
    lines = tell(status(state, error), [], EPOCH)
    assert said in lines[0]
    assert any("The renewal is tried again" in line for line in lines)
    assert any("moltis mcp reauth x" in line for line in lines)


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ("cannot open pipes: Too many open files", "ulimit -n"),
        ("cannot be reached at x.test: this machine has no file descriptor left", "ulimit -n"),
        ("cannot start a process: Resource temporarily unavailable", "ulimit -u"),
        ("no thread can be started: can't start new thread", "ulimit -u"),
        ("cannot start a process: Cannot allocate memory", "free -h"),
    ],
)
def test_what_the_machine_has_not_left_is_told_and_not_that_the_program_is_missing(message: str, command: str) -> None:
    waiting = status(State.BACKOFF, LastError(kind="no_resources", message=message, at=stamp(EPOCH)))
    lines = tell(waiting, [], EPOCH)
    assert lines[0] == "x is not running: this machine has nothing left to start it with."
    assert any(command in line for line in lines)
    assert not any("must be installed" in line for line in lines)


def test_a_server_that_nobody_can_log_in_to_is_told_with_the_next_try_and_its_tries_in_one_line() -> None:
    said = "it needed no login before, and now x.example wants a login (401) and does not say how"
    words = [("starting", "retry"), ("awaiting_auth", "auth_required"), ("backoff", "locked_out")]
    history = [
        HistoryEntry(
            at=stamp(EPOCH + timedelta(seconds=n)),
            from_="backoff",
            to=state,
            reason=reason,
            attempt=0,
            message=said if reason == "locked_out" else "a person must log in",
        )
        for n in range(4)
        for state, reason in words
    ]
    waiting = status(State.BACKOFF, LastError(kind="locked_out", message=said, at=stamp(EPOCH)))
    waiting = msgspec.structs.replace(waiting, next_retry_at=stamp(EPOCH + timedelta(seconds=9)))
    lines = tell(waiting, history, EPOCH)
    assert lines[0] == f"x is not running, for {said}."
    assert [line for line in lines if "answered 401" in line] == [
        f"  12:00:00 to 12:00:03  It answered 401 4 times in a row: {said}."
    ]
    assert not any("log in" in line and said not in line for line in lines)
    assert any(line.endswith("less and less often, until it answers; no attempt is used.") for line in lines)
    assert any("look at url and headers in [mcp.servers.x]" in line for line in lines)


@pytest.mark.parametrize(
    ("kind", "exit_code", "line", "advice"),
    [
        ("exited", 1, "Error: listen EADDRINUSE: address already in use :::3000", "port"),
        ("exited", 1, "npm error 404 '@x/y@*' is not in this registry.", 'correct "@x/y"'),
        ("exited", 1, "ModuleNotFoundError: No module named 'mcp'", "-m pip install mcp"),
        ("exited", 1, "Missing environment variable: BRAVE_API_KEY", "moltis env set BRAVE_API_KEY"),
        ("exited", 1, "getaddrinfo ENOTFOUND registry.npmjs.org", "network"),
        ("exited", 0, "", "--stdio"),
        ("exited", 127, "", "moltis doctor"),
        ("exited", -9, "", "memory"),
        ("spawn_failed", None, "Permission denied", "chmod +x"),
        ("spawn_failed", None, "cannot enter the folder /my src: no such folder", "mkdir -p '/my src'"),
        ("startup_timeout", None, "", "startup_timeout_secs"),
        (
            "handshake_failed",
            None,
            "initialize was answered with error -32602: no (it was offered 2025-11-25)",
            '"2025-06',
        ),
        (
            "handshake_failed",
            None,
            "initialize was answered with error -32602: no (it was offered 2025-06-18)",
            '"2025-03',
        ),
        ("connect_failed", None, "answered initialize with HTTP 400: Unsupported protocol version", '"2025-06-18"'),
        ("handshake_failed", None, 'the server speaks MCP 2026-07-28; protocol = "legacy" in its entry a', '"auto"'),
        ("unresponsive", None, "", "heartbeat_timeout_secs"),
    ],
)
def test_what_is_often_the_matter_is_guessed(kind: str, exit_code: int | None, line: str, advice: str) -> None:
    error = LastError(kind=kind, message=line, at="", exit_code=exit_code, stderr_tail=[line])
    assert any(advice in found for found in commands(status(State.BACKOFF, error)))


@pytest.mark.parametrize("kind", ["handshake_failed", "listing_failed", "connect_failed"])
@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("its tools could not be listed: server 'x' " + compressed_words("br"), "have compression by br switched off"),
        (redirect_words("/b", "https://a.example/m"), 'write url = "https://a.example/b" in [mcp.servers.x]'),
        (redirect_words("http://a/b", "https://a/m"), 'write url = "https://a/b" in [mcp.servers.x]'),
        (compressed_words("zstd, gzip"), "have compression by zstd, gzip switched off"),
        ("answered initialize with an unexpected content-type: 'text/html; x=y'", "with content-type 'text/html; x=y'"),
        ("answered initialize with an unexpected content-type: none; the request is", "with content-type none"),
    ],
)
def test_what_an_answer_is_refused_for_is_advised_on_first(kind: str, said: str, advice: str) -> None:
    of_url = msgspec.structs.replace(status(State.BACKOFF, LastError(kind=kind, message=said, at="")), command=None)
    first, *rest = commands(of_url)
    assert advice in first
    assert not any("legacy" in line for line in rest)


@pytest.mark.parametrize(
    "message",
    [
        "the server speaks MCP 2099-01-01; this program speaks 2024-11-05, 2025-11-25, 2026-07-28",
        "the answer to initialize has no `protocolVersion`",
        "initialize was answered with error -32602: no (it was offered 2024-11-05)",
        "initialize was answered with error -32602: no (it was offered 2025-11-25, and then 2025-06-18)",
        "initialize was answered with error -32603: no (it was offered 2025-11-25)",
        "answered initialize with HTTP 404",
    ],
)
@pytest.mark.parametrize("kind", ["handshake_failed", "connect_failed", "listing_failed"])
def test_no_key_is_named_that_does_not_mend_it(kind: str, message: str) -> None:
    error = LastError(kind=kind, message=message, at="")
    assert not any("protocol = " in line for line in commands(status(State.BACKOFF, error)))


@pytest.mark.parametrize(
    ("message", "mends"),
    [
        ("is reached at https://a.example and wants messages at http://a.example: it does not", "X-Forwarded-Proto"),
        ("answered initialize with HTTP 404 at https://a.example/messages?...", "root_path"),
        ("answered initialize with HTTP 405 at https://a.example/messages?...", "root_path"),
        ("answered initialize with a page (text/html) at https://a.example/messages", "root_path"),
        ("answered initialize with HTTP 404", "`url` is right"),
        ("answered initialize with HTTP 500 at https://a.example/messages", "`url` is right"),
    ],
)
def test_a_proxy_before_a_remote_server_is_named_with_what_it_lacks(message: str, mends: str) -> None:
    error = LastError(kind="connect_failed", message=message, at="")
    assert mends in commands(status(State.BACKOFF, error))[0]


@pytest.mark.parametrize(
    ("secs", "words"),
    [
        (0.2, "less than a second"),
        (1, "1 second"),
        (119, "119 seconds"),
        (300, "5 minutes"),
        (7200, "2 hours"),
        (9000, "2 hours 30 minutes"),
        (10 * 86_400, "10 days"),
    ],
)
def test_a_duration_is_said_as_a_person_would(secs: float, words: str) -> None:
    assert duration(secs) == words


def test_an_exit_code_is_said_as_code_or_signal() -> None:
    assert [exit_in_words(code) for code in (0, 3, 137, 190, -11, -40)] == [
        "with exit code 0", "with exit code 3", "with exit code 137 (128 + SIGKILL)", "with exit code 190",
        "killed by SIGSEGV", "killed by signal 40",
    ]  # fmt: skip
