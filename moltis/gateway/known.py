"""What servers listed when they were last ready, on disk: one file a server.

One rule: this is a memory and no more. Whatever is wrong with a file, it is as if there were none.
"""

from __future__ import annotations

from pathlib import Path

from moltis.config.plan import ServerPlan
from moltis.gateway.api import Known


def mark(plan: ServerPlan) -> str:
    """Name an entry of moltis.toml as it is written; what is known under another mark is of another server."""
    raise NotImplementedError


class KnownStore:
    """All files of one folder. Every method blocks, on the disk, and may be called from any thread."""

    def __init__(self, folder: Path) -> None: ...

    def load_all(self) -> dict[str, tuple[str, Known]]:
        """Give what is known, with its mark, by server. Never raises; what is broken is removed."""
        raise NotImplementedError

    def save(self, name: str, mark: str, known: Known) -> None:
        """Keep what is known of a server.

        Raises:
            ConfigError: it cannot be written; what was kept before is still there.
        """

    def forget(self, name: str) -> None:
        """Keep nothing of a server. Never raises."""
