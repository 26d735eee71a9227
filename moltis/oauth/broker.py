"""One login: what is known of it, what is under way, and who waits for that.

Whoever sends requests asks for `authorization` and tells of a refusal; people begin a login and complete it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from anyio.abc import TaskGroup

from moltis.http.fetch import Fetcher
from moltis.oauth.callback import Callback
from moltis.oauth.model import AuthState, ClientConfig
from moltis.oauth.pages import Page
from moltis.oauth.store import TokenStore

OnCallback = Callable[[str], Awaitable[Page]]


class Refusal(Protocol):
    """What `transport.remote.Refusal` has."""

    @property
    def status(self) -> int: ...

    @property
    def challenges(self) -> Sequence[str]: ...

    @property
    def sent(self) -> str | None: ...


class Log(Protocol):
    """What `logs.Logger` has."""

    def info(self, message: str, /, **fields: Any) -> None: ...

    def warning(self, message: str, /, **fields: Any) -> None: ...

    def exception(self, message: str, /, **fields: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What a login needs of this machine: where the browser comes back to (`loopback.listen`), and the browser."""

    listen: Callable[[int, OnCallback], AbstractAsyncContextManager[str]]
    open_browser: Callable[[str], Awaitable[bool]]


class Login:
    """The login at one remote server; fits `transport.remote.Credentials`."""

    def __init__(
        self,
        server: str,
        url: str,
        config: ClientConfig,
        *,
        static_authorization: bool,
        store: TokenStore,
        fetcher: Fetcher,
        ports: Ports,
        tasks: TaskGroup,
        on_change: Callable[[], None],
        on_authenticated: Callable[[], None],
        wall: Callable[[], float],
        token: Callable[[], str],
        secrets: Callable[[Iterable[str]], None],
        log: Log,
    ) -> None:
        raise NotImplementedError

    # For status.

    @property
    def state(self) -> AuthState:
        raise NotImplementedError

    @property
    def auth_url(self) -> str | None:
        """Where a person logs in; only in `awaiting_browser`."""
        raise NotImplementedError

    @property
    def message(self) -> str | None:
        """Why it failed, or what is in the way; no secret."""
        raise NotImplementedError

    # For requests: transport.remote.Credentials.

    async def authorization(self) -> str | None:
        raise NotImplementedError

    async def refused(self, refusal: Refusal) -> bool:
        raise NotImplementedError

    # For people.

    async def begin(self, force: bool = True) -> str | None:
        """Begin a login, or join the one under way, and give its URL; None: nobody has to visit anything.

        Raises:
            OAuthProblem: it cannot be begun.
        """
        raise NotImplementedError

    def awaits(self, state: str) -> bool:
        """Whether a callback with this `state` belongs here: one that `complete` takes."""
        raise NotImplementedError

    async def complete(self, callback: Callback) -> None:
        """Complete the login with what the browser came back with, wherever that was read.

        Raises:
            OAuthProblem: it is not the answer to the login under way, or says no, or the code was not good.
        """
        raise NotImplementedError

    async def forget(self) -> None:
        """Revoke and delete the login, as far as that works; never raises. For a server that is removed."""
        raise NotImplementedError

    async def close(self) -> None:
        """End everything that is under way and wait until it has ended. A refresh has 2 s to finish."""
        raise NotImplementedError
