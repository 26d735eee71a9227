"""Nobody who has no more than an equal part is refused for what others have, and there is an end to all together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moltis.shares import Shares


def test_one_alone_may_have_all_and_no_more() -> None:
    shares = Shares(10)
    assert shares.take("a", 10)
    assert not shares.take("a", 1)
    shares.give("a", 4)
    assert (shares.of("a"), shares.total) == (6, 6)
    assert shares.take("a", 4)


def test_who_comes_when_everything_is_taken_gets_an_equal_part() -> None:
    shares = Shares(10)
    assert shares.take("a", 10)
    assert not shares.take("b", 6)
    assert shares.take("b", 5)
    assert not shares.take("a", 1)
    assert shares.take("c", 3)
    assert not shares.take("c", 1)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 12), st.booleans()), max_size=60))
def test_whatever_is_taken_and_given_it_is_all_accounted_for_and_bounded(steps: list[tuple[str, int, bool]]) -> None:
    shares, own = Shares(20), dict.fromkeys("abcde", 0)
    for who, amount, takes in steps:
        if not takes:
            amount = min(amount, own[who])
            shares.give(who, amount)
            own[who] -= amount
        else:
            holders = sum(has > 0 or name == who for name, has in own.items())
            small = own[who] + amount <= 20 // max(holders, 1)
            taken = shares.take(who, amount)
            assert taken or not small or sum(own.values()) + amount > 40
            own[who] += amount if taken else 0
        assert shares.total == sum(own.values()) <= 40
        assert all(shares.of(name) == has <= 20 for name, has in own.items())
