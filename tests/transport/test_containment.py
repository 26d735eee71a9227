"""What the daemon may rely on when it has processes started for it, with a real warden."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
from patience import PATIENCE

from moltis.transport import warden as warden_script
from moltis.transport.containment import Warden
from moltis.transport.spawned import SpawnedProcess, SpawnError, WardenLost
from moltis.transport.warden import Decoder, GroupTree, ProcTree, encode

pytestmark = pytest.mark.e2e

PATH = os.defpath + ":/usr/local/bin"
Run = Callable[..., Coroutine[Any, Any, SpawnedProcess]]


@pytest.fixture
async def warden() -> AsyncIterator[Warden]:
    warden = Warden()
    yield warden
    with anyio.fail_after(PATIENCE):
        await warden.aclose()
    assert warden.pid is None


@pytest.fixture
def run(warden: Warden) -> Run:
    async def run(*argv: str, cwd: str | None = None, out: int | None = None, path: str = PATH) -> SpawnedProcess:
        with open(os.devnull, "r+b") as null:
            fd = null.fileno()
            return await warden.spawn(argv, {"PATH": path}, cwd, fd, fd if out is None else out, fd)

    return run


async def refusal(run: Run, *argv: str, **options: str) -> SpawnError:
    with pytest.raises(SpawnError) as refused:
        await run(*argv, **options)
    return refused.value


async def until(claim: Callable[[], object], secs: float = 5) -> None:
    with anyio.fail_after(secs):
        while not claim():  # noqa: ASYNC110 - the kernel sets no event
            await anyio.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_sixty_at_once_end_with_their_own_codes_though_they_leave_strays(run: Run) -> None:
    wrong: list[tuple[int, int | None]] = []

    async def one(code: int) -> None:
        script = f"(setsid sleep 50 &) ; setsid sleep 50 & exit {code}"
        process = await run("sh", "-c", script)
        if (seen := await process.wait()) != code:
            wrong.append((code, seen))
        await process.wait_gone()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for code in range(60):
                tasks.start_soon(one, code)
    assert wrong == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_a_signal_is_the_exit_code_below_zero(run: Run, number: signal.Signals) -> None:
    process = await run("sh", "-c", f"kill -{number.value} $$")
    assert await process.wait() == -number
    await process.wait_gone()
    assert not process.is_running


async def test_a_child_gets_three_descriptors_its_environment_and_default_signals(warden: Warden) -> None:
    code = (
        "import os, json;"
        "s = dict(l.split(':\\t') for l in open('/proc/self/status').read().splitlines() if ':\\t' in l);"
        "print(json.dumps([sorted(map(int, os.listdir('/proc/self/fd')))[:-1], dict(os.environ), os.getcwd(),"
        "os.getsid(0) == os.getpid(), int(s['SigBlk'], 16), int(s['SigIgn'], 16)]))"
    )
    read, write = os.pipe()
    with open(os.devnull, "r+b") as null:
        env = {"ONE": "1", "EMPTY": "", "LC_ALL": "C.UTF-8", "ODD": "a=b\n\u00e9"}
        argv = [sys.executable, "-I", "-S", "-c", code]
        process = await warden.spawn(argv, env, "/usr", null.fileno(), write, null.fileno())
    os.close(write)
    assert await process.wait() == 0
    with open(read) as out:
        fds, environ, cwd, leads, blocked, ignored = json.load(out)
    assert (fds, environ, cwd, leads, blocked) == ([0, 1, 2], env, "/usr", True, 0)
    python_ignores = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert ignored & ~python_ignores == 0


CLOSED = "it is not executable, or a folder on the way is closed"
UNFIT = "no command, a NUL in a word, or an '=' in a variable's name"
REFUSALS = {
    "not in PATH": (["no-such"], "", errno.ENOENT, f"command not found: no-such (looked in PATH {PATH})"),
    "no such file": (["HERE/nothing"], "", errno.ENOENT, "no such program: HERE/nothing"),
    "below a file": (["HERE/plain/x"], "", errno.ENOTDIR, "cannot run HERE/plain/x: Not a directory"),
    "a folder": (["HERE"], "", errno.EACCES, f"not permitted to run HERE: {CLOSED}"),
    "not executable": (["HERE/plain"], "", errno.EACCES, f"not permitted to run HERE/plain: {CLOSED}"),
    "bad shebang": (
        ["HERE/lost"],
        "",
        errno.ENOENT,
        "cannot run HERE/lost: its interpreter /no/such cannot be run: No such file or directory",
    ),
    "no shebang": (
        ["HERE/prose"],
        "",
        errno.ENOEXEC,
        "cannot run HERE/prose: not a program, and no script with a #! line",
    ),
    "no folder": (["sh"], "HERE/gone", errno.ENOENT, "cannot enter the folder HERE/gone: No such file or directory"),
    "folder is a file": (["sh"], "HERE/plain", errno.ENOTDIR, "cannot enter the folder HERE/plain: Not a directory"),
    "no command": ([""], "", errno.EINVAL, f"cannot start a process: {UNFIT}"),
    "NUL": (["sh", "a\0b"], "", errno.EINVAL, f"cannot start a process: {UNFIT}"),
}


@pytest.mark.parametrize(("argv", "cwd", "number", "words"), REFUSALS.values(), ids=REFUSALS)
async def test_what_cannot_be_started_is_told_in_words(
    run: Run, tmp_path: Path, argv: list[str], cwd: str, number: int, words: str
) -> None:
    for name, text, mode in (("plain", "", 0o644), ("lost", "#!/no/such -x\n", 0o755), ("prose", "Hello.\n", 0o755)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    here = str(tmp_path)
    error = await refusal(run, *(word.replace("HERE", here) for word in argv), cwd=cwd.replace("HERE", here))
    assert (error.errno, error.message.replace(here, "HERE")) == (number, words)


async def test_a_command_is_looked_up_in_the_childs_path_from_its_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "bin" / "tool").chmod(0o755)
    process = await run("tool", cwd=str(tmp_path), path="/nowhere:bin")
    assert await process.wait() == 7
    process = await run("./bin/tool", cwd=str(tmp_path))
    assert await process.wait() == 7


async def test_one_that_cannot_start_does_not_hold_up_the_others(run: Run) -> None:
    failed: list[SpawnError] = []

    async def one(n: int) -> None:
        if n % 2:
            failed.append(await refusal(run, "no-such-command"))
        else:
            process = await run("true")
            assert await process.wait() == 0

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for n in range(50):
                tasks.start_soon(one, n)
    assert len(failed) == 25


async def test_a_cancelled_start_leaves_nothing(warden: Warden, run: Run) -> None:
    await (await run("true")).wait_gone()
    assert warden.pid is not None
    os.kill(warden.pid, signal.SIGSTOP)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, "sleep", "50")
            await anyio.sleep(0.01)
            os.kill(warden.pid, signal.SIGCONT)
            tasks.cancel_scope.cancel()
    await (await run("true")).wait_gone()
    assert ProcTree().children(warden.pid) == []


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are handed on by Linux only")
async def test_a_stopped_warden_is_found_out_and_replaced(
    warden: Warden, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moltis.transport.containment.ANSWER_SECS", 0.3)
    monkeypatch.setattr("moltis.transport.containment.SECOND_CHANCE_SECS", 0.1)
    server = await run("sh", "-c", "setsid sleep 50 & wait")
    await (await run("true")).wait_gone()
    first = warden.pid
    assert first is not None
    (grandchild,) = ProcTree().children(server.pid)
    os.kill(first, signal.SIGSTOP)
    with anyio.fail_after(PATIENCE):
        with pytest.raises(WardenLost):
            await run("true")
        await server.wait_gone()
    assert server.is_lost
    assert (server.exit_code, warden.deaths) == (-signal.SIGKILL, 1)
    assert not is_alive(grandchild)
    assert await (await run("sh", "-c", "exit 5")).wait() == 5
    assert warden.pid != first


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are handed on by Linux only")
async def test_a_warden_killed_with_both_directions_full_is_replaced(warden: Warden, run: Run) -> None:
    process = await run("sleep", "50")
    assert warden.pid is not None
    os.kill(warden.pid, signal.SIGSTOP)
    assert warden._link is not None
    warden._link.send(encode(b"P", 0) * 200_000)  # more than the socket takes, and each is answered
    os.kill(warden.pid, signal.SIGCONT)
    await anyio.sleep(0.01)
    os.kill(warden.pid, signal.SIGKILL)
    with anyio.fail_after(PATIENCE):
        await process.wait_gone()
        assert process.is_lost
        again = await run("sh", "-c", "exit 3")
        assert await again.wait() == 3


@pytest.mark.parametrize("knows_pidfds", [True, False])
async def test_a_dead_warden_is_noticed_though_its_link_says_nothing(
    warden: Warden, run: Run, monkeypatch: pytest.MonkeyPatch, knows_pidfds: bool
) -> None:
    """As when the loop does not tell of the end of a socket."""
    monkeypatch.setattr("moltis.transport.containment.HEARTBEAT_SECS", 0.05)
    monkeypatch.setattr("moltis.transport.wire.buffers.Inbox._end", lambda *_: None)
    if not knows_pidfds:
        monkeypatch.setattr("moltis.transport.containment.watch_pidfd", lambda *_: None)
    process = await run("sleep", "50")
    assert warden.pid is not None
    os.kill(warden.pid, signal.SIGKILL)
    with anyio.fail_after(PATIENCE):
        await process.wait_gone()
        assert process.is_lost
        again = await run("sh", "-c", "exit 3")
        assert await again.wait() == 3
        await warden.aclose()  # this warden is not heard of either


async def test_a_sweep_spares_what_is_not_a_servers(warden: Warden, run: Run) -> None:
    """A browser opened for a login is adopted by the daemon when its launcher exits."""
    server = await run("sleep", "50")
    with warden.own_spawn() as mine:
        own = subprocess.Popen(["sleep", "50"])
        mine(own.pid)
    launcher = subprocess.Popen(["sh", "-c", "setsid sleep 50 >&- & echo $!"], stdout=subprocess.PIPE, text=True)
    warden.register_own(launcher.pid)
    browser = int(launcher.communicate()[0])
    warden.unregister_own(launcher.pid)
    assert warden.pid is not None
    os.kill(warden.pid, signal.SIGKILL)
    with anyio.fail_after(PATIENCE):
        await server.wait_gone()
    assert own.poll() is None
    assert is_alive(browser)
    own.kill()
    own.wait()
    os.kill(browser, signal.SIGKILL)
    os.waitpid(browser, 0)


async def test_a_warden_short_of_descriptors_fails_that_start_only(warden: Warden, run: Run) -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("another process's limits can be set on Linux only")
    await (await run("true")).wait_gone()
    assert warden.pid is not None
    limits = resource.prlimit(warden.pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{warden.pid}/fd"))
    for spare in range(5):
        resource.prlimit(warden.pid, resource.RLIMIT_NOFILE, (used + spare, limits[1]))
        if spare < 4:
            error = await refusal(run, "true")
            assert (error.errno, error.message) == (errno.EMFILE, "cannot start a process: Too many open files")
    resource.prlimit(warden.pid, resource.RLIMIT_NOFILE, limits)
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(run, "true")
    assert warden.deaths == 0


async def test_a_terminated_tree_gets_a_chance_and_a_killed_one_does_not(run: Run) -> None:
    polite = await run("sh", "-c", "trap 'exit 9' TERM; sleep 50 & wait")
    await anyio.sleep(0.05)
    polite.term()
    assert await polite.wait() == 9
    rude = await run("sh", "-c", "trap '' TERM; sleep 50 & wait")
    rude.kill()
    assert await rude.wait() == -signal.SIGKILL
    with anyio.fail_after(PATIENCE):
        await polite.wait_gone()
        await rude.wait_gone()
    rude.kill()


async def test_closing_ends_everything_and_starts_nothing_more(warden: Warden, run: Run) -> None:
    servers = [await run("sh", "-c", "trap '' TERM; setsid sleep 50 & wait") for _ in range(3)]
    with anyio.fail_after(PATIENCE):
        await warden.aclose()
        for server in servers:
            await server.wait_gone()
    assert (await refusal(run, "true")).errno == errno.ESHUTDOWN


async def test_a_message_of_some_megabytes_is_passed_on(run: Run) -> None:
    many = ["x" * 100_000] * 12
    process = await run("sh", "-c", "exit $#", "sh", *many)
    assert await process.wait() == 12


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_are_read_whatever_their_chunks(size: int) -> None:
    stream = encode(b"S", 7, b"a", b"", b"c") + encode(b"P", 2**63) + encode(b"g", 1, b"0")
    decoder = Decoder()
    found = [m for at in range(0, len(stream), size) for m in decoder.feed(stream[at : at + size])]
    assert found == [(b"S", 7, [b"a", b"", b"c"]), (b"P", 2**63, [b""]), (b"g", 1, [b"0"])]


@pytest.mark.parametrize("garbage", [b"\0" * 64, b"\xff" * 64, (8).to_bytes(4, "little")])
def test_a_stream_that_is_not_ours_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        Decoder().feed(garbage)


@pytest.mark.parametrize("size", [1, 5, 70_000])
def test_a_message_that_is_too_long_is_read_past_and_not_kept(size: int) -> None:
    length = warden_script.MAX_MESSAGE_BYTES + 1 if size > 5 else warden_script.MAX_MESSAGE_BYTES + 65_536
    long = length.to_bytes(4, "little") + b"S" + (7).to_bytes(8, "little")
    decoder, found, held = Decoder(), [], 0
    for at in range(0, len(long), size):
        found += decoder.feed(long[at : at + size])
    left = length - 9
    while left:
        part = min(left, 65_536)
        found += decoder.feed(bytes(part))
        held = max(held, len(decoder._held))
        left -= part
    assert found + decoder.feed(encode(b"P", 8)) == [(b"S", 7, []), (b"P", 8, [b""])]
    assert held <= 65_536


def test_nothing_is_encoded_that_the_other_side_would_not_take() -> None:
    room = warden_script.MAX_MESSAGE_BYTES - 9
    assert len(Decoder().feed(encode(b"S", 1, b"x" * (room - 2), b"y"))) == 1
    with pytest.raises(ValueError, match="bytes"):
        encode(b"S", 1, b"x" * (room - 1), b"y")


async def test_one_that_is_too_large_to_start_costs_its_own_start_only(warden: Warden, run: Run) -> None:
    neighbour = await run("sleep", "50")
    before = warden.pid
    for argv in (["x" * 100_000] * 100, ["x" * 131_072], ["x" * 100_000] * 70):
        refused = await refusal(run, "true", *argv)
        assert (refused.errno, os.strerror(errno.E2BIG) in refused.message) == (errno.E2BIG, True)
    process = await run("sh", "-c", "exit ${#1}", "sh", "x" * 131_071)  # what expanding allows, the kernel takes
    assert await process.wait() == 131_071 % 256
    assert neighbour.is_running
    assert (warden.pid, warden.deaths) == (before, 0)


def alone() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    argv = [sys.executable, "-I", "-S", warden_script.__file__, str(theirs.fileno())]
    process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
    theirs.close()
    return process, ours


def ask(link: socket.socket, *messages: bytes) -> list[tuple[bytes, int, list[bytes]]]:
    """Send messages and a ping, and give what is answered before the ping is."""
    decoder, answers = Decoder(), []
    link.sendall(b"".join(messages) + encode(b"P", 99))
    while (b"p", 99, [b""]) not in answers:
        answers += decoder.feed(link.recv(65536))
    return answers[:-1]


def test_the_warden_survives_messages_that_make_no_sense() -> None:
    process, link = alone()
    with link:
        nonsense = [b"?", b"T", b"K", b"s", b"\0"]
        assert ask(link, *(encode(letter, 1, b"x") for letter in nonsense)) == []
        for fields in ([b""], [b"/", b"x"], [b"/", b"1", b"sh", b"no-equals-sign"]):
            ((letter, number, _why),) = ask(link, encode(b"S", 5, *fields))
            assert (letter, number) == (b"f", 5)
        too_long = warden_script.MAX_MESSAGE_BYTES + 1
        head = too_long.to_bytes(4, "little") + b"S" + (6).to_bytes(8, "little")
        answers = ask(link, head + bytes(too_long - 9))
        assert [(letter, number, int(why[0])) for letter, number, why in answers] == [(b"f", 6, errno.E2BIG)]
        assert process.poll() is None
        link.sendall(b"\xff" * 100)
        assert link.recv(10) == b""
    assert process.wait(PATIENCE) == 0


def test_the_warden_is_not_ended_by_the_signals_a_terminal_or_a_service_manager_sends() -> None:
    process, link = alone()
    with link:
        assert ask(link) == []
        assert os.getsid(process.pid) == process.pid
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1):
            os.kill(process.pid, number)
        assert ask(link) == []
    assert process.wait(PATIENCE) == 0


def test_a_tree_is_found_with_and_without_the_kernels_children_files() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 50 & echo; wait"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        quick, thorough = ProcTree(), ProcTree()
        thorough._has_children_files = False
        assert quick.tree(process.pid) == thorough.tree(process.pid)
        assert thorough.children(process.pid) == thorough.tree(process.pid)[1:]
        assert len(thorough.tree(process.pid)) == 2
        thorough.signal(process.pid, signal.SIGKILL)


def test_a_deep_tree_is_walked_once_though_it_moves_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking whether a process was met already must not look through all that were."""
    compared = 0

    class Pid(int):
        __hash__ = int.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return int(self) == other

    tree = ProcTree()
    tree._has_children_files = True
    monkeypatch.setattr(tree, "_listed", lambda pid: [Pid(pid + 1), Pid(max(1, pid - 1))] if pid < 3000 else [])
    assert tree.tree(1) == list(range(1, 3001))
    assert compared < 100_000  # each with each: some 4,500,000


async def test_where_there_is_no_proc_a_process_group_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What macOS gets: the group, and no more."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        theirs.setblocking(False)
        ours.close()
        warden_script.Warden(theirs, GroupTree()).run()
        os._exit(0)
    theirs.close()
    ours.settimeout(PATIENCE)
    with ours, open(os.devnull, "r+b") as null:
        fds = [null.fileno()] * 3
        message = encode(b"S", 1, b"/", b"3", b"sh", b"-c", b"sleep 50 & exit 4", b"PATH=" + PATH.encode())
        socket.send_fds(ours, [message], fds)
        decoder = Decoder()
        answers: list[tuple[bytes, int, list[bytes]]] = []
        while not answers or answers[-1][0] != b"g":
            answers += decoder.feed(ours.recv(65536))
    assert [(letter, number) for letter, number, _ in answers] == [(b"s", 1), (b"x", 1), (b"g", 1)]
    assert [fields for _, _, fields in answers[1:]] == [[b"4"], [b"0"]]
    group = int(answers[0][2][0])
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    await until(lambda: os.waitpid(pid, os.WNOHANG)[0])
