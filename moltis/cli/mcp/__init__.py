"""`moltis mcp`: the servers."""

from __future__ import annotations

from moltis.cli.commands import LazyGroup

COMMANDS = {
    "list": ("moltis.cli.mcp.listing:list_", "List the servers."),
    "get": ("moltis.cli.mcp.listing:get", "Show everything about one server."),
    "tools": ("moltis.cli.mcp.tools:tools", "List the tools of all servers, or of one."),
    "call": ("moltis.cli.mcp.call:call", "Call a tool."),
    "add": ("moltis.cli.mcp.add:add", "Add a server to moltis.toml."),
    "remove": ("moltis.cli.mcp.change:remove", "Stop a server and take it out of moltis.toml."),
    "enable": ("moltis.cli.mcp.change:enable", "Enable a server, in moltis.toml too."),
    "disable": ("moltis.cli.mcp.change:disable", "Stop a server and disable it, in moltis.toml too."),
    "start": ("moltis.cli.mcp.control:start", "Start a server that was stopped."),
    "stop": ("moltis.cli.mcp.control:stop", "Stop a server until it is started, or the daemon is."),
    "restart": ("moltis.cli.mcp.control:restart", "Restart a server and forget its failures."),
    "reauth": ("moltis.cli.mcp.reauth:reauth", "Log in to a remote server."),
    "logout": ("moltis.cli.mcp.logout:logout", "Log out of a remote server."),
    "test": ("moltis.cli.mcp.try_out:test", "Try a server once, keeping nothing."),
}

group = LazyGroup("mcp", table=COMMANDS, help="List, call, add, change, start and stop servers.")
