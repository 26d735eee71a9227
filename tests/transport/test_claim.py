"""The claim on the servers of a data dir: it lasts as long as the daemon that took it, or its warden, lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from patience import PATIENCE

from moltis.transport import containment as claim_module
from moltis.transport.containment import Claim, Warden

pytestmark = pytest.mark.e2e


def test_it_is_one_s_own_until_it_is_let_go_of(tmp_path: Path) -> None:
    path = tmp_path / "servers.lock"
    ours, other = Claim(path), Claim(path)
    assert ours.take()
    assert ours.take()
    assert not other.take()
    ours.close()
    assert other.take()
    other.close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_process_that_has_inherited_it_holds_it_when_its_daemon_is_gone(tmp_path: Path) -> None:
    ours, other = Claim(tmp_path / "servers.lock"), Claim(tmp_path / "servers.lock")
    assert ours.take()
    assert ours.descriptor is not None
    words = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    heir = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[ours.descriptor])
    ours.close()
    assert not other.take()
    waited: list[str] = []

    async def wait(name: str) -> None:
        await other.wait()
        waited.append(name)

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(wait, name)
        await anyio.sleep(0.2)
        assert waited == []
        heir.communicate()
        with anyio.fail_after(PATIENCE):
            while len(waited) < 3:  # noqa: ASYNC110
                await anyio.sleep(0.01)
    other.close()


async def test_what_nobody_can_end_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_module, "GIVE_UP_AFTER_SECS", 0.1)
    ours, other = Claim(tmp_path / "servers.lock"), Claim(tmp_path / "servers.lock")
    assert ours.take()
    with anyio.fail_after(PATIENCE):
        await other.wait()
    assert other.take()


@pytest.mark.parametrize("place", ["nowhere/servers.lock", "folder", "link"])
async def test_without_a_file_for_it_nothing_is_waited_for(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    claim = Claim(tmp_path / place)
    assert claim.descriptor is None
    assert claim.take()
    await claim.wait()
    claim.close()
    assert not (tmp_path / "elsewhere").exists()


async def test_the_warden_holds_it_and_no_server_does(tmp_path: Path) -> None:
    path = tmp_path / "servers.lock"
    claim = Claim(path)
    assert claim.take()
    warden = Warden(claim=claim)
    with open(os.devnull, "r+b") as null:
        fd = null.fileno()
        server = await warden.spawn(["sleep", "60"], {"PATH": os.defpath}, None, fd, fd, fd)
    assert warden.pid is not None

    def holds(pid: int) -> bool:
        return any(os.path.realpath(entry) == str(path) for entry in Path(f"/proc/{pid}/fd").iterdir())

    assert holds(warden.pid)
    assert not holds(server.pid)
    claim.close()
    assert not Claim(path).take()
    with anyio.fail_after(PATIENCE):
        await warden.aclose()
    assert Claim(path).take()
