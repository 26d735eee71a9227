"""Whatever bytes a host sends on a connection, it is answered or closed, and the next host is served."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from typing import Any, Final

import anyio
from gateway_http_fakes import BOTH, ENVELOPE, MODERN, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES: Final = int(os.environ.get("MOLTIS_FUZZ_EXAMPLES", "30")) // 10 + 1
PER_EXAMPLE: Final = 8
"""Connections of one example: to start the server costs more than all of them."""
ANSWER: Final = re.compile(rb"HTTP/1\.1 [1-5][0-9][0-9] [ -~]*\r\n")


def post(body: bytes, **headers: str) -> bytes:
    given = {
        "Host": "127.0.0.1",
        "Authorization": "Bearer good",
        "Content-Type": "application/json",
        "Accept": BOTH,
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value)
    return f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body


ECHO: Final = json.dumps(request("echo", {"text": "x"})).encode()
MODERN_ECHO: Final = json.dumps(request("echo", {"text": "x", "_meta": ENVELOPE})).encode()
CHUNKED: Final = b"%x\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(ECHO), ECHO)
VALID: Final = (
    post(json.dumps(request("initialize")).encode()),
    post(MODERN_ECHO, MCP_Protocol_Version=MODERN, Mcp_Method="echo"),
    post(b"", Transfer_Encoding="chunked", Content_Length="") + CHUNKED,
    post(ECHO, Mcp_Session_Id="x") + b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
    b"DELETE /mcp/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer good\r\nMcp-Session-Id: a\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /metrics HTTP/1.0\r\n\r\n",
    b"OPTIONS /mcp HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nExpect: 100-continue\r\n\r\n",
)
ODD: Final = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"\xff",
        b"\x7f",
        b"%00",
        b"%",
        b"%2e%2e",
        b"//",
        b"?",
        b"#",
        b",",
    ),
    *(b"HTTP/1.0", b"HTTP/2.0", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n", b"-1"),
    *(
        b"ffffffffffffffffff",
        b"9" * 400,
        b"99999999999999999999",
        b'"\\ud800"',
        b"[" * 500,
        b"x" * 20_000,
        b"Upgrade: h2c\r\n",
    ),
)


@st.composite
def near(draw: st.DrawFn) -> bytes:
    """One or two requests, hurt in one to three places."""
    data = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 3))):
        # Mostly in the head, and mostly where something begins or ends there.
        places = [found.start() for found in re.finditer(rb"\b|[\r\n]", data[:2000])]
        low = draw(st.sampled_from(places) if places else st.just(0))
        high = min(len(data), low + draw(st.sampled_from([0, 0, 1, 2, 8, 40])))
        data = (
            data[:low] + draw(st.sampled_from(ODD) | st.binary(max_size=4) | st.just(data[low:high] * 2)) + data[high:]
        )
    return data


def test_whatever_a_host_sends_it_is_answered_or_closed_and_the_next_host_is_served(serve: Any) -> None:
    async def tried(inputs: list[bytes]) -> None:
        async with serve() as served:
            async with anyio.create_task_group() as hosts:
                for data in inputs:
                    hosts.start_soon(send, served.port, data)
            client = await served.dial()
            assert (await client.ask("POST", "/mcp", json.dumps(request("initialize")).encode())).status == 200

    async def send(port: int, data: bytes) -> None:
        said = b""
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(data)
                await stream.send_eof()
                while True:
                    said += await stream.receive()
        assert not said or ANSWER.match(said)
        assert b" 500 " not in said.partition(b"\r\n")[0]

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.lists(near() | near() | st.binary(max_size=200), min_size=1, max_size=PER_EXAMPLE))
    def all_tried(inputs: list[bytes]) -> None:
        anyio.run(tried, inputs, backend="asyncio", backend_options={"use_uvloop": True})

    all_tried()
