"""What servers listed last: remembered at once, written soon, and never of another entry than it was learnt under."""

from __future__ import annotations

from pathlib import Path

import anyio

from moltis.config.plan import Plan, ServerPlan, Shown
from moltis.daemon.memories import Memories
from moltis.gateway.api import Known
from moltis.session.handshake import Agreed
from moltis.session.listing import Item

FILES = ServerPlan("files", shown=Shown(command="npx", arg_count=2))
CLOCK = ServerPlan("clock", shown=Shown(command="uvx", arg_count=1))


def listing(*tools: str) -> Known:
    items = tuple(Item(name, b'{"name":"%b"}' % name.encode()) for name in tools)
    return Known(Agreed("legacy", "2025-11-25", {"name": "x"}, {"tools": {}}), tools=items)


class Servers:
    """What each lists now."""

    def __init__(self) -> None:
        self.lists: dict[str, Known] = {}

    def memories(self, folder: Path) -> Memories:
        return Memories(folder, self.lists.get)


async def test_what_was_learnt_is_there_after_a_restart(tmp_path: Path) -> None:
    servers = Servers()
    before = servers.memories(tmp_path / "known")
    servers.lists["files"] = listing("read", "write")
    before.learn(FILES)
    assert before.of(FILES) == listing("read", "write")
    await before.write()
    after = Servers().memories(tmp_path / "known")
    assert after.of(FILES) is None
    await after.load()
    assert after.of(FILES) == listing("read", "write")


async def test_an_entry_that_was_changed_remembers_nothing(tmp_path: Path) -> None:
    servers = Servers()
    memories = servers.memories(tmp_path)
    servers.lists["files"] = listing("read")
    memories.learn(FILES)
    assert memories.of(ServerPlan("files", shown=Shown(command="docker", arg_count=2))) is None


async def test_a_server_that_is_not_ready_teaches_nothing(tmp_path: Path) -> None:
    memories = Servers().memories(tmp_path)
    memories.learn(FILES)
    await memories.write()
    assert memories.of(FILES) is None
    assert list(tmp_path.iterdir()) == []


async def test_what_was_learnt_before_the_disk_was_read_is_newer(tmp_path: Path) -> None:
    servers = Servers()
    old = servers.memories(tmp_path)
    servers.lists["files"] = listing("old")
    old.learn(FILES)
    await old.write()
    new = servers.memories(tmp_path)
    servers.lists["files"] = listing("new")
    new.learn(FILES)
    await new.load()
    assert new.of(FILES) == listing("new")


async def test_a_server_that_is_removed_is_forgotten_on_disk_too(tmp_path: Path) -> None:
    servers = Servers()
    memories = servers.memories(tmp_path)
    for plan in (FILES, CLOCK):
        servers.lists[plan.name] = listing("t")
        memories.learn(plan)
    await memories.write()
    memories.apply(Plan(servers=(CLOCK,)))
    await memories.write()
    after = servers.memories(tmp_path)
    await after.load()
    assert (after.of(FILES), after.of(CLOCK)) == (None, listing("t"))


async def test_it_writes_by_itself_what_it_learns(tmp_path: Path) -> None:
    servers = Servers()
    memories = servers.memories(tmp_path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(memories.run)
        servers.lists["clock"] = listing("now")
        memories.learn(CLOCK)
        with anyio.fail_after(10):
            while not any(tmp_path.iterdir()):  # noqa: ASYNC110 - a thread writes it
                await anyio.sleep(0.01)
        await memories.write()
        tasks.cancel_scope.cancel()
    after = servers.memories(tmp_path)
    await after.load()
    assert after.of(CLOCK) == listing("now")


async def test_a_folder_that_cannot_be_written_costs_no_more_than_the_memory(tmp_path: Path) -> None:
    (tmp_path / "known").write_text("in the way")
    servers = Servers()
    memories = servers.memories(tmp_path / "known")
    servers.lists["files"] = listing("read")
    memories.learn(FILES)
    await memories.load()
    await memories.write()
    assert memories.of(FILES) == listing("read")
