"""The client that the MCP conformance suite tests: a real daemon, driven over its socket as a person and a host would.

A moltis.toml for the URL of a scenario is written, the daemon started (forked from one process for all runs), each
authorization URL visited as a browser would, and every tool called. driver.py is what the suite starts.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))

import forked
from harness import Daemon, RpcError
from remote_harness import remote, visit

SERVER = "scenario"
METADATA_URL = "https://conformance-test.local/client-metadata.json"
ELICITING = ("elicitation-sep1034-client-defaults", "sep-2322-client-request-state")
READY_WITHIN = 30.0
MAX_VISITS = 3
TRIES = 3
LOGIN_NEEDED, SERVER_ERROR = -32007, -32009
SAMPLES = {"number": 1.5, "integer": 2, "boolean": True, "array": [], "object": {}, "null": None}


class Stuck(Exception):
    """It does not go on; why is in words."""


def entry(url: str, scenario: str, context: dict[str, Any]) -> dict[str, Any]:
    """Give the server's keys in moltis.toml."""
    oauth: dict[str, Any] = {key: context[key] for key in ("client_id", "client_secret") if key in context}
    if "private_key_pem" in context:
        oauth["private_key"] = context["private_key_pem"]
    if scenario.startswith("auth/client-credentials"):
        oauth["grant"] = "client_credentials"
    if scenario == "auth/basic-cimd":
        oauth["client_metadata_url"] = METADATA_URL
    keys: dict[str, Any] = {"oauth": oauth} if oauth else {}
    if scenario in ELICITING:
        keys["elicitation"] = "defaults"
    return remote(url, **keys)


class Player:
    """One run of a scenario."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.visited: set[str] = set()

    def settle(self) -> None:
        """Log in as often as asked, and wait until the server is ready.

        Raises:
            Stuck: the login failed, too many were wanted, or it took too long.
        """
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            status = self.daemon.status(SERVER)
            url = status["auth_url"]
            if url and url not in self.visited:
                self.log_in(url)
            elif status["auth_state"] == "failed":
                raise Stuck(f"the login failed: {status['last_error']}")
            elif status["state"] == "ready" and status["auth_state"] != "awaiting_browser":
                return
            elif status["state"] in ("invalid", "cooldown"):
                raise Stuck(f"{status['state']}: {status['last_error']}")
            else:
                time.sleep(0.02)
        raise Stuck(f"not ready within {READY_WITHIN} s: {self.daemon.status(SERVER)}")

    def log_in(self, url: str) -> None:
        if len(self.visited) == MAX_VISITS:
            raise Stuck(f"a person is asked to log in more than {MAX_VISITS} times")
        self.visited.add(url)
        self.daemon.rpc("mcp.oauth.complete", callback_url=visit(url))

    def ask(self, method: str, **params: Any) -> Any:
        """Ask, and ask again after a login. An error of the server's own is an answer: None."""
        for _ in range(TRIES):
            self.settle()
            try:
                return self.daemon.rpc(method, **params)
            except RpcError as error:
                if error.code == SERVER_ERROR:
                    return None
                if error.code != LOGIN_NEEDED:
                    raise
        raise Stuck(f"{method}: still refused after {TRIES} tries")

    def play(self, scenario: str, context: dict[str, Any]) -> None:
        self.settle()
        tools = {tool["name"]: tool for tool in self.ask("mcp.tools", name=SERVER)}
        for call in context.get("toolCalls") or [sample_call(tool, tools) for tool in tools.values()]:
            self.ask("mcp.call", server=SERVER, tool=call["name"], arguments=call["arguments"])
        if scenario == "http-standard-headers":
            for resource in self.ask("mcp.resources", name=SERVER):
                self.ask("mcp.read_resource", server=SERVER, uri=resource["uri"])
            for prompt in self.ask("mcp.prompts", name=SERVER):
                self.ask("mcp.get_prompt", server=SERVER, name=prompt["name"])


def sample_call(tool: dict[str, Any], tools: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Give a call that a tool accepts, made from its schema."""
    if tool["name"] == "json_schema_echo":
        return {"name": tool["name"], "arguments": {"schema": tools["json_schema_2020_12_tool"]["inputSchema"]}}
    properties = tool["inputSchema"].get("properties") or {}
    arguments = {name: SAMPLES.get(schema.get("type"), "text") for name, schema in properties.items()}
    return {"name": tool["name"], "arguments": arguments}


def played(url: str, scenario: str, context: dict[str, Any]) -> str:
    """Play a scenario with a daemon of its own. Return why it did not go through, "" if it did."""
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as folder:
        daemon = Daemon(Path(folder), forked=True)
        daemon.write({SERVER: entry(url, scenario, context)}, daemon={"browser_command": [], "log_level": "debug"})
        try:
            daemon.start()
            Player(daemon).play(scenario, context)
        except (AssertionError, OSError, RpcError, Stuck) as error:
            records = daemon.records()[-60:] if daemon.log.exists() else []
            return "\n".join([f"{type(error).__name__}: {error}", daemon.said(), *map(json.dumps, records)])
        finally:
            daemon.end_everything()
    return ""


def answer(driver: socket.socket) -> None:
    """Play what a driver asks for, and tell it how it went."""
    with driver, contextlib.suppress(OSError):  # whoever does not listen any more has been ended by the suite
        asked = b"".join(iter(lambda: driver.recv(1 << 16), b"")).decode()
        url, scenario, context = asked.split("\n", 2)
        try:
            why = played(url, scenario, json.loads(context))
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        driver.sendall(f"{1 if why else 0} {why}".encode())


@contextlib.contextmanager
def listening() -> Iterator[dict[str, str]]:
    """Play whatever drivers ask for, each in a thread of its own. Yield what their environment has to have."""
    forked.shared()  # or each of the first threads would start a process to fork from
    with tempfile.TemporaryDirectory(prefix="moltis-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place := f"{folder}/player")
        listener.listen()

        def accept() -> None:
            with contextlib.suppress(OSError):  # it is closed
                while True:
                    threading.Thread(target=answer, args=(listener.accept()[0],)).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield {"MOLTIS_TEST_PLAYER": place}
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
