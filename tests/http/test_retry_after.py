"""What a server asks for in Retry-After is understood, or ignored, and never harms."""

from __future__ import annotations

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.http.heads import retry_after_secs

NOW = 784_111_777.0
"""Sun, 06 Nov 1994 08:49:37 GMT, the instant of RFC 9110's examples."""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0),
        ("1", 1),
        (" 120\t", 120),
        ("1.5", 1.5),
        ("1000000000", 1e9),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
        ("Sun Nov  6 08:50:37 1994", 60),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799 - NOW),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("0x10", None),
        ("١", None),
        ("soon", None),
        ("1, 2", None),
        ("9" * 16, None),
        ("9" * 10_000, None),
        ("Sun, 99 Nov 1994 99:99:99 GMT", None),
        ("::", None),
        ("1" * 65 + ":", None),
    ],
)
def test_a_value_asks_for(value: str | None, expected: float | None) -> None:
    assert retry_after_secs(value, NOW) == expected


@given(st.integers(0, 2_000_000_000))
def test_every_date_is_understood(offset: int) -> None:
    assert retry_after_secs(formatdate(NOW + offset, usegmt=True), NOW) == offset


@given(st.text(st.characters(codec="latin-1"), max_size=80), st.floats(0, 1e12))
def test_any_text_gives_a_wait_or_none(value: str, now: float) -> None:
    secs = retry_after_secs(value, now)
    assert secs is None or (secs >= 0 and math.isfinite(secs))
