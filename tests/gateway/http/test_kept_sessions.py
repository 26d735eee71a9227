"""Sessions that are kept for the next daemon: by the table, the file, and as hosts see it."""

from __future__ import annotations

import json
import os
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest
from gateway_http_fakes import PRINCIPALS, Client, StubGateway, request
from patience import PATIENCE

from moltis.config.files import Records
from moltis.errors import Busy, ConfigError
from moltis.gateway import messages
from moltis.gateway.api import LOCAL, Principal
from moltis.gateway.http import kept as kept_module
from moltis.gateway.http.conversations import Conversations
from moltis.gateway.http.kept import KEEP_SECS, MAX_SAID_BYTES, KeptSessions
from moltis.gateway.http.sessions import Sessions
from moltis.gateway.messages import Ask
from moltis.gateway.views import ALL, path_of

GOOD, OTHER = PRINCIPALS["good"], PRINCIPALS["other"]
SAID = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "h", "version": "1"}}


class Daemons:
    """One daemon after the other, on one file. `marks`: of the access tokens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.time = 1e9
        self.marks = {"good": "1", "other": "2", "": ""}
        self.max_kept = 8

    async def next(self) -> KeptSessions:
        kept = KeptSessions(
            self.path, lambda name: self.marks.get(name, ""), now=lambda: self.time, max_kept=self.max_kept
        )
        await kept.load()
        return kept


@pytest.fixture
def daemons(tmp_path: Path) -> Daemons:
    return Daemons(tmp_path / "sessions.json")


def ask(method: str, **params: Any) -> Ask:
    found = messages.parse(json.dumps(request(method, params)).encode())
    assert isinstance(found, Ask)
    return found


async def begun(daemons: Daemons, *ids: str, principal: Principal = GOOD, server: str | None = None) -> KeptSessions:
    kept = await daemons.next()
    for id in ids:
        kept.begin(id, path_of(server), principal, ask("initialize", **SAID))
    await kept.write()
    return kept


@pytest.mark.parametrize(("server", "path"), [(None, ALL), ("files", path_of("files"))])
async def test_a_session_that_moltis_0_5_kept_is_found_too(daemons: Daemons, server: str | None, path: str) -> None:
    kept = {"id": sha256(b"a").hexdigest(), "server": server, "name": "good", "token": "1", "said": SAID, "used": 1e9}
    daemons.path.write_text(json.dumps({"format": 1, "sessions": [{**kept, "level": None, "uris": []}]}))
    for _ in range(2):  # as it was written then, and as it is written now
        now = await daemons.next()
        assert now.find("a", path, GOOD) is not None
        assert now.find("a", path_of("git"), GOOD) is None
        await now.close()


async def test_a_session_is_found_by_the_next_daemon_for_the_same_token_at_the_same_path(daemons: Daemons) -> None:
    await begun(daemons, "a")
    kept = await daemons.next()
    assert kept.find("a", ALL, GOOD) is not None
    assert kept.find("a", ALL, OTHER) is None
    assert kept.find("a", ALL, LOCAL) is None
    assert kept.find("a", path_of("files"), GOOD) is None
    assert kept.find("b", ALL, GOOD) is None
    daemons.marks["good"] = "a new token of the same name"
    assert kept.find("a", ALL, GOOD) is None


async def test_without_tokens_anyone_local_has_sessions_too(daemons: Daemons) -> None:
    await begun(daemons, "a", principal=LOCAL, server="files")
    kept = await daemons.next()
    assert kept.find("a", path_of("files"), LOCAL) is not None
    assert kept.find("a", path_of("files"), GOOD) is None


async def test_the_file_is_for_its_owner_and_names_no_session(daemons: Daemons) -> None:
    await begun(daemons, "a-session-id")
    assert os.stat(daemons.path).st_mode & 0o777 == 0o600
    assert b"a-session-id" not in daemons.path.read_bytes()


async def test_what_was_ended_stays_ended(daemons: Daemons) -> None:
    kept = await begun(daemons, "a", "b")
    await begun(daemons)
    kept.forget("a")
    await kept.write()
    kept = await daemons.next()
    assert kept.find("a", ALL, GOOD) is None
    kept.forget_principal("good")
    await kept.write()
    assert len(await daemons.next()) == 0


async def test_a_session_is_kept_for_a_day_after_its_last_use(daemons: Daemons) -> None:
    kept = await begun(daemons, "a")
    daemons.time += KEEP_SECS - 1
    kept.used("a")
    await kept.close()
    daemons.time += KEEP_SECS - 1
    assert (await daemons.next()).find("a", ALL, GOOD) is not None
    daemons.time += 1
    assert len(await daemons.next()) == 0


async def test_who_has_the_most_makes_room_and_whoever_says_too_much_is_not_kept(daemons: Daemons) -> None:
    kept = await begun(daemons, *map(str, range(8)))
    kept.begin("others", ALL, OTHER, ask("initialize", **SAID))
    assert len(kept) == 8
    assert (kept.find("0", ALL, GOOD), kept.find("others", ALL, OTHER) is not None) == (None, True)
    kept.begin("long", ALL, OTHER, ask("initialize", clientInfo={"name": "x" * MAX_SAID_BYTES}))
    assert kept.find("long", ALL, OTHER) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"\xff", b"[]", b'{"format":2,"sessions":[]}', b'{"format":1,"sessions":[{"id":1}]}',
        b'{"format":1,"sessions":[{"id":"a","server":null,"name":"","token":"","said":[],"used":2e9}]}', None, "link",
    ],
)  # fmt: skip
async def test_a_damaged_file_holds_no_sessions_and_is_replaced(daemons: Daemons, damage: bytes | str | None) -> None:
    await begun(daemons, "a")
    whole = daemons.path.read_bytes()
    if damage == "link":
        (daemons.path.parent / "elsewhere").write_bytes(whole)
        daemons.path.unlink()
        daemons.path.symlink_to("elsewhere")
    else:
        daemons.path.write_bytes(whole[:-9] if damage is None else bytes(damage))  # type: ignore[arg-type]
    kept = await daemons.next()
    assert len(kept) == 0
    if damage != "link":
        await begun(daemons, "b")
        assert len(await daemons.next()) == 1


# --- as hosts see it


async def test_a_host_goes_on_with_its_old_session_and_is_told_what_may_have_changed(
    serve: Any, gateway: StubGateway, daemons: Daemons
) -> None:
    before = await daemons.next()
    async with serve(conversations=Conversations(gateway, Sessions(anyio.current_time, kept=before))) as served:
        client: Client = await served.dial()
        session = {"Mcp-Session-Id": await client.initialize()}
        for method, params in [("logging/setLevel", {"level": "error"}), ("resources/subscribe", {"uri": "a:1"})]:
            await client.send("POST", body=request(method, params), headers=session)
            (_, outlet), *_ = await gateway.waiting()
            gateway.hosts[0].waiting.clear()
            outlet.reply(messages.result(b"1", b"{}"))
            assert (await client.response()).status == 200
    await before.close()
    gateway.hosts.clear()
    after = await daemons.next()
    async with serve(conversations=Conversations(gateway, Sessions(anyio.current_time, kept=after))) as served:
        client = await served.dial()
        other = {**session, "Authorization": "Bearer other"}
        assert (await client.ask("POST", body=request("echo"), headers=other)).status == 404
        assert (await client.ask("POST", body=request("echo"), headers={"Mcp-Session-Id": "x"})).status == 404
        assert (await client.ask("POST", body=request("echo"), headers=session)).status == 200
        assert (await client.ask("POST", body=request("echo"), headers=session)).status == 200
        (host,) = gateway.hosts
        assert [a.method for a in host.asks] == [
            "initialize", "logging/setLevel", "resources/subscribe", "echo", "echo",
        ]  # fmt: skip
        assert [t.method for t in host.tells] == ["notifications/initialized"]
        assert host.changed == ["a:1"]  # the stub promises no lists
        assert (await client.ask("DELETE", headers=session)).status == 204
        assert (await client.ask("POST", body=request("echo"), headers=session)).status == 404
    await after.close()
    async with serve(
        conversations=Conversations(gateway, Sessions(anyio.current_time, kept=await daemons.next()))
    ) as s:
        client = await s.dial()
        assert (await client.ask("POST", body=request("echo"), headers=session)).status == 404
        answer = await client.ask("POST", body=request("initialize", SAID), headers=session)
        assert answer.status == 200
        assert answer.headers["mcp-session-id"] != session["Mcp-Session-Id"]


async def test_a_session_given_up_for_being_idle_is_taken_up_again(gateway: StubGateway, daemons: Daemons) -> None:
    time = 0.0
    table = Sessions(lambda: time, idle_secs=10.0, kept=await daemons.next())
    session = table.begin(ALL, GOOD, gateway.new_host)
    assert session is not None
    table.learn(session, ask("initialize", **SAID))
    time = 100.0
    assert not table.end_idle()
    assert table.find(session.id, ALL, GOOD) is None
    again = table.take_up(session.id, ALL, GOOD, gateway.new_host)
    assert again is not None
    table.end(again)
    assert table.take_up(session.id, ALL, GOOD, gateway.new_host) is None


async def test_a_session_that_is_refused_now_is_not_there_and_stays_kept(
    gateway: StubGateway, daemons: Daemons
) -> None:
    kept = await daemons.next()
    kept.begin("a", ALL, GOOD, ask("initialize", wrong=1))
    table = Sessions(lambda: 0.0, kept=kept)
    assert table.take_up("a", ALL, GOOD, gateway.new_host) is None
    assert (len(table), gateway.hosts[0].is_closed) == (0, True)
    assert kept.find("a", ALL, GOOD) is not None


class Disk:
    """Takes `secs` for a write, or until `let_go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, secs: float) -> None:
        self.writes = 0
        self._held = threading.Event()
        save = Records.save

        def slowly(records: Records[Any], path: Path, data: bytes) -> None:
            self._held.wait(secs)
            self.writes += 1
            save(records, path, data)

        monkeypatch.setattr(Records, "save", slowly)

    def let_go(self) -> None:
        self._held.set()


async def test_a_host_that_is_told_its_session_finds_it_on_disk(
    serve: Any, gateway: StubGateway, daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, 0.05)
    kept = await daemons.next()
    async with (
        serve(conversations=Conversations(gateway, Sessions(anyio.current_time, kept=kept))) as served,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(kept.run)
        missing: list[str] = []

        async def begin() -> None:
            client: Client = await served.dial()
            id = await client.initialize()
            if (await daemons.next()).find(id, ALL, GOOD) is None:
                missing.append(id)

        daemons.max_kept = 64
        async with anyio.create_task_group() as hosts:
            for _ in range(8):
                hosts.start_soon(begin)
        tasks.cancel_scope.cancel()
    assert missing == []
    assert disk.writes < 8, "those that begin together are written together"


async def test_a_disk_that_does_not_answer_holds_no_host_up(
    serve: Any, gateway: StubGateway, daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await daemons.next()
    disk = Disk(monkeypatch, 60.0)
    async with (
        serve(conversations=Conversations(gateway, Sessions(anyio.current_time, kept=kept))) as served,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(kept.run)
        client: Client = await served.dial()
        with anyio.fail_after(PATIENCE):
            session = {"Mcp-Session-Id": await client.initialize()}
        assert (await client.ask("POST", body=request("echo"), headers=session)).status == 200
        assert disk.writes == 0
        disk.let_go()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("fault", ["a full disk", "no thread"])
async def test_what_cannot_be_written_is_waited_for_no_longer(
    serve: Any, gateway: StubGateway, daemons: Daemons, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def refuse(*_: Any) -> None:
        raise ConfigError("No space left on device") if fault == "a full disk" else Busy("no thread")

    monkeypatch.setattr(kept_module, "WRITTEN_SECS", 60.0)
    kept = await daemons.next()
    monkeypatch.setattr(Records, "save", refuse)
    async with (
        serve(conversations=Conversations(gateway, Sessions(anyio.current_time, kept=kept))) as served,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(kept.run)
        client: Client = await served.dial()
        with anyio.fail_after(PATIENCE):
            await client.initialize()
        tasks.cancel_scope.cancel()


async def test_while_it_stops_a_request_is_a_503_that_says_when_to_come_again(serve: Any, gateway: StubGateway) -> None:
    async with serve() as served:
        client: Client = await served.dial()
        session = {"Mcp-Session-Id": await client.initialize()}
        gateway.is_closed = True
        for headers in (session, {}):
            answer = await client.ask("POST", body=request("echo"), headers=headers)
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, -32005, "1")


async def test_sessions_are_served_though_no_thread_can_read_or_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    kept = KeptSessions(tmp_path / "sessions.json", lambda name: "1")
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refuse)
        await kept.load()
        kept.begin("a", ALL, GOOD, Ask(b"1", "initialize", {}, {}))
        await kept.close()
    assert len(kept) == 1
    await kept.close()
    assert (tmp_path / "sessions.json").exists()


async def test_a_file_that_could_not_be_read_again_is_not_written_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "MAX_FILE_BYTES", 10)
    kept = KeptSessions(tmp_path / "sessions.json", lambda name: "1")
    kept.begin("a", ALL, GOOD, Ask(b"1", "initialize", {}, {}))
    await kept.close()
    assert (len(kept), list(tmp_path.iterdir())) == (1, [])
