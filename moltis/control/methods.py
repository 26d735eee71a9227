"""Every method of the control socket.

Each is a few lines between its params and the daemon: what is decided here is only what the daemon cannot know, which
is how to tell whoever asked what to do next. The one rule: a method raises MoltisError or gives its result.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw

from moltis.config.kinds import KINDS
from moltis.control import hosting, openrpc, reach
from moltis.control.api import CallHandle, DaemonApi, DaemonStatus, Reloaded, SessionApi, Tried
from moltis.control.events import MAX_SUBSCRIPTIONS
from moltis.control.params import (
    AddServer,
    BeginLogin,
    CallTool,
    CompleteLogin,
    Connect,
    CreateToken,
    EndLogin,
    GetPrompt,
    History,
    ListServers,
    LoginStarted,
    Ok,
    OkName,
    OkRemoved,
    OneName,
    OneServer,
    OneToken,
    OneValue,
    PerhapsOneServer,
    ReadResource,
    RequestTimeout,
    Subscribe,
    Subscribed,
    Tail,
    TestServer,
    Unsubscribe,
    UpdateServer,
    entry_of,
)
from moltis.control.reach import Relayed, runnable
from moltis.control.registry import Caller, Nothing, Registry
from moltis.errors import UsageError
from moltis.gateway.tokens import Created, TokenInfo
from moltis.names import did_you_mean, name_problem
from moltis.server.status import HistoryEntry, ServerStatus
from moltis.session.calls import OnReply
from moltis.session.listing import Kind

METHODS: Final = Registry()
"""All of them; complete once this module is imported, and never changed after that."""


# --- the daemon


@METHODS.method("daemon.status")
def daemon_status(params: Nothing, daemon: DaemonApi) -> DaemonStatus:
    """Show the daemon: version, pid, paths, and its servers counted by state."""
    return daemon.status()


@METHODS.method("daemon.reload")
async def daemon_reload(params: Nothing, daemon: DaemonApi) -> Reloaded:
    """Read moltis.toml again and touch only the servers whose entries changed."""
    return await daemon.reload()


@METHODS.method("daemon.shutdown")
def daemon_shutdown(params: Nothing, daemon: DaemonApi, caller: Caller) -> Ok:
    """Stop all servers and the daemon."""
    caller.after_reply(daemon.shutdown)
    return Ok()


# --- what is seen of servers


@METHODS.method("mcp.list", exposes="list of server status")
def list_servers(params: ListServers, daemon: DaemonApi) -> list[ServerStatus]:
    """Show all servers, in the order of moltis.toml."""
    if params.project is not None:
        raise UsageError("projects are not supported by this version yet", hint="leave 'project' out")
    return [server.status() for server in daemon.servers()]


@METHODS.method("mcp.status", exposes="server status")
def server_status(params: OneServer, daemon: DaemonApi) -> ServerStatus:
    """Show one server."""
    return daemon.server(params.name).status()


@METHODS.method(
    "mcp.history", exposes="transitions, oldest first: `at from to reason attempt delay_secs pid exit_code`"
)
def history(params: History, daemon: DaemonApi) -> list[HistoryEntry]:
    """Show a server's transitions, oldest first."""
    return daemon.server(params.name).history(params.limit)


@METHODS.method("mcp.tools", exposes="as the server sent them, each with `server` added")
async def tools(params: PerhapsOneServer, daemon: DaemonApi) -> Raw:
    """List the tools of one server, or of all that are ready."""
    return await reach.listed(Kind.TOOLS, params.name, daemon)


@METHODS.method("mcp.resources", exposes="as the server sent them, each with `server` added")
async def resources(params: PerhapsOneServer, daemon: DaemonApi) -> Raw:
    """List the resources of one server, or of all that are ready."""
    return await reach.listed(Kind.RESOURCES, params.name, daemon)


@METHODS.method("mcp.prompts", exposes="as the server sent them, each with `server` added")
async def prompts(params: PerhapsOneServer, daemon: DaemonApi) -> Raw:
    """List the prompts of one server, or of all that are ready."""
    return await reach.listed(Kind.PROMPTS, params.name, daemon)


# --- what servers do


@METHODS.relayed("mcp.call", exposes="the MCP CallToolResult, verbatim")
def call_tool(params: CallTool, daemon: DaemonApi, on_reply: OnReply) -> Relayed:
    """Call a tool, and give its result exactly as the server sent it."""
    arguments = reach.arguments_object(params.arguments)

    def send(session: SessionApi) -> CallHandle:
        for item in session.items(Kind.TOOLS):  # on the path of each call, where `any` costs more
            if item.name == params.tool:
                return session.call_tool(params.tool, arguments, params.timeout_secs, on_reply)
        raise reach.no_such_tool(params.server, params.tool, session)

    return reach.relay(params.server, daemon, send, params.timeout_secs)


