"""Hosts and servers that mean harm, against a real daemon: what they cannot do to the others."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gateway_harness import GUARDED, OPEN, gateway_url, new_token, start
from harness import PYTHON, SERVERS, Daemon, wait_until
from patience import PATIENCE
from raw_hosts import JSON, META, MODERN, send

MOUTHPIECE = SERVERS / "mouthpiece.py"
EVENT_STREAM = {"accept": "text/event-stream"}
INITIALIZE: dict[str, Any] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "host", "version": "1"},
}


class House:
    """A guarded gateway; `good` is a well-behaved server, `bad` says whatever it is told to."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        bad = daemon.real(PYTHON, "-S", "-E", str(MOUTHPIECE), "--mark", daemon.mark, protocol="legacy")
        self.servers = {"good": daemon.evil(protocol="legacy", request_timeout_secs=60.0), "bad": bad}
        start(daemon, self.servers, GUARDED)
        daemon.wait_all()
        self.all = gateway_url(daemon)
        self.bad = gateway_url(daemon, "bad")
        self.port = int(self.all.split(":")[2].split("/")[0])

    def host(self, token: str, **headers: str) -> Host:
        return Host(self, {**JSON, "authorization": f"Bearer {token}", **headers})

    def token(self, name: str, scope: str = "write") -> str:
        return new_token(self.daemon, name, scope)

    def rss_mib(self) -> int:
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024


