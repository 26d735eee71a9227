"""Every operation.

Each is a few lines between its params and the daemon: what is decided here is only what the daemon cannot know, which
is how to tell whoever asked what to do next. It raises MoltisError or returns its result.

Who may: what only tells is READ. What hosts may have servers do, and nothing of which is written, is CALL. What is
written, names or makes secrets, or starts a command that whoever asks has chosen, is the daemon's own user's: ADMIN.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw

from moltis.access import Access
from moltis.config.kinds import KINDS
from moltis.errors import UsageError
from moltis.gateway.tokens import Created, TokenInfo
from moltis.names import did_you_mean, supervised_name_problem
from moltis.operations import reach
from moltis.operations.api import (
    CallHandle,
    DaemonApi,
    DaemonStatus,
    ProjectRow,
    ProjectShown,
    Reloaded,
    SessionApi,
    Tried,
)
from moltis.operations.params import (
    AddServer,
    BeginLogin,
    CallTool,
    CompleteLogin,
    CreateToken,
    EndLogin,
    GetPrompt,
    History,
    ListServers,
    LoginStarted,
    NewProject,
    Nothing,
    Ok,
    OkName,
    OkRemoved,
    OneName,
    OneProject,
    OneServer,
    OneToken,
    OneValue,
    PerhapsOneServer,
    ReadResource,
    RequestTimeout,
    ServerOfProject,
    Tail,
    TestServer,
    UpdateServer,
    entry_of,
)
from moltis.operations.reach import Relayed, runnable
from moltis.operations.registry import Operations
from moltis.server.status import HistoryEntry, ServerStatus
from moltis.session.calls import OnReply
from moltis.session.listing import Kind
from moltis.slices import Slices

OPERATIONS: Final = Operations()
"""All of them; complete once this module is imported, and never changed after that."""


# --- the daemon


@OPERATIONS.operation("daemon.status", Access.READ)
def daemon_status(params: Nothing, daemon: DaemonApi) -> DaemonStatus:
    """Show the daemon: version, pid, paths, and its servers counted by state."""
    return daemon.status()


@OPERATIONS.operation("daemon.reload", Access.ADMIN)
async def daemon_reload(params: Nothing, daemon: DaemonApi) -> Reloaded:
    """Read moltis.toml again and touch only the servers whose entries changed."""
    return await daemon.configuration.reload()


@OPERATIONS.operation("daemon.shutdown", Access.ADMIN, afterwards=lambda daemon: daemon.shutdown())
def daemon_shutdown(params: Nothing, daemon: DaemonApi) -> Ok:
    """Stop all servers and the daemon."""
    return Ok()


# --- what is seen of servers


@OPERATIONS.operation("mcp.list", Access.READ, exposes="list of server status")
async def list_servers(params: ListServers, daemon: DaemonApi) -> list[ServerStatus]:
    """Show all servers, in the order of moltis.toml, or what a project gets, its own first."""
    servers = daemon.servers.all()
    if params.project is not None:
        servers = [daemon.servers.one(name) for name in daemon.projects.servers_of(params.project)]
    shown, slices = [], Slices()
    for server in servers:
        shown.append(server.status(measured=True))
        await slices.rest()
    return shown


@OPERATIONS.operation("mcp.status", Access.READ, exposes="server status")
def server_status(params: OneServer, daemon: DaemonApi) -> ServerStatus:
    """Show one server."""
    return daemon.servers.one(params.name).status(measured=True)


@OPERATIONS.operation(
    "mcp.history",
    Access.READ,
    exposes="transitions, oldest first: `at from to reason attempt delay_secs pid exit_code`",
)
def history(params: History, daemon: DaemonApi) -> list[HistoryEntry]:
    """Show a server's transitions, oldest first."""
    return daemon.servers.one(params.name).history(params.limit)


@OPERATIONS.operation("mcp.tools", Access.READ, exposes="as the server sent them, each with `server` added")
async def tools(params: PerhapsOneServer, daemon: DaemonApi) -> Raw:
    """List the tools of one server, or of all that are ready."""
    return await reach.listed(Kind.TOOLS, params.name, daemon)


