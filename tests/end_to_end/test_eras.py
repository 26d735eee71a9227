"""What a server is asked to begin with: nothing of it is the server's fault, and it is asked once."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from harness import PYTHON, SERVERS, Daemon, a_daemon, wait_until

PICKY = SERVERS / "picky_server.py"

EXITS_BEFORE_INITIALIZE = ("--knows", "legacy", "--exits", "other", "1")
MODERN_AND_EXITS = ("--knows", "modern", "--exits", "initialize", "1")
MODERN_AND_SILENT = ("--knows", "modern", "--ignores", "initialize")


def picky(daemon: Daemon, name: str, *how: str, **keys: Any) -> dict[str, Any]:
    log = daemon.folder / f"{name}.log"
    return {
        "command": PYTHON,
        "args": ["-S", "-E", str(PICKY), "--mark", daemon.mark, "--log", str(log), *how],
        **keys,
    }


def asked(daemon: Daemon, name: str) -> list[str]:
    """Give `started` for each process of the server, and each method that it read."""
    log: Path = daemon.folder / f"{name}.log"
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


def processes(daemon: Daemon, name: str) -> int:
    return asked(daemon, name).count("started")


def assert_blameless(daemon: Daemon, name: str) -> None:
    """It came up at the first try, and nothing is held against it."""
    status = daemon.status(name)
    told = (status["state"], status["attempts"], status["restarts"], status["last_error"], status["recent_errors"])
    assert told == ("ready", 0, 0, None, [])
    assert [entry["to"] for entry in daemon.history(name)][-3:] == ["starting", "initializing", "ready"]
    assert "backoff" not in {entry["to"] for entry in daemon.history(name)}
    of_it = [record for record in daemon.records() if record["fields"].get("server") == name]
    assert {record["level"] for record in of_it} == {"INFO"}
    assert daemon.text(name, "quick") in ("legacy", "modern")
    pid = status["pid"]
    assert re.search(rf"^{pid} ", (daemon.folder / f"{name}.log").read_text().splitlines()[-1])


def test_servers_that_exit_on_what_they_do_not_expect_are_simply_ready(daemon: Daemon) -> None:
    ways = {
        "legacy": (("--knows", "legacy", "--exits", "other"), 1, "2025-11-25"),
        "both": (("--knows", "both", "--exits", "other"), 1, "2025-11-25"),
        "modern": (("--knows", "modern", "--exits", "initialize"), 2, "2026-07-28"),
    }
    expected = {f"{way}-{code}": (*how, code) for way, how in ways.items() for code in ("0", "1")}
    servers = {name: picky(daemon, name, *how, code) for name, (how, _, _, code) in expected.items()}
    daemon.write(servers, mcp={"max_restart_attempts": 0})
    daemon.start()
    waited = daemon.cli("status", "--wait")
    assert waited.returncode == 0, waited.stdout + waited.stderr
    for name, (_, started, version, _) in expected.items():
        assert_blameless(daemon, name)
        assert daemon.status(name)["protocol_version"] == version
        assert processes(daemon, name) == started


def test_thirty_at_once_are_ready_at_the_first_try(daemon: Daemon) -> None:
    names = [f"p{n}" for n in range(30)]
    how = (EXITS_BEFORE_INITIALIZE, MODERN_AND_EXITS)
    daemon.write(
        {name: picky(daemon, name, *how[n % 2]) for n, name in enumerate(names)}, mcp={"startup_timeout_secs": 60.0}
    )
    daemon.start().wait_all("ready")
    for name in names:
        assert_blameless(daemon, name)


SLOW = {
    "both": ("--knows", "both"),
    "exits on discover": EXITS_BEFORE_INITIALIZE,
    "ignores discover": ("--knows", "legacy", "--ignores", "server/discover"),
    "exits on initialize": MODERN_AND_EXITS,
}
LATE = {"at once": 0, "after 12 s": 12}
WEB = ("streamable-http", "sse")
MINDS = ("drops", "hangs", "502", "html")
PROTOCOLS = ("auto", "legacy")
REVISIONS = ("2025-06-18", "2024-11-05")
THEN = {"stays": (), "exits": ("--then-exits",)}
TYPESCRIPT = {"both": ("serve", "2025-11-25"), "modern only": ("reject", "2026-07-28")}


def called(*parts: str) -> str:
    """Return a name for the server of one case."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts))


