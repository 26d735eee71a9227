"""An edit changes what it should in moltis.toml and not one byte more, or nothing at all."""

from __future__ import annotations

import copy
import fcntl
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toml_texts import KEYS, SCALARS, TABLES, documents

from moltis.config import files
from moltis.config.edit import add_server, remove_server, set_enabled, set_mcp, update_server
from moltis.config.load import load
from moltis.config.scan import MAX_BYTES, scan
from moltis.config.splice import Unwritable, changed, rendered, same
from moltis.errors import ConfigError, UnknownServer

# The text ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=8))
def test_a_value_is_written_as_toml_that_means_it(value: Any) -> None:
    text = f"value = {rendered(value)}"
    assert same(tomli.loads(text)["value"], value)
    assert "\n" not in text


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Draw a text, its tables, and the same tables with some keys taken out, changed and added."""
    text = draw(documents())
    old = tomli.loads(text)
    new = copy.deepcopy(old)

    def meddle(table: dict[str, Any], depth: int) -> None:
        for key in list(table):
            match draw(st.sampled_from(["keep", "keep", "drop", "set", "into"])):
                case "drop":
                    del table[key]
                case "set":
                    table[key] = draw(SCALARS | st.lists(SCALARS, max_size=2))
                case "into" if isinstance(table[key], dict):
                    meddle(table[key], depth + 1)
        if draw(st.booleans()):
            key = draw(KEYS)
            assume(key not in table)
            table[key] = draw(SCALARS | TABLES if depth == 0 else SCALARS)

    meddle(new, 0)
    return text, old, new


def without_empty(value: Any) -> Any:
    """A table that is only implied by its last key goes with it."""
    if not isinstance(value, dict):
        return value
    inner = {k: without_empty(v) for k, v in value.items()}
    return {k: v for k, v in inner.items() if v != {}}


@settings(deadline=None)
@given(edits())
def test_an_edited_text_means_what_was_meant(edit: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    text, old, new = edit
    assert same(without_empty(tomli.loads(changed(text, old, new))), without_empty(new))


@settings(deadline=None)
@given(documents())
def test_an_edit_that_changes_nothing_changes_no_byte(text: str) -> None:
    tables = tomli.loads(text)
    assert changed(text, tables, copy.deepcopy(tables)) == text


@settings(deadline=None)
@given(documents(), st.data())
def test_one_changed_value_leaves_every_other_byte_alone(text: str, data: st.DataObject) -> None:
    tables = tomli.loads(text)
    singles = [e for e in scan(text).entries if not any(isinstance(part, int) for part in e.path)]
    assume(singles)
    entry = data.draw(st.sampled_from(singles))
    new = copy.deepcopy(tables)
    owner: Any = new
    for part in entry.path[:-1]:
        owner = owner[part]
    assume(not isinstance(owner[entry.path[-1]], dict))
    owner[entry.path[-1]] = "changed"
    if same(owner[entry.path[-1]], tables):
        return
    edited = changed(text, tables, new)
    assert edited == text[: entry.value_start] + '"changed"' + text[entry.value_end :] or same(tables, new)


COMMENTED = """\
#:schema ./moltis.schema.json
# my servers, by hand

[env]
KEY = "v"   # why

# the files of /srv
[mcp.servers.files]
command = "npx"   # not npm
# -y: never ask
args = [
    "-y",  # here
    "@modelcontextprotocol/server-filesystem",
]
# cwd = "~/old"

# this one is for work
[mcp.servers.work]
command = "w"
[mcp.servers.work.env]
A = "1"  # one
B = "2"

[daemon]  # at last
log_level = "info"

# the end
"""


def edited(tmp_path: Path, text: str, edit: Any, *args: Any) -> str:
    path = tmp_path / "moltis.toml"
    path.write_bytes(text.encode())
    edit(path, *args)
    return path.read_bytes().decode()


def test_a_new_server_is_written_below_the_others_and_reads_well(tmp_path: Path) -> None:
    entry = {
        "env": {"TOKEN": "$TOKEN", "Q": 'a "b" \\'},
        "command": "npx",
        "args": ["-y", "pkg"],
        "enabled": True,
        "display_name": None,
    }
    text = edited(tmp_path, COMMENTED, add_server, "new", entry)
    block = """
