"""The second session of a server of both eras over HTTP: opened when it is needed, ended with the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from gateway_harness import gateway_url, start
from harness import Daemon, wait_until
from mcp import Client
from styles_harness import ANSWERS, BY_REQUEST, MODES, Web, a_host, eventually, outcome

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SWIFT = {"heartbeat_interval_secs": 0.5, "heartbeat_timeout_secs": 0.5, "heartbeat_max_missed": 2}


@pytest.fixture
def webs(folder: Path, daemon: Daemon) -> Iterator[Callable[..., Web]]:
    """Start servers over HTTP."""
    made: list[Web] = []

    def make(*options: str) -> Web:
        place = folder / f"web{len(made)}"
        place.mkdir()
        made.append(Web(place, *options, mark=daemon.mark))
        return made[-1]

    yield make
    for web in made:
        web.end()


def served(daemon: Daemon, web: Web, **keys: Any) -> str:
    """Have the daemon serve it as `web`, and give the address."""
    entry = {"url": web.url, "transport": "streamable-http", **keys}
    start(daemon, {"web": entry}, mcp={"restart_backoff_secs": 0.1, "heartbeat_interval_secs": 0.5})
    daemon.wait_for("web", "ready")
    return gateway_url(daemon, "web")


def assert_blameless(daemon: Daemon) -> None:
    status = daemon.status("web")
    told = (status["state"], status["attempts"], status["restarts"], status["last_error"], status["recent_errors"])
    assert told == ("ready", 0, 0, None, [])
    assert [entry["to"] for entry in daemon.history("web")] == ["starting", "initializing", "ready"]


async def test_nothing_of_it_is_there_until_a_host_of_the_older_era_calls_and_one_serves_all(
    daemon: Daemon, webs: Callable[..., Web]
) -> None:
    web = webs()
    url = served(daemon, web)
    async with a_host("modern", url) as new, a_host("legacy", url) as old:
        assert await outcome(new, "by_return") == ANSWERS["by_return"]
        assert len((await old.list_tools()).tools) == len((await new.list_tools()).tools)
        assert web.asked("initialize") == web.asked("GET") == []
        async with a_host("legacy", url) as older, anyio.create_task_group() as calls:
            for host in (old, older, old, older):
                calls.start_soon(outcome, host, "by_elicit")
        assert await outcome(old, "by_elicit") == ANSWERS["by_elicit"]
        assert await outcome(new, "by_return") == ANSWERS["by_return"]
    assert len(web.asked("initialize")) == 1
    (opened,) = [r for r in daemon.records() if r["message"] == "second_session"]
    assert (opened["level"], opened["fields"]["what"], opened["fields"]["version"]) == ("INFO", "opened", "2025-11-25")
    assert {one["version"] for one in web.asked("tools/call")} == {"2025-11-25", "2026-07-28"}
    assert {one["version"] for one in web.asked("tools/list")} == {"2026-07-28"}
    assert web.asked("ping") == [], "two sessions are one server, and the first answers the heartbeat"
    assert_blameless(daemon)


@pytest.mark.parametrize("how", ["mcp.stop", "daemon"])
async def test_it_ends_with_the_server_and_the_server_is_told(
    daemon: Daemon, webs: Callable[..., Web], how: str
) -> None:
    web = webs()
    async with a_host("legacy", served(daemon, web)) as old:
        assert await outcome(old, "quick") == "quick"
    assert web.asked("DELETE") == []
    if how == "daemon":
        assert daemon.stop() == 0
    else:
        daemon.rpc("mcp.stop", name="web")
        daemon.wait_for("web", "stopped")
    (ended,) = web.asked("DELETE")
    (call,) = web.asked("tools/call")
    assert ended["session"] == call["session"] is not None


@pytest.mark.parametrize("options", [("--only", "modern"), ("--stateless",)], ids=["newer alone", "stateless"])
async def test_a_server_that_can_ask_in_the_newer_era_alone_is_asked_once_and_all_goes_on_as_before(
    daemon: Daemon, webs: Callable[..., Web], options: tuple[str, ...]
) -> None:
    web = webs(*options)
    async with a_host("legacy", served(daemon, web)) as old:
        for _ in range(3):
            for tool in ("quick", "by_return"):
                assert await outcome(old, tool) == ANSWERS[tool]
        assert 'protocol = "legacy"' in await outcome(old, "by_elicit")
    assert len(web.asked("initialize")) == 1
    assert {one["version"] for one in web.asked("tools/call")} == {"2026-07-28"}
    (refused,) = [r for r in daemon.records() if r["message"] == "second_session"]
    assert refused["fields"]["what"] == "refused"
    assert_blameless(daemon)


@pytest.mark.parametrize("era", list(MODES))
async def test_a_server_that_was_restarted_serves_hosts_of_both_eras_again(
    daemon: Daemon, webs: Callable[..., Web], era: str
) -> None:
    web = webs()
    async with a_host(era, served(daemon, web)) as host:
        tool = "by_elicit" if era == "legacy" else "by_return"
        assert await outcome(host, tool) == ANSWERS[tool]
        web.end()
        web.begin()

        async def works() -> bool:
            return await outcome(host, tool) == ANSWERS[tool]

        await eventually(works)
        assert daemon.wait_for("web", "ready")["protocol_version"] == "2026-07-28"


async def test_a_call_that_is_long_is_waited_for_by_its_own_time_in_either_era(
    daemon: Daemon, webs: Callable[..., Web]
) -> None:
    web = webs()
    url = served(daemon, web, **SWIFT)
    for era in MODES:
        async with a_host(era, url) as host:
            result = await host.call_tool("quick", {"secs": 3})
            assert result.content[0].text == "quick"
    assert_blameless(daemon)


async def test_a_tool_that_is_announced_to_one_session_alone_is_listed_to_hosts_of_both_eras(
    daemon: Daemon, webs: Callable[..., Web]
) -> None:
    url = served(daemon, webs())
    async with a_host("legacy", url) as old, a_host("modern", url) as new:

        async def listed(host: Client) -> bool:
            return "grown" in {tool.name for tool in (await host.list_tools()).tools}

        async def announced() -> bool:
            """Announce it, once more if that was before the server had a stream to say so on."""
            assert (await old.call_tool("grow", {"name": "grown"})).content[0].text == "announced"
            with anyio.move_on_after(3):
                await eventually(partial(listed, old))
            return await listed(old)

        await eventually(announced)
        assert await listed(new)


async def test_no_call_is_run_twice_whatever_era_it_goes_out_in(daemon: Daemon, webs: Callable[..., Web]) -> None:
    url = served(daemon, webs())
    async with a_host("legacy", url) as old, a_host("modern", url) as new:
        told = [await outcome(host, "count") for host in (old, new, old, new)]
    assert told == ["1", "2", "3", "4"]


@pytest.mark.parametrize("key", ["legacy", "2026-07-28"])
async def test_a_pinned_era_is_one_era_for_all(daemon: Daemon, webs: Callable[..., Web], key: str) -> None:
    web = webs()
    url = served(daemon, web, protocol=key)
    for era in MODES:
        async with a_host(era, url) as host:
            assert await outcome(host, "quick") == "quick"
    assert len({one["version"] for one in web.asked("tools/call")}) == 1
    assert len(web.asked("initialize")) == (key == "legacy")


async def test_an_entry_that_is_pinned_while_it_runs_is_pinned_for_good(
    daemon: Daemon, webs: Callable[..., Web]
) -> None:
    web = webs()
    async with a_host("legacy", served(daemon, web)) as old:
        assert await outcome(old, "by_elicit") == ANSWERS["by_elicit"]
    daemon.rpc("mcp.update", name="web", protocol="2026-07-28")
    wait_until("the second session is over", lambda: len(web.asked("DELETE")) == 1)
    daemon.wait_for("web", "ready")
    async with a_host("legacy", gateway_url(daemon, "web")) as old:
        assert await outcome(old, "by_return") == ANSWERS["by_return"]
    assert len(web.asked("initialize")) == 1


async def test_at_the_common_door_and_by_its_own_names_too(daemon: Daemon, webs: Callable[..., Web]) -> None:
    served(daemon, webs())
    async with a_host("legacy", gateway_url(daemon)) as old, a_host("modern", gateway_url(daemon)) as new:
        for tool in BY_REQUEST:
            assert await outcome(old, f"web__{tool}") == ANSWERS[tool]
        assert await outcome(new, "web__by_return") == ANSWERS["by_return"]
