"""MCP over one connection: what is said, in both protocol eras, and nothing of how the bytes travel.

Reading order: envelope (what a message is), handshake and description (who a server says it is), dialogue (ids and
deadlines), requests and lists (what is asked of it), unasked, attribution and questions (what it says of its own
accord, and whose that is), session (all of it, from open to end), beside (a second one, in the older era).
"""
