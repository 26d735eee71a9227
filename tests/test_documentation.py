"""The README's generated blocks say what the code does today. `python tests/test_readme.py` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from moltis.config.keys import keys_markdown
from moltis.control.methods import METHODS
from moltis.control.openrpc import markdown_table
from moltis.server.diagram import mermaid, states_table

README = Path(__file__).parent.parent / "README.md"

BLOCKS: dict[str, Callable[[], str]] = {
    "states": lambda: f"```mermaid\n{mermaid().strip()}\n```\n\n{states_table().strip()}",
    "keys": keys_markdown,
    "methods": lambda: markdown_table(METHODS),
}


def block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- generated: {name} -->\n).*?(?=<!-- /generated -->)", re.S)


def generated(name: str) -> str:
    return f"\n{BLOCKS[name]().strip()}\n\n"


def rewritten(text: str) -> str:
    for name in BLOCKS:
        text = block(name).sub(lambda _, name=name: generated(name), text, count=1)
    return text


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_the_readme_says_what_the_code_does_today(name: str) -> None:
    found = block(name).search(README.read_text(encoding="utf-8"))
    assert found, f"README.md has no block {name!r}"
    assert found[0] == generated(name), "python tests/test_readme.py mends it"


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
