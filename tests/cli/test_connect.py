"""`moltis connect` as a host starts it: a process between pipes, against a daemon process that dies and comes back."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_shell import REPOSITORY, Shell
from hypothesis import given
from hypothesis import strategies as st

from moltis.cli.connect import door, quick
from moltis.cli.connect.pump import MAX_LINE_BYTES, Lines
from moltis.paths import find_paths

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
ROOT = str(REPOSITORY)
SECS = 60.0
"""How long anything may take that takes milliseconds."""


class Stub:
    """The daemon: starts, is killed, starts again."""

    def __init__(self, shell: Shell) -> None:
        self.socket = shell.socket
        self.record = shell.home / "record.jsonl"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.socket.unlink(missing_ok=True)
        script = Path(__file__).with_name("stub_daemon.py")
        words = [sys.executable, str(script), str(self.socket), str(self.record)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.gone()

    def stop(self) -> None:
        """Hold it. kill(2) is back before all of its threads stand still."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        deadline = time.monotonic() + SECS
        while not self._stands_still(self.process.pid):
            assert time.monotonic() < deadline, "it does not stop"
            time.sleep(0.01)

    @staticmethod
    def _stands_still(pid: int) -> bool:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return all((task / "stat").read_text().rpartition(") ")[2].startswith("T") for task in tasks)

    def gone(self) -> None:
        """Wait until it has ended."""
        assert self.process is not None
        self.process.wait(SECS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    def heard(self) -> list[Any]:
        """Give what hosts said to it, in order."""
        whole = self.record.read_bytes().rpartition(b"\n")[0]  # the last line may be half written
        lines = [json.loads(line)[1] for line in whole.splitlines()]
        return [json.loads(line) for line in lines]


class Host:
    """A host, with `moltis connect` for its server."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self._buffer = b""

    def send(self, data: bytes) -> None:
        """Write all of it, however long the other side takes."""
        left = memoryview(data)
        while left:
            assert select.select([], [self.stdin], [], SECS)[1], "it does not read"
            left = left[os.write(self.stdin.fileno(), left[: select.PIPE_BUF]) :]

    def say(self, **message: Any) -> None:
        self.send(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def line(self, secs: float = SECS) -> bytes:
        """Give the next line without its newline; nothing at the end."""
        while b"\n" not in self._buffer:
            assert select.select([self.stdout], [], [], secs)[0], "it does not say anything"
            data = os.read(self.stdout.fileno(), 1 << 20)
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def json(self) -> Any:
        return json.loads(self.line())

    def ask(self, id: int | str, method: str, **params: Any) -> Any:
        self.say(id=id, method=method, params=params)
        return self.json()

    def initialize(self) -> None:
        self.ask(0, "initialize", clientInfo={"name": "h"})
        self.say(method="notifications/initialized")

    def is_silent(self, secs: float = 0.1) -> bool:
        return not self._buffer and not select.select([self.stdout], [], [], secs)[0]

    def ends(self) -> tuple[int, str]:
        """Give the exit code and what it said to a person."""
        said = self.stderr.read().decode()
        return self.process.wait(SECS), said


Connect = Callable[..., Host]


@pytest.fixture
def stub(shell: Shell) -> Iterator[Stub]:
    one = Stub(shell)
    yield one
    one.kill()


@pytest.fixture
def connect(shell: Shell) -> Iterator[Connect]:
    """Start `moltis connect`, some of pump's constants changed where a test would have to wait for minutes."""
    with contextlib.ExitStack() as stack:

        def start(*words: str, **patches: float) -> Host:
            command = shell.command("connect", *words)
            if patches:
                setup = "".join(f"pump.{name} = {value};" for name, value in patches.items())
                script = f"import sys; from moltis.cli import main; from moltis.cli.connect import pump; {setup} main()"
                command = [sys.executable, "-c", script, "connect", *words]
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=shell.environ,
                cwd=shell.home,
                bufsize=0,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return Host(process)

        yield start


# --- while nothing goes wrong


def test_lines_pass_both_ways_byte_for_byte(stub: Stub, connect: Connect) -> None:
    host = connect()
    odd = b'{ "id":"\\u00e9\xc3\xa9" ,"method":"wait", "jsonrpc" : "2.0","params":{"n":1.50, "e":1e400}}\r'
    host.send(odd + b"\n\n" + b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[1.5]}\n')
    assert host.line() == b'{"jsonrpc":"2.0","id":1,"result":[1.5]}'
    first = stub.record.read_bytes().splitlines()[0]
    assert json.loads(first)[1].encode() == odd + b"\n"
    host.send(b"garbage\n")
    assert host.json()["error"]["code"] == -32700


def test_ten_megabyte_lines_pass_both_ways_at_once(stub: Stub, connect: Connect) -> None:
    host = connect()
    for number in range(3):
        text = "y" * (10 * MIB)
        assert host.ask(number, "echo", text=text)["result"] == {"text": text}
        assert len(host.ask(number, "big", size=10 * MIB)["result"]) == 10 * MIB


def test_a_line_beyond_the_limit_is_refused_and_the_next_one_passes(stub: Stub, connect: Connect) -> None:
    host = connect()
    for _ in range(17):
        host.send(b"x" * MIB)
    host.send(b"\n")
    assert str(MAX_LINE_BYTES) in host.json()["error"]["message"]
    assert host.ask(1, "echo", a=1)["result"] == {"a": 1}


def test_a_host_that_stops_reading_holds_up_only_itself(stub: Stub, connect: Connect) -> None:
    host = connect()
    for number in range(40):
        host.say(id=number, method="big", params={"size": MIB})
    with open(f"/proc/{host.process.pid}/statm", encoding="ascii") as statm:
        assert int(statm.read().split()[1]) * 4096 < 60 * MIB
    assert [host.json()["id"] for _ in range(40)] == list(range(40))


def test_questions_of_the_daemon_come_and_their_answers_go(stub: Stub, connect: Connect) -> None:
    host = connect()
    question = host.ask(5, "ask")
    assert question == {"jsonrpc": "2.0", "id": 1, "method": "roots/list"}
    host.say(id=1, result={"roots": []})
    assert host.json() == {"jsonrpc": "2.0", "id": 5, "result": {"roots": []}}


def test_stdin_and_stdout_may_be_sockets_as_node_makes_them(stub: Stub, shell: Shell) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            shell.command("connect"), stdin=theirs.fileno(), stdout=theirs.fileno(), env=shell.environ, cwd=shell.home
        )
        ours.settimeout(SECS)
        ours.sendall(b'{"jsonrpc":"2.0","id":1,"method":"big","params":{"size":3000000}}\n')
        said = b""
        while not said.endswith(b"\n"):
            said += ours.recv(1 << 20)
        assert len(json.loads(said)["result"]) == 3_000_000
        ours.shutdown(socket.SHUT_WR)
        assert process.wait(SECS) == 0
        assert os.get_blocking(theirs.fileno())