[mcp.servers.new]
command = "npx"
args = ["-y", "pkg"]
env = { TOKEN = "$TOKEN", Q = "a \\"b\\" \\\\" }
enabled = true
"""
    at = COMMENTED.index("\n[daemon]")
    assert text == COMMENTED[:at] + block + COMMENTED[at:]


def test_a_server_with_oauth_and_long_values_is_spread_over_lines(tmp_path: Path) -> None:
    entry = {
        "url": "https://h/",
        "headers": {"Authorization": "Bearer " + "x" * 100},
        "include_tools": ["a" * 60, "b" * 60],
        "oauth": {"client_id": "me", "scopes": ["a", "b"]},
    }
    text = edited(tmp_path, "", add_server, "api", entry)
    assert text == (
        '[mcp.servers.api]\nurl = "https://h/"\n'
        f'include_tools = [\n    "{"a" * 60}",\n    "{"b" * 60}",\n]\n\n'
        f'[mcp.servers.api.headers]\nAuthorization = "Bearer {"x" * 100}"\n\n'
        '[mcp.servers.api.oauth]\nclient_id = "me"\nscopes = ["a", "b"]\n'
    )


@pytest.mark.parametrize(
    "text", [COMMENTED, COMMENTED.replace("\n", "\r\n"), "", "[mcp]\nstop_eof_secs = 1\n", "# only\n"]
)
def test_adding_and_removing_a_server_gives_the_same_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "moltis.toml"
    path.write_bytes(text.encode())
    add_server(path, "new", {"url": "https://h/", "oauth": {"client_id": "x"}, "headers": {"A": "b" * 100}})
    assert b"[mcp.servers.new]" in path.read_bytes()
    remove_server(path, "new")
    assert path.read_bytes().decode() == text


def test_a_removed_server_takes_its_section_and_leaves_the_comments_of_others(tmp_path: Path) -> None:
    text = edited(tmp_path, COMMENTED, remove_server, "files")
    start, end = COMMENTED.index("[mcp.servers.files]"), COMMENTED.index("\n# this one is for work")
    assert text == COMMENTED[:start] + COMMENTED[end:]
    text = edited(tmp_path, COMMENTED, remove_server, "work")
    start, end = COMMENTED.index("[mcp.servers.work]"), COMMENTED.index("\n[daemon]")
    assert text == COMMENTED[:start] + COMMENTED[end:]


def test_only_the_lines_that_must_change_do(tmp_path: Path) -> None:
    changes = {"command": "uvx", "env": {"A": "1", "C": "3"}, "args": None, "cwd": "/srv"}
    before = set(COMMENTED.splitlines())
    after = edited(tmp_path, COMMENTED, update_server, "work", changes).splitlines()
    assert before - set(after) == {'command = "w"', 'B = "2"'}
    assert set(after) - before == {'command = "uvx"', 'cwd = "/srv"', 'C = "3"'}
    assert 'A = "1"  # one' in after


FORMS = {
    "section": '[mcp.servers.x]\ncommand = "a" # c\n',
    "section without a last newline": '[mcp.servers.x]\ncommand = "a" # c',
    "quoted section": '[mcp . servers . "x"]\n\tcommand = "a" # c\n',
    "dotted": 'mcp.servers.x.command = "a" # c\n[env]\nA = "1"\n',
    "dotted in mcp": '[mcp]\nservers.x.command = "a" # c\n',
    "dotted in servers": '[mcp.servers]\nx.command = "a" # c\n[env]\n',
    "inline server": '[mcp.servers]\nx = { command = "a" } # c\n',
    "inline servers": '[mcp]\nservers = { x = { command = "a" }, } # c\n',
    "inline mcp": 'mcp = { servers = { x = { command = "a", # c\n } } }\n',
    "inline over lines": '[mcp.servers]\nx = {\n  command = "a", # c\n}\n',
    "sections out of order": '[mcp.servers.x]\ncommand = "a" # c\n[env]\nA = "1"\n[mcp.servers.z]\ncommand = "z"\n',
    "mcp below its servers": '[mcp.servers.x]\ncommand = "a" # c\n[mcp]\nstop_term_secs = 1\n',
    "windows": '[mcp.servers.x]\r\ncommand = "a" # c\r\n\r\n[env]\r\n',
}


@pytest.mark.parametrize("form", FORMS)
def test_a_server_is_edited_in_whatever_form_it_was_written(tmp_path: Path, form: str) -> None:
    path = tmp_path / "moltis.toml"
    path.write_bytes(FORMS[form].encode())

    def servers() -> Any:
        text = path.read_bytes().decode()
        assert "# c" in text or "x" not in tomli.loads(text).get("mcp", {}).get("servers", {})
        assert text.count("\r\n") in (0, text.count("\n"))
        return {k: v for k, v in tomli.loads(text).get("mcp", {}).get("servers", {}).items() if k != "z"}

    set_enabled(path, "x", True)
    assert servers() == {"x": {"command": "a"}}
    set_enabled(path, "x", False)
    assert servers() == {"x": {"command": "a", "enabled": False}}
    update_server(path, "x", {"env": {"A": "b", "C": "d"}, "cwd": "/q", "enabled": None})
    assert servers() == {"x": {"command": "a", "env": {"A": "b", "C": "d"}, "cwd": "/q"}}
    update_server(path, "x", {"env": {"C": "e"}, "cwd": None})
    add_server(path, "y", {"command": "z", "args": ["1"]})
    assert servers() == {"x": {"command": "a", "env": {"C": "e"}}, "y": {"command": "z", "args": ["1"]}}
    set_mcp(path, "request_timeout_secs", 45.5)
    assert load(path, {}, {}).plan.defaults.request_timeout_secs == 45.5
    set_mcp(path, "request_timeout_secs", None)
    remove_server(path, "x")
    assert servers() == {"y": {"command": "z", "args": ["1"]}}
    remove_server(path, "y")
    assert servers() == {}


def test_a_key_of_mcp_goes_above_the_servers(tmp_path: Path) -> None:
    text = edited(tmp_path, COMMENTED, set_mcp, "request_timeout_secs", 45)
    at = COMMENTED.index("# the files of /srv")
    assert text == COMMENTED[:at] + "[mcp]\nrequest_timeout_secs = 45\n\n" + COMMENTED[at:]
    assert edited(tmp_path, text, set_mcp, "request_timeout_secs", 5.5) == text.replace("= 45", "= 5.5")


def test_a_value_without_a_form_in_toml_is_refused() -> None:
    for value in (None, object(), "\ud800"):
        with pytest.raises(Unwritable):
            rendered(value)


# The file ------------------------------------------------------------------------------------------------------------


def test_the_file_of_a_fresh_machine_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config" / "moltis.toml"
    add_server(path, "x", {"command": "a"})
    assert path.read_text() == '[mcp.servers.x]\ncommand = "a"\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["moltis.toml"]


def test_the_mode_of_a_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text("")
    path.chmod(0o640)
    add_server(path, "x", {"command": "a"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_linked_file_is_changed_where_it_is(tmp_path: Path) -> None:
    target = tmp_path / "dotfiles" / "real.toml"
    target.parent.mkdir()
    target.write_text("# real\n")
    link = tmp_path / "moltis.toml"
    link.symlink_to("dotfiles/real.toml")
    add_server(link, "x", {"command": "a"})
    assert link.is_symlink()
    assert target.read_text() == '# real\n\n[mcp.servers.x]\ncommand = "a"\n'


def test_a_byte_order_mark_stays(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.write_bytes(b"\xef\xbb\xbf[mcp]\r\n")
    set_mcp(path, "stop_eof_secs", 1)
    assert path.read_bytes() == b"\xef\xbb\xbf[mcp]\r\nstop_eof_secs = 1\r\n"


def test_an_edit_without_effect_does_not_touch_the_file(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text('[mcp.servers.x]\ncommand = "a"\nenabled = true\n')
    before = path.stat()
    set_enabled(path, "x", True)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


BROKEN = "[mcp.servers.x]\ncommand = 5\nunknown = 1\n"


def test_a_server_that_is_wrong_can_be_disabled_and_removed(tmp_path: Path) -> None:
    assert edited(tmp_path, BROKEN, set_enabled, "x", False) == BROKEN + "enabled = false\n"
    assert edited(tmp_path, BROKEN, remove_server, "x") == ""


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda p: add_server(p, "files", {"command": "a"}), "already a server 'files'"),
        (lambda p: add_server(p, "FILES", {"command": "a"}), "already a server 'files'"),
        (lambda p: add_server(p, "a__b", {"command": "a"}), "__"),
        (lambda p: add_server(p, "new", {"command": 5}), "command: must be text"),
        (lambda p: add_server(p, "new", {"commnd": "x"}), "commnd: unknown key - did you mean 'command'"),
        (lambda p: add_server(p, "new", {"command": "a", "url": "https://h/"}), "both"),
        (lambda p: update_server(p, "files", {"request_timeout_secs": 0}), "request_timeout_secs: must be"),
        (lambda p: update_server(p, "files", {"command": None}), "needs a command"),
        (lambda p: update_server(p, "files", {"nonsense": 1}), "nonsense: unknown key"),
        (lambda p: set_mcp(p, "request_timeout_secs", 0.01), "mcp.request_timeout_secs: must be"),
        (lambda p: set_mcp(p, "servers", {}), "mcp.servers: unknown key"),
        (lambda p: set_mcp(p, "rqst", 1), "mcp.rqst: unknown key"),
    ],
)
def test_a_wrong_edit_is_refused_by_its_key_and_writes_nothing(tmp_path: Path, edit: Any, words: str) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text(COMMENTED)
    with pytest.raises(ConfigError, match=words):
        edit(path)
    assert path.read_text() == COMMENTED
    assert os.listdir(tmp_path) == ["moltis.toml"]


@pytest.mark.parametrize(
    "edit", [remove_server, lambda p, n: update_server(p, n, {}), lambda p, n: set_enabled(p, n, True)]
)
def test_an_unknown_server_is_named_with_the_nearest(tmp_path: Path, edit: Any) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text(COMMENTED)
    with pytest.raises(UnknownServer, match="did you mean files"):
        edit(path, "file")
    path.write_text("")
    with pytest.raises(UnknownServer):
        edit(path, "file")
    assert path.read_text() == ""


def test_a_file_that_is_not_toml_is_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text("[mcp\n")
    with pytest.raises(ConfigError, match=r"moltis\.toml:1:5"):
        add_server(path, "x", {"command": "a"})
    assert path.read_text() == "[mcp\n"
    with pytest.raises(ConfigError, match="no configuration"):
        remove_server(tmp_path / "other.toml", "x")


def test_a_form_that_only_a_person_can_edit_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text("[[mcp.servers]]\n")
    with pytest.raises(ConfigError, match="must be a table"):
        add_server(path, "x", {"command": "a"})
    assert path.read_text() == "[[mcp.servers]]\n"


def test_two_writers_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text(COMMENTED)
    monkeypatch.setattr(files, "LOCK_SECS", 0.05)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another program is writing"):
            set_enabled(path, "files", False)
    finally:
        os.close(folder)
    set_enabled(path, "files", False)
    assert "enabled = false" in path.read_text()


def test_a_change_by_an_editor_in_the_meantime_is_not_overwritten(tmp_path: Path) -> None:
    """An editor asks for no lock: it saves while the new entry is being worked out."""
    path = tmp_path / "moltis.toml"
    path.write_text(COMMENTED)

    class Slow(dict[str, Any]):
        def items(self) -> Any:
            path.write_text("# saved by the editor\n")
            return super().items()

    with pytest.raises(ConfigError, match="changed by another program"):
        update_server(path, "files", Slow(cwd="/x"))
    assert path.read_text() == "# saved by the editor\n"


def test_a_disk_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        files.replace(path, b"x", Path.read_bytes)
    assert os.listdir(tmp_path) == ["moltis.toml"]


def test_an_edit_that_makes_the_file_too_long_to_be_read_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text("# " + "x" * (MAX_BYTES - 100) + "\n")
    before = path.read_bytes()
    with pytest.raises(ConfigError):
        add_server(path, "s", {"command": "true", "args": ["y" * 200]})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("label", ["WORK", "w"])
def test_a_label_that_is_anothers_is_refused_and_nothing_is_written(tmp_path: Path, label: str) -> None:
    text = COMMENTED.replace('command = "w"\n', 'command = "w"\nlabel = "W"\n')
    for edit, args in (
        (update_server, ("files", {"label": label})),
        (add_server, ("c", {"command": "c", "label": label})),
    ):
        with pytest.raises(ConfigError, match=r"'work' and '(files|c)' would have one name"):
            edited(tmp_path, text, edit, *args)
        assert (tmp_path / "moltis.toml").read_text() == text
    assert 'label = "f"' in edited(tmp_path, text, update_server, "files", {"label": "f"})
