"""A view is a value: any servers, under any labels, with filters of its own; and a path stands for one of them."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from gateway_fakes import (
    FakeOutlet,
    FakePort,
    FakeUpstream,
    FakeWorld,
    Unsolicited,
    agreed,
    ask,
    prompt,
    resource,
    tool,
)
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from moltis.errors import UnknownProject, UnknownServer
from moltis.gateway.api import LOCAL
from moltis.gateway.endpoints import Endpoint, Route, endpoint_of
from moltis.gateway.gateway import Gateway
from moltis.gateway.messages import Tell
from moltis.gateway.refusals import Refusal
from moltis.gateway.views import ALL, PATHS, Member, Project, Settings, View, Views, path_of
from moltis.session.listing import Kind

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True).filter(lambda name: "__" not in name)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time passes as soon as nobody has anything to do."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def world() -> tuple[FakeWorld, FakeUpstream, FakeUpstream, FakeUpstream]:
    ports = [FakePort(name) for name in ("github", "files", "mail")]
    ups = [
        port.ready(
            FakeUpstream(
                port.name,
                agreed(instructions=f"Words of {port.name}."),
                tools=[tool("read"), tool("write"), tool("delete_all")],
                prompts=[prompt("p")],
                resources=[resource("f:a"), resource(f"{port.name}:b")],
            )
        )
        for port in ports
    ]
    github, files, mail = ups
    return FakeWorld(*ports), github, files, mail


def project(*members: Member, **more: Any) -> View:
    return View("/mcp/site", members, **{"separator": "__", **more})


def names(seen: Endpoint, kind: Kind = Kind.TOOLS) -> list[str]:
    page = seen.page(kind, None, modern=False)
    assert isinstance(page, bytes)
    member = "uri" if kind is Kind.RESOURCES else "name"
    return [item[member] for item in msgspec.json.decode(page)[kind.member]]


def called(seen: Endpoint, name: str) -> tuple[str, str, str | None] | str:
    found = seen.route("tools/call", ask("tools/call", {"name": name}).params, modern=False)
    if isinstance(found, Refusal):
        return found.message
    return found.port.name, msgspec.json.decode(found.params["name"]), found.tool


# --- a subset, under other labels


def test_a_subset_under_other_labels_is_listed_and_called_by_them() -> None:
    servers, *_ = world()
    seen = endpoint_of(servers, project(Member("gh", "github"), Member("github", "files")))
    assert names(seen) == [f"{label}__{name}" for label in ("gh", "github") for name in ("read", "write", "delete_all")]
    assert called(seen, "gh__read") == ("github", "read", "read")
    assert called(seen, "github__read") == ("files", "read", "read"), "a label may be another server's name"
    assert names(seen, Kind.PROMPTS) == ["gh__p", "github__p"]
    assert (seen.sees("github"), seen.sees("files"), seen.sees("mail")) == (True, True, False)
    assert [port.name for port in seen.ports()] == ["github", "files"]


@pytest.mark.parametrize("name", ["mail__read", "files__read", "read", "gh_read", "__read"])
def test_what_is_not_of_the_subset_cannot_be_called(name: str) -> None:
    servers, *_ = world()
    seen = endpoint_of(servers, project(Member("gh", "github"), Member("docs", "files")))
    assert called(seen, name) == f"Unknown tool: {name}"


def test_resources_that_meet_and_words_are_under_labels_too() -> None:
    servers, *_ = world()
    seen = endpoint_of(servers, project(Member("gh", "github"), Member("docs", "files")))
    assert names(seen, Kind.RESOURCES) == ["f:a", "github:b", "moltis://docs/f%3Aa", "files:b"]
    owner = seen.locate("moltis://docs/f%3Aa")
    assert owner is not None
    assert (owner.server, owner.name) == ("files", "f:a"), "what is subscribed to is the server's"
    assert seen.locate("moltis://files/f%3Aa") is None
    said = seen.introduction().instructions
    assert said is not None
    assert "# gh\n\nWords of github." in said
    assert "# docs\n\nWords of files." in said
    assert "mail" not in said


def test_a_long_text_is_whole_under_its_label() -> None:
    port = FakePort("github")
    port.ready(FakeUpstream("github", agreed(instructions="L" * 3000)))
    seen = endpoint_of(FakeWorld(port), project(Member("gh", "github")))
    assert names(seen, Kind.RESOURCES) == ["moltis://instructions/gh"]
    own = seen.own(ask("resources/read", {"uri": "moltis://instructions/gh"}).params, modern=False)
    assert own is not None
    assert "L" * 3000 in own.decode()


def test_one_server_under_a_label_is_still_shown_as_servers_together() -> None:
    servers, *_ = world()
    alone, together = (
        endpoint_of(servers, Views(Settings(), ["github"]).at(path_of("github"))),
        endpoint_of(servers, project(Member("gh", "github"))),
    )
    assert (alone.relays_all, together.relays_all) == (True, False)
    assert names(alone)[0] == "read"
    assert names(together)[0] == "gh__read"


def test_labels_that_change_are_news_and_the_old_ones_are_gone() -> None:
    servers, *_ = world()
    seen = endpoint_of(servers, project(Member("gh", "github")))
    assert called(seen, "gh__read") == ("github", "read", "read")
    seen.show(project(Member("hub", "github")))
    assert "notifications/tools/list_changed" in seen.news()
    assert names(seen)[0] == "hub__read"
    assert called(seen, "hub__read") == ("github", "read", "read")
    assert called(seen, "gh__read") == "Unknown tool: gh__read"


def test_shortened_names_are_of_labels() -> None:
    port = FakePort("github")
    port.ready(tools=[tool("a.b")])
    seen = endpoint_of(FakeWorld(port), project(Member("gh", "github"), name_chars=50))
    (shown,) = names(seen)
    assert shown.startswith("gh__a_b_")
    assert called(seen, shown) == ("github", "a.b", "a.b")


def test_labels_of_moltis_toml_are_what_servers_are_called_together_and_nowhere_else() -> None:
    servers, *_ = world()
    views = Views(Settings(labels=(("github", "gh"),)), ["github", "files"])
    together = endpoint_of(servers, views.at(ALL))
    assert names(together)[::3] == ["gh__read", "files__read"]
    assert called(together, "gh__write") == ("github", "write", "write")
    assert called(together, "github__write") == "Unknown tool: github__write"
    alone = endpoint_of(servers, views.at(path_of("github")))
    assert names(alone)[0] == "read"


# --- filters


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ((), (), ["read", "write", "delete_all"]),
        (("read", "write"), (), ["read", "write"]),
        ((), ("delete_*",), ["read", "write"]),
        (("*",), ("*e",), ["read", "delete_all"]),
        (("nothing",), (), []),
    ],
)
@pytest.mark.parametrize("separator", ["__", None])
def test_what_a_view_filters_out_is_neither_listed_nor_called(
    include: tuple[str, ...], exclude: tuple[str, ...], left: list[str], separator: str | None
) -> None:
    servers, github, *_ = world()
    member = Member("gh", "github", include, exclude)
    seen = endpoint_of(servers, project(member, separator=separator))
    before = "gh__" if separator else ""
    assert names(seen) == [before + name for name in left]
    for name in ("read", "write", "delete_all"):
        shown = before + name
        assert called(seen, shown) == (("github", name, name) if name in left else f"Unknown tool: {shown}")
        assert (seen.tool(shown) is not None) is (name in left)
    assert not github.calls


def test_a_filter_lets_nothing_through_that_the_server_s_own_does_not() -> None:
    servers, github, *_ = world()
    github.hidden = frozenset({"write"})
    assert names(endpoint_of(servers, project(Member("gh", "github", ("write", "read"))))) == ["gh__read"]


# --- what cannot be


@pytest.mark.parametrize(
    ("members", "separator"),
    [
        ((Member("a", "one"), Member("a", "two")), "__"),
        ((Member("a", "one"), Member("b", "one")), "__"),
        ((Member("", "one"), Member("b", "two")), "__"),
        ((Member("a", "one"), Member("b", "two")), None),
        ((), None),
    ],
)
def test_members_that_cannot_be_told_apart_are_no_view(members: tuple[Member, ...], separator: str | None) -> None:
    with pytest.raises(ValueError, match="/mcp/site"):
        View("/mcp/site", members, separator)


# --- paths


@given(st.lists(NAMES, unique_by=str.casefold, max_size=6))
def test_each_path_stands_for_one_view_of_servers_that_there_are(servers: list[str]) -> None:
    views = Views(Settings(separator="."), servers)
    assert [member.server for member in views.at(ALL).members] == servers
    assert views.at(ALL).separator == "."
    for server in servers:
        alone = views.at(path_of(server))
        assert (alone.members, alone.separator) == ((Member(server, server),), None)
    every = [views.at(path) for path in (ALL, *map(path_of, servers))]
    assert len({view.path for view in every}) == len(servers) + 1
    assert all(views.at(view.path) is view for view in every)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/mcp/", "/mcp/one", "/servers", "/servers/one", "/servers/one/mcp/", "/servers//mcp", "/servers/two/mcp",
     "/servers/ONE/mcp", "/servers/one/mcp/mcp", "one"],
)  # fmt: skip
def test_any_other_path_stands_for_nothing(path: str) -> None:
    views = Views(Settings(), ["one"])
    assert path not in views
    with pytest.raises((UnknownServer, UnknownProject)):
        views.at(path)


def test_who_asks_for_an_unknown_server_is_told_the_nearest() -> None:
    with pytest.raises(UnknownServer, match=r"'gihub'.*github"):
        Views(Settings(), ["github"]).at(path_of("gihub"))


def test_every_path_that_is_served_is_a_route() -> None:
    views = Views(Settings(projects=(Project("site"),)), ["one", "site/one"])
    assert all(path.replace("{server}", "one").replace("{project}", "site") in views for path in PATHS)


# --- projects

SITE = Project("site", ("/src/site", "/real/site"), (("db", "site/db"), ("gh", "github")), ("files",))


def test_a_project_shows_what_it_gets_under_its_labels_and_all_servers_show_none_of_its_own() -> None:
    servers, *_ = world()
    own = FakePort("site/db")
    own.ready(FakeUpstream("site/db", agreed(), tools=[tool("query")]))
    servers = FakeWorld(*servers.ports(), own)
    views = Views(Settings(labels=(("github", "gh"),), projects=(SITE,)), [port.name for port in servers.ports()])
    seen = endpoint_of(servers, views.at(path_of(project="site")))
    assert names(seen) == ["db__query", "gh__read", "gh__write", "gh__delete_all"]
    assert called(seen, "db__query") == ("site/db", "query", "query")
    assert called(seen, "files__read") == "Unknown tool: files__read"
    assert not any(name.startswith(("db", "site")) for name in names(endpoint_of(servers, views.at(ALL))))
    assert names(endpoint_of(servers, views.at(path_of("site/db")))) == ["query"]


def test_what_the_cap_leaves_out_is_said() -> None:
    servers, *_ = world()
    seen = endpoint_of(servers, Views(Settings(projects=(SITE,)), ["github"]).at("/mcp/site"))
    assert "Left out here by max_servers_per_project: files" in str(seen.introduction().instructions)


def test_what_mends_a_server_under_a_label_calls_it_as_the_command_does() -> None:
    port = FakePort("site/db", "awaiting_auth")
    seen = endpoint_of(FakeWorld(port), project(Member("db", "site/db")))
    assert "db (needs a login: moltis mcp reauth site/db)" in str(seen.introduction().instructions)


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("/src/site", "/mcp/site"), ("/src/site/a/b", "/mcp/site"), ("/real/site/a", "/mcp/site"),
        ("/src/site/in", "/mcp/inner"), ("/src/site/in/x", "/mcp/inner"), ("/src/site/inx", "/mcp/site"),
        ("/src/sites", ALL), ("/src", ALL), ("/", ALL), ("", ALL),
    ],
)  # fmt: skip
def test_a_folder_is_of_the_innermost_project(folder: str, path: str) -> None:
    views = Views(Settings(projects=(SITE, Project("inner", ("/src/site/in",)))), [])
    assert views.of_folder(folder) == path


def test_an_unknown_project_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownProject, match=r"'sit'.*site"):
        Views(Settings(projects=(SITE,)), []).at(path_of(project="sit"))


# --- by the gateway


def test_a_view_of_its_own_is_served_to_hosts_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a project will be: one entry more where paths are resolved, and nothing else."""
    site = project(Member("gh", "github", exclude=("delete_*",)))

    class WithProject(Views):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self._views[site.path] = site

    monkeypatch.setattr("moltis.gateway.gateway.Views", WithProject)
    servers, github, files, _mail = world()
    gateway = Gateway(servers)
    way, outlet = Unsolicited(), FakeOutlet()
    host = gateway.new_host(site.path, LOCAL, way)
    host.request(ask("tools/list", id=1), outlet)
    assert [found["name"] for found in outlet.result["tools"]] == ["gh__read", "gh__write"]
    refused = FakeOutlet()
    host.request(ask("tools/call", {"name": "gh__delete_all"}, id=2), refused)
    assert refused.error["message"] == "Unknown tool: gh__delete_all"
    host.request(ask("tools/call", {"name": "gh__read", "arguments": {"x": [1.50]}}, id=3), FakeOutlet())
    assert [(call.tool, bytes(call.params["arguments"])) for call in github.calls] == [("read", b'{"x":[1.5]}')]
    assert not files.calls
    assert gateway.seen_of("files") == []
    gateway.servers_changed()
    assert gateway.knows(site.path)
    assert gateway.tool(site.path, "gh__read") is not None
    assert gateway.tool(site.path, "files__read") is None


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeWorld, Gateway]:
    """A gateway with a view of `files` and `mail` beside those that there always are."""
    site = project(Member("docs", "files"), Member("post", "mail"))

    class WithProject(Views):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self._views[site.path] = site

    monkeypatch.setattr("moltis.gateway.gateway.Views", WithProject)
    servers, *_ = world()
    return servers, Gateway(servers)