@pytest.fixture(scope="module")
def crowd(node: Path) -> Iterator[Daemon]:
    """One daemon that starts the servers of many cases at once, each under a name of its own: most of them take long.

    More than it lets start at a time by itself, for those that sleep would have the others wait.
    """
    with a_daemon() as daemon, picky_web_in(daemon.folder) as web:
        servers = {}
        for late, secs in LATE.items():
            for how, words in SLOW.items():
                name = called(how, late)
                servers[name] = picky(daemon, name, *words, "--sleeps", str(secs))
            for legacy, (word, _) in TYPESCRIPT.items():
                servers[called("ts", legacy, late)] = typescript(daemon, node, word, secs)
        for transport in WEB:
            for how in MINDS:
                name = called(how, transport)
                servers[name] = {"transport": transport, "url": web(name, how)}
            for protocol in PROTOCOLS:
                name = called("only", protocol, transport)
                servers[name] = {"transport": transport, "url": web(name, "only"), "protocol": protocol}
        for protocol, revision, then in itertools.product(PROTOCOLS, REVISIONS, THEN):
            name = called(protocol, revision, then)
            servers[name] = picky(daemon, name, "--only", revision, *THEN[then], protocol=protocol)
        daemon.write(
            servers, mcp={"startup_timeout_secs": 60.0, "max_restart_attempts": 0, "max_concurrent_starts": 16}
        )
        yield daemon.start()


def secs_to_ready(daemon: Daemon, name: str) -> float:
    at = {entry["to"]: datetime.fromisoformat(entry["at"]).timestamp() for entry in daemon.history(name)}
    return at["ready"] - at["starting"]


@pytest.mark.parametrize("late", list(LATE))
@pytest.mark.parametrize("how", list(SLOW))
def test_a_server_that_has_not_begun_to_read_is_asked_one_thing_only(crowd: Daemon, how: str, late: str) -> None:
    """Both questions in the pipe of a server that accepts both would leave it in the era of the second."""
    name = called(how, late)
    crowd.wait_for(name, "ready")
    assert_blameless(crowd, name)
    modern = SLOW[how] is MODERN_AND_EXITS
    assert ("server/discover" in asked(crowd, name)) == modern
    assert crowd.text(name, "quick") == ("modern" if modern else "legacy")
    if late != "at once":
        assert secs_to_ready(crowd, name) > 11, "it was late"


@pytest.mark.alone
def test_of_a_server_that_reads_at_once_nobodys_patience_is_waited_for(daemon: Daemon) -> None:
    daemon.write({called(how): picky(daemon, called(how), *words) for how, words in SLOW.items()})
    daemon.start().wait_all("ready")
    for how in SLOW:
        assert secs_to_ready(daemon, called(how)) < 10


def test_a_server_that_ignores_initialize_is_asked_by_discover_in_the_same_start(daemon: Daemon) -> None:
    daemon.write({"p": picky(daemon, "p", *MODERN_AND_SILENT)}, mcp={"startup_timeout_secs": 60.0})
    daemon.start().wait_for("p", "ready")
    assert_blameless(daemon, "p")
    assert asked(daemon, "p")[:5] == ["started", "initialize", "server/discover", "started", "server/discover"]


def test_a_server_that_exits_by_itself_is_started_once_an_attempt(daemon: Daemon) -> None:
    """One that had not read what it was sent did not exit because of it."""
    program = f"open({str(daemon.folder / 'p.log')!r}, 'a').write('1 started\\n'); raise SystemExit(3)"
    later = {"restart_backoff_secs": 30.0, "restart_backoff_max_secs": 30.0}
    daemon.write({"p": {"command": PYTHON, "args": ["-S", "-E", "-c", program]}}, mcp=later)
    status = daemon.start().wait_for("p", "backoff")
    assert status["last_error"]["message"] == "exited with code 3"
    assert processes(daemon, "p") == 1


def test_a_server_that_exits_whatever_it_is_asked_fails_as_it_failed_first(daemon: Daemon) -> None:
    how = ("--knows", "both", "--exits", "initialize", "7", "--ignores", "server/discover")
    daemon.write(
        {"p": picky(daemon, "p", *how)},
        mcp={"startup_timeout_secs": 3.0, "restart_backoff_secs": 30.0, "restart_backoff_max_secs": 30.0},
    )
    status = daemon.start().wait_for("p", "backoff")
    assert status["attempts"] == 1
    assert processes(daemon, "p") == 2


