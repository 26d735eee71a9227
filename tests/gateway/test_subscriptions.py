from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from gateway_fakes import FakeOutlet, modern_ask
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moltis.gateway.catalogue import Owner
from moltis.gateway.levels import LEVELS, Levels, lowest, passes
from moltis.gateway.listens import MAX_LISTENS, Listens
from moltis.gateway.messages import Answer
from moltis.gateway.outbox import MAX_KEPT, MAX_KEPT_BYTES, MAX_QUESTIONS, Outbox, Questions
from moltis.gateway.subscriptions import (
    MAX_URI_CHARS,
    MAX_WATCHED,
    MAX_WATCHED_OF_ALL,
    SLICES_UNTOLD,
    Subscriptions,
    updated_params,
)
from moltis.slices import SLICE_SECS

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"


class Watching:
    """A watcher whose resources are where `places` says, or at `s` by the name it has here."""

    def __init__(self, **places: Owner | None) -> None:
        self.places: dict[str, Owner | None] = dict(places)
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def locate(self, uri: str) -> Owner | None:
        return self.places[uri] if uri in self.places else Owner("s", uri)

    def resource_updated(self, uri: str, params: dict[str, Any]) -> None:
        self.heard.append((uri, params))


def table() -> tuple[Subscriptions, list[str]]:
    told: list[str] = []
    return Subscriptions(told.append), told


# --- the union of what hosts want


def test_a_server_is_told_once_of_a_resource_that_two_watch_and_again_when_the_last_of_them_leaves() -> None:
    subscriptions, told = table()
    one, other = Watching(), Watching()
    subscriptions.watch(one, "f:a")
    subscriptions.watch(other, "f:a")
    assert told == ["s"]
    subscriptions.leave(one)
    assert told == ["s"]
    assert subscriptions.wanted("s") == {"f:a"}
    subscriptions.leave(other)
    assert told == ["s", "s"]
    assert subscriptions.wanted("s") == frozenset()
    assert len(subscriptions) == 0


def test_a_watcher_that_leaves_costs_each_server_one_change_however_much_it_watched() -> None:
    subscriptions, told = table()
    watcher = Watching()
    for number in range(50):
        subscriptions.watch(watcher, f"f:{number}")
    told.clear()
    subscriptions.leave(watcher)
    assert told == ["s"]


def test_watching_twice_is_watching_once() -> None:
    subscriptions, told = table()
    watcher = Watching()
    subscriptions.watch(watcher, "f:a")
    subscriptions.watch(watcher, "f:a")
    assert subscriptions.count(watcher) == len(subscriptions) == 1
    subscriptions.unwatch(watcher, "f:a")
    subscriptions.unwatch(watcher, "f:a")
    assert subscriptions.wanted("s") == frozenset()
    assert told == ["s", "s"]


def test_what_nobody_has_is_kept_until_somebody_has_it() -> None:
    subscriptions, told = table()
    watcher = Watching(**{"f:a": None})
    subscriptions.watch(watcher, "f:a")
    assert told == []
    watcher.places["f:a"] = Owner("t", "f:a")
    subscriptions.relocate()
    assert told == ["t"]
    assert subscriptions.wanted("t") == {"f:a"}


def test_what_moves_to_another_server_is_wanted_there_and_no_longer_here() -> None:
    subscriptions, told = table()
    watcher = Watching()
    subscriptions.watch(watcher, "f:a")
    watcher.places["f:a"] = Owner("t", "g:a")
    subscriptions.relocate()
    assert (subscriptions.wanted("s"), subscriptions.wanted("t")) == (frozenset(), {"g:a"})
    assert sorted(told) == ["s", "s", "t"]


def test_what_is_no_longer_listed_stays_where_it_was() -> None:
    subscriptions, _ = table()
    watcher = Watching()
    subscriptions.watch(watcher, "f:a")
    watcher.places["f:a"] = None
    subscriptions.relocate()
    assert subscriptions.wanted("s") == {"f:a"}
    subscriptions.leave(watcher)
    assert len(subscriptions) == 0


