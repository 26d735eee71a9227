"""`moltis mcp test --sdk`: the official client asks too, in a process of its own; where they differ is said by name."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import FakeDaemon
from harness import PYTHON, SERVERS, Daemon, wait_until
from patience import PATIENCE
from processes import marked
from remote_harness import Browser, Place, oidc_installed, place_in, remote

MOODY = '''
"""A server whose tools depend on who asks."""
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    if asked["method"] == "initialize":
        moltis = asked["params"]["clientInfo"]["name"] == "moltis"
        answer = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "prompts": {}},
                  "serverInfo": {"name": "moody", "version": os.environ.get("VERSION", "1") if moltis else "2"}}
    elif asked["method"] == "tools/list":
        names = ["shared", "for-moltis" if moltis else "for-others"]
        answer = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
    elif asked["method"] == "prompts/list":
        answer = {"prompts": [{"name": "p"}]}
    else:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer}), flush=True)
'''


def both(daemon: Daemon, name: str) -> tuple[int, dict[str, Any], list[str]]:
    """Return the exit code, the JSON, and the lines for a person.

    The lines are of a second command, which is told the same: to ask the server once more would start the SDK again.
    """
    done = daemon.cli("mcp", "test", name, "--sdk", "--json", within=4 * PATIENCE)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    told = told_of(daemon, name, found)
    assert told.returncode == done.returncode, told.stdout + told.stderr
    return done.returncode, found, told.stdout.splitlines()


def told_of(daemon: Daemon, name: str, found: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run `moltis mcp test --sdk` beside a daemon that has found this."""
    place = daemon.folder / "told"
    stand_in = FakeDaemon(place / "run" / "moltis.sock", {"mcp.test": found})
    try:
        told = daemon.cli("--data-dir", str(place), "mcp", "test", name, "--sdk")
    finally:
        stand_in.close()
    assert stand_in.asked == [("mcp.test", {"name": name, "sdk": True})]
    return told


def moody(daemon: Daemon, **keys: Any) -> dict[str, Any]:
    (daemon.folder / "moody.py").write_text(MOODY)
    return daemon.real(PYTHON, "-S", "-E", str(daemon.folder / "moody.py"), **keys)


