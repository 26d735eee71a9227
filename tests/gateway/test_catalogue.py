from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.errors import RpcCode, UsageError
from moltis.gateway.catalogue import Catalogue, Owner
from moltis.gateway.naming import alias, alias_template, renamed
from moltis.gateway.shelves import Shelf
from moltis.session.listing import Item, Kind, Pages

FIELDS = {Kind.TOOLS: "tools", Kind.PROMPTS: "prompts", Kind.RESOURCES: "resources", Kind.TEMPLATES: "templates"}
MEMBERS = {Kind.TOOLS: "name", Kind.PROMPTS: "name", Kind.RESOURCES: "uri", Kind.TEMPLATES: "uriTemplate"}


def items(kind: Kind, *names: str, **more: Any) -> tuple[Item, ...]:
    needed = {Kind.TOOLS: {"inputSchema": {"type": "object"}}, Kind.PROMPTS: {}}.get(kind, {"name": "n"})
    return tuple(Item(name, json.dumps({MEMBERS[kind]: name, **needed, **more}).encode()) for name in names)


def shelf(server: str, *, listed: bool = True, **names: Sequence[str]) -> Shelf:
    tools, prompts, resources, templates = (
        items(kind, *names.get(field, ()), title=server) for kind, field in FIELDS.items()
    )
    return Shelf(server, tools=tools, prompts=prompts, resources=resources, templates=templates, listed=listed)


def catalogue(*shelves: Shelf, sep: str | None = "__", page_bytes: int = 1 << 22) -> Catalogue:
    made = Catalogue(sep, page_bytes)
    made.update(shelves)
    return made


def walk(made: Catalogue, kind: Kind) -> list[list[dict[str, Any]]]:
    """Give all pages as a host reads them."""
    pages, cursor = [], None
    while True:
        result = json.loads(made.page(kind, cursor))
        pages.append(result[kind.member])
        cursor = result.get("nextCursor")
        if cursor is None:
            return pages


def listed(made: Catalogue, kind: Kind) -> list[str]:
    return [item[MEMBERS[kind]] for page in walk(made, kind) for item in page]


# --- names


@pytest.mark.parametrize(("sep", "first"), [("__", "git__log"), (".", "git.log")])
def test_tools_and_prompts_are_listed_in_order_with_their_server_in_front(sep: str, first: str) -> None:
    made = catalogue(
        shelf("git", tools=["log", "diff"], prompts=["log"]), shelf("db"), shelf("fs", tools=["log"]), sep=sep
    )
    assert listed(made, Kind.TOOLS) == [first, f"git{sep}diff", f"fs{sep}log"]
    assert listed(made, Kind.PROMPTS) == [first]
    assert made.owner_of_tool(first) == Owner("git", "log")
    assert made.owner_of_prompt(first) == Owner("git", "log")


def test_an_item_keeps_everything_but_its_name() -> None:
    schema = b'{"type":"object", "properties" : {"name":{}}}'
    raw = b'{"description": "caf\\u00e9","name":"t", "inputSchema": %b,"_meta":{"a":1.0}}' % schema
    pages = Pages(Kind.TOOLS)
    pages.add(b'{"tools":[%b]}' % raw)
    made = catalogue(Shelf("s", tools=tuple(pages.items)))
    expected = b'{"description":"caf\\u00e9","name":"s__t","inputSchema":%b,"_meta":{"a":1.0}}' % schema
    assert made.page(Kind.TOOLS) == b'{"tools":[%b]}' % expected


def test_a_page_is_one_line_however_the_server_wrote_its_items() -> None:
    pages = Pages(Kind.TOOLS)
    pages.add(json.dumps({"tools": [{"name": "a", "inputSchema": {"type": "object", "x": ["\n"]}}]}, indent=1).encode())
    shelves = [Shelf("s", tools=tuple(pages.items))]
    for made in (catalogue(*shelves), catalogue(*shelves, sep=None)):
        page = made.page(Kind.TOOLS)
        assert b"\n" not in page
        assert json.loads(page)["tools"][0]["inputSchema"] == {"type": "object", "x": ["\n"]}


