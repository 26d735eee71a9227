"""What the control methods ask of the daemon, and the shapes of what they answer.

Methods know these protocols and nothing behind them. Everything here is called on the event loop, and what is not
`async` answers from memory at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal, Protocol

import msgspec

from moltis.gateway.api import GatewayApi
from moltis.gateway.tokens import Created, Scope, TokenInfo
from moltis.operations.events import EventBus
from moltis.sdk.messages import Difference
from moltis.server.status import HistoryEntry, ServerStatus
from moltis.session.calls import OnReply
from moltis.session.listing import Item, Kind


class CallHandle(Protocol):
    """A request on its way to a server."""

    def cancel(self) -> None:
        """Tell the server to give it up; its outcome is not delivered. Idempotent, harmless once it is answered."""


class SessionApi(Protocol):
    """A ready server, as `moltis.session.session.Session` is one.

    A call answers once, through `on_reply`; when it raises MoltisError nothing was sent, and `on_reply` is not called.
    """

    def items(self, kind: Kind) -> tuple[Item, ...]:
        """Return what is listed, less the tools that are filtered out."""

    def listed(self, kind: Kind, server: str) -> Iterable[bytes]:
        """Return a list as JSON objects, as the server sent them and with `server` added, each made when it is due."""

    def call_tool(
        self, tool: str, arguments: bytes | None, timeout_secs: float | None, on_reply: OnReply
    ) -> CallHandle: ...

    def get_prompt(
        self, name: str, arguments: bytes | None, timeout_secs: float | None, on_reply: OnReply
    ) -> CallHandle: ...

    def read_resource(self, uri: str, timeout_secs: float | None, on_reply: OnReply) -> CallHandle: ...


class ServerApi(Protocol):
    """One supervised server."""

    def status(self, *, measured: bool = False) -> ServerStatus:
        """Show it as anyone outside may see it. `measured`: with its memory, which is looked up for this."""

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        """Return its last `limit` transitions, oldest first; None gives all that are kept."""

    def session(self) -> SessionApi | None:
        """Return what calls may be sent to; None unless it is `ready`."""

    def last_listed(self, kind: Kind) -> Iterable[bytes] | None:
        """Return a list of one that is idle as `SessionApi.listed` gave it last; None of any other, or if unknown."""

    def wakes(self) -> bool:
        """Whether it does not run and will once somebody needs it, as whoever holds it does."""

    def held(self) -> AbstractContextManager[None]:
        """Need it meanwhile: one that is idle starts, and none becomes idle."""

    async def wait_settled(self) -> None:
        """Wait while it is on its way to another state, for better or worse. The caller bounds the wait."""

    async def start(self) -> None:
        """Have it run; returns when that is visible in its status. Nothing happens if it is running."""

    async def stop(self) -> None:
        """Have it stopped; returns when nothing of it is left."""

    async def restart(self) -> None:
        """Have it run anew with its failures forgiven; returns when that is visible in its status."""


class DaemonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon itself."""

    name: str
    version: str
    pid: int
    started_at: str
    uptime_secs: float
    config_path: str
    data_dir: str
    socket_path: str
    gateway_url: str | None
    gateway_problem: str | None
    """Why hosts are not served over HTTP, and what mends that."""
    servers: dict[str, int]
    """`total`, and a count by state."""
    rss_bytes: int | None = None
    """What the daemon's own process holds in memory, where that can be seen (Linux)."""


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload did, as names of servers."""

    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []
    unchanged: list[str] = []


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """What any client finds when it tries a server."""

    ok: bool
    protocol_version: str | None = None
    server_info: dict[str, Any] | None = None
    tool_count: int = 0
    resource_count: int = 0
    resource_template_count: int = 0
    prompt_count: int = 0
    latency_ms: float | None = None


class TriedBySdk(_Found, frozen=True, kw_only=True):
    """One try of a server by the official Python SDK's client. `note`: what it took, if that was unusual.

    latency_ms: from its start until everything was listed, without that of the process with the SDK.
    """

    error: str | None = None
    note: str | None = None
    sdk_version: str | None = None


class Tried(_Found, frozen=True, kw_only=True):
    """One try of a server.

    latency_ms: from its start, or from the question, until its tools were listed.
    running: the one that runs was asked, and no other one started.
    error: why it failed; hints: what mends that.
    sdk: the same by the official SDK's client, if that was asked for; differences: where the two differ.
    """

    running: bool = False
    error: str | None = None
    hints: list[str] = []
    sdk: TriedBySdk | None = None
    differences: list[Difference] = []


class ServersApi(Protocol):
    """The servers, by name. What writes moltis.toml returns when that is written and in force."""

    def all(self) -> Sequence[ServerApi]:
        """Return all servers, in file order."""

    def one(self, name: str) -> ServerApi:
        """Return one server.

        Raises:
            UnknownServer: there is none of that name.
        """

    async def add(self, name: str, entry: Mapping[str, Any]) -> None:
        """Write a new server into moltis.toml and run it. `entry`: keys of section `[mcp.servers.NAME]`.

        Raises:
            ConfigError: the entry is wrong, the name is taken, or the file cannot be written.
        """

    async def update(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change keys of a server in moltis.toml; None clears one. Raises as `add`, and UnknownServer."""

    async def remove(self, name: str) -> None:
        """Take a server out of moltis.toml and stop it. Raises ConfigError and UnknownServer."""

    async def set_enabled(self, name: str, enabled: bool) -> None:
        """Write `enabled` into moltis.toml; enabling forgives failures. Raises ConfigError and UnknownServer."""

    async def try_one(
        self, name: str, entry: Mapping[str, Any] | None, *, copy: bool = False, sdk: bool = False
    ) -> Tried:
        """Ask a server that is running for its tools; start any other once, list its tools, and end it.

        Cancelling it ends what it has started. entry: keys of a server that is in no file, then `name` is just how it
        is called; None tries the configured one. copy: start one beside the running one, which may mind that.
        sdk: and another by the official SDK's client, in a process of its own.

        Raises:
            UnknownServer: no entry, and there is none of that name.
            ConfigError: the entry is wrong.
        """


