"""Projects of moltis.toml: what each gets, whose folder it is, and what is wrong with one, which hurts no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.config import edit
from moltis.config.load import Loaded, load, loads
from moltis.config.plan import ServerPlan, StdioLaunch
from moltis.config.projects import Offer, innermost, project_named, resolve, rows_of
from moltis.errors import ConfigError, MoltisError, UnknownProject, UnknownServer, UsageError

NAMES = [f"s{n}" for n in range(12)]
KINDS = ["own", "own disabled", "own rest", "global", "global disabled", "global rest"]


# What a project gets -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(KINDS), max_size=12),
    st.sets(st.sampled_from(NAMES)),
    st.integers(0, 6),
)
def test_a_project_gets_what_the_manual_says(kinds: list[str], excluded: set[str], cap: int) -> None:
    """Manual 000: enabled globals, less the excluded, and the enabled own ones; of MCP servers at most so many."""
    servers = [(name, kind.split()) for name, kind in zip(NAMES, kinds, strict=False)]

    def offers(scope: str) -> list[Offer]:
        its = [(name, words) for name, words in servers if words[0] == scope]
        return [Offer(name, "disabled" not in words, "rest" not in words) for name, words in its]

    rows = resolve(offers("global"), offers("own"), excluded, cap)

    runnable = {name for name, words in servers if words == ["global"] or words == ["global", "rest"]}
    runnable -= excluded
    runnable |= {name for name, words in servers if words == ["own"] or words == ["own", "rest"]}
    rest = {name for name, words in servers if "rest" in words}
    oldest_first = [name for name, words in servers if words[0] == "own"]
    oldest_first += [name for name, words in servers if words[0] == "global"]
    kept = [name for name in oldest_first if name in runnable - rest]
    kept = kept[:cap] if cap else kept
    assert {row.server for row in rows if row.included} == {*kept, *(runnable & rest)}

    assert [row.server for row in rows] == oldest_first, "nothing is silently gone"
    for row in rows:
        words = dict(servers)[row.server]
        assert row.scope == ("project" if words[0] == "own" else "global")
        if row.included:
            assert row.reason is None
        elif "disabled" in words:
            assert row.reason == "disabled"
        elif words[0] == "global" and row.server in excluded:
            assert row.reason == "excluded"
        else:
            assert row.reason == "cap"


@given(st.lists(st.sampled_from(["/", "/a", "/a/b", "/a/bc", "/a/b/c", "/d"]), unique=True), st.data())
def test_the_innermost_project_around_a_folder_is_its_own(folders: list[str], data: st.DataObject) -> None:
    folder = data.draw(st.sampled_from(["/", "/a", "/a/b", "/a/b/c/d", "/a/bcd", "/d/e", "/x"]))
    found = innermost(folder, [(own, (own, "/elsewhere")) for own in folders])
    around = [own for own in folders if Path(folder).is_relative_to(own)]
    assert found == max(around, key=len, default=None)


# As written ----------------------------------------------------------------------------------------------------------

SERVER = "command = 'x'\n"


def read(text: str, **look: str | None) -> Loaded:
    return loads(text, {}, {"HOME": "/home/me"}, look=lambda paths: {path: look.get(path, path) for path in paths})


def servers(loaded: Loaded) -> dict[str, ServerPlan]:
    return {server.name: server for server in loaded.plan.servers}


def got(loaded: Loaded, project: str) -> list[str]:
    rows = rows_of(loaded.plan, project_named(loaded.plan, project))
    return [f"{row.server}: {row.reason}" if row.reason else row.server for row in rows]


def test_a_project_has_a_folder_exclusions_and_servers_of_its_own() -> None:
    loaded = read(
        f"[mcp]\nmax_servers_per_project = 2\n"
        f"[mcp.servers.a]\n{SERVER}[mcp.servers.b]\n{SERVER}[mcp.servers.c]\n{SERVER}"
        f"[projects.site]\npath = '~/src/site'\nexclude = ['a']\n"
        f"[projects.site.servers.db]\n{SERVER}args = ['${{project:path}}', '${{project:name}}']\n"
        f"[projects.shop]\npath = '/srv/shop'\n"
    )
    assert loaded.problems == ()
    assert [(p.name, p.path, p.exclude) for p in loaded.plan.projects] == [
        ("site", "/home/me/src/site", ("a",)),
        ("shop", "/srv/shop", ()),
    ]
    assert list(servers(loaded)) == ["a", "b", "c", "site/db"]
    own = servers(loaded)["site/db"]
    assert (own.project, own.launch) == ("site", StdioLaunch("x", ("/home/me/src/site", "site")))
    assert got(loaded, "site") == ["db", "a: excluded", "b", "c: cap"]
    assert got(loaded, "shop") == ["a", "b", "c: cap"]
    with pytest.raises(UnknownProject, match="did you mean site"):
        got(loaded, "sit")


def test_the_folder_of_a_project_is_no_secret() -> None:
    loaded = read(
        f"[projects.p]\npath = '/srv/somewhere'\n[projects.p.servers.a]\n{SERVER}args = ['${{project:path}}']\n"
    )
    assert loaded.problems == ()
    assert loaded.plan.secrets == frozenset()


@pytest.mark.parametrize(
    ("text", "key", "line", "words"),
    [
        ("[projects.p]\npath = '/nowhere'\n", "projects.p.path", 2, "there is no folder /nowhere"),
        ("[projects.p]\n", "projects.p", 1, "needs a path"),
        ("[projects.p]\npath = 5\n", "projects.p.path", 2, "must be text"),
        ("[projects.o]\npath = '/p/'\n[projects.p]\npath = '/q/../p'\n", "projects.p.path", 4, "project 'o' too"),
        ("[projects.o]\npath = '/l1'\n[projects.p]\npath = '/l2'\n", "projects.p.path", 4, "of the project 'o' too"),
        ("[projects.p]\npath = '/p'\nexclude = ['ala']\n", "projects.p.exclude[0]", 3, "did you mean 'all'"),
        ("[projects.p]\npath = '/p'\nexclude = ['own']\n[projects.p.servers.own]\ncommand='x'\n",
         "projects.p.exclude[0]", 3, "is its own"),
        ("[projects.p]\npath = '/p'\nexclude = 'all'\n", "projects.p.exclude", 3, "must be a list"),
        ("[projects.p]\npath = '/p'\n[projects.p.servers.ALL]\ncommand='x'\n", "projects.p.servers.ALL", 3,
         "what the server 'all' of all projects is called"),
        ("[projects.p]\npath = '/p'\n[projects.p.servers.every]\ncommand='x'\n", "projects.p.servers.every", 3,
         "what the server 'all' of all projects is called"),
        ("[projects.p]\npath = '/p'\n[projects.p.servers.b]\ncommand='x'\nlabel='all'\n", "projects.p.servers.b.label",
         5, "'all' and 'p/b'"),
        ("[projects.'a b']\npath = '/p'\n", 'projects."a b"', 1, "project name 'a b' must be"),
        ("[projects.a__b]\npath = '/p'\n", "projects.a__b", 1, "must not contain '__'"),
        ("[projects.o]\npath = '/o'\n[projects.O]\npath = '/p'\n", "projects.O", 3, "'o' only by case"),
        ("[projects.p]\npath = '/p'\npth = 1\n", "projects.p.pth", 3, "did you mean 'path'"),
        ("[projects]\np = 5\n", "projects.p", 2, "must be a table"),
        ("[projects.p]\npath = '/p'\nservers = 5\n", "projects.p.servers", 3, "must be a table"),
        ("[mcp.servers.s]\ncommand = 'x'\nargs = ['${project:path}']\n", "mcp.servers.s.args[0]", 3,
         "${project:path} has no value here: this server is shared by all"),
        ("[projects.p]\npath = '/p'\n[projects.p.servers.b]\ncommand='x'\nargs = ['${project:root}']\n",
         "projects.p.servers.b.args[0]", 5, "${"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_once_with_its_line_and_hurts_nobody_else(
    text: str, key: str, line: int, words: str
) -> None:
    others = "[projects.good]\npath = '/good'\n[projects.good.servers.db]\ncommand='x'\n"
    others += "[mcp.servers.all]\ncommand='x'\nlabel='every'\n"
    loaded = read(text + others, **{"/nowhere": None, "/l1": "/real", "/l2": "/real"})
    assert [(p.key, p.line) for p in loaded.problems] == [(key, line)]
    assert words in loaded.problems[0].message
    assert loaded.problems[0].fails_check
    assert [servers(loaded)[name].problem for name in ("all", "good/db")] == [None, None]
    assert {"db", "all"} <= {*got(loaded, "good")}


def test_an_own_server_that_is_named_like_one_of_all_does_not_run_and_is_not_silently_gone() -> None:
    loaded = read(
        f"[mcp.servers.a]\n{SERVER}[projects.p]\npath = '/p'\nexclude = ['a']\n[projects.p.servers.A]\n{SERVER}"
    )
    assert servers(loaded)["p/A"].launch is None
    assert got(loaded, "p") == ["A: invalid", "a: excluded"]


def test_folders_that_are_there_are_found_with_their_links_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    config = tmp_path / "moltis.toml"
    config.write_text("[projects.p]\npath = 'link'\n[projects.q]\npath = 'gone'\n")
    config.chmod(0o600)
    loaded = load(config, {}, {})
    (there, gone) = loaded.plan.projects
    assert (there.path, there.real) == (str(tmp_path / "link"), str((tmp_path / "real").resolve()))
    assert gone.path == str(tmp_path / "gone")
    assert [str(p) for p in loaded.problems] == [f"{config}:4: projects.q.path: there is no folder {tmp_path}/gone"]


# Written -------------------------------------------------------------------------------------------------------------

TEXT = """\
# mine
[mcp.servers.sentry]
command = "s"  # one
[mcp.servers.files]
command = "f"

