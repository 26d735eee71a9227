"""What an MCP host and a daemon that may go away owe each other.

Pure: lines in, lines out, no clock. While nothing goes wrong each line passes as it is. The rules when the daemon is
lost: a request that it had is answered with an error and never sent again, for it may have been carried out, unless the
daemon answers it from memory (`ANSWERABLE`); one that it had not, or says it did nothing with, waits for the next
daemon; and the next daemon is told what the host told the last one about itself, and is asked for what the host listens
to.
"""

from __future__ import annotations

import json
import re
from collections import deque

GONE = -32603
INVALID_REQUEST = -32600
REPLY = re.compile(rb'\{"jsonrpc":"2\.0","id":("(?:[^"\\]|\\.)*"|-?\d+),"(result|error)":')
"""How the daemon begins a reply (gateway.messages): these are told from the rest without being parsed."""

DAEMON_GONE: dict[str, object] = {
    "kind": "daemon_not_running", "server": None, "hint": "moltis run, if moltis status says that it is not running",
}  # fmt: skip
LISTS = ("tools", "resources", "prompts")
MAX_KEPT = 1000
"""Subscriptions to resources that are told to the next daemon; the gateway itself allows a host no more."""

REPEATED = frozenset({"initialize", "logging/setLevel", "resources/subscribe"})
"""Requests that the next daemon is sent too."""

KEPT_BYTES = 64 * 1024
"""Of all others a longer line is forgotten once it is sent, and is not asked again."""

LISTEN = "subscriptions/listen"
LISTINGS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
ANSWERABLE = REPEATED | {"server/discover", "ping", "resources/unsubscribe", LISTEN, *LISTINGS}
"""Requests that the daemon answers from memory: no server hears of them, and they may be asked twice."""

ACKNOWLEDGED = b'{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged"'
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
PROBE = "moltis connect: are you there?"
"""The id of a ping of our own."""

BOM = b"\xef\xbb\xbf"


