"""logs.jsonl: what a line is, that it stays whole, and that nobody is ever kept waiting for it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import resource
import select
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE

from moltis import logs
from moltis.logs import file as log_file
from moltis.logs import sink as log_sink
from moltis.logs.file import LogFile, mend
from moltis.logs.record import MAX_LINE_BYTES, encode, finish, make_record
from moltis.redaction import Scrubber


class Canary(Scrubber):
    """A scrubber that knows one secret."""

    def value(self, obj: Any, /) -> Any:
        if isinstance(obj, str):
            return obj.replace("hunter22", "[REDACTED]")
        if isinstance(obj, dict):
            return {self.value(key): self.value(item) for key, item in obj.items()}
        if isinstance(obj, list):
            return [self.value(item) for item in obj]
        return obj


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "logs.jsonl"


@pytest.fixture(autouse=True)
def _nothing_is_left_configured() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in ("", *logs.QUIET_LIBRARIES)}
    logs._outlet.early.clear()
    yield
    logs.close()
    logs._outlet.early.clear()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def records(path: Path) -> list[dict[str, Any]]:
    """Parse every line; a torn one fails the test."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def messages(path: Path) -> list[str]:
    return [record["message"] for record in records(path)]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def line(text: str) -> bytes:
    return encode(make_record(1, "INFO", "moltis.test", text, {}))


# The record


def test_a_fact_becomes_one_object_with_the_five_promised_keys(path: Path) -> None:
    sink = logs.configure(path)
    before = time.time() * 1000
    logs.get("moltis.mcp.lifecycle").info("server_state_changed", server="files", attempt=2, **{"from": "ready"})
    assert sink.flush()
    (record,) = records(path)
    assert list(record) == ["ts", "level", "target", "message", "fields"]
    assert isinstance(record["ts"], int)
    assert before - 1 <= record["ts"] <= time.time() * 1000
    assert record["level"] == "INFO"
    assert record["target"] == "moltis.mcp.lifecycle"
    assert record["message"] == "server_state_changed"
    assert record["fields"] == {"server": "files", "attempt": 2, "from": "ready"}


def test_bound_fields_are_in_every_record(path: Path) -> None:
    sink = logs.configure(path)
    log = logs.get("moltis.test").bind(server="files")
    log.warning("one")
    log.error("two", server="other")
    assert sink.flush()
    assert [(r["level"], r["fields"]["server"]) for r in records(path)] == [("WARN", "files"), ("ERROR", "other")]


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b]0;owned\x07",
        'x\n{"ts":1,"level":"ERROR","target":"moltis.fake","message":"forged","fields":{}}',
        "a\u2028b\u2029c\x85d\x9b31m",
        "\udc80\udcff lone \ud800 surrogates",
        "\u202egnp.exe\u2066",
        "\x00\r\x0b\x0c\x1c\x7f",
        "\U0001f980 é",
    ],
)
def test_hostile_text_stays_inside_one_ascii_line(hostile: str) -> None:
    made = finish(make_record(1, "INFO", "moltis.mcp.stderr", hostile, {"server": "x", "line": hostile}), None)
    text = made.decode("ascii")
    assert text.splitlines() == [text[:-1]]
    assert all(" " <= char <= "~" for char in text[:-1])
    whole = hostile.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert json.loads(made)["fields"]["line"] == whole


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_any_field_is_one_line_of_json(value: object) -> None:
    made = encode(make_record(1, "INFO", "moltis.test", "fact", {"value": value}))
    assert made.count(b"\n") == 1
    assert made.isascii()
    assert json.loads(made, parse_constant=pytest.fail)["message"] == "fact"


def test_a_record_that_is_too_long_is_cut_and_says_so() -> None:
    made = encode(make_record(1, "INFO", "moltis.mcp.stderr", "line", {"server": "x", "line": "é" * 1_000_000}))
    assert len(made) <= MAX_LINE_BYTES
    assert json.loads(made)["fields"]["line"].endswith("more characters]")

    many = encode(make_record(1, "INFO", "moltis.test", "much", {"server": "x", "all": ["y" * 100] * 10_000}))
    assert json.loads(many)["fields"] == {"server": "x", "cut_bytes": pytest.approx(1_030_000, rel=0.1)}


def test_a_circle_and_a_field_that_cannot_be_shown_do_not_stop_whoever_logs(path: Path) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    circle: list[object] = []
    circle.append(circle)
    sink = logs.configure(path)
    logs.get("moltis.test").info("circle", value=circle)
    logs.get("moltis.test").info("broken", value=Broken())
    assert sink.flush()
    assert messages(path) == ["circle", "broken"]
    assert records(path)[1]["fields"] == {"log_error": "RuntimeError"}


