from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import cycle, pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import (
    DISCOVERED,
    INITIALIZED,
    Message,
    Out,
    Running,
    Script,
    a_plan,
    error,
    legacy,
    modern,
    result,
    tool,
)

from moltis.config.limits import Limits
from moltis.errors import MoltisError, NotSent, RequestTimeout, ServerNotReady
from moltis.server.states import FailureKind
from moltis.session.listing import MAX_ITEMS, MAX_PAGES, Kind, ListError, Pages, ToolFilter
from moltis.session.pace import FREE_CHANGES, MAX_GAP_SECS, MIN_GAP_SECS, ListPace
from moltis.transport import Ended


def silent(message: Message) -> Iterable[Out]:
    return []


def declaring(**capabilities: Any) -> Any:
    return lambda r: [result(r, {**INITIALIZED, "capabilities": capabilities})]


def changed(what: str) -> Message:
    return {"jsonrpc": "2.0", "method": f"notifications/{what}/list_changed"}


def names(running: Running, kind: Kind = Kind.TOOLS) -> list[str]:
    return [item.name for item in running.session.items(kind)]


async def test_all_declared_lists_are_read_and_kept_byte_for_byte() -> None:
    raw = b'{"inputSchema": {"type":"object", "x": 1.0},"name":"t\\u00e9"}'
    async with anyio.create_task_group() as tasks:
        script = legacy(
            initialize=declaring(tools={}, resources={}, prompts={}),
            tools__list=lambda r: [b'{"jsonrpc":"2.0","id":%d,"result":{"tools":[ %b ]}}' % (r["id"], raw)],
            resources__list=lambda r: [result(r, {"resources": [{"uri": "a:1", "name": "n"}]})],
            resources__templates__list=lambda r: [
                result(r, {"resourceTemplates": [{"uriTemplate": "a:{x}", "name": "n"}]})
            ],
            prompts__list=lambda r: [result(r, {"prompts": [{"name": "p"}]})],
        )
        running = await Running(tasks, script).until_ready()
        assert [item.raw for item in running.session.items(Kind.TOOLS)] == [raw]
        assert [*running.session.listed(Kind.TOOLS, "my server")] == [b'{"server":"my server",' + raw[1:]]
        assert [names(running, kind) for kind in Kind] == [["t\u00e9"], ["a:1"], ["a:{x}"], ["p"]]
        facts = running.session.facts()
        assert (facts.tool_count, facts.resource_count, facts.prompt_count) == (1, 1, 1)
        running.session.stop()


async def test_undeclared_lists_are_not_asked_for() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(initialize=declaring(logging={}))).until_ready()
        assert not [m for m in running.server.methods() if m.endswith("/list")]
        running.session.stop()


@pytest.mark.parametrize("answer", [lambda r: [error(r, -32601)], lambda r: [error(r, -32603)], silent])
async def test_a_server_that_declares_nothing_may_have_no_tools(answer: Any) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(initialize=declaring(), tools__list=answer)).until_ready()
        assert running.server.asked("tools/list")
        running.session.stop()


async def test_a_server_that_declares_nothing_may_have_tools() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy("a", initialize=declaring())).until_ready()
        assert names(running) == ["a"]
        running.session.stop()


async def test_a_method_that_is_not_known_is_an_empty_list() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=lambda r: [error(r, -32601)])).until_ready()
        assert names(running) == []
        running.session.stop()


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("script", [legacy, modern], ids=["legacy", "modern"])
async def test_how_long_the_first_list_of_tools_may_take_is_the_starts_to_decide(script: Any, pages: int) -> None:
    def slow(request: Message) -> Iterable[Out]:
        page = int(request["params"].get("cursor", 1))
        more = {"nextCursor": str(page + 1)} if page < pages else {}
        yield 15, result(request, {"tools": [tool(f"t{page}")], **more})

    async with anyio.create_task_group() as tasks:
        plan = a_plan(limits=Limits(request_timeout_secs=10))
        running = await Running(tasks, script(tools__list=slow), plan).until_ready()
        assert names(running) == [f"t{page}" for page in range(1, pages + 1)]
        assert not running.server.asked("notifications/cancelled")
        running.server.connection.say(changed("tools"))
        await anyio.sleep(20)
        assert len(running.server.asked("notifications/cancelled")) == 1  # after the start it is a request like any
        assert names(running)
        running.session.stop()


