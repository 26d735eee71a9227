"""What a host of all servers is told of their use: the words of each, divided fairly, and who cannot be had now.

Pure. Hosts keep some 2,000 characters of what a server says and drop the rest without a word, so no more is said; where
that is too little for a server, the whole of its words is a resource, `moltis://instructions/SERVER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from moltis.server.states import TRAITS, State
from moltis.session.listing import Item

__all__ = ["MAX_CHARS", "Composed", "compose", "contents", "unavailable", "whole_of"]

MAX_CHARS: Final = 2000
MIN_CHARS: Final = 40
"""Of one server's words: those of whom there is less room for are a resource alone."""
MAX_NAMED: Final = 20
MAX_NAMED_CHARS: Final = 500
"""Of servers that are named in one sentence."""
_CUT: Final = " [...]"
_URI: Final = "moltis://instructions/"


class Composed(msgspec.Struct, frozen=True):
    """text: for the host, empty where there is nothing to say. cut: the servers whose words are not all in it."""

    text: str
    cut: tuple[str, ...] = ()

    @property
    def resources(self) -> tuple[Item, ...]:
        """The whole words of those, as they are listed."""
        return tuple(
            Item(
                f"{_URI}{server}",
                msgspec.json.encode(
                    {
                        "uri": f"{_URI}{server}",
                        "name": f"instructions/{server}",
                        "description": f"All that {server} says of its use",
                        "mimeType": "text/plain",
                    }
                ),
            )
            for server in self.cut
        )


def compose(
    parts: Iterable[tuple[str, str | None]], sep: str = "__", starting: Sequence[str] = (), missing: Sequence[str] = ()
) -> Composed:
    """Join what servers say of their use, `(server, text)`, under their names, in at most `MAX_CHARS` characters.

    Where that is too little, the longest texts are cut, each to the same length, so that none pushes out another.

    starting: servers of which nothing is known yet. missing: what `unavailable` said.
    """
    said = [(server, text.strip()) for server, text in parts if text and text.strip()]
    notes = _sentence(" Still starting: ", starting, ", ", "; what they offer is listed once they are up.")
    notes += _sentence(" Not to be had now: ", missing, "; ", ".")
    if not said:
        return Composed(notes.strip())
    intro = f"Several MCP servers behind one. The tools and prompts of each are named SERVER{sep}NAME.{notes}"
    whole = _joined(intro, said, MAX_CHARS)
    if len(whole) <= MAX_CHARS:
        return Composed(whole)
    intro += f" Words that end in {_CUT.strip()}, and those of servers that are not below, are whole at {_URI}SERVER."
    shown = list(said)
    while shown and _share(intro, shown) < min(MIN_CHARS, max(len(text) for _, text in shown)):
        shown.pop()
    share = _share(intro, shown) if shown else 0
    names = {server for server, _ in shown}
    cut = [server for server, text in said if server not in names or len(text) > share]
    return Composed(_joined(intro, shown, share), tuple(cut))


def _share(intro: str, said: Sequence[tuple[str, str]]) -> int:
    room = MAX_CHARS - len(_joined(intro, [(server, "") for server, _ in said], 0))
    return _fair_share([len(text) for _, text in said], room)


def _joined(intro: str, said: Sequence[tuple[str, str]], share: int) -> str:
    return intro + "".join(f"\n\n# {server}\n\n{_cut(text, share)}" for server, text in said)


def _fair_share(lengths: Sequence[int], room: int) -> int:
    """Return the length to which the longest are to be cut so that all have room."""
    ordered = sorted(lengths)
    for index, length in enumerate(ordered):
        share = max(room, 0) // (len(ordered) - index)
        if length > share:
            return share
        room -= length
    return ordered[-1]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(most - len(_CUT), 0)] + _CUT[:most]


def _sentence(begin: str, each: Sequence[str], between: str, end: str) -> str:
    if not each:
        return ""
    named: list[str] = []
    for one in each[:MAX_NAMED]:
        if named and len(between.join([*named, one])) > MAX_NAMED_CHARS:
            break
        named.append(one)
    more = f" and {len(each) - len(named)} more" if len(each) > len(named) else ""
    return f"{begin}{between.join(named)}{more}{end}"


def unavailable(name: str, state: State) -> str | None:
    """Return the name of a server that waits for somebody to mend it, and with what; None of any other."""
    told = TRAITS[state].to_hosts.format(name)
    return f"{name} ({told})" if told else None


def whole_of(uri: str, said: Mapping[str, str]) -> str | None:
    """Return the words that a URI of ours stands for; None for any other. said: what servers say, by their names."""
    return said.get(uri.removeprefix(_URI)) if uri.startswith(_URI) else None


def contents(uri: str, text: str) -> bytes:
    """Return the result of reading a resource that is a text, without its braces."""
    return msgspec.json.encode({"contents": [{"uri": uri, "mimeType": "text/plain", "text": text}]})[1:-1]
