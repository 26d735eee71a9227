"""Connections of the control socket: lines, batches, order, limits, and clients that behave badly."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import anyio
import msgspec
import pytest
from control_fakes import FakeDaemon, Wire, moved, numbered
from patience import PATIENCE

from moltis.control.conversation import Limits
from moltis.control.listener import Listener, Timing
from moltis.operations.events import ListsChanged, Logged
from moltis.paths import Paths
from moltis.session.calls import Result
from moltis.transport.wire.buffers import Inbox

Serve = Callable[..., AbstractAsyncContextManager[Listener]]
Dial = Callable[[], AbstractAsyncContextManager[Wire]]

STATUS = b'{"jsonrpc":"2.0","id":%d,"method":"mcp.status","params":{"name":"alpha"}}\n'
CALL = b'{"jsonrpc":"2.0","id":%d,"method":"mcp.call","params":{"server":"alpha","tool":"echo"}}\n'
QUICK = Timing(sweep_secs=0.02, endpoint_check_secs=0.05)
MIB = 1024 * 1024


async def test_a_batch_is_answered_in_one_line_when_all_of_it_is_done(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    alpha = daemon.all["alpha"]
    alpha.state = "starting"
    async with serve(), dial() as wire:
        calls = b",".join([CALL % 1, STATUS % 2, b'{"jsonrpc":"2.0","method":"mcp.list"}', b"7"]).replace(b"\n", b"")
        await wire.send(b"[%b]\n" % calls + STATUS % 3)
        assert (await wire.json())["id"] == 3
        alpha.state = "ready"
        alpha.settled.set()
        answers = {a["id"]: a for a in await wire.json()}
    assert set(answers) == {1, 2, None}
    assert answers[1]["result"]["n"] == 1.5
    assert answers[None]["error"]["code"] == -32600


async def test_notifications_are_carried_out_and_never_answered(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    async with serve(), dial() as wire:
        await wire.send(b'{"jsonrpc":"2.0","method":"mcp.stop","params":{"name":"alpha"}}\n')
        await wire.send(b'{"jsonrpc":"2.0","method":"no.such"}\n[{"jsonrpc":"2.0","method":"mcp.list"}]\n' + STATUS % 1)
        assert (await wire.json())["id"] == 1
    assert daemon.all["alpha"].asked == ["stop"]


async def test_lines_may_come_in_any_pieces(serve: Serve, dial: Dial) -> None:
    async with serve(), dial() as wire:
        for byte in b"\xef\xbb\xbf" + STATUS % 1 + b"\r\n\n" + STATUS % 2:
            await wire.send(bytes([byte]))
        assert [(await wire.json())["id"] for _ in range(2)] == [1, 2]


async def test_a_thousand_pipelined_requests_are_all_answered_in_order(serve: Serve, dial: Dial) -> None:
    async with serve(), dial() as wire, anyio.create_task_group() as tasks:
        tasks.start_soon(wire.send, b"".join(STATUS % i for i in range(1000)))
        assert [(await wire.json())["id"] for _ in range(1000)] == list(range(1000))


async def test_requests_beyond_the_cap_wait_their_turn(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    session = daemon.all["alpha"].the_session
    session.result = None
    async with serve(limits=Limits(in_flight=3)), dial() as wire, dial() as other:
        await wire.send(b"".join(CALL % i for i in range(10)))
        await other.call("daemon.status")
        assert len(session.calls) == 3
        session.result = b"1"
        for call in tuple(session.calls):
            call.on_reply(_result())
        assert sorted([(await wire.json())["id"] for _ in range(10)]) == list(range(10))


async def test_who_half_closes_is_answered_and_then_closed(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    alpha = daemon.all["alpha"]
    alpha.state = "starting"
    async with serve(), dial() as wire:
        await wire.send((CALL % 1)[:-1])  # as `printf '{...}' | nc -N -U` leaves it
        wire.sock.shutdown(socket.SHUT_WR)
        async with dial() as other:
            await other.call("daemon.status")
        alpha.state = "ready"
        alpha.settled.set()
        assert (await wire.json())["id"] == 1
        assert await wire.line() == b""


async def test_a_half_closed_client_that_then_vanishes_is_noticed(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    session = daemon.all["alpha"].the_session
    session.result = None
    async with serve(timing=QUICK):
        async with dial() as wire:
            await wire.send(CALL % 1)
            wire.sock.shutdown(socket.SHUT_WR)
            async with dial() as other:
                await other.call("daemon.status")
            assert not session.calls[0].cancelled.is_set()
        await session.calls[0].cancelled.wait()


LEAVINGS = {"a blank": b" ", "half a line": b'{"jsonrpc"', "a notification": b'{"jsonrpc":"2.0","method":"mcp.list"}\n'}


@pytest.mark.parametrize("words", LEAVINGS.values(), ids=LEAVINGS)
async def test_clients_that_leave_with_a_reply_unread_and_something_on_the_way_are_let_go(
    serve: Serve, paths: Paths, words: bytes
) -> None:
    async with serve(timing=QUICK) as listener:
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(paths.socket))
                client.send(STATUS % 1)
                await anyio.wait_readable(client)
                client.send(words)
        with anyio.fail_after(PATIENCE):
            while listener.connections:  # noqa: ASYNC110 - the kernel sets no event
                await anyio.sleep(0.01)


async def test_a_client_whose_end_the_loop_does_not_tell_of_is_swept_away(
    serve: Serve, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_is_deaf = False
    read = Inbox._readable
    monkeypatch.setattr(Inbox, "_readable", lambda inbox: None if loop_is_deaf else read(inbox))
    async with serve(timing=QUICK) as listener:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(paths.socket))
        client.send(STATUS % 1)
        await anyio.wait_readable(client)
        loop_is_deaf = True
        client.close()
        await anyio.sleep(0.1)
        assert listener.connections == 1
        loop_is_deaf = False  # but what it had to tell it has told
        with anyio.fail_after(PATIENCE):
            while listener.connections:  # noqa: ASYNC110 - the kernel sets no event
                await anyio.sleep(0.01)


async def test_a_line_beyond_the_cap_is_named_and_ends_the_connection(serve: Serve, dial: Dial) -> None:
    async with serve(), dial() as wire, dial() as other:
        fits = STATUS % 1
        await wire.send(fits[:-2] + b" " * (MIB - len(fits)) + b"}\n")
        assert (await wire.json())["id"] == 1
        try:
            await wire.send(b"x" * (2 * MIB))
        except ConnectionError:
            pass
        error = (await wire.json())["error"]
        assert (error["code"], str(MIB) in error["message"]) == (-32600, True)
        assert await wire.ended()
        assert (await other.call("daemon.status"))["name"] == "moltis"


async def test_an_unfinished_line_is_closed_after_its_time_and_an_idle_client_is_not(serve: Serve, dial: Dial) -> None:
    async with serve(timing=QUICK, limits=Limits(partial_line_secs=0.1)), dial() as idle, dial() as half:
        await half.send(b'{"jsonrpc":')
        error = (await half.json())["error"]
        assert (error["code"], "0.1 s" in error["message"]) == (-32600, True)
        assert await half.ended()
        assert (await idle.call("daemon.status"))["name"] == "moltis"


async def test_a_client_that_never_reads_is_dropped(serve: Serve, dial: Dial) -> None:
    async with serve(timing=QUICK, limits=Limits(stuck_secs=0.1)) as listener, dial() as deaf, dial() as other:
        with pytest.raises(ConnectionError):
            await deaf.send((STATUS % 1) * 1_000_000)
        assert (await other.call("daemon.status"))["name"] == "moltis"
        assert listener.connections == 1


async def test_a_client_that_reads_slowly_gets_everything(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    daemon.all["alpha"].the_session.result = b'"%b"' % (b"x" * MIB)
    async with serve(timing=QUICK, limits=Limits(stuck_secs=5)), dial() as wire:
        await wire.send(b"".join(CALL % i for i in range(40)))
        assert sorted([len(await wire.line()) for _ in range(40)])[0] > MIB


async def test_an_idle_client_makes_room_for_a_new_one(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    daemon.all["alpha"].the_session.result = None
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve(max_connections=4))
        busy, idle, subscribed, half = [await stack.enter_async_context(dial()) for _ in range(4)]
        await busy.send(CALL % 1)
        await half.send(b"{")
        await idle.call("daemon.status")
        await subscribed.call("mcp.subscribe")
        for victim in (half, idle):
            fresh = await stack.enter_async_context(dial())
            assert (await fresh.call("daemon.status"))["name"] == "moltis"
            assert await victim.ended()
            await fresh.send(CALL % 1)  # busy from now on
            await fresh.send(STATUS % 2)
            assert (await fresh.json())["id"] == 2
        last = await stack.enter_async_context(dial())
        assert (await last.call("daemon.status"))["name"] == "moltis"
        assert await subscribed.ended()
        await last.send(CALL % 1 + STATUS % 2)
        await last.json()
        refused = await stack.enter_async_context(dial())
        assert "busy" in (await refused.json())["error"]["message"]
        daemon.all["alpha"].the_session.calls[0].on_reply(_result())
        assert (await busy.json())["id"] == 1


async def test_many_who_connect_at_once_are_all_answered_by_a_full_listener(serve: Serve, dial: Dial) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve(max_connections=20))
        for _ in range(20):
            idle = await stack.enter_async_context(dial())
            await idle.call("daemon.status")
        fresh = [await stack.enter_async_context(dial()) for _ in range(15)]
        await idle.call("daemon.status")
        for wire in fresh:
            assert (await wire.call("daemon.status"))["name"] == "moltis"


async def test_who_has_asked_already_is_never_closed_without_an_answer(serve: Serve, dial: Dial) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve(max_connections=4))
        wires = []
        for _ in range(12):  # in one turn of the loop: all are accepted before anything is read
            wires.append(await stack.enter_async_context(dial()))
            wires[-1].sock.send(STATUS % 1)
        said = [await wire.json() for wire in wires]
        assert sum("result" in answer for answer in said) >= 4
        assert all("busy" in answer["error"]["message"] for answer in said if "result" not in answer)


async def test_who_makes_room_before_it_has_asked_is_told_so(serve: Serve, dial: Dial) -> None:
    async with serve(max_connections=3), dial() as slow, dial() as halfway, dial() as last, dial() as _fourth:
        assert (await last.call("daemon.status"))["name"] == "moltis"
        async with dial() as fifth:
            assert (await fifth.call("daemon.status"))["name"] == "moltis"
        for late in (slow, halfway):
            with contextlib.suppress(ConnectionError):  # as a busy machine has it: connected, and then its turn is over
                await late.send(STATUS % 1)
            assert (await late.json())["error"]["data"]["kind"] == "busy"
            assert await late.ended()


async def test_half_a_request_is_told_that_it_was_not_served(serve: Serve, dial: Dial) -> None:
    async with serve(max_connections=2), dial() as half, dial() as other:
        await half.send((STATUS % 1)[:-5])
        await other.call("daemon.status")
        async with dial() as fresh:
            assert (await fresh.call("daemon.status"))["name"] == "moltis"
            assert (await half.json())["error"]["data"]["kind"] == "busy"


async def test_a_shortage_of_descriptors_ends_no_client_where_there_are_few(serve: Serve, dial: Dial) -> None:
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(serve(timing=Timing(sweep_secs=0.02)))
        wires = [await stack.enter_async_context(dial()) for _ in range(6)]
        for wire in wires:
            await wire.call("daemon.status")
        sweeps = 0
        sweep = listener._leave_descriptors

        def counted() -> None:
            nonlocal sweeps
            sweep()
            sweeps += 1

        listener._leave_descriptors = counted  # type: ignore[method-assign]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        try:
            while sweeps < 3:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for wire in wires:
            assert (await wire.call("daemon.status"))["name"] == "moltis"


async def test_after_a_shortage_of_descriptors_there_is_soon_room_for_all_again(serve: Serve, dial: Dial) -> None:
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(serve(timing=Timing(sweep_secs=0.05)))
        wires = [await stack.enter_async_context(dial()) for _ in range(20)]
        await wires[-1].call("daemon.status")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        try:
            while listener._max > 8:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with anyio.fail_after(PATIENCE):
            while listener._max < 256:  # noqa: ASYNC110
                await anyio.sleep(0.01)


async def test_hundreds_of_clients_that_hold_big_unfinished_lines_are_bounded_together(
    serve: Serve, dial: Dial
) -> None:
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(serve())
        for _ in range(45):
            wire = await stack.enter_async_context(dial())
            try:
                await wire.send(b"y" * (MIB - 10))
            except ConnectionError:
                pass
        fresh = await stack.enter_async_context(dial())
        assert (await fresh.call("daemon.status"))["name"] == "moltis"
        assert sum(c.partial_bytes for c in listener._open) <= 34 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_another_user_is_refused_without_a_byte(serve: Serve, paths: Paths) -> None:
    async with serve():
        for folder in (paths.socket.parent, paths.data_dir, *paths.data_dir.parents):
            if folder != folder.parent:
                folder.chmod(folder.stat().st_mode | 0o011)
        paths.socket.chmod(0o666)
        with anyio.fail_after(PATIENCE):
            said = await anyio.run_process(["/usr/bin/env", "python3", "-c", STRANGER, str(paths.socket)], check=True)
    assert said.stdout == b"b''\n"


STRANGER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.settimeout(60)
try:
    s.send(b'{"jsonrpc":"2.0","id":1,"method":"mcp.list"}\\n')
    print(s.recv(100))
except (BrokenPipeError, ConnectionResetError):
    print(b"")
"""


