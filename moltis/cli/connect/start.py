"""An attempt to start the daemon, as the pump sees it: something to poll, and then an outcome.

The work is done by `starter`, in a process that is neither a child of the host nor of this one: a host that ends what
it started, and all that came of it, must not end a daemon that others use.
"""

from __future__ import annotations

import json
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_OUTCOME_BYTES = 64 * 1024
MOST_DESCRIPTORS = 65_536
"""The limit may be a thousand millions, and without close_range(2) each number is a call of its own."""


class Outcome:
    """What came of it. message: why there is no daemon, empty where there is one. hint: what a person can do."""

    __slots__ = ("hint", "message")

    def __init__(self, message: str = "", hint: str = "") -> None:
        self.message = message
        self.hint = hint


class Start:
    """One attempt. places: `config`, `data_dir` and `socket` as the command line names them. Nobody is waited for."""

    def __init__(self, places: Mapping[str, str | None]) -> None:
        self._said = b""
        self._pipe, theirs = os.pipe()
        try:
            pid = os.fork()
        except OSError as failure:
            self._said = _line(f"no process can be made for it: {failure.strerror}", "moltis run")
            os.close(theirs)
            return
        if pid == 0:
            _leave(places, theirs)
        os.close(theirs)
        os.waitpid(pid, 0)  # which ends at once
        os.set_blocking(self._pipe, False)

    def fileno(self) -> int:
        return self._pipe

    def close(self) -> None:
        """Hear no more of it; it goes on."""
        os.close(self._pipe)

    def read(self) -> Outcome | None:
        """Return what came of it; None while that is not known. Then this is over."""
        if b"\n" not in self._said:
            try:
                data = os.read(self._pipe, MAX_OUTCOME_BYTES)
            except (BlockingIOError, InterruptedError):
                return None
            self._said += data or _line("whoever was to start it ended before it ran", "moltis run")
        if b"\n" not in self._said:
            return None
        self.close()
        try:
            message, hint = json.loads(self._said)
        except ValueError:
            message, hint = "whoever was to start it said what cannot be read", "moltis run"
        return Outcome(message, hint)


def _leave(places: Mapping[str, str | None], pipe: int) -> None:
    """Be a process that belongs to nobody, do the work there, and say how it went. Never returns."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        if os.fork() == 0:
            _let_go(pipe)
            from moltis.cli.connect import starter

            os.write(pipe, _line(*starter.bring_up(places)))
    except BaseException as fault:
        os.write(pipe, _line(f"a fault of moltis: {type(fault).__name__}: {fault}"[:500], "moltis run"))
    finally:
        os._exit(0)


def _let_go(pipe: int) -> None:
    """Keep nothing open that is the host's: it waits for the end of stdout."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)
    os.closerange(3, pipe)
    os.closerange(pipe + 1, MOST_DESCRIPTORS)


def _line(message: str, hint: str) -> bytes:
    return json.dumps([message, hint]).encode() + b"\n"
