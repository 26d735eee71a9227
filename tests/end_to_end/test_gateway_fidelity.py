"""Nothing is lost on the way: what hosts and servers say to each other through the gateway, byte for byte.

The servers are parrots (`servers/parrot.py`), which say what the test makes them say and write down what they hear. The
hosts write and read bytes.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from fidelity_harness import (
    CAPABILITIES,
    DISCOVER,
    ICONS,
    INFO,
    INITIALIZE,
    INSTRUCTIONS,
    LEGACY,
    META,
    NAMED,
    NAMES,
    NASTY,
    PROMPTS,
    RESOURCES,
    SCHEMA,
    SERVERS_OF,
    TEMPLATES,
    TOOLS,
    Host,
    Web,
    World,
    encoded,
    heard_of,
    host_at,
    loads,
    members,
    new_mark,
    without,
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        made = World(Path(name))
        try:
            made.begin()
            yield made
        finally:
            made.end()


WAYS = [(way, server) for way in ("pipe", "web") for server in NAMED]
each_way = pytest.mark.parametrize(("way", "server"), WAYS)
each_era = pytest.mark.parametrize("era", ["legacy", "modern"])


# --- introductions


@each_way
@each_era
def test_one_server_introduces_itself_in_its_own_words(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era) as host:
        if era == "legacy":
            found = (
                members(host.begin("2025-06-18"))
                if way == "web"
                else members(
                    host.result(
                        "initialize",
                        '{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"h","version":"1"}}',
                    )
                )
            )
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
        names = {item: json.loads(members(item)["name"]) for item in tools}
        those = [item for item in tools if names[item].startswith(f"{server}__")]
        for mine, own in zip(those, TOOLS, strict=True):
            full = f"{server}__{json.loads(members(own.encode())['name'])}"
            assert names[mine] == full or not re.fullmatch(r"[\w-]{1,64}", full, re.ASCII), "it need not be another"
            assert re.fullmatch(r"[\w-]{1,64}", names[mine], re.ASCII)
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
    "unknown members everywhere": f'{{"vendor":{NASTY},"content":[{{"type":"text","text":"t","vendor":{NASTY},'
    f'"_meta":{NASTY},'
    f'"annotations":{{"audience":["assistant"],"priority":1e0,"v":null}}}}],"_meta":{NASTY}}}',
    "every content": '{"content":[{"type":"image","data":"AA==","mimeType":"image/png"},{"type":"audio","data":"AA==",'
    '"mimeType":"audio/wav","_meta":{}},{"type":"resource_link","uri":"any:thing","name":"n","title":"t","size":1.0,'
    f'"icons":{ICONS}}},{{"type":"resource","resource":{{"uri":"x:y","blob":"AA==","_meta":{NASTY}}}}},'
    '{"type":"vendor/new","x":1}],"structuredContent":' + NASTY + "}",
    "isError": '{"content":[],"isError":true,"structuredContent":{"resultType":"mine","ttlMs":5}}',
    "named like a member of ours": '{"structuredContent":{"resultType":"x"},'
    '"content":[{"type":"text","text":"resultType"}]}',
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
        (-32042, '{"elicitations":[]}'),
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


@each_way
@each_era
def test_a_page_to_visit_first_is_asked_for_as_the_host_s_revision_does(
    world: World, way: str, server: str, era: str
) -> None:
    page = '"mode":"url","url":"https://x/?a=1","message":"m","v":1.0'
    error = f'{{"code":-32042,"message":"first","data":{{"elicitations":[{{{page},"elicitationId":"e"}}]}}}}'
    for able in ("{}", '{"elicitation":{"form":{},"url":{}}}'):
        with host_at(world, way, server, era, able) as host:
            reply = members(host.call({"error": error}))
        if era == "legacy" or SERVERS_OF[server][0] == "modern":
            assert reply["error"].decode() == error
        elif able == "{}":
            assert members(reply["error"])["code"] == b"-32021", "this host visits no pages"
        else:
            asked = members(members(members(reply["result"])["inputRequests"])["q1"])
            assert asked["params"].decode() == f"{{{page}}}"


# --- what servers hear


TRACE = '"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"'


@each_way
@each_era
def test_a_request_arrives_byte_for_byte(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era) as host:
        for more, arguments in (
            ("", NASTY),
            (f',"vendor/x":{NASTY},"task":{{"ttl":1.0}}', "{}"),
            ("", None),
            ("", "null"),
        ):
            mark = new_mark()
            given = "" if arguments is None else f'"arguments":{arguments},'
            trace = f'"traceparent":{TRACE},"tracestate":"a=b"'
            host.ask(
                "tools/call", f'{{"name":"say",{given}"mark":"{mark}"{more}}}', None, f'{trace},"vendor/m":{NASTY}'
            )
            params = heard_of(world, server, "tools/call", mark)
            got = members(params)
            assert without(params, "_meta").decode() == f'{{"name":"say",{given}"mark":"{mark}"{more}}}'
            meta = members(got["_meta"])
            assert meta["vendor/m"].decode() == NASTY
            assert (meta["traceparent"].decode(), meta["tracestate"]) == (TRACE, b'"a=b"')
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
        "completion/complete": '{"ref":{"type":"ref/resource","uri":"parrot://t/{id}{?x,y}","v":1.0},'
        '"argument":{"name":"id","value":"%s","v":1},"context":{"arguments":{"x":"y"},"v":1.0},"vendor":1.0}',
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
            contents = '[{"uri":"x:y","text":"","_meta":{"ttlMs":1,"resultType":2}}]'
            result = f'{{{complete}"vendor":{NASTY},"contents":{contents}}}'
            following = json.dumps({"method": method, "result": result, "mark": mark})
            host.send(f'{{"jsonrpc":"2.0","method":"parrot/next","params":{following}}}', "parrot/next", "{}")
            heard_of(world, server, "parrot/next", mark)
            found = host.result(method, params)
            assert without(heard_of(world, server, method, mark), "_meta").decode() == params
            if era == "modern" and not complete:
                own = without(found, "resultType", "ttlMs", "cacheScope")
                assert own.decode() == result, method
                assert members(found)["resultType"] == b'"complete"'
                assert ("ttlMs" in members(found)) == (method == "resources/read")
            else:
                assert found.decode() == result, method


IDS = [
    '"s"',
    "0",
    "-1",
    "9007199254740993",
    "123456789012345678901234567890",
    '""',
    '"\u00e9 \U0001f600 \\u00e9 \\" \\n"',
    '"0"',
]


@each_way
@each_era
def test_ids_come_back_as_they_were(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era) as host:
        for id in IDS:
            assert (
                members(host.ask("tools/call", '{"name":"say","arguments":{"result":"{}"}}', id))["id"].decode() == id
            )


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
        halves = r'"\ud83d \\ud83d"'
        host.ask("tools/call", f'{{"name":"say","arguments":{{"result":"{{}}","a":{halves},"b":"{mark}"}}}}')
        got = members(heard_of(world, "old", "tools/call", mark))["arguments"].decode()
        mended = r'"\ufffd \\ud83d"'
        assert got == f'{{"result":"{{}}","a":{mended},"b":"{mark}"}}'
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
    all_params = [
        f'{{"level":"error","logger":"l\u00e9","data":{data},"_meta":{{"v":1.0}},"vendor":1}}'
        for data in (NASTY, '"t"', "null", "1.0", "[]")
    ]
    says = [f'{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}' for params in all_params]
    with host_at(world, way, server, era) as host:
        if era == "legacy":
            host.result("logging/setLevel", '{"level":"debug"}')
        host.told.clear()
        host.call({"say": says, "result": "{}"}, meta=f'"{META}logLevel":"debug"' if era == "modern" else "")
        assert [members(told)["params"].decode() for told in host.told] == all_params


ABLE = '{"sampling":{"context":{},"tools":{}},"elicitation":{"form":{},"url":{}},"roots":{"listChanged":true}}'
QUESTIONS = {
    "sampling/createMessage": '{"messages":[{"role":"user",'
    '"content":[{"type":"tool_result","toolUseId":"u","content":[],"v":1.0}],'
    f'"_meta":{NASTY}}}],"maxTokens":100,"includeContext":"thisServer","temperature":1.0,"stopSequences":["\u2028"],'
    f'"systemPrompt":"s","metadata":{NASTY},"modelPreferences":{{"hints":[{{"name":"x"}}],"costPriority":0.10}},'
    f'"tools":[{{"name":"t","inputSchema":{SCHEMA}}}],"toolChoice":{{"mode":"auto"}},"vendor":1.0,"_meta":{{"v":1.0}}}}',
    "elicitation/create": f'{{"message":"m\u00e9","requestedSchema":{SCHEMA},"_meta":{NASTY},"vendor":1.0}}',
    "roots/list": '{"_meta":{"v":1.0},"vendor":1.0}',
    "elicitation/create ": '{"mode":"url","elicitationId":"e1","url":"https://x/?a=\u00e9","message":"m","vendor":1.0}',
}
ANSWERS = {
    "sampling/createMessage": '{"role":"assistant","model":"m","stopReason":"vendor/x",'
    '"content":[{"type":"tool_use","id":"i","name":"n",'
    f'"input":{NASTY}}}],"_meta":{NASTY},"vendor":1.0}}',
    "elicitation/create": f'{{"action":"accept","content":{NASTY},"_meta":{{"v":1.0}},"vendor":1.0}}',
    "roots/list": '{"roots":[{"uri":"file:///a%20b","name":"\u00e9","_meta":{"v":1.0},"vendor":1.0}],"_meta":{"v":1.0}}',
}


@each_way
@each_era
def test_questions_and_answers_are_byte_for_byte(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, server, era, ABLE) as host:
        for question, asked in QUESTIONS.items():
            method, mark = question.strip(), new_mark()
            answer = ANSWERS[method].replace('"vendor"', f'"{mark}"')
            params = '{"name":"say","arguments":%s}'
            if SERVERS_OF[server][0] == "legacy":
                say = f'{{"jsonrpc":"2.0","id":"q 1.0","method":"{method}","params":{asked}}}'
                params %= json.dumps({"say": [say], "wait": True, "result": '{"done":true}'})
            else:
                requests = f'{{"k\u00e9":{{"method":"{method}","params":{asked}}}}}'
                result = f'{{"resultType":"input_required","inputRequests":{requests},"requestState":"s\u00e9"}}'
                params %= json.dumps({"result": result, "then": '{"done":true}'})
            got, reply = _ask_and_answer(host, params, answer)
            assert got.decode() == asked
            assert b'"done":true' in reply, reply
            (line,) = [line for line in world.heard(server) if mark.encode() in line]
            assert answer.encode() in line


def _ask_and_answer(host: Host, params: str, answer: str) -> tuple[bytes, bytes]:
    """Call, answer what is asked, and give the question's params and the reply."""
    if host.era == "modern":
        result = members(host.result("tools/call", params))
        assert result["resultType"] == b'"input_required"', result
        ((key, question),) = members(result["inputRequests"]).items()
        answers = f"{{{json.dumps(key)}:{answer}}}"
        again = f'{params[:-1]},"requestState":{result["requestState"].decode()},"inputResponses":{answers}}}'
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


