"""The control socket: JSON-RPC 2.0, one message a line, for this user and root.

Reading order: jsonrpc (the codec), registry (what a method is), api (what methods ask of the daemon), methods, events
(subscriptions), endpoint (the socket's file and the data dir's lock), listener (connections), client (the other end).
"""
