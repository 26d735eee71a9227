"""What can be wrong around a daemon and its servers, looked at one thing after another.

Only looks: starts nothing, writes nothing, changes no mode. What the running daemon says is given to it, so that every
check is a function of files and arguments. No finding holds a secret: configuration problems are scrubbed where they
are made, and launches are named by their command alone.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from moltis import private
from moltis.config.near_misses import in_one_line
from moltis.config.plan import Plan, RemoteLaunch, ServerPlan, StdioLaunch
from moltis.config.surroundings import advice, proxy_advice, remote_advice
from moltis.containers import docker_run
from moltis.names import entry_of
from moltis.packages import unpinned
from moltis.paths import MAX_SOCKET_PATH, Paths
from moltis.server.states import TRYING, State
from moltis.server.status import ServerStatus

SHOWN_NAMES = 5
"""Of the servers that have the same trouble."""

LEAST_ROOM_BYTES = 1 << 20
"""A login, a list that is remembered and some log: below that the next one may be lost."""

SERVICE_PATHS = {
    "linux": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "darwin": "/usr/bin:/bin:/usr/sbin:/sbin",
}
"""What a program finds itself with when started by systemd (systemd.exec(5), "$PATH") or launchd, not by a shell."""

RUNTIMES = {"npx": "node", "npm": "node", "pnpm": "node", "yarn": "node", "uvx": "uv"}
"""A launcher that is there without the program it needs fails only later, and less clearly."""


class Verdict(StrEnum):
    """How one finding is meant."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `hint` is the command or change that mends it, or empty."""

    section: str
    verdict: Verdict
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of the configuration, as text with its file and line."""

    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon said when asked: its status and servers, or why there is no answer."""

    status: Mapping[str, Any] | None = None
    servers: Sequence[ServerStatus] = ()
    trouble: str = ""
    is_running: bool = False


Check = Callable[[ServerPlan, Mapping[str, str], str | None], Iterable[Finding]]
"""What is looked at of a server, by its kind; the arguments are those of `check_servers`."""


def check_config(paths: Paths, plan: Plan | None, problems: Sequence[Problem]) -> Iterator[Finding]:
    """Look at moltis.toml: there, parsed, right, and not open to others."""
    section = "config"
    if not paths.config.exists():
        yield Finding(section, Verdict.FAIL, f"{paths.config}: no such file", "moltis init")
        return
    for problem in problems:
        verdict = Verdict.FAIL if problem.is_error else Verdict.WARN
        yield Finding(section, verdict, problem.text, "moltis config check" if problem.is_error else "")
    if plan is not None and not any(problem.is_error for problem in problems):
        count = len(plan.servers)
        yield Finding(section, Verdict.OK, f"{paths.config}: {count} server{'s' if count != 1 else ''}")
    yield from _check_mode(section, paths.config, "others can read it, and secrets written in it")


def check_servers(plan: Plan, environ: Mapping[str, str], daemon_path: str | None) -> Iterator[Finding]:
    """Look at what each server needs before it can start.

    Args:
        plan: what is to run.
        environ: this process's environment; HOME and PATH count.
        daemon_path: PATH of the running daemon, None when unknown: then `environ`'s stands for it.
    """
    yield from _once(_check_each(plan, environ, daemon_path))
    yield from _check_browser(plan, daemon_path or environ.get("PATH", os.defpath))


def _check_each(plan: Plan, environ: Mapping[str, str], daemon_path: str | None) -> Iterator[tuple[str, Finding]]:
    """Yield what is found of each server, with its name; the messages begin with what is said of it."""
    for server in plan.servers:
        name = server.name
        if not server.enabled:
            yield name, Finding("servers", Verdict.SKIP, State.DISABLED.value)
        elif server.problem or server.launch is None:
            yield name, Finding("servers", Verdict.FAIL, server.problem or State.INVALID.value, "moltis config check")
        else:
            check: Check = server.kind.code(server.kind.checks)
            for finding in check(server, environ, daemon_path):
                yield name, finding


def _once(found: Iterable[tuple[str, Finding]]) -> Iterator[Finding]:
    """Say once what is the matter with several servers, with all their names."""
    names: dict[Finding, list[str]] = {}
    for name, finding in found:
        names.setdefault(finding, []).append(name)
    for finding, of in names.items():
        if finding.verdict in (Verdict.OK, Verdict.SKIP):
            for name in of:
                yield replace(finding, message=f"{name}: {finding.message}")
            continue
        shown = ", ".join(of[:SHOWN_NAMES])
        more = f" and {len(of) - SHOWN_NAMES} more" if len(of) > SHOWN_NAMES else ""
        yield replace(finding, message=f"{shown}{more}: {finding.message}")