def test_a_server_that_both_find_alike_is_said_to_be_so(daemon: Daemon) -> None:
    daemon.write({"e": daemon.evil()})
    daemon.start().wait_for("e", "ready")
    code, found, _ = both(daemon, "e")
    assert (code, found["ok"], found["sdk"]["ok"], found["differences"]) == (0, True, True, [])
    for key in ("protocol_version", "server_info", "tool_count", "resource_count", "prompt_count"):
        assert found[key] == found["sdk"][key], key
    assert found["tool_count"] > 0
    assert found["sdk"]["latency_ms"] > 0
    done = daemon.cli("mcp", "test", "e", "--sdk", within=4 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.splitlines()
    assert told[0] == "e:"
    assert told[1].startswith(f"  moltis: ok, {found['tool_count']} tools")
    assert told[2].startswith(f"  the Python SDK {found['sdk']['sdk_version']}: ok, {found['tool_count']} tools")
    assert told[3:] == ["  both found the same"]
    assert len(marked(daemon.mark)) == 1  # the one that the daemon keeps running


def test_a_server_of_both_eras_differs_in_its_revision_and_that_is_meant_to_be(daemon: Daemon) -> None:
    daemon.write({"time": daemon.real(PYTHON, "-m", "mcp_server_time")})
    daemon.start().wait_for("time", "ready")
    code, found, told = both(daemon, "time")
    (revision,) = found["differences"]
    assert code == 0
    assert (revision["what"], revision["moltis"], revision["sdk"]) == ("protocol_version", "2025-11-25", "2026-07-28")
    assert revision["expected"]
    assert told[3].startswith("  differs: protocol version: moltis 2025-11-25, the SDK 2026-07-28 (the server has both")


def test_where_they_differ_is_told_by_name_and_in_the_exit_code(daemon: Daemon) -> None:
    daemon.write({"m": moody(daemon)})
    daemon.start().wait_for("m", "ready")
    code, found, told = both(daemon, "m")
    assert code == 1
    info, tools = found["differences"]
    assert (info["what"], info["moltis"], info["sdk"]) == ("server_info", "moody 1", "moody 2")
    assert (tools["what"], tools["only_moltis"], tools["only_sdk"]) == ("tools", ["for-moltis"], ["for-others"])
    assert told[3] == "  differs: server info: moltis moody 1, the SDK moody 2"
    assert told[4] == "  differs: tools: moltis 2, the SDK 2; only moltis has for-moltis; only the SDK has for-others"


def test_tools_that_are_filtered_out_are_no_difference(daemon: Daemon) -> None:
    daemon.write({"m": moody(daemon, exclude_tools=["for-*"], env={"VERSION": "2"})})
    daemon.start().wait_for("m", "ready")
    code, found, told = both(daemon, "m")
    assert (code, found["differences"], found["sdk"]["tool_count"]) == (0, [], 1)
    assert told[3:] == ["  both found the same"]


def test_a_server_that_cannot_start_fails_for_both_with_its_last_words(daemon: Daemon) -> None:
    dies = daemon.real("sh", "-c", "echo 'cannot open the store' >&2; exit 3", enabled=False)
    daemon.write({"dies": dies, "none": {"command": "no-such-program-here", "enabled": False}})
    daemon.start()
    code, found, told = both(daemon, "dies")
    assert (code, found["ok"], found["sdk"]["ok"], found["differences"]) == (1, False, False, [])
    assert "cannot open the store" in found["sdk"]["error"]
    assert "failed" in told[1]
    assert "failed" in told[2]
    code, found, _ = both(daemon, "none")
    assert code == 1
    assert "no-such-program-here" in found["sdk"]["error"]
    assert "Traceback" not in json.dumps(found)


def test_one_that_only_moltis_gets_through_to_is_a_difference(daemon: Daemon) -> None:
    # A server on an SDK that exits on `server/discover`, and, the second time, on anything.
    flag = daemon.folder / "asked"
    picky = f"if [ -e {flag} ]; then exit 4; fi; touch {flag}; exec {PYTHON} -S -E {SERVERS / 'picky_server.py'}"
    daemon.write({"p": daemon.real("sh", "-c", picky, enabled=False)})
    daemon.start()
    found = daemon.rpc("mcp.test", name="p", sdk=True)
    assert (found["ok"], found["sdk"]["ok"]) == (True, False)
    (only,) = found["differences"]
    assert (only["what"], only["moltis"], only["sdk"]) == ("error", "ok", "failed")


def test_a_server_that_exits_on_the_sdks_first_question_is_asked_by_the_older_one(daemon: Daemon) -> None:
    picky = [PYTHON, "-S", "-E", str(SERVERS / "picky_server.py"), "--exits", "other", "1"]
    daemon.write({"p": daemon.real(*picky, enabled=False)})
    daemon.start()
    code, found, told = both(daemon, "p")
    assert (code, found["sdk"]["ok"], found["differences"]) == (0, True, [])
    assert told[2].endswith("(by initialize alone, after server/discover had ended it)")


def test_without_the_option_the_sdk_is_not_asked(daemon: Daemon) -> None:
    daemon.write({"e": daemon.evil(events="e.log", enabled=False)})
    daemon.start()
    found = daemon.rpc("mcp.test", name="e")
    assert (found["ok"], found["sdk"], found["differences"]) == (True, None, [])
    assert len(daemon.starts("e.log")) == 1


def test_no_secret_is_in_arguments_in_answers_or_in_the_log(daemon: Daemon) -> None:
    secret, header = "canary-4f1c9a77e2-env", "canary-88d0b1c3aa-header"
    holds = "import os,sys,time; print('key is '+os.environ['KEY'], file=sys.stderr, flush=True); time.sleep(60)"
    daemon.write(
        {
            "leaks": daemon.real(PYTHON, "-c", holds, env={"KEY": "$KEY"}, enabled=False, startup_timeout_secs=4.0),
            "far": {
                "url": "http://127.0.0.1:9/mcp?key=$KEY", "headers": {"X-Key": header}, "enabled": False,
                "startup_timeout_secs": 4.0,
            },
        },
        env={"KEY": secret},
    )  # fmt: skip
    daemon.start()
    seen: list[str] = []

    def look() -> bool:
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    words = (folder / "cmdline").read_bytes()
                    if b"moltis.sdk.client" in words:
                        seen.append((words + (folder / "environ").read_bytes()).decode(errors="replace"))
                except OSError:
                    continue
        return bool(seen)

    for name in ("leaks", "far"):
        seen.clear()
        words = [PYTHON, "-m", "moltis", "mcp", "test", name, "--sdk", "--json"]
        places = {"MOLTIS_CONFIG": str(daemon.config), "MOLTIS_DATA_DIR": str(daemon.data_dir)}
        asking = subprocess.Popen(words, env=daemon.env | places, stdout=subprocess.PIPE, text=True)
        wait_until(f"the process with the SDK is seen for {name}", look, every=0.005)
        said, _ = asking.communicate(timeout=60)
        assert asking.returncode == 1
        assert json.loads(said)["sdk"]["error"]
        for text in (said, *seen, daemon.log_text()):
            assert secret not in text
            assert header not in text
    daemon.assert_nothing_left()


def test_it_ends_with_whoever_asked_and_leaves_nothing(daemon: Daemon) -> None:
    # It answers moltis, and says nothing to the next who asks.
    flag = daemon.folder / "asked"
    once = f"if [ -e {flag} ]; then sleep 600; fi; touch {flag}; exec {PYTHON} -S -E {SERVERS / 'picky_server.py'}"
    daemon.write({"p": daemon.real("sh", "-c", once, enabled=False)})
    daemon.start()
    with daemon.connect() as client:
        request = {"jsonrpc": "2.0", "id": 1, "method": "mcp.test", "params": {"name": "p", "sdk": True}}
        client.send(json.dumps(request).encode() + b"\n")
        wait_until("the SDK has started it", lambda: "sleep" in str(marked(daemon.mark).values()))
        wait_until("the first is gone", lambda: flag.exists())
    wait_until("nothing is left", lambda: not marked(daemon.mark))
    # The program that asked for the SDK has no mark, and ends beside what it had started.
    wait_until("the daemon is alone with its warden", lambda: len(daemon.own_pids()) == 2)


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    with place_in(folder) as place:
        yield place


def test_remote_servers_are_asked_over_the_transport_that_they_have(daemon: Daemon, place: Place) -> None:
    new, old = place.http_server(), place.evil("old-sse")
    daemon.write({"new": remote(new.url), "old": {"url": old.url, "transport": "sse", "protocol": "legacy"}})
    daemon.start().wait_all()
    code, found, _ = both(daemon, "new")
    assert (code, found["differences"], found["sdk"]["protocol_version"]) == (0, [], "2026-07-28")
    assert found["sdk"]["resource_count"] == found["resource_count"] > 0
    code, found, told = both(daemon, "old")
    assert (code, found["sdk"]["ok"], found["differences"]) == (0, True, []), told
    assert found["sdk"]["note"] == "by HTTP+SSE, after Streamable HTTP had failed"


@pytest.mark.timeout(600)
def test_a_stored_login_is_handed_over_and_never_renewed_and_so_is_a_header(
    daemon: Daemon, folder: Path, place: Place
) -> None:
    provider = place.provider(oidc_installed())
    url = place.protected_server(provider).url
    browser = Browser(folder)
    daemon.write({"s": remote(url)}, daemon={"browser_command": browser.argv})
    daemon.start().wait_for("s", "ready")
    before = provider.refreshes
    code, found, told = both(daemon, "s")
    assert (code, found["sdk"]["ok"], found["differences"]) == (0, True, []), told
    assert provider.refreshes == before
    kept = "".join(path.read_text() for path in (daemon.data_dir / "oauth").rglob("*") if path.is_file())
    (token,) = set(re.findall(r'"access_token": ?"([^"]+)"', kept))
    assert token not in json.dumps(found) + "".join(told) + daemon.log_text()
    header = {"Authorization": f"Bearer {token}"}
    other = url.replace("127.0.0.1", "localhost")
    daemon.write({"h": remote(url, headers=header), "bare": remote(other, headers={"Authorization": "Bearer no"})})
    daemon.rpc("daemon.reload")
    code, found, told = both(daemon, "h")
    assert (code, found["sdk"]["ok"], found["differences"]) == (0, True, []), told
    code, found, told = both(daemon, "bare")
    assert (code, found["ok"], found["sdk"]["error"]) == (1, False, "HTTP 401")
    assert token not in json.dumps(found) + "".join(told) + daemon.log_text()
