"""A local server over its standard streams, well-behaved and otherwise. Real processes, real pipes."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from patience import PATIENCE

from moltis.config.limits import Limits
from moltis.config.plan import StdioLaunch
from moltis.server.states import FailureKind
from moltis.transport import ConnectionClosed, ConnectionFull, Ended, OpenFailed, exit_words
from moltis.transport.containment import Warden
from moltis.transport.stdio import STDERR_TURN_LINES, TURN_LINES, StdioConnection, StdioTransport, child_environment
from moltis.transport.warden import ProcTree

WITHIN = 30.0
"""Seconds after which what is waited for hangs: less than what the servers here would sleep."""
LIMITS = Limits(stop_eof_secs=0.3, stop_term_secs=0.3, request_timeout_secs=0.5, max_message_bytes=2_000_000)


class Seen:
    """What a transport reported."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.stderr: list[str] = []
        self.dropped = 0
        self.oversized = 0
        self.busy = -math.inf

    def busy_until(self) -> float:
        return self.busy

    def count_dropped(self, lines: int) -> None:
        self.dropped += lines

    def count_oversized(self, messages: int) -> None:
        self.oversized += messages

    async def until(self, messages: int, within: float = WITHIN) -> None:
        with anyio.fail_after(within):
            while len(self.messages) < messages:  # noqa: ASYNC110 - a callback has no event to wait for
                await anyio.sleep(0.002)


@pytest.fixture
async def warden() -> AsyncIterator[Warden]:
    warden = Warden()
    yield warden
    with anyio.fail_after(PATIENCE):
        await warden.aclose()


@pytest.fixture
def seen() -> Seen:
    return Seen()


Start = Callable[..., Awaitable[StdioConnection]]


@pytest.fixture
def start(warden: Warden, seen: Seen) -> Start:
    async def start(*argv: str, cwd: str | None = None, **limits: float) -> StdioConnection:
        transport = StdioTransport(
            "s",
            StdioLaunch(argv[0], argv[1:], (("OWN", "yes"),), cwd),
            Limits(**{name: limits.get(name, getattr(LIMITS, name)) for name in Limits.__slots__}),  # type: ignore[arg-type]
            warden,
            scrub=lambda text: text.replace("hunter22", "[REDACTED]"),
            on_stderr_line=seen.stderr.append,
            on_stderr_dropped=seen.count_dropped,
            on_oversized=seen.count_oversized,
        )
        return await transport.open(seen.messages.append, seen)

    return start


async def end(connection: StdioConnection, within: float = WITHIN) -> Ended:
    with anyio.fail_after(within):
        return await connection.wait_closed()


async def test_messages_go_both_ways_whole_and_in_order(start: Start, seen: Seen) -> None:
    connection = await start("cat")
    sent = [b"%d " % n + b"x" * size for n, size in enumerate((0, 1, 1000, 70_000, 1_000_000, 3))]
    for message in sent:
        connection.send(message)
    await seen.until(len(sent))
    assert seen.messages == sent
    connection.stop()
    assert await end(connection) == Ended(FailureKind.EXITED, "exited with code 0", 0, ())
    assert await end(connection) == Ended(FailureKind.EXITED, "exited with code 0", 0, ())


async def test_what_programs_print_around_messages_is_tolerated(start: Start, seen: Seen) -> None:
    script = r"""printf '\357\273\277{"a":1}\r\n\n  \n{"b":2}\n\377\000\nlast without newline'"""
    connection = await start("sh", "-c", script)
    await end(connection)
    assert seen.messages == [b'{"a":1}', b'{"b":2}', b"\xff\0"]