# --- the daemon goes away


def test_what_was_under_way_is_answered_and_the_host_goes_on_with_the_next_daemon(stub: Stub, connect: Connect) -> None:
    host = connect()
    host.initialize()
    assert host.ask(1, "logging/setLevel", level="error")["result"] == {"level": "error"}
    assert host.ask(2, "resources/subscribe", uri="a:1")["id"] == 2
    assert host.ask(3, "resources/subscribe", uri="a:2")["id"] == 3
    assert host.ask(4, "resources/unsubscribe", uri="a:1")["id"] == 4
    host.say(id=5, method="wait")
    host.say(id="six", method="die")
    refused = [host.json(), host.json()]
    assert [(m["id"], m["error"]["code"]) for m in refused] == [(5, -32603), ("six", -32603)]
    assert refused[0]["error"]["data"]["kind"] == "daemon_not_running"
    stub.gone()
    stub.record.unlink()
    host.say(id=7, method="echo", params={"late": 1})
    assert host.is_silent()
    stub.start()
    said = [host.json() for _ in range(4)]
    assert [m["method"] for m in said[:3]] == [
        "notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/updated",
    ]  # fmt: skip
    assert said[3] == {"jsonrpc": "2.0", "id": 7, "result": {"late": 1}}
    assert [(m.get("id"), m["method"], m.get("params")) for m in stub.heard()] == [
        (0, "initialize", {"clientInfo": {"name": "h"}}),
        (None, "notifications/initialized", None),
        (1, "logging/setLevel", {"level": "error"}),
        (3, "resources/subscribe", {"uri": "a:2"}),
        (7, "echo", {"late": 1}),
    ]
    assert host.is_silent()
    host.stdin.close()
    code, words = host.ends()
    assert code == 0
    assert words.splitlines() == [
        "moltis: the daemon went away; waiting for it", "moltis: the daemon is back",
    ]  # fmt: skip


