from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from moltis.gateway import parking
from moltis.gateway.parking import Bond, Parking

BOND = Bond("ann", "/mcp", "mole", "tools/call", "dig")


def numbered() -> Callable[[], str]:
    numbers = count(1)
    return lambda: str(next(numbers))


def test_a_call_is_taken_once_by_who_parked_it() -> None:
    lot: Parking[str] = Parking(numbered())
    token = lot.put("call", BOND, 0.0)
    assert token is not None
    assert token in lot
    assert lot.take(token, BOND, 1.0) == "call"
    assert lot.take(token, BOND, 1.0) is None
    assert len(lot) == 0


@pytest.mark.parametrize("field", ["principal", "view", "server", "method", "name"])
def test_everybody_else_finds_nothing_and_takes_nothing_away(field: str) -> None:
    lot: Parking[str] = Parking(numbered())
    lot.put("call", BOND, 0.0)
    other = Bond(**{**{f: getattr(BOND, f) for f in BOND.__struct_fields__}, field: "other"})
    assert lot.take("1", other, 1.0) is None
    assert lot.take("1", BOND, 1.0) == "call"


def test_time_is_up_exactly_when_it_is() -> None:
    lot: Parking[str] = Parking(numbered(), 10.0)
    lot.put("early", BOND, 0.0)
    lot.put("late", BOND, 5.0)
    assert lot.next_due() == 10.0
    assert lot.take_due(9.9) == []
    assert lot.take("1", BOND, 10.0) is None
    assert lot.take_due(10.0) == ["early"]
    assert lot.next_due() == 15.0
    assert lot.take_all() == ["late"]
    assert lot.next_due() == math.inf


def test_one_principal_does_not_use_up_the_room_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "MAX_OF_ONE", 2)
    monkeypatch.setattr(parking, "MAX_PARKED", 3)
    lot: Parking[int] = Parking(numbered())
    ben = Bond("ben", "/mcp", "mole", "tools/call", "dig")
    assert [lot.put(n, BOND, 0.0) for n in range(3)] == ["1", "2", None]
    assert lot.put(3, ben, 0.0) == "3"
    assert lot.put(4, ben, 0.0) is None
    lot.remove("1")
    assert lot.put(5, BOND, 0.0) == "4"


def test_what_one_principal_has_parked_can_be_given_up() -> None:
    lot: Parking[str] = Parking(numbered())
    for who, call in (("ann", "1"), ("ben", "2"), ("ann", "3")):
        lot.put(call, Bond(who, "/mcp", "mole", "tools/call", "dig"), 0.0)
    assert lot.take_of("ann") == ["1", "3"]
    assert lot.take_of("ann") == []
    assert lot.take_all() == ["2"]


def test_results_are_kept_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "MAX_KEPT_BYTES", 10)
    lot: Parking[str] = Parking(numbered())
    lot.put("a", BOND, 0.0)
    lot.put("b", BOND, 0.0)
    assert lot.keeps("1", 6)
    assert not lot.keeps("2", 6)
    assert lot.keeps("2", 4)
    lot.take("1", BOND, 0.0)
    assert lot.keeps("2", 6)
    assert not lot.keeps("2", 1)


class ParkingMachine(RuleBasedStateMachine):
    """Every call leaves exactly once, whoever takes it, and nothing of it is counted after that."""

    def __init__(self) -> None:
        super().__init__()
        self.lot: Parking[int] = Parking(numbered(), 10.0)
        self.inside: dict[str, tuple[int, Bond]] = {}
        self.left: set[int] = set()
        self.now = 0.0
        self.calls = count()

    def leave(self, call: int) -> None:
        assert call not in self.left
        self.left.add(call)
        token = next(token for token, (inner, _) in self.inside.items() if inner == call)
        del self.inside[token]

    @rule(who=st.sampled_from(["ann", "ben"]))
    def put(self, who: str) -> None:
        call, bond = next(self.calls), Bond(who, "/mcp", "mole", "tools/call", "dig")
        token = self.lot.put(call, bond, self.now)
        assert token is not None
        self.inside[token] = (call, bond)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), who=st.sampled_from(["ann", "ben"]))
    def take(self, data: st.DataObject, who: str) -> None:
        token = data.draw(st.sampled_from(sorted(self.inside)))
        call, bond = self.inside[token]
        taken = self.lot.take(token, Bond(who, "/mcp", "mole", "tools/call", "dig"), self.now)
        assert taken in ((None, call) if who == bond.principal else (None,))
        if taken is not None:
            self.leave(taken)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), size=st.integers(0, 100))
    def keep(self, data: st.DataObject, size: int) -> None:
        assert self.lot.keeps(data.draw(st.sampled_from(sorted(self.inside))), size)

    @rule(secs=st.floats(0.0, 15.0))
    def pass_time(self, secs: float) -> None:
        self.now += secs
        for call in self.lot.take_due(self.now):
            self.leave(call)
        assert self.lot.next_due() > self.now

    @invariant()
    def everything_is_accounted_for(self) -> None:
        assert len(self.lot) == len(self.inside)
        assert self.lot._of.total == len(self.inside)
        assert self.lot._kept.total == sum(place.kept_bytes for place in self.lot._places.values())


TestParkingMachine = ParkingMachine.TestCase
