"""What the placeholders of one entry expand to, bounded, and what every kind of server does to plan an entry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from moltis.config.model import ServerSection
from moltis.config.near_misses import Miss, unresolved
from moltis.config.plan import Launch, Shown
from moltis.config.problem import Report
from moltis.config.scan import Path
from moltis.config.sensitive import is_public
from moltis.redaction import Template, TooLong, Unresolved, utf8_bytes

if TYPE_CHECKING:
    from moltis.proxies import Proxies

MAX_GROWTH_BYTES: Final = 8 * 1024 * 1024
"""Of all entries of a file together: what they expand to beyond what is written. A daemon keeps it all in memory, and a
secret in some twenty spellings."""
FREE_GROWTH_BYTES: Final = 8 * 1024
"""Of each entry, whatever the others expand to."""


_OF_A_PROJECT: Final = ("project:name", "project:path")


@dataclass(frozen=True, slots=True, repr=False)
class DefaultProxy:
    """`proxy` of `[mcp]`. shown: as it may be. problem: why no server that relies on it can be reached.

    is_written: somebody has decided, be it for none.
    """

    proxies: Proxies | None = None
    shown: str = "none"
    problem: str | None = None
    is_written: bool = False
    secrets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, repr=False)
class Base:
    """What entries are planned on: the values for placeholders, the limits of `[mcp]`, and where the file is."""

    env: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = None
    env_pass: tuple[str, ...] = ()
    proxy: DefaultProxy = DefaultProxy()
    project: tuple[str, str] | None = None
    """Name and folder of the project whose own servers these are."""
    _found: dict[str, str | None] = field(default_factory=dict, init=False, compare=False)

    def lookup(self, name: str) -> str | None:
        """Return the value of `NAME`, `env:NAME` or `project:path`; a blank value is none, as for the shell's `:-`."""
        if name not in self._found:  # a long value that is blank takes a millisecond to be seen as that
            self._found[name] = self._look_up(name)
        return self._found[name]

    def _look_up(self, name: str) -> str | None:
        if name.startswith("env:"):
            values = [self.environ.get(name.removeprefix("env:"))]
        elif name in _OF_A_PROJECT:
            values = [self.project[_OF_A_PROJECT.index(name)]] if self.project is not None else []
        else:
            values = [self.env.get(name), self.overrides.get(name)]
        return next((value for value in values if value and not value.isspace()), None)


class Room(msgspec.Struct):
    """What the entries of one file may still expand to, beyond what is written (bytes)."""

    left: int = MAX_GROWTH_BYTES


class Expansion(msgspec.Struct):
    """Expands the values of one launch and keeps what is wrong with them, by key path within the entry.

    After the first that is too long no other is expanded: the entry is wrong already, and costs nothing more.
    """

    base: Base
    room: Room
    left: int
    """Bytes that may still come."""
    together: str
    """What is wrong when more come."""
    free: int = FREE_GROWTH_BYTES
    is_full: bool = False
    used: set[str] = msgspec.field(default_factory=set)
    wrong: list[tuple[Path, str]] = msgspec.field(default_factory=list)
    unresolved: bool = False

    def text(
        self,
        template: Template | None,
        *key: str | int,
        most: int,
        check: Callable[[str], str | None] | None = None,
    ) -> str:
        """Return the text as run, empty where it cannot be expanded.

        most: bytes that it may have.
        check: says what is wrong with it.
        """
        if template is None or self.is_full:
            return ""
        try:
            expanded = template.expand(self._lookup, most)
        except TooLong:
            self._fill(key, f"is longer than {size_in_words(most)}, which is the most that can be used")
            return ""
        except Unresolved as error:
            self.unresolved = True
            self.wrong += [(key, unresolved(name, template, key, self.base.environ)) for name in error.names]
            return ""
        size = utf8_bytes(expanded, most)
        if not self.take(size, key) or not self._grow(size - len(template.text), key):
            return ""
        problem = "the value of a placeholder has a NUL" if "\0" in expanded else check and check(expanded)
        if problem:
            self.wrong.append((key, problem))
        return expanded

    def take(self, size: int, key: Path) -> bool:
        """Count bytes of the launch, and say whether there is room for them."""
        if self.is_full:
            return False
        self.left -= size
        if self.left < 0:
            self._fill(key, self.together)
        return not self.is_full

    def _grow(self, size: int, key: Path) -> bool:
        free = min(max(0, size), self.free)
        self.free -= free
        beyond = max(0, size) - free
        if beyond > self.room.left:
            most = size_in_words(MAX_GROWTH_BYTES)
            self._fill(key, f"is too long: the placeholders of all servers together would expand to more than {most}")
            return False
        self.room.left -= beyond
        return True

    def _fill(self, key: Path, problem: str) -> None:
        self.is_full = True
        self.wrong.append((key, problem))

    def _lookup(self, name: str) -> str | None:
        value = self.base.lookup(name)
        if (
            value
            and name not in _OF_A_PROJECT
            and not (name.startswith("env:") and is_public(name.removeprefix("env:"), value))
        ):
            self.used.add(value)
        return value


def size_in_words(size: int) -> str:
    """Return a number of bytes in words, rounded to the unit."""
    mib, kib = 1024 * 1024, 1024
    return f"{size // mib} MiB" if size >= mib else f"{(size + kib - 1) // kib} KiB"


class Planner(ABC):
    """What a kind of server makes of an entry of that kind; `launch`, `secrets` and `look_over` are asked of all."""

    most: int
    """Bytes that may be expanded for one server. `too_much`: what is wrong when more come."""
    too_much: str

    def expansion(self, base: Base, room: Room) -> Expansion:
        """Return what the values of one launch are expanded by."""
        return Expansion(base, room, self.most, self.too_much)

    @abstractmethod
    def launch(self, entry: ServerSection, expansion: Expansion) -> Launch:
        """Return how the server is reached; what is wrong is in `expansion`."""

    @abstractmethod
    def shown(self, entry: ServerSection, launch: Launch, base: Base) -> Shown:
        """Return what may be seen of it."""

    @abstractmethod
    def written(self, entry: ServerSection) -> list[str | None]:
        """Return how it is reached, as written: what makes it another server if it changes."""

    def secrets(self, launch: Launch, used: set[str]) -> Iterator[str]:
        """Yield every value in a launch that must never be shown, used or not. `used`: those of placeholders."""
        yield from used

    def warn(  # noqa: B027 - few have something to say
        self, entry: ServerSection, path: Path, report: Report, named: Container[str]
    ) -> None:
        """Report what is not wrong and no good. `named`: keys that something was said of already."""

    def look_over(  # noqa: B027 - few have something to say
        self, entry: ServerSection, launch: Launch, path: Path, report: Report
    ) -> None:
        """Report what is odd about its keys."""

    def near_misses(self, entry: ServerSection, launch: Launch) -> Iterator[Miss]:
        """Yield what looks like a slip of the pen."""
        yield from ()

    def inherited_problem(self, entry: ServerSection, base: Base) -> str | None:
        """Say what is wrong outside of the entry, so that the server cannot be reached."""
        return None

    def proxy(self, entry: ServerSection, base: Base) -> str | None:
        """Return what it is reached through, as it may be shown; None of one that is not reached by a network."""
        return None