async def test_lists_other_than_tools_delay_a_start_only_for_a_moment() -> None:
    async with anyio.create_task_group() as tasks:
        script = legacy(
            "a",
            initialize=declaring(tools={}, resources={}, prompts={}),
            resources__list=lambda r: [(8, result(r, {"resources": [{"uri": "a:1"}]}))],
            prompts__list=lambda r: [error(r, -32603)],
        )
        running = Running(tasks, script)
        began = anyio.current_time()
        await running.until_ready()
        assert anyio.current_time() - began == pytest.approx(5, abs=0.1)
        assert names(running, Kind.RESOURCES) == []
        await anyio.sleep(20)
        assert names(running, Kind.RESOURCES) == ["a:1"]
        assert running.session.facts().counters.failed_lists == len(running.server.asked("prompts/list")) < 6
        running.session.stop()


async def test_pages_are_read_to_the_last() -> None:
    def page(request: Message) -> Iterable[Out]:
        n = int(request["params"].get("cursor", 0))
        more = {"nextCursor": str(n + 1)} if n < 3 else {}
        return [result(request, {"tools": [tool(f"t{n}")], **more})]

    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=page)).until_ready()
        assert names(running) == ["t0", "t1", "t2", "t3"]
        running.session.stop()


def paged(*pages: Message | Callable[[Message], Message]) -> Script:
    """Page after page, whatever is asked for; then the last again."""
    left = list(pages)

    def page(request: Message) -> Iterable[Out]:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return [answer(request) if callable(answer) else result(request, answer)]

    return page


T = {name: tool(name) for name in "abcd"}


@pytest.mark.parametrize("server", [legacy, modern])
async def test_an_empty_cursor_is_the_end_until_2025_and_a_cursor_like_any_other_from_2026_on(server: Any) -> None:
    script = server(tools__list=paged({"tools": [T["a"]], "nextCursor": ""}, {"tools": [T["b"]]}))
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        asked = [request["params"].get("cursor") for request in running.server.asked("tools/list")]
        assert (names(running), asked) == ((["a", "b"], [None, ""]) if server is modern else (["a"], [None]))
        running.session.stop()


async def test_empty_cursors_without_end_end() -> None:
    script = modern(
        tools__list=lambda r: [result(r, {"tools": [tool(r["params"].get("cursor", "a"))], "nextCursor": ""})]
    )
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        assert len(running.server.asked("tools/list")) == 2
        running.session.stop()


@pytest.mark.parametrize("server", [legacy, modern])
@pytest.mark.parametrize("cursors", [["p"], ["p", "q", "r", "s"]], ids=["stands still", "moves"])
async def test_a_server_that_does_not_look_at_the_cursor_lists_nothing_twice(server: Any, cursors: list[str]) -> None:
    turns = cycle(cursors)
    script = server(tools__list=lambda r: [result(r, {"tools": [T["a"], T["b"]], "nextCursor": next(turns)})])
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        assert names(running) == ["a", "b"]
        assert len(running.server.asked("tools/list")) == 2
        (remark,) = running.session.facts().remarks
        assert remark.startswith("its list of tools is not complete: its pages ")
        running.session.stop()


@pytest.mark.parametrize("cursor", [2, 0, False, {}, []])
async def test_a_cursor_that_is_no_text_costs_no_page_that_was_read(cursor: Any) -> None:
    async with anyio.create_task_group() as tasks:
        running = Running(tasks, legacy(tools__list=paged({"tools": [T["a"]], "nextCursor": cursor})))
        await running.until_ready()
        assert names(running) == ["a"]
        assert running.session.facts().remarks == (
            "its list of tools is not complete: the cursor of its next page is not a text",
        )
        running.session.stop()


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ([None], "one item"),
        ([{"name": 5}, {"description": "no name"}], "2 items"),
        (["b", 7, []], "3 items"),
    ],
)
async def test_items_that_have_no_name_cost_the_others_nothing_and_are_told(odd: list[Any], told: str) -> None:
    script = legacy(tools__list=paged({"tools": [T["a"], *odd]}, {"tools": [T["a"], T["b"]]}))
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        assert names(running) == ["a"]
        assert running.session.facts().remarks == (
            f"its list of tools has {told} without a name, which nobody can be shown",
        )
        running.server.connection.say(changed("tools"))
        await anyio.sleep(2)
        assert names(running) == ["a", "b"]
        assert running.session.facts().remarks == ()
        running.session.stop()


