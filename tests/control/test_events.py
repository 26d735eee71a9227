"""Subscriptions, without sockets."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from control_fakes import moved, numbered

from moltis.control.conversation import event_notification
from moltis.operations.events import (
    QUEUE_EVENTS,
    TYPES,
    ConfigChanged,
    EventBus,
    ListsChanged,
    Logged,
    LoginMoved,
    StateMoved,
)  # fmt: skip
from moltis.server.status import HistoryEntry


class Odd(StateMoved, frozen=True, kw_only=True, tag="state"):
    odd: object


class FakeSink:
    def __init__(self) -> None:
        self.room = True
        self.sent: list[dict[str, Any]] = []

    def has_room(self) -> bool:
        return self.room

    def tell(self, subscription_id: str, seq: int, dropped: int, event: bytes) -> None:
        line = event_notification(subscription_id, seq, dropped, event)
        assert b"\n" not in line
        self.sent.append(json.loads(line)["params"])


def test_nothing_is_sent_before_it_is_opened_nor_after_it_is_closed() -> None:
    hub, sink = EventBus(), FakeSink()
    subscription = hub.subscribe(None, sink)
    hub.publish(moved())
    assert not sink.sent
    subscription.open(list)
    hub.publish(moved())
    subscription.close()
    hub.publish(moved())
    assert [e["type"] for e in sink.sent] == ["snapshot", "state"]


def test_one_that_was_closed_before_it_was_opened_never_opens() -> None:
    hub, sink = EventBus(), FakeSink()
    subscription = hub.subscribe(None, sink)
    subscription.close()
    subscription.open(list)
    assert not sink.sent
    assert not hub.wants("state")


def test_a_full_queue_drops_its_oldest_and_counts_them() -> None:
    hub, sink = EventBus(), FakeSink()
    hub.subscribe(None, sink).open(list)
    sink.room = False
    for number in range(QUEUE_EVENTS + 10):
        hub.publish(numbered("a", number))
    sink.room = True
    hub.publish(numbered("a", -1))
    assert [e["seq"] for e in sink.sent[1:]] == list(range(13, QUEUE_EVENTS + 13))
    assert {e["dropped"] for e in sink.sent[1:]} == {11}
    assert sink.sent[-1]["number"] == -1


def test_each_subscriber_gets_its_own_types_and_numbers() -> None:
    hub, one, two = EventBus(), FakeSink(), FakeSink()
    hub.subscribe(["log"], one).open(list)
    hub.subscribe(["state", "log"], two).open(list)
    hub.publish(moved())
    hub.publish(Logged(record=msgspec.Raw(b'{"ts": 1}')))
    assert [(e["type"], e["seq"]) for e in one.sent] == [("snapshot", 1), ("log", 2)]
    assert [(e["type"], e["seq"]) for e in two.sent] == [("snapshot", 1), ("state", 2), ("log", 3)]
    assert one.sent[0]["subscription_id"] != two.sent[0]["subscription_id"]


def test_a_publisher_sees_no_error_whatever_it_publishes() -> None:
    hub, sink = EventBus(), FakeSink()
    hub.subscribe(None, sink).open(list)
    hub.publish(moved(to="\ud800"))
    hub.publish(Odd(server="a", at="", from_="starting", to="ready", reason="", odd=object()))
    assert hub.unencodable == 1
    assert sink.sent[-1]["server"] == "a"


def test_every_event_has_the_members_that_its_type_promises() -> None:
    hub, sink = EventBus(), FakeSink()
    hub.subscribe([*TYPES], sink).open(list)
    entry = HistoryEntry(at="t", from_="starting", to="backoff", reason="exited", attempt=2, exit_code=3)
    hub.publish(StateMoved(server="a", **msgspec.structs.asdict(entry)))
    hub.publish(LoginMoved(server="a", auth_state="failed", auth_url=None, message="no"))
    hub.publish(ListsChanged(server="a", lists=["tools"]))
    hub.publish(ConfigChanged(added=["a"], changed=[], removed=[], sections=["gateway"]))
    hub.publish(Logged(record=msgspec.Raw(b'{"ts": 1}')))
    told = [{k: v for k, v in event.items() if k not in ("subscription_id", "seq", "dropped")} for event in sink.sent]
    assert told == [
        {"type": "snapshot", "server": None, "servers": []},
        {"type": "state", "server": "a", **msgspec.to_builtins(entry)},
        {"type": "auth", "server": "a", "auth_state": "failed", "auth_url": None, "message": "no"},
        {"type": "lists", "server": "a", "lists": ["tools"]},
        {"type": "servers", "server": None, "added": ["a"], "changed": [], "removed": [], "sections": ["gateway"]},
        {"type": "log", "server": None, "record": {"ts": 1}},
    ]
