"""What is to run: the configuration with placeholders expanded and defaults filled in.

A `Plan` compares by value, so that a reload is the difference of two plans. It holds secrets and never leaves the
process; what is shown is in `Shown`, which is built from the text as written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec.structs import replace

from moltis.config.kinds import KINDS, Kind
from moltis.config.limits import Limits
from moltis.errors import ConfigError

if TYPE_CHECKING:  # where none is written, it is not imported
    from moltis.proxies import Proxies, Way

Protocol = Literal["auto", "legacy", "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]
Elicitation = Literal["host", "defaults", "none"]
Asked = Literal["host", "none"]
Start = Literal["always", "on_demand"]
Share = Literal["all", "host"]

IDLE_STOP_SECS: Final = 600.0
MAX_INSTANCES: Final = 8
DEFAULT_CAP = 5
"""`max_servers_per_project`: the manual's."""

ToolSeparator = Literal["__", ".", "/"]


class Shown(msgspec.Struct, frozen=True):
    """What anyone outside may see of a server's entry: built from the text as written, never from expanded values."""

    url: str | None = None
    header_names: tuple[str, ...] = ()
    command: str | None = None
    arg_count: int = 0
    env_names: tuple[str, ...] = ()
    env_withheld: tuple[str, ...] = ()
    """Variables for proxies and certificates that the daemon has and this server does not get."""
    env_sources: tuple[tuple[str, str], ...] = ()
    """Of each variable of `env` where its value comes from, which is where another one has to go: `env set NAME`,
    `[env] NAME`, `environment NAME` (the daemon's), or `moltis.toml` where it is written out."""


class Launch:
    """How a server is started or reached, expanded; each kind has its own. Compares by value, and shows no secret."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, repr=False)
class StdioLaunch(Launch):
    """How to start a local server. `env` is the server's own, expanded; the base environment is added at spawn."""

    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None

    def __repr__(self) -> str:
        return f"StdioLaunch({self.command!r}, {len(self.args)} args, {len(self.env)} env)"


@dataclass(frozen=True, slots=True, repr=False)
class RemoteLaunch(Launch):
    """How to reach a remote server, expanded.

    ca_file: certificates to trust beside the system's.
    proxies: what it, and whoever gives out tokens for it, is reached through; None: nothing.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    oauth: tuple[tuple[str, object], ...] = ()
    ca_file: str | None = None
    proxies: Proxies | None = None

    @property
    def way(self) -> Way | None:
        """How it is reached through a proxy; None where it is reached without one."""
        return None if self.proxies is None else self.proxies.way_to(self.url)

    @property
    def own_authorization(self) -> bool:
        """Whether moltis.toml gives the Authorization header and no [oauth]: then there is no login."""
        return not self.oauth and any(name.lower() == "authorization" for name, _ in self.headers)

    def __repr__(self) -> str:
        return f"RemoteLaunch({len(self.headers)} headers)"


class ServerPlan(msgspec.Struct, frozen=True):
    """One server, ready to run, or invalid with the reason in `problem` (then `launch` is None)."""

    name: str
    transport: str = "stdio"
    """Its kind: a name of `kinds.KINDS`."""
    launch: Launch | None = None
    limits: Limits = msgspec.field(default_factory=Limits)
    shown: Shown = msgspec.field(default_factory=Shown)
    display_name: str | None = None
    label: str | None = None
    """What its tools are named after where servers are shown as one; None: its name."""
    enabled: bool = True
    protocol: Protocol = "auto"
    elicitation: Elicitation = "host"
    sampling: Asked = "host"
    roots: Asked = "host"
    include_tools: tuple[str, ...] = ()
    exclude_tools: tuple[str, ...] = ()
    proxy: str | None = None
    """Of a remote server, as it may be shown: `none`, `env`, or a URL less its password."""
    start: Start = "always"
    idle_stop_secs: float = IDLE_STOP_SECS
    """Of one that does not always run: how long it goes on without use; 0: for ever."""
    share: Share = "all"
    max_instances: int = MAX_INSTANCES
    template: str | None = None
    """Of an instance, which serves one host alone: the server of moltis.toml that it is one of."""
    problem: str | None = None
    project: str | None = None
    """Whose own it is; its name is `PROJECT/NAME` then. None: every project's that does not exclude it."""
    clashes: bool = False
    """Whether a server of all has its name already."""
    launch_mark: str = ""
    """Names how the server is reached, as written: transport, command, arguments and folder, or URL; never `env`."""

    @property
    def kind(self) -> Kind:
        """What there is to know of all servers like it."""
        return KINDS[self.transport]

    @property
    def on_demand(self) -> bool:
        """Whether it runs only while it is needed."""
        return self.start == "on_demand"

    @property
    def entry(self) -> str:
        """The name of the entry that it was made of; logins, and what is known of a server, are the entry's."""
        return self.template or self.name

    @property
    def has_instances(self) -> bool:
        """Whether hosts are served by instances of it, each by its own."""
        return self.share != "all" and self.template is None

    def instance(self, name: str) -> ServerPlan:
        """Return the plan of one of its instances."""
        return replace(self, name=name, template=self.name)

    @property
    def launch_key(self) -> object:
        """What a running process was started from: when this is unchanged, a reload need not restart it."""
        asked = (self.elicitation, self.sampling, self.roots)
        return (self.transport, self.launch, self.protocol, asked, self.limits.max_message_bytes)

    @property
    def undeclared(self) -> frozenset[str]:
        """The capabilities of hosts that this server is not told of; one that asks only if it can does without."""
        asked = {"elicitation": self.elicitation, "sampling": self.sampling, "roots": self.roots}
        return frozenset(name for name, who in asked.items() if who == "none")


