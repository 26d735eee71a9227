"""What is generated says what the code does today: `python tests/test_documentation.py` writes it anew.

That is the blocks of docs/, and moltis.example.toml, which tests/config/test_config_keys.py looks at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import why_cases

from moltis.cli import app
from moltis.config.keys import example_toml, keys_markdown
from moltis.config.load import loads
from moltis.control.methods import METHODS
from moltis.control.registry import markdown_table
from moltis.server.diagram import mermaid, states_table

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "states": ("lifecycle", lambda: f"```mermaid\n{mermaid().strip()}\n```\n\n{states_table().strip()}"),
    "keys": ("configuration", keys_markdown),
    "why": ("why", why_cases.table),
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


def samples(language: str) -> list[tuple[str, str]]:
    """Return the samples of a language on all pages, each with its page's name."""
    found = [(p.name, m) for p in PAGES for m in re.findall(rf"```{language}\n(.*?)```", p.read_text("utf-8"), re.S)]
    assert found
    return found


@pytest.mark.parametrize(("page", "text"), samples("toml"))
def test_a_sample_of_moltis_toml_is_one_that_is_taken_without_a_word(page: str, text: str) -> None:
    if "mcp_servers" in text:
        return  # Codex's
    oauth_alone = ".oauth]" in text and "url = " not in re.sub(r"(auth|token)_url", "", text)
    whole = text + '[mcp.servers.private_api]\nurl = "https://api.example.com/mcp"\n' * oauth_alone
    values = dict.fromkeys(re.findall(r"\$\{?([A-Z_]+)", text), "value-of-a-placeholder")
    problems = loads(whole, values, {"HOME": "/home/me"}).problems
    assert [str(p) for p in problems if "reach" not in p.message] == []


def test_the_commands_that_are_named_are_there() -> None:
    words = r"moltis((?: (?!http\b)[a-z][a-z-]*)+)"
    told = {
        tuple(found.split())
        for page in [*PAGES, ROOT / "moltis.example.toml"]
        for code in re.findall(r"`[^`\n]+`|```sh\n.*?```", page.read_text(encoding="utf-8"), re.S)
        for found in re.findall(words, code)
    }
    assert len(told) > 20
    for path in told:
        at: click.Command = app.root
        for word in path:
            if not isinstance(at, click.Group):
                break
            found = at.get_command(click.Context(at), word)
            assert found is not None, f"moltis {' '.join(path)}"
            at = found


def test_the_glossary_stays_short() -> None:
    assert len((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()) <= 40


def test_the_first_screens_stay_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 220


if __name__ == "__main__":
    for name in BLOCKS:
        text = page(name).read_text(encoding="utf-8")
        made = block(name).sub(generated(name).replace("\\", r"\\"), text, count=1)
        page(name).write_text(made, encoding="utf-8")
    (ROOT / "moltis.example.toml").write_text(example_toml(), encoding="utf-8")
