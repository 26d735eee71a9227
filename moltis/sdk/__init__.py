"""A second opinion of a server: what the official Python SDK's client makes of it, in a process of its own.

The SDK is never imported by the daemon: it would add half to its memory. `client` is that process's program,
`messages` is what the two say to each other, `compared` is where their findings differ.
"""
