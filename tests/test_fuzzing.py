"""Every reader of what comes from outside, on bytes that nobody sane would send.

A reader raises its own error and no other, its work grows with what it reads and not faster, and what it accepts it can
write back and accept again. `MOLTIS_FUZZ_EXAMPLES` is how many inputs each reader gets; what was once found stands in
`FOUND` and is tried each time.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import pytest
from framing import logged_of, whole_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltis import jsonrpc
from moltis.cli.log_lines import sentence
from moltis.config.load import load
from moltis.config.overrides import EnvOverrides
from moltis.config.plan import ServerPlan
from moltis.control import requests
from moltis.daemon.eras import Eras
from moltis.errors import ConfigError
from moltis.gateway import messages, token_file
from moltis.gateway.http.kept import KeptSessions
from moltis.gateway.known import KnownStore
from moltis.gateway.revisions import result_for, tool_for_legacy
from moltis.gateway.tokens import TokenStore as AccessTokens
from moltis.http.heads import retry_after_secs
from moltis.logtail import tail
from moltis.oauth.authserver import read_server
from moltis.oauth.cipher import Cipher
from moltis.oauth.grants import read_tokens, refresh_due
from moltis.oauth.model import AuthServer, Client, Key, OAuthProblem, ProtectedResource, Record, Tokens
from moltis.oauth.resource import bearer_challenge, metadata_urls, read_resource
from moltis.oauth.store import StoreProblem, TokenStore
from moltis.session import envelope
from moltis.session.handshake import HANDSHAKE_VERSIONS, MODERN_VERSIONS, Done, Failed, Handshake, Lesson, Send
from moltis.session.listing import Kind, ListError, Pages, with_server, without_secrets
from moltis.transport import warden
from moltis.transport.frames import BOM, Framer, StderrLines
from moltis.transport.remote import replies
from moltis.transport.remote.events import Event, EventStream, EventTooLarge
from moltis.transport.remote.headers import BadSessionId, checked_session_id

EXAMPLES: Final = int(os.environ.get("MOLTIS_FUZZ_EXAMPLES", "30"))
LARGE: Final = 128 * 1024
"""Bytes. Work that grows with the square of this takes many seconds."""
LARGE_SECS: Final = 5.0
"""Of processor time, for one large input; the slowest takes about a tenth of it."""


# --- inputs

ODD: Final = (
    *b'null|true|0|-0|1e999|-1.5|NaN|[]|{}|[null]|""|"x"|{"":{}}|2.0|"7"|{"a":1,"a":2}|["INFO"]|{"id":1}'.split(b"|"),
    *rb'"\ud83d"|{"\udc00":1}|"\u0000"|"\x"|9223372036854775808|18446744073709551616'.split(b"|"),
    *(b"\xff", b'"\xed\xa0\x80"', b"\xef\xbb\xbf", b"\0", b"\r", b"\n", b"\r\n", b'"', b"\\", b"9" * 400, b"9" * 5000),
)
SCALAR: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|\{\}|\[\]')


@st.composite
def near(draw: st.DrawFn, examples: tuple[bytes, ...]) -> bytes:
    """A valid input, hurt in one to three ways: bytes cut, doubled or replaced, a value replaced or nested deeply."""
    data = draw(st.sampled_from(examples))
    for _ in range(draw(st.integers(1, 3))):
        low, high = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        piece = draw(st.sampled_from(ODD) | st.binary(max_size=4))
        match draw(st.sampled_from(["cut", "double", "replace", "value", "value", "nest", "deep", "member"])):
            case "cut":
                data = data[:low] + data[high:]
            case "double":
                data = data[:high] + data[low:]
            case "replace":
                data = data[:low] + piece + data[low + len(piece) :]
            case "member":
                data = data.replace(
                    b"{", b"{%b:%b," % (draw(st.sampled_from([b'"\\ud800"', b'"id"', b'""'])), piece), 1
                )
            case how if found := list(SCALAR.finditer(data[: 64 * 1024])):
                start, end = draw(st.sampled_from(found)).span()
                if how == "deep":
                    depth = draw(st.sampled_from([65, 1500, 50_000]))
                    piece = b"[" * depth + b"]" * depth
                elif how == "nest":
                    piece = b'{"a":%b}' % data[start:end]
                data = data[:start] + piece + data[end:]
            case _:
                data += piece
    return data


def large() -> Iterator[bytes]:
    """Inputs that cost the square of their length where somebody looks at the rest of them again and again."""
    for unit in (
        b"[",
        b'{"a":',
        b'"',
        b"\\",
        b"\\u",
        b"\\ud800",
        b"\n",
        b"\r",
        b"a",
        b"9",
        b'"id":1,',
        b"data: x\n",
        b"[[a]]\n",
    ):
        yield unit * (LARGE // len(unit))
    depth = LARGE // 2
    nested = b"[" * depth + b"]" * depth
    yield b'{"jsonrpc":"2.0","id":1,"result":%b}' % nested
    yield b'{"result":%b,"jsonrpc":"2.0","id":1}' % nested
    yield b'{"a":"%b"}' % (b"\\ud83d" * (LARGE // 6))
    yield b"[%b]" % b",".join([b"{}"] * (LARGE // 3))
    yield b'{"tools":[%b]}' % b",".join(b'{"name":"%d"}' % n for n in range(LARGE // 15))
    yield b"[a]\n" + b"".join(b"k%d = 1\n" % n for n in range(LARGE // 10))


# --- readers


@dataclass(frozen=True)
class Reader:
    """read: reads, and checks what it can; `folder` is empty. examples: valid inputs."""

    read: Callable[[bytes, Path], None]
    examples: tuple[bytes, ...]


def in_pieces(data: bytes) -> Iterator[bytes]:
    size = 1 + len(data) // 7
    return (data[start : start + size] for start in range(0, len(data), size))


def is_json(data: bytes) -> bool:
    """Raise unless it is JSON. What is too deep, or has too long a number, for the decoder the reader looked at."""
    data.decode()
    with suppress(RecursionError, msgspec.ValidationError):
        msgspec.json.decode(data)
    return True


def read_lines(data: bytes, folder: Path) -> None:
    limit = 64
    framer, other = Framer(limit), Framer(limit)
    lines = whole_lines(framer, data)
    assert [line for piece in in_pieces(data) for line in whole_lines(other, piece)] == lines
    assert framer.pending_bytes == other.pending_bytes <= limit
    assert framer.oversized == other.oversized
    again = Framer(limit + 4)  # a mark before each line, which is what is taken away, and a carriage return
    assert whole_lines(again, b"".join(BOM + line + b"\r\n" for line in lines)) == lines


def read_stderr(data: bytes, folder: Path) -> None:
    lines = StderrLines(lambda raw: raw.decode("utf-8", "replace"))
    told = [line for n, piece in enumerate(in_pieces(data)) for line in logged_of(lines, piece, float(n))]
    told += lines.finish()
    assert all("\n" not in line for line in (*told, *lines.tail()))
    assert sum(len(line) for line in lines.tail()) <= StderrLines.TAIL_LINES * StderrLines.TAIL_LINE_CHARS


def read_server_message(data: bytes, folder: Path) -> None:
    found = envelope.parse(data)
    for one in found.messages if isinstance(found, envelope.Batch) else (found,):
        match one:
            case envelope.Response(id, result, error):
                assert (result is None) != (error is None)
                sent = jsonrpc.result(b"1", result) if result is not None else jsonrpc.refusal(b"1", error or b"")
                assert id is None or type(id) is int
                again = envelope.parse(sent)
                assert isinstance(again, envelope.Response)
                assert (again.id, again.result, again.error) == (1, result, error)
                envelope.read_error(result or error or b"")
            case envelope.Request(id, method, params):
                again = envelope.parse(
                    b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}'
                    % (id, jsonrpc.json_string(method), params or b"{}")
                )
                assert isinstance(again, envelope.Request)
                assert (again.id, again.method) == (id, method)
                with suppress(ValueError):
                    is_json(envelope.with_meta(params, b'"progressToken":1'))
            case envelope.Notification(method, params):
                assert isinstance(envelope.parse(jsonrpc.notification(method, params)), envelope.Notification)
                for token in (envelope.progress_token, envelope.cancelled_id, envelope.subscription_id):
                    assert type(token(params)) in (int, type(None))
                assert not (key := envelope.cancelled_key(params)) or is_json(key)


def read_host_message(data: bytes, folder: Path) -> None:
    match messages.parse(data):
        case messages.Unreadable(code, reason, id):
            assert is_json(messages.error(id, code, reason))
        case messages.Ask(id, method, params, meta) as ask:
            sent = {"jsonrpc": "2.0", "id": msgspec.Raw(id), "method": method, "params": {**params, "_meta": meta}}
            assert messages.parse(msgspec.json.encode(sent)) == ask
            assert is_json(messages.result(id, b"{}"))
            messages.text_of(params, "name")
        case messages.Tell(method, params) as told:
            assert messages.parse(messages.notification(method, msgspec.json.encode(params))) == told
        case messages.Answer(id, result, None) as answer:
            assert messages.parse(messages.result(id, result or b"")) == answer
        case messages.Answer(id, None, error):
            mended = envelope.mended_error(error or b"")
            assert messages.parse(messages.relayed_error(id, error or b"")) == messages.Answer(id, None, mended)
            assert envelope.mended_error(mended) == mended


def read_control_message(data: bytes, folder: Path) -> None:
    found = requests.parse(data)
    for one in found.members if isinstance(found, requests.Batch) else (found,):
        if isinstance(one, requests.Refused):
            assert is_json(one.reply)
            continue
        assert isinstance(one, requests.Request)
        assert is_json(jsonrpc.result(one.id or b"null", b"{}"))
        members: dict[str, Any] = {"jsonrpc": "2.0", "method": one.method}
        members |= {"id": msgspec.Raw(one.id)} if one.id else {}
        members |= {"params": one.params} if one.params else {}
        assert requests.parse(msgspec.json.encode(members)) == one


def read_page(data: bytes, folder: Path) -> None:
    sent = envelope.parse(jsonrpc.result(b"1", data))
    if not isinstance(sent, envelope.Response) or sent.result is None:
        return
    for kind in Kind:
        pages = Pages(kind)
        try:
            pages.add(sent.result)
        except ListError:
            continue
        again = Pages(kind)
        again.add(b'{"%b":[%b]}' % (kind.member.encode(), b",".join(item.raw for item in pages.items)))
        assert again.items == pages.items
        for item in pages.items:
            assert envelope.parse(jsonrpc.result(b"1", with_server(item, b'"s"'))) != envelope.Junk("not JSON")
            assert messages.parse(messages.result(b"1", tool_for_legacy(item.raw)))
        assert len(list(without_secrets(pages.items, lambda text: text.replace("tool", "***")))) <= len(pages.items)


def read_events(data: bytes, folder: Path) -> None:
    too_large = False

    def events(pieces: Iterator[bytes]) -> list[Event]:
        nonlocal too_large
        stream, found = EventStream(256), []
        for piece in pieces:
            try:
                found += stream.feed(piece)
            except EventTooLarge as fault:
                found += fault.events
                too_large = True
            assert stream.pending_bytes <= 256 + 64
        return found

    found = events(iter([data]))
    in_parts = events(in_pieces(data))
    assert in_parts == found or too_large  # a comment or an id that is too long is held only where it comes in pieces
    for event in found:
        data_lines = b"".join(b"data: %b\n" % line for line in event.data.split(b"\n"))
        head = b"event: %b\n" % event.event.encode() + (b"" if event.id is None else b"id: %b\n" % event.id.encode())
        again = events(iter([head + data_lines + b"\n"]))
        assert [(one.event, one.data, one.id) for one in again] == [(event.event, event.data, event.id)]


def read_reply(data: bytes, folder: Path) -> None:
    assert replies.answers(data, 7) in (True, False)
    assert replies.answers(data, "7") in (True, False)
    assert replies.succeeds(data) in (True, False)
    replies.about_session(data, 7)
    replies.speaks_of_session(data, None)
    found = replies.error_reply(data, 7)
    if found is not None:
        again = envelope.parse(found)
        assert isinstance(again, envelope.Response)
        assert again.id == 7
        assert replies.answers(found, 7)


def read_warden(data: bytes, folder: Path) -> None:
    decoder, found = warden.Decoder(), []
    with suppress(ValueError):
        for piece in in_pieces(data):
            found += decoder.feed(piece)
    for letter, number, fields in found:
        if fields:  # else it was too long, and only its beginning was kept
            assert warden.Decoder().feed(warden.encode(letter, number, *fields)) == [(letter, number, fields)]


def read_handshake(data: bytes, folder: Path) -> None:
    sent = envelope.parse(data if b"jsonrpc" in data[:64] else jsonrpc.result(b"1", data))
    if not isinstance(sent, envelope.Response):
        return
    for protocol in ("auto", "legacy", HANDSHAKE_VERSIONS[0], MODERN_VERSIONS[-1]):
        for remote in (False, True):
            for late in (False, True):
                handshake = Handshake(b"{}", protocol, remote)
                step = handshake.start()
                asked = 0
                while isinstance(step, Send) and step.asks:
                    asked += 1
                    assert asked < 6
                    step = (
                        handshake.on_timeout()
                        if late and asked == 1
                        else handshake.on_reply(step.asks[0].method, sent.result, sent.error)
                    )
                if isinstance(step, Done):
                    handshake.was_ready()
                    assert step.agreed.protocol_version in (*HANDSHAKE_VERSIONS, *MODERN_VERSIONS)
                    assert all(is_json(raw) for raw in map(bytes, step.agreed.more.values()))
                elif isinstance(step, Failed):
                    assert len(step.reason) < 8192
                handshake.failed(read=True)


def read_result(data: bytes, folder: Path) -> None:
    sent = envelope.parse(jsonrpc.result(b"1", data))
    if not isinstance(sent, envelope.Response) or sent.result is None:
        return
    for method in ("tools/call", "prompts/get", "completion/complete"):
        for revision in (*HANDSHAKE_VERSIONS, *MODERN_VERSIONS):
            made = result_for(method, sent.result, revision)
            assert result_for(method, made, revision) == made
            again = envelope.parse(jsonrpc.result(b"1", made))
            assert isinstance(again, envelope.Response)
            assert again.result == made
    made = tool_for_legacy(sent.result)
    assert tool_for_legacy(made) == made


def read_moltis_toml(data: bytes, folder: Path) -> None:
    path = folder / "moltis.toml"
    path.write_bytes(data)
    try:
        found = load(path, {}, {"HOME": "/home/x"})
    except ConfigError:
        return
    assert load(path, {}, {"HOME": "/home/x"}).plan == found.plan
    assert len({server.name for server in found.plan.servers}) == len(found.plan.servers)
    assert all(problem.message for problem in found.problems)


def read_env_toml(data: bytes, folder: Path) -> None:
    store = EnvOverrides(folder / "env.toml")
    (folder / "env.toml").write_bytes(data)
    try:
        before = store.values()
    except ConfigError:
        with pytest.raises(ConfigError):
            store.set("FUZZED", "1")
        return
    store.set("FUZZED", "1")
    assert store.values() == {**before, "FUZZED": "1"}


def read_tokens_toml(data: bytes, folder: Path) -> None:
    path = folder / "tokens.toml"
    path.write_bytes(data)
    path.chmod(0o600)
    store = AccessTokens(path, now=lambda: 1.8e9)
    try:
        before = token_file.entries(token_file.read(path), path)
    except ConfigError:
        with suppress(ConfigError):
            store.load()
        assert path.read_bytes() == data
        return
    store.load()
    with suppress(ConfigError):
        store.create("fuzzed", "read")
    after = token_file.entries(token_file.read(path), path)
    assert {name: entry for name, entry in after.items() if name in before} == before


def read_known(data: bytes, folder: Path) -> None:
    (folder / "files.json").write_bytes(data)
    store = KnownStore(folder)
    seen = store.read_all()
    found = store.load_all()
    assert found == seen
    assert (folder / "files.json").exists() == bool(found)
    for name, (mark, known) in found.items():
        store.save(name, mark, known)
        assert store.load_all() in ({name: (mark, known)}, {})


def read_kept(data: bytes, folder: Path) -> None:
    path = folder / "sessions.json"
    path.write_bytes(data)

    async def used() -> None:
        kept = KeptSessions(path, lambda name: "m", now=lambda: 1e9)
        await kept.load()
        count = len(kept)
        await kept.close()
        again = KeptSessions(path, lambda name: "m", now=lambda: 1e9)
        await again.load()
        assert len(again) == count

    anyio.run(used)


LOGIN: Final = Key("https://mcp.example.com/mcp", "https://as.example.com")
CIPHER: Final = Cipher("A" * 43 + "=")


def read_login(data: bytes, folder: Path) -> None:
    name = "-".join(
        sha256(msgspec.json.encode(parts)).hexdigest()[:32] for parts in ((LOGIN.resource, None), (LOGIN.issuer,))
    )
    for cipher in (None, CIPHER):
        inner = folder / ("plain" if cipher is None else "sealed")
        inner.mkdir(mode=0o700)
        (inner / f"{name}.json").write_bytes(data)
        (inner / f"{name}.json").chmod(0o600)
        store = TokenStore(inner, cipher=cipher)
        store.interrupted(LOGIN)
        try:
            found = store.load(LOGIN)
        except StoreProblem:
            continue
        if found is not None:
            store.save(found)
            assert store.load(LOGIN) == store.find(LOGIN.resource, None) == found


def read_log(data: bytes, folder: Path) -> None:
    path = folder / "logs.jsonl"
    path.write_bytes(data)
    for server, level in ((None, None), ("files", None), (None, "info"), ("files", "debug")):
        for record in tail(path, 5, server=server, level=level):
            assert "\n" not in sentence(record)
            sentence(record).encode()


def read_era(data: bytes, folder: Path) -> None:
    (folder / "files.era").write_bytes(data)
    memory = Eras(folder).of(ServerPlan("files", launch_mark="m"))
    assert memory.lesson in tuple(Lesson)
    assert Handshake(b"{}", memory=memory).start()


ISSUER: Final = "https://as.example.com"


def read_oauth_answer(data: bytes, folder: Path) -> None:
    with suppress(OAuthProblem):
        found = read_resource(data, LOGIN.resource)
        assert msgspec.json.decode(msgspec.json.encode(found), type=ProtectedResource) == found
        assert found.authorization_servers
    for legacy in (False, True):
        with suppress(OAuthProblem):
            server = read_server(data, ISSUER, legacy=legacy)
            assert msgspec.json.decode(msgspec.json.encode(server), type=AuthServer) == server
            assert server.token_endpoint.lower().startswith("https://")
    for status in (200, 400, 500):
        with suppress(OAuthProblem):
            tokens = read_tokens(status, data, now=1e9)
            assert msgspec.json.decode(msgspec.json.encode(tokens), type=Tokens) == tokens
            assert tokens.authorization.isprintable()
            assert tokens.authorization.isascii()
            refresh_due(tokens, 1e9)
            assert not tokens.expires_at or tokens.expires_at > 1e9


def read_headers(data: bytes, folder: Path) -> None:
    text = data.decode("latin-1")
    found = bearer_challenge([text])
    if found is not None:
        named = ", ".join(f'{name}="{value}"' for name, value in msgspec.structs.asdict(found).items() if value)
        assert bearer_challenge([f"Bearer {named}"]) == found
        for url in metadata_urls(LOGIN.resource, found):
            assert url.lower().startswith("https://")
    secs = retry_after_secs(text, 1e9)
    assert secs is None or secs >= 0
    with suppress(BadSessionId):
        assert checked_session_id(text) == (text or None)


# --- valid inputs

INITIALIZED: Final = (
    b'{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"s",'
    b'"version":"1"},"instructions":"Use it.","_meta":{"a":1},"more":[1]}'
)
DISCOVERED: Final = (
    b'{"supportedVersions":["2025-11-25","2026-07-28"],"capabilities":{"tools":{}},"instructions":"Use it.","ttlMs":1,'
    b'"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"},"a":1}}'
)
TOOL: Final = (
    b'{"name":"t","server":"x","inputSchema":{"type":"object","properties":{"a":true,"b":false,"c":{}}},'
    b'"outputSchema":{"type":"object","properties":{"a":true}}}'
)
RPC: Final = (
    b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"hello"}]}}',
    b'{"result":{},"jsonrpc":"2.0","id":"7"}',
    b'{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"session not found","data":{"x":[1.5]}}}',
    b'{"jsonrpc":"2.0","id":"abc","method":"tools/call","params":{"name":"t","arguments":{},"_meta":{"progressToken":3}}}',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":0.5}}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x","_meta":{"io.modelcontextprotocol/subscriptionId":7}}}',
    b'[{"jsonrpc":"2.0","id":1,"method":"status"},{"jsonrpc":"2.0","method":"x","params":[1]}]',
)
PAGES: Final = (
    b'{"tools":[%b,{"name":"u"}],"nextCursor":"c"}' % TOOL,
    b'{"resources":[{"uri":"file:///a","name":"tool"}]}',
    b'{"resourceTemplates":[{"uriTemplate":"file:///{a}","name":"a"}]}',
    b'{"prompts":[{"name":"p","description":"tool"}]}',
)
RESULTS: Final = (
    TOOL,
    b'{"content":[{"type":"resource_link","uri":"u","name":"n","title":"t"},{"type":"audio","data":"AA==","mimeType":"a/b"}],'
    b'"structuredContent":[1,2],"isError":false}',
    b'{"content":[],"structuredContent":"text"}',
    b'{"messages":[{"role":"user","content":{"type":"resource_link","uri":"u","name":"n"}}]}',
    b'{"completion":{"values":[%b],"hasMore":false}}' % b",".join(b'"%d"' % n for n in range(101)),
)
MOLTIS_TOML: Final = b"""
[daemon]
log_level = "info"

