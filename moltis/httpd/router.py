"""The routes of an application: which one a path is, and who may use it. Pure.

A route cannot be made without saying who may use it, and a path that is no route is for nobody unknown: what is there
and what is not look the same from outside.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from moltis.access import Access
from moltis.httpd.asgi import Receive
from moltis.names import SERVER_NAME

R = TypeVar("R")
"""What an application makes of one request."""

Handler = Callable[[R, Receive], Awaitable[None]]

_PARAMETER: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Route(Generic[R]):
    """One route.

    path: as it is in a request, decoded. `{server}` stands for a server's name, `{project}` for a project's, and `*` at
        its end for anything or nothing.
    access: who may use it, asked before `serve` is called.
    serve: answers a request, of whatever method.
    preflight: whether pages of other origins use it, so that OPTIONS is answered to whoever asks: a browser sends no
        token with it (Fetch, 3.2.2).
    """

    path: str
    access: Access
    serve: Handler[R]
    preflight: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.access, Access):
            raise TypeError(f"the route {self.path} does not say who may use it")


class Router(Generic[R]):
    """Finds routes. `otherwise`: serves what is no route, to who may `Access.READ`.

    Raises:
        ValueError: two routes have the same path.
    """

    def __init__(self, routes: Iterable[Route[R]], otherwise: Handler[R]) -> None:
        self.routes: Final = tuple(routes)
        self._exact = {route.path: route for route in self.routes if not _is_pattern(route.path)}
        self._patterns = [(_pattern(route.path), route) for route in self.routes if _is_pattern(route.path)]
        self._otherwise = Route("*", Access.READ, otherwise)
        if len({route.path for route in self.routes}) != len(self.routes):
            raise ValueError("two routes have the same path")

    def find(self, path: str) -> tuple[Route[R], str | None]:
        """Return the route of a path, and the server's name in it, if there is one."""
        route = self._exact.get(path)
        if route is not None:
            return route, None
        for pattern, route in self._patterns:
            match = pattern.fullmatch(path)
            if match is not None:
                return route, match.groupdict().get("server")
        return self._otherwise, None


def _is_pattern(path: str) -> bool:
    return _PARAMETER.search(path) is not None or path.endswith("*")


def _pattern(path: str) -> re.Pattern[str]:
    before, star, _ = path.partition("*")
    parts = _PARAMETER.split(before)  # text and names in turn
    literal = "".join(
        f"(?P<{part}>{SERVER_NAME.pattern})" if n % 2 else re.escape(part) for n, part in enumerate(parts)
    )
    return re.compile(literal + (".*" if star else ""), re.DOTALL)