async def test_what_a_server_says_reaches_the_hosts_of_the_views_that_it_is_in(two: tuple[FakeWorld, Gateway]) -> None:
    async with anyio.create_task_group() as tasks:
        servers, gateway = two
        servers.tasks = tasks
        ways = {path: Unsolicited() for path in (ALL, "/mcp/site", path_of("files"), path_of("github"))}
        for path, way in ways.items():
            host = gateway.new_host(path, LOCAL, way)
            host.request(ask("initialize", {"protocolVersion": "2025-11-25"}), FakeOutlet())
            host.notification(Tell("notifications/initialized", {}))
        gateway.notified("files", "notifications/message", b'{"level":"error","data":1}')
        gateway.notified("github", "notifications/other", b"{}")
        up = servers.port("files").upstream()
        assert up is not None
        up.lists[Kind.TOOLS] = (tool("new"),)
        gateway.lists_changed("files")
        await anyio.sleep(1)
        gateway.close("over")
    changed = "notifications/tools/list_changed"
    assert {path: way.methods() for path, way in ways.items()} == {
        ALL: ["notifications/message", changed],
        "/mcp/site": ["notifications/message", changed],
        path_of("files"): ["notifications/message", changed],
        path_of("github"): ["notifications/other"],
    }


async def test_a_resource_is_watched_under_its_label_and_told_of_under_it(two: tuple[FakeWorld, Gateway]) -> None:
    async with anyio.create_task_group() as tasks:
        servers, gateway = two
        servers.tasks = tasks
        way = Unsolicited()
        host = gateway.new_host("/mcp/site", LOCAL, way)
        host.request(ask("initialize", {"protocolVersion": "2025-11-25"}), FakeOutlet())
        host.notification(Tell("notifications/initialized", {}))
        shown, outlet = "moltis://post/f%3Aa", FakeOutlet()
        host.request(ask("resources/subscribe", {"uri": shown}, id=2), outlet)
        await anyio.sleep(1)
        assert outlet.result == {}
        watched = {name: servers.port(name).up.watched for name in ("github", "files", "mail")}
        assert watched == {"github": [], "files": [], "mail": [frozenset({"f:a"})]}
        gateway.notified("mail", "notifications/resources/updated", b'{"uri":"f:a"}')
        gateway.notified("files", "notifications/resources/updated", b'{"uri":"f:a"}')
        assert [sent["params"]["uri"] for sent in way.sent] == [shown]
        gateway.close("over")


