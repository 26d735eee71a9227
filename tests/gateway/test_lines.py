"""One MCP host on one connection: lines in any pieces, hosts that do not read, hosts that go away."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.errors import UnknownServer
from moltis.gateway import messages
from moltis.gateway.api import LOCAL, Outlet, Principal
from moltis.gateway.lines import LineHost, LineLimits
from moltis.gateway.messages import Answer, Ask, Tell
from moltis.gateway.views import ALL, path_of
from moltis.steps import LONG_BYTES
from moltis.transport.lines import LINES_PER_TURN
from moltis.transport.wire import Cancellable

SMALL = LineLimits(
    line_bytes=1000,
    in_flight=20,
    output_bytes_held=100,
    output_bytes_paused=1000,
    output_bytes=5000,
    output_bytes_at_most=20_000,
)


class FakeConn:
    """A connection whose peer reads when the test lets it."""

    def __init__(self) -> None:
        self.peer_pid: int | None = 1
        self.sent = b""
        self.waiting = b""
        self.peer_reads = True
        self.is_reading = True
        self.stuck_secs = 0.0
        self.has_hung_up = False
        self.closed_by = ""

    @property
    def buffered(self) -> int:
        return len(self.waiting)

    @property
    def is_closing(self) -> bool:
        return bool(self.closed_by)

    def write(self, data: bytes) -> None:
        if self.closed_by:
            return
        if self.peer_reads:
            self.sent += data
        else:
            self.waiting += data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = not self.closed_by

    def close(self) -> None:
        self.closed_by = self.closed_by or "close"

    def abort(self) -> None:
        self.closed_by = self.closed_by or "abort"

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.sent.splitlines()]


class FakeHost:
    """Answers `echo` at once, fails at `broken`, keeps the outlets of everything else."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.open: dict[bytes, Outlet] = {}
        self.attached_times = 0
        self.closed_times = 0

    def request(self, ask: Ask, outlet: Outlet) -> None:
        self.heard.append(ask)
        if ask.method == "echo":
            outlet.reply(messages.result(ask.id, bytes(ask.params.get("x", b"{}"))))
        elif ask.method == "broken":
            raise RuntimeError("s3cret")
        else:
            self.open[ask.id] = outlet

    def notification(self, tell: Tell) -> None:
        self.heard.append(tell)

    def answer(self, answer: Answer) -> None:
        self.heard.append(answer)

    def drop(self, id: bytes, reason: str) -> None: ...

    def attached(self) -> None:
        self.attached_times += 1

    def close(self) -> None:
        self.closed_times += 1


class FakeGateway:
    def __init__(self) -> None:
        self.host = FakeHost()
        self.unsolicited: Callable[[bytes], bool] = lambda _message: False
        self.asked: tuple[str | None, Principal] | None = None
        self.is_closed = False

    def new_host(
        self, path: str, principal: Principal, unsolicited: Callable[[bytes], bool], *, lasts: bool = True
    ) -> FakeHost:
        server = None if path == ALL else path.split("/")[2]
        if server == "unknown":
            raise UnknownServer(server, [])
        self.asked, self.unsolicited = (server, principal), unsolicited
        return self.host

    def knows(self, path: str) -> bool:
        return True