def test_half_a_line_of_a_dying_daemon_is_never_seen(stub: Stub, connect: Connect) -> None:
    host = connect()
    host.say(id=1, method="half")
    assert host.json()["error"]["code"] == -32603
    stub.gone()
    stub.start()
    assert host.ask(2, "echo")["id"] == 2


def test_questions_of_a_dead_daemon_are_withdrawn_and_never_mixed_up_with_the_next_ones(
    stub: Stub, connect: Connect
) -> None:
    host = connect()
    assert host.ask(5, "ask")["id"] == 1
    stub.kill()
    said = {m.get("method") or m["id"]: m for m in (host.json(), host.json())}
    assert said["notifications/cancelled"]["params"]["requestId"] == 1
    assert "error" in said[5]
    stub.start()
    question = host.ask(6, "ask")
    assert question["id"] != 1
    host.say(id=1, result="of the dead one")
    host.say(id=question["id"], result="right")
    assert host.json() == {"jsonrpc": "2.0", "id": 6, "result": "right"}


def test_a_request_taken_back_while_there_is_no_daemon_is_never_sent(stub: Stub, connect: Connect) -> None:
    host = connect()
    host.ask(1, "echo")
    stub.kill()
    host.say(id=2, method="echo", params={"n": 2})
    host.say(method="notifications/cancelled", params={"requestId": 2})
    host.say(id=3, method="echo", params={"n": 3})
    assert host.is_silent()
    stub.record.unlink()
    stub.start()
    assert host.json()["id"] == 3
    assert [m["id"] for m in stub.heard()] == [3]


def test_it_starts_before_the_daemon_does(shell: Shell, connect: Connect) -> None:
    host = connect()
    host.say(id=1, method="echo")
    assert host.is_silent()
    stub = Stub(shell)
    try:
        assert host.json()["id"] == 1
    finally:
        stub.kill()


def test_a_daemon_without_room_is_tried_again(stub: Stub, connect: Connect) -> None:
    assert connect("--server", "full").ask(1, "echo")["id"] == 1


def test_a_daemon_that_ends_again_and_again_is_met_each_time(stub: Stub, connect: Connect) -> None:
    host = connect()
    host.initialize()
    for number in range(1, 4):
        host.say(id=number, method="die")
        said = host.json()
        while said.get("id") != number:
            said = host.json()
        assert "error" in said
        stub.gone()
        stub.start()


# --- every end has its code


def test_no_daemon_is_exit_3_once_the_host_is_done(connect: Connect) -> None:
    host = connect(ANSWER_AFTER_SECS=0.1)
    assert host.ask(1, "initialize")["result"]["serverInfo"]["name"] == "moltis"
    host.stdin.close()
    code, said = host.ends()
    waiting, last, *hint = said.splitlines()
    assert (code, hint) == (3, ["hint: start it: moltis run"])
    assert waiting.startswith("moltis: no daemon answers at ")
    assert last.startswith("moltis: no daemon answers at ")


def test_nothing_at_all_on_stdin_without_a_daemon_is_exit_3_at_once(connect: Connect) -> None:
    host = connect()
    host.stdin.close()
    assert host.ends()[0] == 3


def test_no_such_server_is_told_to_the_host_and_exit_4_when_that_is_done(stub: Stub, connect: Connect) -> None:
    host = connect("--server=nobody")
    assert host.ask(1, "initialize")["error"]["message"] == "no server is called 'nobody'"
    called = host.ask(2, "tools/call", name="x")["result"]
    assert (called["isError"], called["content"][0]["text"]) == (True, "no server is called 'nobody'")
    host.stdin.close()
    code, said = host.ends()
    assert (code, said.splitlines()[-1]) == (4, "moltis: no server is called 'nobody'")


