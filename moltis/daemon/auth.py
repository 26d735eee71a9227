"""What the daemon and its logins know of each other: how a login stands, what is secret, and whom to tell."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from moltis.paths import Paths
from moltis.redaction import Scrubber
from moltis.server.lifecycle import AuthDone
from moltis.transport.containment import Warden

MAX_LEARNT_SECRETS: Final = 16
"""Of one server: what came up since the start (tokens, codes) and is kept out of what servers print. The oldest go
first; a login has at most a handful in use, and names each anew when it begins to use it."""


class Auth(msgspec.Struct, frozen=True):
    """A login as anyone outside may see it. `message`: why it failed, or what is in its way; `at`: RFC 3339.

    unavailable: nobody has to log in, it only cannot be renewed now. next_try_at: when that is tried again, RFC 3339.
    locked_out: nobody can log in, and none was needed before.
    ends_at: when it ends and cannot be renewed, in seconds since the epoch; None where it can be.
    """

    state: str = "not_required"
    url: str | None = None
    message: str | None = None
    at: str = ""
    unavailable: bool = False
    locked_out: bool = False
    next_try_at: str | None = None
    ends_at: float | None = None


NO_AUTH: Final = Auth()


class Surroundings(msgspec.Struct, frozen=True):
    """What logins need of the daemon.

    scrub: takes known secrets out of a text; learn: told a server's name and values to take out from now on.
    moved: told a server's login each time that it changes; done: that it is good (again), for the server may wait for
        that.
    """

    paths: Paths
    warden: Warden
    scrub: Callable[[str], str]
    learn: Callable[[str, Iterable[str]], None]
    moved: Callable[[str, Auth], None]
    done: Callable[[str, AuthDone], None]


class KnownSecrets:
    """What is kept out of all that is shown: the secrets of all plans so far, and what came up while they ran."""

    def __init__(self, scrubber: Scrubber, planned: frozenset[str]) -> None:
        self._scrubber = scrubber
        self._planned = planned
        self._learnt: dict[str, deque[str]] = {}
        self.text = scrubber.text

    def plan(self, secrets: frozenset[str]) -> None:
        """Add those of a plan. What was a secret stays one: a server that is being stopped may still print it."""
        self._planned |= secrets
        self._tell()

    def learn(self, server: str, secrets: Iterable[str]) -> None:
        """Add what a server's login begins to use."""
        known = self._learnt.setdefault(server, deque(maxlen=MAX_LEARNT_SECRETS))
        for secret in secrets:
            if secret in known:
                known.remove(secret)
            known.append(secret)
        self._tell()

    def _tell(self) -> None:
        self._scrubber.update(self._planned.union(*self._learnt.values()))
