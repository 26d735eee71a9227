"""A daemon with parrots behind it (`servers/parrot.py`), and hosts at it that write and read bytes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from gateway_harness import connect_command, connect_env, gateway_url, start
from harness import PYTHON, SERVERS, Daemon, wait_until
from patience import PATIENCE
from processes import signal_pid

PARROT = SERVERS / "parrot.py"
LEGACY, MODERN = "2025-11-25", "2026-07-28"
META = "io.modelcontextprotocol/"
WITHIN = PATIENCE

# --- what the servers declare: every member the specification has, and some that it has not

ICONS = (
    '[{"src":"data:image/png;base64,AA==","mimeType":"image/png","sizes":["48x48","any"],"theme":"dark","vendor":1}]'
)
INFO = (
    '{"name":"parrot","title":"P\u00e4rr\u00f6t \U0001f99c","version":"1.0","description":"It repeats.",'
    f'"websiteUrl":"https://example.com/?a=1&b=2","icons":{ICONS},"vendor/info":[1.0,null,{{"b":1,"a":2}}]}}'
)
CAPABILITIES = (
    '{"tools":{"listChanged":true,"vendor/t":1.0},"resources":{"listChanged":true,"subscribe":true},'
    '"prompts":{"listChanged":true},"logging":{},"completions":{"vendor":{}},'
    '"experimental":{"vendor/x":{"n":12345678901234567890123,"f":1.0}},'
    '"extensions":{"com.example/ui":{"mimeTypes":["text/html;profile=mcp-app"]}},'
    '"tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}},"vendor/cap":{"\u00e9":"\U0001f600"}}'
)
INSTRUCTIONS = '"Line one\\nline \\"two\\" \u2028 \U0001f600"'
SAID = '"vendor/top":{"deep":[1e400,-0.0,123456789012345678901234567890]},"_meta":{"vendor/m":{"x":1.50}}'
INITIALIZE = (
    f'{{"protocolVersion":"{LEGACY}","capabilities":{CAPABILITIES},"serverInfo":{INFO},'
    f'"instructions":{INSTRUCTIONS},{SAID}}}'
)
DISCOVER = (
    f'{{"resultType":"complete","ttlMs":1000,"cacheScope":"public","supportedVersions":["{MODERN}"],'
    f'"capabilities":{CAPABILITIES},"instructions":{INSTRUCTIONS},"vendor/top":{{"deep":[1e400,-0.0]}},'
    f'"_meta":{{"{META}serverInfo":{INFO},"vendor/m":{{"x":1.50}}}}}}'
)

NASTY = (
    '{"z":1e400,"big":123456789012345678901234567890,"one":1.0,"exp":1E2,"neg":-0,"tiny":0.1e-400,'
    r'"pair":"\ud83d\ude00","raw":"' + "\U0001f600\u2028\u2029\ufffe\U0010ffff" + r'","esc":"\u0000\/\u00e9",'
    '"a":{"b":[ 1 ,\t2 ],"":null},"__proto__":{},"n":9007199254740993}'
)
"""JSON that changes when it is parsed and written again."""

SCHEMA = (
    '{"type":"object","$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{"a":{"type":"string"}},'
    '"properties":{"z":{"$ref":"#/$defs/a"},"a":{"type":"integer","maximum":9007199254740993,"default":1.0}},'
    '"additionalProperties":false,"required":[],"x-vendor":{"y":1e400}}'
)
ANNOTATIONS = (
    '{"title":"T","readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false,"v":1}'
)


def tool(name: str, more: str = "") -> str:
    return (
        f'{{"_meta":{{"vendor/a":{NASTY}}},"description":"d","icons":{ICONS},"inputSchema":{SCHEMA},'
        f'"outputSchema":{SCHEMA},"annotations":{ANNOTATIONS},"execution":{{"taskSupport":"optional"}},'
        f'"title":"T","name":{name},"vendor":{{"b":1,"a":2}}{more}}}'
    )


NAMES = (
    '"say"',
    '"a__b"',
    '"dot.ted/sl\\/ash"',
    '"\u00fcn\u00ef \U0001f600"',
    '"server__say"',
    '"__"',
    '"parrot__say"',
)
MARKED = (
    '{"name":"marked","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},'
    '"n":{"type":"integer","x-mcp-header":"N"}}}}'
)
TOOLS = [*(tool(name) for name in NAMES), MARKED]
RESOURCE = (
    f'{{"uri":"parrot://one","name":"one","title":"O","description":"d","mimeType":"text/plain","size":9007199254740993,'
    f'"annotations":{{"audience":["user"],"priority":0.50,"lastModified":"2025-01-12T15:00:58Z","v":1}},"icons":{ICONS},'
    f'"_meta":{{"vendor/a":{NASTY}}},"vendor":1.0}}'
)
RESOURCES = [RESOURCE, '{"uri":"parrot://tw%20o?q=\u00e9#f","name":"two"}', '{"uri":"file:///srv/a b","name":"three"}']
TEMPLATES = [
    f'{{"uriTemplate":"parrot://t/{{id}}{{?x,y}}","name":"t","title":"T","icons":{ICONS},"_meta":{{"v":1.0}},"vendor":1}}',
    '{"uriTemplate":"any:{+rest}","name":"any"}',
]
PROMPTS = [
    f'{{"name":"ask","title":"A","arguments":[{{"name":"result","title":"R","required":false,"v":1.0}}],"icons":{ICONS},'
    f'"_meta":{{"vendor/a":{NASTY}}},"vendor":1.0}}'
]


def pages(member: str, items: list[str]) -> list[str]:
    return [f'"{member}":[{item}]' for item in items]


DECLARED = {
    "initialize": INITIALIZE,
    "discover": DISCOVER,
    "tools": pages("tools", TOOLS),
    "resources": pages("resources", RESOURCES),
    "resourceTemplates": pages("resourceTemplates", TEMPLATES),
    "prompts": pages("prompts", PROMPTS),
}

SERVERS_OF = {
    "old": ("legacy", False),
    "new": ("modern", False),
    "oldweb": ("legacy", True),
    "newweb": ("modern", True),
}
NAMED = [*SERVERS_OF]
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def members(text: bytes | msgspec.Raw) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in _MEMBERS.decode(text).items()}


# --- the world


class World:
    """A daemon with four parrots behind it: of both eras, on both transports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemon = Daemon(folder)
        self._processes: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        (self.folder / "declared").write_text(json.dumps(DECLARED))
        servers = {
            name: {"url": f"http://127.0.0.1:{self._listening(name, era)}/mcp"}
            if web
            else self.daemon.real(PYTHON, *self.parrot(name, era))
            for name, (era, web) in SERVERS_OF.items()
        }
        start(self.daemon, servers)
        self.daemon.wait_all()
        self.url = gateway_url(self.daemon)

    def parrot(self, name: str, era: str) -> list[str]:
        heard, declared = str(self.folder / f"{name}.heard"), str(self.folder / "declared")
        return [str(PARROT), "--heard", heard, "--era", era, "--declares", declared]

    def _listening(self, name: str, era: str) -> int:
        command = [PYTHON, *self.parrot(name, era), "--http"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        self._processes.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())

    def heard(self, name: str) -> list[bytes]:
        whole = (self.folder / f"{name}.heard").read_bytes().rpartition(b"\n")[0]  # the last line may be half written
        return whole.splitlines()

    def end(self) -> None:
        self.daemon.end_everything()
        for process in self._processes:
            signal_pid(process.pid, signal.SIGKILL)
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


