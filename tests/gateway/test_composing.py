"""What a host of all servers is told: within what hosts keep, each server its share, the rest where it can be read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from gateway_fakes import FakeOutlet, FakePort, FakeUpstream, FakeWorld, agreed, ask, modern_ask, resource
from hypothesis import given
from hypothesis import strategies as st

from moltis.gateway.api import LOCAL
from moltis.gateway.gateway import Gateway
from moltis.gateway.introduction import MAX_CHARS, compose
from moltis.gateway.views import ALL, path_of
from moltis.session.listing import Kind


def test_what_servers_say_is_joined_under_their_names() -> None:
    told = compose([("git", " Use log first.\n"), ("db", None), ("fs", "  "), ("x", "Ask.")], ".")
    assert told.text.endswith("SERVER.NAME.\n\n# git\n\nUse log first.\n\n# x\n\nAsk.")
    assert told.cut == ()
    assert compose([("a", None), ("b", "")]).text == ""


def test_four_servers_of_1420_characters_all_have_their_say() -> None:
    told = compose([(f"s{n}", f"warning {n} " + "x" * 1410) for n in range(4)])
    assert len(told.text) <= MAX_CHARS
    assert all(f"# s{n}\n\nwarning {n} " in told.text for n in range(4))
    assert told.cut == ("s0", "s1", "s2", "s3")
    assert "moltis://instructions/SERVER" in told.text
    assert len(told.text) > MAX_CHARS - 10, "and what room there is is used"


def test_a_server_that_talks_without_end_leaves_the_others_their_say() -> None:
    told = compose([("loud", "\u00e9" * 100_000), ("quiet", "Ask me."), ("long", "z" * 40_000)])
    assert len(told.text) <= MAX_CHARS
    assert "# quiet\n\nAsk me." in told.text
    assert "[...]\n\n# quiet" in told.text
    assert told.text.count("z") > 600
    assert told.cut == ("loud", "long")


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b" * 64]), st.text(max_size=50).map(lambda t: t * 200)), max_size=90),
    st.lists(st.sampled_from(["n", "m" * 64]), max_size=60),
)
def test_instructions_never_exceed_their_bound(parts: list[tuple[str, str]], names: list[str]) -> None:
    assert len(compose(parts, starting=names, missing=names).text) <= MAX_CHARS


def test_a_thousand_talkative_servers_stay_within_the_bound_and_can_all_be_read() -> None:
    parts = [(f"server-with-a-rather-long-name-to-fill-the-room-{n:04}", "words " * 100) for n in range(1000)]
    told = compose(parts)
    assert len(told.text) <= MAX_CHARS
    assert len(told.cut) == 1000


def test_short_words_are_whole_however_many_say_them() -> None:
    told = compose([(f"s{n}", "Ask.") for n in range(60)])
    assert told.cut == ()
    assert told.text.count("Ask.") == 60


def world() -> FakeWorld:
    one, other = FakePort("one"), FakePort("other")
    one.ready(FakeUpstream("one", agreed(instructions="L" * 3000), resources=[resource("f:a")]))
    other.ready(FakeUpstream("other", agreed(instructions="Short.")))
    return FakeWorld(one, other)


def read(gateway: Gateway, uri: str, *, modern: bool = False, server: str | None = None) -> Any:
    host, outlet = gateway.new_host(path_of(server), LOCAL, lambda message: False), FakeOutlet()
    made = modern_ask if modern else ask
    host.request(made("resources/read", {"uri": uri}), outlet)
    host.close()
    return outlet


def listed(gateway: Gateway, server: str | None = None) -> list[str]:
    page = gateway._endpoint(path_of(server)).page(Kind.RESOURCES, None, modern=False)
    assert isinstance(page, bytes)
    return [found["uri"] for found in msgspec.json.decode(page)["resources"]]


@pytest.mark.parametrize("modern", [False, True])
def test_the_whole_of_what_was_cut_is_a_resource(modern: bool) -> None:
    gateway = Gateway(world())
    assert listed(gateway) == ["f:a", "moltis://instructions/one"]
    result = read(gateway, "moltis://instructions/one", modern=modern).result
    assert result["contents"] == [{"uri": "moltis://instructions/one", "mimeType": "text/plain", "text": "L" * 3000}]
    assert result.get("resultType") == ("complete" if modern else None)
    assert read(gateway, "moltis://instructions/other", modern=modern).result["contents"][0]["text"] == "Short."


def test_what_is_nobody_s_is_still_not_there() -> None:
    gateway = Gateway(world())
    for uri in ("moltis://instructions/gone", "moltis://instructions/", "moltis://x/y"):
        assert read(gateway, uri).error["message"] == "Resource not found"
    assert not gateway._endpoint(ALL).may_watch("moltis://instructions/one")


def test_a_server_by_itself_lists_only_what_is_its_own() -> None:
    assert listed(Gateway(world()), "one") == ["f:a"]


def test_who_cannot_be_had_now_is_named_with_what_mends_it() -> None:
    ports = [FakePort("issues", "awaiting_auth"), FakePort("evil", "cooldown"), FakePort("typo", "invalid")]
    quiet = [FakePort(state, state) for state in ("disabled", "stopped", "stopping")]
    told = Gateway(FakeWorld(*ports, *quiet))._endpoint(ALL).introduction().instructions
    assert told == (
        "Not to be had now: issues (needs a login: moltis mcp reauth issues);"
        " evil (fails again and again: moltis why evil);"
        " typo (its entry in moltis.toml is wrong: moltis config check)."
    )


def test_a_server_that_is_mended_is_named_no_more() -> None:
    port = FakePort("issues", "awaiting_auth")
    seen = Gateway(FakeWorld(port))._endpoint(ALL)
    assert "issues" in (seen.introduction().instructions or "")
    port.ready()
    seen.stale()
    assert seen.introduction().instructions is None