def test_an_update_is_heard_by_the_name_that_each_knows_it_by() -> None:
    subscriptions, _ = table()
    one, other = Watching(), Watching(alias=Owner("s", "f:a"))
    subscriptions.watch(one, "f:a")
    subscriptions.watch(other, "alias")
    assert subscriptions.updated("s", "f:a") == [(one, "f:a"), (other, "alias")]
    assert subscriptions.updated("t", "f:a") == []


@pytest.mark.parametrize(
    ("watched", "updated", "heard"),
    [
        ("f:///a", "f:///a/b", True),
        ("f:///a/", "f:///a/b/c", True),
        ("f:///a", "f:///a#part", True),
        ("f:///a", "f:///a?x=1", True),
        ("f:///a", "f:///ab", False),
        ("f:///a/b", "f:///a", False),
    ],
)
def test_who_watches_the_whole_hears_of_a_part(watched: str, updated: str, heard: bool) -> None:
    subscriptions, _ = table()
    watcher = Watching()
    subscriptions.watch(watcher, watched)
    assert subscriptions.updated("s", updated) == ([(watcher, updated)] if heard else [])


def test_who_watches_whole_and_part_hears_once() -> None:
    subscriptions, _ = table()
    watcher = Watching()
    subscriptions.watch(watcher, "f:///a/")
    subscriptions.watch(watcher, "f:///a")
    subscriptions.watch(watcher, "f:///a/b")
    assert subscriptions.updated("s", "f:///a/b") == [(watcher, "f:///a/b")]


def test_a_server_is_told_once_of_all_that_is_watched_at_once() -> None:
    subscriptions, told = table()
    subscriptions.watch(Watching(), *(f"f:{number}" for number in range(1000)))
    assert told == ["s"]
    assert len(subscriptions.wanted("s")) == 1000
    subscriptions.watch(Watching())
    assert told == ["s"]


@pytest.mark.alone
def test_an_update_of_very_many_parts_takes_no_longer_than_what_is_watched() -> None:
    subscriptions, _ = table()
    watcher = Watching()
    subscriptions.watch(watcher, "f:", "f:///", "f:a")
    hostile = "f:" + "/" * 2_000_000
    began = time.perf_counter()
    found = subscriptions.updated("s", hostile)
    assert time.perf_counter() - began < 0.5
    assert found == [(watcher, hostile)]


