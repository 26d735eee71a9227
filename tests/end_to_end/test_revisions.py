"""What a host gets is valid in the revision that it speaks: held against each revision's own schema.

The schemas up to 2025-11-25 are those of the TypeScript SDK of that time, from npm, which refuse most; those of
2026-07-28 are `mcp_types`, from PyPI.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import mcp_types._v2026_07_28 as modern_types
import pydantic
import pytest
from harness import SERVERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from installing import npm_folder
from msgspec import Raw

from moltis.gateway.api import Known
from moltis.gateway.failures import completed, page_first
from moltis.gateway.introduction import of_one
from moltis.gateway.messages import CAPABILITIES, Ask
from moltis.gateway.revisions import MODERN, question_for, result_for, tool_for_legacy
from moltis.session.description import SERVER_INFO
from moltis.session.handshake import HANDSHAKE_VERSIONS, Agreed, Done, Handshake

Check = Callable[[str, str, Any], "str | None"]


@pytest.fixture(scope="module")
def invalid() -> Iterator[Check]:
    """Return what says what is wrong with a value in a revision; None if nothing is."""
    folder = npm_folder(SERVERS / "schemas", ["mcp-2024-11-05"])
    command = ["node", str(folder / "validate.js")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdin is not None
        assert node.stdout is not None
        ask, answers = node.stdin, node.stdout

        def check(revision: str, schema: str, value: Any) -> str | None:
            if revision == MODERN:
                try:
                    getattr(modern_types, schema).model_validate(value)
                except pydantic.ValidationError as wrong:
                    return str(wrong)
                return None
            ask.write(json.dumps([revision, schema, value]) + "\n")
            ask.flush()
            found = json.loads(answers.readline())
            return None if found is None else str(found)

        yield check
        ask.close()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
SCHEMA = st.booleans() | st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["string", "array"]), "title": TEXT}
)
OBJECT = st.fixed_dictionaries(
    {"type": st.just("object")},
    optional={
        "properties": st.dictionaries(TEXT, SCHEMA, max_size=3),
        "required": st.lists(TEXT, max_size=2),
        "additionalProperties": st.booleans(),
        "$schema": st.just("https://json-schema.org/draft/2020-12/schema"),
    },
)
OUTPUT = OBJECT | st.sampled_from(
    [
        {"type": "array", "items": {"type": "integer"}},
        {"type": ["object", "null"]},
        {"anyOf": [{"type": "object"}, {"type": "null"}]},
        {"$ref": "#/$defs/x", "$defs": {"x": {"type": "object"}}},
        {"const": 5},
        {},
    ]
)
TOOL = st.fixed_dictionaries(
    {"name": TEXT, "inputSchema": OBJECT},
    optional={
        "title": TEXT,
        "description": TEXT,
        "outputSchema": OUTPUT,
        "annotations": st.just({"readOnlyHint": True}),
    },
)
BLOCK = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}),
    st.fixed_dictionaries({"type": st.just("image"), "data": st.just("AAAA"), "mimeType": st.just("image/png")}),
    st.fixed_dictionaries({"type": st.just("audio"), "data": st.just("AAAA"), "mimeType": st.just("audio/wav")}),
    st.fixed_dictionaries(
        {"type": st.just("resource_link"), "uri": st.just("file:///a"), "name": TEXT},
        optional={"title": TEXT, "description": TEXT},
    ),
    st.fixed_dictionaries(
        {"type": st.just("resource"), "resource": st.just({"uri": "file:///a", "text": "x"})},
        optional={"annotations": st.just({"priority": 0.5, "lastModified": "2025-01-12T15:00:58Z"})},
    ),
)
CALLED = st.fixed_dictionaries(
    {"resultType": st.just("complete"), "content": st.lists(BLOCK, max_size=3)},
    optional={"structuredContent": ANYTHING, "isError": st.booleans()},
)
PROMPTED = st.fixed_dictionaries(
    {
        "resultType": st.just("complete"),
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": BLOCK}), max_size=3
        ),
    }
)
COMPLETED = st.fixed_dictionaries(
    {"completion": st.fixed_dictionaries({"values": st.lists(TEXT, max_size=120)}, optional={"total": st.just(7)})}
)

checked = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
legacy = pytest.mark.parametrize("revision", HANDSHAKE_VERSIONS)
every = pytest.mark.parametrize("revision", [*HANDSHAKE_VERSIONS, MODERN])


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@legacy
@checked
@given(tools=st.lists(TOOL, max_size=4))
def test_tools_of_any_server_are_valid_for_a_host(invalid: Check, revision: str, tools: list[Any]) -> None:
    assert invalid(MODERN, "ListToolsResult", {**FRESH, "tools": tools}) is None, "the server is right"
    told = [json.loads(tool_for_legacy(encoded(tool))) for tool in tools]
    assert invalid(revision, "ListToolsResult", {"tools": told}) is None
    for before, after in zip(tools, told, strict=True):
        if revision == HANDSHAKE_VERSIONS[-1] and invalid(revision, "Tool", before) is None:
            assert after == before, "what was valid stays"


FRESH = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}


@every
@checked
@given(result=CALLED)
def test_a_result_of_a_tool_is_valid_for_a_host(invalid: Check, revision: str, result: dict[str, Any]) -> None:
    told = json.loads(result_for("tools/call", encoded(result), revision))
    assert invalid(revision, "CallToolResult", told) is None
    assert told.get("isError") == result.get("isError")
    if revision == MODERN or isinstance(result.get("structuredContent", {}), dict):
        assert told.get("structuredContent") == result.get("structuredContent")
    elif not result["content"] and result["structuredContent"] is not None:
        assert json.loads(told["content"][0]["text"]) == result["structuredContent"], "nothing is lost"


@every
@checked
@given(result=PROMPTED)
def test_a_prompt_is_valid_for_a_host(invalid: Check, revision: str, result: dict[str, Any]) -> None:
    told = json.loads(result_for("prompts/get", encoded(result), revision))
    assert invalid(revision, "GetPromptResult", told) is None
    assert [message["role"] for message in told["messages"]] == [message["role"] for message in result["messages"]]


@every
@checked
@given(result=COMPLETED)
def test_completions_are_valid_for_a_host(invalid: Check, revision: str, result: dict[str, Any]) -> None:
    raw = result_for("completion/complete", encoded(result), revision)
    told = json.loads(completed("completion/complete", raw) if revision == MODERN else raw)
    assert invalid(revision, "CompleteResult", told) is None
    values = result["completion"]["values"]
    assert told["completion"]["values"] == values[:100]
    assert told["completion"].get("hasMore", False) is (len(values) > 100)


PAGE = st.fixed_dictionaries(
    {"mode": st.just("url"), "elicitationId": TEXT, "url": st.just("https://x.test/?a=1"), "message": TEXT},
    optional={"_meta": st.just({"progressToken": 1, "vendor/x": 1.5})},
)
PAGES_FIRST = st.fixed_dictionaries(
    {
        "code": st.just(-32042),
        "message": TEXT,
        "data": st.fixed_dictionaries(
            {"elicitations": st.lists(PAGE, min_size=1, max_size=3)}, optional={"why": ANYTHING}
        ),
    }
)
VISITS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}, {}]
)


@checked
@given(error=PAGES_FIRST, capabilities=VISITS, method=st.sampled_from(["tools/call", "prompts/get", "resources/read"]))
def test_a_page_to_visit_first_is_asked_for_in_words_of_the_revision(
    invalid: Check, error: Any, capabilities: Any, method: str
) -> None:
    ask = Ask(b"1", method, {}, {CAPABILITIES: Raw(encoded(capabilities))})
    made = page_first(ask, encoded(error))
    assert made is not None
    told = json.loads(made[0])
    if "url" in capabilities.get("elicitation", {}):
        assert invalid(MODERN, "InputRequiredResult", told["result"]) is None
        asked = list(told["result"]["inputRequests"].values())
        assert [one["params"]["url"] for one in asked] == [page["url"] for page in error["data"]["elicitations"]]
    else:
        assert invalid(MODERN, "MissingRequiredClientCapabilityError", told) is None
        assert told["error"]["data"]["elicitations"] == error["data"]["elicitations"], "nothing is lost"


SIMPLE = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}),
    st.fixed_dictionaries({"type": st.just("image"), "data": st.just("AAAA"), "mimeType": st.just("image/png")}),
    st.fixed_dictionaries({"type": st.just("audio"), "data": st.just("AAAA"), "mimeType": st.just("audio/wav")}),
)
USED = st.fixed_dictionaries(
    {"type": st.just("tool_result"), "toolUseId": TEXT, "content": st.lists(BLOCK, max_size=2)},
    optional={"structuredContent": ANYTHING, "isError": st.booleans()},
)


def sampling(block: st.SearchStrategy[Any], **more: Any) -> st.SearchStrategy[Any]:
    said = st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": block | st.lists(block, max_size=3)}
    )
    return st.fixed_dictionaries({"messages": st.lists(said, max_size=3), "maxTokens": st.just(10)}, optional=more)


def said_in(messages: list[Any]) -> list[Any]:
    """Return who says what, block by block."""
    blocks = ((one["role"], one["content"]) for one in messages)
    return [(role, block) for role, found in blocks for block in (found if isinstance(found, list) else [found])]


@checked
@given(params=sampling(SIMPLE | USED, tools=st.lists(TOOL, max_size=2)))
def test_a_question_with_results_of_tools_is_valid_for_a_host(invalid: Check, params: Any) -> None:
    assert invalid(MODERN, "CreateMessageRequestParams", params) is None, "the server is right"
    raw = encoded(params)
    made = question_for("sampling/createMessage", raw, HANDSHAKE_VERSIONS[-1])
    told = json.loads(made)
    assert invalid(HANDSHAKE_VERSIONS[-1], "CreateMessageRequestParams", told) is None
    if invalid(HANDSHAKE_VERSIONS[-1], "CreateMessageRequestParams", params) is None:
        assert made is raw, "what was valid stays"
    for (_, before), (_, after) in zip(said_in(params["messages"]), said_in(told["messages"]), strict=True):
        structured = before.get("structuredContent")
        if structured is not None and not isinstance(structured, dict) and not before["content"]:
            assert json.loads(after["content"][0]["text"]) == structured, "nothing is lost"


@legacy
@checked
@given(params=sampling(SIMPLE))
def test_a_question_is_valid_for_a_host(invalid: Check, revision: str, params: Any) -> None:
    raw = encoded(params)
    told = json.loads(question_for("sampling/createMessage", raw, revision))
    request = {"method": "sampling/createMessage", "params": told}
    assert invalid(revision, "CreateMessageRequest", request) is None
    blocks = said_in(told["messages"])
    assert [role for role, _ in blocks] == [role for role, _ in said_in(params["messages"])]
    if revision > HANDSHAKE_VERSIONS[0]:
        assert blocks == said_in(params["messages"])


def odd(*usual: Any) -> st.SearchStrategy[Any]:
    """What a server may write in place of what it should."""
    return st.sampled_from([*usual, None, True, False, [], {}, "yes", 1, 1.5, [{"name": "quick"}], {"a": None}])


FLAGS = st.fixed_dictionaries({}, optional={"listChanged": odd(True), "subscribe": odd(True)})
CAPABLE = st.fixed_dictionaries(
    {},
    optional={
        **{name: FLAGS | odd() for name in ("tools", "resources", "prompts", "logging", "completions")},
        **{name: odd({"x": {}}, {"x": True}, {"x": []}) for name in ("experimental", "extensions")},
        "tasks": odd({"list": True, "requests": {"tools": {"call": 1}}}, {"requests": []}, {"list": {}}),
        "vendor": ANYTHING,
    },
)
ICON = st.fixed_dictionaries(
    {}, optional={"src": odd("a:b"), "mimeType": odd("image/png"), "sizes": odd(["48x48"]), "theme": odd("light")}
)
INFO = st.fixed_dictionaries(
    {},
    optional={
        **{name: odd("s") for name in ("name", "version", "title", "description", "websiteUrl")},
        "icons": st.lists(ICON, max_size=2) | odd(),
        "vendor": ANYTHING,
    },
)
META = st.dictionaries(st.sampled_from(["a/b", "progressToken", "io.modelcontextprotocol/related-task"]), ANYTHING)
SAID = st.fixed_dictionaries(
    {},
    optional={
        "capabilities": CAPABLE | odd(),
        "serverInfo": INFO | odd(),
        "instructions": odd("do"),
        "_meta": META | odd(),
        "vendor": ANYTHING,
    },
)
TABLE = [
    {"capabilities": {"tools": [{"name": "quick"}]}},
    {"capabilities": {"tools": True}},
    {"capabilities": {"tools": {}, "logging": None, "experimental": []}},
    {"capabilities": {"tools": {}, "resources": False, "prompts": False}},
    {"capabilities": {"tools": {"listChanged": "true"}, "resources": {"subscribe": 1}}},
    {"capabilities": {"experimental": {"x": True}, "tasks": {"list": True, "requests": {"tools": {"call": True}}}}},
    {"capabilities": []},
    {"capabilities": None},
    {"serverInfo": {"name": 5}},
    {"serverInfo": {"name": "x", "version": 1.0, "title": None, "icons": None}},
    {"serverInfo": {"name": "x", "version": "1", "icons": [{"src": "a:b", "sizes": "48x48"}, {"src": None}, "a:b"]}},
    {"serverInfo": "me"},
    {"instructions": ["a"]},
    {"_meta": {"progressToken": {}, "io.modelcontextprotocol/related-task": 5}},
]


def introductions(said: dict[str, Any]) -> tuple[Agreed, Agreed]:
    """Return what is agreed with a server that says this of itself: in the older era, and in the newer."""
    met = []
    info = {"_meta": {SERVER_INFO: said["serverInfo"]}} if "serverInfo" in said else {}
    for protocol, method, result in (
        ("legacy", "initialize", {"protocolVersion": "2025-06-18", **said}),
        (MODERN, "server/discover", {"supportedVersions": [MODERN], **said, **info}),
    ):
        handshake = Handshake(b"{}", protocol)
        handshake.start()
        step = handshake.on_reply(method, encoded(result), None)
        assert isinstance(step, Done)
        met.append(step.agreed)
    return met[0], met[1]


def check_introduction(invalid: Check, revision: str, said: dict[str, Any]) -> None:
    for agreed in introductions(said):
        introduction = of_one("x", Known(agreed))
        if revision == MODERN:
            assert invalid(MODERN, "DiscoverResult", json.loads(introduction.discovered())) is None
        else:
            assert invalid(revision, "InitializeResult", json.loads(introduction.initialized(revision))) is None
        for name in ("tools", "resources", "prompts"):
            assert introduction.capabilities.get(name, {"listChanged": True})["listChanged"] is True


@every
@pytest.mark.parametrize("said", TABLE, ids=json.dumps)
def test_what_a_server_says_wrongly_of_itself_spoils_no_host(invalid: Check, revision: str, said: Any) -> None:
    check_introduction(invalid, revision, said)


@every
@settings(checked, max_examples=150)
@given(said=SAID)
def test_whatever_a_server_says_of_itself_a_host_gets_what_is_valid(invalid: Check, revision: str, said: Any) -> None:
    check_introduction(invalid, revision, said)