def test_no_secret_is_written_wherever_it_hides(path: Path) -> None:
    class Holder:
        def __str__(self) -> str:
            return "Holder(hunter22)"

    sink = logs.configure(path, scrubber=Canary())
    log = logs.get("moltis.test")
    log.info("hunter22", nested={"list": ["x hunter22"], "hunter22": 1}, holder=Holder(), raw=b"hunter22")
    logging.getLogger("library").warning("token %s", "hunter22")
    try:
        raise ValueError("hunter22") from KeyError("hunter22")
    except ValueError:
        log.exception("failed")
    assert sink.flush()
    assert len(records(path)) == 3
    assert b"hunter22" not in path.read_bytes()


def test_a_traceback_has_type_message_and_frames_and_no_locals(path: Path) -> None:
    def fail() -> None:
        local_token = "value-of-a-local"
        raise ValueError("it " + local_token[:5])

    sink = logs.configure(path)
    try:
        fail()
    except ValueError as error:
        logs.get("moltis.test").error("failed", exc_info=error)
    assert sink.flush()
    (record,) = records(path)
    (found,) = record["fields"]["exception"]
    assert (found["exc_type"], found["exc_value"]) == ("ValueError", "it value")
    assert found["frames"][-1]["name"] == "fail"
    assert "value-of-a-local" not in path.read_text()


def test_an_exception_group_brings_its_members(path: Path) -> None:
    sink = logs.configure(path)
    group = ExceptionGroup("two", [ValueError("first"), OSError("second")])
    logs.get("moltis.test").error("failed", exc_info=group)
    assert sink.flush()
    assert "first" in path.read_text()
    assert "second" in path.read_text()


# Before, after, levels, libraries


def test_what_is_logged_before_there_is_a_log_is_written_when_there_is_one(path: Path) -> None:
    log = logs.get("moltis.test")
    log.info("early", secret="hunter22")
    log.debug("too_low")
    sink = logs.configure(path, scrubber=Canary())
    log.info("late")
    assert sink.flush()
    assert messages(path) == ["early", "late"]
    assert b"hunter22" not in path.read_bytes()


def test_early_records_are_bounded_and_the_lost_ones_counted(path: Path) -> None:
    log = logs.get("moltis.test")
    for number in range(logs.MAX_EARLY_RECORDS + 7):
        log.info("early", n=number)
    sink = logs.configure(path)
    assert sink.flush()
    wait_until(lambda: messages(path)[-1] == "log_records_dropped")
    assert len(records(path)) == logs.MAX_EARLY_RECORDS + 1
    assert records(path)[0]["fields"]["n"] == 7
    assert records(path)[-1]["fields"]["count"] == 7


def test_a_reload_changes_the_level(path: Path) -> None:
    sink = logs.configure(path, level="warning")
    log = logs.get("moltis.test")
    log.info("hidden")
    logs.reconfigure(level="debug")
    log.debug("shown")
    logs.reconfigure(level="error")
    log.warning("hidden")
    assert sink.flush()
    assert messages(path) == ["shown"]


def test_an_unknown_level_is_refused_by_name(path: Path) -> None:
    with pytest.raises(ValueError, match="'loud' is none of debug, info, warn, error"):
        logs.configure(path, level="loud")


def test_libraries_log_into_the_same_file(path: Path) -> None:
    sink = logs.configure(path, level="debug")
    logging.getLogger("some.library").info("hello %s", "world")
    logging.getLogger("httpx2").info("HTTP Request: GET https://example.com/?key=secret")
    logging.getLogger("asyncio").warning("slow")
    logs._handler.handle(logging.LogRecord("broken", logging.CRITICAL, __file__, 1, "%d", ("not a number",), None))
    assert sink.flush()
    found = [(r["level"], r["target"], r["message"]) for r in records(path)]
    assert found == [
        ("INFO", "moltis.library.some.library", "hello world"),
        ("WARN", "moltis.library.asyncio", "slow"),
        ("ERROR", "moltis.library.broken", "%d"),
    ]


def test_logging_from_many_threads_loses_and_tears_nothing(path: Path) -> None:
    sink = logs.configure(path)

    def work(number: int) -> None:
        for count in range(300):
            logs.get("moltis.test").info("fact", thread=number, count=count)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sink.flush()
    for number in range(4):
        mine = [r["fields"]["count"] for r in records(path) if r["fields"]["thread"] == number]
        assert mine == list(range(300))


