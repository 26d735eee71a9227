"""Each host's request goes out in the host's own era, where the server has a session for either."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from forwarding_fakes import RESULT, Bench, FakeHost, input_required, live
from gateway_fakes import FakeUpstream, agreed
from trio.testing import MockClock

ELICIT = {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": {"type": "object"}}}
ACCEPT = {"action": "accept", "content": {"name": "Zoë"}}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time passes as soon as nobody has anything to do."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def beside(one: Bench) -> FakeUpstream:
    """Have there be a second session, as one that has been opened."""
    second = one.upstream.beside = FakeUpstream("mole", agreed("legacy"))
    one.upstream.settled.set()
    return second


async def test_a_host_of_the_older_era_is_served_by_the_session_beside_and_the_others_by_the_first() -> None:
    async with live("modern") as one:
        second = beside(one)
        old, new = one.legacy(), one.modern()
        assert (len(second.calls), len(one.upstream.calls)) == (1, 1)
        assert "_meta" not in second.calls[0].read(), "nothing of the newer era is said for it"
        second.calls[0].succeed(RESULT)
        one.upstream.calls[0].succeed(RESULT)
        assert "resultType" not in old.result
        assert new.result == {"content": [{"type": "text", "text": "done"}]}


async def test_the_first_request_waits_until_it_is_open() -> None:
    async with live("modern") as one:
        one.upstream.beside = None
        tried = one.legacy()
        await anyio.sleep(3)
        assert (one.upstream.calls, tried.outlet.answered) == ([], False)
        second = beside(one)
        await anyio.wait_all_tasks_blocked()
        second.calls[0].succeed(RESULT)
        assert tried.result["content"]


async def test_where_it_comes_to_nothing_the_request_is_translated_for_the_first() -> None:
    async with live("modern") as one:
        one.upstream.beside = None
        tried = one.legacy()
        one.upstream.beside = one.upstream
        one.upstream.settled.set()
        await anyio.wait_all_tasks_blocked()
        one.call.succeed(input_required({"a": ELICIT}, "s"))
        beside(one)
        tried.host.answers(ACCEPT)
        assert one.call.read()["requestState"] == "s", "a further round goes where the first went"
        one.call.succeed(RESULT)
        assert tried.result["content"]


async def test_one_that_is_given_up_while_it_waits_is_never_sent() -> None:
    async with live("modern") as one:
        one.upstream.beside = None
        tried = one.legacy()
        assert tried.running is not None
        await anyio.wait_all_tasks_blocked()
        tried.running.cancel()
        second = beside(one)
        await anyio.wait_all_tasks_blocked()
        assert (one.upstream.calls, second.calls, tried.outlet.answered) == ([], [], False)


async def test_a_server_that_goes_while_one_waits_is_told_to_the_host() -> None:
    async with live("modern") as one:
        upstream = one.upstream
        upstream.beside = None
        tried = one.legacy()
        await anyio.wait_all_tasks_blocked()
        one.port.move("backoff")
        upstream.settled.set()
        await anyio.wait_all_tasks_blocked()
        assert "backoff" in tried.text


async def test_where_too_many_wait_the_first_takes_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moltis.gateway.relay.MAX_WAITING", 2)
    async with live("modern") as one:
        one.upstream.beside = None
        for n in range(3):
            one.legacy(FakeHost(), id=n)
        assert len(one.upstream.calls) == 1
        one.forwarding.close("enough")


async def test_one_that_waited_for_the_server_to_start_waits_for_it_too() -> None:
    async with live(None, "starting") as one:
        tried = one.legacy()
        await anyio.wait_all_tasks_blocked()
        upstream = FakeUpstream("mole", agreed("modern"))
        upstream.beside = None
        one.port.ready(upstream)
        await anyio.wait_all_tasks_blocked()
        assert (upstream.calls, tried.outlet.answered) == ([], False)
        second = beside(one)
        await anyio.wait_all_tasks_blocked()
        second.calls[0].succeed(RESULT)
        assert tried.result["content"]


async def test_a_tool_may_be_called_in_the_other_era_but_not_in_the_middle_of_a_call() -> None:
    async with live("modern") as one:
        one.modern()
        one.modern(params={"name": "dig", "requestState": "s"}, id=2)
        one.modern(params={"name": "dig", "inputResponses": {}}, id=3)
        one.legacy(method="prompts/get", params={"name": "p"}, id=4)
        assert one.upstream.takes_for == [(True, "dig"), (True, None), (True, None), (False, None)]
        for call in one.upstream.calls:
            call.succeed(RESULT)
