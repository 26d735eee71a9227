"""Secrets: what a placeholder becomes, what of a URL is shown, and what is left of a text that others wrote."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moltis.redaction import INVALID_URL, REDACTED, Malformed, Scrubber, Template, TooLong, Unresolved, shown_url

VALUES: Mapping[str, str] = {"A": "1", "LONG_name_2": "two", "BLANK": " ", "SELF": "$A ${A}", "env:HOME": "/home/me"}


def expand(text: str) -> str:
    return Template(text).expand(VALUES.get, 1000)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("", ""),
        ("plain", "plain"),
        ("$A", "1"),
        ("${A}", "1"),
        ("x${A}y$A.z", "x1y1.z"),
        ("$LONG_name_2-", "two-"),
        ("${A:-other}", "1"),
        ("${NONE:-other}", "other"),
        ("${NONE:-}", ""),
        ("${BLANK:-other}", "other"),
        ("${NONE:-a$$b}", "a$b"),
        ("${NONE:-:-}", ":-"),
        ("${env:HOME}/x", "/home/me/x"),
        ("${env:NONE:-/tmp}", "/tmp"),
        ("$$", "$"),
        ("$$A", "$A"),
        ("$$$A", "$1"),
        ("$${A}", "${A}"),
        ("costs 5$", "costs 5$"),
        ("$5 $-", "$5 $-"),
        ("$SELF", "$A ${A}"),
        ("}", "}"),
    ],
)
def test_placeholders_are_expanded_in_one_pass(text: str, expanded: str) -> None:
    assert expand(text) == expanded


@pytest.mark.parametrize(
    "text", ["${", "a${A", "${}", "${A:b}", "${A:-${A}}", "${A:-$A}", "${1A}", "${env:}", "${ A }", "${é}"]
)
def test_a_brace_that_begins_no_placeholder_is_malformed(text: str) -> None:
    with pytest.raises(Malformed) as raised:
        Template(text)
    assert text not in str(raised.value) or text == "${"


@pytest.mark.parametrize(
    ("text", "names"),
    [("$NO", ("NO",)), ("$NO $A ${env:NO} $NO", ("NO", "env:NO")), ("$BLANK", ("BLANK",)), ("$NO${X}", ("NO", "X"))],
)
def test_every_name_without_a_value_is_named(text: str, names: tuple[str, ...]) -> None:
    with pytest.raises(Unresolved) as raised:
        expand(text)
    assert raised.value.names == names


def test_a_template_knows_its_names_and_hides_its_text() -> None:
    template = Template("k=$B&${A:-dflt}&$$C&${env:D}&$B")
    assert template.names == ("B", "A", "env:D")
    assert repr(template) == str(template) == f"{template}" == "***"


@settings(deadline=None)
@given(st.text())
def test_doubling_every_dollar_makes_any_text_literal(text: str) -> None:
    template = Template(text.replace("$", "$$"))
    assert template.names == ()
    assert (
        template.expand(lambda _: pytest.fail("nothing to look up"), len(text.encode("utf-8", "surrogatepass"))) == text
    )


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True), st.text(min_size=1).filter(str.strip)))
def test_what_a_lookup_gives_is_never_looked_into(values: dict[str, str]) -> None:
    text = "|".join(f"${{{name}}}" for name in values)
    assert Template(text).expand(values.get, 1_000_000) == "|".join(values.values())


@pytest.mark.parametrize("text", ["$X", "${X}", "a$X", "$X$X$X", "${Y:-abcd}", "abcd", "$$$$$$$$", "$E"])
def test_nothing_longer_than_it_may_be_is_put_together(text: str) -> None:
    values = {"X": "abc", "E": "\u00e9\u00e9"}
    size = len(Template(text).expand(values.get, 1000).encode())
    assert len(Template(text).expand(values.get, size).encode()) == size
    with pytest.raises(TooLong):
        Template(text).expand(values.get, size - 1)


def test_what_is_too_long_is_not_read_on() -> None:
    asked: list[str] = []

    def lookup(name: str) -> str:
        asked.append(name)
        return "x" * 900

    with pytest.raises(TooLong):
        Template("$X" * 100_000).expand(lookup, 2000)
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("https://mcp.example.com/mcp?api_key=$REMOTE_MCP_KEY", "https://mcp.example.com/mcp?api_key=$REMOTE_MCP_KEY"),
        ("https://h/mcp?a=${A}&b=${env:B}", "https://h/mcp?a=${A}&b=${env:B}"),
        ("https://h/mcp?k=literal", "https://h/mcp?k=[REDACTED]"),
        ("https://h/mcp?k=x$A&l=$A.&m=$$A&n=$$", "https://h/mcp?k=[REDACTED]&l=[REDACTED]&m=[REDACTED]&n=[REDACTED]"),
        ("https://h/?k=${A:-sk-live}", "https://h/?k=${A:-[REDACTED]}"),
        ("https://h/?k=${A:-}", "https://h/?k=${A:-}"),
        ("https://h/?k=a=b&c;d=e", "https://h/?k=[REDACTED]&c;d=[REDACTED]"),
        ("https://h/?sk-live", "https://h/?[REDACTED]"),
        ("https://h/?$A", "https://h/?$A"),
        ("https://h/?a=&b", "https://h/?a=&[REDACTED]"),
        ("https://h/?", "https://h/?"),
        ("https://user:pw@h:8080/p", "https://[REDACTED]@h:8080/p"),
        ("https://$A@h/p", "https://[REDACTED]@h/p"),
        ("https://a@b@h/p", "https://[REDACTED]@h/p"),
        ("https://h/p#token=1", "https://h/p#[REDACTED]"),
        ("https://h/p#a?b=c", "https://h/p#[REDACTED]"),
        ("https://h/$KEY/${B}/mcp", "https://h/$KEY/${B}/mcp"),
        ("https://h/${A:-x?y#z@w}/mcp", "https://h/${A:-x?y#z@w}/mcp"),
        ("https://h/@scope/x@1", "https://h/@scope/x@1"),
        ("https://$HOST:$PORT/x", "https://$HOST:$PORT/x"),
        ("https://[::1]:80/x", "https://[::1]:80/x"),
        ("$URL", "$URL"),
        ("$BASE/mcp?k=v", "$BASE/mcp?k=[REDACTED]"),
        ("$BASE/x?k=v&next=https://u:p@h/", "$BASE/x?k=[REDACTED]&next=[REDACTED]"),
        ("https://h/?k=${A:-${B}}", "https://h/?k=[REDACTED]"),
        ("", ""),
        ("sk-live-1234", INVALID_URL),
        ("https://user:p/w@h/", INVALID_URL),
        ("https://", INVALID_URL),
        ("https://h/a b", INVALID_URL),
        ("https://h\\@evil/", INVALID_URL),
        ("https://h/\x1b[2J", INVALID_URL),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(written: str, shown: str) -> None:
    assert shown_url(written) == shown


SECRETS = st.text(st.characters(codec="utf-8"), min_size=6, max_size=30)
URL_TEXT = st.text("abcXYZ019$_{}:-&=;", max_size=12)


@settings(deadline=None)
@given(URL_TEXT, URL_TEXT, st.text("abcdefghij", min_size=8, max_size=12).map(lambda s: "Q" + s))
def test_a_literal_in_userinfo_query_or_fragment_is_never_shown(before: str, after: str, secret: str) -> None:
    for url in (
        f"https://{before.replace('/', '')}{secret}@h/p",
        f"https://h/p?k={secret}{after.replace('&', '').replace('=', '')}",
        f"https://h/p#{before}{secret}{after}",
    ):
        assert secret not in shown_url(url)


@settings(deadline=None)
@given(st.lists(SECRETS, min_size=1, max_size=5), st.lists(st.text(max_size=10), min_size=1, max_size=6), st.data())
def test_no_form_of_a_secret_survives(secrets: list[str], around: list[str], data: st.DataObject) -> None:
    assume(not any(s in REDACTED or REDACTED in s for s in secrets))
    forms: list[Callable[[str], str]] = [
        str,
        lambda s: quote(s, safe=""),
        quote_plus,
        lambda s: base64.b64encode(s.encode()).decode(),
        lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
        lambda s: json.dumps(s)[1:-1],
        lambda s: json.dumps(s, ensure_ascii=False)[1:-1].replace("/", "\\/"),
        lambda s: repr(s)[1:-1],
    ]
    hidden = [data.draw(st.sampled_from(forms))(data.draw(st.sampled_from(secrets))) for _ in around]
    text = "".join(a + h for a, h in zip(around, hidden, strict=True))
    scrubbed = Scrubber(secrets).text(text)
    assert REDACTED in scrubbed
    for secret in secrets:
        assert all(form(secret) not in scrubbed for form in forms)


@settings(deadline=None)
@given(st.binary(max_size=5), SECRETS)
def test_a_secret_inside_of_base64_is_found_at_any_offset(before: bytes, secret: str) -> None:
    encoded = base64.b64encode(before + b":" + secret.encode()).decode()
    scrubbed = Scrubber([secret]).text(f"Basic {encoded}")
    assert REDACTED in scrubbed
    kept = scrubbed.removeprefix("Basic ").replace(REDACTED, "")
    assert len(kept) <= len(encoded) - len(secret.encode()) * 8 // 6 + 1


def test_overlapping_secrets_leave_nothing_behind() -> None:
    assert Scrubber(["abcdefgh", "efghijkl"]).text("-abcdefghijkl-") == f"-{REDACTED}-"
    assert Scrubber(["abcdef", "abcdefghi"]).text("abcdefghi") == REDACTED


def test_a_text_without_secrets_is_given_back_as_it_is() -> None:
    scrubber = Scrubber(["hunter22", "short", "", "x" * 2000])
    text = "nothing here but short words"
    assert scrubber.text(text) is text
    assert Scrubber().text(text) is text


def test_many_secrets_and_a_short_text_give_the_same_answer() -> None:
    scrubber = Scrubber(f"secret-number-{n}" for n in range(3000))
    assert scrubber.text("is secret-number-77 in it?") == f"is {REDACTED} in it?"
    plain = "is it secret-number?"
    assert scrubber.text(plain) is plain


def test_a_secret_of_several_lines_is_found_line_by_line() -> None:
    scrubber = Scrubber(["-----BEGIN KEY-----\nMIIEvQIBADAN\nBgkqhkiG9w0B\n"])
    assert scrubber.text("BgkqhkiG9w0B") == REDACTED


def test_holders_of_a_scrubber_see_new_secrets() -> None:
    scrubber = Scrubber(["old-secret"])
    scrubber.update(["new-secret"])
    assert scrubber.text("old-secret new-secret") == f"old-secret {REDACTED}"


def test_a_value_is_scrubbed_through_and_through() -> None:
    scrubber = Scrubber(["hunter22"])
    value = {"a": ["hunter22", {"k hunter22": ("x", "hunter22!")}], "n": 5, "t": True, "z": None, "f": 1.5}
    assert scrubber.value(value) == {
        "a": [REDACTED, {f"k {REDACTED}": ["x", f"{REDACTED}!"]}],
        "n": 5,
        "t": True,
        "z": None,
        "f": 1.5,
    }


@given(st.text("ab", min_size=6, max_size=12), st.text("abc", max_size=60))
def test_every_character_of_every_occurrence_goes_also_where_they_overlap(secret: str, text: str) -> None:
    covered = {at for n in range(len(text)) if text.startswith(secret, n) for at in range(n, n + len(secret))}
    runs = "".join("\0" if at in covered else c for at, c in enumerate(text))
    assert Scrubber([secret]).text(text) == re.sub("\0+", "[REDACTED]", runs)


def test_a_text_that_is_a_long_row_of_a_secret_is_scrubbed_in_no_time() -> None:
    for secret in ("xxxxxx", "abcabcabc", "hunter2"):
        began = time.thread_time()
        assert Scrubber([secret]).text(secret * 200_000) == "[REDACTED]"
        assert time.thread_time() - began < 0.5


def test_many_secrets_are_searched_for_in_a_long_text_at_the_price_of_few() -> None:
    scrubber = Scrubber([f"hunter2{n:04}" for n in range(100)])
    began = time.thread_time()
    assert scrubber.text("x" * 1_000_000) == "x" * 1_000_000
    assert time.thread_time() - began < 0.5
