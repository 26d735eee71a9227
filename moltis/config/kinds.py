"""The kinds of servers, as `transport` names them: a row for each, which is all that the rest of moltis knows of it.

A row says which keys of an entry are its own, and where the code is that plans, checks and opens such a server; that is
imported when a server of the kind is met. A further kind is a row, and a package with these three:

    plans   a `config.expansion.Planner`: from the entry as written to a `Launch`, and what may be shown of it
    checks  what `moltis doctor` looks at: `(ServerPlan, environ, daemon_path) -> Iterable[Finding]`
    opens   `(ServerPlan, transport.kinds.Given) -> Transport`
"""

from __future__ import annotations

from collections.abc import Container
from importlib import import_module
from typing import Any, Final, NamedTuple


class Kind(NamedTuple):
    """One kind of server.

    needs: the key that it cannot do without; `asks`: the same in words.
    keys: those of its entry that servers of other kinds have no use for.
    plans, checks, opens: `module:name` of the code.
    called: continues "a ... server". described: what it is to a person.
    aliases: other spellings of its name.
    is_capped: `max_servers_per_project` counts it.
    is_implied: it is meant where an entry has the key that it needs and names no transport.
    is_alone: an entry that has what another kind needs is wrong.
    is_program: a process is started for it on this machine, which takes a while, has a stderr, and may install first.
    logs_in: a person may have to log in to it.
    mirrors_headers: what is in a message stands in headers, too.
    falls_back: it may turn out to speak the older HTTP+SSE.
    """

    name: str
    needs: str
    asks: str
    keys: tuple[str, ...]
    called: str
    described: str
    plans: str
    checks: str
    opens: str
    aliases: tuple[str, ...] = ()
    is_capped: bool = True
    is_implied: bool = False
    is_alone: bool = False
    is_program: bool = False
    logs_in: bool = False
    mirrors_headers: bool = False
    falls_back: bool = False

    def code(self, place: str) -> Any:
        """Import what `plans`, `checks` or `opens` names."""
        module, _, name = place.partition(":")
        return getattr(import_module(module), name)


_REMOTE: Final = Kind(
    name="streamable-http",
    needs="url",
    asks="a url (a remote one)",
    keys=("url", "headers", "oauth", "ca_file", "proxy"),
    called="remote",
    described="a remote server",
    plans="moltis.config.remote:PLANNER",
    checks="moltis.doctor:check_remote",
    opens="moltis.daemon.remotes:open_remote",
    aliases=("streamable_http", "http"),
    logs_in=True,
    mirrors_headers=True,
)

_ROWS: Final = (
    Kind(
        name="stdio",
        needs="command",
        asks="a command (a local server)",
        keys=("command", "args", "env", "env_pass", "cwd"),
        called="local",
        described="a local program",
        plans="moltis.config.local:PLANNER",
        checks="moltis.doctor:check_program",
        opens="moltis.transport.stdio:open_program",
        is_implied=True,
        is_alone=True,
        is_program=True,
    ),
    _REMOTE._replace(name="sse", aliases=(), is_implied=True, falls_back=True),
    _REMOTE,
)

KINDS: Final[dict[str, Kind]] = {kind.name: kind for kind in _ROWS}
"""All kinds, by the name that status, logs and docs use."""


def aliases() -> dict[str, str]:
    """Return the other spellings of names, each with its name."""
    return {alias: kind.name for kind in KINDS.values() for alias in kind.aliases}


def named(word: str) -> Kind | None:
    """Return the kind of that name or other spelling; None if there is none."""
    return KINDS.get(aliases().get(word, word))


def implied(keys: Container[str]) -> list[Kind]:
    """Return the kinds that an entry with these keys may be of where it names none."""
    return [kind for kind in KINDS.values() if kind.is_implied and kind.needs in keys]
