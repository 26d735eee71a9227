"""The methods, over a real socket and a fake daemon: what is answered, and what whoever asked is told to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest
from control_fakes import FakeDaemon, Wire

from moltis import logs
from moltis.config.keys import SERVER_KEYS
from moltis.control import registry
from moltis.control.methods import METHODS
from moltis.errors import RequestTimeout
from moltis.server.status import LastError
from moltis.session.calls import ErrorReply, Failed, Result

Serve = Callable[..., AbstractAsyncContextManager[Any]]
Dial = Callable[[], AbstractAsyncContextManager[Wire]]

CONTRACT = (
    "daemon.status daemon.reload daemon.shutdown mcp.list mcp.status mcp.history mcp.tools mcp.resources mcp.prompts "
    "mcp.call mcp.read_resource mcp.get_prompt mcp.start mcp.stop mcp.restart mcp.enable mcp.disable mcp.add "
    "mcp.update mcp.remove mcp.test mcp.config.get mcp.config.update mcp.reauth mcp.oauth.start mcp.logout "
    "mcp.oauth.complete "
    "project.list project.show project.add project.remove project.exclude project.include "
    "token.create token.list token.revoke env.list env.set env.unset logs.tail mcp.subscribe mcp.unsubscribe "
    "mcp.connect rpc.discover"
)
CALL = b'{"jsonrpc":"2.0","id":"x","method":"mcp.call","params":%b}\n'


async def test_a_tools_result_comes_back_byte_for_byte(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    session = daemon.all["alpha"].the_session
    session.result = b'{ "content":[{"text":"\\u00e9\xc3\xa9 1.0e5"}] , "n":1.50}'
    async with serve(), dial() as wire:
        await wire.send(CALL % b'{"server":"alpha","tool":"echo","arguments":{ "a" : 1.00, "a":2 },"timeout_secs":5}')
        assert await wire.line() == b'{"jsonrpc":"2.0","id":"x","result":%b}' % session.result
    assert session.calls[0].what == ("call", "echo", b'{ "a" : 1.00, "a":2 }', 5.0)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_a_result_over_several_lines_is_one_line_here(
    serve: Serve, dial: Dial, daemon: FakeDaemon, end: bytes
) -> None:
    session = daemon.all["alpha"].the_session
    session.result = end.join([b"{", b' "content": [],', b' "n": 1.50, "text": "a\\nb"', b"}"])
    async with serve(), dial() as wire:
        for _ in range(2):
            await wire.send(CALL % b'{"server":"alpha","tool":"echo"}')
            line = await wire.line()
            assert json.loads(line)["result"] == {"content": [], "n": 1.5, "text": "a\nb"}
            assert b'"n": 1.50' in line


async def test_a_servers_error_over_several_lines_is_one_line_here(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    session = daemon.all["alpha"].the_session
    session.result = None
    async with serve(), dial() as wire:
        await wire.ask("mcp.call", server="alpha", tool="echo")
        await until(lambda: session.calls)
        session.calls[0].on_reply(ErrorReply(b'{\n "code": -1,\r\n "message": "no luck",\n "data": [\n1]\n}'))
        error = json.loads(await wire.line())["error"]
        assert error["data"]["error"] == {"code": -1, "message": "no luck", "data": [1]}


@pytest.mark.parametrize("arguments", [b"", b',"arguments":null'])
async def test_a_call_may_have_no_arguments(serve: Serve, dial: Dial, daemon: FakeDaemon, arguments: bytes) -> None:
    async with serve(), dial() as wire:
        await wire.send(CALL % (b'{"server":"alpha","tool":"echo"%b}' % arguments))
        assert "result" in await wire.json()
    assert daemon.all["alpha"].the_session.calls[0].what[2] is None


async def test_arguments_that_are_no_object_are_refused(serve: Serve, dial: Dial) -> None:
    async with serve(), dial() as wire:
        error = await wire.call("mcp.call", server="alpha", tool="echo", arguments=[1])
        assert error["code"] == -32602
        assert "arguments" in error["message"]


async def test_an_unlisted_tool_is_refused_with_the_nearest_names(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    async with serve(), dial() as wire:
        error = await wire.call("mcp.call", server="alpha", tool="ecko")
    assert error["code"] == -32602
    assert "did you mean 'echo'" in error["message"]
    assert error["data"]["server"] == "alpha"
    assert not daemon.all["alpha"].the_session.calls


async def test_the_servers_own_error_is_in_data_as_it_was_sent(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    session = daemon.all["alpha"].the_session
    session.result = None
    async with serve(), dial() as wire:
        await wire.ask("mcp.call", server="alpha", tool="echo")
        await until(lambda: session.calls)
        session.calls[0].on_reply(ErrorReply(b'{"code": -1.0, "message":"no luck", "data":[1]}'))
        line = await wire.line()
        error = json.loads(line)["error"]
        assert (error["code"], error["data"]["kind"], error["data"]["server"]) == (-32009, "server_error", "alpha")
        assert "no luck" in error["message"]
        assert b'{"code": -1.0, "message":"no luck", "data":[1]}' in line
        await wire.ask("mcp.call", server="alpha", tool="echo")
        await until(lambda: len(session.calls) == 2)
        session.calls[1].on_reply(Failed(RequestTimeout("no answer in 1 s", server="alpha")))
        assert (await wire.json())["error"]["code"] == -32006


@pytest.mark.parametrize(
    ("state", "code", "hint"),
    [
        ("invalid", -32005, "moltis config check"),
        ("disabled", -32005, "moltis mcp enable alpha"),
        ("stopped", -32005, "moltis mcp start alpha"),
        ("backoff", -32005, "moltis why alpha"),
        ("cooldown", -32005, "moltis why alpha"),
        ("stopping", -32005, "moltis why alpha"),
        ("awaiting_auth", -32007, "moltis mcp reauth alpha"),
    ],
)
async def test_a_server_that_cannot_be_called_says_why_until_when_and_what_mends_it(
    serve: Serve, dial: Dial, daemon: FakeDaemon, state: str, code: int, hint: str
) -> None:
    server = daemon.all["alpha"]
    server.state = state
    server.next_retry_at = "2026-01-01T00:00:05Z"
    server.last_error = LastError(kind="exited", message="it exited with 3", at="2026-01-01T00:00:00Z")
    async with serve(), dial() as wire:
        for method, params in (("mcp.call", {"server": "alpha", "tool": "echo"}), ("mcp.tools", {"name": "alpha"})):
            error = await wire.call(method, **params)
            assert (error["code"], error["data"]["hint"]) == (code, hint)
            if code == -32005:
                assert (error["data"]["state"], error["data"]["next_retry_at"]) == (state, server.next_retry_at)
                assert ("it exited with 3" in error["message"]) == (state not in ("disabled", "stopped"))


async def test_a_call_waits_for_a_server_that_is_starting(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    server = daemon.all["alpha"]
    server.state = "initializing"
    async with serve(), dial() as wire:
        await wire.ask("mcp.call", server="alpha", tool="echo")
        await wire.ask("mcp.tools", name="alpha")
        assert (await wire.call("mcp.tools")) == [  # which waits for nobody
            {"server": "beta", "name": "echo", "inputSchema": {}},
            {"server": "beta", "name": "add", "inputSchema": {}},
        ]
        server.state = "ready"
        server.settled.set()
        answers = {a["id"]: a["result"] for a in [await wire.json(), await wire.json()]}
    assert answers[1] == {"content": [], "n": 1.5}
    assert [tool["server"] for tool in answers[2]] == ["alpha", "alpha"]


async def test_a_call_does_not_wait_longer_than_it_may(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    daemon.all["alpha"].state = "starting"
    async with serve(), dial() as wire:
        error = await wire.call("mcp.call", server="alpha", tool="echo", timeout_secs=0.05)
    assert (error["code"], error["data"]["state"]) == (-32005, "starting")


async def test_a_call_is_cancelled_upstream_when_its_caller_vanishes(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    session = daemon.all["alpha"].the_session
    session.result = None
    async with serve():
        async with dial() as wire:
            await wire.ask("mcp.call", server="alpha", tool="echo")
            await until(lambda: session.calls)
        await session.calls[0].cancelled.wait()
        session.calls[0].on_reply(Result(b"1"))  # too late, and harmless


async def test_a_call_that_waited_is_cancelled_upstream_too(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    server = daemon.all["alpha"]
    server.state, server.the_session.result = "starting", None
    async with serve():
        async with dial() as wire:
            await wire.ask("mcp.call", server="alpha", tool="echo")
            await wire.call("daemon.status")
            server.state = "ready"
            server.settled.set()
            await until(lambda: server.the_session.calls)
        await server.the_session.calls[0].cancelled.wait()


async def test_a_try_ends_with_its_caller(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    daemon.all["slow"] = daemon.all["alpha"]
    daemon.all["slow"].name = "slow"
    async with serve():
        async with dial() as wire:
            await wire.ask("mcp.test", name="slow")
            await daemon.trying.wait()
        await daemon.try_ended.wait()


async def test_resources_and_prompts_are_relayed_too(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    async with serve(), dial() as wire:
        await wire.call("mcp.read_resource", server="alpha", uri="a://b")
        await wire.call("mcp.get_prompt", server="alpha", name="p", arguments={"a": "b"})
        assert await wire.call("mcp.prompts") == []
        assert await wire.call("mcp.resources", name="alpha") == []
    calls = daemon.all["alpha"].the_session.calls
    assert [c.what for c in calls] == [("read", "a://b"), ("prompt", "p", b'{"a": "b"}')]


async def test_servers_are_started_stopped_and_edited(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    ok = {"ok": True}
    async with serve(), dial() as wire:
        for verb in ("start", "stop", "restart", "enable", "disable"):
            assert await wire.call(f"mcp.{verb}", name="alpha") == ok
        assert await wire.call("mcp.add", name="gamma", command="npx", args=["-y"], cwd=None, stop_eof_secs=1) == {
            "ok": True,
            "name": "gamma",
        }
        assert await wire.call("mcp.update", name="alpha", command=None, env={"A": "$B"}) == ok
        assert await wire.call("mcp.remove", name="alpha") == {"ok": True, "removed": True}
        assert (await wire.call("mcp.test", name="alpha"))["tool_count"] == 2
        assert (await wire.call("mcp.test", name="alpha", copy=True))["tool_count"] == 2
        assert (await wire.call("mcp.test", command="npx", copy=True))["ok"] is True
        assert await wire.call("mcp.config.update", request_timeout_secs=7) == {"request_timeout_secs": 7.0}
        assert await wire.call("mcp.config.get") == {"request_timeout_secs": 7.0}
        assert await wire.call("env.set", name="A", value="b") == ok
        assert await wire.call("env.unset", name="KEY") == ok
        assert await wire.call("env.list") == ["KEY"]
        assert await wire.call("logs.tail", limit=2, level="warning") == [{"ts": 1}, {"ts": 1}]
        assert await wire.call("daemon.reload") == {
            "added": [], "changed": [], "removed": [], "unchanged": ["alpha", "beta"],
        }  # fmt: skip
    assert daemon.all["alpha"].asked == ["start", "stop", "restart"]
    assert daemon.asked == [
        ("enabled", "alpha", True),
        ("enabled", "alpha", False),
        ("add", "gamma", {"command": "npx", "args": ["-y"], "stop_eof_secs": 1.0}),
        ("update", "alpha", {"command": None, "env": {"A": "$B"}}),
        ("remove", "alpha"),
        ("try", "alpha", None),
        ("copy", "alpha", None),
        ("try", "test", {"command": "npx"}),
        ("set", "A", "b"),
    ]


async def test_a_login_is_begun_and_completed_by_what_the_browser_came_back_with(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    daemon.all["remote"] = type(daemon.all["alpha"])("remote", "awaiting_auth", "sse")
    async with serve(), dial() as wire:
        for method in ("mcp.reauth", "mcp.oauth.start"):
            assert await wire.call(method, name="remote") == {
                "ok": True,
                "oauth_pending": True,
                "auth_url": "https://as.example/authorize?state=s",
            }
        assert (await wire.call("mcp.reauth", name="remote", new_client=True))["oauth_pending"]
        assert await wire.call("mcp.logout", name="remote") == {"ok": True}
        assert await wire.call("mcp.logout", name="remote", forget_client=True) == {"ok": True}
        url = "http://127.0.0.1:1/callback?state=s&code=c"
        assert await wire.call("mcp.oauth.complete", callback_url=url) == {"ok": True, "name": "remote"}
        assert await wire.call("mcp.oauth.complete", state="s", code="c", iss="i") == {"ok": True, "name": "remote"}
    assert daemon.asked == [
        ("login", "remote"),
        ("login", "remote"),
        ("login", "remote", "anew"),
        ("logout", "remote", False),
        ("logout", "remote", True),
        ("complete", url, {}),
        ("complete", None, {"state": "s", "code": "c", "iss": "i"}),
    ]


@pytest.mark.parametrize(
    ("method", "params", "code", "words"),
    [
        ("mcp.statu", {}, -32601, "did you mean 'mcp.status'"),
        ("mcp.status", {}, -32602, "'name' is missing"),
        ("mcp.status", {"nam": "alpha"}, -32602, "no param 'nam' - did you mean 'name'"),
        ("mcp.status", {"name": 5}, -32602, "name: expected `str`, got `int`"),
        ("mcp.status", {"name": "alpha", "more": 1}, -32602, "no param 'more'"),
        ("mcp.status", ["alpha"], -32602, "by name"),
        ("mcp.status", {"name": "alfa"}, -32004, "did you mean alpha"),
        ("mcp.call", {"server": "alpha", "tool": "echo", "timeout_secs": 0}, -32602, "timeout_secs: expected"),
        ("mcp.history", {"name": "alpha", "limit": 0}, -32602, "limit"),
        ("mcp.list", {"project": "shop"}, -32004, "no project is called 'shop'"),
        ("project.show", {"name": "sit"}, -32004, "did you mean site"),
        ("project.add", {"name": "x"}, -32602, "'path' is missing"),
        ("mcp.start", {"name": "off"}, -32005, "is disabled"),
        ("mcp.add", {"name": "a__b", "command": "x"}, -32602, "must not contain '__'"),
        ("mcp.add", {"name": "a", "comand": "x"}, -32602, "no param 'comand' - did you mean 'command'"),
        ("mcp.add", {"name": "a", "oauth": {"client": 1}}, -32602, "oauth"),
        ("mcp.update", {"name": "alpha"}, -32602, "no key to change"),
        ("mcp.update", {"name": "nobody", "command": "x"}, -32004, "nobody"),
        ("mcp.test", {}, -32602, "'name' is missing"),
        ("mcp.reauth", {"name": "alpha"}, -32602, "needs no login"),
        ("mcp.oauth.complete", {"code": "c"}, -32602, "callback_url, or state and code, is missing"),
        ("env.unset", {"name": "KEX"}, -32602, "did you mean 'KEY'"),
        ("mcp.subscribe", {"events": ["stat"]}, -32602, "did you mean 'state'"),
        ("mcp.unsubscribe", {"subscription_id": "sub-9"}, -32602, "sub-9"),
        ("logs.tail", {"level": "loud"}, -32602, "level"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong_with_it(
    serve: Serve, dial: Dial, daemon: FakeDaemon, method: str, params: Any, code: int, words: str
) -> None:
    daemon.all["off"] = type(daemon.all["alpha"])("off", "disabled")
    async with serve(), dial() as wire:
        await wire.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
        error = (await wire.json())["error"]
    assert (error["code"], words in error["message"]) == (code, True), error
    assert set(error["data"]) >= {"kind", "server", "hint"}


async def test_a_fault_of_ours_is_logged_and_not_told(
    serve: Serve, dial: Dial, daemon: FakeDaemon, tmp_path: Any
) -> None:
    daemon.all["broken"] = type(daemon.all["alpha"])("broken")
    logs.configure(tmp_path / "logs.jsonl")
    try:
        async with serve(), dial() as wire:
            line = b'{"jsonrpc":"2.0","id":1,"method":"mcp.test","params":{"name":"broken"}}\n'
            await wire.send(line)
            answer = await wire.line()
    finally:
        logs.close()
    assert json.loads(answer)["error"]["code"] == -32603
    assert b"s3cret" not in answer
    assert b"Traceback" not in answer
    assert "control_method_failed" in (tmp_path / "logs.jsonl").read_text()


async def test_shutdown_is_answered_before_it_begins(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    async with serve(), dial() as wire:
        assert await wire.call("daemon.shutdown") == {"ok": True}
    assert daemon.asked == [("shutdown",)]


async def test_projects_are_shown_and_changed(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    async with serve(), dial() as wire:
        assert await wire.call("project.list") == [{"name": "site", "path": "/srv/site", "servers": ["beta"]}]
        assert await wire.call("project.show", name="site") == [
            {"server": "alpha", "scope": "global", "included": False, "reason": "excluded"},
            {"server": "beta", "scope": "global", "included": True, "reason": None},
        ]
        assert [server["name"] for server in await wire.call("mcp.list", project="site")] == ["beta"]
        for method, params in (
            ("add", {"name": "shop", "path": "/srv/shop"}),
            ("remove", {"name": "shop"}),
            ("exclude", {"project": "site", "server": "beta"}),
            ("include", {"project": "site", "server": "beta"}),
        ):
            assert await wire.call(f"project.{method}", **params) == {"ok": True}
    assert daemon.asked == [
        ("add", "shop", "/srv/shop"),
        ("remove", "shop"),
        ("exclude", "site", "beta"),
        ("include", "site", "beta"),
    ]


async def test_discovery_describes_every_method_and_every_param(serve: Serve, dial: Dial) -> None:
    async with serve(), dial() as wire:
        document = await wire.call("rpc.discover")
    assert document["openrpc"] == "1.3.2"
    assert {m["name"] for m in document["methods"]} == set(CONTRACT.split())
    text = json.dumps(document)
    for method in document["methods"]:
        assert method["summary"].endswith(".")
        for param in method["params"]:
            schema = json.dumps(param["schema"])
            assert "description" in schema or "$ref" in schema, (method["name"], param["name"])
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in document["components"]["schemas"]
    by_name = {m["name"]: m for m in document["methods"]}
    assert {p["name"] for p in by_name["mcp.add"]["params"]} == {"name", *SERVER_KEYS}


def test_the_table_for_people_has_a_row_for_each_method() -> None:
    rows = registry.markdown_table(METHODS).splitlines()
    assert {row.split("`")[1] for row in rows[2:]} == set(CONTRACT.split())
    assert {row.count("|") for row in rows} == {5}


async def until(condition: Callable[[], Any]) -> None:
    """Wait until it is so; the fixture bounds the wait."""
    while not condition():  # noqa: ASYNC110  # what is waited for is on the other side of a socket
        await anyio.sleep(0.005)
