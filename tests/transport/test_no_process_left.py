"""Whoever dies, and however, no process that a server started survives (Linux). Each death meets every sort of tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="other systems have no subreapers; the README says so"),
]

DRIVER = Path(__file__).with_name("tree_driver.py")
NOBODY = 65534
TREES = 9

DEATHS = {
    "stop": {("exited", 0), ("exited", -signal.SIGTERM), ("exited", -signal.SIGKILL)},
    "kill": {("exited", -signal.SIGKILL)},
    "leader": {("exited", -signal.SIGKILL)},
    "grandchild": {("exited", 0), ("exited", -signal.SIGTERM), ("exited", -signal.SIGKILL)},
    "frozen": {("exited", -signal.SIGTERM), ("exited", -signal.SIGKILL)},
    "warden": {("warden_lost", -signal.SIGKILL)},
}


def marked(mark: str) -> list[int]:
    """Give the living processes that carry the mark as an argument."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def left_after_a_while(mark: str) -> list[int]:
    deadline = time.monotonic() + PATIENCE
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def as_nobody() -> list[str]:
    """Give what runs a program without root's rights, but for reading: this interpreter may lie in root's home."""
    if os.getuid() != 0:
        return []
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *may_read]


@contextmanager
def driver(death: str, mark: str, loop: str = "uvloop", become: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*become, sys.executable, str(DRIVER), death],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=os.environ | {"MARK": mark, "LOOP": loop},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def grown(process: subprocess.Popen[str], mark: str) -> list[int]:
    assert process.stdout is not None
    word, _, pids = process.stdout.readline().partition(" ")
    assert word == "up"
    assert len(marked(mark)) == 2 * TREES
    return list(json.loads(pids))


def check(death: str, loop: str = "uvloop", become: Sequence[str] = ()) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    with driver(death, mark, loop, become) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        pids = grown(process, mark)
        process.stdin.write("go\n")
        process.stdin.flush()
        ends = {(kind, code) for kind, code, _message in json.loads(process.stdout.readline())}
        assert ends == DEATHS[death]
        assert process.stdout.readline() == "again\n"
        assert set(marked(mark)).isdisjoint(pids), "wait_closed returned before all was gone"
        assert len(marked(mark)) == 2
        process.stdin.close()
        assert process.stdout.readline() == "exited\n"
        assert left_after_a_while(mark) == []
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("death", sorted(DEATHS))
def test_nothing_is_left_and_the_next_server_starts(death: str, loop: str) -> None:
    check(death, loop)


def test_kill_9_of_the_daemon_leaves_nothing() -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    with driver("daemon", mark) as process:
        *_, warden = grown(process, mark)
        process.kill()
        assert left_after_a_while(mark) == []
        deadline = time.monotonic() + PATIENCE
        while Path(f"/proc/{warden}/exe").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{warden}/exe").exists()


@pytest.mark.parametrize("death", sorted(DEATHS))
def test_it_takes_no_root(death: str) -> None:
    check(death, become=as_nobody())


def test_kill_9_of_a_daemon_without_root_leaves_nothing() -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    with driver("daemon", mark, become=as_nobody()) as process:
        grown(process, mark)
        process.kill()
        assert left_after_a_while(mark) == []
