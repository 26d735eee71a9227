"""Tools that cannot ask their host in the era of their session, known by how the SDKs fail them."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from scripted_host import FakeCaller, begin
from scripted_server import Running, error, legacy, modern, result

from moltis.session.calls import ErrorReply, Result
from moltis.session.hooks import Hooks
from moltis.session.oddities import MAX_FAILURE_BYTES, MAX_TOOLS, Misfits

PYTHON_MODERN = (
    "Cannot send 'elicitation/create': this transport context has no back-channel for server-initiated requests."
)
TYPESCRIPT_MODERN = (
    "Server-to-client requests are not available on protocol revision 2026-07-28: 'elicitation/create' cannot be sent "
    "while serving a request on that revision. Return inputRequired({ ... }) from the handler instead"
)
PYTHON_LEGACY = "Handler returned an invalid result"
TYPESCRIPT_LEGACY = (
    "Handler for tools/call returned an input-required result, but this request is served on protocol revision "
    "2025-11-25, which has no input_required vocabulary"
)


def as_error(message: str) -> bytes:
    return json.dumps({"code": -32603, "message": message}).encode()


def as_result(text: str) -> bytes:
    return json.dumps({"content": [{"type": "text", "text": text}], "isError": True}).encode()


@pytest.mark.parametrize(
    ("failure", "is_modern", "key"),
    [
        (as_error(PYTHON_MODERN), True, "legacy"),
        (as_error(TYPESCRIPT_MODERN), True, "legacy"),
        (as_result(f"Error executing tool ask: {PYTHON_MODERN}"), True, "legacy"),
        (as_result(TYPESCRIPT_MODERN), True, "legacy"),
        (as_error(PYTHON_LEGACY), False, "2026-07-28"),
        (as_error(TYPESCRIPT_LEGACY), False, "2026-07-28"),
    ],
)
def test_the_failures_of_the_sdks_are_known_and_the_key_is_named(failure: bytes, is_modern: bool, key: str) -> None:
    misfits = Misfits("web")
    hint = misfits.look(failure, "ask", modern=is_modern)
    assert f'protocol = "{key}"' in hint
    assert "'web'" in hint
    (remark,) = misfits.remarks()
    assert "'ask'" in remark
    assert f'protocol = "{key}"' in remark


@pytest.mark.parametrize(
    ("failure", "is_modern"),
    [
        (as_error(PYTHON_MODERN), False),  # a server without sessions has no way to ask in the older era either
        (as_error(PYTHON_LEGACY), True),  # a result that is not valid in either era
        (as_error("no such file"), True),
        (as_result("no such file"), False),
        (as_result("the log says: Handler returned an invalid result"), False),
        (as_result("x" * MAX_FAILURE_BYTES + PYTHON_MODERN), True),
        (b"{}", True),
    ],
)
def test_what_says_nothing_of_eras_gets_no_hint(failure: bytes, is_modern: bool) -> None:
    misfits = Misfits("web")
    assert misfits.look(failure, "ask", modern=is_modern) == ""
    assert misfits.remarks() == []


def test_each_tool_is_told_of_once_and_no_number_of_them_is_kept() -> None:
    told: list[str] = []
    misfits = Misfits("web", lambda tool, hint: told.append(tool))
    for _ in range(3):
        for n in range(MAX_TOOLS + 5):
            assert misfits.look(as_error(PYTHON_MODERN), f"t{n}", modern=True)
    assert told == [f"t{n}" for n in range(MAX_TOOLS)]
    (remark,) = misfits.remarks()
    assert "'t0', 't1', 't2' and 61 more" in remark


@pytest.mark.parametrize(
    ("script", "message"), [(modern, PYTHON_MODERN), (legacy, PYTHON_LEGACY)], ids=["modern", "legacy"]
)
@pytest.mark.parametrize("in_result", [False, True])
async def test_who_called_is_told_each_time_and_the_owner_once(script: Any, message: str, in_result: bool) -> None:
    if in_result and message is PYTHON_LEGACY:
        message = TYPESCRIPT_LEGACY
    told: list[tuple[str, str, str]] = []

    def fails(request: Any) -> list[Any]:
        if in_result:
            return [result(request, json.loads(as_result(message)))]
        return [error(request, -32600, message)]

    async with anyio.create_task_group() as tasks:
        hooks = Hooks(on_misfit=lambda *of_it: told.append(of_it))
        running = await Running(tasks, script("dig", tools__call=fails), hooks=hooks).until_ready()
        for _ in range(2):
            begin(running, caller := FakeCaller("a"), "dig")
            await anyio.sleep(1)
            (reply,) = caller.replies
            assert isinstance(reply, Result | ErrorReply)
            assert "protocol = " in reply.hint
        assert [(server, tool) for server, tool, _ in told] == [("x", "dig")]
        (remark,) = running.session.facts().remarks
        assert "tool 'dig'" in remark
        running.session.stop()


async def test_a_result_without_an_error_is_not_looked_at() -> None:
    said = {"content": [{"type": "text", "text": PYTHON_MODERN}]}
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, modern("dig", tools__call=lambda r: [result(r, said)])).until_ready()
        begin(running, caller := FakeCaller("a"), "dig")
        await anyio.sleep(1)
        assert caller.replies[0].hint == ""  # type: ignore[union-attr]
        assert running.session.facts().remarks == ()
        running.session.stop()
