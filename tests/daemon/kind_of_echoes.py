"""A kind of servers that live in the process of the daemon, as a package would add it: how it is planned and opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec

from moltis.config.expansion import Base, Expansion, Planner
from moltis.config.kinds import Kind
from moltis.config.model import ServerSection
from moltis.config.plan import Launch, ServerPlan, Shown
from moltis.doctor import Finding, Verdict
from moltis.transport import Outgoing, Transport
from moltis.transport.inside import InsideTransport, Tell
from moltis.transport.kinds import Given

KIND = Kind(
    name="echoes",
    needs="transport",
    asks="",
    keys=(),
    called="built-in",
    described="a part of moltis",
    plans=f"{__name__}:PLANNER",
    checks=f"{__name__}:check",
    opens=f"{__name__}:open_echoes",
)
LIST_CHANGED = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'


@dataclass(frozen=True, slots=True)
class EchoLaunch(Launch):
    """Nothing is needed to start it."""


class _Planner(Planner):
    most = 0
    too_much = ""

    def launch(self, entry: ServerSection, expansion: Expansion) -> Launch:
        return EchoLaunch()

    def shown(self, entry: ServerSection, launch: Launch, base: Base) -> Shown:
        return Shown()

    def written(self, entry: ServerSection) -> list[str | None]:
        return []


PLANNER = _Planner()


def check(server: ServerPlan, environ: Mapping[str, str], daemon_path: str | None) -> Iterator[Finding]:
    yield Finding("servers", Verdict.OK, "is always there")


class Echoes:
    """Answers MCP up to 2025-11-25: tools that echo, wait, fail and multiply."""

    made: list[Echoes] = []  # noqa: RUF012 - for the test to find them

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.tools = ["echo", "wait", "fail", "mute"]
        self.cancelled = 0
        self.is_closed = False
        Echoes.made.append(self)

    async def answer(self, message: bytes, about: Outgoing) -> bytes | None:
        asked = msgspec.json.decode(message)
        if about.id is None:
            return None
        match asked["method"], asked.get("params") or {}:
            case "initialize", params:
                result: dict[str, Any] = {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {"listChanged": True}},
                    "serverInfo": {"name": "echoes", "version": "1"},
                }
            case "ping", _:
                result = {}
            case "tools/list", _:
                result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in self.tools]}
            case "tools/call", {"name": "wait"}:
                try:
                    await anyio.sleep_forever()
                finally:
                    self.cancelled += 1
            case "tools/call", {"name": "fail"}:
                raise KeyError("secret-of-the-fault")
            case "tools/call", {"name": "mute"}:
                return None
            case "tools/call", params:
                result = {"content": [{"type": "text", "text": params["arguments"]["text"]}]}
            case _:
                error = {"code": -32601, "message": "Method not found"}
                return msgspec.json.encode({"jsonrpc": "2.0", "id": about.id, "error": error})
        return msgspec.json.encode({"jsonrpc": "2.0", "id": about.id, "result": result})

    async def aclose(self) -> None:
        self.is_closed = True


def open_echoes(plan: ServerPlan, given: Given) -> Transport:
    return InsideTransport(Echoes, given.tasks)
