"""Remote servers, authorization servers and a browser for a daemon under test, all on 127.0.0.1, all ended by pid."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import forked
from harness import PYTHON, SERVERS, Daemon, wait_until
from installing import npm_folder
from patience import PATIENCE
from ports import free_port
from processes import signal_pid

HTTP_SERVER = SERVERS / "http_server.py"
EVIL_HTTP = SERVERS / "evil_http.py"
HOSTILE_AS = SERVERS / "hostile_as.py"
PROVIDER = SERVERS / "oauth" / "provider.js"
BROWSER = SERVERS / "browser.py"
LISTENS_WITHIN = PATIENCE


class Program:
    """A server in a process of its own, which can be killed and started again on the same port."""

    def __init__(self, argv: list[str], port: int | None, events: Path, env: dict[str, str]) -> None:
        self.argv = argv
        self.port = port
        self.events_file = events
        self.said: dict[str, Any] = {}
        self._env = env
        self._process: subprocess.Popen[bytes] | forked.Process | None = None
        self._stdout: IO[bytes] | None = None

    def start(self) -> Program:
        """Start it and read the line of JSON that it prints once it listens."""
        port = [] if self.port is None else ["--port", str(self.port)]
        process, self._stdout = self._spawn([*self.argv, *port, "--events", str(self.events_file)])
        killer = threading.Timer(LISTENS_WITHIN, process.kill)
        killer.start()
        line = self._stdout.readline()
        killer.cancel()
        assert line, f"{self.argv[-1]} ended with {process.wait()} before it listened"
        self.said = json.loads(line)
        if "url" in self.said or "issuer" in self.said:
            self.port = int(re.search(r":(\d+)", self.said.get("url") or self.said["issuer"])[1])  # type: ignore[index]
        return self

    def start_silently(self) -> None:
        """Start a program that is not ours: it prints nothing for us."""
        self._process = self._popen(self.argv, subprocess.DEVNULL)

    def _spawn(self, argv: list[str]) -> tuple[subprocess.Popen[bytes] | forked.Process, IO[bytes]]:
        """Return the process, and what it prints."""
        process = self._popen(argv, subprocess.PIPE)
        assert process.stdout is not None
        self._process = process
        return process, process.stdout

    def _popen(self, argv: list[str], stdout: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            env=self.env,
            start_new_session=True,
        )

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, **self._env}

    def kill(self) -> None:
        if self._process is not None:
            signal_pid(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
            if self._stdout is not None:
                self._stdout.close()
            self._process = self._stdout = None

    def restart(self) -> Program:
        """Kill it and start it anew at the same address."""
        self.kill()
        return self.start()

    @property
    def url(self) -> str:
        found: str = self.said["url"]
        return found

    def events(self, event: str | None = None, **facts: object) -> list[dict[str, Any]]:
        """Give what it noted, or what of it has this name and these facts."""
        if not self.events_file.exists():
            return []
        whole = self.events_file.read_bytes().rpartition(b"\n")[0]  # a line may be half written
        rows = [json.loads(line) for line in whole.splitlines()]
        wanted = {**({"event": event} if event else {}), **facts}
        return [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]


class SdkServer(Program):
    """A server made with the official SDK, which takes a second of a processor to import: it is forked."""

    def _spawn(self, argv: list[str]) -> tuple[subprocess.Popen[bytes] | forked.Process, IO[bytes]]:
        script, *words = argv
        read, write = os.pipe()
        try:
            with open(os.devnull, "r+b") as null:
                streams = (null.fileno(), write, null.fileno())
                self._process = forked.start(
                    words, env=self.env, cwd=Path.cwd(), streams=streams, session=True, script=Path(script)
                )
        finally:
            os.close(write)
        return self._process, os.fdopen(read, "rb")


class Provider(Program):
    """The real authorization server."""

    def ask(self, path: str) -> None:
        """POST to what the provider offers to tests: `ttl?secs=N`, `expire`, `revoke`, `down?on=1`."""
        request = urllib.request.Request(f"{self.said['issuer']}/test/{path}", method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE):
            pass

    def count(self, event: str, **facts: object) -> int:
        return len(self.events(event, **facts))

    @property
    def refreshes(self) -> int:
        return self.count("granted", type="refresh_token")

    @property
    def logins(self) -> int:
        return self.count("granted", type="authorization_code")

    def reuses(self) -> list[dict[str, Any]]:
        """Give the refusals of refresh tokens that had been used before."""
        return [e for e in self.events("not granted") if "already used" in str(e.get("detail"))]


class Place:
    """Starts programs for one test, in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[Program] = []

    def _start(self, argv: list[str], *, kind: type[Program] = Program, port: int | None = None, **env: str) -> Any:
        events = self.folder / f"events-{len(self._made)}.jsonl"
        program = kind(argv, port, events, env)
        self._made.append(program)
        return program.start()

    def http_server(self, *flags: str, port: int | None = None) -> Program:
        """Start the SDK's server; see its module for the flags."""
        return self._start([str(HTTP_SERVER), *flags], kind=SdkServer, port=port)

    def protected_server(self, provider: Provider, *flags: str) -> Program:
        """Start the SDK's server as a protected resource of a provider."""
        said = provider.said
        return self.http_server("--issuer", said["issuer"], "--introspection", said["introspection"], *flags)

    def evil(self, *modes: str, port: int | None = None) -> Program:
        """Start the server of faults; see its module for the modes."""
        words = [word for mode in modes for word in ("--mode", mode)]
        return self._start([PYTHON, "-S", "-E", str(EVIL_HTTP), *words], port=port)

    def hostile(self, *words: str) -> Program:
        """Start authorization servers that lie; see their module for the modes and flags."""
        return self._start([PYTHON, "-S", "-E", str(HOSTILE_AS), *words])

    def everything(self, node: Path, transport: str) -> tuple[Program, str]:
        """Start server-everything as its page says, `streamableHttp` or `sse`; give its URL too."""
        port = free_port()
        script = node / "node_modules" / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
        program = Program(["node", str(script), transport], None, self.folder / "none", {"PORT": str(port)})
        self._made.append(program)
        program.start_silently()
        wait_until("server-everything listens", lambda: listens(port), LISTENS_WITHIN)
        return program, f"http://127.0.0.1:{port}/" + ("mcp" if transport == "streamableHttp" else "sse")

    def provider(self, installed: Path, *flags: str) -> Provider:
        """Start the real authorization server."""
        found: Provider = self._start(["node", str(PROVIDER), *flags], kind=Provider, MOLTIS_TEST_OIDC=str(installed))
        return found

    def end(self) -> None:
        for program in self._made:
            program.kill()