def test_what_is_watched_is_bounded_in_number_and_length_for_one_and_for_all() -> None:
    subscriptions, _ = table()
    assert subscriptions.refusal(0, ["f:" + "a" * (MAX_URI_CHARS - 2)]) is None
    assert "characters" in (subscriptions.refusal(0, ["f:" + "a" * MAX_URI_CHARS]) or "")
    assert subscriptions.refusal(MAX_WATCHED - 1, ["f:a"]) is None
    assert str(MAX_WATCHED) in (subscriptions.refusal(MAX_WATCHED, ["f:a"]) or "")
    for host in range(MAX_WATCHED_OF_ALL // MAX_WATCHED):
        subscriptions.watch(Watching(), *(f"f:{host}/{number}" for number in range(MAX_WATCHED)))
    assert "all hosts" in (subscriptions.refusal(0, ["f:a"]) or "")
    assert subscriptions.refusal(0, []) is None


def test_params_of_an_update_keep_what_the_server_says_but_not_the_stream_it_said_it_on() -> None:
    params = {"uri": b'"f:a"', "title": b'"T"', "_meta": b'{"x":1,"%b":9}' % SUBSCRIPTION_ID.encode()}
    raws = {name: msgspec.Raw(value) for name, value in params.items()}
    assert msgspec.json.decode(updated_params("g:a", raws)) == {"uri": "g:a", "title": "T", "_meta": {"x": 1}}
    shown = msgspec.json.decode(updated_params("g:a", raws, b'"%b":"l"' % SUBSCRIPTION_ID.encode()))
    assert shown["_meta"] == {"x": 1, SUBSCRIPTION_ID: "l"}
    assert msgspec.json.decode(updated_params("g:a", {"_meta": msgspec.Raw(b"7")})) == {"uri": "g:a"}


class Union(RuleBasedStateMachine):
    """What servers are told to watch is the union of what is watched, whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, frozenset[str]] = {}
        self.subscriptions = Subscriptions(self.hear)
        self.watchers = [Watching() for _ in range(3)]
        self.model: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}

    def hear(self, server: str) -> None:
        self.told[server] = self.subscriptions.wanted(server)

    @rule(who=st.integers(0, 2), uri=st.sampled_from("abc"))
    def watch(self, who: int, uri: str) -> None:
        self.subscriptions.watch(self.watchers[who], uri)
        self.model[who].add(uri)

    @rule(who=st.integers(0, 2), uri=st.sampled_from("abc"))
    def unwatch(self, who: int, uri: str) -> None:
        self.subscriptions.unwatch(self.watchers[who], uri)
        self.model[who].discard(uri)

    @rule(who=st.integers(0, 2))
    def leave(self, who: int) -> None:
        self.subscriptions.leave(self.watchers[who])
        self.model[who].clear()

    @rule(who=st.integers(0, 2), uri=st.sampled_from("abc"), server=st.sampled_from("st"))
    def move(self, who: int, uri: str, server: str) -> None:
        for watcher in self.watchers:
            watcher.places[uri] = Owner(server, uri.upper())
        self.subscriptions.relocate()

    @invariant()
    def is_the_union(self) -> None:
        places = [(w.locate(uri)) for w, uris in zip(self.watchers, self.model.values(), strict=True) for uri in uris]
        for server in "st":
            wanted = {place.name for place in places if place is not None and place.server == server}
            assert self.subscriptions.wanted(server) == wanted == self.told.get(server, frozenset())
        assert len(self.subscriptions) == len(places)


TestUnion = Union.TestCase


# --- in slices


class Pacing:
    """A table whose turns the test takes. What it takes to locate a URI is `cost_secs`."""

    def __init__(self, cost_secs: float = SLICE_SECS / 4) -> None:
        self.told: list[str] = []
        self.moved: list[tuple[str, frozenset[str]]] = []
        self.done: list[str] = []
        self.begun = 0
        self.now = 0.0
        self.cost_secs = cost_secs
        self.located: list[str] = []
        self.longest = 0
        self.table = Subscriptions(
            self.told.append, lambda server, uris: self.moved.append((server, uris)), self.begin, lambda: self.now
        )

    def begin(self) -> None:
        self.begun += 1

    def watcher(self) -> Watching:
        watching = Watching()
        find = watching.locate

        def locate(uri: str) -> Owner | None:
            self.located.append(uri)
            self.now += self.cost_secs
            return find(uri)

        watching.locate = locate  # type: ignore[method-assign]
        return watching

    def watch(self, watcher: Watching, count: int, prefix: str = "f:") -> None:
        uris = [f"{prefix}{n}" for n in range(count)]
        self.table.watch(watcher, *uris, then=lambda: self.done.append(prefix))

    def run(self, most: int = 100_000) -> int:
        """Take turns until nothing is left, and return how many."""
        for turns in range(1, most):
            before = len(self.located)
            is_left = self.table.turn()
            self.longest = max(self.longest, len(self.located) - before)
            if not is_left:
                return turns
        raise AssertionError("there is always more")


@pytest.mark.parametrize(("cost_secs", "each"), [(SLICE_SECS * 4, 1), (SLICE_SECS / 3.9, 4), (SLICE_SECS / 99.9, 100)])
def test_no_turn_of_the_loop_locates_more_than_fits_into_a_slice(cost_secs: float, each: int) -> None:
    pacing = Pacing(cost_secs)
    watcher = pacing.watcher()
    pacing.watch(watcher, MAX_WATCHED)
    assert 1 <= len(pacing.located) <= each
    assert (pacing.begun, pacing.done) == (1, [])
    assert pacing.table.count(watcher) == MAX_WATCHED, "what waits counts"
    turns = pacing.run()
    assert pacing.longest <= each
    assert pacing.done == ["f:"]
    assert len(pacing.table.wanted("s")) == MAX_WATCHED
    assert len(pacing.told) <= 1 + turns // SLICES_UNTOLD
    pacing.located.clear()
    pacing.table.relocate()
    assert len(pacing.located) <= each
    pacing.run()
    assert pacing.longest <= each
    assert len(pacing.located) == MAX_WATCHED


def test_what_fits_into_a_slice_is_located_at_once() -> None:
    pacing = Pacing()
    pacing.watch(pacing.watcher(), 3)
    assert (pacing.begun, pacing.done, pacing.told) == (0, ["f:"], ["s"])


def test_who_asks_for_little_does_not_wait_for_who_asks_for_much() -> None:
    pacing = Pacing()
    for n in range(5):
        pacing.watch(pacing.watcher(), MAX_WATCHED, f"much{n}:")
    pacing.table.relocate()
    pacing.watch(pacing.watcher(), 6, "little:")
    for _ in range(7):
        pacing.table.turn()
    assert pacing.done == ["little:"]
    assert pacing.begun == 1
    pacing.run()
    assert sorted(pacing.done) == ["little:", *(f"much{n}:" for n in range(5))]


def test_lists_that_change_all_the_time_do_not_keep_the_last_from_being_located_again() -> None:
    pacing = Pacing()
    watcher = pacing.watcher()
    pacing.watch(watcher, 40)
    pacing.run()
    watcher.places["f:39"] = Owner("t", "f:39")
    for _ in range(12):
        pacing.table.relocate()
        pacing.table.turn()
    assert watcher.heard == []
    assert pacing.table.place(watcher, "f:39") == Owner("t", "f:39")


def test_a_server_is_said_to_tell_of_more_only_by_what_moved_to_it() -> None:
    pacing = Pacing()
    watcher = pacing.watcher()
    pacing.watch(watcher, 40)
    pacing.run()
    for n in (3, 38):
        watcher.places[f"f:{n}"] = Owner("t", f"f:{n}")
    pacing.table.relocate()
    pacing.table.unwatch(watcher, "f:38")
    pacing.table.watch(pacing.watcher(), "f:new")
    pacing.run()
    assert pacing.moved == [("t", frozenset({"f:3"}))]
    assert pacing.table.wanted("t") == {"f:3"}


def test_who_leaves_before_it_was_located_leaves_nothing_and_is_not_called_back() -> None:
    pacing = Pacing()
    watcher = pacing.watcher()
    pacing.watch(watcher, MAX_WATCHED)
    pacing.table.unwatch(watcher, "f:999")
    pacing.table.leave(watcher)
    assert not pacing.table.turn()
    assert pacing.table.wanted("s") == frozenset()
    assert (len(pacing.table), pacing.done) == (0, [])
    pacing.table.watch(watcher, "f:a")
    assert pacing.table.wanted("s") == {"f:a"}


def test_many_that_are_watched_no_more_cost_a_server_one_change() -> None:
    subscriptions, told = table()
    watcher = Watching()
    uris = [f"f:{n}" for n in range(MAX_WATCHED)]
    subscriptions.watch(watcher, *uris)
    told.clear()
    subscriptions.unwatch(watcher, *uris, "f:unknown")
    assert told == ["s"]
    assert len(subscriptions) == 0


def test_who_watches_the_whole_is_not_among_the_watchers_of_a_part() -> None:
    subscriptions, _ = table()
    one, other = Watching(), Watching()
    subscriptions.watch(one, "f:///a")
    subscriptions.watch(other, "f:///a/b")
    assert subscriptions.watchers("s", "f:///a/b") == [(other, "f:///a/b")]
    assert subscriptions.watchers("s", "f:///c") == subscriptions.watchers("t", "f:///a") == []


# --- subscriptions/listen


def opened(filter: Any, *, id: int | str = 7, listens: Listens | None = None) -> tuple[Listens, FakeOutlet]:
    listens = listens or Listens(table()[0], lambda uri: Owner("s", uri))
    outlet = FakeOutlet()
    asked = modern_ask("subscriptions/listen", {"notifications": filter}, id=id)
    assert listens.open(asked, outlet, watched=0) is None
    assert listens.acknowledge(asked.id) is None
    return listens, outlet


def test_a_stream_begins_with_what_is_listened_to_and_says_on_each_message_which_it_is() -> None:
    listens, outlet = opened(
        {"toolsListChanged": True, "promptsListChanged": False, "resourceSubscriptions": ["f:a"], "more": 1}, id="x"
    )
    acknowledged = outlet.told[0]
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"] == {
        "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["f:a"]},
        "_meta": {SUBSCRIPTION_ID: "x"},
    }
    listens.list_changed("notifications/tools/list_changed")
    listens.list_changed("notifications/prompts/list_changed")
    assert [message["method"] for message in outlet.told[1:]] == ["notifications/tools/list_changed"]
    assert outlet.told[1]["params"] == {"_meta": {SUBSCRIPTION_ID: "x"}}


def test_a_stream_that_ends_in_order_has_a_result() -> None:
    listens, outlet = opened({"toolsListChanged": True})
    listens.end()
    assert outlet.result == {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: 7}}
    assert len(listens) == 0


@pytest.mark.parametrize("notifications", [None, 3, {"resourceSubscriptions": "f:a"}, {"toolsListChanged": "yes"}])
def test_what_is_listened_to_must_be_said(notifications: Any) -> None:
    listens = Listens(table()[0], lambda uri: None)
    params = {} if notifications is None else {"notifications": notifications}
    refusal = listens.open(modern_ask("subscriptions/listen", params), FakeOutlet(), watched=0)
    assert refusal is not None
    assert refusal.code == -32602


def test_streams_and_what_they_watch_are_bounded() -> None:
    listens, _ = opened({})
    for id in range(100, 99 + MAX_LISTENS):
        opened({}, id=id, listens=listens)
    refusal = listens.open(modern_ask("subscriptions/listen", {"notifications": {}}, id=5), FakeOutlet(), watched=0)
    assert refusal is not None
    assert "limit" in refusal.message
    listens.drop(b"100")
    many = {"notifications": {"resourceSubscriptions": [f"f:{n}" for n in range(MAX_WATCHED)]}}
    assert listens.open(modern_ask("subscriptions/listen", many, id=5), FakeOutlet(), watched=1) is not None
    assert listens.open(modern_ask("subscriptions/listen", many, id=5), FakeOutlet(), watched=0) is None
    assert listens.watched() == MAX_WATCHED
    listens.close()
    assert listens.watched() == len(listens) == 0


def test_a_stream_that_cannot_be_written_is_not_opened_and_one_that_no_longer_can_is_ended() -> None:
    subscriptions, _ = table()
    listens = Listens(subscriptions, lambda uri: Owner("s", uri))
    ask = modern_ask("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["f:a"]}})
    assert listens.open(ask, FakeOutlet(open=False), watched=0) is None
    refusal = listens.acknowledge(ask.id)
    assert refusal is not None
    assert refusal.code == -32600
    assert len(listens) == len(subscriptions) == 0
    outlet = FakeOutlet()
    assert listens.open(ask, outlet, watched=0) is None
    assert listens.acknowledge(ask.id) is None
    outlet.open = False
    (watcher, uri), *_ = subscriptions.updated("s", "f:a")
    watcher.resource_updated(uri, {})
    assert len(listens) == len(subscriptions) == 0
    assert outlet.result["resultType"] == "complete"


# --- levels


def test_a_server_logs_from_the_lowest_level_that_anybody_wants() -> None:
    levels = Levels()
    assert levels.wanted("s") is None
    levels.want("h", lambda server: True, "error")
    levels.want("i", lambda server: server == "s", "info")
    assert (levels.wanted("s"), levels.wanted("t")) == ("info", "error")
    assert levels.leave("i")
    assert not levels.leave("i")
    assert levels.wanted("s") == "error"


def test_what_one_request_wants_holds_until_the_server_is_a_new_one() -> None:
    levels = Levels()
    assert levels.want_once("s", "warning")
    assert not levels.want_once("s", "error")
    assert levels.want_once("s", "debug")
    assert levels.wanted("s") == "debug"
    levels.restarted("s")
    assert levels.wanted("s") is None


@given(st.sampled_from(LEVELS), st.sampled_from(LEVELS))
def test_a_level_lets_itself_and_the_more_severe_pass(wanted: str, level: str) -> None:
    assert passes(wanted, level) == (LEVELS.index(level) >= LEVELS.index(wanted))
    assert passes(None, level)
    assert passes(wanted, None)
    assert passes(wanted, "loud")
    assert lowest([wanted, level]) == LEVELS[min(LEVELS.index(wanted), LEVELS.index(level))]


# --- what is kept for a host that cannot be reached


class Way:
    def __init__(self) -> None:
        self.open = False
        self.sent: list[bytes] = []

    def __call__(self, message: bytes) -> bool:
        if self.open:
            self.sent.append(message)
        return self.open


def test_messages_are_kept_in_order_and_those_that_say_the_same_once() -> None:
    way = Way()
    outbox = Outbox(way)
    outbox.held = False
    for message, once in [(b"1", False), (b"tools", True), (b"2", False), (b"tools", True), (b"2", False)]:
        outbox.put(message, once=once)
    outbox.flush()
    assert (len(outbox), way.sent) == (4, [])
    way.open = True
    outbox.put(b"3")
    assert way.sent == []
    outbox.flush()
    assert way.sent == [b"1", b"tools", b"2", b"2", b"3"]
    outbox.put(b"4")
    assert way.sent[-1] == b"4"


def test_nothing_is_sent_to_a_host_that_is_not_ready_however_open_the_way() -> None:
    way = Way()
    way.open = True
    outbox = Outbox(way)
    outbox.put(b"1")
    outbox.flush()
    assert way.sent == []
    outbox.held = False
    outbox.flush()
    assert way.sent == [b"1"]


def test_what_is_kept_is_bounded_in_bytes_too() -> None:
    way = Way()
    outbox = Outbox(way)
    outbox.put(b"list changed", once=True)
    for number in range(20):
        outbox.put(b"%2d" % number + b"x" * (MAX_KEPT_BYTES // 4))
    outbox.put(b"y" * (MAX_KEPT_BYTES + 1))
    assert len(outbox) == 4
    outbox.held, way.open = False, True
    outbox.flush()
    assert [message[:2] for message in way.sent] == [b"li", b"17", b"18", b"19"]
    way.sent.clear()
    way.open = False
    for _ in range(2):
        outbox.put(b"x" * (MAX_KEPT_BYTES // 2))
    assert len(outbox) == 2, "what was sent takes no room"


def test_what_is_kept_is_bounded_and_the_oldest_log_message_goes_first() -> None:
    way = Way()
    outbox = Outbox(way)
    outbox.held = False
    outbox.put(b"tools", once=True)
    for number in range(MAX_KEPT + 5):
        outbox.put(b"%d" % number)
    assert len(outbox) == MAX_KEPT
    way.open = True
    outbox.flush()
    assert way.sent[:2] == [b"tools", b"6"]


# --- questions


def test_a_question_is_answered_once_and_an_answer_that_nobody_waits_for_is_ignored() -> None:
    questions, outlet = Questions(), FakeOutlet()
    heard: list[Answer] = []
    id = questions.ask("roots/list", b'{"a":\n1}', outlet, heard.append)
    assert id is not None
    assert outlet.told == [{"jsonrpc": "2.0", "id": id, "method": "roots/list", "params": {"a": 1}}]
    for text in (b'"%d"' % id, b"%d" % id, b"99", b'"x"', b'""', b"9" * 30):
        questions.answered(messages_answer(text))
    assert [answer.result for answer in heard] == [b"{}"]
    assert len(questions) == 0


def test_a_question_taken_back_is_cancelled_and_its_answer_ignored() -> None:
    questions, outlet = Questions(), FakeOutlet()
    heard: list[Answer] = []
    id = questions.ask("roots/list", b"", outlet, heard.append)
    assert id is not None
    questions.take_back(id, b'"enough"')
    questions.take_back(id, b"")
    questions.answered(messages_answer(b"%d" % id))
    assert outlet.told[1:] == [
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "reason": "enough"}}
    ]
    assert heard == []


def test_questions_are_bounded_need_a_way_and_are_refused_when_the_host_goes() -> None:
    questions = Questions()
    heard: list[Answer] = []
    assert questions.ask("roots/list", b"", FakeOutlet(asks=False), heard.append) is None
    for _ in range(MAX_QUESTIONS):
        assert questions.ask("roots/list", b"", FakeOutlet(), heard.append) is not None
    assert questions.ask("roots/list", b"", FakeOutlet(), heard.append) is None
    questions.close()
    assert len(heard) == MAX_QUESTIONS
    assert all(answer.error is not None and answer.result is None for answer in heard)
    assert questions.ask("roots/list", b"", FakeOutlet(), heard.append) is None


def messages_answer(id: bytes) -> Any:

    return Answer(id, b"{}")
