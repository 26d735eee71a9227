"""Whether a session is lost of which no answer says so: a bare 400, or an error that no request of ours is named in.

Pure. The one rule is that a refusal proves something only where the same was answered before, or is in a new session:
a server that refuses one malformed call, or knows no `ping`, must not lose its session for that.
"""

from __future__ import annotations

import enum
from http import HTTPStatus
from typing import Final

from moltis.transport.remote.replies import AboutSession, about_session, answers, speaks_of_session

__all__ = ["PING", "REPEATED", "UNRELATED", "Evidence", "Told", "says_nothing", "told"]

PING: Final = "ping"
LIST: Final = "tools/list"
"""What is asked where nothing was ever answered: a server without it refuses it in a new session too."""

UNRELATED: Final = frozenset({401, 408, 413, 414, 425, 429, 431})
"""Refusals that are about the login, the moment or the size of what was asked."""
TIMES: Final = frozenset({408, 425, 429})
PHRASES: Final = frozenset({"", "unprocessable content", *(status.phrase.lower() for status in HTTPStatus)})
"""Reason phrases (RFC 9110 section 15); 422 has a new one, which Python 3.11 does not know."""
REPEATED: Final = 2
"""Refusals in a row, in words about something else, until it may be the session after all."""


class Told(enum.Enum):
    """What the answer to a probe says of the session that the probe was sent in."""

    KNOWN = "the request was read, and answered under its id"
    LOST = "it says that it does not know it"
    REFUSED = "it does not answer what it was asked, and does not say why"
    NOTHING = "there is no answer, or none of the server's own"


def told(status: int, message: bytes, id: str) -> Told:
    """Return what the answer to a probe says. `message`: its body, or the reply in its stream. `id`: of the probe."""
    about = speaks_of_session(message, None) if 200 <= status < 300 else about_session(message, None)
    if about is not AboutSession.NOTHING:
        return Told.LOST
    if message and answers(message, id):
        return Told.KNOWN
    if status == 404:  # MCP 2025-11-25, Session Management
        return Told.LOST
    refused = 200 <= status < 300 or (400 <= status < 500 and status not in TIMES)
    return Told.REFUSED if refused else Told.NOTHING


def says_nothing(status: int, body: bytes) -> bool:
    """Whether the body of an error says no more than its status does, as "Bad Request" or "400 Bad Request"."""
    text = body[:100].decode("latin-1").strip(' \t\r\n".').lower()
    return text.removeprefix(str(status)).strip() in PHRASES


class Evidence:
    """What is known of the probes of one connection, whatever its session. Of use are `ping` and lists: harmless.

    refused: how many requests in a row were refused in this session, since it last served one.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._answered: dict[str, None] = {}
        self._disproved: set[str] = set()

    def served(self, method: str) -> None:
        """Take note that a request was answered."""
        if method != PING:
            self.refused = 0
        if method == PING or method.endswith("/list"):
            self._answered[method] = None
            self._disproved.discard(method)

    def disprove(self, method: str) -> None:
        """Take note that a new session refuses it as well: that it is refused says nothing of a session."""
        self._answered.pop(method, None)
        self._disproved.add(method)

    @property
    def answers_pings(self) -> bool:
        """Whether a `ping` that is refused says something."""
        return PING in self._answered

    def after_ping(self, ping: Told) -> str | None:
        """Return what else has to be asked to be sure, None if nothing has.

        A ping may be answered by who stands before the server, and refused by whoever knows none.
        """
        known = self.other(PING)
        if ping is Told.KNOWN:
            return known if self.refused >= REPEATED else None
        if ping is Told.REFUSED and not self.answers_pings:
            return known or (None if LIST in self._disproved else LIST)
        return None

    def other(self, than: str) -> str | None:
        """Return a list that was answered, other than one that was asked already."""
        return next((method for method in self._answered if method not in (PING, than)), None)
