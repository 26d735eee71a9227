"""One table of keys: the checks, the schema, the example file and the README's table say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import annotated_types
import msgspec
import pytest
from pydantic import BaseModel

from moltis.config.keys import KEYS, LIMITS, SERVER_KEYS, example_toml, keys_markdown, schema
from moltis.config.kinds import KINDS
from moltis.config.limits import MAX_SECS, MIN_SECS, Limits
from moltis.config.load import loads
from moltis.config.model import (
    DaemonSection,
    GatewaySection,
    LimitsSection,
    McpSection,
    OAuthSection,
    ProjectSection,
    ServerSection,
)
from moltis.config.plan import DaemonPlan, GatewayPlan, Plan

ROOT = Path(__file__).parent.parent.parent
MODELS: dict[str, type[BaseModel]] = {
    "daemon": DaemonSection,
    "gateway": GatewaySection,
    "mcp": McpSection,
    "server": ServerSection,
    "oauth": OAuthSection,
    "project": ProjectSection,
}


def test_the_table_and_the_model_have_the_same_keys() -> None:
    for section, model in MODELS.items():
        own = {k.name for k in KEYS if k.section == section}
        checked = set(model.model_fields)
        if section == "server":
            own |= {k.name for k in LIMITS} | {"oauth"}
        assert own == checked, section
    assert set(SERVER_KEYS) == set(ServerSection.model_fields)
    assert {k.name for k in LIMITS} == set(LimitsSection.model_fields) == set(Limits.__slots__)


def bounds(annotation: Any, metadata: list[Any]) -> tuple[Any, Any]:
    found = list(metadata)
    for argument in get_args(annotation):
        found += getattr(argument, "__metadata__", ())
        for field in [m for m in getattr(argument, "__metadata__", ()) if hasattr(m, "metadata")]:
            found += field.metadata
    low = next((m.ge for m in found if isinstance(m, annotated_types.Ge)), None)
    high = next((m.le for m in found if isinstance(m, annotated_types.Le)), None)
    return low, high


@pytest.mark.parametrize("key", [k for k in KEYS if k.kind in ("seconds", "count")], ids=lambda k: k.name)
def test_the_table_and_the_model_have_the_same_bounds(key: Any) -> None:
    field = MODELS[key.section].model_fields[key.name]
    low = 0 if key.may_be_zero else MIN_SECS
    expected = (low, MAX_SECS) if key.kind == "seconds" else (key.low, key.high)
    assert bounds(field.annotation, field.metadata) == expected


@pytest.mark.parametrize("key", [k for k in KEYS if k.words], ids=lambda k: k.name)
def test_every_word_of_a_choice_is_accepted(key: Any) -> None:
    model = MODELS[key.section]
    for word in key.words:
        model.model_validate({key.name: word})


def test_the_defaults_of_the_table_are_those_that_run() -> None:
    for key in KEYS:
        if key.section == "daemon" or key.name == "max_concurrent_starts":
            assert getattr(DaemonPlan(), key.name) == key.default
        elif key.section == "gateway":
            assert getattr(GatewayPlan(), key.name) == key.default
        elif key.name == "first_list_secs":
            assert GatewayPlan().first_list_secs == key.default
        elif key.name == "env_pass":
            assert Plan().env_pass == (key.default or ())
        elif key.section == "mcp" and key.name == "proxy":
            assert Plan().proxy == key.default
        elif key.name == "max_servers_per_project":
            assert Plan().max_servers_per_project == key.default
        elif key.section == "mcp":
            assert getattr(Limits(), key.name) == key.default


def test_the_example_file_is_the_one_that_is_generated() -> None:
    assert (ROOT / "moltis.example.toml").read_text(encoding="utf-8") == example_toml()


def test_the_example_file_loads_and_starts_nothing() -> None:
    loaded = loads(example_toml())
    assert loaded.problems == ()
    assert loaded.plan == Plan()


def test_every_line_of_the_example_works_when_it_is_uncommented() -> None:
    text = re.sub(r"(?m)^#(?=[\[a-zA-Z])", "", example_toml())
    loaded = loads(text, {}, {"HOME": "/home/me"})
    assert [str(p) for p in loaded.problems] == []
    servers = {*re.findall(r"(?m)^\[mcp\.servers\.(\w+)\]", text), "site/db"}
    assert {s.name: s.problem for s in loaded.plan.servers} == dict.fromkeys(servers)
    assert {s.transport for s in loaded.plan.servers} == {kind.name for kind in KINDS.values() if kind.is_implied}
    assert loaded.plan.defaults == Limits()
    assert loaded.plan.daemon == DaemonPlan()
    shown = {k.name: tomllib.loads(f"_ = {k.example}")["_"] for k in KEYS if k.section == "gateway" and k.example}
    lists = {name: tuple(value) for name, value in shown.items()}
    assert loaded.plan.gateway == msgspec.structs.replace(GatewayPlan(), **lists)


def test_the_example_shows_every_key() -> None:
    text = example_toml()
    assert [k.name for k in KEYS if not re.search(rf"(?m)^#{k.name} = ", text)] == []
    assert max(map(len, text.splitlines())) <= 120


def test_the_table_of_the_readme_has_a_row_for_every_key() -> None:
    table = keys_markdown()
    for key in KEYS:
        assert f".{key.name}` |" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {row.count("|") - row.count("\\|") for row in rows} == {5}


@pytest.mark.parametrize("name", ["resource", "prompt"])
def test_the_schema_takes_an_empty_text_where_it_has_a_meaning(name: str) -> None:
    text = f'[mcp.servers.a]\nurl = "https://a.example/mcp"\n[mcp.servers.a.oauth]\n{name} = ""\n'
    assert loads(text).problems == ()
    server = schema()["properties"]["mcp"]["properties"]["servers"]["additionalProperties"]
    assert "minLength" not in server["properties"]["oauth"]["properties"][name]
    assert "minLength" in server["properties"]["command"]


def test_the_schema_knows_every_key_and_forbids_others_in_our_sections_only() -> None:
    document = schema()
    assert "additionalProperties" not in document
    mcp = document["properties"]["mcp"]
    server = mcp["properties"]["servers"]["additionalProperties"]
    assert set(document["properties"]["daemon"]["properties"]) == set(DaemonSection.model_fields)
    assert set(document["properties"]["gateway"]["properties"]) == set(GatewaySection.model_fields)
    assert set(mcp["properties"]) == set(McpSection.model_fields) | {"servers"}
    assert set(server["properties"]) == set(ServerSection.model_fields)
    assert set(server["properties"]["oauth"]["properties"]) == set(OAuthSection.model_fields)
    for section in (document["properties"]["daemon"], mcp, server, server["properties"]["oauth"]):
        assert section["additionalProperties"] is False
    names = mcp["properties"]["servers"]["propertyNames"]
    assert re.search(names["pattern"], "a-B_9")
    assert not re.search(names["pattern"], "../x")