def test_a_server_that_lists_a_name_twice_cannot_spoil_the_list_of_all() -> None:
    made = catalogue(shelf("s", tools=["a", "b", "a"]))
    assert listed(made, Kind.TOOLS) == ["s__a", "s__b"]


def test_an_item_that_cannot_be_renamed_is_left_out_and_the_others_stay() -> None:
    broken = Item("bad", b'{"name":"bad"')
    made = catalogue(Shelf("s", tools=(broken, *items(Kind.TOOLS, "good"))))
    assert listed(made, Kind.TOOLS) == ["s__good"]


def test_a_name_that_two_servers_could_have_is_listed_once_and_goes_to_the_one_that_lists_it() -> None:
    made = catalogue(shelf("a_", tools=["t"]), shelf("a", tools=["_t", "_u"]))
    assert listed(made, Kind.TOOLS) == ["a___t", "a___u"]
    assert made.owner_of_tool("a___u") == Owner("a", "_u")
    assert made.owner_of_tool("a___nobody") == Owner("a", "_nobody")
    only = catalogue(shelf("a_", tools=["t"]), shelf("a"))
    assert only.owner_of_tool("a___t") == Owner("a_", "t")


def test_a_tool_that_is_not_listed_is_its_servers_all_the_same() -> None:
    made = catalogue(shelf("git", tools=["log"]), shelf("off", tools=["x"], listed=False))
    assert listed(made, Kind.TOOLS) == ["git__log"]
    assert made.owner_of_tool("git__new__thing") == Owner("git", "new__thing")
    assert made.owner_of_tool("off__x") == Owner("off", "x")
    assert made.owner_of_tool("nobody__x") is None
    assert made.owner_of_tool("log") is None
    assert made.owner_of_tool("__log") is None


def test_an_owner_that_was_asked_for_before_is_not_remembered_when_the_servers_change() -> None:
    made = catalogue(shelf("git", tools=["log"]))
    assert made.owner_of_tool("git__log") is not None
    assert made.owner_of_tool("db__x") is None
    made.update([shelf("db")])
    assert made.owner_of_tool("git__log") is None
    assert made.owner_of_tool("db__x") == Owner("db", "x")


# --- resources


def test_a_uri_that_two_servers_list_is_the_first_ones_and_the_other_has_an_alias() -> None:
    made = catalogue(shelf("a", resources=["file:///x", "file:///y"]), shelf("b", resources=["file:///x", "b:z"]))
    other = alias("b", "file:///x")
    assert listed(made, Kind.RESOURCES) == ["file:///x", "file:///y", other, "b:z"]
    assert made.owner_of_resource("file:///x") == Owner("a", "file:///x")
    assert made.owner_of_resource(other) == Owner("b", "file:///x")
    assert made.owner_of_resource("b:z") == Owner("b", "b:z")
    assert made.owner_of_resource(alias("A", "b:z")) == Owner("a", "b:z")
    assert made.owner_of_resource(alias("nobody", "b:z")) is None


def test_an_alias_goes_when_the_first_one_does_and_still_works() -> None:
    first, second = shelf("a", resources=["file:///x"]), shelf("b", resources=["file:///x"])
    made = catalogue(first, second)
    before = listed(made, Kind.RESOURCES)
    made.update([Shelf("a"), second])
    assert listed(made, Kind.RESOURCES) == ["file:///x"]
    assert made.owner_of_resource("file:///x") == Owner("b", "file:///x")
    assert made.owner_of_resource(before[1]) == Owner("b", "file:///x")


def test_aliases_follow_what_the_servers_in_front_list() -> None:
    last = shelf("b", resources=["u:1", "u:2"])
    made = catalogue(shelf("a", resources=["u:1"]), last)
    assert listed(made, Kind.RESOURCES) == ["u:1", alias("b", "u:1"), "u:2"]
    made.update([shelf("a", resources=["u:2"]), last])
    assert listed(made, Kind.RESOURCES) == ["u:2", "u:1", alias("b", "u:2")]


