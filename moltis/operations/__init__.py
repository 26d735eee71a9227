"""What can be asked of the daemon, apart from how it is asked.

    front (the control socket; HTTP, a page, MCP tools …) -> operation -> DaemonApi -> the daemon

A front reads a request, looks up the operation, checks the access it needs, and says its result or its MoltisError in
its own words. Nothing here knows sockets, connections or envelopes.

Reading order: registry (what an operation is), api (what operations ask of the daemon), definitions (all of them),
params, reach (servers that are called), events.
"""