@pytest.mark.parametrize("second", [lambda r: error(r, -32602), lambda r: result(r, "nonsense")], ids=["error", "junk"])
async def test_a_second_page_that_cannot_be_had_costs_no_page_that_was_read(second: Any) -> None:
    first = {"tools": [T["a"]], "nextCursor": "p"}
    script = legacy(tools__list=paged(first, second, first, {"tools": [T["b"]]}))
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        assert names(running) == ["a"]
        assert "is not complete: after 1 of them" in running.session.facts().remarks[0]
        await anyio.sleep(1)
        assert names(running) == ["a", "b"], "it is tried once more"
        assert running.session.facts().remarks == ()
        running.session.stop()


async def test_a_later_reading_that_breaks_off_keeps_the_whole_list_of_before() -> None:
    whole = {"tools": [T["a"], T["b"]]}
    script = legacy(tools__list=paged(whole, {"tools": [T["a"]], "nextCursor": "p"}, lambda r: error(r, -32603)))
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        running.server.connection.say(changed("tools"))
        await anyio.sleep(1)
        assert names(running) == ["a", "b"]
        running.session.stop()


def test_of_two_tools_with_one_name_the_first_is_listed_and_of_two_resources_both() -> None:
    tools, resources = Pages(Kind.TOOLS), Pages(Kind.RESOURCES)
    tools.add(b'{"tools":[{"name":"a","x":1},{"name":"a","x":2},{"name":"b"}]}')
    assert ([item.raw for item in tools.items], tools.repeated) == ([b'{"name":"a","x":1}', b'{"name":"b"}'], 1)
    resources.add(b'{"resources":[{"uri":"a:1","name":"x"},{"uri":"a:1","name":"y"},{"uri":"a:1","name":"x"}]}')
    assert (len(resources.items), resources.repeated) == (2, 1)


@pytest.mark.parametrize("circle", [False, True])
async def test_endless_pages_end(circle: bool) -> None:
    def page(request: Message) -> Iterable[Out]:
        n = int(request["params"].get("cursor", 0))
        return [result(request, {"tools": [tool(f"t{n}")], "nextCursor": "7" if circle else str(n + 1)})]

    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=page)).until_ready()
        assert len(running.server.asked("tools/list")) == (2 if circle else MAX_PAGES)
        assert running.session.facts().counters.truncated_lists == 1
        running.session.stop()


def test_a_list_of_too_many_items_or_bytes_is_cut() -> None:
    many = Pages(Kind.TOOLS)
    assert many.add(json.dumps({"tools": [{"name": f"t{n}"} for n in range(MAX_ITEMS + 5)]}).encode()) is None
    assert len(many.items) == MAX_ITEMS
    assert many.truncated == "it has more than 10000 items"
    large = Pages(Kind.TOOLS)
    for n in range(9):
        page = {"tools": [{"name": f"t{n}", "x": "y" * 5_000_000}], "nextCursor": str(n)}
        if large.add(json.dumps(page).encode()) is None:
            break
    assert len(large.items) == 3
    assert large.truncated is not None


@pytest.mark.parametrize(
    ("page", "seen"),
    [
        (b"5", "it is a number"),
        (b'["a"]', "it is a list"),
        (b'"no"', "it is a text"),
        (b'{"tools":5}', "`tools` is a number"),
        (b'{"tools":"none"}', "`tools` is a text"),
        (b'{"tools":{"quick":{}}}', "`tools` is an object"),
        (b'{"tools":true}', "`tools` is true"),
    ],
)
def test_what_is_no_page_is_an_error_that_says_what_was_seen(page: bytes, seen: str) -> None:
    with pytest.raises(ListError, match=f"^the answer to tools/list is not a list of tools: {seen}$"):
        Pages(Kind.TOOLS).add(page)


NOTHING = [{"of": None}, {}, {"of": {}}, {"of": False}, {"of": ""}, {"more": 1}, None, []]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("page", NOTHING, ids=str)
def test_what_is_empty_is_an_empty_list_and_counted(kind: Kind, page: Any) -> None:
    said = {kind.member if name == "of" else name: value for name, value in page.items()} if page else page
    pages = Pages(kind)
    assert pages.add(json.dumps(said).encode()) is None
    assert (pages.items, pages.missing, pages.truncated) == ([], 1, None)