def test_a_template_that_two_servers_list_is_the_first_ones_and_the_other_has_an_alias() -> None:
    made = catalogue(shelf("a", templates=["file:///{p}"]), shelf("b", templates=["file:///{p}"]))
    other = alias_template("b", "file:///{p}")
    assert listed(made, Kind.TEMPLATES) == ["file:///{p}", other]
    assert made.owner_of_template("file:///{p}") == Owner("a", "file:///{p}")
    assert made.owner_of_template(other) == Owner("b", "file:///{p}")
    assert made.owner_of_resource("file:///q%2Fr") == Owner("a", "file:///q%2Fr")
    assert made.owner_of_resource("moltis://b/file:///q%2Fr") == Owner("b", "file:///q%2Fr")


def test_no_server_can_take_what_is_read_under_anothers_alias() -> None:
    stolen = alias("b", "file:///x")
    made = catalogue(
        shelf("thief", resources=[stolen, "MOLTIS://b/y"], templates=["moltis://b/{+x}", "{+x}"]),
        shelf("b", resources=["file:///x"]),
    )
    assert listed(made, Kind.RESOURCES) == [alias("thief", stolen), alias("thief", "MOLTIS://b/y"), "file:///x"]
    assert made.owner_of_resource(stolen) == Owner("b", "file:///x")
    assert made.owner_of_resource("moltis://b/other") == Owner("b", "other")
    assert made.owner_of_resource(alias("thief", stolen)) == Owner("thief", stolen)


def test_what_says_most_of_a_uri_decides_whose_it_is() -> None:
    made = catalogue(
        shelf("any", templates=["{+uri}", "db://{a}/{b}"]),
        shelf("rows", templates=["db://{table}/rows"]),
        shelf("one", resources=["db://t/exactly"]),
    )
    assert made.owner_of_resource("db://t/exactly") == Owner("one", "db://t/exactly")
    assert made.owner_of_resource("db://t/rows") == Owner("rows", "db://t/rows")
    assert made.owner_of_resource("db://t/other") == Owner("any", "db://t/other")
    assert made.owner_of_resource("what:ever") == Owner("any", "what:ever")


def test_a_uri_that_nobody_lists_goes_to_the_only_server_with_its_scheme() -> None:
    made = catalogue(
        shelf("a", resources=["file:///x"], templates=["db://{t}"]),
        shelf("b", resources=["note:1", "FILE:///z"]),
        shelf("off", resources=["mail:1"], listed=False),
    )
    assert made.owner_of_resource("NOTE:2") == Owner("b", "NOTE:2")
    assert made.owner_of_resource("db://t/u/v") == Owner("a", "db://t/u/v")
    assert made.owner_of_resource("file:///nobody") is None
    assert made.owner_of_resource("mail:2") is None
    assert made.owner_of_resource("nothing") is None


def test_a_resource_of_a_server_that_is_not_listed_is_still_known_to_be_its() -> None:
    made = catalogue(
        shelf("off", resources=["file:///x"], templates=["db://{t}"], listed=False),
        shelf("on", resources=["file:///x", "file:///y"]),
    )
    assert made.owner_of_resource("file:///x") == Owner("on", "file:///x")
    assert made.owner_of_resource("db://1") == Owner("off", "db://1")
    before = catalogue(shelf("off", templates=["db://{t}"], listed=False), shelf("on", templates=["{+uri}"]))
    assert before.owner_of_resource("db://1") == Owner("on", "db://1")
    gone = catalogue(shelf("off", resources=["file:///x"], listed=False), shelf("on", templates=["file:///{x}"]))
    assert gone.owner_of_resource("file:///x") == Owner("off", "file:///x")


