"""Subscriptions, without sockets."""

from __future__ import annotations

import json
from typing import Any

from moltis.control.events import QUEUE_EVENTS, Hub


class FakeSink:
    def __init__(self) -> None:
        self.room = True
        self.sent: list[dict[str, Any]] = []

    def has_room(self) -> bool:
        return self.room

    def send(self, line: bytes) -> None:
        assert b"\n" not in line
        self.sent.append(json.loads(line)["params"])


def test_nothing_is_sent_before_it_is_opened_nor_after_it_is_closed() -> None:
    hub, sink = Hub(), FakeSink()
    subscription = hub.subscribe(None, sink)
    hub.publish("state", "a", to="ready")
    assert not sink.sent
    subscription.open(list)
    hub.publish("state", "a", to="ready")
    subscription.close()
    hub.publish("state", "a", to="ready")
    assert [e["type"] for e in sink.sent] == ["snapshot", "state"]


def test_one_that_was_closed_before_it_was_opened_never_opens() -> None:
    hub, sink = Hub(), FakeSink()
    subscription = hub.subscribe(None, sink)
    subscription.close()
    subscription.open(list)
    assert not sink.sent
    assert not hub.wants("state")


def test_a_full_queue_drops_its_oldest_and_counts_them() -> None:
    hub, sink = Hub(), FakeSink()
    hub.subscribe(None, sink).open(list)
    sink.room = False
    for number in range(QUEUE_EVENTS + 10):
        hub.publish("state", "a", number=number)
    sink.room = True
    hub.publish("state", "a", number=-1)
    assert [e["seq"] for e in sink.sent[1:]] == list(range(13, QUEUE_EVENTS + 13))
    assert {e["dropped"] for e in sink.sent[1:]} == {11}
    assert sink.sent[-1]["number"] == -1


def test_each_subscriber_gets_its_own_types_and_numbers() -> None:
    hub, one, two = Hub(), FakeSink(), FakeSink()
    hub.subscribe(["log"], one).open(list)
    hub.subscribe(["state", "log"], two).open(list)
    hub.publish("state", "a", to="ready")
    hub.publish("log", None, record={"ts": 1})
    assert [(e["type"], e["seq"]) for e in one.sent] == [("snapshot", 1), ("log", 2)]
    assert [(e["type"], e["seq"]) for e in two.sent] == [("snapshot", 1), ("state", 2), ("log", 3)]
    assert one.sent[0]["subscription_id"] != two.sent[0]["subscription_id"]


def test_a_publisher_sees_no_error_whatever_it_publishes() -> None:
    hub, sink = Hub(), FakeSink()
    hub.subscribe(None, sink).open(list)
    hub.publish("state", "a", text="\ud800")
    hub.publish("state", "a", odd=object())
    assert hub.unencodable == 1
    assert sink.sent[-1]["server"] == "a"
