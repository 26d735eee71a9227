"""`token.create`, `token.list` and `token.revoke`, from the line that is asked to the line that is answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from moltis.control import requests
from moltis.control.methods import METHODS
from moltis.errors import UnknownProject
from moltis.gateway.tokens import Created, Scope, TokenInfo, TokenStore


class Daemon:
    """What the methods ask of a daemon, and of that part of it that keeps tokens, on a real store."""

    def __init__(self, path: Path) -> None:
        self.store = TokenStore(path)
        self.store.load()
        self.hosts = self.projects = self

    async def create_token(
        self, name: str, scope: Scope, expires_days: float | None, projects: list[str] | None
    ) -> Created:
        return self.store.create(name, scope, expires_days, projects)

    def rows(self, project: str) -> None:
        if project != "site":
            raise UnknownProject(project, ["site"])

    async def tokens(self) -> list[TokenInfo]:
        return self.store.tokens()

    async def revoke_token(self, name: str) -> None:
        self.store.revoke(name)


class Tasks:
    """A caller whose tasks are run by the test."""

    def __init__(self) -> None:
        self.begun: list[Callable[[], Awaitable[None]]] = []

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        self.begun.append(work)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "tokens.toml")


async def ask(daemon: Daemon, method: str, **params: Any) -> Any:
    """Give the result, or the error."""
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = requests.parse(line)
    assert isinstance(request, requests.Request)
    replies: list[bytes] = []
    caller: Any = Tasks()
    fits: Any = daemon
    METHODS.dispatch(request, fits, caller, replies.append)
    for work in caller.begun:
        await work()
    [reply] = replies
    answer = json.loads(reply)
    return answer.get("result", answer.get("error"))


async def test_a_token_is_made_listed_and_revoked(daemon: Daemon) -> None:
    made = await ask(daemon, "token.create", name="editor", scope="write", expires_days=30)
    assert list(made) == ["token", "name", "scope", "projects", "expires_at"]
    assert daemon.store.verify(made["token"])
    [listed] = await ask(daemon, "token.list")
    assert list(listed) == ["name", "scope", "projects", "created_at", "expires_at", "last_used_at"]
    assert (listed["name"], listed["scope"], listed["expires_at"]) == ("editor", "write", made["expires_at"])
    assert made["token"] not in json.dumps(listed)
    assert await ask(daemon, "token.revoke", name="editor") == {"ok": True}
    assert daemon.store.verify(made["token"]) is None
    assert await ask(daemon, "token.list") == []


async def test_without_days_a_token_never_ends(daemon: Daemon) -> None:
    assert (await ask(daemon, "token.create", name="a", scope="read"))["expires_at"] is None
    assert (await ask(daemon, "token.create", name="b", scope="read", expires_days=None))["expires_at"] is None


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"name": "a"}, "'scope' is missing"),
        ({"scope": "read"}, "'name' is missing"),
        ({"name": "a", "scope": "admin"}, "scope"),
        ({"name": "a", "scope": "read", "expires_days": 0}, "expires_days"),
        ({"name": "a", "scope": "read", "expires_days": 36501}, "expires_days"),
        ({"name": "a", "scope": "read", "days": 1}, "did you mean 'expires_days'?"),
        ({"name": "a b", "scope": "read"}, "a token's name is"),
    ],
)
async def test_wrong_params_are_named_and_make_nothing(daemon: Daemon, params: dict[str, Any], word: str) -> None:
    error = await ask(daemon, "token.create", **params)
    assert error["code"] == -32602
    assert word in error["message"]
    assert error["data"]["hint"]
    assert daemon.store.tokens() == []


async def test_a_token_that_is_not_there_cannot_be_revoked(daemon: Daemon) -> None:
    error = await ask(daemon, "token.revoke", name="nobody")
    assert error["code"] == -32602
    assert "no token is called 'nobody'" in error["message"]


async def test_a_value_where_a_name_belongs_is_not_repeated(daemon: Daemon) -> None:
    token = (await ask(daemon, "token.create", name="a", scope="read"))["token"]
    for method, params in (("token.revoke", {"name": token}), ("token.create", {"name": token, "scope": "read"})):
        assert token not in json.dumps(await ask(daemon, method, **params))


async def test_the_last_uses_are_written_in_a_worker_thread_when_the_daemon_ends(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    save = daemon.store.save

    def watched() -> None:
        threads.append(threading.current_thread())
        save()

    monkeypatch.setattr(daemon.store, "save", watched)
    token = daemon.store.create("a", "read").token
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.store.run)
            await anyio.wait_all_tasks_blocked()
            daemon.store.verify(token)
            tasks.cancel_scope.cancel()
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    assert Daemon(tmp_path / "tokens.toml").store.tokens()[0].last_used_at is not None