class Entry:
    """One line from the host on its way to the daemon.

    request_id: of a request; None for everything else.
    bound: it is about this connection only, and worth nothing on the next one.
    number: its place among all that the host said.
    acknowledged: of `subscriptions/listen`: the host has been told that it listens.
    """

    __slots__ = ("acknowledged", "bound", "is_modern", "line", "method", "number", "request_id", "uri")

    def __init__(self, line: bytes, method: str = "", request_id: str | int | None = None, bound: bool = False) -> None:
        self.line = line
        self.method = method
        self.request_id = request_id
        self.bound = bound
        self.uri = ""
        self.number = 0
        self.is_modern = self.acknowledged = False


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
        self._listens: dict[str | int, Entry] = {}
        self._numbers = 0
        self._is_connected = False
        self._is_leaving = False  # it takes nothing any more; its connection will end
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
        """Return what is to be sent next, without its newline; None while there is nothing, or no daemon."""
        if self._going is None and self._is_connected:
            if self._replay:
                self._going = self._replay[0]
            elif self._queue and not (self._awaits_initialize or self._is_leaving):
                self._going = self._queue[0]
        return None if self._going is None else self._going.line

    def sent(self) -> None:
        """Take note that `next_line` has been sent."""
        self._going = None
        if self._replay:
            entry = self._replay.popleft()
            if entry.request_id is not None and entry.method != LISTEN:
                self._swallow[entry.request_id] = entry
            return
        entry = self._queue.popleft()
        self.bytes_for_daemon -= len(entry.line)
        if entry.request_id is not None:
            if entry.method == LISTEN:
                self._listens[entry.request_id] = entry
                return
            self._open[entry.request_id] = entry
            if len(entry.line) > KEPT_BYTES and entry.method not in REPEATED:
                entry.line = b""
        elif entry.method == "notifications/initialized":
            self._initialized = entry

    @property
    def introduction(self) -> bytes | None:
        """The host's `initialize`, if it has been answered."""
        return None if self._initialize is None else self._initialize.line

    @property
    def awaited(self) -> int:
        """How many requests of the host are to be answered soon; `subscriptions/listen` ends when it ends."""
        return len(self._open) + len(self._queue)

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
            params = message.get("params")
            entry.uri = _text(params, "uri")
            entry.is_modern = PROTOCOL_VERSION in _object(params, "_meta")
            self._enqueue(entry)
        elif method == "notifications/cancelled":
            self._host_cancelled(line, message)
        elif method == "notifications/initialized" and self._initialize is not None and not self._is_connected:
            self._initialized = Entry(line, method)  # the next daemon is told so after `initialize`
        else:
            self._enqueue(Entry(line, method, None, method == "notifications/progress"))

    def daemon_said(self, line: bytes) -> None:
        """Take a line of the daemon, without its newline."""
        reply = REPLY.match(line)
        if reply is not None:
            self._daemon_answered(line, json.loads(reply[1]), reply[2] == b"result")
            return
        if line.startswith(ACKNOWLEDGED) and self._acknowledged_again(line):
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
        self._is_connected, self._is_leaving = True, False
        if self._initialize is not None:
            self._awaits_initialize = True
            self._replay.append(self._initialize)
        self._replay.extend(self._listens.values())

    def probe(self) -> None:
        """Ask the daemon whether it is there; whatever it says then is the answer."""
        if self._is_connected:
            line = _line({"jsonrpc": "2.0", "id": PROBE, "method": "ping"})
            self._replay.append(Entry(line, "ping", PROBE))

    def lost(self, why: str) -> None:
        """It is gone: what it had is answered, and what it had asked is withdrawn."""
        self._is_connected = False
        self._going = None
        self._replay.clear()
        self._swallow.clear()
        self._awaits_initialize = False
        again = [entry for entry in self._open.values() if entry.method in ANSWERABLE and entry.line]
        self.refuse([entry for entry in self._open.values() if entry not in again], why)
        self._open.clear()
        for id in sorted(self._asked):
            params = {"requestId": id, "reason": why}
            self._to_host(_line({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))
        self._asked.clear()
        self._shift = self._last_asked
        waiting = sorted((*again, *self._queue), key=lambda entry: entry.number)
        self._queue = deque(entry for entry in waiting if not (entry.bound or self._is_introduced(entry)))
        self.bytes_for_daemon = sum(len(entry.line) for entry in self._queue)

    def wanted_after(self, answer_after: float, refuse_after: float) -> float | None:
        """Return after how many seconds without a daemon the first of what waits is to be answered; None: nothing is.

        answer_after: of what can be answered without it; refuse_after: of what cannot.
        """
        waits = [_wait(entry, answer_after, refuse_after) for entry in self._queue if entry.request_id is not None]
        return min(waits, default=None)

    def take_due(self, away_secs: float, answer_after: float, refuse_after: float) -> list[Entry]:
        """Take out of what waits the requests that are to be answered without a daemon: it has been away so long."""
        if self._is_connected:
            return []
        requests = (entry for entry in self._queue if entry.request_id is not None)
        due = [entry for entry in requests if _wait(entry, answer_after, refuse_after) <= away_secs]
        for entry in due:
            self._queue.remove(entry)
            self.bytes_for_daemon -= len(entry.line)
        return due

    def answered(self, entry: Entry, lines: list[bytes]) -> None:
        """Pass on what was answered without a daemon, and let the next one know."""
        reply = REPLY.match(lines[-1]) if lines else None
        if entry.method == LISTEN and reply is None and entry.request_id is not None:
            entry.acknowledged = True
            self._listens[entry.request_id] = entry
        elif reply is not None and reply[2] == b"result":
            self._learn(entry, lines[-1])
        for line in lines:
            self._to_host(line)

    def refuse(self, entries: list[Entry], why: str, data: dict[str, object] = DAEMON_GONE) -> None:
        """Answer requests with the reason why they are not done; a call of a tool so that a model reads it."""
        for entry in entries:
            if entry.request_id is None:
                continue
            if entry.method != "tools/call":
                self._to_host(_error(entry.request_id, GONE, why, data))
                continue
            result: dict[str, object] = {"resultType": "complete"} if entry.is_modern else {}
            result["content"] = [{"type": "text", "text": why}]
            result |= {"isError": True, "_meta": {"moltis/error": data}}
            self._to_host(_line({"jsonrpc": "2.0", "id": entry.request_id, "result": result}))

    def give_up(self, why: str) -> None:
        """No daemon will come: whatever waits is answered."""
        self.refuse([*self._listens.values(), *self._open.values(), *self._queue], why)
        self._listens.clear()
        self._open.clear()
        self._queue.clear()
        self.bytes_for_daemon = 0

    # --- from the host

    def _enqueue(self, entry: Entry) -> None:
        if entry.bound and not self._is_connected:
            return
        self._numbers += 1
        entry.number = self._numbers
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
        listen = None if id is None else self._listens.pop(id, None)
        if listen is not None and listen in self._replay and listen is not self._going:
            self._replay.remove(listen)
        self._enqueue(Entry(line, "notifications/cancelled", None, True))

    # --- from the daemon

    def _daemon_answered(self, line: bytes, id: str | int, is_result: bool) -> None:
        swallowed = self._swallow.pop(id, None)
        if swallowed is not None:
            if swallowed is self._initialize:
                self._is_initialized_again()
            return
        listen = self._listens.get(id)
        if listen is not None and self._goes_on(listen, is_result, line):
            return
        entry = self._open.pop(id, None)
        if entry is not None and not is_result and entry.line and _was_not_taken(line):
            self._is_leaving = True
            self._queue.appendleft(entry)  # where among the others is for `lost` to see
            self.bytes_for_daemon += len(entry.line)
            return
        if entry is not None and is_result:
            self._learn(entry, line)
        self._to_host(line)

    def _goes_on(self, listen: Entry, is_result: bool, reply: bytes) -> bool:
        """Whether a listen that the daemon has ended stays open for the host, who gives up on one that keeps ending."""
        assert listen.request_id is not None
        if not is_result and _was_not_taken(reply):
            self._is_leaving = True
            return True  # the next daemon is asked
        if is_result and listen.acknowledged:
            if not self._is_leaving:
                self._replay.append(listen)
            return True
        del self._listens[listen.request_id]
        return False

    def _acknowledged_again(self, line: bytes) -> bool:
        """Whether the host has had this already. Then it hears that what it listens to may have changed."""
        id = _id(_object(_members(line).get("params"), "_meta").get(SUBSCRIPTION_ID))
        listen = None if id is None else self._listens.get(id)
        if listen is None or not listen.acknowledged:
            if listen is not None:
                listen.acknowledged = True
            return False
        wanted = _object(_members(listen.line).get("params"), "notifications")
        meta: dict[str, object] = {SUBSCRIPTION_ID: id}
        for kind in LISTS:
            if wanted.get(f"{kind}ListChanged") is True:
                self._to_host(_notification(f"notifications/{kind}/list_changed", {"_meta": meta}))
        uris = wanted.get("resourceSubscriptions")
        for uri in uris if isinstance(uris, list) else ():
            self._to_host(_notification("notifications/resources/updated", {"uri": uri, "_meta": meta}))
        return True

    def _is_introduced(self, entry: Entry) -> bool:
        """Keep what the host said when it was introduced for the next daemon; it is told that before anything else."""
        if entry.method != "notifications/initialized" or self._initialize is None:
            return False
        self._initialized = entry
        return True

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
        for uri in self._subscribed:
            self._to_host(_notification("notifications/resources/updated", {"uri": uri}))

    def _to_host(self, line: bytes) -> None:
        self._for_host.append(line)
        self.bytes_for_host += len(line) + 1


def _wait(entry: Entry, answer_after: float, refuse_after: float) -> float:
    if entry.method == "ping":
        return 0.0
    return answer_after if entry.method in ANSWERABLE else refuse_after


def _was_not_taken(reply: bytes) -> bool:
    """Whether the daemon was leaving and has done nothing with the request (`gateway.refusals.not_taken`)."""
    if b'"sent":false' not in reply:
        return False
    data = _object(_members(reply).get("error"), "data")
    return data.get("kind") == "not_ready" and data.get("server") is None and data.get("sent") is False


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


def _object(members: object, name: str) -> dict[str, object]:
    value = members.get(name) if isinstance(members, dict) else None
    return value if isinstance(value, dict) else {}


def _text(members: object, name: str) -> str:
    value = members.get(name) if isinstance(members, dict) else None
    return value if isinstance(value, str) else ""


def _changing_lists(reply: bytes) -> tuple[str, ...]:
    """Return the lists whose changes the host was promised to be told of."""
    result = _members(reply).get("result")
    offered = result.get("capabilities") if isinstance(result, dict) else None
    if not isinstance(offered, dict):
        return ()
    return tuple(kind for kind in LISTS if isinstance(offered.get(kind), dict) and offered[kind].get("listChanged"))


def _renumbered(line: bytes, name: str, old: int, new: int) -> bytes:
    """Return a message with its id, or the id that it is about, replaced, and every other byte as it is."""
    for found in re.finditer(rb'"%b"\s*:\s*(%d)(?![\d.eE])' % (name.encode(), old), line):
        changed = b"%b%d%b" % (line[: found.start(1)], new, line[found.end(1) :])
        message = _members(changed)
        if (_id(message.get("id")) if name == "id" else _cancelled_id(message)) == new:
            return changed
    return line


def _notification(method: str, params: dict[str, object]) -> bytes:
    return _line({"jsonrpc": "2.0", "method": method, "params": params})


def _line(message: dict[str, object]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _error(id: str | int | None, code: int, message: str, data: dict[str, object]) -> bytes:
    error: dict[str, object] = {"code": code, "message": message}
    if data:
        error["data"] = data
    return _line({"jsonrpc": "2.0", "id": id, "error": error})