@OPERATIONS.operation("mcp.resources", Access.READ, exposes="as the server sent them, each with `server` added")
async def resources(params: PerhapsOneServer, daemon: DaemonApi) -> Raw:
    """List the resources of one server, or of all that are ready."""
    return await reach.listed(Kind.RESOURCES, params.name, daemon)


@OPERATIONS.operation("mcp.prompts", Access.READ, exposes="as the server sent them, each with `server` added")
async def prompts(params: PerhapsOneServer, daemon: DaemonApi) -> Raw:
    """List the prompts of one server, or of all that are ready."""
    return await reach.listed(Kind.PROMPTS, params.name, daemon)


# --- what servers do


@OPERATIONS.relayed("mcp.call", Access.CALL, exposes="the MCP CallToolResult, verbatim")
def call_tool(params: CallTool, daemon: DaemonApi, on_reply: OnReply) -> Relayed:
    """Call a tool, and give its result exactly as the server sent it."""
    arguments = reach.arguments_object(params.arguments)

    def send(session: SessionApi) -> CallHandle:
        for item in session.items(Kind.TOOLS):  # on the path of each call, where `any` costs more
            if item.name == params.tool:
                return session.call_tool(params.tool, arguments, params.timeout_secs, on_reply)
        raise reach.no_such_tool(params.server, params.tool, session)

    return reach.relay(params.server, daemon, send, params.timeout_secs)


@OPERATIONS.relayed("mcp.read_resource", Access.READ, exposes="the MCP result, verbatim")
def read_resource(params: ReadResource, daemon: DaemonApi, on_reply: OnReply) -> Relayed:
    """Read a resource, and give the result exactly as the server sent it."""
    return reach.relay(params.server, daemon, lambda s: s.read_resource(params.uri, None, on_reply))


@OPERATIONS.relayed("mcp.get_prompt", Access.READ, exposes="the MCP result, verbatim")
def get_prompt(params: GetPrompt, daemon: DaemonApi, on_reply: OnReply) -> Relayed:
    """Fill in a prompt, and give the result exactly as the server sent it."""
    arguments = reach.arguments_object(params.arguments)
    return reach.relay(
        params.server, daemon, lambda session: session.get_prompt(params.name, arguments, None, on_reply)
    )


# --- what is done with servers


@OPERATIONS.operation("mcp.start", Access.CALL)
async def start(params: OneServer, daemon: DaemonApi) -> Ok:
    """Start a server that was stopped, or one that waits for its next try."""
    await runnable(params.name, daemon).start()
    return Ok()


@OPERATIONS.operation("mcp.stop", Access.CALL)
async def stop(params: OneServer, daemon: DaemonApi) -> Ok:
    """Stop a server until it is started again; returns when nothing of it is left."""
    await daemon.servers.one(params.name).stop()
    return Ok()


@OPERATIONS.operation("mcp.restart", Access.CALL)
async def restart(params: OneServer, daemon: DaemonApi) -> Ok:
    """Restart a server and forgive its failures."""
    await runnable(params.name, daemon).restart()
    return Ok()


@OPERATIONS.operation("mcp.enable", Access.ADMIN)
async def enable(params: OneServer, daemon: DaemonApi) -> Ok:
    """Write `enabled = true` into moltis.toml, forgive failures, and run the server."""
    await daemon.servers.set_enabled(daemon.servers.one(params.name).status().name, True)
    return Ok()


@OPERATIONS.operation("mcp.disable", Access.ADMIN)
async def disable(params: OneServer, daemon: DaemonApi) -> Ok:
    """Write `enabled = false` into moltis.toml and stop the server."""
    await daemon.servers.set_enabled(daemon.servers.one(params.name).status().name, False)
    return Ok()


@OPERATIONS.operation("mcp.add", Access.ADMIN, params=AddServer, takes="`name` and the keys of `[mcp.servers.NAME]`")
async def add(params: Any, daemon: DaemonApi) -> OkName:
    """Write a new server into moltis.toml, comments kept, and run it."""
    problem = supervised_name_problem(params.name)
    if problem is not None:
        raise UsageError(f"name: {problem}")
    entry = {key: value for key, value in entry_of(params).items() if value is not None}
    await daemon.servers.add(params.name, entry)
    return OkName(name=params.name)


