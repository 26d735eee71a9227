from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.oauth.callback import MAX_TARGET_CHARS, Callback, check_callback, parse_callback
from moltis.oauth.documents import UNREGISTERED
from moltis.oauth.model import OAuthProblem

STATE = "state-canary"
CODE = "code-canary"
ISSUER = "https://auth.example.com/tenant1"


def check(callback: Callback, *, issuer: str | None = ISSUER, iss_supported: bool = False) -> str:
    return check_callback(callback, state=STATE, issuer=issuer, iss_supported=iss_supported)


def refusal(callback: Callback, *, issuer: str | None = ISSUER, iss_supported: bool = False) -> OAuthProblem:
    with pytest.raises(OAuthProblem) as caught:
        check(callback, issuer=issuer, iss_supported=iss_supported)
    assert "canary" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("target", "callback"),
    [
        (f"/callback?code={CODE}&state={STATE}", Callback(state=STATE, code=CODE)),
        (f"/callback?state={STATE}&code={CODE}&iss=https%3A%2F%2Fa", Callback(state=STATE, code=CODE, iss="https://a")),
        (f"http://127.0.0.1:4321/callback?code={CODE}&state={STATE}", Callback(state=STATE, code=CODE)),
        (f"  http://127.0.0.1:4321/callback?code={CODE}&state={STATE}\n", Callback(state=STATE, code=CODE)),
        (f"?code={CODE}&state={STATE}", Callback(state=STATE, code=CODE)),
        (f"code={CODE}&state={STATE}", Callback(state=STATE, code=CODE)),
        (f"/callback?error=access_denied&state={STATE}", Callback(state=STATE, error="access_denied")),
        (f"/callback?code=a%2Bb+c%3D&state={STATE}", Callback(state=STATE, code="a+b c=")),
        (f"/callback?code=&error=&iss=&state={STATE}", Callback(state=STATE)),
        (f"/callback?session_state=x&session_state=y&code={CODE}&state={STATE}", Callback(state=STATE, code=CODE)),
        (f"/callback?code={CODE}&state={STATE}#code=other", Callback(state=STATE, code=CODE)),
        (f"/callback?code={CODE}&state={STATE}&error_description=<script>", Callback(state=STATE, code=CODE)),
    ],
)
def test_an_answer_is_read_from_a_target_a_pasted_url_or_a_query(target: str, callback: Callback) -> None:
    assert parse_callback(target) == callback


@pytest.mark.parametrize(
    "target",
    [
        "",
        "/callback",
        "/callback?",
        f"/callback?code={CODE}",
        f"/callback?code={CODE}&state=",
        f"/callback#code={CODE}&state={STATE}",
        f"/callback?code={CODE}&code=other&state={STATE}",
        f"/callback?code={CODE}&state={STATE}&state={STATE}",
        f"/callback?code={CODE}&state={STATE}&state=",
        f"/callback?code={CODE}&state={STATE}&iss=a&iss=a",
        f"/callback?error=a&error=b&state={STATE}",
        f"/callback?code={CODE}&c%6Fde=other&state={STATE}",
        f"/callback?code={CODE}&state={STATE}" + "&x=1" * 100,
        f"/callback?code={CODE}&state={STATE}&x=" + "x" * 1_000_000,
        "x" * (MAX_TARGET_CHARS + 1),
        "\x00\xff",
    ],
)
def test_what_is_no_answer_is_refused_and_not_repeated(target: str) -> None:
    with pytest.raises(OAuthProblem) as caught:
        parse_callback(target)
    assert caught.value.kind == "refused"
    assert "canary" not in caught.value.message


@pytest.mark.parametrize(
    ("supported", "iss", "accepted"),
    [
        (True, ISSUER, True),
        (True, "https://evil.example.com", False),
        (True, None, False),
        (False, ISSUER, True),
        (False, "https://evil.example.com", False),
        (False, None, True),
    ],
)
@pytest.mark.parametrize("answer", [{"code": CODE}, {"error": "access_denied"}, {"error": "evil-canary"}])
def test_who_answers_is_checked_before_anything_else_is_believed_or_shown(
    supported: bool, iss: str | None, accepted: bool, answer: dict[str, str]
) -> None:
    """The four rows of RFC 9207 as MCP has them, for codes and for errors."""
    callback = Callback(state=STATE, iss=iss, **answer)
    if accepted and "code" in answer:
        assert check(callback, iss_supported=supported) == CODE
        return
    with pytest.raises(OAuthProblem) as caught:
        check(callback, iss_supported=supported)
    assert caught.value.kind == ("denied" if accepted else "refused")
    shown = "access_denied" if answer.get("error") == "access_denied" else UNREGISTERED
    assert caught.value.code == (shown if accepted else None)
    assert "evil-canary" not in caught.value.message
    assert accepted or answer.get("error", CODE) not in caught.value.message


