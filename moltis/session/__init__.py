"""MCP over one connection: what is said, in both protocol eras, and nothing of how the bytes travel."""