@pytest.mark.parametrize("page", NOTHING, ids=str)
@pytest.mark.parametrize("server", [legacy, modern])
async def test_a_server_whose_lists_are_null_or_absent_is_ready_without_any(server: Any, page: Any) -> None:
    def empty(kind: Kind) -> Script:
        said = {kind.member if name == "of" else name: value for name, value in page.items()} if page else page
        return lambda r: [result(r, said)]

    declared: Message = {"capabilities": {"tools": {}, "resources": {}, "prompts": {}}}
    async with anyio.create_task_group() as tasks:
        opens = (
            {"initialize": lambda r: [result(r, {**INITIALIZED, **declared})]}
            if server is legacy
            else {"server__discover": lambda r: [result(r, {**DISCOVERED, **declared})]}
        )
        script = server(
            **opens,
            **{kind.method.replace("/", "__"): empty(kind) for kind in Kind},
        )
        running = await Running(tasks, script).until_ready()
        assert [names(running, kind) for kind in Kind] == [[], [], [], []]
        assert [len(running.server.asked(kind.method)) for kind in Kind] == [1, 1, 1, 1]
        told = running.session.facts().remarks
        assert len(told) == (4 if page in ({"of": False}, {"of": ""}) else 0), "null, absent and {} are meant so"
        assert running.session.facts().counters.missing_lists == 4
        running.session.stop()


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ({"tools": ""}, "a text"), ({"tools": False}, "false"), ({"tools": 0}, "a number"), ("", "a text"),
        (False, "false"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_list_and_is_taken_for_an_empty_one_is_told_until_there_is_one(page: Any, what: str) -> None:
    pages = [page, {"tools": [T["a"]]}]
    async with anyio.create_task_group() as tasks:
        script = legacy(tools__list=lambda r: [result(r, pages.pop(0))])
        running = await Running(tasks, script).until_ready()
        (told,) = running.session.facts().remarks
        assert told == f"its answer to tools/list has {what} where the list belongs, which is taken for an empty one"
        running.server.connection.say(changed("tools"))
        await anyio.sleep(1)
        assert (names(running), running.session.facts().remarks) == (["a"], ())
        running.session.stop()


async def test_a_list_that_becomes_null_is_empty_and_hosts_hear_of_it() -> None:
    heard: list[frozenset[Kind]] = []
    async with anyio.create_task_group() as tasks:
        script = legacy(tools__list=paged({"tools": [T["a"]]}, {"tools": None}))
        running = await Running(tasks, script, on_lists_changed=heard.append).until_ready()
        running.server.connection.say(changed("tools"))
        await anyio.sleep(1)
        assert names(running) == []
        assert heard == [frozenset({Kind.TOOLS})]
        running.session.stop()


def test_a_page_without_a_list_does_not_end_the_others() -> None:
    pages = Pages(Kind.TOOLS)
    assert pages.add(b'{"tools":null,"nextCursor":"p"}') == "p"
    assert pages.add(b'{"tools":[{"name":"a"}]}') is None
    assert [item.name for item in pages.items] == ["a"]


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.TOOLS])
async def test_an_optional_list_that_is_not_there_yet_is_said_and_read_later(kind: Kind) -> None:
    left = [lambda r: error(r, -32603, "database is still starting")]
    item = {"uri": "a:1", "uriTemplate": "a:{x}", "name": "n"}

    def listed(request: Message) -> Iterable[Out]:
        return [left.pop()(request) if left else result(request, {kind.member: [item]})]

    async with anyio.create_task_group() as tasks:
        script = legacy(
            "a",
            initialize=declaring(tools={}, **{kind.capability: {}}),
            **{kind.method.replace("/", "__"): listed},
        )
        running = await Running(tasks, script).until_ready()
        (remark,) = running.session.facts().remarks
        assert f"its list of {kind.member} could not be read" in remark
        assert "database is still starting" in remark
        await anyio.sleep(3)
        assert len(names(running, kind)) == 1
        assert running.session.facts().remarks == ()
        running.session.stop()


def test_items_without_a_name_are_left_out_and_counted() -> None:
    pages = Pages(Kind.TOOLS)
    pages.add(b'{"tools":[5,null,{},{"name":1},{"name":"a"},"x"]}')
    assert ([item.name for item in pages.items], pages.nameless) == (["a"], 5)