@pytest.mark.parametrize(
    "iss",
    [
        ISSUER + "/",
        "https://auth.example.com",
        "https://auth.example.com/Tenant1",
        "HTTPS://auth.example.com/tenant1",
        "https://AUTH.example.com/tenant1",
        "https://auth.example.com:443/tenant1",
        "https://auth.example.com/tenant%31",
        quote(ISSUER, safe=""),
        ISSUER + " ",
        "\ud800",
    ],
)
def test_an_issuer_that_is_only_nearly_the_same_is_another(iss: str) -> None:
    assert "issuer" in refusal(Callback(state=STATE, code=CODE, iss=iss)).message


@pytest.mark.parametrize("state", ["", "other", STATE + " ", STATE.upper(), STATE[:-1], STATE * 1000, "é", "\ud800"])
def test_an_answer_with_another_state_is_not_for_this_login(state: str) -> None:
    problem = refusal(Callback(state=state, code=CODE, error="access_denied"))
    assert problem.kind == "refused"
    assert "state" in problem.message


def test_endpoints_given_by_hand_have_no_issuer_to_compare() -> None:
    assert check(Callback(state=STATE, code=CODE, iss="https://whoever.example"), issuer=None) == CODE
    assert refusal(Callback(state=STATE, error="server_error"), issuer=None).code == "server_error"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("access_denied", "access_denied"),
        ("invalid_scope", "invalid_scope"),
        ("<script>alert(1)</script>", None),
        ("a sentence of the canary", None),
        ("\x1b[2J", None),
        ("x" * 65, None),
        ("né", None),
    ],
)
def test_a_no_is_shown_by_its_code_if_that_is_one(error: str, code: str | None) -> None:
    problem = refusal(Callback(state=STATE, error=error))
    assert (problem.kind, problem.code) == ("denied", code)
    assert problem.message.isprintable()


def test_a_person_who_declines_reads_just_that() -> None:
    assert refusal(Callback(state=STATE, error="access_denied")).message.endswith("was declined")
    assert refusal(Callback(state=STATE, error="invalid_scope")).message.endswith("(invalid_scope)")
    assert refusal(Callback(state=STATE, error="a b")).message.endswith("illegible")


def test_an_error_outweighs_a_code() -> None:
    assert refusal(Callback(state=STATE, code=CODE, error="access_denied")).code == "access_denied"


@pytest.mark.parametrize("code", [None, "", "a\r\nb", "a\x00", "né", " "])
def test_without_a_legible_code_there_is_nothing_to_exchange(code: str | None) -> None:
    assert refusal(Callback(state=STATE, code=code)).kind == "refused"


def test_nothing_of_an_answer_is_in_its_repr() -> None:
    assert repr(Callback(state=STATE, code=CODE)) == "Callback(***)"


@given(st.text() | st.text("codestaerris=&?#%+/;", max_size=60).map("state=x&".__add__))
def test_no_target_raises_anything_else(target: str) -> None:
    outcome = parse_or_problem(target)
    if isinstance(outcome, OAuthProblem):
        assert outcome.message.isprintable()
        assert outcome.message.isascii()
    else:
        assert outcome.state


VALUE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@given(VALUE, VALUE, VALUE)
def test_whatever_is_sent_back_is_read_as_it_was_meant(state: str, code: str, iss: str) -> None:
    target = f"/callback?code={quote(code, safe='')}&state={quote(state, safe='')}&iss={quote(iss, safe='')}"
    assert parse_callback(target) == Callback(state=state, code=code, iss=iss)


@given(st.text(), st.none() | st.text(), st.none() | st.text(), st.none() | st.text(), st.booleans())
def test_only_the_right_state_and_issuer_ever_give_a_code(
    state: str, code: str | None, iss: str | None, error: str | None, supported: bool
) -> None:
    callback = Callback(state=state, code=code, iss=iss, error=error)
    try:
        given_code = check(callback, iss_supported=supported)
    except OAuthProblem:
        return
    assert state == STATE
    assert given_code == code
    assert iss in (None, ISSUER)


def parse_or_problem(target: str) -> Callback | OAuthProblem:
    try:
        return parse_callback(target)
    except OAuthProblem as problem:
        return problem
