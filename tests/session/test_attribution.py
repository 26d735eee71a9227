"""What a server says unasked goes to a host only when it cannot be another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.session.attribution import Suspects, Verdict

A, B, C = object(), object(), object()


@pytest.mark.parametrize(
    ("calls", "verdict"),
    [
        ([], Verdict.NOBODYS),
        ([(1, A)], Verdict.CERTAIN),
        ([(1, A), (2, A), (3, A)], Verdict.CERTAIN),
        ([(1, A), (2, B)], Verdict.OPEN),
        ([(1, A), (2, A), (3, B)], Verdict.OPEN),
        ([(1, A), (2, B), (3, C)], Verdict.OPEN),
    ],
)
def test_it_is_certain_when_all_calls_under_way_are_of_one_host(
    calls: list[tuple[int, object]], verdict: Verdict
) -> None:
    assert Suspects(calls).verdict is verdict


def test_a_call_that_ends_is_struck_off_and_those_left_may_be_of_one_host() -> None:
    suspects = Suspects([(1, A), (2, B), (3, A)])
    assert not suspects.strike(9)
    assert suspects.verdict is Verdict.OPEN
    assert suspects.strike(2)
    assert not suspects.strike(2)
    assert suspects.verdict is Verdict.CERTAIN
    assert suspects.ids == (1, 3)


@pytest.mark.parametrize(
    ("calls", "given_up", "verdict"),
    [
        ([(1, A), (2, B)], [2], Verdict.CERTAIN),
        ([(1, A), (2, B)], [1], Verdict.CERTAIN),
        ([(1, A), (2, B)], [1, 2], Verdict.CERTAIN),
        ([(1, A), (2, B)], [], Verdict.OPEN),
        ([(1, A), (3, C)], [3], Verdict.OPEN),
        ([(1, A), (2, B), (3, C)], [2, 3], Verdict.OPEN),
        ([(3, C), (1, A)], [3], Verdict.OPEN),
    ],
)
def test_a_call_that_the_same_principal_gave_up_leaves_no_doubt_and_a_stranger_s_does(
    calls: list[tuple[int, object]], given_up: list[int], verdict: Verdict
) -> None:
    assert Suspects(calls, {1: "ann", 2: "ann", 3: "bob"}, given_up).verdict is verdict


def test_a_call_that_is_given_up_later_leaves_no_doubt_either() -> None:
    suspects = Suspects([(1, A), (2, B)], {1: "ann", 2: "ann"})
    assert suspects.verdict is Verdict.OPEN
    assert not suspects.give_up(9)
    assert suspects.give_up(2)
    assert suspects.verdict is Verdict.CERTAIN


class Equal:
    """Two of these are equal, and two hosts all the same."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 1


def test_hosts_are_told_apart_by_identity() -> None:
    assert Suspects([(1, Equal()), (2, Equal())]).verdict is Verdict.OPEN


CALLS = st.dictionaries(st.integers(0, 8), st.sampled_from([A, B, C]), max_size=8)


@given(CALLS, st.lists(st.integers(0, 8), max_size=12))
def test_whatever_ends_in_whatever_order_the_one_that_asked_is_never_taken_for_another_host(
    calls: dict[int, object], ended: list[int]
) -> None:
    """Whichever call it was: as long as it is under way, a certain verdict is its host, and stays so."""
    for culprit in calls:
        suspects = Suspects(calls.items())
        certain = False
        for id in ended:
            if id == culprit:
                break
            suspects.strike(id)
            verdict = suspects.verdict
            assert verdict is not Verdict.NOBODYS
            assert not certain or verdict is Verdict.CERTAIN
            certain = verdict is Verdict.CERTAIN
            if certain:
                assert {calls[left] for left in suspects.ids} == {calls[culprit]}