async def test_an_item_cannot_pass_for_another_servers() -> None:
    item = b'{"name":"t","\\u0073erver":"bank","z": 1.0,"server":"other"}'
    async with anyio.create_task_group() as tasks:
        script = legacy(tools__list=lambda r: [b'{"jsonrpc":"2.0","id":%d,"result":{"tools":[%b]}}' % (r["id"], item)])
        running = await Running(tasks, script).until_ready()
        assert [*running.session.listed(Kind.TOOLS, "x")] == [b'{"server":"x","name":"t","z":1.0}']
        running.session.stop()


@pytest.mark.parametrize(
    ("include", "exclude", "allowed"),
    [
        ((), (), ["get_a", "get_b", "set_a"]),
        (("get_*",), (), ["get_a", "get_b"]),
        ((), ("*_a",), ["get_b"]),
        (("get_*",), ("get_a",), ["get_b"]),
        (("GET_*",), (), []),
        (("[gs]et_a",), (), ["get_a", "set_a"]),
    ],
)
def test_exclusion_wins_over_inclusion(include: tuple[str, ...], exclude: tuple[str, ...], allowed: list[str]) -> None:
    tools = ToolFilter(include, exclude)
    assert [t for t in ("get_a", "get_b", "set_a") if tools.allows(t)] == allowed


async def test_filtered_tools_are_not_listed() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy("a", "b"), a_plan(exclude_tools=("b",))).until_ready()
        assert names(running) == ["a"]
        running.session.stop()


class Growing:
    """A list that has one more tool each time it is read."""

    def __init__(self) -> None:
        self.reads: list[float] = []

    def __call__(self, request: Message) -> Iterable[Out]:
        self.reads.append(anyio.current_time())
        return [result(request, {"tools": [tool(f"t{n}") for n in range(len(self.reads))]})]


async def test_a_changed_list_is_read_again_and_told() -> None:
    told: list[frozenset[Kind]] = []
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=Growing()), on_lists_changed=told.append).until_ready()
        running.server.connection.say(changed("tools"))
        await anyio.sleep(1)
        assert names(running) == ["t0", "t1"]
        assert told == [frozenset({Kind.TOOLS})]
        running.session.stop()


async def test_a_list_that_only_claims_to_have_changed_is_not_told() -> None:
    told: list[frozenset[Kind]] = []
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy("a"), on_lists_changed=told.append).until_ready()
        running.server.connection.say(changed("tools"))
        await anyio.sleep(1)
        assert len(running.server.asked("tools/list")) == 2
        assert told == []
        running.session.stop()


async def test_a_flood_of_changes_is_read_ever_more_slowly() -> None:
    growing = Growing()
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=growing)).until_ready()
        began = anyio.current_time()
        for _ in range(300):
            running.server.connection.say(*[changed("tools")] * 100)
            await anyio.sleep(0.01)
        await anyio.sleep(5)
        gaps = [round(b - a, 1) for a, b in pairwise(growing.reads[1:])]
        assert gaps == [0.5, 0.5, 1, 2]
        assert growing.reads[1] == began
        assert len(running.session.items(Kind.TOOLS)) == len(growing.reads), "the last change is not missed"
        running.session.stop()


def looping(*numbers: int) -> Script:
    """Lists that have so many tools in turn; each reading is announced as a change once more."""
    turns = cycle(numbers)

    def read(request: Message) -> Iterable[Out]:
        yield changed("tools")
        yield result(request, {"tools": [tool(f"t{n}") for n in range(next(turns))]})

    return read


@pytest.mark.parametrize("numbers", [(20,), (20, 21)], ids=["the same", "another"])
async def test_a_server_that_announces_a_change_at_each_reading_is_read_at_a_falling_rate(numbers: Any) -> None:
    told: list[float] = []
    async with anyio.create_task_group() as tasks:
        running = Running(tasks, legacy(tools__list=looping(*numbers)), on_lists_changed=lambda _: note_time(told))
        await running.until_ready()
        began = anyio.current_time()
        await anyio.sleep(3600)
        assert len(running.server.asked("tools/list")) < 75, "about one a minute"
        assert len([at for at in told if at < began + 40]) <= 8
        assert running.session.facts().remarks == ("its list of tools changes all the time",)
        running.session.stop()


def note_time(times: list[float]) -> None:
    times.append(anyio.current_time())


async def test_who_switches_tools_on_and_off_is_not_kept_waiting() -> None:
    growing = Growing()
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=growing)).until_ready()
        for n in range(FREE_CHANGES):
            running.server.connection.say(changed("tools"))
            await anyio.sleep(1)
            assert len(names(running)) == n + 2
        assert running.session.facts().remarks == ()
        running.session.stop()