@pytest.mark.parametrize("server", NAMED)
def test_notifications_that_nobody_knows_pass_to_the_host(world: World, server: str) -> None:
    params = f'{{"x":{NASTY},"_meta":{{"v":1.0}}}}'
    script = {"say": [f'{{"jsonrpc":"2.0","method":"vendor/said","params":{params}}}'], "result": "{}"}
    with host_at(world, "pipe", server) as host:
        host.call(script)
        if not host.told:
            host.told.append(host.read())
        assert [members(told)["params"].decode() for told in host.told] == [params]
    if SERVERS_OF[server][1]:  # it comes with the answer
        for way, era in (("web", "legacy"), ("web", "modern"), ("pipe", "modern")):
            with host_at(world, way, server, era) as host:
                host.call(script)
                assert [members(told)["params"].decode() for told in host.told] == [params]


# --- the rest of what passes


@each_way
def test_ten_megabytes_pass_both_ways(world: World, way: str, server: str) -> None:
    big = "x" * (10 * 1024 * 1024) + "\u00e9"
    with host_at(world, way, server) as host:
        mark = new_mark()
        params = f'{{"name":"say","arguments":{{"result":"{{\\"content\\":[]}}"}},"big":"{big}","mark":"{mark}"}}'
        assert host.result("tools/call", params) == b'{"content":[]}'
        assert members(heard_of(world, server, "tools/call", mark))["big"] == f'"{big}"'.encode()
        result = f'{{"content":[{{"type":"text","text":"{big}"}}]}}'
        assert (
            host.result("tools/call", f'{{"name":"say","arguments":{json.dumps({"result": result})}}}')
            == result.encode()
        )


