"""Regular expressions that are compiled when they are first used, not when their module is imported: most of those that
look for something wrong are never used, and a start that compiles them takes a tenth longer.
"""

from __future__ import annotations

import re
from typing import Any, cast, overload


class _Later:
    """Stands for a compiled pattern. What is asked of it once is kept, so that it is as fast as that pattern then."""

    def __init__(self, source: str | bytes, flags: int) -> None:
        self.pattern = source
        self.flags = flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(self.pattern, self.flags), name)
        setattr(self, name, found)
        return found


@overload
def later(source: str, flags: int = 0) -> re.Pattern[str]: ...
@overload
def later(source: bytes, flags: int = 0) -> re.Pattern[bytes]: ...
def later(source: str | bytes, flags: int = 0) -> re.Pattern[Any]:
    """Return what `re.compile` would, with its methods and attributes; it is no argument for functions of `re`."""
    return cast("re.Pattern[Any]", _Later(source, flags))