async def test_a_socket_that_is_removed_is_bound_again_and_old_clients_stay(
    serve: Serve, dial: Dial, paths: Paths
) -> None:
    async with serve(timing=QUICK), dial() as old:
        await old.call("daemon.status")
        for _ in range(2):
            paths.socket.unlink()
            while not paths.socket.exists():  # noqa: ASYNC110  # files have no events here
                await anyio.sleep(0.01)
            async with dial() as fresh:
                assert (await fresh.call("daemon.status"))["name"] == "moltis"
            assert (await old.call("daemon.status"))["name"] == "moltis"
    assert not paths.socket.exists()


async def test_a_socket_replaced_by_a_dead_one_is_taken_back_and_a_file_in_its_place_is_left(
    serve: Serve, dial: Dial, paths: Paths
) -> None:
    async with serve(timing=QUICK):
        paths.socket.unlink()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(paths.socket))
        while True:
            try:
                async with dial() as fresh:
                    assert (await fresh.call("daemon.status"))["name"] == "moltis"
                break
            except ConnectionRefusedError:
                await anyio.sleep(0.01)
        paths.socket.unlink()
        paths.socket.write_text("mine")
        await anyio.sleep(0.2)
        assert paths.socket.read_text() == "mine"
        paths.socket.unlink()
        while not paths.socket.exists():  # noqa: ASYNC110  # files have no events here
            await anyio.sleep(0.01)


