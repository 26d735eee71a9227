"""A lean client of the control socket, taking orders on stdin: {callers, calls, big?} -> {seconds, wall}.

One connection per caller and one call in flight on each. Every answer is checked for the text that was sent, by bytes;
with `big` each call asks for a result of that many bytes, and the length is checked.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

TEXT = "x" * 100
PARAMS = {"server": "s", "tool": "echo", "arguments": {"message": TEXT}}
REQUEST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "mcp.call", "params": PARAMS}).encode() + b"\n"
EXPECTED = f'"text":"{TEXT}"'.encode()


def connect() -> socket.socket:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(sys.argv[1])
    return s


def receive(s: socket.socket) -> None:
    answer = s.recv(65536)
    while not answer.endswith(b"\n"):
        more = s.recv(65536)
        if not more:
            raise ConnectionError("closed by the daemon")
        answer += more
    if EXPECTED not in answer:
        raise RuntimeError(answer)


def one_big_caller(calls: int, size: int) -> list[float]:
    params = {"server": "s", "tool": "big", "arguments": {"bytes": size}}
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "mcp.call", "params": params}).encode() + b"\n"
    s = connect()
    seconds = []
    answer = memoryview(bytearray(size + 65536))
    for _ in range(calls):
        began = time.perf_counter()
        s.sendall(request)
        length = s.recv_into(answer)
        while answer[length - 1] != 10:
            length += s.recv_into(answer[length:])
        seconds.append(time.perf_counter() - began)
        if length < size:
            raise RuntimeError(bytes(answer[:length]))
    s.close()
    return seconds


def one_caller(calls: int) -> list[float]:
    s = connect()
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        s.sendall(REQUEST)
        receive(s)
        seconds.append(time.perf_counter() - began)
    s.close()
    return seconds


def many_callers(callers: int, calls: int) -> list[float]:
    connections = {s.fileno(): s for s in (connect() for _ in range(callers))}
    left = dict.fromkeys(connections, calls // callers)
    began: dict[int, float] = {}
    seconds = []
    with select.epoll() as poll:
        for fd, s in connections.items():
            poll.register(fd, select.EPOLLIN)
            began[fd] = time.perf_counter()
            s.sendall(REQUEST)
        while any(left.values()):
            for fd, _ in poll.poll():
                receive(connections[fd])
                now = time.perf_counter()
                seconds.append(now - began[fd])
                left[fd] -= 1
                if left[fd]:
                    began[fd] = now
                    connections[fd].sendall(REQUEST)
    for s in connections.values():
        s.close()
    return seconds


def main() -> None:
    print('"ready"', flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        began = time.perf_counter()
        callers = order["callers"]
        if order.get("big"):
            seconds = one_big_caller(order["calls"], order["big"])
        else:
            seconds = one_caller(order["calls"]) if callers == 1 else many_callers(callers, order["calls"])
        print(json.dumps({"seconds": seconds, "wall": time.perf_counter() - began}), flush=True)


main()
