"""What follows from what is known of a login: tables, and what must hold for all of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from moltis.oauth import decisions
from moltis.oauth.decisions import (
    DOUBTED_SECS,
    FRESH_SECS,
    HOUR_SECS,
    MAX_LOGINS_PER_HOUR,
    MAX_LOGINS_PER_SCOPE,
    MAX_SCOPES_REMEMBERED,
    History,
    Known,
    Outages,
    Refused,
    Renewals,
    Sending,
    Step,
    after_refusal,
    before_sending,
    is_fresh,
    newer,
    outage_delay_secs,
    presentable,
)
from moltis.oauth.model import Kind, OAuthProblem, Tokens

READ, WRITE = frozenset({"read"}), frozenset({"write"})
A401 = Refused(401, "Bearer a")
MORE = Refused(403, "Bearer a", WRITE, insufficient=True)
HELD = Known(current="Bearer a", looked=True)
FRESH = Known(current="Bearer a", looked=True, moved=False, fresh=True)
NOBODY = Known(looked=True)
OFTEN = History(begun=(0.0,) * MAX_LOGINS_PER_HOUR)
TRIED = History(by_scope={WRITE: MAX_LOGINS_PER_SCOPE})
OURS = "client_credentials"


@pytest.mark.parametrize(
    ("refused", "known", "history", "step"),
    [
        # What is newer in memory, then what is newer on disk, comes before everything.
        (A401, Known(current="Bearer b"), History(), Step.RETRY),
        (A401, Known(current="Bearer b", fresh=True, held=True, under_way=True), OFTEN, Step.RETRY),
        (replace(A401, sent=None), Known(current="Bearer b"), History(), Step.RETRY),
        (MORE, Known(current="Bearer b"), TRIED, Step.RETRY),
        (A401, Known(current="Bearer a"), History(), Step.LOOK),
        (A401, Known(), History(), Step.LOOK),
        (MORE, Known(current="Bearer a"), History(), Step.LOOK),
        # A refresh token, once it is known that its issuer is the right one still.
        (A401, replace(HELD, refreshable=True), History(), Step.ASK_RESOURCE),
        (A401, replace(HELD, refreshable=True, moved=False), History(), Step.REFRESH),
        (A401, replace(HELD, refreshable=True, moved=False, under_way=True), OFTEN, Step.REFRESH),
        (A401, replace(HELD, refreshable=True, moved=False, held=True), History(), Step.REFRESH),
        (A401, replace(HELD, refreshable=True, moved=True), History(), Step.LEAVE),
        (A401, replace(HELD, refreshable=True, moved=False, grant=OURS), History(), Step.REFRESH),
        # A 403 to a token that may be over: refreshed once, before a person is asked.
        (MORE, replace(HELD, refreshable=True, asked=MORE.asks), History(), Step.ASK_RESOURCE),
        (MORE, replace(HELD, refreshable=True, asked=MORE.asks, moved=False), TRIED, Step.REFRESH),
        (MORE, replace(HELD, refreshable=True, asked=MORE.asks, moved=True), History(), Step.LEAVE),
        (MORE, replace(HELD, refreshable=True, asked=MORE.asks, tried=True), History(), Step.STEP_UP),
        (MORE, replace(HELD, asked=MORE.asks), History(), Step.STEP_UP),
        (MORE, replace(HELD, refreshable=True, expired=True, moved=False), History(), Step.REFRESH),
        (MORE, replace(HELD, refreshable=True, expired=True, tried=True), History(), Step.STEP_UP),
        (replace(MORE, insufficient=False), replace(HELD, refreshable=True, asked=MORE.asks), History(), Step.NOT_OURS),
        (
            replace(MORE, insufficient=False),
            replace(HELD, refreshable=True, expired=True, moved=False),
            History(),
            Step.REFRESH,
        ),
        (
            replace(MORE, insufficient=False),
            replace(HELD, refreshable=True, expired=True, tried=True),
            History(),
            Step.NOT_OURS,
        ),
        (replace(MORE, insufficient=False), replace(HELD, expired=True), History(), Step.NOT_OURS),
        # A fresh token: never taken, taken before, and unfit for what is asked.
        (A401, replace(HELD, fresh=True), History(), Step.ASK_RESOURCE),
        (A401, replace(HELD, fresh=True, moved=True), History(), Step.LEAVE),
        (A401, replace(FRESH, unproven=True), History(), Step.REFUSED_FRESH),
        (A401, replace(FRESH, unproven=True, refreshable=True), History(), Step.REFUSED_FRESH),
        (A401, replace(FRESH, unproven=True, grant=OURS), History(), Step.REFUSED_FRESH),
        (A401, replace(FRESH, unproven=True, under_way=True), History(), Step.LOGIN),
        # Just issued: it may be valid there a moment later.
        (A401, replace(FRESH, unproven=True, settling=True), History(), Step.SETTLE),
        (A401, replace(FRESH, unproven=True, settling=True, refreshable=True), History(), Step.SETTLE),
        (A401, replace(FRESH, unproven=True, settling=True, renewed=True, grant=OURS), History(), Step.SETTLE),
        (A401, replace(FRESH, unproven=True, settling=True, fresh=False, refreshable=True), History(), Step.SETTLE),
        (A401, replace(FRESH, unproven=True, settling=True, under_way=True), History(), Step.LOGIN),
        (A401, replace(FRESH, unproven=True, settling=True, moved=True), History(), Step.LEAVE),
        (A401, replace(FRESH, settling=True), History(), Step.REFUSED_FRESH),
        (replace(A401, asks=READ), replace(FRESH, unproven=True, settling=True), History(), Step.STEP_UP),
        (A401, FRESH, History(), Step.REFUSED_FRESH),
        (A401, replace(FRESH, under_way=True), History(), Step.LOGIN),
        (A401, replace(FRESH, refreshable=True), History(), Step.REFRESH),
        (A401, replace(FRESH, refreshable=True, renewed=True), History(), Step.TOO_SOON),
        (A401, replace(FRESH, renewed=True, grant=OURS), History(), Step.TOO_SOON),
        (A401, replace(FRESH, fresh=False, refreshable=True, renewed=True), History(), Step.REFRESH),
        (A401, replace(FRESH, fresh=False, refreshable=True, unproven=True), History(), Step.REFRESH),
        (replace(A401, asks=READ), FRESH, History(), Step.STEP_UP),
        (replace(A401, asks=READ), replace(FRESH, unproven=True, refreshable=True), History(), Step.STEP_UP),
        (replace(A401, asks=READ), replace(FRESH, asked=READ), History(), Step.REFUSED_FRESH),
        (replace(A401, asks=WRITE), FRESH, TRIED, Step.REFUSED_SCOPE),
        # Nothing that helps: a token of our own, or a person.
        (A401, HELD, History(), Step.LOGIN),
        (A401, NOBODY, History(), Step.LOGIN),
        (A401, replace(NOBODY, grant=OURS), History(), Step.CLIENT_CREDENTIALS),
        (A401, replace(HELD, grant=OURS), OFTEN, Step.CLIENT_CREDENTIALS),
        (A401, NOBODY, TRIED, Step.LOGIN),
        (A401, NOBODY, OFTEN, Step.TOO_OFTEN),
        (A401, replace(NOBODY, held=True), History(), Step.HELD),
        (A401, replace(NOBODY, held=True), OFTEN, Step.HELD),
        (A401, replace(NOBODY, held=True, under_way=True), OFTEN, Step.LOGIN),
        # More scope.
        (MORE, HELD, History(), Step.STEP_UP),
        (MORE, NOBODY, History(), Step.STEP_UP),
        (MORE, replace(HELD, refreshable=True), History(), Step.STEP_UP),
        (MORE, replace(HELD, fresh=True), History(), Step.STEP_UP),
        (MORE, replace(HELD, grant=OURS), History(), Step.CLIENT_CREDENTIALS),
        (MORE, replace(HELD, grant=OURS), TRIED, Step.REFUSED_SCOPE),
        (MORE, replace(HELD, grant=OURS), OFTEN, Step.TOO_OFTEN),
        (MORE, HELD, TRIED, Step.REFUSED_SCOPE),
        (replace(MORE, asks=READ), HELD, TRIED, Step.STEP_UP),
        (MORE, replace(HELD, under_way=True), TRIED, Step.STEP_UP),
        (MORE, HELD, OFTEN, Step.TOO_OFTEN),
        (MORE, replace(HELD, held=True), History(), Step.HELD),
        # A 403 that asks for nothing.
        (Refused(403, "Bearer a"), HELD, History(), Step.NOT_OURS),
        (Refused(403, "Bearer a", WRITE), Known(current="Bearer b"), History(), Step.NOT_OURS),
    ],
)
def test_what_follows_from_a_refusal(refused: Refused, known: Known, history: History, step: Step) -> None:
    assert after_refusal(refused, known, history, 0.0) is step


flags = st.booleans()
KNOWN = st.builds(
    Known,
    grant=st.sampled_from(["authorization_code", "client_credentials"]),
    current=st.sampled_from([None, "Bearer a", "Bearer b"]),
    refreshable=flags,
    fresh=flags,
    renewed=flags,
    unproven=flags,
    asked=st.sampled_from([frozenset(), READ]),
    looked=flags,
    moved=st.sampled_from([None, False, True]),
    under_way=flags,
    held=flags,
)
REFUSED = st.builds(
    Refused,
    status=st.sampled_from([401, 403]),
    sent=st.sampled_from([None, "Bearer a"]),
    asks=st.sampled_from([frozenset(), READ, WRITE]),
    insufficient=flags,
)
HISTORY = st.sampled_from([History(), OFTEN, TRIED])


@given(REFUSED, KNOWN, HISTORY)
def test_no_refusal_goes_round_in_circles(refused: Refused, known: Known, history: History) -> None:
    """Whatever comes of a step, none is taken twice for one refusal."""
    known = replace(known, refreshable=known.refreshable and known.current is not None)
    taken: list[Step] = []
    while True:
        step = after_refusal(refused, known, history, 0.0)
        assert step not in taken
        taken.append(step)
        match step:
            case Step.LOOK:
                known = replace(known, looked=True)
            case Step.ASK_RESOURCE:
                known = replace(known, moved=True)
            case Step.LEAVE:
                known = replace(known, current=None, refreshable=False, fresh=False, moved=None)
            case Step.REFRESH:  # the worst that can come of it
                known = replace(known, refreshable=False)
            case _:
                return


@given(REFUSED, KNOWN, HISTORY)
def test_no_browser_opens_for_a_fresh_token_or_after_giving_up_or_too_often(
    refused: Refused, known: Known, history: History
) -> None:
    step = after_refusal(refused, known, history, 0.0)
    if step in (Step.LOGIN, Step.STEP_UP) and not known.under_way:
        assert not known.held
        assert not history.often(0.0)
        assert not (known.fresh and known.current and refused.status == 401 and refused.asks <= known.asked)


@given(REFUSED, KNOWN, HISTORY)
def test_a_refresh_token_is_never_presented_before_the_disk_and_the_resource_were_asked(
    refused: Refused, known: Known, history: History
) -> None:
    if after_refusal(refused, known, history, 0.0) is Step.REFRESH:
        assert known.looked
        assert known.moved is False
        assert known.refreshable
        assert known.current == refused.sent


def tokens(*, life: float | None = 1000.0, refresh: str | None = "r", at: float = 0.0, access: str = "a") -> Tokens:
    return Tokens(
        access_token=access, refresh_token=refresh, obtained_at=at, expires_at=None if life is None else at + life
    )


@pytest.mark.parametrize(
    ("held", "renewable", "wall", "what"),
    [
        (None, False, 0.0, Sending.AS_IS),
        (None, True, 0.0, Sending.AS_IS),
        (tokens(), True, 0.0, Sending.AS_IS),
        (tokens(), True, 950.0, Sending.RENEW_MEANWHILE),
        (tokens(), False, 950.0, Sending.AS_IS),
        (tokens(), True, 1000.0, Sending.RENEW_FIRST),
        (tokens(), False, 1000.0, Sending.AS_IS),
        (tokens(life=None), True, 1e9, Sending.AS_IS),
        (tokens(life=1.0), True, 0.5, Sending.AS_IS),
        (tokens(life=1.0), True, 1.0, Sending.RENEW_FIRST),
    ],
)
def test_what_is_done_before_a_request_is_sent(
    held: Tokens | None, renewable: bool, wall: float, what: Sending
) -> None:
    assert before_sending(held, renewable=renewable, wall=wall) is what


@pytest.mark.parametrize(
    ("found", "held", "replaces"),
    [
        (None, None, False),
        (None, tokens(), False),
        (tokens(), None, True),
        (tokens(), tokens(), False),
        (tokens(at=5, access="b"), tokens(), True),
        (tokens(at=5), tokens(), False),
        (tokens(access="b"), tokens(at=5), False),
        (tokens(access="b"), tokens(), False),
    ],
)
def test_only_what_is_newer_replaces_what_is_held(found: Tokens | None, held: Tokens | None, replaces: bool) -> None:
    assert newer(found, held) is replaces


@pytest.mark.parametrize(
    ("interrupted", "rotates", "may"),
    [(None, True, True), ("other", True, True), ("mark", True, False), ("mark", False, True), (None, False, True)],
)
def test_what_may_have_been_spent_is_not_presented(interrupted: str | None, rotates: bool, may: bool) -> None:
    assert presentable("mark", interrupted=interrupted, rotates=rotates) is may


def test_delays_double_up_to_five_minutes() -> None:
    assert [outage_delay_secs(n) for n in range(1, 9)] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert outage_delay_secs(10**6) == 300


@pytest.mark.parametrize(
    ("asked", "delay"), [(None, 5), (0.0, 5), (1.0, 5), (60.0, 60), (3600.0, 3600), (1e12, 3600), (float("inf"), 3600)]
)
def test_retry_after_is_obeyed_upward_and_capped(asked: float | None, delay: float) -> None:
    assert outage_delay_secs(1, retry_after_secs=asked) == delay


def test_after_something_was_posted_the_other_side_has_some_rest() -> None:
    times = [0.0]
    for n in range(1, 6):
        times.append(times[-1] + outage_delay_secs(n, posted=True))
    assert sum(at < 60 for at in times) <= 3


def test_outages_in_a_row_say_when_to_try_again() -> None:
    outages = Outages()
    assert outages.over(0.0)
    problem = OAuthProblem("x", kind="outage", retry_after_secs=7)
    outages = outages.and_then(problem, 100.0)
    assert (outages.until, outages.failures, outages.problem) == (107.0, 1, problem)
    assert not outages.over(106.9)
    assert outages.over(107.0)


def failed(renewals: Renewals, problem: OAuthProblem, now: float, *, refreshable: bool = True) -> Renewals:
    return renewals.failed(problem, now, begun=now, roll=0.0, crowd=1, refreshable=refreshable)


def test_a_renewal_that_is_denied_and_leaves_nothing_to_renew_is_over_and_not_tried_again() -> None:
    down = failed(Renewals(), OAuthProblem("no answer", kind="outage"), 0.0)
    over = failed(down, OAuthProblem("invalid_grant", kind="denied"), 10.0, refreshable=False)
    assert over == Renewals(over="invalid_grant")
    assert (over.problem, over.outages.over(10.0)) == (None, True)


@pytest.mark.parametrize("kind", ["outage", "denied", "refused"])
def test_a_refresh_token_that_is_still_good_is_tried_again_whatever_was_said(kind: Kind) -> None:
    down = failed(Renewals(), OAuthProblem("no", kind=kind), 10.0)
    assert (down.problem, down.over, down.doubted) == ("no", None, False)
    assert not down.outages.over(10.0)
    assert down.hastened().outages.over(10.0)
    assert (down.hastened().problem, down.hastened().outages.failures) == ("no", 1)


def test_renewals_that_are_refused_without_a_reason_long_enough_have_a_person_asked_and_are_tried_seldom() -> None:
    renewals, problem = Renewals(), OAuthProblem("HTTP 400", unclear=400)
    for now in (0.0, 60.0, 120.0):
        assert not renewals.doubted
        renewals = failed(renewals, problem, now)
    assert (renewals.doubted, renewals.problem) == (True, "HTTP 400 (refresh)")
    assert renewals.outages.until == 120.0 + DOUBTED_SECS
    down = failed(renewals, OAuthProblem("no answer", kind="outage"), 500.0)
    assert (down.doubted, down.problem) == (True, "no answer (refresh)")


def test_logins_are_counted_for_an_hour() -> None:
    history = History()
    for n in range(MAX_LOGINS_PER_HOUR):
        assert not history.often(n)
        history = history.with_login(READ, n)
    assert history.often(100.0)
    assert not history.often(HOUR_SECS)
    assert len(history.with_login(READ, HOUR_SECS * 2).begun) == 1


def test_the_login_before_the_first_step_up_counts_for_its_scope() -> None:
    history = History().with_login(READ, 0.0)
    history = history.with_step_up(READ, 1.0).with_step_up(WRITE, 2.0)
    assert not history.exhausted(READ)
    history = history.with_step_up(READ, 3.0)
    assert history.exhausted(READ)
    assert not history.exhausted(WRITE)
    assert not history.with_login(READ, 4.0).exhausted(READ)


def test_scopes_without_number_are_not_remembered_without_number() -> None:
    history = History()
    for n in range(1000):
        history = history.with_step_up(frozenset({str(n)}), n * HOUR_SECS)
    assert len(history.by_scope) == MAX_SCOPES_REMEMBERED
    assert len(history.begun) == 1
    assert history.by_scope[frozenset({"999"})] == 1


def test_a_history_is_a_value() -> None:
    history = History()
    history.with_login(READ, 0.0)
    history.with_step_up(READ, 0.0)
    assert history == History()


@pytest.mark.parametrize(
    ("life", "sent_at", "now", "fresh"),
    [
        (1000.0, None, 0.0, True),
        (1000.0, 0.0, FRESH_SECS - 0.1, True),
        (1000.0, 0.0, FRESH_SECS, False),
        (None, 0.0, 1.0, True),
        (10.0, 0.0, 1.0, True),
        (9.0, 0.0, 0.0, False),
        (1.0, None, 0.0, False),
    ],
)
def test_fresh_is_a_moment_only_and_nothing_that_lives_shortly(
    life: float | None, sent_at: float | None, now: float, fresh: bool
) -> None:
    assert is_fresh(tokens(life=life), sent_at, now) is fresh


def test_decisions_know_no_world() -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(Path(decisions.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    assert names <= {
        "__future__", "enum", "math", "collections.abc", "msgspec", "msgspec.structs", "moltis.oauth.grants",
        "moltis.oauth.model",
    }  # fmt: skip
