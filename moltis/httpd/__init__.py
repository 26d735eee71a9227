"""Serving HTTP, whatever it is for; the gateway is an application on it.

    router       which route a path is, and who may use it

Knows nothing of MCP, of access tokens or of moltis.toml.
"""