async def test_another_list_of_a_restless_server_is_read_at_once() -> None:
    script = legacy(
        initialize=declaring(tools={}, prompts={}),
        tools__list=looping(1, 2),
        prompts__list=lambda r: [result(r, {"prompts": [{"name": "p"}]})],
    )
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        await anyio.sleep(1000)
        running.server.connection.say(changed("prompts"))
        await anyio.sleep(0.1)
        assert len(running.server.asked("prompts/list")) == 2
        running.session.stop()


async def test_a_quiet_minute_gives_a_server_its_promptness_back() -> None:
    answers = looping(1, 2)
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=lambda r: answers(r))).until_ready()
        await anyio.sleep(1000)
        answers = Growing()
        await anyio.sleep(200)
        assert running.session.facts().remarks == ()
        before = len(answers.reads)
        for _ in range(2):
            running.server.connection.say(changed("tools"))
            await anyio.sleep(1)
        assert len(answers.reads) == before + 2
        running.session.stop()


async def test_another_order_is_no_change() -> None:
    told: list[frozenset[Kind]] = []
    answers = iter([["a", "b"], ["b", "a"]])

    def read(request: Message) -> Iterable[Out]:
        return [result(request, {"tools": [tool(name) for name in next(answers)]})]

    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=read), on_lists_changed=told.append).until_ready()
        running.server.connection.say(changed("tools"))
        await anyio.sleep(1)
        assert (names(running), told) == (["a", "b"], [])
        running.session.stop()


@given(st.lists(st.tuples(st.floats(0, 300), st.booleans(), st.booleans()), max_size=60))
def test_readings_keep_their_distance_and_none_waits_longer_than_a_minute(
    steps: list[tuple[float, bool, bool]],
) -> None:
    pace, now = ListPace(), 0.0
    for pause, news, asked in steps:
        now += pause
        if asked:
            pace.heard(now)
        began = max(now, pace.next_at)
        assert began - now <= MAX_GAP_SECS + 1e-6
        echo = pace.begin(began)
        pace.read(began, changed=news, asked=asked, echo=echo)
        assert pace.next_at - began >= MIN_GAP_SECS - 1e-6
        now = began


async def test_a_reading_that_fails_keeps_the_old_list() -> None:
    answers = iter([{"tools": [tool("a")]}, "nonsense"])
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=lambda r: [result(r, next(answers))])).until_ready()
        running.server.connection.say(changed("tools"))
        await anyio.sleep(1)
        assert names(running) == ["a"]
        assert running.session.facts().counters.failed_lists == 1
        running.session.stop()


NO_TOKEN = NotSent("the login of server 'x' cannot be renewed now", server="x", state="ready")


class Unready:
    """Tools that cannot be listed while `problem` is not None; then there is one more than before."""

    def __init__(self) -> None:
        self.problem: MoltisError | None = None
        self.running: Running | None = None
        self.asked: list[float] = []

    def __call__(self, request: Message) -> Iterable[Out]:
        self.asked.append(anyio.current_time())
        if self.problem is None:
            return [result(request, {"tools": [tool("a"), tool("b")] if self.running else [tool("a")]})]
        assert self.running is not None
        assert self.running.server.notices is not None
        sent = not isinstance(self.problem, NotSent)
        self.running.server.notices.request_failed(request["id"], self.problem, sent=sent)
        return []


@pytest.mark.parametrize("away_secs", [2, 40, 4000])
async def test_a_list_that_could_not_be_read_for_want_of_a_token_is_read_once_it_is_there(away_secs: float) -> None:
    tools = Unready()
    told: list[Any] = []
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=tools), on_lists_changed=told.append).until_ready()
        tools.running, tools.problem = running, NO_TOKEN
        running.server.connection.say(changed("tools"))
        await anyio.sleep(away_secs)
        assert names(running) == ["a"]
        assert "its list of tools could not be read: the login" in running.session.facts().remarks[0]
        assert len(tools.asked) <= 12 + away_secs / 250, "it is tried ever more rarely"
        tools.problem = None
        running.session.let_in()
        await anyio.sleep(0.6)
        assert names(running) == ["a", "b"]
        assert told == [frozenset({Kind.TOOLS})]
        assert running.session.facts().remarks == ()
        asked = len(tools.asked)
        await anyio.sleep(1000)
        assert len(tools.asked) == asked, "what was read is not stale"
        running.session.stop()