def test_templates_made_to_be_slow_do_not_keep_a_server_from_its_own() -> None:
    slow = ["{+a}e" * 30 + str(n) for n in range(5000)]
    made = catalogue(shelf("slow", templates=slow), shelf("b", templates=["b:{x}"]))
    assert made.owner_of_resource("e" * 4096) is None
    assert made.owner_of_resource("b:" + "e" * 4000) == Owner("b", "b:" + "e" * 4000)
    assert len(listed(made, Kind.TEMPLATES)) == 5001


def test_only_so_much_of_a_servers_templates_is_matched_with() -> None:
    few, many, long = (
        ["x:{a}"],
        [f"y{n}:{{a}}" for n in range(600)],
        ["z:" + "z" * 2000 + f"{n}{{a}}" for n in range(40)],
    )
    assert catalogue(shelf("s", templates=few), shelf("t", resources=["x:1"])).owner_of_resource("x:2") is not None
    for templates in (many, long):
        made = catalogue(shelf("s", templates=[*templates, "w:{a}"]), shelf("t", resources=["w:1"]))
        first, last = templates[0].replace("{a}", "1"), "w:2"
        assert made.owner_of_resource(first) == Owner("s", first)
        assert made.owner_of_resource(last) is None  # and two servers have the scheme


# --- a single server


def test_a_single_servers_lists_are_as_they_are() -> None:
    one = shelf("s", tools=["a", "s__b", "a"], prompts=["p"], resources=["moltis://x/y", "u:"], templates=["{+a}"])
    made = catalogue(one, sep=None)
    for kind in Kind:
        raws = [item.raw for item in one.items(kind)]
        assert made.page(kind) == b'{"%b":[%b]}' % (kind.member.encode(), b",".join(raws))


def test_without_a_server_lists_are_empty_and_nobody_is_responsible() -> None:
    for made in (catalogue(), catalogue(sep=None)):
        assert [made.page(kind) for kind in Kind] == [b'{"%b":[]}' % kind.member.encode() for kind in Kind]
    made = catalogue()
    assert made.owner_of_tool("a__b") is made.owner_of_resource("a:b") is made.owner_of_template("a:{b}") is None


# --- pages

NAMES = [f"tool{n}" for n in range(40)]


@given(
    st.lists(st.lists(st.sampled_from(NAMES), max_size=12), max_size=5),
    st.integers(1, 400),
    st.sampled_from(list(Kind)),
    st.booleans(),
)
def test_pages_hold_everything_once_in_order_however_short_they_are(
    names: list[list[str]], page_bytes: int, kind: Kind, single: bool
) -> None:
    shelves = [shelf(f"s{n}", listed=True, **{FIELDS[kind]: found}) for n, found in enumerate(names)]
    shelves = shelves[: 1 if single else None]
    sep = None if single else "__"
    whole = catalogue(*shelves, sep=sep).page(kind)
    pages = walk(catalogue(*shelves, sep=sep, page_bytes=page_bytes), kind)
    assert [item for page in pages for item in page] == json.loads(whole)[kind.member]
    sizes = [len(json.dumps(page, separators=(",", ":"))) for page in pages]
    assert all(len(page) <= 1 or size <= page_bytes + 4 * len(page) for page, size in zip(pages, sizes, strict=True))
    assert all(pages) or pages == [[]]


def paged(*names: str, page_bytes: int = 1) -> Catalogue:
    return catalogue(shelf("s", tools=names), page_bytes=page_bytes)


def next_cursor(made: Catalogue, kind: Kind = Kind.TOOLS, cursor: str | None = None) -> str:
    found = json.loads(made.page(kind, cursor))["nextCursor"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    ("after", "next_name"),
    [
        (["a", "b", "c"], "s__b"),
        (["new", "a", "b", "c"], "s__b"),
        (["a", "new", "b", "c"], "s__new"),
        (["a", "c"], "s__c"),
        (["b", "c"], "s__b"),
        (["x", "y", "z", "b", "c"], "s__b"),
    ],
)
def test_a_cursor_survives_changes_around_it(after: list[str], next_name: str) -> None:
    made = paged("a", "b", "c")
    cursor = next_cursor(made)
    made.update([shelf("s", tools=after)])
    assert json.loads(made.page(Kind.TOOLS, cursor))["tools"][0]["name"] == next_name


