"""Run a stdio server and keep every byte that passes: `tee.py FOLDER COMMAND ARGS...`.

FOLDER/sent has what the client wrote and FOLDER/received what the server wrote, both verbatim. The exit code is the
server's. Standard library only; it ends as its server does: on the end of stdin.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading


def pump(source: int, target: int, copy: int) -> None:
    while data := os.read(source, 1 << 16):
        for fd in (copy, target):
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
    os.close(target)


def main() -> None:
    folder, *argv = sys.argv[1:]
    sent, received = (
        os.open(f"{folder}/{n}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for n in ("sent", "received")
    )
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    threading.Thread(target=pump, args=(0, os.dup(child.stdin.fileno()), sent), daemon=True).start()
    child.stdin.close()
    pump(child.stdout.fileno(), 1, received)
    os._exit(child.wait() & 0xFF)


main()