class Host:
    def __init__(self, house: House, headers: dict[str, str]) -> None:
        self.house = house
        self.headers = headers

    def ask(self, url: str, method: str, params: Any = None) -> Any:
        more = {} if params is None else {"params": params}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, **more}).encode()
        return send(url, "POST", body, self.headers)

    def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool of the bad server."""
        return self.ask(self.house.bad, "tools/call", {"name": tool, "arguments": arguments})

    def slowest_echo_secs(self, times: int) -> float:
        """Call the good server, one call after the other."""
        found = 0.0
        for _ in range(times):
            began = time.monotonic()
            answer = self.ask(self.house.all, "tools/call", {"name": "good__echo", "arguments": {"message": "x"}})
            assert answer.status == 200
            found = max(found, time.monotonic() - began)
        return found

    def session(self, url: str) -> Host:
        named = self.ask(url, "initialize", INITIALIZE).headers["mcp-session-id"]
        host = Host(self.house, {**self.headers, "mcp-session-id": named})
        assert send(url, "POST", b'{"jsonrpc":"2.0","method":"notifications/initialized"}', host.headers).status == 202
        return host

    def stream(self, url: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.house.port, timeout=PATIENCE)
        connection.request("GET", url.split(str(self.house.port))[1], headers={**self.headers, **EVENT_STREAM})
        return connection, connection.getresponse()


LISTS = {f"notifications/{name}/list_changed" for name in ("tools", "prompts", "resources")}
"""What a host may hear soon after servers have started."""


def said_until_its_end(stream: http.client.HTTPResponse) -> set[str]:
    """Return the methods of what a stream says; it must end."""
    data = [line.removeprefix(b"data: ") for line in stream.read().splitlines() if line.startswith(b"data: ")]
    return {json.loads(line)["method"] for line in data}


@pytest.fixture
def house(daemon: Daemon) -> House:
    return House(daemon)


@pytest.fixture
def host(house: House) -> Host:
    return house.host(house.token("host"))


@pytest.mark.alone
def test_a_hostile_uri_does_not_keep_the_daemon_from_serving_others(house: House, host: Host) -> None:
    watching = host.session(house.bad)
    assert watching.ask(house.bad, "resources/subscribe", {"uri": "mouth://one"}).json["result"] == {}
    uri = "mouth://" + "/" * 500_000
    updated = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}}
    saying = threading.Thread(target=host.call, args=("say",), kwargs={"lines": [json.dumps(updated)]})
    saying.start()
    try:
        assert host.slowest_echo_secs(50) < 2
    finally:
        saying.join(30)


@pytest.mark.alone
def test_a_reader_that_watches_very_much_does_not_keep_the_daemon_from_serving_others(house: House, host: Host) -> None:
    reader = house.token("reader", "read")
    headers = {"mcp-protocol-version": MODERN, "mcp-method": "subscriptions/listen"}
    listens = []
    for batch in range(8):
        uris = [f"mouth://{batch}/{number}" for number in range(1000)]
        meta = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}
        params = {"notifications": {"resourceSubscriptions": uris}, "_meta": meta}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params})
        connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=PATIENCE)
        began = time.monotonic()
        connection.request("POST", "/servers/bad/mcp", body, house.host(reader, **headers).headers)
        assert connection.getresponse().status == 200
        assert time.monotonic() - began < 1
        listens.append(connection)
    assert host.slowest_echo_secs(5) < 1
    for connection in listens:
        connection.close()


@pytest.mark.alone
def test_a_server_that_floods_hosts_which_do_not_listen_takes_neither_memory_nor_time(house: House, host: Host) -> None:
    for _ in range(20):
        host.session(house.bad)
    before = house.rss_mib()
    for size in (100, 5_000_000):
        params = {"level": "error", "data": "x" * size}
        line = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
        host.call("flood", line=line, secs=1)
        assert host.slowest_echo_secs(30) < 1
        assert host.call("heard").status == 200, "the flood is over"
    assert house.rss_mib() - before < 200
    assert house.daemon.states() == {"good": "ready", "bad": "ready"}


def test_what_a_server_writes_between_its_words_ends_no_event(house: House, host: Host) -> None:
    session = host.session(house.bad)
    said = (
        '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error",\r\r"data":"a\u2028b\u0085\\r\\n\\n"'
        ',\r"x":"data: {}"}}'
    )
    answer = session.call("say", lines=[said.encode().decode("latin-1")])
    events = answer.body.decode().split("\n\n")
    assert [line.partition(":")[0] for event in events for line in event.splitlines() if "\u2028" not in line]
    assert "\r" not in answer.body.decode()
    messages = [json.loads(event.split("\ndata: ", 1)[1]) for event in events if event]
    assert messages[0]["params"]["data"] == "a\u2028b\u0085\r\n\n"
    assert [message.get("id") for message in messages] == [None, 1]


def test_a_token_that_is_revoked_ends_what_it_began_even_what_is_only_half_said(house: House) -> None:
    token = house.token("short-lived")
    thief = house.host(token)
    connection, stream = thief.session(house.all).stream(house.all)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "bad__say"}}).encode()
    with closing(connection), socket.create_connection(("127.0.0.1", house.port), PATIENCE) as half:
        head = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        half.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:9])
        time.sleep(0.2)  # its head has been read
        house.daemon.rpc("token.revoke", name="short-lived")
        assert said_until_its_end(stream) <= LISTS
        half.sendall(body[9:])
        assert half.recv(4096).startswith(b"HTTP/1.1 401")
    heard = house.host(house.token("other")).call("heard").json["result"]["content"][0]["text"]
    assert "tools/call" not in heard


def test_a_stream_ends_soon_after_its_token_has_expired(house: House) -> None:
    token = house.daemon.rpc("token.create", name="brief", scope="write", expires_days=1.5 / 86400)["token"]
    connection, stream = house.host(token).session(house.all).stream(house.all)
    with closing(connection):
        assert said_until_its_end(stream) <= LISTS


def test_a_reload_that_wants_tokens_shows_out_who_came_without(daemon: Daemon) -> None:
    house = House(daemon)
    daemon.write(house.servers, gateway={**OPEN})
    daemon.rpc("daemon.reload")
    nobody = Host(house, dict(JSON))
    connection, stream = nobody.session(house.all).stream(house.all)
    with closing(connection):
        daemon.write(house.servers, gateway=GUARDED)
        daemon.rpc("daemon.reload")
        assert said_until_its_end(stream) <= LISTS
    assert nobody.ask(house.all, "ping").status == 401


@pytest.mark.alone
def test_a_flood_of_strangers_leaves_room_for_hosts_and_for_the_control_socket(house: House, host: Host) -> None:
    strangers = [socket.create_connection(("127.0.0.1", house.port), PATIENCE) for _ in range(600)]
    try:
        for stranger in strangers:
            stranger.sendall(b"POST /mcp HTTP/1.1\r\nHost: loc")
        assert host.slowest_echo_secs(3) < 5
        assert house.daemon.states() == {"good": "ready", "bad": "ready"}
    finally:
        for stranger in strangers:
            stranger.close()


@pytest.mark.alone
def test_one_token_does_not_take_all_connections(house: House, host: Host) -> None:
    token = house.token("greedy", "read")
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    )
    greedy = []
    try:
        for _ in range(800):
            greedy.append(socket.create_connection(("127.0.0.1", house.port), PATIENCE))
            greedy[-1].sendall(f"{head}Content-Length: 60000\r\n\r\n{{".encode())
        wait_until("the daemon has had enough of them", lambda: greedy[-1].recv(100)[:12] == b"HTTP/1.1 503")
        assert host.slowest_echo_secs(3) < 5
    finally:
        for connection in greedy:
            connection.close()


def test_nothing_that_the_gateway_keeps_is_for_other_users_or_holds_a_token(house: House) -> None:
    token = house.token("kept")
    house.host(token).ask(house.all, "tools/list")

    def written() -> bool:  # soon after a server is ready, under another name first
        names = [file.name for file in (house.daemon.data_dir / "known").glob("*")]
        return "bad.json" in names and not any(name.startswith(".bad.json") for name in names)

    wait_until("what servers list is on disk", written)
    files = [house.daemon.data_dir, *house.daemon.data_dir.rglob("*")]
    assert {"tokens.toml", "known", "bad.json", "logs.jsonl", "moltis.sock"} <= {file.name for file in files}
    assert [file for file in files if file.lstat().st_mode & 0o077] == []
    assert [file for file in files if file.is_file() and token.encode() in file.read_bytes()] == []


def test_very_long_messages_at_once_cost_no_server_its_life(house: House, host: Host) -> None:
    reader = house.host(house.token("reader", "read")).session(house.all)
    params = {"x": "y" * 15_000_000}
    told = json.dumps({"jsonrpc": "2.0", "method": "notifications/roots/list_changed", "params": params}).encode()
    calls: list[Any] = []

    def call() -> None:
        params = {"name": "good__echo", "arguments": {"message": "z" * 15_000_000}}
        calls.append(host.ask(house.all, "tools/call", params).json["result"])

    threads = [threading.Thread(target=send, args=(house.all, "POST", told, reader.headers)) for _ in range(6)]
    threads += [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(calls) == 8
    texts = [result["content"][0]["text"] for result in calls]
    assert all(len(text) == 15_000_000 or "has not read yet" in text for text in texts)
    assert any(len(text) == 15_000_000 for text in texts)
    assert {step["to"] for step in house.daemon.history("good")} <= {"starting", "initializing", "ready"}
