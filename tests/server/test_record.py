"""What is published of a server, step by step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from msgspec.structs import replace
from scripted_life import EPOCH, PLAN

from moltis.server.life import NoFacts
from moltis.server.lifecycle import Failure, Lifecycle, Transition
from moltis.server.record import RECENT_ERRORS, Record
from moltis.server.states import FailureKind, State
from moltis.times import stamp

READY = Lifecycle(State.READY, attempts=3, failure=Failure(FailureKind.EXITED, "first"))
NOTHING = NoFacts()


def failed(before: Lifecycle, message: str, delay_secs: float = 1.0) -> Transition:
    failure = Failure(FailureKind.EXITED, message, 1)
    after = replace(before, state=State.BACKOFF, attempts=1, delay_secs=delay_secs, failure=failure)
    return Transition(after, "exited", ended=failure)


def test_a_failure_that_is_the_first_again_after_forgiveness_is_still_recorded() -> None:
    record = Record(lambda: EPOCH)
    outcome = failed(READY, "again")
    record.moved(READY, outcome)
    assert [error.message for error in record.status(PLAN, outcome.life, NOTHING, 0.0).recent_errors] == ["again"]


def test_the_last_ten_errors_are_kept_oldest_first() -> None:
    record = Record(lambda: EPOCH)
    for number in range(RECENT_ERRORS + 5):
        outcome = failed(READY, str(number))
        record.moved(READY, outcome)
    status = record.status(PLAN, outcome.life, NOTHING, 0.0)
    assert [error.message for error in status.recent_errors] == [str(n) for n in range(5, 15)]
    assert status.last_error == status.recent_errors[-1]


def test_a_delay_beyond_the_calendar_has_no_instant() -> None:
    assert Record(lambda: EPOCH).moved(READY, failed(READY, "", delay_secs=1e300)).next_retry_at is None


def test_a_jump_of_the_wall_clock_moves_nothing_that_is_published() -> None:
    wall = EPOCH
    record = Record(lambda: wall)
    outcome = failed(READY, "")
    record.moved(READY, outcome)
    before = record.status(PLAN, outcome.life, NOTHING, 0.0)
    wall += timedelta(hours=5)
    assert record.status(PLAN, outcome.life, NOTHING, 0.0) == before


def retry_at(record: Record, outcome: Transition, now: float) -> str | None:
    return record.status(PLAN, outcome.life, NOTHING, now).next_retry_at


def test_the_next_retry_is_published_anew_when_the_clocks_have_moved_apart() -> None:
    """A suspend, after which the monotonic clock has not moved; a step of the wall clock, either way."""
    wall = EPOCH
    record = Record(lambda: wall)
    outcome = failed(READY, "", delay_secs=60.0)
    outcome = replace(outcome, life=replace(outcome.life, deadline=1060.0))
    entry = record.moved(READY, outcome)
    assert retry_at(record, outcome, 1000.0) == stamp(EPOCH + timedelta(seconds=60))
    for moved in (timedelta(hours=8), timedelta(hours=-3), timedelta(0)):
        wall = EPOCH + moved + timedelta(seconds=20)
        assert retry_at(record, outcome, 1020.0) == stamp(EPOCH + moved + timedelta(seconds=60))
    assert record.history() == [entry]  # what was said then stays as it was said


def test_the_next_retry_is_one_instant_however_often_one_looks() -> None:
    wall = EPOCH
    record = Record(lambda: wall)
    outcome = failed(READY, "", delay_secs=60.0)
    outcome = replace(outcome, life=replace(outcome.life, deadline=1060.0))
    record.moved(READY, outcome)
    for look in range(50):
        wall = EPOCH + timedelta(seconds=look + 0.007 * (look % 3))
        assert retry_at(record, outcome, 1000.0 + look) == stamp(EPOCH + timedelta(seconds=60))


def test_a_deadline_that_was_moved_is_published() -> None:
    record = Record(lambda: EPOCH)
    outcome = failed(READY, "", delay_secs=60.0)
    record.moved(READY, outcome)
    sooner = replace(outcome, life=replace(outcome.life, deadline=1010.0))
    assert retry_at(record, sooner, 1000.0) == stamp(EPOCH + timedelta(seconds=10))
    beyond = replace(outcome, life=replace(outcome.life, deadline=1e300))
    assert retry_at(record, beyond, 1000.0) is None


def test_the_history_can_be_cut_to_its_newest_entries() -> None:
    record = Record(lambda: EPOCH)
    entries = [record.moved(READY, failed(READY, str(number))) for number in range(4)]
    assert record.history() == entries
    assert record.history(2) == entries[2:]
    assert record.history(0) == []
    assert record.history(99) == entries


def test_instants_are_utc_with_milliseconds_whatever_the_zone() -> None:
    assert stamp(datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)) == "2026-01-02T03:04:05.678Z"
    assert stamp(datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-02T03:04:05.000Z"