def check_program(server: ServerPlan, environ: Mapping[str, str], daemon_path: str | None) -> Iterator[Finding]:
    """Look at what a local server needs: its program, its folder, and what a launcher is told."""
    assert isinstance(server.launch, StdioLaunch)
    yield from _check_launch(server, server.launch, environ, daemon_path)
    yield from _check_args(server, server.launch, environ)


def _check_args(server: ServerPlan, launch: StdioLaunch, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look at what a launcher is told: whether a container serves and ends, and which version of a package runs."""
    entry = f"args in {entry_of(server.name)}"
    run = docker_run(launch.command, launch.args)
    if run is not None:
        if not run.interactive:
            message = "docker run without -i: its container has no stdin, and ends at once"
            yield Finding("servers", Verdict.FAIL, message, f'add "-i" to {entry}, right after "run"')
        if run.tty or run.detach:
            option = "-t (--tty)" if run.tty else "-d (--detach)"
            message = f"docker run with {option}: there is no terminal, and MCP goes over stdin and stdout"
            yield Finding("servers", Verdict.FAIL, message, f"take it out of {entry}")
        if missing := run.missing():
            told = " and ".join(missing).replace("--name", "--name or --cidfile")
            message = f"docker run without {told}: its container may outlive it, and cannot be found then"
            values = [f'"{option}"' + (f', "mcp-{server.name}"' if option == "--name" else "") for option in missing]
            hint = f'add {", ".join(values)} to {entry}, right after "run"'
            yield Finding("servers", Verdict.WARN, message, hint)
    package = unpinned(launch.command, launch.args, {**environ, **dict(launch.env)})
    if package is not None:
        now = f"now {package.version}" if package.version else "none is installed yet"
        message = f"{package.runner} runs {package.written} in whatever version is the newest ({now})"
        yield Finding("servers", Verdict.WARN, message, f'write "{package.pinned}" in {entry} to keep that one')


def check_remote(server: ServerPlan, environ: Mapping[str, str], daemon_path: str | None) -> Iterator[Finding]:
    """Look at what a remote server needs on this machine; whether it is there is for `moltis mcp test` to say."""
    launch = server.launch
    assert isinstance(launch, RemoteLaunch)
    if launch.ca_file is not None and not os.access(launch.ca_file, os.R_OK):
        reason = "cannot be read" if os.path.exists(launch.ca_file) else "does not exist"
        message = f"ca_file {launch.ca_file} {reason}"
        yield Finding("servers", Verdict.FAIL, message, "put the certificates there, or correct ca_file")
        return
    through = "remote" if launch.way is None else f"remote, through a proxy (proxy = {server.proxy})"
    yield Finding("servers", Verdict.SKIP, through, f"moltis mcp test {server.name}")


def _check_browser(plan: Plan, path: str) -> Iterator[Finding]:
    """Look whether a login could open a browser; without one, `moltis mcp reauth` shows the address."""
    remote = any(server.launch is not None and server.kind.logs_in and server.enabled for server in plan.servers)
    command = plan.daemon.browser_command
    if remote and command and find_command(command[0], path, None) is None:
        message = f"browser_command: {command[0]} is not on PATH, so a login opens no browser"
        yield Finding("servers", Verdict.WARN, message, "moltis mcp reauth NAME shows the address to open")


def _check_launch(
    server: ServerPlan, launch: StdioLaunch, environ: Mapping[str, str], daemon_path: str | None
) -> Iterator[Finding]:
    cwd = Path(os.path.expanduser(launch.cwd)) if launch.cwd else None
    if cwd is not None and not cwd.is_dir():
        reason = "is not a folder" if cwd.exists() else "does not exist"
        yield Finding("servers", Verdict.FAIL, f"cwd {launch.cwd} {reason}", f"mkdir -p {cwd}")
        return
    own_path = dict(launch.env).get("PATH")
    search = own_path or daemon_path or environ.get("PATH", os.defpath)
    found = find_command(launch.command, search, cwd)
    if found is None:
        yield _not_found(launch.command, search, cwd)
        return
    runtime = RUNTIMES.get(Path(launch.command).name)
    if runtime and find_command(runtime, search, None) is None:
        hint = f"install {runtime}, or give the daemon a PATH that has it"
        yield Finding("servers", Verdict.FAIL, f"{launch.command} needs {runtime}, not on PATH", hint)
        return
    service = SERVICE_PATHS.get(sys.platform, SERVICE_PATHS["linux"])
    if own_path is None and find_command(launch.command, service, cwd) is None:
        yield Finding(
            "servers",
            Verdict.WARN,
            f"{launch.command} is {found}, which is not on the PATH of a service",
            f'write command = "{found}", or set PATH in the service\'s unit',
        )
        return
    yield Finding("servers", Verdict.OK, found)


def find_command(command: str, path: str, cwd: Path | None) -> str | None:
    """Return the file that the command would run, or None; a command with a slash is looked for from `cwd`."""
    if "/" not in command:
        return shutil.which(command, path=path)
    file = (cwd or Path.cwd()) / os.path.expanduser(command)
    return str(file) if file.is_file() and os.access(file, os.X_OK) else None


def _not_found(command: str, path: str, cwd: Path | None) -> Finding:
    folders = [cwd or Path.cwd()] if "/" in command else [Path(p) for p in path.split(os.pathsep) if p]
    there = next((f for folder in folders if (f := folder / os.path.expanduser(command)).is_file()), None)
    if there is not None:
        return Finding("servers", Verdict.FAIL, f"{there} is not executable", f"chmod +x {there}")
    if line := in_one_line(command):
        return Finding("servers", Verdict.FAIL, f"there is no program {command}", f"write {line}")
    where = "there is no" if "/" in command else "not on PATH:"
    return Finding("servers", Verdict.FAIL, f"{where} {command}", "install it, or write its full path as command")


def check_files(paths: Paths, uid: int) -> Iterator[Finding]:
    """Look at who owns and who can read what is the daemon's own."""
    section = "files"
    if not paths.data_dir.exists():
        yield Finding(section, Verdict.SKIP, f"{paths.data_dir}: not made yet; the daemon makes it (0700)")
    else:
        for folder in dict.fromkeys((paths.data_dir, paths.socket.parent, paths.oauth_dir, paths.known_dir)):
            yield from _check_folder(folder, uid)
        yield from _check_room(paths.data_dir)
        for file in (paths.env_overrides, paths.access_tokens, paths.log):
            try:
                private.check_file(os.lstat(file) if file == paths.log else os.stat(file), believed=file != paths.log)
            except private.Unusable as fault:
                yield Finding(section, Verdict.FAIL, f"{file} {fault}", fault.remedy(file))
            except OSError:
                pass  # there is none, which is well
            else:
                yield from _check_mode(section, file, "others can read it")
    length = len(os.fsencode(paths.socket))
    if length > MAX_SOCKET_PATH:
        message = f"{paths.socket}: {length} bytes, a socket's path may have {MAX_SOCKET_PATH}"
        yield Finding(section, Verdict.FAIL, message, "set MOLTIS_SOCKET to a shorter path")


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _check_room(folder: Path) -> Iterator[Finding]:
    """Look whether something can still be written there: without, the log stands still and no login is kept."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return
    if found.f_flag & os.ST_RDONLY:
        message = f"{folder}: its file system is read-only; logins, tokens and the log cannot be kept"
        yield Finding(
            "files", Verdict.FAIL, message, "mount it to be written to, or set MOLTIS_DATA_DIR to another folder"
        )
    elif found.f_bavail * found.f_frsize < LEAST_ROOM_BYTES or (found.f_files and not found.f_favail):
        message = f"{folder}: no space left on its disk; logins, tokens and the log cannot be kept"
        yield Finding("files", Verdict.FAIL, message, "make room there; the log goes on by itself then")


def _check_folder(folder: Path, uid: int) -> Iterator[Finding]:
    try:
        found = folder.stat()
    except OSError:
        return
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        yield Finding("files", Verdict.FAIL, f"{folder}: not a folder", "move it away")
    elif found.st_uid != uid:
        yield Finding(
            "files", Verdict.FAIL, f"{folder}: belongs to uid {found.st_uid}, not {uid}", f"chown {uid} {folder}"
        )
    elif mode & 0o077:
        yield Finding("files", Verdict.WARN, f"{folder}: mode {mode:04o}, others can enter", f"chmod 700 {folder}")
    elif not os.access(folder, os.W_OK | os.X_OK) and not _is_read_only(folder):
        yield Finding("files", Verdict.FAIL, f"{folder}: not writable", f"chmod 700 {folder}")
    else:
        yield Finding("files", Verdict.OK, f"{folder}: mode {mode:04o}")


def _check_mode(section: str, file: Path, consequence: str) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        yield Finding(section, Verdict.WARN, f"{file}: mode {mode:04o}, {consequence}", f"chmod 600 {file}")


def check_daemon(paths: Paths, answer: Answer, version: str) -> Iterator[Finding]:
    """Look at the daemon: answering, of this version, its servers well; or what it left behind."""
    section = "daemon"
    if answer.status is None:
        yield from _check_absence(paths, answer)
        return
    theirs = answer.status["version"]
    yield Finding(section, Verdict.OK, f"answers on {paths.socket} (pid {answer.status['pid']})")
    if theirs != version:
        message = f"the daemon is {theirs}, this command {version}"
        yield Finding(section, Verdict.WARN, message, "moltis stop, then moltis run")
    if answer.status["config_path"] != str(paths.config):
        message = f"the daemon reads {answer.status['config_path']}, this command {paths.config}"
        yield Finding(section, Verdict.WARN, message, "give the same --config, or set MOLTIS_CONFIG")
    if answer.status.get("gateway_url"):
        yield Finding(section, Verdict.OK, f"serves hosts at {answer.status['gateway_url']}")
    elif answer.status.get("gateway_problem"):
        hint = "hosts that start `moltis connect` are served all the same"
        yield Finding(section, Verdict.WARN, str(answer.status["gateway_problem"]), hint)
    for server in answer.servers:
        yield from _check_items(server)
        if server.enabled and (server.status == "error" or (server.failing and server.state in TRYING)):
            error = server.last_error
            words = error.message if error is not None else ""
            lines = (*(error.stderr_tail if error is not None else ()), words)
            if server.command:
                lacking = advice(server.name, lines, server.env_withheld)
            else:
                of_proxy = proxy_advice(server.name, words, server.proxy)
                lacking = next(iter(of_proxy), None) or remote_advice(server.name, words, server.env_withheld)
            message = f"{server.name}: {server.state}: {words or 'no reason given'}"
            yield Finding(section, Verdict.FAIL, message, lacking or f"moltis why {server.name}")


def _check_items(server: ServerStatus) -> Iterator[Finding]:
    """Look whether hosts get all that a server lists."""
    items = server.unusable_items
    if items:
        first = "; ".join(f"{item.kind} {item.name}: {item.reason}" for item in items[:3])
        more = f"; and {len(items) - 3} more" if len(items) > 3 else ""
        message = f"{server.name}: {len(items)} of its items are not as MCP or hosts have them: {first}{more}"
        yield Finding("daemon", Verdict.WARN, message, f"moltis status {server.name}; its author can mend them")


def _check_absence(paths: Paths, answer: Answer) -> Iterator[Finding]:
    holder = _lock_holder(paths.lock)
    if answer.is_running or holder is not None:
        who = f" (pid {holder})" if holder is not None else ""
        message = f"a daemon{who} is there and does not answer: {answer.trouble}"
        yield Finding("daemon", Verdict.FAIL, message, f"kill {holder}" if holder is not None else "moltis stop")
        return
    yield Finding("daemon", Verdict.WARN, "not running", "moltis run")
    if paths.socket.exists():
        yield Finding("daemon", Verdict.OK, f"{paths.socket}: left behind; the next daemon takes it over")
    if paths.lock.exists():
        yield Finding("daemon", Verdict.OK, f"{paths.lock}: held by no one")


def _lock_holder(lock: Path) -> str | None:
    """Return the pid in the lock file while a daemon holds it, as it stands there; None when none does.

    The pid alone says nothing: the file stays when a daemon is killed, and its number may be another process's by now.
    A shared lock is tried and given back at once: a daemon that starts in those microseconds would be refused.
    """
    try:
        fd = private.open_file(lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        if private.try_lock(fd, shared=True):
            return None
        return os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
    except OSError:
        return None
    finally:
        os.close(fd)


def daemon_search_path(pid: int) -> str | None:
    """Return the PATH that a running process was started with (proc(5), `/proc/PID/environ`), or None where unknown."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    return next((os.fsdecode(v[5:]) for v in raw.split(b"\0") if v.startswith(b"PATH=")), None)
