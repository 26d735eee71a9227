"""Whatever a server answers a call with, the call ends, and is run again only where the answer says that it was not."""

from __future__ import annotations

import json
from typing import Any

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_remote import McpServer, Peer, dialled, serving
from trio.testing import MockClock

SENTENCES = ["Session not found", "Bad Request: No valid session ID provided", "Bad Request: Server not initialized"]
OTHERS = ["the browser session expired", "no open session for this account", "it fell over", "unknown tool"]
CALL_ID = 3

ids = st.sampled_from([None, "absent", "server-error", "0", 0, 99, CALL_ID, str(CALL_ID), float(CALL_ID)])
statuses = st.sampled_from([200, 201, 202, 204, 400, 401, 403, 404, 405, 409, 410, 415, 422, 429, 500, 502, 503])
kinds = st.sampled_from(["application/json", "text/event-stream", "text/plain", "text/html", ""])
errors = st.fixed_dictionaries(
    {"code": st.sampled_from([0, -32000, -32001, -32600, -32603]), "message": st.sampled_from(SENTENCES + OTHERS)}
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, dict[str, Any] | None]:
    """An error, a result, a page, or a cut of one of them; the second is the error if the first is one."""
    id = draw(ids)
    message: dict[str, Any] = {"jsonrpc": "2.0"} if id == "absent" else {"jsonrpc": "2.0", "id": id}
    match draw(st.sampled_from(["error", "error", "result", "text", "cut", "doubled"])):
        case "error":
            message["error"] = draw(errors)
            return json.dumps(message).encode(), message
        case "result":
            return json.dumps({**message, "result": {"session": "error"}}).encode(), None
        case "text":
            return draw(st.sampled_from([b"", b"<html>session", *(s.encode() for s in SENTENCES + OTHERS)])), None
        case "cut":
            whole = json.dumps({**message, "error": draw(errors)}).encode()
            return whole[: draw(st.integers(0, len(whole) - 1))], None
        case _:
            return json.dumps({**message, "result": {}}).encode() * 2, None


def _not_processed(status: int, error: dict[str, Any] | None, lost: bool) -> bool:
    """Whether HTTP, MCP or the sentence of an SDK says so."""
    ours = error is not None and error.get("id") in (CALL_ID, str(CALL_ID))
    if status == 401:
        return True
    if status == 404:
        return not ours
    return error is not None and not ours and error["error"]["message"] in SENTENCES


@settings(max_examples=60, deadline=None)
@given(statuses, kinds, bodies(), st.booleans())
def test_a_call_ends_and_is_not_run_twice(
    status: int, kind: str, body: tuple[bytes, dict[str, Any] | None], lasting: bool
) -> None:
    data, error = body

    async def run() -> None:
        async with serving(McpServer()) as server, dialled(server.url) as dial:
            await dial.shake_hands()
            await dial.ask("tools/list")
            answers = 0

            async def call(peer: Peer) -> None:
                nonlocal answers
                answers += 1
                if answers > 1 and not lasting:
                    await peer.result()
                    return
                framed = b"data: " + data + b"\n\n" if kind == "text/event-stream" else data
                if status == 204:
                    await peer.raw(b"HTTP/1.1 204 X\r\n\r\n")
                else:
                    await peer.answer(status, framed, kind=kind)

            server.on["tools/call"] = call
            with anyio.fail_after(60):
                id = dial.send("tools/call")
                await dial.heard.wait(
                    lambda: id in dial.heard.failures or dial.heard.replies(id) or dial.connection.ending
                )
            await anyio.sleep(60)
            assert server.count("tools/call") <= 2
            if server.count("tools/call") == 2:
                assert _not_processed(status, error, lasting)
            assert server.begun <= 3

    anyio.run(run, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0.02)})