class Turns:
    """The event loop's next turns."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def later(self, secs: float, callback: Callable[[], None]) -> Cancellable:
        assert secs == 0
        self.due.append(callback)
        return Nothing()

    def run(self, times: int = 1000) -> None:
        while self.due and times:
            times -= 1
            self.due.pop(0)()


class Nothing:
    def cancel(self) -> None: ...


class Case:
    """One host that has just been handed its connection."""

    def __init__(self, limits: LineLimits = SMALL, server: str | None = None) -> None:
        self.conn, self.gateway, self.turns = FakeConn(), FakeGateway(), Turns()
        self.lines = LineHost(self.conn, self.gateway, path_of(server), limits, later=self.turns.later)
        self.host = self.gateway.host
        self.lines.begin()

    def say(self, *messages: dict[str, Any]) -> None:
        self.lines.data_received(b"".join(json.dumps({"jsonrpc": "2.0", **m}).encode() + b"\n" for m in messages))

    def read_all(self) -> None:
        """The peer reads what waits, and from now on."""
        self.conn.peer_reads = True
        self.conn.sent, self.conn.waiting = self.conn.sent + self.conn.waiting, b""
        self.lines.drained()
        self.turns.run()


def ask(id: int, method: str = "echo", **params: Any) -> dict[str, Any]:
    return {"id": id, "method": method, "params": params}


def test_it_is_a_host_of_the_daemons_own_user() -> None:
    case = Case(server="alpha")
    assert case.gateway.asked == ("alpha", LOCAL)
    assert case.host.attached_times == 1


def test_an_unknown_server_is_raised() -> None:
    with pytest.raises(UnknownServer):
        Case(server="unknown")


def test_requests_notifications_and_answers_reach_the_host_and_replies_go_back() -> None:
    case = Case()
    case.say(ask(1, x=[1.50]), {"method": "notifications/initialized"}, {"id": 7, "result": {"roots": []}})
    assert [type(h) for h in case.host.heard] == [Ask, Tell, Answer]
    assert case.conn.sent == b'{"jsonrpc":"2.0","id":1,"result":[1.5]}\n'


def test_what_cannot_be_read_is_answered_and_the_connection_goes_on() -> None:
    case = Case()
    case.lines.data_received(b"garbage\n\n[]\n\xff\n" + b'{"jsonrpc":"2.0","id":3,"method":"echo","params":7}\n')
    case.say(ask(4))
    assert [(m["id"], m.get("error", {}).get("code")) for m in case.conn.lines] == [
        (None, -32700), (None, -32600), (None, -32700), (3, -32602), (4, None),
    ]  # fmt: skip


def test_a_fault_of_ours_is_one_error_without_its_words() -> None:
    case = Case()
    case.say(ask(1, "broken"), ask(2))
    assert [m["id"] for m in case.conn.lines] == [1, 2]
    assert case.conn.lines[0]["error"]["code"] == -32603
    assert b"s3cret" not in case.conn.sent


@given(st.lists(st.integers(1, 60), max_size=200))
def test_lines_come_in_any_pieces(cuts: list[int]) -> None:
    case = Case()
    stream = b"".join(json.dumps({"jsonrpc": "2.0", **ask(i)}).encode() + b"\n" for i in range(50))
    for cut in [*cuts, len(stream)]:
        piece, stream = stream[:cut], stream[cut:]
        case.lines.data_received(piece)
        case.turns.run()
    assert [m["id"] for m in case.conn.lines] == list(range(50))


def test_a_line_beyond_the_limit_is_named_and_the_next_one_is_taken() -> None:
    case = Case()
    for _ in range(5):
        case.lines.data_received(b"x" * 500)
    assert case.lines.partial_bytes <= 1000
    case.lines.data_received(b"\n")
    case.say(ask(1))
    assert case.conn.lines[0]["error"]["message"] == "a message has at most 1000 bytes"
    assert case.conn.lines[1]["id"] == 1


def test_many_lines_leave_others_their_turn_and_nothing_is_read_meanwhile() -> None:
    case = Case()
    case.say(*(ask(i) for i in range(3 * LINES_PER_TURN)))
    assert len(case.conn.lines) == LINES_PER_TURN
    assert not case.conn.is_reading
    case.turns.run(1)
    assert len(case.conn.lines) == 2 * LINES_PER_TURN
    case.turns.run()
    assert len(case.conn.lines) == 3 * LINES_PER_TURN
    assert case.conn.is_reading


def test_requests_beyond_the_cap_are_refused_while_answers_get_through() -> None:
    case = Case()
    case.say(*(ask(i, "wait") for i in range(20)))
    case.turns.run()
    case.say(ask(20, "wait"), {"id": 5, "result": {}})
    case.turns.run()
    assert [(m["id"], "20 requests" in m["error"]["message"]) for m in case.conn.lines] == [(20, True)]
    assert isinstance(case.host.heard[-1], Answer)
    case.host.open[b"3"].reply(b"{}")
    case.say({"method": "notifications/cancelled", "params": {"requestId": 4}}, ask(21, "wait"), ask(22, "wait"))
    case.turns.run()
    assert b"22" in case.host.open
    assert len(case.conn.lines) == 2


def test_an_id_in_use_twice_is_left_to_the_host_to_refuse() -> None:
    case = Case()
    case.say(ask(1, "wait"))
    first = case.host.open[b"1"]
    case.say(ask(1, "wait"))
    case.host.open[b"1"].reply(b"{}")
    case.lines.eof_received()
    assert not case.conn.closed_by
    first.reply(b"{}")
    assert case.conn.closed_by == "close"


# --- a host that does not read


def test_a_host_that_does_not_read_is_not_read_from_until_it_does() -> None:
    case = Case()
    case.conn.peer_reads = False
    case.say(*(ask(i, x="y" * 200) for i in range(12)))
    assert not case.conn.is_reading
    taken = len(case.host.heard)
    assert taken < 12
    case.turns.run()
    assert len(case.host.heard) == taken
    case.read_all()
    assert [m["id"] for m in case.conn.lines] == list(range(12))
    assert case.conn.is_reading


def test_what_it_need_not_be_told_is_kept_back_and_sent_when_it_reads() -> None:
    case = Case()
    assert case.gateway.unsolicited(b'{"a":1}')
    case.conn.peer_reads = False
    while case.gateway.unsolicited(b'{"a":2}'):
        pass
    assert 100 < case.conn.buffered < 200
    assert case.host.attached_times == 1
    case.read_all()
    assert case.host.attached_times == 2
    assert case.gateway.unsolicited(b"{}")


def test_progress_is_left_out_and_nothing_is_asked_while_much_waits() -> None:
    case = Case()
    case.say(ask(1, "wait"))
    outlet = case.host.open[b"1"]
    assert outlet.can_ask()
    case.conn.peer_reads = False
    while outlet.tell(b'{"progress":1}'):
        pass
    assert not outlet.can_ask()
    assert case.conn.buffered < 1100
    outlet.reply(b'{"last":1}')
    case.read_all()
    assert case.conn.lines[-1] == {"last": 1}
    assert outlet.can_ask()


def test_a_host_for_which_far_too_much_waits_is_dropped() -> None:
    case = Case()
    case.say(*(ask(i, "wait") for i in range(10)))
    case.conn.peer_reads = False
    for outlet in case.host.open.values():
        outlet.reply(b"x" * 8000)
    assert case.conn.closed_by == "abort"
    assert case.conn.buffered < 30_000
    assert case.host.closed_times == 1


@pytest.mark.parametrize(
    ("buffered", "stuck_secs", "dropped"), [(6000, 61, True), (6000, 59, False), (100, 1e9, False)]
)
def test_a_stuck_host_is_dropped_only_when_it_costs_much(buffered: int, stuck_secs: float, dropped: bool) -> None:
    case = Case()
    case.conn.waiting, case.conn.stuck_secs = b"x" * buffered, stuck_secs
    case.lines.sweep()
    assert (case.conn.closed_by == "abort") is dropped
    assert case.host.closed_times == dropped


# --- a host that goes away


def test_a_host_is_ended_with_its_gateway_so_that_it_can_come_back_to_another() -> None:
    case = Case()
    case.say(ask(1, "wait"))
    case.lines.sweep()
    assert not case.conn.closed_by
    case.gateway.is_closed = True
    case.lines.sweep()
    assert (case.conn.closed_by, case.host.closed_times) == ("close", 1)


def test_a_lost_connection_closes_the_host_once_and_late_replies_are_harmless() -> None:
    case = Case()
    case.say(ask(1, "wait"))
    case.lines.closed(None)
    case.lines.closed(None)
    case.host.open[b"1"].reply(b"{}")
    assert not case.host.open[b"1"].tell(b"{}")
    assert not case.host.open[b"1"].can_ask()
    assert not case.gateway.unsolicited(b"{}")
    case.lines.sweep()
    case.lines.drained()
    case.turns.run()
    assert case.host.closed_times == 1
    assert case.conn.sent == b""


def test_after_half_a_close_what_was_asked_is_answered_and_half_a_line_is_none() -> None:
    case = Case()
    case.say(ask(1, "wait"), ask(2))
    case.lines.data_received(b'{"jsonrpc":"2.0","id":3,"method":"echo"}')
    case.lines.eof_received()
    assert not case.conn.closed_by
    assert not case.host.open[b"1"].can_ask()
    case.host.open[b"1"].reply(b'{"id":1}')
    assert case.conn.closed_by == "close"
    assert [m["id"] for m in case.conn.lines] == [2, 1]
    assert case.host.closed_times == 1


def test_after_half_a_close_every_line_that_came_before_is_taken() -> None:
    case = Case()
    case.say(*(ask(i) for i in range(3 * LINES_PER_TURN)))
    case.lines.eof_received()
    case.turns.run()
    assert len(case.conn.lines) == 3 * LINES_PER_TURN
    assert case.conn.closed_by == "close"


@pytest.mark.parametrize("when", ["eof", "sweep"])
def test_who_has_hung_up_is_not_waited_for(when: str) -> None:
    case = Case()
    case.say(ask(1, "wait"))
    case.conn.has_hung_up = when == "eof"
    case.lines.eof_received()
    case.conn.has_hung_up = True
    case.lines.sweep()
    assert case.conn.closed_by == "abort"
    assert case.host.closed_times == 1


def test_nothing_is_sent_before_the_connection_is_its_own() -> None:
    conn, gateway = FakeConn(), FakeGateway()
    lines = LineHost(conn, gateway, ALL, SMALL, later=Turns().later)
    assert not gateway.unsolicited(b"{}")
    lines.begin()
    assert gateway.unsolicited(b"{}")


@pytest.mark.parametrize("ends", [False, True], ids=["stays", "ends its side"])
def test_a_long_line_is_read_in_turns_before_what_follows_it_and_answered(ends: bool) -> None:
    case = Case(LineLimits())
    case.say(ask(1, x="x" * (2 * LONG_BYTES)), ask(2))
    if ends:
        case.lines.eof_received()
    assert case.host.heard == []
    assert not case.conn.is_reading
    case.turns.run()
    assert [line["id"] for line in case.conn.lines] == [1, 2]
    assert (case.conn.closed_by == "close") == ends


def test_a_long_line_of_a_host_that_is_gone_meanwhile_comes_to_nothing() -> None:
    case = Case(LineLimits())
    case.say(ask(1, x="x" * (2 * LONG_BYTES)))
    case.lines.closed(None)
    case.turns.run()
    assert case.host.heard == []