@OPERATIONS.operation("mcp.update", Access.ADMIN, params=UpdateServer, takes="`name` and keys; null clears one")
async def update(params: Any, daemon: DaemonApi) -> Ok:
    """Change keys of a server in moltis.toml; null clears one."""
    changes = entry_of(params)
    if not changes:
        raise UsageError("no key to change was given", server=params.name, hint="null clears a key")
    await daemon.servers.update(daemon.servers.one(params.name).status().name, changes)
    return Ok()


@OPERATIONS.operation("mcp.remove", Access.ADMIN)
async def remove(params: OneServer, daemon: DaemonApi) -> OkRemoved:
    """Take a server out of moltis.toml and stop it."""
    await daemon.servers.remove(daemon.servers.one(params.name).status().name)
    return OkRemoved()


@OPERATIONS.operation(
    "mcp.test",
    Access.ADMIN,
    params=TestServer,
    takes="`name, copy?, sdk?`, or the keys of a server and `sdk?`",
    lasts="while connected",
)
async def test(params: Any, daemon: DaemonApi) -> Tried:
    """Ask a server that is running for its tools; start any other one once, and end it. Nothing is kept."""
    entry = {key: value for key, value in entry_of(params).items() if value is not None}
    if not entry and params.name is None:
        raise UsageError("Invalid params: 'name' is missing, or the keys of a server")
    if not entry:
        return await daemon.servers.try_one(
            daemon.servers.one(params.name).status().name, None, copy=params.copy, sdk=params.sdk
        )
    return await daemon.servers.try_one(params.name or "test", entry, sdk=params.sdk)


# --- configuration


@OPERATIONS.operation("mcp.config.get", Access.READ)
def get_config(params: Nothing, daemon: DaemonApi) -> RequestTimeout:
    """Show the settings of all servers that can be changed here."""
    return RequestTimeout(request_timeout_secs=daemon.configuration.request_timeout_secs())


@OPERATIONS.operation("mcp.config.update", Access.ADMIN)
async def update_config(params: RequestTimeout, daemon: DaemonApi) -> RequestTimeout:
    """Write `[mcp] request_timeout_secs` into moltis.toml."""
    await daemon.configuration.set_request_timeout_secs(params.request_timeout_secs)
    return RequestTimeout(request_timeout_secs=daemon.configuration.request_timeout_secs())


@OPERATIONS.operation("env.list", Access.ADMIN, exposes="names only, never values")
def list_env(params: Nothing, daemon: DaemonApi) -> list[str]:
    """Show the names of the placeholders that `moltis env` keeps values for."""
    return daemon.configuration.env_names()


@OPERATIONS.operation("env.set", Access.ADMIN)
async def set_env(params: OneValue, daemon: DaemonApi) -> Ok:
    """Keep a value for a placeholder; servers that use it are started anew."""
    await daemon.configuration.set_env(params.name, params.value)
    return Ok()


@OPERATIONS.operation("env.unset", Access.ADMIN)
async def unset_env(params: OneName, daemon: DaemonApi) -> Ok:
    """Forget the value of a placeholder."""
    if not await daemon.configuration.unset_env(params.name):
        near = did_you_mean(params.name, daemon.configuration.env_names())
        raise UsageError(f"no value is kept for {params.name!r}{near}", hint="moltis env list")
    return Ok()


# --- projects


@OPERATIONS.operation("project.list", Access.READ, exposes="list of `name path servers[]`")
def list_projects(params: Nothing, daemon: DaemonApi) -> list[ProjectShown]:
    """Show all projects, in the order of moltis.toml, with the servers that each gets."""
    return daemon.projects.all()


@OPERATIONS.operation(
    "project.show",
    Access.READ,
    exposes="rows `server scope(global, project) included reason(null, disabled, excluded, cap, invalid)`, in order",
)
def show_project(params: OneProject, daemon: DaemonApi) -> list[ProjectRow]:
    """Show which servers a project gets, which not and why: its own first, then those of all."""
    return daemon.projects.rows(params.name)


@OPERATIONS.operation("project.add", Access.ADMIN)
async def add_project(params: NewProject, daemon: DaemonApi) -> Ok:
    """Write a new project into moltis.toml, comments kept; it is served at once."""
    await daemon.projects.add(params.name, params.path)
    return Ok()