SLOW = {
    "tools/call": '{"name":"say","arguments":{"never":true},"mark":"%s"}',
    "prompts/get": '{"name":"ask","arguments":{"never":true},"mark":"%s"}',
    "resources/read": '{"uri":"parrot://one","never":true,"mark":"%s"}',
    "completion/complete": '{"ref":{"type":"ref/prompt","name":"ask"},"never":true,"mark":"%s"}',
    "vendor/slow": '{"never":true,"mark":"%s"}',
}


@each_way
def test_any_request_can_be_cancelled(world: World, way: str, server: str) -> None:
    with host_at(world, way, server) as host:
        for method, shape in SLOW.items():
            mark = new_mark()
            message = f'{{"jsonrpc":"2.0","id":"c","method":"{method}","params":{shape % mark}}}'
            params = f'{{"requestId":"c","reason":"stop \u00e9 {mark}"}}'
            cancelled = f'{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}'
            if isinstance(host, Web):
                sending = threading.Thread(target=host.send, args=(message,))
                sending.start()
                heard_of(world, server, method, mark)
                with contextlib.closing(Web(host.url)) as other:
                    other.session = host.session
                    other.send(cancelled)
                sending.join()
            else:
                host.send(message, "", "")
                heard_of(world, server, method, mark)
                host.send(cancelled, "", "")
            if SERVERS_OF[server] != ("modern", True):  # there the connection is closed instead
                told = members(heard_of(world, server, "notifications/cancelled", mark))
                assert told["reason"].decode() == f'"stop \u00e9 {mark}"'
        assert host.result("tools/call", '{"name":"say","arguments":{"result":"{}"}}') == b"{}"


