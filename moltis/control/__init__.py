"""The control socket: JSON-RPC 2.0, one message a line, for this user and root.

A front of `moltis.operations`. Reading order: requests (what a line asks), registry (what the methods are; a request
becomes a call of an operation), methods, endpoint (the socket's file and the data dir's lock), conversation (one
connection), listener (all of them), client (the other end).
"""
