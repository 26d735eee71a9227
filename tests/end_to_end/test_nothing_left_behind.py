"""No process is left behind (Linux): whoever dies, and however, nothing that a server started outlives it by 2 s."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import GONE_WITHIN, Daemon, a_daemon, wait_until
from processes import alive, children, descendants, marked, stopped

KINDS = ("group", "setsid", "daemon")
TREES = [f"{who}={kind}" for who in ("grandchild", "stubborn-grandchild") for kind in KINDS]
EVERY_TREE = {tree.replace("=", "-"): tree for tree in TREES}


def forest(daemon: Daemon) -> dict[str, dict[str, object]]:
    """One server for each way a grandchild can hide; each leader ignores EOF and SIGTERM too."""
    return {
        name: daemon.evil("eof-ignoring", "ignterm", tree, events=f"{name}.ev") for name, tree in EVERY_TREE.items()
    }


def grown(daemon: Daemon) -> dict[str, int]:
    """Start the forest and give each server's grandchild, by name."""
    daemon.write(forest(daemon))
    daemon.start().wait_all("ready")
    return {name: daemon.wait_event_pid(f"{name}.ev", "grandchild") for name in EVERY_TREE}


@pytest.fixture(scope="module")
def grove() -> Iterator[Daemon]:
    """One daemon with two servers for each way a grandchild can hide: each is hurt by one test alone."""
    with a_daemon() as daemon:
        names = {f"{hurt}-{name}": tree for hurt in ("leader", "grandchild") for name, tree in EVERY_TREE.items()}
        daemon.write({name: daemon.evil(tree, events=f"{name}.ev") for name, tree in names.items()})
        daemon.start().wait_all("ready")
        yield daemon


@pytest.mark.parametrize("tree", EVERY_TREE)
def test_killing_a_leader_ends_its_grandchild_and_starts_the_server_again(grove: Daemon, tree: str) -> None:
    name, events = f"leader-{tree}", f"leader-{tree}.ev"
    first = grove.wait_for(name, "ready")["pid"]
    grandchild = grove.wait_event_pid(events, "grandchild")
    os.kill(first, signal.SIGKILL)
    wait_until("the grandchild is gone", lambda: not alive(grandchild))
    wait_until("the server has a new pid", lambda: grove.status(name)["pid"] not in (None, first))
    status = grove.wait_for(name, "ready")
    assert status["restarts"] == 1
    assert status["last_error"]["exit_code"] == -signal.SIGKILL
    (leader_starts,) = [grove.event_pids(events, "start")]
    assert [p for p in leader_starts if alive(p)] == [status["pid"]]


@pytest.mark.parametrize("tree", EVERY_TREE)
def test_killing_a_grandchild_is_its_servers_own_affair(grove: Daemon, tree: str) -> None:
    name = f"grandchild-{tree}"
    before = grove.wait_for(name, "ready")
    grandchild = grove.wait_event_pid(f"{name}.ev", "grandchild")
    os.kill(grandchild, signal.SIGKILL)
    wait_until("the grandchild is gone", lambda: not alive(grandchild))
    time.sleep(0.3)
    after = grove.status(name)
    assert (after["state"], after["pid"], after["restarts"]) == ("ready", before["pid"], 0)


@pytest.mark.alone
def test_kill_9_of_the_daemon_leaves_nothing(daemon: Daemon) -> None:
    grown(daemon)
    own = daemon.own_pids()
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    daemon.assert_nothing_left(GONE_WITHIN)
    wait_until("nothing of the daemon itself is left", lambda: not any(map(alive, own)), GONE_WITHIN)


@pytest.mark.alone
def test_kill_9_of_the_warden_leaves_nothing_of_its_servers_and_all_run_again(daemon: Daemon) -> None:
    grandchildren = grown(daemon)
    before = {name: daemon.status(name)["pid"] for name in EVERY_TREE}
    os.kill(daemon.warden_pid(), signal.SIGKILL)
    old = set(before.values()) | set(grandchildren.values())
    wait_until("the old trees are gone", lambda: not any(map(alive, old)), GONE_WITHIN)
    for name, pid in before.items():
        wait_until(f"{name} is another process", lambda n=name, p=pid: daemon.status(n)["pid"] not in (None, p))
    daemon.wait_all("ready")
    assert daemon.process is not None
    assert daemon.process.poll() is None


@pytest.mark.parametrize("whom", ["group", "parent"])
def test_a_server_that_kills_what_is_above_it_hurts_neither_daemon_nor_neighbours(daemon: Daemon, whom: str) -> None:
    daemon.write({"killer": daemon.evil(f"kill-parent={whom}", events="ev"), "neighbour": daemon.evil()})
    daemon.start()
    word = f"killed-{whom}"
    wait_until("the deed is done", lambda: daemon.event_pids("ev", word))
    wait_until("the killer runs again", lambda: len(daemon.starts("ev")) > 1)
    assert daemon.wait_for("killer", "ready")["restarts"] >= 1
    neighbour = daemon.wait_for("neighbour", "ready")
    assert neighbour["restarts"] == (1 if whom == "parent" else 0)
    assert daemon.stop() == 0
    daemon.assert_nothing_left()


