"""Opening the address of a login: what is started, with what, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import psutil
import pytest
from patience import PATIENCE

from moltis.oauth import browser
from moltis.oauth.browser import open_browser
from moltis.redaction import Scrubber
from moltis.transport.containment import Warden

URL = "https://as.example/authorize?client_id=a&state=b"


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Children:
    """Takes note of what is started and of what has been reaped, as the warden does."""

    def __init__(self) -> None:
        self.begun = 0
        self.pids: list[int] = []
        self.reaped: list[int] = []
        self.changed = anyio.Event()

    @contextmanager
    def own_spawn(self) -> Iterator[Callable[[int], None]]:
        self.begun += 1
        yield self.pids.append

    def unregister_own(self, pid: int) -> None:
        self.reaped.append(pid)
        self.changed.set()


class Recorder:
    """A browser that writes down what it was started with, and then does as told."""

    SCRIPT = """
import json, os, sys
about = {"argv": sys.argv[2:], "environ": dict(os.environ), "sid": os.getsid(0), "pid": os.getpid(), "cwd": os.getcwd(),
         "fds": [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)], "open": len(os.listdir("/proc/self/fd"))}
with open(sys.argv[1] + ".part", "w") as file:
    json.dump(about, file)
os.rename(sys.argv[1] + ".part", sys.argv[1])
"""

    def __init__(self, folder: Path, then: str = "") -> None:
        self.script = folder / "browser.py"
        self.script.write_text(self.SCRIPT + then)
        self.record = folder / "record.json"
        self.argv = (sys.executable, "-S", str(self.script), str(self.record))

    async def seen(self) -> dict[str, Any]:
        with anyio.fail_after(PATIENCE):
            while not self.record.exists():  # noqa: ASYNC110  # files have no events here
                await anyio.sleep(0.01)
        about: dict[str, Any] = json.loads(self.record.read_text())
        return about


@pytest.fixture
def children() -> Children:
    return Children()


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


async def opened(
    argv: tuple[str, ...], url: str, children: Children, scrub: Callable[[str], str] = lambda text: text
) -> bool:
    """Open, and wait until whatever was started has ended."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            is_open = await open_browser(argv, url, children=children, tasks=tasks, scrub=scrub)
    return is_open


HOSTILE = [
    "",
    " ",
    "-",
    "--new-window",
    "-remote=https://as.example/",
    "--gpu-launcher=/bin/sh",
    "about:blank",
    "as.example/authorize",
    "//as.example/authorize",
    "/etc/passwd",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "ftp://as.example/",
    "ms-settings:",
    "smb://as.example/share",
    "view-source:https://as.example/",
    "http://as.example/authorize",
    "http://192.168.0.1/authorize",
    "http://127.0.0.1.as.example/authorize",
    "http://localhost.as.example/authorize",
    "https://",
    "https:///authorize",
    "https:as.example/authorize",
    "https://user@as.example/",
    "https://user:password@as.example/",
    "https://as.example\\@evil.example/",
    "https://as.example/\\evil",
    "https://as.example/a b",
    " https://as.example/",
    "https://as.example/ ",
    "https://as.example/\n--new-window",
    "https://as.example/\r\nX: y",
    "https://as.example/\tx",
    "https://as.example/\0x",
    "https://as.example/\x1b[2J",
    "https://as.example/\x7f",
    "https://as.ex\u00e4mple/",
    "https://as.example/\u202egnp.exe",
    "https://as.example/\ud800",
    'https://as.example/"x"',
    "https://as.example/`id`",
    "https://as.example/<x>",
    "https://as.example/{x}|y^z",
    "https://as.example:port/",
    "https://as.example:99999/",
    "https://[::1/",
    "https://as.example/#fragment",
    "https://as.example/" + "a" * 10_000,
]


@pytest.mark.parametrize("url", HOSTILE)
async def test_a_strange_address_starts_nothing(url: str, recorder: Recorder, children: Children) -> None:
    assert await opened(recorder.argv, url, children) is False
    assert (children.begun, children.pids) == (0, [])
    assert not recorder.record.exists()


SHELL_FOOD = [
    "https://as.example/$(touch%20PWNED)?a=$(id)",
    "https://as.example/authorize?a=b;touch${IFS}PWNED".replace("{", "%7B").replace("}", "%7D"),
    "https://as.example/authorize?a=b&touch=PWNED&",
    "https://as.example/authorize?a='b'",
    "https://as.example/authorize?a=*&b=?&c=~&d=!!",
    "https://as.example/authorize?a=%24(id)%0a%60id%60%00",
    "https://as.example/%s%d%n?a=%25s",
    "https://as.example/--new-window",
    "http://127.0.0.1:9/authorize?a=b",
    "http://[::1]:9/authorize",
    "http://localhost:9/authorize",
]


