"""Names that hosts and model providers refuse: they are shortened, no two meet, and the full ones still work."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from gateway_fakes import FakePort, FakeWorld, ask, prompt, tool
from hypothesis import given
from hypothesis import strategies as st

from moltis.config.load import loads
from moltis.gateway.endpoints import Endpoint, Route
from moltis.gateway.gateway import Gateway
from moltis.gateway.naming import MIN_FITTED_CHARS, fitted, may_be_fitted
from moltis.gateway.views import ALL, Settings, settings_of
from moltis.session.listing import Kind

SAFE = re.compile(r"[A-Za-z0-9_-]+")
ODD = ["github/git_commit", "coding.start", "notion.search", "notion_search", "Get File", "größe", "a__b", "a\nb"]


def view(*servers: tuple[str, list[str]], chars: int = 50, separator: str = "__") -> Endpoint:
    ports = []
    for name, tools in servers:
        port = FakePort(name)
        port.ready(tools=[tool(each) for each in tools], prompts=[prompt(each) for each in tools])
        ports.append(port)
    return Gateway(FakeWorld(*ports), Settings(separator=separator, name_chars=chars))._endpoint(ALL)


def listed(seen: Endpoint, kind: Kind = Kind.TOOLS) -> list[str]:
    page = seen.page(kind, None, modern=False)
    assert isinstance(page, bytes)
    return [item["name"] for item in msgspec.json.decode(page)[kind.member]]


def called(seen: Endpoint, name: str, method: str = "tools/call") -> tuple[str, str | None]:
    found = seen.route(method, ask(method, {"name": name}).params, modern=False)
    assert isinstance(found, Route), found
    assert found.name == msgspec.json.decode(found.params["name"])
    return found.port.name, found.name


@pytest.mark.parametrize(("kind", "method"), [(Kind.TOOLS, "tools/call"), (Kind.PROMPTS, "prompts/get")])
def test_long_and_odd_names_are_shortened_and_both_names_are_understood(kind: Kind, method: str) -> None:
    server, names = "s" * 30, [*ODD, *("t" * n for n in (17, 18, 19, 20, 33, 128))]
    seen = view((server, names), ("odd", names))
    shown = listed(seen, kind)
    assert len(set(shown)) == len(shown) == 2 * len(names)
    assert all(len(each) <= 50 and SAFE.fullmatch(each) for each in shown)
    for index, each in enumerate(shown):
        whose, name = (server, "odd")[index // len(names)], names[index % len(names)]
        assert called(seen, each, method) == (whose, name)
        assert called(seen, f"{whose}__{name}", method) == (whose, name)


def test_a_name_that_everybody_takes_stays_as_it_is() -> None:
    assert listed(view(("git", ["log", "a__b", "a-b", "x" * 45]))) == [
        "git__log", "git__a__b", "git__a-b", f"git__{'x' * 45}",
    ]  # fmt: skip


def test_a_name_that_ends_like_a_shortened_one_is_its_own() -> None:
    seen = view(("git", ["build_deadbeef", "x.y"]))
    assert listed(seen)[0] == "git__build_deadbeef"
    assert called(seen, "git__build_deadbeef") == ("git", "build_deadbeef")
    assert called(seen, "git__gone_deadbeef") == ("git", "gone_deadbeef"), "the server says that it has none"


def test_a_server_of_the_longest_name_is_reached_too() -> None:
    seen = view(("n" * 64, ["q"]), ("m" * 64, ["q"]))
    first, second = listed(seen)
    assert len(first) == len(second) == 50
    assert called(seen, first) == ("n" * 64, "q")
    assert called(seen, second) == ("m" * 64, "q")


def test_a_tool_of_a_server_that_is_not_listed_is_found_by_its_shortened_name() -> None:
    port = FakePort("s")
    port.ready(tools=[tool("x.y")])
    seen = Gateway(FakeWorld(port))._endpoint(ALL)
    (name,) = listed(seen)
    port.move("cooldown")
    seen.stale()
    assert listed(seen) == []
    assert called(seen, name) == ("s", "x.y")


@pytest.mark.parametrize(("chars", "expected"), [(0, ["s__a.b", f"s__{'x' * 90}"]), (128, [None, f"s__{'x' * 90}"])])
def test_how_long_names_may_be_is_a_key(chars: int, expected: list[str | None]) -> None:
    found = listed(view(("s", ["a.b", "x" * 90]), chars=chars))
    assert [name for name, wanted in zip(found, expected, strict=True) if wanted] == [each for each in expected if each]


def test_another_separator_stays_as_it_was_chosen() -> None:
    seen = view(("s", ["log", "a.b"]), separator=".")
    first, second = listed(seen)
    assert first == "s.log"
    assert re.fullmatch(r"s\.a_b_[0-9a-f]{8}", second)
    assert called(seen, second) == ("s", "a.b")


@pytest.mark.parametrize(
    ("written", "chars"), [("", 50), ("tool_name_chars = 0", 0), ("tool_name_chars = 5", MIN_FITTED_CHARS)]
)
def test_the_key_is_read(written: str, chars: int) -> None:
    loaded = loads(f"[gateway]\n{written}\n")
    assert loaded.problems == ()
    assert settings_of(loaded.plan).name_chars == chars


@pytest.mark.parametrize(
    ("chars", "name", "words"),
    [
        (0, "x" * 61, None),
        (0, "x" * 62, "65 characters"),
        (128, "x" * 90, "93 characters"),
        (0, "a.b", "characters that many hosts refuse"),
        (128, "a.b", None),
        (50, "x" * 128, None),
        (0, "a-b_c", None),
    ],
)
def test_a_name_that_hosts_refuse_and_that_is_not_shortened_is_told(chars: int, name: str, words: str | None) -> None:
    port = FakePort("s")
    port.ready(tools=[tool(name), tool("fine")], prompts=[prompt(name)])
    gateway = Gateway(FakeWorld(port), Settings(name_chars=chars))
    gateway.survey()
    shown = listed(gateway._endpoint(ALL))
    assert len(shown) == 2
    found = gateway.unusable("s")
    if words is None:
        assert found == []
        return
    assert [(each.kind, each.name) for each in found] == [("tool", name)]
    assert words in found[0].reason
    assert "tool_name_chars" in found[0].reason


def test_the_manual_s_dot_between_server_and_tool_is_what_was_chosen() -> None:
    port = FakePort("s")
    port.ready(tools=[tool("t")])
    gateway = Gateway(FakeWorld(port), Settings(name_chars=0, separator="."))
    gateway.survey()
    assert listed(gateway._endpoint(ALL)) == ["s.t"]
    assert gateway.unusable("s") == []


@pytest.mark.parametrize(
    ("name", "gateway", "words"),
    [
        ("n" * 31, "", None),
        ("n" * 32, "", "cut there, and end as a hash: 31 characters"),
        ("n" * 64, "", "cut there, and end as a hash: 31 characters"),
        ("n" * 54, "tool_name_chars = 0", None),
        ("n" * 55, "tool_name_chars = 0", "refused by many hosts: 54 characters"),
        ("n" * 6, "tool_name_chars = 5", "cut there, and end as a hash: 5 characters"),
        ("n" * 64, "enabled = false", None),
    ],
)
def test_a_server_s_name_that_leaves_no_room_for_its_tools_is_a_warning(
    name: str, gateway: str, words: str | None
) -> None:
    problems = loads(f'[gateway]\n{gateway}\n[mcp.servers.{name}]\ncommand = "x"\n').problems
    if words is None:
        assert problems == ()
        return
    (problem,) = problems
    assert problem.severity == "warning"
    assert not problem.fails_check
    assert words in problem.message
    assert problem.line == 3


def test_a_reload_renames_the_tools() -> None:
    port = FakePort("s")
    port.ready(tools=[tool("a.b")])
    gateway = Gateway(FakeWorld(port), Settings(name_chars=0))
    seen = gateway._endpoint(ALL)
    assert listed(seen) == ["s__a.b"]
    gateway.reconfigure(Settings(name_chars=50))
    assert listed(seen) != ["s__a.b"]
    assert seen.news() == [Kind.TOOLS.changed]


@given(st.text(max_size=80), st.text(max_size=80), st.integers(MIN_FITTED_CHARS, 128))
def test_no_two_names_meet(one: str, other: str, most: int) -> None:
    first, second = fitted("s", one, "__", most), fitted("s", other, "__", most)
    assert (first == second) is (one == other)
    assert len(first) <= most
    assert SAFE.fullmatch(first)
    assert first == f"s__{one}" or may_be_fitted(first)


def test_what_is_no_shortened_name_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = view(("s", ["t"]))
    asked: list[Any] = []

    def fitted(*found: Any) -> str:
        asked.append(found)
        return ""

    monkeypatch.setattr("moltis.gateway.catalogue.fitted", fitted)
    assert called(seen, "s__t") == ("s", "t")
    assert asked == []
