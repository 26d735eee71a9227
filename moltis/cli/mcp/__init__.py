"""`moltis mcp`: the servers."""

from __future__ import annotations

from moltis.cli.commands import LazyGroup

COMMANDS = {
    "list": ("moltis.cli.mcp.servers:list_", "List the servers."),
    "get": ("moltis.cli.mcp.servers:get", "Show everything about one server."),
    "tools": ("moltis.cli.mcp.tools:tools", "List the tools of all servers, or of one."),
    "call": ("moltis.cli.mcp.tools:call", "Call a tool."),
    "add": ("moltis.cli.mcp.add:add", "Add a server to moltis.toml."),
    "remove": ("moltis.cli.mcp.servers:remove", "Stop a server and take it out of moltis.toml."),
    "enable": ("moltis.cli.mcp.servers:enable", "Enable a server, in moltis.toml too."),
    "disable": ("moltis.cli.mcp.servers:disable", "Stop a server and disable it, in moltis.toml too."),
    "start": ("moltis.cli.mcp.servers:start", "Start a server that was stopped."),
    "stop": ("moltis.cli.mcp.servers:stop", "Stop a server until it is started, or the daemon is."),
    "restart": ("moltis.cli.mcp.servers:restart", "Restart a server and forget its failures."),
    "reauth": ("moltis.cli.mcp.login:reauth", "Log in to a remote server."),
    "logout": ("moltis.cli.mcp.login:logout", "Log out of a remote server."),
    "test": ("moltis.cli.mcp.try_out:test", "Try a server once, keeping nothing."),
}

group = LazyGroup("mcp", table=COMMANDS, help="List, call, add, change, start and stop servers.")