class ProjectPlan(msgspec.Struct, frozen=True):
    """`[projects.NAME]`. path: as it is meant, absolute; empty where it is of no use. real: with links resolved."""

    name: str
    path: str = ""
    real: str = ""
    exclude: tuple[str, ...] = ()


class DaemonPlan(msgspec.Struct, frozen=True):
    """`[daemon]` and the part of `[mcp]` that belongs to no server."""

    log_level: str = "info"
    log_max_bytes: int = 10 * 1024 * 1024
    log_backups: int = 5
    browser_command: tuple[str, ...] = ("xdg-open",)
    encrypt_tokens: bool = False
    max_concurrent_starts: int = 8


class GatewayPlan(msgspec.Struct, frozen=True):
    """`[gateway]`. `problem`: why the endpoint must not be opened like this; it stays as it is, or the daemon ends."""

    enabled: bool = True
    listen: str = "127.0.0.1:8642"
    require_token: bool = True
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    rate_limit_per_minute: int = 0
    catalog_rate_limit_per_minute: int = 60
    tool_separator: ToolSeparator = "__"
    tool_name_chars: int = 50
    first_list_secs: float = 5.0
    """Of `[mcp]`: how long a first list at `/mcp` waits for servers that nothing is known of."""
    problem: str | None = None

    def refuse_if_open(self) -> None:
        """Refuse an endpoint that other machines can reach and that needs no token.

        Raises:
            ConfigError: this is one.
        """
        if self.problem is not None:
            raise ConfigError(f"[gateway] require_token {self.problem}", hint="moltis config check")


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """Everything that is to run, and every secret value that must never be written anywhere."""

    daemon: DaemonPlan = field(default_factory=DaemonPlan)
    gateway: GatewayPlan = field(default_factory=GatewayPlan)
    defaults: Limits = field(default_factory=Limits)
    env_pass: tuple[str, ...] = ()
    proxy: str = "none"
    """Of `[mcp]`, as it may be shown."""
    servers: tuple[ServerPlan, ...] = ()
    """Those of all, and then the projects' own."""
    projects: tuple[ProjectPlan, ...] = ()
    max_servers_per_project: int = DEFAULT_CAP
    secrets: frozenset[str] = frozenset()
    path: Path | None = None

    def server(self, name: str) -> ServerPlan | None:
        return next((s for s in self.servers if s.name == name), None)


class PlanDiff(msgspec.Struct, frozen=True):
    """Names, each in exactly one tuple, in file order."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()


def diff(old: Plan, new: Plan) -> PlanDiff:
    """Compare two plans server by server."""
    before = {s.name: s for s in old.servers}
    after = {s.name: s for s in new.servers}
    return PlanDiff(
        added=tuple(n for n in after if n not in before),
        changed=tuple(n for n, s in after.items() if n in before and before[n] != s),
        removed=tuple(n for n in before if n not in after),
        unchanged=tuple(n for n, s in after.items() if n in before and before[n] == s),
    )


def changed_sections(old: Plan, new: Plan) -> tuple[str, ...]:
    """Return which of `[gateway]`, `[daemon]`, `[mcp]` and `[projects]` differ from before, less servers."""
    before, after = _sections(old), _sections(new)
    return tuple(name for name in before if before[name] != after[name])


def _sections(plan: Plan) -> dict[str, object]:
    # Some keys of [mcp] are kept with what goes by them.
    gateway = replace(plan.gateway, first_list_secs=0.0)
    daemon = replace(plan.daemon, max_concurrent_starts=0)
    own = (plan.gateway.first_list_secs, plan.daemon.max_concurrent_starts, plan.max_servers_per_project)
    mcp = (plan.defaults, plan.env_pass, plan.proxy, own)
    return {"gateway": gateway, "daemon": daemon, "mcp": mcp, "projects": plan.projects}