class ConfigurationApi(Protocol):
    """moltis.toml and env.toml. What writes one of them returns when that is written and in force."""

    async def reload(self) -> Reloaded:
        """Read moltis.toml again; only servers whose entries changed are touched.

        Raises:
            ConfigError: it cannot be read; everything stays as it is.
        """

    def request_timeout_secs(self) -> float:
        """Return `[mcp] request_timeout_secs`."""

    async def set_request_timeout_secs(self, secs: float) -> None:
        """Write `[mcp] request_timeout_secs` into moltis.toml. Raises ConfigError."""

    def env_names(self) -> list[str]:
        """Return the names that `moltis env` keeps values for, never the values."""

    async def set_env(self, name: str, value: str) -> None:
        """Keep a value for a placeholder. Raises ConfigError."""

    async def unset_env(self, name: str) -> bool:
        """Forget a value; False when there was none."""


class LoginsApi(Protocol):
    """The logins of remote servers."""

    async def begin(self, name: str, *, new_client: bool = False) -> str | None:
        """Have a person log in to a server, and return the address for the browser; a login under way is shared.

        None: it logs in without a person, and has done so.
        new_client: with a new registration, which ends a login under way.

        Raises:
            MoltisError: it cannot be done; the message says why.
        """

    async def end(self, name: str, *, forget_client: bool) -> None:
        """Revoke and forget the login of a server, which then waits for a person to log in.

        forget_client: and the registration that it was made with.

        Raises:
            MoltisError: it has none.
        """

    async def complete(
        self, callback_url: str | None, *, state: str | None, code: str | None, iss: str | None, error: str | None
    ) -> str:
        """Go on with the login that this answers, and return the server's name.

        Raises:
            MoltisError: no login waits for it, or it is refused.
        """


class HostsApi(Protocol):
    """Whom the daemon serves over MCP, and the access tokens that let them in."""

    def gateway(self) -> GatewayApi | None:
        """Return what MCP hosts are served by; None when there is none. Raises Busy when it is not open now."""

    async def create_token(
        self, name: str, scope: Scope, expires_days: float | None, projects: Sequence[str] | None
    ) -> Created:
        """Make an access token; None: it never expires, and is bound to no project. Raises UsageError, ConfigError."""

    async def tokens(self) -> list[TokenInfo]:
        """Return all access tokens, without their values. Raises ConfigError."""

    async def revoke_token(self, name: str) -> None:
        """Forget an access token, and end what it let in. Raises UsageError and ConfigError."""


class ProjectShown(msgspec.Struct, frozen=True):
    """A project. servers: what it gets, as it is called there."""

    name: str
    path: str
    servers: list[str]


class ProjectRow(msgspec.Struct, frozen=True):
    """Whether a project gets a server, and why not. `server`: as it is called there."""

    server: str
    scope: Literal["global", "project"]
    included: bool
    reason: Annotated[
        Literal["disabled", "excluded", "cap", "invalid"] | None,
        msgspec.Meta(description="invalid: its own, and named like one of all projects"),
    ] = None


class ProjectsApi(Protocol):
    """The projects. What writes moltis.toml returns when that is written and in force."""

    def all(self) -> list[ProjectShown]:
        """Return all projects, in file order."""

    def rows(self, name: str) -> list[ProjectRow]:
        """Return what a project gets and what not, its own servers first. Raises UnknownProject."""

    def servers_of(self, name: str) -> list[str]:
        """Return what a project gets, by the names that servers are supervised under. Raises UnknownProject."""

    async def add(self, name: str, path: str) -> None:
        """Write a new project into moltis.toml. Raises UsageError and ConfigError."""

    async def remove(self, name: str) -> None:
        """Take a project out of moltis.toml and stop its own servers. Raises UnknownProject and ConfigError."""

    async def exclude(self, name: str, server: str) -> None:
        """Have a project do without a server of all. Raises UnknownProject, UnknownServer and ConfigError."""

    async def include(self, name: str, server: str) -> None:
        """Exclude a server no more. Raises as `exclude`."""


class DaemonApi(Protocol):
    """The running daemon, in parts."""

    @property
    def servers(self) -> ServersApi: ...

    @property
    def configuration(self) -> ConfigurationApi: ...

    @property
    def projects(self) -> ProjectsApi: ...

    @property
    def logins(self) -> LoginsApi: ...

    @property
    def hosts(self) -> HostsApi: ...

    @property
    def events(self) -> EventBus:
        """What happens here, for subscribers."""

    def status(self) -> DaemonStatus: ...

    def shutdown(self) -> None:
        """Begin to end, once the reply to whoever asked is on its way."""

    async def log_tail(self, limit: int, server: str | None, level: str | None) -> list[msgspec.Raw]:
        """Return the last records of logs.jsonl that match, oldest first, as they stand there.

        level: the lowest to return.
        """