@pytest.mark.parametrize("problem", [NO_TOKEN, RequestTimeout("took too long", server="x")])
async def test_a_list_that_could_not_be_read_is_read_again_though_nobody_says_so(problem: MoltisError) -> None:
    tools = Unready()
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=tools)).until_ready()
        tools.running, tools.problem = running, problem
        running.server.connection.say(changed("tools"))
        await anyio.sleep(20)
        tools.problem = None
        await anyio.sleep(20)
        assert names(running) == ["a", "b"]
        running.session.stop()


async def test_a_list_other_than_tools_that_a_start_could_not_read_is_read_later() -> None:
    answers = iter([error({"id": 0}, -32603)] * 3)
    prompts = lambda r: [{**next(answers, result(r, {"prompts": [{"name": "p"}]})), "id": r["id"]}]  # noqa: E731
    async with anyio.create_task_group() as tasks:
        script = legacy("a", initialize=declaring(tools={}, prompts={}), prompts__list=prompts)
        running = await Running(tasks, script).until_ready()
        assert names(running, Kind.PROMPTS) == []
        await anyio.sleep(30)
        assert names(running, Kind.PROMPTS) == ["p"]
        running.session.stop()


async def test_a_list_that_is_refused_for_ever_is_asked_for_ever_more_rarely() -> None:
    async with anyio.create_task_group() as tasks:
        script = legacy("a", initialize=declaring(tools={}, prompts={}), prompts__list=lambda r: [error(r, -32603)])
        running = await Running(tasks, script).until_ready()
        await anyio.sleep(3600)
        assert len(running.server.asked("prompts/list")) <= 25
        assert "prompts/list was answered with error -32603" in running.session.facts().remarks[0]
        running.session.stop()


async def test_a_list_that_is_never_answered_keeps_no_other_waiting() -> None:
    growing = Growing()
    async with anyio.create_task_group() as tasks:
        script = legacy(initialize=declaring(tools={}, prompts={}), tools__list=growing, prompts__list=silent)
        running = await Running(tasks, script).until_ready()
        await anyio.sleep(6)
        for _ in range(10):
            listed = len(names(running))
            running.server.connection.say(changed("tools"))
            await anyio.sleep(3)
            assert len(names(running)) > listed
        running.session.stop()


async def test_a_change_is_read_at_once_though_the_reading_before_failed_for_long() -> None:
    tools = Unready()
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__list=tools)).until_ready()
        tools.running, tools.problem = running, NO_TOKEN
        running.server.connection.say(changed("tools"))
        await anyio.sleep(1000)
        tools.problem = None
        running.server.connection.say(changed("tools"))
        await anyio.sleep(0.6)
        assert names(running) == ["a", "b"], "who says so is there"
        running.session.stop()


async def test_who_answers_a_failed_reading_with_another_change_is_asked_at_a_falling_rate() -> None:
    async with anyio.create_task_group() as tasks:
        answers = iter([True])

        def tools(request: Message) -> Iterable[Out]:
            if next(answers, False):
                return [result(request, {"tools": [tool("a")]}), changed("tools")]
            return [changed("tools"), error(request, -32603)]

        running = await Running(tasks, legacy(tools__list=tools)).until_ready()
        await anyio.sleep(600)
        assert len(running.server.asked("tools/list")) < 30
        running.session.stop()


def acknowledging(then: Any = silent) -> Any:
    def listen(request: Message) -> Iterable[Out]:
        params = {
            "notifications": request["params"]["notifications"],
            "_meta": {"io.modelcontextprotocol/subscriptionId": request["id"]},
        }
        yield {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params}
        yield from then(request)

    return listen


