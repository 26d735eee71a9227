"""The states of a server and the kinds of its failures: the words, and what each of them means to everyone else.

What follows from what is in `transitions`. Whoever shows, offers, waits for or mends a server asks the table here, so
that a further state is a row of it. Imports nothing of ours: commands that only show a status need no more than this.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple


class State(enum.StrEnum):
    """What a server is doing. The very words that status, log and docs use."""

    INVALID = "invalid"
    DISABLED = "disabled"
    STOPPED = "stopped"
    IDLE = "idle"
    STARTING = "starting"
    INITIALIZING = "initializing"
    READY = "ready"
    AWAITING_AUTH = "awaiting_auth"
    BACKOFF = "backoff"
    COOLDOWN = "cooldown"
    STOPPING = "stopping"


class Traits(NamedTuple):
    """What a state means. In `advice`, `wait` and `to_hosts`, `{}` is the server's name.

    status: the coarse word, for who does not care how.
    meaning, until: what it is, and what its one deadline is; a state without one waits for a person. For the docs.
    counted, colour: how a table of servers tells how many are in it, and how it paints it.
    advice: what a person does about it.
    wait: what a host is advised where there is nothing to mend.
    to_hosts: what hosts are told of a server that only a person can mend; empty of any other.
    listed: its tools are worth offering: it runs, or will without anybody doing more than log in.
    starting: it may be ready in a moment, or have failed.
    coming: it may become ready without anybody doing anything, soon.
    settling: it soon becomes another one, for better or worse; nothing of a run is left in all others but `ready`.
    trying: the last failure is worth telling, and what mends it: the next try is waited for, under way or being ended.
    at_rest: it shall not run.
    unwell: it is logged as a warning.
    """

    status: str
    meaning: str
    counted: str
    colour: str
    until: str = ""
    advice: str = "moltis why {}"
    wait: str = "moltis why {}"
    to_hosts: str = ""
    listed: bool = False
    starting: bool = False
    coming: bool = False
    settling: bool = False
    trying: bool = False
    at_rest: bool = False
    unwell: bool = False


TRAITS: Final[Mapping[str, Traits]] = {
    State.INVALID: Traits(
        "error",
        meaning="its entry is wrong or a placeholder is unresolved",
        counted="invalid",
        colour="red",
        advice="moltis config check",
        to_hosts="its entry in moltis.toml is wrong: moltis config check",
        at_rest=True,
        unwell=True,
    ),
    State.DISABLED: Traits(
        "disconnected",
        meaning="`enabled = false`",
        counted="disabled",
        colour="dim",
        advice="moltis mcp enable {}",
        at_rest=True,
    ),
    State.STOPPED: Traits(
        "disconnected",
        meaning="stopped by request",
        counted="stopped",
        colour="dim",
        advice="moltis mcp start {}",
        at_rest=True,
    ),
    State.IDLE: Traits(
        "disconnected",
        meaning='not needed by any host now; starts when it is (`start = "on_demand"`)',
        counted="idle",
        colour="dim",
        wait="call again",
        listed=True,
        at_rest=True,
    ),
    State.STARTING: Traits(
        "disconnected",
        meaning="process being spawned, or connection being opened",
        counted="starting",
        colour="yellow",
        until="`startup_timeout_secs`; while it works, `startup_timeout_max_secs`",
        listed=True,
        starting=True,
        coming=True,
        settling=True,
        trying=True,
    ),
    State.INITIALIZING: Traits(
        "disconnected",
        meaning="MCP handshake and listing",
        counted="initializing",
        colour="yellow",
        until="the same, since `starting`",
        listed=True,
        starting=True,
        coming=True,
        settling=True,
        trying=True,
    ),
    State.READY: Traits(
        "connected",
        meaning="handshake done by this very process or session, and tools listed",
        counted="ready",
        colour="green",
        until="the next heartbeat, or its timeout; neither counts while a request is under way",
        wait="call again",
        listed=True,
    ),
    State.AWAITING_AUTH: Traits(
        "error",
        meaning="a person must log in; uses up no attempts",
        counted="needing login",
        colour="red",
        advice="moltis mcp reauth {}",
        to_hosts="needs a login: moltis mcp reauth {}",
        listed=True,
    ),
    State.BACKOFF: Traits(
        "error",
        meaning="failed; starts again at `next_retry_at`",
        counted="backing off",
        colour="red",
        until="`next_retry_at`",
        listed=True,
        coming=True,
        trying=True,
        unwell=True,
    ),
    State.COOLDOWN: Traits(
        "error",
        meaning="more than `max_restart_attempts` failures in a row; at `next_retry_at` exactly one probe start; "
        "if that fails, cooldown again, twice as long",
        counted="cooling down",
        colour="red",
        until="`next_retry_at`",
        to_hosts="fails again and again: moltis why {}",
        trying=True,
        unwell=True,
    ),
    State.STOPPING: Traits(
        "disconnected",
        meaning="being shut down",
        counted="stopping",
        colour="yellow",
        until="`stop_eof_secs` + `stop_term_secs`, then it is killed",
        wait="wait until it has ended; moltis status {}",
        settling=True,
        trying=True,
    ),
}
"""Every state. Also asked with words as received, hence the keys' type."""

