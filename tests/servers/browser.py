"""A browser for tests: notes the URL it is opened with, and visits it as a person who agrees to everything would.

    browser.py --record FILE [--only-record | --not-back] URL

To FILE one JSON object a line is appended: {"opened": URL, "time": INSTANT} at once, then {"landed": STATUS,
"at": PATH} for the page at which the redirects ended. With --not-back it stops before the redirect URI, and notes
{"back": URL} instead, as on a machine where nobody listens there. It visits this machine only, keeps cookies, runs no
script. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from urllib.parse import parse_qs, urljoin, urlsplit

MAX_HOPS = 12


def note(path: str, **facts: object) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, json.dumps(facts).encode() + b"\n")
    finally:
        os.close(fd)


def visit(url: str, stop_before: str | None = None) -> tuple[int, str]:
    """Follow redirects; give the last status and path.

    Status 0 and why for somewhere it does not go; status -1 and the URL at `stop_before`.
    """
    cookies: dict[str, str] = {}
    for _ in range(MAX_HOPS):
        parts = urlsplit(url)
        if stop_before and url.startswith(stop_before):
            return -1, url
        if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost"):
            return 0, f"{parts.scheme}://{parts.netloc}"
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=20)
        try:
            headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in cookies.items())} if cookies else {}
            connection.request("GET", parts.path + ("?" + parts.query if parts.query else ""), headers=headers)
            answer = connection.getresponse()
            answer.read()
            for line in answer.headers.get_all("Set-Cookie") or ():
                name, _, value = line.partition(";")[0].partition("=")
                cookies[name] = value
            if answer.status not in (301, 302, 303, 307, 308):
                return answer.status, parts.path
            url = urljoin(url, answer.headers["Location"])
        except OSError as error:
            return 0, f"{parts.path}: {type(error).__name__}"
        finally:
            connection.close()
    return 0, "too many redirects"


def main(argv: list[str]) -> None:
    record = argv[argv.index("--record") + 1]
    url = argv[-1]
    note(record, opened=url, time=time.time())
    if "--only-record" in argv:
        return
    back = parse_qs(urlsplit(url).query).get("redirect_uri", [""])[0] if "--not-back" in argv else None
    status, at = visit(url, back)
    if status < 0:
        note(record, back=at)
    else:
        note(record, landed=status, at=at)


if __name__ == "__main__":
    main(sys.argv[1:])
