"""The picture of the lifecycle says what the state machine does, and all of it."""

from __future__ import annotations

from moltis.server.diagram import GROUPS, MEANING, UNTIL, arrows, grouped, mermaid, states_table
from moltis.server.lifecycle import TIMED
from moltis.server.states import State
from moltis.server.transitions import TABLE

PROMISED = {
    ("stopped", "starting"), ("starting", "initializing"), ("initializing", "ready"), ("ready", "backoff"),
    ("ready", "cooldown"), ("backoff", "starting"), ("cooldown", "starting"), ("ready", "stopping"),
    ("stopping", "stopped"), ("stopping", "starting"), ("starting", "awaiting_auth"), ("awaiting_auth", "starting"),
}  # fmt: skip
NEVER = {
    ("stopped", "ready"), ("starting", "ready"), ("backoff", "ready"), ("backoff", "cooldown"), ("ready", "stopped"),
    ("ready", "starting"), ("cooldown", "backoff"), ("stopping", "ready"),
}  # fmt: skip


def test_walking_the_machine_finds_every_state_and_what_is_promised_and_nothing_forbidden() -> None:
    found = set(arrows())
    assert {end for ends in found for end in ends} == {state.value for state in State}
    assert found >= PROMISED
    assert not found & NEVER


def test_grouping_loses_no_arrow_but_those_between_resting_states() -> None:
    inside = {name: [state.value for state in states] for name, states in GROUPS.items()}
    spread = {
        (source, target, word)
        for (a, b), words in grouped(arrows()).items()
        for source in inside.get(a, [a])
        for target in inside.get(b, [b])
        for word in words
    }
    resting = set(inside["resting"])
    assert spread == {(a, b, word) for (a, b), words in arrows().items() if not {a, b} <= resting for word in words}


def test_the_picture_names_every_state_and_uses_no_quote_that_would_break_it() -> None:
    lines = mermaid().splitlines()
    assert lines[0] == "flowchart LR"
    assert {state.value for state in State} <= set(mermaid().replace('"', " ").split())
    assert all(line.count('"') in (0, 2) for line in lines)


def test_the_table_has_a_row_for_every_state_and_a_deadline_for_every_timed_one() -> None:
    assert set(MEANING) == {state for state, _ in TABLE}
    assert set(UNTIL) == TIMED
    assert len(states_table().splitlines()) == 2 + len(State)
