"""Routes: none without a statement of who may use it, and no path that is for nobody in particular."""

from __future__ import annotations

from typing import Any

import pytest

from moltis.access import Access
from moltis.httpd.router import Route, Router


async def serve(request: object, receive: Any) -> None:
    """Answer nothing."""


def test_a_route_that_does_not_say_who_may_use_it_cannot_be_made() -> None:
    """And it is an error of its type: mypy, which warns of what is ignored for nothing, reads this file too."""
    with pytest.raises(TypeError):
        Route("/new", serve=serve)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="does not say who may use it"):
        Route("/new", None, serve)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="does not say who may use it"):
        Route("/new", "public", serve)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/nope", "/", "", "*", "//a", "/a/", "/A", "/files/b/c", "/open", "/files//b"])
def test_what_is_no_route_is_for_those_who_are_known(path: str) -> None:
    routes = [Route("/a", Access.PUBLIC, serve), Route("/files/{server}/b", Access.CALL, serve)]
    route, server = Router([*routes, Route("/open/*", Access.PUBLIC, serve)], otherwise=serve).find(path)
    assert (route.access, server) == (Access.READ, None)


@pytest.mark.parametrize(
    ("path", "access", "server"),
    [
        ("/a", Access.PUBLIC, None),
        ("/files/x-1_Y/b", Access.CALL, "x-1_Y"),
        ("/open/", Access.ADMIN, None),
        ("/open/a/../b\n", Access.ADMIN, None),
    ],
)
def test_a_path_is_the_route_that_it_fits_whole(path: str, access: Access, server: str | None) -> None:
    routes = [Route("/a", Access.PUBLIC, serve), Route("/files/{server}/b", Access.CALL, serve)]
    found = Router([*routes, Route("/open/*", Access.ADMIN, serve)], otherwise=serve).find(path)
    assert (found[0].access, found[1]) == (access, server)


def test_two_routes_cannot_have_one_path() -> None:
    with pytest.raises(ValueError, match="two routes"):
        Router([Route("/a", Access.PUBLIC, serve), Route("/a", Access.ADMIN, serve)], otherwise=serve)