[mcp]
start_timeout_secs = 5

[env]
TOKEN = "abc"

[gateway]
enabled = true
listen = "127.0.0.1:4100"

[mcp.servers.files]
transport = "stdio"
command = "npx"
args = ["-y", "${env:TOKEN}"]
cwd = "~/x"
env = { A = "${env:B}", C = 'd' }

[mcp.servers.web]
transport = "http"
url = "https://x.example/mcp"
headers = { Authorization = "Bearer ${env:TOKEN}" }

[mcp.servers.web.oauth]
scopes = ["a"]
"""
ENV_TOML: Final = b'A = "1"\nB = """x\ny"""\n"c-d" = \'\'\'z\'\'\'\n'
TOKENS: Final = (
    b'[tokens.cursor]\nsha256 = "%b"\nscope = "write"\ncreated_at = 2026-07-01T00:00:00Z\n' % (b"a" * 64)
    + b"expires_at = 2027-07-01T00:00:00.5+02:00\nlast_used_at = 2026-07-02 00:00:00Z\n",
)
KNOWN: Final = (
    b'{"format":1,"mark":"m","agreed":{"era":"modern","protocol_version":"2026-07-28","server_info":{"name":"s"},'
    b'"capabilities":{"tools":{}},"instructions":null,"more":{"_meta":{"a":1}},"supported":["2026-07-28"]},"tools":[%b],'
    b'"resources":[],"resourceTemplates":[],"prompts":[{"name":"p"}]}' % TOOL,
)
KEPT: Final = (
    b'{"format":1,"sessions":[{"id":"aa","server":null,"name":"n","token":"m","said":{"protocolVersion":"2025-06-18",'
    b'"capabilities":{}},"used":999999999.5,"level":"info","uris":["file:///a"]},{"id":"bb","server":"files","name":"n",'
    b'"token":"m","said":{},"used":1e9}]}',
)
RECORD: Final = Record(
    key=LOGIN,
    server=AuthServer(issuer=LOGIN.issuer, token_endpoint="https://as.example.com/token", scopes_supported=("a",)),
    client=Client(client_id="c", client_secret="s"),
    tokens=Tokens(access_token="a", refresh_token="r", obtained_at=1000.5, expires_at=4600.0),
)
STORED: Final = b'{"schema":1,"record":%b}' % msgspec.json.encode(RECORD)
LOG: Final = (
    b'{"ts":1800000000000,"level":"INFO","target":"moltis.mcp.lifecycle","message":"server_state_changed","fields":{"server":'
    b'"files","from":"ready","to":"backoff","exit_code":-9,"attempt":1,"delay_secs":1.5,"pid":7}}\n'
    b'{"ts":1,"level":"DEBUG","target":"moltis.mcp.call","message":"call","fields":{"server":"files","tool":"t","duration_ms":3,"x":[1]}}\n',
)
EVENTS: Final = (
    b"\xef\xbb\xbfevent: message\r\nid: 1\r\ndata: {}\r\ndata: x\r\n\r\n: ping\n\nretry: 10\ndata:y\n\nid\ndata\n\n",
    b"data: " + b"x" * 300 + b"\n\ndata: after\n\n",
)
WARDEN: Final = (
    warden.encode(b"S", 3, b"/tmp", b"1", b"cat", b"A=b") + warden.encode(b"p", 2**64 - 1),
    warden.encode(b"f", 1, b"2", b"exec", b"/bin/x", b""),
)

OAUTH: Final = (
    b'{"resource":"https://mcp.example.com","authorization_servers":["https://as.example.com"],"scopes_supported":["a"]}',
    b'{"issuer":"https://as.example.com","token_endpoint":"https://as.example.com/token","authorization_endpoint":'
    b'"https://as.example.com/authorize","code_challenge_methods_supported":["S256"],"scopes_supported":["a","b c"],'
    b'"authorization_response_iss_parameter_supported":true,"registration_endpoint":"https://as.example.com/r?x=1"}',
    b'{"access_token":"a","refresh_token":"r","token_type":"Bearer","expires_in":"3600","scope":"a b"}',
    b'{"error":"invalid_grant","error_description":"no"}',
)
HEADERS: Final = (
    b'Basic realm="x", Bearer resource_metadata="https://mcp.example.com/x", scope="a b", error=invalid_token',
    b"Negotiate abc==, bearer scope=a",
    b"Wed, 21 Oct 2026 07:28:00 GMT",
    b"120.5",
    b"6f1c-session",
)

READERS: Final = {
    "lines": Reader(read_lines, (b"\xef\xbb\xbf{}\r\n\n  \n[1]\n" + b"x" * 70 + b"\nrest",)),
    "stderr": Reader(read_stderr, (b"starting\r\nTOKEN=abc\n\n" + b"x" * 13_000 + b"\nrest",)),
    "a server's message": Reader(read_server_message, RPC),
    "a host's message": Reader(read_host_message, RPC),
    "a control message": Reader(read_control_message, RPC),
    "a page": Reader(read_page, PAGES),
    "events": Reader(read_events, EVENTS),
    "a reply": Reader(read_reply, RPC),
    "the warden": Reader(read_warden, WARDEN),
    "a handshake": Reader(
        read_handshake,
        (
            INITIALIZED,
            DISCOVERED,
            b'{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"m","data":{"supported":["2026-07-28"]}}}',
            b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unsupported protocol version"}}',
        ),
    ),
    "a result": Reader(read_result, RESULTS),
    "moltis.toml": Reader(read_moltis_toml, (MOLTIS_TOML,)),
    "env.toml": Reader(read_env_toml, (ENV_TOML,)),
    "tokens.toml": Reader(read_tokens_toml, TOKENS),
    "known": Reader(read_known, KNOWN),
    "kept sessions": Reader(read_kept, KEPT),
    "a login": Reader(read_login, (STORED, STORED, CIPHER.seal(STORED))),
    "the log": Reader(read_log, LOG),
    "an era": Reader(read_era, (b'{"format":1,"mark":"m","lesson":"modern","server":"s 1"}',)),
    "an OAuth answer": Reader(read_oauth_answer, OAUTH),
    "headers": Reader(read_headers, HEADERS),
}

DEEP: Final = b"[" * 50_000 + b"]" * 50_000
FOUND: Final[tuple[tuple[str, bytes], ...]] = (
    ("a server's message", b'{"jsonrpc":"2.0","result":%b,"id":"\\x"}' % DEEP),
    ("a host's message", b'{"jsonrpc":"2.0","method":"m","params":%b,"id":"\xff"}' % DEEP),
    ("the log", b'{"level":{"a":"INFO"},"fields":{}}\n'),
    ("the log", b'{"target":"moltis.mcp.call","fields":{"tool":"t","duration_ms":1%b}}\n' % (b"0" * 400)),
)
"""What readers once failed on."""


# --- tests


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_what_is_valid(name: str, tmp_path: Path) -> None:
    for number, data in enumerate(READERS[name].examples):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)
        READERS[name].read(data, folder)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_raises_its_own_error_alone_and_accepts_again_what_it_accepted(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reader = READERS[name]

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=200) | near(reader.examples) | near(reader.examples) | near(reader.examples))
    def tried(data: bytes) -> None:
        reader.read(data, tmp_path_factory.mktemp("fuzz"))

    tried()


@pytest.mark.parametrize(("name", "data"), FOUND, ids=[name for name, _ in FOUND])
def test_a_reader_takes_what_it_once_failed_on(name: str, data: bytes, tmp_path: Path) -> None:
    READERS[name].read(data, tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_the_work_of_a_reader_grows_with_what_it_reads_and_not_faster(name: str, tmp_path: Path) -> None:
    for number, data in enumerate(large()):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)
        before = time.process_time()
        READERS[name].read(data, folder)
        spent = time.process_time() - before
        assert spent < LARGE_SECS, f"{spent:.1f} s for {data[:40]!r}"
