"""How long a test waits for what is to come in milliseconds."""

PATIENCE = 60.0
"""Seconds after which what is waited for hangs, however busy the machine is. It measures nothing."""
