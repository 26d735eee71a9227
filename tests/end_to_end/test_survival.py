"""Nothing of moltis's own ends the daemon: bad files and full systems are told, and the servers run on."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Daemon, RpcError, wait_until


def to_a_bad_disk(daemon: Daemon) -> None:
    daemon.config.unlink()
    daemon.config.symlink_to("/proc/self/mem")  # a regular file whose read(2) says EIO


def to_a_folder(daemon: Daemon) -> None:
    daemon.config.unlink()
    daemon.config.mkdir()


def to_a_fifo(daemon: Daemon) -> None:
    daemon.config.unlink()
    os.mkfifo(daemon.config)


def to_nothing(daemon: Daemon) -> None:
    daemon.config.unlink()


def to_no_text(daemon: Daemon) -> None:
    daemon.config.write_bytes(b"\xff\xfe\x00")


CHANGES: list[Callable[[Daemon], None]] = [to_a_bad_disk, to_a_folder, to_a_fifo, to_nothing, to_no_text]


@pytest.mark.parametrize("change", CHANGES)
def test_a_configuration_that_cannot_be_read_any_more_leaves_everything_as_it_was(
    daemon: Daemon, change: Callable[[Daemon], None]
) -> None:
    daemon.write({"a": daemon.evil()})
    daemon.start().wait_all("ready")
    pid = daemon.rpc("mcp.status", name="a")["pid"]
    change(daemon)
    daemon.signal(signal.SIGHUP)
    wait_until("the log tells", lambda: "reload_failed" in daemon.log.read_text(), tell=daemon.said)
    time.sleep(1.2)  # the watch has looked too
    with pytest.raises(RpcError) as refused:
        daemon.rpc("daemon.reload")
    assert refused.value.code == -32008
    assert daemon.rpc("mcp.status", name="a")["pid"] == pid
    assert daemon.stop() == 0


def test_a_reload_that_hangs_holds_up_no_end(daemon: Daemon) -> None:
    """As on a file system that does not answer: every reader of moltis.toml waits for ever."""
    site = daemon.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, time\n"
        "real = os.open\n"
        "def slow(path, *rest, **more):\n"
        f"    while str(path).endswith('moltis.toml') and os.path.exists({str(daemon.folder / 'hang')!r}):\n"
        f"        real({str(daemon.folder / 'hung')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "        time.sleep(1000)\n"
        "    return real(path, *rest, **more)\n"
        "os.open = slow\n"
    )
    daemon.env["PYTHONPATH"] = str(site)
    daemon.write({"a": daemon.evil()})
    daemon.start().wait_all("ready")
    (daemon.folder / "hang").touch()
    daemon.signal(signal.SIGHUP)
    wait_until("the reload hangs", (daemon.folder / "hung").exists)
    assert daemon.rpc("daemon.status")["servers"]["ready"] == 1
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0
    daemon.assert_nothing_left()


def refused(daemon: Daemon) -> tuple[int, str]:
    process = daemon.spawn()
    code = process.wait(20)
    daemon.assert_nothing_left()
    return code, daemon.said()


def test_a_socket_that_is_in_use_is_said_before_any_server_is_started(daemon: Daemon) -> None:
    daemon.write({"a": daemon.evil(events="seen")})
    place = daemon.folder / "other.sock"
    daemon.env["MOLTIS_SOCKET"] = str(place)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place))
        other.listen()
        code, said = refused(daemon)
    assert (code, "another daemon" in said, "Traceback" in said, "fault" in said) == (1, True, False, False), said
    assert not (daemon.folder / "seen").exists()


def test_a_file_in_the_sockets_place_is_left_alone(daemon: Daemon) -> None:
    daemon.write({"a": daemon.evil()})
    place = daemon.folder / "other.sock"
    place.write_text("mine")
    daemon.env["MOLTIS_SOCKET"] = str(place)
    code, said = refused(daemon)
    assert (code, "in the way" in said, "fault" in said) == (1, True, False), said
    assert place.read_text() == "mine"


def test_a_sockets_folder_that_others_can_write_to_is_not_permitted(daemon: Daemon) -> None:
    daemon.write({"a": daemon.evil()})
    folder = daemon.folder / "open"
    folder.mkdir()
    folder.chmod(0o777)
    daemon.env["MOLTIS_SOCKET"] = str(folder / "s")
    code, said = refused(daemon)
    assert (code, "others can write" in said) == (5, True), said


def test_a_sockets_path_that_is_too_long_is_a_usage_error(daemon: Daemon) -> None:
    daemon.write({"a": daemon.evil()})
    daemon.env["MOLTIS_SOCKET"] = str(Path("/tmp") / ("x" * 120))
    code, said = refused(daemon)
    assert (code, "path has" in said) == (2, True), said
