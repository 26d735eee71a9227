from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from moltis.config.expansion import Base
from moltis.config.load import plan_entry
from moltis.config.plan import Plan, ServerPlan
from moltis.daemon.eras import Eras
from moltis.session.handshake import Lesson

pytestmark = pytest.mark.anyio

ENTRY: dict[str, Any] = {"command": "srv", "args": ["--key", "$KEY"], "env": {"A": "1"}, "cwd": "/srv"}
WEB: dict[str, Any] = {"transport": "streamable-http", "url": "https://mcp.example.com/mcp?k=$KEY"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def planned(entry: dict[str, Any], key: str = "secret-one", name: str = "x") -> ServerPlan:
    return plan_entry(name, entry, Base({"KEY": key}, {}, {})).server


async def taught(folder: Path, plan: ServerPlan, lesson: Lesson = Lesson.MODERN) -> Eras:
    eras = Eras(folder)
    eras.of(plan).learn(lesson, "name 1")
    await eras.write()
    return eras


@pytest.mark.parametrize("entry", [ENTRY, WEB], ids=["stdio", "http"])
async def test_a_lesson_is_there_for_the_next_daemon(tmp_path: Path, entry: dict[str, Any]) -> None:
    await taught(tmp_path / "known", planned(entry))
    memory = Eras(tmp_path / "known").of(planned(entry))
    assert (memory.lesson, memory.server) == (Lesson.MODERN, "name 1")
    assert os.stat(tmp_path / "known").st_mode & 0o777 == 0o700
    assert os.stat(tmp_path / "known" / "x.era").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change", [{"command": "other"}, {"args": ["--key"]}, {"args": ["--kez", "$KEY"]}, {"cwd": "/else"}], ids=str
)
async def test_another_launch_is_another_server(tmp_path: Path, change: dict[str, Any]) -> None:
    eras = await taught(tmp_path, planned(ENTRY))
    for known in (eras, Eras(tmp_path)):
        assert known.of(planned({**ENTRY, **change})).lesson is Lesson.NONE


async def test_another_url_is_another_server(tmp_path: Path) -> None:
    await taught(tmp_path, planned(WEB))
    assert Eras(tmp_path).of(planned({**WEB, "url": "https://mcp.example.com/mcp2"})).lesson is Lesson.NONE


@pytest.mark.parametrize(
    "change", [{"env": {"A": "2"}}, {"env": {}}, {"enabled": False}, {"request_timeout_secs": 5.0}], ids=str
)
async def test_what_does_not_change_the_launch_keeps_the_lesson(tmp_path: Path, change: dict[str, Any]) -> None:
    eras = await taught(tmp_path, planned(ENTRY))
    for known in (eras, Eras(tmp_path)):
        assert known.of(planned({**ENTRY, **change})).lesson is Lesson.MODERN
    assert Eras(tmp_path).of(planned(ENTRY, key="secret-two")).lesson is Lesson.MODERN


async def test_the_mark_says_nothing_of_a_placeholders_value() -> None:
    assert planned(ENTRY, key="a-secret-1").launch_mark == planned(ENTRY, key="a-secret-2").launch_mark


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"format":1,"mark":"MARK","lesson":"mod',
        b'{"format":2,"mark":"MARK","lesson":"modern","server":""}',
        b'{"format":1,"mark":"MARK","lesson":"elvish","server":""}',
        b'{"format":1,"mark":"MARK","lesson":["modern"]}',
        b'{"format":1,"mark":"other","lesson":"modern"}',
        b"[]",
        b"\xff\xfe",
        b'{"format":1,"mark":"MARK","lesson":"modern","x":"' + b"x" * 5000 + b'"}',
    ],
    ids=lambda content: str(content[:50]),
)
async def test_a_torn_or_foreign_file_is_no_lesson(tmp_path: Path, content: bytes) -> None:
    plan = planned(ENTRY)
    (tmp_path / "x.era").write_bytes(content.replace(b"MARK", plan.launch_mark.encode()))
    eras = Eras(tmp_path)
    assert eras.of(plan).lesson is Lesson.NONE
    eras.of(plan).learn(Lesson.LEGACY)
    await eras.write()
    assert Eras(tmp_path).of(plan).lesson is Lesson.LEGACY


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "dangling"])
async def test_what_is_no_file_is_no_lesson_and_holds_nothing_up(tmp_path: Path, kind: str) -> None:
    path, plan = tmp_path / "x.era", planned(ENTRY)
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link":
            await taught(tmp_path / "elsewhere", plan)
            path.symlink_to(tmp_path / "elsewhere" / "x.era")
        case _:
            path.symlink_to(tmp_path / "nothing")
    eras = Eras(tmp_path)
    assert eras.of(plan).lesson is Lesson.NONE
    eras.of(plan).learn(Lesson.LEGACY)
    await eras.write()  # whatever becomes of it


async def test_what_is_in_doubt_is_forgotten_on_disk_too(tmp_path: Path) -> None:
    eras = await taught(tmp_path, planned(ENTRY))
    eras.of(planned(ENTRY)).learn(Lesson.NONE)
    await eras.write()
    assert list(tmp_path.iterdir()) == []


async def test_a_removed_server_is_forgotten_whoever_still_runs(tmp_path: Path) -> None:
    eras = await taught(tmp_path, planned(ENTRY))
    still = eras.of(planned(ENTRY))
    eras.retain(Plan())
    still.learn(Lesson.LEGACY)
    await eras.write()
    assert list(tmp_path.iterdir()) == []


async def test_a_run_of_the_launch_before_teaches_nothing_of_the_present_one(tmp_path: Path) -> None:
    eras = Eras(tmp_path)
    before = eras.of(planned(ENTRY))
    now = eras.of(planned({**ENTRY, "command": "other"}))
    before.learn(Lesson.MODERN)
    await eras.write()
    assert now.lesson is Lesson.NONE
    assert Eras(tmp_path).of(planned({**ENTRY, "command": "other"})).lesson is Lesson.NONE
