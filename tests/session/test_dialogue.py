from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltis.errors import MoltisError, ServerNotReady
from moltis.session.calls import Reply
from moltis.session.dialogue import Dialogue
from moltis.session.hooks import Hooks
from moltis.transport import ConnectionFull, Outgoing

MEMBERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0")},
    optional={
        "id": st.integers(0, 5) | st.none() | st.text(max_size=3) | st.floats(allow_nan=False),
        "method": st.sampled_from(["ping", "notifications/progress", "notifications/cancelled", "x"]),
        "params": st.sampled_from([{}, [], None, {"progressToken": 1}, {"requestId": 1}, {"progressToken": [1]}]),
        "result": st.none() | st.integers() | st.just({}),
        "error": st.none() | st.just({"code": 1, "message": "m"}) | st.text(max_size=3),
    },
)
MESSAGES = st.lists(MEMBERS | st.lists(MEMBERS, max_size=3), max_size=20)


@settings(deadline=None, max_examples=100)
@given(MESSAGES, st.lists(st.binary(max_size=40), max_size=5))
def test_whatever_a_server_says_each_call_has_exactly_one_outcome(messages: list[Any], noise: list[bytes]) -> None:
    outcomes: dict[int, list[Reply]] = {}

    async def talk() -> None:
        sent: list[bytes] = []
        dialogue = Dialogue("x", Hooks(), lambda method, params: None)
        dialogue.open(lambda message, about: sent.append(message))
        for _ in range(3):
            id = dialogue.new_id()
            outcomes[id] = []
            dialogue.ask(id, "tools/call", b"{}", outcomes[id].append, idle_secs=1)
        for message in [*(json.dumps(m).encode() for m in messages), *noise]:
            dialogue.receive(message)
        assert dialogue.counters.callback_faults == 0
        assert dialogue.in_flight == sum(not got for got in outcomes.values())
        dialogue.close(lambda: MoltisError("over"))
        assert all(b"\n" not in message and json.loads(message) for message in sent)

    anyio.run(talk)
    assert all(len(got) == 1 for got in outcomes.values())


async def test_what_finds_no_room_is_not_sent_and_the_connection_goes_on() -> None:
    sent: list[bytes] = []
    full = True

    def send(message: bytes, about: Outgoing) -> None:
        if full:
            raise ConnectionFull
        sent.append(message)

    dialogue = Dialogue("x", Hooks(), lambda method, params: None)
    dialogue.open(send)
    outcomes: list[Reply] = []
    with pytest.raises(ServerNotReady, match="has not read yet"):
        dialogue.ask(dialogue.new_id(), "tools/call", b"{}", outcomes.append)
    dialogue.tell("notifications/roots/list_changed")
    assert (dialogue.broken, dialogue.in_flight, sent, outcomes) == (False, 0, [], [])
    full = False
    dialogue.ask(dialogue.new_id(), "tools/call", b"{}", outcomes.append)
    assert (dialogue.in_flight, len(sent)) == (1, 1)
