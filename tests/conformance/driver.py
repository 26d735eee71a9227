"""The client that the MCP conformance suite starts: it has player.py, in another process, do what a client does.

    driver.py URL

Whoever listens at the Unix socket MOLTIS_TEST_PLAYER gets the URL, the scenario and its context (JSON, on one line), a
line each, and answers with the exit status, a space, and what is to be said on stderr. Nothing is imported that takes
time: it is started a hundred times.
"""

import os
import socket
import sys


def main(url: str) -> int:
    words = [url, os.environ["MCP_CONFORMANCE_SCENARIO"], os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}"]
    with socket.socket(socket.AF_UNIX) as player:
        player.connect(os.environ["MOLTIS_TEST_PLAYER"])
        player.sendall("\n".join(words).encode())
        player.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: player.recv(1 << 16), b""))
    status, _, said = answer.partition(b" ")
    sys.stderr.write(said.decode())
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
