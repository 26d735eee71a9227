"""Nothing is lost on the way: what hosts and servers say to each other through the gateway, byte for byte.

The servers are parrots (`servers/parrot.py`), which say what the test makes them say and write down what they hear. The
hosts write and read bytes.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import pytest
from gateway_harness import connect_command, connect_env, gateway_url, start
from harness import PYTHON, SERVERS, Daemon, wait_until
from processes import signal_pid

PARROT = SERVERS / "parrot.py"
LEGACY, MODERN = "2025-11-25", "2026-07-28"
META = "io.modelcontextprotocol/"
WITHIN = 10.0

# --- what the servers declare: every member the specification has, and some that it has not

ICONS = '[{"src":"data:image/png;base64,AA==","mimeType":"image/png","sizes":["48x48","any"],"theme":"dark","vendor":1}]'
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
ANNOTATIONS = '{"title":"T","readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false,"v":1}'


def tool(name: str, more: str = "") -> str:
    return (
        f'{{"_meta":{{"vendor/a":{NASTY}}},"description":"d","icons":{ICONS},"inputSchema":{SCHEMA},'
        f'"outputSchema":{SCHEMA},"annotations":{ANNOTATIONS},"execution":{{"taskSupport":"optional"}},'
        f'"title":"T","name":{name},"vendor":{{"b":1,"a":2}}{more}}}'
    )


NAMES = ('"say"', '"a__b"', '"dot.ted/sl\\/ash"', '"\u00fcn\u00ef \U0001f600"', '"server__say"', '"__"', '"parrot__say"')
TOOLS = [tool(name) for name in NAMES]
RESOURCE = (
    f'{{"uri":"parrot://one","name":"one","title":"O","description":"d","mimeType":"text/plain","size":9007199254740993,'
    f'"annotations":{{"audience":["user"],"priority":0.50,"lastModified":"2025-01-12T15:00:58Z","v":1}},"icons":{ICONS},'
    f'"_meta":{{"vendor/a":{NASTY}}},"vendor":1.0}}'
)
RESOURCES = [RESOURCE, '{"uri":"parrot://tw%20o?q=\u00e9#f","name":"two"}', '{"uri":"file:///tmp/a b","name":"three"}']
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

SERVERS_OF = {"old": ("legacy", False), "new": ("modern", False), "oldweb": ("legacy", True), "newweb": ("modern", True)}
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
        return (self.folder / f"{name}.heard").read_bytes().splitlines()

    def end(self) -> None:
        self.daemon.end_everything()
        for process in self._processes:
            signal_pid(process.pid, 9)
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        made = World(Path(name))
        try:
            made.begin()
            yield made
        finally:
            made.end()


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
        params = f'{{"protocolVersion":"{version}","capabilities":{self.able},"clientInfo":{{"name":"h","version":"1"}}}}'
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
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
        sent = {"content-type": "application/json", "accept": "application/json, text/event-stream", **self.headers}
        if self.session is not None:
            sent |= {"mcp-session-id": self.session}
        if self.era == "modern":
            sent |= {"mcp-protocol-version": MODERN, "mcp-method": method}
            about = json.loads(params).get("name") or json.loads(params).get("uri")
            if about is not None:
                sent["mcp-name"] = about
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


WAYS = [(way, server) for way in ("pipe", "web") for server in NAMED]
each_way = pytest.mark.parametrize(("way", "server"), WAYS)
each_era = pytest.mark.parametrize("era", ["legacy", "modern"])


def loads(text: bytes | str) -> Any:
    """Read JSON so that nothing is equal but what is the same: order of members, spelling of numbers."""

    def pairs(found: list[tuple[str, Any]]) -> Any:
        return ("object", found)

    return json.loads(text, object_pairs_hook=pairs, parse_float=str, parse_int=str, parse_constant=str)


def without(text: bytes, *names: str) -> bytes:
    return msgspec.json.encode({k: msgspec.Raw(v) for k, v in members(text).items() if k not in names})


# --- introductions


@each_way
@each_era
def test_one_server_introduces_itself_in_its_own_words(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era) as host:
        if era == "legacy":
            found = members(host.begin("2025-06-18")) if way == "web" else members(host.result("initialize", '{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"h","version":"1"}}'))
            assert found["protocolVersion"] == b'"2025-06-18"'
            info = found["serverInfo"]
        else:
            found = members(host.result("server/discover"))
            info = members(found["_meta"])[f"{META}serverInfo"]
    assert loads(info) == loads(INFO)
    assert loads(found["capabilities"]) == loads(CAPABILITIES)
    assert found["instructions"].decode() == INSTRUCTIONS
    own = members(INITIALIZE.encode() if SERVERS_OF[server][0] == "legacy" else DISCOVER.encode())
    assert found["vendor/top"] == own["vendor/top"]
    assert members(found["_meta"])["vendor/m"] == b'{"x":1.50}'


# --- lists


@each_way
@each_era
def test_what_one_server_lists_is_what_it_lists(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era) as host:
        for method, member, items in (
            ("tools/list", "tools", TOOLS),
            ("resources/list", "resources", RESOURCES),
            ("resources/templates/list", "resourceTemplates", TEMPLATES),
            ("prompts/list", "prompts", PROMPTS),
        ):
            found = members(host.result(method))
            assert found[member].decode() == f"[{','.join(items)}]"
            assert "nextCursor" not in found


@pytest.mark.parametrize("server", NAMED)
def test_at_mcp_only_the_name_is_another(world: World, server: str) -> None:
    with host_at(world, "web", None) as host:
        tools = _listed(host, "tools/list", "tools")
        names = {json.loads(members(item)["name"]): item for item in tools}
        for own in TOOLS:
            mine = names[f"{server}__{json.loads(members(own.encode())['name'])}"]
            assert without(mine, "name") == without(own.encode(), "name")
            assert list(members(mine)) == list(members(own.encode()))
        for method, member, items, address in (
            ("resources/list", "resources", RESOURCES, "uri"),
            ("resources/templates/list", "resourceTemplates", TEMPLATES, "uriTemplate"),
        ):
            listed = {json.loads(members(item)[address]): item for item in _listed(host, method, member)}
            for own in items:
                uri = json.loads(members(own.encode())[address])
                quoted = quote(uri, safe="") if address == "uri" else uri
                mine = listed[uri if server == "old" else f"moltis://{server}/{quoted}"]
                assert without(mine, address) == without(own.encode(), address)


def _listed(host: Host, method: str, member: str) -> list[bytes]:
    found = members(host.result(method))
    return [bytes(item) for item in msgspec.json.decode(found[member], type=list[msgspec.Raw])]


# --- results and errors


RESULTS = {
    "unknown members everywhere": f'{{"vendor":{NASTY},"content":[{{"type":"text","text":"t","vendor":{NASTY},"_meta":{NASTY},'
    f'"annotations":{{"audience":["assistant"],"priority":1e0,"v":null}}}}],"_meta":{NASTY}}}',
    "every content": '{"content":[{"type":"image","data":"AA==","mimeType":"image/png"},{"type":"audio","data":"AA==",'
    '"mimeType":"audio/wav","_meta":{}},{"type":"resource_link","uri":"any:thing","name":"n","title":"t","size":1.0,'
    f'"icons":{ICONS}}},{{"type":"resource","resource":{{"uri":"x:y","blob":"AA==","_meta":{NASTY}}}}},'
    '{"type":"vendor/new","x":1}],"structuredContent":' + NASTY + "}",
    "isError": '{"content":[],"isError":true,"structuredContent":{"resultType":"mine","ttlMs":5}}',
    "named like a member of ours": '{"structuredContent":{"resultType":"x"},"content":[{"type":"text","text":"resultType"}]}',
    "no object members": "{}",
    "white space": '{ "content" :\t[ ] , "a" : { "b" : 1 } }',
    "duplicates": '{"content":[],"a":1,"a":2,"_meta":{"k":1,"k":2}}',
    "a task": '{"task":{"taskId":"786512e2","status":"working","createdAt":"2025-11-25T10:30:00Z","ttl":60000,'
    '"pollInterval":5000,"statusMessage":"s","lastUpdatedAt":"x"},"_meta":{"io.modelcontextprotocol/x":"y"}}',
    "numbers and texts": f'{{"content":[],"structuredContent":{NASTY}}}',
}


@each_way
@each_era
def test_results_arrive_byte_for_byte(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era) as host:
        for what, result in RESULTS.items():
            found = members(host.call({"result": result}))["result"].decode()
            if era == "modern" and SERVERS_OF[server][0] == "legacy":
                comma = "" if result == "{}" else ","
                assert found == '{"resultType":"complete"' + comma + result[1:].lstrip(), what
            else:
                assert found == result, what


ERRORS = [
    f'{{"code":{code},"message":"m\u00e9 \U0001f600","data":{data},"vendor":1.0}}'
    for code, data in (
        (-32002, '{"uri":"x"}'),
        (-32001, "null"),
        (-32800, '"text"'),
        (-32000, NASTY),
        (-32603, "[1.0]"),
        (-32602, "{}"),
        (-32601, "0"),
        (-32600, "false"),
        (-32700, '""'),
        (-32003, "{}"),
        (1, "{}"),
        (0, "{}"),
        (2147483648, "{}"),
        (-32042, '{"elicitations":[{"mode":"url","elicitationId":"e","url":"https://x/","message":"m","v":1.0}]}'),
        (-32022, '{"supported":["1999-01-01"],"requested":"x"}'),
        (-32020, "{}"),
        (-32021, '{"requiredCapabilities":{"elicitation":{}}}'),
    )
]


@each_way
@each_era
def test_errors_arrive_byte_for_byte(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era) as host:
        for error in ERRORS:
            reply = members(host.call({"error": error}))
            assert reply["error"].decode() == error


# --- what servers hear


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
    return f"mark{next(_MARKS)}"


@each_way
@each_era
def test_a_request_arrives_byte_for_byte(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era) as host:
        for more, arguments in (("", NASTY), (f',"vendor/x":{NASTY},"task":{{"ttl":1.0}}', "{}"), ("", None), ("", "null")):
            mark = new_mark()
            given = "" if arguments is None else f'"arguments":{arguments},'
            trace = '"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"a=b"'
            host.ask("tools/call", f'{{"name":"say",{given}"mark":"{mark}"{more}}}', None, f'{trace},"vendor/m":{NASTY}')
            params = heard_of(world, server, "tools/call", mark)
            got = members(params)
            assert without(params, "_meta").decode() == f'{{"name":"say",{given}"mark":"{mark}"{more}}}'
            meta = members(got["_meta"])
            assert meta["vendor/m"].decode() == NASTY
            assert meta["traceparent"].startswith(b'"00-0af') and meta["tracestate"] == b'"a=b"'
            assert isinstance(json.loads(meta["progressToken"]), int)
            modern = SERVERS_OF[server][0] == "modern"
            assert (f"{META}protocolVersion" in meta) == modern
            if modern and era == "modern":
                assert meta[f"{META}clientInfo"] == b'{"name":"h","version":"1","v":1.0}'


@each_way
@each_era
def test_the_other_methods_pass_whole(world: World, way: str, server: str, era: str) -> None:
    complete = '"resultType":"complete","ttlMs":0,"cacheScope":"private",' if SERVERS_OF[server][0] == "modern" else ""
    asked = {
        "prompts/get": '{"name":"ask","arguments":{"a":"%s"},"vendor":1.0}',
        "resources/read": '{"uri":"unlisted:%s?\u00e9#x y","vendor":1.0}',
        "completion/complete": '{"ref":{"type":"ref/resource","uri":"parrot://t/{id}{?x,y}","v":1.0},"argument":{"name":"id",'
        '"value":"%s","v":1},"context":{"arguments":{"x":"y"},"v":1.0},"vendor":1.0}',
        "vendor/method": '{"mark":"%s","x":' + NASTY + "}",
        "tasks/get": '{"taskId":"%s"}',
        "tasks/result": '{"taskId":"%s"}',
        "tasks/list": '{"cursor":"%s"}',
        "tasks/cancel": '{"taskId":"%s","vendor":1.0}',
    }
    with host_at(world, way, server, era) as host:
        for method, shape in asked.items():
            mark = new_mark()
            params = shape % mark
            result = f'{{{complete}"vendor":{NASTY},"contents":[{{"uri":"x:y","text":"","_meta":{{"ttlMs":1,"resultType":2}}}}]}}'
            host.send(
                f'{{"jsonrpc":"2.0","method":"parrot/next","params":{json.dumps({"method": method, "result": result})}}}',
                "parrot/next",
                "{}",
            )
            heard_of(world, server, "parrot/next", json.dumps(method))
            found = host.result(method, params)
            assert without(heard_of(world, server, method, mark), "_meta").decode() == params
            if era == "modern" and not complete:
                own = without(found, "resultType", "ttlMs", "cacheScope")
                assert own.decode() == result, method
                assert members(found)["resultType"] == b'"complete"'
                assert ("ttlMs" in members(found)) == (method == "resources/read")
            else:
                assert found.decode() == result, method


IDS = ['"s"', "0", "-1", "9007199254740993", "123456789012345678901234567890", '""', '"\u00e9 \U0001f600 \\u00e9 \\" \\n"', '"0"']


@each_way
@each_era
def test_ids_come_back_as_they_were(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era) as host:
        for id in IDS:
            assert members(host.ask("tools/call", '{"name":"say","arguments":{"result":"{}"}}', id))["id"].decode() == id


@pytest.mark.parametrize("way", ["pipe", "web"])
def test_params_and_meta_that_are_null_are_as_good_as_none(world: World, way: str) -> None:
    with host_at(world, way, "old") as host:
        assert host.result("ping", "null") == b"{}"
        assert host.result("tools/list", '{"_meta":null,"cursor":null}').startswith(b'{"tools":[')
        assert host.result("tools/call", '{"name":"say","arguments":{"result":"{}"},"_meta":null}') == b"{}"


@pytest.mark.parametrize("way", ["pipe", "web"])
def test_half_a_surrogate_pair_becomes_a_replacement_character_both_ways(world: World, way: str) -> None:
    with host_at(world, way, "old") as host:
        mark = new_mark()
        host.ask("tools/call", r'{"name":"say","arguments":{"result":"{}","a":"\ud83d %s \\ud83d"}}' % mark)
        got = members(heard_of(world, "old", "tools/call", mark))["arguments"].decode()
        assert got == r'{"result":"{}","a":"\ufffd %s \\ud83d"}' % mark
        assert members(host.call({"result": r'{"a":"\ude00"}'}))["result"] == rb'{"a":"\ufffd"}'


# --- what servers say meanwhile


@each_way
@each_era
def test_progress_keeps_everything_but_the_servers_token(world: World, way: str, server: str, era: str) -> None:
    more = f'"progress":0.50,"total":1e400,"message":"m\u00e9 \U0001f600","_meta":{NASTY},"vendor":1.0'
    said = f'{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":$TOKEN,{more}}}}}'
    with host_at(world, way, server, era) as host:
        for token in ('"t \u00e9"', "0", "9007199254740993", '"0"'):
            host.told.clear()
            host.call({"say": [said], "result": "{}"}, meta=f'"progressToken":{token}')
            (told,) = host.told
            assert members(told)["params"].decode() == f'{{"progressToken":{token},{more}}}'


@each_way
@each_era
def test_log_messages_arrive_byte_for_byte(world: World, way: str, server: str, era: str) -> None:
    all_params = [f'{{"level":"error","logger":"l\u00e9","data":{data},"_meta":{{"v":1.0}},"vendor":1}}' for data in (NASTY, '"t"', "null", "1.0", "[]")]
    says = [f'{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}' for params in all_params]
    with host_at(world, way, server, era) as host:
        if era == "legacy":
            host.result("logging/setLevel", '{"level":"debug"}')
        host.told.clear()
        host.call({"say": says, "result": "{}"}, meta=f'"{META}logLevel":"debug"' if era == "modern" else "")
        assert [members(told)["params"].decode() for told in host.told] == all_params


ABLE = '{"sampling":{"context":{},"tools":{}},"elicitation":{"form":{},"url":{}},"roots":{"listChanged":true}}'
QUESTIONS = {
    "sampling/createMessage": '{"messages":[{"role":"user","content":[{"type":"tool_result","toolUseId":"u","content":[],"v":1.0}],'
    f'"_meta":{NASTY}}}],"maxTokens":100,"includeContext":"thisServer","temperature":1.0,"stopSequences":["\u2028"],'
    f'"systemPrompt":"s","metadata":{NASTY},"modelPreferences":{{"hints":[{{"name":"x"}}],"costPriority":0.10}},'
    f'"tools":[{{"name":"t","inputSchema":{SCHEMA}}}],"toolChoice":{{"mode":"auto"}},"vendor":1.0,"_meta":{{"v":1.0}}}}',
    "elicitation/create": f'{{"message":"m\u00e9","requestedSchema":{SCHEMA},"_meta":{NASTY},"vendor":1.0}}',
    "roots/list": '{"_meta":{"v":1.0},"vendor":1.0}',
    "elicitation/create ": '{"mode":"url","elicitationId":"e1","url":"https://x/?a=\u00e9","message":"m","vendor":1.0}',
}
ANSWERS = {
    "sampling/createMessage": f'{{"role":"assistant","model":"m","stopReason":"vendor/x","content":[{{"type":"tool_use","id":"i","name":"n",'
    f'"input":{NASTY}}}],"_meta":{NASTY},"vendor":1.0}}',
    "elicitation/create": f'{{"action":"accept","content":{NASTY},"_meta":{{"v":1.0}},"vendor":1.0}}',
    "roots/list": '{"roots":[{"uri":"file:///a%20b","name":"\u00e9","_meta":{"v":1.0},"vendor":1.0}],"_meta":{"v":1.0}}',
}


@each_way
@each_era
@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_and_answers_are_byte_for_byte(world: World, way: str, server: str, era: str, question: str) -> None:
    method, asked = question.strip(), QUESTIONS[question]
    answer = ANSWERS[method].replace('"vendor"', f'"{new_mark()}"')
    with host_at(world, way, server, era, ABLE) as host:
        params = '{"name":"say","arguments":%s}'
        if SERVERS_OF[server][0] == "legacy":
            say = f'{{"jsonrpc":"2.0","id":"q 1.0","method":"{method}","params":{asked}}}'
            params %= json.dumps({"say": [say], "wait": True, "result": '{"done":true}'})
        else:
            result = f'{{"resultType":"input_required","inputRequests":{{"k\u00e9":{{"method":"{method}","params":{asked}}}}},"requestState":"s\u00e9"}}'
            params %= json.dumps({"result": result, "then": '{"done":true}'})
        got, reply = _ask_and_answer(host, params, answer)
        assert got.decode() == asked
        assert b'"done":true' in reply, reply
    mark = re.findall(r'"(mark\d+)"', answer)[0]
    (line,) = [line for line in world.heard(server) if f'"{mark}"'.encode() in line]
    assert answer.encode() in line


def _ask_and_answer(host: Host, params: str, answer: str) -> tuple[bytes, bytes]:
    """Call, answer what is asked, and give the question's params and the reply."""
    if host.era == "modern":
        result = members(host.result("tools/call", params))
        assert result["resultType"] == b'"input_required"', result
        ((key, question),) = members(result["inputRequests"]).items()
        again = f'{params[:-1]},"requestState":{result["requestState"].decode()},"inputResponses":{{{json.dumps(key)}:{answer}}}}}'
        return members(question)["params"], host.ask("tools/call", again)
    host.send(f'{{"jsonrpc":"2.0","id":77,"method":"tools/call","params":{params}}}', "tools/call", params)
    asked = host.read()
    message = f'{{"jsonrpc":"2.0","id":{members(asked)["id"].decode()},"result":{answer}}}'
    if isinstance(host, Web):
        with contextlib.closing(Web(host.url)) as other:
            other.session = host.session
            other.send(message)
    else:
        host.send(message, "", "")
    return members(asked)["params"], host.reply("77")


# --- extensions


@each_way
def test_notifications_that_nobody_knows_pass_to_the_server(world: World, way: str, server: str) -> None:
    for era in ("legacy", "modern"):
        with host_at(world, way, server, era) as host:
            mark = new_mark()
            params = f'{{"mark":"{mark}","x":{NASTY},"_meta":{{"v":1.0}}}}'
            host.send(f'{{"jsonrpc":"2.0","method":"vendor/said","params":{params}}}', "vendor/said", params)
            assert heard_of(world, server, "vendor/said", mark).decode() == params


@each_way
def test_notifications_that_nobody_knows_pass_to_the_host(world: World, way: str, server: str) -> None:
    params = f'{{"x":{NASTY},"_meta":{{"v":1.0}}}}'
    with host_at(world, way, server) as host:
        host.call({"say": [f'{{"jsonrpc":"2.0","method":"vendor/said","params":{params}}}'], "result": "{}"})
        if not host.told and isinstance(host, Pipe):
            host.told.append(host.read())
        if SERVERS_OF[server][1] or way == "pipe":
            assert [members(told)["params"].decode() for told in host.told] == [params]
