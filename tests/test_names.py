"""Which known name somebody may have meant."""

from __future__ import annotations

import pytest

from moltis.names import did_you_mean, nearest


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("added", ["odd", "everything", "files"], []),
        ("late", ["time", "files"], []),
        ("memory", ["sentry", "files"], []),
        ("githbu", ["github", "gitlab"], ["github", "gitlab"]),
        ("GitHub", ["github"], ["github"]),
        ("alfa", ["alpha", "beta"], ["alpha"]),
        ("days", ["expires_days"], ["expires_days"]),
        ("file", ["files", "time"], ["files"]),
        ("", ["a"], []),
    ],
)
def test_only_what_is_like_it_is_offered(word: str, known: list[str], found: list[str]) -> None:
    assert nearest(word, known) == found


def test_nothing_is_said_where_nothing_is_alike() -> None:
    assert did_you_mean("added", ["odd"]) == ""
