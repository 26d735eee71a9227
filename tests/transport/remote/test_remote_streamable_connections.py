"""One fault of the network costs one call: the connections that lay idle beside the dead one are not tried in turn."""

from __future__ import annotations

import anyio
import pytest
from scripted_remote import MODERN, McpServer, Peer, Script, dialled, serving

from moltis.errors import ServerNotReady

pytestmark = pytest.mark.anyio

POOLED = 8


class Dying(McpServer):
    """Every connection that was open when it was told so is dead from then on, in one of two ways. New ones are fine.

    runs: calls that were run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dead: set[int] = set()
        self.known: dict[int, object] = {}
        """The streams by their identity, which is theirs alone for as long as they are kept here."""
        self.silent = False
        self.runs = 0
        self.lost: list[str] = []
        fallback, initialize = self._fallback, self.on["initialize"]
        self.on["initialize"] = self._through(initialize)
        for rpc in ("tools/call", "ping", "notifications/initialized", "notifications/cancelled"):
            self.on[rpc] = self._through(fallback)

    def die(self, *, silent: bool) -> None:
        self.dead, self.silent = set(self.known), silent

    def _through(self, script: Script) -> Script:
        async def serve(peer: Peer) -> None:
            self.known[id(peer.stream)] = peer.stream
            if id(peer.stream) in self.dead:
                self.lost.append(peer.request.rpc)
                if self.silent:
                    peer.hang_up()
                    await peer.gone()
                else:
                    peer.reset()
                return
            if peer.request.rpc == "tools/call":
                self.runs += 1
                await anyio.sleep(0.6)
            await script(peer)

        return serve


async def _fill(dial) -> None:  # type: ignore[no-untyped-def]
    ids = [dial.send("tools/call") for _ in range(POOLED)]
    for id in ids:
        assert isinstance(await dial.outcome(id), dict)


async def test_connections_that_are_reset_when_they_are_used_again_cost_one_call() -> None:
    async with serving(Dying()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await _fill(dial)
        assert server.connections >= POOLED
        server.die(silent=False)
        outcomes = [await dial.ask("tools/call") for _ in range(16)]
        assert isinstance(outcomes[0], ServerNotReady)
        assert "not sent again" in outcomes[0].message
        assert all(isinstance(outcome, dict) for outcome in outcomes[1:])
        assert server.runs == POOLED + 15
        assert server.lost == ["tools/call"]


async def test_calls_that_run_while_the_idle_connections_are_closed_go_on() -> None:
    async with serving(Dying()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await _fill(dial)
        server.die(silent=False)
        first = dial.send("tools/call")
        assert isinstance(await dial.outcome(first), ServerNotReady)
        ids = [dial.send("tools/call") for _ in range(POOLED)]
        await anyio.sleep(0.1)
        server.dead.clear()
        dial.connection._exchange.suspect()  # type: ignore[attr-defined]
        assert isinstance(await dial.ask("ping"), dict)
        for id in ids:
            assert isinstance(await dial.outcome(id), dict)
        assert server.runs == 2 * POOLED


@pytest.mark.parametrize("version", ["2025-11-25", MODERN])
async def test_connections_that_are_silent_cost_one_call_and_no_cancel(version: str) -> None:
    server = Dying()
    server.stateful = version != MODERN
    async with serving(server), dialled(server.url) as dial:
        await dial.shake_hands(version)
        await _fill(dial)
        server.die(silent=True)
        id = dial.send("tools/call")
        await anyio.sleep(2)
        dial.tell("notifications/cancelled", cancels=id)
        for _ in range(POOLED):
            assert isinstance(await dial.ask("tools/call"), dict)
        assert server.lost == ["tools/call"]
        assert server.runs == 2 * POOLED
        assert server.count("notifications/cancelled") == (version != MODERN)


async def test_a_heartbeat_after_one_that_was_not_answered_goes_by_a_new_connection() -> None:
    async with serving(Dying()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await _fill(dial)
        server.die(silent=True)
        dial.send("ping")
        await anyio.sleep(5)
        assert isinstance(await dial.ask("ping"), dict)
        assert isinstance(await dial.ask("tools/call"), dict)
        assert server.lost == ["ping"]


async def test_connections_that_are_well_are_used_again() -> None:
    async with serving(Dying()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await _fill(dial)
        opened = server.connections
        for _ in range(POOLED):
            await dial.ask("tools/call")
        assert server.connections == opened
