"""The `moltis` command.

Nothing is imported here but `sys`: the command line is asked often and by scripts, so each command pays only for what
it uses, and `--version` for nothing at all. `connect`, which hosts wait for, does without click.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing itself would be half of what `--version` takes
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from moltis import __version__

        sys.stdout.write(f"moltis {__version__}\n")
        sys.exit(0)
    try:
        if "connect" in sys.argv:
            from moltis.cli.connect import quick

            code = quick.main(sys.argv[1:])
            if code is not None:
                sys.exit(code)
        from moltis.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:  # while still importing
        sys.exit(130)
