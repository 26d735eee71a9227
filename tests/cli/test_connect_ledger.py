"""What a host and a daemon owe each other, whatever dies when: tables, and a machine that tries everything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from moltis.cli.connect.ledger import ANSWERABLE, KEPT_BYTES, Ledger


def line(**message: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode()


def reply(id: int | str, result: Any = None) -> bytes:
    return line(id=id, result=result)


def to_daemon(ledger: Ledger) -> list[Any]:
    """Send what can be sent."""
    found = []
    while (each := ledger.next_line()) is not None:
        ledger.sent()
        found.append(json.loads(each))
    return found


def to_host(ledger: Ledger) -> list[Any]:
    return [json.loads(each) for each in ledger.take_for_host(1 << 30).splitlines()]


def connected(*said: bytes) -> Ledger:
    ledger = Ledger()
    ledger.connected()
    for each in said:
        ledger.host_said(each)
    return ledger


def initialized(**capabilities: Any) -> Ledger:
    """A legacy host that has shaken hands."""
    ledger = connected(line(id="i", method="initialize", params={"clientInfo": {"name": "h"}}))
    to_daemon(ledger)
    ledger.daemon_said(reply("i", {"capabilities": capabilities}))
    ledger.host_said(line(method="notifications/initialized"))
    to_daemon(ledger)
    to_host(ledger)
    return ledger


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "method", "x"]), inner),
    max_leaves=8,
)


@given(st.lists(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode())), st.booleans())
def test_any_line_passes_byte_for_byte_or_is_no_answer_to_anything(lines: list[bytes], dies: bool) -> None:
    ledger = connected(*lines)
    sent = []
    while (each := ledger.next_line()) is not None:
        sent.append(each)
        ledger.sent()
    assert all(each in lines for each in sent)
    if dies:
        ledger.lost("gone")
    for each in lines:
        ledger.daemon_said(each)
    assert ledger.bytes_for_daemon == 0
    ledger.take_for_host(1 << 30)
    assert ledger.bytes_for_host == 0


@pytest.mark.parametrize(
    "spelled",
    [
        b'{"jsonrpc":"2.0","id":%b,"result":{"id":9,"method":"x"}}',
        b'{"jsonrpc":"2.0","id":%b,"error":{"code":1,"message":""}}',
        b'{"result":{}, "id": %b , "jsonrpc":"2.0"}',
    ],
)
@pytest.mark.parametrize("id", [b"7", b'"a\\"b,\\"result\\":1"', b'"\xc3\xa9"', b'"\\u00e9"', b"-3"])
def test_a_reply_settles_its_request_however_it_is_spelled(spelled: bytes, id: bytes) -> None:
    ledger = connected(b'{"jsonrpc":"2.0","id":%b,"method":"wait"}' % id)
    to_daemon(ledger)
    assert ledger.awaited == 1
    ledger.daemon_said(spelled % id)
    assert ledger.awaited == 0
    ledger.lost("gone")
    assert ledger.take_for_host(1 << 30) == spelled % id + b"\n"


def test_a_request_that_the_daemon_had_is_answered_and_one_that_it_had_not_waits() -> None:
    ledger = connected(line(id=1, method="tools/call"), line(id="2", method="tools/call"))
    ledger.next_line()
    ledger.sent()
    ledger.next_line()  # half of it is sent
    ledger.lost("gone")
    (refused,) = to_host(ledger)
    assert (refused["id"], refused["result"]["isError"]) == (1, True)
    assert refused["result"]["content"][0]["text"] == "gone"
    assert ledger.next_line() is None
    ledger.connected()
    assert [m["id"] for m in to_daemon(ledger)] == ["2"]


def test_an_initialize_without_its_answer_is_sent_again_and_its_answer_reaches_the_host() -> None:
    ledger = connected(line(id=1, method="initialize"))
    to_daemon(ledger)
    ledger.host_said(line(id=2, method="tools/list"))
    ledger.lost("gone")
    ledger.connected()
    assert [m["method"] for m in to_daemon(ledger)] == ["initialize", "tools/list"]
    ledger.daemon_said(reply(1, {}))
    assert [m["id"] for m in to_host(ledger)] == [1]


def test_the_next_daemon_hears_what_the_last_one_was_told_before_anything_else() -> None:
    ledger = initialized(tools={"listChanged": True}, resources={"subscribe": True}, prompts={"listChanged": False})
    for id, method, params in [
        (1, "logging/setLevel", {"level": "error"}),
        (2, "logging/setLevel", {"level": "debug"}),
        (3, "resources/subscribe", {"uri": "a"}),
        (4, "resources/subscribe", {"uri": "b"}),
        (5, "resources/unsubscribe", {"uri": "a"}),
        (6, "resources/subscribe", {"uri": "refused"}),
    ]:
        ledger.host_said(line(id=id, method=method, params=params))
        to_daemon(ledger)
        ledger.daemon_said(reply(id, {}) if id != 6 else line(id=6, error={"code": 1, "message": ""}))
    assert len(to_host(ledger)) == 6
    for _ in range(2):
        ledger.lost("gone")
        ledger.host_said(line(id=9, method="tools/list"))
        assert to_host(ledger) == []
        ledger.connected()
        assert [m["method"] for m in to_daemon(ledger)] == ["initialize"]
        assert to_host(ledger) == []
        ledger.daemon_said(reply("i", {"capabilities": {}}))
        sent = to_daemon(ledger)
        assert [(m.get("id"), m["method"]) for m in sent] == [
            (None, "notifications/initialized"), (2, "logging/setLevel"), (4, "resources/subscribe"), (9, "tools/list"),
        ]  # fmt: skip
        for id in (2, 4, 9):
            ledger.daemon_said(reply(id, {}))
        assert [m.get("method") or m["id"] for m in to_host(ledger)] == [
            "notifications/tools/list_changed", "notifications/resources/updated", 9,
        ]  # fmt: skip


def test_a_daemon_that_dies_while_it_is_told_is_followed_by_one_that_is_told_all_of_it() -> None:
    ledger = initialized()
    for _ in range(3):
        ledger.lost("gone")
        ledger.connected()
        assert [m["method"] for m in to_daemon(ledger)] == ["initialize"]
    ledger.daemon_said(reply("i", {}))
    assert [m["method"] for m in to_daemon(ledger)] == ["notifications/initialized"]
    assert to_host(ledger) == []


MODERN = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}


def listening(wanted: dict[str, Any]) -> Ledger:
    """A modern host that listens."""
    ledger = connected(line(id=1, method="subscriptions/listen", params={**MODERN, "notifications": wanted}))
    to_daemon(ledger)
    ledger.daemon_said(acknowledged(1))
    assert [m["method"] for m in to_host(ledger)] == ["notifications/subscriptions/acknowledged"]
    return ledger


def acknowledged(id: int) -> bytes:
    params = {"_meta": {"io.modelcontextprotocol/subscriptionId": id}}
    return line(method="notifications/subscriptions/acknowledged", params=params)


def not_taken(id: int) -> bytes:
    data = {"kind": "not_ready", "server": None, "sent": False}
    return line(id=id, error={"code": -32005, "message": "going away", "data": data})


@pytest.mark.parametrize("how", ["lost", "ended", "ended and refused"])
def test_a_listen_is_asked_for_again_and_its_host_hears_of_what_may_have_changed(how: str) -> None:
    ledger = listening({"toolsListChanged": True, "promptsListChanged": False, "resourceSubscriptions": ["a:1"]})
    assert ledger.awaited == 0
    for _ in range(3):
        if how != "lost":
            ledger.daemon_said(reply(1, {"resultType": "complete"}))
            assert [m["method"] for m in to_daemon(ledger)] == ["subscriptions/listen"]
        if how == "ended and refused":
            ledger.daemon_said(not_taken(1))
            assert to_daemon(ledger) == []
        if how != "ended":
            ledger.lost("gone")
            ledger.connected()
            assert [m["method"] for m in to_daemon(ledger)] == ["subscriptions/listen"]
        assert to_host(ledger) == []
        ledger.daemon_said(acknowledged(1))
        tools, updated = to_host(ledger)
        assert tools["method"] == "notifications/tools/list_changed"
        assert (updated["method"], updated["params"]["uri"]) == ("notifications/resources/updated", "a:1")
        assert {m["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] for m in (tools, updated)} == {1}


def test_a_listen_that_the_daemon_refuses_or_ends_unacknowledged_is_over() -> None:
    for said in (line(id=1, error={"code": -32602, "message": "no"}), reply(1, {})):
        ledger = connected(line(id=1, method="subscriptions/listen", params=MODERN))
        to_daemon(ledger)
        ledger.daemon_said(said)
        assert [m["id"] for m in to_host(ledger)] == [1]
        ledger.lost("gone")
        ledger.connected()
        assert (to_daemon(ledger), to_host(ledger)) == ([], [])


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_listen_that_is_taken_back_is_asked_for_no_more(is_connected: bool) -> None:
    ledger = listening({"toolsListChanged": True})
    if not is_connected:
        ledger.lost("gone")
    ledger.host_said(line(method="notifications/cancelled", params={"requestId": 1}))
    if is_connected:
        assert [m["method"] for m in to_daemon(ledger)] == ["notifications/cancelled"]
        ledger.lost("gone")
    ledger.connected()
    assert (to_daemon(ledger), to_host(ledger)) == ([], [])


def test_what_a_daemon_that_leaves_did_not_take_waits_in_its_place_and_what_it_took_is_over() -> None:
    ledger = connected(*(line(id=id, method="tools/call", params={"n": id}) for id in range(1, 5)))
    to_daemon(ledger)
    ledger.daemon_said(not_taken(2))
    ledger.daemon_said(not_taken(3))
    ledger.daemon_said(
        line(id=4, error={"code": -32005, "message": "x", "data": {"kind": "not_ready", "server": None}})
    )
    ledger.host_said(line(id=5, method="tools/call", params={"n": 5}))
    assert to_daemon(ledger) == []
    ledger.lost("gone")
    assert [m["id"] for m in to_host(ledger)] == [4, 1]
    ledger.connected()
    assert [m["id"] for m in to_daemon(ledger)] == [2, 3, 5]


def test_what_the_daemon_answers_from_memory_is_asked_again() -> None:
    ledger = connected(line(id=1, method="tools/list"), line(id=2, method="prompts/get"), line(id=3, method="ping"))
    to_daemon(ledger)
    ledger.lost("gone")
    assert [m["id"] for m in to_host(ledger)] == [2]
    ledger.connected()
    assert [m["id"] for m in to_daemon(ledger)] == [1, 3]


def test_each_request_waits_for_a_daemon_as_long_as_is_right_for_it() -> None:
    ledger = Ledger()
    for id, method in enumerate(("tools/call", "tools/list", "ping", "prompts/get")):
        ledger.host_said(line(id=id, method=method))
    ledger.host_said(line(method="notifications/roots/list_changed"))
    found = []
    for secs in (0.0, 1.9, 2.0, 29.9, 30.0, 31.0):
        found.append([entry.request_id for entry in ledger.take_due(secs, 2.0, 30.0)])
    assert found == [[2], [], [1], [], [0, 3], []]
    assert ledger.wanted_after(2.0, 30.0) is None
    assert ledger.awaited == 1  # the notification, for the daemon that comes


def test_what_was_answered_without_a_daemon_is_told_to_the_one_that_comes() -> None:
    ledger = Ledger()
    said = {"initialize": {"capabilities": {"tools": {"listChanged": True}}}, "logging/setLevel": {}}
    for id, (method, result) in enumerate(said.items()):
        ledger.host_said(line(id=id, method=method))
        (entry,) = ledger.take_due(2.0, 2.0, 30.0)
        ledger.answered(entry, [reply(id, result)])
    ledger.host_said(line(method="notifications/initialized"))
    ledger.host_said(line(id=7, method="subscriptions/listen", params={**MODERN, "notifications": {}}))
    (entry,) = ledger.take_due(2.0, 2.0, 30.0)
    ledger.answered(entry, [acknowledged(7)])
    ledger.host_said(line(id=8, method="resources/subscribe", params={"uri": "a"}))
    (entry,) = ledger.take_due(2.0, 2.0, 30.0)
    ledger.answered(entry, [line(id=8, error={"code": 1, "message": "no"})])
    assert [m.get("id") for m in to_host(ledger)] == [0, 1, None, 8]
    ledger.connected()
    assert [m["method"] for m in to_daemon(ledger)] == ["initialize", "subscriptions/listen"]
    ledger.daemon_said(reply(0, {}))
    assert [m["method"] for m in to_daemon(ledger)] == ["notifications/initialized", "logging/setLevel"]
    assert [m["method"] for m in to_host(ledger)] == ["notifications/tools/list_changed"]


def test_whether_the_daemon_is_there_is_asked_without_the_host() -> None:
    ledger = connected(line(id=1, method="tools/call"))
    to_daemon(ledger)
    ledger.probe()
    (ping,) = to_daemon(ledger)
    ledger.daemon_said(reply(ping["id"], {}))
    assert to_host(ledger) == []


@pytest.mark.parametrize("taken", [False, True])
def test_a_request_that_is_taken_back_is_not_sent_to_the_next_daemon(taken: bool) -> None:
    ledger = connected(line(id=1, method="tools/call"), line(id=2, method="ping"))
    if taken:
        ledger.next_line()  # half of it is sent
    ledger.host_said(line(method="notifications/cancelled", params={"requestId": 1}))
    ledger.lost("gone")
    ledger.connected()
    assert [m["id"] for m in to_daemon(ledger)] == [2]
    assert to_host(ledger) == []


def test_a_request_that_the_daemon_had_and_was_taken_back_gets_no_answer() -> None:
    ledger = connected(line(id=1, method="tools/call"))
    to_daemon(ledger)
    ledger.host_said(line(method="notifications/cancelled", params={"requestId": 1}))
    assert [m["method"] for m in to_daemon(ledger)] == ["notifications/cancelled"]
    assert ledger.awaited == 0
    ledger.lost("gone")
    assert to_host(ledger) == []


def test_what_is_about_the_lost_connection_is_worth_nothing_on_the_next_one() -> None:
    ledger = connected()
    ledger.daemon_said(line(id=1, method="roots/list"))
    ledger.host_said(line(method="notifications/progress", params={"progressToken": 1}))
    ledger.host_said(line(id=1, result={}))
    ledger.host_said(line(method="notifications/cancelled", params={"requestId": 8}))
    ledger.host_said(line(method="notifications/roots/list_changed"))
    ledger.lost("gone")
    ledger.host_said(line(method="notifications/progress", params={"progressToken": 1}))
    ledger.connected()
    assert [m["method"] for m in to_daemon(ledger)] == ["notifications/roots/list_changed"]


def test_taking_back_a_request_that_is_half_sent_sends_both() -> None:
    ledger = connected(line(id=1, method="tools/call"), line(id=2, method="ping"))
    ledger.next_line()
    ledger.host_said(line(method="notifications/cancelled", params={"requestId": 1}))
    assert [m["method"] for m in to_daemon(ledger)] == ["tools/call", "ping", "notifications/cancelled"]
    assert ledger.awaited == 1


def test_questions_of_the_next_daemon_have_ids_of_their_own_and_every_other_byte_as_it_is() -> None:
    ledger = connected()
    ledger.daemon_said(line(id=1, method="roots/list"))
    ledger.daemon_said(line(id=2, method="roots/list"))
    ledger.host_said(line(id=2, result="in time"))
    assert [m["id"] for m in to_daemon(ledger)] == [2]
    ledger.lost("gone")
    assert [m.get("params", m["method"]) for m in to_host(ledger)] == [
        "roots/list", "roots/list", {"requestId": 1, "reason": "gone"},
    ]  # fmt: skip
    ledger.connected()
    question = b'{"jsonrpc":"2.0","id":%d,"method":"elicitation/create","params":{"id":1,"n":1e400,"x": "\xc3\xa9"}}'
    ledger.daemon_said(question % 1)
    ledger.daemon_said(line(method="notifications/cancelled", params={"requestId": 7}))
    asked, cancelled = ledger.take_for_host(1 << 30).splitlines()
    assert asked == question % 3
    assert json.loads(cancelled)["params"] == {"requestId": 9}
    ledger.host_said(line(id=1, result="too late"))
    answer = b'{"result": {"id":3, "n":1e400}, "id" : %d, "jsonrpc":"2.0"}'
    ledger.host_said(answer % 3)
    assert ledger.next_line() == answer % 1
    ledger.sent()
    assert ledger.next_line() is None


def test_giving_up_answers_everything_that_waits() -> None:
    ledger = connected(line(id=1, method="initialize"), line(id=2, method="ping"), line(method="notifications/x"))
    ledger.next_line()
    ledger.sent()
    ledger.give_up("no daemon")
    assert [(m["id"], m["error"]["message"]) for m in to_host(ledger)] == [(1, "no daemon"), (2, "no daemon")]
    assert ledger.awaited == ledger.bytes_for_daemon == 0


def test_a_long_line_is_forgotten_once_it_is_sent() -> None:
    ledger = connected(line(id=1, method="tools/call", params={"big": "x" * KEPT_BYTES}))
    to_daemon(ledger)
    assert sum(len(entry.line) for entry in ledger._open.values()) == 0


class AnyOrder(RuleBasedStateMachine):
    """A host and daemons that do anything in any order.

    The daemon is modelled by what reached it. Every request holds its number as `n`, every answer to a question the
    number of the question, so that what reaches the wrong one is seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.is_connected = False
        self.generation = 0
        self.numbers = 0
        self.asked: dict[int, str] = {}  # the host's requests without an answer
        self.cancelled: set[int] = set()
        self.seen: dict[int, int] = {}  # requests by the generation of the daemon that got them
        self.in_daemon: list[int] = []
        self.last_seen = 0
        self.questions: dict[int, int] = {}  # the daemon's, by its own id
        self.shown: dict[int, int] = {}  # the same, by the id that the host sees
        self.withdrawn: list[int] = []

    # --- the host

    @rule(method=st.sampled_from(["tools/call", "ping", "subscriptions/listen"]))
    def asks(self, method: str) -> None:
        self.numbers += 1
        self.asked[self.numbers] = method
        self.ledger.host_said(line(id=self.numbers, method=method, params={"n": self.numbers}))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def takes_back(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.asked)))
        del self.asked[number]
        self.cancelled.add(number)
        self.ledger.host_said(line(method="notifications/cancelled", params={"requestId": number}))

    @precondition(lambda self: self.shown or self.withdrawn)
    @rule(data=st.data())
    def answers(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from([*self.shown, *self.withdrawn]))
        self.ledger.host_said(line(id=id, result={"question": self.shown.pop(id, "stale")}))

    @rule()
    def reads(self) -> None:
        for message in to_host(self.ledger):
            if message.get("method") == "roots/list":
                assert message["id"] not in self.shown
                assert message["id"] not in self.withdrawn
                self.shown[message["id"]] = message["params"]["question"]
            elif message.get("method") == "notifications/cancelled":
                self.shown.pop(message["params"]["requestId"], None)
                self.withdrawn.append(message["params"]["requestId"])
            else:
                assert message["id"] in self.asked or message["id"] in self.cancelled
                refused = isinstance(message.get("result"), dict) and message["result"]["isError"]
                assert refused or message.get("result", message["id"]) == message["id"]
                self.asked.pop(message["id"], None)
                self.cancelled.discard(message["id"])

    # --- the daemon

    @precondition(lambda self: not self.is_connected)
    @rule()
    def comes(self) -> None:
        self.is_connected = True
        self.generation += 1
        self.last_seen = 0
        self.ledger.connected()

    @precondition(lambda self: self.is_connected)
    @rule(whole=st.booleans())
    def hears(self, whole: bool) -> None:
        each = self.ledger.next_line()
        if each is None or not whole:
            return
        self.ledger.sent()
        message = json.loads(each)
        if message.get("method") == "notifications/cancelled":
            if message["params"]["requestId"] in self.in_daemon:
                self.in_daemon.remove(message["params"]["requestId"])
        elif "method" in message:
            number = message["params"]["n"]
            if message["method"] not in ANSWERABLE:
                assert number not in self.seen, "a request is never sent to two daemons"
                assert number > self.last_seen, "requests keep their order"
                self.last_seen = number
            assert self.seen.get(number) != self.generation, "nothing is sent twice to one daemon"
            self.seen[number] = self.generation
            self.in_daemon.append(number)
        else:
            assert message["result"]["question"] == self.questions.pop(message["id"])

    @precondition(lambda self: self.in_daemon)
    @rule(data=st.data())
    def replies(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.in_daemon))
        self.in_daemon.remove(number)
        self.ledger.daemon_said(reply(number, number))

    @precondition(lambda self: self.is_connected)
    @rule()
    def wonders(self) -> None:
        self.numbers += 1
        id = max(self.questions, default=0) + 1
        self.questions[id] = self.numbers
        self.ledger.daemon_said(line(id=id, method="roots/list", params={"question": self.numbers}))

    @precondition(lambda self: self.is_connected)
    @rule()
    def dies(self) -> None:
        self.is_connected = False
        self.in_daemon.clear()
        self.questions.clear()
        self.ledger.lost("gone")
        self.reads()

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.ledger.bytes_for_daemon >= 0
        assert self.ledger.bytes_for_host >= 0

    def teardown(self) -> None:
        """Whatever happened, every request that was not taken back is answered in the end."""
        self.ledger.give_up("the end")
        self.reads()
        assert not self.asked


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