# --- hosts


class Host:
    """A host that writes and reads bytes. Of MCP 2026-07-28 it says who it is in each request."""

    def __init__(self, era: str = "legacy", able: str = "{}") -> None:
        self.era = era
        self.able = able
        self.told: list[bytes] = []
        self._ids = itertools.count(1)

    def meta(self, more: str = "") -> str:
        if self.era == "legacy":
            return "{" + more + "}"
        return (
            f'{{"{META}protocolVersion":"{MODERN}","{META}clientInfo":{{"name":"h","version":"1","v":1.0}},'
            f'"{META}clientCapabilities":{self.able}{more and ","}{more}}}'
        )

    def ask(self, method: str, params: str = "{}", id: str | None = None, meta: str = "") -> bytes:
        """Send a request and give the reply, whole. `params`: with braces; `_meta` is added to them if there is any."""
        id = id or str(next(self._ids))
        if self.era == "modern" or meta:
            comma = "" if params == "{}" else ","
            params = f'{{"_meta":{self.meta(meta)}{comma}{params[1:]}'
        self.send(f'{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}', method, params)
        return self.reply(id)

    def result(self, method: str, params: str = "{}", meta: str = "") -> bytes:
        reply = members(self.ask(method, params, None, meta))
        assert "result" in reply, reply
        return reply["result"]

    def call(self, script: dict[str, Any], name: str = "say", meta: str = "", more: str = "") -> bytes:
        """Call the tool that says what it is told, and give the reply."""
        params = f'{{"name":{json.dumps(name)},"arguments":{json.dumps(script)}{more}}}'
        return self.ask("tools/call", params, None, meta)

    def begin(self, version: str = LEGACY) -> bytes:
        params = (
            f'{{"protocolVersion":"{version}","capabilities":{self.able},"clientInfo":{{"name":"h","version":"1"}}}}'
        )
        result = self.result("initialize", params)
        self.send('{"jsonrpc":"2.0","method":"notifications/initialized"}', "notifications/initialized", "{}")
        return result

    def reply(self, id: str) -> bytes:
        """Give the next message that is a reply; those before it are added to `told`."""
        while True:
            message = self.read()
            if b'"method"' not in members(message) and "method" not in members(message):
                assert members(message)["id"] == id.encode(), message
                return message
            self.told.append(message)

    def send(self, message: str, method: str, params: str) -> None:
        raise NotImplementedError

    def read(self) -> bytes:
        raise NotImplementedError


