"""Whoever listens at a socket is known before a secret is sent to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moltis.cli.connect import door
from moltis.control import client
from moltis.errors import MoltisError, NotPermitted

NOBODY = 65534

SQUATTER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
listener.listen()
print("up", flush=True)
while True:
    sock, _ = listener.accept()
    print(sock.recv(65536), flush=True)
    sock.close()
"""

Squat = Callable[[Path], "subprocess.Popen[bytes]"]

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")]


@pytest.fixture
def squat() -> Iterator[Squat]:
    """Return a way to have another user listen at a path."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SQUATTER, str(path)]
        squatter = subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/")
        running.append(squatter)
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == b"up\n"
        return squatter

    yield begin
    for squatter in running:
        squatter.kill()
        squatter.communicate()


def passable(folder: Path) -> None:
    for one in (folder, *folder.parents):
        if one != one.parent:
            one.chmod(one.stat().st_mode | 0o011)


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o775])
@pytest.mark.parametrize(
    "speak",
    [
        lambda path: client.connect(path).call("env.set", {"name": "API_KEY", "value": "s3cret"}),
        lambda path: door.Entrance(str(path), {}),
    ],
    ids=["command line", "connect"],
)
def test_nothing_is_said_to_another_user_who_took_the_name_in_a_shared_folder(
    tmp_path: Path, squat: Squat, mode: int, speak: Callable[[Path], object]
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    os.chown(folder, 0, NOBODY)
    passable(tmp_path)
    squatter = squat(folder / "s.sock")
    with pytest.raises(NotPermitted, match=r"belongs to another user \(uid 65534, pid \d+\); nothing was sent"):
        speak(folder / "s.sock")
    assert squatter.stdout is not None
    assert squatter.stdout.readline() == b"b''\n", "it was hung up on without a word"


def test_root_speaks_to_another_users_daemon_in_a_folder_that_is_that_users_alone(tmp_path: Path, squat: Squat) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    passable(tmp_path)
    squatter = squat(folder / "s.sock")
    with client.connect(folder / "s.sock") as daemon, pytest.raises(MoltisError, match="ended the connection"):
        daemon.call("daemon.status")
    assert squatter.stdout is not None
    assert b"daemon.status" in squatter.stdout.readline()


def test_another_user_speaks_to_roots_daemon_and_is_refused_by_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    passable(tmp_path)
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                heard.append(sock.recv(65536))

        thread = threading.Thread(target=answer)
        thread.start()
        code = (
            "import os, sys, pathlib\nfrom moltis.control import client\nos.setgid(65534); os.setuid(65534)\n"
            "client.connect(pathlib.Path(sys.argv[1])).call('daemon.status')"
        )
        subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, timeout=20, check=False)
        thread.join(20)
    assert b"daemon.status" in heard[0]
