"""A daemon in small: grows one tree of each sort, lets them meet the death named, and says how each one ended.

`tree_driver.py DEATH`, with MARK in the environment for the trees to carry. It prints "up" and the pids as JSON, and
after a line on stdin the ends as JSON; it leaves when stdin is closed.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import sys
from pathlib import Path

import anyio

from moltis.config.limits import Limits
from moltis.config.plan import StdioLaunch
from moltis.transport import Ended
from moltis.transport.containment import Warden
from moltis.transport.stdio import StdioConnection, StdioTransport

SERVER = str(Path(__file__).with_name("tree_server.py"))
LIMITS = Limits(stop_eof_secs=0.2, stop_term_secs=0.3)
SORTS = list(itertools.product(("eof", "noeof", "ignterm"), ("group", "setsid", "daemon")))


class Tree:
    """One server with its grandchild."""

    def __init__(self, warden: Warden, mode: str, kind: str) -> None:
        launch = StdioLaunch(sys.executable, ("-I", "-S", SERVER, mode, kind, os.environ["MARK"]))
        self.transport = StdioTransport(
            f"{mode}-{kind}",
            launch,
            LIMITS,
            warden,
            scrub=str,
            on_stderr_line=lambda line: print(line, file=sys.stderr),
            on_stderr_dropped=lambda count: None,
        )
        self.up = anyio.Event()
        self.grandchild = 0
        self.connection: StdioConnection | None = None
        self.ended: Ended | None = None

    async def grow(self) -> None:
        self.connection = await self.transport.open(self.heard, self)
        await self.up.wait()

    def busy_until(self) -> float:
        return -math.inf

    def heard(self, message: bytes) -> None:
        self.grandchild = int(message.split()[2])
        self.up.set()

    async def watch(self) -> None:
        assert self.connection is not None
        self.ended = await self.connection.wait_closed()


def meet(death: str, warden: Warden, trees: list[Tree]) -> None:
    if death == "warden":
        assert warden.pid is not None
        os.kill(warden.pid, signal.SIGKILL)
    for tree in trees:
        assert tree.connection is not None
        assert tree.connection.pid is not None
        if death == "kill":
            tree.connection.kill()
        elif death == "leader":
            os.kill(tree.connection.pid, signal.SIGKILL)
        elif death == "grandchild":
            os.kill(tree.grandchild, signal.SIGKILL)
        elif death == "frozen":
            os.kill(tree.connection.pid, signal.SIGSTOP)
        if death in ("stop", "grandchild", "frozen"):
            tree.connection.stop()


async def main(death: str) -> None:
    warden = Warden()
    warden.start()
    trees = [Tree(warden, *sort) for sort in SORTS]
    async with anyio.create_task_group() as tasks:
        for tree in trees:
            tasks.start_soon(tree.grow)
    pids = [pid for tree in trees if tree.connection for pid in (tree.connection.pid, tree.grandchild)]
    print("up", json.dumps([*pids, warden.pid]), flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    async with anyio.create_task_group() as tasks:
        for tree in trees:
            tasks.start_soon(tree.watch)
        meet(death, warden, trees)
    print(json.dumps([[t.ended.kind, t.ended.exit_code, t.ended.message] for t in trees if t.ended]), flush=True)
    again = Tree(warden, "noeof", "daemon")
    await again.grow()
    print("again", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.read)
    await warden.aclose()
    assert again.connection is not None
    print((await again.connection.wait_closed()).kind, flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], backend_options={"use_uvloop": os.environ.get("LOOP") == "uvloop"})