def test_a_cursor_behind_which_everything_is_gone_gives_an_empty_last_page() -> None:
    made = paged("a", "b")
    cursor = next_cursor(made)
    made.update([shelf("s", tools=["a"])])
    assert made.page(Kind.TOOLS, cursor) == b'{"tools":[]}'


def test_a_cursor_whose_place_is_gone_is_refused() -> None:
    made = paged("a", "b", "c")
    cursor = next_cursor(made)
    made.update([shelf("s", tools=["c", "d"])])
    with pytest.raises(UsageError, match="changed too much") as refusal:
        made.page(Kind.TOOLS, cursor)
    assert refusal.value.rpc_code == RpcCode.INVALID_PARAMS


@pytest.mark.parametrize("cursor", ["x", "0", "null", "A" * 28, "\u00e9" * 28, "=" * 28, "A" * 1_000_000, " " * 28])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(UsageError):
        paged("a", "b").page(Kind.TOOLS, cursor)


def test_a_cursor_of_another_list_is_refused() -> None:
    made = catalogue(shelf("s", tools=["a", "b"], prompts=["a", "b"]), page_bytes=1)
    with pytest.raises(UsageError):
        made.page(Kind.PROMPTS, next_cursor(made))


@given(st.binary(min_size=21, max_size=21))
def test_no_cursor_that_a_host_makes_up_does_more_than_be_refused(told: bytes) -> None:
    import base64

    made = paged("a", "b", "c")
    try:
        made.page(Kind.TOOLS, base64.urlsafe_b64encode(b"\0" + told[1:]).decode())
    except UsageError:
        pass


def test_an_empty_cursor_is_none_of_ours() -> None:
    made = paged("a", "b")
    with pytest.raises(UsageError):
        made.page(Kind.TOOLS, "")


def test_a_single_servers_names_that_are_there_twice_do_not_turn_pages_in_a_circle() -> None:
    made = catalogue(shelf("s", tools=["a", "a", "b", "a", "a", "b"]), sep=None, page_bytes=1)
    assert listed(made, Kind.TOOLS) == ["a", "a", "b", "a", "a", "b"]


def test_members_of_the_era_come_first() -> None:
    made = paged("a")
    page = made.page(Kind.TOOLS, first=b'"resultType":"complete","ttlMs":0,')
    assert page.startswith(b'{"resultType":"complete","ttlMs":0,"tools":[{')
    assert json.loads(page)["tools"] == json.loads(made.page(Kind.TOOLS))["tools"]


# --- nothing is made twice


def test_a_page_is_made_once_and_stays_when_nothing_changed() -> None:
    made = paged("a", "b", "c")
    cursor = next_cursor(made)
    pages = [made.page(Kind.TOOLS), made.page(Kind.TOOLS, cursor), made.page(Kind.TOOLS, first=b'"x":1,')]
    made.update([shelf("s", tools=["a", "b", "c"])])  # equal, of other objects: as a list that was read again
    again = [made.page(Kind.TOOLS), made.page(Kind.TOOLS, cursor), made.page(Kind.TOOLS, first=b'"x":1,')]
    assert all(a is b for a, b in zip(pages, again, strict=True))


def test_a_list_that_changed_leaves_the_pages_of_the_others() -> None:
    made = catalogue(shelf("s", tools=["a"], prompts=["p"]))
    tools, prompts = made.page(Kind.TOOLS), made.page(Kind.PROMPTS)
    made.update([shelf("s", tools=["a", "b"], prompts=["p"])])
    assert made.page(Kind.TOOLS) != tools
    assert made.page(Kind.PROMPTS) is prompts


