"""What follows from what is known of a login, pure and total.

Everything that decides whether a token is sent, renewed or given up, and whether a person is asked, lives here. It is
told what is held, what was refused and what was tried before, and answers with one thing to do; whoever does it comes
back with what is then known, until the answer is an end. Instants are seconds: of the wall clock where a token's life
is meant, of the monotonic clock where the word is `now`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from moltis.oauth.grants import expired, refresh_due
from moltis.oauth.model import Grant, OAuthProblem, Tokens

FRESH_SECS = 5.0
"""How long after it was first sent a token is still fresh. One that is refused this early was never any good, and
another one from the same place would be no better; a browser with a session would fetch them for ever."""

SETTLE_SECS = 4.0
"""How long after it was issued a token may be refused for being so young: clocks differ (`nbf`, `iat`, RFC 7519 section
4.1), and who issues it may tell the resource of it a moment later."""

MIN_LIFE_SECS = 10.0
"""A token of a shorter life is never fresh: clocks that differ by a second explain its refusal."""

HOUR_SECS = 3600.0
MAX_LOGINS_PER_HOUR = 5
"""Logins that nobody asked for. Whatever a server refuses and however it alternates, no more browsers open."""

MAX_LOGINS_PER_SCOPE = 3
"""For one challenged set of scopes, the login before the first step-up included: MCP asks for a few tries, and its
conformance suite counts them like this."""

MAX_SCOPES_REMEMBERED = 64

LOGIN_SECS = 600.0
"""How long a person has: RFC 6749 section 4.1.2 recommends as much for the code that comes after it."""

OUTAGE_SECS = 5.0
OUTAGE_MAX_SECS = 300.0
REGISTERING_SECS = 20.0
"""What failed after something was posted is not tried again sooner: three registrations a minute at most."""

MAX_RETRY_AFTER_SECS = 3600.0

RENEWAL_SECS = 1.0
RENEWAL_MAX_SECS = 10.0
"""A renewal that failed is tried again so soon, and then less often, up to this: a server whose login has come back
goes on within seconds, however long it was away."""
RENEWAL_MAX_RETRY_AFTER_SECS = 60.0
"""Of an authorization server that says when to come back."""
CROWD_SECS = 0.5
"""Between the tries of all that wait for one authorization server, on average; each one waits longer where they are
many, and is told when another one got through."""
SPREAD_SECS = 2.0
"""Over which they then come."""
DOUBTED_SECS = 300.0
"""How often a refresh token is tried that a person was asked to replace: a captive portal is no logout."""
DOUBTED_TIMES = 3
DOUBTED_AFTER_SECS = 120.0
"""The same refusal without a reason, so often and for so long, is taken for one of the login."""


class Sending(enum.Enum):
    """What to do with what is held, before a request is sent."""

    AS_IS = "send what there is, even nothing"
    RENEW_MEANWHILE = "send what there is, and renew it in the background"
    RENEW_FIRST = "renew it, then send"


class Step(enum.Enum):
    """What to do about a refusal. Those that are no end lead to another question."""

    # Ends:
    RETRY = "send the request again with what is held now"
    NOT_OURS = "no login changes this"
    LOGIN = "a person logs in, with the scope of the challenge"
    STEP_UP = "a person logs in again, for more scope than before"
    TOO_SOON = "it was renewed a moment ago, and has worked since"
    # Ends until a person begins a login:
    REFUSED_FRESH = "what was just issued is refused"
    REFUSED_SCOPE = "the same scope is asked for again and again"
    TOO_OFTEN = "logins were asked for too often"
    HELD = "it was given up before"
    # To be done now, and asked about again:
    LOOK = "see what is on disk"
    ASK_RESOURCE = "see whether the resource still names the issuer of what is held"
    LEAVE = "forget in memory what is held: it belongs to an issuer that the resource names no more"
    REFRESH = "present the refresh token"
    CLIENT_CREDENTIALS = "get a token for ourselves"
    # To be done once, and the request is then sent again:
    SETTLE = "wait until what was just issued is valid there too"


class Refused(msgspec.Struct, frozen=True):
    """What was refused. `asks`: the scopes of the challenge; insufficient: it says `insufficient_scope`."""

    status: int
    sent: str | None
    asks: frozenset[str] = frozenset()
    insufficient: bool = False


class Known(msgspec.Struct, frozen=True):
    """What is known when something was refused.

    current: the Authorization value that would be sent now.
    refreshable: it comes with a refresh token that may be presented.
    fresh: as `is_fresh` says, and obtained by this process.
    settling: it was issued less than `SETTLE_SECS` ago.
    renewed: it was obtained without a person.
    unproven: each request that it was sent with was refused.
    expired: it is past the life that it was given.
    tried: such a 403 was met by a refresh before, and that was answered alike at once; or nothing else is known of it.
    asked: the scopes that it was asked for or was granted.
    looked: the disk was seen since the refusal.
    moved: whether the resource names another issuer now; None: it was not asked since the refusal.
    under_way: a person is being asked already.
    held: given up, until a person begins.
    """

    grant: Grant = "authorization_code"
    current: str | None = None
    refreshable: bool = False
    fresh: bool = False
    settling: bool = False
    renewed: bool = False
    unproven: bool = False
    expired: bool = False
    tried: bool = False
    asked: frozenset[str] = frozenset()
    looked: bool = False
    moved: bool | None = None
    under_way: bool = False
    held: bool = False


class History(msgspec.Struct, frozen=True):
    """The logins that began because of a refusal.

    begun: when, monotonic, the last hour's.
    by_scope: how many for each challenged set of scopes, since the last one that a 401 began.
    """

    begun: tuple[float, ...] = ()
    by_scope: Mapping[frozenset[str], int] = msgspec.field(default_factory=dict)

    def with_login(self, asks: frozenset[str], now: float) -> History:
        """Count a login that begins with a 401."""
        return History(self._recent(now), {asks: 1})

    def with_step_up(self, asks: frozenset[str], now: float) -> History:
        """Count a login, or a token of our own, for more scope."""
        counts = dict(self.by_scope)
        counts[asks] = counts.pop(asks, 0) + 1
        while len(counts) > MAX_SCOPES_REMEMBERED:
            del counts[next(iter(counts))]
        return replace(self, begun=self._recent(now), by_scope=counts)

    def often(self, now: float) -> bool:
        """Whether no more logins may begin by themselves now."""
        return sum(now - at < HOUR_SECS for at in self.begun) >= MAX_LOGINS_PER_HOUR

    def exhausted(self, asks: frozenset[str]) -> bool:
        """Whether these scopes have been asked for often enough."""
        return self.by_scope.get(asks, 0) >= MAX_LOGINS_PER_SCOPE

    def _recent(self, now: float) -> tuple[float, ...]:
        return (*(at for at in self.begun if now - at < HOUR_SECS), now)


def before_sending(tokens: Tokens | None, *, renewable: bool, wall: float) -> Sending:
    """Say what to do before a request is sent.

    An expired token that cannot be renewed is sent: clocks differ, and its refusal brings the challenge that a login
    begins with.
    """
    if tokens is None or not renewable or not refresh_due(tokens, wall):
        return Sending.AS_IS
    return Sending.RENEW_FIRST if expired(tokens, wall) else Sending.RENEW_MEANWHILE


def after_refusal(refused: Refused, known: Known, history: History, now: float) -> Step:
    """Say what to do about a 401, or a 403 that asks for more scope."""
    if refused.status == 403 and not refused.insufficient and not _may_be_over(refused, known):
        return Step.NOT_OURS
    if known.current is not None and known.current != refused.sent:
        return Step.RETRY
    if not known.looked:
        return Step.LOOK
    if refused.status == 403:
        if known.current is not None and _may_be_over(refused, known):
            if known.moved is None:
                return Step.ASK_RESOURCE
            return Step.LEAVE if known.moved else Step.REFRESH
        return _for_more_scope(refused, known, history, now) if refused.insufficient else Step.NOT_OURS
    renewable = known.refreshable or known.grant == "client_credentials"
    if known.current is not None:
        if known.moved is None and (known.refreshable or known.fresh):
            return Step.ASK_RESOURCE
        if known.moved:
            return Step.LEAVE
        if known.fresh and not refused.asks <= known.asked:
            return _for_more_scope(refused, known, history, now)
        if known.settling and known.unproven and not known.under_way:
            return Step.SETTLE
        if known.fresh and (known.unproven or not renewable):
            return Step.LOGIN if known.under_way else Step.REFUSED_FRESH
        if known.fresh and known.renewed:
            return Step.TOO_SOON
        if known.refreshable:
            return Step.REFRESH
    if known.grant == "client_credentials":
        return Step.CLIENT_CREDENTIALS
    return _may_log_in(known, history, now) or Step.LOGIN


def _may_be_over(refused: Refused, known: Known) -> bool:
    """Say whether a 403 may be about a token that is over, as some answer: a login would add nothing that it lacks."""
    has_all = refused.insufficient and refused.asks <= known.asked
    return known.refreshable and not known.tried and (known.expired or has_all)


def _for_more_scope(refused: Refused, known: Known, history: History, now: float) -> Step:
    if not known.under_way and history.exhausted(refused.asks):
        return Step.REFUSED_SCOPE
    ours = known.grant == "client_credentials"
    return _may_log_in(known, history, now) or (Step.CLIENT_CREDENTIALS if ours else Step.STEP_UP)


def _may_log_in(known: Known, history: History, now: float) -> Step | None:
    """Say why no login may begin by itself now; joining one is always possible."""
    if known.under_way:
        return None
    if known.held:
        return Step.HELD
    return Step.TOO_OFTEN if history.often(now) else None


def is_fresh(tokens: Tokens, sent_at: float | None, now: float) -> bool:
    """Say whether the refusal of tokens tells that their like are never taken.

    sent_at: when they were sent first, None: not yet.
    """
    if tokens.expires_at is not None and tokens.expires_at - tokens.obtained_at < MIN_LIFE_SECS:
        return False
    return sent_at is None or now - sent_at < FRESH_SECS


def newer(found: Tokens | None, held: Tokens | None) -> bool:
    """Say whether what another process keeps on disk replaces what is held here."""
    if found is None or held is None:
        return found is not None
    return found.access_token != held.access_token and found.obtained_at > held.obtained_at


def presentable(fingerprint: str, *, interrupted: str | None, rotates: bool) -> bool:
    """Say whether a refresh token may be presented.

    interrupted: that of a refresh whose outcome nobody knows, because its process was killed. If this issuer replaces
        refresh tokens, that one may be spent, and presenting a spent one ends the whole login for everybody (RFC 9700
        section 4.14.2).
    """
    return not rotates or fingerprint != interrupted


class Outages(msgspec.Struct, frozen=True):
    """Failures in a row to reach somebody who is needed.

    until: when to try again, monotonic. problem: the last of them.
    """

    failures: int = 0
    until: float = -math.inf
    problem: OAuthProblem | None = None

    def renewal(
        self, problem: OAuthProblem, now: float, *, begun: float, roll: float, crowd: int, doubted: bool
    ) -> Outages:
        """Return these and one more failure to renew.

        begun: when that try began. crowd: as in `renewal_delay_secs`. doubted: as `Unclear.doubted`.
        """
        delay = renewal_delay_secs(self.failures + 1, roll=roll, crowd=crowd, retry_after_secs=problem.retry_after_secs)
        # Counted from the beginning of a try: one that hung for 10 s has been patient already.
        until = now + DOUBTED_SECS if doubted else max(begun + delay, now + RENEWAL_SECS / 2)
        return Outages(self.failures + 1, until, problem)

    def over(self, now: float) -> bool:
        """Whether it may be tried (again)."""
        return now >= self.until

    def and_then(self, problem: OAuthProblem, now: float, *, posted: bool = False) -> Outages:
        """Count one more; `posted` as in `outage_delay_secs`."""
        failures = self.failures + 1
        delay = outage_delay_secs(failures, retry_after_secs=problem.retry_after_secs, posted=posted)
        return Outages(failures, now + delay, problem)


class Unclear(msgspec.Struct, frozen=True):
    """Refusals of a renewal in a row that do not say why, alike. since: when the first came, monotonic."""

    status: int | None = None
    times: int = 0
    since: float = 0.0

    def and_then(self, status: int | None, now: float) -> Unclear:
        """Count the outcome of one more try; None: it was something else, which ends the row unless it is doubted."""
        if status is None:
            return self if self.doubted(now) else Unclear()
        return Unclear(status, self.times + 1, self.since) if status == self.status else Unclear(status, 1, now)

    def doubted(self, now: float) -> bool:
        """Whether the login is taken for lost, though nobody has said so."""
        return self.times >= DOUBTED_TIMES and now - self.since >= DOUBTED_AFTER_SECS


class Renewals(msgspec.Struct, frozen=True):
    """How the renewals of a login have gone since what is held was last known to be good.

    outages: those that failed in a row, and when to try again. unclear: those that were refused without a reason.
    doubted: a person is to be asked, because renewals are refused and nobody says why.
    over: why there is nothing to renew any more, where that was said.
    """

    outages: Outages = Outages()
    unclear: Unclear = Unclear()
    doubted: bool = False
    over: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the last one failed, if none has worked since."""
        found = self.outages.problem
        if found is None:
            return None
        return f"{found.message} (refresh)" if self.doubted else found.message

    def failed(
        self, problem: OAuthProblem, now: float, *, begun: float, roll: float, crowd: int, refreshable: bool
    ) -> Renewals:
        """Return these and one more that failed.

        begun, roll, crowd: as in `Outages.renewal`. refreshable: there is a refresh token all the same.
        """
        if problem.kind != "outage" and not refreshable:
            return Renewals(over=problem.message)
        unclear = self.unclear.and_then(problem.unclear, now)
        doubted = unclear.doubted(now)
        outages = self.outages.renewal(problem, now, begun=begun, roll=roll, crowd=crowd, doubted=doubted)
        return replace(self, outages=outages, unclear=unclear, doubted=doubted)

    def hastened(self) -> Renewals:
        """Return these, with the next try at once."""
        return replace(self, outages=Outages(self.outages.failures, problem=self.outages.problem))


def renewal_delay_secs(failures: int, *, roll: float, crowd: int = 1, retry_after_secs: float | None = None) -> float:
    """Return how long to wait after the n-th renewal in a row that failed, n >= 1, drawn from the upper half.

    roll: a number of [0, 1) by chance: servers that share an authorization server are not to ask it all at once.
    crowd: how many those are.
    """
    ceiling = min(max(RENEWAL_MAX_SECS, CROWD_SECS * crowd), RENEWAL_SECS * 2.0 ** min(failures - 1, 30))
    return max(ceiling * (1 + roll) / 2, min(retry_after_secs or 0.0, RENEWAL_MAX_RETRY_AFTER_SECS))


def outage_delay_secs(failures: int, *, retry_after_secs: float | None = None, posted: bool = False) -> float:
    """Return the seconds to wait after the n-th outage in a row, n >= 1: doubled each time; more if the server says so.

    posted: it may have taken what was sent, so that it is left alone a little longer.
    """
    delay = min(OUTAGE_MAX_SECS, OUTAGE_SECS * 2.0 ** min(failures - 1, 30))
    floor = REGISTERING_SECS if posted else 0.0
    return max(delay, floor, min(retry_after_secs or 0.0, MAX_RETRY_AFTER_SECS))