async def test_a_modern_server_is_listened_to() -> None:
    growing = Growing()
    async with anyio.create_task_group() as tasks:
        script = modern(tools__list=growing, subscriptions__listen=acknowledging())
        running = await Running(tasks, script).until_ready()
        await anyio.sleep(10)
        (listen,) = running.server.asked("subscriptions/listen")
        assert listen["params"]["notifications"] == {"toolsListChanged": True}
        assert listen["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
        assert len(growing.reads) == 2, "what happened between listing and listening is not missed"
        running.server.connection.say(changed("tools"))
        await anyio.sleep(10)
        assert len(names(running)) == 3
        await anyio.sleep(10_000)
        assert len(running.server.asked("subscriptions/listen")) == 1, "the request may stay open for ever"
        running.session.stop()


@pytest.mark.parametrize("capabilities", [{"tools": {}}, {"tools": {"listChanged": False}}, {"tools": 5}])
async def test_a_modern_server_that_declares_no_changes_is_not_listened_to(capabilities: Any) -> None:
    async with anyio.create_task_group() as tasks:
        script = modern("a", server__discover=lambda r: [result(r, {**DISCOVERED, "capabilities": capabilities})])
        running = await Running(tasks, script).until_ready()
        await anyio.sleep(100)
        assert not running.server.asked("subscriptions/listen")
        running.session.stop()


@pytest.mark.parametrize("code", [-32601, -32602, -32600])
async def test_a_server_that_cannot_be_listened_to_is_left_alone(code: int) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, modern("a", subscriptions__listen=lambda r: [error(r, code)])).until_ready()
        await anyio.sleep(1000)
        assert len(running.server.asked("subscriptions/listen")) == 1
        assert not running.over.is_set()
        running.session.stop()


@pytest.mark.parametrize(
    "end",
    [
        lambda r: [result(r, {})],
        lambda r: [error(r, -32000)],
        lambda r: [{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": r["id"]}}],
    ],
    ids=["graceful", "error", "cancelled"],
)
async def test_a_stream_that_keeps_ending_is_opened_ever_more_slowly_and_then_no_more(end: Any) -> None:
    times: list[float] = []

    def listen(request: Message) -> Iterable[Out]:
        times.append(anyio.current_time())
        yield from acknowledging(end)(request)

    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, modern("a", subscriptions__listen=listen)).until_ready()
        await anyio.sleep(10_000)
        assert [round(b - a) for a, b in pairwise(times)] == [1, 2, 4, 8, 16, 32, 60]
        assert running.server.asked("notifications/cancelled") == []
        running.session.stop()


async def test_a_stream_that_lasted_is_opened_again_for_ever() -> None:
    async with anyio.create_task_group() as tasks:
        script = modern("a", subscriptions__listen=acknowledging(lambda r: [(100, result(r, {}))]))
        running = await Running(tasks, script).until_ready()
        await anyio.sleep(100 * 101 - 5)
        assert len(running.server.asked("subscriptions/listen")) == 100
        running.session.stop()


@pytest.mark.parametrize("acknowledges", [True, False])
async def test_a_stream_that_breaks_off_is_opened_again_for_ever_ever_more_slowly(acknowledges: bool) -> None:
    times: list[float] = []

    def listen(request: Message) -> Iterable[Out]:
        times.append(anyio.current_time())
        broken = ServerNotReady("broke off", server="x", state="ready")
        assert running.server.notices is not None
        running.server.notices.request_failed(request["id"], broken)
        yield from acknowledging(silent)(request) if acknowledges else ()

    async with anyio.create_task_group() as tasks:
        running = Running(tasks, modern("a", subscriptions__listen=listen))
        await running.until_ready()
        await anyio.sleep(1000)
        assert [round(b - a) for a, b in pairwise(times)][:7] == [1, 2, 4, 8, 16, 32, 60]
        assert len(times) > 15
        running.session.stop()


async def test_who_could_not_be_listened_to_for_want_of_a_token_is_listened_to_once_it_is_there() -> None:
    times: list[float] = []

    def listen(request: Message) -> Iterable[Out]:
        times.append(anyio.current_time())
        assert running.server.notices is not None
        if len(times) < 3:
            running.server.notices.request_failed(request["id"], NO_TOKEN, sent=False)
        yield from acknowledging(silent)(request) if len(times) >= 3 else ()

    async with anyio.create_task_group() as tasks:
        running = Running(tasks, modern("a", subscriptions__listen=listen))
        await running.until_ready()
        await anyio.sleep(6)
        running.session.let_in()
        await anyio.sleep(0.1)
        assert len(times) == 3
        running.session.stop()


async def test_a_server_that_dies_while_its_lists_are_read_is_told_by_its_own_end() -> None:
    async with anyio.create_task_group() as tasks:
        running = Running(tasks, legacy(tools__list=silent))
        tasks.start_soon(running.run)
        await anyio.sleep(1)
        running.server.connection.end(Ended(FailureKind.EXITED, "exited with code 4", 4))
        assert (await running.until_over()).exit_code == 4