@METHODS.relayed("mcp.read_resource", exposes="the MCP result, verbatim")
def read_resource(params: ReadResource, daemon: DaemonApi, on_reply: OnReply) -> Relayed:
    """Read a resource, and give the result exactly as the server sent it."""
    return reach.relay(params.server, daemon, lambda s: s.read_resource(params.uri, None, on_reply))


@METHODS.relayed("mcp.get_prompt", exposes="the MCP result, verbatim")
def get_prompt(params: GetPrompt, daemon: DaemonApi, on_reply: OnReply) -> Relayed:
    """Fill in a prompt, and give the result exactly as the server sent it."""
    arguments = reach.arguments_object(params.arguments)
    return reach.relay(
        params.server, daemon, lambda session: session.get_prompt(params.name, arguments, None, on_reply)
    )


# --- what is done with servers


@METHODS.method("mcp.start")
async def start(params: OneServer, daemon: DaemonApi) -> Ok:
    """Start a server that was stopped, or one that waits for its next try."""
    await runnable(params.name, daemon).start()
    return Ok()


@METHODS.method("mcp.stop")
async def stop(params: OneServer, daemon: DaemonApi) -> Ok:
    """Stop a server until it is started again; returns when nothing of it is left."""
    await daemon.server(params.name).stop()
    return Ok()


@METHODS.method("mcp.restart")
async def restart(params: OneServer, daemon: DaemonApi) -> Ok:
    """Restart a server and forgive its failures."""
    await runnable(params.name, daemon).restart()
    return Ok()


@METHODS.method("mcp.enable")
async def enable(params: OneServer, daemon: DaemonApi) -> Ok:
    """Write `enabled = true` into moltis.toml, forgive failures, and run the server."""
    await daemon.set_enabled(daemon.server(params.name).status().name, True)
    return Ok()


@METHODS.method("mcp.disable")
async def disable(params: OneServer, daemon: DaemonApi) -> Ok:
    """Write `enabled = false` into moltis.toml and stop the server."""
    await daemon.set_enabled(daemon.server(params.name).status().name, False)
    return Ok()


@METHODS.method("mcp.add", params=AddServer, takes="`name` and the keys of `[mcp.servers.NAME]`")
async def add(params: Any, daemon: DaemonApi) -> OkName:
    """Write a new server into moltis.toml, comments kept, and run it."""
    problem = name_problem(params.name)
    if problem is not None:
        raise UsageError(f"name: {problem}")
    entry = {key: value for key, value in entry_of(params).items() if value is not None}
    await daemon.add_server(params.name, entry)
    return OkName(name=params.name)


@METHODS.method("mcp.update", params=UpdateServer, takes="`name` and keys; null clears one")
async def update(params: Any, daemon: DaemonApi) -> Ok:
    """Change keys of a server in moltis.toml; null clears one."""
    changes = entry_of(params)
    if not changes:
        raise UsageError("no key to change was given", server=params.name, hint="null clears a key")
    await daemon.update_server(daemon.server(params.name).status().name, changes)
    return Ok()


@METHODS.method("mcp.remove")
async def remove(params: OneServer, daemon: DaemonApi) -> OkRemoved:
    """Take a server out of moltis.toml and stop it."""
    await daemon.remove_server(daemon.server(params.name).status().name)
    return OkRemoved()