async def test_a_message_over_the_limit_is_counted_and_the_next_one_read(start: Start, seen: Seen) -> None:
    connection = await start("sh", "-c", "head -c 3000000 /dev/zero; echo; echo next")
    await end(connection)
    assert (seen.messages, seen.oversized) == ([b"next"], 1)


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ('{"jsonrpc":"2.0","id":7,"result":{"x":"', '"}}'),
        ('{"result":{"x":"', '"},"jsonrpc":"2.0","id":7}'),
        ('{"result":{"x":"', '"},"id":7,"jsonrpc":"2.0"}'),
        ('{"jsonrpc":"2.0","result":{"x":"', '"},"id":7}'),
        ('{"id": 7, "jsonrpc": "2.0", "error": {"code":1,"message":"', '"}}'),
    ],
)
async def test_a_reply_over_the_limit_is_answered_by_an_error_that_names_the_limit(
    start: Start, seen: Seen, head: str, tail: str
) -> None:
    connection = await start("sh", "-c", f"printf '%s' '{head}'; head -c 3000000 /dev/zero; echo '{tail}'; echo next")
    await end(connection)
    error, following = seen.messages
    answer = json.loads(error)
    assert answer["id"] == 7
    assert "(max_message_bytes)" in answer["error"]["message"]
    assert (following, seen.oversized) == (b"next", 1)


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ('{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"', '","id":7}}'),
        ('{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"x":"', '"}}'),
        ('{"level":30,"id":7,"error":"', '"}'),
        ('{"error":"', '","id":7}'),
        ('{"result":{"x":"', '"},"jsonrpc":"2.0","id":null}'),
    ],
)
async def test_what_else_is_over_the_limit_answers_nothing(start: Start, seen: Seen, head: str, tail: str) -> None:
    connection = await start("sh", "-c", f"printf '%s' '{head}'; head -c 3000000 /dev/zero; echo '{tail}'; echo next")
    await end(connection)
    assert [m for m in seen.messages if b'"id":7' in m] == []
    assert seen.messages[-1] == b"next"


async def test_the_last_words_before_an_exit_are_read(start: Start, seen: Seen) -> None:
    script = "import os; os.write(1, b'm\\n' * 30_000); os.write(2, b'why hunter22\\nbecause'); os._exit(3)"
    connection = await start(sys.executable, "-I", "-S", "-c", script)
    ended = await end(connection)
    assert ended == Ended(FailureKind.EXITED, "exited with code 3", 3, ("why [REDACTED]", "because"))
    assert len(seen.messages) == 30_000
    assert seen.stderr == ["why [REDACTED]", "because"]


async def most_per_turn(seen: list[Any], connection: StdioConnection) -> int:
    """Follow a server to its end and give how much of it arrived within one turn of the loop, at most."""
    counts: list[int] = [len(seen)]

    async def count() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            counts.append(len(seen))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await end(connection, within=30)
        tasks.cancel_scope.cancel()
    return max(after - before for before, after in itertools.pairwise(counts))


NUMBERS = "import os; os.write({fd}, b''.join(b'%d\\n' % n for n in range(20_000))); {then}"


@pytest.mark.parametrize("then", ["os._exit(0)", "import time; time.sleep(0.5)"], ids=["and exits", "and lives"])
async def test_a_flood_of_short_lines_is_read_by_turns_in_order_and_whole(start: Start, seen: Seen, then: str) -> None:
    connection = await start(sys.executable, "-I", "-S", "-c", NUMBERS.format(fd=1, then=then))
    most = await most_per_turn(seen.messages, connection)
    assert seen.messages == [b"%d" % n for n in range(20_000)]
    assert most <= 2 * TURN_LINES, "two while it is drained: the end of one read and the beginning of the next"


