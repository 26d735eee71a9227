"""Everything that can go wrong, as one tree.

    MoltisError              exit 1, -32603
      UsageError             exit 2, -32602
      DaemonNotRunning       exit 3
      UnknownServer          exit 4, -32004
      UnknownProject         exit 4, -32004
      NotPermitted           exit 5
      ConfigError            exit 6, -32008
      RequestTimeout         exit 7, -32006
      LoginNeeded            exit 8, -32007
      ServerNotReady         exit 1, -32005
        NotSent
      ServerError            exit 1, -32009
      AlreadyRunning         exit 1
      Busy                   exit 1

Errors are raised where they are known and translated once at each edge: the control socket reads `rpc_code` and
`data()`, the command line reads `exit_code`. A message says what happened and then what to do; it never holds a secret.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from moltis.names import nearest
from moltis.server.states import State


class ExitCode(enum.IntEnum):
    """What the command line ends with."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    DAEMON_NOT_RUNNING = 3
    NO_SUCH_SERVER = 4
    NOT_PERMITTED = 5
    BAD_CONFIG = 6
    TIMEOUT = 7
    LOGIN_NEEDED = 8


class RpcCode(enum.IntEnum):
    """The codes of JSON-RPC errors: JSON-RPC 2.0 section 5.1, MCP's, and ours.

    -32002 is two things, for neither is ours to change: a resource that is not found (MCP up to 2025-11-25), and, with
    status 429 of HTTP, a rate limit.
    """

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    REQUEST_CANCELLED = -32800
    UNAUTHORIZED = -32001
    RESOURCE_NOT_FOUND = -32002
    RATE_LIMITED = -32002
    FORBIDDEN = -32003
    UNKNOWN_SERVER = -32004
    NOT_READY = -32005
    REQUEST_TIMEOUT = -32006
    LOGIN_NEEDED = -32007
    CONFIG = -32008
    FROM_SERVER = -32009
    HEADER_MISMATCH = -32020
    MISSING_CAPABILITY = -32021
    UNSUPPORTED_VERSION = -32022
    PAGES_FIRST = -32042


class MoltisError(Exception):
    """Anything this program reports as its own finding rather than as a fault of its code."""

    kind: ClassVar[str] = "internal"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE
    rpc_code: ClassVar[RpcCode] = RpcCode.INTERNAL_ERROR

    def __init__(self, message: str, *, hint: str = "", server: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.server = server

    def data(self) -> dict[str, Any]:
        """Return the `data` member of the JSON-RPC error: `kind`, `server`, `hint`, and what some errors add."""
        return {"kind": self.kind, "server": self.server, "hint": self.hint}


class UsageError(MoltisError):
    """The request itself is wrong: a parameter missing, of a wrong type, or unknown."""

    kind = "invalid_params"
    exit_code = ExitCode.USAGE
    rpc_code = RpcCode.INVALID_PARAMS


class DaemonNotRunning(MoltisError):
    """Nothing listens on the control socket."""

    kind = "daemon_not_running"
    exit_code = ExitCode.DAEMON_NOT_RUNNING


class AlreadyRunning(MoltisError):
    """Another daemon holds the data dir."""

    kind = "already_running"


class NotPermitted(MoltisError):
    """The operating system or the daemon refuses this user."""

    kind = "not_permitted"
    exit_code = ExitCode.NOT_PERMITTED


class Busy(MoltisError):
    """It cannot be done at this moment; in the next one it may be."""

    kind = "busy"


class SystemTrouble(MoltisError):
    """The operating system could not do what was asked: a disk is full or away, no descriptor is left."""

    kind = "system"

    @classmethod
    def of(cls, error: OSError) -> SystemTrouble:
        """Return what an error of the system is in our words: nobody's mistake, and gone when its cause is."""
        where = f"{error.filename}: " if error.filename else ""
        return cls(f"{where}{error.strerror or type(error).__name__}", hint="try again once that is mended")


MAX_NAME_CHARS: Final = 200
"""Of a name that nothing has; a longer one is cut, for it is compared with all that there are."""


class _Unknown(MoltisError):
    """Nothing of a kind has that name. nearest: the known names most like it; suggestion: the same in words."""

    exit_code = ExitCode.NO_SUCH_SERVER
    rpc_code = RpcCode.UNKNOWN_SERVER
    what: ClassVar[str]
    add: ClassVar[str]
    """The command that makes the first."""

    def __init__(self, name: str, known: Iterable[str], *, server: str | None = None) -> None:
        names = sorted(known)
        self.nearest = nearest(name, names)
        self.suggestion = f"; did you mean {' or '.join(self.nearest)}?" if self.nearest else ""
        super().__init__(
            f"no {self.what} is called {name!r}{self.suggestion}",
            hint=f"known {self.what}s: {', '.join(names)}" if names else self.add,
            server=server,
        )


class UnknownServer(_Unknown):
    """No server has that name."""

    kind = "unknown_server"
    what = "server"
    add = "moltis mcp add NAME -- COMMAND"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        name = name[:MAX_NAME_CHARS]
        super().__init__(name, known, server=name)


class UnknownProject(_Unknown):
    """No project has that name."""

    kind = "unknown_project"
    what = "project"
    add = "moltis project add NAME PATH"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(name[:MAX_NAME_CHARS], known)


class ConfigError(MoltisError):
    """moltis.toml, or a value that is to go into it, is wrong."""

    kind = "config"
    exit_code = ExitCode.BAD_CONFIG
    rpc_code = RpcCode.CONFIG


class ServerNotReady(MoltisError):
    """The server exists and cannot answer now; `next_retry_at` says when it is tried again, if it is."""

    kind = "not_ready"
    rpc_code = RpcCode.NOT_READY

    def __init__(
        self, message: str, *, server: str, state: str, next_retry_at: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, server=server, hint=hint)
        self.state = state
        self.next_retry_at = next_retry_at

    def data(self) -> dict[str, Any]:
        return {**super().data(), "state": self.state, "next_retry_at": self.next_retry_at}


class NotSent(ServerNotReady):
    """Nothing was sent, or what was sent was not looked at, and that is no fault of the server: its login cannot be
    renewed now, or it wants to be left alone."""


class RequestTimeout(MoltisError):
    """A server took a request and neither answered nor reported progress in time."""

    kind = "timeout"
    exit_code = ExitCode.TIMEOUT
    rpc_code = RpcCode.REQUEST_TIMEOUT


class LoginNeeded(MoltisError):
    """A person must log in first, at `auth_url` where it is known."""

    kind = "login_needed"
    exit_code = ExitCode.LOGIN_NEEDED
    rpc_code = RpcCode.LOGIN_NEEDED

    def __init__(
        self,
        message: str,
        *,
        server: str,
        state: str = State.AWAITING_AUTH,
        auth_url: str | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, server=server, hint=hint or f"moltis mcp reauth {server}")
        self.state = state
        self.auth_url = auth_url

    def data(self) -> dict[str, Any]:
        return {**super().data(), "state": self.state, "auth_url": self.auth_url}


class ServerError(MoltisError):
    """The server answered with a JSON-RPC error of its own, kept as it was sent in `error`."""

    kind = "server_error"
    rpc_code = RpcCode.FROM_SERVER

    def __init__(self, message: str, *, server: str, error: Any, hint: str = "") -> None:
        super().__init__(message, server=server, hint=hint)
        self.error = error

    def data(self) -> dict[str, Any]:
        return {**super().data(), "error": self.error}