@pytest.mark.parametrize("how", [EXITS_BEFORE_INITIALIZE, MODERN_AND_EXITS], ids=["legacy", "modern"])
def test_mcp_test_and_mcp_add_do_as_the_daemon_does(daemon: Daemon, how: tuple[str, ...]) -> None:
    daemon.write({})
    daemon.start()
    entry = picky(daemon, "p", *how)
    tried = daemon.rpc("mcp.test", name="other", **entry)
    assert (tried["ok"], tried["error"], tried["tool_count"]) == (True, None, 1)
    daemon.rpc("mcp.add", name="p", **entry)
    daemon.wait_for("p", "ready")
    assert_blameless(daemon, "p")
    tested = daemon.cli("mcp", "test", "p")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@contextlib.contextmanager
def picky_web_in(folder: Path) -> Iterator[Callable[[str, str], str]]:
    """Start servers that mind `server/discover`; what each was asked is in NAME.asked of the folder."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, how: str) -> str:
        command = [PYTHON, "-S", "-E", str(SERVERS / "picky_http.py"), how, str(folder / f"{name}.asked")]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        out = started[-1].stdout
        assert out is not None
        return f"http://127.0.0.1:{int(out.readline())}/mcp"

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("transport", WEB)
@pytest.mark.parametrize("how", MINDS)
def test_a_web_server_that_minds_discover_is_asked_to_initialize_in_the_same_start(
    crowd: Daemon, how: str, transport: str
) -> None:
    name = called(how, transport)
    status = crowd.wait_for(name, "ready")
    told = (status["attempts"], status["restarts"], status["last_error"], status["protocol_version"])
    assert told == (0, 0, None, "2025-06-18")
    assert crowd.text(name, "quick") == "legacy"
    assert (crowd.folder / f"{name}.asked").read_text().splitlines()[:2] == ["server/discover", "initialize"]


@pytest.mark.parametrize("transport", WEB)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_web_server_that_refuses_a_revision_in_words_is_offered_the_newest_that_it_names(
    crowd: Daemon, protocol: str, transport: str
) -> None:
    name = called("only", protocol, transport)
    status = crowd.wait_for(name, "ready")
    told = (status["attempts"], status["restarts"], status["last_error"], status["protocol_version"])
    assert told == (0, 0, None, "2025-06-18")
    assert crowd.text(name, "quick") == "legacy"


def test_a_web_server_that_names_no_revision_is_told_with_its_words_and_a_key_that_mends_it(
    daemon: Daemon,
) -> None:
    with picky_web_in(daemon.folder) as web:
        entry = {"transport": "sse", "url": web("p", "none")}
        daemon.write({"p": entry}, mcp={"max_restart_attempts": 0})
        status = daemon.start().wait_for("p", "cooldown")
        assert status["last_error"]["message"] == (
            "answered initialize with HTTP 400: Bad Request: Unsupported protocol version"
        )
        why = daemon.cli("why", "p").stdout
        assert 'protocol = "2025-06-18"' in why
        daemon.write({"p": {**entry, "protocol": "2025-06-18"}}, mcp={"max_restart_attempts": 0})
        daemon.rpc("daemon.reload")
        daemon.wait_for("p", "ready")


@pytest.mark.parametrize("then", list(THEN))
@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_wants_one_revision_and_names_it_is_simply_ready(
    crowd: Daemon, protocol: str, revision: str, then: str
) -> None:
    name = called(protocol, revision, then)
    crowd.wait_for(name, "ready")
    assert_blameless(crowd, name)
    assert crowd.status(name)["protocol_version"] == revision
    assert processes(crowd, name) == (2 if then == "exits" else 1)
    assert "server/discover" not in asked(crowd, name)


@pytest.mark.parametrize("how", [MODERN_AND_EXITS, MODERN_AND_SILENT], ids=["exits", "silent"])
def test_what_was_learnt_is_paid_for_once(daemon: Daemon, how: tuple[str, ...]) -> None:
    entry = picky(daemon, "p", *how)
    daemon.write({"p": entry}, mcp={"startup_timeout_secs": 60.0})
    daemon.start().wait_for("p", "ready")
    assert processes(daemon, "p") == 2
    assert daemon.stop() == 0
    daemon.start().wait_for("p", "ready")
    assert processes(daemon, "p") == 3
    assert_blameless(daemon, "p")
    daemon.write({"p": {**entry, "env": {"A": "2"}}}, mcp={"startup_timeout_secs": 60.0})
    daemon.rpc("daemon.reload")
    wait_until("it is started with the other env", lambda: processes(daemon, "p") == 4)
    daemon.wait_for("p", "ready")
    assert daemon.rpc("mcp.test", name="p", copy=True)["ok"]
    assert processes(daemon, "p") == 5
    assert asked(daemon, "p").count("initialize") == 1


def test_mcp_test_teaches_the_daemon_too(daemon: Daemon) -> None:
    daemon.write({"p": picky(daemon, "p", *MODERN_AND_EXITS, enabled=False)})
    daemon.start()
    assert daemon.rpc("mcp.test", name="p")["ok"]
    assert processes(daemon, "p") == 2
    daemon.rpc("mcp.enable", name="p")
    daemon.wait_for("p", "ready")
    assert processes(daemon, "p") == 3
    assert_blameless(daemon, "p")


@pytest.mark.parametrize("content", [b"", b'{"format":1,"ma', b"\x00" * 100])
def test_a_torn_lesson_is_none(daemon: Daemon, content: bytes) -> None:
    (daemon.data_dir / "known").mkdir(parents=True, mode=0o700)
    daemon.data_dir.chmod(0o700)
    (daemon.data_dir / "known" / "p.era").write_bytes(content)
    daemon.write({"p": picky(daemon, "p", *MODERN_AND_EXITS)})
    daemon.start().wait_for("p", "ready")
    assert_blameless(daemon, "p")


def test_a_server_that_was_replaced_by_one_of_the_other_era_is_simply_ready(daemon: Daemon) -> None:
    """The launch is the same: only the program behind it is another."""
    program = daemon.folder / "program.py"
    text = PICKY.read_text()
    program.write_text(text.replace('default="legacy"', 'default="modern"').replace('("", "0")', '("initialize", "1")'))
    args = ["-S", "-E", str(program), "--mark", daemon.mark, "--log", str(daemon.folder / "p.log")]
    daemon.write({"p": {"command": PYTHON, "args": args}})
    daemon.start().wait_for("p", "ready")
    assert daemon.status("p")["protocol_version"] == "2026-07-28"
    program.write_text(text.replace('("", "0")', '("other", "1")'))
    daemon.rpc("mcp.restart", name="p")
    wait_until("the other runs", lambda: daemon.status("p")["protocol_version"] == "2025-11-25")
    assert (daemon.status("p")["attempts"], daemon.status("p")["last_error"]) == (0, None)
    before = processes(daemon, "p")
    daemon.rpc("mcp.restart", name="p")
    wait_until("it begins with what was learnt last", lambda: processes(daemon, "p") == before + 1)
    daemon.wait_for("p", "ready")
    assert asked(daemon, "p")[-4:].count("server/discover") == 0


def test_a_first_start_that_was_too_slow_teaches_nothing(daemon: Daemon) -> None:
    flag = daemon.folder / "flag"
    run = f"exec {PYTHON} -S -E {PICKY} --mark {daemon.mark} --log {daemon.folder / 'p.log'}"
    slow = f"[ -e {flag} ] || {{ touch {flag}; sleep 100; }}; {run} --knows both"
    daemon.write({"p": {"command": "sh", "args": ["-c", slow], "startup_timeout_secs": 3.0}})
    status = daemon.start().wait_for("p", "ready")
    assert (status["protocol_version"], status["attempts"]) == ("2025-11-25", 1)
    daemon.rpc("mcp.restart", name="p")
    daemon.wait_for("p", "ready")
    assert daemon.status("p")["protocol_version"] == "2025-11-25"


TWO_ERAS = SERVERS / "node" / "two-eras.js"


def typescript(daemon: Daemon, node: Path, legacy: str, waits: int) -> dict[str, Any]:
    """Give the entry of a server on the second TypeScript SDK that begins after so many seconds."""
    place = daemon.folder / "ts"
    if not place.exists():
        place.mkdir()
        (place / "two-eras.js").write_bytes(TWO_ERAS.read_bytes())
        (place / "package.json").write_text('{"type": "module"}')
        (place / "node_modules").symlink_to(node / "node_modules")
    return daemon.real("sh", "-c", f"sleep {waits}; exec node two-eras.js {legacy}", cwd=str(place))


@pytest.mark.parametrize("legacy", list(TYPESCRIPT))
@pytest.mark.parametrize("late", list(LATE))
def test_a_server_on_the_second_typescript_sdk_is_in_one_era(crowd: Daemon, legacy: str, late: str) -> None:
    """It accepts `initialize` after `server/discover` was answered, and what it says from then on is of the older."""
    name, version = called("ts", legacy, late), TYPESCRIPT[legacy][1]
    status = crowd.wait_for(name, "ready")
    told = (status["protocol_version"], status["attempts"], status["restarts"], status["last_error"])
    assert told == (version, 0, 0, None)
    assert crowd.text(name, "quick") == "quick"
    result = crowd.call(name, "quick")
    assert ("resultType" in result) == (version == "2026-07-28")
    wait_until("a heartbeat was answered", lambda: crowd.status(name)["last_heartbeat_at"])
