from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from moltis.config.files import one_writer_in
from moltis.config.limits import Limits
from moltis.config.plan import RemoteLaunch, ServerPlan, Shown, StdioLaunch
from moltis.errors import ConfigError
from moltis.gateway import known as known_module
from moltis.gateway.api import Known
from moltis.gateway.known import MAX_FILE_BYTES, KnownStore
from moltis.gateway.showing import mark
from moltis.redaction import Scrubber
from moltis.session.handshake import Agreed
from moltis.session.listing import Item, Kind, Pages

AGREED = Agreed("legacy", "2025-11-25", {"name": "s", "version": "1"}, {"tools": {"listChanged": True}}, "Use it.")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
MEMBERS = {Kind.TOOLS: "name", Kind.PROMPTS: "name", Kind.RESOURCES: "uri", Kind.TEMPLATES: "uriTemplate"}


def tools(*raws: bytes) -> tuple[Item, ...]:
    pages = Pages(Kind.TOOLS)
    pages.add(b'{"tools":[%b]}' % b",".join(raws))
    return tuple(pages.items)


KNOWN = Known(AGREED, tools=tools(b'{"name":"a"}', b'{ "name" : "b", "server":"x" }'))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "known"


@pytest.fixture
def store(folder: Path) -> KnownStore:
    return KnownStore(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- what is kept


def test_what_is_saved_is_loaded_with_its_mark(store: KnownStore, folder: Path) -> None:
    store.save("git", "m1", KNOWN)
    store.save("db", "m2", Known(AGREED))
    expected = {"git": ("m1", KNOWN), "db": ("m2", Known(AGREED))}
    assert store.load_all() == KnownStore(folder).load_all() == expected


def test_what_a_server_says_of_itself_beyond_what_is_understood_is_loaded_byte_for_byte(store: KnownStore) -> None:
    agreed = Agreed("legacy", "1", None, {}, None, {"vendor": Raw(b'{"z":1e400,"a":1.0}'), "_meta": Raw(b'{"v":[1]}')})
    store.save("git", "m", Known(agreed))
    assert store.load_all() == {"git": ("m", Known(agreed))}


def test_what_an_older_version_kept_as_it_came_is_loaded_as_it_is_read_today(store: KnownStore) -> None:
    agreed = Agreed("legacy", "1", {"name": 5, "icons": None}, {"tools": True, "logging": None, "resources": False})
    store.save("git", "m", Known(agreed))
    (_, known) = store.load_all()["git"]
    assert (known.agreed.server_info, known.agreed.capabilities) == ({"name": "5"}, {"tools": {}})


def test_the_last_that_was_saved_counts(store: KnownStore) -> None:
    store.save("git", "m1", KNOWN)
    store.save("git", "m2", Known(AGREED))
    assert store.load_all() == {"git": ("m2", Known(AGREED))}


def test_what_is_forgotten_is_gone_and_may_have_been_gone_before(store: KnownStore) -> None:
    store.forget("git")
    store.save("git", "m1", KNOWN)
    store.forget("git")
    store.forget("git")
    assert store.load_all() == {}


def test_nothing_is_known_and_no_folder_made_before_something_is_saved(store: KnownStore, folder: Path) -> None:
    assert store.load_all() == {}
    assert not folder.exists()


def test_the_folder_and_its_files_are_this_users_alone(store: KnownStore, folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    store.save("git", "m1", KNOWN)
    assert (mode(folder), mode(folder / "git.json")) == (0o700, 0o600)
    assert [path.name for path in folder.iterdir()] == ["git.json"]


def raw_item(kind: Kind, name: str, more: dict[str, Any], indent: int | None, ascii: bool) -> bytes:
    return json.dumps({**more, MEMBERS[kind]: name}, indent=indent, ensure_ascii=ascii).encode()


@given(
    st.fixed_dictionaries(
        {
            kind: st.lists(
                st.builds(
                    raw_item,
                    st.just(kind),
                    TEXT,
                    st.dictionaries(TEXT | st.just("server"), JSON, max_size=4),
                    st.sampled_from([None, 0, 2]),
                    st.booleans(),
                ),
                max_size=4,
            )
            for kind in Kind
        }
    ),
    st.builds(
        Agreed,
        st.sampled_from(["legacy", "modern"]),
        TEXT,
        st.none() | st.dictionaries(TEXT, JSON, max_size=3),
        st.dictionaries(TEXT, JSON, max_size=3),
        st.none() | TEXT,
    ),
    TEXT,
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_byte_that_a_server_listed_comes_back(
    tmp_path: Path, raws: dict[Kind, list[bytes]], agreed: Agreed, of_entry: str
) -> None:
    lists: dict[Kind, tuple[Item, ...]] = {}
    for kind, found in raws.items():
        pages = Pages(kind)
        pages.add(b'{"%b":[%b]}' % (kind.member.encode(), b",".join(found)))
        lists[kind] = tuple(pages.items)
    known = Known(agreed, lists[Kind.TOOLS], lists[Kind.RESOURCES], lists[Kind.TEMPLATES], lists[Kind.PROMPTS])
    store = KnownStore(tmp_path / "known")
    store.save("s", of_entry, known)
    ((found_mark, back),) = store.load_all().values()
    assert (found_mark, back) == (of_entry, known)
    for kind, one in zip(Kind, (back.tools, back.resources, back.templates, back.prompts), strict=True):
        assert [item.raw for item in one] == [item.raw for item in lists[kind]]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b/c", "/a", "a/", "a+b", "a__b", "a.b", "x" * 65, "\0", ".json"]
)
def test_what_is_no_servers_name_never_becomes_a_path(store: KnownStore, folder: Path, name: str) -> None:
    with pytest.raises(ValueError):
        store.save(name, "m", KNOWN)
    with pytest.raises(ValueError):
        store.forget(name)
    assert not folder.exists()


# --- bounds


def test_of_a_server_that_lists_too_much_nothing_is_kept(store: KnownStore) -> None:
    store.save("git", "m", KNOWN)
    big = b'{"name":"a","x":"%b"}' % (b"x" * (MAX_FILE_BYTES // 2))
    store.save("git", "m", Known(AGREED, tools=tools(big), prompts=tools(big)))
    assert store.load_all() == {}


def test_what_cannot_be_written_is_not_kept(store: KnownStore) -> None:
    store.save("git", "m", KNOWN)
    store.save("git", "m", Known(Agreed("legacy", "1", None, {"x": object()})))
    assert store.load_all() == {}


def test_capabilities_nested_beyond_reason_are_not_kept(store: KnownStore) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"x": deep}
    store.save("git", "m", Known(Agreed("legacy", "1", None, deep)))
    assert store.load_all() == {}


# --- hostile files


def change(edit: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        found = json.loads(data)
        edit(found)
        return json.dumps(found).encode()

    return changed


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "something behind": lambda data: data + b"{}",
    "not JSON": lambda data: b"\0" * len(data),
    "not UTF-8": lambda data: data.replace(b'"name":"a"', b'"name":"a","x":"\xff"'),
    "another format": change(lambda found: found.update(format=2)),
    "a format that is no number": change(lambda found: found.update(format="1")),
    "no mark": change(lambda found: found.pop("mark")),
    "a mark that is no text": change(lambda found: found.update(mark=5)),
    "nothing agreed": change(lambda found: found.pop("agreed")),
    "an unknown era": change(lambda found: found["agreed"].update(era="future")),
    "capabilities that are no object": change(lambda found: found["agreed"].update(capabilities=[])),
    "instructions that are no text": change(lambda found: found["agreed"].update(instructions=7)),
    "no prompts": change(lambda found: found.pop("prompts")),
    "tools that are no list": change(lambda found: found.update(tools={})),
    "a tool that is no object": change(lambda found: found["tools"].append(5)),
    "a tool without a name": change(lambda found: found["tools"].append({})),
    "a tool whose name is no text": change(lambda found: found["tools"].append({"name": 1})),
    "an array": lambda data: b"[%b]" % data,
    "too many items": change(lambda found: found.update(tools=[{"name": "x"}] * 10_001)),
    "a bomb": lambda data: b"[" * 1_000_000,
    "a bomb inside": lambda data: data.replace(b'"tools":[', b'"tools":[' + b"[" * 500_000 + b"]" * 500_000 + b","),
    "too long": lambda data: data + b" " * MAX_FILE_BYTES,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_as_none_and_set_aside_and_others_stay(store: KnownStore, folder: Path, fault: str) -> None:
    store.save("bad", "m", KNOWN)
    store.save("good", "m", KNOWN)
    file = folder / "bad.json"
    file.write_bytes(BROKEN[fault](file.read_bytes()))
    assert store.load_all() == {"good": ("m", KNOWN)}
    assert not file.exists()
    assert (folder / "bad.json.broken").exists()
    store.save("bad", "m", KNOWN)
    assert store.load_all() == {"bad": ("m", KNOWN), "good": ("m", KNOWN)}


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_makes_loading_raise_or_lists_that_are_not_json(tmp_path: Path, data: st.DataObject) -> None:
    store = KnownStore(tmp_path / "known")
    store.save("s", "m", KNOWN)
    file = tmp_path / "known" / "s.json"
    damaged = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) if data.draw(st.booleans()) else damaged)
    for _, known in store.load_all().values():
        for item in known.tools:
            assert json.loads(item.raw)["name"] == item.name


def test_a_link_is_neither_read_nor_followed_when_it_is_replaced(store: KnownStore, folder: Path) -> None:
    store.save("other", "m", KNOWN)
    outside = folder.parent / "outside.json"
    outside.write_bytes((folder / "other.json").read_bytes())
    before = outside.read_bytes()
    (folder / "git.json").symlink_to(outside)
    assert store.load_all() == {"other": ("m", KNOWN)}
    assert not (folder / "git.json").is_symlink()
    (folder / "git.json").symlink_to(outside)
    store.save("git", "m2", Known(AGREED))
    assert not (folder / "git.json").is_symlink()
    assert outside.read_bytes() == before
    (folder / "db.json").symlink_to(outside)
    store.forget("db")
    assert outside.read_bytes() == before


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(store: KnownStore, folder: Path) -> None:
    store.save("good", "m", KNOWN)
    os.mkfifo(folder / "git.json")
    (folder / "db.json").mkdir()
    assert store.load_all() == {"good": ("m", KNOWN)}


def test_a_file_that_cannot_be_opened_now_is_left_for_the_next_time(
    store: KnownStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("bad", "m", KNOWN)
    store.save("good", "m", KNOWN)
    opened = os.open

    def refuse(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("bad.json"):
            raise OSError(5, "Input/output error")
        return opened(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert store.load_all() == {"good": ("m", KNOWN)}
    assert set(store.load_all()) == {"bad", "good"}


def test_what_is_not_ours_in_the_folder_is_left_alone(store: KnownStore, folder: Path) -> None:
    store.save("git", "m", KNOWN)
    for name in ("README.md", "a__b.json", ".hidden.json", "x.json.bak"):
        (folder / name).write_text("mine")
    assert set(store.load_all()) == {"git"}
    assert len(list(folder.iterdir())) == 5


def test_a_folder_that_is_none_gives_nothing_and_says_so_when_saving(tmp_path: Path) -> None:
    (tmp_path / "known").write_text("a file")
    store = KnownStore(tmp_path / "known")
    assert store.load_all() == {}
    store.forget("git")
    with pytest.raises(ConfigError):
        store.save("git", "m", KNOWN)


def test_a_full_disk_leaves_what_was_kept_before(
    store: KnownStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("git", "m1", KNOWN)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(ConfigError):
            store.save("git", "m2", Known(AGREED))
    assert store.load_all() == {"git": ("m1", KNOWN)}
    assert [path.name for path in folder.iterdir()] == ["git.json"]


# --- many at once, and a crash in the middle

CRASH = """
import os, sys
from pathlib import Path
from moltis.gateway.api import Known
from moltis.gateway.known import KnownStore
from moltis.session.handshake import Agreed

at, step = sys.argv[2], {"n": 0}
def dies(real):
    def call(*args, **more):
        if at == real.__name__ + "-before":
            os._exit(9)
        found = real(*args, **more)
        if at == real.__name__ + "-after":
            os._exit(9)
        return found
    return call
os.fchmod, os.rename = dies(os.fchmod), dies(os.rename)
agreed = Agreed("modern", "2026-07-28", None, {"x": "y" * 100_000})
KnownStore(Path(sys.argv[1])).save("git", "new", Known(agreed))
"""


@pytest.mark.parametrize("at", ["fchmod-before", "fchmod-after", "rename-before", "rename-after"])
def test_a_crash_in_the_middle_of_a_save_leaves_the_old_or_the_new(store: KnownStore, folder: Path, at: str) -> None:
    store.save("git", "old", KNOWN)
    done = subprocess.run([sys.executable, "-c", CRASH, str(folder), at], check=False)
    assert done.returncode == 9
    assert len(list(folder.iterdir())) == (1 if at == "rename-after" else 2)
    (found,) = store.load_all().values()
    assert found[0] == ("new" if at == "rename-after" else "old")
    assert [path.name for path in folder.iterdir()] == ["git.json"]
    store.save("git", "newer", KNOWN)
    assert store.load_all() == {"git": ("newer", KNOWN)}


def test_threads_that_save_load_and_forget_at_once_never_see_a_part(store: KnownStore, folder: Path) -> None:
    versions = [Known(AGREED, tools=tools(*[b'{"name":"t%d","n":%d}' % (n, v) for n in range(200)])) for v in range(4)]
    wrong: list[object] = []
    start = threading.Barrier(7)

    def saves(number: int) -> None:
        start.wait()
        for _ in range(10):
            KnownStore(folder).save("git", str(number), versions[number])

    def loads() -> None:
        start.wait()
        for _ in range(30):
            for of_entry, known in store.load_all().values():
                if known != versions[int(of_entry)]:
                    wrong.append(of_entry)

    def forgets() -> None:
        start.wait()
        for _ in range(10):
            store.forget("git")

    threads = [threading.Thread(target=saves, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=loads), threading.Thread(target=loads), threading.Thread(target=forgets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    store.save("git", "0", versions[0])
    assert store.load_all() == {"git": ("0", versions[0])}
    assert [path.name for path in folder.iterdir()] == ["git.json"]


# --- marks


def plan(**more: Any) -> ServerPlan:
    return ServerPlan("s", **{"launch": StdioLaunch("npx"), "shown": Shown(command="npx"), **more})


@pytest.mark.parametrize(
    "other",
    [
        plan(transport="sse"),
        plan(protocol="legacy"),
        plan(shown=Shown(command="uvx")),
        plan(shown=Shown(command="npx", arg_count=1)),
        plan(shown=Shown(command="npx", env_names=("A",))),
        plan(shown=Shown(url="https://example.com/mcp")),
        plan(shown=Shown(command="npx", header_names=("A",))),
    ],
)
def test_an_entry_that_reads_otherwise_has_another_mark(other: ServerPlan) -> None:
    assert mark(other) != mark(plan())


@pytest.mark.parametrize(
    "same",
    [
        plan(),
        plan(launch=StdioLaunch("npx", args=("secret",), env=(("A", "secret"),))),
        plan(launch=RemoteLaunch("https://user:secret@example.com")),
        plan(launch=None, problem="a placeholder is unresolved"),
        plan(limits=Limits(request_timeout_secs=1)),
        plan(enabled=False, display_name="S", include_tools=("a",), exclude_tools=("b",)),
    ],
)
def test_no_secret_and_nothing_that_leaves_the_lists_as_they_are_changes_the_mark(same: ServerPlan) -> None:
    assert mark(same) == mark(plan())


def test_a_mark_is_the_same_after_a_restart() -> None:
    script = (
        "from moltis.config.plan import *; from moltis.gateway.showing import mark;"
        "print(mark(ServerPlan('s', launch=StdioLaunch('npx'), shown=Shown(command='npx'))))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == mark(plan())


def test_a_file_is_small_and_holds_items_that_a_person_can_read(store: KnownStore, folder: Path) -> None:
    store.save("git", "m", KNOWN)
    data = (folder / "git.json").read_bytes()
    assert b'"tools":[{"name":"a"},{ "name" : "b", "server":"x" }]' in data
    assert msgspec.json.decode(data)["format"] == known_module._FORMAT


def test_what_a_server_repeats_of_its_secrets_is_not_kept(folder: Path) -> None:
    secret = "s3cret/k3y"
    scrubber = Scrubber([secret, "plain-word"])
    told = {"name": f"s {secret}", "version": "1"}
    more = {"x": Raw(b'{"y":"%b","z":1e400}' % secret.encode())}
    agreed = replace(AGREED, server_info=told, instructions=f"use {secret}", more=more)
    tool = {
        "name": "plain-word",
        "title": secret,
        "description": f"key is {secret}",
        "inputSchema": {"type": "object", "properties": {"plain-word": {"default": secret}}},
    }
    raws = [json.dumps({**tool, "x": 7}).encode().replace(b'"x": 7', b'"x": 1e400'), b'{"name": "b",  "x": 1.0}']
    items = tuple(Item(name, raw) for name, raw in zip(("plain-word", "b"), raws, strict=True))
    KnownStore(folder, scrubber.text).save("s", "m", Known(agreed, tools=items))
    text = (folder / "s.json").read_text()
    assert "s3cret" not in text
    ((_, back),) = KnownStore(folder).load_all().values()
    assert [item.name for item in back.tools] == ["plain-word", "b"]
    assert back.tools[1].raw == raws[1], "what has no secret is kept byte for byte"
    assert list(json.loads(back.tools[0].raw)["inputSchema"]["properties"]) == ["plain-word"]
    assert back.agreed.instructions == "use [REDACTED]"
    assert back.agreed.more == {"x": Raw(b'{"y":"[REDACTED]","z":1e400}')}
    assert back.tools[0].raw.endswith(b'"x":1e400}'), "a number that is no double stays as it is written"


def test_who_only_reads_changes_nothing_and_waits_for_nobody(store: KnownStore, folder: Path) -> None:
    assert store.read_all() == {}
    assert not folder.exists()
    store.save("good", "m", KNOWN)
    for name in ("bad.json", ".x.json.tmp", "no server.json", "good.txt"):
        (folder / name).write_bytes(b"{")
    (folder / "link.json").symlink_to("good.json")
    before = sorted(os.listdir(folder))
    with one_writer_in(folder):
        assert store.read_all() == {"good": ("m", KNOWN)}
    assert sorted(os.listdir(folder)) == before
