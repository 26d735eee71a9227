"""What is said of a start while it lasts."""

from __future__ import annotations

import math
from datetime import timedelta

import anyio
import pytest
from scripted_life import EPOCH, MUTE, PLAN, Script, World

from moltis.cli.phrases import status_text
from moltis.config.plan import ServerPlan, Shown
from moltis.server.lifecycle import Lifecycle, Run
from moltis.server.mending import commands
from moltis.server.slots import StartSlots
from moltis.server.states import State
from moltis.server.status import LastError, ServerStatus
from moltis.server.story import tell
from moltis.server.working import start_in_words


def words(command: str, *, spoken: bool = False, worked_at: float | None = 35.0) -> str | None:
    life = Lifecycle(state=State.INITIALIZING, run=Run(admitted_at=0.0, worked_at=worked_at))
    return start_in_words(ServerPlan(name="x", shown=Shown(command=command)), life, 35.0, spoken=spoken)


@pytest.mark.parametrize("command", ["npx", "/usr/bin/npx", "uvx"])
def test_what_may_have_to_be_installed_first_is_said_to_be_installing_until_it_speaks(command: str) -> None:
    told = words(command)
    assert told is not None
    assert told.startswith("installing (")
    assert told.endswith("), 35 s so far")
    assert words(command, spoken=True) == "working, 35 s so far"


def test_another_program_is_said_to_work_and_one_that_does_not_is_said_to_show_no_sign_of_it() -> None:
    assert words("python") == "working, 35 s so far"
    assert words("npx", worked_at=5.0) == "no sign of work for 30 s"
    assert words("npx", worked_at=None) == "no sign of work for 35 s"


async def test_who_waits_for_its_turn_says_so_in_the_status() -> None:
    slots = StartSlots(1, quiet_secs=1000)
    await slots.acquire()
    world = World([MUTE], slots=slots)
    async with world.running() as actor:
        await anyio.sleep(12)
        assert actor.status().progress == "waiting for its turn, 12 s so far"


async def test_a_start_that_lasts_is_told_in_status_and_why_and_a_short_one_is_not() -> None:
    world = World([Script(ready_after=math.inf, works_until=100)], plan=PLAN)
    async with world.running() as actor:
        await anyio.sleep(1)
        assert actor.status().progress is None
        await anyio.sleep(19)
        status = actor.status()
        assert status.progress is not None
        now = EPOCH + timedelta(seconds=20)
        shown = {"state": status.state, "progress": status.progress}
        assert status_text(shown, now) == f"initializing, {status.progress}"
        assert f"({status.progress})" in tell(status, actor.history(), now)[0]


def test_what_ended_a_start_that_worked_to_the_last_is_the_cap_and_that_is_what_to_raise() -> None:
    late = "its MCP handshake or first listing was not done within startup_timeout_max_secs (600 s)"
    message = f"{late}, though it was working to the last"
    error = LastError(kind="startup_timeout", message=message, at="2026-11-20T12:00:00.000Z")
    status = ServerStatus(
        name="x", display_name=None, transport="stdio", enabled=True, state="backoff", status="error", last_error=error
    )
    assert any(line.startswith("startup_timeout_max_secs = 3000 in [mcp.servers.x]") for line in commands(status))
