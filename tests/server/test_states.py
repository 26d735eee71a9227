"""What a state means stands in one table, and nobody writes a state or a kind of failure as a word of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import moltis
from moltis.server.lifecycle import ACTIVE, RESTING, TIMED
from moltis.server.states import (
    AT_REST,
    COMING,
    LISTED,
    SETTLING,
    STARTING,
    TRAITS,
    FailureKind,
    State,
)

PACKAGE = Path(moltis.__file__).parent
WORDS = {word.value for word in (*State, *FailureKind)}
OTHERS = {
    "config/foreign.py": "`disabled` is a key of other programs' files",
    "lastwords.py": "words by which programs complain",
    "session/handshake.py": "the steps of a handshake are no states of a server",
}
"""Where such a word is another's, and whose."""


def test_every_state_has_a_row() -> None:
    assert set(TRAITS) == set(State)


def test_the_table_agrees_with_the_state_machine() -> None:
    assert set(RESTING.values()) == AT_REST
    assert SETTLING < ACTIVE
    assert {state for state in State if TRAITS[state].until} == TIMED


def test_who_is_starting_is_coming_and_listed_and_who_rests_is_not() -> None:
    assert STARTING < COMING < LISTED
    assert {State.IDLE} == LISTED & AT_REST, "which starts when it is needed"


@pytest.mark.parametrize("state", sorted(TRAITS))
def test_only_what_a_host_cannot_wait_for_is_told_to_hosts_with_what_mends_it(state: str) -> None:
    told = TRAITS[state].to_hosts
    assert not told or (TRAITS[state].status == "error" and TRAITS[state].advice in told)


def _literals(node: ast.AST) -> Iterator[str]:
    """Give the words that a node of a comparison, a pattern or a set of words is made of."""
    match node:
        case ast.Constant(value=str(word)):
            yield word
        case ast.Tuple(elts=each) | ast.List(elts=each) | ast.Set(elts=each):
            for one in each:
                yield from _literals(one)
        case ast.Call(func=ast.Name(id="frozenset" | "set" | "tuple"), args=each):
            for one in each:
                yield from _literals(one)


def words_compared(source: str) -> set[str]:
    """Return which words of states and failures a program compares with, matches, or gives as `state` or `kind`."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left=left, comparators=others):
                for each in (left, *others):
                    found += _literals(each)
            case ast.MatchValue(value=value):
                found += _literals(value)
            case ast.keyword(arg="state" | "kind", value=value):
                found += _literals(value)
            case ast.Call(func=ast.Name(id="Ended" | "Failure"), args=[first, *_]):
                found += _literals(first)
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.AST() as value):
                found += _literals(value) if isinstance(value, ast.Call | ast.Set | ast.Tuple) else ()
            case ast.Dict(keys=keys):
                for key in keys:
                    found += _literals(key) if key is not None else ()
    return WORDS.intersection(found)


@pytest.mark.parametrize(
    "source",
    [
        'state == "ready"', 'x = y in ("starting", "initializing")', 'match s:\n    case "backoff" | "x": pass',
        'f(state="stopping")', 'Ended("disconnected", "")', 'LISTED = frozenset({"ready"})', '{"cooldown": 1}',
    ],
)  # fmt: skip
def test_a_word_is_found_however_it_is_compared(source: str) -> None:
    assert words_compared(source)


MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", [m for m in MODULES if m != "server/states.py" and m not in OTHERS])
def test_no_module_compares_the_words_of_states_or_failures(module: str) -> None:
    assert not words_compared((PACKAGE / module).read_text(encoding="utf-8"))
