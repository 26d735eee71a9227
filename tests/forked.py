"""Runs `moltis`, or a script, as a process that is forked from one which has imported everything already.

    forked.py SOCKET MODULE...    what is forked from: imports the modules, listens at SOCKET, and ends with its stdin

What is run is a process like any other: its arguments, environment, folder, descriptors and exit status are its own.
It only begins where the interpreter and its imports have come to, which is most of what a command, or the start of a
daemon, takes. Whatever depends on how an interpreter starts is not seen here: that is for `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import hashlib
import importlib
import json
import os
import pkgutil
import resource
import runpy
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

AT_START = ("PYTHON", "LC_", "LANG")
"""How variables begin that an interpreter reads when it starts."""

SHARED = "MOLTIS_TEST_FORGES"
"""The variable that names a folder of sockets, for programs that are started by this one."""

PRELOADED = tuple(
    f"moltis.{name}" for name in ("cli", "config", "control", "daemon", "gateway", "http", "oauth", "session")
)

SDK = ("mcp.server.auth.provider", "mcp.server.auth.settings", "mcp.server.mcpserver", "uvicorn")
"""What servers of the tests that are made with the official SDK import."""

MAX_STDIN = 32 * 1024
"""What a pipe takes before anyone reads it."""


class Process:
    """A process that was forked; what one does with a `subprocess.Popen`."""

    def __init__(self, words: Sequence[str], told: int) -> None:
        self.args = list(words)
        self.returncode: int | None = None
        self._told = told
        self._heard = b""
        while b" " not in self._heard:
            data = os.read(told, 64)
            if not data:
                raise OSError("nothing was forked")
            self._heard += data
        pid, _, self._heard = self._heard.partition(b" ")
        self.pid = int(pid)

    def __del__(self) -> None:
        if self._told >= 0:
            os.close(self._told)

    def poll(self) -> int | None:
        """Return its exit status as `subprocess` has it, or None while it runs."""
        return self._listen(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status once it has ended. Raise TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self._listen(None if deadline is None else max(0.0, deadline - time.monotonic()))) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _listen(self, secs: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], secs)[0]:
            data = os.read(self._told, 64)
            self._heard += data
            if not data:
                os.close(self._told)
                self._told = -1
                self.returncode = os.waitstatus_to_exitcode(int(self._heard))
        return self.returncode


def start(
    args: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    streams: Sequence[int],
    session: bool = False,
    limits: Mapping[int, int] | None = None,
    script: Path | None = None,
) -> Process:
    """Start `moltis` with these arguments on three streams, in a session of its own if it is to have one.

    `limits` are by RLIMIT_ number. `script`: what is run instead of `moltis`, a server made with the official SDK.
    """
    told, tell = os.pipe()
    request = {"args": list(args), "env": dict(env), "cwd": str(cwd), "session": session}
    request["script"] = str(script) if script else ""
    request["limits"] = list((limits or {}).items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        try:
            line.connect(forge(at_start(env), SDK if script else PRELOADED))
            socket.send_fds(line, [json.dumps(request).encode()], [*streams, tell])
        except OSError:
            os.close(told)
            raise
        finally:
            os.close(tell)
        return Process([str(script or "moltis"), *args], told)


def run(
    args: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: str = "", within: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `moltis` with these arguments, as `subprocess.run` would. Raise TimeoutExpired after `within` seconds."""
    words = stdin.encode()
    assert len(words) <= MAX_STDIN, "more than a pipe takes at once"
    deadline = time.monotonic() + within
    (read_in, write_in), (out, write_out), (err, write_err) = (os.pipe() for _ in range(3))
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, out)
        opened.callback(os.close, err)
        try:
            os.write(write_in, words)
            process = start(args, env=env, cwd=cwd, streams=(read_in, write_out, write_err))
        finally:
            for descriptor in (write_in, read_in, write_out, write_err):
                os.close(descriptor)
        heard = hear({"out": out, "err": err}, deadline)
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        raise subprocess.TimeoutExpired(process.args, within, heard["out"], heard["err"]) from None
    return subprocess.CompletedProcess(process.args, code, heard["out"].decode(), heard["err"].decode())