def test_a_server_that_went_with_the_daemon_may_come_back(shell: Shell, stub: Stub, connect: Connect) -> None:
    host = connect("--server", "full")
    host.ask(1, "echo")
    stub.kill()
    with refusing(shell, {"code": -32004, "message": "gone", "data": {"kind": "unknown_server"}}):
        host.say(id=2, method="echo")
        assert host.json()["error"]["message"] == "gone"
    stub.start()
    answers = (host.ask(id, "echo") for id in range(3, 100_000))
    assert next(answer for answer in answers if "error" not in answer)["id"] >= 3, "it looks again within two seconds"
    host.stdin.close()
    assert host.ends()[0] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": -32601, "message": "Method not found"}, 1),
        ({"code": -32603, "message": "no gateway", "data": {"kind": "internal"}}, 1),
        ({"code": -32603, "message": "not yours", "data": {"kind": "not_permitted"}}, 5),
        ({"code": -32602, "message": "no param"}, 2),
    ],
    ids=["older", "no gateway", "not permitted", "usage"],
)
def test_a_daemon_that_refuses_is_said_to_the_host_and_is_an_exit_code(
    shell: Shell, connect: Connect, error: dict[str, Any], code: int
) -> None:
    with refusing(shell, error):
        host = connect()
        host.say(id=1, method="tools/list")
        host.stdin.close()
        found, said = host.ends()
        assert host.json()["error"]["message"]
    assert found == code
    assert said.startswith("moltis: ")
    assert "Traceback" not in said


# --- without a daemon


def test_it_answers_without_a_daemon_and_goes_on_with_one(shell: Shell, connect: Connect) -> None:
    host = connect(ANSWER_AFTER_SECS=0.1, FIRST_REFUSE_AFTER_SECS=0.5)
    assert host.ask(1, "ping")["result"] == {}
    introduced = host.ask(2, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "h"})
    assert introduced["result"]["protocolVersion"] == "2025-06-18"
    assert introduced["result"]["capabilities"]["tools"] == {"listChanged": True}
    host.say(method="notifications/initialized")
    for id in range(3, 53):
        host.say(id=id, method="tools/list")
    assert sorted(host.json()["id"] for _ in range(50)) == list(range(3, 53))
    assert host.ask(60, "logging/setLevel", level="error")["result"] == {}
    assert host.ask(61, "logging/setLevel", level="loud")["error"]["code"] == -32602
    called = host.ask(62, "tools/call", name="a__b")["result"]
    assert called["isError"]
    assert "moltis run" in called["content"][0]["text"]
    assert host.ask(63, "prompts/get", name="a__b")["error"]["data"]["kind"] == "daemon_not_running"
    stub = Stub(shell)
    try:
        changed = {host.json()["method"] for _ in range(3)}
        assert changed == {f"notifications/{kind}/list_changed" for kind in ("tools", "resources", "prompts")}
        assert host.ask(64, "echo", n=1)["result"] == {"n": 1}
        assert [m["method"] for m in stub.heard()] == [
            "initialize", "notifications/initialized", "logging/setLevel", "echo",
        ]  # fmt: skip
    finally:
        stub.kill()


def test_a_daemon_that_is_away_for_long_takes_no_host_with_it(stub: Stub, connect: Connect) -> None:
    host = connect(ANSWER_AFTER_SECS=1.5, REFUSE_AFTER_SECS=2.0)  # what the daemon says first may take a second
    host.initialize()
    stub.kill()
    assert "not running" in host.ask(2, "tools/call", name="x")["result"]["content"][0]["text"]
    assert host.ask(3, "tools/list")["result"]["tools"] == []
    stub.start()
    assert {host.json()["method"] for _ in range(2)} == {
        "notifications/tools/list_changed", "notifications/prompts/list_changed",
    }  # fmt: skip
    assert host.ask(4, "echo")["id"] == 4


