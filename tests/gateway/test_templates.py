from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate

from moltis.gateway import templates
from moltis.gateway.templates import MAX_URI_CHARS, Target, read_template


def matches(template: str, uri: str) -> bool:
    read = read_template(template)
    return read is not None and read.matches(Target(uri))


# RFC 6570 sections 1.2 and 3.2: template and what it expands to, with the values given there.
@pytest.mark.parametrize(
    ("template", "expansion"),
    [
        ("{var}", "value"),
        ("{hello}", "Hello%20World%21"),
        ("{half}", "50%25"),
        ("O{empty}X", "OX"),
        ("O{undef}X", "OX"),
        ("{x,y}", "1024,768"),
        ("{x,hello,y}", "1024,Hello%20World%21,768"),
        ("?{x,empty}", "?1024,"),
        ("{+var}", "value"),
        ("{+hello}", "Hello%20World!"),
        ("{+base}index", "http://example.com/home/index"),
        ("O{+empty}X", "OX"),
        ("{+path}/here", "/foo/bar/here"),
        ("here?ref={+path}", "here?ref=/foo/bar"),
        ("up{+path}{var}/here", "up/foo/barvalue/here"),
        ("{+x,hello,y}", "1024,Hello%20World!,768"),
        ("{+path,x}/here", "/foo/bar,1024/here"),
        ("{#var}", "#value"),
        ("foo{#empty}", "foo#"),
        ("foo{#undef}", "foo"),
        ("{#path,x}/here", "#/foo/bar,1024/here"),
        ("{.who}", ".fred"),
        ("{.half,who}", ".50%25.fred"),
        ("www{.dom}", "www.example.com"),
        ("X{.empty}", "X."),
        ("X{.undef}", "X"),
        ("{/who}", "/fred"),
        ("{/half,who}", "/50%25/fred"),
        ("{/var,empty}", "/value/"),
        ("{/var,x}/here", "/value/1024/here"),
        ("{/list*,path:4}", "/red/green/blue/%2Ffoo"),
        ("{;who}", ";who=fred"),
        ("{;v,empty,who}", ";v=6;empty;who=fred"),
        ("{?who}", "?who=fred"),
        ("{?x,y,undef}", "?x=1024&y=768"),
        ("?fixed=yes{&x}", "?fixed=yes&x=1024"),
        ("{&x,y,empty}", "&x=1024&y=768&empty="),
    ],
)
def test_the_examples_of_the_rfc_match(template: str, expansion: str) -> None:
    assert matches(template, expansion)


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("file:///{path}", "file:///a/b"),
        ("file:///{path}", "file://a"),
        ("file:///{path}", "xfile:///a"),
        ("db://{table}/rows", "db://t/rows/1"),
        ("db://{table}/rows", "db:///x/rows"),
        ("a{?q}", "a&q=1"),
        ("a{?q}", "a?q=1#f"),
        ("a{#f}", "a?f"),
        ("a{.x}", "ax"),
        ("a{/x}", "ab"),
        ("{+a}/{b}", "nothing"),
        ("plain", "plain "),
        ("plain", "Plain"),
        ("", "x"),
    ],
)
def test_what_cannot_be_an_expansion_does_not_match(template: str, uri: str) -> None:
    assert not matches(template, uri)


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("{+a}/{b}", "x/y/z"),  # the first slash is not the one
        ("{a}.{b}.txt", "x.y.z.txt"),
        ("{a}aa{b}aab", "aaaaaab"),
        ("f://{path*}", "f://a/b/c"),  # as FastMCP writes paths
        ("f://{dir}/x y", "f://d/x%20y"),
        ("f://caf\u00e9/{x}", "f://caf%C3%A9/1"),
        ("f://{x}", "f://caf\u00e9"),  # a host that does not encode
        ("f://{id}", "f://a@b:c"),
    ],
)
def test_a_match_is_found_whichever_way_it_goes(template: str, uri: str) -> None:
    assert matches(template, uri)


@pytest.mark.parametrize(
    "template",
    [
        "{",
        "}",
        "{}",
        "{a",
        "a}",
        "{a{b}}",
        "{ a }",
        "{a b}",
        "{=a}",
        "{!a}",
        "{|a}",
        "{+}",
        "{a,}",
        "{,a}",
        "{a:}",
        "{a-b}",
    ],
)
def test_what_is_no_template_is_none(template: str) -> None:
    assert read_template(template) is None


def test_templates_and_uris_beyond_all_reason_never_match() -> None:
    assert read_template("a" * (templates.MAX_TEMPLATE_CHARS + 1)) is None
    assert read_template("{a}" * templates.MAX_EXPRESSIONS) is not None
    assert read_template("{a}" * (templates.MAX_EXPRESSIONS + 1)) is None
    assert matches("{+a}", "x" * MAX_URI_CHARS)
    assert not matches("{+a}", "x" * (MAX_URI_CHARS + 1))


REFERENCE: Mapping[str, str] = {
    "": "[^/?#]*",
    "+": ".*",
    "#": "(?:#.*)?",
    ".": r"(?:\.[^/?#]*)?",
    "/": "(?:/[^?#]*)?",
    ";": "(?:;[^/?#]*)?",
    "?": r"(?:\?[^#]*)?",
    "&": "(?:&[^#]*)?",
}
PART = st.one_of(
    st.sampled_from(["a", "b", "/", "aa", "?", "#", ".", ";", "&"]).map(lambda text: (text, re.escape(text))),
    st.sampled_from(list(REFERENCE)).map(lambda operator: (f"{{{operator}v}}", REFERENCE[operator])),
)


@given(st.lists(PART, max_size=6), st.text("ab/?#.;&", max_size=12))
def test_matching_agrees_with_a_backtracking_regular_expression(parts: list[tuple[str, str]], uri: str) -> None:
    template = "".join(text for text, _ in parts)
    expected = re.fullmatch("".join(pattern for _, pattern in parts), uri, re.DOTALL) is not None
    assert matches(template, uri) == expected


NAMES = st.sampled_from(["a", "b", "c", "d"])
EXPRESSION = st.tuples(st.sampled_from(list(REFERENCE)), st.lists(NAMES, min_size=1, max_size=3, unique=True)).map(
    lambda found: f"{{{found[0]}{','.join(found[1])}}}"
)
LITERAL = st.text("xyz/:-_~", max_size=5)


@given(
    st.lists(st.one_of(EXPRESSION, LITERAL), max_size=6),
    st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
)
def test_whatever_the_reference_expands_a_template_to_matches_it(parts: list[str], values: dict[str, str]) -> None:
    template = "".join(parts)
    try:
        expansion = UriTemplate.parse(template).expand(values)
    except InvalidUriTemplate:
        assume(False)
    assert matches(template, expansion)


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_text_is_too_strange_to_be_matched(template: str, uri: str) -> None:
    matches(template, uri)


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("{+a}e" * 32, "e" * (MAX_URI_CHARS - 1) + "x"),
        ("{+a}" * 32, "e" * MAX_URI_CHARS),
        ("{+a}" + "e" * 2000 + "{b}", "e" * MAX_URI_CHARS),
        ("{a}/" * 32, "/" * MAX_URI_CHARS),
        ("{" * 2048, "{" * MAX_URI_CHARS),
        ("{" + "a," * 1000 + "}", "x"),
        ("{" + "%41" * 600 + "!}", "x"),
    ],
)
def test_a_template_made_to_be_slow_is_not(template: str, uri: str) -> None:
    for _ in range(20):  # each takes a millisecond; backtracking would not come back from the first
        matches(template, uri)