@OPERATIONS.operation("project.remove", Access.ADMIN)
async def remove_project(params: OneProject, daemon: DaemonApi) -> Ok:
    """Take a project out of moltis.toml, and stop its own servers."""
    await daemon.projects.remove(params.name)
    return Ok()


@OPERATIONS.operation("project.exclude", Access.ADMIN)
async def exclude_server(params: ServerOfProject, daemon: DaemonApi) -> Ok:
    """Have a project do without a server of all; written to moltis.toml."""
    await daemon.projects.exclude(params.project, params.server)
    return Ok()


@OPERATIONS.operation("project.include", Access.ADMIN)
async def include_server(params: ServerOfProject, daemon: DaemonApi) -> Ok:
    """Have a project get a server of all again; written to moltis.toml."""
    await daemon.projects.include(params.project, params.server)
    return Ok()


# --- access tokens


@OPERATIONS.operation("token.create", Access.ADMIN)
async def create_token(params: CreateToken, daemon: DaemonApi) -> Created:
    """Make an access token for the HTTP endpoint; its value is given here and never again."""
    for project in params.projects or ():
        daemon.projects.rows(project)  # none that is not there: another one of that name may come later
    return await daemon.hosts.create_token(params.name, params.scope, params.expires_days, params.projects)


@OPERATIONS.operation(
    "token.list",
    Access.ADMIN,
    exposes="list of `name scope projects created_at expires_at last_used_at`, never the values",
)
async def list_tokens(params: Nothing, daemon: DaemonApi) -> list[TokenInfo]:
    """Show all access tokens, oldest first, expired ones among them."""
    return await daemon.hosts.tokens()


@OPERATIONS.operation("token.revoke", Access.ADMIN)
async def revoke_token(params: OneToken, daemon: DaemonApi) -> Ok:
    """Forget an access token; whoever has it is let in no more."""
    await daemon.hosts.revoke_token(params.name)
    return Ok()


# --- logging in


@OPERATIONS.operation("mcp.reauth", Access.CALL, aliases=("mcp.oauth.start",))
async def reauth(params: BeginLogin, daemon: DaemonApi) -> LoginStarted:
    """Have a person log in to a remote server; whoever asks meanwhile shares the same login."""
    server = runnable(params.name, daemon).status()
    kind = KINDS[server.transport]
    if not kind.logs_in:
        raise UsageError(f"server {server.name!r} is {kind.described} and needs no login", server=server.name)
    auth_url = await daemon.logins.begin(server.name, new_client=params.new_client)
    return LoginStarted(oauth_pending=auth_url is not None, auth_url=auth_url)


@OPERATIONS.operation("mcp.logout", Access.ADMIN)
async def log_out(params: EndLogin, daemon: DaemonApi) -> Ok:
    """Revoke and forget a login's tokens (RFC 7009), and its registration if that is wanted (RFC 7592)."""
    server = runnable(params.name, daemon).status()
    kind = KINDS[server.transport]
    if not kind.logs_in:
        raise UsageError(f"server {server.name!r} is {kind.described} and has no login", server=server.name)
    await daemon.logins.end(server.name, forget_client=params.forget_client)
    return Ok()


@OPERATIONS.operation("mcp.oauth.complete", Access.ADMIN)
async def complete_login(params: CompleteLogin, daemon: DaemonApi) -> OkName:
    """Go on with a login by what the browser was sent back with: the whole address, or its state and code."""
    if params.callback_url is None and params.state is None:
        raise UsageError(
            "Invalid params: callback_url, or state and code, is missing",
            hint="paste the address that the browser ended at",
        )
    name = await daemon.logins.complete(
        params.callback_url, state=params.state, code=params.code, iss=params.iss, error=params.error
    )
    return OkName(name=name)


# --- what happens


@OPERATIONS.operation("logs.tail", Access.ADMIN, exposes="log records, as they stand in logs.jsonl")
async def tail(params: Tail, daemon: DaemonApi) -> list[Raw]:
    """Show the last log records, oldest first."""
    return await daemon.log_tail(params.limit, params.server, params.level)