@pytest.mark.parametrize("server", ["old", "new"])
def test_updates_of_a_resource_that_nobody_lists_arrive_whole(world: World, server: str) -> None:
    uri = f"unlisted:{new_mark()}?\u00e9"
    more = f'"title":"t","_meta":{{"v":1.0,"x":{NASTY}}},"vendor":1.0'
    with host_at(world, "pipe", server) as host:
        host.result("resources/subscribe", f'{{"uri":"{uri}","_meta":{{"v":1}}}}')
        asked = "resources/subscribe" if server == "old" else "subscriptions/listen"
        heard_of(world, server, asked, uri)
        said = f'{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"{uri}",{more}}}}}'
        host.call({"say": [said], "result": "{}"})
        updates = [members(told)["params"] for told in host.told if b"resources/updated" in told and b"vendor" in told]
        while not updates:
            told = host.read()
            updates = [members(told)["params"]] if b"vendor" in told else []
        assert loads(updates[0]) == loads(f'{{"uri":"{uri}","title":"t","vendor":1.0,"_meta":{{"v":1.0,"x":{NASTY}}}}}')


@pytest.mark.parametrize("server", NAMED)
def test_the_end_of_a_visit_to_a_page_is_told(world: World, server: str) -> None:
    params = f'{{"elicitationId":"{new_mark()}","_meta":{{"v":1.0}},"vendor":1.0}}'
    said = f'{{"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{params}}}'
    with host_at(world, "pipe", server) as host:
        host.call({"say": [said], "result": "{}"})
        if not host.told:
            host.told.append(host.read())
        assert members(host.told[0])["params"].decode() == params


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "1999-01-01"])
def test_hosts_of_any_revision_are_answered_in_theirs(world: World, version: str) -> None:
    for way, server in (("pipe", None), ("web", "new")):
        with host_at(world, way, server) as host:
            if isinstance(host, Web):
                host.session = None
            found = members(host.begin(version))["protocolVersion"].decode()
            assert found == f'"{version if version[0] == "2" else LEGACY}"'
            if isinstance(host, Web):
                host.headers = {"mcp-protocol-version": found.strip('"')}
            assert host.result("ping") == b"{}"