@METHODS.method(
    "mcp.test",
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
        return await daemon.try_server(daemon.server(params.name).status().name, None, copy=params.copy, sdk=params.sdk)
    return await daemon.try_server(params.name or "test", entry, sdk=params.sdk)


# --- configuration


@METHODS.method("mcp.config.get")
def get_config(params: Nothing, daemon: DaemonApi) -> RequestTimeout:
    """Show the settings of all servers that can be changed here."""
    return RequestTimeout(request_timeout_secs=daemon.request_timeout_secs())


@METHODS.method("mcp.config.update")
async def update_config(params: RequestTimeout, daemon: DaemonApi) -> RequestTimeout:
    """Write `[mcp] request_timeout_secs` into moltis.toml."""
    await daemon.set_request_timeout_secs(params.request_timeout_secs)
    return RequestTimeout(request_timeout_secs=daemon.request_timeout_secs())


@METHODS.method("env.list", exposes="names only, never values")
def list_env(params: Nothing, daemon: DaemonApi) -> list[str]:
    """Show the names of the placeholders that `moltis env` keeps values for."""
    return daemon.env_names()


@METHODS.method("env.set")
async def set_env(params: OneValue, daemon: DaemonApi) -> Ok:
    """Keep a value for a placeholder; servers that use it are started anew."""
    await daemon.set_env(params.name, params.value)
    return Ok()


@METHODS.method("env.unset")
async def unset_env(params: OneName, daemon: DaemonApi) -> Ok:
    """Forget the value of a placeholder."""
    if not await daemon.unset_env(params.name):
        near = did_you_mean(params.name, daemon.env_names())
        raise UsageError(f"no value is kept for {params.name!r}{near}", hint="moltis env list")
    return Ok()


# --- access tokens


@METHODS.method("token.create")
async def create_token(params: CreateToken, daemon: DaemonApi) -> Created:
    """Make an access token for the HTTP endpoint; its value is given here and never again."""
    return await daemon.create_token(params.name, params.scope, params.expires_days)


@METHODS.method("token.list", exposes="list of `name scope created_at expires_at last_used_at`, never the values")
async def list_tokens(params: Nothing, daemon: DaemonApi) -> list[TokenInfo]:
    """Show all access tokens, oldest first, expired ones among them."""
    return await daemon.tokens()


@METHODS.method("token.revoke")
async def revoke_token(params: OneToken, daemon: DaemonApi) -> Ok:
    """Forget an access token; whoever has it is let in no more."""
    await daemon.revoke_token(params.name)
    return Ok()


# --- logging in


@METHODS.method("mcp.reauth", aliases=("mcp.oauth.start",))
async def reauth(params: BeginLogin, daemon: DaemonApi) -> LoginStarted:
    """Have a person log in to a remote server; whoever asks meanwhile shares the same login."""
    server = runnable(params.name, daemon).status()
    kind = KINDS[server.transport]
    if not kind.logs_in:
        raise UsageError(f"server {server.name!r} is {kind.described} and needs no login", server=server.name)
    auth_url = await daemon.begin_login(server.name, new_client=params.new_client)
    return LoginStarted(oauth_pending=auth_url is not None, auth_url=auth_url)


@METHODS.method("mcp.logout")
async def log_out(params: EndLogin, daemon: DaemonApi) -> Ok:
    """Revoke and forget a login's tokens (RFC 7009), and its registration if that is wanted (RFC 7592)."""
    server = runnable(params.name, daemon).status()
    kind = KINDS[server.transport]
    if not kind.logs_in:
        raise UsageError(f"server {server.name!r} is {kind.described} and has no login", server=server.name)
    await daemon.end_login(server.name, forget_client=params.forget_client)
    return Ok()


@METHODS.method("mcp.oauth.complete")
async def complete_login(params: CompleteLogin, daemon: DaemonApi) -> OkName:
    """Go on with a login by what the browser was sent back with: the whole address, or its state and code."""
    if params.callback_url is None and params.state is None:
        raise UsageError(
            "Invalid params: callback_url, or state and code, is missing",
            hint="paste the address that the browser ended at",
        )
    name = await daemon.complete_login(
        params.callback_url, state=params.state, code=params.code, iss=params.iss, error=params.error
    )
    return OkName(name=name)


# --- hosts


@METHODS.method("mcp.connect", exposes="`ok`, and from then on MCP: this connection is a host's, as over stdio")
def connect(params: Connect, daemon: DaemonApi, caller: Caller) -> Ok:
    """Make this connection an MCP host's, of all servers or of one; what follows the answer is MCP, line by line."""
    hosting.hand_over(params.server, daemon, caller)
    return Ok()


# --- what happens


@METHODS.method("logs.tail", exposes="log records, as they stand in logs.jsonl")
async def tail(params: Tail, daemon: DaemonApi) -> list[Raw]:
    """Show the last log records, oldest first."""
    return await daemon.log_tail(params.limit, params.server, params.level)


@METHODS.method("mcp.subscribe", exposes="`subscription_id`, then notifications `mcp.event`; the first is a snapshot")
def subscribe(params: Subscribe, daemon: DaemonApi, caller: Caller) -> Subscribed:
    """Have events sent to this connection as notifications, first of all a snapshot of all servers."""
    if len(caller.subscriptions) >= MAX_SUBSCRIPTIONS:
        raise UsageError(f"this connection has {MAX_SUBSCRIPTIONS} subscriptions already", hint="mcp.unsubscribe")
    subscription = daemon.events.subscribe(params.events, caller.sink)
    caller.subscriptions[subscription.id] = subscription
    caller.after_reply(lambda: subscription.open(lambda: [server.status() for server in daemon.servers()]))
    return Subscribed(subscription_id=subscription.id)


@METHODS.method("mcp.unsubscribe")
def unsubscribe(params: Unsubscribe, daemon: DaemonApi, caller: Caller) -> Ok:
    """End a subscription of this connection."""
    subscription = caller.subscriptions.pop(params.subscription_id, None)
    if subscription is None:
        raise UsageError(f"this connection has no subscription {params.subscription_id[:80]!r}")
    subscription.close()
    return Ok()


@METHODS.method("rpc.discover", exposes="an OpenRPC document")
def discover(params: Nothing, daemon: DaemonApi) -> Raw:
    """Describe all methods, as an OpenRPC document."""
    return openrpc.document(METHODS)