def test_a_listen_stays_open_over_daemons_that_come_and_go(stub: Stub, connect: Connect) -> None:
    host = connect()
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["a:1"]}
    acknowledged = host.ask("l", "subscriptions/listen", notifications=wanted, _meta=meta)
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    for is_killed in (True, False):
        if is_killed:
            stub.kill()
        else:
            host.say(id=9, method="leave")
            stub.gone()
        stub.start()
        said = [host.json() for _ in range(2)]
        assert [m["method"] for m in said] == ["notifications/tools/list_changed", "notifications/resources/updated"]
        assert {m["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] for m in said} == {"l"}
        assert said[1]["params"]["uri"] == "a:1"
        if not is_killed:
            assert host.json() == {"jsonrpc": "2.0", "id": 9, "result": {"again": True}}
    assert host.is_silent()


def test_a_daemon_that_is_stopped_is_not_waited_for_without_end(stub: Stub, connect: Connect) -> None:
    host = connect(QUIET_SECS=1.0, ANSWER_AFTER_SECS=1.5, ANSWER_SECS=1.5)
    host.initialize()
    stub.stop()
    try:
        host.say(id=2, method="tools/call", params={"name": "x"})
        host.say(id=3, method="tools/list")
        said = {m["id"]: m["result"] for m in (host.json(), host.json())}
        assert "does not answer" in said[2]["content"][0]["text"]
        assert said[3]["tools"] == []
    finally:
        assert stub.process is not None
        os.kill(stub.process.pid, signal.SIGCONT)
    assert {host.json()["method"] for _ in range(2)} == {
        "notifications/tools/list_changed", "notifications/prompts/list_changed",
    }  # fmt: skip
    assert host.ask(4, "echo")["id"] == 4


def test_a_host_that_does_not_read_for_long_loses_nothing(stub: Stub, connect: Connect) -> None:
    host = connect(QUIET_SECS=0.2)
    for number in range(30):
        host.say(id=number, method="big", params={"size": MIB})
    time.sleep(1.5)
    assert [len(host.json()["result"]) for _ in range(30)] == [MIB] * 30


def test_a_slow_call_is_not_given_up_while_the_daemon_answers(stub: Stub, connect: Connect) -> None:
    host = connect(QUIET_SECS=0.1)
    host.say(id=1, method="wait")
    assert host.is_silent(1.0)
    assert host.ask(2, "echo")["id"] == 2


@contextlib.contextmanager
def refusing(shell: Shell, error: dict[str, Any]) -> Iterator[None]:
    """A daemon that answers one client with an error."""
    shell.socket.parent.mkdir(parents=True, exist_ok=True)
    shell.socket.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(shell.socket))
        listener.listen()
        listener.settimeout(SECS)

        def answer() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}).encode() + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(SECS)


def test_what_cannot_be_shown_is_exit_2(shell: Shell) -> None:
    done = shell.moltis("connect", "--project", "site", "--server", "files")
    assert (done.returncode, done.stdout) == (2, "")
    assert "one of them" in done.stderr
    assert shell.moltis("connect", "--server", "").returncode == 2
    assert shell.moltis("connect", "--project", "").returncode == 2
    assert shell.moltis("connect", "words").returncode == 2


def test_the_end_of_stdin_is_exit_0_once_all_is_answered(stub: Stub, connect: Connect) -> None:
    host = connect(LAST_WORDS_SECS=300)
    host.say(id=1, method="subscriptions/listen")
    host.initialize()
    host.send(
        b'{"jsonrpc":"2.0","id":2,"method":"big","params":{"size":3000000}}\n{"jsonrpc":"2.0","id":3,"method":"ping"}'
    )
    host.stdin.close()
    assert [host.json()["id"] for _ in range(2)] == [2, 3]
    assert host.ends() == (0, "")


def test_after_the_end_of_stdin_what_takes_long_is_answered_with_an_error(stub: Stub, connect: Connect) -> None:
    host = connect(LAST_WORDS_SECS=0.3)
    host.say(id=1, method="wait")
    host.stdin.close()
    assert host.json()["error"]["code"] == -32603
    assert host.ends() == (0, "")


def test_an_empty_stdin_is_exit_0_where_there_is_a_daemon_and_3_where_there_is_none(
    shell: Shell, stub: Stub, connect: Connect
) -> None:
    host = connect()
    host.stdin.close()
    assert host.ends()[0] == 0
    stub.kill()
    host = connect(FIRST_TRY_SECS=0.2, LAST_WORDS_SECS=0.2)
    host.stdin.close()
    assert host.ends()[0] == 3


