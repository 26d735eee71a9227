"""The pages of a login, as a browser, a screen reader and a hostile server's name would have them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from http import HTTPStatus
from typing import get_args

import pytest

from moltis.oauth.model import Kind
from moltis.oauth.pages import Page, failure, notice, success

PAGES: dict[str, Page] = {
    "success": success("linear"),
    **{kind: failure(kind, "linear") for kind in get_args(Kind)},
    "notice": notice(HTTPStatus.NOT_FOUND, "Nothing is here", "You can close this tab."),
}
VOID = {"meta"}
"""Elements of these pages that have no end tag; what has `/>` is SVG."""


class Document(HTMLParser):
    """Elements with their attributes, the text of each, and whether they nest."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside: list[str] = []
        self.feed(page.html.decode())
        self.close()
        assert self._inside == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside[-1]] = self.texts.get(self._inside[-1], "") + data


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_loads_runs_and_links_nothing(page: Page) -> None:
    document = Document(page)
    assert {tag for tag, _ in document.elements} <= {
        "html", "head", "meta", "title", "style", "body", "main", "svg", "circle", "path", "h1", "p", "code", "footer",
    }  # fmt: skip
    attributes = {name for _, attrs in document.elements for name in attrs}
    assert not [name for name in attributes if name in ("src", "href", "style", "action") or name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import|javascript:", page.html.decode(), re.IGNORECASE)
    assert len(page.html) < 6000


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_can_be_read_aloud_enlarged_and_translated(page: Page) -> None:
    document = Document(page)
    elements = [tag for tag, _ in document.elements]
    attrs = dict(document.elements)
    assert page.html.startswith(b"<!doctype html>\n")
    assert attrs["html"] == {"lang": "en"}
    assert elements.count("main") == elements.count("h1") == 1
    assert document.texts["title"] == document.texts["h1"]
    assert attrs["svg"]["aria-hidden"] == "true"
    assert {"charset": "utf-8"} in [a for tag, a in document.elements if tag == "meta"]
    viewport = next(a["content"] for tag, a in document.elements if tag == "meta" and a.get("name") == "viewport")
    assert viewport == "width=device-width, initial-scale=1"


def test_a_page_says_which_server_and_what_to_do() -> None:
    assert success("linear").status == 200
    assert Document(success("linear")).texts["h1"] == "Logged in to linear"
    assert "close this tab" in Document(success("linear")).texts["p"]
    for kind in get_args(Kind):
        page = failure(kind, "linear")
        assert page.status >= 400
        assert "linear" in Document(page).texts["h1"]
        assert Document(page).texts["code"] == "moltis mcp reauth linear"


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=x>', "&amp;", "{}", "{0}", "%s"])
def test_a_name_is_text_whatever_is_in_it(name: str) -> None:
    for page in (success(name), failure("denied", name)):
        document = Document(page)
        assert name in document.texts["h1"]
        assert name in document.texts["title"]
        assert {tag for tag, _ in document.elements}.isdisjoint({"script", "img"})


def _colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", block))


def _luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_stands_out_from_what_is_behind_it(scheme: str) -> None:
    """WCAG 2.2: 4.5 to 1 for text (1.4.3), 3 to 1 for the mark (1.4.11)."""
    light, _, rest = success("x").html.decode().partition("@media (prefers-color-scheme: dark)")
    colours = _colours(light) | (_colours(rest) if scheme == "dark" else {})
    for ink, ground in (("ink", "card"), ("soft", "card"), ("soft", "ground"), ("ink", "inset")):
        assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for mood in ("good", "bad", "plain"):
        assert _contrast(colours[mood], colours[f"{mood}-tint"]) >= 3, mood