def test_closing_writes_what_is_left(path: Path) -> None:
    logs.configure(path)
    for number in range(2000):
        logs.get("moltis.test").info("fact", n=number)
    logs.close()
    assert len(records(path)) == 2000


# The file


class Wall:
    """A LogFile whose clock stands still until told otherwise."""

    def __init__(self, path: Path, max_bytes: int = 0, backups: int = 2) -> None:
        self.now = 0.0
        self.complaints: list[str] = []
        self.file = LogFile(
            path,
            max_bytes=max_bytes,
            backups=backups,
            complain=self.complaints.append,
            lost=lambda lost, why: encode(make_record(1, "WARN", "moltis.logs", "lost", {"lost": lost, "why": why})),
            clock=lambda: self.now,
        )

    def write(self, *texts: str) -> bool:
        return self.file.write(deque(line(text) for text in texts))

    def later(self) -> None:
        self.now += log_file.RETRY_SECS + log_file.LOOK_SECS


@pytest.fixture
def wall(tmp_path: Path) -> Iterator[Wall]:
    made = Wall(tmp_path / "logs.jsonl")
    yield made
    made.file.close()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777], ids=oct)
def test_the_log_and_its_copies_are_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    wall = Wall(tmp_path / "logs.jsonl", max_bytes=200)
    before = os.umask(mask)
    try:
        assert wall.write(*(f"{n}" for n in range(8)))
    finally:
        os.umask(before)
        wall.file.close()
    found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert found == {"logs.jsonl": 0o600, "logs.jsonl.1": 0o600, "logs.jsonl.2": 0o600}