async def test_messages_that_take_long_get_a_turn_each(
    start: Start, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moltis.transport.stdio.TURN_SECS", -1)
    script = "printf '1\\n2\\n3\\n4\\n5\\n6\\n'; cat"
    connection = await start("sh", "-c", script)
    connection.stop()
    assert await most_per_turn(seen.messages, connection) <= 2
    assert seen.messages == [b"1", b"2", b"3", b"4", b"5", b"6"]


async def test_many_lines_on_stderr_are_reported_by_turns_too(start: Start, seen: Seen) -> None:
    script = "import os; os.write(2, b''.join(b'%d\\n' % n for n in range(2000)))"
    connection = await start(sys.executable, "-I", "-S", "-c", script)
    most = await most_per_turn(seen.stderr, connection)
    assert seen.stderr == [str(n) for n in range(2000)]
    assert most <= 2 * STDERR_TURN_LINES


@pytest.mark.parametrize("redirect", ["", ">&2"], ids=["stdout", "stderr"])
@pytest.mark.parametrize("line", ["a", "''"], ids=["short lines", "blank lines"])
async def test_a_server_that_floods_for_ever_is_ended_like_any_other(start: Start, line: str, redirect: str) -> None:
    connection = await start("sh", "-c", f"exec yes {line} {redirect}")
    await anyio.sleep(0.1)
    connection.stop()
    assert (await end(connection)).exit_code == -signal.SIGTERM
    connection = await start("sh", "-c", f"exec yes {line} {redirect}")
    await anyio.sleep(0.1)
    connection.kill()
    assert (await end(connection)).exit_code == -signal.SIGKILL


async def test_a_grandchild_that_floods_the_pipe_after_the_exit_does_not_keep_it_open(start: Start) -> None:
    connection = await start("sh", "-c", "(setsid yes a &) ; exit 4")
    assert (await end(connection)).exit_code == 4


async def test_a_flood_before_stdout_is_closed_is_read_before_the_server_is_ended(start: Start, seen: Seen) -> None:
    then = "os.close(1); import time; time.sleep(50)"
    connection = await start(sys.executable, "-I", "-S", "-c", NUMBERS.format(fd=1, then=then))
    ended = await end(connection)
    assert (ended.kind, ended.message) == ("disconnected", "closed its stdout and ran on")
    assert len(seen.messages) == 20_000


async def test_a_grandchild_that_holds_the_pipes_delays_nothing(start: Start) -> None:
    connection = await start("sh", "-c", "(setsid sleep 50 &) ; echo oh >&2; exit 4")
    assert await end(connection) == Ended(FailureKind.EXITED, "exited with code 4", 4, ("oh",))


async def test_colours_are_taken_out_of_stderr_and_indentation_is_not(start: Start, seen: Seen) -> None:
    script = r"""printf '\033[31mERROR\033[39m no key\n    at x.js:1\n10%%\r99%%\n' >&2; exit 4"""
    assert (await end(await start("sh", "-c", script))).stderr_tail == ("ERROR no key", "    at x.js:1", "99%")
    assert seen.stderr == ["ERROR no key", "    at x.js:1", "99%"]


async def test_a_last_line_on_stdout_that_has_no_end_is_told(start: Start) -> None:
    connection = await start("sh", "-c", "echo one; printf 'Ok to proceed? (y) '; exit 1")
    assert (await end(connection)).unfinished == b"Ok to proceed? (y) "


async def test_a_flood_on_stderr_is_drained_counted_and_its_end_kept(start: Start, seen: Seen) -> None:
    connection = await start("sh", "-c", "yes 'flood, flood, flood' | head -c 100000000 >&2; echo over >&2")
    ended = await end(connection, within=60)
    assert ended.stderr_tail[-2:] == ("flood, flood, flood", "over")
    assert sum(map(len, seen.stderr)) < 4_000_000
    assert seen.dropped + len(seen.stderr) >= 100_000_000 // 20


@pytest.mark.parametrize(
    ("script", "limits", "code", "message"),
    [
        ("echo up; cat", {"stop_eof_secs": WITHIN}, 0, "exited with code 0"),
        (
            "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done",
            {"stop_term_secs": WITHIN},
            5,
            "exited with code 5",
        ),
        ("echo up; sleep 50", {}, -signal.SIGTERM, "was killed by SIGTERM"),
        ("trap '' TERM; echo up; while :; do sleep 0.01; done", {}, -signal.SIGKILL, "was killed by SIGKILL"),
    ],
    ids=["eof", "SIGTERM minded", "SIGTERM not minded", "SIGKILL"],
)
async def test_stopping_is_as_gentle_as_the_server_lets_it(
    start: Start, seen: Seen, script: str, limits: dict[str, float], code: int, message: str
) -> None:
    connection = await start("sh", "-c", script, **limits)
    await seen.until(1)
    connection.stop()
    connection.stop()
    with pytest.raises(ConnectionClosed):
        connection.send(b"{}")
    ended = await end(connection)
    assert (ended.kind, ended.message, ended.exit_code) == ("exited", message, code)
    connection.kill()


async def test_a_kill_overtakes_a_stop(start: Start) -> None:
    connection = await start("sh", "-c", "trap '' TERM; while :; do sleep 0.01; done", stop_eof_secs=60.0)
    connection.stop()
    connection.kill()
    assert (await end(connection)).exit_code == -signal.SIGKILL


@pytest.mark.parametrize("fd", [0, 1], ids=["stdin", "stdout"])
async def test_a_server_that_closes_a_stream_and_lives_on_is_ended(start: Start, fd: int) -> None:
    connection = await start(sys.executable, "-I", "-S", "-c", f"import os, time; os.close({fd}); time.sleep(50)")
    ended = await end(connection)
    assert (ended.kind, ended.exit_code) == ("disconnected", -signal.SIGTERM)
    assert ended.message == f"closed its {'stdout' if fd else 'stdin'} and ran on"


async def test_a_server_that_stops_reading_is_ended_and_blocks_nobody(start: Start) -> None:
    connection = await start("sleep", "50")
    for _ in range(3):
        connection.send(b"x" * 1_000_000)
    assert connection.buffered > 2_900_000
    ended = await end(connection)
    assert ended.kind == "write_stalled"
    assert ended.message.startswith("read nothing for 1 s while ")
    with pytest.raises(ConnectionClosed):
        connection.send(b"{}")


async def test_a_server_that_is_busy_with_a_request_reads_no_other_and_is_borne_as_long_as_that_is_waited_for(
    start: Start, seen: Seen
) -> None:
    script = "import os, sys, time\ntime.sleep(2)\nfor line in sys.stdin.buffer: os.write(1, b'ok\\n')"
    connection = await start(sys.executable, "-I", "-S", "-c", script)
    seen.busy = anyio.current_time() + 60
    for _ in range(3):
        connection.send(b"x" * 1_000_000)
    await seen.until(3)
    assert not connection.ending


async def test_a_server_that_reads_nothing_beyond_what_its_request_was_given_is_ended(start: Start, seen: Seen) -> None:
    connection = await start("sleep", "50")
    began = anyio.current_time()
    seen.busy = began + 2.5
    for _ in range(3):
        connection.send(b"x" * 1_000_000)
    assert (await end(connection)).kind == "write_stalled"
    assert anyio.current_time() - began >= 2.5


async def test_a_slow_reader_is_borne(start: Start, seen: Seen) -> None:
    script = "import os, sys, time\nfor line in sys.stdin.buffer: time.sleep(0.5); os.write(1, b'ok\\n')"
    connection = await start(sys.executable, "-I", "-S", "-c", script, request_timeout_secs=3.0)
    for _ in range(8):
        connection.send(b"x" * 200_000)
    await seen.until(8)
    connection.stop()
    assert (await end(connection)).kind == "exited"


async def test_what_waits_for_a_server_is_bounded_and_costs_no_server_its_life(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moltis.transport.stdio.MAX_BUFFERED_BYTES", 1_000_000)
    monkeypatch.setattr("moltis.transport.stdio.SPARE_BYTES", 150_000)
    connection = await start("sleep", "50", request_timeout_secs=60.0)
    connection.send(b"x" * 990_000)
    with pytest.raises(ConnectionFull):
        connection.send(b"x" * 900_000)
    small = 0
    with suppress(ConnectionFull):
        while small < 100:
            connection.send(b"x" * 50_000)
            small += 1
    assert 1 <= small < 10, "a small message finds room for longer, and not for ever"
    assert not connection.ending
    connection.kill()
    assert (await end(connection)).kind == "exited"


@pytest.mark.parametrize("cwd", [None, "/usr"])
async def test_it_runs_in_its_folder_or_else_in_ours(start: Start, seen: Seen, cwd: str | None) -> None:
    await end(await start("pwd", "-P", cwd=cwd))
    assert seen.messages == [os.fsencode(os.path.realpath(cwd or os.getcwd()))]


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


async def test_a_failed_start_is_told_and_keeps_no_descriptor(start: Start) -> None:
    await end(await start("true"))
    before = descriptors()
    for argv, cwd in ((["no-such-hunter22"], None), (["true"], "/no/such/folder")):
        with pytest.raises(OpenFailed) as failed:
            await start(*argv, cwd=cwd)
        assert failed.value.ended.kind == "spawn_failed"
        assert "hunter22" not in failed.value.ended.message
    assert failed.value.ended.message == "cannot enter the folder /no/such/folder: No such file or directory"
    assert descriptors() == before


async def test_a_cancelled_start_keeps_no_descriptor_and_no_process(start: Start, warden: Warden) -> None:
    await end(await start("true"))
    before = descriptors()
    assert warden.pid is not None
    os.kill(warden.pid, signal.SIGSTOP)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start, "sleep", "50")
        await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
        os.kill(warden.pid, signal.SIGCONT)
    assert descriptors() == before
    assert ProcTree().children(warden.pid) == []


async def test_a_server_keeps_no_descriptor_after_its_end(start: Start) -> None:
    await end(await start("true"))
    before = descriptors()
    for script in ("exit 0", "exit 1", "exec 1>&-; sleep 50", "(sleep 50 &); exit 2"):
        await end(await start("sh", "-c", script))
    assert descriptors() == before


async def test_the_death_of_the_warden_is_told_as_such(start: Start, warden: Warden) -> None:
    connection = await start("sleep", "50")
    assert warden.pid is not None
    os.kill(warden.pid, signal.SIGKILL)
    ended = await end(connection)
    assert (ended.kind, ended.exit_code) == ("warden_lost", -signal.SIGKILL)


async def test_a_server_that_kills_its_parent_and_group_hurts_nobody(start: Start, seen: Seen, tmp_path: Path) -> None:
    """`kill 0` is its own group; its parent is the warden, after whose death the next start has a new one."""
    assert (await end(await start("sh", "-c", "kill -9 0"))).exit_code == -signal.SIGKILL
    ended = await end(await start("sh", "-c", "sleep 0.1; kill -9 $PPID; sleep 50"))
    assert ended.kind == "warden_lost"
    assert (await end(await start("sh", "-c", "echo here; exit 6"))).exit_code == 6
    assert seen.messages == [b"here"]


def test_a_server_gets_a_few_names_of_our_environment_and_its_own() -> None:
    ours = {
        "PATH": "/bin",
        "HOME": "/home/x",
        "LC_TIME": "C",
        "LANG": "C",
        "AWS_SECRET": "s",
        "LCX": "x",
        "TMPDIR": "/t",
    }
    assert child_environment(ours, (("PATH", "/opt"), ("OWN", "1"))) == {
        "PATH": "/opt",
        "HOME": "/home/x",
        "LC_TIME": "C",
        "LANG": "C",
        "TMPDIR": "/t",
        "OWN": "1",
    }


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with code 0"),
        (-11, "was killed by SIGSEGV"),
        (-40, "was killed by signal 40"),
        (None, "ended, and its exit code is not known"),
    ],
)
def test_an_exit_is_told_in_words(code: int | None, words: str) -> None:
    assert exit_words(code) == words
