"""What the doctor sees: each check by itself, against files made for it."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moltis.config.plan import DaemonPlan, Plan, RemoteLaunch, ServerPlan, StdioLaunch
from moltis.doctor import (
    Answer,
    Finding,
    Problem,
    Verdict,
    check_config,
    check_daemon,
    check_files,
    check_servers,
    daemon_search_path,
    find_command,
)
from moltis.paths import Paths
from moltis.proxies import setting
from moltis.server.status import LastError, ServerStatus, UnusableItem


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(
        config=tmp_path / "moltis.toml", data_dir=tmp_path / "data", socket=tmp_path / "data" / "run" / "m.sock"
    )


def server(name: str = "s", state: str = "backoff", error: str | None = None, **more: Any) -> ServerStatus:
    """Return what a daemon says of a server that failed with `error`."""
    said = LastError(kind="exited", message=error, at="2026-01-01T00:00:00Z") if error is not None else None
    told = {"display_name": None, "transport": "stdio", "enabled": True, "status": "error", "last_error": said, **more}
    return ServerStatus(name=name, state=state, **told)


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def told(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(f.verdict.value, f.message) for f in findings]


def looked_at(
    launch: StdioLaunch | RemoteLaunch | None, path: str, *, daemon: str | None = None, **more: Any
) -> Finding:
    plan = Plan(servers=(ServerPlan(name="x", launch=launch, **more),))
    (finding,) = check_servers(plan, {"PATH": path}, daemon)
    return finding


def test_a_server_that_lacks_a_variable_of_the_daemon_is_told_with_the_line_that_passes_it_on(paths: Paths) -> None:
    error = LastError(
        kind="exited", message="exited with code 1", at="", stderr_tail=["npm error code SELF_SIGNED_CERT_IN_CHAIN"]
    )
    lacking = server("x", command="npx", last_error=error, env_withheld=["HTTPS_PROXY", "NODE_EXTRA_CA_CERTS"])
    status = {"version": "1", "pid": 1, "config_path": str(paths.config)}
    found = {f.message: f.hint for f in check_daemon(paths, Answer(status=status, servers=[lacking]), "1")}
    hint = found["x: backoff: exited with code 1"]
    assert hint.startswith('env_pass = ["NODE_EXTRA_CA_CERTS", "HTTPS_PROXY"] in [mcp.servers.x]')


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        (
            "cannot be reached at a.example: its name cannot be resolved",
            'proxy = "env" in [mcp.servers.x], or in [mcp]',
        ),
        (
            "cannot be reached at a.example: the proxy p:1 refuses the user and the password that it is given",
            "correct user and password of HTTPS_PROXY in the environment",
        ),
        ("answered initialize with HTTP 503", "moltis why x"),
    ],
)
def test_a_remote_server_that_is_not_reached_is_told_with_the_line_about_the_proxy(
    paths: Paths, message: str, hint: str
) -> None:
    lacking = server("x", error=message, env_withheld=["HTTPS_PROXY"], proxy="env")
    status = {"version": "1", "pid": 1, "config_path": str(paths.config)}
    found = {f.message: f.hint for f in check_daemon(paths, Answer(status=status, servers=[lacking]), "1")}
    assert found[f"x: backoff: {message}"].startswith(hint)


def test_a_remote_server_behind_a_proxy_is_said_to_be() -> None:
    launch = RemoteLaunch("https://x/", proxies=setting("http://me:s3cr3t@p.example:1", {}, own=True))
    server = ServerPlan("x", "sse", launch, proxy="http://[REDACTED]@p.example:1")
    (finding,) = check_servers(Plan(daemon=DaemonPlan(browser_command=()), servers=(server,)), {"PATH": ""}, None)
    assert finding.message == "x: remote, through a proxy (proxy = http://[REDACTED]@p.example:1)"


def test_a_command_with_its_arguments_in_it_says_where_they_go(tmp_path: Path) -> None:
    finding = looked_at(StdioLaunch("npx -y pkg"), str(tmp_path))
    assert (finding.verdict, finding.hint) == (Verdict.FAIL, 'write command = "npx" and args = ["-y", …]')
    assert "not on PATH" in looked_at(StdioLaunch("npx"), str(tmp_path)).message


def test_a_missing_config_file_names_the_command_that_makes_one(paths: Paths) -> None:
    (finding,) = check_config(paths, None, [])
    assert (finding.verdict, finding.hint) == (Verdict.FAIL, "moltis init")


def test_every_problem_of_the_config_is_a_finding(paths: Paths) -> None:
    paths.config.touch(0o600)
    problems = [Problem("a:1: k: wrong", is_error=True), Problem("a:2: k: odd", is_error=False)]
    assert told(check_config(paths, Plan(), problems)) == [("fail", "a:1: k: wrong"), ("warn", "a:2: k: odd")]


def test_a_config_that_others_can_read_is_a_warning(paths: Paths) -> None:
    paths.config.touch()
    paths.config.chmod(0o644)
    good, mode = check_config(paths, Plan(), [])
    assert good.verdict is Verdict.OK
    assert (mode.verdict, mode.hint) == (Verdict.WARN, f"chmod 600 {paths.config}")


def test_a_command_is_found_the_way_the_daemon_finds_it(tmp_path: Path) -> None:
    tool = program(tmp_path / "bin" / "tool")
    here = str(tool.parent)
    assert looked_at(StdioLaunch("tool"), "/nowhere").verdict is Verdict.FAIL
    assert looked_at(StdioLaunch("tool"), here, daemon="/nowhere").verdict is Verdict.FAIL
    assert str(tool) in looked_at(StdioLaunch("tool"), "/nowhere", daemon=here).message
    own = StdioLaunch("tool", env=(("PATH", here),))
    assert looked_at(own, "/nowhere").verdict is Verdict.OK


def test_a_command_only_a_login_shell_finds_is_a_warning(tmp_path: Path) -> None:
    tool = program(tmp_path / ".nvm" / "bin" / "tool")
    finding = looked_at(StdioLaunch("tool"), str(tool.parent))
    assert finding.verdict is Verdict.WARN
    assert str(tool) in finding.hint


def test_a_command_every_service_finds_is_well() -> None:
    assert looked_at(StdioLaunch("sh"), "/usr/bin:/bin").verdict is Verdict.OK


def test_a_file_that_may_not_be_executed_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    tool = program(tmp_path / "tool", 0o644)
    for command in ("tool", str(tool)):
        finding = looked_at(StdioLaunch(command), str(tmp_path))
        assert (finding.verdict, finding.hint) == (Verdict.FAIL, f"chmod +x {tool}")
    assert "there is no" in looked_at(StdioLaunch(str(tmp_path / "gone")), "/bin").message


def test_a_relative_command_is_looked_for_in_its_cwd(tmp_path: Path) -> None:
    program(tmp_path / "tool")
    assert find_command("./tool", "/bin", tmp_path) is not None
    assert find_command("./tool", "/bin", Path("/")) is None
    assert looked_at(StdioLaunch("./tool", cwd=str(tmp_path)), "/bin").verdict is Verdict.OK


def test_a_cwd_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    file = program(tmp_path / "file")
    assert "does not exist" in looked_at(StdioLaunch("sh", cwd=str(tmp_path / "no")), "/bin").message
    assert "is not a folder" in looked_at(StdioLaunch("sh", cwd=str(file)), "/bin").message


@pytest.mark.parametrize(("command", "runtime"), [("npx", "node"), ("uvx", "uv")])
def test_a_launcher_without_its_runtime_is_a_failure(tmp_path: Path, command: str, runtime: str) -> None:
    program(tmp_path / command)
    finding = looked_at(StdioLaunch(command), str(tmp_path))
    assert (finding.verdict, f"needs {runtime}" in finding.message) == (Verdict.FAIL, True)
    program(tmp_path / runtime)
    assert looked_at(StdioLaunch(command), str(tmp_path)).verdict is not Verdict.FAIL


def test_disabled_invalid_and_remote_servers_each_have_their_verdict() -> None:
    assert looked_at(StdioLaunch("no"), "/bin", enabled=False).verdict is Verdict.SKIP
    assert "no value for $T" in looked_at(None, "/bin", problem="no value for $T").message
    remote = Plan(daemon=DaemonPlan(browser_command=()), servers=(ServerPlan("x", "sse", RemoteLaunch("http://x")),))
    (finding,) = check_servers(remote, {"PATH": "/bin"}, None)
    assert finding.verdict is Verdict.SKIP


def test_a_ca_file_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    def finding() -> Finding:
        launch = RemoteLaunch("https://x", ca_file=str(tmp_path / "ca.pem"))
        plan = Plan(daemon=DaemonPlan(browser_command=()), servers=(ServerPlan("x", "sse", launch),))
        (found,) = check_servers(plan, {"PATH": "/bin"}, None)
        return found

    assert (finding().verdict, "does not exist" in finding().message) == (Verdict.FAIL, True)
    (tmp_path / "ca.pem").touch()
    assert finding().verdict is Verdict.SKIP


def test_a_browser_that_cannot_be_started_is_a_warning_where_a_login_may_need_it(tmp_path: Path) -> None:
    def verdicts(*servers: ServerPlan) -> list[Verdict]:
        plan = Plan(daemon=DaemonPlan(browser_command=("open-it", "-x")), servers=servers)
        return [f.verdict for f in check_servers(plan, {"PATH": str(tmp_path)}, None)]

    remote = ServerPlan("x", "sse", RemoteLaunch("http://x"))
    assert verdicts(remote) == [Verdict.SKIP, Verdict.WARN]
    assert Verdict.WARN not in verdicts(ServerPlan("y", launch=StdioLaunch("no"), enabled=False))
    program(tmp_path / "open-it")
    assert verdicts(remote) == [Verdict.SKIP]


def test_no_finding_repeats_what_a_launch_hides(tmp_path: Path) -> None:
    launch = StdioLaunch("gone", args=("CANARY",), env=(("K", "CANARY"),))
    for one in (launch, StdioLaunch("sh", args=("CANARY",), env=(("K", "CANARY"),))):
        assert "CANARY" not in str(looked_at(one, "/bin"))


def test_a_data_dir_that_others_can_enter_is_a_warning(paths: Paths) -> None:
    paths.data_dir.mkdir(mode=0o755)
    paths.data_dir.chmod(0o755)
    (finding,) = check_files(paths, os.getuid())
    assert (finding.verdict, finding.hint) == (Verdict.WARN, f"chmod 700 {paths.data_dir}")
    paths.data_dir.chmod(0o700)
    assert told(check_files(paths, os.getuid())) == [("ok", f"{paths.data_dir}: mode 0700")]


@pytest.mark.parametrize(
    ("changed", "said", "hint"),
    [
        ({"f_bavail": 3}, "no space left on its disk", "make room there"),
        ({"f_favail": 0, "f_files": 1000}, "no space left on its disk", "make room there"),
        ({"f_flag": os.ST_RDONLY}, "its file system is read-only", "mount it to be written to"),
    ],
)
def test_a_data_dir_in_which_nothing_more_can_be_kept_is_a_failure(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], said: str, hint: str
) -> None:
    paths.data_dir.mkdir(mode=0o700)
    room = {"f_frsize": 4096, "f_bavail": 1 << 20, "f_files": 1 << 20, "f_favail": 1 << 20, "f_flag": 0}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**(room | changed)))
    _, finding = check_files(paths, os.getuid())
    assert finding.verdict is Verdict.FAIL
    assert finding.message.startswith(f"{paths.data_dir}: {said}")
    assert finding.hint.startswith(hint)


def test_a_file_system_that_does_not_count_its_files_has_room(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.data_dir.mkdir(mode=0o700)
    room = SimpleNamespace(f_frsize=4096, f_bavail=1 << 20, f_files=0, f_favail=0, f_flag=0)  # btrfs
    monkeypatch.setattr(os, "statvfs", lambda path: room)
    assert [v for v, _ in told(check_files(paths, os.getuid()))] == ["ok"]


def test_a_data_dir_of_someone_else_is_a_failure(paths: Paths) -> None:
    paths.data_dir.mkdir(mode=0o700)
    (finding,) = check_files(paths, os.getuid() + 1)
    assert finding.verdict is Verdict.FAIL


def test_stores_that_others_can_read_are_warnings(paths: Paths) -> None:
    paths.data_dir.mkdir(mode=0o700)
    paths.env_overrides.touch()
    paths.env_overrides.chmod(0o640)
    assert ("warn", f"{paths.env_overrides}: mode 0640, others can read it") in told(check_files(paths, os.getuid()))


def test_a_socket_path_too_long_for_the_kernel_is_a_failure(tmp_path: Path) -> None:
    paths = Paths(config=tmp_path, data_dir=tmp_path / "none", socket=Path("/tmp") / ("x" * 120))
    assert [v for v, _ in told(check_files(paths, os.getuid()))] == ["skip", "fail"]


STATUS = {"version": "0.1.0", "pid": 4711}


def test_an_answering_daemon_is_well_and_its_sick_servers_are_not(paths: Paths) -> None:
    sick, well = server(error="it ended"), server("w", "ready", status="connected")
    answer = Answer(status={**STATUS, "config_path": str(paths.config)}, servers=[well, sick], is_running=True)
    good, bad = check_daemon(paths, answer, "0.1.0")
    assert good.verdict is Verdict.OK
    assert (bad.verdict, bad.message, bad.hint) == (Verdict.FAIL, "s: backoff: it ended", "moltis why s")


@pytest.mark.parametrize(
    ("state", "attempts", "told"),
    [
        ("starting", 1, True),
        ("initializing", 3, True),
        ("stopping", 2, True),
        ("starting", 0, False),
        ("stopped", 2, False),
    ],
)
def test_a_server_that_failed_is_named_while_it_is_tried_again_too(
    paths: Paths, state: str, attempts: int, told: bool
) -> None:
    failed = server("s", state, "it ended", status="disconnected", attempts=attempts)
    answer = Answer(status={**STATUS, "config_path": str(paths.config)}, servers=[failed], is_running=True)
    verdicts = [(finding.verdict, finding.message) for finding in check_daemon(paths, answer, "0.1.0")][1:]
    assert verdicts == ([(Verdict.FAIL, f"s: {state}: it ended")] if told else [])


def test_what_a_server_lists_and_hosts_do_not_get_is_a_warning(paths: Paths) -> None:
    items = [UnusableItem("tool", f"t{n}", "why: not listed") for n in range(5)]
    well = server("s", "ready", status="connected", unusable_items=items)
    answer = Answer(status={**STATUS, "config_path": str(paths.config)}, servers=[well], is_running=True)
    _, finding = check_daemon(paths, answer, "0.1.0")
    assert finding.verdict is Verdict.WARN
    assert "s: 5 of its items" in finding.message
    assert "tool t2: why: not listed; and 2 more" in finding.message


@pytest.mark.parametrize(
    ("said", "verdict", "words"),
    [
        ({"gateway_url": "http://127.0.0.1:8642/mcp"}, "ok", "serves hosts at http://127.0.0.1:8642/mcp"),
        ({"gateway_url": None, "gateway_problem": "127.0.0.1:8642 is taken"}, "warn", "127.0.0.1:8642 is taken"),
    ],
)
def test_it_says_where_hosts_are_served_or_why_not(
    paths: Paths, said: dict[str, str], verdict: str, words: str
) -> None:
    status = {**STATUS, "config_path": str(paths.config), **said}
    assert told(check_daemon(paths, Answer(status=status, is_running=True), "0.1.0"))[1] == (verdict, words)


def test_a_daemon_of_another_version_or_another_file_is_a_warning(paths: Paths) -> None:
    answer = Answer(status={**STATUS, "config_path": "/other.toml"}, is_running=True)
    _, version, config = check_daemon(paths, answer, "0.2.0")
    assert version.verdict is config.verdict is Verdict.WARN
    assert "/other.toml" in config.message


def test_what_a_dead_daemon_left_behind_is_harmless(paths: Paths) -> None:
    paths.socket.parent.mkdir(parents=True)
    paths.socket.touch()
    paths.lock.write_text(f"{os.getpid()}\n")  # a number that is in use again says nothing: nobody holds the lock
    assert [v for v, _ in told(check_daemon(paths, Answer(trouble="no"), "0.1.0"))] == ["warn", "ok", "ok"]


def test_a_daemon_that_lives_and_does_not_answer_is_a_failure(paths: Paths) -> None:
    paths.lock.parent.mkdir(parents=True)
    paths.lock.write_text("4711\n")
    with paths.lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (finding,) = check_daemon(paths, Answer(trouble="no reply"), "0.1.0")
    assert finding.verdict is Verdict.FAIL
    assert finding.hint == "kill 4711"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc/PID/environ")
def test_the_path_of_a_running_process_is_its_own() -> None:
    assert daemon_search_path(os.getpid()) is not None
    assert daemon_search_path(999_999_999) is None