def test_one_server_that_changes_does_not_have_the_others_renamed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from moltis.gateway import shelves

    counted: list[str] = []

    def rename(item: Item, kind: Kind, name: str) -> bytes:
        counted.append(name)
        return renamed(item, kind, name)

    monkeypatch.setattr(shelves, "renamed", rename)
    others = [shelf(f"s{n}", tools=["a", "b"]) for n in range(20)]
    made = catalogue(*others, shelf("last", tools=["x"]))
    made.page(Kind.TOOLS)
    assert len(counted) == 41
    counted.clear()
    made.update([*others, shelf("last", tools=["y", "z"])])
    made.page(Kind.TOOLS)
    assert counted == ["last__y", "last__z"]


def test_what_hosts_make_up_does_not_fill_the_memory() -> None:
    made = paged(*NAMES)
    whole = walk(made, Kind.TOOLS)
    for n in range(10_000):
        made.owner_of_tool(f"s__{n}")
        made.page(Kind.TOOLS, first=b'"x":%d,' % n)
    assert sum(map(len, made._remembered.values())) <= 4096
    assert len(made._list(Kind.TOOLS)._pages) <= 4 * len(whole)


# --- digests


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from("xyz"), max_size=3)), max_size=3),
    st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from("xyz"), max_size=3)), max_size=3),
    st.sampled_from(list(Kind)),
)
def test_digests_differ_exactly_when_what_is_listed_does(
    one: list[tuple[str, list[str]]], other: list[tuple[str, list[str]]], kind: Kind
) -> None:
    first, second = (
        catalogue(*[shelf(server, listed=True, **{FIELDS[kind]: names}) for server, names in dict(found).items()])
        for found in (one, other)
    )
    assert (first.digest(kind) == second.digest(kind)) == (first.page(kind) == second.page(kind))
    assert len(first.digest(kind)) == 16


def test_a_digest_comes_back_with_what_was_listed_before() -> None:
    made = catalogue(shelf("s", tools=["a"]))
    before = made.digest(Kind.TOOLS)
    made.update([shelf("s", tools=["b"])])
    assert made.digest(Kind.TOOLS) != before
    made.update([shelf("s", tools=["a"]), shelf("empty")])
    assert made.digest(Kind.TOOLS) == before


# --- all of it, against a plain account of the rules

SHELVES = st.lists(
    st.tuples(
        st.sampled_from(["a", "a_", "b", "c-1"]),
        st.lists(st.sampled_from(["t", "_t", "u__v", "a___t"]), max_size=4),
        st.lists(st.sampled_from(["f:/1", "f:/2", "moltis://b/f%3A%2F1", "g:"]), max_size=4),
        st.booleans(),
    ),
    max_size=4,
    unique_by=lambda found: found[0],
)


@given(st.lists(SHELVES, min_size=1, max_size=4))
def test_whatever_happened_before_every_listed_name_leads_to_the_item_it_was_listed_for(
    history: list[list[tuple[str, list[str], list[str], bool]]],
) -> None:
    made = Catalogue()
    for step in history:
        made.update([shelf(s, tools=t, resources=r, listed=shown) for s, t, r, shown in step])
        for kind, owner_of in ((Kind.TOOLS, made.owner_of_tool), (Kind.RESOURCES, made.owner_of_resource)):
            found = [item for page in walk(made, kind) for item in page]
            names = [item[MEMBERS[kind]] for item in found]
            assert len(names) == len(set(names))
            for item in found:
                owner = owner_of(item[MEMBERS[kind]])
                assert owner is not None
                lists = {s: (t if kind is Kind.TOOLS else r) for s, t, r, shown in step if shown}
                assert owner.name in lists[owner.server]
                assert item["title"] == owner.server
        assert made.page(Kind.TOOLS) == catalogue(*made._shelves).page(Kind.TOOLS)
        assert made.page(Kind.RESOURCES) == catalogue(*made._shelves).page(Kind.RESOURCES)