@given(
    st.dictionaries(NAMES, st.lists(st.text("ab_.", min_size=1, max_size=40), max_size=3, unique=True), max_size=4),
    st.lists(st.from_regex(r"[a-c_.]{1,3}", fullmatch=True), min_size=4, max_size=4, unique=True),
    st.sampled_from(["__", ".", "_"]),
    st.sampled_from([0, 24, 50]),
)
def test_what_is_listed_under_a_label_is_called_by_that_name(
    servers: dict[str, list[str]], labels: list[str], separator: str, chars: int
) -> None:
    ports = []
    for name, tools in servers.items():
        ports.append(FakePort(name))
        ports[-1].ready(tools=[tool(each) for each in tools])
    members = [Member(label, name) for label, name in zip(labels, servers, strict=False)]
    seen = endpoint_of(FakeWorld(*ports), project(*members, separator=separator, name_chars=chars))
    shown = names(seen)
    assert len(shown) == len(set(shown)) <= sum(map(len, servers.values()))
    found = [called(seen, each) for each in shown]
    assert len(set(found)) == len(found)
    for where in found:
        assert not isinstance(where, str)
        assert where[1] == where[2]
        assert where[1] in servers[where[0]]


def test_a_log_level_concerns_the_servers_of_the_view_alone() -> None:
    servers, github, files, _mail = world()
    gateway = Gateway(servers)
    host = gateway.new_host(path_of("github"), LOCAL, Unsolicited())
    host.request(ask("logging/setLevel", {"level": "debug"}), FakeOutlet())
    assert (github.levels, files.levels) == (["debug"], [])


def test_a_request_of_a_route_is_what_the_server_called_it() -> None:
    servers, *_ = world()
    seen = endpoint_of(servers, project(Member("gh", "github")))
    params = ask("completion/complete", {"ref": {"type": "ref/prompt", "name": "gh__p"}, "argument": {}}).params
    found = seen.route("completion/complete", params, modern=False)
    assert isinstance(found, Route)
    assert msgspec.json.decode(found.params["ref"]) == {"type": "ref/prompt", "name": "p"}
