"""`moltis connect`, as hosts write it, without click: a quarter of the time it takes to be ready.

What it does not understand at once, help and mistakes among it, it leaves to `command`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from moltis.cli.connect import door
from moltis.cli.connect.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from moltis.cli.connect.start import Start

GLOBALS = ("--config", "--data-dir", "--socket")
VIEWS = ("--server", "--project")
"""Options that say what the host is to see; each is a param of `mcp.connect`, by the same name."""


class Ended(BaseException):
    """SIGTERM: the host wants this process to be gone."""


def options(words: Sequence[str]) -> dict[str, str] | None:
    """Read a command line that is `connect` and options with a value each; None for any other."""
    found: dict[str, str] = {}
    is_connect = False
    rest = iter(words)
    for word in rest:
        if word == "connect" and not is_connect:
            is_connect = True
            continue
        if word == "--run" and is_connect:
            found[word] = "yes"
            continue
        name, equals, value = word.partition("=")
        if name not in (*GLOBALS, *VIEWS) or (name in VIEWS and not is_connect):
            return None
        if not equals:
            value = next(rest, "")
        if not value:
            return None
        found[name] = value
    return found if is_connect and not found.keys() >= {*VIEWS} else None


def main(words: Sequence[str]) -> int | None:
    """Run it and give the exit code; None when this is not for here."""
    found = options(words)
    if found is None:
        return None
    try:
        path = door.socket_path(found.get("--socket"), found.get("--data-dir"), os.environ)
        places = {"config": found.get("--config"), "data_dir": found.get("--data-dir")}
        serve(path, wanted({name[2:]: found[name] for name in VIEWS if name in found}), places, run="--run" in found)
    except KeyboardInterrupt:
        return 130
    except Exception as failure:
        return _explain(failure)
    return 0


def wanted(named: dict[str, str]) -> dict[str, str]:
    """Return what the host is to see, as params of `mcp.connect`: what is named, else what belongs to its folder.

    Claude Code names the folder that it was opened in, whatever the current one is.
    """
    if not named:
        try:
            return {"folder": os.path.realpath(os.environ.get("CLAUDE_PROJECT_DIR") or os.getcwd())}
        except (OSError, ValueError):
            pass  # the current folder is gone, or the variable is no path
    return named


def serve(path: str, wanted: dict[str, str], places: Mapping[str, str | None], *, run: bool = False) -> None:
    """Be the MCP server on stdin and stdout until the host is done; SIGTERM ends it at once.

    path: of the daemon's socket. wanted: what the host is to see, as `door.Entrance` takes it. places: `config` and
    `data_dir`, as the command line names them. run: whether a daemon is started where there is none.

    Raises:
        MoltisError: the host is done, and there was no daemon, or it did not let us in.
    """

    def know(introduction: bytes | None, notice: str) -> Callable[[bytes], list[bytes]]:
        from moltis.cli.connect.standin import StandIn  # and with it msgspec, pydantic and the gateway
        from moltis.paths import find_paths

        paths = find_paths(config=places.get("config"), data_dir=places.get("data_dir"))
        return StandIn(paths, wanted, introduction, notice).answer

    def start() -> Start:
        from moltis.cli.connect.start import Start

        return Start({**places, "socket": path})

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise Ended

    signal.signal(signal.SIGTERM, end)
    _open_standard_streams()
    if sys.stdin is not None and sys.stdin.isatty():
        _talk("this speaks MCP on stdin and stdout; it is for a host to start, and ends with Ctrl-D")
    try:
        Pump(lambda: door.Entrance(path, wanted), know, _talk, start=start if run else None).run()
    except Ended:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _open_standard_streams() -> None:
    """Put something at 0, 1 and 2 if a host left nothing there: else the connection to the daemon would be one."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _talk(text: str) -> None:
    """Write one line to stderr, if somebody takes it."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    try:
        if any(events & select.POLLOUT for _fd, events in poll.poll(0)):
            os.write(2, f"moltis: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody listens there


def _explain(failure: Exception) -> int:
    """Say what went wrong as every command does."""
    from moltis.cli import app, screen
    from moltis.errors import ExitCode, MoltisError

    screen.prepare()
    if isinstance(failure, MoltisError):
        return app.complain(failure.message, failure.hint, failure.exit_code)
    hint = "this is a fault of moltis; MOLTIS_DEBUG=1 shows where"
    if os.environ.get("MOLTIS_DEBUG"):
        import traceback

        traceback.print_exception(failure)
    return app.complain(f"unexpected {type(failure).__name__}: {failure}", hint, ExitCode.FAILURE)
