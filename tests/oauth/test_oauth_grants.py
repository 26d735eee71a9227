from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.oauth.documents import MAX_DOCUMENT_BYTES
from moltis.oauth.grants import MAX_LIFE_SECS, expired, read_tokens, refresh_due
from moltis.oauth.model import OAuthProblem, Tokens

NOW = 1_800_000_000.0
ACCESS = "access-canary"
REFRESH = "refresh-canary"


def read(status: int = 200, *, asked_scope: str | None = None, previous: str | None = None, **members: Any) -> Tokens:
    document = {"access_token": ACCESS, "token_type": "Bearer", **members}
    body = json.dumps({name: value for name, value in document.items() if value is not ...}).encode()
    return read_tokens(status, body, now=NOW, asked_scope=asked_scope, previous_refresh=previous)


def refusal(status: int, body: bytes) -> OAuthProblem:
    with pytest.raises(OAuthProblem) as caught:
        read_tokens(status, body, now=NOW, retry_after_secs=7.0)
    assert "canary" not in caught.value.message
    assert caught.value.message.isprintable()
    return caught.value


def test_a_byte_order_mark_before_the_tokens_is_passed_over() -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"access_token": "a", "token_type": "Bearer"}).encode()
    assert read_tokens(200, body, now=0.0, asked_scope=None).access_token == "a"


def test_tokens_are_read_with_all_that_matters() -> None:
    tokens = read(refresh_token=REFRESH, expires_in=3600, scope="a b", id_token="x")
    assert tokens == Tokens(
        access_token=ACCESS, refresh_token=REFRESH, scope="a b", obtained_at=NOW, expires_at=NOW + 3600
    )
    assert tokens.authorization == f"Bearer {ACCESS}"
    assert repr(tokens) == "Tokens(***)"


@pytest.mark.parametrize("malformed", [1, ["canary"], "canary\n", "x" * 20_000, "", None])
def test_a_refresh_token_that_cannot_be_used_counts_as_absent(malformed: Any) -> None:
    assert read(refresh_token=malformed).refresh_token is None


@pytest.mark.parametrize(
    ("said", "asked", "granted"),
    [
        ("chat:write,search:read", "chat:write", "chat:write search:read"),
        ("repo,gist", None, "repo gist"),
        ("a,b c", None, "a,b c"),
        ("repo, gist", None, "repo gist"),
        ("a, b, c,", "a", "a b c"),
        ("a, b c", None, "a, b c"),
        ("a, b", "a, b c", "a, b"),
        ("a,b", "a,b c", "a,b"),
        ("a", None, "a"),
        (",", "x", ""),
        (["a"], "x", "x"),
    ],
)
def test_a_list_of_scopes_with_commas_alone_is_read_as_a_list(said: Any, asked: str | None, granted: str) -> None:
    body = json.dumps({"access_token": ACCESS, "scope": said}).encode()
    assert read_tokens(200, body, now=0, asked_scope=asked).scope == granted


def test_a_token_in_the_wrong_place_is_pointed_at() -> None:
    bot = {
        "ok": True,
        "scope": "",
        "token_type": "bot",
        "authed_user": {"access_token": "canary", "token_type": "user"},
    }
    message = refusal(200, json.dumps(bot).encode()).message
    assert "only one under authed_user" in message
    assert "/v2_user/" in message
    assert "canary" not in message
    message = refusal(200, json.dumps({"data": {"access_token": "canary"}}).encode()).message
    assert message.endswith("has no usable access_token at its top, only one under data")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("invalid_code", "invalid_code"),
        ("bad_refresh_token", "bad_refresh_token"),
        ("BAD_TOKEN", "unregistered_code"),
        ("x" * 60, "unregistered_code"),
        ("a-b", "unregistered_code"),
    ],
)
def test_a_code_of_the_provider_s_own_is_shown_if_it_looks_like_one(said: str, shown: str) -> None:
    problem = refusal(200, json.dumps({"ok": False, "error": said}).encode())
    assert (problem.kind, problem.code, shown in problem.message) == ("denied", shown, True)


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER", ..., None])
def test_bearer_is_bearer_however_it_is_written_or_left_out(kind: Any) -> None:
    assert read(token_type=kind).access_token == ACCESS