@pytest.mark.alone
@pytest.mark.parametrize("method", ["mcp.stop", "mcp.restart", "mcp.disable", "mcp.remove"])
def test_no_tree_outlives_its_server(daemon: Daemon, method: str) -> None:
    grown(daemon)
    old = set(marked(daemon.mark))
    with ThreadPoolExecutor(len(EVERY_TREE)) as pool:  # each waits until its server has ended
        list(pool.map(lambda name: daemon.rpc(method, name=name), EVERY_TREE))
    bound = 0.4 + 0.6 + GONE_WITHIN
    wait_until("the old trees are gone", lambda: not old & set(marked(daemon.mark)), bound)
    if method == "mcp.restart":
        daemon.wait_all("ready")


def test_a_suspended_server_is_replaced_and_its_tree_ended(daemon: Daemon) -> None:
    beat = {"heartbeat_interval_secs": 0.3, "heartbeat_timeout_secs": 0.3, "heartbeat_max_missed": 3}
    daemon.write({"s": daemon.evil("stubborn-grandchild=daemon", events="ev", **beat)})
    pid = daemon.start().wait_for("s", "ready")["pid"]
    with stopped(pid):
        wait_until("it is replaced", lambda: daemon.status("s")["pid"] not in (None, pid))
        assert not alive(pid)
    status = daemon.wait_for("s", "ready")
    assert status["restarts"] == 1
    assert any(entry["reason"] == "unresponsive" for entry in daemon.history("s"))


def test_killing_the_npx_leader_ends_the_orphaned_node_server(daemon: Daemon, node: Path) -> None:
    """npx is the leader of npm exec, sh and node; killed alone, it leaves a server that goes on answering pings."""
    server = daemon.real(
        "npx", "-y", "@modelcontextprotocol/server-everything", cwd=str(node), env={"npm_config_offline": "true"}
    )
    daemon.write({"s": server}, mcp={"startup_timeout_secs": 60.0})
    leader = daemon.start().wait_for("s", "ready")["pid"]
    tree = descendants(leader)
    assert tree, "npx has no children: this is not the tree that the test is about"
    os.kill(leader, signal.SIGKILL)
    wait_until("the orphans are gone", lambda: not any(map(alive, tree)))

    def another() -> bool:
        status = daemon.status("s")
        return bool(status["state"] == "ready" and status["pid"] != leader)

    wait_until("another one is ready", another)
    assert daemon.stop() == 0
    daemon.assert_nothing_left()


def test_zombies_that_a_server_leaves_are_reaped(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("zombies=200", "exit-after-ready=0.2"), "keeps": daemon.evil()})
    daemon.start()
    wait_until("it has died", lambda: daemon.status("s")["attempts"] >= 1)
    daemon.rpc("mcp.stop", name="s")
    warden = daemon.warden_pid()
    (keeper,) = [daemon.status("keeps")["pid"]]

    def strangers() -> list[int]:
        return [p for parent in (daemon.pid, warden) for p in children(parent) if p not in (warden, keeper)]

    wait_until("no zombie is left", lambda: not strangers(), tell=strangers)


def test_a_server_inherits_three_descriptors_and_the_promised_environment(daemon: Daemon) -> None:
    daemon.env |= {"LANG": "C.UTF-8", "LC_TIME": "C", "TERM": "dumb", "TMPDIR": str(daemon.folder), "STRAY": "1"}
    daemon.write({"s": daemon.evil(env={"OWN": "yes"}, cwd=str(daemon.folder))}, env={"UNUSED_SECRET": "not-for-you"})
    daemon.start().wait_for("s", "ready")
    seen = json.loads(daemon.text("s", "dump"))
    assert seen["fds"] == [0, 1, 2]
    promised = {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "TMPDIR"}
    given = {k for k in daemon.env if k in promised or k.startswith("LC_")}
    interpreters_own = {"LC_CTYPE"}  # CPython sets it in itself when it coerces the C locale (PEP 538)
    assert set(seen["env"]) - interpreters_own == (given | {"OWN"}) - interpreters_own
    assert seen["env"]["OWN"] == "yes"
    assert seen["cwd"] == str(daemon.folder)
    assert int(seen["signals"]["SigBlk"], 16) == 0
    ignored = int(seen["signals"]["SigIgn"], 16)
    python_ignores = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert ignored & ~python_ignores == 0


def test_two_daemons_do_not_touch_each_others_servers(new_daemon: Callable[[], Daemon]) -> None:
    one, other = new_daemon(), new_daemon()
    for d in (one, other):
        d.write({"s": d.evil("grandchild=daemon")})
        d.start().wait_for("s", "ready")
    before = other.status("s")["pid"]
    one.signal(signal.SIGKILL)
    one.wait_exit()
    one.assert_nothing_left()
    assert other.status("s")["pid"] == before
    assert len(marked(other.mark)) == 2