STATUS: Final[Mapping[str, str]] = {state: TRAITS[state].status for state in State}

LISTED: Final = frozenset(state for state in State if TRAITS[state].listed)
STARTING: Final = frozenset(state for state in State if TRAITS[state].starting)
COMING: Final = frozenset(state for state in State if TRAITS[state].coming)
SETTLING: Final = frozenset(state for state in State if TRAITS[state].settling)
TRYING: Final = frozenset(state for state in State if TRAITS[state].trying)
AT_REST: Final = frozenset(state for state in State if TRAITS[state].at_rest)
UNWELL: Final = frozenset(state for state in State if TRAITS[state].unwell)


class FailureKind(enum.StrEnum):
    """Why a run ended, or was ended. All count but those of `UNCOUNTED`, and those of `WANTING` use up no attempt."""

    EXITED = "exited"
    SPAWN_FAILED = "spawn_failed"
    CONNECT_FAILED = "connect_failed"
    HANDSHAKE_FAILED = "handshake_failed"
    LISTING_FAILED = "listing_failed"
    NO_NETWORK = "no_network"
    NO_RESOURCES = "no_resources"
    STARTUP_TIMEOUT = "startup_timeout"
    UNRESPONSIVE = "unresponsive"
    DISCONNECTED = "disconnected"
    WRITE_STALLED = "write_stalled"
    WARDEN_LOST = "warden_lost"
    INTERNAL = "internal"
    AUTH_REQUIRED = "auth_required"
    LOGIN_UNAVAILABLE = "login_unavailable"
    LOCKED_OUT = "locked_out"

    @classmethod
    def of(cls, word: str) -> FailureKind:
        """Return the kind of that name; a word that is none is a fault of this program, and still a failure."""
        return next((kind for kind in cls if kind.value == word), cls.INTERNAL)


UNCOUNTED: Final = frozenset({FailureKind.AUTH_REQUIRED, FailureKind.LOGIN_UNAVAILABLE, FailureKind.LOCKED_OUT})
"""No failures of the server: nobody has logged in, the authorization server cannot be reached, or nobody can log in."""

WANTING: Final = frozenset({FailureKind.NO_NETWORK, FailureKind.NO_RESOURCES, FailureKind.WARDEN_LOST})
"""What this machine lacked for a start: a network, a descriptor, a process, memory; or our own process that watches
over servers is lost, and they with it. A server has no part in it."""

FREE: Final = frozenset({*WANTING, FailureKind.LOCKED_OUT})
"""What is waited for in `backoff`, again and again, and uses up no attempt."""

OFFLINE: Final = frozenset(
    {FailureKind.EXITED, FailureKind.CONNECT_FAILED, FailureKind.LISTING_FAILED, FailureKind.STARTUP_TIMEOUT}
)
"""How a start may fail because there is no network."""

NOT_NEEDED: Final = "not_needed"
"""The reason in the history why a run ends that nobody has used for so long, or why no other one begins."""

OF_CONFIG: Final = "config"
LOGIN_FAILED: Final = "login_failed"
"""What `last_error` tells of besides the end of a run: the entry is wrong; a login came to nothing."""