@pytest.mark.parametrize(
    "members",
    [
        {"access_token": ...},
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 1},
        {"access_token": ["a"]},
        {"access_token": "a b"},
        {"access_token": "a\r\nX-Evil: canary"},
        {"access_token": "a\x00"},
        {"access_token": "né"},
        {"access_token": "x" * 20_000},
        {"token_type": "mac"},
        {"token_type": "DPoP"},
        {"token_type": ""},
        {"token_type": 1},
    ],
)
def test_tokens_that_cannot_be_used_are_refused(members: dict[str, Any]) -> None:
    document = {"access_token": ACCESS, "token_type": "Bearer", **members}
    body = json.dumps({name: value for name, value in document.items() if value is not ...}).encode()
    assert refusal(200, body).kind == "refused"


@pytest.mark.parametrize(
    ("expires_in", "life"),
    [
        (3600, 3600),
        (0.5, 0.5),
        ("60", 60),
        ("60.5", 60.5),
        (" 60 ", 60),
        (10**12, MAX_LIFE_SECS),
        (10**400, MAX_LIFE_SECS),
        ("1e300", MAX_LIFE_SECS),
        (..., None),
        (None, None),
        (0, None),
        ("0", None),
        (-1, None),
        ("-60", None),
        ("", None),
        ("soon", None),
        ("60s", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("9" * 5000, None),
        (True, None),
        ([60], None),
        ({"secs": 60}, None),
    ],
)
def test_a_life_is_believed_if_it_is_one(expires_in: Any, life: float | None) -> None:
    assert read(expires_in=expires_in).expires_at == (None if life is None else NOW + life)


@pytest.mark.parametrize("given_one", [..., None, ""])
def test_a_refresh_token_stays_in_use_until_another_comes(given_one: Any) -> None:
    assert read(refresh_token=given_one, previous=REFRESH).refresh_token == REFRESH
    assert read(refresh_token=given_one).refresh_token is None
    assert read(refresh_token="new", previous=REFRESH).refresh_token == "new"


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        (..., "asked"),
        (None, "asked"),
        ("", "asked"),
        (1, "asked"),
        (["a"], "asked"),
        ("a extra", "a extra"),
        (" a ", "a"),
    ],
)
def test_what_was_granted_is_what_was_asked_unless_it_says_otherwise(scope: Any, kept: str) -> None:
    assert read(scope=scope, asked_scope="asked").scope == kept


@pytest.mark.parametrize("status", [400, 401, 403, 200])
@pytest.mark.parametrize("code", ["invalid_grant", "invalid_client", "unauthorized_client", "access_denied"])
def test_a_legible_no_is_a_no(status: int, code: str) -> None:
    problem = refusal(status, json.dumps({"error": code, "error_description": "canary", "error_uri": "x"}).encode())
    assert (problem.kind, problem.code) == ("denied", code)
    assert code in problem.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"error": "invalid_grant"}'),
        (502, b"<html>canary</html>"),
        (503, b""),
        (504, b'{"error": "invalid_grant"}'),
        (429, b'{"error": "invalid_grant"}'),
        (408, b'{"error": "invalid_grant"}'),
        (425, b""),
        (400, b"<html>canary</html>"),
        (401, b""),
        (403, b"Forbidden by canary"),
        (404, b'{"message": "canary"}'),
        (400, b'{"error": "canary in a sentence"}'),
        (400, b'{"error": {"message": "canary"}}'),
        (400, b'{"error": null}'),
        (400, b'{"error": "temporarily_unavailable"}'),
        (400, b'{"error": "slow_down"}'),
        (400, b"[]"),
        (302, b""),
        (204, b""),
        (200, b""),
        (200, b"<!doctype html><title>canary</title>"),
        (200, b"access_token=canary&token_type=bearer"),
        (200, b"\xff\xfe"),
        (200, b"[" * 200_000),
        (200, b'{"access_token": "canary"'),
    ],
)
def test_whatever_else_goes_wrong_is_an_outage_and_no_word_on_the_grant(status: int, body: bytes) -> None:
    problem = refusal(status, body)
    assert (problem.kind, problem.code) == ("outage", None)
    speaks_of_itself = (
        status in (408, 425, 429) or not 400 <= status < 500 or b"temporarily" in body or b"slow_" in body
    )
    assert problem.unclear == (None if speaks_of_itself else status)


