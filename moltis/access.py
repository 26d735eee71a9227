"""Who may use what is reached from outside: a route of HTTP, or anything else that can be asked of the daemon."""

from __future__ import annotations

from enum import Enum


class Access(Enum):
    """What whoever asks needs, least first. Nothing has one by default: it is stated wherever something is offered."""

    PUBLIC = "public"
    """Nothing: whoever can connect is answered."""

    READ = "read"
    """To be known: any access token, or being let in without one where `require_token = false`."""

    CALL = "call"
    """An access token of scope `write`: it can make something run."""

    ADMIN = "admin"
    """The daemon's own user, by the control socket: it changes what runs, or who is let in. No token is enough."""
