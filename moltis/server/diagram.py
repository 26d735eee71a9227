"""The lifecycle as a picture and a table for docs/lifecycle.md, found by walking the state machine.

Nothing here lists an arrow: `step` is asked what follows from every event in every state that can be reached, so the
picture cannot differ from the program. Arrows that all states of a group share are drawn once, from or to the group.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping

from moltis.config.limits import MIN_SECS, Limits
from moltis.server.lifecycle import (
    OF_USE,
    RESTING,
    TIMED,
    Admitted,
    AuthDone,
    AuthLost,
    Deadline,
    Demand,
    Ended,
    Event,
    Failure,
    Initialized,
    Lifecycle,
    Moment,
    Needed,
    Opened,
    Restart,
    Veto,
    Want,
)
from moltis.server.states import STATUS, TRAITS, FailureKind, State
from moltis.server.transitions import step

GROUPS: Mapping[str, tuple[State, ...]] = {
    "resting": tuple(RESTING.values()),
    "running": (State.STARTING, State.INITIALIZING, State.READY),
    "waiting": (State.BACKOFF, State.COOLDOWN, State.AWAITING_AUTH),
}

MEANING: Mapping[State, str] = {state: TRAITS[state].meaning for state in State}
UNTIL: Mapping[State, str] = {state: TRAITS[state].until for state in State if TRAITS[state].until}

_IMPATIENT = Limits(max_restart_attempts=1, heartbeat_max_missed=1)
"""Limits under which every arrow is a few steps away."""

_HAPPENINGS: tuple[tuple[str, Event], ...] = (
    ("start", Want("start", lifts=frozenset(Veto))),
    *(("rest", Want("rest", lays=frozenset({veto}))) for veto in Veto),
    ("restart", Restart()),
    ("needed", Needed()),
    ("logged in", AuthDone()),
    ("nobody can log in", AuthLost("it does not say how")),
    ("slot", Admitted()),
    ("opened", Opened()),
    ("handshake done", Initialized()),
    ("login needed", Ended(Failure(FailureKind.AUTH_REQUIRED, ""))),
    ("login not renewed", Ended(Failure(FailureKind.LOGIN_UNAVAILABLE, ""))),
    ("failure", Ended(Failure(FailureKind.EXITED, ""))),
    ("time", Deadline()),
    ("not needed", Deadline()),
)

_UNUSED = Demand(idle_secs=MIN_SECS)
"""Of a server that nobody has used for long enough at any deadline."""

_TIME = {
    State.STARTING: "startup timeout",
    State.INITIALIZING: "startup timeout",
    State.READY: "heartbeats missed",
    State.BACKOFF: "delay over",
    State.COOLDOWN: "cooldown over, one probe",
}

Arrows = dict[tuple[str, str], set[str]]
"""From and to, each a state or a group, and for what."""


def arrows() -> Arrows:
    """Return every change of state that there is, and what brings it about."""
    found: Arrows = defaultdict(set)
    seen: set[object] = set()
    waiting = deque([Lifecycle()])
    while waiting:
        life = waiting.popleft()
        for word, event in _HAPPENINGS:
            due = life.deadline if isinstance(event, Deadline) else None
            now = life.since + 1.0 if due is None else due
            demand = _UNUSED if word == "not needed" or life.vetoes >= OF_USE else None
            after = step(life, event, Moment(now, 0.0, _IMPATIENT, demand=demand)).life
            if word == "not needed" and after.vetoes == life.vetoes:
                continue  # the same as without it
            if after.state is not life.state:
                found[life.state.value, after.state.value].add(_word(word, life.state, after.state))
            if (key := _likeness(after)) not in seen:
                seen.add(key)
                waiting.append(after)
    return dict(found)


def _likeness(life: Lifecycle) -> object:
    """Return what two lifecycles must share for the same arrows to leave them."""
    cause = life.cause.kind if life.cause is not None else None
    run, admitted = life.run, life.run.admitted_at is not None
    return (life.state, life.vetoes, min(life.attempts, 2), cause, admitted, run.unanswered, run.otherwise)


def _word(word: str, state: State, to: State) -> str:
    if state is State.STOPPING:
        return "ended" if to is State.STARTING or to in GROUPS["resting"] else "ended, after " + _after(to)
    if word == "failure":
        return _after(to)
    return _TIME[state] if word == "time" else word


def _after(to: State) -> str:
    return {State.COOLDOWN: "too many failures", State.AWAITING_AUTH: "login needed"}.get(to, "failure")


def grouped(found: Arrows) -> Arrows:
    """Draw arrows that all states of a group share once. What happens between resting states is left out."""
    rest = set(GROUPS["resting"])
    merged: Arrows = {ends: set(words) for ends, words in found.items() if not rest.issuperset(ends)}
    for name, states in GROUPS.items():
        members = [state.value for state in states]
        _merge(merged, name, [[(member, end) for member in members] for end in _ends(merged, members)], source=True)
        _merge(merged, name, [[(end, member) for member in members] for end in _ends(merged, members)], source=False)
    return {ends: words for ends, words in merged.items() if words}


def _ends(found: Arrows, members: list[str]) -> list[str]:
    return sorted({end for ends in found for end in ends} - set(members))


def _merge(found: Arrows, name: str, alike: list[list[tuple[str, str]]], *, source: bool) -> None:
    """Replace the words that all arrows of a set share by one arrow from, or to, the group."""
    for arrows_alike in alike:
        shared = set.intersection(*(found.get(ends, set()) for ends in arrows_alike))
        if shared:
            for ends in arrows_alike:
                found[ends] = found[ends] - shared
            first, last = arrows_alike[0]
            found[(name, last) if source else (first, name)] = shared


def mermaid() -> str:
    """Return the picture in Mermaid's language, without the fence.

    A flowchart, for Mermaid's state diagrams allow no arrow between the insides of two groups.
    """
    return "\n".join(_mermaid_lines()) + "\n"


def _mermaid_lines() -> Iterator[str]:
    yield "flowchart LR"
    for name, states in GROUPS.items():
        yield f"    subgraph {name}"
        yield from (f"        {state}" for state in states)
        yield "    end"
    order = [*GROUPS, *(state.value for state in State)]
    drawn = sorted(grouped(arrows()).items(), key=lambda item: [order.index(end) for end in item[0]])
    for (source, target), words in drawn:
        yield f'    {source} -->|"{" / ".join(sorted(words))}"| {target}'


def states_table() -> str:
    """Return the states as a Markdown table."""
    lines = ["| `state` | meaning | `status` | at the latest until |", "|---|---|---|---|"]
    for state in State:
        until = UNTIL[state] if state in TIMED else ""
        lines.append(f"| `{state}` | {MEANING[state]} | {STATUS[state]} | {until} |")
    return "\n".join(lines) + "\n"
