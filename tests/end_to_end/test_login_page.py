"""The page that a person sees when a login comes back, in a real browser."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import h11
import pytest

from moltis.oauth import loopback
from moltis.oauth.loopback import listen
from moltis.oauth.pages import Page, failure, success

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--enable-logging=stderr",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
VISIT_SECS = 180

Visit = Callable[[str], tuple[str, str]]
"""Opens a URL, and gives the document as it was in the end, and what the browser complained of."""


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.fail(f"this test needs a real browser: install chromium (none of {', '.join(BROWSERS)} is on PATH)")

    def visit(url: str) -> tuple[str, str]:
        command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", url]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VISIT_SECS)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return visit


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request line that reaches a listener, and whatever else does."""
    seen: list[str] = []
    read = loopback._read_request

    async def noting(conn: object) -> h11.Request | Page | None:
        request = await read(conn)  # type: ignore[arg-type]
        if isinstance(request, h11.Request):
            seen.append(f"{request.method.decode()} {request.target.decode()}")
        elif request is not None:
            seen.append(f"no request: {request.status}")
        return request

    monkeypatch.setattr(loopback, "_read_request", noting)
    return seen


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (success("linear"), ["Logged in to linear", "You can close this tab."]),
        (failure("denied", "linear"), ["Not logged in to linear", "moltis mcp reauth linear"]),
    ],
    ids=["success", "denied"],
)
async def test_a_browser_shows_the_page_and_asks_for_nothing_else(
    visit: Visit, requests: list[str], page: Page, words: list[str]
) -> None:
    targets: list[str] = []

    async def on_callback(target: str) -> Page:
        targets.append(target)
        return page

    async with listen(0, on_callback) as redirect_uri:
        document, complaints = await anyio.to_thread.run_sync(visit, f"{redirect_uri}?code=a%2Fb&state=s#fragment")
    text = html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", document, flags=re.DOTALL))
    assert [word for word in words if word not in text] == []
    assert targets == ["/callback?code=a%2Fb&state=s"]
    assert set(requests) <= {"GET /callback?code=a%2Fb&state=s", "GET /favicon.ico"}
    assert len(requests) == len(set(requests))
    # The page's own policy must let its own style through.
    assert "Content Security Policy" not in complaints