[projects.site]  # the site
path = "~"
exclude = [
    "sentry",  # too loud
    # more to come
]

[daemon]
log_level = "info"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "moltis.toml"
    path.write_text(TEXT)
    return path


def test_exclusions_are_written_with_all_comments_kept(config: Path) -> None:
    edit.exclude_server(config, "site", "files")
    assert config.read_text() == TEXT.replace("loud\n", 'loud\n    "files",\n')
    edit.exclude_server(config, "site", "files")
    edit.include_server(config, "site", "files")
    assert config.read_text() == TEXT
    edit.include_server(config, "site", "files")
    edit.include_server(config, "site", "sentry")
    assert config.read_text() == TEXT.replace('    "sentry",  # too loud\n', "")
    edit.exclude_server(config, "site", "files")
    assert '["files",\n    # more to come\n]' in config.read_text()


def test_a_project_comes_and_goes_with_its_own_servers(config: Path, tmp_path: Path) -> None:
    edit.add_project(config, "shop", str(tmp_path))
    edit.exclude_server(config, "shop", "files")
    edit.add_server(config, "shop/db", {"command": "x", "args": ["${project:path}"]})
    edit.update_server(config, "shop/db", {"label": "d"})
    edit.set_enabled(config, "shop/db", False)
    added = (
        f'[projects.shop]\npath = "{tmp_path}"\nexclude = ["files"]\n\n[projects.shop.servers.db]\ncommand = "x"\n'
        'args = ["${project:path}"]\nlabel = "d"\nenabled = false\n'
    )
    assert config.read_text() == TEXT.replace("]\n\n[daemon]", f"]\n\n{added}\n[daemon]")
    edit.remove_server(config, "shop/db")
    edit.remove_project(config, "shop")
    assert config.read_text() == TEXT
    edit.remove_project(config, "site")
    assert "projects" not in config.read_text()


