"""Serving HTTP, whatever it is for; the gateway is an application on it.

    address      sockets that listen
    server       uvicorn, with what a daemon must have otherwise: limits of head, time and number, room for others
    asgi         what an application is handed for one request: bodies, how long, and how much of all at once
    router       which route a path is, and who may use it
    events       server-sent events: the stream, at the pace of who reads

Knows nothing of MCP, of access tokens or of moltis.toml.
"""
