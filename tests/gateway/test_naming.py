from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.gateway.naming import (
    alias,
    alias_template,
    is_alias,
    join,
    origin,
    renamed,
    scheme_of,
    splits,
)
from moltis.names import name_problem
from moltis.session.listing import Item, Kind, Pages

SERVERS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True).filter(lambda name: not name_problem(name))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
MEMBERS = {Kind.TOOLS: "name", Kind.PROMPTS: "name", Kind.RESOURCES: "uri", Kind.TEMPLATES: "uriTemplate"}


def item(raw: bytes, kind: Kind = Kind.TOOLS) -> Item:
    pages = Pages(kind)
    pages.add(b'{"%b":[%b]}' % (kind.member.encode(), raw))
    (found,) = pages.items
    return found


def values(raw: bytes) -> list[tuple[str, bytes]]:
    return [(name, bytes(value)) for name, value in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items()]


@given(SERVERS, TEXT, st.sampled_from(["__", ".", "/", "_", "-", "a"]))
def test_whatever_the_names_hold_what_they_were_made_of_is_among_the_ways_to_take_them_apart(
    server: str, name: str, sep: str
) -> None:
    joined = join(server, name, sep)
    prefixes = {joined[:at] for at in range(1, 65)}
    found = splits(joined, sep, prefixes)
    assert (server, name) in found
    assert len(found) <= 64
    assert all(join(*parts, sep) == joined for parts in found)
    assert splits(joined, sep, {server}) == [(server, name)]
    assert splits(joined, sep, ()) == []


@pytest.mark.parametrize("text", ["", "tool", "__", "__tool", "a_tool", "_"])
def test_a_name_without_a_server_in_front_is_not_taken_apart(text: str) -> None:
    assert splits(text, "__", {"", "tool", "a", "a_tool"}) == []


def test_a_server_that_ends_like_the_separator_is_one_of_two_ways_to_read_a_name() -> None:
    assert splits("a___t", "__", {"a", "a_", "b"}) == [("a", "_t"), ("a_", "t")]


def test_a_name_of_nothing_but_separators_is_not_looked_through_to_its_end() -> None:
    asked: list[str] = []

    class Servers(set[str]):
        def __contains__(self, name: object) -> bool:
            asked.append(str(name))
            return False

    assert splits("_" * 1_000_000, "__", Servers()) == []
    assert [len(name) for name in asked] == list(range(1, 65))


@given(
    st.dictionaries(TEXT, JSON, max_size=6),
    st.randoms(use_true_random=False),
    TEXT,
    TEXT,
    st.sampled_from(list(Kind)),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_renaming_changes_one_value_and_no_other_byte(
    members: dict[str, Any], random: Any, old: str, new: str, kind: Kind, indent: int | str | None, ascii: bool
) -> None:
    member = MEMBERS[kind]
    order = [*members.items(), (member, old)]
    random.shuffle(order)
    before = item(json.dumps({**dict(order), member: old}, indent=indent, ensure_ascii=ascii).encode(), kind)
    after = renamed(before, kind, new)
    expected = [(name, b"" if name == member else value) for name, value in values(before.raw)]
    assert [(name, b"" if name == member else value) for name, value in values(after)] == expected
    assert item(after, kind).name == new


@pytest.mark.parametrize(
    "raw",
    [
        b'{"name":"a","inputSchema":{},"name":"b"}',
        b'{"name":"a","inputSchema":{},"n\\u0061me":"b"}',
        b'{"n\\u0061me":"a","inputSchema":{},"name":"b"}',
        b'{"description":"\\"name\\":\\"x\\"","name":"a","name":"b","inputSchema":{"name":"name"}}',
    ],
)
def test_a_name_that_is_there_twice_is_there_once_afterwards_however_it_is_spelled(raw: bytes) -> None:
    before = item(raw)
    assert before.name == "b"
    pairs = json.loads(renamed(before, Kind.TOOLS, "s__b"), object_pairs_hook=list)
    assert [value for name, value in pairs if name == "name"] == ["s__b"]


def test_numbers_and_escapes_stay_as_the_server_spelled_them() -> None:
    raw = b'{"name":"a","x":1.0E+2,"y":"\\u00e9\\/","z":{ "b" : [ 1 , 2 ] },"big":123456789012345678901234567890}'
    assert renamed(item(raw), Kind.TOOLS, "s__a") == raw.replace(b'"a"', b'"s__a"')


@given(SERVERS, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_an_alias_stands_for_its_uri_exactly(server: str, uri: str) -> None:
    given_out = alias(server, uri)
    assert is_alias(given_out)
    assert origin(given_out) == (server, uri)
    assert all("!" <= character <= "~" for character in given_out)


@pytest.mark.parametrize(
    ("template", "expanded", "uri"),
    [
        ("file:///{path}", "moltis://s/file:///a%2Fb%20c", "file:///a%2Fb%20c"),
        ("db://{+table}/{id}", "moltis://s/db://a/b/7", "db://a/b/7"),
        ("x:{a}", "moltis://s/x:%25", "x:%25"),
    ],
)
def test_what_an_aliased_template_expands_to_stands_for_the_servers_own_expansion(
    template: str, expanded: str, uri: str
) -> None:
    assert alias_template("s", template) == f"moltis://s/{template}"
    assert origin(expanded) == ("s", uri)


@pytest.mark.parametrize("uri", ["", "file:///x", "moltis:", "moltis://", "moltis://s", "moltis://s/", "moltis:///x"])
def test_what_is_no_alias_stands_for_nothing(uri: str) -> None:
    assert origin(uri) is None


def test_the_scheme_of_an_alias_has_no_case() -> None:
    assert origin("MOLTIS://s/file%3A") == ("s", "file:")


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("file:///x", "file"),
        ("HTTP://x", "http"),
        ("a+b.c-1:x", "a+b.c-1"),
        ("1a:x", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_a_scheme_is_what_stands_before_the_first_colon(uri: str, scheme: str | None) -> None:
    assert scheme_of(uri) == scheme