@pytest.mark.parametrize(
    ("function", "arguments", "error", "words"),
    [
        ("add_project", ("a b", "/"), UsageError, "project name"),
        ("add_project", ("shop", "relative"), UsageError, "there is no folder"),
        ("add_project", ("shop", "/nowhere/at/all"), UsageError, "there is no folder"),
        ("add_project", ("shop", "/dev/null"), UsageError, "there is no folder"),
        ("add_project", ("Site", "/"), ConfigError, "already a project 'site'"),
        ("add_project", ("shop", "~/."), ConfigError, "folder of the project 'site'"),
        ("remove_project", ("sit",), UnknownProject, "did you mean site"),
        ("exclude_server", ("sit", "files"), UnknownProject, "did you mean site"),
        ("exclude_server", ("site", "file"), UnknownServer, "did you mean files"),
        ("include_server", ("site", "sentri"), UnknownServer, "did you mean sentry"),
        ("add_server", ("shop/db", {"command": "x"}), UnknownProject, "shop"),
        ("add_server", ("site/files", {"command": "x"}), ConfigError, "'files' is a server of all projects"),
        ("add_server", ("site/db", {"command": "x", "label": "Files"}), ConfigError, "'files' and 'site/db'"),
        ("add_server", ("top", {"command": "x", "args": ["${project:path}"]}), ConfigError, "shared by all"),
        ("add_server", ("site/db/x", {"command": "x"}), ConfigError, "server name"),
        ("remove_server", ("site/db",), UnknownServer, "site/db"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_written(
    config: Path, function: str, arguments: tuple[Any, ...], error: type[MoltisError], words: str
) -> None:
    with pytest.raises(error, match=words):
        getattr(edit, function)(config, *arguments)
    assert config.read_text() == TEXT


def test_an_own_server_is_not_excluded(config: Path) -> None:
    edit.add_server(config, "site/db", {"command": "x"})
    before = config.read_text()
    for name in ("db", "site/db"):
        with pytest.raises(ConfigError, match="own") as refused:
            edit.exclude_server(config, "site", name)
        assert refused.value.hint == "moltis mcp disable site/db"
    assert config.read_text() == before
