"""What is generated says what the code does today: `python tests/test_documentation.py` writes it anew.

That is the blocks of docs/, and moltis.example.toml, which tests/config/test_config_keys.py looks at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from moltis.config.keys import example_toml, keys_markdown
from moltis.control.methods import METHODS
from moltis.control.registry import markdown_table
from moltis.server.diagram import mermaid, states_table

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "states": ("lifecycle", lambda: f"```mermaid\n{mermaid().strip()}\n```\n\n{states_table().strip()}"),
    "keys": ("configuration", keys_markdown),
    "methods": ("control-socket", lambda: markdown_table(METHODS)),
}


def page(name: str) -> Path:
    return ROOT / "docs" / f"{BLOCKS[name][0]}.md"


def block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- generated: {name} -->\n).*?(?=<!-- /generated -->)", re.S)


def generated(name: str) -> str:
    return f"\n{BLOCKS[name][1]().strip()}\n\n"


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_the_docs_say_what_the_code_does_today(name: str) -> None:
    found = block(name).search(page(name).read_text(encoding="utf-8"))
    assert found, f"{page(name)} has no block {name!r}"
    assert found[0] == generated(name), "python tests/test_documentation.py mends it"


def anchors(page: Path) -> set[str]:
    """Return what GitHub makes of the headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_link_leads_to_a_page_and_a_heading_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), f"{target} is not there"
            assert not anchor or anchor in anchors(there), f"{target} is no heading there"


def test_the_first_screens_stay_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 220


if __name__ == "__main__":
    for name in BLOCKS:
        text = page(name).read_text(encoding="utf-8")
        page(name).write_text(block(name).sub(lambda _, name=name: generated(name), text, count=1), encoding="utf-8")
    (ROOT / "moltis.example.toml").write_text(example_toml(), encoding="utf-8")