def test_an_outage_is_named_by_its_code_or_its_status() -> None:
    assert "(temporarily_unavailable)" in refusal(400, b'{"error": "temporarily_unavailable"}').message
    assert refusal(404, b"{}").message == "the token endpoint answers HTTP 404 and does not say why"
    assert "(HTTP 503)" in refusal(503, b"").message


@pytest.mark.parametrize("error", [None, "", "invalid_grant"])
def test_tokens_that_did_come_count_whatever_is_said_beside_them(error: Any) -> None:
    assert read(error=error).access_token == ACCESS


@pytest.mark.parametrize("status", [429, 503])
def test_when_to_come_back_is_passed_on(status: int) -> None:
    assert refusal(status, b"").retry_after_secs == 7.0


def test_an_answer_that_is_too_large_is_not_read() -> None:
    assert refusal(200, b" " * (MAX_DOCUMENT_BYTES + 1)).kind == "refused"


def living(life: float | None) -> Tokens:
    return Tokens(access_token="a", obtained_at=NOW, expires_at=None if life is None else NOW + life)


@pytest.mark.parametrize(
    ("life", "due", "over"),
    [(3600, 3540, 3595), (300, 240, 295), (100, 80, 95), (60, 48, 55), (10, 8, 9), (5, 4.5, 4.5), (1, 0.9, 0.9)],
)
def test_a_token_is_due_ahead_of_its_end_and_over_shortly_before(life: float, due: float, over: float) -> None:
    tokens = living(life)
    assert [refresh_due(tokens, NOW + at) for at in (0, due - 0.01, due, life)] == [False, False, True, True]
    assert [expired(tokens, NOW + at) for at in (0, over - 0.01, over, life)] == [False, False, True, True]


def test_a_token_whose_end_is_not_known_is_never_due() -> None:
    assert not refresh_due(living(None), NOW + 1e9)
    assert not expired(living(None), NOW + 1e9)


@given(st.floats(1e-3, MAX_LIFE_SECS), st.floats(0, 2))
def test_a_token_is_never_due_when_obtained_and_always_before_it_is_over(life: float, share: float) -> None:
    tokens = living(life)
    now = NOW + share * life
    assert not refresh_due(tokens, NOW)
    assert not expired(tokens, NOW)
    assert refresh_due(tokens, now) or not expired(tokens, now)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = ("access_token", "token_type", "refresh_token", "expires_in", "scope", "error")


@given(
    st.integers(100, 599) | st.just(200),
    st.binary(max_size=200)
    | st.fixed_dictionaries({}, optional=dict.fromkeys(MEMBERS, JSON | st.just("canary")))
    .map(json.dumps)
    .map(str.encode),
)
def test_no_answer_raises_anything_else_nor_lets_a_token_into_a_message(status: int, body: bytes) -> None:
    outcome = read_or_problem(status, body)
    if isinstance(outcome, OAuthProblem):
        assert len(outcome.message) < 300
        assert outcome.message.isprintable()
        assert "canary" not in outcome.message or outcome.code == "canary"
    else:
        assert outcome.authorization.isascii()
        assert outcome.authorization.isprintable()


def read_or_problem(status: int, body: bytes) -> Tokens | OAuthProblem:
    try:
        return read_tokens(status, body, now=NOW)
    except OAuthProblem as problem:
        return problem
