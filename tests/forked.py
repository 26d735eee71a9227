"""Runs `moltis` as a process that is forked from one which has imported everything already.

    forked.py SOCKET    the process that is forked from; SOCKET is the number of a descriptor

What is run is a process like any other: its arguments, environment, folder, descriptors and exit status are its own.
It only begins where the interpreter and its imports have come to, which is most of what a command takes. Whatever
depends on how an interpreter starts is not seen here: that is for `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

AT_START = ("PYTHON", "LC_", "LANG")
"""How variables begin that an interpreter reads when it starts."""

MAX_STDIN = 32 * 1024
"""What a pipe takes before anyone reads it."""


def run(
    args: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: str = "", within: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `moltis` with these arguments, as `subprocess.run` would. Raise TimeoutExpired after `within` seconds."""
    words = stdin.encode()
    assert len(words) <= MAX_STDIN, "more than a pipe takes at once"
    theirs, ours = zip(*(os.pipe() for _ in range(3)), strict=True)
    read_in, out, err = theirs
    write_in, write_out, write_err = ours
    told, tell = os.pipe()
    try:
        os.write(write_in, words)
        request = json.dumps({"args": list(args), "env": dict(env), "cwd": str(cwd)}).encode()
        socket.send_fds(forge(at_start(env)), [request], [read_in, write_out, write_err, tell])
    finally:
        for descriptor in (write_in, read_in, write_out, write_err, tell):
            os.close(descriptor)
    heard = hear({"out": out, "err": err, "told": told}, within)
    numbers = heard["told"].split()
    if len(numbers) < 2:
        if numbers:
            os.kill(int(numbers[0]), signal.SIGKILL)
        raise subprocess.TimeoutExpired(["moltis", *args], within, heard["out"], heard["err"])
    _, status = numbers
    code = os.waitstatus_to_exitcode(int(status))
    return subprocess.CompletedProcess(["moltis", *args], code, heard["out"].decode(), heard["err"].decode())


def at_start(env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what of an environment an interpreter reads when it starts."""
    return tuple(sorted((name, value) for name, value in env.items() if name.startswith(AT_START)))


@functools.cache
def forge(started_with: tuple[tuple[str, str], ...]) -> socket.socket:
    """Return the line to a process that commands are forked from, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env={"PATH": os.environ["PATH"], **dict(started_with)},
            stdin=subprocess.PIPE,  # pipes, as what is forked from it has: what a stream can do is found out once
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.communicate(timeout=10)

    atexit.register(end)
    return ours


def hear(descriptors: Mapping[str, int], within: float) -> dict[str, bytes]:
    """Return what is said on each until its end, or until so many seconds are over, and close them."""
    heard = {name: bytearray() for name in descriptors}
    deadline = time.monotonic() + within
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as opened:
        for name, descriptor in descriptors.items():
            opened.callback(os.close, descriptor)
            selector.register(descriptor, selectors.EVENT_READ, name)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                heard[key.data] += data
                if not data:
                    selector.unregister(key.fd)
    return {name: bytes(said) for name, said in heard.items()}


# --- the process that is forked from


def serve(line: socket.socket) -> None:
    """Fork a process for each request. Return, in that process alone, once it is to run `moltis`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a keeper
    while True:
        request, descriptors, _, _ = socket.recv_fds(line, 1 << 20, 4)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            line.close()
            keep(json.loads(request), descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def keep(request: dict[str, object], descriptors: Sequence[int]) -> None:
    """Fork once more, and return in the new process. In the old one tell its pid, then its status, and end."""
    *standard, tell = descriptors
    pid = os.fork()
    if pid:
        for descriptor in standard:
            os.close(descriptor)
        os.write(tell, b"%d " % pid)
        _, status = os.waitpid(pid, 0)
        os.write(tell, b"%d" % status)
        os._exit(0)
    os.close(tell)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    args, env, cwd = request["args"], request["env"], request["cwd"]
    assert isinstance(args, list)
    assert isinstance(env, dict)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(str(cwd))
    sys.argv = [str(Path(importlib.import_module("moltis").__path__[0]) / "__main__.py"), *args]


def main() -> NoReturn:
    line = socket.socket(fileno=int(sys.argv[1]))
    cli = importlib.import_module("moltis.cli")
    for module in pkgutil.walk_packages(cli.__path__, "moltis.cli."):
        importlib.import_module(module.name)
    sys.path[0] = ""  # as with `python -m`
    gc.collect()
    gc.freeze()  # what is there for all is not looked at, which would copy it, by each
    serve(line)
    cli.main()
    raise AssertionError("it ends the process")


if __name__ == "__main__":
    main()