@pytest.mark.parametrize("state", ["idle", "waiting", "blocked"])
def test_sigterm_is_exit_0_at_once(stub: Stub, connect: Connect, state: str) -> None:
    host = connect()
    host.ask(1, "echo")
    if state == "waiting":
        stub.kill()
        host.say(id=2, method="echo")
    elif state == "blocked":
        host.say(id=2, method="big", params={"size": MIB})
        assert select.select([host.stdout], [], [], SECS)[0]
    host.process.terminate()
    assert host.process.wait(SECS) == 0


def test_a_host_that_no_longer_reads_is_exit_0(stub: Stub, connect: Connect) -> None:
    host = connect()
    host.stdout.close()
    host.say(id=1, method="echo")
    assert host.ends() == (0, "")


def test_interrupting_is_130(stub: Stub, connect: Connect) -> None:
    host = connect()
    host.ask(1, "echo")
    host.process.send_signal(signal.SIGINT)
    assert host.ends() == (130, "")


def test_streams_that_are_closed_are_no_trouble(stub: Stub, shell: Shell) -> None:
    words = " ".join(shell.command("connect"))
    for closed in ("<&-", "<&- 2>&-", "<&- >&-"):
        done = subprocess.run(["/bin/sh", "-c", f"exec {words} {closed}"], env=shell.environ, timeout=SECS)
        assert done.returncode == 0


# --- how it starts


def test_what_a_host_waits_for_is_not_imported() -> None:
    script = "import sys, moltis.cli.connect.quick; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, env={"PYTHONPATH": ROOT}
    )
    loaded = set(done.stdout.split())
    assert "moltis.cli.connect.pump" in loaded, done.stderr
    assert not {"click", "msgspec", "anyio", "asyncio", "dataclasses", "pathlib", "typing", "moltis.errors"} & loaded


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("connect", {}),
        ("connect --server x", {"--server": "x"}),
        ("connect --server=x --socket y", {"--server": "x", "--socket": "y"}),
        ("--data-dir d connect", {"--data-dir": "d"}),
        ("--config=c connect --server connect", {"--config": "c", "--server": "connect"}),
        ("connect --run --server x", {"--run": "yes", "--server": "x"}),
        ("--run connect", None),
        ("connect --run=no", None),
        ("connect connect", None),
        ("connect --server", None),
        ("connect --server=", None),
        ("connect --project x", {"--project": "x"}),
        ("connect --project x --server y", None),
        ("connect --help", None),
        ("connect extra", None),
        ("--server x connect", None),
        ("mcp get connect", None),
        ("", None),
    ],
)
def test_only_a_plain_command_line_is_taken_without_click(words: str, found: dict[str, str] | None) -> None:
    assert quick.options(words.split()) == found


NAMES = st.none() | st.sampled_from(["", "a", "~/b", "/c/d", "../e", "~", "x/../y"])


@given(NAMES, NAMES, NAMES, NAMES)
def test_the_socket_is_where_every_other_command_finds_it(
    named: str | None, data_dir: str | None, env_socket: str | None, env_data: str | None
) -> None:
    given = {"MOLTIS_SOCKET": env_socket, "MOLTIS_DATA_DIR": env_data}
    environ = {name: value for name, value in given.items() if value is not None}
    found = find_paths(socket=named, data_dir=data_dir, environ=environ).socket
    assert door.socket_path(named, data_dir, environ) == str(found)


@given(st.lists(st.binary(max_size=12)), st.integers(1, 8))
def test_lines_are_the_same_in_any_pieces(parts: list[bytes], size: int) -> None:
    stream = b"\n".join(parts) + b"\n"
    whole, pieces = Lines(8), Lines(8)
    cut = [line for i in range(0, len(stream), size) for line in pieces.feed(stream[i : i + size])]
    assert cut == whole.feed(stream)
    expected = [None if len(p) > 8 else p for p in stream.split(b"\n") if len(p) > 8 or (p and not p.isspace())]
    assert cut == expected
