"""moltis keeps a person's MCP servers alive."""

__version__ = "0.1.0"