async def test_events_reach_a_subscriber_in_order_after_the_snapshot(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    async with serve(), dial() as wire:
        subscription = (await wire.call("mcp.subscribe"))["subscription_id"]
        first = await wire.json()
        assert first["method"] == "mcp.event"
        assert first["params"]["type"] == "snapshot"
        assert [s["name"] for s in first["params"]["servers"]] == ["alpha", "beta"]
        daemon.events.publish(moved("alpha", "backoff", "exited"))
        daemon.events.publish(Logged(record=msgspec.Raw(b"{}")))
        daemon.events.publish(ListsChanged(server="beta", lists=["tools"]))
        events = [first["params"], (await wire.json())["params"], (await wire.json())["params"]]
        assert [(e["seq"], e["dropped"], e["type"], e["server"]) for e in events] == [
            (1, 0, "snapshot", None), (2, 0, "state", "alpha"), (3, 0, "lists", "beta"),
        ]  # fmt: skip
        assert {e["subscription_id"] for e in events} == {subscription}
        assert events[1]["to"] == "backoff"
        assert await wire.call("mcp.unsubscribe", subscription_id=subscription) == {"ok": True}
        daemon.events.publish(moved("alpha", "starting"))
        assert (await wire.call("daemon.status"))["name"] == "moltis"
    assert not daemon.events.wants("state")


async def test_a_subscriber_that_does_not_read_loses_its_oldest_events_and_is_told(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    async with serve(), dial() as wire:
        await wire.call("mcp.subscribe")
        await wire.json()
        for number in range(5000):
            daemon.events.publish(numbered("alpha", number, "x" * 200))
        seen: list[dict[str, int]] = []
        while not seen or seen[-1]["number"] < 4999:
            seen.append((await wire.json())["params"])
    assert seen[-1]["seq"] == 5001
    assert seen[-1]["dropped"] == 5000 - len(seen) > 0
    assert [e["seq"] - e["number"] for e in seen] == [2] * len(seen)


async def test_a_subscription_ends_with_its_connection(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    async with serve():
        async with dial() as wire:
            await wire.call("mcp.subscribe", events=["log"])
            await wire.json()
            assert daemon.events.wants("log")
        while daemon.events.wants("log"):  # noqa: ASYNC110  # the other side of a socket
            await anyio.sleep(0.01)


async def test_a_connection_has_at_most_sixteen_subscriptions(serve: Serve, dial: Dial) -> None:
    async with serve(), dial() as wire:
        for number in range(17):
            await wire.ask("mcp.subscribe")
            answer = await wire.json()
            if number < 16:
                assert (await wire.json())["params"]["type"] == "snapshot"
        assert answer["error"]["code"] == -32602


async def test_garbage_of_every_kind_leaves_the_connection_usable(serve: Serve, dial: Dial) -> None:
    corpus = [b"{", b"[]", b"1", b"\xff\xfe\x00", b"[" * 1000, b'{"jsonrpc":"2.0","id":[],"method":"x"}', b"[1,2,3]"]
    async with serve(), dial() as wire:
        for number, line in enumerate(corpus * 20):
            await wire.send(line + b"\n" + STATUS % number)
            answers = [json.loads(await wire.line()) for _ in range(2)]
            assert answers[1]["id"] == number


def _result() -> Result:
    return Result(b"1")
