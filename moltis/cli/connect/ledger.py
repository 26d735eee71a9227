"""What an MCP host and a daemon that may go away owe each other.

Pure: lines in, lines out, no clock. While nothing goes wrong each line passes as it is. The rules when the daemon is
lost: a request that it had is answered with an error and never sent again, for it may have been carried out; one that
it had not waits for the next daemon; and the next daemon is told what the host told the last one about itself.
"""

from __future__ import annotations

import json
import re
from collections import deque

GONE = -32603
INVALID_REQUEST = -32600
REPLY = re.compile(rb'\{"jsonrpc":"2\.0","id":("(?:[^"\\]|\\.)*"|-?\d+),"(result|error)":')
"""How the daemon begins a reply (gateway.messages): these are told from the rest without being parsed."""

LISTS = ("tools", "resources", "prompts")
MAX_KEPT = 1000
"""Subscriptions to resources that are told to the next daemon; the gateway itself allows a host no more."""

REPEATED = frozenset({"initialize", "logging/setLevel", "resources/subscribe"})
"""Requests that the next daemon is sent too. Of all others the line is forgotten once it is sent."""

BOM = b"\xef\xbb\xbf"


class Entry:
    """One line from the host on its way to the daemon.

    request_id: of a request; None for everything else.
    bound: it is about this connection only, and worth nothing on the next one.
    """

    __slots__ = ("bound", "line", "method", "request_id", "uri")

    def __init__(self, line: bytes, method: str = "", request_id: str | int | None = None, bound: bool = False) -> None:
        self.line = line
        self.method = method
        self.request_id = request_id
        self.bound = bound
        self.uri = ""


