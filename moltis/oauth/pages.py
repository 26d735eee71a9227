"""What a person sees in the browser when a login comes back, or does not.

Static text: the one thing that is filled in is our own name of the server. No page has a script, a form, or anything to
load, so that whatever else runs in that browser finds nothing here to use.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from http import HTTPStatus
from typing import Final, Literal

import msgspec

from moltis.oauth.model import Kind

Mood = Literal["good", "bad", "plain"]


class Page(msgspec.Struct, frozen=True):
    """An HTTP answer: its status, and a whole HTML document in UTF-8."""

    status: HTTPStatus
    html: bytes


def success(server: str) -> Page:
    """Say that the login is done and the tab may be closed."""
    return _page(
        HTTPStatus.OK,
        "good",
        f"Logged in to {server}",
        ("moltis takes it from here.", "You can close this tab."),
    )


def failure(kind: Kind, server: str) -> Page:
    """Say that the login came to nothing, by the kind of an `OAuthProblem`, and what to do."""
    status, heading, what, then = _FAILURES[kind]
    return _page(status, "bad", heading.format(server), (what, then), f"moltis mcp reauth {server}")


def notice(status: HTTPStatus, heading: str, *texts: str) -> Page:
    """Say something to whoever asks for what is not here; no server's name is in it."""
    return _page(status, "plain", heading, texts)


_FAILURES: Final[dict[Kind, tuple[HTTPStatus, str, str, str]]] = {
    "denied": (
        HTTPStatus.FORBIDDEN,
        "Not logged in to {}",
        "The login was declined, or this account may not use the server.",
        "To try again, run this in a terminal:",
    ),
    "expired": (
        HTTPStatus.GONE,
        "Too late to log in to {}",
        "This login took so long that nothing waits for it any more.",
        "To begin a new one, run this in a terminal:",
    ),
    "outage": (
        HTTPStatus.BAD_GATEWAY,
        "Not yet logged in to {}",
        "You did your part, but the authorization server could not complete the login just now.",
        "In a few minutes, run this in a terminal:",
    ),
    "refused": (
        HTTPStatus.BAD_REQUEST,
        "Not logged in to {}",
        "What the browser brought back is no valid answer to this login, so it was not used; moltis status says why.",
        "To try again, run this in a terminal:",
    ),
}

_MARKS: Final[dict[Mood, str]] = {
    "good": '<path d="M15.5 24.5l6 6 11-13"/>',
    "bad": '<path d="M24 13.5v13M24 33.9v.2"/>',
    "plain": '<path d="M15.4 24h.2M23.9 24h.2M32.4 24h.2"/>',
}

_STYLE: Final = """
:root { color-scheme: light dark; --ground: #f3f3ef; --card: #fff; --line: #e1e1da; --ink: #1b1d1f; --soft: #585c62;
  --inset: #f3f3ef; --good: #17784a; --good-tint: #e0f2e8; --bad: #a8461a; --bad-tint: #fbe9df; --plain: #585c62;
  --plain-tint: #ebebe6; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #131416; --card: #1c1e21; --line: #2e3136; --ink: #eceae5; --soft: #a5a8ae; --inset: #131416;
    --good: #5fd39b; --good-tint: #17352a; --bad: #f2a27a; --bad-tint: #3b251b; --plain: #a5a8ae;
    --plain-tint: #2a2d31; }
}
* { box-sizing: border-box; margin: 0; }
body { min-height: 100vh; display: flex; flex-direction: column; align-items: center; justify-content: center;
  gap: 1.25rem; padding: 1.5rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { width: 100%; max-width: 27rem; padding: 2.5rem 2rem; text-align: center; background: var(--card);
  border: 1px solid var(--line); border-radius: 1rem; }
svg { display: block; width: 3.5rem; height: 3.5rem; margin: 0 auto 1.25rem; fill: none; stroke-width: 4;
  stroke-linecap: round; stroke-linejoin: round; }
circle { stroke: none; }
.good { stroke: var(--good); } .good circle { fill: var(--good-tint); }
.bad { stroke: var(--bad); } .bad circle { fill: var(--bad-tint); }
.plain { stroke: var(--plain); } .plain circle { fill: var(--plain-tint); }
h1 { font-size: 1.375rem; line-height: 1.3; font-weight: 650; text-wrap: balance; overflow-wrap: anywhere; }
p { margin-top: .625rem; color: var(--soft); text-wrap: balance; }
code { display: block; margin-top: 1.25rem; padding: .75rem 1rem; background: var(--inset);
  border: 1px solid var(--line); border-radius: .5rem; overflow-wrap: anywhere; user-select: all;
  font: .875rem/1.5 ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; }
footer { color: var(--soft); font-size: .8125rem; text-align: center; }
"""


def _page(status: HTTPStatus, mood: Mood, heading: str, texts: Iterable[str], command: str = "") -> Page:
    paragraphs = "".join(f"<p>{escape(text)}</p>\n" for text in texts)
    block = f"<code>{escape(command)}</code>\n" if command else ""
    document = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(heading)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<svg class="{mood}" viewBox="0 0 48 48" aria-hidden="true"><circle cx="24" cy="24" r="24"/>{_MARKS[mood]}</svg>
<h1>{escape(heading)}</h1>
{paragraphs}{block}</main>
<footer>Shown by moltis at 127.0.0.1</footer>
</body>
</html>
"""
    return Page(status, document.encode())
