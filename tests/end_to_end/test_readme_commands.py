"""The README's two commands, as a person would paste them; what they install is what these tests run on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from harness import ROOT, Daemon, wait_until
from processes import alive

FENCE = re.compile(r"```sh\n(.*?)```", re.S)


def commands() -> list[str]:
    return [block.strip() for block in FENCE.findall((ROOT / "README.md").read_text())[:2]]


def test_both_are_one_line() -> None:
    assert [c.count("\n") for c in commands()] == [0, 0]
    assert all(c.startswith("python3 -m venv .venv && .venv/bin/pip install") for c in commands())
    assert commands()[1].endswith("-m pytest -n auto --dist worksteal")


def test_the_first_ends_with_ready_servers_and_a_tool_called_through_the_daemon(daemon: Daemon) -> None:
    """Everything after the installation, in a copy of the tree, with this installation's `moltis` on PATH."""
    copy = daemon.folder / "clone"
    copy.mkdir()
    shutil.copytree(ROOT / "examples", copy / "examples")
    _, _, after_installation = commands()[0].partition('export PATH="$PWD/.venv/bin:$PATH" && ')
    assert after_installation
    scripts = sysconfig.get_path("scripts")
    places = {"PATH": f"{scripts}:{os.environ['PATH']}", "MOLTIS_DATA_DIR": str(daemon.data_dir)}
    try:
        done = subprocess.run(
            ["sh", "-c", after_installation],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=daemon.env | places,
            cwd=copy,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        rows = [line for line in done.stdout.splitlines() if " ready" in line]
        assert len(rows) >= 2, done.stdout
        assert "Hello, World!" in done.stdout.splitlines()[-1], done.stdout
    finally:
        pid = daemon.rpc("daemon.status")["pid"]
        assert daemon.cli("stop").returncode == 0
    wait_until("the daemon has ended", lambda: not alive(pid))


def test_a_configuration_in_the_current_folder_is_never_read_unless_named(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil(events="ev")})
    done = subprocess.run(
        ["moltis", "status"],
        executable=str(Path(sysconfig.get_path("scripts")) / "moltis"),
        cwd=daemon.folder,
        env=daemon.env | {"MOLTIS_DATA_DIR": str(daemon.data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert str(daemon.config) not in done.stdout + done.stderr
    assert not daemon.events("ev")