class Ledger:
    """Both directions of one host's connection.

    What to write to the host is `take_for_host`, `bytes_for_host` in all. What to send to the daemon is `next_line`, of
    `bytes_for_daemon`; it counts as sent once `sent` says so, and a line of which only half was sent is sent again,
    whole, to the next daemon.
    """

    def __init__(self) -> None:
        self.bytes_for_host = 0
        self.bytes_for_daemon = 0
        self._for_host: deque[bytes] = deque()
        self._queue: deque[Entry] = deque()
        self._open: dict[str | int, Entry] = {}
        self._is_connected = False
        self._was_lost = False
        self._going: Entry | None = None
        # what the next daemon is told
        self._initialize: Entry | None = None
        self._lists: tuple[str, ...] = ()
        self._initialized: Entry | None = None
        self._log_level: Entry | None = None
        self._subscribed: dict[str, Entry] = {}
        # while it is told
        self._replay: deque[Entry] = deque()
        self._swallow: dict[str | int, Entry] = {}
        self._awaits_initialize = False
        # the daemon's own requests, by the id that the host knows; ids of a later daemon are shifted past earlier ones
        self._asked: set[int] = set()
        self._last_asked = 0
        self._shift = 0

    # --- what the writers ask

    def take_for_host(self, bytes_enough: int) -> bytes:
        """Take whole lines, each with its newline, until there are so many bytes or none are left."""
        lines, size = [], 0
        while self._for_host and size < bytes_enough:
            lines.append(self._for_host.popleft())
            size += len(lines[-1]) + 1
        self.bytes_for_host -= size
        return b"\n".join([*lines, b""])

    def next_line(self) -> bytes | None:
        """Give what is to be sent next, without its newline; None while there is nothing, or no daemon."""
        if self._going is None and self._is_connected:
            if self._replay:
                self._going = self._replay[0]
            elif self._queue and not self._awaits_initialize:
                self._going = self._queue[0]
        return None if self._going is None else self._going.line

    def sent(self) -> None:
        """Take note that `next_line` has been sent."""
        self._going = None
        if self._replay:
            entry = self._replay.popleft()
            if entry.request_id is not None:
                self._swallow[entry.request_id] = entry
            return
        entry = self._queue.popleft()
        self.bytes_for_daemon -= len(entry.line)
        if entry.request_id is not None:
            self._open[entry.request_id] = entry
            if entry.method not in REPEATED:
                entry.line = b""
        elif entry.method == "notifications/initialized":
            self._initialized = entry

    @property
    def awaited(self) -> int:
        """How many requests of the host are to be answered soon; `subscriptions/listen` ends when it ends."""
        listens = sum(entry.method == "subscriptions/listen" for entry in self._open.values())
        return len(self._open) - listens + len(self._queue)

    # --- what the two say

    def host_said(self, line: bytes) -> None:
        """Take a line of the host, without its newline."""
        message = _members(line)
        method = message.get("method")
        id = _id(message.get("id"))
        if not isinstance(method, str):
            if "id" in message and ("result" in message or "error" in message):
                self._host_answered(line, id)
            else:
                self._enqueue(Entry(line))
        elif "id" in message:
            entry = Entry(line, method, id)
            entry.uri = _text(message.get("params"), "uri")
            self._enqueue(entry)
        elif method == "notifications/cancelled":
            self._host_cancelled(line, message)
        else:
            self._enqueue(Entry(line, method, None, method == "notifications/progress"))

    def daemon_said(self, line: bytes) -> None:
        """Take a line of the daemon, without its newline."""
        reply = REPLY.match(line)
        if reply is not None:
            self._daemon_answered(line, json.loads(reply[1]), reply[2] == b"result")
            return
        if line.startswith(b'{"jsonrpc":"2.0","method":') and not (self._shift and b"/cancelled" in line[:80]):
            self._to_host(line)
            return
        message = _members(line)
        id = _id(message.get("id"))
        if "method" not in message and id is not None:
            self._daemon_answered(line, id, "result" in message)
            return
        if isinstance(id, int):
            id += self._shift
            self._asked.add(id)
            self._last_asked = max(self._last_asked, id)
            line = _renumbered(line, "id", id - self._shift, id) if self._shift else line
        elif message.get("method") == "notifications/cancelled" and self._shift:
            cancelled = _cancelled_id(message)
            if isinstance(cancelled, int):
                line = _renumbered(line, "requestId", cancelled, cancelled + self._shift)
        self._to_host(line)

    def oversized(self, max_bytes: int) -> None:
        """Take note that the host wrote a line too long to be looked at."""
        self._to_host(_error(None, INVALID_REQUEST, f"a message has at most {max_bytes} bytes", {}))

    # --- the daemon comes and goes

    def connected(self) -> None:
        """There is a daemon: the first one, or the next."""
        self._is_connected = True
        if not self._was_lost or self._initialize is None:
            return
        self._awaits_initialize = True
        self._replay.append(self._initialize)

    def lost(self, why: str) -> None:
        """It is gone: what it had is answered, and what it had asked is withdrawn."""
        self._is_connected, self._was_lost = False, True
        self._going = None
        self._replay.clear()
        self._swallow.clear()
        self._awaits_initialize = False
        again = [entry for entry in self._open.values() if entry.method == "initialize"]
        self._refuse([entry for entry in self._open.values() if entry.method != "initialize"], why)
        self._open.clear()
        for id in sorted(self._asked):
            params = {"requestId": id, "reason": why}
            self._to_host(_line({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))
        self._asked.clear()
        self._shift = self._last_asked
        # `initialize` changes nothing but the connection that is gone, and the host goes no further without its answer.
        self._queue = deque([*again, *(entry for entry in self._queue if not entry.bound)])
        self.bytes_for_daemon = sum(len(entry.line) for entry in self._queue)

    def give_up(self, why: str) -> None:
        """No daemon will come: whatever waits is answered."""
        self._refuse([*self._open.values(), *self._queue], why)
        self._open.clear()
        self._queue.clear()
        self.bytes_for_daemon = 0

    # --- from the host

    def _enqueue(self, entry: Entry) -> None:
        if entry.bound and not self._is_connected:
            return
        self._queue.append(entry)
        self.bytes_for_daemon += len(entry.line)

    def _host_answered(self, line: bytes, id: str | int | None) -> None:
        if not isinstance(id, int) or id not in self._asked:
            return  # the question was withdrawn, or another daemon's
        self._asked.discard(id)
        self._enqueue(Entry(_renumbered(line, "id", id, id - self._shift) if self._shift else line, bound=True))

    def _host_cancelled(self, line: bytes, message: dict[str, object]) -> None:
        id = _cancelled_id(message)
        waiting = next((entry for entry in self._queue if id is not None and entry.request_id == id), None)
        if waiting is not None and waiting is not self._going:
            self._queue.remove(waiting)
            self.bytes_for_daemon -= len(waiting.line)
            return
        if waiting is not None:  # half of it may have been sent: the other half goes too, but not to the next daemon
            waiting.request_id, waiting.bound = None, True
        if id is not None and id in self._open and self._open[id].method != "initialize":
            del self._open[id]
        self._enqueue(Entry(line, "notifications/cancelled", None, True))

    # --- from the daemon

    def _daemon_answered(self, line: bytes, id: str | int, is_result: bool) -> None:
        swallowed = self._swallow.pop(id, None)
        if swallowed is not None:
            if swallowed is self._initialize:
                self._is_initialized_again()
            return
        entry = self._open.pop(id, None)
        if entry is not None and is_result:
            self._learn(entry, line)
        self._to_host(line)

    def _learn(self, entry: Entry, reply: bytes) -> None:
        """Keep what was told to this daemon and is to be told to the next."""
        if entry.method == "initialize":
            self._initialize = entry
            self._lists = _changing_lists(reply)
        elif entry.method == "logging/setLevel":
            self._log_level = entry
        elif entry.method == "resources/subscribe" and len(self._subscribed) < MAX_KEPT:
            self._subscribed[entry.uri] = entry
        elif entry.method == "resources/unsubscribe":
            self._subscribed.pop(entry.uri, None)

    def _is_initialized_again(self) -> None:
        self._awaits_initialize = False
        if self._initialized is None:
            return  # the host has not said so itself yet
        told = (self._initialized, self._log_level, *self._subscribed.values())
        self._replay.extend(entry for entry in told if entry is not None)
        for kind in self._lists:
            self._to_host(_line({"jsonrpc": "2.0", "method": f"notifications/{kind}/list_changed"}))

    def _to_host(self, line: bytes) -> None:
        self._for_host.append(line)
        self.bytes_for_host += len(line) + 1

    def _refuse(self, entries: list[Entry], why: str) -> None:
        data: dict[str, object] = {"kind": "daemon_not_running", "server": None, "hint": "moltis status; moltis logs"}
        for entry in entries:
            if entry.request_id is not None:
                self._to_host(_error(entry.request_id, GONE, why, data))


def _members(line: bytes) -> dict[str, object]:
    """Read a line; what is no JSON object has no members, and is for the daemon to refuse."""
    try:
        message = json.loads(line.removeprefix(BOM))
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _id(value: object) -> str | int | None:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def _cancelled_id(message: dict[str, object]) -> str | int | None:
    params = message.get("params")
    return _id(params.get("requestId")) if isinstance(params, dict) else None


def _text(members: object, name: str) -> str:
    value = members.get(name) if isinstance(members, dict) else None
    return value if isinstance(value, str) else ""


def _changing_lists(reply: bytes) -> tuple[str, ...]:
    """Give the lists whose changes the host was promised to be told of."""
    result = _members(reply).get("result")
    offered = result.get("capabilities") if isinstance(result, dict) else None
    if not isinstance(offered, dict):
        return ()
    return tuple(kind for kind in LISTS if isinstance(offered.get(kind), dict) and offered[kind].get("listChanged"))


def _renumbered(line: bytes, name: str, old: int, new: int) -> bytes:
    """Give a message with its id, or the id that it is about, replaced, and every other byte as it is."""
    for found in re.finditer(rb'"%b"\s*:\s*(%d)(?![\d.eE])' % (name.encode(), old), line):
        changed = b"%b%d%b" % (line[: found.start(1)], new, line[found.end(1) :])
        message = _members(changed)
        if (_id(message.get("id")) if name == "id" else _cancelled_id(message)) == new:
            return changed
    return line


def _line(message: dict[str, object]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _error(id: str | int | None, code: int, message: str, data: dict[str, object]) -> bytes:
    error: dict[str, object] = {"code": code, "message": message}
    if data:
        error["data"] = data
    return _line({"jsonrpc": "2.0", "id": id, "error": error})