class Pipe(Host):
    """Over stdio: `moltis connect`, or a server itself."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None, era: str = "legacy", able: str = "{}"):
        super().__init__(era, able)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, start_new_session=True
        )

    def send(self, message: str, method: str = "", params: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(message.encode("utf-8", "surrogatepass") + b"\n")
        self.process.stdin.flush()

    def read(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it hung up"
        return line.rstrip(b"\n")


def encoded(value: str) -> str:
    """Give a value as a header can hold it (MCP 2026-07-28, Transports)."""
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


class Web(Host):
    """Over Streamable HTTP."""

    def __init__(self, url: str, era: str = "legacy", able: str = "{}") -> None:
        super().__init__(era, able)
        self.url = url
        self.session: str | None = None
        self.headers: dict[str, str] = {}
        self._messages: Iterator[bytes] = iter(())
        self._open: list[http.client.HTTPConnection | http.client.HTTPResponse] = []

    def close(self) -> None:
        for one in self._open:
            one.close()

    def send(self, message: str, method: str = "", params: str = "") -> None:
        where = urlsplit(self.url)
        assert where.hostname is not None
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=WITHIN)
        sent = {"content-type": "application/json", "accept": "application/json, text/event-stream", **self.headers}
        if self.session is not None:
            sent |= {"mcp-session-id": self.session}
        if self.era == "modern":
            sent |= {"mcp-protocol-version": MODERN, "mcp-method": method}
            about = json.loads(params).get("name") or json.loads(params).get("uri")
            if about is not None:
                sent["mcp-name"] = about if about.isascii() else encoded(about)
        connection.request("POST", where.path, message.encode("utf-8", "surrogatepass"), sent)
        response = connection.getresponse()
        self._open += [response, connection]
        self.session = response.headers.get("mcp-session-id") or self.session
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            lines = iter(response.readline, b"")
            self._messages = (line[5:].strip(b" \r\n") for line in lines if line.startswith(b"data:"))
        elif body := response.read():
            self._messages = iter((body,))

    def read(self) -> bytes:
        return next(self._messages)


@contextlib.contextmanager
def direct(world: World, era: str) -> Iterator[Pipe]:
    host = Pipe([PYTHON, *world.parrot(f"direct-{era}", era)], era=era)
    try:
        yield host
    finally:
        host.process.kill()
        host.process.communicate()


@contextlib.contextmanager
def host_at(world: World, way: str, server: str | None, era: str = "legacy", able: str = "{}") -> Iterator[Host]:
    """Give a host that has begun, over `pipe` or `web`, at one server or all."""
    if way == "web":
        url = world.url if server is None else f"{world.url.removesuffix('/mcp')}/servers/{server}/mcp"
        with contextlib.closing(Web(url, era, able)) as web:
            if era == "legacy":
                web.begin()
            yield web
        return
    pipe = Pipe(connect_command(world.daemon, server), connect_env(world.daemon), era, able)
    try:
        if era == "legacy":
            pipe.begin()
        yield pipe
    finally:
        pipe.process.kill()
        pipe.process.communicate()


def loads(text: bytes | str) -> Any:
    """Read JSON so that nothing is equal but what is the same: order of members, spelling of numbers."""

    def pairs(found: list[tuple[str, Any]]) -> Any:
        return ("object", found)

    return json.loads(text, object_pairs_hook=pairs, parse_float=str, parse_int=str, parse_constant=str)


def without(text: bytes, *names: str) -> bytes:
    return msgspec.json.encode({k: msgspec.Raw(v) for k, v in members(text).items() if k not in names})


def heard_of(world: World, server: str, method: str, mark: str) -> bytes:
    """Give the params of the last message with that method and something in it that a test can tell it by."""

    def find() -> bytes | None:
        for line in reversed(world.heard(server)):
            message = line[line.find(b'{"jsonrpc"') :]
            if f'"{method}"'.encode() in message and mark.encode() in message:
                return message
        return None

    found: bytes = wait_until(f"{server} hears {method}", find, WITHIN)
    return members(found)["params"]


_MARKS = itertools.count(1)


def new_mark() -> str:
    return f"mark-{next(_MARKS)}-"
