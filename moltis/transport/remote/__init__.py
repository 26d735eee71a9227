"""Remote servers: Streamable HTTP of both protocol eras, and the older HTTP+SSE.

    opening      a transport of what moltis.toml says; `transport = "sse"`: either kind
    base         what every connection is: a task, and a task for each message
    streamable   Streamable HTTP: one POST a message, its reply as JSON or as a stream
      exchange   one request and the head of its answer; gate: held back by Retry-After
      outcomes   what an answer means for its message, pure
      incoming   messages out of an answer; events: server-sent events, pure; replies: is it the reply, pure
      sessions   the session up to 2025-11-25; renewal: begun anew when lost; standing: its GET stream
      failures   what becomes of a message that came to nothing
      headers    what MCP wants in HTTP headers, pure
    legacy       HTTP+SSE of MCP 2024-11-05: one GET stream, messages posted beside it

This file is the seam to whoever holds credentials: neither side imports the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Credentials", "NoCredentials", "Refusal"]


@dataclass(frozen=True, slots=True, repr=False)
class Refusal:
    """A server refused a request for what it carried.

    status: 401 or 403.
    challenges: the WWW-Authenticate field values, as received; at most 8 of at most 4 KiB each.
    sent: the Authorization value that the refused request carried, None if it carried none.
    """

    status: int
    challenges: tuple[str, ...]
    sent: str | None


class Credentials(Protocol):
    """Who lets requests in. Waiting here holds up the one request that waits, nothing else."""

    async def authorization(self) -> str | None:
        """Give the value of the Authorization header of the next request, fresh; None sends none.

        Raises:
            LoginNeeded: there is none until a person has logged in.
            ServerNotReady: there is none now, because the authorization server cannot be reached.
        """

    async def refused(self, refusal: Refusal) -> bool:
        """Take note of a refusal, and say whether the same request may be sent once more with what is there now.

        False: nobody can log in to change it; the refusal is an answer like any other.

        Raises:
            LoginNeeded: a person must log in; `auth_url` is in it if it was known soon enough.
            ServerNotReady: the authorization server cannot be reached now.
        """


class NoCredentials:
    """For a server that is reached as it is, with the headers of moltis.toml alone."""

    async def authorization(self) -> str | None:
        return None

    async def refused(self, refusal: Refusal) -> bool:
        return False
