"""How often one may ask: pure, with a clock of our own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moltis.gateway.doors import MAX_PRINCIPALS, RateLimit


def test_no_limit_refuses_nothing() -> None:
    limit = RateLimit(0)
    assert not any(limit.refused_secs("a", 0.0) for _ in range(10_000))


def test_a_whole_minutes_allowance_may_be_used_at_once_and_then_it_is_refused_until_there_is_more() -> None:
    limit = RateLimit(6)
    assert [limit.refused_secs("a", 100.0) for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10]
    assert limit.refused_secs("a", 109.0) == 1
    assert limit.refused_secs("a", 110.0) == 0
    assert limit.refused_secs("a", 110.0) == 10


def test_one_principal_does_not_use_up_anothers_allowance() -> None:
    limit = RateLimit(1)
    assert limit.refused_secs("a", 0.0) == 0
    assert limit.refused_secs("a", 0.0) == 60
    assert limit.refused_secs("b", 0.0) == 0


def test_what_is_refused_is_not_counted() -> None:
    limit = RateLimit(1)
    limit.refused_secs("a", 0.0)
    for second in range(60):
        assert limit.refused_secs("a", float(second)) == 60 - second
    assert limit.refused_secs("a", 60.0) == 0


def test_principals_that_are_remembered_are_bounded() -> None:
    limit = RateLimit(1)
    for number in range(3 * MAX_PRINCIPALS):
        limit.refused_secs(str(number), 0.0)
    assert len(limit._due) <= MAX_PRINCIPALS


@given(st.integers(1, 100), st.lists(st.integers(0, 30), max_size=50))
def test_no_minute_lets_through_more_than_twice_the_rate_and_whoever_waits_as_told_is_let_in(
    per_minute: int, pauses: list[int]
) -> None:
    limit, now = RateLimit(per_minute), 0.0
    passed: list[float] = []
    for pause in pauses:
        now += pause
        secs = limit.refused_secs("a", now)
        if secs:
            now += secs
            assert limit.refused_secs("a", now) == 0
        passed.append(now)
    for moment in passed:
        assert sum(moment - 60 < other <= moment for other in passed) <= 2 * per_minute