@pytest.mark.parametrize("url", SHELL_FOOD)
async def test_an_address_is_one_argument_however_a_shell_would_read_it(
    url: str, recorder: Recorder, children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert await opened((*recorder.argv, "--flag; touch PWNED"), url, children) is True
    assert (await recorder.seen())["argv"] == ["--flag; touch PWNED", url]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["browser.py", "record.json"]


@pytest.mark.parametrize(
    "argv",
    [(), ("/no/such/browser",), ("no-such-browser-anywhere",), ("/etc/passwd",), ("/",), ("a\0b",), ("",)],
    ids=["none", "no such file", "not on the path", "not executable", "a folder", "nul", "empty word"],
)
async def test_a_command_that_cannot_be_started_is_no_error(argv: tuple[str, ...], children: Children) -> None:
    assert await opened(argv, URL, children) is False
    assert children.pids == []


async def test_it_has_a_session_of_its_own_and_nothing_of_the_daemons_terminal_or_files(
    recorder: Recorder, children: Children
) -> None:
    reader, writer = os.pipe()
    stdin = os.dup(0)
    os.set_inheritable(writer, True)
    os.dup2(reader, 0)
    try:
        assert await opened(recorder.argv, URL, children) is True
    finally:
        os.dup2(stdin, 0)
        for fd in (reader, writer, stdin):
            os.close(fd)
    about = await recorder.seen()
    assert about["sid"] == about["pid"] == children.pids[0]
    assert about["fds"] == ["/dev/null"] * 3
    assert about["open"] == 4  # and the folder that it lists


async def test_it_finds_its_display_and_no_secret_in_its_environment(
    recorder: Recorder, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {
        "DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0", "XAUTHORITY": "/run/xauth", "XDG_RUNTIME_DIR": "/run/u",
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/bus", "SSH_AUTH_SOCK": "/run/agent", "LC_TIME": "C", "MOZ_X": "1",
        "KEYBOARD": "de", "WSL_INTEROP": "/run/WSL/1", "https_proxy": "http://proxy.example:8080",
    }  # fmt: skip
    withheld = {
        "GITHUB_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "t", "DB_PASSWORD": "t", "OPENAI_API_KEY": "t", "MY_KEY": "t",
        "MOLTIS_CONFIG": "/x", "NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "LISTEN_FDS": "1",
        "HARMLESS_NAME": "a-value-of-moltis-toml", "DATABASE": "postgres://u:a-value-of-moltis-toml@h/",
    }  # fmt: skip
    for name, value in (kept | withheld).items():
        monkeypatch.setenv(name, value)
    scrub = Scrubber(["a-value-of-moltis-toml", "wayland-0"]).text
    assert await opened(recorder.argv, URL, children, scrub) is True
    environ = (await recorder.seen())["environ"]
    assert {name: environ.get(name) for name in kept} == kept
    assert withheld.keys().isdisjoint(environ)
    assert environ["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    "end",
    ["", "sys.exit(3)", "os.kill(os.getpid(), 11)", "os.close(0); os.close(1); os.close(2)"],
    ids=["at once", "with an error", "by a signal", "with nothing open"],
)
async def test_a_browser_that_ends_leaves_no_zombie(
    end: str, tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "LOOK_SECS", 2 * PATIENCE)
    with anyio.fail_after(PATIENCE):  # the kernel says it at once
        assert await opened(Recorder(tmp_path, end).argv, URL, children) is True
    assert children.reaped == children.pids
    assert not psutil.pid_exists(children.pids[0])


@pytest.mark.alone
async def test_a_browser_that_stays_is_not_waited_for_and_outlives_the_daemons_tasks(
    tmp_path: Path, children: Children
) -> None:
    recorder = Recorder(tmp_path, "import time; time.sleep(600)")
    async with anyio.create_task_group() as tasks:
        begun = time.monotonic()
        assert await open_browser(recorder.argv, URL, children=children, tasks=tasks, scrub=str) is True
        assert time.monotonic() - begun < 5
        pid = (await recorder.seen())["pid"]
        assert children.reaped == []
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(PATIENCE):
            await children.changed.wait()
        assert children.reaped == [pid]

        recorder.record.unlink()
        assert await open_browser(recorder.argv, URL, children=children, tasks=tasks, scrub=str) is True
        pid = (await recorder.seen())["pid"]
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    try:
        assert psutil.Process(pid).is_running()
        assert children.reaped == children.pids[:1]  # it is still known to be ours
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


async def test_where_the_kernel_does_not_tell_it_is_looked_after_now_and_then(
    recorder: Recorder, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(38, "no such system call")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.setattr(browser, "LOOK_SECS", 0.01)
    assert await opened(recorder.argv, URL, children) is True
    assert children.reaped == children.pids


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_the_warden_takes_a_browser_for_its_own_as_long_as_it_runs(tmp_path: Path) -> None:
    """It kills what it does not know once its process has died: a browser must not be among that."""
    warden = Warden()
    warden.start()
    recorder = Recorder(tmp_path, "import time; time.sleep(600)")
    async with anyio.create_task_group() as tasks:
        assert await open_browser(recorder.argv, URL, children=warden, tasks=tasks, scrub=str) is True
        pid = (await recorder.seen())["pid"]
        await warden.aclose()
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        os.kill(pid, signal.SIGKILL)
    assert not psutil.pid_exists(pid)
