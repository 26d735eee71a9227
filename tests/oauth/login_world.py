"""A resource, its authorization servers, a browser and a disk, in memory and in virtual time, to play logins in."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import anyio
import anyio.to_thread
import pytest

from moltis.errors import LoginNeeded
from moltis.http.addresses import Scope
from moltis.http.authorized import Refusal
from moltis.http.fetch import Answer, FetchProblem
from moltis.oauth.jobs import Crowd
from moltis.oauth.keeper import Means
from moltis.oauth.login import Login, News
from moltis.oauth.model import ClientConfig, OAuthProblem
from moltis.oauth.pages import Page
from moltis.oauth.store import TokenStore

URL = "https://mcp.example.com/mcp"
ISSUER = "https://auth.example.com"
EPOCH = 1_700_000_000.0
SECRET = "client-secret-0123456789"


@dataclass
class Sent:
    """One request that reached somebody."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))


Handler = Callable[[Sent], "Answer | Awaitable[Answer]"]


def answer(status: int, document: object = None, **headers: str) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, "")


class Web:
    """What `http.fetch.Fetcher` is to a login. Whatever has no handler is a 404."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.allowed: frozenset[Scope] = frozenset()
        self.handlers: dict[tuple[str, str], Handler] = {}
        self.dead: set[str] = set()
        """Hosts that cannot be reached."""
        self.hanging: set[str] = set()
        """Hosts whose names are looked up for ever."""
        self.trusted: list[str] = []
        self.out_of_threads = False
        """Names are resolved, and certificates read, on threads."""

    def to(self, host: str) -> list[Sent]:
        return [sent for sent in self.sent if urlsplit(sent.url).netloc == host]

    def posts(self, path: str = "") -> list[Sent]:
        return [sent for sent in self.sent if sent.method == "POST" and urlsplit(sent.url).path.endswith(path)]

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        assert not {name.lower() for name in headers or {}} & {"authorization", "cookie"}
        self._find_a_thread()
        return await self._exchange(Sent("GET", url, dict(headers or {})))

    async def post(
        self,
        url: str,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str] | None = None,
        *,
        trusted: bool = False,
        sending: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        self._find_a_thread()
        if trusted:
            self.trusted.append(url)
        if urlsplit(url).netloc in self.hanging:
            await anyio.sleep_forever()
        if sending is not None and urlsplit(url).netloc not in self.dead:
            await sending()
        return await self._exchange(Sent("POST", url, {**(headers or {}), "Content-Type": content_type}, body))

    async def delete(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        if urlsplit(url).netloc in self.hanging:
            await anyio.sleep_forever()
        return await self._exchange(Sent("DELETE", url, dict(headers or {})))

    async def scopes_of(self, url: str) -> frozenset[Scope]:
        self._find_a_thread()
        return frozenset({Scope.PUBLIC})

    def _find_a_thread(self) -> None:
        if self.out_of_threads:
            raise FetchProblem("no thread can be started: can't start new thread")

    async def _exchange(self, sent: Sent) -> Answer:
        host = urlsplit(sent.url).netloc
        self.sent.append(sent)
        await anyio.sleep(0.01)
        if host in self.dead:
            raise FetchProblem(f"cannot reach {host}: connection refused")
        handler = self.handlers.get((sent.method, sent.url.partition("?")[0]))
        if handler is None:
            return answer(404, b"nothing here")
        outcome = handler(sent)
        return await outcome if isinstance(outcome, Awaitable) else outcome


class AuthorizationServer:
    """An authorization server that rotates refresh tokens, and knows a spent one when it sees it."""

    def __init__(self, world: World, issuer: str = ISSUER, **metadata: Any) -> None:
        self.world = world
        self.issuer = issuer
        self.metadata: dict[str, Any] = {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "registration_endpoint": f"{issuer}/register",
            "revocation_endpoint": f"{issuer}/revoke",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
            **metadata,
        }
        self.expires_in: Any = 3600
        self.rotate = True
        self.with_refresh = True
        self.token_answers: deque[Answer | FetchProblem] = deque()
        """What the token endpoint answers first, whatever it is asked."""
        self.delay_secs = 0.0
        self.objects: Callable[[Mapping[str, str]], str | None] = lambda form: None
        """The code with which the token endpoint refuses a request as it is, whatever it is good for."""
        self.registers: dict[str, Any] = {}
        """What a registration's answer has otherwise than asked."""
        self.clients: set[str] = set()
        self.codes: dict[str, dict[str, str]] = {}
        self.refresh_tokens: dict[str, str] = {}
        self.spent: set[str] = set()
        self.reused: list[str] = []
        self.granted: dict[str, str] = {}
        handlers = world.web.handlers
        handlers["GET", f"{issuer}/.well-known/oauth-authorization-server"] = lambda sent: answer(200, self.metadata)
        handlers["POST", f"{issuer}/register"] = self.register
        handlers["POST", f"{issuer}/token"] = self.token
        handlers["POST", f"{issuer}/revoke"] = lambda sent: answer(200, {})

    def register(self, sent: Sent) -> Answer:
        asked = json.loads(sent.body)
        client_id = self.world.make("client")
        self.clients.add(client_id)
        return answer(201, {"client_id": client_id, **asked, **self.registers})

    def authorize(self, url: str, **extra: str) -> str:
        """Be visited by a person who says yes, and give the URL that their browser is sent to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = self.world.make("code")
        self.codes[code] = asked
        return asked["redirect_uri"] + "?" + urlencode({"code": code, "state": asked["state"], **extra})

    async def token(self, sent: Sent) -> Answer:
        if self.delay_secs:
            await anyio.sleep(self.delay_secs)
        if self.token_answers:
            first = self.token_answers.popleft()
            if isinstance(first, FetchProblem):
                raise first
            return first
        form = sent.form
        objection = self.objects(form)
        if objection is not None:
            return answer(400, {"error": objection})
        match form["grant_type"]:
            case "authorization_code":
                asked = self.codes.pop(form["code"], None)
                verifier = form["code_verifier"].encode()
                challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier).digest()).rstrip(b"=").decode()
                if asked is None or asked["code_challenge"] != challenge:
                    return answer(400, {"error": "invalid_grant"})
                assert form["redirect_uri"] == asked["redirect_uri"]
                assert form.get("resource", asked.get("resource")) == asked.get("resource")
                return self.give(asked.get("scope", ""))
            case "refresh_token":
                given = form["refresh_token"]
                if given in self.spent:
                    self.reused.append(given)
                if given not in self.refresh_tokens:
                    return answer(400, {"error": "invalid_grant"})
                scope = self.refresh_tokens[given]
                if not self.rotate:
                    return self.give(scope, refresh=given)
                del self.refresh_tokens[given]
                self.spent.add(given)
                return self.give(scope)
            case _:
                return self.give(form.get("scope", ""), refresh="")

    def give(self, scope: str, refresh: str | None = None) -> Answer:
        token = self.world.make("access")
        self.world.good[token] = scope
        document = {"access_token": token, "token_type": "Bearer", "expires_in": self.expires_in}
        if scope:
            document["scope"] = scope
        if refresh is None and self.with_refresh:
            refresh = self.world.make("refresh")
        if refresh:
            self.refresh_tokens[refresh] = scope
            document["refresh_token"] = refresh
        return answer(200, document)


class World:
    """Everything around one login.

    good: the access tokens that the resource takes, and their scopes.
    needs: the scope that a call needs; without it a token gets a 403.
    """

    def __init__(self, folder: Path) -> None:
        self.web = Web()
        self.numbers = itertools.count(1)
        self.made: list[str] = []
        self.good: dict[str, str] = {}
        self.open = False
        self.needs = ""
        self.challenge = "Bearer"
        self.store = TokenStore(folder)
        self.opened: list[str] = []
        self.changes: list[tuple[str, str | None, str | None]] = []
        self.crowd = Crowd()
        self.roll: Callable[[], float] = lambda: 0.5
        self.offset_secs = 0.0
        """How far the clock of the wall has jumped."""
        self.authenticated = 0
        self.renewed = 0
        self.scrubbed: set[str] = set()
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.listening: dict[int, Callable[[str], Awaitable[Page]]] = {}
        self.taken: set[int] = set()
        self.ports_left = itertools.count(40001)
        self.lingers_secs = 0.0
        """How long a listener takes to close."""
        self.told: list[str] = []
        """Messages of what was raised."""
        self.comes_back_to: Callable[..., AbstractAsyncContextManager[str]] = self.listen
        self.opens: Callable[[str], Awaitable[bool]] = self.browse
        self.auth = AuthorizationServer(self)
        self.prm: dict[str, Any] | None = {"resource": URL, "authorization_servers": [ISSUER]}
        self.web.handlers["GET", "https://mcp.example.com/.well-known/oauth-protected-resource/mcp"] = self.resource

    @property
    def out_of_threads(self) -> bool:
        """Whether no thread can be started."""
        return self.web.out_of_threads

    @out_of_threads.setter
    def out_of_threads(self, is_so: bool) -> None:
        self.web.out_of_threads = is_so

    def make(self, what: str) -> str:
        """Make a value that nobody may show."""
        value = f"{what}-{hashlib.sha256(str(next(self.numbers)).encode()).hexdigest()}"
        self.made.append(value)
        return value

    def resource(self, sent: Sent) -> Answer:
        return answer(404, b"") if self.prm is None else answer(200, self.prm)

    def wall(self) -> float:
        return EPOCH + anyio.current_time() + self.offset_secs

    # --- the ports

    @asynccontextmanager
    async def listen(
        self, port: int, on_callback: Callable[[str], Awaitable[Page]], host: str = "127.0.0.1"
    ) -> AsyncIterator[str]:
        if port in self.taken or port in self.listening:
            raise OAuthProblem(f"port {port} is in use")
        port = port or next(self.ports_left)
        self.listening[port] = on_callback
        try:
            yield f"http://{host}:{port}/callback"
            await anyio.sleep(self.lingers_secs)
        finally:
            del self.listening[port]

    async def browse(self, url: str) -> bool:
        self.opened.append(url)
        return True

    # --- the log

    def info(self, message: str, /, **fields: Any) -> None:
        self.logged.append((message, fields))

    warning = error = info

    # --- what is played

    @asynccontextmanager
    async def login(
        self, config: ClientConfig | None = None, *, url: str = URL, static: bool = False
    ) -> AsyncIterator[Login]:
        """Have a login; afterwards it is closed, and no task of it may be left."""
        self.done = anyio.Event()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                means = Means(
                    server="notes",
                    url=url,
                    config=config or ClientConfig(),
                    store=self.store,
                    fetcher=self.web,  # type: ignore[arg-type]  # all that is used of it
                    tasks=tasks,
                    crowd=self.crowd,
                    listen=self.comes_back_to,
                    open_browser=lambda url: self.opens(url),
                    wall=self.wall,
                    roll=self.roll,
                    token=lambda: self.make("random"),
                    secrets=self.scrubbed.update,
                    log=self,
                )
                login = Login(means, self._heard, static_authorization=static)
                yield login
                began = anyio.current_time()
                await login.close()
                assert anyio.current_time() - began <= 2.0
                scope.deadline = anyio.current_time() + 0.1
        assert not scope.cancelled_caught
        assert not self.listening

    def _heard(self, login: Login, news: News) -> None:
        match news:
            case News.CHANGED:
                self.changes.append((login.state, login.auth_url, login.message))
            case News.AUTHENTICATED:
                self.authenticated += 1
                self.done.set()
            case News.RENEWED:
                self.renewed += 1

    async def call(self, login: Login) -> int:
        """Send a request as a connection does, and give the status it ends with."""
        for _ in range(3):
            authorization = await login.authorization()
            status, challenge = self.judge(authorization)
            if status == 200:
                break
            if not await login.refused(Refusal(status, (challenge,) if challenge else (), authorization)):
                break
        return status

    def judge(self, authorization: str | None) -> tuple[int, str]:
        scope = self.good.get((authorization or "").removeprefix("Bearer "))
        if self.open:
            return 200, ""
        if scope is None:
            return 401, self.challenge
        if self.needs not in ("", *scope.split()):
            return 403, f'Bearer error="insufficient_scope", scope="{self.needs}"'
        return 200, ""

    async def visit(self, url: str, auth: AuthorizationServer | None = None, **extra: str) -> Page:
        """Be the person: log in at this URL, and let the browser come back."""
        back = urlsplit((auth or self.auth).authorize(url, **extra))
        assert back.port is not None
        return await self.listening[back.port](f"{back.path}?{back.query}")

    async def log_in(self, login: Login) -> None:
        """From nothing to a login."""
        url = await login.begin()
        assert url is not None
        page = await self.visit(url)
        assert page.status == 200
        await anyio.wait_all_tasks_blocked()
        assert login.state == "authenticated"

    async def needed(self, login: Login) -> LoginNeeded:
        """Send a request that cannot go on without a person."""
        try:
            await self.call(login)
        except LoginNeeded as error:
            self.told.append(error.message)
            return error
        raise AssertionError("nobody has to log in")

    def leaks(self) -> list[str]:
        """Give what is in the log or in a message and must not be."""
        shown = repr(self.logged) + repr(self.told) + repr([message for _, _, message in self.changes])
        return [value for value in (*self.made, SECRET) if not value.startswith("client-") and value in shown]


def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Give a world in virtual time, and see in the end that nothing in it has leaked a secret. A fixture's body."""

    world = World(tmp_path / "oauth")

    async def at_once(work: Any, *arguments: Any, **_: Any) -> Any:
        # The clock jumps while threads work; what they do here takes no time.
        if world.out_of_threads:
            raise RuntimeError("can't start new thread")
        return work(*arguments)

    monkeypatch.setattr(anyio.to_thread, "run_sync", at_once)
    yield world
    assert world.leaks() == []
