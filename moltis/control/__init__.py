"""The control socket: JSON-RPC 2.0, one message a line, for this user and root.

A front of `moltis.operations`. Reading order: jsonrpc (the codec), registry (requests become calls of operations),
methods, openrpc, endpoint (the socket's file and the data dir's lock), listener (connections), client (the other end).
"""
