"""Whom the daemon serves over MCP: the gateway, opened and closed as moltis.toml says, and its access tokens."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import anyio

from moltis.config.plan import Plan, ServerPlan
from moltis.errors import Busy, ConfigError
from moltis.server.states import State
from moltis.threads import in_thread

if TYPE_CHECKING:  # imported where there is one
    from moltis.daemon.serving import Serving
    from moltis.gateway.api import GatewayApi, Known
    from moltis.gateway.gateway import Gateway
    from moltis.gateway.tokens import Created, Scope, TokenInfo
    from moltis.session.face import Face


class Hosts:
    """The hosts of one daemon; fits `operations.api.HostsApi`.

    make: makes the gateway of a plan. sockets: that hosts connect to already.
    ending: none is opened any more once this is set.
    """

    def __init__(self, make: Callable[[Plan], Serving], sockets: Sequence[socket.socket], ending: anyio.Event) -> None:
        self._make = make
        self._sockets = sockets
        self._ending = ending
        self._wanted = False
        self._serving: Serving | None = None

    async def go_by(self, plan: Plan) -> None:
        """Serve hosts if `[gateway]` says so, and as it says."""
        self._wanted = plan.gateway.enabled
        if not self._wanted:
            await self.close()
        elif self._serving is not None:
            self._serving.apply(plan)
            await self._serving.reread_tokens()
        elif not self._ending.is_set():
            self._serving = self._make(plan)
            sockets, self._sockets = self._sockets, ()
            await self._serving.start(sockets)

    def refuse_requests(self) -> None:
        """Take no more requests of hosts: the servers are about to be stopped."""
        if self._serving is not None:
            self._serving.begin_to_close()

    async def close(self) -> None:
        """Serve hosts no more; at most a moment."""
        serving, self._serving = self._serving, None
        if serving is not None:
            await serving.aclose()

    @property
    def url(self) -> str | None:
        """Where they are served over HTTP; None where they are not."""
        return self._serving.url if self._serving is not None else None

    @property
    def problem(self) -> str | None:
        """Why they are not served over HTTP, and what mends that; None where nothing is wrong."""
        return self._serving.problem if self._serving is not None else None

    @property
    def served_by(self) -> Gateway | None:
        """The gateway, while it is open."""
        return self._serving.gateway if self._serving is not None else None

    def known(self, plan: ServerPlan) -> Known | None:
        """What a server listed when it was last ready; None if nobody knows, or no hosts are served."""
        return self._serving.known(plan) if self._serving is not None else None

    def face(self, name: str) -> Face | None:
        """Return the host that an instance serves; None of what is none."""
        return self._serving.face(name) if self._serving is not None else None

    def end_instance(self, name: str) -> None:
        """Stop an instance for good."""
        if self._serving is not None:
            self._serving.end_instance(name)

    def unseen(self, plan: ServerPlan) -> bool:
        """Whether hosts are served, and nobody knows what this server has for them."""
        return self._serving is not None and self._serving.unseen(plan)

    # --- what operations ask

    def gateway(self) -> GatewayApi | None:
        if self._serving is None and self._wanted:
            raise Busy("the daemon is starting or stopping", hint="try again in a moment")
        return self.served_by

    async def create_token(
        self, name: str, scope: Scope, expires_days: float | None, projects: Sequence[str] | None
    ) -> Created:
        return await in_thread(self._open().tokens.create, name, scope, expires_days, projects)

    async def tokens(self) -> list[TokenInfo]:
        serving = self._open()
        await serving.reread_tokens()
        return serving.tokens.tokens()

    async def revoke_token(self, name: str) -> None:
        await self._open().revoke_token(name)

    def _open(self) -> Serving:
        if self._serving is None:
            told = "the gateway is switched off"
            raise ConfigError(told, hint="set enabled = true in [gateway] of moltis.toml")
        return self._serving

    # --- what the daemon tells

    def server_moved(self, plan: ServerPlan, state: State) -> None:
        if self._serving is not None:
            self._serving.server_moved(plan, state)

    def lists_changed(self, name: str) -> None:
        if self._serving is not None:
            self._serving.lists_changed(name)

    def notified(self, name: str, method: str, params: bytes) -> None:
        if self._serving is not None:
            self._serving.gateway.notified(name, method, params)
