"""The control socket cannot be wedged: not by many clients, not by long lines, not by clients that never read."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator

import pytest
from harness import Connection, Daemon, a_daemon, wait_until
from processes import resident_bytes

MIB = 1 << 20


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process hold thousands of sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def with_few_files(daemon: Daemon) -> Daemon:
    """Start a daemon with two servers that may have 128 files open."""
    daemon.write({"a": daemon.evil(), "b": daemon.evil()})
    daemon.start({resource.RLIMIT_NOFILE: 128}).wait_all("ready")
    return daemon


@pytest.fixture
def besieged(daemon: Daemon) -> Daemon:
    return with_few_files(daemon)


@pytest.fixture(scope="module")
def asked() -> Iterator[Daemon]:
    """The daemon of those tests that ask it strange things and leave it as it was."""
    with a_daemon() as daemon:
        yield with_few_files(daemon)


def half_open(daemon: Daemon, count: int) -> list[socket.socket]:
    """Open connections that send half a line and then nothing; those the daemon turns away count as well."""
    held = []
    for _ in range(count):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(5)
        try:
            s.connect(str(daemon.socket))
            s.send(b'{"jsonrpc":"2.0","id":1,"meth')
        except OSError:
            pass
        held.append(s)
    return held


def hung_up_on(client: Connection, data: bytes) -> list[bytes]:
    """Send `data` and read until the daemon ends the connection; give what it said before. A timeout is an error."""
    said = []
    with contextlib.suppress(ConnectionError, EOFError):
        client.send(data)
        while True:
            said.append(client.read_line())
    return said


def answered_within(daemon: Daemon, secs: float) -> None:
    began = time.monotonic()

    def answered() -> bool:
        try:
            with Connection(daemon.socket, timeout_secs=secs) as fresh:
                return bool(fresh.call("mcp.status", name="a")["state"] == "ready")
        except (OSError, EOFError):
            return False

    wait_until("a new client is answered", answered, secs, tell=daemon.said)
    assert time.monotonic() - began <= secs


@pytest.mark.alone
@pytest.mark.usefixtures("many_files")
def test_two_thousand_half_open_clients_and_a_50_mb_line_with_128_descriptors(besieged: Daemon) -> None:
    before = resident_bytes(besieged.own_pids())
    held = half_open(besieged, 2000)
    try:
        answered_within(besieged, 2)
        with besieged.connect() as flooder:
            hung_up_on(flooder, b"x" * (50 * MIB))
        answered_within(besieged, 2)
        assert resident_bytes(besieged.own_pids()) - before < 32 * MIB
        assert besieged.text("b", "echo", message="still here") == "still here"
    finally:
        for s in held:
            s.close()
    assert {s["restarts"] for s in besieged.rpc("mcp.list")} == {0}
    answered_within(besieged, 1)


@pytest.mark.usefixtures("many_files")
def test_the_daemon_still_starts_servers_after_the_siege(besieged: Daemon) -> None:
    held = half_open(besieged, 500)
    for s in held:
        s.close()
    besieged.rpc("mcp.restart", name="a")
    besieged.wait_for("a", "ready")


@pytest.mark.alone
def test_an_overlong_line_is_refused_by_its_limit_and_one_below_it_is_read(besieged: Daemon) -> None:
    with besieged.connect() as client:
        text = "y" * (MIB - 1000)
        client.send(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "no.such", "params": {"p": text}}).encode() + b"\n"
        )
        assert json.loads(client.read_line())["error"]["code"] == -32601
        for line in hung_up_on(client, b"z" * (2 * MIB) + b"\n"):
            assert json.loads(line)["error"]["code"] in (-32600, -32700)
    answered_within(besieged, 1)


@pytest.mark.alone
def test_a_client_that_never_reads_is_dropped_and_costs_little(besieged: Daemon) -> None:
    before = resident_bytes(besieged.own_pids())
    with besieged.connect(timeout_secs=1) as deaf:
        request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "mcp.tools", "params": {}}).encode() + b"\n"
        dropped = False
        deadline = time.monotonic() + 20
        while not dropped and time.monotonic() < deadline:
            try:
                deaf.send(request * 200)
            except TimeoutError:
                answered_within(besieged, 1)
            except OSError:
                dropped = True
        assert dropped
    assert resident_bytes(besieged.own_pids()) - before < 48 * MIB
    answered_within(besieged, 1)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", -32700), (b"[]", -32600), (b"1", -32600), (b"nonsense", -32700), (b"\xff\xfe", -32700),
        (b'{"jsonrpc":"2.0","id":NaN,"method":"mcp.list"}', -32700), (b"[" * 100_000, -32700),
        (b'{"jsonrpc":"1.0","id":1,"method":"mcp.list"}', -32600), (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"no.such"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"mcp.status","params":{}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"mcp.status","params":["a"]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"mcp.status","params":{"name":5}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"mcp.status","params":{"name":"a","more":1}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"mcp.status","params":{"name":"nobody"}}', -32004),
    ],
)  # fmt: skip
def test_wrong_lines_get_the_specifications_error_and_the_next_line_is_served(
    asked: Daemon, line: bytes, code: int
) -> None:
    with asked.connect() as client:
        client.send(line + b"\n")
        answer = json.loads(client.read_line())
        assert answer["error"]["code"] == code
        assert "Traceback" not in json.dumps(answer)
        assert client.call("mcp.status", name="a")["state"] == "ready"


def test_a_batch_is_answered_as_a_batch_and_notifications_are_not(asked: Daemon) -> None:
    with asked.connect() as client:
        calls = [
            {"jsonrpc": "2.0", "id": "one", "method": "mcp.status", "params": {"name": "a"}},
            {"jsonrpc": "2.0", "method": "mcp.list"},
            5,
            {"jsonrpc": "2.0", "id": 2, "method": "no.such"},
        ]
        client.send(json.dumps(calls).encode() + b"\n")
        answers = {a["id"]: a for a in json.loads(client.read_line())}
    assert set(answers) == {"one", 2, None}
    assert answers["one"]["result"]["name"] == "a"
    assert answers[2]["error"]["code"] == -32601
    assert answers[None]["error"]["code"] == -32600


def test_a_subscriber_sees_a_snapshot_then_every_change_in_order(asked: Daemon) -> None:
    with asked.connect(timeout_secs=10) as client:
        subscription = client.call("mcp.subscribe")["subscription_id"]
        first = json.loads(client.read_line())
        assert first["method"] == "mcp.event"
        assert first["params"]["subscription_id"] == subscription
        assert first["params"]["type"] == "snapshot"
        asked.rpc("mcp.restart", name="a")
        events = [first["params"]]
        while (events[-1].get("to") or events[-1].get("state")) != "ready" or len(events) == 1:
            events.append(json.loads(client.read_line())["params"])
    assert [e["seq"] for e in events] == list(range(events[0]["seq"], events[0]["seq"] + len(events)))
    assert {e["dropped"] for e in events} == {0}
    assert {e["server"] for e in events[1:]} == {"a"}


def test_discovery_names_every_method_that_was_promised(asked: Daemon) -> None:
    document = asked.rpc("rpc.discover")
    assert document["openrpc"].startswith("1.")
    names = {m["name"] for m in document["methods"]}
    wanted = (
        "daemon.status daemon.reload daemon.shutdown mcp.list mcp.status mcp.history mcp.tools mcp.resources "
        "mcp.prompts mcp.call mcp.read_resource mcp.get_prompt mcp.start mcp.stop mcp.restart mcp.enable mcp.disable "
        "mcp.add mcp.update mcp.remove mcp.test mcp.config.get mcp.config.update mcp.reauth mcp.oauth.start "
        "mcp.oauth.complete env.list env.set env.unset logs.tail mcp.subscribe"
    )
    assert set(wanted.split()) <= names