@each_way
@each_era
def test_marked_arguments_are_in_headers_on_both_sides(world: World, way: str, server: str, era: str) -> None:
    arguments = '{"region":" \u00e9 ","n":9007199254740993,"result":"{}","mark":"%s"}'
    region = encoded(" \u00e9 ")
    for view, name in ((server, "marked"), (None, f"{server}__marked")):
        with host_at(world, way, view, era) as host:
            mark = new_mark()
            if isinstance(host, Web) and era == "modern":
                host.headers = {"mcp-param-region": encoded(" other "), "mcp-param-n": "9007199254740993"}
                refused = members(host.ask("tools/call", f'{{"name":"{name}","arguments":{arguments % mark}}}'))
                assert json.loads(refused["error"])["code"] == -32020
                host.headers["mcp-param-region"] = region
            host.result("tools/call", f'{{"name":"{name}","arguments":{arguments % mark}}}')
            assert members(heard_of(world, server, "tools/call", mark))["arguments"].decode() == arguments % mark
            if SERVERS_OF[server] == ("modern", True):
                (line,) = [line for line in world.heard(server) if f'"{mark}"'.encode() in line]
                headers = {header.lower() for header in json.loads(line[: line.find(b'{"jsonrpc"')])}
                assert {f"mcp-param-region: {region.lower()}", "mcp-param-n: 9007199254740993"} <= headers


# --- all servers as one


@each_way
@each_era
def test_at_mcp_a_tool_of_any_name_can_be_called(world: World, way: str, server: str, era: str) -> None:
    with host_at(world, way, None, era) as host:
        for own in map(json.loads, NAMES):
            mark = new_mark()
            assert b"error" not in members(host.call({"result": '{"content":[]}', "mark": mark}, f"{server}__{own}"))
            params = members(heard_of(world, server, "tools/call", mark))
            assert json.loads(params["name"]) == own


@pytest.mark.parametrize("server", NAMED)
def test_at_mcp_equal_prompts_resources_and_templates_lead_to_their_servers(world: World, server: str) -> None:
    with host_at(world, "pipe", None) as host:
        for own in ("parrot://one", "parrot://tw%20o?q=\u00e9#f", "file:///srv/a b"):
            mark = new_mark()
            uri = own if server == "old" else f"moltis://{server}/{quote(own, safe='')}"
            host.result("resources/read", f'{{"uri":"{uri}","mark":"{mark}"}}')
            assert json.loads(members(heard_of(world, server, "resources/read", mark))["uri"]) == own
        mark = new_mark()
        expanded = "parrot://t/7?x=1" if server == "old" else f"moltis://{server}/parrot://t/7?x=1"
        host.result("resources/read", f'{{"uri":"{expanded}","mark":"{mark}"}}')
        assert members(heard_of(world, server, "resources/read", mark))["uri"] == b'"parrot://t/7?x=1"'
        mark = new_mark()
        own = "parrot://t/{id}{?x,y}"
        template = own if server == "old" else f"moltis://{server}/{own}"
        rest = f'"argument":{{"name":"id","value":"1","v":1.0}},"context":{{"arguments":{{"x":"1"}}}},"mark":"{mark}"'
        host.result("completion/complete", f'{{"ref":{{"type":"ref/resource","uri":"{template}","v":1.0}},{rest}}}')
        params = heard_of(world, server, "completion/complete", mark)
        assert without(params, "_meta").decode() == f'{{"ref":{{"type":"ref/resource","uri":"{own}","v":1.0}},{rest}}}'
        mark = new_mark()
        host.result("prompts/get", f'{{"name":"{server}__ask","arguments":{{"result":"{{}}","a":"{mark}"}}}}')
        assert members(heard_of(world, server, "prompts/get", mark))["name"] == b'"ask"'


def test_at_mcp_results_with_links_are_as_the_server_said(world: World) -> None:
    for server in NAMED:
        with host_at(world, "web", None) as host:
            for what, result in RESULTS.items():
                assert members(host.call({"result": result}, f"{server}__say"))["result"].decode() == result, what