def hear(descriptors: Mapping[str, int], deadline: float) -> dict[str, bytes]:
    """Return what is said on each until its end, or until the deadline."""
    heard = {name: bytearray() for name in descriptors}
    with selectors.DefaultSelector() as selector:
        for name, descriptor in descriptors.items():
            selector.register(descriptor, selectors.EVENT_READ, name)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                heard[key.data] += data
                if not data:
                    selector.unregister(key.fd)
    return {name: bytes(said) for name, said in heard.items()}


def at_start(env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what of an environment an interpreter reads when it starts."""
    return tuple(sorted((name, value) for name, value in env.items() if name.startswith(AT_START)))


def shared() -> dict[str, str]:
    """Return what the environment of a program has to have that is to fork from what this one forks from."""
    return {SHARED: str(Path(forge(at_start(os.environ), PRELOADED)).parent)}


@functools.cache
def forge(started_with: tuple[tuple[str, str], ...], modules: tuple[str, ...]) -> str:
    """Return the address of a process to fork from. It ends with this one, unless it is shared by another."""
    name = hashlib.sha256(repr((started_with, modules)).encode()).hexdigest()[:16]
    shared = Path(os.environ[SHARED]) / name if SHARED in os.environ else None
    if shared is not None and shared.exists():
        return str(shared)
    folder = Path(tempfile.mkdtemp(prefix="moltis-"))
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder / name), *modules],
        env={"PATH": os.environ["PATH"], **dict(started_with)},
        stdin=subprocess.PIPE,  # pipes, as what is forked from it has: what a stream can do is found out once
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    def end() -> None:
        process.communicate(timeout=10)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise OSError(f"{__file__} ended:\n{process.communicate()[1].decode()}")
    return str(folder / name)


# --- the process that is forked from


def serve(listener: socket.socket) -> str:
    """Fork a process for each request. Return, in that process alone, the script that it is to run; "" is `moltis`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a keeper
    while True:
        ready, _, _ = select.select([listener, sys.stdin.fileno()], [], [])
        if sys.stdin.fileno() in ready:
            os._exit(0)
        line, _ = listener.accept()
        request, descriptors, _, _ = socket.recv_fds(line, 1 << 20, 4)
        line.close()
        if len(descriptors) == 4 and os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            asked = json.loads(request)
            keep(asked, descriptors)
            return str(asked["script"])
        for descriptor in descriptors:
            os.close(descriptor)


def keep(request: dict[str, object], descriptors: Sequence[int]) -> None:
    """Fork once more, and return in the new process. In the old one tell its pid, then its status, and end."""
    *standard, tell = descriptors
    pid = os.fork()
    if pid:
        for descriptor in (0, 1, 2, *standard):
            os.close(descriptor)
        os.write(tell, b"%d " % pid)
        _, status = os.waitpid(pid, 0)
        os.write(tell, b"%d" % status)
        os._exit(0)
    os.close(tell)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    args, env, limits = request["args"], request["env"], request["limits"]
    assert isinstance(args, list)
    assert isinstance(env, dict)
    assert isinstance(limits, list)
    if request["session"]:
        os.setsid()
    for number, value in limits:
        resource.setrlimit(number, (value, value))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(str(request["cwd"]))
    ran = request["script"] or Path(importlib.import_module("moltis").__path__[0]) / "__main__.py"
    sys.argv = [str(ran), *args]


def main() -> NoReturn:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(sys.argv[1])
    listener.listen(128)
    for name in sys.argv[2:]:
        package = importlib.import_module(name)
        if name.startswith("moltis."):
            for module in pkgutil.walk_packages(package.__path__, f"{name}."):
                importlib.import_module(module.name)
    sys.path[0] = ""  # as with `python -m`
    gc.collect()
    gc.freeze()  # what is there for all is not looked at, which would copy it, by each
    os.write(sys.stdout.fileno(), b"ready\n")
    if script := serve(listener):
        warnings.simplefilter("ignore")
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(script, run_name="__main__")
        sys.exit(0)
    importlib.import_module("moltis.cli").main()
    raise AssertionError("it ends the process")


if __name__ == "__main__":
    main()
