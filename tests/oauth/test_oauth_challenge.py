from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.oauth.model import Challenge
from moltis.oauth.resource import MAX_VALUE_CHARS, MAX_VALUES, bearer_challenge

PRM = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Bearer", Challenge()),
        ("bearer", Challenge()),
        (f'Bearer resource_metadata="{PRM}"', Challenge(resource_metadata=PRM)),
        (f'BEARER Resource_Metadata = "{PRM}" , SCOPE\t=\tread', Challenge(resource_metadata=PRM, scope="read")),
        ('Bearer realm="a, b", scope="x y", error="invalid_token"', Challenge(scope="x y", error="invalid_token")),
        (r'Bearer realm="say \"scope=evil\"", scope="r"', Challenge(scope="r")),
        (r'Bearer scope="\r\e\a\d"', Challenge(scope="read")),
        ('Bearer scope="read", scope="write"', Challenge(scope="read")),
        ('Bearer scope="  read   read\twrite "', Challenge(scope="read write")),
        ('Basic realm="x", Bearer scope="r"', Challenge(scope="r")),
        ('Negotiate, Bearer scope="r"', Challenge(scope="r")),
        ('Negotiate abc123+/==, Bearer scope="r"', Challenge(scope="r")),
        ('Basic realm="Bearer scope=evil", Bearer scope="r"', Challenge(scope="r")),
        ('DPoP algs="ES256", scope="dpop", Bearer scope="r"', Challenge(scope="r")),
        ('Bearer scope="r", Basic realm="x", scope="basic"', Challenge(scope="r")),
        ('Bearer scope="one", Bearer scope="two"', Challenge(scope="one")),
        (', ,  Bearer   scope="r" ,,', Challenge(scope="r")),
        ("Bearer error=insufficient_scope", Challenge(error="insufficient_scope")),
        # What servers leave out: quotes around a URL, commas between parameters.
        (f"Bearer resource_metadata={PRM}", Challenge(resource_metadata=PRM)),
        (f'Bearer resource_metadata={PRM}, scope="r"', Challenge(resource_metadata=PRM, scope="r")),
        ('Bearer realm="x" scope="r" error="invalid_token"', Challenge(scope="r", error="invalid_token")),
    ],
)
def test_a_bearer_challenge_is_read_as_its_grammar_says(value: str, expected: Challenge) -> None:
    assert bearer_challenge([value]) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ",",
        "Basic",
        'Basic realm="Bearer"',
        "Negotiate Bearer",
        "BearerX scope=r",
        '"Bearer"',
        "=",
        'scope="r"',
    ],
)
def test_without_a_bearer_challenge_there_is_none(value: str) -> None:
    assert bearer_challenge([value]) is None


def test_the_first_field_with_a_bearer_challenge_counts() -> None:
    assert bearer_challenge(['Basic realm="x"', 'Bearer scope="a"', 'Bearer scope="b"']) == Challenge(scope="a")
    assert bearer_challenge([]) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://mcp.example.com/x",
        "http://10.0.0.1/x",
        "https://user@mcp.example.com/x",
        "https://169.254.169.254/latest/meta-data",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "/relative",
        "https://mcp.example.com/ x",
        "https://mcp.example.com\\@evil.example/",
        "https://mcp.example.com/#fragment",
        "https://" + "a" * 3000,
        "",
    ],
)
def test_a_metadata_url_that_may_not_be_used_counts_as_absent(url: str) -> None:
    assert bearer_challenge([f'Bearer scope="r", resource_metadata="{url}"']) == Challenge(scope="r")


@pytest.mark.parametrize("error", ["", "a b", "x" * 65, "né", "a\x00b"])
def test_an_error_that_is_no_code_counts_as_absent(error: str) -> None:
    assert bearer_challenge([f'Bearer error="{error}"']) == Challenge()


def test_scopes_that_cannot_be_scopes_are_left_out() -> None:
    assert bearer_challenge(['Bearer scope="ok né a\x01b also:ok"']) == Challenge(scope="ok also:ok")


def test_what_is_too_much_is_not_looked_at() -> None:
    assert bearer_challenge(["Basic"] * MAX_VALUES + ["Bearer"]) is None
    assert bearer_challenge(["Basic realm=" + "x" * MAX_VALUE_CHARS + ", Bearer"]) is None


@pytest.mark.parametrize(
    "piece", ['a="', 'a="\\",', "a ", "a=", 'a="\\"', "a \t", "=,", "\\", '"', "a" * 64, 'x="y" ', "b =\t"]
)
def test_no_value_takes_long_to_read(piece: str) -> None:
    values = ["Bearer " + piece * (MAX_VALUE_CHARS // len(piece))] * MAX_VALUES
    started = time.process_time()
    bearer_challenge(values)
    assert time.process_time() - started < 0.5


@given(st.lists(st.text() | st.from_regex(r'((Bearer|Basic|scope|error|"[^"]*"|=|,|\\|[ \t])\s?)*', fullmatch=True)))
def test_no_value_raises(values: list[str]) -> None:
    found = bearer_challenge(values)
    assert found is None or isinstance(found, Challenge)


QUOTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@given(QUOTABLE, QUOTABLE, st.sampled_from(["Basic", "Negotiate", "DPoP"]))
def test_nothing_inside_quotes_is_taken_for_something_else(realm: str, other: str, scheme: str) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    value = f'{scheme} realm={quoted(realm)}, Bearer note={quoted(other)}, scope="mine"'
    assert bearer_challenge([value]) == Challenge(scope="mine")