class Browser:
    """The `browser_command` of a daemon, and what it was opened with."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.record = folder / "browser.jsonl"
        self.argv = [PYTHON, "-S", "-E", str(BROWSER), "--record", str(self.record), *flags]

    def go(self, url: str) -> None:
        """Open a URL by hand."""
        subprocess.run([*self.argv, url], check=True, timeout=60)

    def back(self) -> str:
        """Give the last URL it would have come back to, with --not-back."""
        url: str = self._rows("back")[-1]["back"]
        return url

    def _rows(self, key: str) -> list[dict[str, Any]]:
        whole = self.record.read_bytes().rpartition(b"\n")[0] if self.record.exists() else b""
        return [row for row in map(json.loads, whole.splitlines()) if key in row]

    def opened(self) -> list[str]:
        return [row["opened"] for row in self._rows("opened")]

    def opened_at(self) -> list[float]:
        return [row["time"] for row in self._rows("opened")]

    def landed(self) -> list[tuple[int, str]]:
        return [(row["landed"], row["at"]) for row in self._rows("landed")]


def remote(url: str, **keys: Any) -> dict[str, Any]:
    """Give the entry of a remote server."""
    return {"url": url, "transport": "streamable-http", **keys}


def visit(url: str) -> str:
    """Go to an authorization URL as a browser would, but follow nothing; give where it was sent."""

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    opener = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PATIENCE) as answer:
            raise AssertionError(f"{answer.status} instead of a redirect")
    except urllib.error.HTTPError as answer:
        with answer:
            location: str = answer.headers["Location"]
            return location


def listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def oidc_installed() -> Path:
    """Give the folder in which oidc-provider is installed: MOLTIS_TEST_OIDC, or beside provider.js, once."""
    return npm_folder(PROVIDER.parent, ["oidc-provider"], "MOLTIS_TEST_OIDC")


@contextlib.contextmanager
def place_in(folder: Path) -> Iterator[Place]:
    """A place whose programs are ended with the test."""
    inside = folder / "place"
    inside.mkdir()
    place = Place(inside)
    try:
        yield place
    finally:
        place.end()


def login(daemon: Daemon, server: str, within: float = PATIENCE) -> dict[str, Any]:
    """Wait until a server that asks for a login has its URL, and give its status."""

    def asked() -> dict[str, Any] | None:
        status = daemon.status(server)
        return status if status["auth_url"] else None

    found: dict[str, Any] = wait_until(f"{server} asks for a login", asked, within, tell=lambda: daemon.history(server))
    return found


def at_once(times: int, action: Callable[[int], Any]) -> list[Any]:
    """Do something in so many threads at the same moment; give what came of each, an exception for one that failed."""
    barrier = threading.Barrier(times)
    results: list[Any] = [None] * times

    def one(n: int) -> None:
        barrier.wait()
        try:
            results[n] = action(n)
        except Exception as error:
            results[n] = error

    threads = [threading.Thread(target=one, args=(n,)) for n in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results
