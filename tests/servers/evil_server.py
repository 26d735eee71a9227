"""A stdio MCP server with a mode per fault. Standard library only; starts fast as `python -S -E evil_server.py`.

    evil_server.py [--mode NAME[=VALUE]]... [--name NAME] [--mark TEXT] [--events FILE]

Modes combine. Without any it is a plain, well-behaved server of the handshake era (2024-11-05 to 2025-11-25).

  exit            exit-at-once=CODE  exit-after-ready=SECS  appear-later=FILE (exits 1 until FILE exists)
  silence         slow-start=SECS  hang-init  hang-after-ready  no-stdin-read  close-stdout
  refusal to end  eof-ignoring  ignterm
  noise           flood-stderr=MB  flood-stderr-noline=MB  big-line=MIB  garbage  secret-leaker
                  list-changed-storm=PER_SEC
  protocol        many-tools=N  endless-cursor  unsolicited  dup-ids
  processes       grandchild=group|setsid|daemon  stubborn-grandchild=group|setsid|daemon  zombies=N
                  kill-parent=group|parent (each once per events file)

`--mark` does nothing: it is what a test looks for in /proc/*/cmdline, and forks carry it on. `--events` is a file to
which "TIME PID WORD..." lines are appended: what the server saw, by its own account. Tools are listed in `TOOLS`.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

KNOWN_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
TOOLS = {
    "echo": {"message": "string"},  # gives `message` back
    "blob": {"size": "integer"},  # a text of so many bytes
    "slow": {"secs": "number"},  # answers later; other requests go on meanwhile
    "progress": {"every": "number", "secs": "number"},  # reports progress until it answers
    "never": {},  # no answer
    "cancelled": {},  # the ids named by notifications/cancelled so far
    "dump": {},  # its own environment, file descriptors, folder, argv, pid and parent
    "die": {"code": "integer", "say": "string"},  # says it on stderr and exits without answering
    "say": {"text": "string"},  # a line on stderr
    "fail": {"text": "string"},  # a tool result with isError
    "rpc_error": {"text": "string"},  # a JSON-RPC error with data
    "leak": {},  # an isError result that holds its whole environment and argv
    "replies": {},  # what the client answered to the requests of `unsolicited`
    "stop_reading": {},  # reads no stdin from now on
    "big_line": {"mib": "integer"},  # writes a line without meaning, then answers
}


class Options:
    """The command line."""

    def __init__(self, argv: list[str]) -> None:
        self.modes: dict[str, str] = {}
        self.name = "evil"
        self.events: str | None = None
        words = iter(argv)
        for word in words:
            value = next(words, "")
            if word == "--mode":
                mode, _, setting = value.partition("=")
                self.modes[mode] = setting
            elif word == "--name":
                self.name = value
            elif word == "--events":
                self.events = value
            elif word != "--mark":
                sys.exit(f"evil_server: unknown option {word}")


class Server:
    """One thread, raw file descriptors, a heap of timers; a second thread only where a flood must not block it."""

    def __init__(self, options: Options) -> None:
        self.modes = options.modes
        self.name = options.name
        self.events = options.events
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.timer_count = 0
        self.listed = False
        self.reading = True
        self.cancelled: list[object] = []
        self.replies: list[object] = []

    # -- the world outside

    def record(self, *words: object) -> None:
        if self.events:
            fd = os.open(self.events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(fd, " ".join([f"{time.time():.4f}", str(os.getpid()), *map(str, words)]).encode() + b"\n")
            os.close(fd)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]

    def send(self, message: object) -> None:
        line = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        self.write(line + (b"\r\n" if "garbage" in self.modes else b"\n"))

    def after(self, secs: float, action: Callable[[], None]) -> None:
        self.timer_count += 1
        heapq.heappush(self.timers, (time.monotonic() + secs, self.timer_count, action))

    # -- protocol

    def answer(self, request_id: object, result: object) -> None:
        self.send({"jsonrpc": "2.0", "id": request_id, "result": result})
        if "dup-ids" in self.modes:
            self.send({"jsonrpc": "2.0", "id": request_id, "result": {"content": [], "tools": [], "second": True}})
            self.send({"jsonrpc": "2.0", "id": 987654321, "result": {}})
            self.send({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "to nobody"}})
            self.send([{"jsonrpc": "2.0", "id": "batch", "result": {}}])

    def text(self, request_id: object, value: object, error: bool = False) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.answer(request_id, {"content": [{"type": "text", "text": text}], "isError": error})

    def handle(self, message: dict[str, Any]) -> None:
        method, request_id = message.get("method"), message.get("id")
        if method is None:
            self.replies.append(message)
        elif method == "notifications/cancelled":
            self.cancelled.append(message["params"]["requestId"])
            self.record("cancelled", self.cancelled[-1])
        elif request_id is None or ("hang-after-ready" if self.listed else "hang-init") in self.modes:
            pass
        elif method == "initialize":
            self.initialize(request_id, message["params"]["protocolVersion"])
        elif method == "ping":
            self.answer(request_id, {})
        elif method == "tools/list":
            self.list_tools(request_id)
        elif method == "tools/call":
            params = message["params"]
            self.call(request_id, params["name"], params.get("arguments") or {}, params)
        else:
            error = {"code": -32601, "message": f"Method not found: {method}"}
            self.send({"jsonrpc": "2.0", "id": request_id, "error": error})

    def initialize(self, request_id: object, version: str) -> None:
        self.record("initialize", version)
        self.answer(
            request_id,
            {
                "protocolVersion": version if version in KNOWN_VERSIONS else KNOWN_VERSIONS[-1],
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": self.name, "version": "1"},
            },
        )

    def list_tools(self, request_id: object) -> None:
        self.record("tools/list")
        count = int(self.modes.get("many-tools") or 0)
        names = {**TOOLS, **{f"tool_{i}": {"x": "string"} for i in range(count)}}
        tools = [
            {
                "name": name,
                "description": f"tool {name}",
                "inputSchema": {"type": "object", "properties": {k: {"type": v} for k, v in keys.items()}},
            }
            for name, keys in names.items()
        ]
        page: dict[str, Any] = {"tools": tools}
        if "endless-cursor" in self.modes:
            page["nextCursor"] = f"more-{time.monotonic_ns()}"
        self.answer(request_id, page)
        if not self.listed:
            self.listed = True
            start_trouble_of_a_ready_server(self)

    def call(self, request_id: object, tool: str, arguments: dict[str, Any], params: dict[str, Any]) -> None:
        self.record("call", tool)
        get = arguments.get
        if tool in ("never", "slow", "progress"):
            self.call_later(request_id, tool, arguments, params)
        elif tool == "die":
            os.write(2, f"{get('say') or 'dying as asked'}\n".encode())
            os._exit(int(get("code") or 0))
        elif tool == "rpc_error":
            error = {"code": -32042, "message": get("text"), "data": {"why": get("text")}}
            self.send({"jsonrpc": "2.0", "id": request_id, "error": error})
        elif tool == "fail":
            self.text(request_id, get("text") or "it failed", error=True)
        elif tool == "leak":
            self.text(request_id, f"environ {dict(os.environ)} argv {sys.argv} cwd {os.getcwd()}", error=True)
        else:
            self.text(request_id, self.value_of(tool, arguments))

    def value_of(self, tool: str, arguments: dict[str, Any]) -> object:
        if tool == "echo":
            return str(arguments.get("message", ""))
        if tool == "blob":
            return "x" * int(arguments["size"])
        if tool == "cancelled":
            return self.cancelled
        if tool == "replies":
            return self.replies
        if tool == "dump":
            return own_circumstances()
        if tool == "say":
            os.write(2, f"{arguments['text']}\n".encode())
        if tool == "stop_reading":
            self.reading = False
        if tool == "big_line":
            write_big_line(self, int(arguments["mib"]))
        return "done"

    def call_later(self, request_id: object, tool: str, arguments: dict[str, Any], params: dict[str, Any]) -> None:
        if tool == "never":
            return
        secs = float(arguments["secs"])
        self.after(secs, lambda: self.text(request_id, "late"))
        if tool == "progress":
            every = float(arguments["every"])
            token = (params.get("_meta") or {}).get("progressToken")
            for n in range(1, int(secs / every)):
                self.report_after(n * every, {"progressToken": token, "progress": n})

    def report_after(self, secs: float, params: dict[str, Any]) -> None:
        self.after(secs, lambda: self.send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))

    # -- the loop

    def run(self) -> None:
        buffer = b""
        while True:
            wait = max(0.0, self.timers[0][0] - time.monotonic()) if self.timers else None
            if select.select([0] if self.reading else [], [], [], wait)[0]:
                data = os.read(0, 1 << 20)
                if not data:
                    self.record("eof")
                    if "eof-ignoring" not in self.modes:
                        return
                    self.reading = False
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        self.handle(json.loads(line))
            while self.timers and self.timers[0][0] <= time.monotonic():
                heapq.heappop(self.timers)[2]()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def own_circumstances() -> dict[str, Any]:
    listed = os.listdir("/proc/self/fd")  # the descriptor it was read through is among them, and closed by now
    fds = sorted(int(n) for n in listed if is_open(int(n)))
    with open("/proc/self/status") as status:
        signals = dict(line.rstrip("\n").split(":\t", 1) for line in status if line.startswith("Sig"))
    return {
        "env": dict(os.environ),
        "fds": fds,
        "cwd": os.getcwd(),
        "argv": sys.argv,
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "signals": signals,
        "umask": os.umask(0o22),
    }


def write_big_line(server: Server, mib: int) -> None:
    chunk = b"x" * (1 << 20)
    for _ in range(mib):
        server.write(chunk)
    server.write(b"\n")


def write_garbage(server: Server) -> None:
    """Everything that is not a JSON-RPC message, with a byte-order mark before the first real one."""
    deep = b"[" * 200_000 + b"]" * 200_000
    junk = [
        b"*** welcome to evil server ***", b"\x1b[31mred\x1b[0m", b"\xff\xfe\xfa broken \xc3", b"nul \x00 nul",
        b"{}", b"[]", b"42", b'"text"', b"null", b"true", b"[1,2,3]", deep,
        b'{"jsonrpc":"2.0","id":NaN,"result":{}}', b'{"jsonrpc":"2.0","id":Infinity,"result":1}',
        b'{"jsonrpc":"1.0","id":1}', b'{"id":1,"result":', b'{"jsonrpc":"2.0","id":{"a":1},"result":{}}',
        b'{"jsonrpc":"2.0","method":5}', b'{"jsonrpc":"2.0","result":{},"error":{}}', b"", b"\r",
    ]  # fmt: skip
    server.write(b"\r\n".join(junk) + b"\n\xef\xbb\xbf")


def in_background(action: Callable[..., None], *args: object) -> None:
    import threading

    threading.Thread(target=action, args=args, daemon=True).start()


def flood(megabytes: float, newline: bool) -> None:
    line = b"flood " * 20 + (b"\n" if newline else b"")
    chunk = line * (1_000_000 // len(line))
    for _ in range(max(1, int(megabytes))):
        view = memoryview(chunk)
        while view:
            view = view[os.write(2, view) :]


def start_grandchild(server: Server, kind: str, stubborn: bool) -> None:
    """Fork a process that outlives everything it politely can: `daemon` has forked twice, in a session of its own."""
    pid = os.fork()
    if pid:
        if kind == "daemon":
            os.waitpid(pid, 0)
        return
    if kind != "group":
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
    if kind == "daemon" and os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else signal.SIG_DFL)
    if stubborn:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    server.record("grandchild", os.getpid())
    while True:
        time.sleep(3600)


def once(server: Server, word: str) -> bool:
    """Say whether no server with this events file has done `word` before, and note that it is done now."""
    with open(server.events or os.devnull) as f:
        done = any(line.split()[2:3] == [word] for line in f)
    server.record(word)
    return not done


def start_trouble_at_birth(server: Server) -> None:
    modes = server.modes
    if "appear-later" in modes and not os.path.exists(modes["appear-later"]):
        sys.exit("not installed yet")
    if "exit-at-once" in modes:
        os.write(2, b"fatal: cannot start\n")
        os._exit(int(modes["exit-at-once"] or 0))
    if "ignterm" in modes:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "secret-leaker" in modes:
        os.write(2, f"my environment is {dict(os.environ)}\nmy arguments are {sys.argv}\n{os.getcwd()}\n".encode())
    for mode in ("grandchild", "stubborn-grandchild"):
        if mode in modes:
            start_grandchild(server, modes[mode] or "group", mode.startswith("stubborn"))
    if "slow-start" in modes:
        time.sleep(float(modes["slow-start"]))
    if "garbage" in modes:
        write_garbage(server)


def start_trouble_of_a_ready_server(server: Server) -> None:
    modes = server.modes
    for mode in ("flood-stderr", "flood-stderr-noline"):
        if mode in modes:
            in_background(flood, float(modes[mode]), mode == "flood-stderr")
    if "exit-after-ready" in modes:
        server.after(float(modes["exit-after-ready"] or 0), lambda: os._exit(4))
    if "big-line" in modes:
        server.after(0, lambda: write_big_line(server, int(modes["big-line"])))
    if "no-stdin-read" in modes:
        server.reading = False
    if "close-stdout" in modes:
        os.close(1)
    if "list-changed-storm" in modes:
        storm(server, 1.0 / float(modes["list-changed-storm"]))
    if "unsolicited" in modes:
        for n, method in enumerate(("ping", "roots/list", "sampling/createMessage", "elicitation/create", "no/such")):
            server.send({"jsonrpc": "2.0", "id": f"unasked-{n}", "method": method, "params": {}})
    for _ in range(int(modes.get("zombies") or 0)):
        if os.fork() == 0:
            os._exit(0)
    kill_parent(server)


def storm(server: Server, every: float) -> None:
    def blow() -> None:
        server.send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        server.after(every, blow)

    blow()


def kill_parent(server: Server) -> None:
    whom = server.modes.get("kill-parent")
    if whom == "group" and once(server, "killed-group"):
        server.after(0.1, lambda: os.kill(0, signal.SIGKILL))
    elif whom == "parent" and once(server, "killed-parent"):
        server.after(0.1, lambda: os.kill(os.getppid(), signal.SIGKILL))


def main() -> None:
    server = Server(Options(sys.argv[1:]))
    server.record("start")
    start_trouble_at_birth(server)
    server.run()


if __name__ == "__main__":
    main()
