"""What becomes of a message that came to nothing, and of the connection with it.

The one rule: a handshake that cannot be begun is told by the end of the connection alone, which says more than the
failure of a request could, such as when to try again.
"""

from __future__ import annotations

from moltis.errors import MoltisError, NotSent
from moltis.server.states import FailureKind
from moltis.transport import Ended, Outgoing
from moltis.transport.remote.base import RemoteConnection
from moltis.transport.remote.exchange import NotLetIn
from moltis.transport.remote.outcomes import Asked, Do, Outcome
from moltis.transport.remote.replies import unknown_method

__all__ = ["come_to_nothing", "turned_away", "unavailable"]


def turned_away(connection: RemoteConnection, asked: Asked, about: Outgoing, fault: NotLetIn) -> None:
    """Let a message fail that could not be sent, or was refused, for want of credentials."""
    if asked.opens:
        connection.lose(fault.ended or unavailable(fault.error))
        return
    if fault.ended is not None:
        connection.lose(fault.ended, waits=True)
    connection.fail(about, fault.error, sent=not isinstance(fault.error, NotSent))


def unavailable(error: MoltisError) -> Ended:
    """Give how a connection ends that could not be begun because its login cannot be renewed now."""
    return Ended(
        FailureKind.LOGIN_UNAVAILABLE if isinstance(error, NotSent) else FailureKind.CONNECT_FAILED, error.message
    )


def come_to_nothing(connection: RemoteConnection, asked: Asked, about: Outgoing, found: Outcome) -> None:
    """Let a message fail whose outcome is `FAIL` or `LOSE`, or answer a probe in the server's place."""
    if found.do is Do.UNKNOWN_METHOD:
        connection.receive(unknown_method(about.id or 0, found.words))
        return
    if found.do is Do.LOSE:
        assert found.kind
        connection.lose(Ended(found.kind, found.words, retry_after_secs=found.held_secs), waits=not asked.opens)
    if not asked.opens:
        connection.fail(about, connection.not_ready(found.words, held_secs=found.held_secs))
