"""KEY=VALUE words become what the tool's JSON Schema asks for; what cannot be is refused before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest

from moltis.cli.mcp.arguments import assemble, parse, types_of
from moltis.errors import UsageError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "i": {"type": "integer"},
        "n": {"type": "number"},
        "b": {"type": "boolean"},
        "a": {"type": "array", "items": {"type": "integer"}},
        "strings": {"type": "array", "items": {"type": "string"}},
        "o": {"type": "object"},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "either": {"type": ["integer", "string"]},
        "any": {},
        "referred": {"$ref": "#/$defs/Count"},
        "loop": {"$ref": "#/$defs/Loop"},
    },
    "$defs": {"Count": {"type": "integer"}, "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"type": "boolean"}]}},
}


def arguments(*words: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return assemble([parse(word) for word in words], SCHEMA if schema is None else schema)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("s=5", "5"), ("s=", ""), ("s=a=b", "a=b"), ("s=true", "true"), ("i=5", 5), ("i=-12", -12), ("n=2.5", 2.5),
        ("n=2", 2), ("n=1e3", 1e3), ("b=true", True), ("b=false", False), ("a=[1,2]", [1, 2]), ('o={"k":1}', {"k": 1}),
        ("maybe=null", None), ("maybe=3", 3), ("either=3", "3"), ("any=3", "3"), ("unknown=3", "3"), ("referred=3", 3),
        ("loop=true", True), ("s:=5", 5), ("i:=[1]", [1]), ("any:=null", None), ('s:="x"', "x"), ("a:b=c", "c"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_a_word_becomes_what_the_schema_asks_for(word: str, value: Any) -> None:
    (found,) = arguments(word).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "word", ["i=2.5", "i=x", "i=true", "n=NaN", "n=Infinity", "b=yes", "b=1", "a={}", "a=x", "o=[]", "i:=", "i:=NaN"]
)
def test_what_the_schema_cannot_mean_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="must be"):
        arguments(word)


@pytest.mark.parametrize("word", ["novalue", "=x", ":=x", ""])
def test_a_word_that_is_not_key_and_value_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse(word)


def test_a_key_given_twice_makes_an_array_where_the_schema_wants_one() -> None:
    assert arguments("strings=a", "strings=b", "a=1", "a=2") == {"strings": ["a", "b"], "a": [1, 2]}
    with pytest.raises(UsageError, match="given 2 times"):
        arguments("s=a", "s=b")


def test_without_a_schema_everything_is_text() -> None:
    assert arguments("i=5", "b=true", schema={}) == {"i": "5", "b": "true"}


@pytest.mark.parametrize(
    "schema", [None, 5, {"$ref": "#"}, {"$ref": "http://x"}, {"$ref": "#/no/such"}, {"type": 5}, {"anyOf": 3}]
)
def test_a_schema_that_says_nothing_useful_is_no_error(schema: Any) -> None:
    assert types_of(schema, {}) == set()


def test_a_schema_made_to_explode_costs_nothing() -> None:
    loop = {"anyOf": [{"$ref": "#/$defs/L"}] * 50}
    assert types_of({"$ref": "#/$defs/L"}, {"$defs": {"L": loop}}) == set()


def test_a_json_number_too_deep_to_read_is_refused() -> None:
    with pytest.raises(UsageError):
        arguments("o=" + "[" * 100_000)