def test_the_folder_is_made_again_and_is_private(path: Path) -> None:
    wall = Wall(path)
    assert wall.write("one")
    shutil.rmtree(path.parent)
    wall.later()
    assert wall.write("two")
    wall.file.close()
    assert messages(path) == ["two"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_deleted_log_is_made_again(wall: Wall) -> None:
    wall.write("one")
    wall.file.path.unlink()
    wall.later()
    assert wall.write("two")
    assert messages(wall.file.path) == ["two"]


def test_a_replaced_log_is_written_to(wall: Wall) -> None:
    wall.write("one")
    wall.file.path.rename(wall.file.path.with_name("moved"))
    wall.file.path.write_bytes(line("foreign"))
    wall.later()
    assert wall.write("two")
    assert messages(wall.file.path) == ["foreign", "two"]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _symlink(path: Path) -> None:
    path.symlink_to(path.with_name("victim"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


IN_ITS_PLACE: dict[str, tuple[Callable[[Path], None], str]] = {
    "FIFO": (_fifo, "is not a regular file"),
    "symbolic link": (_symlink, "is a symbolic link"),
    "folder": (Path.mkdir, "is a folder"),
    "socket": (_socket, "is not a regular file"),
}


@pytest.mark.parametrize("kind", IN_ITS_PLACE)
def test_what_is_not_a_file_is_never_opened_and_noted_once(wall: Wall, tmp_path: Path, kind: str) -> None:
    make, words = IN_ITS_PLACE[kind]
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    wall.write("one")
    wall.file.path.unlink()
    make(wall.file.path)
    for _ in range(3):
        wall.later()
        assert not wall.write("two")
    assert len(wall.complaints) == 1
    assert f"it {words}" in wall.complaints[0]
    assert victim.read_text() == "untouched"

    wall.file.path.rmdir() if kind == "folder" else wall.file.path.unlink()
    wall.later()
    assert wall.write("three")
    assert messages(wall.file.path) == ["three"]


def test_a_fifo_with_a_reader_gets_no_byte_and_blocks_nobody(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        notes: list[str] = []
        sink = logs.configure(path, complain=notes.append)
        logs.get("moltis.test").info("fact")
        wait_until(lambda: notes)
        assert select.select([reader], [], [], 0)[0] == []
        assert not sink.flush(0.01)
        started = time.monotonic()
        logs.close()
        assert time.monotonic() - started < log_sink.CLOSE_SECS + PATIENCE / 2
        assert notes[-1] == f"1 log records could not be written to {path}"
    finally:
        os.close(reader)


def test_it_is_tried_again_only_after_a_while(wall: Wall) -> None:
    wall.file.path.mkdir()
    assert not wall.write("one")
    wall.file.path.rmdir()
    wall.now += log_file.RETRY_SECS / 2
    assert not wall.write("one")
    wall.later()
    assert wall.write("one")


def test_a_line_torn_by_a_crash_is_cut_off_when_the_log_is_opened(wall: Wall) -> None:
    wall.file.path.write_bytes(line("one") + line("torn")[:-9])
    assert wall.write("two")
    assert messages(wall.file.path) == ["one", "two"]


def test_text_that_is_not_ours_is_left_and_ended(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"not a log")
    fd = os.open(other, os.O_RDWR | os.O_APPEND)
    try:
        assert mend(fd) == 10
    finally:
        os.close(fd)
    assert other.read_bytes() == b"not a log\n"


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow over `size`; CPython ignores SIGXFSZ, so write(2) fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_tears_no_line_and_loses_none_that_fit_the_memory(wall: Wall) -> None:
    whole = len(line("0"))
    lines = deque(line(f"{n}") for n in range(10))
    with file_size_limit(3 * whole + 20):
        assert not wall.file.write(lines)
        assert messages(wall.file.path) == ["0", "1", "2"]
        wall.later()
        assert not wall.file.write(lines)
    assert len(lines) == 7
    wall.later()
    assert wall.file.write(lines)
    assert messages(wall.file.path) == [f"{n}" for n in range(10)]
    assert len(wall.complaints) == 1
    assert os.strerror(errno.EFBIG) in wall.complaints[0]


def test_records_dropped_while_the_disk_is_full_are_counted_in_the_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_sink, "MAX_PENDING_BYTES", 1000)
    monkeypatch.setattr(log_sink, "RETRY_SECS", 0.05)
    monkeypatch.setattr(log_file, "RETRY_SECS", 0.05)
    notes: list[str] = []
    sink = logs.configure(path, complain=notes.append)
    path.parent.mkdir()
    path.mkdir()
    for number in range(100):
        logs.get("moltis.test").info("fact", n=number)
    wait_until(lambda: notes)
    path.rmdir()
    wait_until(lambda: path.is_file() and "log_records_dropped" in messages(path))
    kept = messages(path).count("fact")
    assert 0 < kept < 100
    assert records(path)[-1]["fields"]["count"] == 100 - kept
    assert sink.dropped == 0


def test_a_disk_that_hangs_keeps_neither_who_logs_nor_the_end_of_the_daemon(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(LogFile, "write", lambda *_, **__: hang.wait(PATIENCE))
    notes: list[str] = []
    sink = logs.configure(path, complain=notes.append)
    started = time.monotonic()
    for number in range(1000):
        logs.get("moltis.test").info("fact", n=number)
    logs.close()
    assert time.monotonic() - started < log_sink.CLOSE_SECS + PATIENCE / 2
    assert notes == [f"1000 log records could not be written to {path}"]
    hang.set()
    sink._thread.join(PATIENCE)


# Rotation


def everything(path: Path) -> list[str]:
    """Give the messages of the backups, the oldest first, and of the log."""
    numbers = sorted((int(p.suffix[1:]) for p in path.parent.glob("logs.jsonl.*")), reverse=True)
    return [m for p in [*(Path(f"{path}.{n}") for n in numbers), path] for m in messages(p)]


def test_rotation_keeps_the_file_and_loses_and_tears_no_line(tmp_path: Path) -> None:
    wall = Wall(tmp_path / "logs.jsonl", max_bytes=400, backups=10)
    wall.write("0")
    inode = wall.file.path.stat().st_ino
    for number in range(1, 40):
        assert wall.write(f"{number}")
    wall.file.close()
    assert wall.file.path.stat().st_ino == inode
    assert everything(wall.file.path) == [f"{n}" for n in range(40)]
    assert all(p.stat().st_size <= 400 for p in tmp_path.iterdir())


def test_a_burst_is_split_over_rotations(tmp_path: Path) -> None:
    wall = Wall(tmp_path / "logs.jsonl", max_bytes=400, backups=50)
    assert wall.write(*(f"{n}" for n in range(40)))
    wall.file.close()
    assert everything(wall.file.path) == [f"{n}" for n in range(40)]
    assert all(p.stat().st_size <= 400 for p in tmp_path.iterdir())


def test_only_so_many_backups_are_kept_also_after_a_reload(tmp_path: Path) -> None:
    wall = Wall(tmp_path / "logs.jsonl", max_bytes=100, backups=3)
    wall.write(*(f"{n}" for n in range(8)))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"logs.jsonl{s}" for s in ("", ".1", ".2", ".3")]
    wall.file.backups = 1
    wall.write("8", "9")
    wall.file.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs.jsonl", "logs.jsonl.1"]
    assert everything(wall.file.path) == ["8", "9"]


def test_without_backups_the_log_just_starts_again(tmp_path: Path) -> None:
    wall = Wall(tmp_path / "logs.jsonl", max_bytes=100, backups=0)
    wall.write("one", "two")
    wall.file.close()
    assert [p.name for p in tmp_path.iterdir()] == ["logs.jsonl"]
    assert messages(wall.file.path) == ["two"]


def test_a_reload_changes_the_size(path: Path) -> None:
    sink = logs.configure(path, max_bytes=0, backups=1)
    log = logs.get("moltis.test")
    for number in range(20):
        log.info("fact", n=number)
    assert sink.flush()
    assert len(records(path)) == 20
    logs.reconfigure(max_bytes=500)
    log.info("fact", n=20)
    assert sink.flush()
    assert len(records(path)) == 1
    assert len(records(Path(f"{path}.1"))) == 20


def test_a_copy_that_cannot_be_made_is_told_and_the_log_goes_on(tmp_path: Path) -> None:
    wall = Wall(tmp_path / "logs.jsonl", max_bytes=200, backups=1)
    (tmp_path / ".logs.jsonl.copy").mkdir()
    wall.write("one", "two", "three")
    wall.file.close()
    first, second = records(wall.file.path)
    assert (first["message"], second["message"]) == ("lost", "three")
    assert first["fields"] == {"lost": len(line("one") + line("two")), "why": os.strerror(errno.EISDIR)}


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small tmpfs, which takes root")
def test_on_a_full_disk_the_oldest_backup_gives_way(tmp_path: Path) -> None:
    script = tmp_path / "fill.py"
    script.write_text(
        "import sys, os\n"
        "from collections import deque\n"
        "from pathlib import Path\n"
        "from moltis.logs.file import LogFile\n"
        "path = Path(sys.argv[1])\n"
        "(path.parent / 'ballast').write_bytes(bytes(180 * 1024))\n"
        "told = []\n"
        "log = LogFile(path, max_bytes=64 * 1024, backups=5, complain=told.append,\n"
        "              lost=lambda size, why: b'{\"lost\": %d}\\n' % size)\n"
        "for n in range(4000):\n"
        '    assert log.write(deque([b\'{"n": %d, "pad": "%s"}\\n\' % (n, b\'x\' * 80)])), told\n'
        "print(sorted(os.listdir(path.parent)))\n"
        "found = [line for f in ('logs.jsonl.2', 'logs.jsonl.1', 'logs.jsonl') if (path.parent / f).exists()\n"
        "         for line in (path.parent / f).read_bytes().splitlines()]\n"
        "import json\n"
        "numbers = [json.loads(line)['n'] for line in found]\n"
        "assert numbers == list(range(numbers[0], 4000)), numbers[:3]\n"
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=384k tmpfs {disk} && exec {sys.executable} {script} {disk}/logs.jsonl"
    done = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0, done.stderr
    assert "logs.jsonl.1" in done.stdout
    assert "logs.jsonl.3" not in done.stdout


@pytest.mark.skipif(shutil.which("tail") is None, reason="tail is not installed")
def test_tail_goes_on_over_rotations(path: Path) -> None:
    sink = logs.configure(path, max_bytes=2000, backups=2)
    log = logs.get("moltis.test")
    log.info("fact", n=-1)
    assert sink.flush()
    with subprocess.Popen(["tail", "-f", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
        assert tail.stdout is not None
        seen: list[int] = []

        def read() -> None:
            assert tail.stdout is not None
            seen.extend(json.loads(text)["fields"]["n"] for text in tail.stdout)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        wait_until(lambda: seen == [-1])
        for number in range(200):
            log.info("fact", n=number)
            time.sleep(0.001)
        assert sink.flush()
        wait_until(lambda: seen and seen[-1] == 199)
        tail.terminate()
        reader.join(PATIENCE)
    assert seen == list(range(-1, 200))


# The daemon's stderr


def test_a_note_does_not_wait_for_a_stderr_nobody_reads() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "w") as stderr:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(65536))
        os.set_blocking(writer, True)
        before, sys.__stderr__ = sys.__stderr__, stderr  # type: ignore[misc]
        try:
            log_sink.note_on_stderr("nobody hears this")
        finally:
            sys.__stderr__ = before  # type: ignore[misc]
