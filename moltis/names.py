"""Names of servers, and the nearest known name to one that is not known.

Knows nothing of configuration or of running servers; both ask here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""What a server may be called; `__` is kept free, for it separates server and tool."""

ALIKE = 0.6
"""How like two words must be (difflib), unless one is part of the other: below it `late` would be taken for `time`."""
PARTLY_ALIKE = 0.5


def name_problem(name: str, what: str = "server name") -> str | None:
    """Say what is wrong with a server's name, or with `what` follows the same rule; None if nothing is."""
    if not SERVER_NAME.fullmatch(name):
        return f"{what} {name!r} must be 1 to 64 of A-Z a-z 0-9 _ - and start with a letter or digit"
    if "__" in name:
        return f"{what} {name!r} must not contain '__', which separates a server from its tool"
    return None


def split_name(name: str) -> tuple[str | None, str]:
    """Return the project of a server, None for one of all, and what it is called there: `site/db`, `db`."""
    project, slash, own = name.partition("/")
    return (project, own) if slash else (None, name)


def supervised_name_problem(name: str) -> str | None:
    """Say what is wrong with a name as servers are supervised by, `NAME` or `PROJECT/NAME`; None if nothing is."""
    project, own = split_name(name)
    return (project is not None and name_problem(project, "project name")) or name_problem(own) or None


def entry_of(name: str, *inner: str) -> str:
    """Return the section of moltis.toml where a server stands, with its brackets."""
    return f"[{'.'.join((*section_of(name), *inner))}]"


def section_of(name: str) -> tuple[str, ...]:
    """Return the same as the path of its key."""
    project, own = split_name(name)
    return ("mcp", "servers", own) if project is None else ("projects", project, "servers", own)


def file_stem(name: str) -> str:
    """Return what a file about a server is called, without its ending: no name of a server has a `+`."""
    return name.replace("/", "+")


def name_of_stem(stem: str) -> str | None:
    """Return the server that `file_stem` gives this for; None if that is no name."""
    name = stem.replace("+", "/")
    return None if supervised_name_problem(name) else name


def nearest(word: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return the known words most like `word`, best first; none when nothing is alike."""
    import difflib  # a mistake is rare, and it takes 2 ms of a start

    by_fold, folded = {k.casefold(): k for k in known}, word.casefold()
    likeness = difflib.SequenceMatcher
    found = difflib.get_close_matches(folded, by_fold, n=limit, cutoff=PARTLY_ALIKE)
    return [by_fold[f] for f in found if folded in f or f in folded or likeness(None, f, folded).ratio() >= ALIKE]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` - did you mean 'x'?`, or an empty string when no known word is alike."""
    found = nearest(word, known)
    return f" - did you mean {' or '.join(repr(f) for f in found)}?" if found else ""
