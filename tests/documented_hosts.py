"""The entries for agent hosts in docs/hosts.md, read as a person reads them: a command to run, or settings."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
HOSTS = (DOCS / "hosts.md").read_text(encoding="utf-8")
SECTION = HOSTS + (DOCS / "security.md").read_text(encoding="utf-8")
BY_COMMAND, _, BY_HTTP = HOSTS.partition("Over HTTP, with the token")
"""The two tables: `moltis connect`, and the endpoint."""
ORDER = ("first", "second", "third", "fourth")
ENDPOINT = "http://127.0.0.1:8642/mcp"
"""Where it is by default."""


@dataclass(frozen=True)
class Entry:
    """What makes a host know moltis. `file` begins with `~`, if the host has one in the home folder."""

    command: str = ""
    file: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def snippets(language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.S)


def _rows(table: str) -> Iterator[tuple[str, list[str]]]:
    for line in table.splitlines():
        if line.startswith("| ") and not line.startswith("| host"):
            host, *cells = line.strip("| ").split(" | ")
            yield host.strip(), [cell.strip() for cell in cells]


def _settings(code: str) -> dict[str, Any]:
    """Return what is written in JSON without its outer braces, in TOML, or in YAML of one line whose value is JSON."""
    if code.startswith('"'):
        found: dict[str, Any] = json.loads(f"{{{code}}}")
        return found
    if yaml := re.fullmatch(r"(\w+): (\[.*\])", code):
        return {yaml[1]: json.loads(yaml[2])}
    return tomllib.loads(code)


def _blocks() -> list[dict[str, Any]]:
    """Return the snippets that the first table speaks of, in order."""
    found = re.findall(r"```(json|toml)\n(.*?)```", BY_COMMAND, re.S)
    return [json.loads(text) if language == "json" else tomllib.loads(text) for language, text in found]


def by_command() -> dict[str, Entry]:
    """Return the entries that start `moltis connect`, by host."""
    found = {}
    for host, (file, text) in _rows(BY_COMMAND):
        codes = re.findall(r"`([^`]*)`", text)
        place = next(iter(re.findall(r"`(~[^`]*)`", file)), "")
        word = text.partition(" ")[0]
        if word in ORDER:
            found[host] = Entry("", place, _blocks()[ORDER.index(word)])
        elif re.match(r"\w+ mcp add", codes[0]):
            found[host] = Entry(codes[0], place)
        else:
            found[host] = Entry("", place, _settings(codes[0]))
    return found


def by_http() -> dict[str, Entry]:
    """Return the entries for the endpoint, by host. Settings are whole, as the host's own file has them."""
    found = {}
    for host, (text,) in _rows(BY_HTTP):
        beside = by_command()[host]
        codes = re.findall(r"`([^`]*)`", text)
        if re.match(r"\w+ mcp add", codes[0]):
            found[host] = Entry(codes[0], beside.file)
            continue
        settings = _settings("\n".join(codes) if codes[0].startswith("[") else codes[0])
        if "moltis" in settings:
            settings = {next(iter(beside.settings)): settings}
        found[host] = Entry("", beside.file, settings)
    return found
